import asyncio
import json
import os
import sys

D = "INSERT INTO closed.vault VALUES (1, 'in')"
DSN = "host={PGHOST} port={PGPORT} dbname={PGDATABASE} user={PGUSER} sslmode=disable".format(**os.environ)


def say(*got):
    print(json.dumps(got, default=str), flush=True)


def work(number):
    return "INSERT INTO work VALUES (%d, 'x')" % number
