//! SQL of PostgreSQL to actions: what a text would touch, and whether its answer can be proven free of masked columns.
//!
//! Pure: text, catalogue, masked columns and names in, [`Statement`] out. *Invariant:* whatever is not understood asks
//! for the most dangerous action (`sql:opaque`), and whatever is not proven is [`Answer::Unproven`].
//!
//! # What a statement asks for
//!
//! All of it must be permitted. The rules follow the server's own privileges, so that a role of the server with exactly
//! the corresponding privileges can run exactly the same statements (`tests/sql` holds that).
//!
//! | statement | requests |
//! |---|---|
//! | SELECT, VALUES, TABLE | `select` on every relation that is read, at any depth; FOR UPDATE/SHARE also `lock` |
//! | INSERT | `insert`; ON CONFLICT with a target also `select`, DO UPDATE also `update`; RETURNING of columns also `select` |
//! | UPDATE, DELETE | `update` or `delete`; `select` too if any column of the table is read |
//! | MERGE | `merge` and `select` on the table, `insert`, `update`, `delete` as its actions do, `select` on the source |
//! | TRUNCATE, LOCK | `truncate`; `lock` |
//! | COPY … TO STDOUT / FROM STDIN | `copy_out` and `select`; `copy_in` and `insert`; with a file or program `opaque` |
//! | a function that is not on a list, CALL | `call` on every function of that name, on user-made operators' and casts' functions |
//! | nextval, setval; currval | `update`; `select` on the sequence, if it is a constant, else `call` |
//! | CREATE TABLE, VIEW, SEQUENCE, TYPE, DOMAIN, … | `create` on the schema, and everything that their queries and expressions ask for |
//! | CREATE TABLE AS, SELECT INTO | the same |
//! | CREATE INDEX, STATISTICS, POLICY, ALTER TABLE | `alter` on the table; what the expressions ask for |
//! | CREATE TRIGGER | `alter` on the table, `call` on the function |
//! | CREATE SCHEMA, ALTER or DROP of what is not in a schema, COMMENT on it | `create`, `alter`, `drop` on the database |
//! | DROP, ALTER, COMMENT | `drop` or `alter` on the object, or on the nearest thing that is a resource |
//! | GRANT, REVOKE, roles, owners, default privileges, SECURITY LABEL, SET ROLE, SET SESSION AUTHORIZATION | `grant` |
//! | VACUUM, ANALYZE, REINDEX, CLUSTER, REFRESH, CHECKPOINT | `maintenance` on the relation if named, else on the database |
//! | LISTEN, NOTIFY, pg_notify | `notify` |
//! | PREPARE TRANSACTION, COMMIT or ROLLBACK PREPARED | `two_phase` |
//! | CREATE, ALTER, DROP of PUBLICATION and SUBSCRIPTION; a replication connection and its commands | `replication` |
//! | SET, RESET, set_config | `basics` if the setting is listed; `grant` for role and session authorization; `opaque` for what changes the reading of texts; else `set` |
//! | EXPLAIN (also without ANALYZE), PREPARE, DECLARE | what their statement asks for |
//! | EXECUTE, FETCH, MOVE | what the named statement asks for; an unknown name is `opaque` |
//! | BEGIN … ROLLBACK, SHOW, DEALLOCATE, DISCARD, CLOSE, UNLISTEN, SET CONSTRAINTS | `basics` |
//! | reads of listed catalogue relations, and what touches nothing | `basics` |
//! | DO, LOAD, ALTER SYSTEM, CREATE FUNCTION, PROCEDURE, RULE, EVENT TRIGGER, EXTENSION, LANGUAGE, CAST, OPERATOR, AGGREGATE, ACCESS METHOD, TABLESPACE, DATABASE, foreign data wrappers, servers and user mappings, and whatever is not understood | `opaque` |
//!
//! A relation or function that is not qualified means every one of that name in any schema. A view is a table of its
//! own: the server checks its owner for what lies below. What the database's owner attached to a table runs with it and
//! is not looked at: triggers, rules, defaults, checks, row security, implicit casts.
//!
//! # What an answer may show
//!
//! `proof` says what is proven from the text, and `ties` what a constraint would tell whose answer depends on a masked
//! column. The proof is as good as the snapshot. Since the server names the origin of every output column, a caller
//! should mask by [`Masking::cover`] in [`Answer::Clear`] answers as well: that can only add masking.

pub mod catalogue;
pub mod masks;

mod cache;
mod columns;
mod ddl;
mod expressions;
mod from;
mod functions;
mod json;
mod keys;
mod names;
mod objects;
mod parse;
mod proof;
mod queries;
mod relations;
mod replication;
mod requests;
mod restricts;
mod settings;
mod text;
mod ties;
mod utility;
mod walk;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::{
    masking::Masked,
    model::{Action, Denial, Request, Resource},
};
use catalogue::Catalogue;
use masks::Masking;
use parse::{Unread, parse};
use proof::Proof;
use requests::Findings;
use walk::{Local, Walker};

pub use cache::Cache;
pub use replication::{Replication, replicating};
pub use settings::setting;

/// Prepared statements and cursors that one text may define: each keeps the text for the log.
const MOST_DEFINED: usize = 100;

/// What a text (one Query message, or the text of one Parse message) is understood to be.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Everything it would touch, of all its statements, and of the statements that EXECUTE and FETCH carry.
    pub action: Arc<Action>,
    /// The text for the log, masked.
    pub text: Arc<Masked<String>>,
    /// Whether parameters may be recorded as they are: the statement touches no masked column.
    pub parameters_clear: bool,
    /// For each of its statements in order, what is known about its answer.
    pub parts: Vec<Part>,
    /// Whether it names a relation or function that the snapshot does not have: with a fresh snapshot it may be
    /// understood better.
    pub unknown_names: bool,
    /// Whether its meaning depends on the session's names.
    pub looks_up_names: bool,
    /// Why it could not be read, if it could not: for the client, since the parser quotes the text.
    pub unread: Option<String>,
}

/// One statement within a text.
#[derive(Clone, Debug)]
pub struct Part {
    /// What is known about its answer.
    pub answer: Answer,
    /// What it does to the session's names and state.
    pub effect: Effect,
}

/// What is known about an answer with respect to masked columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It touches no table with hidden columns: every output column is clear.
    Clear,
    /// Every output column is a bare column or clear: the origin that the server names for it (table OID and attribute
    /// number) decides, through [`Masking::cover`].
    ByOrigin,
    /// It cannot be proven. In enforce mode the statement is denied with this; in observe mode its answer is not
    /// recorded.
    Unproven(Denial),
}

/// What a statement does to the session beyond its answer, if it succeeds.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Nothing that matters here.
    None,
    /// `PREPARE name AS …`
    Prepare {
        /// Name of the prepared statement.
        name: String,
        /// What EXECUTE of it means.
        statement: Arc<Statement>,
    },
    /// `DECLARE name CURSOR FOR …`
    Declare {
        /// Name of the cursor, which is a portal of the protocol too.
        name: String,
        /// What FETCH from it means.
        statement: Arc<Statement>,
    },
    /// `DEALLOCATE name` (`None`: ALL).
    Deallocate(Option<String>),
    /// `CLOSE name` (`None`: ALL).
    Close(Option<String>),
    /// COMMIT, ROLLBACK, ROLLBACK TO, PREPARE TRANSACTION: what the server takes in a transaction that has failed.
    EndsTransaction,
    /// `DISCARD ALL`: prepared statements, cursors and temporary tables go.
    Discard,
    /// It may change the catalogue: the snapshot is stale once it has run.
    ChangesCatalogue,
    /// `COPY … FROM STDIN`: the server asks for data.
    CopyIn,
    /// `COPY … TO STDOUT`: the answer is a stream of lines, not rows.
    CopyOut,
    /// A command of replication: data may stream in either direction, or in both.
    Replicates,
}

/// The session's names as the classifier needs them: prepared statements and cursors, shared by SQL and protocol.
pub trait Names {
    /// All statements that a prepared name may stand for (several while the server's answer is outstanding).
    fn prepared(&self, name: &str) -> Vec<Arc<Statement>>;
    /// All statements that a cursor or portal name may stand for.
    fn cursor(&self, name: &str) -> Vec<Arc<Statement>>;
}

/// Settings of the session that change how a text is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// Name of the target, for resources.
    pub target: String,
    /// Name of the database.
    pub database: String,
    /// Schemas of the search path where proven, else `None`: then an unqualified name means every relation or function
    /// of that name.
    pub search_path: Option<Vec<String>>,
    /// What for, if it is a replication connection: it has commands of its own.
    pub replication: Option<Replication>,
}

/// Understands a text.
///
/// The caller vouches that the server reads it the same way: `standard_conforming_strings` is on, and the client's
/// encoding is UTF-8 or a superset of ASCII.
#[must_use]
pub fn classify(
    text: &str,
    reading: &Reading,
    catalogue: &Catalogue,
    masking: &Masking,
    names: &dyn Names,
) -> Statement {
    let Some(replication) = reading.replication else { return understand(text, reading, catalogue, masking, names) };
    replication::command(replication, text, reading).unwrap_or_else(|| {
        let mut statement = understand(text, reading, catalogue, masking, names);
        Arc::make_mut(&mut statement.action).requests.insert(replication::request(replication, reading));
        statement
    })
}

fn understand(text: &str, reading: &Reading, catalogue: &Catalogue, masking: &Masking, names: &dyn Names) -> Statement {
    let parsed = match parse(text) {
        Ok(parsed) => parsed,
        Err(unread) => return unparsed(text, &unread, reading, masking),
    };
    let mut findings = Findings::default();
    let mut parts = Vec::with_capacity(parsed.stmts.len());
    let mut local = Local::default();
    let mut clear = true;
    let mut changed = false;
    let mut defined = 0;
    for statement in &parsed.stmts {
        findings.statements += 1;
        let mut walker = Walker::new(reading, catalogue, masking, names, &local);
        let mut effect = walker.outermost(statement.stmt.as_deref());
        defined += usize::from(matches!(effect, Effect::Prepare { .. } | Effect::Declare { .. }));
        if defined > MOST_DEFINED {
            walker.opaque("a text that defines very many names at once");
            effect = Effect::None;
        }
        let (part, values_clear) = walker.finish(effect, changed, &mut findings);
        clear &= values_clear;
        changed |= matches!(part.effect, Effect::ChangesCatalogue | Effect::Discard);
        local.learn(&part.effect);
        parts.push(part);
    }
    if findings.requests.is_empty() {
        findings.requests.insert(Request::new("sql:basics", requests::database(reading)));
    }
    let shown = Arc::new(if clear && !findings.secret { text::whole(text) } else { text::placeholders(text) });
    // What PREPARE and DECLARE carry is logged as this text.
    for part in &mut parts {
        if let Effect::Prepare { statement, .. } | Effect::Declare { statement, .. } = &mut part.effect {
            Arc::make_mut(statement).text = Arc::clone(&shown);
        }
    }
    Statement {
        text: shown,
        parameters_clear: clear && !findings.secret,
        parts,
        unknown_names: findings.unknown_names,
        looks_up_names: findings.looks_up_names,
        unread: None,
        action: Arc::new(findings.into_action()),
    }
}

/// The most dangerous action, for what has no text that could be read.
#[must_use]
pub fn opaque(database: &Resource) -> Action {
    let findings = Findings {
        requests: [Request::new("sql:opaque", database.clone())].into(),
        unbounded: true,
        statements: 1,
        ..Findings::default()
    };
    findings.into_action()
}

/// What is to be said of a text that could not be read: nothing is known, so everything is asked for.
fn unparsed(text: &str, unread: &Unread, reading: &Reading, masking: &Masking) -> Statement {
    let mut proof = Proof::new(masking);
    proof.obscure("the statement could not be parsed".into());
    Statement {
        action: Arc::new(opaque(&requests::database(reading))),
        text: Arc::new(if masking.masks() || !unread.may_be_scanned() {
            text::unread(text)
        } else {
            text::placeholders(text)
        }),
        parameters_clear: false,
        parts: vec![Part { answer: proof.answer(), effect: Effect::ChangesCatalogue }],
        unknown_names: false,
        looks_up_names: false,
        unread: Some(unread.to_string()),
    }
}
