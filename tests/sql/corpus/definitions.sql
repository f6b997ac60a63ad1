-- Definitions, and everything that a definition reads or calls.

-- case: CREATE TABLE
-- needs: create sales.*
CREATE TABLE sales.fresh (id int PRIMARY KEY, at timestamptz DEFAULT now());

-- case: CREATE TABLE without a schema
-- path: public
-- needs: create public.*
CREATE TABLE fresh (id int);

-- case: CREATE TABLE in a schema that is not known
-- needs: create public.*, create sales.*, create audit.*
-- ungrantable: the server takes the first on its search path, which is not known here
CREATE TABLE fresh (id text);

-- case: CREATE TEMPORARY TABLE
-- needs: create pg_temp.*
CREATE TEMPORARY TABLE scratch (id int);

-- case: CREATE TABLE with a function in a default
-- needs: create sales.*, call public.add_up()
-- ungrantable: the server asks for EXECUTE only when a row is inserted
CREATE TABLE sales.fresh (id int DEFAULT add_up(1, 2));

-- case: CREATE TABLE with a function in a CHECK
-- needs: create sales.*, call public.add_up()
-- ungrantable: the server asks for EXECUTE only when a row is inserted
CREATE TABLE sales.fresh (id int, CHECK (id > add_up(1, 2)));

-- case: CREATE TABLE LIKE
-- needs: create sales.*, select public.orders
CREATE TABLE sales.fresh (LIKE public.orders);

-- case: CREATE TABLE that inherits
-- needs: create sales.*, alter public.people
-- ungrantable: it takes the parent's owner
CREATE TABLE sales.fresh () INHERITS (public.people);

-- case: CREATE TABLE of a partition
-- needs: create sales.*, alter public.events
-- ungrantable: it takes the parent's owner
CREATE TABLE sales.events_2025 PARTITION OF public.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');

-- case: a foreign key tells what the other table has
-- needs: create sales.*, alter public.orders
-- ungrantable: the server asks for REFERENCES, which no action here stands for
CREATE TABLE sales.fresh (id int REFERENCES public.orders (id));

-- case: CREATE TABLE AS
-- needs: create sales.*, select public.orders
CREATE TABLE sales.fresh AS SELECT id FROM public.orders;

-- case: CREATE TABLE AS EXECUTE
-- needs: create sales.*, select public.orders
-- ungrantable: the session of the oracle has not prepared it
CREATE TABLE sales.fresh AS EXECUTE known_statement;

-- case: CREATE MATERIALIZED VIEW
-- needs: create sales.*, select public.orders
CREATE MATERIALIZED VIEW sales.fresh AS SELECT id FROM public.orders;

-- case: CREATE VIEW reads what it shows
-- needs: create sales.*, select public.orders
-- ungrantable: the server asks for SELECT only when the view is read, but here one login serves many
CREATE VIEW sales.fresh AS SELECT id FROM public.orders;

-- case: CREATE OR REPLACE VIEW changes the one that is there
-- needs: create public.*, alter public.open_orders, select public.archive
-- ungrantable: it takes the view's owner
CREATE OR REPLACE VIEW public.open_orders AS SELECT id, 1::numeric AS total FROM public.archive;

-- case: CREATE SEQUENCE
-- needs: create sales.*
CREATE SEQUENCE sales.fresh;

-- case: CREATE TYPE of a row
-- needs: create sales.*
CREATE TYPE sales.fresh AS (a int, b text);

-- case: CREATE TYPE of an enumeration
-- needs: create sales.*
CREATE TYPE sales.fresh AS ENUM ('a', 'b');

-- case: CREATE DOMAIN with a function in its CHECK
-- needs: create sales.*, call public.add_up()
-- ungrantable: the server asks for EXECUTE only when a value is checked
CREATE DOMAIN sales.fresh AS int CHECK (VALUE > add_up(1, 2));

-- case: CREATE COLLATION
-- needs: create sales.*
CREATE COLLATION sales.fresh (locale = 'C');

-- case: CREATE SCHEMA
-- needs: create
CREATE SCHEMA fresh;

-- case: CREATE SCHEMA with a table in it
-- needs: create, create fresh.*
-- ungrantable: whoever makes the schema owns it
CREATE SCHEMA fresh CREATE TABLE fresh.a (id int);

-- case: CREATE INDEX
-- needs: alter public.orders, call public.add_up()
-- ungrantable: it takes the table's owner
CREATE INDEX ON public.orders (add_up(id, 1)) WHERE total > 0;

-- case: CREATE STATISTICS
-- needs: alter public.orders
-- ungrantable: it takes the table's owner
CREATE STATISTICS sales.fresh ON id, total FROM public.orders;

-- case: CREATE TRIGGER
-- needs: alter public.orders, call public.on_change()
-- ungrantable: the server asks for TRIGGER, which no action here stands for
CREATE TRIGGER fresh BEFORE UPDATE ON public.orders FOR EACH ROW EXECUTE FUNCTION on_change();

-- case: CREATE POLICY with a subquery
-- needs: alter public.orders, select public.archive
-- ungrantable: it takes the table's owner
CREATE POLICY fresh ON public.orders USING (id IN (SELECT id FROM public.archive));

-- case: ALTER TABLE
-- needs: alter public.orders
-- ungrantable: it takes the table's owner
ALTER TABLE public.orders ADD COLUMN extra int;

-- case: ALTER TABLE with a function
-- needs: alter public.orders, call public.add_up()
-- ungrantable: it takes the table's owner
ALTER TABLE public.orders ALTER COLUMN id TYPE int USING add_up(id, 1);

-- case: ALTER TABLE DROP COLUMN CASCADE
-- needs: alter public.orders, drop
-- ungrantable: it takes the table's owner
ALTER TABLE public.orders DROP COLUMN note CASCADE;

-- case: ATTACH PARTITION
-- needs: alter public.events, alter public.archive
-- ungrantable: it takes the owner of both
ALTER TABLE public.events ATTACH PARTITION public.archive FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');

-- case: ALTER TABLE INHERIT
-- needs: alter public.archive, alter public.people
-- ungrantable: it takes the owner of both
ALTER TABLE public.archive INHERIT public.people;

-- case: ALTER TABLE SET SCHEMA
-- needs: alter public.orders, create sales.*
-- ungrantable: it takes the table's owner
ALTER TABLE public.orders SET SCHEMA sales;

-- case: RENAME of a column
-- needs: alter public.orders
-- ungrantable: it takes the table's owner
ALTER TABLE public.orders RENAME COLUMN note TO remark;

-- case: ALTER VIEW
-- needs: alter public.open_orders
-- ungrantable: it takes the view's owner
ALTER VIEW public.open_orders ALTER COLUMN id SET DEFAULT 1;

-- case: ALTER SEQUENCE
-- needs: alter public.numbers
-- ungrantable: it takes the sequence's owner
ALTER SEQUENCE public.numbers RESTART;

-- case: ALTER INDEX
-- needs: alter public.orders_pkey
-- ungrantable: it takes the index's owner
ALTER INDEX public.orders_pkey SET (fillfactor = 50);

-- case: ALTER TYPE
-- needs: alter public.*
-- ungrantable: it takes the type's owner
ALTER TYPE public.mood ADD VALUE 'ugly';

-- case: ALTER DOMAIN
-- needs: alter public.*, call public.add_up()
-- ungrantable: it takes the domain's owner
ALTER DOMAIN public.positive ADD CHECK (VALUE < add_up(1, 2));

-- case: ALTER SCHEMA
-- needs: alter sales.*
-- ungrantable: it takes the schema's owner
ALTER SCHEMA sales RENAME TO selling;

-- case: COMMENT
-- needs: alter public.orders
-- ungrantable: it takes the table's owner
COMMENT ON COLUMN public.orders.note IS 'x';

-- case: DROP TABLE of every table of that name
-- needs: drop public.twins, drop sales.twins
-- ungrantable: it takes the owner
DROP TABLE twins;

-- case: DROP CASCADE
-- needs: drop public.orders, drop
-- ungrantable: it takes the owner
DROP TABLE IF EXISTS public.orders CASCADE;

-- case: DROP VIEW
-- needs: drop public.open_orders
-- ungrantable: it takes the owner
DROP VIEW public.open_orders;

-- case: DROP INDEX
-- needs: drop public.orders_pkey
-- ungrantable: it takes the owner
DROP INDEX public.orders_pkey;

-- case: DROP FUNCTION
-- needs: drop public.add_up()
-- ungrantable: it takes the owner
DROP FUNCTION public.add_up(int, int);

-- case: DROP SCHEMA
-- needs: drop sales.*
-- ungrantable: it takes the owner
DROP SCHEMA sales;

-- case: DROP TRIGGER
-- needs: drop public.orders
-- ungrantable: it takes the table's owner
DROP TRIGGER fresh ON public.orders;

-- case: DROP TYPE
-- needs: drop public.*
-- ungrantable: it takes the owner
DROP TYPE public.mood;

-- case: TRUNCATE CASCADE goes on
-- needs: truncate public.archive, truncate
-- ungrantable: what it goes on to is not known from the text
TRUNCATE public.archive CASCADE;
