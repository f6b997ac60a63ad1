-- Functions: those on the list, and everything that calls another one.

-- case: listed functions
-- needs: basics
-- facts: functions pg_catalog.upper pg_catalog.now
SELECT upper('a'), now();

-- case: functions that the grammar makes
-- needs: basics
SELECT extract(year FROM current_date), substring('abc' FROM 2), trim('a'), position('a' IN 'b'), 'a' LIKE 'b' ESCAPE 'c',
    'x' SIMILAR TO 'y', now() AT TIME ZONE 'UTC', overlay('a' PLACING 'b' FROM 1), current_user, collation for ('a'),
    (now(), now()) OVERLAPS (now(), now()), nullif(1, 2), greatest(1, 2), normalize('a'), 'a' IS NORMALIZED;

-- case: aggregates and window functions
-- needs: select public.orders
SELECT string_agg(note, ',' ORDER BY id), percentile_cont(0.5) WITHIN GROUP (ORDER BY id), lag(max(id)) OVER () FROM public.orders;

-- case: a cast in the notation of a function
-- needs: basics
SELECT xid8('1'), regtype('int4');

-- case: a function that users made
-- needs: call public.total_of()
SELECT total_of(1);

-- case: an unqualified call means every function of that name
-- needs: call sales.rate(), call audit.rate()
-- ungrantable: the server takes the first on its search path, which is not known here
SELECT rate();

-- case: a qualified call
-- needs: call sales.rate()
SELECT sales.rate();

-- case: a function by the name of a listed one
-- needs: call sales.lower()
-- ungrantable: the server takes the listed one, by its arguments
SELECT lower('A');

-- case: the listed one by its schema
-- needs: basics
SELECT pg_catalog.lower('A');

-- case: a function that is nowhere
-- needs: call ?.no_such_function()
-- ungrantable: it does not exist
SELECT no_such_function(1);

-- case: a function in FROM
-- needs: call public.series()
SELECT * FROM series();

-- case: functions in ROWS FROM
-- needs: call public.series(), call sales.rate()
SELECT * FROM ROWS FROM (series(), sales.rate()) WITH ORDINALITY;

-- case: a function in WHERE
-- needs: select public.orders, call public.total_of()
SELECT id FROM public.orders WHERE total > total_of(id);

-- case: a function in ORDER BY of an aggregate
-- needs: select public.orders, call public.total_of()
SELECT array_agg(id ORDER BY total_of(id)) FROM public.orders;

-- case: a function in a window frame
-- needs: select public.orders, call public.add_up()
SELECT sum(id) OVER (ORDER BY id ROWS add_up(1, 1) PRECEDING) FROM public.orders;

-- case: a function in LIMIT
-- needs: select public.orders, call public.add_up()
SELECT id FROM public.orders LIMIT add_up(1, 1);

-- case: a function in INSERT
-- needs: insert public.archive, call public.add_up()
INSERT INTO public.archive VALUES (add_up(1, 1), 'a');

-- case: a function in SET of UPDATE
-- needs: update public.archive, call public.add_up()
-- facts: unbounded
UPDATE public.archive SET id = add_up(1, 1);

-- case: a function with named arguments
-- needs: basics
SELECT make_interval(days => 10);

-- case: a function as an argument, variadic
-- needs: call public.add_up()
SELECT concat(VARIADIC ARRAY[add_up(1, 2)::text]);

-- case: an aggregate that users made
-- needs: select public.orders, call public.glue()
-- ungrantable: the server asks for EXECUTE on the aggregate's own function too
SELECT glue(note) FROM public.orders;

-- case: a function in the notation of a column
-- needs: select public.orders, call public.order_label()
SELECT o.order_label FROM public.orders o;

-- case: a function in the notation of a field
-- needs: select public.orders, call public.order_label()
SELECT (o).order_label FROM public.orders o;

-- case: a function on a whole row
-- needs: select public.orders, call public.order_label()
SELECT order_label(o) FROM public.orders o;

-- case: an operator that users made
-- needs: call public.close_to()
SELECT 1 =~= 2;

-- case: the same operator by its schema
-- needs: call public.close_to()
SELECT 3 OPERATOR(public.=~=) 2;

-- case: an operator of pg_catalog by its schema
-- needs: basics
SELECT 1 OPERATOR(pg_catalog.=) 2;

-- case: the same operator with ANY
-- needs: call public.close_to()
SELECT 1 =~= ANY (ARRAY[1, 2]);

-- case: the same operator before a subquery
-- needs: call public.close_to(), select public.archive
SELECT 1 =~= ANY (SELECT id FROM public.archive);

-- case: a cast that users made
-- needs: call public.pair_of()
SELECT 1::public.pair;

-- case: the same cast as CAST of a subquery
-- needs: call public.pair_of(), select public.archive
SELECT CAST((SELECT max(id) FROM public.archive) AS public.pair);

-- case: types that users made need nothing
-- needs: basics
SELECT 'good'::public.mood, 5::public.positive;

-- case: CALL
-- needs: call public.tidy_up()
CALL public.tidy_up(1);

-- case: pg_sleep
-- needs: call pg_catalog.pg_sleep()
SELECT pg_sleep(0);

-- case: an advisory lock
-- needs: call pg_catalog.pg_advisory_xact_lock()
SELECT pg_advisory_xact_lock(1);

-- case: ending another session
-- needs: call pg_catalog.pg_terminate_backend()
SELECT pg_terminate_backend(0);

-- case: reading a file of the server
-- needs: call pg_catalog.pg_read_file()
SELECT pg_read_file('PG_VERSION');

-- case: listing a directory of the server in FROM
-- needs: call pg_catalog.pg_ls_dir()
SELECT * FROM pg_ls_dir('.');

-- case: a text run as SQL
-- needs: call pg_catalog.query_to_xml()
SELECT query_to_xml('SELECT 1', true, true, '');

-- case: a large object
-- needs: call pg_catalog.lo_create()
SELECT lo_create(0);

-- case: the size of a table
-- needs: call pg_catalog.pg_relation_size()
SELECT pg_relation_size('pg_class');

-- case: nextval of a constant is an UPDATE of the sequence
-- needs: update public.numbers
SELECT nextval('public.numbers');

-- case: nextval of a quoted name with a cast
-- needs: update sales."Tickets"
SELECT nextval('sales."Tickets"'::regclass);

-- case: setval
-- needs: update public.numbers
SELECT setval('numbers', 5);

-- case: nextval of something computed
-- needs: call pg_catalog.nextval()
-- ungrantable: the sequence is not known from the text
SELECT nextval(concat('public.', 'numbers')::regclass);

-- case: currval
-- needs: select public.numbers
-- ungrantable: it fails unless nextval came before in the same session
SELECT currval('public.numbers');

-- case: lastval
-- needs: call pg_catalog.lastval()
-- ungrantable: it fails unless nextval came before in the same session
SELECT lastval();

-- case: pg_notify is NOTIFY
-- needs: notify
-- ungrantable: the server lets everyone notify
SELECT pg_notify('a', 'b');

-- case: a sampling method that users made
-- needs: select public.orders, call public.series()
-- ungrantable: it is not a sampling method
SELECT id FROM public.orders TABLESAMPLE public.series (1);

-- case: XML functions
-- needs: select public.archive, call public.add_up()
SELECT xmlelement(name a, xmlattributes((SELECT max(id) FROM public.archive) AS b), xmlforest(add_up(1, 2) AS c));

-- case: XMLSERIALIZE and XMLPARSE
-- needs: select public.archive
SELECT xmlserialize(CONTENT xmlparse(CONTENT (SELECT max(note) FROM public.archive)) AS text);

-- case: XMLTABLE
-- needs: select public.archive, call public.add_up()
SELECT x.* FROM XMLTABLE('/a' PASSING (SELECT max(note)::xml FROM public.archive)
    COLUMNS b int DEFAULT add_up(1, 2)) x;

-- case: JSON_TABLE
-- needs: select public.archive, call public.add_up()
-- ungrantable: this server has no JSON_TABLE
SELECT t.* FROM JSON_TABLE((SELECT max(note) FROM public.archive)::jsonb, '$' COLUMNS (a int PATH '$.a' DEFAULT add_up(1, 2) ON EMPTY)) t;

-- case: JSON constructors
-- needs: select public.archive, call public.add_up()
-- ungrantable: this server has no JSON constructors
SELECT JSON_OBJECT('a': add_up(1, 2)), JSON_ARRAY(SELECT id FROM public.archive), JSON_ARRAYAGG(1 ORDER BY add_up(1, 3));

-- case: JSON_VALUE and IS JSON
-- needs: call public.add_up(), select public.archive
-- ungrantable: this server has no JSON_VALUE
SELECT JSON_VALUE('{}', '$.a' PASSING add_up(1, 2) AS x RETURNING int DEFAULT 0 ON ERROR), (SELECT max(note) FROM public.archive) IS JSON;
