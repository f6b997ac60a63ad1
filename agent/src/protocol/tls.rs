//! TLS on both sides, shared by the protocols that start in plaintext and upgrade.
//!
//! *Invariant:* an upgrade begins with an empty buffer: bytes that came in plaintext are never read as if TLS had protected
//! them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::config::TlsMode;

/// A connection, in plaintext or not.
pub enum Stream {
    /// Plaintext.
    Plain(TcpStream),
    /// TLS, of either side.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Version and cipher suite, if it is TLS.
    #[must_use]
    pub fn tls(&self) -> Option<String> {
        let Self::Tls(stream) = self else { return None };
        let (_, state) = stream.get_ref();
        let version = state.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
        let suite = state.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
        Some(format!("{version} {suite}"))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
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
    /// The handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Handshake(#[from] io::Error),
}

/// Accepts TLS from a client with a certificate chain and key (PEM).
///
/// # Errors
/// [`TlsError`]
pub async fn accept(stream: TcpStream, chain: &[u8], key: &[u8], alpn: &[u8]) -> Result<Stream, TlsError> {
    let chain = certificates(chain).map_err(|error| TlsError::Material("the certificate", error))?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Material("the private key", error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Material("the TLS configuration", error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::Material("the certificate with its key", error.to_string()))?;
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
    Ok(Stream::Tls(Box::new(TlsStream::Server(stream))))
}

/// Connects with TLS to a target.
///
/// # Errors
/// [`TlsError`]
pub async fn connect(
    stream: TcpStream,
    mode: TlsMode,
    authorities: Option<&[u8]>,
    name: &str,
    alpn: &[u8],
) -> Result<Stream, TlsError> {
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
    let verifier = Verifier { verification, provider };
    let mut config = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TlsConnector::from(Arc::new(config)).connect(server_name, stream).await?;
    Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
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
    let failed = |_| TlsError::Handshake(io::Error::other("no random bytes"));
    rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if certificates.is_empty() { Err("it holds no certificate".into()) } else { Ok(certificates) }
}

/// What the operator trusts.
#[derive(Debug)]
struct Trusted {
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl Trusted {
    fn read(pem: Option<&[u8]>) -> Result<Self, TlsError> {
        let failed = |error| TlsError::Material("the target's authority", error);
        let certificates = certificates(pem.ok_or(TlsError::NoAuthority)?).map_err(failed)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|error| failed(error.to_string()))?;
        }
        Ok(Self { roots, certificates })
    }
}

/// How far a server's certificate is verified.
#[derive(Debug)]
enum Verification {
    /// Any certificate: the connection is private towards those who only listen.
    None,
    /// A certificate of a known authority, for whatever name.
    Chain(Trusted),
    /// And for this name.
    ChainAndName(Trusted),
}

/// Verifies as the `sslmode`s of libpq do. Signatures of the handshake are verified in every mode.
#[derive(Debug)]
struct Verifier {
    verification: Verification,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let (trusted, by_name) = match &self.verification {
            Verification::None => return Ok(ServerCertVerified::assertion()),
            Verification::Chain(trusted) => (trusted, false),
            Verification::ChainAndName(trusted) => (trusted, true),
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        // A self-signed certificate is its own authority, which the library would take for a mistake: the very certificate
        // that the operator named needs no chain.
        if !trusted.certificates.iter().any(|named| named == end_entity) {
            verify_server_cert_signed_by_trust_anchor(&certificate, &trusted.roots, intermediates, now, algorithms)?;
        }
        if by_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
