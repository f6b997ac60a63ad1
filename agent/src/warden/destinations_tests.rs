use super::*;
use crate::config::{CredentialSource, Durability, TlsMode, UpstreamTls};

fn target(mode: Mode, addresses: Vec<Address>) -> Target {
    Target {
        name: "orders".into(),
        protocol: "postgres".into(),
        mode,
        addresses,
        sockets: Vec::new(),
        tls: UpstreamTls { mode: TlsMode::VerifyFull, ca: None, name: None },
        serve: None,
        credential: CredentialSource::Client,
        columns: Vec::new(),
        durability: Durability::Batched,
    }
}

fn socket(address: &str) -> SocketAddr {
    address.parse().expect("an address")
}

fn fixed(address: &str) -> Address {
    Address::Socket(socket(address))
}

fn name(port: u16) -> Address {
    Address::Name { host: "orders.db.internal".into(), port }
}

fn place(address: &str) -> Place {
    Place::new(socket(address))
}

#[test]
fn a_destination_has_one_form_and_survives_its_key() {
    assert_eq!(place("[::ffff:10.0.0.1]:5432"), place("10.0.0.1:5432"));
    assert_eq!(place("0.0.0.0:5432"), place("127.0.0.1:5432"));
    assert_eq!(place("[::]:5432"), place("[::1]:5432"));
    for (address, v4, bits) in [("10.0.0.1:5432", true, 64), ("[fd00::1:2]:65535", false, 160)] {
        let key = place(address).key();
        assert_eq!(Place::from_key(&key, v4), place(address));
        assert_eq!(key.prefix_len(), bits);
    }
}

#[test]
fn an_address_in_the_configuration_comes_before_a_name() {
    let targets = [
        target(Mode::Enforce, vec![name(5432)]),
        target(Mode::Observe, vec![fixed("10.0.0.1:5432"), fixed("[fd00::1]:5432")]),
    ];
    let mut wanted = Wanted::new(&targets);
    let observed = Destination { target: 1, flags: DESTINATION_OBSERVE };
    assert_eq!(wanted.all(), BTreeMap::from([(place("10.0.0.1:5432"), observed), (place("[fd00::1]:5432"), observed)]));
    wanted.resolve(0, &[socket("10.0.0.1:5432"), socket("10.0.0.2:5432")]).expect("resolved");
    assert_eq!(wanted.all()[&place("10.0.0.1:5432")], observed);
    assert_eq!(wanted.all()[&place("10.0.0.2:5432")], Destination { target: 0, flags: 0 });
    // Resolved again: what is no longer meant goes.
    wanted.resolve(0, &[socket("10.0.0.3:5432")]).expect("resolved");
    assert!(!wanted.all().contains_key(&place("10.0.0.2:5432")));
}

#[test]
fn only_a_names_own_ports_can_be_protected() {
    let mut wanted = Wanted::new(&[target(Mode::Enforce, vec![name(5432), fixed("10.0.0.1:6432")])]);
    assert!(matches!(wanted.resolve(0, &[socket("10.0.0.2:22")]), Err(ProtectError::Port(22))));
    assert!(matches!(wanted.resolve(0, &[]), Err(ProtectError::Count(0))));
    assert!(matches!(wanted.resolve(0, &vec![socket("10.0.0.2:5432"); MAX_NAMED + 1]), Err(ProtectError::Count(_))));
    assert!(matches!(wanted.resolve(1, &[socket("10.0.0.2:5432")]), Err(ProtectError::NotByName)));
    assert_eq!(wanted.all().len(), 1);
}

#[test]
fn what_a_name_meant_stays_closed_until_all_names_are_resolved() {
    let targets = [target(Mode::Enforce, vec![name(5432)]), target(Mode::Observe, vec![name(6432)])];
    let mut wanted = Wanted::new(&targets);
    wanted.inherit([place("10.0.0.1:5432"), place("10.0.0.2:6432"), place("10.0.0.3:22")]);
    let all = wanted.all();
    assert_eq!(all[&place("10.0.0.1:5432")], Destination { target: UNRESOLVED, flags: 0 });
    assert_eq!(all[&place("10.0.0.2:6432")], Destination { target: UNRESOLVED, flags: DESTINATION_OBSERVE });
    // No target has that port any more.
    assert!(!all.contains_key(&place("10.0.0.3:22")));
    wanted.resolve(0, &[socket("10.0.0.9:5432")]).expect("resolved");
    assert!(wanted.all().contains_key(&place("10.0.0.1:5432")));
    wanted.resolve(1, &[socket("10.0.0.8:6432")]).expect("resolved");
    assert_eq!(wanted.all().into_keys().collect::<Vec<_>>(), [place("10.0.0.8:6432"), place("10.0.0.9:5432")]);
}
