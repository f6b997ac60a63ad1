//! Laws 1, 2, 3 and 5, over random messages to a toy database.

use proptest::prelude::*;

use super::{super::*, rig::*};

fn a_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("select 1".to_owned()),
        Just("secret".to_owned()),
        Just("forbidden".to_owned()),
        Just("fail".to_owned()),
        Just("begin".to_owned()),
        Just("commit".to_owned()),
        Just("rollback".to_owned()),
        Just("create".to_owned()),
        Just("nonsense".to_owned()),
        Just("copyout".to_owned()),
        Just("select 1; copyout; secret".to_owned()),
        Just("select 1; forbidden".to_owned()),
        Just("prepare a select 1; fail".to_owned()),
        (a_name(), prop_oneof![Just("select 1"), Just("forbidden")])
            .prop_map(|(name, text)| format!("prepare {name} {text}")),
        a_name().prop_map(|name| format!("execute {name}")),
        a_name().prop_map(|name| format!("declare {name} secret")),
        a_name().prop_map(|name| format!("declare {name} forbidden")),
        a_name().prop_map(|name| format!("deallocate {name}")),
    ]
}

fn a_name() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b")]
}

fn a_protocol_name() -> impl Strategy<Value = String> {
    let long = "x".repeat(63);
    prop_oneof![
        4 => Just(String::new()),
        4 => a_name().prop_map(str::to_owned),
        1 => Just(long.clone()),
        1 => Just(long + "y"),
    ]
}

fn a_message() -> impl Strategy<Value = Bytes> {
    let kind = || prop_oneof![Just(b'S'), Just(b'P')];
    prop_oneof![
        2 => a_text().prop_map(|text| query(&text)),
        3 => (a_protocol_name(), a_text()).prop_map(|(name, text)| parse(&name, &text)),
        3 => (a_protocol_name(), a_protocol_name()).prop_map(|(portal, statement)| bind(&portal, &statement)),
        3 => a_protocol_name().prop_map(|portal| execute(&portal)),
        1 => (kind(), a_protocol_name()).prop_map(|(kind, name)| describe(kind, &name)),
        1 => (kind(), a_protocol_name()).prop_map(|(kind, name)| close(kind, &name)),
        1 => Just(message::write_bare(from_client::FLUSH)),
        1 => (1u32..6).prop_map(function_call),
        3 => Just(sync()),
    ]
}

/// What a client may send while data is copied from it, up to its end.
fn data() -> impl Strategy<Value = Vec<Bytes>> {
    let piece = prop_oneof![
        6 => prop_oneof![Just("line\n"), Just("li"), Just("ne\n"), Just(""), Just("bad\n")].prop_map(copy_data),
        1 => Just(sync()),
        1 => Just(message::write_bare(from_client::FLUSH)),
    ];
    let end = prop_oneof![3 => Just(copy_done()), 1 => Just(copy_fail())];
    (proptest::collection::vec(piece, 0..6), end).prop_map(|(mut pieces, end)| {
        pieces.push(end);
        pieces
    })
}

/// A COPY from the client, whole, in both protocols; its name is used for nothing else.
fn a_copy() -> impl Strategy<Value = Vec<Bytes>> {
    let simple = prop_oneof![
        Just("copyin"),
        Just("select 1; copyin"),
        Just("copyin; fail"),
        Just("fail; copyin"),
        Just("forbidden; copyin"),
    ];
    let early = prop_oneof![Just(Vec::new()), Just(vec![sync()])];
    prop_oneof![
        (simple, data()).prop_map(|(text, data)| [vec![query(text)], data].concat()),
        (data(), data()).prop_map(|(one, two)| [vec![query("copyin; copyin")], one, two].concat()),
        (early, data()).prop_map(|(early, data)| {
            let begin = vec![parse("c", "copyin"), bind("c", "c"), execute("c")];
            [begin, early, data, vec![sync(), close(b'S', "c"), sync()]].concat()
        }),
    ]
}

fn messages() -> impl Strategy<Value = Vec<Bytes>> {
    let stray = prop_oneof![Just(copy_data("stray\n")), Just(copy_done()), Just(copy_fail())];
    let group = prop_oneof![
        12 => a_message().prop_map(|message| vec![message]),
        1 => stray.prop_map(|message| vec![message]),
        1 => a_copy(),
    ];
    proptest::collection::vec(group, 0..40).prop_map(|groups| groups.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Law 1: any split of the input gives the same steps.
    #[test]
    fn splits_make_no_difference(messages in messages(), cuts in proptest::collection::vec(1usize..40, 1..200)) {
        let bytes: Vec<u8> = messages.iter().flatten().copied().collect();
        let mut whole = Rig::new(true);
        whole.client(&bytes);
        whole.steps();
        let mut pieces = Rig::new(true);
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            pieces.client(piece);
            pieces.steps();
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(&whole.did, &pieces.did);
        // And the server's side, byte by byte: what waits for an answer may be dealt with earlier, so that an error may be
        // the server's own instead of ours, but the client is answered the same, and the same is run.
        whole.settle();
        while !pieces.server.outgoing.is_empty() {
            for byte in std::mem::take(&mut pieces.server.outgoing) {
                pieces.server(&[byte]);
                pieces.steps();
            }
        }
        prop_assert_eq!(whole.heard().0, pieces.heard().0);
        // Where an answer ends the session, what was dealt with earlier may have gone before that answer was read.
        match whole.did.last() {
            Some(Did::Closed(_)) => prop_assert!(pieces.server.ran.starts_with(&whole.server.ran)),
            _ => prop_assert_eq!(whole.server.ran, pieces.server.ran),
        }
    }

    /// Law 2: nothing of an operation reaches the server before its permit, and nothing that has none.
    #[test]
    fn nothing_goes_before_its_permit(messages in messages(), patience in 0usize..20) {
        let mut rig = Rig::new(true);
        rig.send(&messages);
        prop_assert!(!rig.server.ran.iter().any(|text| text.contains("forbidden") && !text.starts_with("prepare")));
        // The same with a driver that falls silent: nothing more goes.
        let mut silent = Rig::new(true);
        silent.patience = patience;
        silent.send(&messages);
        if silent.patience == 0 && matches!(silent.machine.client, Client::Deciding(_)) {
            let before = silent.upstream();
            silent.client(&query("select 2"));
            silent.settle();
            prop_assert_eq!(silent.upstream(), before);
        }
    }

    /// Law 3: whatever was refused, the session goes on, and every Sync and Query is answered.
    #[test]
    fn the_session_stays_usable(messages in messages()) {
        let mut rig = Rig::new(true);
        rig.send(&messages).send(&[sync(), query("rollback"), query("select 12345")]);
        prop_assert!(!rig.did.iter().any(|did| matches!(did, Did::Closed(_))), "{:?}", rig.did.last());
        let (kinds, texts) = rig.heard();
        prop_assert!(kinds.ends_with("TDCZ"), "{kinds}");
        prop_assert!(texts.contains("12345"));
        prop_assert!(!texts.contains("111-22"));
    }

    /// Law 5: nothing panics, and memory does not grow beyond what came.
    #[test]
    fn anything_can_come(
        from_client in proptest::collection::vec(any::<u8>(), 0..300),
        from_server in proptest::collection::vec(any::<u8>(), 0..300),
        before in messages(),
        cut in 0usize..200,
    ) {
        let mut rig = Rig::new(true);
        let bytes: Vec<u8> = before.iter().flatten().copied().collect();
        rig.client(&bytes[..cut.min(bytes.len())]);
        rig.steps();
        rig.client(&from_client);
        rig.steps();
        rig.server(&from_server);
        rig.steps();
        prop_assert!(rig.machine.from_client.len() <= bytes.len() + from_client.len());
        prop_assert!(rig.machine.from_server.len() <= from_server.len());
    }
}
