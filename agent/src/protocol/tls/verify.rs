//! A target's certificate, verified as the `sslmode`s of libpq do.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::{TlsError, certificates};

/// What the operator trusts.
#[derive(Debug)]
pub(super) struct Trusted {
    roots: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl Trusted {
    pub(super) fn read(pem: Option<&[u8]>) -> Result<Self, TlsError> {
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
pub(super) enum Verification {
    /// Any certificate: the connection is private towards those who only listen.
    None,
    /// A certificate of a known authority, for whatever name.
    Chain(Trusted),
    /// And for this name.
    ChainAndName(Trusted),
}

/// Verifies as the `sslmode`s of libpq do. Signatures of the handshake are verified in every mode.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) verification: Verification,
    pub(super) provider: Arc<CryptoProvider>,
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
        // that the operator named needs no chain, but its time is to be now like any other's.
        if trusted.certificates.iter().any(|named| named == end_entity) {
            in_time(end_entity, now)?;
        } else {
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

/// Whether a certificate is valid at a time.
fn in_time(certificate: &CertificateDer<'_>, time: UnixTime) -> Result<(), rustls::Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let seconds = |time: x509_parser::time::ASN1Time| {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
    };
    let (not_before, not_after) = (seconds(parsed.validity().not_before), seconds(parsed.validity().not_after));
    if time < not_before {
        Err(CertificateError::NotValidYetContext { time, not_before }.into())
    } else if time > not_after {
        Err(CertificateError::ExpiredContext { time, not_after }.into())
    } else {
        Ok(())
    }
}
