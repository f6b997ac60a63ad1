//! The kernel's list of TCP connections in one network namespace, with what the agent has marked them as, and how to end one.
//!
//! Spoken over `NETLINK_SOCK_DIAG`, whose structures are taken apart and put together here byte by byte: numbers are in the
//! host's order except addresses and ports.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use agent_common::Mark;
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
        sockopt,
    },
    time::TimeVal,
};

use super::sys;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Ask for what programs have stored with each socket.
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const INET_DIAG_CGROUP_ID: u16 = 21;
const SK_DIAG_BPF_STORAGE: u16 = 1;
const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;
/// The type of an attribute, without flags.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// All states but those of sockets without a connection: time-wait (6), close (7), listen (10), and a listener's half-open ones
/// (12).
const STATES: u32 = !(1 << 6 | 1 << 7 | 1 << 10 | 1 << 12);

/// `struct nlmsghdr`
const HEADER: usize = 16;
/// `struct inet_diag_sockid`
const ID: usize = 48;
/// `struct inet_diag_msg`: four bytes, the id, and five numbers.
const MESSAGE: usize = 4 + ID + 20;

/// Room for what the kernel gives at once: it fills what there is, up to 32 KiB.
const BUFFER: usize = 32 * 1024;

/// How long the kernel may take for an answer, which it gives at once.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

/// A connection, as the socket of one side of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    /// IPv4 also if the socket is an IPv6 one with mapped addresses.
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Cookie of the socket.
    pub cookie: u64,
    /// User that made the socket.
    pub uid: u32,
    /// Of the socket's file; 0 if nobody has it open any more.
    pub inode: u32,
    /// Cgroup in which the socket was made, if the kernel says it.
    pub cgroup: Option<u64>,
    /// What the agent has marked it as.
    pub mark: Option<Mark>,
    family: u8,
    id: [u8; ID],
}

/// A netlink socket; it speaks of the namespace in which it was made, wherever it is used.
pub(super) struct Diag(OwnedFd);

impl Diag {
    /// Of the namespace that the calling thread is in.
    pub(super) fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkSockDiag;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
        Ok(Self(socket))
    }

    /// Cookie of the namespace.
    pub(super) fn netns(&self) -> io::Result<u64> {
        sys::netns_cookie(self.0.as_fd())
    }

    /// All TCP connections, with the marks that `marks` says of them.
    pub(super) fn connections(&self, marks: BorrowedFd<'_>) -> io::Result<Vec<Connection>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let map = attribute(SK_DIAG_BPF_STORAGE_REQ_MAP_FD, &marks.as_raw_fd().to_ne_bytes());
            let mut body = request(family, STATES, &[0; ID]);
            body.extend(attribute(INET_DIAG_REQ_SK_BPF_STORAGES | NLA_F_NESTED, &map));
            self.send(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, &body)?;
            self.answers(|message| found.extend(Connection::parse(message)))?;
        }
        Ok(found)
    }

    /// Ends a connection: whoever uses the socket sees `ECONNABORTED`, the other side a reset.
    pub(super) fn destroy(&self, connection: &Connection) -> io::Result<()> {
        // Its id holds the cookie: it is this very socket, or none.
        let body = request(connection.family, u32::MAX, &connection.id);
        self.send(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, &body)?;
        self.answers(|_| ())
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

impl Connection {
    /// From a `struct inet_diag_msg` with its attributes.
    fn parse(message: &[u8]) -> Option<Self> {
        let (fixed, attributes) = message.split_at_checked(MESSAGE)?;
        let family = fixed[0];
        let id: [u8; ID] = fixed[4..4 + ID].try_into().ok()?;
        let numbers = &fixed[4 + ID..];
        let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
        let address = |at: usize| -> Option<IpAddr> {
            let bytes: [u8; 16] = id[at..at + 16].try_into().ok()?;
            let v4 = [bytes[0], bytes[1], bytes[2], bytes[3]];
            Some(match i32::from(family) {
                libc::AF_INET => Ipv4Addr::from(v4).into(),
                _ => Ipv6Addr::from(bytes).to_canonical(),
            })
        };
        Some(Self {
            local: SocketAddr::new(address(4)?, port(0)),
            remote: SocketAddr::new(address(20)?, port(2)),
            cookie: u64::from(number(&id, 40)?) | u64::from(number(&id, 44)?) << 32,
            uid: number(numbers, 12)?,
            inode: number(numbers, 16)?,
            cgroup: within(attributes, INET_DIAG_CGROUP_ID).and_then(|id| Some(u64::from_ne_bytes(*id.first_chunk()?))),
            mark: mark(attributes),
            family,
            id,
        })
    }
}

/// The mark among a socket's attributes, of which the only storages are those that were asked for.
fn mark(attributes: &[u8]) -> Option<Mark> {
    let storages = within(attributes, INET_DIAG_SK_BPF_STORAGES)?;
    let value = within(within(storages, SK_DIAG_BPF_STORAGE)?, SK_DIAG_BPF_STORAGE_MAP_VALUE)?;
    number(value, 0)
}

/// The value of the attribute of a type.
fn within(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    Attributes(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// `struct inet_diag_req_v2`
fn request(family: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
}

/// `struct nlattr` with its value.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len());
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
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

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of the kernel about an IPv4-mapped connection, with attributes.
    fn sample(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![libc::AF_INET6 as u8, 1, 0, 0];
        bytes.extend(40_000_u16.to_be_bytes());
        bytes.extend(5432_u16.to_be_bytes());
        bytes.extend(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets());
        bytes.extend(Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets());
        for number in [0_u32, 7, 1, 0, 0, 0, 1000, 4711] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(attributes);
        bytes
    }

    fn storage(value: &[u8]) -> Vec<u8> {
        let value = attribute(SK_DIAG_BPF_STORAGE_MAP_VALUE, value);
        let storage = attribute(SK_DIAG_BPF_STORAGE | NLA_F_NESTED, &[attribute(2, &[0; 4]), value].concat());
        let cgroup = attribute(INET_DIAG_CGROUP_ID, &77_u64.to_ne_bytes());
        [attribute(8, &[3]), cgroup, attribute(INET_DIAG_SK_BPF_STORAGES | NLA_F_NESTED, &storage)].concat()
    }

    #[test]
    fn a_connection_is_read_with_its_mark() {
        let found = Connection::parse(&sample(&storage(&2_u32.to_ne_bytes()))).expect("a connection");
        assert_eq!(found.local, "192.0.2.1:40000".parse().expect("an address"));
        assert_eq!(found.remote, "192.0.2.7:5432".parse().expect("an address"));
        assert_eq!((found.cookie, found.uid, found.inode, found.mark), (1 << 32 | 7, 1000, 4711, Some(2)));
        assert_eq!(found.cgroup, Some(77));
        let bare = Connection::parse(&sample(&[])).expect("a connection");
        assert_eq!((bare.mark, bare.cgroup), (None, None));
        assert_eq!(Connection::parse(&sample(&storage(&[2]))).expect("a connection").mark, None);
    }

    #[test]
    fn what_is_cut_off_or_nonsense_is_no_connection() {
        let whole = sample(&storage(&2_u32.to_ne_bytes()));
        for length in 0..MESSAGE {
            assert_eq!(Connection::parse(&whole[..length]), None);
        }
        for length in MESSAGE..whole.len() {
            assert_eq!(Connection::parse(&whole[..length]).expect("a connection").mark, None);
        }
        assert!(Attributes(&[0; 64]).next().is_none());
        assert!(message(&[0; 64]).is_none());
        assert!(message(&[0xff; 64]).is_none());
    }

    #[test]
    fn the_kernel_lists_a_connection_of_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let diag = Diag::open().expect("a socket");
        let mut body = request(libc::AF_INET as u8, STATES, &[0; ID]);
        body.extend(attribute(8, &[]));
        diag.send(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, &body).expect("asked");
        let mut found = Vec::new();
        diag.answers(|message| found.extend(Connection::parse(message))).expect("answered");
        let own = found.iter().find(|found| found.local == client.local_addr().expect("an address"));
        assert_eq!(own.expect("listed").remote, listener.local_addr().expect("an address"));
        assert!(!found.iter().any(|found| found.local.port() == found.remote.port() && found.remote.port() == 0));
    }
}
