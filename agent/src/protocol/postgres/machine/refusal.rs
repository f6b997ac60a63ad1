//! Refusals: answered locally where the server is idle, else by a message that the server itself refuses.

use bytes::Bytes;

use super::{Client, Expect, Machine, NativeError, message};
use crate::protocol::postgres::message::ready_for_query;

/// A text that no server takes: raw parsing fails before anything else is looked at, in every state of a transaction.
pub(super) const NO_SQL: &str = "refused by Postern";

/// Name of the statement that is never made. Were the client's own used, the server might drop its unnamed statement.
const NO_NAME: &str = "postern refused";

impl Machine {
    /// Refuses the message at hand; `simple`: a `Query`, which is answered up to `ReadyForQuery`.
    pub(super) fn refuse(&mut self, simple: bool, error: &NativeError) {
        if self.skipping {
            // The server drops the message as it drops everything up to Sync: so is this.
            return;
        }
        if self.quiet() && self.status == b'I' {
            self.show(error.encode());
            if simple {
                // The server would forget them, too, over a Query that fails.
                self.committed.forget_unnamed();
                self.show(crate::masking::without_values(ready_for_query(b'I')));
            } else {
                self.client = Client::Discarding;
            }
            return;
        }
        self.housekeeping(stand_in(simple));
        self.expect(Expect::Refused { error: error.encode(), simple }, Vec::new(), false);
    }
}

/// What the server refuses in every state of a transaction.
pub(super) fn stand_in(simple: bool) -> Bytes {
    if simple { message::write_query(NO_SQL) } else { message::write_parse(NO_NAME, NO_SQL) }
}
