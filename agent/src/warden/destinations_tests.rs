use super::*;

fn target(mode: Mode, addresses: Vec<Address>) -> Target {
    Target { mode, ..Target::simple("orders", addresses) }
}

fn of_orders(target: u32, flags: u32) -> Destination {
    Destination { target, flags, ledger: Target::simple("orders", Vec::new()).ledger() }
}

fn host(address: &str, port: u16) -> Address {
    Address::Network { network: Network::host(ip(address)), ports: port.into() }
}

fn name(port: u16) -> Address {
    Address::Name { host: "orders.db.internal".into(), ports: port.into() }
}

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

fn place(address: &str, port: u16) -> Place {
    Place::host(ip(address), port)
}

/// What the kernel side finds: the longest prefix with that port.
fn found(wanted: &Wanted, address: &str, port: u16) -> Option<u32> {
    let inside = |place: &Place| {
        let key = place.key();
        let Plain(data) = key.data();
        let Plain(asked) = Place::host(ip(address), port).key().data();
        let bits = (key.prefix_len() - DESTINATION_PREFIX) as usize;
        let same = |bit: usize| (data.address[bit / 8] ^ asked.address[bit / 8]) & (0x80 >> (bit % 8)) == 0;
        place.address.is_ipv4() == ip(address).is_ipv4() && data.port == asked.port && (0..bits).all(same)
    };
    let all = wanted.all();
    all.iter().filter(|(place, _)| inside(place)).max_by_key(|(place, _)| place.prefix).map(|(_, found)| found.target)
}

#[test]
fn a_destination_has_one_form_and_survives_its_key() {
    assert_eq!(place("::ffff:10.0.0.1", 5432), place("10.0.0.1", 5432));
    assert_eq!(place("0.0.0.0", 5432), place("127.0.0.1", 5432));
    assert_eq!(place("::", 5432), place("::1", 5432));
    for (place, v4, bits) in [(place("10.0.0.1", 5432), true, 64), (place("fd00::1:2", 65535), false, 160)] {
        let key = place.key();
        assert_eq!(Place::from_key(&key, v4), Some(place));
        assert_eq!(key.prefix_len(), bits);
    }
    let Plain(data) = place("10.0.0.1", 5432).key().data();
    assert_eq!(Place::from_key(&Key::new(DESTINATION_PREFIX - 1, Plain(data)), true), None);
}

#[test]
fn a_range_is_an_entry_for_each_port_and_a_network_one_for_all_its_addresses() {
    let targets = [
        target(Mode::Enforce, vec!["10.20.0.0/24:5432-5435".parse().expect("an address")]),
        target(Mode::Enforce, vec![host("10.20.0.7", 5433)]),
        target(Mode::Enforce, vec!["[2001:db8::/64]:5432".parse().expect("an address")]),
    ];
    let wanted = Wanted::new(&targets);
    assert_eq!(wanted.all().len(), 4 + 1 + 1);
    assert_eq!(found(&wanted, "10.20.0.7", 5432), Some(0));
    assert_eq!(found(&wanted, "10.20.0.255", 5435), Some(0));
    assert_eq!(found(&wanted, "10.20.0.255", 5436), None);
    assert_eq!(found(&wanted, "10.20.1.0", 5432), None);
    // The longer prefix, where one lies inside the other.
    assert_eq!(found(&wanted, "10.20.0.7", 5433), Some(1));
    assert_eq!(found(&wanted, "2001:db8::ffff:0:0:1", 5432), Some(2));
    assert_eq!(found(&wanted, "2001:db8:0:1::", 5432), None);
}

#[test]
fn an_address_in_the_configuration_comes_before_a_name() {
    let targets = [
        target(Mode::Enforce, vec![name(5432)]),
        target(Mode::Observe, vec![host("10.0.0.1", 5432), host("fd00::1", 5432)]),
    ];
    let mut wanted = Wanted::new(&targets);
    let observed = of_orders(1, DESTINATION_OBSERVE);
    let both = BTreeMap::from([(place("10.0.0.1", 5432), observed), (place("fd00::1", 5432), observed)]);
    assert_eq!(wanted.all(), both);
    wanted.resolve(0, 0, &[ip("10.0.0.1"), ip("10.0.0.2")]).expect("resolved");
    assert_eq!(wanted.all()[&place("10.0.0.1", 5432)], observed);
    assert_eq!(wanted.all()[&place("10.0.0.2", 5432)], of_orders(0, 0));
    // Resolved again: what is no longer meant goes.
    wanted.resolve(0, 0, &[ip("10.0.0.3")]).expect("resolved");
    assert!(!wanted.all().contains_key(&place("10.0.0.2", 5432)));
}

#[test]
fn a_name_inside_the_network_of_another_target_comes_before_it() {
    let targets = [
        target(Mode::Enforce, vec!["10.20.0.0/24:5432".parse().expect("an address")]),
        target(Mode::Enforce, vec![name(5432)]),
    ];
    let mut wanted = Wanted::new(&targets);
    wanted.resolve(1, 0, &[ip("10.20.0.9")]).expect("resolved");
    assert_eq!(found(&wanted, "10.20.0.9", 5432), Some(1));
    wanted.resolve(1, 0, &[ip("10.20.0.10")]).expect("resolved");
    assert_eq!(found(&wanted, "10.20.0.9", 5432), Some(0));
}

#[test]
fn only_a_name_is_given_addresses_and_only_at_its_own_ports() {
    let mut wanted = Wanted::new(&[target(Mode::Enforce, vec![name(5432), host("10.0.0.1", 6432), name(7432)])]);
    assert!(matches!(wanted.resolve(0, 0, &[]), Err(ProtectError::Count(0))));
    let many: Vec<IpAddr> = (0..=MAX_NAME_ADDRESSES as u32).map(|number| Ipv4Addr::from_bits(number).into()).collect();
    assert!(matches!(wanted.resolve(0, 0, &many), Err(ProtectError::Count(_))));
    assert!(matches!(wanted.resolve(0, 1, &[ip("10.0.0.2")]), Err(ProtectError::NotByName)));
    assert!(matches!(wanted.resolve(1, 0, &[ip("10.0.0.2")]), Err(ProtectError::NotByName)));
    assert_eq!(wanted.all().len(), 1);
    wanted.resolve(0, 2, &[ip("10.0.0.2")]).expect("resolved");
    let places: Vec<Place> = wanted.all().into_keys().collect();
    assert_eq!(places, [place("10.0.0.1", 6432), place("10.0.0.2", 7432)]);
}

#[test]
fn what_a_name_meant_stays_closed_until_all_names_are_resolved() {
    let targets = [target(Mode::Enforce, vec![name(5432)]), target(Mode::Observe, vec![name(6432)])];
    let mut wanted = Wanted::new(&targets);
    let network = Place { address: ip("10.1.0.0"), prefix: 24, port: 5432 };
    wanted.inherit([place("10.0.0.1", 5432), place("10.0.0.2", 6432), place("10.0.0.3", 22), network]);
    let all = wanted.all();
    assert_eq!(all[&place("10.0.0.1", 5432)], Destination { target: UNRESOLVED, flags: 0, ledger: LEDGER_UNRESOLVED });
    assert_eq!(
        all[&place("10.0.0.2", 6432)],
        Destination { target: UNRESOLVED, flags: DESTINATION_OBSERVE, ledger: LEDGER_UNRESOLVED }
    );
    // No target has that port, or that network, any more.
    assert_eq!(all.len(), 2);
    wanted.resolve(0, 0, &[ip("10.0.0.9")]).expect("resolved");
    assert!(wanted.all().contains_key(&place("10.0.0.1", 5432)));
    wanted.resolve(1, 0, &[ip("10.0.0.8")]).expect("resolved");
    assert_eq!(wanted.all().into_keys().collect::<Vec<_>>(), [place("10.0.0.8", 6432), place("10.0.0.9", 5432)]);
}
