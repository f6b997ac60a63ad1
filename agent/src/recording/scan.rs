//! What the journal's files hold, found out before they are written on.
//!
//! A crash can leave one thing behind: a last frame that is not whole. Everything else that does not fit was not done by
//! this program, and the log is not written on until somebody has looked at it.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

use super::{
    frame::{Fault, GENESIS, Hash},
    journal::Head,
    segment::{Reader, Segment},
};

/// What was found.
#[derive(Debug)]
pub struct Scan {
    /// The segments in order, without the torn tail.
    pub segments: Vec<Segment>,
    /// The last record.
    pub head: Head,
    /// When it was appended, in nanoseconds since 1970; 0 if there is none.
    pub last_time: i64,
    /// The unfinished frame at the end of the last segment.
    pub torn: Option<Torn>,
}

/// An unfinished frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub path: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// How much of it is there.
    pub bytes: u64,
}

/// The journal is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A frame is broken.
    #[error("{path} at offset {offset}: record {sequence} should be here: {fault}")]
    Broken {
        /// The segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// The record that should be there.
        sequence: u64,
        /// What is wrong.
        fault: Fault,
    },
    /// A frame is whole, and not the next of the chain.
    #[error("{path} at offset {offset}: record {expected} should be here, and it is record {found}")]
    Order {
        /// The segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// The record that should be there.
        expected: u64,
        /// The record that is.
        found: u64,
    },
    /// A frame does not carry the hash of the one before.
    #[error("{path} at offset {offset}: record {sequence} does not continue the record before it")]
    Link {
        /// The segment.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// The record.
        sequence: u64,
    },
    /// Records are missing that the store does not hold either, or that it does and the journal must.
    #[error("{path}: {reason}")]
    Missing {
        /// Where they should be.
        path: PathBuf,
        /// Which.
        reason: String,
    },
}

/// Reads the whole journal. `stored` is the last record that the store holds, `hash_of` tells the hash of any that it holds.
///
/// # Errors
/// See [`ScanError`].
pub fn scan(dir: &Path, stored: Head, hash_of: &dyn Fn(u64) -> Option<Hash>) -> Result<Scan, ScanError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| ScanError::Read { path, source }
    };
    let mut segments = Segment::list(dir).map_err(read(dir))?;
    let first = segments.first().map_or(1, |segment| segment.first);
    if first == 0 || first > stored.sequence + 1 || (segments.is_empty() && stored.sequence > 0) {
        return Err(ScanError::Missing {
            path: dir.to_owned(),
            reason: match segments.is_empty() {
                true => "there is no segment, though the store holds records".into(),
                false => format!("it begins with record {first}, and the store ends with {}", stored.sequence),
            },
        });
    }
    let before = if first == 1 { Some(GENESIS) } else { hash_of(first - 1) };
    let mut head = Head {
        sequence: first - 1,
        hash: before.ok_or_else(|| ScanError::Missing {
            path: dir.to_owned(),
            reason: format!("it begins with record {first}, and the store lacks the one before"),
        })?,
    };
    let (mut torn, mut last_time) = (None, 0);
    let last = segments.len().saturating_sub(1);
    for (position, segment) in segments.iter_mut().enumerate() {
        if segment.first != head.sequence + 1 {
            return Err(ScanError::Missing {
                path: segment.path.clone(),
                reason: format!("the segment before it ends with record {}", head.sequence),
            });
        }
        let mut reader = Reader::open(segment).map_err(read(&segment.path))?;
        loop {
            let offset = reader.offset();
            let place = || (segment.path.clone(), offset);
            let frame = match reader.next().map_err(read(&segment.path))? {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(fault)) => {
                    let unfinished = fault.is_short()
                        || (fault == Fault::Magic && reader.rest_is_zero().map_err(read(&segment.path))?);
                    if !unfinished || position != last {
                        let (path, offset) = place();
                        return Err(ScanError::Broken { path, offset, sequence: head.sequence + 1, fault });
                    }
                    torn = Some(Torn { path: segment.path.clone(), offset, bytes: segment.end - offset });
                    segment.end = offset;
                    break;
                }
            };
            if frame.header.sequence != head.sequence + 1 {
                let (path, offset) = place();
                let (expected, found) = (head.sequence + 1, frame.header.sequence);
                return Err(ScanError::Order { path, offset, expected, found });
            }
            let stored_hash = (frame.header.sequence == stored.sequence).then_some(stored.hash);
            if frame.header.previous != head.hash || stored_hash.is_some_and(|hash| hash != frame.header.hash) {
                let (path, offset) = place();
                return Err(ScanError::Link { path, offset, sequence: frame.header.sequence });
            }
            head = Head { sequence: frame.header.sequence, hash: frame.header.hash };
            last_time = frame.header.time;
        }
    }
    if head.sequence < stored.sequence {
        return Err(ScanError::Missing {
            path: segments.last().map_or_else(|| dir.to_owned(), |segment| segment.path.clone()),
            reason: format!("it ends with record {}, and the store holds {}", head.sequence, stored.sequence),
        });
    }
    Ok(Scan { segments, head, last_time, torn })
}

impl Torn {
    /// Cuts it off.
    ///
    /// # Errors
    /// The file cannot be cut or synced.
    pub fn cut(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(self.offset)?;
        file.sync_all()
    }
}
