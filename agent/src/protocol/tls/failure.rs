//! What a failed handshake means: for whoever has to mend it.

use std::{error::Error as _, fmt, io, time::Duration};

use rustls::{AlertDescription, CertificateError, Error, pki_types::UnixTime};

/// Whose handshake it is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The client, to whom the agent is the server.
    Client,
    /// The target, to whom the agent is the client.
    Target,
}

/// What failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: Kind,
    peer: Peer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Expired(Option<UnixTime>),
    NotYetValid(Option<UnixTime>),
    OtherName {
        expected: Option<String>,
        presented: Vec<String>,
    },
    UnknownIssuer,
    Certificate(String),
    NotTls,
    Version,
    /// The peer asks for a certificate and got none.
    CertificateRequired,
    /// The peer does not accept the agent's certificate, and says why.
    CertificateRejected(AlertDescription),
    Protocol,
    Alert(AlertDescription),
    Closed,
    Other(String),
}

/// The failure of TLS that an I/O error stands for, if it does: what a peer thinks of a certificate may arrive after the
/// handshake.
#[must_use]
pub fn failure(error: &io::Error, peer: Peer) -> Option<Failure> {
    let tls = error.get_ref()?.downcast_ref::<Error>()?;
    Some(Failure { kind: Kind::of(tls), peer })
}

impl Failure {
    /// What the error of a handshake means.
    pub(super) fn new(error: &io::Error, peer: Peer) -> Self {
        failure(error, peer).unwrap_or_else(|| {
            let closed = matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            );
            Self { kind: if closed { Kind::Closed } else { Kind::Other(error.to_string()) }, peer }
        })
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match (&self.kind, self.peer) {
            (Kind::Expired(_), _) => "Renew the target's certificate, or set this host's clock.",
            (Kind::NotYetValid(_), _) => {
                "Set the clock of this host, or give the target a certificate that is valid now."
            }
            (Kind::OtherName { .. }, _) => {
                "Give the target a certificate for that name, or say in the target's tls which name it has."
            }
            (Kind::UnknownIssuer, _) => {
                "Put the authority that issued the target's certificate into the file ca of its tls."
            }
            (Kind::Certificate(_), _) => "Give the target another certificate.",
            (Kind::NotTls, Peer::Target) => "Let the target speak TLS there, or correct its address.",
            (Kind::NotTls, Peer::Client) => "The client is to speak TLS after it has asked for it.",
            (Kind::Version, Peer::Target) => "Let the target speak TLS 1.2 or 1.3.",
            (Kind::Version, Peer::Client) => "Let the client speak TLS 1.2 or 1.3.",
            (Kind::CertificateRequired, _) => "Give the target's credential a cert and key.",
            (Kind::CertificateRejected(_), Peer::Target) => {
                "Give the target's credential a cert and key that the target accepts."
            }
            (Kind::CertificateRejected(_), Peer::Client) => {
                "Give the client the authority that `postern ca show` prints, or the target's serve a certificate that the client \
                 accepts."
            }
            (Kind::Protocol, Peer::Target) => "Let what is at the target's address accept the protocol's name (ALPN).",
            (Kind::Protocol, Peer::Client) => "The client is to name the protocol (ALPN) as PostgreSQL does.",
            (Kind::Alert(_) | Kind::Closed | Kind::Other(_), Peer::Target) => "The target's own log may say why.",
            (Kind::Alert(_) | Kind::Closed | Kind::Other(_), Peer::Client) => "The client's own error says why.",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Expired(at) => write!(f, "its certificate has expired{}", Since(*at)),
            Kind::NotYetValid(from) => write!(f, "its certificate is not valid yet{}", Since(*from)),
            Kind::OtherName { expected, presented } => {
                let expected = expected.as_deref().unwrap_or("that is expected");
                write!(f, "its certificate is not for the name {expected}")?;
                if presented.is_empty() {
                    write!(f, ": it has no name in subjectAltName")
                } else {
                    write!(f, ", but for {}", presented.join(", "))
                }
            }
            Kind::UnknownIssuer => f.write_str("its certificate is not from a trusted authority"),
            Kind::Certificate(why) => write!(f, "its certificate cannot be accepted: {why}"),
            Kind::NotTls => f.write_str("it does not speak TLS"),
            Kind::Version => f.write_str("it speaks no version of TLS that is safe (1.2 or 1.3)"),
            Kind::CertificateRequired => f.write_str("it requires a client certificate, and the agent has none for it"),
            Kind::CertificateRejected(alert) => write!(f, "it rejected the agent's certificate ({alert:?})"),
            Kind::Protocol => f.write_str("it does not accept the protocol's name (ALPN)"),
            Kind::Alert(alert) => write!(f, "it ended the handshake ({alert:?})"),
            Kind::Closed => f.write_str("it closed the connection during the handshake"),
            Kind::Other(what) => write!(f, "the handshake failed: {what}"),
        }
    }
}

impl Kind {
    fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(certificate) => Self::of_certificate(certificate),
            Error::InvalidMessage(_) => Self::NotTls,
            Error::PeerIncompatible(_) => Self::Version,
            Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity) => {
                Self::Version
            }
            Error::NoApplicationProtocol => Self::Protocol,
            Error::AlertReceived(alert) => match alert {
                AlertDescription::NoApplicationProtocol => Self::Protocol,
                AlertDescription::CertificateRequired => Self::CertificateRequired,
                AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError => Self::CertificateRejected(*alert),
                other => Self::Alert(*other),
            },
            other => Self::Other(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::Expired(None),
            CertificateError::ExpiredContext { not_after, .. } => Self::Expired(Some(*not_after)),
            CertificateError::NotValidYet => Self::NotYetValid(None),
            CertificateError::NotValidYetContext { not_before, .. } => Self::NotYetValid(Some(*not_before)),
            CertificateError::NotValidForName => Self::OtherName { expected: None, presented: Vec::new() },
            CertificateError::NotValidForNameContext { expected, presented } => {
                Self::OtherName { expected: Some(expected.to_str().into_owned()), presented: presented.clone() }
            }
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::Other(other) => {
                Self::Certificate(other.source().map_or_else(|| other.to_string(), ToString::to_string))
            }
            other => Self::Certificate(other.to_string()),
        }
    }
}

/// ` (TIME)`, if it is known.
struct Since(Option<UnixTime>);

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(time) = self.0 else { return Ok(()) };
        let since = Duration::from_secs(time.as_secs());
        match jiff::Timestamp::UNIX_EPOCH.checked_add(since) {
            Ok(time) => write!(f, " ({time})"),
            Err(_) => Ok(()),
        }
    }
}
