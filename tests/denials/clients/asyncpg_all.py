import asyncpg

ERROR = asyncpg.PostgresError


def state(error):
    say("error", error.sqlstate)


async def executemany(conn):
    """executemany, in the middle of what is done with it."""
    await conn.executemany("INSERT INTO work VALUES ($1, 'x')", [(n,) for n in range(10, 13)])
    try:
        await conn.executemany("INSERT INTO closed.vault VALUES ($1, 'in')", [(n,) for n in range(1, 4)])
    except ERROR as error:
        state(error)
    say(conn.is_in_transaction(), await conn.fetchval("SELECT count(*) FROM work"))


async def nested(conn):
    """A transaction within a transaction."""
    async with conn.transaction():
        await conn.execute(work(10))
        try:
            async with conn.transaction():
                await conn.execute(work(11))
                await conn.fetch(D)
        except ERROR as error:
            state(error)
        await conn.execute(work(12))


async def cursor(conn):
    """Between two portions of a cursor."""
    try:
        async with conn.transaction():
            walk = await conn.cursor("SELECT id FROM work ORDER BY id")
            say([row[0] for row in await walk.fetch(2)])
            try:
                await conn.fetch(D)
            except ERROR as error:
                state(error)
            say([row[0] for row in await walk.fetch(2)])
    except ERROR as error:
        state(error)
    say(conn.is_in_transaction())


async def copies(conn):
    """Records that are copied."""
    async with conn.transaction():
        await conn.copy_records_to_table("work", records=[(10, "x")])
        try:
            async with conn.transaction():
                await conn.copy_records_to_table("vault", schema_name="closed", records=[(1, "in")])
        except ERROR as error:
            state(error)
        await conn.copy_records_to_table("work", records=[(11, "x")])


async def script(conn):
    """Several statements in one text."""
    try:
        await conn.execute("SELECT 1; " + D)
    except ERROR as error:
        state(error)
    say(conn.is_in_transaction())


async def main():
    conn = await asyncpg.connect(ssl=False)
    await globals()[sys.argv[1]](conn)
    await conn.close()


asyncio.run(main())
