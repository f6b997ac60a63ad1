//! The agent's side towards the target: dial, TLS, login.
//!
//! *Invariant:* no error holds a secret, and no secret leaves but as the login's own answer; in plaintext only to a server
//! that TLS has made out.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use self::authentication::{Answer, Authentication, Channel};
pub use self::error::UpstreamError;
use super::{
    frame::{Fields, Frame, Malformed, server},
    message::{self, error_fields, parameter_status, put_string},
    startup::{CancelKey, SHORT_SECRET, Startup, negotiated, ssl_request},
    view::Encoding,
    wire::{Client, Server},
};
use crate::{
    config::{Address, ChannelBinding, Target, TlsMode, TlsNegotiation},
    gate::Admission,
    masking::without_values,
    protocol::{
        Connection, Login,
        dial::dial,
        tls::{self, Beginning, Pem, Stream},
    },
};

mod authentication;
mod error;

/// Name of the protocol in TLS (ALPN), as PostgreSQL 17 registered it.
pub const ALPN: &[u8] = b"postgresql";

/// How long a target may take until it is ready for a session's first statement.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Most messages of a server before its first `ReadyForQuery`. A real one sends about 20.
const LOGIN_MESSAGES: usize = 1_000;

/// A server that is ready for its first query.
pub struct Upstream {
    /// The connection.
    pub server: Server,
    /// Minor version of protocol 3 that it speaks.
    pub minor: u16,
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

/// Dials the target of a connection, and makes TLS as the configuration says, with the certificate of the login if there is one.
/// Needs the admission, like all that goes there.
///
/// # Errors
/// [`UpstreamError`]
pub async fn open(
    connection: &Connection,
    admission: &Admission,
    login: Option<&Login>,
) -> Result<Server, UpstreamError> {
    let Connection { host, target, destination, named, .. } = connection;
    let mut stream = dial(&**host, *destination).await?;
    if target.tls.mode == TlsMode::Disable {
        return Ok(Server::new(Stream::Plain(stream)));
    }
    let authorities = match &target.tls.ca {
        Some(file) => Some(host.read(file).await?),
        None => None,
    };
    let direct = target.tls.negotiation == TlsNegotiation::Direct;
    if !direct {
        ask_for_tls(&mut stream, admission).await?;
    }
    let certificate = login.and_then(|login| login.certificate.as_ref());
    let tls = tls::Target {
        mode: target.tls.mode,
        authorities: authorities.as_deref().map(Vec::as_slice),
        name: &server_name(target, named.as_deref(), destination.ip()),
        own: certificate.map(|certificate| Pem { chain: &certificate.chain, key: &certificate.key }),
        beginning: Beginning { alpn: ALPN, direct },
    };
    Ok(Server::new(tls::connect(stream, tls).await?))
}

async fn ask_for_tls(stream: &mut TcpStream, admission: &Admission) -> Result<(), UpstreamError> {
    stream.write_all(admission.housekeeping(ssl_request()).bytes()).await?;
    // One byte, and no more: what follows belongs to TLS.
    match stream.read_u8().await? {
        b'S' => Ok(()),
        b'N' => Err(UpstreamError::NoTls),
        _ => Err(UpstreamError::Protocol),
    }
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
    target: &Target,
    login: &Login,
) -> Result<Upstream, UpstreamError> {
    server.send(&admission.housekeeping(startup.upstream(&login.user)));
    let mut minor = startup.upstream_minor();
    let channel = Channel {
        verified: matches!(target.tls.mode, TlsMode::VerifyCa | TlsMode::VerifyFull),
        end_point: server.stream().end_point().map(<[u8]>::to_vec),
        must_bind: target.tls.channel_binding == ChannelBinding::Require,
    };
    let mut authentication = Authentication::new(login, channel);
    for _ in 0..LOGIN_MESSAGES {
        let frame = server.receive().await?;
        match frame.kind {
            server::AUTHENTICATION => match authentication.answer(frame.body())? {
                Some(Answer::Send(bytes)) => server.send(&admission.housekeeping(bytes)),
                Some(Answer::Done) => return ready(server, minor).await,
                None => {}
            },
            server::NEGOTIATE_PROTOCOL_VERSION => minor = negotiated(frame.body(), minor)?,
            server::ERROR_RESPONSE => {
                let bare = server.stream().asked_for_certificate() && login.certificate.is_none();
                return Err(match refusal(&frame) {
                    UpstreamError::Refused(code) if bare && code == "28000" => UpstreamError::NoCertificate(code),
                    other => other,
                });
            }
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
    let mut minor = startup.upstream_minor();
    for _ in 0..LOGIN_MESSAGES {
        let frame = server.receive().await?;
        match frame.kind {
            server::AUTHENTICATION => match Fields::new(frame.body()).unsigned()? {
                0 => return ready(server, minor).await,
                // The last word of SASL is the server's.
                12 => client.send(&without_values(frame.bytes)),
                method => {
                    let asked = if method == 10 { without_channel_binding(&frame)? } else { frame.bytes };
                    client.send(&without_values(asked));
                    client.flush().await?;
                    server.send(&admission.housekeeping(client.password().await?.bytes));
                }
            },
            server::NEGOTIATE_PROTOCOL_VERSION => minor = negotiated(frame.body(), minor)?,
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
pub async fn ready(mut server: Server, minor: u16) -> Result<Upstream, UpstreamError> {
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
            server::BACKEND_KEY_DATA => match CancelKey::read(frame.body())? {
                long if minor < 2 && long.secret.len() != SHORT_SECRET => return Err(UpstreamError::Protocol),
                read => key = Some(read),
            },
            server::READY_FOR_QUERY if frame.body() == b"I" => {
                return Ok(Upstream { server, minor, greetings, key, encoding, conforming, server_is_utf8 });
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

#[cfg(test)]
mod tests;
