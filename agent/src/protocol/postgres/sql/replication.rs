//! Replication connections: their commands, which are no SQL, and what they ask for beside what SQL asks for there.

use super::{Answer, Effect, Part, Reading, Statement, requests, text};
use crate::model::{Action, Request, Resource};

/// What a replication connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replication {
    /// The log of the whole server. There is no database, and no SQL.
    Physical,
    /// The changes of one database, where SQL is understood as well.
    Logical,
}

/// First words that the server takes for commands of replication alone. `SHOW` is read as SQL, and asks for the same.
const COMMANDS: [&str; 9] = [
    "ALTER_REPLICATION_SLOT",
    "BASE_BACKUP",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "IDENTIFY_SYSTEM",
    "READ_REPLICATION_SLOT",
    "START_REPLICATION",
    "TIMELINE_HISTORY",
    "UPLOAD_MANIFEST",
];

impl Replication {
    /// By the value of `replication` in a StartupMessage, as the server reads it. `Some(None)`: none; `None`: it is no value.
    #[must_use]
    pub fn named(value: &str) -> Option<Option<Self>> {
        let value = value.to_ascii_lowercase();
        // A boolean may be cut short, as long as it is clear which.
        let is = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
        match value.as_str() {
            "database" => Some(Some(Self::Logical)),
            "1" => Some(Some(Self::Physical)),
            "0" => Some(None),
            _ if is("true", 1) || is("yes", 1) || is("on", 2) => Some(Some(Self::Physical)),
            _ if is("false", 1) || is("no", 1) || is("off", 2) => Some(None),
            _ => None,
        }
    }

    /// As the value of `replication`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Physical => "true",
            Self::Logical => "database",
        }
    }
}

/// What a replication connection asks for itself: all that the stream may hold.
#[must_use]
pub fn replicating(replication: Replication, reading: &Reading) -> Action {
    requests::action([request(replication, reading)], [])
}

/// The same for each of its commands.
pub(super) fn request(replication: Replication, reading: &Reading) -> Request {
    let of = match replication {
        Replication::Physical => Resource::target(&reading.target),
        Replication::Logical => requests::database(reading),
    };
    Request::new("sql:replication", of)
}

/// What a command of replication is understood to be; `None` if the server would not take the text for one.
pub(super) fn command(replication: Replication, text: &str, reading: &Reading) -> Option<Statement> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\r', '\x0c', '\x0b']);
    let end = text.find(|letter: char| !letter.is_ascii_alphabetic() && letter != '_').unwrap_or(text.len());
    let known = COMMANDS.iter().any(|command| command.eq_ignore_ascii_case(&text[..end]));
    known.then(|| Statement {
        action: replicating(replication, reading).into(),
        text: text::whole(text).into(),
        parameters_clear: false,
        parts: vec![Part { answer: Answer::Clear, effect: Effect::Replicates }],
        unknown_names: false,
        looks_up_names: false,
        unread: None,
    })
}
