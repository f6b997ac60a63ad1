import asyncio

import psycopg


async def main():
    conn = await psycopg.AsyncConnection.connect(DSN, autocommit=True)
    for binary in (False, True):
        for name, text in (("types", TYPES), ("nulls", NULLS), ("arrays", ARRAYS)):
            cur = conn.cursor(binary=binary)
            await cur.execute(text)
            say(name, binary, [[repr(value) for value in row] for row in await cur.fetchall()])
    try:
        async with conn.transaction():
            await conn.execute("INSERT INTO work VALUES (1, 'gone')")
            async with conn.transaction():
                await conn.execute("SELECT 1/0")
    except psycopg.Error as error:
        say("error", error.sqlstate)
    say("transaction", await (await conn.execute("SELECT count(*) FROM work")).fetchone())
    async with conn.transaction():
        await conn.execute("SAVEPOINT here")
        await conn.execute("INSERT INTO work VALUES (1, 'gone')")
        await conn.execute("ROLLBACK TO here")
        say("savepoint", await (await conn.execute("SELECT count(*) FROM work")).fetchone())
        cur = conn.cursor(name="walk")
        await cur.execute("SELECT * FROM many ORDER BY id")
        say("portion", [len(await cur.fetchmany(900)) for _ in range(7)])
    for number in range(7):
        cur = await conn.execute("SELECT %s::int + 1", (number,), prepare=True)
        say("prepared", await cur.fetchone())
    async with conn.cursor() as cur:
        async with cur.copy("COPY work FROM STDIN (FORMAT csv)") as copy:
            await copy.write("1,one\n2,\n")
        async with cur.copy("COPY work TO STDOUT (FORMAT csv)") as copy:
            say("copy", [bytes(block).decode() async for block in copy])
    async with conn.pipeline():
        cursors = [await conn.execute("SELECT %s::text", ("x" * number,)) for number in range(500)]
    say("pipeline", sum([len((await cursor.fetchone())[0]) for cursor in cursors]))
    notices = []
    conn.add_notice_handler(lambda diag: notices.append([diag.severity, diag.message_primary]))
    await conn.execute("SELECT shout('async')")
    say("notice", notices)
    await conn.execute("LISTEN news")
    await conn.execute("NOTIFY news, 'paper'")
    say("notify", [[note.channel, note.payload] async for note in conn.notifies(timeout=5, stop_after=1)])
    asyncio.get_running_loop().call_later(0.5, conn.cancel)
    try:
        await conn.execute("SELECT pg_sleep(60)")
    except psycopg.Error as error:
        say("cancel", error.sqlstate)
    await conn.execute("TRUNCATE work")
    await conn.close()


asyncio.run(main())
