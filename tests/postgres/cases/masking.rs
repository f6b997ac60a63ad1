//! Masked columns.

use agent::model::{Action, Denial, Style};
use agent_tests::{Outcome, Postgres};

use super::{expect, fails, holds, lacks, masked, psql, session};

pub fn masking(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    expect(
        &psql(&proxy, "SELECT * FROM customers ORDER BY id")?,
        "1|Ada|***3333|a***@***.org|1815-01-01\n2|Grace|***6666|g***@***.com|1906-01-01",
    )?;
    // The server quotes the row in the detail.
    let error = fails(&proxy, "UPDATE customers SET name = NULL WHERE id = 1")?;
    holds(&error, "null value in column \"name\"")?;
    lacks(&error, "111-22")?;
    let log = proxy.log_text();
    for value in ["111-22", "ada@example", "1815-12", "444-55"] {
        lacks(&log, value)?;
    }
    holds(&log, "***3333")
}

pub fn unproven(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    for sql in [
        "SELECT ssn || '' FROM customers",
        "SELECT customers FROM customers",
        "SELECT id FROM customers WHERE ssn LIKE '1%'",
        "SELECT row_to_json(c) FROM customers c",
    ] {
        holds(&fails(&proxy, sql)?, "denied by Postern")?;
    }
    Ok(())
}

pub fn unmasked(server: &Postgres) -> Outcome {
    let proxy = masked(server).policy(|_| None).start()?;
    expect(&psql(&proxy, "SELECT ssn FROM customers WHERE id = 1")?, "111-22-3333")?;
    expect(&psql(&proxy, "SELECT upper(ssn) FROM customers WHERE id = 1")?, "111-22-3333")?;
    lacks(&proxy.log_text(), "111-22")
}

pub fn missing_column(server: &Postgres) -> Outcome {
    let proxy = masked(server).mask("public", "customers", "nonsense", Style::Null).start()?;
    let error = fails(&proxy, "SELECT 1")?;
    holds(&error, "masked column public.customers.nonsense")?;
    holds(&proxy.log_text(), "connection-refused")
}

pub fn observe(server: &Postgres) -> Outcome {
    fn nothing(_: &Action) -> Option<Denial> {
        Some(Denial::closed("nothing is permitted"))
    }
    let proxy = masked(server).policy(nothing).observe().start()?;
    expect(&psql(&proxy, "SELECT ssn FROM customers WHERE id = 1")?, "111-22-3333")?;
    expect(&psql(&proxy, "SELECT 'x' || ssn FROM customers WHERE id = 1")?, "x111-22-3333")?;
    expect(&psql(&proxy, "COPY (SELECT name FROM products WHERE id < 3) TO STDOUT")?, "product 1\nproduct 2")?;
    let copy = "CREATE TEMP TABLE t (a int);\nCOPY t FROM STDIN;\n1\n2\n\\.\nSELECT sum(a) FROM t;\n";
    expect(&session(&proxy, copy)?.0, "CREATE TABLE\nCOPY 2\n3\n")?;
    let log = proxy.log_text();
    holds(&log, "\"verdict\":\"observe\"")?;
    lacks(&log, "111-22")
}

/// Statements of which some are answered, some fail, and some are refused.
const CURIOUS: &[&str] = &[
    "SELECT * FROM customers ORDER BY id",
    "SELECT ssn FROM customers ORDER BY ssn",
    "SELECT max(ssn) FROM customers",
    "SELECT count(DISTINCT email) FROM customers",
    "SELECT id FROM customers WHERE ssn = '111-22-3333'",
    "SELECT id FROM customers WHERE ssn > '2'",
    "SELECT ssn::int FROM customers",
    "SELECT length(email) FROM customers",
    "SELECT CASE WHEN ssn LIKE '1%' THEN 1 ELSE 1/0 END FROM customers",
    "INSERT INTO customers VALUES (1, 'x', 'y')",
    "INSERT INTO customers VALUES (3, 'x', '111-22-3333')",
    "INSERT INTO customers VALUES (3, 'x', '111-22-3333') ON CONFLICT DO NOTHING",
    "UPDATE customers SET ssn = '444-55-6666' WHERE id = 1",
    "SELECT ssn AS s, count(*) FROM customers GROUP BY ROLLUP (s)",
    "INSERT INTO customers VALUES (3, 'x', NULL)",
    "UPDATE customers SET name = ssn",
    "UPDATE customers SET name = 'x' WHERE ssn = '111-22-3333'",
    "UPDATE customers SET id = 2 WHERE id = 1",
    "DELETE FROM customers WHERE ssn LIKE '1%'",
    "SELECT c FROM customers c",
    "SELECT row_to_json(c) FROM customers c",
    "SELECT name FROM customers UNION SELECT ssn FROM customers",
    "WITH c AS (SELECT * FROM customers) SELECT ssn FROM c ORDER BY id",
    "SELECT (SELECT ssn FROM customers LIMIT 1)",
    "SELECT id FROM customers ORDER BY ssn",
    "SELECT DISTINCT email FROM customers",
    "SELECT a.ssn FROM customers a JOIN customers b ON a.ssn = b.ssn",
    "SELECT * FROM pg_stats WHERE tablename = 'customers'",
    "SELECT most_common_vals FROM pg_statistic_ext_data",
    "SELECT query_to_xml('SELECT * FROM customers', true, true, '')",
    "EXPLAIN SELECT ssn FROM customers WHERE id = 1",
    "EXPLAIN ANALYZE SELECT id FROM customers WHERE ssn = '111-22-3333'",
    "CREATE TABLE copied AS SELECT * FROM customers",
    "CREATE INDEX ON customers (ssn)",
    "DO $$ BEGIN RAISE NOTICE '%', (SELECT ssn FROM customers LIMIT 1); END $$",
    "SELECT id, born FROM customers ORDER BY id",
    "PREPARE p AS SELECT email FROM customers ORDER BY id; EXECUTE p",
    "BEGIN; DECLARE c CURSOR FOR SELECT ssn FROM customers ORDER BY id; FETCH ALL FROM c; COMMIT",
    "TABLE customers",
    "SELECT customers.* FROM customers ORDER BY id",
    "SELECT string_agg(ssn, ',') FROM customers",
    "SELECT ssn FROM customers GROUP BY ssn ORDER BY 1",
    "SELECT nonsense FROM customers",
];

pub fn non_interference(server: &Postgres) -> Outcome {
    let look = || -> Outcome<(Vec<(String, String)>, String)> {
        let proxy = masked(server).start()?;
        let seen = CURIOUS.iter().map(|sql| session(&proxy, &format!("{sql};\n"))).collect::<Outcome<_>>()?;
        let log = proxy.log();
        let mut shown = String::new();
        // The end of a session may come after the beginning of the next, or too late.
        for record in log.iter().filter(|record| record["event"] != "session-ended") {
            for field in ["text", "parameters", "rows", "columns", "error", "tag", "verdict", "reason"] {
                shown.push_str(&record[field].to_string());
            }
        }
        Ok((seen, shown))
    };
    let before = look()?;
    // What the styles show stays: the last four, first letter and top-level domain, the year.
    server.sql(
        "shop",
        "BEGIN; UPDATE customers SET ssn = '999-00-3333', email = 'alan@elsewhere.org', born = '1815-03-04' WHERE id = 1; \
         UPDATE customers SET ssn = '000-00-6666', email = 'gordon@x.com', born = '1906-01-02' WHERE id = 2; COMMIT",
    )?;
    let after = look();
    server.sql(
        "shop",
        "UPDATE customers SET ssn = '111-22-3333', email = 'ada@example.org', born = '1815-12-10' WHERE id = 1; \
         UPDATE customers SET ssn = '444-55-6666', email = 'grace@example.com', born = '1906-12-09' WHERE id = 2",
    )?;
    let after = after?;
    for ((sql, before), after) in CURIOUS.iter().zip(&before.0).zip(&after.0) {
        if before != after {
            return Err(format!("{sql}:\n{before:?}\n{after:?}"));
        }
    }
    expect(&before.1, &after.1)?;
    lacks(&before.1, "111-22")
}
