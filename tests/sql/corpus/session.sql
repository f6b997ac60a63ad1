-- The session: settings, transactions, prepared statements and cursors.

-- case: a setting that drivers set
-- needs: basics
-- facts: settings application_name
SET application_name = 'x';

-- case: the search path
-- needs: basics
SET search_path = public, sales;

-- case: the time zone
-- needs: basics
SET TIME ZONE 'UTC';

-- case: SET TRANSACTION
-- needs: basics
SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;

-- case: another session's snapshot
-- needs: set
-- ungrantable: the server lets everyone who knows its name
SET TRANSACTION SNAPSHOT '00000003-0000001B-1';

-- case: a setting that is not listed
-- needs: set
-- ungrantable: the server lets everyone set it
SET work_mem = '1GB';

-- case: a setting of an application
-- needs: set
-- facts: settings app.user_id
-- ungrantable: the server lets everyone set it
SET LOCAL app.user_id = '5';

-- case: strings that read differently
-- needs: opaque
-- ungrantable: the server lets everyone set it
SET standard_conforming_strings = off;

-- case: strings that read as they should
-- needs: basics
SET standard_conforming_strings = 'on';

-- case: an encoding in which a quote is no quote
-- needs: opaque
-- ungrantable: the server lets everyone set it
SET NAMES 'SJIS';

-- case: an encoding that is a superset of ASCII
-- needs: set
-- ungrantable: the server lets everyone set it
SET client_encoding = 'LATIN1';

-- case: UTF-8
-- needs: basics
SET client_encoding TO 'utf-8';

-- case: RESET of what is not listed
-- needs: set
-- ungrantable: the server lets everyone reset it
RESET work_mem;

-- case: RESET ALL
-- needs: basics
RESET ALL;

-- case: SET ROLE
-- needs: grant
-- ungrantable: it takes membership, not a privilege
SET ROLE postgres;

-- case: SET SESSION AUTHORIZATION
-- needs: grant
-- ungrantable: it takes a superuser
SET SESSION AUTHORIZATION postgres;

-- case: set_config of a listed setting
-- needs: basics
SELECT set_config('search_path', '', false);

-- case: set_config of another setting
-- needs: set
-- ungrantable: the server lets everyone set it
SELECT pg_catalog.set_config('work_mem', '1MB', false);

-- case: set_config of a setting that is computed
-- needs: opaque
-- facts: unbounded
-- ungrantable: the server lets everyone set it
SELECT set_config('standard_conforming_' || 'strings', 'off', false);

-- case: set_config in a WITH query
-- needs: opaque
-- ungrantable: the server lets everyone set it
WITH x AS (SELECT set_config('standard_conforming_strings', 'off', false)) SELECT 1;

-- case: UPDATE of pg_settings is a SET
-- needs: opaque, update pg_catalog.pg_settings, select pg_catalog.pg_settings
-- facts: unbounded
-- ungrantable: the server lets everyone set it
UPDATE pg_settings SET setting = 'off' WHERE name = 'standard_conforming_strings';

-- case: SHOW
-- needs: basics
SHOW search_path;

-- case: BEGIN and COMMIT
-- needs: basics
-- facts: statements 2
-- ungrantable: nothing is needed, and the runner has its own transaction
BEGIN ISOLATION LEVEL READ COMMITTED; COMMIT;

-- case: SAVEPOINT
-- needs: basics
SAVEPOINT a; ROLLBACK TO a; RELEASE a;

-- case: PREPARE TRANSACTION
-- needs: two_phase
-- ungrantable: it takes a setting of the server
PREPARE TRANSACTION 'a';

-- case: COMMIT PREPARED
-- needs: two_phase
-- ungrantable: it takes a prepared transaction
COMMIT PREPARED 'a';

-- case: PREPARE needs its statement
-- needs: select public.orders
-- ungrantable: the server asks only when it is executed
PREPARE a AS SELECT id FROM public.orders;

-- case: PREPARE and EXECUTE in one text
-- needs: delete public.archive
-- facts: unbounded
PREPARE a AS DELETE FROM public.archive; EXECUTE a;

-- case: EXECUTE of a statement that the session knows
-- needs: select public.orders, select public.items
-- ungrantable: the session of the oracle has not prepared it
EXECUTE known_statement((SELECT count(*) FROM public.items));

-- case: EXECUTE of a statement that nobody knows
-- needs: opaque
-- facts: unbounded
-- ungrantable: it does not exist
EXECUTE nobody_knows;

-- case: DECLARE and FETCH in one text
-- needs: select public.orders, basics
DECLARE c CURSOR FOR SELECT id FROM public.orders; FETCH ALL FROM c; CLOSE c;

-- case: FETCH from a cursor that the session knows
-- needs: select public.orders
-- ungrantable: the session of the oracle has not declared it
FETCH 1 FROM known_cursor;

-- case: MOVE in a cursor that nobody knows
-- needs: opaque
-- facts: unbounded
-- ungrantable: it does not exist
MOVE 1 FROM nobody_knows;

-- case: UPDATE at a cursor
-- needs: update public.archive, select public.archive, lock public.archive
-- ungrantable: it wants the cursor on a row
DECLARE c CURSOR FOR SELECT id FROM public.archive FOR UPDATE; UPDATE public.archive SET note = 'x' WHERE CURRENT OF c;

-- case: DEALLOCATE
-- needs: basics
DEALLOCATE ALL;

-- case: DISCARD
-- needs: basics
DISCARD PLANS;

-- case: LISTEN
-- needs: notify
-- ungrantable: the server lets everyone listen
LISTEN channel;

-- case: NOTIFY
-- needs: notify
-- ungrantable: the server lets everyone notify
NOTIFY channel, 'payload';

-- case: UNLISTEN
-- needs: basics
UNLISTEN *;

-- case: SET CONSTRAINTS
-- needs: basics
SET CONSTRAINTS ALL DEFERRED;

-- case: what a connection pool sends between two users
-- needs: basics
SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;

-- case: an empty text
-- needs: basics
-- facts: statements 0
;
