//! What a role may use at most.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// What is limited: the names are those of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Rows that one statement shows.
    Rows,
    /// Bytes of rows and of copied data that one statement moves.
    Bytes,
    /// Milliseconds that one statement takes.
    StatementTime,
    /// Sessions that are open at a time.
    Sessions,
    /// Statements that begin within a minute.
    StatementsPerMinute,
}

impl Measure {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Bytes => "bytes",
            Self::StatementTime => "statement_time",
            Self::Sessions => "sessions",
            Self::StatementsPerMinute => "statements_per_minute",
        }
    }
}

/// A limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What of.
    #[serde(rename = "limit")]
    pub measure: Measure,
    /// Name of the role that has it.
    pub role: String,
    /// So much and no more.
    pub most: u64,
}

impl Limit {
    /// What the client can do about it.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self.measure {
            Measure::Rows => "Ask for less at a time: add a LIMIT or a condition, or FETCH from a cursor.",
            Measure::Bytes => "Ask for fewer rows or columns at a time, or copy in parts.",
            Measure::StatementTime => "Ask for less at a time, or have the operator of Postern raise the limit.",
            Measure::Sessions => "Close a session of this role, or have the operator of Postern raise the limit.",
            Measure::StatementsPerMinute => "Wait a minute, and send fewer statements. COMMIT and ROLLBACK still work.",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measure, role, most } = self;
        write!(f, "limit {} of role \"{role}\" is reached: ", measure.name())?;
        match measure {
            Measure::Rows => write!(f, "a statement shows at most {most} rows"),
            Measure::Bytes => write!(f, "a statement moves at most {most} bytes"),
            Measure::StatementTime => write!(f, "a statement takes at most {:?}", Duration::from_millis(*most)),
            Measure::Sessions => write!(f, "at most {most} sessions are open at a time"),
            Measure::StatementsPerMinute => write!(f, "at most {most} statements run in a minute"),
        }
    }
}
