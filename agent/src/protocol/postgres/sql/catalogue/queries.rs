//! What is asked of a server for a snapshot.

/// The queries whose answers, in this order, make a [`Catalogue`](super::Catalogue).
///
/// For PostgreSQL 12 to 18. Every relation, function, type and operator in them is qualified, so that they mean the
/// same under any `search_path`, and they read nothing but catalogues that every role may read. They are to be run in
/// one read-only, repeatable-read transaction, so that their answers fit together. All columns are text in the answers.
pub const QUERIES: &[&str] =
    &[SCHEMAS, RELATIONS, COLUMNS, INHERITANCE, FUNCTIONS, OPERATORS, CASTS, TYPES, TIES, GENERATED];

/// `nspname`
const SCHEMAS: &str = "SELECT n.nspname FROM pg_catalog.pg_namespace n";

/// `oid, nspname, relname, relkind, relpersistence`
const RELATIONS: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE n.nspname OPERATOR(pg_catalog.<>) 'pg_toast'::pg_catalog.name
AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S,i,I}'::pg_catalog.\"char\"[])";

/// `attrelid, attnum, attname`
const COLUMNS: &str = "\
SELECT a.attrelid, a.attnum, a.attname
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
WHERE a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2 AND NOT a.attisdropped
AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog.\"char\"[])";

/// `inhrelid, inhparent`: tables that inherit, and partitions.
const INHERITANCE: &str = "SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i";

/// `nspname, proname, volatile, oids`: names of functions; those that overload one another are one row.
const FUNCTIONS: &str = "\
SELECT n.nspname, p.proname,
pg_catalog.bool_or(p.provolatile OPERATOR(pg_catalog.=) 'v'::pg_catalog.\"char\"),
pg_catalog.array_to_string(pg_catalog.array_agg(p.oid ORDER BY p.oid), ' ')
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
GROUP BY n.nspname, p.proname";

/// `oprname, nspname, proname`: operators outside `pg_catalog`, and the functions that they call.
///
/// Those of extensions are left out: whoever installed the extension vouches for them, and an extension such as
/// `citext` redefines `=`, which would make every comparison a call.
const OPERATORS: &str = "\
SELECT DISTINCT o.oprname, fn.nspname, p.proname
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) o.oprnamespace
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) o.oprcode::pg_catalog.oid
JOIN pg_catalog.pg_namespace fn ON fn.oid OPERATOR(pg_catalog.=) p.pronamespace
WHERE n.nspname OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.name
AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::pg_catalog.regclass::pg_catalog.oid
AND d.objid OPERATOR(pg_catalog.=) o.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\")";

/// `typname, nspname, proname`: types that a cast calls a function outside `pg_catalog` for, except those of
/// extensions.
const CASTS: &str = "\
SELECT DISTINCT t.typname, fn.nspname, p.proname
FROM pg_catalog.pg_cast k
JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) k.casttarget
JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) k.castfunc
JOIN pg_catalog.pg_namespace fn ON fn.oid OPERATOR(pg_catalog.=) p.pronamespace
WHERE fn.nspname OPERATOR(pg_catalog.<>) 'pg_catalog'::pg_catalog.name
AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_cast'::pg_catalog.regclass::pg_catalog.oid
AND d.objid OPERATOR(pg_catalog.=) k.oid AND d.deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog.\"char\")";

/// `typname`: names of types, since `type(x)` is a cast where no function has that name. Arrays have no such notation.
const TYPES: &str = "\
SELECT DISTINCT t.typname FROM pg_catalog.pg_type t
WHERE t.typcategory OPERATOR(pg_catalog.<>) 'A'::pg_catalog.\"char\"";

/// Table, kind, attribute numbers, and another table (or 0) with its: `u` for unique indexes and exclusion constraints, `c`
/// for checks, `f` for foreign keys.
///
/// Columns in expressions and predicates of an index are known by what it depends on.
const TIES: &str = "\
SELECT i.indrelid, 'u'::pg_catalog.text, pg_catalog.array_to_string(ARRAY(
SELECT i.indkey[n] FROM pg_catalog.generate_series(0, i.indnkeyatts::pg_catalog.int4 OPERATOR(pg_catalog.-) 1) n
WHERE i.indkey[n] OPERATOR(pg_catalog.>) 0::pg_catalog.int2
UNION SELECT d.refobjsubid::pg_catalog.int2 FROM pg_catalog.pg_depend d
WHERE (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
AND d.objid OPERATOR(pg_catalog.=) i.indexrelid
AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
AND d.refobjid OPERATOR(pg_catalog.=) i.indrelid
AND d.refobjsubid OPERATOR(pg_catalog.>) 0 ORDER BY 1), ' '), 0::pg_catalog.oid, ''::pg_catalog.text
FROM pg_catalog.pg_index i WHERE i.indisunique OR i.indisexclusion
UNION ALL
SELECT k.conrelid, k.contype::pg_catalog.text, pg_catalog.array_to_string(k.conkey, ' '), k.confrelid,
COALESCE(pg_catalog.array_to_string(k.confkey, ' '), '')
FROM pg_catalog.pg_constraint k
WHERE k.contype OPERATOR(pg_catalog.=) ANY ('{c,f}'::pg_catalog.\"char\"[]) AND k.conkey IS NOT NULL";

/// `attrelid, attnum, refobjsubid`: generated columns, and the columns of the same table that each is made of.
///
/// Up to version 14 the column itself depends on them, since then its expression does.
const GENERATED: &str = "\
SELECT DISTINCT a.attrelid, a.attnum, d.refobjsubid
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_attrdef f ON f.adrelid OPERATOR(pg_catalog.=) a.attrelid AND f.adnum OPERATOR(pg_catalog.=) a.attnum
JOIN pg_catalog.pg_depend d ON d.refobjid OPERATOR(pg_catalog.=) a.attrelid
WHERE a.attgenerated OPERATOR(pg_catalog.<>) ''::pg_catalog.\"char\"
AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
AND d.refobjsubid OPERATOR(pg_catalog.>) 0 AND d.refobjsubid OPERATOR(pg_catalog.<>) a.attnum::pg_catalog.int4
AND ((d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid
AND d.objid OPERATOR(pg_catalog.=) f.oid)
OR (d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
AND d.objid OPERATOR(pg_catalog.=) a.attrelid AND d.objsubid OPERATOR(pg_catalog.=) a.attnum::pg_catalog.int4))";
