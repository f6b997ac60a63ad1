//! The kernel's list of TCP connections in one network namespace, with what the agent has marked them as, and how to end one.
//!
//! Spoken over `NETLINK_SOCK_DIAG`. Numbers are in the host's order except addresses and ports.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use agent_common::Mark;
use nix::sys::socket::SockProtocol;

use super::{
    netlink::{ACK, DUMP, NESTED, Netlink, attribute, number, within},
    sys,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Ask for what programs have stored with each socket.
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const INET_DIAG_CGROUP_ID: u16 = 21;
const SK_DIAG_BPF_STORAGE: u16 = 1;
const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;

/// All states but those of sockets without a connection: time-wait (6), close (7), listen (10), and a listener's half-open ones
/// (12).
const STATES: u32 = !(1 << 6 | 1 << 7 | 1 << 10 | 1 << 12);

/// `struct inet_diag_sockid`
const ID: usize = 48;
/// `struct inet_diag_msg`: four bytes, the id, and five numbers.
const MESSAGE: usize = 4 + ID + 20;

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
pub(super) struct Diag(Netlink);

impl Diag {
    /// Of the namespace that the calling thread is in.
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(SockProtocol::NetlinkSockDiag).map(Self)
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
            body.extend(attribute(INET_DIAG_REQ_SK_BPF_STORAGES | NESTED, &map));
            self.0.ask(SOCK_DIAG_BY_FAMILY, DUMP, &body, |message| found.extend(Connection::parse(message)))?;
        }
        Ok(found)
    }

    /// Ends a connection: whoever uses the socket sees `ECONNABORTED`, the other side a reset.
    pub(super) fn destroy(&self, connection: &Connection) -> io::Result<()> {
        // Its id holds the cookie: it is this very socket, or none.
        let body = request(connection.family, u32::MAX, &connection.id);
        self.0.ask(SOCK_DESTROY, ACK, &body, |_| ())
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

/// `struct inet_diag_req_v2`
fn request(family: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(states.to_ne_bytes());
    body.extend(id);
    body
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
        let storage = attribute(SK_DIAG_BPF_STORAGE | NESTED, &[attribute(2, &[0; 4]), value].concat());
        let cgroup = attribute(INET_DIAG_CGROUP_ID, &77_u64.to_ne_bytes());
        [attribute(8, &[3]), cgroup, attribute(INET_DIAG_SK_BPF_STORAGES | NESTED, &storage)].concat()
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
    }

    #[test]
    fn the_kernel_lists_a_connection_of_this_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let diag = Diag::open().expect("a socket");
        let mut body = request(libc::AF_INET as u8, STATES, &[0; ID]);
        body.extend(attribute(8, &[]));
        let mut found = Vec::new();
        let take = |message: &[u8]| found.extend(Connection::parse(message));
        diag.0.ask(SOCK_DIAG_BY_FAMILY, DUMP, &body, take).expect("answered");
        let own = found.iter().find(|found| found.local == client.local_addr().expect("an address"));
        assert_eq!(own.expect("listed").remote, listener.local_addr().expect("an address"));
        assert!(!found.iter().any(|found| found.local.port() == found.remote.port() && found.remote.port() == 0));
    }
}
