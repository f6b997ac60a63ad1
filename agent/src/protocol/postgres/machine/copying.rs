//! COPY, and what is passed on in runs and in pieces: data of which nothing is hidden.
//!
//! While the server copies from the client it reads nothing else. So that it is known what it makes of a message, whatever
//! follows a `COPY … FROM STDIN` waits until the server has asked for the data, or said that it will not; what it would
//! ignore then does not go there at all.

use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::{
    Close, Expect, Frame, Machine, Step,
    client::Outcome,
    frame, from_client,
    operation::{Direction, Operation, Passed},
    pending::Pending,
    server::Fault,
};
use crate::{
    gate::Ongoing,
    masking::without_values,
    protocol::postgres::{frame::server, message},
};

/// What the server does with `CopyData` of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Copying {
    /// It drops it.
    #[default]
    Nothing,
    /// It is not known yet: a statement that copies from the client is on its way.
    Awaited,
    /// It takes it. `synced`: the last that the client has sent is a `Sync`.
    From {
        /// See there.
        synced: bool,
    },
}

/// A `CopyData` of the client that has come only in part.
#[derive(Debug, Default)]
pub(super) struct Rest {
    left: usize,
    /// Leave for it; `None` if it is dropped.
    to: Option<Ongoing>,
}

impl Rest {
    /// Whether the server has a part of it.
    pub(super) fn is_passing(&self) -> bool {
        self.left > 0 && self.to.is_some()
    }
}

impl Machine {
    /// Whether data of the client's has come only in part.
    pub(super) fn rest_of_data(&self) -> bool {
        self.rest.left > 0
    }

    /// Deals with `CopyData` that the client sends next; `None` if something else comes, and else whether anything happened.
    pub(super) fn client_data(&mut self, now: Instant) -> Result<Option<bool>, frame::FrameError> {
        if self.waiting.is_some() {
            return Ok(None);
        }
        if self.rest.left == 0 {
            let Ok(Some((from_client::COPY_DATA, _))) = frame::head(&self.from_client, frame::client_limit) else {
                return Ok(None);
            };
            self.rest.to = match &mut self.copying {
                Copying::Awaited => {
                    self.stalled = true;
                    return Ok(Some(true));
                }
                Copying::From { synced } => {
                    *synced = false;
                    self.queue.0.front_mut().and_then(|pending| pending.operation(|operation| operation.ongoing))
                }
                Copying::Nothing => None,
            };
        } else if self.from_client.is_empty() {
            if self.ended {
                // Whatever else went there would be taken for the rest of it.
                self.close(Close::Left);
            }
            return Ok(Some(self.ended));
        }
        let Some(to) = self.rest.to else {
            let run = frame::run(&self.from_client, from_client::COPY_DATA, self.rest.left, |_| (), |_| true)?;
            self.rest.left = run.left;
            self.from_client.advance(run.bytes);
            return Ok(Some(true));
        };
        let accounted = matches!(self.copying, Copying::From { .. });
        let Self { queue, from_client, rest, .. } = self;
        let operation = queue.0.front_mut().filter(|_| accounted);
        let copied =
            operation.and_then(|pending| pending.operation(|operation| operation.copied(from_client, &mut rest.left)));
        let (bytes, events) = match copied {
            Some(Ok(copied)) => copied,
            Some(Err(Passed::Beyond(limit))) => {
                self.strike(limit, now);
                return Ok(Some(true));
            }
            Some(Err(Passed::Malformed(fault))) => return Err(fault),
            // The server has given up in the middle of a message, and still reads it to its end.
            Some(Err(Passed::Unproven)) | None => (whole(from_client, &mut rest.left), Vec::new()),
        };
        self.steps.push_back(Step::ToServer(to.data(bytes)));
        self.record(events);
        Ok(Some(true))
    }

    /// What becomes of another message of the client's while something copies, or may; `None` if nothing does.
    pub(super) fn while_copying(&mut self, frame: Frame) -> Result<Outcome, Frame> {
        match (&mut self.copying, frame.kind) {
            (Copying::Awaited, _) => Ok(Outcome::Wait(frame)),
            (Copying::From { .. }, from_client::COPY_DONE | from_client::COPY_FAIL) => {
                if let Some(pending) = self.queue.0.front_mut()
                    && let Some((ongoing, again)) =
                        pending.operation(|operation| (operation.ongoing, operation.will_copy_in(1)))
                {
                    pending.copies_in = again;
                    self.copying = if again { Copying::Awaited } else { Copying::Nothing };
                    self.steps.push_back(Step::ToServer(ongoing.data(frame.bytes)));
                }
                Ok(Outcome::Done)
            }
            (Copying::From { synced }, from_client::SYNC) => {
                *synced = true;
                Ok(Outcome::Done)
            }
            (Copying::From { .. }, from_client::FLUSH) => Ok(Outcome::Done),
            (Copying::From { .. }, from_client::TERMINATE) => {
                // To the server this would be an error like anything else that is no data. It keeps nothing of the copy once
                // the connection ends.
                self.close(if self.ended { Close::Left } else { Close::Terminated });
                Ok(Outcome::Done)
            }
            (Copying::From { .. }, kind) => {
                self.broken(&format!("unexpected message type 0x{kind:02X} during COPY from stdin"));
                Ok(Outcome::Done)
            }
            // Left over from a COPY that failed or was refused: the server drops these, too.
            (_, from_client::COPY_DONE | from_client::COPY_FAIL) => Ok(Outcome::Done),
            (Copying::Nothing, _) => Err(frame),
        }
    }

    /// The server begins to copy: if the running statement is one that does, or all is only observed.
    pub(super) fn copy_begins(&mut self, frame: Frame, direction: Direction) -> Result<(), Fault> {
        let text = message::copies_text(frame.body())?;
        let observes = self.observes();
        let Self { queue, start, .. } = self;
        let pending = queue.0.front_mut().ok_or(Fault::Copy)?;
        let begun = pending.operation(|operation| {
            let fits = operation.copying().is_none() && (operation.may_copy(direction) || observes);
            fits.then(|| {
                let flushed = operation.flush();
                operation.copies(&*start.view, start.mode, direction, text);
                flushed
            })
        });
        let flushed = begun.flatten().ok_or(Fault::Copy)?;
        if direction != Direction::Out {
            pending.copies_in = true;
            self.copying = Copying::From { synced: false };
        }
        self.record(flushed);
        self.show(without_values(frame.bytes));
        if direction == Direction::In {
            self.copies_while_struck();
        }
        Ok(())
    }

    /// The server has copied everything.
    pub(super) fn copy_done(&mut self, frame: Frame) -> Result<(), Fault> {
        let done = |pending: &mut Pending| pending.operation(Operation::copy_done);
        if self.queue.0.front_mut().and_then(done) != Some(true) {
            return Err(Fault::Unexpected);
        }
        if !self.is_struck() {
            self.show(without_values(frame.bytes));
        }
        Ok(())
    }

    /// The running statement of the oldest message has ended, well or not.
    pub(super) fn copy_over(&mut self, failed: bool) {
        let Some(pending) = self.queue.0.front_mut().filter(|pending| pending.copies_in) else { return };
        // Another one of its text may copy from the client, too.
        pending.copies_in = !failed && pending.expect.will_copy_in();
        let unread = self.copying == Copying::From { synced: true };
        self.copying = if pending.copies_in { Copying::Awaited } else { Copying::Nothing };
        if unread {
            // The server had stopped reading data when this came, so that it would answer it.
            self.skipping = false;
            self.housekeeping(message::write_bare(from_client::SYNC));
            self.expect(Expect::Sync, Vec::new(), false);
        }
    }

    /// Passes on what of the server's needs not be looked into; whether there was any.
    pub(super) fn server_data(&mut self) -> Result<bool, Fault> {
        if self.from_server.is_empty() {
            return Ok(false);
        }
        if self.withheld.1 > 0 {
            self.withhold()?;
            return Ok(true);
        }
        let kind = if self.server_rest.1 > 0 { self.server_rest.0 } else { self.from_server[0] };
        let Self { queue, from_server, server_rest: (of, left), .. } = self;
        let Some(pending) = queue.0.front_mut() else { return Ok(false) };
        let (shown, events) = match kind {
            server::DATA_ROW => match pending.operation(|operation| operation.rows(from_server, left)) {
                Some(rows) => match rows? {
                    Some(rows) => (rows, Vec::new()),
                    None => return Ok(false),
                },
                None => return Ok(false),
            },
            from_client::COPY_DATA => {
                let data = pending.operation(|operation| {
                    let copies = matches!(operation.copying(), Some(Direction::Out | Direction::Both));
                    copies.then(|| operation.data(from_server, left))
                });
                data.flatten().ok_or(Fault::Unexpected)??
            }
            _ => return Ok(false),
        };
        *of = kind;
        if shown.shown().is_empty() {
            // Less than a header.
            return Ok(false);
        }
        self.record(events);
        self.show(shown);
        Ok(true)
    }
}

impl Machine {
    /// Drops rows or data of the server's that nobody is to see.
    pub(super) fn withhold(&mut self) -> Result<(), Fault> {
        let (kind, left) = match self.withheld {
            (kind, left) if left > 0 => (kind, left),
            _ => match self.from_server.first() {
                Some(&kind @ (server::DATA_ROW | from_client::COPY_DATA)) => (kind, 0),
                _ => return Ok(()),
            },
        };
        let run = frame::run(&self.from_server, kind, left, |_| (), |_| true).map_err(Passed::from)?;
        self.from_server.advance(run.bytes);
        self.withheld = (kind, run.left);
        Ok(())
    }
}

/// The rest of a message, as far as it has come.
fn whole(buffer: &mut BytesMut, left: &mut usize) -> bytes::Bytes {
    let bytes = buffer.split_to((*left).min(buffer.len())).freeze();
    *left -= bytes.len();
    bytes
}

impl From<Passed> for Fault {
    fn from(passed: Passed) -> Self {
        match passed {
            Passed::Malformed(_) => Self::Malformed,
            Passed::Beyond(limit) => Self::Beyond(limit),
            Passed::Unproven => Self::Undescribed,
        }
    }
}
