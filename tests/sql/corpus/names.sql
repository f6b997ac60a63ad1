-- Names: what each may mean, in snapshots and scopes.

-- case: an unqualified name that is unique
-- needs: select public.orders
SELECT total FROM orders;

-- case: an unqualified name means every relation of that name
-- needs: select public.twins, select sales.twins
-- ungrantable: the server takes the first on its search path, which is not known here
SELECT x FROM twins;

-- case: a search path that is proven narrows it
-- path: public
-- needs: select public.twins
SELECT id FROM twins WHERE x = 1;

-- case: a name of pg_catalog that another schema has too
-- needs: basics, select audit.pg_class
-- ungrantable: the server takes the one in pg_catalog, unless the search path names it later
SELECT oid FROM pg_class;

-- case: a quoted name keeps its case
-- needs: select public."Mixed Case"
SELECT "Id" FROM public."Mixed Case";

-- case: an unquoted name is folded
-- needs: select public.orders
SELECT ID FROM PUBLIC.Orders;

-- case: a name with Unicode escapes
-- needs: select public.archive
SELECT id FROM public.U&"\0061rchive";

-- case: a name with the database before it
-- needs: select public.archive
SELECT note FROM postgres.public.archive;

-- case: a name of another database
-- needs: opaque, select public.archive
-- facts: unbounded
-- ungrantable: the server has no references across databases
SELECT note FROM elsewhere.public.archive;

-- case: a name that is nowhere
-- needs: select ?.nothing_here
-- ungrantable: it does not exist
SELECT 1 FROM nothing_here;

-- case: a name that is not in its schema
-- needs: select sales.archive
-- ungrantable: it does not exist
SELECT 1 FROM sales.archive;

-- case: a WITH query hides a table of its name
-- needs: select public.archive
WITH orders AS (SELECT id FROM public.archive) SELECT id FROM orders;

-- case: a WITH query that is not recursive does not see itself
-- needs: select public.orders
WITH orders AS (SELECT id, note FROM orders) SELECT note FROM orders;

-- case: a WITH query sees the one before it, not the one after
-- needs: select public.archive, select public.items
WITH first AS (SELECT id FROM archive), second AS (SELECT id FROM first), archive AS (SELECT 1 AS id)
SELECT second.id FROM second, archive, public.items;

-- case: with RECURSIVE all of them see each other
-- needs: select public.items
WITH RECURSIVE first AS (SELECT id FROM archive), archive AS (SELECT order_id AS id FROM public.items) SELECT id FROM first;

-- case: a WITH query ends with its subquery
-- needs: select public.archive, select public.items
SELECT (WITH archive AS (SELECT 1 AS id) SELECT id FROM archive), a.id FROM archive a, items;

-- case: a qualified name is never a WITH query
-- needs: select public.orders, select public.archive
WITH orders AS (SELECT id FROM public.archive) SELECT p.total FROM public.orders p, orders;

-- case: the table that is written is never a WITH query
-- needs: insert public.archive, select public.orders
WITH archive AS (SELECT id FROM public.orders) INSERT INTO archive SELECT id FROM archive;

-- case: an alias is not a table
-- needs: select public.archive
SELECT orders.id FROM public.archive AS orders;

-- case: a table of a temporary schema
-- needs: select pg_temp.scratch
-- ungrantable: it does not exist
SELECT 1 FROM pg_temp.scratch;

-- case: a temporary schema by its number
-- needs: select pg_temp.scratch
-- ungrantable: it does not exist
SELECT 2 FROM pg_temp_3.scratch;

-- case: a toast table holds values of its table
-- needs: select pg_toast.pg_toast_1262
-- ungrantable: the server keeps everyone out of that schema
SELECT chunk_id FROM pg_toast.pg_toast_1262;
