-- Catalogues: what drivers look at by themselves, and what they must not see.

-- case: a listed relation of pg_catalog
-- needs: basics
SELECT typname FROM pg_catalog.pg_type WHERE oid = 25;

-- case: information_schema
-- needs: basics
SELECT table_name FROM information_schema.tables;

-- case: options of user mappings may be passwords
-- needs: select information_schema.user_mapping_options
-- ungrantable: the server lets everyone read what their privileges show
SELECT option_value FROM information_schema.user_mapping_options;

-- case: statistics hold samples
-- needs: select pg_catalog.pg_statistic
SELECT starelid FROM pg_catalog.pg_statistic;

-- case: the view on statistics
-- needs: select pg_catalog.pg_stats
-- ungrantable: the server lets everyone read what their privileges show
SELECT most_common_vals FROM pg_stats;

-- case: texts of other sessions
-- needs: select pg_catalog.pg_stat_activity
-- ungrantable: the server lets everyone read it
SELECT query FROM pg_stat_activity;

-- case: password hashes
-- needs: select pg_catalog.pg_authid
SELECT rolname FROM pg_authid;

-- case: a listed relation joined with a table
-- needs: basics, select public.orders
SELECT o.id FROM public.orders o JOIN pg_catalog.pg_namespace n ON true;

-- case: a write to a catalogue
-- needs: update pg_catalog.pg_database, select pg_catalog.pg_database
-- ungrantable: the server lets superusers only
UPDATE pg_catalog.pg_database SET datallowconn = false WHERE datname = 'postgres';

-- case: asyncpg reads types
-- needs: basics
WITH RECURSIVE typeinfo_tree(oid, ns, name, elemtype, depth) AS (
    SELECT ti.oid, ti.ns, ti.name, ti.elemtype, 0 FROM (
        SELECT t.oid AS oid, ns.nspname AS ns, t.typname AS name, t.typelem AS elemtype,
            (CASE WHEN t.typtype = 'd' THEN
                (WITH RECURSIVE typebases(oid, depth) AS (
                    SELECT t2.typbasetype AS oid, 0 AS depth FROM pg_catalog.pg_type t2 WHERE t2.oid = t.oid
                    UNION ALL
                    SELECT t2.typbasetype AS oid, tb.depth + 1 AS depth FROM pg_catalog.pg_type t2, typebases tb
                    WHERE tb.oid = t2.oid AND t2.typbasetype != 0
                ) SELECT oid FROM typebases ORDER BY depth DESC LIMIT 1)
            ELSE NULL END) AS basetype
        FROM pg_catalog.pg_type AS t INNER JOIN pg_catalog.pg_namespace ns ON (ns.oid = t.typnamespace)
    ) AS ti WHERE ti.oid = any('{25,1009}'::oid[])
    UNION ALL
    SELECT ti.oid, ti.ns, ti.name, ti.elemtype, tt.depth + 1 FROM (
        SELECT t.oid AS oid, ns.nspname AS ns, t.typname AS name, t.typelem AS elemtype
        FROM pg_catalog.pg_type AS t INNER JOIN pg_catalog.pg_namespace ns ON (ns.oid = t.typnamespace)
    ) ti, typeinfo_tree tt WHERE (tt.elemtype IS NOT NULL AND ti.oid = tt.elemtype)
)
SELECT DISTINCT *, elemtype::regtype::text AS elemtype_name FROM typeinfo_tree ORDER BY depth DESC;

-- case: psycopg reads a type
-- needs: basics
SELECT typname AS name, oid, typarray AS array_oid, oid::regtype::text AS regtype, typdelim AS delimiter
FROM pg_type t WHERE t.oid = to_regtype('text') ORDER BY t.oid;

-- case: the Rust client reads a type
-- needs: basics
SELECT t.typname, t.typtype, t.typelem, r.rngsubtype, t.typbasetype, n.nspname, t.typrelid
FROM pg_catalog.pg_type t LEFT OUTER JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid
INNER JOIN pg_catalog.pg_namespace n ON t.typnamespace = n.oid WHERE t.oid = 25;
