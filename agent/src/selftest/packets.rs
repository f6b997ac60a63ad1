//! Packets as raw and packet sockets make them: UDP, since one packet is enough to arrive.

use std::net::{IpAddr, SocketAddr};

const UDP: u8 = 17;
const HOPS: u8 = 64;

/// A UDP datagram with its IP header, from `source` (port 9) to `to`. Both must be of one family.
pub(super) fn datagram(source: IpAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let udp = udp(source, to, payload);
    let length = u16::try_from(udp.len()).unwrap_or(u16::MAX);
    let mut packet = Vec::new();
    match (source, to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            packet.extend([0x45, 0]);
            packet.extend((length + 20).to_be_bytes());
            packet.extend([0, 0, 0, 0, HOPS, UDP, 0, 0]);
            packet.extend(source.octets());
            packet.extend(to.octets());
            let sum = checksum([packet.as_slice()]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (source, to) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([UDP, HOPS]);
            packet.extend(octets(source));
            packet.extend(octets(to));
        }
    }
    packet.extend(udp);
    packet
}

/// The datagram without its IP header.
pub(super) fn udp(source: IpAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap_or(u16::MAX);
    let mut udp = Vec::new();
    udp.extend(9_u16.to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    let pseudo: Vec<u8> =
        octets(source).into_iter().chain(octets(to.ip())).chain([0, UDP]).chain(length.to_be_bytes()).collect();
    let sum = checksum([pseudo.as_slice(), udp.as_slice()]);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    udp
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071) of parts of even length; the last may be odd.
fn checksum<const PARTS: usize>(parts: [&[u8]; PARTS]) -> u16 {
    let words = parts.into_iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_over_a_packet_with_its_checksum_is_zero() {
        let to = "192.0.2.1:5432".parse().expect("an address");
        let packet = datagram("192.0.2.2".parse().expect("an address"), to, b"odd");
        assert_eq!(checksum([&packet[..20]]), 0);
        let pseudo: Vec<u8> = [&packet[12..20], &[0, 17], &packet[24..26]].concat();
        assert_eq!(checksum([pseudo.as_slice(), &packet[20..]]), 0);
    }
}
