use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use sha2::{Digest, Sha256, Sha384};

use super::*;

#[test]
fn the_hash_to_bind_to_is_that_of_the_signature() {
    let certificate = |algorithm| {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let parameters = CertificateParams::new(["orders.test".to_owned()]).expect("a name");
        parameters.self_signed(&key).expect("a certificate").der().clone()
    };
    let p256 = certificate(&PKCS_ECDSA_P256_SHA256);
    assert_eq!(binding::end_point(&p256), Some(Sha256::digest(&p256).to_vec()));
    let p384 = certificate(&PKCS_ECDSA_P384_SHA384);
    assert_eq!(binding::end_point(&p384), Some(Sha384::digest(&p384).to_vec()));
    // Ed25519 has no hash of its own.
    assert_eq!(binding::end_point(&certificate(&PKCS_ED25519)), None);
    assert_eq!(binding::end_point(&CertificateDer::from(vec![1, 2, 3])), None);
}
