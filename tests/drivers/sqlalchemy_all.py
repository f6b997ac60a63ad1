import sqlalchemy
from sqlalchemy import orm

where = "{PGUSER}@{PGHOST}:{PGPORT}/{PGDATABASE}".format(**os.environ)


class Base(orm.DeclarativeBase):
    pass


class Work(Base):
    __tablename__ = "work"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    note: orm.Mapped[str]


for driver in ("psycopg", "psycopg2", "pg8000"):
    extra = {"ssl_context": False} if driver == "pg8000" else {"sslmode": "disable"}
    engine = sqlalchemy.create_engine("postgresql+%s://%s" % (driver, where), connect_args=extra)
    with engine.connect() as conn:
        for name, text in (("types", TYPES), ("nulls", NULLS), ("arrays", ARRAYS)):
            rows = conn.exec_driver_sql(text).fetchall()
            say(name, driver, [[shown(value) for value in row] for row in rows])
        try:
            conn.exec_driver_sql("SELECT 1/0")
        except sqlalchemy.exc.DBAPIError as error:
            say("error", driver, type(error).__name__)
    inspector = sqlalchemy.inspect(engine)
    say("reflect", driver, inspector.get_table_names(), [[c["name"], str(c["type"])] for c in inspector.get_columns("items")])
    say("reflect", driver, inspector.get_pk_constraint("items"), inspector.get_indexes("many"), inspector.get_view_names())
    with orm.Session(engine) as session:
        session.add_all([Work(id=number, note="n%d" % number) for number in range(600)])
        session.flush()
        try:
            with session.begin_nested():
                session.add(Work(id=5, note="twice"))
        except sqlalchemy.exc.IntegrityError as error:
            say("savepoint", driver, type(error).__name__)
        say("transaction", driver, session.scalar(sqlalchemy.select(sqlalchemy.func.count()).select_from(Work)))
        session.commit()
        for number in (1, 2, 3):
            say("prepared", driver, session.scalars(sqlalchemy.select(Work.note).where(Work.id == number)).one())
        session.execute(sqlalchemy.delete(Work))
        session.commit()
    with engine.connect().execution_options(stream_results=True, max_row_buffer=100) as conn:
        say("portion", driver, sum(len(row[1]) for row in conn.execute(sqlalchemy.text("SELECT * FROM many ORDER BY id"))))
