//! The queries: no two with the same construct and place of a masked column.

/// How a query is sent.
pub enum How {
    /// As a Query message.
    Simple,
    /// Through the extended protocol with these parameters, results as text.
    Extended(&'static [&'static str]),
    /// The same, results in binary.
    Binary(&'static [&'static str]),
}

/// A query, and whether it must be answered rather than refused.
pub struct Query {
    pub about: &'static str,
    pub sql: &'static str,
    pub how: How,
    pub answers: bool,
}

const fn yes(about: &'static str, sql: &'static str) -> Query {
    Query { about, sql, how: How::Simple, answers: true }
}

const fn no(about: &'static str, sql: &'static str) -> Query {
    Query { about, sql, how: How::Simple, answers: false }
}

const fn extended(about: &'static str, sql: &'static str, parameters: &'static [&'static str]) -> Query {
    Query { about, sql, how: How::Extended(parameters), answers: true }
}

const fn binary(about: &'static str, sql: &'static str, parameters: &'static [&'static str]) -> Query {
    Query { about, sql, how: How::Binary(parameters), answers: true }
}

pub const QUERIES: &[Query] = &[
    yes("a column of text, last4", "SELECT ssn FROM people ORDER BY id"),
    yes("a column of varchar, email", "SELECT email FROM people ORDER BY id"),
    yes("a date, year", "SELECT born FROM people ORDER BY id"),
    yes("a column, redact", "SELECT token FROM people ORDER BY id"),
    yes("a numeric, null", "SELECT pay FROM people ORDER BY id"),
    yes("a timestamp, year", "SELECT seen FROM people ORDER BY id"),
    yes("a column, fixed", "SELECT note FROM people ORDER BY id"),
    yes("a star", "SELECT * FROM people ORDER BY id"),
    yes("a qualified star", "SELECT p.* FROM people p ORDER BY p.id"),
    yes("a star of one of two tables", "SELECT o.id, p.* FROM orders o JOIN people p ON p.id = o.person ORDER BY o.id"),
    yes("an alias of the column", "SELECT ssn AS hidden FROM people ORDER BY id"),
    yes("an alias that is another column's name", "SELECT ssn AS name FROM people ORDER BY people.id"),
    yes("an alias of the table", "SELECT x.email FROM people AS x ORDER BY x.id"),
    yes("a schema-qualified column", "SELECT public.people.ssn FROM public.people ORDER BY id"),
    yes("a quoted name", "SELECT \"ssn\" FROM \"people\" ORDER BY \"id\""),
    yes("a name in capitals", "SELECT SSN FROM PEOPLE ORDER BY ID"),
    yes("a name in Unicode escapes", "SELECT U&\"\\0073sn\" FROM people ORDER BY id"),
    yes("twice the same column", "SELECT ssn, ssn FROM people ORDER BY id"),
    yes("COPY of clear columns", "COPY people (id, name) TO STDOUT"),
    yes(
        "COPY of a query of clear columns",
        "COPY (SELECT name FROM people WHERE id > 1 ORDER BY id) TO STDOUT (FORMAT binary)",
    ),
    yes("ONLY", "SELECT ssn FROM ONLY people ORDER BY id"),
    yes("a child table", "SELECT ssn, note FROM archive"),
    yes("LIMIT and OFFSET", "SELECT ssn FROM people ORDER BY id LIMIT 2 OFFSET 3"),
    yes("a WHERE on a clear column", "SELECT ssn, pay FROM people WHERE level > 4 ORDER BY id"),
    yes("a cross join", "SELECT p.ssn, o.what FROM people p, orders o WHERE o.id = p.id ORDER BY p.id"),
    yes(
        "an outer join",
        "SELECT o.id, p.token FROM orders o LEFT JOIN people p ON p.id = o.person AND p.level > 3 ORDER BY o.id",
    ),
    yes("a join with USING on a clear column", "SELECT ssn FROM people JOIN orders USING (id) ORDER BY id"),
    yes("no row", "SELECT ssn FROM people WHERE id = 1000"),
    yes("NULLs", "SELECT ssn, email, born, token, pay, seen, note FROM people WHERE id = 9"),
    yes("a clear column of a table with masked ones", "SELECT name FROM people ORDER BY name"),
    yes(
        "an aggregate over clear columns",
        "SELECT count(*), max(level), string_agg(name, ',' ORDER BY id) FROM people",
    ),
    yes("a group by a clear column", "SELECT level, count(id) FROM people GROUP BY level ORDER BY level"),
    yes(
        "an expression over clear columns beside a masked one",
        "SELECT upper(name) || '!', ssn FROM people ORDER BY id",
    ),
    yes("a constant beside it", "SELECT 42, 'x', ssn FROM people ORDER BY id"),
    yes("two statements", "SELECT ssn FROM people WHERE id = 1; SELECT email FROM people WHERE id = 2"),
    yes(
        "a cursor",
        "BEGIN; DECLARE c CURSOR FOR SELECT ssn, pay FROM people ORDER BY id; FETCH 3 FROM c; FETCH ALL FROM c; COMMIT",
    ),
    yes("PREPARE and EXECUTE", "PREPARE s(int) AS SELECT token FROM people WHERE id = $1; EXECUTE s(3)"),
    yes(
        "INSERT … RETURNING",
        "BEGIN; INSERT INTO people (id, name, ssn) VALUES (50, 'n', '123-45-6789') RETURNING ssn, name; ROLLBACK",
    ),
    yes("UPDATE … RETURNING", "BEGIN; UPDATE people SET level = 1 WHERE id = 2 RETURNING ssn, level; ROLLBACK"),
    yes("DELETE … RETURNING *", "BEGIN; DELETE FROM orders WHERE id = 3 RETURNING *; ROLLBACK"),
    yes("a masked column is set to a constant", "BEGIN; UPDATE people SET ssn = '1' WHERE id = 2; ROLLBACK"),
    yes("FOR UPDATE", "BEGIN; SELECT ssn FROM people WHERE id = 1 FOR UPDATE; ROLLBACK"),
    yes("the server's error in a statement on it", "SELECT ssn, 1 / (level - level) FROM people"),
    no("a column that does not exist", "SELECT ssm FROM people"),
    no("a syntax error after it", "SELECT ssn FROM people WHERE"),
    yes("a primary key's error", "INSERT INTO people (id, name, ssn) VALUES (1, 'again', '5')"),
    yes("a NOT NULL error", "INSERT INTO people (id, ssn) VALUES (60, 'x')"),
    yes("a foreign key's error", "INSERT INTO orders (id, person) VALUES (99, 12345)"),
    yes("the other table alone", "SELECT * FROM orders ORDER BY id"),
    yes(
        "the catalogue",
        "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = 'people'::regclass AND attnum > 0 ORDER BY attnum",
    ),
    yes("SHOW", "SHOW search_path"),
    extended("extended: a column", "SELECT ssn FROM people ORDER BY id", &[]),
    extended("extended: a parameter on a clear column", "SELECT ssn, email FROM people WHERE id = $1", &["4"]),
    extended("extended: a star", "SELECT * FROM people WHERE level < $1 ORDER BY id", &["4"]),
    extended("extended: a parameter as an output column", "SELECT $1::text, ssn FROM people ORDER BY id", &["seen"]),
    extended("extended: RETURNING", "UPDATE people SET level = level WHERE id = $1 RETURNING token", &["5"]),
    extended("extended: a parameter that is not of the type", "SELECT ssn FROM people WHERE id = $1", &["x"]),
    binary("binary: text, last4", "SELECT ssn FROM people ORDER BY id", &[]),
    binary("binary: varchar, email", "SELECT email FROM people ORDER BY id", &[]),
    binary("binary: date, year", "SELECT born FROM people ORDER BY id", &[]),
    binary("binary: numeric, null", "SELECT pay, id FROM people ORDER BY id", &[]),
    binary("binary: timestamp, year", "SELECT seen FROM people ORDER BY id", &[]),
    binary("binary: redact and fixed", "SELECT token, note FROM people WHERE id = $1", &["2"]),
    binary("binary: a star", "SELECT * FROM people ORDER BY id", &[]),
    no("an equality", "SELECT id FROM people WHERE ssn = '078-01-4517'"),
    no("a LIKE", "SELECT id FROM people WHERE email LIKE 'ann%'"),
    no("a comparison", "SELECT id FROM people WHERE pay > 500"),
    no("an IS NULL", "SELECT id FROM people WHERE note IS NULL"),
    no("an IN list", "SELECT id FROM people WHERE token IN ('tok-a1', 'tok-a2')"),
    no("a BETWEEN", "SELECT id FROM people WHERE born BETWEEN '1970-01-01' AND '1990-01-01'"),
    no("an ORDER BY", "SELECT id FROM people ORDER BY pay"),
    no("an ORDER BY position", "SELECT ssn FROM people ORDER BY 1"),
    no("an ORDER BY alias", "SELECT token AS t FROM people ORDER BY t"),
    no("a GROUP BY", "SELECT count(*) FROM people GROUP BY note"),
    no("a HAVING", "SELECT level FROM people GROUP BY level HAVING max(pay) > 100"),
    no("a DISTINCT", "SELECT DISTINCT ssn FROM people"),
    no("a DISTINCT ON", "SELECT DISTINCT ON (email) id FROM people"),
    no("a join condition", "SELECT a.id FROM people a JOIN people b ON a.ssn = b.ssn"),
    no("a natural join", "SELECT id FROM people NATURAL JOIN archive"),
    no("a USING list", "SELECT a.id FROM people a JOIN archive b USING (ssn)"),
    no("a function", "SELECT length(note) FROM people"),
    no("an operator", "SELECT ssn || '' FROM people"),
    no("a cast", "SELECT ssn::varchar FROM people"),
    no("a CASE", "SELECT CASE WHEN pay > 100 THEN 1 END FROM people"),
    no("a COALESCE", "SELECT coalesce(ssn, '') FROM people"),
    no("an aggregate", "SELECT max(ssn) FROM people"),
    no("a FILTER", "SELECT count(*) FILTER (WHERE ssn LIKE '0%') FROM people"),
    no("a window", "SELECT rank() OVER (ORDER BY pay) FROM people"),
    no("an array", "SELECT ARRAY[ssn] FROM people"),
    no("a row constructor", "SELECT ROW(ssn, 1) FROM people"),
    no("a whole row", "SELECT p FROM people p"),
    no("a whole row as JSON", "SELECT to_jsonb(p) FROM people p"),
    no("a field of a whole row", "SELECT (p).ssn FROM people p"),
    no("functional notation", "SELECT ssn(p) FROM people p"),
    no("a scalar subquery", "SELECT (SELECT ssn FROM people WHERE id = 1)"),
    no("an EXISTS", "SELECT 1 WHERE EXISTS (SELECT 1 FROM people WHERE ssn LIKE '0%')"),
    no("a UNION", "SELECT ssn FROM people UNION ALL SELECT what FROM orders"),
    no("a CTE with an expression", "WITH x AS (SELECT ssn || '' AS s FROM people) SELECT s FROM x"),
    no("a LATERAL", "SELECT l.s FROM people p, LATERAL (SELECT p.ssn || '' AS s) l"),
    no("a view", "SELECT email FROM contacts"),
    no("a function that users made", "SELECT leak(1)"),
    no("INSERT … SELECT", "INSERT INTO orders (id, what) SELECT 100 + id, ssn FROM people"),
    no("UPDATE of a clear column from it", "UPDATE people SET name = ssn WHERE id = 1"),
    no("CREATE TABLE AS", "CREATE TABLE copied AS SELECT ssn FROM people"),
    no("COPY", "COPY people TO STDOUT"),
    no("COPY of the column, to CSV", "COPY people (id, ssn) TO STDOUT (FORMAT csv)"),
    no("COPY of a query", "COPY (SELECT * FROM people) TO STDOUT"),
    no("COPY of a query in the order of it", "COPY (SELECT id FROM people ORDER BY ssn) TO STDOUT"),
    no("COPY of what a write returns", "COPY (UPDATE people SET name = name WHERE id = 1 RETURNING ssn) TO STDOUT"),
    no("pg_stats", "SELECT most_common_vals FROM pg_stats WHERE tablename = 'people'"),
    no("EXPLAIN ANALYZE", "EXPLAIN ANALYZE SELECT ssn FROM people WHERE pay > 1"),
    no("column aliases of the table", "SELECT c FROM people AS p(a, b, c)"),
    no("query_to_xml", "SELECT query_to_xml('SELECT * FROM people', true, true, '')"),
    no("a DO block", "DO $$ BEGIN PERFORM 1 / (SELECT count(*) FROM people WHERE ssn LIKE '0%'); END $$"),
];
