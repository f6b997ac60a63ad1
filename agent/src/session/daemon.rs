//! The proxy process: its parts, wired; started, served, and ended in order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinSet,
};

use super::{
    Proxy,
    attempts::Attempts,
    coverage::{self, CoverageError},
    handover::{Handover, Launch, Predecessor, ending},
    is,
    tested::Tested,
};
use crate::{
    config::Config,
    control::{
        self, Access, ControlError, CoverageReport, Daemon, LogReport, OpenSession, Peer, Policies, Restarted, Status,
        TargetStatus,
    },
    credential::MaskingKeys,
    model::{Subject, Surroundings},
    policy::{LoadErrors, Reloadable},
    protocol::{self, ca::Authority, ca::CaError},
    recording::{self, Log, OpenError, Options, Recorder},
    selftest::Attempt,
    target::{Keeper, Targets},
    warden::{AskError, Handed, Warden},
};

/// How long open sessions may take to see that the agent ends.
const DRAIN: Duration = Duration::from_secs(2);

/// Why the proxy could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The privileged half is not there or refuses.
    #[error("the warden: {0}")]
    Warden(#[from] AskError),
    /// It must enforce, and does not.
    #[error("not enforcing: {0}")]
    NotEnforcing(String),
    /// The privileged half has read another configuration.
    #[error(
        "the warden was started with other targets or another [intercept] than the configuration has now; restart it too: \
         that ends all sessions"
    )]
    OtherConfiguration,
    /// The privileged half has ended, so that nobody can tell who connects.
    #[error("the warden has ended")]
    WardenGone,
    /// The process that records for this one has ended.
    #[error("the process that took this one's place has ended; nothing can be recorded")]
    SuccessorGone,
    /// The policies have faults.
    #[error(transparent)]
    Policies(#[from] LoadErrors),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The agent's own authority cannot be used.
    #[error(transparent)]
    Authority(#[from] CaError),
    /// What was connected when an earlier agent ended cannot be accounted for.
    #[error(transparent)]
    Coverage(#[from] CoverageError),
    /// The control socket cannot be served.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A socket or a signal handler.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Runs the proxy until it is told to end, the warden ends, or another has taken its place and it is not needed any more. With a
/// predecessor it takes that one's place.
///
/// # Errors
/// [`ProxyError`]
pub async fn run(
    config: Config,
    must_enforce: bool,
    launch: Launch,
    predecessor: Option<Arc<Predecessor>>,
) -> Result<(), ProxyError> {
    let enforced = config.enforced();
    let Config { agent, targets, roles, .. } = config;
    let policy = Arc::new(Reloadable::load(&agent.policies, protocol::FRAGMENTS)?);
    let authority = Authority::open(&agent.state_dir, &targets)?;
    let masking = MaskingKeys::open(&agent.state_dir)?;
    let access = Access::new(agent.group.as_deref())?;
    let mut ends = Ends::new()?;
    // Whatever was redirected before went to an earlier proxy.
    let before = coverage::boot_nanoseconds().map_err(std::io::Error::from)?;
    let (warden, Handed { liveness, tidings, kernel_side }) = Warden::connect(&agent.runtime_dir)?;

    if kernel_side.configuration != enforced {
        return Err(ProxyError::OtherConfiguration);
    }
    warden.prepare().await?;
    // What could fail has not, so a predecessor may give up the log.
    let handover = Handover::new(launch);
    let log = open_log(Options::new(&agent.state_dir), predecessor.clone()).await?;
    if let Some(predecessor) = &predecessor {
        handover.predecessors().serve(Arc::clone(predecessor), Arc::clone(&log))?;
    }
    let control = control::bind(&agent.runtime_dir, predecessor.is_some())?;
    let proxy = Arc::new(Proxy {
        warden: warden.clone(),
        targets: Targets::new(targets, &agent.state_dir, agent.name_grace),
        limits: handover.predecessors().counted(&roles),
        roles,
        policy: Arc::clone(&policy),
        liveness: Arc::new(liveness),
        log: Arc::clone(&log),
        authority,
        masking,
        open: Open::default(),
        handover,
        following: watch::Sender::new(true),
        attempts: Attempts::default(),
        tested: Tested::default(),
        ledger: Arc::default(),
        epoch: format!("{}/{}", recording::boot(), kernel_side.ledger),
    });
    proxy.take_stock(kernel_side)?;
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&proxy).follow_names());
    let listeners = warden.listen().await?;
    // With a predecessor, new connects were led to that one until now.
    let before = match predecessor {
        Some(_) => coverage::boot_nanoseconds().map_err(std::io::Error::from)?,
        None => before,
    };
    proxy.ledger.begins_at(before);
    tasks.spawn(Arc::clone(&proxy).follow(listeners, tidings));
    tasks.spawn(Arc::clone(&proxy).settle());
    tasks.spawn(Arc::clone(&proxy).keep_watch());
    tasks.spawn(super::memory::give_back());
    let running = Arc::new(Running { proxy: Arc::clone(&proxy), started: Timestamp::now(), handle: Handle::current() });
    let (refuse, refused) = oneshot::channel();
    tasks.spawn(async move {
        // Who asks how the agent is may rely on its names and on the self-test, for which connections are served already.
        running.proxy.targets.asked().await;
        if let Err(error) = running.proxy.self_test().await {
            tracing::error!(error, "the self-test could not be made");
        }
        if must_enforce {
            let (_, surroundings, kernel) = running.kernel().await;
            let problems = match running.log_report() {
                Ok(log) => running.problems(&running.targets(&surroundings), &log, kernel),
                Err(problem) => vec![problem],
            };
            if !problems.is_empty() {
                // Nobody waits where the agent ends already.
                let _ = refuse.send(problems.join("; "));
                return;
            }
        }
        tracing::info!(targets = running.proxy.targets.all().len(), "serving");
        if let Some(predecessor) = predecessor {
            // Its thread cannot be but done or panicked, and then the predecessor ends.
            let _ = tokio::task::spawn_blocking(move || predecessor.serving(agent.drain)).await;
        }
        // Under systemd: ready. Elsewhere nobody listens.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        control::serve(control, access, running).await;
    });

    let ended = tokio::select! {
        () = ends.next(&proxy) => Ok(()),
        () = warden.gone() => Err(ProxyError::WardenGone),
        Ok(problems) = refused => Err(ProxyError::NotEnforcing(problems)),
        drained = proxy.drained() => drained,
    };
    // No new connections, no answers; the open sessions end, and then those of processes before this one, whose records come here.
    tasks.shutdown().await;
    proxy.handover.end_sessions(ending::STOPPED);
    proxy.open.drain(DRAIN).await;
    let others = async {
        while !proxy.handover.predecessors().are_gone() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(DRAIN, others).await.is_err() {
        tracing::warn!("a process before this one did not end in time");
    }
    if ended.is_ok()
        && let Err(error) = proxy.last_reckoning().await
    {
        tracing::warn!(%error, "the ledger was not reconciled at the end; the next start will");
    }
    if let Err(error) = tokio::task::spawn_blocking(move || log.close()).await.unwrap_or(Ok(())) {
        tracing::error!(%error, "the log was not closed in order");
    }
    ended
}

async fn open_log(options: Options, predecessor: Option<Arc<Predecessor>>) -> Result<Arc<Recorder>, ProxyError> {
    let opening = tokio::task::spawn_blocking(move || match predecessor {
        Some(predecessor) => predecessor.take_log(options),
        None => Recorder::open(options),
    });
    Ok(Arc::new(opening.await.map_err(std::io::Error::other)??))
}

impl Proxy {
    /// Follows the names, while this process does and not the one in its place.
    async fn follow_names(self: Arc<Self>) {
        let mut following = self.following.subscribe();
        loop {
            is(&mut following, true).await;
            tokio::select! {
                () = self.targets.follow(Arc::clone(&self) as Arc<dyn Keeper>) => {}
                () = is(&mut following, false) => {}
            }
        }
    }
}

/// The signals of this process.
struct Ends {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT; reloads the policies at each SIGHUP until then.
    async fn next(&mut self, proxy: &Arc<Proxy>) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.hup.recv() => {
                    let proxy = Arc::clone(proxy);
                    let reloaded = tokio::task::spawn_blocking(move || proxy.reload()).await;
                    match reloaded {
                        Ok(Ok(count)) => tracing::info!(count, "policies reloaded"),
                        Ok(Err(errors)) => tracing::error!("the old policies stay in force: {errors}"),
                        Err(panic) => tracing::error!(%panic, "the old policies stay in force"),
                    }
                }
            }
        }
    }
}

/// The sessions that are open.
#[derive(Default)]
pub struct Open {
    sessions: Mutex<BTreeMap<String, (Subject, tokio::task::AbortHandle)>>,
    /// Connections that were accepted and are not done with, those that are not sessions yet among them.
    connections: AtomicUsize,
}

impl Open {
    /// Notes a session and the task that serves it, until what is returned is dropped.
    pub(super) fn note<'a>(&'a self, subject: &Subject, task: tokio::task::AbortHandle) -> Noted<'a> {
        self.lock().insert(subject.session.clone(), (subject.clone(), task));
        Noted { open: self, session: subject.session.clone() }
    }

    /// Counts a connection until what is returned is dropped.
    pub(super) fn count(&self) -> Counted<'_> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        Counted(self)
    }

    /// Whether there is no connection.
    pub(super) fn is_idle(&self) -> bool {
        self.connections.load(Ordering::SeqCst) == 0
    }

    /// Something of each.
    pub(super) fn map<T>(&self, of: impl Fn(&Subject) -> T) -> Vec<T> {
        self.lock().values().map(|(subject, _)| of(subject)).collect()
    }

    fn on(&self, target: &str) -> u64 {
        self.lock().values().filter(|(subject, _)| subject.target == target).count() as u64
    }

    fn of(&self, peer: Peer) -> Vec<OpenSession> {
        let is_own = |subject: &Subject| {
            let process = &subject.principal.process;
            i32::try_from(process.pid) == Ok(peer.pid) && process.uid == peer.uid
        };
        self.lock()
            .values()
            .filter(|(subject, _)| is_own(subject))
            .map(|(subject, _)| OpenSession {
                session: subject.session.clone(),
                target: subject.target.clone(),
                roles: subject.principal.roles.clone(),
            })
            .collect()
    }

    /// Waits a while until all sessions have ended, who know that they must, and then ends those that have not.
    async fn drain(&self, patience: Duration) {
        let emptied = || async {
            while !self.lock().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(patience, emptied()).await.is_ok() {
            return;
        }
        for (_, task) in self.lock().values() {
            task.abort();
        }
        if tokio::time::timeout(patience, emptied()).await.is_err() {
            tracing::warn!("some sessions did not end in time");
        }
    }

    /// A holder of the lock only looks, inserts or removes: a poisoned map is whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (Subject, tokio::task::AbortHandle)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is not done with.
pub(super) struct Counted<'a>(&'a Open);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An open session's place in the list.
pub(super) struct Noted<'a> {
    open: &'a Open,
    session: String,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.open.lock().remove(&self.session);
    }
}

/// The proxy, as the control socket asks it.
struct Running {
    proxy: Arc<Proxy>,
    started: Timestamp,
    handle: Handle,
}

impl Daemon for Running {
    fn status(&self) -> Result<Status, String> {
        let log = self.log_report()?;
        let (counters, surroundings, kernel) = self.handle.block_on(self.kernel());
        let targets = self.targets(&surroundings);
        let problems = self.problems(&targets, &log, kernel);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started: self.started,
            enforcing: match problems.is_empty() {
                true => "enforcing".into(),
                false => format!("degraded: {}", problems.join("; ")),
            },
            targets,
            counters,
            surroundings,
            policies: self.policies(),
            log,
            draining: self.proxy.handover.predecessors().report(),
        })
    }

    fn self_test(&self) -> Result<Vec<Attempt>, String> {
        self.handle.block_on(self.proxy.self_test())
    }

    fn coverage(&self) -> Result<CoverageReport, String> {
        self.handle.block_on(self.proxy.reconcile()).map_err(|error| error.to_string())
    }

    fn reload(&self) -> Result<Policies, String> {
        self.proxy.reload().map_err(|errors| errors.to_string())?;
        Ok(self.policies())
    }

    fn restart(&self) -> Result<Restarted, String> {
        self.proxy.hand_over().map(|pid| Restarted { pid, before: std::process::id() })
    }

    fn sessions_of(&self, peer: Peer) -> Vec<OpenSession> {
        let mut sessions = self.proxy.open.of(peer);
        sessions.extend(self.proxy.handover.predecessors().of(peer));
        sessions
    }

    fn log(&self) -> Result<Arc<Log>, String> {
        self.proxy.log.log().ok_or_else(|| "another process is taking the agent's place; ask again".into())
    }
}

/// What is wrong with connections older than interception: that they go on, or that nobody knows.
fn older(surroundings: &Surroundings) -> Option<String> {
    match (&surroundings.blind, surroundings.open) {
        (Some(error), _) => Some(format!("existing: connections older than interception cannot be found: {error}")),
        (None, 0) => None,
        (None, 1) => Some("existing: a connection older than interception goes on".into()),
        (None, open) => Some(format!("existing: {open} connections older than interception go on")),
    }
}

impl Running {
    /// The kernel side's counters, how it is in the network namespaces, and what of that keeps the agent from enforcing.
    async fn kernel(&self) -> (BTreeMap<String, u64>, Surroundings, Vec<String>) {
        let warden = &self.proxy.warden;
        let kernel = async {
            Ok::<_, AskError>((warden.counters().await?, warden.missing().await?, warden.surroundings().await?))
        };
        match kernel.await {
            Ok((counters, missing, surroundings)) => {
                let missing = missing.iter().map(|program| format!("the kernel program {program} is not in force"));
                let problems = missing.chain(older(&surroundings)).collect();
                (counters, surroundings, problems)
            }
            Err(error) => {
                (BTreeMap::new(), Surroundings::default(), vec![format!("the warden does not answer: {error}")])
            }
        }
    }

    /// Everything that keeps the agent from enforcing.
    fn problems(&self, targets: &[TargetStatus], log: &LogReport, kernel: Vec<String>) -> Vec<String> {
        let targets = targets
            .iter()
            .flat_map(|target| target.problems.iter().map(move |problem| format!("{}: {problem}", target.name)));
        targets
            .chain(log.problems.iter().cloned())
            .chain(kernel)
            .chain(self.proxy.tested.problems())
            .chain(self.proxy.ledger.problem())
            .collect()
    }

    fn log_report(&self) -> Result<LogReport, String> {
        Ok(LogReport::from(self.log()?.status()))
    }

    fn targets(&self, surroundings: &Surroundings) -> Vec<TargetStatus> {
        (0..self.proxy.targets.all().len()).map(|index| self.target(index, surroundings)).collect()
    }

    /// What an operator should know about a target.
    fn problems_of(&self, index: usize, surroundings: &Surroundings) -> Vec<String> {
        let open = surroundings.sockets.iter().filter(|(target, _)| *target as usize == index);
        let open = open.map(|(_, which)| format!("unix: {which}"));
        self.proxy.targets.problems(index).into_iter().chain(open).collect()
    }

    fn target(&self, index: usize, surroundings: &Surroundings) -> TargetStatus {
        let target = &self.proxy.targets.all()[index];
        let (last_session, last_trouble) = self.proxy.attempts.of(&target.name);
        TargetStatus {
            name: target.name.clone(),
            protocol: target.protocol.clone(),
            mode: target.mode,
            addresses: self.proxy.targets.addresses(index),
            connections: self.proxy.open.on(&target.name) + self.proxy.handover.predecessors().on(&target.name),
            problems: self.problems_of(index, surroundings),
            last_session,
            last_trouble,
        }
    }

    fn policies(&self) -> Policies {
        use crate::model::Decide;
        Policies { count: self.proxy.policy.count(), epoch: self.proxy.policy.epoch() }
    }
}
