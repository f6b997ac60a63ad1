//! SQL of PostgreSQL to actions: what a text would touch, and whether its answer can be proven free of masked columns.
//!
//! Pure: text, catalogue and names in, [`Statement`] out. *Invariant:* whatever is not understood asks for the most
//! dangerous action (`sql:opaque`), and whatever is not proven is [`Answer::Unproven`].

pub mod catalogue;

use std::sync::Arc;

use crate::{
    masking::Masked,
    model::{Action, Denial},
};
use catalogue::Catalogue;

/// What a text (one Query message, or the text of one Parse message) is understood to be.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Everything it would touch, of all its statements, and of the statements that EXECUTE and FETCH carry.
    pub action: Action,
    /// The text for the log, masked.
    pub text: Masked<String>,
    /// Whether parameters and literals may be recorded as they are: the statement touches no masked column.
    pub parameters_clear: bool,
    /// For each of its statements in order, what is known about its answer.
    pub parts: Vec<Part>,
    /// Whether it names a relation or function that the snapshot does not have: with a fresh snapshot it may be understood
    /// better.
    pub unknown_names: bool,
    /// Whether its meaning depends on the session's names.
    pub looks_up_names: bool,
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
    /// It touches no table with masked columns: every output column is clear.
    Clear,
    /// Every output column is a bare column or clear: the origin that the server names for it (table OID and attribute
    /// number) decides. An output column with a masked origin is masked; an origin unknown to the catalogue is refused.
    ByOrigin,
    /// It cannot be proven. In enforce mode the statement is denied with this; in observe mode its answer is not recorded.
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
    /// `DISCARD ALL`: prepared statements, cursors and temporary tables go.
    Discard,
    /// It may change the catalogue: the snapshot is stale once it has run.
    ChangesCatalogue,
    /// `COPY … FROM STDIN`: the server asks for data.
    CopyIn,
    /// `COPY … TO STDOUT`: the answer is a stream of lines, not rows.
    CopyOut,
}

/// The session's names as the classifier needs them: prepared statements and cursors, shared by SQL and protocol.
pub trait Names {
    /// All statements that a prepared name may stand for (several while the server's answer is outstanding).
    fn prepared(&self, name: &str) -> Vec<Arc<Statement>>;
    /// All statements that a cursor or portal name may stand for.
    fn cursor(&self, name: &str) -> Vec<Arc<Statement>>;
}

/// Settings of the session that change how a text is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Name of the target, for resources.
    pub target: String,
    /// Name of the database.
    pub database: String,
    /// Schemas of the search path where proven, else `None`: then an unqualified name means every relation or function
    /// of that name.
    pub search_path: Option<Vec<String>>,
}

/// Understands a text.
pub fn classify(text: &str, reading: &Reading, catalogue: &Catalogue, names: &dyn Names) -> Statement {
    let _ = (text, reading, catalogue, names);
    unimplemented!()
}
