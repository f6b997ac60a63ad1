//! One proxy takes another's place, and no connection is refused for it: [`Proxy::hand_over`] is the older one's part,
//! [`Predecessor`] the newer one's.
//!
//! In order: the newer one is started and does all that can fail; the older one closes the log and the newer one opens it; the
//! newer one gets listeners from the warden, to which new connections are led from one moment to the next; the older one accepts
//! what was on its way to it, and then keeps its sessions until they end. What they do is recorded by the newer one.
//!
//! *Invariant:* at every moment one of the two has the log, or whoever appends waits. Without the newer one the older one's
//! sessions end.

mod link;
mod predecessor;
mod successor;

use std::{
    ffi::OsString,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

pub use self::predecessor::Predecessor;
use self::{
    link::{Going, Kept},
    predecessor::Predecessors,
    successor::Successor,
};
use super::{Proxy, daemon::ProxyError};

/// The option with which the newer one is started.
pub const TAKE_OVER: &str = "--take-over";

/// Time between two looks at whether an older process may end.
const LOOK: Duration = Duration::from_millis(100);

/// Time after which the newer one is told of the older one's sessions again, if they have changed.
const TELL: Duration = Duration::from_millis(500);

/// How a process like this one is started.
#[derive(Debug)]
pub struct Launch {
    /// The program's file, as it was called when this process began: another may be there now.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// How it stands with handing over.
pub struct Handover {
    launch: Launch,
    /// Held while it is tried.
    turn: Mutex<()>,
    /// The processes before this one that still have sessions.
    predecessors: Arc<Predecessors>,
    /// The process in this one's place.
    successor: watch::Sender<Option<Arc<Successor>>>,
    /// Another process listens: what is on its way here is accepted, and nothing after it.
    succeeded: watch::Sender<bool>,
    /// Something may still arrive here.
    accepting: watch::Sender<bool>,
    /// Why the open sessions must end.
    ending: watch::Sender<Option<&'static str>>,
}

/// Why sessions end, as their clients are told.
pub(super) mod ending {
    /// The agent was stopped.
    pub const STOPPED: &str = "the agent ends";
    /// The drain limit.
    pub const LATE: &str = "the agent was restarted, and the time for sessions from before is over";
    /// The records of these sessions have nowhere to go.
    pub const UNRECORDED: &str = "the agent was restarted, and the process that records has ended";
    /// The policies changed, and this process could not take them.
    pub const POLICIES: &str = "the agent was restarted, and its policies have changed since";
}

impl Handover {
    pub(super) fn new(launch: Launch) -> Self {
        Self {
            launch,
            turn: Mutex::new(()),
            predecessors: Arc::default(),
            successor: watch::Sender::new(None),
            succeeded: watch::Sender::new(false),
            accepting: watch::Sender::new(true),
            ending: watch::Sender::new(None),
        }
    }

    /// The processes before this one.
    pub(super) fn predecessors(&self) -> &Arc<Predecessors> {
        &self.predecessors
    }

    /// To know when another process listens in this one's place.
    pub(super) fn succeeded(&self) -> watch::Receiver<bool> {
        self.succeeded.subscribe()
    }

    /// Another process listens in this one's place.
    pub(super) fn note_succeeded(&self) {
        self.succeeded.send_replace(true);
    }

    /// Nothing can arrive here any more.
    pub(super) fn note_let_go(&self) {
        self.accepting.send_replace(false);
    }

    /// Pid of the process in this one's place.
    pub(super) fn successor(&self) -> Option<u32> {
        self.successor.borrow().as_ref().map(|successor| successor.pid())
    }

    /// Has the open sessions end, each in its own protocol, with this reason if there was none before.
    pub(super) fn end_sessions(&self, why: &'static str) {
        self.ending.send_if_modified(|ending| {
            let is_first = ending.is_none();
            ending.get_or_insert(why);
            is_first
        });
    }

    /// Waits until the open sessions must end.
    pub(super) async fn ending(&self) -> &'static str {
        let mut ending = self.ending.subscribe();
        match ending.wait_for(Option::is_some).await.map(|why| *why) {
            Ok(Some(why)) => why,
            _ => ending::STOPPED,
        }
    }
}

impl Proxy {
    /// Returns once this process has handed over and is not needed any more.
    ///
    /// # Errors
    /// It has to end before its sessions do: the process that has its place is gone.
    pub(super) async fn drained(&self) -> Result<(), ProxyError> {
        let handover = &self.handover;
        let mut successor = handover.successor.subscribe();
        let Ok(Some(successor)) = successor.wait_for(Option::is_some).await.map(|successor| successor.clone()) else {
            return Ok(());
        };
        let (mut told, mut quiet) = (Vec::new(), Duration::ZERO);
        loop {
            tokio::select! {
                () = successor.gone() => {
                    handover.end_sessions(ending::UNRECORDED);
                    return Err(ProxyError::SuccessorGone);
                }
                why = handover.ending() => {
                    tracing::warn!(why, "sessions that are still open are ended");
                    return Ok(());
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let going = self.going(&successor);
            if !*handover.accepting.borrow() && self.open.is_idle() && handover.predecessors.are_gone() {
                successor.tell(&going);
                tracing::info!("the last session has ended");
                return Ok(());
            }
            if successor.until().is_some_and(|until| until <= Timestamp::now()) {
                handover.end_sessions(ending::LATE);
                continue;
            }
            quiet += LOOK;
            if quiet >= TELL && going != told {
                quiet = Duration::ZERO;
                successor.tell(&going);
                told = going;
            }
        }
    }

    /// What the newer process is to know: the processes before this one that still have sessions, and this one, last.
    fn going(&self, successor: &Successor) -> Vec<Going> {
        let mut going = self.handover.predecessors.going();
        going.push(self.going_here(successor.until()));
        going
    }

    fn going_here(&self, until: Option<Timestamp>) -> Going {
        let sessions = self.open.map(|subject| Kept {
            session: subject.session.clone(),
            target: subject.target.clone(),
            roles: subject.principal.roles.clone(),
            destination: subject.principal.flow.destination,
            pid: subject.principal.process.pid,
            uid: subject.principal.process.uid,
        });
        Going { pid: std::process::id(), until, accepting: *self.handover.accepting.borrow(), sessions }
    }

    /// Reads the policies again, here and in the processes before this one.
    pub(super) fn reload(&self) -> Result<usize, crate::policy::LoadErrors> {
        let count = self.policy.reload()?;
        self.handover.predecessors.reload();
        Ok(count)
    }
}
