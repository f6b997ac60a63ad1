//! Original destination -> target, and the addresses of targets that are given by name.
//!
//! *Invariant:* a flow finds its target only if the kernel program and this module agree on it: by the index that was noted,
//! and by whose address the destination is.

mod hosts;
mod kept;
mod known;
mod resolve;

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use self::hosts::Hosts;
use crate::{
    config::{Address, Network, Target},
    model::{Boxed, Denial, Flow},
};

/// What the names of targets need of the rest of the agent.
pub trait Keeper: Send + Sync {
    /// Protects these addresses, in place of those that were given before, for an address by name: that at index `entry` among
    /// the addresses of the target at index `target`.
    fn protect<'a>(&'a self, target: u32, entry: u32, addresses: &'a [IpAddr]) -> Boxed<'a, Result<(), String>>;

    /// The destinations of all connections that are open.
    fn open(&self) -> BTreeSet<SocketAddr>;

    /// Records that something has changed.
    fn changed(&self, change: Change);
}

/// What has become of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It does not resolve any more, or what it stands for cannot be protected.
    Failed {
        /// The name.
        name: String,
        /// The targets that have it.
        targets: Vec<String>,
        /// Why.
        reason: String,
        /// How many addresses it had; they stay protected.
        kept: usize,
    },
    /// All is well with it again.
    Restored {
        /// The name.
        name: String,
        /// The targets that have it.
        targets: Vec<String>,
        /// How many addresses it has now, old ones among them.
        addresses: usize,
    },
}

/// The targets, and the addresses that their names stand for.
pub struct Targets {
    targets: Vec<Arc<Target>>,
    hosts: Arc<Hosts>,
}

/// A target that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The target.
    pub target: Arc<Target>,
    /// Its name that stands for the destination, if one does.
    pub name: Option<String>,
}

impl Targets {
    /// The targets of a configuration. What their names stood for last is read from the state directory.
    #[must_use]
    pub fn new(targets: Vec<Target>, state_dir: &Path, grace: Duration) -> Self {
        let hosts = Arc::new(Hosts::new(&targets, state_dir, grace));
        Self { targets: targets.into_iter().map(Arc::new).collect(), hosts }
    }

    /// The target that a flow was meant for.
    ///
    /// # Errors
    /// A denial if the noted index and the original destination do not belong together.
    pub fn find(&self, flow: &Flow) -> Result<Found, Denial> {
        let (address, port) = (flow.destination.ip().to_canonical(), flow.destination.port());
        let index = flow.target as usize;
        match (self.owner(address, port), self.targets.get(index)) {
            (Some(owner), Some(target)) if owner == index => {
                Ok(Found { target: Arc::clone(target), name: self.hosts.name_of(index, address) })
            }
            _ => Err(Denial::closed(format!("{} is not an address of a configured target", flow.destination))),
        }
    }

    /// All targets, in the order of the configuration.
    #[must_use]
    pub fn all(&self) -> &[Arc<Target>] {
        &self.targets
    }

    /// The addresses of the target at this index that are protected at present, as an operator reads them.
    #[must_use]
    pub fn addresses(&self, index: usize) -> Vec<String> {
        let Some(target) = self.targets.get(index) else { return Vec::new() };
        let configured = target.addresses.iter().filter(|address| matches!(address, Address::Network { .. })).cloned();
        let named = target.addresses.iter().filter_map(|address| match address {
            Address::Name { host, ports } => Some((host, *ports)),
            Address::Network { .. } => None,
        });
        let named = named.flat_map(|(host, ports)| {
            let known = self.hosts.addresses(host).into_iter();
            known.map(move |address| Address::Network { network: Network::host(address), ports })
        });
        let mut seen = BTreeSet::new();
        configured.chain(named).map(|address| address.to_string()).filter(|text| seen.insert(text.clone())).collect()
    }

    /// What an operator should know about the target at this index.
    #[must_use]
    pub fn problems(&self, index: usize) -> Vec<String> {
        let Some(target) = self.targets.get(index) else { return Vec::new() };
        let mut problems = self.hosts.problems(index);
        if self.open_beside_its_names(target) {
            problems.push("name-only: another resolver may answer differently".to_owned());
        }
        problems
    }

    /// Follows the names of all targets until dropped: first protects what they stood for last, then what they stand for now.
    pub async fn follow(&self, keeper: Arc<dyn Keeper>) {
        Arc::clone(&self.hosts).follow(keeper).await;
    }

    /// Waits until every name was asked for once since [`Targets::follow`], but not for ever.
    pub async fn asked(&self) {
        self.hosts.asked().await;
    }

    /// Whose a destination is: the target with the longest prefix, as the kernel finds it. Where a network of the configuration
    /// has a single host, it comes before a name that stands for it; of two names, the one of the first target counts.
    fn owner(&self, address: IpAddr, port: u16) -> Option<usize> {
        let configured = self.targets.iter().enumerate().flat_map(|(index, target)| {
            target.addresses.iter().filter_map(move |of| match of {
                Address::Network { network, ports } if network.contains(address) && ports.contains(port) => {
                    Some((network.prefix(), true, Reverse(index)))
                }
                _ => None,
            })
        });
        let whole = Network::host(address).prefix();
        let named = self.hosts.owners(address, port).into_iter().map(|index| (whole, false, Reverse(index)));
        configured.chain(named).max().map(|(_, _, Reverse(index))| index)
    }

    /// Whether a client whose resolver answers something else than the agent's could reach a target past the agent: it has a
    /// name, and the networks that the configuration gives it do not hold all that the name stands for.
    fn open_beside_its_names(&self, target: &Target) -> bool {
        target.addresses.iter().any(|address| {
            let Address::Name { host, ports: wanted } = address else { return false };
            let closed = |at: &IpAddr| {
                target.addresses.iter().any(|of| match of {
                    Address::Network { network, ports } => network.contains(*at) && ports.covers(*wanted),
                    Address::Name { .. } => false,
                })
            };
            let known = self.hosts.addresses(host);
            known.is_empty() || !known.iter().all(closed)
        })
    }
}

#[cfg(test)]
mod tests;
