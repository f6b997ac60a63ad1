//! Texts to trees, within bounds of time and memory: the parser is the server's own, and made for clients that may sink
//! their own session only.

use std::{fmt, panic};

use pg_query::protobuf::ParseResult;

/// Longer texts are not parsed: a tree takes some hundred times the memory of its text, and seconds to walk.
pub(super) const LONGEST_PARSED: usize = 256 << 10;

/// What the scanner may have to do for runs of operator characters: it reads each to its end, takes a character or two
/// off it, and begins again, so that the work is the square of its length. One run may have 4,096 characters, or a
/// thousand runs 128 each.
const MOST_RESCANNED: usize = 16 << 20;

/// Characters of the parser's complaint that are passed on: it quotes what is left of a text where a quote is not closed.
const LONGEST_COMPLAINT: usize = 200;

/// Why there is no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Longer than [`LONGEST_PARSED`].
    TooLong,
    /// It would take the scanner too long.
    TooSlow,
    /// Nested too deeply to be decoded.
    TooDeep,
    /// The parser does not take it.
    Syntax(String),
}

impl Unread {
    /// Whether the scanner may be let loose on the text.
    pub(super) fn may_be_scanned(&self) -> bool {
        matches!(self, Self::TooDeep | Self::Syntax(_))
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "it is longer than {} KiB", LONGEST_PARSED >> 10),
            Self::TooSlow => f.write_str("it has too long runs of operator characters"),
            Self::TooDeep => f.write_str("it is nested too deeply"),
            Self::Syntax(complaint) => write!(f, "it does not parse: {complaint}"),
        }
    }
}

/// The tree of a text.
///
/// The decoder stops at 100 levels of its encoding: some 50 chained operators or calls, 46 joins, 94 set operations, 16
/// scalar subqueries in each other. AND, OR, lists and rows do not nest.
///
/// # Errors
/// [`Unread`]
pub(super) fn parse(text: &str) -> Result<ParseResult, Unread> {
    if text.len() > LONGEST_PARSED {
        return Err(Unread::TooLong);
    }
    if rescanned(text) > MOST_RESCANNED {
        return Err(Unread::TooSlow);
    }
    // The parser is C code in a wrapper with assertions of its own: should one fail, the text is one that does not
    // parse.
    match panic::catch_unwind(|| pg_query::parse(text, 0)) {
        Ok(Ok(result)) => Ok(result.protobuf),
        Ok(Err(pg_query::Error::Parse(complaint))) => {
            Err(Unread::Syntax(complaint.chars().take(LONGEST_COMPLAINT).collect()))
        }
        Ok(Err(_)) | Err(_) => Err(Unread::TooDeep),
    }
}

/// The sum of the squares of the lengths of runs of operator characters, those in literals and comments included.
fn rescanned(text: &str) -> usize {
    let operators = |byte: &u8| b"~!@#^&|`?+-*/%<>=".contains(byte);
    text.as_bytes().split(|byte| !operators(byte)).map(|run| run.len() * run.len()).sum()
}
