//! What a proxy and the one that takes its place say to each other, over a pair of sockets that nobody else has: the older one
//! made it, and the newer one was started with its other end as standard input.
//!
//! A message is two lengths, a [`Word`] as JSON, and the body of a record where the word is about one.

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{protocol, recording::MAX_BODY};

/// Longest word. The longest lists sessions, at some 200 bytes each.
const MAX_WORD: usize = 16 << 20;

/// What is said.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    /// The newer: all that can fail before it has the log did not.
    Prepared,
    /// The newer: it cannot start, and why.
    Failed(String),
    /// The older: the log is closed.
    Yours(Vec<Going>),
    /// The newer: it has the log, and records what comes.
    Taken,
    /// The newer: it serves. The older one's sessions may take so many seconds more.
    Serving {
        /// See [`crate::config::Agent::drain`].
        drain: u64,
    },
    /// The older: the service manager knows of the newer.
    Announced,
    /// The older: a record, whose body follows.
    Append {
        /// [`crate::recording::Kind`]
        kind: u16,
        /// It is to be on disk before it is answered.
        durable: bool,
    },
    /// The newer: the record's sequence, or why it is not in the log.
    Appended(Result<u64, String>),
    /// The older: the processes that still have sessions.
    Going(Vec<Going>),
    /// The newer: the policies have changed.
    Reload,
    /// The newer: a request about a session that it does not have.
    Aside(protocol::Request),
}

/// A process that only keeps its sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Going {
    pub pid: u32,
    /// When it ends at the latest; `None` as long as that is not known.
    pub until: Option<Timestamp>,
    /// What was on its way to it may still arrive.
    pub accepting: bool,
    pub sessions: Vec<Kept>,
}

/// One of its sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub session: String,
    pub target: String,
    pub roles: Vec<String>,
    pub destination: SocketAddr,
    /// Of the process that connected.
    pub pid: u32,
    /// The same.
    pub uid: u32,
}

/// Says something.
pub(super) fn send(mut link: &UnixStream, word: &Word, body: &[u8]) -> io::Result<()> {
    let word = serde_json::to_vec(word)?;
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    let mut message = Vec::with_capacity(8 + word.len() + body.len());
    message.extend_from_slice(&length(&word)?.to_le_bytes());
    message.extend_from_slice(&length(body)?.to_le_bytes());
    message.extend_from_slice(&word);
    message.extend_from_slice(body);
    link.write_all(&message)
}

/// Hears something; an error also if the other side is gone.
pub(super) fn receive(mut link: &UnixStream) -> io::Result<(Word, Vec<u8>)> {
    let mut length = |most: usize| {
        let mut bytes = [0; 4];
        link.read_exact(&mut bytes)?;
        let length = u32::from_le_bytes(bytes) as usize;
        if length <= most { Ok(length) } else { Err(io::Error::from(io::ErrorKind::InvalidData)) }
    };
    let (word, body) = (length(MAX_WORD)?, length(MAX_BODY)?);
    let mut message = vec![0; word + body];
    link.read_exact(&mut message)?;
    let body = message.split_off(word);
    Ok((serde_json::from_slice(&message)?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_a_length_beyond_the_bound_is_not() {
        let (one, other) = UnixStream::pair().unwrap();
        send(&one, &Word::Append { kind: 18, durable: true }, b"{}").unwrap();
        let (word, body) = receive(&other).unwrap();
        assert!(matches!(word, Word::Append { kind: 18, durable: true }));
        assert_eq!(body, b"{}");
        (&one).write_all(&[0xFF; 8]).unwrap();
        assert_eq!(receive(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(one);
        assert!(receive(&other).is_err());
    }
}
