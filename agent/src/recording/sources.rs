//! The two places that hold records, as [`verify`](super::verify) walks them.

use std::{
    fmt, io, iter,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    frame::{Fault, Frame, HEADER, Header, timestamp},
    segment::{Reader, Segment},
    store::{Filed, Store, StoreError},
    verify::VerifyError,
};

/// Bytes of a damaged record that are looked at to name it.
const LOOK_AT: u64 = 64 << 10;

/// Where a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or the store's directory.
    pub file: PathBuf,
    /// Offset in the file.
    pub offset: Option<u64>,
}

impl Place {
    /// A file or directory as a whole.
    #[must_use]
    pub fn whole(file: &Path) -> Self {
        Self { file: file.to_owned(), offset: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{} at offset {offset}", self.file.display()),
            None => write!(f, "{}", self.file.display()),
        }
    }
}

/// What is at a place.
pub struct Item {
    /// Where.
    pub place: Place,
    /// The sequence that it is filed under; in the journal, where it is filed by position, its own.
    pub filed: u64,
    /// The record, or what is wrong with it.
    pub frame: Result<Frame, Fault>,
    /// Its first bytes, if something is wrong with it.
    pub raw: Vec<u8>,
}

/// Holds records in order.
pub trait Source {
    /// Sequence of the first record that should be here; `u64::MAX` if none is.
    fn begins(&self) -> u64;

    /// The next item; `None` at the end.
    fn take(&mut self) -> Result<Option<Item>, VerifyError>;

    /// The record after the one that was taken last, if it is whole.
    fn peek(&mut self) -> Result<Option<&Frame>, VerifyError>;

    /// Whether a record is found after the one that was taken last. Uses the source up.
    fn holds_later(&mut self, sequence: u64) -> Result<bool, VerifyError> {
        while let Some(item) = self.take()? {
            match item.frame {
                Ok(frame) if frame.header.sequence == sequence => return Ok(true),
                Ok(_) => {}
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Where it ends, for records that are missing there.
    fn end(&self) -> Place;
}

/// The records in the store.
pub struct Stored<'a> {
    dir: PathBuf,
    records: Box<dyn Iterator<Item = Result<Filed, StoreError>> + 'a>,
    ahead: Option<Item>,
    last: u64,
}

impl<'a> Stored<'a> {
    /// From the first one on. `dir` is the directory to name: not that of the copy.
    pub fn new(store: &'a Store, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), records: Box::new(store.records()), ahead: None, last: 0 }
    }

    /// Sequence of the last record that was read.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    fn read(&mut self) -> Option<Item> {
        let item = self.records.next()?;
        let mut place = Place::whole(&self.dir);
        Some(match item {
            Ok((filed, frame)) => {
                self.last = filed;
                Item { place, filed, frame, raw: Vec::new() }
            }
            Err(error) => {
                // sled found the damage itself, in its own file; nothing after it can be read.
                self.records = Box::new(iter::empty());
                place.file.push("db");
                if let StoreError::Sled { source: sled::Error::Corruption { at: Some(at), .. }, .. } = &error {
                    place.offset = Some(at.lid());
                }
                Item { place, filed: self.last + 1, frame: Err(Fault::Body), raw: Vec::new() }
            }
        })
    }
}

impl Source for Stored<'_> {
    fn begins(&self) -> u64 {
        1
    }

    fn take(&mut self) -> Result<Option<Item>, VerifyError> {
        Ok(self.ahead.take().or_else(|| self.read()))
    }

    fn peek(&mut self) -> Result<Option<&Frame>, VerifyError> {
        if self.ahead.is_none() {
            self.ahead = self.read();
        }
        Ok(self.ahead.as_ref().and_then(|item| item.frame.as_ref().ok()))
    }

    fn end(&self) -> Place {
        Place::whole(&self.dir)
    }
}

/// The records in the journal.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    segments: Vec<(Segment, Reader)>,
    /// Which of them is being read.
    position: usize,
    ahead: Option<(Place, Frame)>,
    unfinished: Option<Place>,
}

impl Journal {
    /// Opens all segments, so that they stay readable if they are removed meanwhile. One that is not there any more is
    /// left out: its records are found missing.
    ///
    /// # Errors
    /// A segment that cannot be opened.
    pub fn open(dir: &Path, segments: Vec<Segment>) -> Result<Self, (PathBuf, io::Error)> {
        let mut opened = Vec::new();
        for segment in segments {
            match Reader::open(&segment) {
                Ok(reader) => opened.push((segment, reader)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err((segment.path, error)),
            }
        }
        Ok(Self { dir: dir.to_owned(), segments: opened, position: 0, ahead: None, unfinished: None })
    }

    /// Sequence with which the last segment begins; 0 if there is none.
    #[must_use]
    pub fn last_start(&self) -> u64 {
        self.segments.last().map_or(0, |(segment, _)| segment.first)
    }

    /// What a crash left at the end, in words.
    #[must_use]
    pub fn unfinished(&self) -> Option<String> {
        let place = self.unfinished.as_ref()?;
        Some(format!("an unfinished record is at the end of the journal, as a crash leaves it: {place}"))
    }

    fn read(&mut self) -> Result<Option<Item>, VerifyError> {
        let last = self.segments.len().saturating_sub(1);
        while let Some((segment, reader)) = self.segments.get_mut(self.position) {
            let failed = |source| VerifyError::Io { path: segment.path.clone(), source };
            let offset = reader.offset();
            let place = Place { file: segment.path.clone(), offset: Some(offset) };
            match reader.next().map_err(failed)? {
                None => self.position += 1,
                Some(Ok(frame)) => {
                    let filed = frame.header.sequence;
                    return Ok(Some(Item { place, filed, frame: Ok(frame), raw: Vec::new() }));
                }
                Some(Err(fault)) => {
                    let unfinished =
                        fault.is_short() || (fault == Fault::Magic && reader.rest_is_zero().map_err(failed)?);
                    if unfinished && self.position == last {
                        self.unfinished = Some(place);
                        self.position += 1;
                        return Ok(None);
                    }
                    let raw = reader.raw(offset, LOOK_AT).map_err(failed)?;
                    self.position = self.segments.len();
                    return Ok(Some(Item { place, filed: 0, frame: Err(fault), raw }));
                }
            }
        }
        Ok(None)
    }
}

impl Source for Journal {
    fn begins(&self) -> u64 {
        self.segments.first().map_or(u64::MAX, |(segment, _)| segment.first)
    }

    fn take(&mut self) -> Result<Option<Item>, VerifyError> {
        match self.ahead.take() {
            Some((place, frame)) => {
                Ok(Some(Item { place, filed: frame.header.sequence, frame: Ok(frame), raw: Vec::new() }))
            }
            None => self.read(),
        }
    }

    fn peek(&mut self) -> Result<Option<&Frame>, VerifyError> {
        if self.ahead.is_none()
            && let Some(Item { place, frame: Ok(frame), .. }) = self.read()?
        {
            self.ahead = Some((place, frame));
        }
        Ok(self.ahead.as_ref().map(|(_, frame)| frame))
    }

    fn end(&self) -> Place {
        match self.segments.last() {
            Some((segment, reader)) => Place { file: segment.path.clone(), offset: Some(reader.offset()) },
            None => Place::whole(&self.dir),
        }
    }
}

/// Time and session that a record claims, of whole or damaged bytes.
#[must_use]
pub fn claims(bytes: &[u8]) -> (Option<Timestamp>, Option<String>) {
    let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else { return (None, None) };
    let header = Header::claimed(header);
    let body = &body[..body.len().min(header.body_len as usize)];
    let session = match serde_json::from_slice::<Value>(body) {
        Ok(event) => event["session"].as_str().map(str::to_owned),
        Err(_) => quoted_after(body, b"\"session\":\""),
    };
    (Some(timestamp(header.time)), session)
}

/// The text between a key and the next quote.
fn quoted_after(body: &[u8], key: &[u8]) -> Option<String> {
    let start = body.windows(key.len()).position(|window| window == key)? + key.len();
    let length = body[start..].iter().position(|byte| *byte == b'"')?;
    let text = std::str::from_utf8(&body[start..start + length]).ok()?;
    text.chars().all(|character| character.is_ascii_alphanumeric()).then(|| text.to_owned())
}
