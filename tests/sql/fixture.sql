-- What the corpus runs against. Nothing is granted to PUBLIC but USAGE of the schemas.

CREATE SCHEMA sales;
CREATE SCHEMA audit;

CREATE TABLE public.customers (
    id     int PRIMARY KEY,
    name   text,
    region text,
    ssn    text UNIQUE,
    email  text
);
CREATE TABLE public.orders (
    id          int PRIMARY KEY,
    customer_id int,
    total       numeric,
    note        text,
    tags        text[]
);
CREATE TABLE public.items (order_id int, product text, quantity int);
CREATE TABLE public.archive (id int, note text);
CREATE TABLE public."Mixed Case" ("Id" int, "select" text);

-- The same name in two schemas.
CREATE TABLE public.twins (id int, x int);
CREATE TABLE sales.twins (id int, x int);
CREATE TABLE sales.targets (id int PRIMARY KEY, amount int);
CREATE TABLE audit.log (at timestamptz, line text);

-- A table by the name of a relation of pg_catalog.
CREATE TABLE audit.pg_class (oid int, secret text);

-- Inheritance and partitions.
CREATE TABLE public.people (id int, passport text);
CREATE TABLE public.staff (desk text) INHERITS (public.people);
CREATE TABLE public.events (at date, card text) PARTITION BY RANGE (at);
CREATE TABLE public.events_2024 PARTITION OF public.events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');

-- Constraints that look at masked columns (pin, high, and card of charges), and columns that are made of one.
CREATE TABLE public.cards (
    id     int PRIMARY KEY,
    holder text,
    low    int,
    high   int,
    pin    text UNIQUE,
    first  text GENERATED ALWAYS AS (left(pin, 1)) STORED,
    twice  int GENERATED ALWAYS AS (low * 2) STORED,
    mark   int,
    UNIQUE (mark, high),
    CHECK (low < high)
);
CREATE TABLE public.charges (id int, pin text REFERENCES public.cards (pin), card int REFERENCES public.cards (id));
CREATE UNIQUE INDEX ON public.staff (passport);
CREATE UNIQUE INDEX ON public.events_2024 (lower(card));

CREATE VIEW public.open_orders AS SELECT id, total FROM public.orders;
CREATE VIEW public.directory AS SELECT id, name, ssn FROM public.customers;
CREATE MATERIALIZED VIEW public.totals AS SELECT customer_id, sum(total) AS total FROM public.orders GROUP BY customer_id;

CREATE SEQUENCE public.numbers;
CREATE SEQUENCE sales."Tickets";

CREATE TYPE public.mood AS ENUM ('good', 'bad');
CREATE TYPE public.pair AS (a int, b int);
CREATE DOMAIN public.positive AS int CHECK (VALUE > 0);

CREATE FUNCTION public.total_of(int) RETURNS numeric LANGUAGE sql STABLE AS 'SELECT 1::numeric';
CREATE FUNCTION public.add_up(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
CREATE FUNCTION public.order_label(public.orders) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1.note';
CREATE FUNCTION public.series() RETURNS SETOF int LANGUAGE sql STABLE AS 'SELECT 1';
CREATE FUNCTION sales.rate() RETURNS int LANGUAGE sql STABLE AS 'SELECT 7';
CREATE FUNCTION audit.rate() RETURNS int LANGUAGE sql STABLE AS 'SELECT 8';
CREATE FUNCTION sales.lower(sales.twins) RETURNS text LANGUAGE sql STABLE AS 'SELECT ''x''';
CREATE FUNCTION public.concat_state(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT coalesce($1, '''') || $2';
CREATE AGGREGATE public.glue(text) (SFUNC = public.concat_state, STYPE = text);
CREATE FUNCTION public.pair_of(int) RETURNS public.pair LANGUAGE sql IMMUTABLE AS 'SELECT ROW($1, $1)::public.pair';
CREATE CAST (int AS public.pair) WITH FUNCTION public.pair_of(int);
CREATE FUNCTION public.close_to(int, int) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT abs($1 - $2) < 2';
CREATE OPERATOR public.=~= (LEFTARG = int, RIGHTARG = int, FUNCTION = public.close_to);
CREATE FUNCTION public.on_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE PROCEDURE public.tidy_up(int) LANGUAGE sql AS 'SELECT 1';

INSERT INTO public.customers VALUES (1, 'Ada', 'north', '111-11-1111', 'ada@example.org');
INSERT INTO public.orders VALUES (1, 1, 10, 'first', '{a,b}');
SELECT nextval('public.numbers');

REVOKE ALL ON DATABASE postgres FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA public, sales, audit FROM PUBLIC;
REVOKE ALL ON SCHEMA public, sales, audit FROM PUBLIC;
GRANT USAGE ON SCHEMA public, sales, audit TO PUBLIC;
