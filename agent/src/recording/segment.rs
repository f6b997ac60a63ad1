//! The files of the journal: `<first sequence>.journal`, frames one after the other, nothing else.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::frame::{Fault, Frame, HEADER, Header};

const SUFFIX: &str = ".journal";
/// Read ahead in steps of this many bytes.
const STEP: u64 = 256 << 10;

/// A file of the journal, as far as it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sequence of its first record.
    pub first: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that count.
    pub end: u64,
}

impl Segment {
    /// Path of the segment that begins with this sequence.
    #[must_use]
    pub fn path(dir: &Path, first: u64) -> PathBuf {
        dir.join(format!("{first:020}{SUFFIX}"))
    }

    /// The segments in a directory, in the order of the log. Files with other names are not the journal's.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(dir: &Path) -> io::Result<Vec<Self>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(first) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
            let Ok(first) = first.parse() else { continue };
            segments.push(Self { first, path: entry.path(), end: entry.metadata()?.len() });
        }
        segments.sort_by_key(|segment| segment.first);
        Ok(segments)
    }
}

/// Reads a segment's frames in order, never past its end.
#[derive(Debug)]
pub struct Reader {
    file: File,
    /// Of the next frame.
    offset: u64,
    end: u64,
    ahead: Vec<u8>,
    /// Of the first byte of `ahead`.
    ahead_at: u64,
}

impl Reader {
    /// Begins at the start of a segment.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(segment: &Segment) -> io::Result<Self> {
        let file = File::open(&segment.path)?;
        // Somebody may have cut the file.
        let end = segment.end.min(file.metadata()?.len());
        Ok(Self { file, offset: 0, end, ahead: Vec::new(), ahead_at: 0 })
    }

    /// Offset of the next frame.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// More of the segment counts now.
    pub fn extend(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// The next frame, or what is wrong with it; `None` at the end. After a fault in a header it stays where it is: the
    /// place of the next frame is not known.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next(&mut self) -> io::Result<Option<Result<Frame, Fault>>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let header = match Header::decode(self.peek(HEADER as u64)?) {
            Ok(header) => header,
            Err(fault) => return Ok(Some(Err(fault))),
        };
        let length = HEADER as u64 + u64::from(header.body_len);
        let frame = Frame::decode(self.peek(length)?);
        if !matches!(frame, Err(Fault::Short { .. })) {
            self.offset += length;
        }
        Ok(Some(frame))
    }

    /// The bytes from `offset` on, up to `limit`: for naming a damaged record.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn raw(&self, offset: u64, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; limit.min(self.end.saturating_sub(offset)) as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Whether every byte from the next frame to the end is zero: a size that reached the disk before its data did.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn rest_is_zero(&mut self) -> io::Result<bool> {
        let mut offset = self.offset;
        let mut buffer = vec![0; STEP as usize];
        while offset < self.end {
            let want = STEP.min(self.end - offset) as usize;
            self.file.read_exact_at(&mut buffer[..want], offset)?;
            if buffer[..want].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            offset += want as u64;
        }
        Ok(true)
    }

    /// Up to `length` bytes from the next frame on.
    fn peek(&mut self, length: u64) -> io::Result<&[u8]> {
        let length = length.min(self.end - self.offset);
        let start = (self.offset - self.ahead_at) as usize;
        if ((self.ahead.len() - start.min(self.ahead.len())) as u64) < length {
            let step = length.max(STEP).min(self.end - self.offset);
            self.ahead.resize(step as usize, 0);
            self.file.read_exact_at(&mut self.ahead, self.offset)?;
            self.ahead_at = self.offset;
        }
        let start = (self.offset - self.ahead_at) as usize;
        Ok(&self.ahead[start..start + length as usize])
    }
}
