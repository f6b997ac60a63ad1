//! Network namespaces of this host's processes: which there are, and doing something in one of them.
//!
//! *Invariant:* nothing is changed in anybody's namespace, and no thread that has entered one does anything else.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    thread,
};

use nix::sched::{CloneFlags, setns};

/// A network namespace: its inode, which no other has for as long as it lives.
pub(super) type Inode = u64;

/// The namespace that a thread is in, by its id in the initial pid namespace.
pub(super) fn of(thread: u32) -> io::Result<Inode> {
    let link = fs::read_link(format!("/proc/{thread}/ns/net"))?;
    let inode = link.to_str().and_then(|link| link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok());
    inode.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The namespaces that processes are in, each with a process that is.
pub(super) fn all() -> io::Result<BTreeMap<Inode, u32>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(process) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended is in none.
        if let Ok(inode) = of(process) {
            found.entry(inode).or_insert(process);
        }
    }
    Ok(found)
}

/// Does something in the namespace that a thread is in, and tells which one that was.
pub(super) fn within<T: Send>(thread: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<(Inode, T)> {
    let namespace = File::open(format!("/proc/{thread}/ns/net"))?;
    let inode = namespace.metadata()?.ino();
    thread::scope(|scope| {
        let entered = thread::Builder::new().name("warden-netns".into()).spawn_scoped(scope, || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            work()
        })?;
        entered.join().unwrap_or_else(|_| Err(io::Error::other("it panicked there")))
    })
    .map(|done| (inode, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_in_namespaces_and_threads_come_back_from_none() {
        let own = of(std::process::id()).expect("a namespace");
        assert!(all().expect("processes").contains_key(&own));
        assert!(of(u32::MAX).is_err());
        assert!(within(u32::MAX, || Ok(())).is_err());
        assert!(nix::unistd::geteuid().is_root(), "entering a namespace needs root");
        let found = within(std::process::id(), || of(nix::unistd::gettid().as_raw().unsigned_abs()));
        assert_eq!(found.expect("entered"), (own, own));
        assert!(within(std::process::id(), || -> io::Result<()> { panic!("on purpose") }).is_err());
        assert_eq!(of(nix::unistd::gettid().as_raw().unsigned_abs()).expect("a namespace"), own);
    }
}
