-- Answers, where public.customers.ssn and .email, public.people.passport and public.events_2024.card are masked.

-- case: nothing is touched
-- answer: clear
SELECT 1;

-- case: a table without masked columns
-- answer: clear
SELECT * FROM public.orders;

-- case: a listed catalogue relation
-- answer: clear
SELECT relname FROM pg_catalog.pg_class;

-- case: listed functions on a table without masked columns
-- answer: clear
SELECT upper(note), count(*) FROM public.orders GROUP BY 1;

-- case: a sequence
-- answer: clear
SELECT nextval('public.numbers'), last_value FROM public.numbers;

-- case: pg_sleep sees no table
-- answer: clear
SELECT pg_sleep(0);

-- case: SET
-- answer: clear
SET application_name = 'x';

-- case: a masked column as it is
-- answer: by-origin
SELECT ssn FROM public.customers;

-- case: a masked column under an alias
-- answer: by-origin
SELECT c.ssn AS number FROM public.customers c;

-- case: a star
-- answer: by-origin
SELECT * FROM public.customers;

-- case: a star of one table of two
-- answer: by-origin
SELECT o.id, c.* FROM public.orders o JOIN public.customers c ON c.id = o.customer_id WHERE c.region = 'north';

-- case: only columns that are not masked
-- answer: by-origin
SELECT name, count(*) FROM public.customers GROUP BY name;

-- case: a masked column beside an expression over others
-- answer: by-origin
SELECT upper(name), ssn FROM public.customers ORDER BY name LIMIT 3;

-- case: a column that the table's key determines
-- answer: by-origin
SELECT id, ssn FROM public.customers GROUP BY id;

-- case: a subquery that reads no masked column of the table
-- answer: by-origin
SELECT id FROM public.orders WHERE customer_id IN (SELECT id FROM public.customers WHERE region = 'north');

-- case: a qualified name with its schema
-- answer: by-origin
SELECT public.customers.ssn FROM public.customers;

-- case: a parent of a masked child
-- answer: by-origin
SELECT card FROM public.events;

-- case: a child of a masked parent
-- answer: by-origin
SELECT passport FROM public.staff;

-- case: FOR UPDATE
-- answer: by-origin
SELECT ssn FROM public.customers WHERE id = 1 FOR UPDATE;

-- case: a write of a constant
-- answer: by-origin
UPDATE public.customers SET email = 'a@b.c' WHERE id = 1;

-- case: an insert with RETURNING
-- answer: by-origin
INSERT INTO public.customers (id, email) VALUES (7, '1') RETURNING id, ssn;

-- case: RETURNING everything
-- answer: by-origin
DELETE FROM public.customers WHERE id = 1 RETURNING *;

-- case: a cursor
-- answer: by-origin
DECLARE c CURSOR FOR SELECT ssn FROM public.customers;

-- case: PREPARE, then EXECUTE
-- answer: by-origin
PREPARE a AS SELECT ssn FROM public.customers; EXECUTE a;

-- case: EXECUTE of a statement that the session knows
-- answer: by-origin
EXECUTE known_statement;

-- case: FETCH from a cursor that the session knows
-- answer: by-origin
FETCH 5 FROM known_cursor;

-- case: COPY of columns that are not masked
-- answer: clear
COPY public.customers (id, name) TO STDOUT;

-- case: COPY into the table
-- answer: by-origin
COPY public.customers (id, name) FROM STDIN;

-- case: TRUNCATE
-- answer: by-origin
TRUNCATE public.customers;

-- case: the same column of another table
-- answer: by-origin
SELECT o.note, c.email FROM public.customers c, public.orders o WHERE o.note = 'x' ORDER BY o.id;

-- case: an alias of a clear column by the name of a masked one
-- answer: clear
SELECT note AS ssn FROM public.orders ORDER BY ssn;

-- case: everything that is masked may be unmasked
-- unmask: ssn email passport card
-- answer: clear
SELECT upper(ssn) FROM public.customers WHERE email LIKE 'a%';

-- case: the one column may be unmasked, the other not
-- unmask: ssn
-- answer: by-origin
SELECT upper(ssn), email FROM public.customers;

-- case: a predicate
-- answer: unproven ssn
SELECT id FROM public.customers WHERE ssn = '111-11-1111';

-- case: a predicate in another case of letters
-- answer: unproven ssn
SELECT id FROM public.customers WHERE SsN LIKE '1%';

-- case: a predicate in quotes
-- answer: unproven ssn
SELECT id FROM public.customers WHERE "ssn" IS NULL;

-- case: a predicate with Unicode escapes
-- answer: unproven ssn
SELECT id FROM public.customers WHERE U&"\0073sn" > '5';

-- case: a predicate of an UPDATE
-- answer: unproven ssn
UPDATE public.customers SET name = 'x' WHERE ssn < '5';

-- case: a predicate of a DELETE
-- answer: unproven email
DELETE FROM public.customers WHERE email = 'a';

-- case: a function
-- answer: unproven ssn
SELECT length(ssn) FROM public.customers;

-- case: an operator
-- answer: unproven ssn
SELECT ssn || '' FROM public.customers;

-- case: a cast
-- answer: unproven ssn
SELECT ssn::varchar FROM public.customers;

-- case: a collation
-- answer: unproven ssn
SELECT ssn COLLATE "C" FROM public.customers;

-- case: CASE
-- answer: unproven ssn
SELECT CASE WHEN ssn > '5' THEN 1 ELSE 0 END FROM public.customers;

-- case: an aggregate
-- answer: unproven ssn
SELECT max(ssn) FROM public.customers;

-- case: FILTER of an aggregate
-- answer: unproven ssn
SELECT count(*) FILTER (WHERE ssn > '5') FROM public.customers;

-- case: ORDER BY
-- answer: unproven ssn
SELECT id FROM public.customers ORDER BY ssn;

-- case: ORDER BY an alias
-- answer: unproven ssn
SELECT id, ssn AS s FROM public.customers ORDER BY s;

-- case: ORDER BY a position
-- answer: unproven position
SELECT id, ssn FROM public.customers ORDER BY 2;

-- case: ORDER BY a position in a star
-- answer: unproven position
SELECT * FROM public.customers ORDER BY 4;

-- case: GROUP BY
-- answer: unproven ssn
SELECT count(*) FROM public.customers GROUP BY ssn;

-- case: GROUP BY an alias
-- answer: unproven ssn
SELECT ssn AS s, count(*) FROM public.customers GROUP BY s;

-- case: HAVING
-- answer: unproven ssn
SELECT region FROM public.customers GROUP BY region HAVING min(ssn) > '5';

-- case: DISTINCT
-- answer: unproven DISTINCT
SELECT DISTINCT ssn FROM public.customers;

-- case: DISTINCT ON
-- answer: unproven ssn
SELECT DISTINCT ON (ssn) id FROM public.customers;

-- case: a window
-- answer: unproven ssn
SELECT rank() OVER (ORDER BY ssn) FROM public.customers;

-- case: a named window
-- answer: unproven ssn
SELECT rank() OVER w FROM public.customers WINDOW w AS (PARTITION BY ssn);

-- case: LIMIT by a subquery
-- answer: unproven ssn
SELECT 1 LIMIT (SELECT length(max(ssn)) FROM public.customers);

-- case: a join condition
-- answer: unproven ssn
SELECT o.id FROM public.orders o JOIN public.customers c ON c.ssn = o.note;

-- case: USING
-- answer: unproven ssn
SELECT a.id FROM public.customers a JOIN public.customers b USING (ssn);

-- case: NATURAL
-- answer: unproven NATURAL
SELECT a.id FROM public.customers a NATURAL JOIN public.orders b;

-- case: a join with an alias
-- answer: unproven alias
SELECT j.ssn FROM (public.customers CROSS JOIN public.orders) AS j;

-- case: an alias with columns
-- answer: unproven renamed
SELECT c.d FROM public.customers c (a, b, c, d, e);

-- case: a whole row
-- answer: unproven whole row
SELECT c FROM public.customers c;

-- case: a whole row as text
-- answer: unproven whole row
SELECT c::text FROM public.customers c;

-- case: a whole row in a function
-- answer: unproven whole row
SELECT row_to_json(c) FROM public.customers c;

-- case: a field of a whole row
-- answer: unproven whole row
SELECT (c).ssn FROM public.customers c;

-- case: all fields of a whole row
-- answer: unproven whole row
SELECT (c).* FROM public.customers c;

-- case: a function in the notation of a column
-- answer: unproven whole row
SELECT c.row_to_json FROM public.customers c;

-- case: the table's name as a whole row
-- answer: unproven whole row
SELECT customers FROM public.customers;

-- case: a star in ROW
-- answer: unproven c.*
SELECT ROW(c.*) FROM public.customers c;

-- case: a whole row in a predicate
-- answer: unproven whole row
SELECT id FROM public.customers c WHERE c IS NOT NULL;

-- case: a subquery among the outputs
-- answer: unproven ssn
SELECT (SELECT ssn FROM public.customers LIMIT 1);

-- case: a subquery in FROM
-- answer: unproven ssn
SELECT s.ssn FROM (SELECT ssn FROM public.customers) s;

-- case: a star in a subquery
-- answer: unproven customers.*
SELECT s.id FROM (SELECT * FROM public.customers) s;

-- case: a WITH query
-- answer: unproven ssn
WITH s AS (SELECT ssn FROM public.customers) SELECT count(*) FROM s;

-- case: a correlated subquery
-- answer: unproven c.ssn
SELECT id FROM public.customers c WHERE EXISTS (SELECT 1 FROM public.orders o WHERE o.note = c.ssn);

-- case: a subquery that is not LATERAL sees the outer table by the same alias
-- answer: unproven x.ssn
SELECT (SELECT s.v FROM public.orders x, (SELECT x.ssn AS v) s LIMIT 1) FROM public.customers x;

-- case: LATERAL
-- answer: unproven c.ssn
SELECT l.v FROM public.customers c, LATERAL (SELECT c.ssn AS v) l;

-- case: a function in FROM
-- answer: unproven c.ssn
SELECT f.x FROM public.customers c, unnest(ARRAY[c.ssn]) AS f(x);

-- case: UNION
-- answer: unproven ssn
SELECT ssn FROM public.customers UNION ALL SELECT note FROM public.orders;

-- case: INSERT SELECT
-- answer: unproven ssn
INSERT INTO public.archive SELECT id, ssn FROM public.customers;

-- case: CREATE TABLE AS
-- answer: unproven ssn
CREATE TABLE sales.fresh AS SELECT ssn FROM public.customers;

-- case: SELECT INTO
-- answer: unproven customers.*
SELECT * INTO sales.fresh FROM public.customers;

-- case: CREATE TABLE AS EXECUTE
-- answer: unproven prepared statement
CREATE TABLE sales.fresh AS EXECUTE known_statement;

-- case: CREATE VIEW
-- answer: unproven ssn
CREATE VIEW sales.fresh AS SELECT ssn FROM public.customers;

-- case: SET of another column
-- answer: unproven ssn
UPDATE public.customers SET name = ssn WHERE id = 1;

-- case: SET of another table's column
-- answer: unproven c.ssn
UPDATE public.orders SET note = c.ssn FROM public.customers c WHERE c.id = orders.id;

-- case: ON CONFLICT DO UPDATE from the row that is there
-- answer: unproven customers.ssn
INSERT INTO public.customers VALUES (1) ON CONFLICT (id) DO UPDATE SET name = customers.ssn;

-- case: ON CONFLICT DO UPDATE from the row that was to be
-- answer: unproven excluded.ssn
INSERT INTO public.customers VALUES (1) ON CONFLICT (id) DO UPDATE SET name = excluded.ssn;

-- case: RETURNING an expression
-- answer: unproven ssn
UPDATE public.customers SET name = 'x' WHERE id = 1 RETURNING upper(ssn);

-- case: RETURNING the old row
-- answer: unproven old.ssn
UPDATE public.customers SET ssn = 'x' WHERE id = 1 RETURNING old.ssn;

-- case: RETURNING the old row under another name
-- answer: unproven before.ssn
UPDATE public.customers SET ssn = 'x' WHERE id = 1 RETURNING WITH (OLD AS before) before.ssn;

-- case: RETURNING in a WITH query
-- answer: unproven ssn
WITH gone AS (DELETE FROM public.customers WHERE id = 1 RETURNING ssn) SELECT count(*) FROM gone;

-- case: MERGE
-- answer: unproven c.ssn
MERGE INTO public.archive a USING public.customers c ON a.id = c.id WHEN MATCHED THEN UPDATE SET note = c.ssn;

-- case: COPY of the table
-- answer: unproven COPY
COPY public.customers TO STDOUT;

-- case: COPY of the column
-- answer: unproven COPY
COPY public.customers (id, ssn) TO STDOUT;

-- case: COPY of a query
-- answer: unproven ssn
COPY (SELECT ssn FROM public.customers) TO STDOUT;

-- case: EXPLAIN
-- answer: unproven estimates
EXPLAIN SELECT ssn FROM public.customers;

-- case: a view
-- answer: unproven view
SELECT id FROM public.directory;

-- case: a materialised view
-- answer: unproven view
SELECT total FROM public.totals;

-- case: statistics
-- answer: unproven pg_stats
SELECT histogram_bounds FROM pg_stats;

-- case: texts of other sessions
-- answer: unproven pg_stat_activity
SELECT query FROM pg_stat_activity;

-- case: a toast table
-- answer: unproven pg_toast
SELECT chunk_data FROM pg_toast.pg_toast_16401;

-- case: a relation that is not known
-- answer: unproven nothing_here
SELECT id FROM nothing_here;

-- case: a function that users made
-- answer: unproven total_of
SELECT total_of(1);

-- case: a text run as SQL
-- answer: unproven query_to_xml
SELECT query_to_xml('SELECT ssn FROM customers', true, true, '');

-- case: the size of a table
-- answer: unproven pg_relation_size
SELECT pg_relation_size('public.customers');

-- case: CALL
-- answer: unproven tidy_up
CALL tidy_up(1);

-- case: an operator that users made
-- answer: unproven close_to
SELECT 1 =~= 2;

-- case: DO
-- answer: unproven masked
DO 'BEGIN NULL; END';

-- case: a text that does not parse
-- answer: unproven parsed
SELEKT;

-- case: a generated column would copy
-- answer: unproven changing
ALTER TABLE public.customers ADD COLUMN copy text GENERATED ALWAYS AS (ssn) STORED;

-- case: an index tells what is equal
-- answer: unproven changing
CREATE UNIQUE INDEX ON public.customers (email);

-- case: a foreign key tells what is there
-- answer: unproven changing
CREATE TABLE sales.fresh (ssn text REFERENCES public.customers (ssn));

-- case: a table that was another one when the text was read
-- answer: unproven earlier statement
CREATE TABLE sales.fresh (id int); SELECT * FROM public.orders;

-- case: a qualifier that is not there, beside masked columns
-- answer: unproven resolved
SELECT ssn FROM public.customers WHERE nobody.x = 1;

-- case: ON CONFLICT by a masked column tells whether it is there
-- answer: unproven ssn
INSERT INTO public.customers (id, ssn) VALUES (9, '1') ON CONFLICT (ssn) DO NOTHING;

-- case: ON CONFLICT by a constraint whose columns are not known
-- answer: unproven constraint
INSERT INTO public.customers (id, ssn) VALUES (9, '1') ON CONFLICT ON CONSTRAINT customers_ssn_key DO NOTHING;

-- case: ON CONFLICT by a column that is not masked
-- answer: by-origin
INSERT INTO public.customers (id, email) VALUES (9, '1') ON CONFLICT (id) DO NOTHING;

-- case: CLUSTER orders the rows
-- answer: unproven CLUSTER
CLUSTER public.customers USING customers_ssn_key;

-- case: a view is dropped
-- answer: clear
DROP VIEW public.directory;

-- case: a view is granted
-- answer: clear
GRANT SELECT ON public.directory TO PUBLIC;

-- case: a view is changed
-- answer: unproven view
ALTER VIEW public.directory ALTER COLUMN id SET DEFAULT 1;
