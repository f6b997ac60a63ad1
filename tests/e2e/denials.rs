//! A denial leaves client and server as a native error would.

use agent_tests::{Outcome, Suite};

use crate::world::{READER, WRITER, World, ensure};

pub fn cases<'a>(suite: Suite<'a>, world: &'a World) -> Suite<'a> {
    suite
        .case("outside a transaction the session goes on", || {
            expect(world, WRITER, "DELETE FROM orders;\nSELECT 'after';\n", &["after"], &["no-unbounded-writes"])
        })
        .case("inside a transaction it is aborted, as by the server", || {
            let script = "BEGIN;\nINSERT INTO orders VALUES (200, 1, 1);\nDELETE FROM orders;\nSELECT 1;\nCOMMIT;\nSELECT count(*) FROM orders WHERE id = 200;\n";
            let errors = ["no-unbounded-writes", "current transaction is aborted"];
            expect(world, WRITER, script, &["0"], &errors)
        })
        .case("ROLLBACK TO SAVEPOINT recovers", || {
            let script = "BEGIN;\nINSERT INTO orders VALUES (201, 1, 1);\nSAVEPOINT s;\nDELETE FROM orders;\nROLLBACK TO s;\nCOMMIT;\nSELECT count(*) FROM orders WHERE id = 201;\nDELETE FROM orders WHERE id = 201;\n";
            expect(world, WRITER, script, &["1"], &["no-unbounded-writes"])
        })
        .case("ON_ERROR_ROLLBACK recovers by itself", || {
            let script = "\\set ON_ERROR_ROLLBACK on\nBEGIN;\nINSERT INTO orders VALUES (202, 1, 1);\nDELETE FROM orders;\nCOMMIT;\nSELECT count(*) FROM orders WHERE id = 202;\nDELETE FROM orders WHERE id = 202;\n";
            expect(world, WRITER, script, &["1"], &["no-unbounded-writes"])
        })
        .case("nothing of a refused message with several statements runs", || {
            let script = "INSERT INTO orders VALUES (203, 1, 1)\\; DELETE FROM orders;\nSELECT count(*) FROM orders WHERE id = 203;\n";
            expect(world, WRITER, script, &["0"], &["no-unbounded-writes"])
        })
        .case("a write hidden in a CTE of a SELECT is a write", || {
            let script = "WITH gone AS (DELETE FROM orders WHERE id = 1 RETURNING *) SELECT count(*) FROM gone;\n";
            expect(world, READER, script, &[], &["denied by Postern"])?;
            ensure(world.truth("SELECT count(*) FROM orders WHERE id = 1")? == "1", || "it ran".into())
        })
        .case("EXPLAIN ANALYZE of a write is a write", || {
            expect(world, READER, "EXPLAIN ANALYZE DELETE FROM orders WHERE id = 1;\n", &[], &["denied by Postern"])?;
            ensure(world.truth("SELECT count(*) FROM orders WHERE id = 1")? == "1", || "it ran".into())
        })
        .case("PREPARE and EXECUTE carry their statement", || {
            expect(world, READER, "PREPARE p AS DELETE FROM orders WHERE id = $1;\nEXECUTE p(1);\n", &[], &["denied by Postern"])?;
            expect(world, READER, "PREPARE q(int) AS SELECT ssn FROM customers WHERE id = $1;\nEXECUTE q(1);\n", &["***1120"], &[])
        })
        .case("a cursor carries its statement, and its rows are masked", || {
            let script = "BEGIN;\nDECLARE c CURSOR FOR SELECT ssn FROM customers ORDER BY id;\nFETCH 1 FROM c;\nFETCH 1 FROM c;\nCLOSE c;\nCOMMIT;\n";
            expect(world, READER, script, &["***1120", "***9999"], &[])
        })
        .case("COPY is refused in both directions to who may only read", || {
            let script = "COPY orders TO STDOUT;\nCOPY orders FROM STDIN;\nSELECT 5;\n";
            expect(world, READER, script, &["5"], &["sql:copy_out", "sql:copy_in"])
        })
        .case("COPY goes in both directions, without the masked columns", || {
            let script = "COPY orders (id, customer, amount) FROM STDIN;\n300\t1\t7.5\n301\t2\t8.5\n\\.\n\
                          COPY (SELECT id, amount FROM orders WHERE id >= 300 ORDER BY id) TO STDOUT WITH (FORMAT csv);\n\
                          COPY customers (id, name) TO STDOUT;\nCOPY customers TO STDOUT;\n\
                          COPY (SELECT ssn FROM customers) TO STDOUT;\nDELETE FROM orders WHERE id >= 300;\n";
            expect(world, WRITER, script, &["300,7.50", "301,8.50", "1\tAnn", "2\tBen", "3\tCat"], &["customers", "ssn"])
        })
        .case("a masked column in a predicate is refused", || {
            expect(world, READER, "SELECT id FROM customers WHERE ssn LIKE '078%';\n", &[], &["denied by Postern"])
        })
        .case("a masked column in an expression is refused", || {
            expect(world, READER, "SELECT substr(ssn, 1, 3) FROM customers;\n", &[], &["denied by Postern"])
        })
        .case("whole rows of a masked table are refused", || {
            expect(world, READER, "SELECT c FROM customers c;\nSELECT row_to_json(c) FROM customers c;\n", &[], &["denied by Postern"])
        })
        .case("a star shows masked columns masked", || {
            expect(world, READER, "SELECT * FROM customers WHERE id = 1;\n", &["1|Ann|***1120|a***@***.com|1980-01-01|2020-02-02 02:02:02+00"], &[])
        })
        .case("DO blocks are opaque", || {
            expect(world, WRITER, "DO $$ BEGIN DELETE FROM orders; END $$;\n", &[], &["denied by Postern"])?;
            ensure(world.truth("SELECT count(*) > 0 FROM orders")? == "t", || "it ran".into())
        })
        .case("settings that change how SQL is read are refused", || {
            expect(world, READER, "SET standard_conforming_strings = off;\nSHOW standard_conforming_strings;\n", &["on"], &["denied by Postern"])
        })
        .case("a value that the server quotes in an error does not arrive", || {
            world.truth("ALTER TABLE customers ADD CONSTRAINT named CHECK (name <> '')")?;
            let seen = world.script(WRITER, "UPDATE customers SET name = '' WHERE id = 1;\n");
            world.truth("ALTER TABLE customers DROP CONSTRAINT named")?;
            let seen = seen?;
            ensure(seen.stderr.contains("violates check constraint") && !seen.stderr.contains("078-05"), || seen.to_string())
        })
        .case("a unique index does not tell whether a masked value is there", || {
            let script = "INSERT INTO badges VALUES (2, 'B-7731');\nINSERT INTO badges VALUES (2, 'x') ON CONFLICT DO NOTHING;\nUPDATE badges SET code = 'B-7731' WHERE id = 1;\n";
            let reason = "denied by Postern: the masked column code";
            expect(world, WRITER, script, &[], &[reason, reason, reason])
        })
        .case("a table that is made anew keeps its columns masked or is refused", || {
            world.truth("CREATE TABLE fresh (LIKE customers); INSERT INTO fresh SELECT * FROM customers; GRANT ALL ON fresh TO app")?;
            world.truth("ALTER TABLE orders DROP CONSTRAINT orders_customer_fkey; ALTER TABLE customers RENAME TO old; ALTER TABLE fresh RENAME TO customers")?;
            let seen = world.script(READER, "SELECT ssn FROM customers;\n");
            world.truth("ALTER TABLE customers RENAME TO fresh; ALTER TABLE old RENAME TO customers; DROP TABLE fresh")?;
            let seen = seen?;
            ensure(!seen.stdout.contains("078-05"), || seen.to_string())
        })
}

/// Runs a script; its output must hold these lines and no others, and its errors these texts in this order.
fn expect(world: &World, uid: u32, script: &str, lines: &[&str], errors: &[&str]) -> Outcome {
    let seen = world.script(uid, script)?;
    let shown: Vec<&str> = seen.stdout.lines().filter(|line| !line.is_empty()).collect();
    ensure(shown == lines, || format!("expected {lines:?}, got {seen}"))?;
    let mut rest = seen.stderr.as_str();
    for error in errors {
        let at = rest.find(error).ok_or_else(|| format!("expected {error:?} among the errors: {seen}"))?;
        rest = &rest[at + error.len()..];
    }
    ensure(!errors.is_empty() || seen.stderr.is_empty(), || format!("unexpected errors: {seen}"))
}
