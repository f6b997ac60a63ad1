//! The newer process's part: it takes the log, and appends what the older one's sessions do.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde::Deserialize;

use super::link::{Going, Kept, Word, receive, send};
use crate::{
    config,
    control::{self, OpenSession, Peer},
    limits::Counts,
    protocol,
    recording::{Append as _, Event, Kind, OpenError, Options, Recorder},
};

/// How long the older process may take to close the log, which it may have to wait with for whoever reads it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The process in whose place this one was started.
#[derive(Debug)]
pub struct Predecessor {
    link: UnixStream,
    state: Mutex<State>,
    /// Held while something is said.
    saying: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The processes that still have sessions, the predecessor itself last.
    going: Vec<Going>,
    announced: bool,
}

impl Predecessor {
    /// What this process was started with.
    ///
    /// # Errors
    /// It was not started by another.
    pub fn of_this_process() -> io::Result<Self> {
        let link = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        link.peer_addr()?;
        link.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { link, state: Mutex::default(), saying: Mutex::new(()) })
    }

    /// Says that this process cannot start, and why.
    pub fn fail(&self, reason: &str) {
        // Without it the other one still sees this one end.
        let _ = self.say(&Word::Failed(reason.to_owned()));
    }

    /// Takes the log. To be called when all that can fail before that did not; blocks.
    ///
    /// # Errors
    /// The other process does not give it, or it cannot be opened: the other one then goes on with it.
    pub fn take_log(&self, options: Options) -> Result<Recorder, OpenError> {
        let failed = |source| OpenError::Io { path: "the process before this one".into(), source };
        self.say(&Word::Prepared).map_err(failed)?;
        match receive(&self.link).map_err(failed)? {
            (Word::Yours(going), _) => self.lock().going = going,
            _ => return Err(failed(io::ErrorKind::InvalidData.into())),
        }
        let recorder = Recorder::open(options)?;
        self.say(&Word::Taken).map_err(failed)?;
        self.link.set_read_timeout(None).map_err(failed)?;
        Ok(recorder)
    }

    /// Says that this process serves, and waits a moment until the service manager may be told the same.
    pub(crate) fn serving(&self, drain: Duration) {
        if self.say(&Word::Serving { drain: drain.as_secs() }).is_err() {
            return;
        }
        for _ in 0..100 {
            let state = self.lock();
            if state.announced || state.going.is_empty() {
                return;
            }
            drop(state);
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn say(&self, word: &Word) -> io::Result<()> {
        let _turn = self.saying.lock().unwrap_or_else(PoisonError::into_inner);
        send(&self.link, word, &[])
    }

    /// Appends what it says, until it has ended.
    fn listen(&self, recorder: &Recorder, all: &Predecessors) {
        all.tell(recorder);
        while let Ok((word, body)) = receive(&self.link) {
            match word {
                Word::Append { kind, durable } => {
                    let kind = Kind(kind);
                    // What the agent itself does, this process records; but that one before the other has ended, the other sees.
                    let answer = match kind.is_of_the_agent() && kind != Kind::PROCESS_ENDED {
                        true => Err("a process that has handed the log over records sessions only".into()),
                        false => recorder.append_body(kind, &body, durable).map_err(|error| error.0),
                    };
                    if answer.is_ok() {
                        self.forget_ended(&body);
                    }
                    if self.say(&Word::Appended(answer)).is_err() {
                        break;
                    }
                }
                Word::Going(going) => {
                    self.lock().going = going;
                    all.tell(recorder);
                }
                Word::Announced => self.lock().announced = true,
                other => {
                    tracing::error!(?other, "the process before this one makes no sense");
                    break;
                }
            }
        }
        let _ = self.link.shutdown(std::net::Shutdown::Both);
        let going = std::mem::take(&mut self.lock().going);
        for Going { pid, sessions, .. } in going {
            let lost: Vec<String> = sessions.into_iter().map(|kept| kept.session).collect();
            tracing::info!(pid, lost = lost.len(), "a process before this one has ended");
            if let Some(log) = recorder.log() {
                log.were_lost(lost.iter().cloned());
            }
            if let Err(error) = recorder.append(&Event::ProcessEnded { pid, lost }) {
                tracing::error!(%error, "the end of a process could not be recorded");
            }
        }
        all.forget(self);
        all.tell(recorder);
    }

    /// A session whose end is recorded cannot be lost any more.
    fn forget_ended(&self, body: &[u8]) {
        #[derive(Deserialize)]
        struct Ended<'a> {
            event: &'a str,
            session: &'a str,
        }
        if let Ok(Ended { event: "session-ended", session }) = serde_json::from_slice(body) {
            for going in &mut self.lock().going {
                going.sessions.retain(|kept| kept.session != session);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The processes that this one and those before it were started in the place of, and that still have sessions. Each is told
/// through the one after it.
#[derive(Default)]
pub struct Predecessors(Mutex<Vec<Arc<Predecessor>>>);

impl Predecessors {
    /// Begins to append what a predecessor says.
    ///
    /// # Errors
    /// No thread can be started.
    pub(in super::super) fn serve(
        self: &Arc<Self>,
        predecessor: Arc<Predecessor>,
        recorder: Arc<Recorder>,
    ) -> io::Result<()> {
        self.lock().push(Arc::clone(&predecessor));
        let all = Arc::clone(self);
        let thread = thread::Builder::new().name("predecessor".into());
        thread.spawn(move || predecessor.listen(&recorder, &all)).map(drop)
    }

    /// The processes, the oldest first.
    pub(super) fn going(&self) -> Vec<Going> {
        self.lock().iter().flat_map(|predecessor| predecessor.lock().going.clone()).collect()
    }

    /// Where their sessions lead.
    pub(in super::super) fn destinations(&self) -> BTreeSet<SocketAddr> {
        self.sessions().into_iter().map(|kept| kept.destination).collect()
    }

    /// How many sessions they have with a target.
    pub(in super::super) fn on(&self, target: &str) -> u64 {
        self.sessions().iter().filter(|kept| kept.target == target).count() as u64
    }

    /// Counts for limits of roles, in which their sessions count too.
    pub(in super::super) fn counted(self: &Arc<Self>, roles: &[config::Role]) -> Arc<Counts> {
        let all = Arc::clone(self);
        let having = |kept: &&Kept, role: &str| kept.roles.iter().any(|has| has == role);
        let of = move |role: &str| all.sessions().iter().filter(|kept| having(kept, role)).count() as u64;
        Arc::new(Counts::new(roles, Box::new(of)))
    }

    /// Sessions of a process.
    pub(in super::super) fn of(&self, peer: Peer) -> Vec<OpenSession> {
        let own = |kept: &Kept| i32::try_from(kept.pid) == Ok(peer.pid) && kept.uid == peer.uid;
        let sessions = self.sessions().into_iter().filter(own);
        sessions.map(|Kept { session, target, roles, .. }| OpenSession { session, target, roles }).collect()
    }

    /// How they stand.
    pub(in super::super) fn report(&self) -> Vec<control::Draining> {
        let report = |Going { pid, until, sessions, .. }: Going| control::Draining {
            pid,
            sessions: sessions.len() as u64,
            until,
        };
        self.going().into_iter().map(report).collect()
    }

    /// Whether there are any.
    pub(in super::super) fn are_gone(&self) -> bool {
        self.lock().is_empty()
    }

    /// Has them read the policies again.
    pub(super) fn reload(&self) {
        for predecessor in &*self.lock() {
            // One that is gone decides nothing.
            let _ = predecessor.say(&Word::Reload);
        }
    }

    /// Hands a request on about a session that one of them may have.
    pub(in super::super) fn ask(&self, request: &protocol::Request) {
        for predecessor in &*self.lock() {
            // One that is gone has no sessions.
            let _ = predecessor.say(&Word::Aside(request.clone()));
        }
    }

    fn sessions(&self) -> Vec<Kept> {
        self.going().into_iter().flat_map(|going| going.sessions).collect()
    }

    /// Tells the log, if it is here, which sessions go on elsewhere.
    fn tell(&self, recorder: &Recorder) {
        if let Some(log) = recorder.log() {
            log.go_on_elsewhere(self.sessions().into_iter().map(|kept| kept.session).collect());
        }
    }

    fn forget(&self, gone: &Predecessor) {
        self.lock().retain(|predecessor| !std::ptr::eq(&**predecessor, gone));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Predecessor>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
