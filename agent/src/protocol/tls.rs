//! TLS on both sides, shared by the protocols that start in plaintext and upgrade.
//!
//! *Invariant:* an upgrade begins with an empty buffer: bytes that came in plaintext are never read as if TLS had protected
//! them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, ServerConfig, SignatureScheme,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

pub use self::failure::{Failure, Peer, failure};
use self::verify::{Trusted, Verification, Verifier};
use crate::config::TlsMode;

mod binding;
mod failure;
mod verify;

/// A connection, in plaintext or not.
pub enum Stream {
    /// Plaintext.
    Plain(TcpStream),
    /// TLS, of either side.
    Tls(Box<Encrypted>),
}

/// A connection with TLS.
pub struct Encrypted {
    stream: TlsStream<TcpStream>,
    end_point: Option<Vec<u8>>,
    asked: bool,
}

impl Stream {
    /// What a login is bound to by `tls-server-end-point` (RFC 5929): the hash of the server's certificate. None without TLS, or if
    /// the certificate's signature has no hash of its own.
    #[must_use]
    pub fn end_point(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(encrypted) => encrypted.end_point.as_deref(),
        }
    }

    /// Whether a server has asked for a client's certificate.
    #[must_use]
    pub fn asked_for_certificate(&self) -> bool {
        matches!(self, Self::Tls(encrypted) if encrypted.asked)
    }

    /// Version and cipher suite, if it is TLS.
    #[must_use]
    pub fn tls(&self) -> Option<String> {
        let Self::Tls(encrypted) = self else { return None };
        let (_, state) = encrypted.stream.get_ref();
        let version = state.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
        let suite = state.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
        Some(format!("{version} {suite}"))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(encrypted) => encrypted.stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(encrypted) => Pin::new(&mut encrypted.stream).poll_shutdown(context),
        }
    }
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate or key cannot be read, or they do not fit together.
    #[error("{0} cannot be used: {1}")]
    Material(&'static str, String),
    /// `verify-ca` or `verify-full` without an authority.
    #[error("there is no authority to verify the target's certificate with")]
    NoAuthority,
    /// The name to expect is none.
    #[error("\"{0}\" is not a name that a certificate can have")]
    Name(String),
    /// TLS without a request for it, and without saying (ALPN) which protocol is within.
    #[error("TLS began without a request, and without the protocol's name (ALPN)")]
    Unnamed,
    /// The handshake failed.
    #[error("{0}")]
    Handshake(Failure),
    /// The system gives no random bytes.
    #[error("there are no random bytes")]
    Random,
}

/// A certificate chain and its private key (PEM).
#[derive(Clone, Copy)]
pub struct Pem<'a> {
    /// The chain.
    pub chain: &'a [u8],
    /// The key.
    pub key: &'a [u8],
}

impl Pem<'_> {
    fn read(self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates(self.chain).map_err(|error| TlsError::Material("the agent's certificate", error))?;
        let key = PrivateKeyDer::from_pem_slice(self.key);
        Ok((chain, key.map_err(|error| TlsError::Material("the agent's private key", error.to_string()))?))
    }
}

/// How TLS begins, and what is within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Name of the protocol (ALPN).
    pub alpn: &'static [u8],
    /// Nobody was asked in plaintext: then both sides must name the protocol, since a server of another protocol might
    /// answer.
    pub direct: bool,
}

impl Beginning {
    fn check(self, agreed: Option<&[u8]>) -> Result<(), TlsError> {
        if self.direct && agreed != Some(self.alpn) { Err(TlsError::Unnamed) } else { Ok(()) }
    }
}

/// Accepts TLS from a client.
///
/// # Errors
/// [`TlsError`]
pub async fn accept(stream: TcpStream, own: Pem<'_>, beginning: Beginning) -> Result<Stream, TlsError> {
    let (chain, key) = own.read()?;
    let end_point = chain.first().and_then(|certificate| binding::end_point(certificate));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Material("the TLS configuration", error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Material("the agent's certificate with its key", error.to_string()))?;
    config.alpn_protocols = vec![beginning.alpn.to_vec()];
    let accepted = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    let stream = accepted.map_err(|error| TlsError::Handshake(Failure::new(&error, Peer::Client)))?;
    beginning.check(stream.get_ref().1.alpn_protocol())?;
    Ok(Stream::Tls(Box::new(Encrypted { stream: TlsStream::Server(stream), end_point, asked: false })))
}

/// How a target is to be reached with TLS.
pub struct Target<'a> {
    /// How far its certificate is verified.
    pub mode: TlsMode,
    /// By whom (PEM).
    pub authorities: Option<&'a [u8]>,
    /// The name that its certificate is to have.
    pub name: &'a str,
    /// What it is shown if it asks for a client's certificate.
    pub own: Option<Pem<'a>>,
    /// How it begins.
    pub beginning: Beginning,
}

/// Connects with TLS to a target.
///
/// # Errors
/// [`TlsError`]
pub async fn connect(stream: TcpStream, target: Target<'_>) -> Result<Stream, TlsError> {
    let Target { mode, authorities, name, own, beginning } = target;
    let server_name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Material("the TLS configuration", error.to_string()))?;
    let verification = match mode {
        TlsMode::Disable | TlsMode::Require => Verification::None,
        TlsMode::VerifyCa => Verification::Chain(Trusted::read(authorities)?),
        TlsMode::VerifyFull => Verification::ChainAndName(Trusted::read(authorities)?),
    };
    let own = match own {
        Some(own) => {
            let (chain, key) = own.read()?;
            let key = CertifiedKey::from_der(chain, key, &provider);
            let unfit =
                |error: rustls::Error| TlsError::Material("the agent's certificate with its key", error.to_string());
            Some(Arc::new(key.map_err(unfit)?))
        }
        None => None,
    };
    let shown = Arc::new(Shown { own, asked: AtomicBool::new(false) });
    let verifier = Verifier { verification, provider };
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesClientCert>);
    config.alpn_protocols = vec![beginning.alpn.to_vec()];
    let connected = TlsConnector::from(Arc::new(config)).connect(server_name, stream).await;
    let stream = connected.map_err(|error| TlsError::Handshake(Failure::new(&error, Peer::Target)))?;
    let (_, state) = stream.get_ref();
    beginning.check(state.alpn_protocol())?;
    let leaf = state.peer_certificates().and_then(<[_]>::first);
    let end_point = leaf.and_then(|certificate| binding::end_point(certificate));
    let asked = shown.asked.load(Ordering::Relaxed);
    Ok(Stream::Tls(Box::new(Encrypted { stream: TlsStream::Client(stream), end_point, asked })))
}

/// The certificate for a target that asks for one, and whether it did.
#[derive(Debug)]
struct Shown {
    own: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.own.clone()
    }

    fn has_certs(&self) -> bool {
        self.own.is_some()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], TlsError> {
    let mut bytes = [0; N];
    let filled = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| TlsError::Random)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("it holds no certificate".into()) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests;
