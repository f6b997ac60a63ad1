//! What is known of one name: a machine without a clock and without I/O.
//!
//! An address is kept while the name stands for it, while a connection to it is open, and for a time of grace after the last of
//! these. What could not be asked does not age: a name that does not resolve keeps what it had.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::config::MAX_NAME_ADDRESSES;

/// The longest that a record's own time to live can keep an address beyond the time of grace: a day, as long as caches keep
/// one at most.
const LONGEST_TTL: Duration = Duration::from_secs(86_400);

/// What the resolvers said about a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// What it stands for.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Whether that is all of IPv4.
    pub(super) all_v4: bool,
    /// Whether that is all of IPv6.
    pub(super) all_v6: bool,
    /// How long it holds, if anybody said.
    pub(super) ttl: Option<Duration>,
    /// Why there is no address, if there is none.
    pub(super) reason: String,
}

/// The addresses of a name.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Until when each stays, unless there is a reason by then to keep it longer.
    addresses: BTreeMap<IpAddr, Instant>,
    /// What the name stood for when it was last asked for.
    current: BTreeSet<IpAddr>,
}

impl Known {
    /// What a name stood for in an earlier run. Nobody knows when: it stays as if that had been now.
    pub(super) fn remembered(addresses: impl IntoIterator<Item = IpAddr>, now: Instant, grace: Duration) -> Self {
        let addresses = addresses.into_iter().take(MAX_NAME_ADDRESSES).map(|address| (address, now + grace)).collect();
        Self { addresses, current: BTreeSet::new() }
    }

    /// Every address that is to be protected, old ones among them.
    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.keys().copied().collect()
    }

    /// Whether this is one of them.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// Takes an answer. `in_use` are the addresses to which connections are open.
    ///
    /// # Errors
    /// How many addresses the answer has, if they are too many; the first of them count.
    pub(super) fn learn(
        &mut self,
        answer: &Answer,
        in_use: impl Fn(IpAddr) -> bool,
        now: Instant,
        grace: Duration,
    ) -> Result<(), usize> {
        let until = now + grace;
        for (address, stays) in &mut self.addresses {
            let asked = if address.is_ipv4() { answer.all_v4 } else { answer.all_v6 };
            if !asked || answer.addresses.is_empty() || in_use(*address) {
                *stays = until.max(*stays);
            }
        }
        if answer.addresses.is_empty() {
            return Ok(());
        }
        // A client, or a cache before it, may use the answer for as long as the answer says.
        let until = now + grace.max(answer.ttl.unwrap_or_default().min(LONGEST_TTL));
        self.current = answer.addresses.iter().take(MAX_NAME_ADDRESSES).copied().collect();
        for address in &self.current {
            let stays = self.addresses.entry(*address).or_insert(until);
            *stays = until.max(*stays);
        }
        self.make_room(in_use);
        match answer.addresses.len() {
            count if count > MAX_NAME_ADDRESSES => Err(count),
            _ => Ok(()),
        }
    }

    /// What is no longer to be protected.
    pub(super) fn expired(&self, now: Instant) -> BTreeSet<IpAddr> {
        self.addresses.iter().filter(|(_, stays)| **stays <= now).map(|(address, _)| *address).collect()
    }

    /// Forgets these.
    pub(super) fn forget(&mut self, addresses: &BTreeSet<IpAddr>) {
        self.addresses.retain(|address, _| !addresses.contains(address));
    }

    /// Where there are too many, the oldest go: first those that nobody has a connection to, never one of the last answer.
    fn make_room(&mut self, in_use: impl Fn(IpAddr) -> bool) {
        let excess = self.addresses.len().saturating_sub(MAX_NAME_ADDRESSES);
        if excess == 0 {
            return;
        }
        let old = self.addresses.iter().filter(|(address, _)| !self.current.contains(address));
        let mut old: Vec<_> = old.map(|(address, stays)| (in_use(*address), *stays, *address)).collect();
        old.sort_unstable();
        let gone = old.into_iter().take(excess).map(|(_, _, address)| address).collect();
        self.forget(&gone);
    }
}
