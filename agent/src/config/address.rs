//! Addresses of targets.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::Address;

impl Address {
    /// Reads `IP:PORT`, `[IPV6]:PORT` or `NAME:PORT`. An IPv4-mapped address is the IPv4 address that it maps.
    ///
    /// # Errors
    /// What is wrong, as the end of a sentence that begins with the address.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Self::of(address);
        }
        if text.parse::<IpAddr>().is_ok() || text.starts_with('[') && text.ends_with(']') {
            return Err("has no port");
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(if is_name(text) { "has no port" } else { "is no address" });
        };
        if host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
            return Err("has no port, or lacks the brackets of an IPv6 address");
        }
        let port = match port.parse::<u16>() {
            Ok(port) if port > 0 && port.to_string().len() == text.len() - host.len() - 1 => port,
            _ => return Err("has a port that is not a number from 1 to 65535"),
        };
        if is_name(host) { Ok(Self::Name { host: host.to_ascii_lowercase(), port }) } else { Err("is no address") }
    }

    fn of(address: SocketAddr) -> Result<Self, &'static str> {
        let ip = address.ip().to_canonical();
        if address.port() == 0 {
            return Err("has a port that is not a number from 1 to 65535");
        }
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255, 255, 255, 255]) {
            return Err("is not the address of one host");
        }
        Ok(Self::Socket(if ip.is_ipv4() { SocketAddr::new(ip, address.port()) } else { address }))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
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
