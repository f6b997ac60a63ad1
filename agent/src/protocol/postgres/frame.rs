//! Framing of protocol 3.0: a type byte, a length that counts itself, a body. Message names are those of the PostgreSQL
//! documentation, chapter "Message Formats".
//!
//! Nothing here allocates per message: a frame is split off the buffer that it was read into. *Invariant:* memory grows
//! with the bytes that were received, never with a length that was only announced.

use bytes::{Buf, Bytes, BytesMut};

/// Types of the messages that a client sends.
pub mod client {
    /// `Bind`
    pub const BIND: u8 = b'B';
    /// `Close`
    pub const CLOSE: u8 = b'C';
    /// `CopyData`, of both sides
    pub const COPY_DATA: u8 = b'd';
    /// `CopyDone`, of both sides
    pub const COPY_DONE: u8 = b'c';
    /// `CopyFail`
    pub const COPY_FAIL: u8 = b'f';
    /// `Describe`
    pub const DESCRIBE: u8 = b'D';
    /// `Execute`
    pub const EXECUTE: u8 = b'E';
    /// `Flush`
    pub const FLUSH: u8 = b'H';
    /// `FunctionCall`
    pub const FUNCTION_CALL: u8 = b'F';
    /// `Parse`
    pub const PARSE: u8 = b'P';
    /// `PasswordMessage`, `SASLInitialResponse`, `SASLResponse`, `GSSResponse`
    pub const PASSWORD: u8 = b'p';
    /// `Query`
    pub const QUERY: u8 = b'Q';
    /// `Sync`
    pub const SYNC: u8 = b'S';
    /// `Terminate`
    pub const TERMINATE: u8 = b'X';
}

/// Types of the messages that a server sends.
pub mod server {
    /// `Authentication…`
    pub const AUTHENTICATION: u8 = b'R';
    /// `BackendKeyData`
    pub const BACKEND_KEY_DATA: u8 = b'K';
    /// `BindComplete`
    pub const BIND_COMPLETE: u8 = b'2';
    /// `CloseComplete`
    pub const CLOSE_COMPLETE: u8 = b'3';
    /// `CommandComplete`
    pub const COMMAND_COMPLETE: u8 = b'C';
    /// `CopyBothResponse`
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    /// `CopyInResponse`
    pub const COPY_IN_RESPONSE: u8 = b'G';
    /// `CopyOutResponse`
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    /// `DataRow`
    pub const DATA_ROW: u8 = b'D';
    /// `EmptyQueryResponse`
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    /// `ErrorResponse`
    pub const ERROR_RESPONSE: u8 = b'E';
    /// `FunctionCallResponse`
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    /// `NegotiateProtocolVersion`
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    /// `NoData`
    pub const NO_DATA: u8 = b'n';
    /// `NoticeResponse`
    pub const NOTICE_RESPONSE: u8 = b'N';
    /// `NotificationResponse`
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    /// `ParameterDescription`
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    /// `ParameterStatus`
    pub const PARAMETER_STATUS: u8 = b'S';
    /// `ParseComplete`
    pub const PARSE_COMPLETE: u8 = b'1';
    /// `PortalSuspended`
    pub const PORTAL_SUSPENDED: u8 = b's';
    /// `ReadyForQuery`
    pub const READY_FOR_QUERY: u8 = b'Z';
    /// `RowDescription`
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// Largest message of a client that carries a text or values, which is held whole until it is decided. A server takes up to
/// 1 GiB; nobody needs that of a statement, and every connection could ask for it.
pub const CLIENT_LARGE: usize = 64 << 20;

/// Largest `CopyData` and `DataRow`, which are passed on in pieces: what a server builds or takes at most, 1 GiB.
pub const DATA: usize = 0x3fff_fffe;

/// Largest message of a client that carries only a name: the server's own limit.
pub const CLIENT_SMALL: usize = 10_000;

/// Largest password message: the server's own limit.
pub const PASSWORD_LIMIT: usize = 65_535;

/// Largest message of a server that is held whole: all but data that nothing is to be hidden in, which passes in pieces.
pub const SERVER_LIMIT: usize = 64 << 20;

/// Bytes before the body of a message.
pub const HEADER: usize = 5;

/// A message: its type, and all its bytes, header included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Type byte.
    pub kind: u8,
    /// Header and body.
    pub bytes: Bytes,
}

impl Frame {
    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }
}

/// Why the next bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No message of this type may come here.
    #[error("unknown message type 0x{0:02x}")]
    Unknown(u8),
    /// A length that no message of this type has.
    #[error("message type 0x{kind:02x} has the impossible length {length}")]
    Length {
        /// Type byte.
        kind: u8,
        /// Announced length.
        length: u32,
    },
}

/// Takes the next whole message off `buffer`; `limit` gives the largest length for a type, `None` for an unknown type.
///
/// # Errors
/// As soon as the header shows it, before the body is there.
pub fn take(buffer: &mut BytesMut, limit: fn(u8) -> Option<usize>) -> Result<Option<Frame>, FrameError> {
    match head(buffer, limit)? {
        Some((kind, total)) if buffer.len() >= total => {
            Ok(Some(Frame { kind, bytes: buffer.split_to(total).freeze() }))
        }
        _ => Ok(None),
    }
}

/// Type and size, header included, of the message that `buffer` begins with; `None` until its header is there.
///
/// # Errors
/// See [`take`].
pub fn head(buffer: &[u8], limit: fn(u8) -> Option<usize>) -> Result<Option<(u8, usize)>, FrameError> {
    let Some(&[kind, a, b, c, d]) = buffer.first_chunk::<HEADER>() else {
        return match buffer.first() {
            Some(&kind) if limit(kind).is_none() => Err(FrameError::Unknown(kind)),
            _ => Ok(None),
        };
    };
    let limit = limit(kind).ok_or(FrameError::Unknown(kind))?;
    let length = u32::from_be_bytes([a, b, c, d]);
    if length < 4 || length as usize > limit {
        return Err(FrameError::Length { kind, length });
    }
    Ok(Some((kind, length as usize + 1)))
}

/// Messages of one type at the head of a buffer, the last of them perhaps only in part, which are passed on as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Bytes of the buffer that belong to it.
    pub bytes: usize,
    /// Messages that begin in it.
    pub messages: u64,
    /// Bytes of the last message that are still to come.
    pub left: usize,
}

/// Finds the messages of this type, of at most [`DATA`], at the head of `buffer`; `left` bytes of an earlier one come first.
/// `body` is given each piece of a body. `begins` is asked about each message, with its size, before it begins; none follows
/// one that may not.
///
/// # Errors
/// See [`take`]: if the first of them is none.
pub fn run(
    buffer: &[u8],
    kind: u8,
    left: usize,
    mut body: impl FnMut(&[u8]),
    mut begins: impl FnMut(usize) -> bool,
) -> Result<Run, FrameError> {
    let mut run = Run { left, ..Run::default() };
    let mut rest = buffer;
    loop {
        let (piece, more) = rest.split_at(run.left.min(rest.len()));
        if !piece.is_empty() {
            body(piece);
        }
        run.bytes += piece.len();
        run.left -= piece.len();
        rest = more;
        if run.left > 0 || rest.first() != Some(&kind) {
            return Ok(run);
        }
        let total = match head(rest, |_| Some(DATA)) {
            Ok(Some((_, total))) => total,
            Ok(None) => return Ok(run),
            // What came before it is passed on, as if it had come alone.
            Err(_) if run.bytes > 0 => return Ok(run),
            Err(fault) => return Err(fault),
        };
        if !begins(total) {
            return Ok(run);
        }
        rest = &rest[HEADER..];
        run.bytes += HEADER;
        run.messages += 1;
        run.left = total - HEADER;
    }
}

/// Largest length for each message that a client may send once it is logged in.
#[must_use]
pub fn client_limit(kind: u8) -> Option<usize> {
    match kind {
        client::QUERY | client::PARSE | client::BIND | client::FUNCTION_CALL => Some(CLIENT_LARGE),
        client::COPY_DATA => Some(DATA),
        client::CLOSE
        | client::COPY_DONE
        | client::COPY_FAIL
        | client::DESCRIBE
        | client::EXECUTE
        | client::FLUSH
        | client::SYNC
        | client::TERMINATE => Some(CLIENT_SMALL),
        _ => None,
    }
}

/// Largest length for the one message that a client may send while it logs in.
#[must_use]
pub fn password_limit(kind: u8) -> Option<usize> {
    (kind == client::PASSWORD).then_some(PASSWORD_LIMIT)
}

/// Largest length for each message of a server that is held whole.
#[must_use]
pub fn server_limit(kind: u8) -> Option<usize> {
    match kind {
        server::AUTHENTICATION
        | server::BACKEND_KEY_DATA
        | server::BIND_COMPLETE
        | server::CLOSE_COMPLETE
        | server::COMMAND_COMPLETE
        | server::COPY_BOTH_RESPONSE
        | server::COPY_IN_RESPONSE
        | server::COPY_OUT_RESPONSE
        | server::EMPTY_QUERY_RESPONSE
        | server::ERROR_RESPONSE
        | server::FUNCTION_CALL_RESPONSE
        | server::NEGOTIATE_PROTOCOL_VERSION
        | server::NO_DATA
        | server::NOTICE_RESPONSE
        | server::NOTIFICATION_RESPONSE
        | server::PARAMETER_DESCRIPTION
        | server::PARAMETER_STATUS
        | server::PARSE_COMPLETE
        | server::PORTAL_SUSPENDED
        | server::READY_FOR_QUERY
        | server::ROW_DESCRIPTION
        | server::DATA_ROW
        | client::COPY_DATA
        | client::COPY_DONE => Some(SERVER_LIMIT),
        _ => None,
    }
}

/// A message is shorter than what it announces, longer, or holds what it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// Reads fields off a body. Every read is checked.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of a body.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// Bytes that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Malformed`] if there is none; the same for the others.
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        self.0.try_get_u8().map_err(|_| Malformed)
    }

    /// `Int16`
    ///
    /// # Errors
    /// See [`Fields::byte`].
    pub fn int16(&mut self) -> Result<i16, Malformed> {
        self.0.try_get_i16().map_err(|_| Malformed)
    }

    /// `Int32`
    ///
    /// # Errors
    /// See [`Fields::byte`].
    pub fn int32(&mut self) -> Result<i32, Malformed> {
        self.0.try_get_i32().map_err(|_| Malformed)
    }

    /// `Int32` that is an OID, a key or a process id.
    ///
    /// # Errors
    /// See [`Fields::byte`].
    pub fn unsigned(&mut self) -> Result<u32, Malformed> {
        self.0.try_get_u32().map_err(|_| Malformed)
    }

    /// The next bytes.
    ///
    /// # Errors
    /// See [`Fields::byte`].
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// `String`: up to a zero byte, which is dropped.
    ///
    /// # Errors
    /// See [`Fields::byte`].
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.0.iter().position(|&byte| byte == 0).ok_or(Malformed)?;
        let string = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(string)
    }

    /// A length-prefixed value; length -1 is NULL.
    ///
    /// # Errors
    /// See [`Fields::byte`].
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.int32()? {
            -1 => Ok(None),
            length => self.bytes(usize::try_from(length).map_err(|_| Malformed)?).map(Some),
        }
    }

    /// A count of `Int16` (unsigned) and that many elements, each of at least `least` bytes, so that a count alone makes
    /// nothing grow.
    ///
    /// # Errors
    /// See [`Fields::byte`].
    pub fn list<T>(
        &mut self,
        least: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = usize::from(self.int16()?.cast_unsigned());
        if count * least > self.left() {
            return Err(Malformed);
        }
        (0..count).map(|_| element(self)).collect()
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// See [`Fields::byte`].
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}
