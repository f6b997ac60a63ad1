//! The self-test: whether every path to a protected destination is closed, found by trying them.
//!
//! The warden protects a canary, listens at it, and starts a child in scope ([`attempts`]) that tries to reach it by every
//! path that the kernel side closes. What arrives at the canary has come past it.
//!
//! *Invariant:* a path counts as closed only if the attempt was made and nothing of it arrived.

pub mod attempts;
mod packets;
mod sys;

use std::{fmt, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A path that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its name, such as `connect v4`.
    pub path: String,
    /// How it went.
    pub outcome: Outcome,
}

/// How an attempt went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "outcome", content = "detail")]
pub enum Outcome {
    /// The connection was made, and nothing of it arrived at the canary: it was led to the proxy.
    Redirected,
    /// The kernel side refused it, or dropped it.
    Refused(String),
    /// The kernel has no such path.
    Absent(String),
    /// It arrived: the path is open.
    Reached,
    /// It could not be tried.
    Untried(String),
}

impl Outcome {
    /// Whether nobody gets past by this path.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        matches!(self, Self::Redirected | Self::Refused(_) | Self::Absent(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redirected => formatter.write_str("redirected"),
            Self::Refused(how) => write!(formatter, "refused: {how}"),
            Self::Absent(why) => write!(formatter, "not there: {why}"),
            Self::Reached => formatter.write_str("OPEN: it arrived"),
            Self::Untried(why) => write!(formatter, "not tried: {why}"),
        }
    }
}

/// Where the canary listens, for TCP and for UDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// On IPv4.
    pub v4: SocketAddr,
    /// On IPv6, if the host has it.
    pub v6: Option<SocketAddr>,
    /// Its Unix socket, where the kernel refuses connections to any.
    pub socket: Option<PathBuf>,
    /// Whether it refuses them by what name soever.
    pub by_any_name: bool,
}

/// What an attempt sends, by its place in the list: the canary knows by it what arrived.
#[must_use]
pub fn nonce(place: usize) -> [u8; 8] {
    let mut nonce = *b"canary..";
    nonce[6..].copy_from_slice(&u16::try_from(place).unwrap_or(u16::MAX).to_be_bytes());
    nonce
}

/// The place that a nonce stands for.
#[must_use]
pub fn place(arrived: &[u8]) -> Option<usize> {
    match arrived {
        [b'c', b'a', b'n', b'a', b'r', b'y', high, low, ..] => Some(u16::from_be_bytes([*high, *low]).into()),
        _ => None,
    }
}
