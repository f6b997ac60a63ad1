//! The proxy's side of the warden's socket.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, TcpListener},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::maps::MapError;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt},
        time::TimeVal,
    },
};
use tokio::{
    io::unix::AsyncFd,
    sync::{Semaphore, mpsc, oneshot, watch},
    task::AbortHandle,
};

use super::{
    Liveness, Reason, Unidentified, sys,
    wire::{self, Answer, Call, MAX_MESSAGE, NEWS, Request, Response, SOCKET},
};
use crate::{
    model::{CoverageRow, Flow, FlowId, KernelSide, Older, Process, Surroundings},
    selftest::Attempt,
};

/// Questions that wait for their answers at once; the others queue here, not in the socket.
const MAX_OPEN_QUESTIONS: usize = 64;

/// Tidings that wait to be taken. Beyond it answers wait too.
const MAX_TIDINGS: usize = 16;

/// Connects that are settled with one message.
const SETTLED_AT_ONCE: usize = 512;

/// How long the warden may take for its greeting.
const GREETING: TimeVal = TimeVal::new(10, 0);

/// A connection to the warden. Clones share it.
#[derive(Clone, Debug)]
pub struct Warden {
    inner: Arc<Inner>,
    _reader: Arc<Reader>,
}

/// The task that reads answers; it ends with the last [`Warden`], and the connection with it.
#[derive(Debug)]
struct Reader(AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the warden hands over in its greeting.
#[derive(Debug)]
pub struct Handed {
    /// Tells whether the process behind a flow is still the same.
    pub liveness: Liveness,
    /// What the warden tells unasked.
    pub tidings: mpsc::Receiver<Tidings>,
    /// What is in force in the kernel.
    pub kernel_side: KernelSide,
}

/// What the warden tells unasked.
#[derive(Debug)]
pub enum Tidings {
    /// The proxy shall listen in another network namespace, too.
    Entered(Listeners),
    /// No process is in this namespace any more: its listeners must go, since they keep it alive.
    Left {
        /// Cookie of the namespace.
        netns: u64,
    },
    /// Another proxy listens in this one's place: what is on its way here is to be accepted, and then nothing any more.
    Succeeded,
    /// A connection that is older than interception was found.
    Older(Older),
    /// A proxy in whose place this one listens has asked for what is not its own any more.
    Overstepped {
        /// Its process id.
        pid: i32,
        /// What it has asked.
        asked: String,
    },
}

/// Where redirected connections arrive in a network namespace.
#[derive(Debug)]
pub struct Listeners {
    /// Cookie of the namespace.
    pub netns: u64,
    /// 127.0.0.1 and, if IPv6 is there, ::1. Non-blocking. They come beside those that the proxy may have there.
    pub sockets: Vec<TcpListener>,
}

#[derive(Debug)]
struct Inner {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    slots: Semaphore,
    /// `None` once the warden is gone.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Received>>>>,
    gone: watch::Sender<bool>,
}

type Received = (Answer, Vec<OwnedFd>);

/// The warden did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Its socket cannot be reached, or the connection has ended.
    #[error("the warden cannot be reached at {0}: {1}")]
    Unreachable(PathBuf, #[source] io::Error),
    /// The connection has ended.
    #[error("the warden has gone")]
    Gone,
    /// It refuses.
    #[error("the warden refuses: {0}")]
    Refused(String),
    /// It answers something else than what was asked.
    #[error("the warden speaks another language; it must be of the same version")]
    Confused,
    /// The process map that it sent cannot be used.
    #[error("the process map cannot be used: {0}")]
    ProcessMap(#[from] MapError),
}

impl Warden {
    /// Connects and greets, which takes a moment and blocks; later calls do not. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// The warden is not there, or does not take us for its proxy.
    pub fn connect(runtime_dir: &Path) -> Result<(Self, Handed), AskError> {
        let path = runtime_dir.join(SOCKET);
        let unreachable = |error: io::Error| AskError::Unreachable(path.clone(), error);
        let socket = dial(&path).map_err(unreachable)?;
        wire::send(socket.as_fd(), &Request { id: NEWS, call: Call::Hello }, &[]).map_err(unreachable)?;
        let mut buffer = vec![0; MAX_MESSAGE];
        let greeting = wire::receive::<Response>(socket.as_fd(), &mut buffer).map_err(unreachable)?;
        let (kernel_side, process_map) = match greeting {
            Some((Response { answer: Answer::Hello(found), .. }, mut descriptors)) => {
                (found, descriptors.pop().ok_or(AskError::Confused)?)
            }
            Some((Response { answer: Answer::Refused(reason), .. }, _)) => return Err(AskError::Refused(reason)),
            Some(_) => return Err(AskError::Confused),
            None => return Err(AskError::Gone),
        };
        let (sender, tidings) = mpsc::channel(MAX_TIDINGS);
        let handed = Handed { liveness: Liveness::new(process_map)?, tidings, kernel_side };

        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| unreachable(error.into()))?;
        let inner = Arc::new(Inner {
            socket: sys::register(socket).map_err(unreachable)?,
            next: AtomicU64::new(NEWS + 1),
            slots: Semaphore::new(MAX_OPEN_QUESTIONS),
            waiting: Mutex::new(Some(HashMap::new())),
            gone: watch::Sender::new(false),
        });
        let reader = tokio::spawn(listen(Arc::clone(&inner), sender, buffer)).abort_handle();
        Ok((Self { inner, _reader: Arc::new(Reader(reader)) }, handed))
    }

    /// Returns once the warden is gone. The proxy must then end: nothing can be identified any more.
    pub async fn gone(&self) {
        // The sender lives as long as `self`, so the only way to return is the value.
        let _ = self.inner.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// Finds ports for the listeners, which [`Warden::listen`] then cannot fail for want of. Whoever listens now goes on.
    ///
    /// # Errors
    /// None are free, or the warden is gone.
    pub async fn prepare(&self) -> Result<(), AskError> {
        done(self.ask(Call::Prepare, None).await)
    }

    /// Takes the listeners, in place of the proxy that has them now, if there is one: it is told. From here on connections wait
    /// to be accepted here.
    ///
    /// # Errors
    /// They cannot be made, a proxy before has not let go of its own yet, or the warden is gone.
    pub async fn listen(&self) -> Result<Listeners, AskError> {
        match self.ask(Call::Listen, None).await? {
            (Answer::Listening { netns }, descriptors) => {
                let sockets = nonblocking(descriptors).map_err(|error| AskError::Refused(error.to_string()))?;
                Ok(Listeners { netns, sockets })
            }
            (answer, _) => Err(refusal(answer)),
        }
    }

    /// Says that this proxy, in whose place another listens, has closed its listeners.
    ///
    /// # Errors
    /// The warden is gone.
    pub async fn let_go(&self) -> Result<(), AskError> {
        done(self.ask(Call::LetGo, None).await)
    }

    /// Whose is this accepted socket?
    ///
    /// # Errors
    /// It is nobody's who could be proven, and why.
    pub async fn identify(&self, socket: BorrowedFd<'_>) -> Result<(Flow, Process), Unidentified> {
        let unable = |reason| Unidentified { flow: None, reason };
        match self.ask(Call::Identify, Some(socket)).await {
            Ok((Answer::Identified { flow, process }, _)) => Ok((flow, *process)),
            Ok((Answer::Unidentified(unidentified), _)) => Err(unidentified),
            Ok(_) => Err(unable(Reason::Warden(AskError::Confused.to_string()))),
            Err(error) => Err(unable(Reason::Warden(error.to_string()))),
        }
    }

    /// Lets this unconnected TCP socket connect to a protected target. Whoever has the socket can then do so: never let it
    /// leave the proxy.
    ///
    /// # Errors
    /// The warden refuses, or is gone.
    pub async fn mark(&self, socket: BorrowedFd<'_>) -> Result<(), AskError> {
        done(self.ask(Call::Mark, Some(socket)).await)
    }

    /// Opens a file that the configuration names, for reading.
    ///
    /// # Errors
    /// The configuration does not name it, it cannot be opened, or the warden is gone.
    pub async fn open(&self, path: &Path) -> Result<OwnedFd, AskError> {
        match self.ask(Call::Open { path: path.to_owned() }, None).await? {
            (Answer::Opened, mut descriptors) => descriptors.pop().ok_or(AskError::Confused),
            (answer, _) => Err(refusal(answer)),
        }
    }

    /// Protects the addresses that a name stands for now, in place of those that it stood for before: the name that is the
    /// address at index `entry` of a target.
    ///
    /// # Errors
    /// There is no such name, there are too many addresses, or the warden is gone.
    pub async fn protect(&self, target: u32, entry: u32, addresses: &[IpAddr]) -> Result<(), AskError> {
        done(self.ask(Call::Protect { target, entry, addresses: addresses.to_vec() }, None).await)
    }

    /// How many connects were redirected, refused and so on, by the names in [`agent_common::COUNTER_NAMES`].
    ///
    /// # Errors
    /// The warden is gone.
    pub async fn counters(&self) -> Result<BTreeMap<String, u64>, AskError> {
        match self.ask(Call::Counters, None).await? {
            (Answer::Counters(counters), _) => Ok(counters),
            (answer, _) => Err(refusal(answer)),
        }
    }

    /// How it is in the network namespaces.
    ///
    /// # Errors
    /// The warden is gone.
    pub async fn surroundings(&self) -> Result<Surroundings, AskError> {
        match self.ask(Call::Surroundings, None).await? {
            (Answer::Surroundings(surroundings), _) => Ok(*surroundings),
            (answer, _) => Err(refusal(answer)),
        }
    }

    /// The kernel programs that were put in force and no longer are, by name. None is as it must be.
    ///
    /// # Errors
    /// The warden is gone.
    pub async fn missing(&self) -> Result<Vec<String>, AskError> {
        match self.ask(Call::Missing, None).await? {
            (Answer::Missing(programs), _) => Ok(programs),
            (answer, _) => Err(refusal(answer)),
        }
    }

    /// Tries every path to a protected destination from a child in scope. It takes a second or so.
    ///
    /// # Errors
    /// The attempts cannot be made, or the warden is gone.
    pub async fn self_test(&self) -> Result<Vec<Attempt>, AskError> {
        match self.ask(Call::SelfTest, None).await? {
            (Answer::SelfTest(attempts), _) => Ok(attempts),
            (answer, _) => Err(refusal(answer)),
        }
    }

    /// The coverage ledger, as far as the kernel side knows it: in the order of targets and users.
    ///
    /// # Errors
    /// The warden is gone.
    pub async fn coverage(&self) -> Result<Vec<CoverageRow>, AskError> {
        let mut rows: Vec<CoverageRow> = Vec::new();
        loop {
            let after = rows.last().map(|row| (row.target, row.uid));
            match self.ask(Call::Coverage { after }, None).await? {
                (Answer::Coverage(more), _) if more.is_empty() => return Ok(rows),
                (Answer::Coverage(more), _) => rows.extend(more),
                (answer, _) => return Err(refusal(answer)),
            }
        }
    }

    /// Connects from before a boot time (nanoseconds) that a proxy's listener has taken and whose record is not durable, those
    /// that are wanted: the oldest first, at most `most`.
    ///
    /// # Errors
    /// The warden is gone.
    pub async fn waiting(
        &self,
        before: u64,
        most: usize,
        is_wanted: impl Fn(&Flow) -> bool,
    ) -> Result<Vec<Flow>, AskError> {
        let (mut wanted, mut after) = (Vec::new(), None);
        while wanted.len() < most {
            match self.ask(Call::Waiting { before, after }, None).await? {
                (Answer::Flows(flows), _) => {
                    let Some(last) = flows.last() else { break };
                    after = Some(last.id());
                    wanted.extend(flows.into_iter().filter(&is_wanted));
                }
                (answer, _) => return Err(refusal(answer)),
            }
        }
        Ok(wanted)
    }

    /// Connects that were abandoned: some of those that were not told of yet. They are told once.
    ///
    /// # Errors
    /// The warden is gone.
    pub async fn abandoned(&self) -> Result<Vec<Flow>, AskError> {
        match self.ask(Call::Abandoned, None).await? {
            (Answer::Flows(flows), _) => Ok(flows),
            (answer, _) => Err(refusal(answer)),
        }
    }

    /// Tells that the records of these connects are durable.
    ///
    /// # Errors
    /// The warden is gone.
    pub async fn settle(&self, flows: &[FlowId]) -> Result<(), AskError> {
        for flows in flows.chunks(SETTLED_AT_ONCE) {
            done(self.ask(Call::Settle { flows: flows.to_vec() }, None).await)?;
        }
        Ok(())
    }

    async fn ask(&self, call: Call, descriptor: Option<BorrowedFd<'_>>) -> Result<Received, AskError> {
        let inner = &self.inner;
        let _slot = inner.slots.acquire().await.map_err(|_| AskError::Gone)?;
        let id = inner.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        inner.waiting().as_mut().ok_or(AskError::Gone)?.insert(id, sender);
        // Also when this future is dropped before the answer is there.
        let _forget = Forget { inner, id };
        let request = Request { id, call };
        let sent = inner
            .socket
            .async_io(tokio::io::Interest::WRITABLE, |socket| {
                wire::send(socket.as_fd(), &request, descriptor.as_slice())
            })
            .await;
        sent.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => AskError::Refused("the question is too long".into()),
            _ => AskError::Gone,
        })?;
        receiver.await.map_err(|_| AskError::Gone)
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Received>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a question back.
struct Forget<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.inner.waiting().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

/// Gives answers to those who wait for them, until the connection ends.
async fn listen(inner: Arc<Inner>, tidings: mpsc::Sender<Tidings>, mut buffer: Vec<u8>) {
    loop {
        let received = inner
            .socket
            .async_io(tokio::io::Interest::READABLE, |socket| wire::receive::<Response>(socket.as_fd(), &mut buffer))
            .await;
        match received {
            Ok(Some((Response { id: NEWS, answer }, descriptors))) => {
                if let Some(news) = news(answer, descriptors) {
                    // Nobody may want to know.
                    let _ = tidings.send(news).await;
                }
            }
            Ok(Some((Response { id, answer }, descriptors))) => {
                let sender = inner.waiting().as_mut().and_then(|waiting| waiting.remove(&id));
                if let Some(sender) = sender {
                    // Nobody may be waiting any more.
                    let _ = sender.send((answer, descriptors));
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "the warden's answer makes no sense");
                break;
            }
        }
    }
    // Whoever waits for an answer is woken by the loss of its sender.
    *inner.waiting() = None;
    inner.gone.send_replace(true);
}

/// `None` for what this version does not know, or cannot use.
fn news(answer: Answer, descriptors: Vec<OwnedFd>) -> Option<Tidings> {
    match answer {
        Answer::Entered { netns } => match nonblocking(descriptors) {
            Ok(sockets) => Some(Tidings::Entered(Listeners { netns, sockets })),
            Err(error) => {
                tracing::warn!(netns, %error, "the listeners of a network namespace cannot be used");
                None
            }
        },
        Answer::Left { netns } => Some(Tidings::Left { netns }),
        Answer::Succeeded => Some(Tidings::Succeeded),
        Answer::Older(older) => Some(Tidings::Older(older)),
        Answer::Overstepped { pid, asked } => Some(Tidings::Overstepped { pid, asked }),
        _ => None,
    }
}

fn nonblocking(listeners: Vec<OwnedFd>) -> io::Result<Vec<TcpListener>> {
    let listeners: Vec<TcpListener> = listeners.into_iter().map(TcpListener::from).collect();
    listeners.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
    Ok(listeners)
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &GREETING)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket)
}

fn done(received: Result<Received, AskError>) -> Result<(), AskError> {
    match received? {
        (Answer::Done, _) => Ok(()),
        (answer, _) => Err(refusal(answer)),
    }
}

fn refusal(answer: Answer) -> AskError {
    match answer {
        Answer::Refused(reason) => AskError::Refused(reason),
        _ => AskError::Confused,
    }
}
