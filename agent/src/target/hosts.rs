//! The names of all targets: followed for as long as the agent runs, each at the pace of its own answers.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Mutex, Semaphore},
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

use super::{
    Change, Keeper,
    kept::{Kept, Names},
    known::{Answer, Known},
    resolve::Resolver,
};
use crate::config::{Address, MAX_NAME_ADDRESSES, Ports, Target};

/// The shortest time between two questions for a name: that of the smallest TTL there is but 0, which would be no pace at all.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest time. The C library keeps no answer, so that a client may see a change long before the TTL says that there can
/// be one; and who changes an address in a hurry does not wait for it.
const LONGEST: Duration = Duration::from_secs(30);

/// The time after an answer without a TTL: it is from a file or a service of this host, which costs little to ask, and whose
/// changes clients see at once.
const UNDATED: Duration = Duration::from_secs(5);

/// The longest time after no answer. When there is one again it may be another, which clients then see at once.
const RETRY: Duration = Duration::from_secs(5);

/// How long a start waits for names to be resolved. It goes on with what they stood for last.
const START: Duration = Duration::from_secs(15);

/// All names, each once.
pub(super) struct Hosts {
    hosts: Vec<Host>,
    grace: Duration,
    resolver: Resolver,
    kept: Arc<Kept>,
    /// One name at a time changes what is protected, so that what is protected last is what is known last.
    turn: Mutex<()>,
    /// A permit for each name that was asked for once.
    asked: Semaphore,
}

/// A name.
struct Host {
    name: String,
    claims: Vec<Claim>,
    /// Names of the targets that have it.
    targets: Vec<String>,
    state: RwLock<State>,
}

/// Where in the configuration a name stands.
struct Claim {
    target: usize,
    entry: usize,
    ports: Ports,
}

#[derive(Default)]
struct State {
    known: Known,
    /// What the kernel side was given last.
    protected: BTreeSet<IpAddr>,
    problem: Option<String>,
}

impl Hosts {
    /// The names of targets, with what they stood for last.
    pub(super) fn new(targets: &[Target], state_dir: &Path, grace: Duration) -> Self {
        let mut hosts: Vec<Host> = Vec::new();
        for (target, of) in targets.iter().enumerate() {
            for (entry, address) in of.addresses.iter().enumerate() {
                let Address::Name { host, ports } = address else { continue };
                let position = hosts.iter().position(|known| known.name == *host).unwrap_or_else(|| {
                    hosts.push(Host {
                        name: host.clone(),
                        claims: Vec::new(),
                        targets: Vec::new(),
                        state: RwLock::default(),
                    });
                    hosts.len() - 1
                });
                hosts[position].claims.push(Claim { target, entry, ports: *ports });
                if !hosts[position].targets.contains(&of.name) {
                    hosts[position].targets.push(of.name.clone());
                }
            }
        }
        let kept = Kept::new(state_dir);
        let mut remembered = if hosts.is_empty() { Names::new() } else { kept.read() };
        let now = Instant::now();
        for host in &hosts {
            let addresses = remembered.remove(&host.name).unwrap_or_default();
            host.write().known = Known::remembered(addresses, now, grace);
        }
        Self {
            hosts,
            grace,
            resolver: Resolver::default(),
            kept: Arc::new(kept),
            turn: Mutex::new(()),
            asked: Semaphore::new(0),
        }
    }

    /// Follows all names, until dropped.
    pub(super) async fn follow(self: Arc<Self>, keeper: Arc<dyn Keeper>) {
        let mut tasks = JoinSet::new();
        for index in 0..self.hosts.len() {
            let (hosts, keeper) = (Arc::clone(&self), Arc::clone(&keeper));
            tasks.spawn(async move { hosts.follow_one(&hosts.hosts[index], &*keeper).await });
        }
        // A name whose task has ended would be followed no more, and no task ends but by a fault of ours.
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a name is no longer followed");
            }
        }
        std::future::pending().await
    }

    /// Waits until every name was asked for once, but not for ever.
    pub(super) async fn asked(&self) {
        let all = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        if timeout(START, self.asked.acquire_many(all)).await.is_err() {
            tracing::warn!("not all names are resolved yet; the agent starts with what they stood for last");
        }
    }

    /// What a name stands for, old addresses among them.
    pub(super) fn addresses(&self, name: &str) -> BTreeSet<IpAddr> {
        self.hosts.iter().find(|host| host.name == name).map(|host| host.read().known.addresses()).unwrap_or_default()
    }

    /// The targets of which a name stands for this destination.
    pub(super) fn owners(&self, address: IpAddr, port: u16) -> Vec<usize> {
        let meant = self.hosts.iter().filter(|host| host.read().known.contains(address));
        let claims = meant.flat_map(|host| &host.claims).filter(|claim| claim.ports.contains(port));
        claims.map(|claim| claim.target).collect()
    }

    /// The name by which a target has an address; of several the first.
    pub(super) fn name_of(&self, target: usize, address: IpAddr) -> Option<String> {
        let meant = self.hosts.iter().filter(|host| host.read().known.contains(address));
        let claims = meant.flat_map(|host| host.claims.iter().map(move |claim| (claim, host)));
        let own = claims.filter(|(claim, _)| claim.target == target);
        own.min_by_key(|(claim, _)| claim.entry).map(|(_, host)| host.name.clone())
    }

    /// What is wrong with the names of a target.
    pub(super) fn problems(&self, target: usize) -> Vec<String> {
        let own = self.hosts.iter().filter(|host| host.claims.iter().any(|claim| claim.target == target));
        own.filter_map(|host| host.read().problem.clone()).collect()
    }

    async fn follow_one(&self, host: &Host, keeper: &dyn Keeper) {
        // What it stood for last is protected before anything else.
        if !host.read().known.addresses().is_empty() {
            let _turn = self.turn.lock().await;
            self.protect(host, keeper).await;
        }
        let mut pause = RETRY;
        let mut first = true;
        loop {
            let answer = self.resolver.ask(&host.name).await;
            pause = match self.take(host, &answer, keeper).await {
                Ok(()) => answer.ttl.map_or(UNDATED, |ttl| ttl.clamp(SHORTEST, LONGEST)),
                Err(()) => RETRY.min(pause),
            };
            if std::mem::take(&mut first) {
                self.asked.add_permits(1);
            }
            sleep(pause).await;
        }
    }

    /// Takes an answer, and makes what is protected agree with it. An error if something is not as it should be.
    async fn take(&self, host: &Host, answer: &Answer, keeper: &dyn Keeper) -> Result<(), ()> {
        let _turn = self.turn.lock().await;
        let open = keeper.open();
        let in_use = |address| {
            open.iter().any(|to| to.ip() == address && host.claims.iter().any(|claim| claim.ports.contains(to.port())))
        };
        let (learned, before) = {
            let mut state = host.write();
            let before = state.known.addresses();
            // Known before it is protected: a connection that is redirected at once must find its target.
            (state.known.learn(answer, in_use, Instant::now(), self.grace), before)
        };
        let unprotected = self.protect(host, keeper).await;
        let (after, problem) = {
            let state = host.read();
            let after = state.known.addresses();
            let kept = after.len();
            let name = &host.name;
            let unresolved = || match answer.reason.as_str() {
                "" => "it stands for no address",
                reason => reason,
            };
            let problem = match (answer.addresses.is_empty(), learned, unprotected) {
                (true, ..) => Some(format!("unresolved: {name}: {}; {kept} kept", unresolved())),
                (_, Err(count), _) => Some(format!(
                    "unprotected: {name} has {count} addresses, and only {MAX_NAME_ADDRESSES} are protected"
                )),
                (_, _, Some(error)) => Some(format!("unprotected: {name}: {error}")),
                _ => None,
            };
            (after, problem)
        };
        if after != before {
            self.remember().await;
        }
        let well = problem.is_none();
        self.tell(host, problem, after.len(), keeper);
        if well { Ok(()) } else { Err(()) }
    }

    /// Gives the kernel side what is known and has not expired, if that is something else than it has; the error if it does not
    /// take it. What has expired is forgotten after it is no longer protected.
    async fn protect(&self, host: &Host, keeper: &dyn Keeper) -> Option<String> {
        let (wanted, expired) = {
            let state = host.read();
            let expired = state.known.expired(Instant::now());
            let wanted: BTreeSet<IpAddr> = state.known.addresses().difference(&expired).copied().collect();
            (wanted, expired)
        };
        if wanted == host.read().protected {
            host.write().known.forget(&expired);
            return None;
        }
        let addresses: Vec<IpAddr> = wanted.iter().copied().collect();
        for claim in &host.claims {
            let (target, entry) = (u32::try_from(claim.target), u32::try_from(claim.entry));
            let (Ok(target), Ok(entry)) = (target, entry) else { return Some("there are too many targets".into()) };
            if let Err(error) = keeper.protect(target, entry, &addresses).await {
                return Some(error);
            }
        }
        let mut state = host.write();
        state.known.forget(&expired);
        state.protected = wanted;
        None
    }

    /// Writes down what all names stand for.
    async fn remember(&self) {
        let names: Names = self.hosts.iter().map(|host| (host.name.clone(), host.read().known.addresses())).collect();
        let kept = Arc::clone(&self.kept);
        match spawn_blocking(move || kept.write(&names)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what names stand for cannot be written down"),
            Err(error) => tracing::warn!(%error, "what names stand for cannot be written down"),
        }
    }

    /// Notes a problem, or that there is none, and says so where that is a change.
    fn tell(&self, host: &Host, problem: Option<String>, addresses: usize, keeper: &dyn Keeper) {
        let before = std::mem::replace(&mut host.write().problem, problem.clone());
        let (name, targets) = (host.name.clone(), host.targets.clone());
        match (before, problem) {
            (None, Some(reason)) => {
                tracing::warn!(name, reason, kept = addresses, "something is wrong with the name of a target");
                keeper.changed(Change::Failed { name, targets, reason, kept: addresses });
            }
            (Some(_), None) => {
                tracing::info!(name, addresses, "all is well again with the name of a target");
                keeper.changed(Change::Restored { name, targets, addresses });
            }
            _ => {}
        }
    }
}

impl Host {
    /// A holder of the lock only looks at or replaces values: a poisoned state is whole.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
