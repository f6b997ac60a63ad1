//! A certificate authority for tests.

use std::fmt;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::Outcome;

/// A certificate authority.
pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pem)
    }
}

impl Authority {
    /// A new authority with a common name.
    ///
    /// # Errors
    /// No key or certificate could be made.
    pub fn new(name: &str) -> Outcome<Self> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).map_err(|error| error.to_string())?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// Its certificate (PEM).
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Certificate and key (PEM) for host names and addresses.
    ///
    /// # Errors
    /// No key or certificate could be made.
    pub fn issue(&self, names: &[&str]) -> Outcome<(String, String)> {
        self.issue_with(names, |_| {})
    }

    /// The same with other parameters, such as another time.
    ///
    /// # Errors
    /// No key or certificate could be made.
    pub fn issue_with(&self, names: &[&str], shape: impl FnOnce(&mut CertificateParams)) -> Outcome<(String, String)> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let mut params = CertificateParams::new(names.clone()).map_err(|error| error.to_string())?;
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("test", String::as_str));
        shape(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| error.to_string())?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}
