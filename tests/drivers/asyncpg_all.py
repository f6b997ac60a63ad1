import asyncio
import io

import asyncpg


async def main():
    conn = await asyncpg.connect(ssl=False)
    for name, text in (("types", TYPES), ("nulls", NULLS), ("arrays", ARRAYS)):
        say(name, [[repr(value) for value in row] for row in await conn.fetch(text)])
    async with conn.transaction():
        await conn.execute("INSERT INTO work VALUES ($1, $2)", 1, "kept")
        try:
            async with conn.transaction():
                await conn.execute("INSERT INTO work VALUES (1, 'twice')")
        except asyncpg.UniqueViolationError as error:
            say("savepoint", error.sqlstate, error.detail)
    say("transaction", [tuple(row) for row in await conn.fetch("SELECT * FROM work")])
    for text in ("SELECT * FROM nothing", "SELECT 1/0", "SELEC"):
        try:
            await conn.fetch(text)
        except asyncpg.PostgresError as error:
            say("error", error.sqlstate, str(error))
    statement = await conn.prepare("SELECT name FROM items WHERE id = $1")
    say("prepared", [await statement.fetchval(number) for number in (1, 2, 3, 1)], [a.name for a in statement.get_attributes()])
    async with conn.transaction():
        cursor = await conn.cursor("SELECT * FROM many ORDER BY id")
        say("portion", [len(await cursor.fetch(800)) for _ in range(8)])
    await conn.copy_records_to_table("work", records=[(number, "r%d" % number) for number in range(100, 2000)])
    out = io.BytesIO()
    say("copy", await conn.copy_from_query("SELECT * FROM work ORDER BY id", output=out, format="csv"), len(out.getvalue()))
    notices = []
    conn.add_log_listener(lambda _, message: notices.append([message.severity, message.message]))
    say("notice", await conn.fetchval("SELECT shout('asyncpg')"))
    await asyncio.sleep(0.1)
    say("notice", notices)
    heard = asyncio.get_running_loop().create_future()
    await conn.add_listener("news", lambda _, pid, channel, payload: heard.set_result([channel, payload]))
    await conn.execute("NOTIFY news, 'asyncpg'")
    say("notify", await asyncio.wait_for(heard, 5))
    try:
        await asyncio.wait_for(conn.execute("SELECT pg_sleep(60)"), 0.5)
    except asyncio.TimeoutError:
        say("cancel", await conn.fetchval("SELECT 'goes on'"))
    await conn.executemany("INSERT INTO work VALUES ($1, $2)", [(number, "many") for number in range(5000, 5400)])
    say("pipeline", await conn.fetchval("SELECT count(*) FROM work WHERE note = 'many'"))
    try:
        await conn.executemany("INSERT INTO work VALUES ($1, $2)", [(6000, "a"), (6001, "b"), (6000, "c")])
    except asyncpg.UniqueViolationError:
        say("pipeline", await conn.fetchval("SELECT count(*) FROM work WHERE id >= 6000"))
    await conn.execute("TRUNCATE work")
    await conn.close()


asyncio.run(main())
