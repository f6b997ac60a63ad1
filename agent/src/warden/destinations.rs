//! The protected destinations: what the maps should hold, and how they get there without a gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use agent_common::{
    CANARY, DESTINATION_OBSERVE, DESTINATION_PREFIX, Destination, DestinationKey, LEDGER_UNRESOLVED, LedgerId,
};
use aya::maps::{LpmTrie, MapData, MapError, lpm_trie::Key};

use super::sys::Plain;
use crate::{
    config::{Address, MAX_NAME_ADDRESSES, Network, Ports, Target},
    model::Mode,
};

/// Target of a destination that an earlier run protected for a name, until the name is resolved again. No flow to it is ever
/// identified.
const UNRESOLVED: u32 = u32::MAX;

/// Trie for one family.
pub(super) type Trie = LpmTrie<MapData, Plain<DestinationKey>, Plain<Destination>>;

/// A key of the maps: a port, and a prefix in the family that the kernel side looks it up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub address: IpAddr,
    pub prefix: u8,
    pub port: u16,
}

impl Place {
    fn new(network: Network, port: u16) -> Self {
        Self { address: network.address(), prefix: network.prefix(), port }
    }

    /// Of one host. The kernel takes an IPv4-mapped address for the IPv4 one, and the unspecified address for loopback.
    pub(super) fn host(address: IpAddr, port: u16) -> Self {
        let address = match address.to_canonical() {
            IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        Self::new(Network::host(address), port)
    }

    fn is_host(self) -> bool {
        self.prefix == if self.address.is_ipv4() { 32 } else { 128 }
    }

    pub(super) fn key(self) -> Key<Plain<DestinationKey>> {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mut address = [0; 16];
                address[..4].copy_from_slice(&v4.octets());
                address
            }
            IpAddr::V6(v6) => v6.octets(),
        };
        let data = DestinationKey { port: self.port.to_be_bytes(), pad: [0; 2], address };
        Key::new(DESTINATION_PREFIX + u32::from(self.prefix), Plain(data))
    }

    /// `None` for what no agent writes: a key without a whole port.
    pub(super) fn from_key(key: &Key<Plain<DestinationKey>>, v4: bool) -> Option<Self> {
        let prefix = u8::try_from(key.prefix_len().checked_sub(DESTINATION_PREFIX)?).ok()?;
        let Plain(DestinationKey { port, address, .. }) = key.data();
        let address = if v4 {
            Ipv4Addr::new(address[0], address[1], address[2], address[3]).into()
        } else {
            Ipv6Addr::from(address).into()
        };
        Some(Self { address, prefix, port: u16::from_be_bytes(port) })
    }
}

/// What should be protected.
#[derive(Debug)]
struct Wanted {
    /// By network in the configuration.
    fixed: BTreeMap<Place, Destination>,
    /// By name in the configuration: for each target and each of its addresses that is a name.
    named: BTreeMap<(u32, u32), Named>,
    /// The self-test's own.
    canary: BTreeSet<Place>,
    /// Left by an earlier run.
    unresolved: BTreeMap<Place, Destination>,
}

/// A name, and what it stands for once it was resolved.
#[derive(Debug)]
struct Named {
    ports: Ports,
    flags: u32,
    ledger: LedgerId,
    addresses: BTreeSet<IpAddr>,
}

impl Wanted {
    fn new(targets: &[Target]) -> Self {
        let mut wanted = Self {
            fixed: BTreeMap::new(),
            named: BTreeMap::new(),
            canary: BTreeSet::new(),
            unresolved: BTreeMap::new(),
        };
        for (index, target) in (0_u32..).zip(targets) {
            let flags = if target.mode == Mode::Observe { DESTINATION_OBSERVE } else { 0 };
            for (entry, address) in (0_u32..).zip(&target.addresses) {
                match address {
                    Address::Network { network, ports } => {
                        for port in ports.all() {
                            let place = Place::new(*network, port);
                            wanted.fixed.entry(place).or_insert(Destination {
                                target: index,
                                flags,
                                ledger: target.ledger(),
                            });
                        }
                    }
                    Address::Name { ports, .. } => {
                        let named = Named { ports: *ports, flags, ledger: target.ledger(), addresses: BTreeSet::new() };
                        wanted.named.insert((index, entry), named);
                    }
                }
            }
        }
        wanted
    }

    /// Keeps what an earlier run protected for a name that the configuration still may mean: unprotected until the name is
    /// resolved again, it would be open to anyone. A network was never a name's.
    fn inherit(&mut self, found: impl IntoIterator<Item = Place>) {
        for place in found.into_iter().filter(|place| place.is_host()) {
            let mut meant = self.named.values().filter(|named| named.ports.contains(place.port)).peekable();
            if self.fixed.contains_key(&place) || meant.peek().is_none() {
                continue;
            }
            let flags = if meant.all(|named| named.flags & DESTINATION_OBSERVE != 0) { DESTINATION_OBSERVE } else { 0 };
            self.unresolved.insert(place, Destination { target: UNRESOLVED, flags, ledger: LEDGER_UNRESOLVED });
        }
    }

    /// Takes new addresses of a name.
    fn resolve(&mut self, target: u32, entry: u32, addresses: &[IpAddr]) -> Result<(), ProtectError> {
        let named = self.named.get_mut(&(target, entry)).ok_or(ProtectError::NotByName)?;
        if addresses.is_empty() || addresses.len() > MAX_NAME_ADDRESSES {
            return Err(ProtectError::Count(addresses.len()));
        }
        named.addresses = addresses.iter().copied().collect();
        if self.named.values().all(|named| !named.addresses.is_empty()) {
            self.unresolved.clear();
        }
        Ok(())
    }

    /// Everything; an address in the configuration before a name, the name of an earlier target before that of a later one, a
    /// name before an inheritance.
    fn all(&self) -> BTreeMap<Place, Destination> {
        let mut all = self.unresolved.clone();
        for ((target, _), named) in self.named.iter().rev() {
            let destination = Destination { target: *target, flags: named.flags, ledger: named.ledger };
            for address in &named.addresses {
                all.extend(named.ports.all().map(|port| (Place::host(*address, port), destination)));
            }
        }
        let canary = Destination { target: CANARY, flags: 0, ledger: LEDGER_UNRESOLVED };
        all.extend(self.canary.iter().map(|place| (*place, canary)));
        all.extend(&self.fixed);
        all
    }
}

/// The maps, what they hold, and what they should hold.
pub(super) struct Destinations {
    v4: Trie,
    v6: Trie,
    /// Nobody else writes them.
    present: BTreeMap<Place, Destination>,
    wanted: Wanted,
}

impl Destinations {
    /// Brings the maps to what the configuration says. They may hold destinations of an earlier run.
    pub(super) fn new(v4: Trie, v6: Trie, targets: &[Target]) -> Result<Self, ProtectError> {
        let mut destinations = Self { v4, v6, present: BTreeMap::new(), wanted: Wanted::new(targets) };
        destinations.read()?;
        // A self-test that was killed has left nothing that has to stay closed.
        let kept: Vec<Place> =
            destinations.present.iter().filter(|(_, found)| found.target != CANARY).map(|(place, _)| *place).collect();
        destinations.wanted.inherit(kept);
        destinations.sync()?;
        Ok(destinations)
    }

    /// Takes new addresses of a name: of the address at index `entry` of a target.
    pub(super) fn protect(&mut self, target: u32, entry: u32, addresses: &[IpAddr]) -> Result<(), ProtectError> {
        self.wanted.resolve(target, entry, addresses)?;
        self.sync()
    }

    /// What an address is protected as, if it is: as the kernel side would find it.
    pub(super) fn find(&self, address: SocketAddr) -> Result<Option<Destination>, MapError> {
        let place = Place::host(address.ip(), address.port());
        let trie = if place.address.is_ipv4() { &self.v4 } else { &self.v6 };
        match trie.get(&place.key(), 0) {
            Ok(Plain(destination)) => Ok(Some(destination)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Protects the self-test's addresses in place of those before; none once it is over.
    pub(super) fn protect_canary(&mut self, addresses: &[SocketAddr]) -> Result<(), ProtectError> {
        self.wanted.canary = addresses.iter().map(|address| Place::host(address.ip(), address.port())).collect();
        self.sync()
    }

    /// Number of protected destinations.
    pub(super) fn len(&self) -> usize {
        self.present.len()
    }

    fn read(&mut self) -> Result<(), ProtectError> {
        for (trie, v4) in [(&self.v4, true), (&self.v6, false)] {
            for entry in trie.iter() {
                let (key, Plain(destination)) = entry?;
                self.present.extend(Place::from_key(&key, v4).map(|place| (place, destination)));
            }
        }
        Ok(())
    }

    /// First what is new or different, then what is too much: at no moment is a destination missing that stays. Where there was
    /// no room for what is new, there may be then.
    fn sync(&mut self) -> Result<(), ProtectError> {
        let wanted = self.wanted.all();
        let full = self.add(&wanted).is_err();
        let surplus: Vec<Place> = self.present.keys().filter(|place| !wanted.contains_key(place)).copied().collect();
        for place in surplus {
            self.trie(place).remove(&place.key())?;
            self.present.remove(&place);
        }
        if full { self.add(&wanted) } else { Ok(()) }
    }

    /// As many of these as there is room for.
    fn add(&mut self, wanted: &BTreeMap<Place, Destination>) -> Result<(), ProtectError> {
        let mut outcome = Ok(());
        for (place, destination) in wanted {
            if self.present.get(place) != Some(destination) {
                match self.trie(*place).insert(&place.key(), Plain(*destination), 0) {
                    Ok(()) => drop(self.present.insert(*place, *destination)),
                    Err(error) => outcome = Err(error.into()),
                }
            }
        }
        outcome
    }

    fn trie(&mut self, of: Place) -> &mut Trie {
        if of.address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

/// Destinations could not be protected.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProtectError {
    /// What is not a name was given addresses.
    #[error("the configuration has no such name")]
    NotByName,
    /// No address, or too many.
    #[error("{0} addresses; there must be between 1 and {MAX_NAME_ADDRESSES}")]
    Count(usize),
    /// The map could not be read or written; it may be full.
    #[error("the map of protected destinations cannot be changed: {0}")]
    Map(#[from] MapError),
}

#[cfg(test)]
#[path = "destinations_tests.rs"]
mod tests;
