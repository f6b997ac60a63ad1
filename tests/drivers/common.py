import json
import os
import threading
import time

TYPES = """SELECT 1::int2 AS a, 2::int4 AS b, 3::int8 AS c, 1.5::float4 AS d, 2.5::float8 AS e, 123.456::numeric AS f, true AS g,
'x'::text AS h, 'y'::varchar(5) AS i, '\\x00ff'::bytea AS j, '2020-02-03'::date AS k, '04:05:06'::time AS l,
'2020-02-03 04:05:06'::timestamp AS m, '2020-02-03 04:05:06+00'::timestamptz AS n,
'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid AS o, '{"a": [1, null]}'::jsonb AS p, '10.0.0.1'::inet AS q, 'z'::char(3) AS r"""
ARRAYS = "SELECT ARRAY[1, 2, NULL]::int4[] AS a, ARRAY['a', 'b,c', NULL] AS b, ARRAY[[1, 2], [3, 4]] AS c, '{}'::text[] AS d"
NULLS = "SELECT id, name, price, tags, at FROM items ORDER BY id"
DSN = "host={PGHOST} port={PGPORT} dbname={PGDATABASE} user={PGUSER} sslmode=disable".format(**os.environ)


def shown(value):
    return repr(bytes(value) if isinstance(value, memoryview) else value)


def say(case, *got):
    print(json.dumps([case, *got], default=repr, sort_keys=True), flush=True)


def later(seconds, what):
    def run():
        time.sleep(seconds)
        what()

    thread = threading.Thread(target=run)
    thread.start()
    return thread
