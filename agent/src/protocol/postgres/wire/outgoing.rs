//! What waits to be sent.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes, BytesMut};

/// Pieces shorter than this are put together: to copy them costs less than to name them to the kernel one by one.
const SHORT: usize = 2 << 10;

/// Pieces that are written at once.
pub const AT_ONCE: usize = 32;

/// Places for pieces that are kept while there are none.
const KEPT: usize = 8;

/// Pieces of bytes in order: long ones as they are, short ones together.
#[derive(Debug, Default)]
pub struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// The short ones after the last of `pieces`.
    short: BytesMut,
    length: usize,
}

impl Outgoing {
    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Puts a piece behind the others.
    pub fn push(&mut self, piece: &Bytes) {
        self.length += piece.len();
        if piece.len() < SHORT {
            return self.short.extend_from_slice(piece);
        }
        if !self.short.is_empty() {
            self.pieces.push_back(self.short.split().freeze());
        }
        self.pieces.push_back(piece.clone());
    }

    /// Puts the first pieces, to be written, into `room`, and says how many. None is empty.
    pub fn pieces<'a>(&'a self, room: &mut [IoSlice<'a>; AT_ONCE]) -> usize {
        let short = Some(&self.short[..]).filter(|short| !short.is_empty());
        let pieces = self.pieces.iter().map(|piece| &piece[..]).chain(short);
        room.iter_mut().zip(pieces).map(|(place, piece)| *place = IoSlice::new(piece)).count()
    }

    /// So many bytes of the first pieces were written. Memory is given back once all are.
    pub fn written(&mut self, mut count: usize) {
        self.length -= count;
        while count > 0 {
            let Some(first) = self.pieces.front_mut() else {
                self.short.advance(count);
                break;
            };
            let some = count.min(first.len());
            first.advance(some);
            count -= some;
            if first.is_empty() {
                self.pieces.pop_front();
            }
        }
        if self.length == 0 {
            self.short = BytesMut::new();
            if self.pieces.capacity() > KEPT {
                self.pieces = VecDeque::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn everything_is_written_once_and_in_order(
            sizes in proptest::collection::vec(prop_oneof![0usize..10, 0usize..3 * SHORT], 0..60),
            steps in proptest::collection::vec(1usize..4 * SHORT, 1..20),
        ) {
            let (mut outgoing, mut pushed, mut written) = (Outgoing::default(), Vec::new(), Vec::new());
            let mut steps = steps.iter().cycle();
            for (number, size) in sizes.iter().enumerate() {
                let piece = Bytes::from(vec![u8::try_from(number).expect("small"); *size]);
                pushed.extend_from_slice(&piece);
                outgoing.push(&piece);
                if number % 3 == 0 {
                    write(&mut outgoing, *steps.next().expect("endless"), &mut written);
                }
                prop_assert_eq!(outgoing.len(), pushed.len() - written.len());
            }
            while outgoing.len() > 0 {
                write(&mut outgoing, *steps.next().expect("endless"), &mut written);
            }
            prop_assert_eq!(pushed, written);
            prop_assert!(outgoing.short.capacity() == 0 && outgoing.pieces.capacity() <= KEPT);
        }
    }

    /// Takes up to so many bytes, as a socket does.
    fn write(outgoing: &mut Outgoing, most: usize, written: &mut Vec<u8>) {
        let mut room = [IoSlice::new(&[]); AT_ONCE];
        let count = outgoing.pieces(&mut room);
        let pieces = &room[..count];
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        let all: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).take(most).collect();
        written.extend_from_slice(&all);
        outgoing.written(all.len());
    }
}
