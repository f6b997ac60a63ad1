//! Addresses of targets, as they are written.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::{
    Address,
    network::{Network, Ports, Unfit},
};

/// What to write where no part of an address can be made out.
const FORMS: &str = "write \"NAME:PORT\", \"IPV4:PORT\" or \"[IPV6]:PORT\", such as \"10.20.0.5:5432\"";

/// What is wrong with an address, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address {what}: {remedy}")]
pub struct AddressError {
    /// The end of a sentence that begins with the address.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl AddressError {
    fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }

    fn form(what: &str) -> Self {
        Self::new(what, FORMS)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads `IP:PORTS`, `[IPV6]:PORTS` or `NAME:PORTS`, where an IP may have a prefix (`10.20.0.0/24`, `[2001:db8::/64]`), and
    /// ports are one or a range (`5432-5439`). An IPv4-mapped address is the IPv4 address that it maps.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let ends_with_address = !text.split_once('/').is_some_and(|(_, rest)| rest.contains(':'));
        if ends_with_address && without_prefix(text).parse::<IpAddr>().is_ok()
            || text.starts_with('[') && text.ends_with(']')
        {
            return Err(AddressError::form("has no port"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(AddressError::form(if is_name(text) { "has no port" } else { "is no address" }));
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && without_prefix(host).parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
            return Err(AddressError::form("has no port, or lacks the brackets of an IPv6 address"));
        }
        let ports = ports(port)?;
        let network = match bracketed {
            // A zone, which only the number of an interface may be, names no other destination.
            Some(inner) if inner.contains('%') => format!("[{inner}]:1").parse::<SocketAddr>().ok().map(|it| it.ip()),
            Some(inner) => without_prefix(inner).parse::<IpAddr>().ok().filter(IpAddr::is_ipv6),
            None => without_prefix(host).parse::<IpAddr>().ok(),
        };
        match network {
            Some(address) => {
                let network = network_of(address, bracketed.unwrap_or(host), ports)?;
                Ok(Self::Network { network, ports })
            }
            None if is_name(host) => Ok(Self::Name { host: host.to_ascii_lowercase(), ports }),
            None => Err(AddressError::form("is no address")),
        }
    }
}

impl Address {
    /// Its ports.
    #[must_use]
    pub fn ports(&self) -> Ports {
        match self {
            Self::Network { ports, .. } | Self::Name { ports, .. } => *ports,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { network, ports } if network.address().is_ipv6() => write!(f, "[{network}]:{ports}"),
            Self::Network { network, ports } => write!(f, "{network}:{ports}"),
            Self::Name { host, ports } => write!(f, "{host}:{ports}"),
        }
    }
}

/// What stands before the prefix of a network.
fn without_prefix(text: &str) -> &str {
    text.split_once('/').map_or(text, |(address, _)| address)
}

fn network_of(address: IpAddr, text: &str, ports: Ports) -> Result<Network, AddressError> {
    let prefix = match text.split_once('/') {
        None => {
            if address.is_ipv4() {
                32
            } else {
                128
            }
        }
        Some((_, prefix)) => number::<u8>(prefix).ok_or_else(|| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            AddressError::new(
                format!("has a prefix that is not a number from 1 to {longest}"),
                format!("write a network as \"{}\"", example(address)),
            )
        })?,
    };
    Network::new(address, prefix).map_err(|unfit| match unfit {
        Unfit::TooLong(longest) => AddressError::new(
            format!("has a prefix that is not a number from 1 to {longest}"),
            format!("write a network as \"{}\"", example(address)),
        ),
        Unfit::Everything => AddressError::new(
            "is every address there is",
            format!("write the networks that the target is in, such as \"{}\"", example(address)),
        ),
        Unfit::TooWide(widest) => AddressError::new(
            format!("is a network wider than /{widest}"),
            format!("write the networks that the target is in, such as \"{}\"", example(address)),
        ),
        Unfit::HostBits(network) => AddressError::new(
            "is an address within a network, not the network",
            format!(
                "write \"{}\" for all of the network, or leave \"/{prefix}\" out for the one address",
                Address::Network { network, ports }
            ),
        ),
        Unfit::PartlyMapped => AddressError::new(
            "has IPv4-mapped addresses among others",
            "write IPv4 networks as such, such as \"10.20.0.0/24:5432\"",
        ),
        Unfit::Loopback => AddressError::new(
            "has this host's own loopback address among others",
            "write the networks that the target is in, and \"[::1]:PORT\" beside them if it is on this host too",
        ),
        Unfit::NoHost if text.contains('/') => {
            AddressError::new("has addresses that no host has", "write the networks that the target is in")
        }
        Unfit::NoHost => AddressError::form("is not the address of one host"),
    })
}

/// How a network of the same family is written.
fn example(address: IpAddr) -> &'static str {
    if address.to_canonical().is_ipv4() { "10.20.0.0/24:5432" } else { "[2001:db8::/64]:5432" }
}

fn ports(text: &str) -> Result<Ports, AddressError> {
    let wrong = || AddressError::form("has a port that is not a number from 1 to 65535");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = number::<u16>(first).zip(number::<u16>(last)).ok_or_else(wrong)?;
    if first > last {
        return Err(AddressError::new(
            "has a range of ports that ends before it begins",
            format!("write \"{last}-{first}\""),
        ));
    }
    Ports::new(first, last).ok_or_else(wrong)
}

/// A number in its one form: digits alone, without leading zeros.
fn number<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse::<T>().ok().filter(|number| number.to_string() == text)
}

/// A host name (RFC 1123, and `_`, which some networks use), whose last label is not a number: that would be a mistyped
/// IPv4 address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let labels = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253
        && labels.split('.').all(label)
        && !labels.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}
