//! Packets as an attacker writes them, down to the frame.

use std::net::IpAddr;

use crate::ground::{HOST, HOST_HARDWARE, TARGET_HARDWARE, pick};

/// What a packet carries.
#[derive(Clone, Copy, Debug)]
pub enum Carried {
    /// The first segment of a TCP connection.
    Syn,
    /// A datagram.
    Udp,
}

impl Carried {
    pub fn protocol(self) -> u8 {
        match self {
            Self::Syn => 6,
            Self::Udp => 17,
        }
    }

    /// Header and payload, with their checksum.
    pub fn segment(self, from: (IpAddr, u16), to: (IpAddr, u16)) -> Vec<u8> {
        let mut segment = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        let checksum = match self {
            Self::Syn => {
                segment.extend(0x5157_0001_u32.to_be_bytes());
                segment.extend([0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
                16
            }
            Self::Udp => {
                let payload = b"attempt by a packet";
                segment.extend((8 + payload.len() as u16).to_be_bytes());
                segment.extend([0, 0]);
                segment.extend(payload);
                6
            }
        };
        let pseudo = [octets(from.0), octets(to.0), vec![0, self.protocol()]].concat();
        let length = (segment.len() as u16).to_be_bytes();
        let sum = sum(&[&pseudo, &length, &segment]);
        segment[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

/// A packet to be varied.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: (IpAddr, u16),
    pub to: (IpAddr, u16),
    pub carried: Carried,
    /// Another destination for the header, from which the options lead on.
    pub via: Option<IpAddr>,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers: their types, and their bytes behind the first.
    pub extensions: Vec<(u8, Vec<u8>)>,
}

impl Packet {
    /// From the host to a place.
    pub fn new(carried: Carried, to: (IpAddr, u16)) -> Self {
        let from = (pick(HOST, to.0.is_ipv6()), 40_000 + std::process::id() as u16 % 20_000);
        Self { from, to, carried, via: None, options: Vec::new(), extensions: Vec::new() }
    }

    /// The IP packet.
    pub fn bytes(&self) -> Vec<u8> {
        let segment = self.carried.segment(self.from, self.to);
        self.header(&segment, 0, false)
    }

    /// The IP packet in fragments of eight bytes of transport.
    pub fn fragments(&self) -> Vec<Vec<u8>> {
        let segment = self.carried.segment(self.from, self.to);
        let count = segment.chunks(8).count();
        let fragment = |(index, part): (usize, &[u8])| self.header(part, index as u16 * 8, index + 1 < count);
        segment.chunks(8).enumerate().map(fragment).collect()
    }

    fn header(&self, part: &[u8], offset: u16, more: bool) -> Vec<u8> {
        if self.to.0.is_ipv6() { self.header6(part, offset, more) } else { self.header4(part, offset, more) }
    }

    fn header4(&self, part: &[u8], offset: u16, more: bool) -> Vec<u8> {
        let length = 20 + self.options.len();
        let mut header = vec![0x40 | (length / 4) as u8, 0];
        header.extend(((length + part.len()) as u16).to_be_bytes());
        header.extend([0x51, 0x57]);
        header.extend(((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
        header.extend([64, self.carried.protocol(), 0, 0]);
        header.extend(octets(self.from.0));
        header.extend(octets(self.via.unwrap_or(self.to.0)));
        header.extend(&self.options);
        let sum = sum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(part);
        header
    }

    fn header6(&self, part: &[u8], offset: u16, more: bool) -> Vec<u8> {
        let mut extensions = self.extensions.clone();
        if more || offset != 0 {
            let place = (offset | u16::from(more)).to_be_bytes();
            extensions.push((44, vec![0, place[0], place[1], 0x51, 0x57, 0x51, 0x57]));
        }
        let mut tail = Vec::new();
        for (index, (_, bytes)) in extensions.iter().enumerate() {
            tail.push(extensions.get(index + 1).map_or(self.carried.protocol(), |(next, _)| *next));
            tail.extend(bytes);
        }
        tail.extend(part);
        let first = extensions.first().map_or(self.carried.protocol(), |(first, _)| *first);
        let mut header = vec![0x60, 0, 0, 0];
        header.extend((tail.len() as u16).to_be_bytes());
        header.extend([first, 64]);
        header.extend(octets(self.from.0));
        header.extend(octets(self.to.0));
        header.extend(tail);
        header
    }

    /// The EtherType of the packet.
    pub fn ethertype(&self) -> u16 {
        if self.to.0.is_ipv6() { 0x86dd } else { 0x0800 }
    }

    /// The frame on the wire to the target, with tags of these types in front.
    pub fn frame(&self, tags: &[u16]) -> Vec<u8> {
        frame(TARGET_HARDWARE, tags, self.ethertype(), &self.bytes())
    }
}

/// A frame from the host; each tag is of VLAN 0.
pub fn frame(to: [u8; 6], tags: &[u16], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [to, HOST_HARDWARE].concat();
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 0]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    frame
}

fn octets(of: IpAddr) -> Vec<u8> {
    match of {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum; every part but the last has an even length.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| (u32::from(word[0]) << 8) | u32::from(*word.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
