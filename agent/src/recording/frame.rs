//! One record on disk: a header of fixed size, then the body (the event as JSON).
//!
//! The chain runs over the headers. A header carries the hash of its body and the hash of the header before it, so that a
//! body can be dropped later without breaking the proof.
//!
//! ```text
//! 0  magic "PSTN"     16 time (i64, Unix nanoseconds)    64 SHA-256 of the body
//! 4  version (u16)    24 length of the body (u32)         96 SHA-256 of the bytes 0..96
//! 6  kind (u16)       28 zero (u32)
//! 8  sequence (u64)   32 hash of the header before
//! ```
//! All numbers are little-endian.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::Event;

/// Length of a header in bytes.
pub const HEADER: usize = 128;

/// The largest body. A statement or an answer beyond it is refused or split: whoever reads the log never has to hold more
/// than this for one record.
pub const MAX_BODY: usize = 4 << 20;

/// The hash before the first record.
pub const GENESIS: Hash = [0; 32];

/// A SHA-256 digest.
pub type Hash = [u8; 32];

const MAGIC: [u8; 4] = *b"PSTN";
const VERSION: u16 = 1;
/// Where a header's own hash begins; what lies before is hashed.
const HASHED: usize = 96;

/// What a record is about, without looking at its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u16);

impl Kind {
    /// A process that had handed the log over has ended.
    pub const PROCESS_ENDED: Self = Self(8);
    /// What is in force in the kernel: an epoch begins with it, or goes on.
    pub const KERNEL_SIDE: Self = Self(9);
    /// Connects that a proxy had taken when it ended.
    pub const LOST_AT_RESTART: Self = Self(14);
    /// A session was admitted.
    pub const SESSION_STARTED: Self = Self(16);
    /// A connection was refused.
    pub const CONNECTION_REFUSED: Self = Self(17);
    /// A client asked to cancel what another session does.
    pub const CANCEL_REQUESTED: Self = Self(22);

    /// The kind of an event.
    #[must_use]
    pub fn of(event: &Event) -> Self {
        Self(match event {
            Event::AgentStarted { .. } => 1,
            Event::AgentStopped {} => 2,
            Event::LogRepaired { .. } => 3,
            Event::NameFailed { .. } => 4,
            Event::NameRestored { .. } => 5,
            Event::OlderConnection { .. } => 6,
            Event::LogHandedOver { .. } => 7,
            Event::ProcessEnded { .. } => return Self::PROCESS_ENDED,
            Event::KernelSide { .. } => return Self::KERNEL_SIDE,
            Event::ProgramsMissing { .. } => 10,
            Event::KernelSideRemoved { .. } => 11,
            Event::KernelLosses { .. } => 12,
            Event::ClockStep { .. } => 13,
            Event::LostAtRestart { .. } => return Self::LOST_AT_RESTART,
            Event::ConnectsAbandoned { .. } => 15,
            Event::SessionStarted(_) => return Self::SESSION_STARTED,
            Event::ConnectionRefused { .. } => return Self::CONNECTION_REFUSED,
            Event::Decided(_) => 18,
            Event::Answer { .. } => 19,
            Event::Finished { .. } => 20,
            Event::SessionEnded { .. } => 21,
            Event::CancelRequested { .. } => return Self::CANCEL_REQUESTED,
            Event::LimitReached { .. } => 23,
            Event::Coverage { .. } => 32,
            Event::Unexplained { .. } => 33,
            Event::ProxyOverstepped { .. } => 34,
        })
    }

    /// Whether it is about the agent and the host, rather than about a connection.
    #[must_use]
    pub const fn is_of_the_agent(self) -> bool {
        self.0 < OF_CONNECTIONS.start || self.0 >= OF_CONNECTIONS.end
    }
}

/// The kinds that are about a connection.
const OF_CONNECTIONS: Range<u16> = 16..32;

/// A decoded header whose own hash is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is about.
    pub kind: Kind,
    /// Position in the log, from 1.
    pub sequence: u64,
    /// When it was appended, in nanoseconds since 1970 (UTC).
    pub time: i64,
    /// Length of the body in bytes.
    pub body_len: u32,
    /// Own hash of the header before; [`GENESIS`] for the first.
    pub previous: Hash,
    /// SHA-256 of the body.
    pub body_hash: Hash,
    /// SHA-256 of everything above as encoded.
    pub hash: Hash,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The bytes end before the frame does.
    #[error("cut off: {have} of {need} bytes are there")]
    Short {
        /// Bytes that are there.
        have: u64,
        /// Bytes that the frame has.
        need: u64,
    },
    /// No frame begins here.
    #[error("no record begins here")]
    Magic,
    /// A frame of another version.
    #[error("format version {0} is not known")]
    Version(u16),
    /// The header is not what was written.
    #[error("the header does not have the hash that it carries")]
    Header,
    /// The length is beyond [`MAX_BODY`].
    #[error("a body of {0} bytes is longer than any that is written")]
    Length(u32),
    /// The body is not what was written.
    #[error("the body does not have the hash that its header carries")]
    Body,
}

impl Fault {
    /// Whether something is missing rather than wrong.
    #[must_use]
    pub fn is_short(self) -> bool {
        matches!(self, Self::Short { .. })
    }
}

/// A whole record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The header.
    pub header: Header,
    /// Header and body, as on disk.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The body: an event as JSON.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// Decodes header and body, and checks both hashes. Bytes after the frame are left out.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let header = Header::decode(bytes)?;
        let need = HEADER + header.body_len as usize;
        let Some(whole) = bytes.get(..need) else {
            return Err(Fault::Short { have: bytes.len() as u64, need: need as u64 });
        };
        if digest(&whole[HEADER..]) != header.body_hash {
            return Err(Fault::Body);
        }
        Ok(Self { header, bytes: whole.to_vec() })
    }
}

impl Header {
    /// A header for a body with this hash, with its own hash computed.
    #[must_use]
    pub fn new(kind: Kind, sequence: u64, time: i64, body_len: u32, previous: Hash, body_hash: Hash) -> Self {
        let mut header = Self { kind, sequence, time, body_len, previous, body_hash, hash: GENESIS };
        header.hash = digest(&header.encode()[..HASHED]);
        header
    }

    /// As on disk.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.kind.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.previous);
        bytes[64..HASHED].copy_from_slice(&self.body_hash);
        bytes[HASHED..].copy_from_slice(&self.hash);
        bytes
    }

    /// Decodes a header from the beginning of `bytes`.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Err(Fault::Short { have: bytes.len() as u64, need: HEADER as u64 });
        };
        if bytes[0..4] != MAGIC {
            return Err(Fault::Magic);
        }
        let version = u16::from_le_bytes(field(bytes, 4));
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        let header = Self::claimed(bytes);
        if digest(&bytes[..HASHED]) != header.hash {
            return Err(Fault::Header);
        }
        if header.body_len as usize > MAX_BODY {
            return Err(Fault::Length(header.body_len));
        }
        Ok(header)
    }

    /// What a header says, whether or not it is true: for naming a damaged record, and nothing else.
    #[must_use]
    pub fn claimed(bytes: &[u8; HEADER]) -> Self {
        Self {
            kind: Kind(u16::from_le_bytes(field(bytes, 6))),
            sequence: u64::from_le_bytes(field(bytes, 8)),
            time: i64::from_le_bytes(field(bytes, 16)),
            body_len: u32::from_le_bytes(field(bytes, 24)),
            previous: field(bytes, 32),
            body_hash: field(bytes, 64),
            hash: field(bytes, HASHED),
        }
    }
}

/// A frame's time as a time.
#[must_use]
pub fn timestamp(nanoseconds: i64) -> jiff::Timestamp {
    // Every i64 of nanoseconds is within a timestamp's range.
    jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default()
}

/// SHA-256.
#[must_use]
pub fn digest(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// `N` bytes of a header from `at`, which is a constant within it.
fn field<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        let body = br#"{"event":"agent-stopped"}"#;
        let header = Header::new(Kind(2), 7, 1_700_000_000_000_000_000, body.len() as u32, [9; 32], digest(body));
        [header.encode().as_slice(), body].concat()
    }

    #[test]
    fn a_frame_decodes_to_what_was_encoded() {
        let bytes = frame();
        let decoded = Frame::decode(&bytes).unwrap();
        assert_eq!(decoded.header.sequence, 7);
        assert_eq!(decoded.header.previous, [9; 32]);
        assert_eq!(decoded.bytes, bytes);
        assert_eq!(Frame::decode(&[bytes.as_slice(), b"more"].concat()).unwrap(), decoded);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = frame();
        for position in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[position / 8] ^= 1 << (position % 8);
            let fault = Frame::decode(&flipped).unwrap_err();
            let expected = match position / 8 {
                0..4 => Fault::Magic,
                4..6 => Fault::Version(u16::from_le_bytes([flipped[4], flipped[5]])),
                6..HEADER => Fault::Header,
                _ => Fault::Body,
            };
            assert_eq!(fault, expected, "bit {position}");
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = frame();
        for length in 0..bytes.len() {
            assert!(matches!(Frame::decode(&bytes[..length]), Err(Fault::Short { .. })), "length {length}");
        }
    }

    #[test]
    fn a_well_hashed_header_of_an_impossible_length_is_refused() {
        let header = Header::new(Kind(2), 1, 0, MAX_BODY as u32 + 1, GENESIS, GENESIS);
        assert_eq!(Header::decode(&header.encode()), Err(Fault::Length(MAX_BODY as u32 + 1)));
    }
}
