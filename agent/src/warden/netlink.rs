//! Netlink: questions to the kernel about its sockets and interfaces, and its answers, put together and taken apart byte by byte.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt,
    },
    time::TimeVal,
};

/// Do it, and say whether it is done: `NLM_F_REQUEST | NLM_F_ACK`.
pub(super) const ACK: u16 = 1 | 4;
/// Tell of all that there are: `NLM_F_REQUEST | NLM_F_DUMP`.
pub(super) const DUMP: u16 = 1 | 0x300;

/// In the type of an attribute: its value is attributes. `NLA_F_NESTED`
pub(super) const NESTED: u16 = 1 << 15;
/// The type of an attribute, without flags.
const NLA_TYPE_MASK: u16 = 0x3fff;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// `struct nlmsghdr`
const HEADER: usize = 16;

/// Room for what the kernel gives at once: it fills what there is, up to 32 KiB.
const BUFFER: usize = 32 * 1024;

/// How long the kernel may take for an answer, which it gives at once.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

/// A netlink socket; it speaks of the namespace in which it was made, wherever it is used.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// Of the namespace that the calling thread is in.
    pub(super) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
        Ok(Self(socket))
    }

    /// Asks, and takes the bodies of all answers.
    ///
    /// # Errors
    /// The kernel's, or it does not answer.
    pub(super) fn ask(&self, kind: u16, flags: u16, body: &[u8], take: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, flags, body)?;
        self.answers(take)
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        // Sequence number and port: there is one question at a time, and the kernel knows who asks.
        message.extend([0; 8]);
        message.extend(body);
        sendto(self.0.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// Reads answers up to the last, which is an error or says that they are all.
    fn answers(&self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => continue,
                other => other?,
            };
            let mut rest = &buffer[..length];
            while let Some((kind, body, after)) = message(rest) {
                match kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        // Both begin with an error number, negative, or zero.
                        return match body.first_chunk().map_or(0, |error| i32::from_ne_bytes(*error)) {
                            0.. => Ok(()),
                            error => Err(io::Error::from_raw_os_error(-error)),
                        };
                    }
                    _ => take(body),
                }
                rest = after;
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `struct nlattr` with its value.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len());
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the attribute of a type.
pub(super) fn within(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Types and values of attributes that follow each other.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes([*self.0.get(2)?, *self.0.get(3)?]) & NLA_TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Type and body of the first message, and what comes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(bytes, 0)? as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_or_nonsense_holds_nothing() {
        assert!(Attributes(&[0; 64]).next().is_none());
        assert!(message(&[0; 64]).is_none());
        assert!(message(&[0xff; 64]).is_none());
        let whole = [attribute(1, b"abcde"), attribute(2 | NESTED, &attribute(3, &7_u32.to_ne_bytes()))].concat();
        assert_eq!(within(&whole, 1), Some(&b"abcde"[..]));
        assert_eq!(within(&whole, 2).and_then(|inner| number(within(inner, 3)?, 0)), Some(7));
        assert_eq!(within(&whole[..whole.len() - 1], 2), None);
    }
}
