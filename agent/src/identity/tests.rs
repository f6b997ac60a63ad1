use std::collections::BTreeSet;

use super::*;
use crate::{config::Limits, model::Executable};

const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn process() -> Process {
    Process {
        pid: 7,
        started: 1,
        uid: 1000,
        user: Some("svc-orders".into()),
        gid: 1001,
        groups: BTreeSet::from(["1001".into(), "orders".into(), "27".into(), "batch".into()]),
        exe: Executable {
            path: "/usr/bin/psql".into(),
            device: 1,
            inode: 2,
            sha256: Some(HASH.into()),
            verified: true,
        },
        argv: vec!["psql".into()],
        directory: "/".into(),
        cgroup: "/system.slice/orders-agent.service/worker".into(),
        unit: Some("orders-agent.service".into()),
        user_unit: None,
        container: Some(CONTAINER.into()),
    }
}

fn has(entry: Match, process: &Process) -> bool {
    !roles(&[Role { name: "r".into(), matches: vec![entry], limits: Limits::default() }], process).is_empty()
}

fn some(text: &str) -> Option<String> {
    Some(text.into())
}

#[test]
fn every_key_matches_its_fact_and_nothing_else() {
    let key = |change: fn(&mut Match, &str), text: &str| {
        let mut entry = Match::default();
        change(&mut entry, text);
        has(entry, &process())
    };
    for (text, expected) in [("orders-agent.service", true), ("orders-agent", false), ("", false)] {
        assert_eq!(key(|entry, text| entry.unit = some(text), text), expected, "unit {text}");
        assert!(!key(|entry, text| entry.user_unit = some(text), text), "user_unit {text}");
    }
    for (text, expected) in [("svc-orders", true), ("1000", true), ("1001", false), ("", false), ("root", false)] {
        assert_eq!(key(|entry, text| entry.user = some(text), text), expected, "user {text}");
    }
    for (text, expected) in [("orders", true), ("27", true), ("batch", true), ("1000", false), ("sudo", false)] {
        assert_eq!(key(|entry, text| entry.group = some(text), text), expected, "group {text}");
    }
    for (text, expected) in [("/usr/bin/psql", true), ("psql", false), ("/usr/bin", false), ("/usr/bin/psql2", false)] {
        assert_eq!(key(|entry, text| entry.exe = Some(text.into()), text), expected, "exe {text}");
    }
    for (text, expected) in [(CONTAINER, true), (&CONTAINER[..12], true), (&CONTAINER[1..], false), ("", false)] {
        assert_eq!(key(|entry, text| entry.container = some(text), text), expected, "container {text}");
    }
    for (text, expected) in [(HASH, true), (&HASH.to_uppercase(), true), (&HASH[1..], false), ("", false)] {
        assert_eq!(key(|entry, text| entry.exe_sha256 = some(text), text), expected, "exe_sha256 {text}");
    }
    for (text, expected) in [
        ("/system.slice/orders-agent.service/worker", true),
        ("/system.slice/orders-agent.service", true),
        ("/system.slice/", true),
        ("/", true),
        ("/system.slice/orders-agent", false),
        ("/system.slice/orders-agent.service/worker/deeper", false),
        ("system.slice", false),
    ] {
        assert_eq!(key(|entry, text| entry.cgroup = some(text), text), expected, "cgroup {text}");
    }
}

#[test]
fn all_keys_of_an_entry_and_any_entry_of_a_role() {
    let both = |user, exe: &str| Match { user: some(user), exe: Some(exe.into()), ..Match::default() };
    assert!(has(both("svc-orders", "/usr/bin/psql"), &process()));
    assert!(!has(both("svc-orders", "/usr/bin/python3"), &process()));
    assert!(!has(both("root", "/usr/bin/psql"), &process()));
    let role = |name: &str, matches| Role { name: name.into(), matches, limits: Limits::default() };
    let found = roles(
        &[
            role("reader", vec![both("root", "/bin/sh"), both("1000", "/usr/bin/psql")]),
            role("writer", vec![both("root", "/bin/sh")]),
            role("nobody", Vec::new()),
            role("anyone", vec![Match { cgroup: some("/"), ..Match::default() }]),
        ],
        &process(),
    );
    assert_eq!(found, ["reader", "anyone"]);
}

#[test]
fn an_entry_without_keys_matches_nothing() {
    assert!(!has(Match::default(), &process()));
}

#[test]
fn what_is_not_proven_does_not_match() {
    let exe = || Match { exe: Some("/usr/bin/psql".into()), ..Match::default() };
    let unit = || Match { unit: some("orders-agent.service"), ..Match::default() };
    let mut unverified = process();
    unverified.exe.verified = false;
    assert!(!has(exe(), &unverified));
    // A user's own unit of the same name is another thing.
    let mut user_unit = process();
    user_unit.user_unit = user_unit.unit.take();
    assert!(!has(unit(), &user_unit));
    assert!(has(Match { user_unit: some("orders-agent.service"), ..Match::default() }, &user_unit));
    // A user whose name is a number is not the user with that number.
    let mut numbered = process();
    numbered.user = some("4711");
    assert!(!has(Match { user: some("4711"), ..Match::default() }, &numbered));
}
