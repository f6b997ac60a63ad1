-- Writing, and what is read on the way.

-- case: INSERT VALUES
-- needs: insert public.archive
INSERT INTO public.archive VALUES (1, 'a');

-- case: INSERT DEFAULT VALUES
-- needs: insert public.archive
INSERT INTO public.archive DEFAULT VALUES;

-- case: INSERT SELECT
-- needs: insert public.archive, select public.orders
INSERT INTO public.archive (id) SELECT id FROM public.orders;

-- case: INSERT of a subquery
-- needs: insert public.archive, select public.orders
INSERT INTO public.archive VALUES ((SELECT max(id) FROM public.orders), 'a');

-- case: INSERT RETURNING a column
-- needs: insert public.archive, select public.archive
INSERT INTO public.archive VALUES (2, 'b') RETURNING id;

-- case: INSERT RETURNING no column
-- needs: insert public.archive
INSERT INTO public.archive VALUES (2, 'b') RETURNING 1;

-- case: INSERT RETURNING everything
-- needs: insert public.archive, select public.archive
INSERT INTO public.archive VALUES (2, 'b') RETURNING *;

-- case: INSERT ON CONFLICT DO NOTHING
-- needs: insert sales.targets
INSERT INTO sales.targets VALUES (1, 2) ON CONFLICT DO NOTHING;

-- case: ON CONFLICT on columns reads them
-- needs: insert sales.targets, select sales.targets
INSERT INTO sales.targets VALUES (1, 2) ON CONFLICT (id) DO NOTHING;

-- case: ON CONFLICT on a constraint reads its columns
-- needs: insert sales.targets, select sales.targets
INSERT INTO sales.targets VALUES (1, 2) ON CONFLICT ON CONSTRAINT targets_pkey DO NOTHING;

-- case: ON CONFLICT DO UPDATE
-- needs: insert sales.targets, select sales.targets, update sales.targets
INSERT INTO sales.targets VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount;

-- case: ON CONFLICT DO UPDATE with a subquery in its WHERE
-- needs: insert sales.targets, select sales.targets, update sales.targets, select public.archive
INSERT INTO sales.targets AS t VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET amount = 0
    WHERE t.amount < (SELECT max(id) FROM public.archive);

-- case: UPDATE that reads nothing
-- needs: update public.archive
-- facts: unbounded
UPDATE public.archive SET note = 'x';

-- case: UPDATE with WHERE
-- needs: update public.archive, select public.archive
UPDATE public.archive SET note = 'x' WHERE id = 1;

-- case: UPDATE from its own column
-- needs: update public.archive, select public.archive
-- facts: unbounded
UPDATE public.archive SET id = id + 1;

-- case: UPDATE from another table only
-- needs: update public.archive, select public.orders
-- facts: unbounded
UPDATE public.archive SET note = o.note FROM public.orders o WHERE true;

-- case: UPDATE of several columns by a subquery
-- needs: update public.archive, select public.orders
-- facts: unbounded
UPDATE public.archive SET (id, note) = (SELECT o.id, o.note FROM public.orders o LIMIT 1);

-- case: UPDATE RETURNING by alias
-- needs: update public.archive, select public.archive
-- facts: unbounded
UPDATE public.archive AS a SET note = 'x' RETURNING a.id;

-- case: UPDATE RETURNING a system column
-- needs: update public.archive, select public.archive
-- facts: unbounded
UPDATE public.archive SET note = 'x' RETURNING ctid;

-- case: UPDATE through a view
-- needs: update public.open_orders, select public.open_orders
UPDATE public.open_orders SET total = 1 WHERE id = 1;

-- case: UPDATE with a correlated subquery reads the table
-- needs: update public.archive, select public.archive, select public.orders
UPDATE public.archive SET note = 'x' WHERE EXISTS (SELECT 1 FROM public.orders o WHERE o.id = archive.id);

-- case: a column of the same name in the subquery is not the table's
-- needs: update public.archive, select public.orders
UPDATE public.archive SET note = 'x' WHERE EXISTS (SELECT 1 FROM public.orders WHERE note = 'first');

-- case: DELETE that reads nothing
-- needs: delete public.archive
-- facts: unbounded
DELETE FROM public.archive;

-- case: DELETE with WHERE
-- needs: delete public.archive, select public.archive
DELETE FROM public.archive WHERE id = 1;

-- case: DELETE USING
-- needs: delete public.archive, select public.archive, select public.orders
DELETE FROM public.archive a USING public.orders o WHERE a.id = o.id;

-- case: DELETE WHERE true restricts nothing
-- needs: delete public.archive
-- facts: unbounded
DELETE FROM public.archive WHERE true;

-- case: DELETE WHERE of constants restricts nothing
-- needs: delete public.archive
-- facts: unbounded
DELETE FROM public.archive WHERE 1 = 1;

-- case: DELETE WHERE a column is itself restricts nothing
-- needs: delete public.archive, select public.archive
-- facts: unbounded
DELETE FROM public.archive WHERE id = id;

-- case: DELETE WHERE or true restricts nothing
-- needs: delete public.archive, select public.archive
-- facts: unbounded
DELETE FROM public.archive WHERE id = 1 OR true;

-- case: DELETE WHERE a whole row
-- needs: delete public.archive, select public.archive
DELETE FROM public.archive a WHERE a IS NULL;

-- case: DELETE RETURNING
-- needs: delete public.archive, select public.archive
-- facts: unbounded
DELETE FROM public.archive RETURNING note;

-- case: a DELETE in a WITH query of a SELECT
-- needs: delete public.archive, select public.archive
-- facts: unbounded
WITH gone AS (DELETE FROM public.archive RETURNING id) SELECT count(*) FROM gone;

-- case: an UPDATE in a WITH query that nothing reads
-- needs: update public.archive
-- facts: unbounded
WITH changed AS (UPDATE public.archive SET note = 'x') SELECT 1;

-- case: an INSERT in a WITH query of a DELETE
-- needs: insert public.archive, delete public.items, select public.items
WITH kept AS (INSERT INTO public.archive VALUES (1, 'a')) DELETE FROM public.items WHERE order_id = 1;

-- case: a WITH query moves rows
-- needs: delete public.orders, select public.orders, insert public.archive
WITH moved AS (DELETE FROM public.orders WHERE id = 1 RETURNING id, note) INSERT INTO public.archive SELECT id, note FROM moved;

-- case: MERGE that updates
-- needs: merge public.archive, select public.archive, update public.archive, select public.orders
MERGE INTO public.archive a USING public.orders o ON a.id = o.id WHEN MATCHED THEN UPDATE SET note = o.note;

-- case: MERGE that inserts
-- needs: merge public.archive, select public.archive, insert public.archive, select public.orders
MERGE INTO public.archive a USING public.orders o ON a.id = o.id WHEN NOT MATCHED THEN INSERT VALUES (o.id, o.note);

-- case: MERGE that deletes
-- needs: merge public.archive, select public.archive, delete public.archive, select public.orders
MERGE INTO public.archive a USING public.orders o ON a.id = o.id WHEN MATCHED THEN DELETE;

-- case: MERGE from a subquery, with a condition and DO NOTHING
-- needs: merge public.archive, select public.archive, delete public.archive, select public.items, select public.orders
MERGE INTO public.archive a USING (SELECT order_id FROM public.items) i ON a.id = i.order_id
    WHEN MATCHED AND a.note = (SELECT max(note) FROM public.orders) THEN DELETE WHEN NOT MATCHED THEN DO NOTHING;

-- case: TRUNCATE of two
-- needs: truncate public.archive, truncate public.items
TRUNCATE public.archive, public.items;

-- case: LOCK
-- needs: lock public.archive
LOCK TABLE public.archive IN ROW EXCLUSIVE MODE;

-- case: COPY TO
-- needs: copy_out public.archive, select public.archive
COPY public.archive TO STDOUT;

-- case: COPY of some columns
-- needs: copy_out public.archive, select public.archive
COPY public.archive (id) TO STDOUT WITH (FORMAT csv);

-- case: COPY of a query
-- needs: copy_out public.orders, select public.orders
COPY (SELECT id FROM public.orders) TO STDOUT;

-- case: COPY of a query that reads nothing
-- needs: copy_out
COPY (SELECT 1) TO STDOUT;

-- case: COPY of a write
-- needs: copy_out, delete public.archive, select public.archive
-- facts: unbounded
COPY (DELETE FROM public.archive RETURNING id) TO STDOUT;

-- case: COPY FROM
-- needs: copy_in public.archive, insert public.archive
COPY public.archive FROM STDIN;

-- case: COPY FROM with WHERE
-- needs: copy_in public.archive, insert public.archive, select public.archive
COPY public.archive (id) FROM STDIN WHERE id > 0;
