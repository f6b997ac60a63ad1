import sys
import psycopg
from psycopg.rows import dict_row

with psycopg.connect(sys.argv[1]) as conn:
    rows = conn.execute("SELECT id, name, ssn FROM customers WHERE id <= %s ORDER BY id", (2,)).fetchall()
    assert rows == [(1, "Ann", "***1120"), (2, "Ben", "***9999")], rows
    rows = conn.execute("SELECT id, ssn, email, born FROM customers ORDER BY id", binary=True).fetchall()
    assert rows[0][1:3] == ("***1120", "a***@***.com"), rows
    assert (rows[0][3].year, rows[0][3].month, rows[0][3].day) == (1980, 1, 1), rows
    assert rows[2] == (3, None, None, None), rows
    # The same statement often enough that psycopg prepares it.
    for _ in range(12):
        row = conn.execute("SELECT ssn FROM customers WHERE id = %s", (1,), prepare=True).fetchone()
        assert row == ("***1120",), row
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute("SELECT * FROM customers WHERE id = 2")
        assert cursor.fetchone()["ssn"] == "***9999"
    with conn.cursor(name="server_side") as cursor:
        cursor.execute("SELECT id, ssn FROM customers ORDER BY id")
        assert cursor.fetchmany(2) == [(1, "***1120"), (2, "***9999")]
    conn.rollback()
    try:
        conn.execute("UPDATE orders SET paid = true WHERE id = 1")
        raise SystemExit("an UPDATE was let through")
    except psycopg.errors.InsufficientPrivilege as error:
        assert "denied by Postern" in str(error), error
    conn.rollback()
    assert conn.execute("SELECT count(*) FROM orders").fetchone()[0] >= 10
print("done")
