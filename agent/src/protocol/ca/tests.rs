use std::{os::unix::fs::PermissionsExt, sync::Arc};

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::*;

/// An address that is no target's.
const NOWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn target(addresses: &[&str]) -> Target {
    let address = |text: &&str| text.parse().or_else(|_| format!("{text}:5432").parse()).expect("an address");
    Target::simple("orders", addresses.iter().map(address).collect())
}

fn verify(authority: &Authority, chain: &str, name: &str) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate().as_bytes()).expect("PEM")).expect("authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("verifier");
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM");
    let name = ServerName::try_from(name.to_owned()).expect("name");
    verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).map(drop)
}

#[test]
fn a_certificate_is_good_for_the_names_of_its_target() {
    let directory = tempfile::tempdir().expect("directory");
    let targets = [target(&["orders.db.internal", "10.20.0.5:5432", "[fd00::5]:5432"])];
    let authority = Authority::open(directory.path(), &targets).expect("authority");
    let (chain, _) = authority.issue(&targets[0], NOWHERE).expect("certificate");
    for name in ["orders.db.internal", "10.20.0.5", "fd00::5"] {
        verify(&authority, &chain, name).expect(name);
    }
    assert!(verify(&authority, &chain, "other.db.internal").is_err());
}

#[test]
fn the_authority_is_confined_to_the_configured_targets() {
    let directory = tempfile::tempdir().expect("directory");
    for (own, foreign) in [
        ("orders.db.internal", "other.example"),
        ("orders.db.internal", "10.0.0.1:1"),
        ("orders.db.internal", "[fd00::1]:1"),
        ("10.20.0.5:5432", "10.20.0.6:5432"),
        ("10.20.0.5:5432", "other.example"),
        ("10.20.0.5:5432", "[fd00::1]:1"),
        ("[fd00::5]:5432", "10.0.0.1:1"),
    ] {
        let authority = Authority::open(directory.path(), &[target(&[own])]).expect("authority");
        let (chain, _) = authority.issue(&target(&[foreign]), NOWHERE).expect("certificate");
        let name =
            foreign.parse::<std::net::SocketAddr>().map_or(foreign.to_owned(), |address| address.ip().to_string());
        assert!(verify(&authority, &chain, &name).is_err(), "an authority for {own} vouched for {foreign}");
    }
}

#[test]
fn of_a_network_only_the_address_that_was_asked_for_is_vouched_for() {
    let directory = tempfile::tempdir().expect("directory");
    let targets = [target(&["10.20.0.0/24:5432", "[2001:db8::/64]:5432"]), target(&["10.30.0.5:5432"])];
    let authority = Authority::open(directory.path(), &targets).expect("authority");
    for asked in ["10.20.0.9", "2001:db8::9"] {
        let (chain, _) = authority.issue(&targets[0], asked.parse().expect("an address")).expect("certificate");
        verify(&authority, &chain, asked).expect(asked);
        assert!(verify(&authority, &chain, "10.20.0.10").is_err());
    }
    // An address of no network of the target gets no certificate, and the authority could not vouch for it.
    let outside = "10.20.1.9";
    let (chain, _) = authority.issue(&targets[0], outside.parse().expect("an address")).expect("certificate");
    assert!(verify(&authority, &chain, outside).is_err());
    let wider = target(&["10.20.0.0/16:5432"]);
    let (chain, _) = authority.issue(&wider, outside.parse().expect("an address")).expect("certificate");
    assert!(verify(&authority, &chain, outside).is_err());
}

#[test]
fn it_is_kept_while_the_names_are_the_same() {
    let directory = tempfile::tempdir().expect("directory");
    let open = |names: &[&str]| Authority::open(directory.path(), &[target(names)]).expect("authority");
    let first = open(&["orders.db.internal"]).certificate().to_owned();
    assert_eq!(open(&["orders.db.internal"]).certificate(), first);
    assert_ne!(open(&["invoices.db.internal"]).certificate(), first);
    let mode =
        |name: &str| fs::metadata(directory.path().join("ca").join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!(mode("ca.key"), 0o600);
    assert_eq!(mode(""), 0o700);
}
