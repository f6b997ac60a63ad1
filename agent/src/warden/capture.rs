//! The kernel side, loaded, attached and pinned: or adopted from an earlier run.
//!
//! *Invariant:* from the first start to `postern uninstall` there is no moment in which a protected destination can be
//! reached past the programs. New programs use the pinned maps and take the old ones' place under the pinned links.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use agent_common::{
    COUNTER_NAMES, COUNTERS, Destination, DestinationKey, FlowRecord, LAYOUT, MARK_LISTENER, MARK_UPSTREAM,
    MAX_DESTINATIONS, MAX_PROCESSES, MAX_TUPLES, Mark, ProcessEntry, Settings, TupleKey,
};
use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, MapInfo, MapType, SkStorage, lpm_trie::Key},
    pin::PinError,
    programs::{
        CgroupAttachMode, Program, ProgramError,
        links::{FdLink, LinkError, PinnedLink},
    },
};
use aya_log::EbpfLogger;
use tracing::{debug, info, warn};

use super::{
    destinations::{Destinations, ProtectError},
    sys::{self, AttachType, Plain},
};
use crate::config::Target;

/// The kernel side, compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("POSTERN_BPF_OBJECT"));

/// Where a program goes.
#[derive(Clone, Copy, Debug)]
enum Hook {
    Cgroup(AttachType),
    Tracepoint(&'static str),
}

/// Programs and their hooks, in the order in which they are attached: whoever connects is watched first.
const PROGRAMS: [(&str, Hook); 11] = [
    ("prepare_exec", Hook::Tracepoint("sched_prepare_exec")),
    ("process_exec", Hook::Tracepoint("sched_process_exec")),
    ("process_exit", Hook::Tracepoint("sched_process_exit")),
    ("handover", Hook::Cgroup(AttachType::SockOps)),
    ("release", Hook::Cgroup(AttachType::SockRelease)),
    ("getpeername4", Hook::Cgroup(AttachType::GetPeerName4)),
    ("getpeername6", Hook::Cgroup(AttachType::GetPeerName6)),
    ("sendmsg4", Hook::Cgroup(AttachType::SendMsg4)),
    ("sendmsg6", Hook::Cgroup(AttachType::SendMsg6)),
    ("connect4", Hook::Cgroup(AttachType::Connect4)),
    ("connect6", Hook::Cgroup(AttachType::Connect6)),
];

/// A map as it must be.
struct Layout {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

const fn layout(name: &'static str, kind: MapType, key: usize, value: usize, entries: u32) -> Layout {
    Layout { name, kind, key, value, entries }
}

/// The maps of layout [`LAYOUT`], all of them pinned. A socket's storage has its descriptor for a key.
const MAPS: [Layout; 9] = [
    layout("SETTINGS", MapType::Array, size_of::<u32>(), size_of::<Settings>(), 1),
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
    layout("PROCESSES", MapType::Hash, size_of::<u32>(), size_of::<ProcessEntry>(), MAX_PROCESSES),
    layout("TUPLES", MapType::Hash, size_of::<TupleKey>(), size_of::<FlowRecord>(), MAX_TUPLES),
    layout("FLOWS", MapType::SkStorage, size_of::<i32>(), size_of::<FlowRecord>(), 0),
    layout("PUBLISHED", MapType::SkStorage, size_of::<i32>(), size_of::<TupleKey>(), 0),
    layout("MARKS", MapType::SkStorage, size_of::<i32>(), size_of::<Mark>(), 0),
];

/// The kernel side at work. It stays at work when this is dropped.
pub(super) struct Capture {
    settings: Mutex<(Array<MapData, Plain<Settings>>, Settings)>,
    counters: Array<MapData, u64>,
    processes: Mutex<HashMap<MapData, u32, Plain<ProcessEntry>>>,
    flows: SkStorage<MapData, Plain<FlowRecord>>,
    marks: Mutex<SkStorage<MapData, Mark>>,
    destinations: Mutex<Destinations>,
    process_map: PathBuf,
}

/// What the programs log, on its way to `tracing` (by way of `log`, whose logger the subscriber must have installed).
pub(super) struct KernelLog {
    /// Becomes readable when there is something.
    pub readable: OwnedFd,
    /// Forwards what there is.
    pub forward: Box<dyn FnMut()>,
}

impl Capture {
    /// Loads the programs, adopts or makes the pins below `pins`, and attaches at the root of the cgroup hierarchy.
    ///
    /// Until [`Capture::listen_at`], every connection to a protected destination is refused.
    pub(super) fn start(
        pins: &Path,
        cgroup: BorrowedFd<'_>,
        netns: u64,
        targets: &[Target],
    ) -> Result<(Self, KernelLog), CaptureError> {
        let directory = pins.join(format!("v{LAYOUT}"));
        check_pins(pins, &directory)?;
        let mut loader = EbpfLoader::new();
        for map in &MAPS {
            loader.map_pin_path(map.name, directory.join(map.name));
        }
        let mut kernel = loader.load(OBJECT).map_err(Box::new)?;
        let mut logger = EbpfLogger::init(&mut kernel).map_err(|error| CaptureError::Logger(error.to_string()))?;
        let log = KernelLog {
            readable: logger.as_fd().try_clone_to_owned().map_err(|error| CaptureError::Logger(error.to_string()))?,
            forward: Box::new(move || logger.flush()),
        };

        let mut settings: Array<_, Plain<Settings>> = map(&mut kernel, "SETTINGS")?;
        let closed = Settings { netns, port: 0, pad: [0; 3] };
        settings.set(0, Plain(closed), 0)?;
        let v4 = map(&mut kernel, "PROTECTED4")?;
        let v6 = map(&mut kernel, "PROTECTED6")?;
        let destinations = Destinations::new(v4, v6, targets)?;

        let adopted = attach(&mut kernel, &directory, cgroup)?;
        verify(&kernel, &directory, cgroup)?;
        info!(
            destinations = destinations.len(),
            programs = PROGRAMS.len(),
            adopted,
            pins = %directory.display(),
            "the kernel side is in force at the root of the cgroup hierarchy"
        );
        let capture = Self {
            settings: Mutex::new((settings, closed)),
            counters: map(&mut kernel, "COUNTERS")?,
            processes: Mutex::new(map(&mut kernel, "PROCESSES")?),
            flows: map(&mut kernel, "FLOWS")?,
            marks: Mutex::new(map(&mut kernel, "MARKS")?),
            destinations: Mutex::new(destinations),
            process_map: directory.join("PROCESSES"),
        };
        Ok((capture, log))
    }

    /// Tells the programs where the proxy listens; 0 for nowhere.
    pub(super) fn listen_at(&self, port: u16) -> Result<(), MapError> {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, current) = &mut *settings;
        let next = Settings { port, ..*current };
        map.set(0, Plain(next), 0)?;
        *current = next;
        Ok(())
    }

    /// Marks one of the proxy's listeners.
    pub(super) fn mark_listener(&self, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.mark(socket, MARK_LISTENER)
    }

    /// Marks a socket of the proxy on its way to a target.
    pub(super) fn mark_upstream(&self, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.mark(socket, MARK_UPSTREAM)
    }

    fn mark(&self, socket: BorrowedFd<'_>, mark: Mark) -> Result<(), MapError> {
        use std::os::fd::AsRawFd as _;
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.insert(&socket.as_raw_fd(), mark, 0)
    }

    /// The flow in a socket's own storage.
    pub(super) fn flow(&self, socket: BorrowedFd<'_>) -> Result<Option<FlowRecord>, MapError> {
        use std::os::fd::AsRawFd as _;
        match self.flows.get(&socket.as_raw_fd(), 0) {
            Ok(Plain(flow)) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The entry of a process.
    pub(super) fn process(&self, tgid: u32) -> Result<Plain<ProcessEntry>, MapError> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).get(&tgid, 0)
    }

    /// All entries of processes.
    pub(super) fn processes(&self) -> Vec<(u32, ProcessEntry)> {
        let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.iter().filter_map(Result::ok).map(|(tgid, Plain(entry))| (tgid, entry)).collect()
    }

    /// Removes the entry of a process that is no more.
    pub(super) fn forget(&self, tgid: u32) {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        match processes.remove(&tgid) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => warn!(tgid, %error, "the entry of an ended process cannot be removed"),
        }
    }

    /// A descriptor of the process map that only reads.
    pub(super) fn process_map(&self) -> io::Result<OwnedFd> {
        sys::pinned(&self.process_map, true)
    }

    /// Takes new addresses of a target that is known by name.
    pub(super) fn protect(&self, target: u32, addresses: &[std::net::SocketAddr]) -> Result<(), ProtectError> {
        self.destinations.lock().unwrap_or_else(PoisonError::into_inner).protect(target, addresses)
    }

    /// The counters by name.
    pub(super) fn counters(&self) -> Result<BTreeMap<String, u64>, MapError> {
        COUNTER_NAMES
            .iter()
            .map(|(counter, name)| Ok(((*name).to_owned(), self.counters.get(&(*counter as u32), 0)?)))
            .collect()
    }
}

/// Makes the pin directory, and refuses pins that this agent does not understand.
fn check_pins(pins: &Path, directory: &Path) -> Result<(), CaptureError> {
    fs::create_dir_all(directory).map_err(|error| CaptureError::Directory(directory.into(), error))?;
    for path in [pins, directory] {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(|error| CaptureError::Directory(path.into(), error))?;
    }
    let entries = fs::read_dir(pins).map_err(|error| CaptureError::Directory(pins.into(), error))?;
    for entry in entries {
        let path = entry.map_err(|error| CaptureError::Directory(pins.into(), error))?.path();
        if path != directory {
            return Err(CaptureError::Foreign(path));
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

/// Takes a map out of the loaded object, as the type that it has to be.
fn map<T>(kernel: &mut Ebpf, name: &'static str) -> Result<T, CaptureError>
where
    T: TryFrom<Map, Error = MapError>,
{
    Ok(T::try_from(kernel.take_map(name).ok_or(CaptureError::Missing(name))?)?)
}

/// Loads every program and puts it in force. Returns how many took an older one's place.
fn attach(kernel: &mut Ebpf, directory: &Path, cgroup: BorrowedFd<'_>) -> Result<usize, CaptureError> {
    let types = Btf::from_sys_fs().map_err(|error| CaptureError::Types(error.to_string()))?;
    let mut adopted = 0;
    for (name, hook) in PROGRAMS {
        let failed = |source| CaptureError::Program { name, source: Box::new(source) };
        let program = kernel.program_mut(name).ok_or(CaptureError::Missing(name))?;
        load(program, hook, &types).map_err(failed)?;
        let pin = directory.join(format!("link_{name}"));
        let present = pin.exists();
        adopted += usize::from(present);
        if present && matches!(hook, Hook::Cgroup(_)) {
            let link = sys::pinned(&pin, false).map_err(|error| CaptureError::Pin(pin.clone(), error))?;
            match sys::update_link(link.as_fd(), program.fd().map_err(failed)?.as_fd()) {
                Ok(()) => continue,
                // Somebody with the right to do so has detached it, and left the pin.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => warn!(name, "a link had been detached"),
                Err(error) => return Err(CaptureError::Pin(pin, error)),
            }
        }
        // Attached beside its predecessor, which goes when the new pin takes the place of the old one.
        let link = attach_program(program, cgroup).map_err(failed)?;
        let fresh = directory.join(format!("link_{name}.new"));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CaptureError::Pin(fresh, error)),
            _ => {}
        }
        link.pin(&fresh)?;
        fs::rename(&fresh, &pin).map_err(|error| CaptureError::Pin(pin, error))?;
        debug!(name, "attached");
    }
    Ok(adopted)
}

fn load(program: &mut Program, hook: Hook, types: &Btf) -> Result<(), ProgramError> {
    match (program, hook) {
        (Program::CgroupSockAddr(program), _) => program.load(),
        (Program::CgroupSock(program), _) => program.load(),
        (Program::SockOps(program), _) => program.load(),
        (Program::BtfTracePoint(program), Hook::Tracepoint(name)) => program.load(name, types),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Attaches a loaded program for as long as the returned link lives.
fn attach_program(program: &mut Program, cgroup: BorrowedFd<'_>) -> Result<FdLink, ProgramError> {
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
        Program::SockOps(program) => {
            let id = program.attach(cgroup, mode)?;
            FdLink::try_from(program.take_link(id)?)
        }
        Program::BtfTracePoint(program) => {
            let id = program.attach()?;
            Ok(program.take_link(id)?.into())
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    };
    link.map_err(|_| ProgramError::UnexpectedProgramType)
}

/// Asks the kernel whether what runs is what was loaded.
fn verify(kernel: &Ebpf, directory: &Path, cgroup: BorrowedFd<'_>) -> Result<(), CaptureError> {
    for (name, hook) in PROGRAMS {
        let program = kernel.program(name).ok_or(CaptureError::Missing(name))?;
        let id = program.info().map_err(|source| CaptureError::Program { name, source: Box::new(source) })?.id();
        let pin = directory.join(format!("link_{name}"));
        let link = FdLink::from(PinnedLink::from_pin(&pin)?);
        let linked = link.info()?.program_id() == id;
        let effective = match hook {
            Hook::Cgroup(kind) => {
                sys::effective_programs(cgroup, kind).map_err(|error| CaptureError::Pin(pin, error))?.contains(&id)
            }
            Hook::Tracepoint(_) => true,
        };
        if !linked || !effective {
            return Err(CaptureError::NotInForce(name));
        }
    }
    Ok(())
}

/// What [`uninstall`] has removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
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
        // Links before maps, and those that redirect before those that watch: the reverse of their names' order would do
        // too, but no connection must be noted by a program whose companions are gone.
        let mut pinned = children(&directory)?;
        pinned.sort_by_key(|path| !is_connect(path));
        let (links, maps): (Vec<_>, Vec<_>) = pinned.into_iter().partition(|path| is_link(path));
        for path in links.iter().chain(&maps) {
            if is_link(path)
                && let Ok(link) = sys::pinned(path, false)
            {
                // Tracepoint links cannot be detached by request; they go with their pin.
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
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_"))
}

fn is_connect(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_connect"))
}

/// The kernel side could not be put in force, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A pin directory cannot be made or read.
    #[error("{0}: {1}")]
    Directory(PathBuf, #[source] io::Error),
    /// Something else lies among the pins.
    #[error("{0} was left by another version of the agent; run `postern uninstall`, then start again")]
    Foreign(PathBuf),
    /// A pinned map has another layout.
    #[error("the map {0} has another layout than this agent's; run `postern uninstall`, then start again")]
    Layout(PathBuf),
    /// A pin cannot be made, opened or replaced.
    #[error("the pin {0}: {1}")]
    Pin(PathBuf, #[source] io::Error),
    /// The object cannot be loaded.
    #[error("the kernel side cannot be loaded: {0}")]
    Load(#[from] Box<EbpfError>),
    /// The kernel does not describe its types.
    #[error("the kernel's type information cannot be read ({0}); Postern needs a kernel with BTF")]
    Types(String),
    /// A program cannot be loaded or attached.
    #[error("the kernel program {name} cannot be put in force: {source} (Postern needs kernel 6.10 or later)")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A map cannot be read or written.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A link cannot be pinned.
    #[error(transparent)]
    PinLink(#[from] PinError),
    /// A link cannot be read.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The object lacks a part.
    #[error("the kernel side has no {0}; it was built from other sources than this agent")]
    Missing(&'static str),
    /// The programs' log cannot be read.
    #[error("the log of the kernel side cannot be read: {0}")]
    Logger(String),
    /// Protected destinations cannot be written.
    #[error("{0}")]
    Protect(String),
    /// Another program is in force than the one that was loaded.
    #[error("the kernel program {0} is not in force although it was attached")]
    NotInForce(&'static str),
}

impl From<ProtectError> for CaptureError {
    fn from(error: ProtectError) -> Self {
        Self::Protect(error.to_string())
    }
}
