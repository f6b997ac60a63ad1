-- Reading: every place of a query where a relation can stand.

-- case: columns of a table
-- needs: select public.orders
-- facts: tables public.orders
SELECT id, total FROM public.orders;

-- case: TABLE
-- needs: select public.orders
TABLE public.orders;

-- case: VALUES touches nothing
-- needs: basics
VALUES (1), (2);

-- case: a constant
-- needs: basics
SELECT 1 AS one;

-- case: rows counted without a column
-- needs: select public.orders
SELECT count(*) FROM public.orders;

-- case: comma join
-- needs: select public.orders, select public.items
SELECT o.id FROM public.orders o, public.items i;

-- case: inner join with ON
-- needs: select public.orders, select public.items
SELECT o.id FROM public.orders o JOIN public.items i ON i.order_id = o.id;

-- case: outer join with USING
-- needs: select public.twins, select sales.twins
SELECT id FROM public.twins LEFT JOIN sales.twins USING (id);

-- case: natural join
-- needs: select public.archive, select public.orders
SELECT 1 FROM public.archive NATURAL JOIN public.orders;

-- case: a join in parentheses with an alias
-- needs: select public.orders, select public.items
SELECT j.product FROM (public.orders JOIN public.items ON order_id = id) AS j;

-- case: subquery in FROM
-- needs: select public.orders
SELECT s.id FROM (SELECT id FROM public.orders) s;

-- case: lateral subquery
-- needs: select public.orders, select public.items
SELECT l.product FROM public.orders o, LATERAL (SELECT product FROM public.items i WHERE i.order_id = o.id) l;

-- case: scalar subquery among the outputs
-- needs: select public.archive
SELECT (SELECT max(id) FROM public.archive);

-- case: EXISTS
-- needs: select public.orders, select public.items
SELECT id FROM public.orders o WHERE EXISTS (SELECT 1 FROM public.items i WHERE i.order_id = o.id);

-- case: IN with a subquery
-- needs: select public.orders, select public.archive
SELECT id FROM public.orders WHERE id IN (SELECT id FROM public.archive);

-- case: = ANY with a subquery
-- needs: select public.orders, select public.archive
SELECT note FROM public.orders WHERE id = ANY (SELECT id FROM public.archive);

-- case: ARRAY of a subquery
-- needs: select public.items
SELECT ARRAY(SELECT product FROM public.items);

-- case: row compared with a subquery
-- needs: select public.items
SELECT (1, 'a') = (SELECT order_id, product FROM public.items LIMIT 1);

-- case: UNION
-- needs: select public.orders, select public.archive
SELECT id FROM public.orders UNION ALL SELECT id FROM public.archive;

-- case: EXCEPT within INTERSECT
-- needs: select public.orders, select public.archive, select public.items
(SELECT id FROM public.orders EXCEPT SELECT id FROM public.archive) INTERSECT SELECT order_id FROM public.items;

-- case: GROUP BY and HAVING with a subquery
-- needs: select public.items, select public.archive
SELECT product FROM public.items GROUP BY product HAVING sum(quantity) > (SELECT min(id) FROM public.archive);

-- case: GROUPING SETS
-- needs: select public.items
SELECT product, grouping(product) FROM public.items GROUP BY GROUPING SETS ((product), ());

-- case: ORDER BY a subquery
-- needs: select public.orders, select public.archive
SELECT id FROM public.orders ORDER BY (SELECT max(id) FROM public.archive);

-- case: LIMIT of a subquery
-- needs: select public.orders, select public.archive
SELECT id FROM public.orders LIMIT (SELECT count(*) FROM public.archive);

-- case: OFFSET of a subquery
-- needs: select public.orders, select public.archive
SELECT id FROM public.orders OFFSET (SELECT count(*) FROM public.archive);

-- case: DISTINCT ON an expression
-- needs: select public.orders
SELECT DISTINCT ON (customer_id) id FROM public.orders;

-- case: window over a subquery
-- needs: select public.orders, select public.archive
SELECT sum(total) OVER (PARTITION BY (SELECT max(id) FROM public.archive)) FROM public.orders;

-- case: named window
-- needs: select public.orders, select public.archive
SELECT rank() OVER w FROM public.orders WINDOW w AS (ORDER BY (SELECT 1 FROM public.archive));

-- case: FILTER of an aggregate
-- needs: select public.orders, select public.archive
SELECT count(*) FILTER (WHERE EXISTS (SELECT 1 FROM public.archive)) FROM public.orders;

-- case: CASE
-- needs: select public.archive, select public.items
SELECT CASE (SELECT max(id) FROM public.archive) WHEN 1 THEN 'a' ELSE (SELECT max(product) FROM public.items) END;

-- case: subquery in VALUES
-- needs: select public.archive
VALUES ((SELECT max(id) FROM public.archive));

-- case: subquery in an array and a row
-- needs: select public.archive, select public.items
SELECT ARRAY[(SELECT max(id) FROM public.archive)], ROW((SELECT count(*) FROM public.items));

-- case: subquery as a subscript
-- needs: select public.orders, select public.archive
SELECT tags[(SELECT max(id) FROM public.archive)] FROM public.orders;

-- case: subquery under NOT, IS NULL and COALESCE
-- needs: select public.archive, select public.items
SELECT NOT (SELECT max(id) FROM public.archive) IS NULL, coalesce((SELECT max(product) FROM public.items), '');

-- case: subquery under a cast and a collation
-- needs: select public.archive, select public.items
SELECT (SELECT max(id) FROM public.archive)::text, (SELECT max(product) FROM public.items) COLLATE "C";

-- case: TABLESAMPLE
-- needs: select public.orders
SELECT id FROM public.orders TABLESAMPLE system (50);

-- case: a view is its own table
-- needs: select public.open_orders
SELECT id FROM public.open_orders;

-- case: a materialised view
-- needs: select public.totals
SELECT total FROM public.totals;

-- case: a sequence as a table
-- needs: select public.numbers
SELECT last_value FROM public.numbers;

-- case: ONLY
-- needs: select public.people
SELECT id FROM ONLY public.people;

-- case: a parent covers its children
-- needs: select public.people
SELECT id FROM public.people;

-- case: a partition by itself
-- needs: select public.events_2024
SELECT at FROM public.events_2024;

-- case: FOR UPDATE
-- needs: select public.orders, lock public.orders
SELECT id FROM public.orders FOR UPDATE;

-- case: FOR SHARE of one of two
-- needs: select public.orders, select public.items, lock public.items
SELECT o.id FROM public.orders o, public.items i FOR SHARE OF i;

-- case: FOR UPDATE reaches into a subquery
-- needs: select public.orders, lock public.orders
SELECT s.id FROM (SELECT id FROM public.orders) s FOR NO KEY UPDATE;

-- case: SELECT INTO
-- needs: select public.orders, create sales.*
SELECT id INTO sales.copied FROM public.orders;

-- case: a WITH query
-- needs: select public.orders
WITH recent AS (SELECT id FROM public.orders) SELECT id FROM recent;

-- case: a recursive WITH query
-- needs: select public.archive
WITH RECURSIVE tree(id) AS (
    SELECT id FROM public.archive UNION ALL SELECT tree.id + 1 FROM tree WHERE tree.id < 3
) SELECT id FROM tree;

-- case: SEARCH and CYCLE
-- needs: select public.archive
WITH RECURSIVE tree(id) AS (
    SELECT id FROM public.archive UNION ALL SELECT tree.id + 1 FROM tree WHERE tree.id < 3
) SEARCH DEPTH FIRST BY id SET path CYCLE id SET looped USING seen SELECT id FROM tree;

-- case: two statements
-- needs: select public.orders, select public.items
-- facts: statements 2
SELECT id FROM public.orders; SELECT product FROM public.items;

-- case: EXPLAIN needs what it explains
-- needs: select public.orders
EXPLAIN SELECT id FROM public.orders;

-- case: EXPLAIN ANALYZE of a write
-- needs: delete public.archive
-- facts: unbounded
EXPLAIN ANALYZE DELETE FROM public.archive;

-- case: a comment where a keyword could be
-- needs: select public.archive
SELECT/**/id/* FROM public.orders */FROM public.archive -- , public.items
;
