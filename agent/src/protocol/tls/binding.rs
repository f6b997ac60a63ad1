//! Channel binding: `tls-server-end-point` (RFC 5929).

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use x509_parser::{signature_algorithm::SignatureAlgorithm, x509::AlgorithmIdentifier};

/// Hash of a server's certificate, by the hash of its signature; by SHA-256 where that is MD5 or SHA-1. None if the signature has no
/// hash of its own, as Ed25519 has none: then this kind of binding is not defined.
pub(super) fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let signature = &parsed.signature_algorithm;
    let hash = match SignatureAlgorithm::try_from(signature) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => hash_of(signature)?.to_owned(),
    };
    Some(match hash.as_str() {
        MD5 | SHA_1 | SHA_256 => Sha256::digest(certificate).to_vec(),
        SHA_224 => Sha224::digest(certificate).to_vec(),
        SHA_384 => Sha384::digest(certificate).to_vec(),
        SHA_512 => Sha512::digest(certificate).to_vec(),
        _ => return None,
    })
}

const MD5: &str = "1.2.840.113549.2.5";
const SHA_1: &str = "1.3.14.3.2.26";
const SHA_224: &str = "2.16.840.1.101.3.4.2.4";
const SHA_256: &str = "2.16.840.1.101.3.4.2.1";
const SHA_384: &str = "2.16.840.1.101.3.4.2.2";
const SHA_512: &str = "2.16.840.1.101.3.4.2.3";

/// The hash that a signature algorithm is named with (RFC 3279, 4055, 5758).
fn hash_of(signature: &AlgorithmIdentifier<'_>) -> Option<&'static str> {
    let hash = match signature.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.4" => MD5,
        "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => SHA_1,
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => SHA_224,
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => SHA_256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => SHA_384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => SHA_512,
        _ => return None,
    };
    Some(hash)
}
