import pyodbc

text = "Driver=/usr/lib/x86_64-linux-gnu/odbc/psqlodbcw.so;Server={PGHOST};Port={PGPORT};Database={PGDATABASE};Uid={PGUSER};SSLmode=disable"
for options in ("", ";UseServerSidePrepare=1;UseDeclareFetch=1;Fetch=300", ";UseServerSidePrepare=0;Protocol=7.4-2"):
    conn = pyodbc.connect(text.format(**os.environ) + options)
    cur = conn.cursor()
    for name, text_ in (("types", TYPES), ("nulls", NULLS), ("arrays", ARRAYS)):
        rows = cur.execute(text_).fetchall()
        say(name, options, [[repr(value) for value in row] for row in rows], [[d[0], d[1].__name__] for d in cur.description])
    cur.execute("INSERT INTO work VALUES (?, ?)", 1, "gone")
    try:
        cur.execute("INSERT INTO work VALUES (?, ?)", 1, "twice")
    except pyodbc.Error as error:
        say("error", options, error.args[0], error.args[1])
    conn.rollback()
    say("transaction", options, cur.execute("SELECT count(*) FROM work").fetchval())
    for number in (1, 2, 3, 1):
        say("prepared", options, cur.execute("SELECT name FROM items WHERE id = ?", number).fetchval())
    say("portion", options, len(cur.execute("SELECT * FROM many ORDER BY id").fetchmany(1000)))
    cur.executemany("INSERT INTO work VALUES (?, ?)", [(number, "m") for number in range(200)])
    say("pipeline", options, cur.execute("SELECT count(*) FROM work").fetchval())
    conn.rollback()
    say("reflect", options, sorted(row.table_name for row in cur.tables(schema="public")), [row.column_name for row in cur.columns(table="items")])
    thread = later(0.5, cur.cancel)
    try:
        cur.execute("SELECT pg_sleep(60)")
    except pyodbc.Error as error:
        say("cancel", options, error.args[0])
    thread.join()
    conn.rollback()
    conn.close()
