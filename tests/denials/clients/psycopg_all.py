import psycopg

ERROR = psycopg.Error


def state(error):
    say("error", error.sqlstate)


def status(conn):
    say("status", conn.info.transaction_status.name)


def connect(**more):
    return psycopg.connect(DSN, **more)


def block():
    """The block of a connection, which rolls back."""
    try:
        with connect() as conn:
            conn.execute(work(10))
            conn.execute(D)
    except ERROR as error:
        state(error)
    say(conn.closed)


def goes_on():
    """Without autocommit, until a rollback."""
    with connect() as conn:
        conn.execute(work(10))
        for text in (D, "SELECT 1"):
            try:
                conn.execute(text)
            except ERROR as error:
                state(error)
        status(conn)
        conn.rollback()
        conn.execute(work(11))


def nested():
    """A transaction within a transaction."""
    with connect(autocommit=True) as conn:
        with conn.transaction():
            conn.execute(work(10))
            try:
                with conn.transaction():
                    conn.execute(work(11))
                    conn.execute(D)
            except ERROR as error:
                state(error)
            status(conn)
            conn.execute(work(12))
        status(conn)


def pipeline():
    """A pipeline with a sync in its middle."""
    with connect(autocommit=True) as conn:
        try:
            with conn.pipeline() as pipe:
                conn.execute(work(10))
                pipe.sync()
                conn.execute(work(11))
                conn.execute(D)
                conn.execute(work(12))
                pipe.sync()
        except ERROR as error:
            state(error)
        status(conn)
        conn.execute(work(13))


def pipeline_aborted():
    """What a pipeline says of what follows in it."""
    with connect(autocommit=True) as conn:
        with conn.pipeline() as pipe:
            cursors = [conn.cursor() for _ in range(3)]
            for cursor, text in zip(cursors, ("SELECT 1", D, "SELECT 3")):
                cursor.execute(text)
            for cursor in cursors:
                try:
                    say(cursor.fetchone() if cursor.description else cursor.rowcount)
                except ERROR as error:
                    state(error)
                    say(type(error).__name__, pipe.status.name)
            try:
                pipe.sync()
            except ERROR as error:
                state(error)
            say(pipe.status.name, conn.execute("SELECT 4").fetchone())


def pipeline_nested():
    """Transactions in a pipeline."""
    with connect(autocommit=True) as conn:
        with conn.pipeline():
            with conn.transaction():
                conn.execute(work(10))
                try:
                    with conn.transaction():
                        conn.execute(D)
                except ERROR as error:
                    state(error)
                conn.execute(work(11))
        status(conn)


def many():
    """executemany, of which one lacks the right."""
    with connect(autocommit=True) as conn:
        with conn.cursor() as cursor:
            cursor.executemany("INSERT INTO work VALUES (%s, 'x')", [(n,) for n in range(10, 13)])
            try:
                cursor.executemany("INSERT INTO closed.vault VALUES (%s, 'in')", [(n,) for n in range(1, 4)])
            except ERROR as error:
                state(error)
            say(cursor.rowcount)


def server_cursor():
    """A cursor of the server."""
    with connect() as conn:
        with conn.cursor("good") as cursor:
            cursor.execute("SELECT id FROM work ORDER BY id")
            say(cursor.fetchone())
            try:
                with conn.cursor("bad") as bad:
                    bad.execute("SELECT 'shown', count(*) FROM closed.vault")
                    say(bad.fetchone())
            except ERROR as error:
                state(error)
            status(conn)
        conn.rollback()


def copies():
    """COPY, whose data was already written."""
    with connect() as conn:
        conn.execute(work(10))
        try:
            with conn.cursor() as cursor, cursor.copy("COPY closed.vault FROM STDIN") as copy:
                copy.write_row((1, "in"))
        except ERROR as error:
            state(error)
        status(conn)
        conn.rollback()
        with conn.cursor() as cursor, cursor.copy("COPY work FROM STDIN") as copy:
            copy.write_row((11, "x"))


def two_phases():
    """The first of two phases."""
    conn = connect()
    conn.tpc_begin(conn.xid(1, "a", "b"))
    conn.execute(work(10))
    try:
        conn.execute(D)
    except ERROR as error:
        state(error)
    conn.tpc_rollback()
    conn.tpc_begin(conn.xid(1, "a", "c"))
    conn.execute(work(11))
    conn.tpc_prepare()
    conn.tpc_commit()
    status(conn)
    conn.close()


def prepares():
    """Statements that psycopg prepares by itself."""
    with connect(autocommit=True, prepare_threshold=1) as conn:
        for n in range(4):
            try:
                conn.execute("INSERT INTO closed.vault VALUES (%s, 'in')", (n,))
            except ERROR as error:
                state(error)
            conn.execute("INSERT INTO work VALUES (%s, 'x')", (20 + n,))
        say([row[0] for row in conn.execute("SELECT statement FROM pg_prepared_statements ORDER BY 1")])


globals()[sys.argv[1]]()
