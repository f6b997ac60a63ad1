//! Refusals: answered locally where the server is idle, else by a message that the server itself refuses. Either way the server,
//! the names and the transaction are left as by an error of its own.

use bytes::Bytes;

use super::{Client, Expect, Frame, Machine, NativeError, from_client, message, names::Change};
use crate::protocol::postgres::{
    message::ready_for_query,
    sql::{Effect, Statement},
};

/// A text that no server takes: raw parsing fails before anything else is looked at, in every state of a transaction.
const NO_SQL: &str = "refused by Postern";

/// A text that can be read, and fails when it is analysed. In a transaction that has failed the server does not come to that.
const NO_QUERY: &str = "SELECT * /* refused by Postern */";

/// Name of the statement that is never made. Were the client's own used, the server might drop its unnamed statement.
const NO_NAME: &str = "postern refused";

/// The SQLSTATE with which the server refuses whatever does not end a transaction that has failed.
pub(super) const TRANSACTION_FAILED: &str = "25P02";

/// What the message is that is refused: what the server would do over its failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `Query`: it forgets its unnamed statement and portal, and answers up to `ReadyForQuery`.
    Query,
    /// `FunctionCall`: it answers up to `ReadyForQuery`.
    Call,
    /// `Parse` of the unnamed statement: it forgets that one, and drops everything up to `Sync`.
    Parse,
    /// Any other: it drops everything up to `Sync`.
    Other,
}

impl Refused {
    /// What a message is.
    pub fn of(frame: &Frame) -> Self {
        match frame.kind {
            from_client::QUERY => Self::Query,
            from_client::FUNCTION_CALL => Self::Call,
            // The name comes first.
            from_client::PARSE if frame.body().first() == Some(&0) => Self::Parse,
            _ => Self::Other,
        }
    }

    /// Whether its answer ends with `ReadyForQuery`.
    pub fn ends(self) -> bool {
        matches!(self, Self::Query | Self::Call)
    }
}

impl Machine {
    /// Refuses the message at hand. `unless_failed`: the server would rather say that the transaction has failed, if it has.
    pub(super) fn refuse(&mut self, refused: Refused, unless_failed: bool, error: &NativeError) {
        if self.skipping {
            // The server drops the message as it drops everything up to Sync: so is this.
            return;
        }
        if self.quiet() && self.status == b'I' {
            self.show(error.encode());
            match refused {
                Refused::Query => self.committed.forget_unnamed(|_| {}),
                Refused::Parse => self.committed.commit(Change::NoStatement("".into()), |_| {}),
                Refused::Call | Refused::Other => {}
            }
            if refused.ends() {
                self.show(crate::masking::without_values(ready_for_query(b'I')));
            } else {
                self.client = Client::Discarding;
            }
            return;
        }
        self.housekeeping(stand_in(refused, unless_failed));
        self.expect(Expect::Refused { error: error.encode(), refused }, Vec::new(), false);
    }
}

/// What the server refuses in every state of a transaction. `unless_failed`: it says so, if that has failed.
pub(super) fn stand_in(refused: Refused, unless_failed: bool) -> Bytes {
    let text = if unless_failed { NO_QUERY } else { NO_SQL };
    match refused {
        Refused::Query => message::write_query(text),
        // No function has this OID.
        Refused::Call => message::write(from_client::FUNCTION_CALL, |body| body.extend_from_slice(&[0; 10])),
        Refused::Parse => message::write_parse("", text),
        Refused::Other => message::write_parse(NO_NAME, text),
    }
}

/// Whether the server, in a transaction that has failed, refuses a statement for that reason: it can be read, and does not begin by
/// ending the transaction.
pub(super) fn fails_with_transaction(statement: &Statement) -> bool {
    let first = statement.parts.first();
    statement.unread.is_none() && first.is_some_and(|part| !matches!(part.effect, Effect::EndsTransaction))
}
