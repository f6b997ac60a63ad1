//! How records lie in the store: whole frames side by side in blocks, because sled's price is per value, not per byte.
//!
//! A block is filed under the sequence of its first frame. A frame that is too long for one value is a block of its own, cut
//! into chunks.

use super::{
    frame::{Fault, Frame, HEADER, Header},
    store::CHUNK,
};

/// First byte of the keys of blocks.
const BLOCK: u8 = b'r';

/// Key of a chunk of a block.
pub type Key = [u8; 13];

/// Key of a chunk of the block that begins with this sequence.
#[must_use]
pub fn key(first: u64, chunk: u32) -> Key {
    let mut key = [BLOCK; 13];
    key[1..9].copy_from_slice(&first.to_be_bytes());
    key[9..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// The sequence with which the block of a key begins.
#[must_use]
pub fn first_of(key: &[u8]) -> u64 {
    key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Puts consecutive frames into blocks.
#[derive(Default)]
pub struct Packer {
    block: Vec<u8>,
    first: u64,
}

impl Packer {
    /// Adds a frame, and hands over the values that are complete.
    pub fn add(&mut self, frame: &Frame, mut put: impl FnMut(Key, &[u8])) {
        if self.block.len() + frame.bytes.len() > CHUNK {
            self.finish(&mut put);
        }
        if self.block.is_empty() {
            self.first = frame.header.sequence;
        }
        self.block.extend_from_slice(&frame.bytes);
    }

    /// Hands over what is left.
    pub fn finish(&mut self, mut put: impl FnMut(Key, &[u8])) {
        for (chunk, part) in (0..).zip(self.block.chunks(CHUNK)) {
            put(key(self.first, chunk), part);
        }
        self.block.clear();
    }
}

/// The frames of a block, each with the sequence that its place stands for, and with what is wrong with it if something is:
/// then it is the last, since the place of the next is not certain.
pub fn unpack(first: u64, block: Vec<u8>) -> impl Iterator<Item = (u64, Result<Frame, Fault>)> {
    let (mut filed, mut at) = (first, 0);
    std::iter::from_fn(move || {
        let rest = block.get(at..).filter(|rest| !rest.is_empty())?;
        let frame = Frame::decode(rest);
        let sequence = filed;
        filed += 1;
        at = frame.as_ref().map_or(block.len(), |frame| at + frame.bytes.len());
        Some((sequence, frame))
    })
}

/// One frame of a block, without looking at the bodies before it; `None` if the block ends before it.
#[must_use]
pub fn pick(first: u64, block: &[u8], sequence: u64) -> Option<Result<Frame, Fault>> {
    let mut rest = block;
    for _ in first..sequence {
        if rest.is_empty() {
            return None;
        }
        match Header::decode(rest) {
            Ok(header) => rest = rest.get(HEADER + header.body_len as usize..).unwrap_or_default(),
            Err(fault) => return Some(Err(fault)),
        }
    }
    (!rest.is_empty()).then(|| Frame::decode(rest))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::frame::{GENESIS, Kind, digest},
        *,
    };

    fn frame(sequence: u64, length: usize) -> Frame {
        let body = vec![b'x'; length];
        let header = Header::new(Kind(18), sequence, 0, length as u32, GENESIS, digest(&body));
        Frame { header, bytes: [header.encode().as_slice(), &body].concat() }
    }

    #[test]
    fn frames_of_any_length_are_packed_and_found_again() {
        let lengths = [10, 3000, 900, 5000, 0, CHUNK - HEADER, 1, CHUNK - HEADER + 1, 20_000, 7, 7, 7];
        let frames: Vec<Frame> = (5..).zip(lengths).map(|(sequence, length)| frame(sequence, length)).collect();
        let mut values: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        let mut packer = Packer::default();
        frames.iter().for_each(|frame| packer.add(frame, |key, value| _ = values.insert(key, value.to_vec())));
        packer.finish(|key, value| _ = values.insert(key, value.to_vec()));
        assert!(values.values().all(|value| value.len() <= CHUNK));

        let mut blocks: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        values.iter().for_each(|(key, value)| blocks.entry(first_of(key)).or_default().extend(value));
        assert!(blocks.len() < frames.len());
        let found: Vec<_> = blocks.iter().flat_map(|(first, block)| unpack(*first, block.clone())).collect();
        assert_eq!(found, (5..).zip(frames.iter().cloned().map(Ok)).collect::<Vec<_>>());
        for frame in &frames {
            let sequence = frame.header.sequence;
            let (first, block) = blocks.range(..=sequence).next_back().unwrap();
            assert_eq!(pick(*first, block, sequence), Some(Ok(frame.clone())));
        }
        assert_eq!(pick(5, &blocks[&5], 500), None);
    }
}
