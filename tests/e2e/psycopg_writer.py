import sys
import psycopg
from psycopg import pq

with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    # A denial inside a transaction aborts it, as an error of the server does.
    with conn.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO orders VALUES (%s, 1, 1)", (300,))
        try:
            cursor.execute("DELETE FROM orders")
            raise SystemExit("an unbounded DELETE was let through")
        except psycopg.errors.InsufficientPrivilege as error:
            assert "no-unbounded-writes" in str(error), error
        assert conn.info.transaction_status == pq.TransactionStatus.INERROR
        try:
            cursor.execute("SELECT 1")
            raise SystemExit("the transaction is not aborted")
        except psycopg.errors.InFailedSqlTransaction:
            pass
        cursor.execute("ROLLBACK")
        assert cursor.execute("SELECT count(*) FROM orders WHERE id = 300").fetchone() == (0,)
    # In a pipeline: what came before runs with the pipeline's transaction, what follows is skipped.
    try:
        with conn.pipeline():
            conn.execute("INSERT INTO orders VALUES (%s, 1, 1)", (301,))
            conn.execute("UPDATE orders SET paid = true")
            conn.execute("INSERT INTO orders VALUES (%s, 1, 1)", (302,))
        raise SystemExit("an unbounded UPDATE was let through")
    except psycopg.errors.InsufficientPrivilege as error:
        assert "no-unbounded-writes" in str(error), error
    found = conn.execute("SELECT count(*) FROM orders WHERE id IN (301, 302)").fetchone()
    assert found == (0,), found
    # A pipeline without a denial.
    with conn.pipeline():
        cursors = [conn.execute("SELECT %s::int * 2", (n,)) for n in range(200)]
    assert [cursor.fetchone()[0] for cursor in cursors] == [n * 2 for n in range(200)]
    # executemany goes through a pipeline too.
    with conn.cursor() as cursor:
        cursor.executemany("INSERT INTO orders VALUES (%s, 1, %s)", [(400 + n, n) for n in range(50)])
        assert cursor.execute("SELECT count(*) FROM orders WHERE id BETWEEN 400 AND 449").fetchone() == (50,)
        cursor.execute("DELETE FROM orders WHERE id BETWEEN 400 AND 449")
        assert cursor.rowcount == 50
print("done")
