//! The agent's side towards the target: dial, TLS, login.
//!
//! *Invariant:* no error holds a secret, and no secret leaves but as the login's own answer; in plaintext only to a server
//! that TLS has made out.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use postgres_protocol::authentication::{
    md5_hash,
    sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{
    error::{self, NativeError},
    frame::{Fields, Frame, Malformed, client, server},
    message::{self, error_fields, parameter_status, put_string},
    startup::{CancelKey, Startup, ssl_request},
    view::Encoding,
    wire::{Client, Server, WireError},
};
use crate::{
    config::{Address, Target, TlsMode},
    gate::Admission,
    masking::without_values,
    protocol::{
        Connection, HostError, Login,
        dial::{DialError, dial},
        tls::{self, Stream, TlsError},
    },
};

/// Name of the protocol in TLS (ALPN), as PostgreSQL 17 registered it.
pub const ALPN: &[u8] = b"postgresql";

/// How long a target may take until it is ready for a session's first statement.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Most messages of a server before its first `ReadyForQuery`. A real one sends about 20.
const LOGIN_MESSAGES: usize = 1_000;

/// Why there is no session with the target.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Not reached.
    #[error("the target cannot be reached: {0}")]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("the connection to the target broke: {0}")]
    Broken(#[from] std::io::Error),
    /// A file that the configuration names.
    #[error("the agent cannot use its configuration for the target: {0}")]
    Host(#[from] HostError),
    /// The target offers no TLS, but the configuration asks for it.
    #[error("the target does not offer TLS, which the configuration asks for")]
    NoTls,
    /// TLS.
    #[error("no TLS with the target: {0}")]
    Tls(#[from] TlsError),
    /// The target broke the protocol.
    #[error("the target broke the protocol")]
    Protocol,
    /// The target wants a password, and the configuration has none.
    #[error("the target asks for a password, and the agent has none for it")]
    NoPassword,
    /// The target wants the password itself, in plaintext.
    #[error("the target asks for the password in plaintext without TLS")]
    Plaintext,
    /// The target wants a login that is not built.
    #[error("the target asks for authentication method {0}, which is not supported")]
    Method(u32),
    /// SCRAM failed: the target does not know the password, or proved so wrongly.
    #[error("the target could not prove that it knows the agent's password")]
    Proof,
    /// The target refused the agent's credential.
    #[error("the target refused the agent's credential (SQLSTATE {0})")]
    Refused(String),
    /// The target refused the session.
    #[error("the target refused the session (SQLSTATE {code}): {message}")]
    Session {
        /// SQLSTATE.
        code: String,
        /// Its message. Holds the names that the client gave, no data.
        message: String,
    },
    /// Login and catalogue took too long.
    #[error("the target was not ready within {} seconds", PATIENCE.as_secs())]
    Late,
    /// A setting of the server under which texts cannot be understood.
    #[error("the target's {0} is not supported")]
    Setting(&'static str),
}

impl From<Malformed> for UpstreamError {
    fn from(_: Malformed) -> Self {
        Self::Protocol
    }
}

impl From<WireError> for UpstreamError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Broken(error) => Self::Broken(error),
            WireError::Frame(_) => Self::Protocol,
        }
    }
}

impl UpstreamError {
    /// Whether it is about what the client asked for: a database that is not there, a setting that is not one.
    #[must_use]
    pub fn is_about_the_client(&self) -> bool {
        matches!(self, Self::Session { code, .. } if matches!(code.as_str(), "3D000" | "22023" | "42704"))
    }

    /// For the client.
    #[must_use]
    pub fn native(&self) -> NativeError {
        let code = match self {
            Self::Dial(_) | Self::NoTls | Self::Tls(_) => error::CANNOT_CONNECT,
            Self::Broken(_) | Self::Protocol | Self::Late => error::CONNECTION_FAILURE,
            Self::Host(_) => error::CONFIGURATION,
            Self::NoPassword | Self::Plaintext | Self::Method(_) | Self::Proof | Self::Refused(_) => {
                error::AUTHORIZATION
            }
            Self::Session { code, .. } => match code.as_str() {
                "28P01" => "28P01",
                "28000" => "28000",
                "3D000" => "3D000",
                "53300" => "53300",
                "57P03" => "57P03",
                "42501" => "42501",
                "22023" => "22023",
                "42704" => "42704",
                _ => error::CONNECTION_FAILURE,
            },
            Self::Setting(_) => error::NOT_SUPPORTED,
        };
        let native = match self {
            // It may name files, which are no business of the client.
            Self::Host(_) => NativeError::fatal(code, "Postern: the agent cannot use its configuration for the target"),
            _ => NativeError::fatal(code, format!("Postern: {self}")),
        };
        match self {
            Self::Host(_) => native.hint("Tell the operator of Postern: `postern status` says why."),
            Self::Refused(_) | Self::NoPassword | Self::Proof => {
                native.hint("The credential is the agent's, not yours. Tell the operator of Postern.")
            }
            _ => native,
        }
    }
}

/// A server that is ready for its first query.
pub struct Upstream {
    /// The connection.
    pub server: Server,
    /// `ParameterStatus` and `NoticeResponse` messages of the login, in order.
    pub greetings: Vec<Frame>,
    /// The server's own cancel key, if it gave one.
    pub key: Option<CancelKey>,
    /// Encoding of the client's texts.
    pub encoding: Encoding,
    /// Whether `standard_conforming_strings` is on.
    pub conforming: bool,
    /// Whether the server's own encoding is UTF-8.
    pub server_is_utf8: bool,
}

/// Dials the target of a connection, and makes TLS as the configuration says. Needs the admission, like all that goes there.
///
/// # Errors
/// [`UpstreamError`]
pub async fn open(connection: &Connection, admission: &Admission) -> Result<Server, UpstreamError> {
    let Connection { host, target, destination, named, .. } = connection;
    let mut stream = dial(&**host, *destination).await?;
    if target.tls.mode == TlsMode::Disable {
        return Ok(Server::new(Stream::Plain(stream)));
    }
    let authorities = match &target.tls.ca {
        Some(file) => Some(host.read(file).await?),
        None => None,
    };
    stream.write_all(admission.housekeeping(ssl_request()).bytes()).await?;
    // One byte, and no more: what follows belongs to TLS.
    match stream.read_u8().await? {
        b'S' => {}
        b'N' => return Err(UpstreamError::NoTls),
        _ => return Err(UpstreamError::Protocol),
    }
    let name = server_name(target, named.as_deref(), destination.ip());
    let authorities = authorities.as_deref().map(Vec::as_slice);
    Ok(Server::new(tls::connect(stream, target.tls.mode, authorities, &name, ALPN).await?))
}

/// The name to expect in the server's certificate: as configured, else the host name that stands for the address, else the
/// first host name of the target, else the address.
fn server_name(target: &Target, named: Option<&str>, address: std::net::IpAddr) -> String {
    let first = target.addresses.iter().find_map(|address| match address {
        Address::Name { host, .. } => Some(host.as_str()),
        Address::Network { .. } => None,
    });
    let name = target.tls.name.as_deref().or(named).or(first);
    name.map_or_else(|| address.to_canonical().to_string(), ToOwned::to_owned)
}

/// Logs in, and reads what the server says up to its first `ReadyForQuery`.
///
/// # Errors
/// [`UpstreamError`]
pub async fn login(
    mut server: Server,
    admission: &Admission,
    startup: &Startup,
    login: &Login,
) -> Result<Upstream, UpstreamError> {
    server.send(&admission.housekeeping(startup.upstream(&login.user)));
    let mut authentication = Authentication { login, tls: server.tls().is_some(), scram: None, proven: true };
    for _ in 0..LOGIN_MESSAGES {
        let frame = server.receive().await?;
        match frame.kind {
            server::AUTHENTICATION => match authentication.answer(frame.body())? {
                Some(Answer::Send(bytes)) => server.send(&admission.housekeeping(bytes)),
                Some(Answer::Done) => return ready(server).await,
                None => {}
            },
            server::ERROR_RESPONSE => return Err(refusal(&frame)),
            server::NOTICE_RESPONSE => {}
            _ => return Err(UpstreamError::Protocol),
        }
    }
    Err(UpstreamError::Protocol)
}

/// Relays the client's own login, where the agent has no credential: only in observe mode.
///
/// # Errors
/// [`UpstreamError`]; the client has been told if it was refused.
pub async fn relay_login(
    mut server: Server,
    admission: &Admission,
    startup: &Startup,
    client: &mut Client,
) -> Result<Upstream, UpstreamError> {
    server.send(&admission.housekeeping(startup.upstream(&startup.user)));
    for _ in 0..LOGIN_MESSAGES {
        let frame = server.receive().await?;
        match frame.kind {
            server::AUTHENTICATION => match Fields::new(frame.body()).unsigned()? {
                0 => return ready(server).await,
                // The last word of SASL is the server's.
                12 => client.send(&without_values(frame.bytes)),
                method => {
                    let asked = if method == 10 { without_channel_binding(&frame)? } else { frame.bytes };
                    client.send(&without_values(asked));
                    client.flush().await?;
                    server.send(&admission.housekeeping(client.password().await?.bytes));
                }
            },
            // The credential is the client's own, so the server's words about it are for the client.
            server::ERROR_RESPONSE => return Err(session_refused(&frame)),
            server::NOTICE_RESPONSE => {}
            _ => return Err(UpstreamError::Protocol),
        }
    }
    Err(UpstreamError::Protocol)
}

/// `AuthenticationSASL` without the mechanisms that bind to a channel: the client's and the server's are two.
fn without_channel_binding(frame: &Frame) -> Result<Bytes, Malformed> {
    let mut fields = Fields::new(frame.body());
    let method = fields.unsigned()?;
    let mut mechanisms = Vec::new();
    while fields.left() > 1 {
        mechanisms.push(fields.string()?);
    }
    mechanisms.retain(|mechanism| !mechanism.ends_with(b"-PLUS"));
    Ok(message::write(server::AUTHENTICATION, |body| {
        body.put_u32(method);
        for mechanism in mechanisms {
            put_string(body, mechanism);
        }
        body.put_u8(0);
    }))
}

/// Reads what a server says once it has accepted a login, up to its first `ReadyForQuery`.
///
/// # Errors
/// [`UpstreamError`]
pub async fn ready(mut server: Server) -> Result<Upstream, UpstreamError> {
    let mut greetings = Vec::new();
    let (mut key, mut encoding, mut conforming, mut server_is_utf8) = (None, Encoding::Ascii, false, false);
    for _ in 0..LOGIN_MESSAGES {
        let frame = server.receive().await?;
        match frame.kind {
            server::PARAMETER_STATUS => {
                match parameter_status(frame.body())? {
                    (b"client_encoding", value) => {
                        encoding = Encoding::named(value).ok_or(UpstreamError::Setting("client_encoding"))?;
                    }
                    (b"server_encoding", value) => server_is_utf8 = Encoding::named(value) == Some(Encoding::Utf8),
                    (b"standard_conforming_strings", value) => conforming = value == b"on",
                    _ => {}
                }
                greetings.push(frame);
            }
            server::NOTICE_RESPONSE => greetings.push(frame),
            server::BACKEND_KEY_DATA => key = Some(CancelKey::read(frame.body())?),
            server::READY_FOR_QUERY if frame.body() == b"I" => {
                return Ok(Upstream { server, greetings, key, encoding, conforming, server_is_utf8 });
            }
            server::ERROR_RESPONSE => return Err(refusal(&frame)),
            _ => return Err(UpstreamError::Protocol),
        }
    }
    Err(UpstreamError::Protocol)
}

/// What an error of the server during login means. Its message is withheld where it is about the credential.
#[must_use]
pub fn refusal(frame: &Frame) -> UpstreamError {
    match session_refused(frame) {
        UpstreamError::Session { code, .. } if code.starts_with("28") => UpstreamError::Refused(code),
        other => other,
    }
}

/// The same with the message in any case.
fn session_refused(frame: &Frame) -> UpstreamError {
    let Ok(fields) = error_fields(frame.body()) else { return UpstreamError::Protocol };
    let field = |wanted: u8| {
        let found = fields.iter().find(|(code, _)| *code == wanted).map_or(&b""[..], |(_, text)| text);
        String::from_utf8_lossy(found).into_owned()
    };
    UpstreamError::Session { code: field(b'C'), message: field(b'M') }
}

/// What to do about a message of the server.
enum Answer {
    Send(Bytes),
    Done,
}

/// The client's side of an authentication.
struct Authentication<'a> {
    login: &'a Login,
    tls: bool,
    scram: Option<ScramSha256>,
    /// The server has proven what it must: with SCRAM, that it knows the password.
    proven: bool,
}

impl Authentication<'_> {
    /// Answers `Authentication…`.
    fn answer(&mut self, body: &[u8]) -> Result<Option<Answer>, UpstreamError> {
        const OK: u32 = 0;
        const CLEARTEXT: u32 = 3;
        const MD5: u32 = 5;
        const SASL: u32 = 10;
        const SASL_CONTINUE: u32 = 11;
        const SASL_FINAL: u32 = 12;

        let mut fields = Fields::new(body);
        match fields.unsigned()? {
            OK if self.proven => Ok(Some(Answer::Done)),
            OK => Err(UpstreamError::Proof),
            CLEARTEXT if !self.tls => Err(UpstreamError::Plaintext),
            CLEARTEXT => Ok(Some(Answer::Send(password_message(self.password()?)))),
            MD5 => {
                let salt = fields.bytes(4)?.try_into().map_err(|_| Malformed)?;
                let hash = Zeroizing::new(md5_hash(self.login.user.as_bytes(), self.password()?, salt));
                Ok(Some(Answer::Send(password_message(hash.as_bytes()))))
            }
            SASL => {
                let mut offered = false;
                while fields.left() > 1 {
                    offered |= fields.string()? == SCRAM_SHA_256.as_bytes();
                }
                if !offered {
                    return Err(UpstreamError::Method(SASL));
                }
                let scram = ScramSha256::new(self.password()?, ChannelBinding::unsupported());
                let answer = message::write(client::PASSWORD, |body| {
                    put_string(body, SCRAM_SHA_256.as_bytes());
                    body.put_i32(i32::try_from(scram.message().len()).unwrap_or(-1));
                    body.put_slice(scram.message());
                });
                self.scram = Some(scram);
                self.proven = false;
                Ok(Some(Answer::Send(answer)))
            }
            SASL_CONTINUE => {
                let mut scram = self.scram.take().ok_or(UpstreamError::Protocol)?;
                scram.update(fields.bytes(fields.left())?).map_err(|_| UpstreamError::Proof)?;
                let answer = message::write(client::PASSWORD, |body| body.put_slice(scram.message()));
                self.scram = Some(scram);
                Ok(Some(Answer::Send(answer)))
            }
            SASL_FINAL => {
                let mut scram = self.scram.take().ok_or(UpstreamError::Protocol)?;
                scram.finish(fields.bytes(fields.left())?).map_err(|_| UpstreamError::Proof)?;
                self.proven = true;
                Ok(None)
            }
            method => Err(UpstreamError::Method(method)),
        }
    }

    fn password(&self) -> Result<&[u8], UpstreamError> {
        self.login.password.as_deref().map(Vec::as_slice).ok_or(UpstreamError::NoPassword)
    }
}

fn password_message(password: &[u8]) -> Bytes {
    message::write(client::PASSWORD, |body| put_string(body, password))
}

#[cfg(test)]
mod tests;
