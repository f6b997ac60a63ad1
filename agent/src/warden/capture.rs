//! The kernel side, loaded, attached and pinned: or adopted from an earlier run.
//!
//! *Invariant:* from the first start to `postern uninstall` there is no moment in which a protected destination can be
//! reached past the programs. New programs use the pinned maps and take the old ones' place under the pinned links.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use agent_common::{
    CANARY, COUNTER_NAMES, Destination, FlowRecord, LAYOUT, LedgerKey, MARK_EXISTING, MARK_LISTENER, MARK_UPSTREAM,
    Mark, Offsets, Ports, ProcessEntry, Settings, scope::EVERYWHERE,
};
use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, MapInfo, RingBuf, SkStorage},
    pin::PinError,
    programs::{ProgramError, links::LinkError},
};
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{info, warn};

use super::{
    access, by_name,
    destinations::{Destinations, ProtectError},
    features::{self, CONNECT_UNIX, Found, Selection, State},
    host::{AgentUser, HostError},
    interfaces::Interfaces,
    ledger::Ledger,
    pins::{self, Loaded},
    scope::{self, Scope, ScopeError},
    sockets::{Known, Sockets},
    sys::{self, Plain},
    types,
};
use crate::{
    config::{Config, Reach},
    model::{CoverageRow, Flow, FlowId, KernelSide},
};

/// The kernel side, compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("POSTERN_BPF_OBJECT"));

/// The kernel side at work. It stays at work when this is dropped.
pub(super) struct Capture {
    listeners: Mutex<Listeners>,
    counters: Array<MapData, u64>,
    processes: RwLock<HashMap<MapData, u32, Plain<ProcessEntry>>>,
    flows: SkStorage<MapData, Plain<FlowRecord>>,
    marks: Mutex<SkStorage<MapData, Mark>>,
    destinations: Mutex<Destinations>,
    ledger: Mutex<Ledger>,
    programs: Vec<Loaded>,
    /// Links that were in force before.
    adopted: usize,
    ledger_id: u32,
    configuration: String,
    sockets: Mutex<Sockets>,
    /// Users in scope, if these are all who are.
    users: Option<Vec<AgentUser>>,
    /// `None` where the kernel takes no programs on interfaces.
    interfaces: Option<Arc<Interfaces>>,
    scope: Scope,
    cgroup: OwnedFd,
    directory: PathBuf,
}

/// Where the proxy listens, by the cookie of the network namespace.
type Listeners = HashMap<MapData, u64, Plain<agent_common::Listeners>>;

/// Where the programs say [`agent_common::Unserved`].
pub(super) type Unserved = RingBuf<MapData>;

/// What the programs log, on its way to `tracing` (by way of `log`, whose logger the subscriber must have installed).
pub(super) struct KernelLog {
    readable: OwnedFd,
    forward: Box<dyn FnMut() + Send>,
}

impl KernelLog {
    /// Forwards what is logged, for as long as the process lives: in a thread of its own, since whoever is refused often
    /// enough can keep it busy.
    pub(super) fn run(mut self) {
        loop {
            let mut ready = [PollFd::new(self.readable.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) => (self.forward)(),
                Err(nix::Error::EINTR) => {}
                Err(error) => {
                    warn!(%error, "what the kernel side logs cannot be read any more");
                    return;
                }
            }
        }
    }
}

impl Capture {
    /// Loads the programs, adopts or makes the pins below `pin_dir`, and attaches at the root of the cgroup hierarchy.
    ///
    /// Until [`Capture::listen_at`], every connection to a protected destination is refused.
    pub(super) fn start(
        config: &Config,
        (cgroup_root, cgroup): (&Path, BorrowedFd<'_>),
        netns: u64,
    ) -> Result<(Self, KernelLog, Unserved), CaptureError> {
        let pin_dir = &config.agent.pin_dir;
        let directory = pin_dir.join(format!("v{LAYOUT}"));
        pins::check(pin_dir, &directory)?;
        let offsets = Plain(offsets()?);
        let mut loader = loader(&offsets);
        for map in &pins::MAPS {
            loader.map_pin_path(map.name, directory.join(map.name));
        }
        let mut kernel = loader.load(OBJECT).map_err(Box::new)?;
        let by_name = by_name::load(OBJECT, &kernel, &offsets.0);
        let mut logger = EbpfLogger::init(&mut kernel).map_err(|error| CaptureError::Logger(error.to_string()))?;
        let log = KernelLog {
            readable: logger.as_fd().try_clone_to_owned().map_err(|error| CaptureError::Logger(error.to_string()))?,
            forward: Box::new(move || logger.flush()),
        };

        let mut settings: Array<_, Plain<Settings>> = map(&mut kernel, "SETTINGS")?;
        let mut listeners = map(&mut kernel, "LISTENERS")?;
        // Closed, for whoever was in scope until now: an earlier run may have left places at which somebody listens.
        forget_all(&mut listeners)?;
        let Plain(before) = settings.get(&0, 0)?;
        let mut closed = Settings { netns, ..before };
        settings.set(0, Plain(closed), 0)?;
        let v4 = map(&mut kernel, "PROTECTED4")?;
        let v6 = map(&mut kernel, "PROTECTED6")?;
        let destinations = Destinations::new(v4, v6, &config.targets)?;
        closed.scope = scope::establish(&config.intercept, cgroup_root, &directory)?;
        if config.intercept.namespaces == Reach::All {
            closed.scope |= EVERYWHERE;
        }
        settings.set(0, Plain(closed), 0)?;

        let Selection { programs, by_name, features } =
            features::select(&mut kernel, by_name, &types()?, &config.agent.runtime_dir)?;
        features::demand(&features)?;
        for found in features.iter().filter(|found| found.state != State::Present) {
            warn!(feature = found.name, lost = found.lost, "this kernel lacks something; `postern doctor` tells more");
        }
        let known = match features.iter().find(|found| found.name == CONNECT_UNIX.name).map(|found| found.state) {
            Some(State::Present) => Known::ByPlace,
            Some(State::Replaced) => Known::ByName,
            Some(State::Missing) | None => Known::Not,
        };
        let mut sockets = Sockets::new(map(&mut kernel, "SOCKETS")?, &config.targets, known)?;
        // What cannot be found now is looked for again, and told, later.
        sockets.look();
        let adopted = pins::attach(&mut kernel, &programs, &directory, cgroup, by_name.as_ref())?;
        let programs = pins::loaded(&kernel, &programs, &directory)?;
        let interfaces = match programs.iter().find_map(Loaded::on_interfaces) {
            Some((way, id)) => {
                let program = (pins::descriptor(&kernel, "interface")?, id);
                Some(Interfaces::start(way, program, &directory).map_err(CaptureError::Interfaces)?)
            }
            None => None,
        };
        for program in &programs {
            if !program.in_force(&directory, cgroup)? {
                return Err(CaptureError::NotInForce(program.name));
            }
        }
        info!(
            destinations = destinations.len(),
            programs = programs.len(),
            adopted,
            pins = %directory.display(),
            "the kernel side is in force at the root of the cgroup hierarchy"
        );
        Ok((
            Self {
                listeners: Mutex::new(listeners),
                counters: map(&mut kernel, "COUNTERS")?,
                processes: RwLock::new(map(&mut kernel, "PROCESSES")?),
                flows: map(&mut kernel, "FLOWS")?,
                marks: Mutex::new(map(&mut kernel, "MARKS")?),
                destinations: Mutex::new(destinations),
                ledger: Mutex::new(Ledger::new(&mut kernel)?),
                programs,
                adopted,
                configuration: config.enforced(),
                // The kernel gives no two maps of one boot the same id.
                ledger_id: MapInfo::from_pin(directory.join("LEDGER"))?.id(),
                sockets: Mutex::new(sockets),
                users: scope::only_users(&config.intercept)?,
                interfaces,
                scope: Scope::open(closed.scope, &directory)?,
                cgroup: cgroup
                    .try_clone_to_owned()
                    .map_err(|error| CaptureError::Directory(directory.clone(), error))?,
                directory,
            },
            log,
            map(&mut kernel, "UNSERVED")?,
        ))
    }

    /// Tells the programs where the proxy listens in a network namespace, in place of what listened there until now.
    pub(super) fn listen_at(&self, netns: u64, ports: Ports) -> Result<(), MapError> {
        let mut listeners = self.listeners();
        let Plain(before) = match listeners.get(&netns, 0) {
            Ok(before) => before,
            Err(MapError::KeyNotFound) => Plain(agent_common::Listeners::default()),
            Err(error) => return Err(error),
        };
        listeners.insert(netns, Plain(before.moved(ports)), 0)
    }

    /// Tells the programs that the proxy does not listen in a network namespace any more.
    pub(super) fn stop_listening(&self, netns: u64) -> Result<(), MapError> {
        pins::forget(&mut self.listeners(), &netns)
    }

    /// Tells the programs that the proxy does not listen anywhere.
    pub(super) fn listen_nowhere(&self) -> Result<(), MapError> {
        forget_all(&mut self.listeners())
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks one of the proxy's listeners.
    pub(super) fn mark_listener(&self, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.mark(socket, MARK_LISTENER)
    }

    /// Marks a socket of the proxy on its way to a target.
    pub(super) fn mark_upstream(&self, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.mark(socket, MARK_UPSTREAM)
    }

    /// Marks a socket that was connected before interception, and is left so.
    pub(super) fn mark_existing(&self, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        self.mark(socket, MARK_EXISTING)
    }

    fn mark(&self, socket: BorrowedFd<'_>, mark: Mark) -> Result<(), MapError> {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.insert(&socket.as_raw_fd(), mark, 0)
    }

    /// The map of marks, to ask the kernel for those of all sockets.
    pub(super) fn mark_map(&self) -> io::Result<OwnedFd> {
        sys::pinned(&self.directory.join("MARKS"), false)
    }

    /// The flow in a socket's own storage.
    pub(super) fn flow(&self, socket: BorrowedFd<'_>) -> Result<Option<FlowRecord>, MapError> {
        match self.flows.get(&socket.as_raw_fd(), 0) {
            Ok(Plain(flow)) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The entry of a process.
    pub(super) fn process(&self, tgid: u32) -> Result<Plain<ProcessEntry>, MapError> {
        self.processes.read().unwrap_or_else(PoisonError::into_inner).get(&tgid, 0)
    }

    /// All entries of processes.
    pub(super) fn processes(&self) -> Vec<(u32, ProcessEntry)> {
        let processes = self.processes.read().unwrap_or_else(PoisonError::into_inner);
        processes.iter().filter_map(Result::ok).map(|(tgid, Plain(entry))| (tgid, entry)).collect()
    }

    /// Removes the entry of a process that is no more.
    pub(super) fn forget(&self, tgid: u32) {
        let mut processes = self.processes.write().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = pins::forget(&mut processes, &tgid) {
            warn!(tgid, %error, "the entry of an ended process cannot be removed");
        }
    }

    /// A descriptor of the process map that only reads.
    pub(super) fn process_map(&self) -> io::Result<OwnedFd> {
        sys::pinned(&self.directory.join("PROCESSES"), true)
    }

    /// Takes new addresses of a name: of the address at index `entry` of a target.
    pub(super) fn protect(&self, target: u32, entry: u32, addresses: &[IpAddr]) -> Result<(), ProtectError> {
        self.destinations.lock().unwrap_or_else(PoisonError::into_inner).protect(target, entry, addresses)
    }

    /// What an address is protected as, if it is.
    pub(super) fn destination(&self, address: SocketAddr) -> Result<Option<Destination>, MapError> {
        self.destinations.lock().unwrap_or_else(PoisonError::into_inner).find(address)
    }

    /// Whether a socket of a user in a cgroup is in scope.
    pub(super) fn concerns(&self, user: u32, cgroup: Option<u64>) -> Result<bool, MapError> {
        self.scope.concerns(user, cgroup)
    }

    /// Protects the self-test's addresses; none once it is over.
    pub(super) fn protect_canary(&self, addresses: &[SocketAddr]) -> Result<(), ProtectError> {
        self.destinations.lock().unwrap_or_else(PoisonError::into_inner).protect_canary(addresses)
    }

    /// The listed Unix sockets that somebody in scope can connect to: for each its target, and why.
    pub(super) fn open_sockets(&self) -> Vec<(u32, String)> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.open(|path| self.users.as_ref().is_some_and(|users| access::is_closed_to(path, users)))
    }

    /// Protects the self-test's socket, none once it is over. Gives how it is known.
    pub(super) fn protect_canary_socket(&self, path: Option<PathBuf>) -> Known {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        match sockets.protect_canary(path).iter().any(|(target, _)| *target == CANARY) {
            true => Known::Not,
            false => sockets.known(),
        }
    }

    /// The programs that are no longer in force: somebody with the right to do so has detached or replaced them.
    pub(super) fn missing(&self) -> Vec<String> {
        let missing = |program: &&Loaded| !program.in_force(&self.directory, self.cgroup.as_fd()).unwrap_or(false);
        let programs = self.programs.iter().filter(missing).map(|program| program.name.to_owned());
        let interfaces = self.interfaces.as_ref().map_or(Ok(Vec::new()), |interfaces| interfaces.missing());
        let interfaces = interfaces.unwrap_or_else(|error| vec![format!("interfaces: {error}")]);
        programs.chain(interfaces).collect()
    }

    /// What is in force.
    pub(super) fn kernel_side(&self) -> KernelSide {
        let programs = self.programs.iter().map(|program| (program.name.to_owned(), program.id())).collect();
        KernelSide {
            ledger: self.ledger_id,
            adopted: self.adopted,
            configuration: self.configuration.clone(),
            programs,
        }
    }

    /// Rows of the coverage ledger after `after`, as many as one message holds.
    pub(super) fn coverage(&self, after: Option<LedgerKey>) -> Result<Vec<CoverageRow>, MapError> {
        self.ledger().rows(after)
    }

    /// Connects whose record is durable.
    pub(super) fn settle(&self, flows: &[FlowId]) -> Result<(), MapError> {
        self.ledger().settle(flows)
    }

    /// Connects from before `before` that were accepted and have no durable record, after `after`, as many as one message holds.
    pub(super) fn waiting(&self, before: u64, after: Option<FlowId>) -> Result<Vec<Flow>, MapError> {
        self.ledger().waiting(before, after)
    }

    /// Connects that were abandoned, each told once.
    pub(super) fn abandoned(&self) -> Vec<Flow> {
        self.ledger().abandoned()
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counters by name.
    pub(super) fn counters(&self) -> Result<BTreeMap<String, u64>, MapError> {
        COUNTER_NAMES
            .iter()
            .map(|(counter, name)| Ok(((*name).to_owned(), self.counters.get(&(*counter as u32), 0)?)))
            .collect()
    }
}

fn forget_all(listeners: &mut Listeners) -> Result<(), MapError> {
    let everywhere: Vec<u64> = listeners.keys().collect::<Result<_, _>>()?;
    everywhere.into_iter().try_for_each(|netns| pins::forget(listeners, &netns))
}

/// What the kernel has, without putting anything in force: with maps of its own, that go with it.
pub(super) fn features() -> Result<Vec<Found>, CaptureError> {
    let offsets = Plain(offsets()?);
    let mut kernel = loader(&offsets).load(OBJECT).map_err(Box::new)?;
    let by_name = by_name::load(OBJECT, &kernel, &offsets.0);
    features::select(&mut kernel, by_name, &types()?, "/run".as_ref()).map(|selection| selection.features)
}

/// Where the programs read the kernel's own structures. Of a kernel without such fields they know nothing, and pass no trial.
fn offsets() -> Result<Offsets, CaptureError> {
    let found = types::offsets().map_err(|error| CaptureError::Types(error.to_string()))?;
    Ok(found.unwrap_or_default())
}

fn loader(offsets: &Plain<Offsets>) -> EbpfLoader<'_> {
    let mut loader = EbpfLoader::new();
    loader.override_global("OFFSETS", offsets, true);
    loader
}

/// The kernel's description of its types.
fn types() -> Result<Btf, CaptureError> {
    Btf::from_sys_fs().map_err(|error| CaptureError::Types(error.to_string()))
}

/// Takes a map out of the loaded object, as the type that it has to be.
pub(super) fn map<T>(kernel: &mut Ebpf, name: &'static str) -> Result<T, CaptureError>
where
    T: TryFrom<Map, Error = MapError>,
{
    Ok(T::try_from(kernel.take_map(name).ok_or(CaptureError::Missing(name))?)?)
}

/// The kernel side could not be put in force, or not removed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A pin directory cannot be made or read.
    #[error("{0}: {1}")]
    Directory(PathBuf, #[source] io::Error),
    /// Something else lies among the pins.
    #[error(transparent)]
    Foreign(#[from] HostError),
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
    /// The guard on interfaces.
    #[error("the interfaces of the host cannot be guarded: {0}")]
    Interfaces(#[source] io::Error),
    /// A program cannot be loaded or attached.
    #[error(
        "the kernel program {name} cannot be put in force: {} (`postern doctor` tells what this kernel has)",
        features::brief(.source)
    )]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        source: Box<ProgramError>,
    },
    /// Who is in scope cannot be established.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// The kernel lacks something that there is no doing without.
    #[error("this kernel lacks {name}, and takes nothing in its stead: {lost} ({why})")]
    Feature {
        /// Its name.
        name: &'static str,
        /// What would be lost.
        lost: &'static str,
        /// What the kernel said.
        why: String,
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
