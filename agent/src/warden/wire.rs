//! What warden and proxy say to each other: one JSON message per packet of a `SOCK_SEQPACKET` Unix socket, descriptors beside.
//!
//! The proxy asks and the warden answers; answers carry the number of their question and may overtake each other. Once it has
//! greeted, the warden also tells it things unasked, under the number [`NEWS`].

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    path::PathBuf,
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Unidentified, sys};
use crate::{
    model::{CoverageRow, Flow, FlowId, KernelSide, Older, Process, Surroundings},
    selftest::Attempt,
};

/// Longest message in either direction. The longest answer is a process with its groups, paths and (cut) arguments.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;

/// Name of the warden's socket in the runtime directory.
pub(super) const SOCKET: &str = "warden.sock";

/// Number of an answer to no question. The greeting has it too, and comes first.
pub(super) const NEWS: u64 = 0;

/// A question.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Chosen by the proxy.
    pub id: u64,
    /// What is asked.
    pub call: Call,
}

/// What can be asked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Call {
    /// First, and once: the process map.
    Hello,
    /// Find ports for the listeners: they do not listen yet, and whoever listens now goes on. So it is known that `Listen` will not
    /// fail for want of them.
    Prepare,
    /// Once: the listeners, in place of those of the proxy that listens now, if there is one.
    Listen,
    /// The listeners are closed that were this proxy's before another came.
    LetGo,
    /// Whose is the accepted socket that comes with this?
    Identify,
    /// The unconnected socket that comes with this is the proxy's own, on its way to a target.
    Mark,
    /// Open a file that the configuration names.
    Open {
        /// As the configuration spells it.
        path: PathBuf,
    },
    /// A name stands for these addresses now. Its ports are those of the configuration.
    Protect {
        /// Index of the target.
        target: u32,
        /// Index of the name among the target's addresses.
        entry: u32,
        /// At least one.
        addresses: Vec<IpAddr>,
    },
    /// How often did what happen?
    Counters,
    /// Which programs are no longer in force?
    Missing,
    /// How is it in the network namespaces?
    Surroundings,
    /// Is every path closed?
    SelfTest,
    /// The rows of the coverage ledger after this one (target and user), as many as an answer holds.
    Coverage {
        /// `None`: from the first.
        after: Option<(u32, u32)>,
    },
    /// Which accepted connects from before a boot time (nanoseconds) have no durable record? As many as an answer holds.
    Waiting {
        /// The time.
        before: u64,
        /// Only those after this one.
        after: Option<FlowId>,
    },
    /// Which connects were abandoned, since this was last asked? As many as an answer holds.
    Abandoned,
    /// The records of these connects are durable.
    Settle {
        /// The connects.
        flows: Vec<FlowId>,
    },
}

impl Call {
    /// Whether a proxy in whose place another listens may ask it: what the sessions need that it keeps, and those that are on their
    /// way to it.
    pub(super) fn is_for_sessions(&self) -> bool {
        matches!(self, Self::Identify | Self::Mark | Self::Open { .. } | Self::LetGo)
    }

    /// Whether it changes nothing.
    pub(super) fn only_asks(&self) -> bool {
        matches!(
            self,
            Self::Counters | Self::Missing | Self::Surroundings | Self::Coverage { .. } | Self::Waiting { .. }
        )
    }

    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Prepare => "prepare",
            Self::Listen => "listen",
            Self::LetGo => "let-go",
            Self::Identify => "identify",
            Self::Mark => "mark",
            Self::Open { .. } => "open",
            Self::Protect { .. } => "protect",
            Self::Counters => "counters",
            Self::Missing => "missing",
            Self::Surroundings => "surroundings",
            Self::SelfTest => "self-test",
            Self::Coverage { .. } => "coverage",
            Self::Waiting { .. } => "waiting",
            Self::Abandoned => "abandoned",
            Self::Settle { .. } => "settle",
        }
    }
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Response {
    /// The question's number.
    pub id: u64,
    /// The answer.
    pub answer: Answer,
}

/// The possible answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// To `Hello`. The process map comes with it.
    Hello(KernelSide),
    /// To `Listen`. The listeners come with it.
    Listening {
        /// Cookie of the network namespace that they are in: the host's.
        netns: u64,
    },
    /// To `Identify`.
    Identified {
        /// From the accepted socket's storage.
        flow: Flow,
        /// The process, proven to be the one that connected.
        process: Box<Process>,
    },
    /// To `Identify`.
    Unidentified(Unidentified),
    /// To `Prepare`, `Mark`, `Protect`, `Settle` and `LetGo`.
    Done,
    /// To `Open`. The descriptor comes with it.
    Opened,
    /// To `Counters`.
    Counters(BTreeMap<String, u64>),
    /// To `Missing`.
    Missing(Vec<String>),
    /// To `Surroundings`.
    Surroundings(Box<Surroundings>),
    /// Unasked: the listeners of another network namespace come with this.
    Entered {
        /// Its cookie.
        netns: u64,
    },
    /// Unasked: no process is in this namespace any more.
    Left {
        /// Its cookie.
        netns: u64,
    },
    /// Unasked: another proxy listens in this one's place, in every network namespace.
    Succeeded,
    /// Unasked: a connection that is older than interception was found.
    Older(Older),
    /// Unasked: a proxy in whose place this one listens has asked for what is not its own any more, for the first time.
    Overstepped {
        /// Its process id.
        pid: i32,
        /// Name of the question.
        asked: String,
    },
    /// To `SelfTest`.
    SelfTest(Vec<Attempt>),
    /// To `Coverage`.
    Coverage(Vec<CoverageRow>),
    /// To `Waiting` and `Abandoned`.
    Flows(Vec<Flow>),
    /// To anything that will not be done.
    Refused(String),
}

/// Receives one message and its descriptors; `None` at the end of the connection.
///
/// # Errors
/// The connection is broken, or what arrived is not a message.
pub(super) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (length, descriptors) = loop {
        match sys::receive(socket, buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if length == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..length])?, descriptors)))
}

/// Sends one message with descriptors.
///
/// # Errors
/// The connection is broken, the other side does not read, or the message is too long.
pub(super) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let numbers: Vec<RawFd> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &rights[..0] } else { &rights[..] };
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(nix::Error::EINTR) => {}
            other => return other.map(drop).map_err(io::Error::from),
        }
    }
}
