//! Situations in the protocol's own words: what no driver sends, and the order of every message that comes back.

/// A situation, as a script of messages ([`Wire::add`](crate::wire::Wire::add)). `wait` sends what was written down since the last
/// one, at once, and reads until so many messages of a type have come; `hear` is the same, but expects none of the control. `flip`
/// takes the rights to `flips` and to `DO` away. `{D}` is [`DENIED`].
pub struct Raw {
    /// What is special about it.
    pub name: &'static str,
    /// Messages, one a line.
    pub script: &'static str,
    /// Where the direct server refuses otherwise than for a right that is lacking.
    pub refusal: Refusal,
    /// What shows, in what the client has seen or in what the server keeps, that the statement has its effect where it is
    /// permitted.
    pub proof: &'static str,
}

/// How the direct server comes to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It looks at rights where policy is looked at: when a text is analysed, or when it is run.
    Right,
    /// It looks at rights later, when it has parsed and bound the statement without a word.
    Late,
    /// It reads a text of several statements whole before it runs any, but looks at rights one by one: there the text has a fault.
    Fault,
}

/// The statement that is refused, unless a situation has its own.
pub const DENIED: &str = "INSERT INTO closed.vault VALUES (1, 'in')";

/// The row that it makes.
const IN: &str = "vault|1|in";

use Refusal::{Fault, Late, Right};

const fn raw(name: &'static str, script: &'static str) -> Raw {
    Raw { name, script, refusal: Right, proof: IN }
}

/// What is undone in any case: that the server of the control has run it is all that there is.
const fn undone(name: &'static str, script: &'static str) -> Raw {
    Raw { name, script, refusal: Right, proof: "" }
}

const fn proving(name: &'static str, proof: &'static str, script: &'static str) -> Raw {
    Raw { name, script, refusal: Right, proof }
}

const fn late(name: &'static str, proof: &'static str, script: &'static str) -> Raw {
    Raw { name, script, refusal: Late, proof }
}

const fn whole(name: &'static str, proof: &'static str, script: &'static str) -> Raw {
    Raw { name, script, refusal: Fault, proof }
}

/// All of them.
pub const SITUATIONS: &[Raw] = &[
    // One statement to a message.
    raw("Query outside a transaction", "Q {D}\nwait Z 1\nQ INSERT INTO work VALUES (10, 'after')\nwait Z 1"),
    raw(
        "Query in a transaction, which COMMIT then rolls back",
        "Q BEGIN\nQ INSERT INTO work VALUES (10, 'before')\nQ {D}\nQ INSERT INTO work VALUES (11, 'after')\nwait Z 4\nQ COMMIT\nwait Z 1",
    ),
    undone("Query in a transaction that is left open", "Q BEGIN\nQ LOCK TABLE work\nwait Z 2\nQ {D}\nwait Z 1"),
    undone(
        "before ROLLBACK TO a savepoint",
        "Q BEGIN\nQ INSERT INTO work VALUES (10, 'before')\nQ SAVEPOINT s\nQ INSERT INTO work VALUES (11, 'within')\nQ {D}\nwait Z 5\n\
         Q ROLLBACK TO s\nQ RELEASE s\nQ INSERT INTO work VALUES (12, 'after')\nwait Z 3\nQ COMMIT\nwait Z 1",
    ),
    undone(
        "in the inner of two savepoints, of which the outer is rolled back",
        "Q BEGIN\nQ SAVEPOINT o\nQ INSERT INTO work VALUES (10, 'outer')\nQ SAVEPOINT i\nQ {D}\nQ ROLLBACK TO i\nQ {D}\nQ ROLLBACK TO o\n\
         Q INSERT INTO work VALUES (11, 'kept')\nQ COMMIT\nwait Z 10",
    ),
    undone(
        "after a savepoint was released",
        "Q BEGIN\nQ SAVEPOINT s\nQ INSERT INTO work VALUES (10, 'x')\nQ RELEASE s\nQ {D}\nQ ROLLBACK TO s\nQ COMMIT\nwait Z 7",
    ),
    proving(
        "in a transaction that has failed",
        "vault|1|in",
        "Q BEGIN\nQ SELECT 1 / 0\nQ {D}\nwait Z 3\nQ ROLLBACK\nQ {D}\nwait Z 2",
    ),
    raw(
        "twice in one transaction",
        "Q BEGIN\nQ {D}\nQ INSERT INTO closed.vault VALUES (2, 'again')\nwait Z 3\nQ ROLLBACK\nQ {D}\nwait Z 2",
    ),
    undone(
        "after COMMIT AND CHAIN",
        "Q BEGIN ISOLATION LEVEL SERIALIZABLE\nQ INSERT INTO work VALUES (10, 'kept')\nQ COMMIT AND CHAIN\nQ {D}\nQ SHOW transaction_isolation\n\
         Q ROLLBACK AND CHAIN\nQ SHOW transaction_isolation\nQ COMMIT\nwait Z 8",
    ),
    proving(
        "in a transaction that is read only",
        "E ERROR 25006",
        "Q BEGIN READ ONLY\nQ SELECT count(*) FROM work\nQ {D}\nwait Z 3\nQ ROLLBACK\nwait Z 1",
    ),
    proving(
        "before PREPARE TRANSACTION, which then rolls back",
        "prepared transaction|a",
        "Q BEGIN\nQ INSERT INTO work VALUES (10, 'x')\nQ {D}\nQ PREPARE TRANSACTION 'a'\nwait Z 4",
    ),
    raw(
        "between PREPARE TRANSACTION and COMMIT PREPARED",
        "Q BEGIN\nQ INSERT INTO work VALUES (10, 'x')\nQ PREPARE TRANSACTION 'a'\nQ {D}\nQ COMMIT PREPARED 'a'\nwait Z 5",
    ),
    proving(
        "while a prepared transaction is open, which stays",
        "vault|1|in",
        "Q BEGIN\nQ INSERT INTO work VALUES (10, 'x')\nQ PREPARE TRANSACTION 'b'\nQ BEGIN\nQ {D}\nQ COMMIT\nwait Z 6",
    ),
    raw(
        "while a deferred constraint is violated, of which nothing is said then",
        "Q BEGIN\nQ INSERT INTO child VALUES (1, 1)\nQ {D}\nQ COMMIT\nwait Z 4",
    ),
    undone(
        "after SET CONSTRAINTS IMMEDIATE, which does not outlive it",
        "Q BEGIN\nQ SET CONSTRAINTS ALL IMMEDIATE\nQ {D}\nQ ROLLBACK\nQ BEGIN\nQ INSERT INTO child VALUES (1, 77)\nQ SELECT count(*) FROM child\n\
         Q COMMIT\nwait Z 8",
    ),
    raw(
        "when a sequence was used, which goes on",
        "Q BEGIN\nQ INSERT INTO numbered (note) VALUES ('x')\nQ {D}\nQ ROLLBACK\nQ {D}\nQ INSERT INTO numbered (note) VALUES ('y')\nwait Z 6",
    ),
    raw(
        "while advisory locks of the session and of the transaction are held",
        "Q SELECT pg_advisory_lock(7)\nQ BEGIN\nQ SELECT pg_advisory_xact_lock(8)\nQ {D}\nwait Z 4\nQ COMMIT\nwait Z 1",
    ),
    raw(
        "after SET LOCAL and SET, which are undone with their transaction",
        "Q BEGIN\nQ SET LOCAL lock_timeout = '7s'\nQ SET statement_timeout = '9s'\nQ {D}\nQ ROLLBACK\nQ SHOW lock_timeout\nQ SHOW statement_timeout\nQ {D}\nwait Z 8",
    ),
    raw(
        "between LISTEN and NOTIFY of a transaction, of which no one hears",
        "Q LISTEN news\nQ BEGIN\nQ NOTIFY news, 'lost'\nQ LISTEN more\nQ {D}\nQ COMMIT\nQ NOTIFY news, 'heard'\nQ SELECT pg_listening_channels()\nwait Z 8",
    ),
    raw(
        "after a table was made, which goes with its transaction",
        "Q BEGIN\nQ CREATE TABLE public.made (id int)\nQ INSERT INTO public.made VALUES (1)\nQ {D}\nQ ROLLBACK\nQ SELECT * FROM public.made\nQ {D}\nwait Z 7",
    ),
    undone(
        "after a temporary table was made outside, which stays",
        "Q CREATE TEMP TABLE scratch (id int) ON COMMIT DELETE ROWS\nQ BEGIN\nQ INSERT INTO scratch VALUES (1)\nQ {D}\nQ ROLLBACK\nQ SELECT count(*) FROM scratch\nwait Z 6",
    ),
    // Several statements to a message.
    whole(
        "last of a message of several statements, none of which runs",
        IN,
        "Q INSERT INTO work VALUES (10, 'x'); {D}\nwait Z 1\nQ SELECT count(*) FROM work\nwait Z 1",
    ),
    whole("first of a message of several statements", IN, "Q {D}; INSERT INTO work VALUES (10, 'x')\nwait Z 1"),
    whole(
        "behind a BEGIN of the same message, which does not begin one",
        "vault|1|in",
        "Q BEGIN; INSERT INTO work VALUES (10, 'x'); {D}\nwait Z 1\nQ INSERT INTO work VALUES (11, 'y')\nwait Z 1\nQ COMMIT\nwait Z 1",
    ),
    whole(
        "behind a COMMIT of the same message, which does not commit",
        IN,
        "Q BEGIN\nQ INSERT INTO work VALUES (10, 'x')\nwait Z 2\nQ COMMIT; {D}\nwait Z 1\nQ ROLLBACK\nwait Z 1",
    ),
    whole(
        "behind a ROLLBACK of the same message in a transaction that has failed",
        IN,
        "Q BEGIN\nQ SELECT 1 / 0\nQ ROLLBACK; {D}\nwait Z 3\nQ ROLLBACK\nwait Z 1",
    ),
    whole(
        "in a message of several statements after a savepoint",
        "",
        "Q BEGIN\nQ SAVEPOINT s\nQ INSERT INTO work VALUES (10, 'x'); {D}; RELEASE s\nwait Z 3\nQ ROLLBACK TO s\nQ COMMIT\nwait Z 2",
    ),
    // Other statements.
    proving(
        "SET LOCAL in a transaction",
        "D replica",
        "Q BEGIN\nQ SET LOCAL session_replication_role = replica\nQ SHOW session_replication_role\nQ ROLLBACK\nQ SHOW session_replication_role\nwait Z 5",
    ),
    proving(
        "SET outside a transaction",
        "D replica",
        "Q SET session_replication_role = replica\nQ SHOW session_replication_role\nQ RESET session_replication_role\nwait Z 3",
    ),
    proving(
        "DO in a transaction",
        "vault|5|do",
        "flip\nQ BEGIN\nQ INSERT INTO work VALUES (10, 'x')\nQ DO $$ BEGIN INSERT INTO closed.vault VALUES (5, 'do'); END $$\nQ COMMIT\nwait Z 4",
    ),
    proving(
        "CALL of a procedure that commits",
        "vault|2|two",
        "Q INSERT INTO work VALUES (10, 'x')\nQ CALL closed.proceed()\nQ INSERT INTO work VALUES (11, 'y')\nwait Z 3",
    ),
    proving(
        "LOCK TABLE, behind other locks",
        "relation|closed.vault|ShareLock",
        "Q BEGIN\nQ LOCK TABLE work IN SHARE MODE\nQ LOCK TABLE closed.vault IN SHARE MODE\nwait Z 3",
    ),
    proving(
        "a CTE that writes",
        "vault|6|cte",
        "Q BEGIN\nQ WITH made AS (INSERT INTO closed.vault VALUES (6, 'cte') RETURNING id) INSERT INTO work SELECT id, 'cte' FROM made\nQ COMMIT\nwait Z 3",
    ),
    proving(
        "EXPLAIN ANALYZE",
        "vault|7|explained",
        "Q EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) INSERT INTO closed.vault VALUES (7, 'explained')\nwait Z 1",
    ),
    proving(
        "CREATE TABLE AS",
        "relation|closed.made",
        "Q BEGIN\nQ CREATE TABLE closed.made AS SELECT 1 AS id\nQ COMMIT\nwait Z 3",
    ),
    proving(
        "TRUNCATE between other writes",
        "C TRUNCATE TABLE",
        "Q BEGIN\nQ INSERT INTO work VALUES (10, 'x')\nQ TRUNCATE work, closed.vault\nQ COMMIT\nwait Z 4",
    ),
    proving(
        "PREPARE, whose name stays free",
        "C PREPARE\\x00\nZ I\nE ERROR 42P05",
        "Q PREPARE p AS INSERT INTO closed.vault VALUES (8, 'executed')\nwait Z 1\nQ PREPARE p AS SELECT 8\nQ EXECUTE p\nwait Z 2",
    ),
    undone(
        "EXECUTE of what was prepared while it was permitted",
        "Q PREPARE p AS INSERT INTO flips VALUES (9, 'executed')\nQ PREPARE q AS SELECT 1\nwait Z 2\nflip\nQ BEGIN\nQ EXECUTE p\nQ ROLLBACK\nQ EXECUTE q\nwait Z 4",
    ),
    proving(
        "DECLARE of a cursor, beside others that go with the transaction",
        "T note",
        "Q BEGIN\nQ DECLARE a CURSOR FOR SELECT id FROM work ORDER BY id\nQ FETCH a\nQ DECLARE b CURSOR FOR SELECT note FROM closed.vault\nQ FETCH b\nwait Z 5\nQ COMMIT\nwait Z 1",
    ),
    raw(
        "while a cursor is open, older than the savepoint that is gone back to",
        "Q BEGIN\nQ DECLARE a CURSOR FOR SELECT id FROM work ORDER BY id\nQ FETCH a\nQ SAVEPOINT s\nQ DECLARE b CURSOR FOR SELECT 1\nQ {D}\nQ ROLLBACK TO s\nQ FETCH a\nQ FETCH b\nwait Z 9\nQ ROLLBACK\nQ {D}\nwait Z 2",
    ),
    undone(
        "while a cursor is held, which goes on",
        "Q DECLARE a CURSOR WITH HOLD FOR SELECT id FROM work ORDER BY id\nQ FETCH a\nQ BEGIN\nQ {D}\nQ FETCH a\nQ ROLLBACK\nQ FETCH a\nwait Z 7",
    ),
    // COPY.
    proving(
        "COPY FROM STDIN, whose data comes all the same",
        "vault|3|data",
        "Q COPY closed.vault FROM STDIN\nd 3 data\nc\nQ INSERT INTO work VALUES (10, 'after')\nwait Z 2",
    ),
    undone(
        "COPY FROM STDIN in a transaction",
        "Q BEGIN\nQ COPY work FROM STDIN\nwait G 1\nd 10 x\nc\nwait Z 1\nQ COPY closed.vault FROM STDIN\nd 3 data\nc\nQ ROLLBACK\nwait Z 2",
    ),
    late(
        "COPY FROM STDIN in a pipeline, whose data comes all the same",
        "vault|3|data",
        "P |COPY closed.vault FROM STDIN\nB |\nE \nd 3 data\nc\nS\nQ SELECT 1\nwait Z 2",
    ),
    proving(
        "COPY TO STDOUT in a transaction",
        "C COPY 0",
        "Q BEGIN\nQ COPY closed.vault TO STDOUT\nQ SELECT 1\nQ ROLLBACK\nwait Z 4",
    ),
    raw(
        "behind a COPY of the same pipeline, which is undone",
        "P |COPY work FROM STDIN\nB |\nE \nd 10 x\nc\nP |{D}\nB |\nE \nS\nwait Z 1",
    ),
    // Functions.
    proving(
        "FunctionCall, which leaves the unnamed statement",
        "vault|4|touched",
        "P |SELECT 1\nS\nwait Z 1\nF closed.touch|4\nwait Z 1\nB |\nE \nS\nwait Z 1",
    ),
    proving(
        "FunctionCall in a transaction, which leaves the unnamed statement",
        "V 4",
        "P b|BEGIN\nB |b\nE \nP r|ROLLBACK\nP |SELECT 1\nS\nF closed.touch|4\nF closed.touch|4\nB |r\nE \nS\nB |\nE \nS\nwait Z 5",
    ),
    // Pipelines.
    raw("first of a pipeline", "P |{D}\nB |\nD P|\nE \nP |INSERT INTO work VALUES (10, 'after')\nB |\nE \nS\nwait Z 1"),
    raw(
        "in the middle of a pipeline",
        "P |INSERT INTO work VALUES (10, 'before')\nB |\nE \nP |{D}\nB |\nE \nP |INSERT INTO work VALUES (11, 'after')\nB |\nE \nS\nwait Z 1",
    ),
    raw("last of a pipeline", "P |INSERT INTO work VALUES (10, 'before')\nB |\nE \nP |{D}\nB |\nE \nS\nwait Z 1"),
    raw(
        "in the second of three pipelines that are sent at once",
        "P |INSERT INTO work VALUES (10, 'first')\nB |\nE \nS\nP |INSERT INTO work VALUES (11, 'second')\nB |\nE \nP |{D}\nB |\nE \nS\n\
         P |INSERT INTO work VALUES (12, 'third')\nB |\nE \nS\nwait Z 3",
    ),
    raw("twice in a pipeline, of which one is told", "P a|{D}\nP b|{D}\nB |a\nE \nS\nwait Z 1\nQ {D}\nwait Z 1"),
    raw(
        "in each of two pipelines that are sent at once",
        "P |{D}\nB |\nE \nS\nP |INSERT INTO closed.vault VALUES (2, 'two')\nB |\nE \nS\nwait Z 2",
    ),
    raw(
        "behind an error of the server in the same pipeline, so that it is not looked at",
        "P |SELECT 1 / 0\nB |\nE \nP |{D}\nB |\nE \nS\nwait Z 1\nQ {D}\nwait Z 1",
    ),
    raw(
        "told by Flush before the pipeline ends",
        "P |SELECT 1\nB |\nE \nP |{D}\nH\nhear E 1\nB |\nE \nP |SELECT 2\nH\nS\nwait Z 1\nQ {D}\nwait Z 1",
    ),
    raw(
        "told by Flush at the beginning of a pipeline",
        "P |{D}\nH\nP |SELECT 1\nH\nQ SELECT 2\nF closed.touch|4\nC S|\nS\nwait Z 1\nQ {D}\nwait Z 1",
    ),
    raw(
        "in a transaction that a pipeline has begun",
        "P |BEGIN\nB |\nE \nS\nP |INSERT INTO work VALUES (10, 'x')\nB |\nE \nP |{D}\nB |\nE \nS\nQ SELECT 1\nP |COMMIT\nB |\nE \nS\nwait Z 4",
    ),
    raw(
        "in a pipeline with BEGIN and COMMIT, of which COMMIT is dropped",
        "P |BEGIN\nB |\nE \nP |INSERT INTO work VALUES (10, 'x')\nB |\nE \nP |{D}\nB |\nE \nP |COMMIT\nB |\nE \nS\nwait Z 1",
    ),
    raw(
        "behind a COMMIT of the same pipeline, which stays done",
        "P |BEGIN\nB |\nE \nP |INSERT INTO work VALUES (10, 'kept')\nB |\nE \nP |COMMIT\nB |\nE \nP |INSERT INTO work VALUES (11, 'lost')\nB |\nE \nP |{D}\nB |\nE \nS\nwait Z 1",
    ),
    raw(
        "behind a deferred constraint that is violated in the same pipeline",
        "P |INSERT INTO child VALUES (1, 1)\nB |\nE \nP |{D}\nB |\nE \nS\nwait Z 1",
    ),
    raw(
        "a Query behind a pipeline that has no Sync",
        "P |INSERT INTO work VALUES (10, 'x')\nB |\nE \nQ {D}\nwait Z 1\nS\nwait Z 1",
    ),
    raw(
        "a pipeline that goes on with a Query instead of Sync",
        "P |{D}\nQ INSERT INTO work VALUES (10, 'x')\nS\nwait Z 1\nQ {D}\nwait Z 1",
    ),
    raw("behind nothing but a Sync, and before one more", "S\nP |{D}\nS\nS\nwait Z 3\nQ {D}\nwait Z 1"),
    // Names.
    raw(
        "a named statement, whose name stays free",
        "P n|{D}\nS\nwait Z 1\nP n|SELECT 5\nB |n\nE \nC S|n\nP n|{D}\nB |n\nE \nS\nwait Z 1\nQ {D}\nwait Z 1",
    ),
    proving(
        "the unnamed statement, which is gone then",
        "C INSERT 0 1",
        "P |SELECT 1\nS\nwait Z 1\nP |{D}\nS\nB |\nE \nS\nwait Z 2",
    ),
    proving(
        "the unnamed statement in a transaction, which is gone then",
        "C INSERT 0 1",
        "P b|BEGIN\nB |b\nE \nP r|ROLLBACK\nP |SELECT 1\nS\nP |{D}\nS\nB |r\nE \nS\nB |\nE \nS\nwait Z 4",
    ),
    raw("a Query, over which the unnamed statement is gone", "P |SELECT 1\nS\nQ {D}\nB |\nE \nS\nwait Z 3"),
    raw("before a Close, which is dropped with it", "P n|SELECT 5\nS\nP |{D}\nC S|n\nS\nB |n\nE \nS\nQ {D}\nwait Z 4"),
    proving(
        "Bind of a statement that was prepared while it was permitted",
        "D one",
        "P n|SELECT note FROM flips\nS\nwait Z 1\nflip\nP |INSERT INTO work VALUES (10, 'x')\nB |\nE \nB |n\nE \nS\nwait Z 1\nD S|n\nS\nwait Z 1",
    ),
    proving(
        "Execute of a portal that was bound while it was permitted",
        "flips|9|executed",
        "P |INSERT INTO work VALUES (10, 'x')\nB |\nE \nP n|INSERT INTO flips VALUES (9, 'executed')\nB p|n\nH\nwait 2 2\nflip\nP |SELECT count(*) FROM parent\nB |\nE \nE p\nS\nwait Z 1\nQ SELECT 1\nwait Z 1",
    ),
    raw(
        "while a portal is suspended, which goes with its transaction",
        "P |BEGIN\nB |\nE \nP n|SELECT id FROM work ORDER BY id\nB p|n\nE p|2\nH\nwait s 1\nP |{D}\nS\nwait Z 1\nQ ROLLBACK\nE p|2\nS\nQ {D}\nwait Z 3",
    ),
    raw(
        "between two parts of a portal's rows that are fetched in a savepoint's shelter",
        "Q BEGIN\nwait Z 1\nP n|SELECT id FROM work ORDER BY id\nB p|n\nE p|1\nS\nwait Z 1\nQ SAVEPOINT s\nQ {D}\nQ ROLLBACK TO s\nwait Z 3\nE p|1\nC P|p\nS\nwait Z 1\nQ COMMIT\nQ {D}\nwait Z 2",
    ),
];
