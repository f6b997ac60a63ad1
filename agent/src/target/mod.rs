//! Original destination -> target, and the addresses of targets that are given by name.
//!
//! *Invariant:* a flow finds its target by the index that the kernel program noted *and* by the address that the target
//! has in the configuration or had by name; if the two disagree, there is no target.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, RwLock},
    time::Duration,
};

use crate::{
    config::{Address, Target},
    model::{Boxed, Denial, Flow},
};

/// Time between two resolutions of the targets' names.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// Addresses that the names of a target may have stood for. Old ones stay protected, so a name that rotates without end
/// needs a bound.
const MAX_ADDRESSES: usize = 256;

/// Where the addresses of named targets are protected: the seam to the warden.
pub trait Protect: Send + Sync {
    /// Protects these addresses, beside those of the configuration, for the target at this index, in place of those that
    /// were given before.
    fn protect<'a>(&'a self, target: u32, addresses: &'a [SocketAddr]) -> Boxed<'a, Result<(), String>>;
}

/// The targets, and every address that each has had.
pub struct Targets {
    targets: Vec<Arc<Target>>,
    named: RwLock<BTreeMap<usize, BTreeSet<SocketAddr>>>,
    problems: RwLock<BTreeMap<(usize, String), String>>,
}

impl Targets {
    /// The targets of a configuration.
    #[must_use]
    pub fn new(targets: Vec<Target>) -> Self {
        Self {
            targets: targets.into_iter().map(Arc::new).collect(),
            named: RwLock::default(),
            problems: RwLock::default(),
        }
    }

    /// The target that a flow was meant for.
    ///
    /// # Errors
    /// A denial if the noted index and the original destination do not belong together.
    pub fn find(&self, flow: &Flow) -> Result<Arc<Target>, Denial> {
        let index = flow.target as usize;
        let unknown = || Denial::closed(format!("{} is not an address of a configured target", flow.destination));
        let target = self.targets.get(index).ok_or_else(unknown)?;
        let configured = target
            .addresses
            .iter()
            .any(|address| matches!(address, Address::Socket(socket) if same(*socket, flow.destination)));
        if configured || read(&self.named).get(&index).is_some_and(|named| named.contains(&flow.destination)) {
            Ok(Arc::clone(target))
        } else {
            Err(unknown())
        }
    }

    /// All targets, in the order of the configuration.
    #[must_use]
    pub fn all(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// The addresses that the names of the target at this index have stood for.
    #[must_use]
    pub fn resolved(&self, index: usize) -> Vec<SocketAddr> {
        read(&self.named).get(&index).into_iter().flatten().copied().collect()
    }

    /// What an operator should know about the target at this index.
    #[must_use]
    pub fn problems(&self, index: usize) -> Vec<String> {
        let mut problems: Vec<String> = read(&self.problems)
            .iter()
            .filter(|((target, _), _)| *target == index)
            .map(|(_, problem)| problem.clone())
            .collect();
        if let Some(target) = self.targets.get(index) {
            if target.addresses.iter().any(|address| matches!(address, Address::Name { .. })) {
                problems.push("name-only: another resolver may answer differently".to_owned());
            }
            if !target.sockets.is_empty() {
                problems.push("unix: connections to the target's sockets on this host are not intercepted".to_owned());
            }
        }
        problems
    }

    /// Resolves the names of all targets once and protects what they stand for. A name that does not resolve keeps the
    /// addresses that it had.
    pub async fn resolve(&self, protect: &dyn Protect) {
        for (index, target) in self.targets.iter().enumerate() {
            for address in &target.addresses {
                let Address::Name { host, port } = address else { continue };
                let problem = self.resolve_name(index, host, *port, protect).await.err();
                let key = (index, format!("{host}:{port}"));
                let mut problems = write(&self.problems);
                match problem {
                    Some(problem) => {
                        tracing::warn!(target_name = target.name, host, problem, "a target's name does not resolve");
                        problems.insert(key, problem);
                    }
                    None => drop(problems.remove(&key)),
                }
            }
        }
    }

    /// [`Targets::resolve`] for ever.
    pub async fn keep_resolving(&self, protect: &dyn Protect) {
        loop {
            tokio::time::sleep(RESOLVE_EVERY).await;
            self.resolve(protect).await;
        }
    }

    async fn resolve_name(&self, index: usize, host: &str, port: u16, protect: &dyn Protect) -> Result<(), String> {
        let found: BTreeSet<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| format!("unresolved: {host}: {error}"))?
            .map(|mut socket| {
                socket.set_ip(socket.ip().to_canonical());
                socket
            })
            .collect();
        let all: Vec<SocketAddr> = {
            // Known before protected: a connection that is redirected at once must already find its target. Old addresses
            // stay: connections to them may be open, and a name that changes back must not find a gap.
            let mut named = write(&self.named);
            let known = named.entry(index).or_default();
            if found.is_subset(known) {
                return Ok(());
            }
            if known.union(&found).count() > MAX_ADDRESSES {
                return Err(format!("unresolved: {host} has had more than {MAX_ADDRESSES} addresses"));
            }
            known.extend(found);
            known.iter().copied().collect()
        };
        protect.protect(index as u32, &all).await.map_err(|error| format!("unprotected: {host}: {error}"))
    }
}

/// Whether two socket addresses are one destination: scope and flow label of IPv6 do not make another target.
fn same(left: SocketAddr, right: SocketAddr) -> bool {
    left.ip().to_canonical() == right.ip().to_canonical() && left.port() == right.port()
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}
