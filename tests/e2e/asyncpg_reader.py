import asyncio
import sys
import asyncpg

words = dict(word.split("=", 1) for word in sys.argv[1].split())


async def main():
    conn = await asyncpg.connect(
        host=words["host"], port=int(words["port"]), database=words["dbname"], user=words["user"], ssl=False
    )
    rows = await conn.fetch("SELECT id, name, ssn, email, born FROM customers ORDER BY id")
    assert rows[0]["ssn"] == "***1120" and rows[1]["email"] == "b***@***.org", rows
    assert rows[0]["born"].isoformat() == "1980-01-01", rows
    assert rows[2]["ssn"] is None, rows
    statement = await conn.prepare("SELECT ssn FROM customers WHERE id = $1")
    for _ in range(3):
        assert await statement.fetchval(2) == "***9999"
    assert await conn.fetchval("SELECT $1::numeric(10,2) + 1", 2) == 3
    assert await conn.fetchval("SELECT array_agg(id ORDER BY id) FROM orders WHERE id <= 3") == [1, 2, 3]
    async with conn.transaction():
        seen = [record["ssn"] async for record in conn.cursor("SELECT ssn FROM customers ORDER BY id", prefetch=1)]
    assert seen == ["***1120", "***9999", None], seen
    try:
        await conn.execute("DELETE FROM orders WHERE id = 1")
        raise SystemExit("a DELETE was let through")
    except asyncpg.InsufficientPrivilegeError as error:
        assert "denied by Postern" in str(error), error
    assert await conn.fetchval("SELECT count(*) FROM orders WHERE id = 1") == 1
    await conn.close()


asyncio.run(main())
print("done")
