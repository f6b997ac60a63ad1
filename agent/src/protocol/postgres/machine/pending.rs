//! What the server owes: one entry for each message that went upstream and is answered, in order.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    names::{Change, Committed, Count, Lookup, Portal, Prepared},
    operation::Operation,
    refusal::Refused,
};
use crate::masking::Masked;

/// Messages that may be outstanding. Beyond it the client is not read until the server has answered some; a client that
/// sends this many without a Sync is sent on its way by a Flush of ours.
pub const PENDING: usize = 4_096;

/// What a message that went upstream is answered with.
#[derive(Debug)]
pub enum Expect {
    /// `ParseComplete`
    Parse,
    /// `BindComplete`
    Bind,
    /// `CloseComplete`
    Close,
    /// `ParameterDescription`, then `RowDescription` or `NoData`. What is described, where it matters.
    DescribeStatement(Option<Arc<Prepared>>, Vec<u32>),
    /// `RowDescription` or `NoData`. `ours`: we asked, so the client does not see it.
    DescribePortal {
        /// The portal, unless SQL's DECLARE made it.
        portal: Option<Arc<Portal>>,
        /// The client did not ask.
        ours: bool,
    },
    /// Rows, then `CommandComplete`, `EmptyQueryResponse` or `PortalSuspended`.
    Execute(Arc<Portal>),
    /// The answers to a text of SQL, then `ReadyForQuery`.
    Query(Box<Operation>),
    /// `ReadyForQuery`
    Sync,
    /// An error, which is replaced by ours; then, if it stands for a message that is answered so far, `ReadyForQuery`.
    Refused {
        /// Our error.
        error: Masked<Bytes>,
        /// What it stands for.
        refused: Refused,
    },
    /// `FunctionCallResponse`, then `ReadyForQuery`.
    Call(Box<Operation>),
}

/// An entry.
#[derive(Debug)]
pub struct Pending {
    /// What is expected.
    pub expect: Expect,
    /// Number of the pipeline, a run of messages up to `Sync` or `Query`, that it belongs to.
    pub pipeline: u64,
    /// What it does to the names when it succeeds: for a `Query` the first belongs to its first statement, and so on.
    pub changes: VecDeque<Vec<Change>>,
    /// It changes the catalogue if it succeeds.
    pub catalogue: bool,
    /// A statement of it copies from the client, and its data has not ended yet. There is never more than one such entry.
    pub copies_in: bool,
    /// When the server came to it, or to its running statement, if that is of interest.
    pub since: Option<Instant>,
    /// It has taken too long, and that was noted.
    pub late: bool,
}

impl Expect {
    /// Whether its answer ends with `ReadyForQuery`.
    pub fn ends(&self) -> bool {
        match self {
            Self::Query(_) | Self::Call(_) | Self::Sync => true,
            Self::Refused { refused, .. } => refused.ends(),
            _ => false,
        }
    }

    /// Whether statements run for it.
    pub fn runs_statement(&self) -> bool {
        matches!(self, Self::Execute(_) | Self::Query(_) | Self::Call(_))
    }

    /// Whether the server sends its answer when it has it, and not only when it is asked for.
    pub fn is_answered_at_once(&self) -> bool {
        self.runs_statement() || self.ends()
    }

    /// Whether a statement of it that has not completed yet copies from the client.
    pub fn will_copy_in(&self) -> bool {
        match self {
            Self::Query(operation) => operation.will_copy_in(0),
            Self::Execute(portal) => portal.bound.as_ref().is_some_and(|bound| bound.operation().will_copy_in(0)),
            _ => false,
        }
    }
}

impl Pending {
    /// Does something with the operation that it carries out, if it does one.
    pub fn operation<T>(&mut self, act: impl FnOnce(&mut Operation) -> T) -> Option<T> {
        match &mut self.expect {
            Expect::Query(operation) | Expect::Call(operation) => Some(act(operation)),
            Expect::Execute(portal) => portal.bound.as_ref().map(|bound| act(&mut bound.operation())),
            _ => None,
        }
    }

    /// Whether the server forgets its unnamed statement over it if it fails: it has by then, to make another.
    pub fn replaces_unnamed(&self) -> bool {
        match &self.expect {
            Expect::Refused { refused, .. } => *refused == Refused::Parse,
            Expect::Parse => {
                let unnamed = |change: &Change| matches!(change, Change::Statement(name, _) if name.is_empty());
                self.changes.iter().flatten().any(unnamed)
            }
            _ => false,
        }
    }

    /// How long the server was at it before.
    pub fn spent(&self) -> Duration {
        match &self.expect {
            Expect::Execute(portal) => portal.bound.as_ref().map_or(Duration::ZERO, |bound| bound.operation().spent),
            _ => Duration::ZERO,
        }
    }

    /// Whether the server forgets its unnamed statement and portal over it, as over every `Query`.
    pub fn forgets_unnamed(&self) -> bool {
        matches!(self.expect, Expect::Query(_) | Expect::Refused { refused: Refused::Query, .. })
    }
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue(pub VecDeque<Pending>);

impl Queue {
    /// Whether the server is bound to come to a `ReadyForQuery` by itself.
    pub fn owes_ready(&self) -> bool {
        self.0.iter().any(|pending| pending.expect.ends())
    }

    /// What a statement's name stands for, for a message of `pipeline`: its latest change in that pipeline, since it runs
    /// only if that one has succeeded; else the committed one, unless an earlier pipeline may still change it.
    pub fn statement(&self, name: &str, pipeline: u64, committed: &Committed) -> Lookup<Arc<Prepared>> {
        self.look(name, pipeline, committed.statement(name), |change| match change {
            Change::Statement(changed, prepared) if **changed == *name => Some(Some(prepared)),
            Change::NoStatement(changed) if **changed == *name => Some(None),
            Change::NoStatements if !name.is_empty() => Some(None),
            _ => None,
        })
    }

    /// The same for a portal.
    pub fn portal(&self, name: &str, pipeline: u64, committed: &Committed) -> Lookup<Arc<Portal>> {
        self.look(name, pipeline, committed.portal(name), |change| match change {
            Change::Portal(changed, portal) if **changed == *name => Some(Some(portal)),
            Change::NoPortal(changed) if **changed == *name => Some(None),
            Change::NoPortals => Some(None),
            _ => None,
        })
    }

    fn look<'a, T: Clone + 'a>(
        &'a self,
        name: &str,
        pipeline: u64,
        committed: Option<&'a T>,
        concerns: impl Fn(&'a Change) -> Option<Option<&'a T>>,
    ) -> Lookup<T> {
        for pending in self.0.iter().rev() {
            if name.is_empty()
                && (pending.forgets_unnamed() || pending.replaces_unnamed() && pending.changes.is_empty())
            {
                return Lookup::Unsettled;
            }
            let Some(found) = pending.changes.iter().rev().flat_map(|changes| changes.iter().rev()).find_map(&concerns)
            else {
                continue;
            };
            return match found {
                _ if pending.pipeline != pipeline => Lookup::Unsettled,
                Some(found) => Lookup::Found(found.clone()),
                None => Lookup::Missing,
            };
        }
        committed.map_or(Lookup::Missing, |found| Lookup::Found(found.clone()))
    }

    /// What is kept under names once everything that is on its way has succeeded.
    pub fn count(&self, committed: &Committed) -> Count {
        let changes = self.0.iter().flat_map(|pending| pending.changes.iter().flatten());
        changes.fold(committed.count(), Count::announced)
    }
}
