-- Answers of statements that do not show a masked value, but may tell one: public.customers.ssn and .email,
-- public.people.passport, public.events_2024.card, public.cards.pin and .high, and public.charges.card are masked.

-- case: a unique column is inserted
-- answer: unproven unique
INSERT INTO public.customers (id, ssn) VALUES (9, '1');

-- case: a unique column is inserted by position
-- answer: unproven unique
INSERT INTO public.customers VALUES (9, 'x', 'north', '1');

-- case: only columns before the unique one are inserted by position
-- answer: by-origin
INSERT INTO public.customers VALUES (9, 'x', 'north');

-- case: a unique column is inserted from a query
-- answer: unproven unique
INSERT INTO public.customers SELECT id, note, note, note FROM public.orders;

-- case: a unique column gets its default
-- answer: by-origin
INSERT INTO public.customers DEFAULT VALUES;

-- case: a masked column without a constraint is inserted
-- answer: by-origin
INSERT INTO public.customers (id, email) VALUES (9, 'a@b.c');

-- case: any conflict is passed over
-- answer: unproven unique
INSERT INTO public.customers (id, ssn) VALUES (9, '1') ON CONFLICT DO NOTHING;

-- case: a conflict by another column assigns the unique one
-- answer: unproven unique
INSERT INTO public.customers (id) VALUES (9) ON CONFLICT (id) DO UPDATE SET ssn = '1';

-- case: a unique column is updated
-- answer: unproven unique
UPDATE public.customers SET ssn = '1' WHERE id = 1;

-- case: a unique column is updated among others
-- answer: unproven unique
UPDATE public.customers SET (name, ssn) = ('x', '1') WHERE id = 1;

-- case: a unique column is updated within WITH
-- answer: unproven unique
WITH u AS (UPDATE public.customers SET ssn = '1' WHERE id = 1 RETURNING id) SELECT id FROM u;

-- case: a unique column is merged in
-- answer: unproven unique
MERGE INTO public.customers c USING public.orders o ON c.id = o.id WHEN NOT MATCHED THEN INSERT (id, ssn) VALUES (o.id, o.note);

-- case: a unique column is updated by MERGE
-- answer: unproven unique
MERGE INTO public.customers c USING public.orders o ON c.id = o.id WHEN MATCHED THEN UPDATE SET ssn = o.note;

-- case: a unique column is copied in
-- answer: unproven unique
COPY public.customers FROM STDIN;

-- case: the rest of a unique key is updated
-- answer: unproven unique
UPDATE public.cards SET mark = 1 WHERE id = 1;

-- case: a child's index is unique
-- answer: unproven unique
UPDATE public.people SET passport = 'x' WHERE id = 1;

-- case: an index over an expression is unique
-- answer: unproven unique
INSERT INTO public.events_2024 (card) VALUES ('x');

-- case: a partition's index is unique
-- answer: unproven unique
INSERT INTO public.events (at, card) VALUES ('2024-01-01', 'x');

-- case: a unique column that may be unmasked is inserted
-- unmask: ssn
-- answer: by-origin
INSERT INTO public.customers (id, ssn) VALUES (9, '1');

-- case: a CHECK compares with a masked column
-- answer: unproven CHECK
INSERT INTO public.cards (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET low = 5;

-- case: a row that is all of it new satisfies its CHECK or not
-- answer: by-origin
INSERT INTO public.cards (id, holder) VALUES (1, 'x');

-- case: a column of no constraint is updated
-- answer: by-origin
UPDATE public.cards SET holder = 'x' WHERE id = 1;

-- case: a foreign key tells whether its masked value is there
-- answer: unproven foreign key
INSERT INTO public.charges (id, pin) VALUES (1, '1234');

-- case: an update of the same
-- answer: unproven foreign key
UPDATE public.charges SET pin = '1234' WHERE id = 1;

-- case: a foreign key by a masked column to one that is not
-- answer: by-origin
INSERT INTO public.charges (id, card) VALUES (1, 1);

-- case: a delete tells whether a masked column refers to the row
-- answer: unproven foreign key
DELETE FROM public.cards WHERE id = 1;

-- case: a delete of what nothing refers to
-- answer: by-origin
DELETE FROM public.customers WHERE id = 1;

-- case: an update of a key that a masked column refers to
-- answer: unproven foreign key
UPDATE public.cards SET id = 2 WHERE id = 1;

-- case: a generated column is masked with the one that it is made of
-- answer: unproven first
SELECT id FROM public.cards WHERE first = '1';

-- case: a generated column of none
-- answer: by-origin
SELECT id FROM public.cards WHERE twice = 4;

-- case: GROUP BY an alias within ROLLUP
-- answer: unproven to sort or group by
SELECT ssn AS s, count(*) FROM public.customers GROUP BY ROLLUP (s);

-- case: GROUP BY a position within GROUPING SETS
-- answer: unproven position
SELECT ssn, count(*) FROM public.customers GROUP BY GROUPING SETS ((1));

-- case: GROUP BY an alias within a list
-- answer: unproven to sort or group by
SELECT ssn AS s, name, count(*) FROM public.customers GROUP BY (s, name);

-- case: GROUP BY a position within CUBE within GROUPING SETS
-- answer: unproven position
SELECT ssn, name, count(*) FROM public.customers GROUP BY GROUPING SETS (CUBE ((1), 2));

-- case: grouping sets of other columns
-- answer: by-origin
SELECT name AS n, region, count(*) FROM public.customers GROUP BY ROLLUP (n, region);

-- case: a column that the snapshot does not have may be the masked one by a new name
-- answer: unproven renamed_since
SELECT id FROM public.customers WHERE renamed_since = '1';

-- case: the same among the outputs
-- answer: unproven renamed_since
SELECT renamed_since FROM public.customers;

-- case: ORDER BY an alias of a column that is not masked
-- answer: by-origin
SELECT name AS n FROM public.customers ORDER BY n;

-- case: ORDER BY an alias within an expression is no alias
-- answer: unproven shown
SELECT name AS shown FROM public.customers ORDER BY shown || '';

-- case: system columns
-- answer: by-origin
SELECT ctid, tableoid FROM public.customers WHERE xmin IS NOT NULL;

-- case: a column of a subquery beside a table with masked columns
-- answer: by-origin
SELECT total FROM public.customers c, (SELECT sum(total) AS total FROM public.orders) s;
