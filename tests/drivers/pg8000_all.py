import io

import pg8000.dbapi
import pg8000.native

where = {"host": os.environ["PGHOST"], "port": int(os.environ["PGPORT"]), "database": os.environ["PGDATABASE"]}
conn = pg8000.native.Connection(os.environ["PGUSER"], ssl_context=False, **where)
for name, text in (("types", TYPES), ("nulls", NULLS), ("arrays", ARRAYS)):
    say(name, [[repr(value) for value in row] for row in conn.run(text)])
statement = conn.prepare("SELECT name FROM items WHERE id = :id")
say("prepared", [statement.run(id=number) for number in (1, 2, 3, 1)])
statement.close()
for text in ("SELECT * FROM nothing", "SELECT 1/0", "SELEC"):
    try:
        conn.run(text)
    except pg8000.native.DatabaseError as error:
        say("error", {key: error.args[0][key] for key in "SCM"})
conn.run("COPY work FROM STDIN", stream=io.BytesIO(b"".join(b"%d\tx\n" % number for number in range(50))))
out = io.BytesIO()
conn.run("COPY work TO STDOUT (FORMAT csv)", stream=out)
say("copy", len(out.getvalue()), conn.row_count)
conn.run("SELECT shout('pg8000')")
say("notice", [{key.decode(): value.decode() for key, value in notice.items() if key in (b"S", b"M")} for notice in conn.notices])
conn.run("LISTEN news")
conn.run("NOTIFY news, 'eight thousand'")
conn.run("SELECT 1")
say("notify", [[channel, payload] for _, channel, payload in conn.notifications])
conn.close()
conn = pg8000.dbapi.connect(user=os.environ["PGUSER"], ssl_context=False, **where)
cur = conn.cursor()
cur.execute("INSERT INTO work VALUES (%s, %s)", (1000, "gone"))
cur.execute("SAVEPOINT here")
try:
    cur.execute("INSERT INTO work VALUES (%s, %s)", (1000, "twice"))
except pg8000.dbapi.ProgrammingError as error:
    cur.execute("ROLLBACK TO here")
    say("savepoint", error.args[0]["C"])
except pg8000.dbapi.DatabaseError as error:
    cur.execute("ROLLBACK TO here")
    say("savepoint", error.args[0]["C"])
cur.execute("SELECT count(*) FROM work")
say("transaction", cur.fetchone())
conn.rollback()
cur.execute("SELECT count(*) FROM work")
say("transaction", cur.fetchone())
cur.execute("DECLARE walk CURSOR FOR SELECT * FROM many ORDER BY id")
cur.execute("FETCH 1200 FROM walk")
say("portion", len(cur.fetchall()))
conn.rollback()
cur.execute("TRUNCATE work")
conn.commit()
