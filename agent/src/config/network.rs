//! The parts of an address: a network, which may be that of a single host, and the ports there.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use super::Address;

/// The widest network that a target may have. What is given to one owner is no wider; what is asked for beyond it is a mistake,
/// or the wish to leave no way out, which is not a target's to grant.
const WIDEST_V4: u8 = 8;
/// See [`WIDEST_V4`].
const WIDEST_V6: u8 = 16;

/// Bits of an IPv6 address before the IPv4 address that it maps.
const MAPPED: u8 = 96;

/// A network in its one form: IPv4 where an IPv6 one would map it, and no bits set behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why an address and a prefix are not the network of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// The prefix is longer than the address.
    TooLong(u8),
    /// The prefix is 0.
    Everything,
    /// The prefix is shorter than any that one owner has.
    TooWide(u8),
    /// Bits behind the prefix are set; the network that is perhaps meant.
    HostBits(Network),
    /// It has IPv4-mapped addresses among others, which the kernel takes for IPv4 ones.
    PartlyMapped,
    /// It has the loopback address of IPv6 among others.
    Loopback,
    /// No host has such an address.
    NoHost,
}

impl Network {
    /// The network of one host.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, prefix: bits(address) }
    }

    /// The network with this prefix.
    pub(super) fn new(address: IpAddr, prefix: u8) -> Result<Self, Unfit> {
        let given = bits(address);
        if prefix > given {
            return Err(Unfit::TooLong(given));
        }
        let canonical = address.to_canonical();
        let prefix = match canonical == address {
            true => prefix,
            false => prefix.checked_sub(MAPPED).ok_or(Unfit::PartlyMapped)?,
        };
        let network = Self { address: masked(canonical, prefix), prefix };
        let widest = if canonical.is_ipv4() { WIDEST_V4 } else { WIDEST_V6 };
        let first = network.address;
        let no_host = |address: IpAddr| {
            address.is_unspecified() || address.is_multicast() || address == IpAddr::from([255, 255, 255, 255])
        };
        match network.address {
            _ if prefix == 0 => Err(Unfit::Everything),
            _ if prefix < widest => Err(Unfit::TooWide(widest)),
            _ if network.address != canonical => Err(Unfit::HostBits(network)),
            IpAddr::V6(_) if network.contains(mapped(0)) => Err(Unfit::PartlyMapped),
            IpAddr::V6(_) if prefix < 128 && network.contains([0, 0, 0, 0, 0, 0, 0, 1].into()) => Err(Unfit::Loopback),
            // A network of such addresses begins with one.
            _ if no_host(first) => Err(Unfit::NoHost),
            _ => Ok(network),
        }
    }

    /// Its first address; the host's, if it is of one.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Length of its prefix.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it is the network of one host.
    #[must_use]
    pub fn is_host(self) -> bool {
        self.prefix == bits(self.address)
    }

    /// Whether this address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        // Compared as it stands: a mapped address is never in an IPv6 network that is allowed.
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.prefix) == self.address
    }

    /// Whether every address of the other network is in this one.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_host() {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

/// Ports: one, or all from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// All from `first` to `last`; `None` if there are none, or if 0 is among them, which is no port.
    pub(super) fn new(first: u16, last: u16) -> Option<Self> {
        (0 < first && first <= last).then_some(Self { first, last })
    }

    /// Each of them.
    #[must_use]
    pub fn all(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// How many there are; never 0.
    #[must_use]
    pub fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        self.all().contains(&port)
    }

    /// Whether all the other ports are among these.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.contains(other.first) && self.contains(other.last)
    }

    /// The first that both have.
    pub(super) fn shared(self, other: Self) -> Option<u16> {
        let first = self.first.max(other.first);
        (first <= self.last.min(other.last)).then_some(first)
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Network { network: Network::host(address.ip()), ports: address.port().into() }
    }
}

/// Length of an address in bits.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address without the bits behind a prefix.
pub(super) fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let prefix = u32::from(prefix);
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0)).into()),
    }
}

/// The IPv4-mapped form of an IPv4 address.
fn mapped(v4: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(v4).to_ipv6_mapped().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Result<Network, Unfit> {
        let (address, prefix) = text.split_once('/').expect("a prefix");
        Network::new(address.parse().expect("an address"), prefix.parse().expect("a number"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_has_one_form() {
        assert_eq!(network("::ffff:10.20.0.0/120"), network("10.20.0.0/24"));
        assert_eq!(network("10.20.0.5/32"), Ok(Network::host(ip("::ffff:10.20.0.5"))));
        assert_eq!(network("10.20.0.5/24"), Err(Unfit::HostBits(network("10.20.0.0/24").expect("a network"))));
        assert_eq!(network("2001:db8::/64").expect("a network").to_string(), "2001:db8::/64");
        assert_eq!(Network::host(ip("2001:db8::1")).to_string(), "2001:db8::1");
    }

    #[test]
    fn what_is_not_the_network_of_a_target_is_refused() {
        for (text, why) in [
            ("10.0.0.0/33", Unfit::TooLong(32)),
            ("2001:db8::/129", Unfit::TooLong(128)),
            ("0.0.0.0/0", Unfit::Everything),
            ("::/0", Unfit::Everything),
            ("::ffff:0.0.0.0/96", Unfit::Everything),
            ("126.0.0.0/7", Unfit::TooWide(8)),
            ("2000::/3", Unfit::TooWide(16)),
            ("::/16", Unfit::PartlyMapped),
            ("0:0:0:0:0:f000::/84", Unfit::PartlyMapped),
            ("::/97", Unfit::Loopback),
            ("::/128", Unfit::NoHost),
            ("0.0.0.0/8", Unfit::NoHost),
            ("239.0.0.0/8", Unfit::NoHost),
            ("ff02::/64", Unfit::NoHost),
            ("255.255.255.255/32", Unfit::NoHost),
        ] {
            assert_eq!(network(text), Err(why), "{text}");
        }
        // This host's loopback, whole or in part, is one that a server on it may listen at.
        for text in ["127.0.0.0/8", "127.0.0.1/32", "::1/128", "10.0.0.0/8", "fd00::/16"] {
            assert!(network(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_network_contains_its_own_family_only() {
        let v4 = network("10.20.0.0/23").expect("a network");
        assert!(v4.contains(ip("10.20.1.255")) && !v4.contains(ip("10.20.2.0")));
        assert!(!v4.contains(ip("::ffff:10.20.0.1")));
        assert!(v4.covers(Network::host(ip("10.20.0.9"))) && !Network::host(ip("10.20.0.0")).covers(v4));
        let v6 = network("2001:db8::/65").expect("a network");
        assert!(v6.contains(ip("2001:db8::7fff:0:0:1")) && !v6.contains(ip("2001:db8::8000:0:0:1")));
    }

    #[test]
    fn ports_share_what_both_have() {
        let ports = |first, last| Ports::new(first, last).expect("ports");
        assert_eq!(Ports::new(5, 4), None);
        assert_eq!(Ports::new(0, 4), None);
        assert_eq!(ports(1, u16::MAX).count(), 65_535);
        assert_eq!(ports(10, 20).shared(ports(20, 30)), Some(20));
        assert_eq!(ports(10, 20).shared(ports(21, 30)), None);
        assert_eq!(ports(10, 20).shared(ports(12, 13)), Some(12));
        assert!(ports(10, 20).covers(15.into()) && !ports(10, 20).covers(ports(15, 21)));
    }
}
