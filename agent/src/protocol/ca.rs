//! The agent's own authority: certificates for clients that ask for TLS where the operator provides none.
//!
//! Made at first start in `<state_dir>/ca`. Its certificate may be installed as trusted on the host, so it is worth little
//! to whoever steals its key: critical name constraints confine it to the names and addresses of the configured targets.
//! When the configuration names others, a new authority is made.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use zeroize::Zeroizing;

use crate::config::{Address, Network, Target};

/// How long the authority is valid: the life of a host.
const AUTHORITY: Duration = Duration::from_secs(3_650 * 86_400);

/// How long a certificate is valid. It is made anew for each connection, so this only has to outlast a handshake; it is
/// longer because clocks differ.
const LEAF: Duration = Duration::from_secs(7 * 86_400);

/// Clocks differ.
const EARLIER: Duration = Duration::from_secs(3_600);

/// Directory of the authority in the state directory.
const DIRECTORY: &str = "ca";

/// File of its certificate there.
const CERTIFICATE: &str = "ca.pem";

/// Where the authority's certificate (PEM) is.
#[must_use]
pub fn certificate_file(state_dir: &Path) -> PathBuf {
    state_dir.join(DIRECTORY).join(CERTIFICATE)
}

/// The agent's own authority.
pub struct Authority {
    certificate: String,
    key: KeyPair,
}

/// Why there is no authority or no certificate of it.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// A certificate or key.
    #[error("the agent's authority cannot be used: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// The names that the configured targets are reached by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scope {
    names: BTreeSet<String>,
    networks: BTreeSet<Network>,
}

impl Scope {
    fn of<'a>(targets: impl IntoIterator<Item = &'a Target>) -> Self {
        let mut scope = Self::default();
        for address in targets.into_iter().flat_map(|target| &target.addresses) {
            match address {
                Address::Network { network, .. } => {
                    scope.networks.insert(*network);
                }
                Address::Name { host, .. } => {
                    scope.names.insert(host.trim_end_matches('.').to_ascii_lowercase());
                }
            }
        }
        scope
    }

    /// One line for each name, by which a stored authority is told from one for other names.
    fn lines(&self) -> String {
        let names = self.names.iter().cloned().chain(self.networks.iter().map(Network::to_string));
        names.map(|name| name + "\n").collect()
    }
}

impl Authority {
    /// Opens the authority in `<state_dir>/ca`, and makes it if there is none, or if it is for other names.
    ///
    /// # Errors
    /// [`CaError`]
    pub fn open(state_dir: &Path, targets: &[Target]) -> Result<Self, CaError> {
        let directory = state_dir.join(DIRECTORY);
        let scope = Scope::of(targets);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| CaError::File { path: directory.clone(), error })?;
        let stored = |name: &str| fs::read_to_string(directory.join(name));
        if let (Ok(certificate), Ok(key), Ok(lines)) = (stored(CERTIFICATE), stored("ca.key"), stored("names"))
            && lines == scope.lines()
        {
            return Ok(Self { certificate, key: KeyPair::from_pem(&Zeroizing::new(key))? });
        }
        let key = KeyPair::generate()?;
        let certificate = parameters(&scope)?.self_signed(&key)?.pem();
        // The list of names last: without it the rest counts for nothing.
        write(&directory.join("ca.key"), 0o600, &Zeroizing::new(key.serialize_pem()))?;
        write(&directory.join(CERTIFICATE), 0o644, &certificate)?;
        write(&directory.join("names"), 0o600, &scope.lines())?;
        Ok(Self { certificate, key })
    }

    /// Its certificate (PEM), for clients to trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate chain and its key (PEM) for all names and single addresses of a target, and for the address that a client
    /// asked for if that is in one of the target's networks.
    ///
    /// # Errors
    /// [`CaError`]
    pub fn issue(&self, target: &Target, asked: IpAddr) -> Result<(String, Zeroizing<String>), CaError> {
        let scope = Scope::of([target]);
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name.push(DnType::CommonName, target.name.as_str());
        for name in &scope.names {
            leaf.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        let asked = scope.networks.iter().any(|network| network.contains(asked)).then_some(asked);
        let single = scope.networks.iter().filter(|network| network.is_host()).map(|network| network.address());
        let addresses: BTreeSet<IpAddr> = single.chain(asked).collect();
        leaf.subject_alt_names.extend(addresses.into_iter().map(SanType::IpAddress));
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let now = SystemTime::now();
        leaf.not_before = (now - EARLIER).into();
        leaf.not_after = (now + LEAF).into();
        let key = KeyPair::generate()?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, &self.key)?;
        let certificate = leaf.signed_by(&key, &issuer)?.pem();
        Ok((certificate + &self.certificate, Zeroizing::new(key.serialize_pem())))
    }
}

fn parameters(scope: &Scope) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "Postern on this host");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let names = scope.names.iter().cloned().map(GeneralSubtree::DnsName);
    let networks = scope
        .networks
        .iter()
        .map(|network| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(network.address(), network.prefix())));
    let mut permitted: Vec<_> = names.chain(networks).collect();
    let mut excluded = Vec::new();
    // A kind of name that no target has is not confined by a list of another kind.
    if scope.names.is_empty() {
        excluded.push(GeneralSubtree::DnsName(String::new()));
    }
    if scope.networks.iter().all(|network| network.address().is_ipv6()) {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([0; 4], 0)));
    }
    if scope.networks.iter().all(|network| network.address().is_ipv4()) {
        excluded.push(GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0)));
    }
    permitted.dedup();
    parameters.name_constraints = Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded });
    let now = SystemTime::now();
    parameters.not_before = (now - EARLIER).into();
    parameters.not_after = (now + AUTHORITY).into();
    Ok(parameters)
}

/// Writes a file under another name first, so that there is never half of one.
fn write(path: &Path, mode: u32, content: &str) -> Result<(), CaError> {
    let failed = |error| CaError::File { path: path.to_owned(), error };
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).map_err(failed)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

#[cfg(test)]
mod tests;
