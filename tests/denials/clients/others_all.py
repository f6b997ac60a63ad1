import pg8000.dbapi
import pyodbc
import sqlalchemy
from sqlalchemy import orm


class Base(orm.DeclarativeBase):
    pass


class Work(Base):
    __tablename__ = "work"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    note: orm.Mapped[str]


class Vault(Base):
    __tablename__ = "vault"
    __table_args__ = {"schema": "closed"}
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    note: orm.Mapped[str]


def sqlalchemy_nested():
    """A unit of work within a savepoint."""
    where = "postgresql+psycopg://{PGUSER}@{PGHOST}:{PGPORT}/{PGDATABASE}?sslmode=disable".format(**os.environ)
    engine = sqlalchemy.create_engine(where, poolclass=sqlalchemy.pool.NullPool)
    with orm.Session(engine) as session:
        session.add(Work(id=10, note="x"))
        session.flush()
        try:
            with session.begin_nested():
                session.add_all([Work(id=11, note="lost"), Vault(id=1, note="in")])
        except sqlalchemy.exc.DBAPIError as error:
            say("error", error.orig.sqlstate)
        session.add(Work(id=12, note="x"))
        session.commit()
    engine.dispose()


def pg8000_transaction():
    """Without autocommit, until a rollback."""
    conn = pg8000.dbapi.connect(user=os.environ["PGUSER"], host=os.environ["PGHOST"], port=int(os.environ["PGPORT"]),
                                database=os.environ["PGDATABASE"], ssl_context=False)
    cursor = conn.cursor()
    cursor.execute("INSERT INTO work VALUES (%s, 'x')", (10,))
    for text in ("INSERT INTO closed.vault VALUES (%s, 'in')", "INSERT INTO work VALUES (%s, 'lost')"):
        try:
            cursor.execute(text, (1,))
        except pg8000.dbapi.Error as error:
            say("error", error.args[0]["C"])
    conn.rollback()
    cursor.execute("INSERT INTO work VALUES (%s, 'x')", (11,))
    conn.commit()
    conn.close()


def odbc_rollback():
    """A driver that rolls back to a savepoint of its own."""
    text = "Driver=/usr/lib/x86_64-linux-gnu/odbc/psqlodbcw.so;Server={PGHOST};Port={PGPORT};Database={PGDATABASE};Uid={PGUSER};SSLmode=disable"
    conn = pyodbc.connect(text.format(**os.environ) + ";Protocol=7.4-2;UseServerSidePrepare=1")
    cursor = conn.cursor()
    cursor.execute("INSERT INTO work VALUES (?, ?)", 10, "x")
    try:
        cursor.execute("INSERT INTO closed.vault VALUES (?, ?)", 1, "in")
    except pyodbc.Error as error:
        say("error", error.args[0])
    cursor.execute("INSERT INTO work VALUES (?, ?)", 11, "x")
    conn.commit()
    conn.close()


globals()[sys.argv[1]]()
