//! Pins: the maps and links that outlive the agent, how a new agent takes them over, and how they go.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use agent_common::{
    ABANDONED_BYTES, COUNTERS, Destination, DestinationKey, FlowKey, FlowRecord, LedgerKey, LedgerRow, Listeners,
    MAX_ALLOWED, MAX_CGROUPS, MAX_DESTINATIONS, MAX_LEDGER, MAX_NAMESPACES, MAX_OPEN, MAX_PROCESSES, MAX_SOCKETS,
    MAX_TUPLES, MAX_USERS, Mark, Membership, ProcessEntry, Settings, SocketPlace, TupleKey,
};
use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, MapError, MapInfo, MapType, lpm_trie::Key},
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError,
        links::{FdLink, PinnedLink},
    },
    sys::SyscallError,
};
use tracing::{debug, warn};

use super::{
    by_name,
    capture::CaptureError,
    features::{self, Need},
    host::HostError,
    interfaces::{self, INTERFACE, Way},
    sys::{self, AttachType, Plain},
};

/// How names of pinned links begin.
pub(super) const LINK: &str = "link_";

/// Where a program goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hook {
    Cgroup(AttachType),
    Tracepoint(&'static str),
    /// The beginning or the end of a function of the kernel, as the program itself says.
    Probe(&'static str),
    /// A hook of security modules.
    Security(&'static str),
    /// Every interface: see [`super::interfaces`].
    Interfaces(Way),
}

/// A program of the kernel side.
#[derive(Debug)]
pub(super) struct Row {
    pub name: &'static str,
    pub hook: Hook,
    pub need: Need,
}

const fn row(name: &'static str, hook: Hook, need: Need) -> Row {
    Row { name, hook, need }
}

const fn cgroup(name: &'static str, attach_type: AttachType) -> Row {
    row(name, Hook::Cgroup(attach_type), Need::Always)
}

/// Programs and their hooks, in the order in which they are attached: whoever connects is watched first.
pub(super) static PROGRAMS: [Row; 20] = [
    row("prepare_exec", Hook::Tracepoint("sched_prepare_exec"), Need::With(&features::PREPARE_EXEC)),
    row("begin_exec", Hook::Probe("begin_new_exec"), Need::Without(&features::PREPARE_EXEC)),
    row("fail_exec", Hook::Probe("begin_new_exec"), Need::Without(&features::PREPARE_EXEC)),
    row("process_exec", Hook::Tracepoint("sched_process_exec"), Need::Always),
    row("process_exit", Hook::Tracepoint("sched_process_exit"), Need::Always),
    cgroup("handover", AttachType::SockOps),
    cgroup("release", AttachType::SockRelease),
    cgroup("getpeername4", AttachType::GetPeerName4),
    cgroup("getpeername6", AttachType::GetPeerName6),
    cgroup("sendmsg4", AttachType::SendMsg4),
    cgroup("sendmsg6", AttachType::SendMsg6),
    cgroup("create", AttachType::SockCreate),
    cgroup("connect4", AttachType::Connect4),
    cgroup("connect6", AttachType::Connect6),
    row("connect_unix", Hook::Security("unix_stream_connect"), Need::With(&features::CONNECT_UNIX)),
    row(by_name::NAME, Hook::Cgroup(AttachType::ConnectUnix), Need::Without(&features::CONNECT_UNIX)),
    row("egress", Hook::Cgroup(AttachType::Egress), Need::With(&features::NETNS_COOKIE)),
    row("egress_older", Hook::Cgroup(AttachType::Egress), Need::Without(&features::NETNS_COOKIE)),
    row("interface", Hook::Interfaces(Way::Link), Need::With(&features::TCX)),
    row("interface", Hook::Interfaces(Way::Filter), Need::Without(&features::TCX)),
];

/// A map as it must be.
pub(super) struct Layout {
    pub name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

const fn layout(name: &'static str, kind: MapType, key: usize, value: usize, entries: u32) -> Layout {
    Layout { name, kind, key, value, entries }
}

/// The maps of layout [`LAYOUT`], all of them pinned. A socket's storage has its descriptor for a key.
pub(super) const MAPS: [Layout; 18] = [
    layout("SETTINGS", MapType::Array, size_of::<u32>(), size_of::<Settings>(), 1),
    layout("LISTENERS", MapType::Hash, size_of::<u64>(), size_of::<Listeners>(), MAX_NAMESPACES),
    layout("COUNTERS", MapType::Array, size_of::<u32>(), size_of::<u64>(), COUNTERS),
    layout(
        "PROTECTED4",
        MapType::LpmTrie,
        size_of::<Key<Plain<DestinationKey>>>(),
        size_of::<Destination>(),
        MAX_DESTINATIONS,
    ),
    layout(
        "PROTECTED6",
        MapType::LpmTrie,
        size_of::<Key<Plain<DestinationKey>>>(),
        size_of::<Destination>(),
        MAX_DESTINATIONS,
    ),
    layout("USERS", MapType::Hash, size_of::<u32>(), size_of::<Membership>(), MAX_USERS),
    layout("CGROUPS", MapType::Hash, size_of::<u64>(), size_of::<Membership>(), MAX_CGROUPS),
    layout("ALLOWED4", MapType::LpmTrie, size_of::<Key<Plain<DestinationKey>>>(), size_of::<u32>(), MAX_ALLOWED),
    layout("ALLOWED6", MapType::LpmTrie, size_of::<Key<Plain<DestinationKey>>>(), size_of::<u32>(), MAX_ALLOWED),
    layout("SOCKETS", MapType::Hash, size_of::<SocketPlace>(), size_of::<Destination>(), MAX_SOCKETS),
    layout("PROCESSES", MapType::Hash, size_of::<u32>(), size_of::<ProcessEntry>(), MAX_PROCESSES),
    layout("TUPLES", MapType::Hash, size_of::<TupleKey>(), size_of::<FlowRecord>(), MAX_TUPLES),
    layout("OPEN", MapType::Hash, size_of::<FlowKey>(), size_of::<FlowRecord>(), MAX_OPEN),
    layout("LEDGER", MapType::Hash, size_of::<LedgerKey>(), size_of::<LedgerRow>(), MAX_LEDGER),
    layout("ABANDONED", MapType::RingBuf, 0, 0, ABANDONED_BYTES),
    layout("FLOWS", MapType::SkStorage, size_of::<i32>(), size_of::<FlowRecord>(), 0),
    layout("PUBLISHED", MapType::SkStorage, size_of::<i32>(), size_of::<TupleKey>(), 0),
    layout("MARKS", MapType::SkStorage, size_of::<i32>(), size_of::<Mark>(), 0),
];

/// Removes an entry of a map, if it is there.
pub(super) fn forget<K: Pod, V: Pod>(map: &mut HashMap<MapData, K, V>, key: &K) -> Result<(), MapError> {
    match map.remove(key) {
        Err(MapError::SyscallError(SyscallError { io_error, .. })) if io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

/// Makes the directory of this layout, and refuses pins that this agent does not understand.
pub(super) fn check(pins: &Path, directory: &Path) -> Result<(), CaptureError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| CaptureError::Directory(directory.into(), error))?;
    let entries = fs::read_dir(pins).map_err(|error| CaptureError::Directory(pins.into(), error))?;
    for entry in entries {
        let path = entry.map_err(|error| CaptureError::Directory(pins.into(), error))?.path();
        if path != directory {
            return Err(HostError::Foreign(path).into());
        }
    }
    for expected in &MAPS {
        let path = directory.join(expected.name);
        if !path.exists() {
            continue;
        }
        let found = MapInfo::from_pin(&path)?;
        let fits = found.map_type()? == expected.kind
            && found.key_size() as usize == expected.key
            && found.value_size() as usize == expected.value
            && found.max_entries() == expected.entries;
        if !fits {
            return Err(CaptureError::Layout(path));
        }
    }
    Ok(())
}

/// Puts loaded programs in force. Returns how many took an older one's place.
pub(super) fn attach(
    kernel: &mut Ebpf,
    programs: &[&'static Row],
    directory: &Path,
    cgroup: BorrowedFd<'_>,
    by_name: Option<&OwnedFd>,
) -> Result<usize, CaptureError> {
    let mut adopted = 0;
    for Row { name, hook, .. } in programs.iter().copied() {
        let failed = |source| CaptureError::Program { name, source: Box::new(source) };
        if matches!(hook, Hook::Interfaces(_)) {
            continue;
        }
        let pin = directory.join(format!("{LINK}{name}"));
        let lost = |error| CaptureError::Pin(pin.clone(), error);
        let present = pin.exists();
        adopted += usize::from(present);
        if present && matches!(hook, Hook::Cgroup(_)) {
            let link = sys::pinned(&pin, false).map_err(|error| CaptureError::Pin(pin.clone(), error))?;
            let program = match (hook, by_name) {
                (Hook::Cgroup(AttachType::ConnectUnix), Some(program)) => program.try_clone().map_err(lost)?,
                _ => descriptor(kernel, name)?,
            };
            match sys::update_link(link.as_fd(), program.as_fd()) {
                Ok(()) => continue,
                // Somebody with the right to do so has detached it, and left the pin.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => warn!(name, "a link had been detached"),
                Err(error) => return Err(CaptureError::Pin(pin, error)),
            }
        }
        // Attached beside its predecessor, which goes when the new pin takes the place of the old one.
        // A BPF file system has no names with dots.
        let fresh = directory.join(format!("{LINK}{name}_new"));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CaptureError::Pin(fresh, error)),
            _ => {}
        }
        match (hook, by_name) {
            (Hook::Cgroup(kind @ AttachType::ConnectUnix), Some(program)) => {
                let link = sys::link_cgroup(program.as_fd(), cgroup, *kind).map_err(lost)?;
                sys::pin(link.as_fd(), &fresh).map_err(lost)?;
            }
            _ => {
                let program = kernel.program_mut(name).ok_or(CaptureError::Missing(name))?;
                drop(attach_program(program, *hook, cgroup).map_err(failed)?.pin(&fresh)?);
            }
        }
        fs::rename(&fresh, &pin).map_err(lost)?;
        debug!(name, "attached");
    }
    retire(programs, directory)?;
    Ok(adopted)
}

/// Removes links of programs that an earlier agent needed and this one does not, once all others are in force.
fn retire(programs: &[&'static Row], directory: &Path) -> Result<(), CaptureError> {
    for pin in children(directory)?.into_iter().filter(|path| is_link(path)) {
        let name = pin.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(LINK));
        let on_interface = name.is_some_and(|name| name.starts_with(INTERFACE));
        let needed = programs.iter().any(|program| match program.hook {
            Hook::Interfaces(way) => on_interface && way == Way::Link,
            _ => Some(program.name) == name,
        });
        if !needed {
            warn!(pin = %pin.display(), "the link of a program that is not needed any more is removed");
            fs::remove_file(&pin).map_err(|error| CaptureError::Pin(pin, error))?;
        }
    }
    Ok(())
}

/// Attaches a loaded program for as long as the returned link lives.
fn attach_program(program: &mut Program, hook: Hook, cgroup: BorrowedFd<'_>) -> Result<FdLink, ProgramError> {
    // A link takes its place among other programs of the cgroup in any mode; the kernel refuses the flag for it.
    let mode = CgroupAttachMode::Single;
    let link = match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode)?;
            FdLink::try_from(program.take_link(id)?)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode)?;
            FdLink::try_from(program.take_link(id)?)
        }
        Program::CgroupSkb(program) => {
            let id = program.attach(cgroup, CgroupSkbAttachType::Egress, mode)?;
            FdLink::try_from(program.take_link(id)?)
        }
        Program::SockOps(program) => {
            let id = program.attach(cgroup, mode)?;
            FdLink::try_from(program.take_link(id)?)
        }
        Program::BtfTracePoint(program) => {
            let id = program.attach()?;
            Ok(program.take_link(id)?.into())
        }
        Program::Lsm(program) => {
            let id = program.attach()?;
            Ok(program.take_link(id)?.into())
        }
        Program::KProbe(program) => {
            let Hook::Probe(function) = hook else { return Err(ProgramError::UnexpectedProgramType) };
            let id = program.attach(function, 0)?;
            FdLink::try_from(program.take_link(id)?)
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    link.map_err(|_| ProgramError::UnexpectedProgramType)
}

/// A descriptor of a loaded program.
pub(super) fn descriptor(kernel: &Ebpf, name: &'static str) -> Result<OwnedFd, CaptureError> {
    let program = kernel.program(name).ok_or(CaptureError::Missing(name))?;
    let failed = |source| CaptureError::Program { name, source: Box::new(source) };
    let fd = program.fd().map_err(failed)?;
    fd.as_fd().try_clone_to_owned().map_err(|error| failed(ProgramError::IOError(error)))
}

/// A program that was put in force, and its id in the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub name: &'static str,
    hook: Hook,
    id: u32,
}

/// The programs of a loaded object that were put in force.
pub(super) fn loaded(kernel: &Ebpf, programs: &[&'static Row], directory: &Path) -> Result<Vec<Loaded>, CaptureError> {
    let of = |row: &&'static Row| {
        let (name, hook) = (row.name, row.hook);
        if let Hook::Cgroup(AttachType::ConnectUnix) = hook {
            // Behind the link that has just been made or changed.
            return Ok(Loaded { name, hook, id: linked(directory, name)? });
        }
        let program = kernel.program(name).ok_or(CaptureError::Missing(name))?;
        let info = program.info().map_err(|source| CaptureError::Program { name, source: Box::new(source) })?;
        Ok(Loaded { name, hook, id: info.id() })
    };
    programs.iter().map(of).collect()
}

impl Loaded {
    /// Its id in the kernel.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// How it is on every interface, and its id, if it belongs there.
    pub(super) fn on_interfaces(&self) -> Option<(Way, u32)> {
        if let Hook::Interfaces(way) = self.hook { Some((way, self.id)) } else { None }
    }

    /// Asks the kernel whether this program is what runs at its hook: the pinned link leads to it, and it is effective at the
    /// root of the hierarchy.
    pub(super) fn in_force(&self, directory: &Path, cgroup: BorrowedFd<'_>) -> Result<bool, CaptureError> {
        if self.on_interfaces().is_some() {
            return Ok(true);
        }
        let pin = directory.join(format!("{LINK}{}", self.name));
        let linked = linked(directory, self.name)? == self.id;
        Ok(linked
            && match self.hook {
                Hook::Cgroup(kind) => sys::effective_programs(cgroup, kind)
                    .map_err(|error| CaptureError::Pin(pin, error))?
                    .contains(&self.id),
                Hook::Tracepoint(_) | Hook::Probe(_) | Hook::Security(_) | Hook::Interfaces(_) => true,
            })
    }
}

/// Id of the program behind a pinned link.
fn linked(directory: &Path, name: &str) -> Result<u32, CaptureError> {
    let link = PinnedLink::from_pin(directory.join(format!("{LINK}{name}")))?;
    Ok(FdLink::from(link).info()?.program_id())
}

/// What [`uninstall`] has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Links: programs that are no longer attached.
    pub links: usize,
    /// Maps.
    pub maps: usize,
}

impl Removed {
    /// Whether there was nothing to remove.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Removes all pins below `pins`, of any layout, and thereby the programs. Nothing there is nothing to do.
pub(super) fn uninstall(pins: &Path) -> Result<Removed, CaptureError> {
    let mut removed = Removed::default();
    for directory in children(pins)? {
        // Links before maps, and those that redirect before those that watch: no connection must be noted by a program whose
        // companions are gone.
        let mut pinned = children(&directory)?;
        pinned.sort_by_key(|path| !is_connect(path));
        let (links, maps): (Vec<_>, Vec<_>) = pinned.into_iter().partition(|path| is_link(path));
        interfaces::remove_filters(&directory).map_err(CaptureError::Interfaces)?;
        for path in links.iter().chain(&maps) {
            if is_link(path)
                && let Ok(link) = sys::pinned(path, false)
            {
                // Links of tracepoints and probes cannot be detached by request; they go with their pin.
                let _ = sys::detach_link(link.as_fd());
            }
            fs::remove_file(path).map_err(|error| CaptureError::Pin(path.clone(), error))?;
        }
        fs::remove_dir(&directory).map_err(|error| CaptureError::Directory(directory.clone(), error))?;
        removed.links += links.len();
        removed.maps += maps.len();
    }
    match fs::remove_dir(pins) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CaptureError::Directory(pins.into(), error)),
        _ => Ok(removed),
    }
}

fn children(directory: &Path) -> Result<Vec<PathBuf>, CaptureError> {
    let failed = |error| CaptureError::Directory(directory.into(), error);
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect(),
    }
}

fn is_link(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(LINK.as_bytes()))
}

fn is_connect(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_connect"))
}
