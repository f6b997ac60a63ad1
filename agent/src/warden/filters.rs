//! Programs on interfaces before 6.6: filters of the queueing discipline `clsact`.
//!
//! A filter has no link that could be pinned: it stays with its interface until somebody removes it. Ours is known by its
//! handle, which stands for the directory of the pins. The discipline itself stays when the filter goes: others may have
//! filters there.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    path::Path,
};

use nix::sys::socket::SockProtocol;
use sha2::{Digest as _, Sha256};

use super::netlink::{ACK, NESTED, Netlink, attribute, number, within};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_ECHO: u16 = 8;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// What the program returns is the verdict: `TCA_BPF_FLAG_ACT_DIRECT`
const DIRECT: u32 = 1;

/// `TC_H_CLSACT`, the parent of the discipline, and its handle.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// The parent of filters for what leaves: `TC_H_MIN_EGRESS` of the discipline.
const EGRESS: u32 = 0xffff_fff3;

/// The first priority, and all protocols: nobody's verdict comes before ours, except a program's that was added there later.
const FIRST: u32 = 1 << 16 | (ETH_P_ALL.to_be() as u32);
const ETH_P_ALL: u16 = 3;

/// `struct tcmsg`
const MESSAGE: usize = 20;

/// The filters of one agent, on the interfaces of the network namespace in which this was opened.
pub(super) struct Filters {
    netlink: Netlink,
    handle: u32,
}

impl Filters {
    /// Those of the agent whose pins are in this directory.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let digest = Sha256::digest(directory.as_os_str().as_encoded_bytes());
        // Zero would be any handle.
        let handle = digest.first_chunk().map_or(1, |bytes| u32::from_ne_bytes(*bytes).max(1));
        Ok(Self { netlink: Netlink::open(SockProtocol::NetlinkRoute)?, handle })
    }

    /// Whether the kernel takes a program as a filter: it is put on an interface for a moment.
    pub(super) fn trial(&self, program: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
        let made = self.discipline(interface)?;
        let taken = self.filter(program, interface).and_then(|()| self.remove(interface));
        if made {
            let body = message(interface, CLSACT_HANDLE, CLSACT, 0);
            self.netlink.ask(RTM_DELQDISC, ACK, &body, |_| ())?;
        }
        taken
    }

    /// Puts a program on what leaves by an interface, in place of an older one.
    pub(super) fn put(&self, program: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
        self.discipline(interface)?;
        self.filter(program, interface)
    }

    /// Id of the program that is on an interface.
    pub(super) fn program(&self, interface: u32) -> io::Result<Option<u32>> {
        let mut id = None;
        let asked = self.netlink.ask(RTM_GETTFILTER, ACK, &self.ours(interface), |answer| {
            let options = answer.get(MESSAGE..).and_then(|attributes| within(attributes, TCA_OPTIONS));
            id = options.and_then(|options| number(within(options, TCA_BPF_ID)?, 0)).or(id);
        });
        match asked {
            Ok(()) => Ok(id),
            // No filter, no discipline, no interface; or a kernel that has never heard of such filters.
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Takes the program off an interface.
    pub(super) fn remove(&self, interface: u32) -> io::Result<()> {
        match self.program(interface)? {
            Some(_) => self.netlink.ask(RTM_DELTFILTER, ACK, &self.ours(interface), |_| ()),
            None => Ok(()),
        }
    }

    /// Makes sure that an interface has the discipline. Returns whether it had none.
    fn discipline(&self, interface: u32) -> io::Result<bool> {
        let mut body = message(interface, CLSACT_HANDLE, CLSACT, 0);
        body.extend(attribute(TCA_KIND, b"clsact\0"));
        match self.netlink.ask(RTM_NEWQDISC, ACK | NLM_F_CREATE | NLM_F_EXCL, &body, |_| ()) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            made => return made.map(|()| true),
        }
        // The older discipline `ingress` has the same place, and nothing for what leaves.
        let mut kind = Vec::new();
        // The kernel answers those who want an echo.
        let body = message(interface, CLSACT_HANDLE, CLSACT, 0);
        self.netlink.ask(RTM_GETQDISC, ACK | NLM_F_ECHO, &body, |answer| {
            kind = answer.get(MESSAGE..).and_then(|attributes| within(attributes, TCA_KIND)).unwrap_or_default().into();
        })?;
        match kind.as_slice() {
            b"clsact\0" => Ok(false),
            other => {
                let other = String::from_utf8_lossy(other).trim_end_matches('\0').to_owned();
                Err(io::Error::other(format!(
                    "interface {interface} has the queueing discipline `{other}`, not `clsact`"
                )))
            }
        }
    }

    fn filter(&self, program: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
        let options = [
            attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes()),
            attribute(TCA_BPF_NAME, b"postern\0"),
            attribute(TCA_BPF_FLAGS, &DIRECT.to_ne_bytes()),
        ];
        let mut body = self.ours(interface);
        body.extend(attribute(TCA_OPTIONS | NESTED, &options.concat()));
        self.netlink.ask(RTM_NEWTFILTER, ACK | NLM_F_CREATE, &body, |_| ())
    }

    fn ours(&self, interface: u32) -> Vec<u8> {
        let mut body = message(interface, self.handle, EGRESS, FIRST);
        body.extend(attribute(TCA_KIND, b"bpf\0"));
        body
    }
}

/// `struct tcmsg`
fn message(interface: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, interface, handle, parent, info].into_iter().flat_map(u32::to_ne_bytes).collect()
}
