//! What a client says before it is logged in: SSLRequest, GSSENCRequest, CancelRequest, StartupMessage.

use std::ops::RangeInclusive;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{
    error::{self, NativeError},
    frame::{Fields, Malformed, server},
    message::{put_string, write},
    sql::Replication,
    view::Encoding,
};
use crate::masking::{Masked, without_values};

/// Longest message before the login: the server's own limit.
pub const STARTUP_LIMIT: usize = 10_000;

const PROTOCOL_3: u16 = 3;

/// Newest minor version of protocol 3 that is spoken on either side.
pub const NEWEST_MINOR: u16 = 2;

const CANCEL_REQUEST: (u16, u16) = (1234, 5678);
const SSL_REQUEST: (u16, u16) = (1234, 5679);
const GSSENC_REQUEST: (u16, u16) = (1234, 5680);

/// Lengths of a cancel key's secret: 4 bytes before protocol 3.2, from there on this.
const SECRET: RangeInclusive<usize> = 4..=256;

/// Length of the secrets that a server gives under protocol 3.2; ours are as long.
pub const LONG_SECRET: usize = 32;

/// Length of a secret before protocol 3.2.
pub const SHORT_SECRET: usize = 4;

/// Process id and secret of a `BackendKeyData` and of a `CancelRequest`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// Process id.
    pub process: u32,
    /// Secret.
    pub secret: Bytes,
}

impl CancelKey {
    /// Reads the body of a `BackendKeyData`, or what follows the code of a `CancelRequest`.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn read(body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let process = fields.unsigned()?;
        let secret = fields.bytes(fields.left())?;
        if !SECRET.contains(&secret.len()) {
            return Err(Malformed);
        }
        Ok(Self { process, secret: Bytes::copy_from_slice(secret) })
    }

    /// As the bytes that [`read`](Self::read) takes.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        [&self.process.to_be_bytes(), &self.secret[..]].concat()
    }

    /// As `BackendKeyData`.
    #[must_use]
    pub fn announce(&self) -> Bytes {
        write(server::BACKEND_KEY_DATA, |body| body.put_slice(&self.body()))
    }

    /// As `CancelRequest`.
    #[must_use]
    pub fn request(&self) -> Bytes {
        packet(CANCEL_REQUEST, |bytes| bytes.put_slice(&self.body()))
    }
}

/// The messages that may come first.
#[derive(Clone, PartialEq, Eq)]
pub enum Opening {
    /// `SSLRequest`
    Ssl,
    /// `GSSENCRequest`
    Gss,
    /// `CancelRequest`
    Cancel(CancelKey),
    /// `StartupMessage`
    Startup(Startup),
}

/// `StartupMessage`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// Minor version of protocol 3 that the client speaks.
    pub minor: u16,
    /// Options of the protocol (`_pq_.…`), which only newer versions have.
    pub protocol_options: Vec<String>,
    /// User that the client asks for.
    pub user: String,
    /// Database; the user's name by default.
    pub database: String,
    /// Settings, with those out of `options`.
    pub settings: Vec<(String, String)>,
    /// What for, if it is to be a replication connection.
    pub replication: Option<Replication>,
}

/// What is wrong with an opening.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// Not one of the messages.
    #[error("invalid startup packet")]
    Malformed,
    /// Another major version.
    #[error("unsupported frontend protocol {0}.{1}: Postern supports 3.0 to 3.2")]
    Version(u16, u16),
    /// No user.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// A replication connection of an unknown kind.
    #[error("invalid value for parameter \"replication\": \"{0}\"")]
    Replication(String),
    /// Something in `options` that is not a setting.
    #[error("only settings (-c name=value, --name=value) are supported in options, not \"{0}\"")]
    Option(String),
    /// An encoding that is not understood.
    #[error("client_encoding \"{0}\" is not supported: use UTF8, or another that only adds to ASCII")]
    Encoding(String),
}

impl From<Malformed> for StartupError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl StartupError {
    /// For the client.
    #[must_use]
    pub fn native(&self) -> NativeError {
        let code = match self {
            Self::Malformed => error::PROTOCOL_VIOLATION,
            Self::Version(..) | Self::Option(_) => error::NOT_SUPPORTED,
            Self::NoUser => error::AUTHORIZATION,
            Self::Encoding(_) | Self::Replication(_) => error::PARAMETER,
        };
        NativeError::fatal(code, self.to_string())
    }
}

/// Takes the next opening off `buffer`; `None` until it is whole.
///
/// # Errors
/// [`StartupError`], as soon as the length shows it.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Opening>, StartupError> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if !(8..=STARTUP_LIMIT).contains(&length) {
        return Err(StartupError::Malformed);
    }
    if buffer.len() < length {
        return Ok(None);
    }
    let mut message = buffer.split_to(length).freeze();
    message.advance(4);
    let code = (message.get_u16(), message.get_u16());
    match code {
        SSL_REQUEST if message.is_empty() => Ok(Some(Opening::Ssl)),
        GSSENC_REQUEST if message.is_empty() => Ok(Some(Opening::Gss)),
        CANCEL_REQUEST => Ok(Some(Opening::Cancel(CancelKey::read(&message)?))),
        (PROTOCOL_3, minor) => startup(minor, &message).map(Opening::Startup).map(Some),
        SSL_REQUEST | GSSENC_REQUEST => Err(StartupError::Malformed),
        (major, minor) => Err(StartupError::Version(major, minor)),
    }
}

fn startup(minor: u16, body: &[u8]) -> Result<Startup, StartupError> {
    let mut startup = Startup { minor, ..Startup::default() };
    let mut database = None;
    let mut fields = Fields::new(body);
    loop {
        let name = text(fields.string()?)?;
        if name.is_empty() {
            break;
        }
        let value = text(fields.string()?)?;
        match name.as_str() {
            "user" => startup.user = value,
            "database" => database = Some(value),
            "options" => startup.settings.extend(options(&value)?),
            "replication" => {
                startup.replication = Replication::named(&value).ok_or(StartupError::Replication(value))?;
            }
            _ if name.starts_with("_pq_.") => startup.protocol_options.push(name),
            _ => startup.settings.push((name, value)),
        }
    }
    fields.end()?;
    if startup.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    startup.database = database.filter(|name| !name.is_empty()).unwrap_or_else(|| startup.user.clone());
    for (name, value) in &startup.settings {
        if name.eq_ignore_ascii_case("client_encoding") && Encoding::named(value.as_bytes()).is_none() {
            return Err(StartupError::Encoding(value.clone()));
        }
    }
    Ok(startup)
}

fn text(bytes: &[u8]) -> Result<String, StartupError> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| StartupError::Malformed)
}

/// The settings of `options`, which is read as the server reads it: words between blanks, where a backslash makes the next
/// character part of the word; `-c name=value`, `-cname=value` or `--name=value`, where a dash in a name is an underscore.
fn options(text: &str) -> Result<Vec<(String, String)>, StartupError> {
    let mut words = words(text).into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") if word == "-c" => words.next().unwrap_or_default(),
            Some(setting) => setting.to_owned(),
            None => return Err(StartupError::Option(word)),
        };
        match setting.split_once('=').map(|(name, value)| (name.replace('-', "_"), value)) {
            Some((name, value)) if !name.is_empty() && !is_parameter(&name) => {
                settings.push((name, value.to_owned()));
            }
            _ => return Err(StartupError::Option(word)),
        }
    }
    Ok(settings)
}

/// Whether the server takes a name in a StartupMessage for something else than a setting: as such it must not come out of
/// `options`, or it would choose another user.
fn is_parameter(name: &str) -> bool {
    matches!(name, "user" | "database" | "options" | "replication") || name.starts_with("_pq_.")
}

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(characters.next()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    words
}

impl Startup {
    /// The minor version to ask the server for: the client's, unless that is newer than what is known.
    #[must_use]
    pub fn upstream_minor(&self) -> u16 {
        self.minor.min(NEWEST_MINOR)
    }

    /// What a client is told that asked for more than the session speaks: `NegotiateProtocolVersion`, with the minor version and
    /// the options that are not known, of which there are none that servers know.
    #[must_use]
    pub fn negotiation(&self, minor: u16) -> Option<Masked<Bytes>> {
        if self.minor == minor && self.protocol_options.is_empty() {
            return None;
        }
        let count = u32::try_from(self.protocol_options.len()).unwrap_or(u32::MAX);
        Some(without_values(write(server::NEGOTIATE_PROTOCOL_VERSION, |body| {
            // The documentation says the minor version alone; servers send, and clients expect, the whole one.
            body.put_u16(PROTOCOL_3);
            body.put_u16(minor);
            body.put_u32(count);
            for option in &self.protocol_options {
                put_string(body, option.as_bytes());
            }
        })))
    }

    /// Says another `application_name` than the client does; what the client said, if it did.
    pub fn rename(&mut self, application_name: String) -> Option<String> {
        const NAME: &str = "application_name";
        let own = self.settings.extract_if(.., |(name, _)| name.eq_ignore_ascii_case(NAME)).last();
        self.settings.push((NAME.to_owned(), application_name));
        own.map(|(_, value)| value)
    }

    /// The `StartupMessage` that goes to the server.
    #[must_use]
    pub fn upstream(&self, user: &str) -> Bytes {
        packet((PROTOCOL_3, self.upstream_minor()), |bytes| {
            let fixed = [("user", user), ("database", self.database.as_str())];
            let settings = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let replication = self.replication.map(|replication| ("replication", replication.name()));
            for (name, value) in fixed.into_iter().chain(replication).chain(settings) {
                put_string(bytes, name.as_bytes());
                put_string(bytes, value.as_bytes());
            }
            bytes.put_u8(0);
        })
    }
}

/// What a target sees as a session's `application_name`, for those who look there: `postern:ROLE:SESSION`.
#[must_use]
pub fn identity(role: Option<&String>, session: &str) -> String {
    // What a server keeps of it.
    const LONGEST: usize = 63;
    let role = role.map_or("-", String::as_str);
    let left = LONGEST.saturating_sub("postern::".len() + session.len());
    let role: String = role.chars().filter(char::is_ascii_graphic).take(left).collect();
    format!("postern:{role}:{session}")
}

/// The minor version that a server's `NegotiateProtocolVersion` brings a session down to, which was asked for with `asked` and
/// without options.
///
/// # Errors
/// [`Malformed`], or it asks for anything else.
pub fn negotiated(body: &[u8], asked: u16) -> Result<u16, Malformed> {
    let mut fields = Fields::new(body);
    let version = fields.unsigned()?;
    let options = fields.unsigned()?;
    fields.end()?;
    match (version >> 16, u16::try_from(version & 0xffff)) {
        (major, Ok(minor)) if major == u32::from(PROTOCOL_3) && minor < asked && options == 0 => Ok(minor),
        _ => Err(Malformed),
    }
}

/// `SSLRequest`
#[must_use]
pub fn ssl_request() -> Bytes {
    packet(SSL_REQUEST, |_| {})
}

/// A message without a type: its length, its code, a body.
fn packet(code: (u16, u16), body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::with_capacity(128);
    bytes.put_u32(0);
    bytes.put_u16(code.0);
    bytes.put_u16(code.1);
    body(&mut bytes);
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes.freeze()
}

#[cfg(test)]
mod tests;
