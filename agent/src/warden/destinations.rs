//! The protected destinations: what the maps should hold, and how they get there without a gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use agent_common::{CANARY, DESTINATION_OBSERVE, DESTINATION_PREFIX, Destination, DestinationKey};
use aya::maps::{LpmTrie, MapData, MapError, lpm_trie::Key};

use super::sys::Plain;
use crate::{
    config::{Address, Target},
    model::Mode,
};

/// Addresses of one target that is known by name. Beyond it the name is not one that anybody serves a database under.
pub(super) const MAX_NAMED: usize = 1024;

/// Target of a destination that an earlier run protected for a name, until the name is resolved again. No flow to it is ever
/// identified.
const UNRESOLVED: u32 = u32::MAX;

/// Trie for one family.
pub(super) type Trie = LpmTrie<MapData, Plain<DestinationKey>, Plain<Destination>>;

/// A destination, in the family that the kernel side looks it up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    address: IpAddr,
    port: u16,
}

impl Place {
    /// The kernel takes an IPv4-mapped address for the IPv4 one, and the unspecified address for loopback.
    fn new(of: SocketAddr) -> Self {
        let address = match of.ip().to_canonical() {
            IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            address => address,
        };
        Self { address, port: of.port() }
    }

    fn key(self) -> Key<Plain<DestinationKey>> {
        let (bits, address) = match self.address {
            IpAddr::V4(v4) => {
                let mut address = [0; 16];
                address[..4].copy_from_slice(&v4.octets());
                (32, address)
            }
            IpAddr::V6(v6) => (128, v6.octets()),
        };
        let data = DestinationKey { port: self.port.to_be_bytes(), pad: [0; 2], address };
        Key::new(DESTINATION_PREFIX + bits, Plain(data))
    }

    fn from_key(key: &Key<Plain<DestinationKey>>, v4: bool) -> Self {
        let Plain(DestinationKey { port, address, .. }) = key.data();
        let address = if v4 {
            Ipv4Addr::new(address[0], address[1], address[2], address[3]).into()
        } else {
            Ipv6Addr::from(address).into()
        };
        Self { address, port: u16::from_be_bytes(port) }
    }
}

/// What should be protected.
#[derive(Debug)]
struct Wanted {
    /// By address in the configuration.
    fixed: BTreeMap<Place, Destination>,
    /// By name in the configuration: ports and flags of each target, and its addresses once it was resolved.
    named: BTreeMap<u32, Named>,
    /// The self-test's own.
    canary: BTreeSet<Place>,
    /// Left by an earlier run.
    unresolved: BTreeMap<Place, Destination>,
}

#[derive(Debug)]
struct Named {
    ports: BTreeSet<u16>,
    flags: u32,
    places: BTreeSet<Place>,
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
            for address in &target.addresses {
                match address {
                    Address::Socket(address) => {
                        wanted.fixed.entry(Place::new(*address)).or_insert(Destination { target: index, flags });
                    }
                    Address::Name { port, .. } => {
                        let named = wanted.named.entry(index).or_insert_with(|| Named {
                            ports: BTreeSet::new(),
                            flags,
                            places: BTreeSet::new(),
                        });
                        named.ports.insert(*port);
                    }
                }
            }
        }
        wanted
    }

    /// Keeps what an earlier run protected for a name that the configuration still may mean: unprotected until the name is
    /// resolved again, it would be open to anyone.
    fn inherit(&mut self, found: impl IntoIterator<Item = Place>) {
        for place in found {
            let mut meant = self.named.values().filter(|named| named.ports.contains(&place.port)).peekable();
            if self.fixed.contains_key(&place) || meant.peek().is_none() {
                continue;
            }
            let flags = if meant.all(|named| named.flags & DESTINATION_OBSERVE != 0) { DESTINATION_OBSERVE } else { 0 };
            self.unresolved.insert(place, Destination { target: UNRESOLVED, flags });
        }
    }

    /// Takes new addresses of a target that is known by name.
    fn resolve(&mut self, target: u32, addresses: &[SocketAddr]) -> Result<(), ProtectError> {
        let named = self.named.get_mut(&target).ok_or(ProtectError::NotByName)?;
        if addresses.is_empty() || addresses.len() > MAX_NAMED {
            return Err(ProtectError::Count(addresses.len()));
        }
        if let Some(foreign) = addresses.iter().find(|address| !named.ports.contains(&address.port())) {
            return Err(ProtectError::Port(foreign.port()));
        }
        named.places = addresses.iter().copied().map(Place::new).collect();
        if self.named.values().all(|named| !named.places.is_empty()) {
            self.unresolved.clear();
        }
        Ok(())
    }

    /// Everything; an address in the configuration before a name, a name before an inheritance.
    fn all(&self) -> BTreeMap<Place, Destination> {
        let mut all = self.unresolved.clone();
        for (target, named) in self.named.iter().rev() {
            all.extend(named.places.iter().map(|place| (*place, Destination { target: *target, flags: named.flags })));
        }
        all.extend(self.canary.iter().map(|place| (*place, Destination { target: CANARY, flags: 0 })));
        all.extend(&self.fixed);
        all
    }
}

/// The maps, and what they should hold.
pub(super) struct Destinations {
    v4: Trie,
    v6: Trie,
    wanted: Wanted,
}

impl Destinations {
    /// Brings the maps to what the configuration says. They may hold destinations of an earlier run.
    pub(super) fn new(v4: Trie, v6: Trie, targets: &[Target]) -> Result<Self, ProtectError> {
        let mut destinations = Self { v4, v6, wanted: Wanted::new(targets) };
        // A self-test that was killed has left nothing that has to stay closed.
        let found =
            destinations.present()?.into_iter().filter(|(_, found)| found.target != CANARY).map(|(place, _)| place);
        let found: Vec<Place> = found.collect();
        destinations.wanted.inherit(found);
        destinations.sync()?;
        Ok(destinations)
    }

    /// Takes new addresses of a target that is known by name.
    pub(super) fn protect(&mut self, target: u32, addresses: &[SocketAddr]) -> Result<(), ProtectError> {
        self.wanted.resolve(target, addresses)?;
        self.sync()
    }

    /// What an address is protected as, if it is: as the kernel side would find it.
    pub(super) fn find(&self, address: SocketAddr) -> Result<Option<Destination>, MapError> {
        let place = Place::new(address);
        let trie = if place.address.is_ipv4() { &self.v4 } else { &self.v6 };
        match trie.get(&place.key(), 0) {
            Ok(Plain(destination)) => Ok(Some(destination)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Protects the self-test's addresses in place of those before; none once it is over.
    pub(super) fn protect_canary(&mut self, addresses: &[SocketAddr]) -> Result<(), ProtectError> {
        self.wanted.canary = addresses.iter().map(|address| Place::new(*address)).collect();
        self.sync()
    }

    /// Number of protected destinations.
    pub(super) fn len(&self) -> usize {
        self.wanted.all().len()
    }

    fn present(&self) -> Result<BTreeMap<Place, Destination>, ProtectError> {
        let mut present = BTreeMap::new();
        for (trie, v4) in [(&self.v4, true), (&self.v6, false)] {
            for entry in trie.iter() {
                let (key, Plain(destination)) = entry?;
                present.insert(Place::from_key(&key, v4), destination);
            }
        }
        Ok(present)
    }

    /// First what is new or different, then what is too much: at no moment is a destination missing that stays.
    fn sync(&mut self) -> Result<(), ProtectError> {
        let wanted = self.wanted.all();
        let present = self.present()?;
        for (place, destination) in &wanted {
            if present.get(place) != Some(destination) {
                self.trie(*place).insert(&place.key(), Plain(*destination), 0)?;
            }
        }
        for place in present.keys().filter(|place| !wanted.contains_key(place)) {
            self.trie(*place).remove(&place.key())?;
        }
        Ok(())
    }

    fn trie(&mut self, of: Place) -> &mut Trie {
        if of.address.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }
}

/// Destinations could not be protected.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProtectError {
    /// A target without names was given addresses.
    #[error("the target is not known by name")]
    NotByName,
    /// No address, or too many.
    #[error("{0} addresses; there must be between 1 and {MAX_NAMED}")]
    Count(usize),
    /// A port that the configuration does not name.
    #[error("port {0} is not one of the target's")]
    Port(u16),
    /// The map could not be read or written; it may be full.
    #[error("the map of protected destinations cannot be changed: {0}")]
    Map(#[from] MapError),
}

#[cfg(test)]
#[path = "destinations_tests.rs"]
mod tests;
