//! The older process's part: it starts the newer one, hands the log over, and has its records appended there.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{runtime::Handle, sync::watch};

use super::{
    Going, Launch, Proxy, TAKE_OVER, ending,
    link::{Word, receive, send},
};
use crate::{
    protocol,
    recording::{AppendError, HandOverError, Keeper, Kind},
};

/// How long the newer process may take for each step of its start.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long processes before this one may take to accept what was on its way to them.
const LETTING_GO: Duration = Duration::from_secs(10);

/// The process in this one's place.
pub struct Successor {
    pid: u32,
    link: UnixStream,
    /// Answers to appends, one for each. Who holds it appends.
    answers: Mutex<mpsc::Receiver<Result<u64, String>>>,
    /// Held while something is said.
    saying: Mutex<()>,
    until: Mutex<Option<Timestamp>>,
    gone: watch::Sender<bool>,
}

impl Proxy {
    /// Starts the program as it is installed now in this one's place, and returns its pid once it serves. Blocks for a second or
    /// so; who appends a record meanwhile waits for the part of it in which the log changes hands.
    ///
    /// # Errors
    /// Why it did not come to that. Unless it says that the newer process has gone, this one goes on as before.
    pub(in super::super) fn hand_over(self: &Arc<Self>) -> Result<u32, String> {
        let handover = &self.handover;
        let Ok(_turn) = handover.turn.try_lock() else { return Err("a restart is under way already".into()) };
        if let Some(pid) = handover.successor() {
            return Err(format!("this process has been replaced by process {pid} already; ask again"));
        }
        let started = Instant::now();
        while handover.predecessors.going().iter().any(|going| going.accepting) {
            if started.elapsed() > LETTING_GO {
                return Err("the process before this one still accepts what was on its way to it; try again".into());
            }
            thread::sleep(Duration::from_millis(50));
        }

        let (mut child, link) =
            start(&handover.launch).map_err(|error| format!("{}: {error}", handover.launch.program.display()))?;
        let pid = child.id();
        tracing::info!(pid, program = %handover.launch.program.display(), "a process was started to take this one's place");
        let prepared = hear(&link).and_then(|word| match word {
            Word::Prepared => Ok(()),
            _ => Err("it speaks another language".into()),
        });
        if let Err(reason) = prepared {
            return Err(failed(&mut child, reason));
        }
        // Names are followed by one process at a time: what they stood for last is kept in a file.
        self.following.send_replace(false);
        let (ready, serving) = mpsc::channel();
        let handed = self.log.hand_over(pid, || match self.give_log(pid, link, ready) {
            Ok(keeper) => Ok(keeper as Arc<dyn Keeper>),
            // It must not have the log when this process opens it again.
            Err(reason) => Err(failed(&mut child, reason)),
        });
        if let Err(error) = handed {
            self.following.send_replace(true);
            if let HandOverError::Lost(..) = error {
                tracing::error!(%error, "nothing can be recorded any more; everything is refused");
            }
            return Err(failed(&mut child, error.to_string()));
        }
        tracing::info!(pid, "the log was handed over");
        // From here on there is no way back: without it nothing can be recorded.
        match serving.recv_timeout(PATIENCE) {
            Ok(()) => Ok(pid),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                Err(format!("process {pid} took over, and is late in testing itself; `postern status` says how it is"))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                Err(format!("process {pid} took over and then ended; the agent's messages say why"))
            }
        }
    }

    /// Gives the log, which is closed, to the newer process, and begins to listen to it.
    fn give_log(
        self: &Arc<Self>,
        pid: u32,
        link: UnixStream,
        ready: mpsc::Sender<()>,
    ) -> Result<Arc<Successor>, String> {
        let mut going = self.handover.predecessors.going();
        going.push(self.going_here(None));
        send(&link, &Word::Yours(going), &[]).map_err(gone)?;
        match hear(&link)? {
            Word::Taken => {}
            _ => return Err("it speaks another language".into()),
        }
        link.set_read_timeout(None).map_err(gone)?;
        let (sender, answers) = mpsc::channel();
        let successor = Arc::new(Successor {
            pid,
            link,
            answers: Mutex::new(answers),
            saying: Mutex::new(()),
            until: Mutex::new(None),
            gone: watch::Sender::new(false),
        });
        let (proxy, listening, runtime) = (Arc::clone(self), Arc::clone(&successor), Handle::current());
        thread::Builder::new()
            .name("handover".into())
            .spawn(move || listening.listen(&proxy, &runtime, &sender, &ready))
            .map_err(gone)?;
        self.handover.successor.send_replace(Some(Arc::clone(&successor)));
        Ok(successor)
    }
}

impl Successor {
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// When this process ends at the latest.
    pub(super) fn until(&self) -> Option<Timestamp> {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is gone.
    pub(super) async fn gone(&self) {
        // The sender is this very value's.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// Tells it which processes still have sessions.
    pub(super) fn tell(&self, going: &[Going]) {
        // If it is gone, that is noticed by who listens to it.
        let _ = self.say(&Word::Going(going.to_vec()), &[]);
    }

    fn say(&self, word: &Word, body: &[u8]) -> io::Result<()> {
        let _turn = lock(&self.saying);
        send(&self.link, word, body)
    }

    /// Hears what it says, until it is gone.
    fn listen(
        &self,
        proxy: &Arc<Proxy>,
        runtime: &Handle,
        answers: &mpsc::Sender<Result<u64, String>>,
        ready: &mpsc::Sender<()>,
    ) {
        while let Ok((word, _)) = receive(&self.link) {
            match word {
                // Nobody may be waiting any more.
                Word::Appended(answer) => drop(answers.send(answer)),
                Word::Serving { drain } => {
                    reload(proxy);
                    self.serves(proxy, drain);
                    let _ = ready.send(());
                }
                Word::Reload => reload(proxy),
                Word::Aside(request) => {
                    runtime.spawn(aside(Arc::clone(proxy), request));
                }
                other => {
                    tracing::error!(?other, "the process in this one's place makes no sense");
                    break;
                }
            }
        }
        let _ = self.link.shutdown(std::net::Shutdown::Both);
        self.gone.send_replace(true);
    }

    fn serves(&self, proxy: &Proxy, drain: u64) {
        let until = Timestamp::now() + Duration::from_secs(drain);
        *lock(&self.until) = Some(until);
        // The service manager takes the newer one's word only once it knows of it.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::MainPid(self.pid)]) {
            tracing::warn!(%error, "the service manager cannot be told of the process in this one's place");
        }
        let sessions = proxy.open.map(|_| ()).len();
        tracing::info!(pid = self.pid, sessions, %until, "another process serves; this one keeps its sessions");
        // If it is gone, that is noticed by who listens to it.
        let _ = self.say(&Word::Announced, &[]);
    }
}

/// Takes the policies that the newer process has taken; or ends the sessions, since they may not permit them.
fn reload(proxy: &Proxy) {
    if let Err(errors) = proxy.reload() {
        tracing::error!("policies that the process in this one's place has taken have faults here: {errors}");
        proxy.handover.end_sessions(ending::POLICIES);
    }
}

/// Carries out a request about a session of this process, or hands it on to those before it.
async fn aside(proxy: Arc<Proxy>, request: protocol::Request) {
    let known = protocol::ASIDES.iter().find(|(protocol, _)| *protocol == request.protocol);
    let done = match known {
        Some((_, aside)) => aside(&request).await,
        None => false,
    };
    if !done {
        proxy.handover.predecessors.ask(&request);
    }
}

impl Keeper for Successor {
    fn append(&self, kind: Kind, body: &[u8], durable: bool) -> Result<u64, AppendError> {
        let answers = lock(&self.answers);
        let lost = || AppendError(format!("process {}, which has the log, has gone", self.pid));
        self.say(&Word::Append { kind: kind.0, durable }, body).map_err(|_| lost())?;
        answers.recv().map_err(|_| lost())?.map_err(AppendError)
    }
}

/// Starts the newer process. It has one end of a pair of sockets as its standard input, and nobody but this process the other.
fn start(launch: &Launch) -> io::Result<(Child, UnixStream)> {
    let (link, other) = UnixStream::pair()?;
    link.set_read_timeout(Some(PATIENCE))?;
    let mut command = Command::new(&launch.program);
    command.args(&launch.arguments).stdin(Stdio::from(OwnedFd::from(other)));
    if !launch.arguments.iter().any(|argument| argument == TAKE_OVER) {
        command.arg(TAKE_OVER);
    }
    Ok((command.spawn()?, link))
}

/// Hears one word of the newer process while it starts.
fn hear(link: &UnixStream) -> Result<Word, String> {
    match receive(link) {
        Ok((Word::Failed(reason), _)) => Err(reason),
        Ok((word, _)) => Ok(word),
        Err(error) => Err(format!("it does not go on: {error}; the agent's messages may say why")),
    }
}

fn failed(child: &mut Child, reason: String) -> String {
    let _ = child.kill();
    let _ = child.wait();
    reason
}

fn gone(error: io::Error) -> String {
    format!("the new process cannot be spoken to: {error}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
