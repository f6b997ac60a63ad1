"""An ordinary session, whose every answer is printed: the same by way of Postern as without it."""
import os
import threading
import time

import psycopg
from psycopg import errors

connection = psycopg.connect(os.environ["DSN"], autocommit=True)
print("protocol", connection.pgconn.full_protocol_version)
print("server", connection.info.server_version)
print("rows", connection.execute("SELECT id, name FROM products WHERE id < 4 ORDER BY id").fetchall())
for number in (7, 8):
    query = "SELECT price FROM products WHERE id = %s"
    print("prepared", connection.execute(query, [number], prepare=True, binary=True).fetchall())
try:
    connection.execute("SELECT 1 / 0")
except errors.DivisionByZero as error:
    print("error", error.sqlstate, error.diag.message_primary)
with connection.transaction(force_rollback=True):
    connection.execute("INSERT INTO products VALUES (1000, 'gone', 1)")
print("rolled back", connection.execute("SELECT count(*) FROM products WHERE id = 1000").fetchone())


def cancel():
    # Only a statement that runs can be cancelled.
    time.sleep(1)
    connection.cancel_safe()


canceller = threading.Thread(target=cancel)
canceller.start()
started = time.monotonic()
try:
    connection.execute("SELECT pg_sleep(20)")
except errors.QueryCanceled as error:
    print("cancelled", error.sqlstate, time.monotonic() - started < 10)
canceller.join()
print("goes on", connection.execute("SELECT 'on'").fetchone())
connection.close()
