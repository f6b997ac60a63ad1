use std::{
    cell::Cell,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::{
    known::{Answer, Known},
    *,
};
use crate::config::MAX_NAME_ADDRESSES;

const GRACE: Duration = Duration::from_secs(600);

fn target(name: &str, addresses: &[&str]) -> Target {
    Target::simple(name, addresses.iter().map(|address| address.parse().expect("an address")).collect())
}

/// Targets whose names stood for these addresses in an earlier run.
fn targets(targets: Vec<Target>, names: &str) -> Targets {
    let state = tempfile::tempdir().expect("a directory");
    std::fs::write(state.path().join("names.json"), names).expect("written");
    Targets::new(targets, state.path(), GRACE)
}

fn flow(target: u32, destination: &str) -> Flow {
    Flow { target, ..Flow::imagined(destination.parse().expect("an address")) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn answer(texts: &[&str]) -> Answer {
    Answer { addresses: addresses(texts), all_v4: true, all_v6: true, ttl: None, reason: String::new() }
}

#[test]
fn index_and_address_must_agree_as_the_kernel_finds_them() {
    let targets = targets(
        vec![
            target("orders", &["10.20.0.0/24:5432-5433", "[2001:db8::/64]:5432"]),
            target("ledger", &["10.20.0.7:5432", "ledger.internal:5432"]),
            target("stock", &["ledger.internal:5433", "10.20.0.0/16:5432"]),
        ],
        r#"{"ledger.internal": ["10.20.0.9", "10.20.0.7"]}"#,
    );
    for (destination, owner) in [
        ("10.20.0.1:5432", Some("orders")),
        ("10.20.0.255:5433", Some("orders")),
        ("[::ffff:10.20.0.1]:5432", Some("orders")),
        ("[2001:db8::1]:5432", Some("orders")),
        ("10.20.0.7:5432", Some("ledger")),
        ("10.20.0.9:5432", Some("ledger")),
        ("10.20.0.9:5433", Some("stock")),
        ("10.20.7.1:5432", Some("stock")),
        ("10.21.0.1:5432", None),
        ("10.20.0.1:5434", None),
        ("[2001:db8:0:1::1]:5432", None),
    ] {
        for (index, of) in (0..).zip(targets.all()) {
            let found = targets.find(&flow(index, destination));
            assert_eq!(
                found.ok().map(|found| found.target.name.clone()),
                owner.filter(|name| *name == of.name).map(Into::into)
            );
        }
        assert!(targets.find(&flow(3, destination)).is_err());
    }
    let name = |index, destination| targets.find(&flow(index, destination)).expect("found").name;
    assert_eq!(name(1, "10.20.0.9:5432").as_deref(), Some("ledger.internal"));
    assert_eq!(name(0, "10.20.0.1:5432"), None);
}

#[test]
fn a_name_is_the_only_way_in_unless_networks_hold_what_it_stands_for() {
    let of = |entries: &[&str], names: &str| {
        let targets = targets(vec![target("orders", entries)], names);
        (targets.problems(0).iter().any(|problem| problem.starts_with("name-only")), targets.addresses(0))
    };
    let names = r#"{"orders.internal": ["10.20.0.9", "2001:db8::9"]}"#;
    assert_eq!(of(&["orders.internal:5432"], names).1, ["10.20.0.9:5432", "[2001:db8::9]:5432"]);
    assert!(of(&["orders.internal:5432"], names).0);
    assert!(of(&["orders.internal:5432", "10.20.0.0/24:5432"], names).0);
    assert!(!of(&["orders.internal:5432", "10.20.0.0/24:5432", "[2001:db8::/64]:5432"], names).0);
    assert!(of(&["orders.internal:5432-5433", "10.20.0.0/24:5432", "[2001:db8::/64]:5432"], names).0);
    assert!(!of(&["10.20.0.0/24:5432"], names).0);
    // As long as it has never been resolved, nobody knows.
    assert!(of(&["orders.internal:5432", "10.20.0.0/24:5432"], "{}").0);
    // What makes no sense is not remembered.
    assert!(of(&["orders.internal:5432"], "[").1.is_empty());
}

#[test]
fn an_address_stays_while_it_is_used_and_for_the_time_of_grace() {
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let mut known = Known::default();
    let open = Cell::new(true);
    let learn = |known: &mut Known, answer: &Answer, seconds| {
        let in_use = |address: IpAddr| open.get() && address == ip("10.0.0.1");
        known.learn(answer, in_use, at(seconds), GRACE).expect("not too many");
        let expired = known.expired(at(seconds));
        known.forget(&expired);
        expired
    };
    learn(&mut known, &answer(&["10.0.0.1", "10.0.0.2"]), 0);
    assert!(learn(&mut known, &answer(&["10.0.0.3"]), 100).is_empty());
    assert_eq!(known.addresses(), addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]));
    // The one without a connection goes; the last that was heard of it was at 0.
    assert!(learn(&mut known, &answer(&["10.0.0.3"]), 599).is_empty());
    assert_eq!(learn(&mut known, &answer(&["10.0.0.3"]), 600), addresses(&["10.0.0.2"]));
    assert!(learn(&mut known, &answer(&["10.0.0.3"]), 5000).is_empty());
    open.set(false);
    assert!(learn(&mut known, &answer(&["10.0.0.3"]), 5599).is_empty());
    assert_eq!(learn(&mut known, &answer(&["10.0.0.3"]), 5600), addresses(&["10.0.0.1"]));
    // One that comes back is as good as new.
    learn(&mut known, &answer(&["10.0.0.1"]), 6000);
    assert!(learn(&mut known, &answer(&["10.0.0.3"]), 6599).is_empty());
}

#[test]
fn what_could_not_be_asked_does_not_age() {
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let mut known = Known::default();
    let mut learn = |answer: &Answer, seconds| {
        known.learn(answer, |_| false, at(seconds), GRACE).expect("not too many");
        let expired = known.expired(at(seconds));
        known.forget(&expired);
        known.addresses()
    };
    let both = addresses(&["10.0.0.1", "2001:db8::1"]);
    learn(&answer(&["10.0.0.1", "2001:db8::1"]), 0);
    assert_eq!(learn(&Answer { all_v6: false, ..answer(&["10.0.0.1"]) }, 1000), both);
    // It does not resolve, for a long time.
    assert_eq!(learn(&answer(&[]), 2000), both);
    assert_eq!(learn(&answer(&[]), 9000), both);
    // And then to something else: the time of grace begins when it was last asked for in vain.
    assert_eq!(learn(&answer(&["10.0.0.2"]), 9599).len(), 3);
    assert_eq!(learn(&answer(&["10.0.0.2"]), 9600), addresses(&["10.0.0.2"]));
}

#[test]
fn an_answer_is_good_for_as_long_as_it_says() {
    let begin = Instant::now();
    let mut known = Known::default();
    let hour = Duration::from_secs(3600);
    known.learn(&Answer { ttl: Some(hour), ..answer(&["10.0.0.1"]) }, |_| false, begin, GRACE).expect("few");
    known.learn(&answer(&["10.0.0.2"]), |_| false, begin + GRACE, GRACE).expect("few");
    assert!(known.expired(begin + GRACE).is_empty());
    assert_eq!(known.expired(begin + 2 * GRACE), addresses(&["10.0.0.2"]));
    assert!(known.expired(begin + hour).contains(&ip("10.0.0.1")));
}

#[test]
fn there_is_a_bound_and_the_oldest_go_first() {
    let begin = Instant::now();
    let mut known = Known::default();
    let used = ip("10.0.0.0");
    for number in 0..1000_u32 {
        let address = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + number));
        let answer = Answer { addresses: [address].into(), ..answer(&[]) };
        let now = begin + Duration::from_millis(number.into());
        known.learn(&answer, |address| address == used, now, GRACE).expect("not too many");
        assert!(known.contains(address) && known.contains(used));
        assert!(known.addresses().len() <= MAX_NAME_ADDRESSES);
    }
    let many = (0..2 * MAX_NAME_ADDRESSES as u32).map(|number| Ipv4Addr::from_bits(number).into()).collect();
    let answer = Answer { addresses: many, ..answer(&[]) };
    assert_eq!(known.learn(&answer, |_| true, begin, GRACE), Err(2 * MAX_NAME_ADDRESSES));
    assert_eq!(known.addresses().len(), MAX_NAME_ADDRESSES);
}
