//! Why there is no session with the target, and what the client is told.

use super::{
    super::{
        error::{self, NativeError},
        frame::Malformed,
        wire::WireError,
    },
    PATIENCE,
};
use crate::protocol::{
    HostError,
    dial::DialError,
    tls::{self, TlsError},
};

/// Why there is no session with the target.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Not reached.
    #[error("the target cannot be reached: {0}")]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("the connection to the target broke: {0}")]
    Broken(std::io::Error),
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
    #[error("the target asks for the password in plaintext, which it gets only within TLS that verifies it")]
    Plaintext,
    /// The target does not bind the login to the TLS connection.
    #[error("the target does not bind the login to the TLS connection, which channel_binding = \"require\" asks for")]
    NotBound,
    /// The target wants a login that is not built.
    #[error("the target asks for authentication method {0}, which is not supported")]
    Method(u32),
    /// SCRAM failed: the target does not know the password, or proved so wrongly.
    #[error("the target could not prove that it knows the agent's password")]
    Proof,
    /// The target refused the agent's credential.
    #[error("the target refused the agent's credential (SQLSTATE {0})")]
    Refused(String),
    /// The same, and it asked for a client certificate.
    #[error(
        "the target refused the agent's credential (SQLSTATE {0}); it asked for a client certificate, and got none"
    )]
    NoCertificate(String),
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

impl From<std::io::Error> for UpstreamError {
    fn from(error: std::io::Error) -> Self {
        // What a server thinks of the agent's certificate may come after the handshake.
        match tls::failure(&error, tls::Peer::Target) {
            Some(failure) => Self::Tls(TlsError::Handshake(failure)),
            None => Self::Broken(error),
        }
    }
}

impl From<Malformed> for UpstreamError {
    fn from(_: Malformed) -> Self {
        Self::Protocol
    }
}

impl From<WireError> for UpstreamError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Broken(error) => error.into(),
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
            Self::NoPassword
            | Self::Plaintext
            | Self::NotBound
            | Self::Method(_)
            | Self::Proof
            | Self::Refused(_)
            | Self::NoCertificate(_) => error::AUTHORIZATION,
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
        match self.remedy() {
            Some(remedy) => native.hint(remedy),
            None => native,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Host(_) => Some("Tell the operator of Postern: `postern status` says why."),
            Self::Refused(_) | Self::NoPassword | Self::Proof => {
                Some("The credential is the agent's, not yours. Tell the operator of Postern.")
            }
            Self::NoCertificate(_) => Some("Give the target's credential a cert and key."),
            Self::Tls(TlsError::Handshake(failure)) => Some(failure.remedy()),
            Self::Tls(TlsError::Unnamed) => {
                Some("The target does not speak TLS directly: write negotiation = \"request\".")
            }
            Self::NoTls => Some(
                "Let the target offer TLS. If it does, somebody between it and this host pretends that it does not.",
            ),
            Self::Plaintext => {
                Some("Write tls = { mode = \"verify-full\", … } for the target, or let it ask for SCRAM.")
            }
            Self::NotBound => Some("Let the target ask for SCRAM-SHA-256 within TLS, or remove channel_binding."),
            _ => None,
        }
    }
}
