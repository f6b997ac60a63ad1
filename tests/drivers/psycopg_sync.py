import psycopg

conn = psycopg.connect(DSN, autocommit=True)
for binary in (False, True):
    cur = conn.cursor(binary=binary)
    for name, text in (("types", TYPES), ("nulls", NULLS), ("arrays", ARRAYS)):
        rows = cur.execute(text).fetchall()
        say(name, binary, [[repr(value) for value in row] for row in rows], [[d.name, d.type_code] for d in cur.description])
with conn.transaction():
    conn.execute("INSERT INTO work VALUES (%s, %s)", (1, "kept"))
    try:
        with conn.transaction():
            conn.execute("INSERT INTO work VALUES (2, 'rolled back')")
            conn.execute("INSERT INTO work VALUES (1, 'twice')")
    except psycopg.errors.UniqueViolation as error:
        say("savepoint", error.sqlstate, error.diag.constraint_name, error.diag.message_detail)
say("transaction", conn.execute("SELECT * FROM work").fetchall())
for text in ("SELECT * FROM nothing", "SELECT 1/0", "SELEC", "SELECT 'x'::int"):
    try:
        conn.execute(text)
    except psycopg.Error as error:
        say("error", error.sqlstate, str(error), error.diag.statement_position)
for _ in range(7):
    say("prepared", conn.execute("SELECT name FROM items WHERE id = %s", (1,), prepare=True).fetchone())
with conn.transaction(), conn.cursor(name="walk") as walk:
    walk.itersize = 700
    say("portion", sum(len(row[1]) for row in walk.execute("SELECT * FROM many ORDER BY id")))
with conn.cursor() as cur:
    with cur.copy("COPY work FROM STDIN") as copy:
        for number in range(100, 200):
            copy.write_row((number, "copied\t%d" % number))
    with cur.copy("COPY (SELECT * FROM work WHERE id >= 100 ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
        say("copy", sum(len(block) for block in copy), cur.statusmessage)
    try:
        with cur.copy("COPY work FROM STDIN") as copy:
            copy.write("not a number\tx\n")
    except psycopg.Error as error:
        say("copy", error.sqlstate, error.diag.context)
notices = []
conn.add_notice_handler(lambda diag: notices.append(diag.message_primary))
say("notice", conn.execute("SELECT shout('it')").fetchone(), notices)
conn.execute("LISTEN news")
conn.execute("SELECT pg_notify('news', 'extra')")
say("notify", [[note.channel, note.payload] for note in conn.notifies(timeout=5, stop_after=1)])
thread = later(0.5, conn.cancel)
try:
    conn.execute("SELECT pg_sleep(60)")
except psycopg.errors.QueryCanceled as error:
    say("cancel", error.sqlstate)
thread.join()
with conn.pipeline():
    cursors = [conn.execute("INSERT INTO work VALUES (%s, 'piped') RETURNING id", (number,)) for number in range(1000, 1300)]
    counted = conn.execute("SELECT count(*) FROM work WHERE id >= 1000")
say("pipeline", [cursor.fetchone()[0] for cursor in cursors][-3:], counted.fetchone())
try:
    with conn.pipeline():
        first = conn.execute("SELECT 1")
        bad = conn.execute("SELECT 1/0")
        rest = conn.execute("SELECT 2")
except psycopg.Error as error:
    say("pipeline", error.sqlstate, type(error).__name__)
with conn.pipeline():
    conn.execute("CREATE TABLE piped (id int)")
    conn.execute("INSERT INTO piped VALUES (1)")
    made = conn.execute("SELECT * FROM piped")
say("pipeline", made.fetchall())
conn.execute("DROP TABLE piped")
conn.execute("TRUNCATE work")
