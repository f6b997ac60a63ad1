//! What holds at every step, whatever the two sides say.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};

use crate::{
    model::Mode,
    protocol::postgres::{
        frame::{self, Frame, client, server},
        machine::refusal::{Refused, stand_in},
    },
    recording::Event,
};

/// Looks at the steps of a machine.
pub struct Watch {
    mode: Mode,
    to_server: BytesMut,
    to_client: BytesMut,
    /// Operations that were permitted and are in the log.
    permitted: usize,
    /// Messages that carry an operation and have gone upstream.
    carried: usize,
    finished: HashSet<u64>,
    closed: bool,
}

impl Watch {
    /// Of a session that begins, in this mode.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
            permitted: 0,
            carried: 0,
            finished: HashSet::new(),
            closed: false,
        }
    }

    /// Whether all is only observed.
    pub fn observes(&self) -> bool {
        self.mode == Mode::Observe
    }

    /// An operation was permitted, and recorded.
    pub fn permitted(&mut self) {
        self.permitted += 1;
    }

    /// Bytes go to the server: whole messages of a client, and no operation that is not in the log.
    pub fn upstream(&mut self, bytes: &Bytes) {
        assert!(!self.closed, "bytes go upstream after the end");
        for Frame { kind, bytes } in messages(&mut self.to_server, bytes, frame::client_limit) {
            let stands_in = |refused| [false, true].iter().any(|failed| stand_in(refused, *failed) == bytes);
            self.carried += match kind {
                client::QUERY => usize::from(!stands_in(Refused::Query)),
                // Where all is only observed, one of a statement that nobody knows is for the server to refuse.
                client::BIND => usize::from(self.mode == Mode::Enforce),
                client::FUNCTION_CALL => usize::from(!stands_in(Refused::Call)),
                client::COPY_DATA => {
                    assert!(self.permitted > 0, "data of a COPY that nothing permitted");
                    0
                }
                _ => 0,
            };
            assert!(self.carried <= self.permitted, "0x{kind:02x} goes upstream without a permit");
        }
    }

    /// Bytes go to the client: messages of a server, and values only in answer to something that was permitted.
    pub fn downstream(&mut self, bytes: &Bytes) {
        assert!(!self.closed, "bytes go to the client after the end");
        for Frame { kind, .. } in messages(&mut self.to_client, bytes, shown_limit) {
            let is_answer = matches!(kind, server::DATA_ROW | client::COPY_DATA | server::FUNCTION_CALL_RESPONSE);
            assert!(!is_answer || self.permitted > 0, "0x{kind:02x} answers nothing that was permitted");
        }
    }

    /// Something is recorded: an operation ends once, and only one that has begun.
    pub fn recorded(&mut self, event: &Event) {
        if let Event::Finished { operation, .. } = event {
            assert!(self.finished.insert(*operation), "operation {operation} ends twice");
            assert!(self.finished.len() <= self.permitted, "operation {operation} ends and was not permitted");
        }
    }

    /// The session is over.
    pub fn closed(&mut self) {
        assert!(!self.closed, "the session ends twice");
        self.closed = true;
    }
}

/// The messages that are whole now.
fn messages(buffer: &mut BytesMut, more: &Bytes, limit: fn(u8) -> Option<usize>) -> Vec<Frame> {
    buffer.extend_from_slice(more);
    std::iter::from_fn(|| frame::take(buffer, limit).expect("a message")).collect()
}

/// As a server's, but rows and data pass in pieces.
fn shown_limit(kind: u8) -> Option<usize> {
    match kind {
        server::DATA_ROW | client::COPY_DATA => Some(frame::DATA),
        _ => frame::server_limit(kind),
    }
}
