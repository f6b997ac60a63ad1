//! The serving side of the control socket.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream as Probe},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{Access, Daemon, MAX_EVENTS, MAX_REQUEST, Peer, Reply, Request, SOCKET};
use crate::recording::{Found, Log, QueryError};

/// Name of the socket while it is made. No longer than its own, which has to fit into the kernel's address.
const NEW: &str = "control.new";

/// Connections at once of those who may ask everything.
const CONNECTIONS: usize = 64;
/// Connections at once of everybody else, so that they cannot take the places of an operator.
const OPEN_CONNECTIONS: usize = 16;
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// A client that reads nothing for so long is given up.
const STALLED: Duration = Duration::from_secs(30);
/// Records that are read at once.
const PAGE: usize = 64;
/// Replies that may wait for a slow client.
const AHEAD: usize = 16;

/// The control socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be made.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent serves it.
    #[error("{path}: another agent serves this socket; stop it first", path = _0.display())]
    InUse(PathBuf),
    /// The configured group is not there.
    #[error("there is no group \"{0}\" on this host")]
    NoGroup(String),
}

/// Makes the socket in the runtime directory, in place of one that nobody serves any more, or with `take_over` of any. Needs a
/// tokio runtime.
///
/// # Errors
/// It is in use, or cannot be made.
pub fn bind(runtime_dir: &Path, take_over: bool) -> Result<UnixListener, ControlError> {
    let path = runtime_dir.join(SOCKET);
    if !take_over && Probe::connect(&path).is_ok() {
        return Err(ControlError::InUse(path));
    }
    let failed = |source| ControlError::Io { path: path.clone(), source };
    // Under another name first: whoever asks finds the one or the other.
    let new = runtime_dir.join(NEW);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(failed)?;
    // Everybody may ask for its own state; who may ask more is decided for each request.
    fs::set_permissions(&new, fs::Permissions::from_mode(0o666)).map_err(failed)?;
    fs::rename(&new, &path).map_err(failed)?;
    Ok(listener)
}

/// Serves until it is dropped.
pub async fn serve(listener: UnixListener, access: Access, daemon: Arc<dyn Daemon>) {
    let server = Arc::new(Server {
        access,
        daemon,
        full: Semaphore::new(CONNECTIONS),
        open: Semaphore::new(OPEN_CONNECTIONS),
        verifying: Semaphore::new(1),
    });
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    // A client that goes away in the middle is no event.
                    let _ = server.converse(stream).await;
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: wait until some are free.
                tracing::warn!("the control socket cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Server {
    access: Access,
    daemon: Arc<dyn Daemon>,
    full: Semaphore,
    open: Semaphore,
    verifying: Semaphore,
}

impl Server {
    async fn converse(self: Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let credentials = stream.peer_cred()?;
        let peer = Peer { pid: credentials.pid().unwrap_or_default(), uid: credentials.uid(), gid: credentials.gid() };
        let asking = Arc::clone(&self);
        let full = blocking(move || asking.access.is_full(peer)).await?;
        let Ok(_place) = if full { &self.full } else { &self.open }.try_acquire() else {
            let (_, mut writer) = stream.into_split();
            return send(&mut writer, &error("too many connections to the control socket", None)).await;
        };
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = (&mut reader).take(MAX_REQUEST as u64 + 1);
            let Ok(read) = timeout(IDLE, limited.read_until(b'\n', &mut line)).await else { return Ok(()) };
            if read? == 0 {
                return Ok(());
            }
            if line.len() > MAX_REQUEST {
                let message = format!("a request is longer than {MAX_REQUEST} bytes");
                return send(&mut writer, &error(message, None)).await;
            }
            let request = match serde_json::from_slice::<Request>(&line) {
                Ok(request) => request,
                Err(fault) => {
                    let remedy = Some("Use the command line of the same version as the agent.".into());
                    return send(&mut writer, &error(format!("not a request: {fault}"), remedy)).await;
                }
            };
            if full || Access::is_open(&request) {
                self.answer(request, peer, &mut writer).await?;
            } else {
                let (message, remedy) = self.access.refusal(peer);
                send(&mut writer, &error(message, Some(remedy))).await?;
            }
        }
    }

    async fn answer(&self, request: Request, peer: Peer, writer: &mut OwnedWriteHalf) -> io::Result<()> {
        let daemon = Arc::clone(&self.daemon);
        match request {
            Request::Whoami {} => {
                send(writer, &Reply::Whoami(peer.whoami(daemon.sessions_of(peer)))).await?;
                send(writer, &Reply::Done).await
            }
            Request::Status {} => {
                stream(writer, move |out| match daemon.status() {
                    Ok(status) => out.send(Reply::Status(Box::new(status))),
                    Err(fault) => out.fail(fault, None),
                })
                .await
            }
            Request::Selftest {} => {
                stream(writer, move |out| match daemon.self_test() {
                    Ok(attempts) => out.send(Reply::Tested(attempts)),
                    Err(fault) => out.fail(format!("the self-test could not be made: {fault}"), None),
                })
                .await
            }
            Request::Coverage {} => {
                stream(writer, move |out| match daemon.coverage() {
                    Ok(report) => out.send(Reply::Coverage(report)),
                    Err(fault) => out.fail(format!("the coverage ledger cannot be reconciled: {fault}"), None),
                })
                .await
            }
            Request::Reload {} => {
                stream(writer, move |out| match daemon.reload() {
                    Ok(policies) => out.send(Reply::Reloaded(policies)),
                    Err(faults) => {
                        let remedy = "The policies before stay in force. Correct the files and reload again.";
                        out.fail(format!("the policies were not taken: {faults}"), Some(remedy.into()))
                    }
                })
                .await
            }
            Request::Restart {} => {
                stream(writer, move |out| match daemon.restart() {
                    Ok(restarted) => out.send(Reply::Restarted(restarted)),
                    Err(fault) => out.fail(format!("the agent was not restarted: {fault}"), None),
                })
                .await
            }
            Request::Sessions { filter } => {
                reading(writer, daemon, move |log, out| match log.sessions(&filter) {
                    Ok(page) => out.send(Reply::Sessions(page)),
                    Err(fault) => out.fail(fault.to_string(), None),
                })
                .await
            }
            Request::Session { id, records } => {
                reading(writer, daemon, move |log, out| session(log, &id, records, out)).await
            }
            Request::Events { since, limit } => {
                reading(writer, daemon, move |log, out| match log.agent_records(since, limit.min(MAX_EVENTS)) {
                    Ok(records) => records.into_iter().for_each(|record| out.send(Reply::Record(record))),
                    Err(fault) => out.fail(fault.to_string(), None),
                })
                .await
            }
            Request::Verify {} => {
                let Ok(_turn) = self.verifying.try_acquire() else {
                    return send(writer, &error("the log is being verified already", None)).await;
                };
                reading(writer, daemon, move |log, out| {
                    let report = log.verify(&mut |done, total| {
                        out.send(Reply::Progress(done, total));
                    });
                    match report {
                        Ok(report) => out.send(Reply::Verified(report)),
                        Err(fault) => out.fail(fault.to_string(), None),
                    }
                })
                .await
            }
        }
    }
}

/// Where a blocking job puts its replies. Once it has failed, or the client is gone, further ones are dropped.
struct Out(mpsc::Sender<Reply>);

impl Out {
    fn send(&self, reply: Reply) {
        // The client is gone: the job ends for nobody.
        let _ = self.0.blocking_send(reply);
    }

    fn fail(&self, message: String, remedy: Option<String>) {
        self.send(error(message, remedy));
    }

    fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

/// A session and its records.
fn session(log: &Log, id: &str, records: bool, out: &Out) {
    if let Err(fault) = try_session(log, id, records, out) {
        out.fail(fault.to_string(), None);
    }
}

fn try_session(log: &Log, id: &str, records: bool, out: &Out) -> Result<(), QueryError> {
    let summary = match log.find(id)? {
        Found::One(summary) => summary,
        Found::Several(some) => {
            let remedy = format!("Give more of the id: {} …", some.join(", "));
            out.fail(format!("more than one session's id begins with \"{id}\""), Some(remedy));
            return Ok(());
        }
        Found::None(near) => {
            let remedy = match near.is_empty() {
                true => "`postern sessions list` shows those that there are.".into(),
                false => format!("Nearest: {}. `postern sessions list` shows all.", near.join(", ")),
            };
            out.fail(format!("no session's id is or begins with \"{id}\""), Some(remedy));
            return Ok(());
        }
    };
    let name = summary.session.clone();
    out.send(Reply::Session(summary));
    let mut after = 0;
    while records && !out.is_gone() {
        let page = log.records(&name, after, PAGE)?;
        let Some(last) = page.last() else { break };
        after = last.sequence;
        page.into_iter().for_each(|record| out.send(Reply::Record(record)));
    }
    Ok(())
}

/// The same as [`stream`] for a job that reads the log, as long as this process has it.
async fn reading(
    writer: &mut OwnedWriteHalf,
    daemon: Arc<dyn Daemon>,
    job: impl FnOnce(&Log, &Out) + Send + 'static,
) -> io::Result<()> {
    stream(writer, move |out| match daemon.log() {
        Ok(log) => job(&log, out),
        Err(fault) => out.fail(fault, None),
    })
    .await
}

/// Runs a blocking job and passes its replies on. The answer ends with an error, or else with [`Reply::Done`].
async fn stream(writer: &mut OwnedWriteHalf, job: impl FnOnce(&Out) + Send + 'static) -> io::Result<()> {
    let (sender, mut replies) = mpsc::channel(AHEAD);
    let job = tokio::task::spawn_blocking(move || job(&Out(sender)));
    while let Some(reply) = replies.recv().await {
        send(writer, &reply).await?;
        if matches!(reply, Reply::Error { .. }) {
            return Ok(());
        }
    }
    match job.await {
        Ok(()) => send(writer, &Reply::Done).await,
        // The store can panic on damaged files.
        Err(panic) => send(writer, &error(format!("the agent failed to answer: {panic}"), None)).await,
    }
}

async fn send(writer: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    match timeout(STALLED, writer.write_all(&line)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(job).await.map_err(io::Error::other)
}

fn error(message: impl Into<String>, remedy: Option<String>) -> Reply {
    Reply::Error { message: message.into(), remedy }
}
