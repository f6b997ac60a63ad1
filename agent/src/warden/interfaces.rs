//! The guard on interfaces: packets of packet sockets, and forwarded ones, pass no cgroup.
//!
//! Every interface of the host's namespace has the program as a pinned link of its own, or before 6.6 as a filter; both go with
//! the interface. A thread hears of new ones.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::{
    net::if_::if_nameindex,
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket},
};
use tracing::{debug, warn};

use super::{filters::Filters, pins::LINK, sys};

/// Beginning of a link's name; the interface's index follows.
pub(super) const INTERFACE: &str = "interface_";

/// Group of messages about interfaces: `RTMGRP_LINK`.
const LINKS: u32 = 1;

/// How a program is on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By a link.
    Link,
    /// By a filter.
    Filter,
}

/// The program on the interfaces.
pub(super) struct Interfaces {
    program: OwnedFd,
    /// Its id in the kernel.
    id: u32,
    directory: PathBuf,
    /// `None` where there are links.
    filters: Option<Filters>,
}

impl Interfaces {
    /// Puts the program on every interface in place of an older one, and keeps doing so for as long as the process lives.
    pub(super) fn start(way: Way, (program, id): (OwnedFd, u32), directory: &Path) -> io::Result<Arc<Self>> {
        let filters = if way == Way::Filter { Some(Filters::open(directory)?) } else { None };
        let interfaces = Arc::new(Self { program, id, directory: directory.to_owned(), filters });
        // Heard of before looked at, so that none appears in between unseen.
        let news = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        bind(news.as_raw_fd(), &NetlinkAddr::new(0, LINKS))?;
        interfaces.cover(true)?;
        let watching = Arc::clone(&interfaces);
        thread::Builder::new().name("warden-links".into()).spawn(move || watching.watch(&news))?;
        Ok(interfaces)
    }

    /// The interfaces that the program is not on.
    pub(super) fn missing(&self) -> io::Result<Vec<String>> {
        let mut missing = Vec::new();
        for interface in &if_nameindex()? {
            if !self.covered(interface.index())? {
                missing.push(format!("interface {}", interface.name().to_string_lossy()));
            }
        }
        Ok(missing)
    }

    fn covered(&self, index: u32) -> io::Result<bool> {
        match &self.filters {
            None => Ok(self.pin(index).exists()),
            Some(filters) => Ok(filters.program(index)? == Some(self.id)),
        }
    }

    fn watch(&self, news: &OwnedFd) {
        let mut buffer = [0; 16 * 1024];
        loop {
            match recv(news.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                // What exactly has changed does not matter; nor does it that some of the news was lost.
                Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR) => {}
                Err(error) => {
                    warn!(%error, "new interfaces cannot be heard of any more");
                    return;
                }
            }
            if let Err(error) = self.cover(false) {
                warn!(%error, "an interface is not guarded");
            }
        }
    }

    /// Puts the program on the interfaces that do not have it, or on `all`, and removes the pins of those that are gone.
    fn cover(&self, all: bool) -> io::Result<()> {
        let mut pins = BTreeSet::new();
        for interface in &if_nameindex()? {
            let pin = self.pin(interface.index());
            if all || !self.covered(interface.index())? {
                match self.put(interface.index(), &pin) {
                    Ok(()) => debug!(interface = %interface.name().to_string_lossy(), "guarded"),
                    // It has gone meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
                    // One that has no place for a filter is no reason to guard none; `missing` tells of it.
                    Err(error) if self.filters.is_some() => warn!(%error, "an interface is not guarded"),
                    Err(error) => return Err(error),
                }
            }
            pins.insert(pin);
        }
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(LINK));
            if name.is_some_and(|name| name.starts_with(INTERFACE)) && !pins.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn put(&self, index: u32, pin: &Path) -> io::Result<()> {
        if let Some(filters) = &self.filters {
            return filters.put(self.program.as_fd(), index);
        }
        if pin.exists() {
            let link = sys::pinned(pin, false)?;
            match sys::update_link(link.as_fd(), self.program.as_fd()) {
                // The interface that it was on has gone, and another one has its index.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => fs::remove_file(pin)?,
                result => return result,
            }
        }
        let link = sys::link_interface(self.program.as_fd(), index)?;
        sys::pin(link.as_fd(), pin)
    }

    fn pin(&self, index: u32) -> PathBuf {
        self.directory.join(format!("{LINK}{INTERFACE}{index}"))
    }
}

/// Takes the filters of the agent whose pins are in this directory off all interfaces. Links go with their pins.
pub(super) fn remove_filters(directory: &Path) -> io::Result<()> {
    let filters = Filters::open(directory)?;
    if_nameindex()?.iter().try_for_each(|interface| filters.remove(interface.index()))
}
