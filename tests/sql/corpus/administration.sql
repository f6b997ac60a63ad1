-- Rights, maintenance, replication, and what cannot be judged by its text.

-- case: GRANT on a table
-- needs: grant public.orders
-- ungrantable: it takes the grant option
GRANT SELECT ON public.orders TO PUBLIC;

-- case: GRANT on all tables of a schema
-- needs: grant public.*
-- ungrantable: it takes the grant option
GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC;

-- case: REVOKE on a function
-- needs: grant public.add_up()
-- ungrantable: it takes the owner
REVOKE EXECUTE ON FUNCTION public.add_up(int, int) FROM PUBLIC;

-- case: GRANT on the database
-- needs: grant
-- ungrantable: it takes the owner
GRANT ALL ON DATABASE postgres TO PUBLIC;

-- case: GRANT of a role
-- needs: grant
-- ungrantable: it takes the admin option
GRANT pg_monitor TO postgres;

-- case: CREATE ROLE
-- needs: grant
-- ungrantable: it takes CREATEROLE
CREATE ROLE fresh PASSWORD 'secret';

-- case: ALTER ROLE SET
-- needs: grant
-- ungrantable: it takes CREATEROLE
ALTER ROLE postgres SET standard_conforming_strings = off;

-- case: ALTER DEFAULT PRIVILEGES
-- needs: grant
-- ungrantable: everyone may, for what they make
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;

-- case: OWNER TO
-- needs: alter public.orders, grant
-- ungrantable: it takes the owner
ALTER TABLE public.orders OWNER TO postgres;

-- case: OWNER TO of a function
-- needs: grant public.add_up()
-- ungrantable: it takes the owner
ALTER FUNCTION public.add_up(int, int) OWNER TO postgres;

-- case: REASSIGN OWNED
-- needs: grant
-- ungrantable: it takes membership of both
REASSIGN OWNED BY postgres TO postgres;

-- case: SECURITY LABEL
-- needs: grant public.orders
-- ungrantable: it takes a label provider
SECURITY LABEL ON TABLE public.orders IS 'x';

-- case: VACUUM of a table
-- needs: maintenance public.archive
-- ungrantable: it takes the owner
VACUUM public.archive;

-- case: ANALYZE of everything
-- needs: maintenance
-- ungrantable: it takes the owner
ANALYZE;

-- case: REINDEX of a schema
-- needs: maintenance sales.*
-- ungrantable: it takes the owner
REINDEX SCHEMA sales;

-- case: REINDEX of an index
-- needs: maintenance public.orders_pkey
-- ungrantable: it takes the owner
REINDEX INDEX public.orders_pkey;

-- case: CLUSTER
-- needs: maintenance public.orders
-- ungrantable: it takes the owner
CLUSTER public.orders USING orders_pkey;

-- case: REFRESH MATERIALIZED VIEW
-- needs: maintenance public.totals
-- ungrantable: it takes the owner
REFRESH MATERIALIZED VIEW public.totals;

-- case: CHECKPOINT
-- needs: maintenance
-- ungrantable: it takes membership of a predefined role
CHECKPOINT;

-- case: CREATE PUBLICATION
-- needs: replication
-- ungrantable: it takes the owner
CREATE PUBLICATION fresh FOR TABLE public.orders;

-- case: CREATE SUBSCRIPTION
-- needs: replication
-- ungrantable: it takes a superuser
CREATE SUBSCRIPTION fresh CONNECTION 'password=x' PUBLICATION a;

-- case: DROP PUBLICATION
-- needs: replication
-- ungrantable: it takes the owner
DROP PUBLICATION fresh;

-- case: a text that does not parse
-- needs: opaque
-- facts: unbounded
-- ungrantable: the server does not parse it either
SELEKT 1;

-- case: a text that parses only in part
-- needs: opaque
-- facts: unbounded
-- ungrantable: the server does not parse it either
SELECT 1; SELECT FROM WHERE;

-- case: expressions nested beyond the parser's bound
-- needs: opaque
-- facts: unbounded
-- ungrantable: the server can do it, at a depth that is not judged here
SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT
(SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT (SELECT
(SELECT (SELECT (SELECT (SELECT 1)))))))))))))))))))))))))))))))))));

-- case: DO
-- needs: opaque
-- facts: unbounded
-- ungrantable: its body is not judged
DO 'BEGIN NULL; END';

-- case: CREATE FUNCTION
-- needs: opaque
-- facts: unbounded
-- ungrantable: its body is not judged
CREATE FUNCTION sales.fresh() RETURNS int LANGUAGE sql AS 'SELECT 1';

-- case: ALTER FUNCTION
-- needs: opaque
-- facts: unbounded
-- ungrantable: it may change whose rights it has
ALTER FUNCTION public.add_up(int, int) SECURITY DEFINER;

-- case: CREATE RULE
-- needs: opaque
-- facts: unbounded
-- ungrantable: it changes what other statements mean
CREATE RULE fresh AS ON INSERT TO public.archive DO INSTEAD DELETE FROM public.orders;

-- case: CREATE EVENT TRIGGER
-- needs: opaque
-- facts: unbounded
-- ungrantable: it takes a superuser
CREATE EVENT TRIGGER fresh ON ddl_command_start EXECUTE FUNCTION on_change();

-- case: CREATE EXTENSION
-- needs: opaque
-- facts: unbounded
-- ungrantable: it runs a script
CREATE EXTENSION hstore;

-- case: CREATE OPERATOR
-- needs: opaque
-- facts: unbounded
-- ungrantable: it changes what other statements mean
CREATE OPERATOR sales.= (LEFTARG = int, RIGHTARG = int, FUNCTION = public.close_to);

-- case: CREATE CAST
-- needs: opaque
-- facts: unbounded
-- ungrantable: it changes what other statements mean
CREATE CAST (text AS public.pair) WITH INOUT AS IMPLICIT;

-- case: CREATE SERVER
-- needs: opaque
-- facts: unbounded
-- ungrantable: it reaches another server
CREATE SERVER fresh FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'elsewhere');

-- case: CREATE USER MAPPING
-- needs: opaque
-- facts: unbounded
-- ungrantable: it reaches another server
CREATE USER MAPPING FOR CURRENT_USER SERVER fresh OPTIONS (password 'secret');

-- case: CREATE DATABASE
-- needs: opaque
-- facts: unbounded
-- ungrantable: it takes CREATEDB
CREATE DATABASE fresh;

-- case: ALTER DATABASE SET
-- needs: opaque
-- facts: unbounded
-- ungrantable: it takes the owner
ALTER DATABASE postgres SET search_path = sales;

-- case: DROP DATABASE
-- needs: opaque
-- facts: unbounded
-- ungrantable: it takes the owner
DROP DATABASE postgres;

-- case: ALTER SYSTEM
-- needs: opaque
-- facts: unbounded
-- ungrantable: it takes a superuser
ALTER SYSTEM SET archive_command = 'false';

-- case: LOAD
-- needs: opaque
-- facts: unbounded
-- ungrantable: it runs code
LOAD 'auto_explain';

-- case: CREATE TABLESPACE
-- needs: opaque
-- facts: unbounded
-- ungrantable: it takes a superuser
CREATE TABLESPACE fresh LOCATION '/tmp/fresh';

-- case: DROP OWNED
-- needs: opaque
-- facts: unbounded
-- ungrantable: it drops what is not named
DROP OWNED BY postgres;

-- case: COPY TO PROGRAM
-- needs: opaque, copy_out public.archive, select public.archive
-- facts: unbounded
-- ungrantable: it runs a program
COPY public.archive TO PROGRAM 'cat';

-- case: COPY FROM a file of the server
-- needs: opaque, copy_in public.archive, insert public.archive
-- facts: unbounded
-- ungrantable: it reads a file of the server
COPY public.archive FROM '/etc/passwd';
