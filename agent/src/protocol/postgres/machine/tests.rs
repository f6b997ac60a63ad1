//! The laws that every protocol keeps, over the machine: with a toy database, and with anything at all.

mod copies;
mod cursors;
mod denials;
mod laws;
mod limits;
mod rows;

use super::{rig::*, *};
use crate::protocol::postgres::frame::server as from_server;

#[test]
fn an_old_catalogue_is_read_again_before_the_next_statement() {
    let mut rig = Rig::new(false);
    rig.send(&[query("select 1")]);
    assert!(!rig.did.contains(&Did::Refreshed));
    rig.machine.outdated();
    rig.send(&[query("select 2"), query("select 3")]);
    let at = rig.did.iter().position(|did| *did == Did::Refreshed).expect("it is read");
    assert!(!rig.did[at + 1..].contains(&Did::Refreshed));
    let asked = |did: &&Did| matches!(did, Did::Asked(_));
    assert_eq!((rig.did[..at].iter().filter(asked).count(), rig.did[at..].iter().filter(asked).count()), (1, 2));
}

#[test]
fn masked_columns_are_masked_in_both_protocols() {
    let mut rig = Rig::new(true);
    rig.send(&[query("secret"), parse("s", "secret"), bind("", "s"), execute(""), sync(), bind("p", "s")]);
    rig.send(&[describe(b'P', "p"), execute("p"), sync()]);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "TDCZ12DCZ2TDCZ");
    assert!(!texts.contains("111-22") && texts.contains("***3333"), "{texts}");
}

#[test]
fn an_unknown_origin_closes() {
    let mut rig = Rig::new(true);
    rig.send(&[query("strange"), query("select 1")]);
    assert_eq!(rig.heard().0, "E");
    assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Server(_)))));
}

#[test]
fn what_is_unproven_is_refused_and_only_observed_in_observe_mode() {
    let mut rig = Rig::new(true);
    rig.send(&[query("unproven")]);
    assert_eq!(rig.heard().0, "EZ");
    let mut rig = Rig::in_mode(true, Mode::Observe);
    rig.send(&[query("unproven"), query("forbidden"), query("secret")]);
    assert_eq!(rig.server.ran, ["unproven", "forbidden", "secret"]);
    assert!(rig.heard().1.contains("111-22-3333"), "the client sees everything");
}

#[test]
fn functions_are_called_where_that_is_permitted_and_their_results_are_clear() {
    let mut rig = Rig::new(true);
    for function in 1..6 {
        rig.send(&[function_call(function)]);
    }
    rig.send(&[query("begin"), function_call(2), function_call(1), query("rollback"), function_call(1)]);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "VZEZEZEZEZCZEZEZCZVZ");
    assert!(texts.contains("not proven") && texts.contains("22012") && texts.contains("25P02"), "{texts}");
    assert_eq!(rig.server.ran, ["called select 9", "begin", "rollback", "called select 9"]);
    let finished = rig.recorded.iter().filter(|event| matches!(event, Event::Finished { rows: 1, .. }));
    assert_eq!(finished.count(), 2);
    // One that nobody knows is the most dangerous; what is only observed goes.
    let mut rig = Rig::in_mode(true, Mode::Observe);
    rig.send(&[function_call(2), function_call(3)]);
    assert_eq!(rig.heard().0, "VZVZ");
}

#[test]
fn a_cursor_of_sql_is_run_by_execute_decided_and_masked_each_time() {
    let mut rig = Rig::new(true);
    rig.send(&[query("begin"), query("declare c secret"), execute("c"), execute("c"), sync()]);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "CZCZDCCZ");
    assert!(!texts.contains("111-22") && texts.contains("***3333"), "{texts}");
    let asked = rig.did.iter().filter(|did| matches!(did, Did::Asked(_)));
    let finished = rig.recorded.iter().filter(|event| matches!(event, Event::Finished { .. }));
    assert_eq!((asked.count(), finished.count()), (4, 4));
}

#[test]
fn names_are_those_of_the_server() {
    // SQL and the protocol share their names.
    let mut rig = Rig::new(false);
    rig.send(&[query("prepare a select 1"), query("execute a"), bind("", "a"), execute(""), sync()]);
    assert_eq!(rig.heard().0, "CZTDCZ2DCZ");
    // What failed to be prepared stands for nothing.
    let mut rig = Rig::new(false);
    rig.send(&[parse("a", "select 1"), sync(), parse("a", "select 2"), sync(), bind("", "a"), execute(""), sync()]);
    assert_eq!(rig.heard().0, "1ZEZ2DCZ");
    assert_eq!(rig.server.ran, ["select 1"]);
    // A statement is decided as what its names stand for when it runs.
    let mut rig = Rig::new(false);
    rig.send(&[query("prepare a select 1"), parse("e", "execute a"), sync(), query("deallocate a")]);
    rig.send(&[parse("a", "forbidden"), sync(), bind("", "e"), execute(""), sync()]);
    assert!(!rig.server.ran.iter().any(|text| text == "forbidden"));
    assert!(rig.heard().1.contains("42501"));
}

#[test]
fn names_that_the_server_would_cut_are_refused() {
    let mut rig = Rig::new(false);
    let long = "x".repeat(64);
    rig.send(&[parse(&long, "select 1"), sync(), query(format!("prepare {long} select 1"))]);
    assert_eq!(rig.heard().0, "EZEZ");
    // Once is enough, if both names of a Bind are such.
    rig.send(&[bind(&long, &long), sync()]);
    assert_eq!(rig.heard().0, "EZEZEZ");
    assert!(rig.upstream().is_empty());
}

#[test]
fn unknown_names_are_refused_with_the_servers_own_codes() {
    let mut rig = Rig::new(false);
    rig.send(&[bind("", "nothing"), sync(), execute("nothing"), sync(), describe(b'S', "nothing"), sync()]);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "EZEZEZ");
    assert!(texts.contains("26000") && texts.contains("34000"));
    assert!(rig.upstream().is_empty());
}

#[test]
fn the_catalogue_is_read_after_it_changed_and_before_the_next_decision() {
    let mut rig = Rig::new(true);
    rig.send(&[query("create"), query("select 1")]);
    let position = |wanted: &dyn Fn(&Did) -> bool| rig.did.iter().position(wanted).expect("it happened");
    let refreshed = position(&|did| *did == Did::Refreshed);
    let asked = rig.did.iter().rposition(|did| matches!(did, Did::Asked(_))).expect("it happened");
    assert!(refreshed < asked);
    let pipeline = [parse("", "create"), bind("", ""), execute(""), parse("", "select 1"), sync()];
    let mut rig = Rig::new(true);
    rig.send(&pipeline);
    assert_eq!(rig.heard().0, "12CEZ");
}

#[test]
fn what_follows_a_change_in_its_pipeline_may_mean_anything() {
    let mut rig = Rig::new(false);
    rig.send(&[
        parse("", "create"),
        bind("", ""),
        execute(""),
        parse("", "select 1"),
        bind("", ""),
        execute(""),
        sync(),
    ]);
    let asked = rig.did.iter().filter_map(|did| if let Did::Asked(action) = did { Some(action) } else { None });
    let opaque = |action: &crate::model::Action| action.requests.iter().any(|request| request.action == "sql:opaque");
    assert_eq!(asked.map(opaque).collect::<Vec<_>>(), [false, false, true, true]);
    // The next pipeline sees the catalogue as it is.
    rig.did.clear();
    rig.send(&[bind("", ""), execute(""), sync()]);
    assert!(!rig.did.iter().any(|did| matches!(did, Did::Asked(action) if opaque(action))), "{:?}", rig.did);
}

#[test]
fn an_encoding_that_hides_ascii_closes() {
    let mut rig = Rig::new(false);
    rig.server(&parameter("client_encoding", "SJIS"));
    rig.settle();
    assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Server(_)))));
}

#[test]
fn a_text_that_the_setting_makes_ambiguous_is_the_most_dangerous() {
    for (name, value, text, dangerous) in [
        ("standard_conforming_strings", "off", "select \\", true),
        ("standard_conforming_strings", "off", "select 1", false),
        ("standard_conforming_strings", "on", "select \\", false),
        ("client_encoding", "LATIN9", "select \u{e4}", true),
        ("client_encoding", "EUC_KR", "select 1", false),
    ] {
        for hides in [false, true] {
            let mut rig = Rig::new(hides);
            rig.server(&parameter(name, value));
            rig.settle();
            rig.send(&[query(text)]);
            let asked = rig.did.iter().find_map(|did| if let Did::Asked(action) = did { Some(action) } else { None });
            let opaque = asked.expect("it was asked").requests.iter().any(|request| request.action == "sql:opaque");
            assert_eq!(opaque, dangerous, "{name} = {value}: {text}");
        }
    }
}

#[test]
fn a_setting_that_changes_how_a_text_under_way_is_read_closes() {
    for (name, value) in [("standard_conforming_strings", "off"), ("client_encoding", "LATIN9")] {
        let mut rig = Rig::new(false);
        for message in [query("begin"), query("select 1")] {
            rig.client(&message);
        }
        rig.steps();
        rig.server(&parameter(name, value));
        rig.steps();
        assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Server("unsafe setting")))), "{name}");
    }
}

fn parameter(name: &str, value: &str) -> Bytes {
    message::write(from_server::PARAMETER_STATUS, |body| {
        message::put_string(body, name.as_bytes());
        message::put_string(body, value.as_bytes());
    })
}

#[test]
fn what_cannot_be_read_is_the_most_dangerous() {
    let mut rig = Rig::new(false);
    rig.send(&[message::write(from_client::QUERY, |body| body.extend_from_slice(b"select \xff\0"))]);
    let Some(Did::Asked(action)) = rig.did.first() else { panic!("nothing was asked") };
    assert!(action.requests.iter().all(|request| request.action == "sql:opaque"));
    assert_eq!(rig.heard().0, "EZ");
}

#[test]
fn copying_that_nobody_asked_for_closes() {
    for kind in [from_server::COPY_IN_RESPONSE, from_server::COPY_OUT_RESPONSE, from_server::COPY_BOTH_RESPONSE] {
        let mut rig = Rig::new(false);
        rig.client(&query("begin"));
        rig.steps();
        rig.server(&message::write(kind, |body| body.extend_from_slice(&[0; 3])));
        rig.steps();
        assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Server("copy")))));
    }
}

#[test]
fn errors_of_the_server_quote_nothing_where_columns_are_masked() {
    let error = message::write(from_server::ERROR_RESPONSE, |body| {
        for (code, text) in [
            (b'S', "ERROR"),
            (b'V', "ERROR"),
            (b'C', "22P02"),
            (b'M', "invalid input syntax: \"111-22-3333\""),
            (b'D', "111-22-3333"),
            (b'H', "111-22-3333"),
            (b'W', "111-22-3333"),
            (b'q', "111-22-3333"),
            (b't', "customers"),
        ] {
            body.extend_from_slice(&[code]);
            message::put_string(body, text.as_bytes());
        }
        body.extend_from_slice(&[0]);
    });
    for (masks, shown) in [(true, false), (false, true)] {
        let mut rig = Rig::new(masks);
        rig.server(&error);
        rig.settle();
        let (_, texts) = rig.heard();
        assert_eq!(texts.contains("111-22"), shown);
        assert!(texts.contains("22P02") && texts.contains("customers"));
    }
}

#[test]
fn announced_lengths_reserve_nothing() {
    for kind in 0..=u8::MAX {
        for length in [0u32, 3, 4, 1 << 20, 64 << 20, u32::MAX] {
            let mut rig = Rig::new(true);
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&length.to_be_bytes());
            rig.client(&bytes);
            rig.server(&bytes);
            rig.steps();
            assert!(rig.machine.from_client.capacity() < 4_096 && rig.machine.from_server.capacity() < 4_096);
        }
    }
}

#[test]
fn what_is_held_until_it_is_decided_is_bounded_and_the_error_says_so() {
    for (length, code) in [(64u32 << 20 | 1, "54000"), (0x3fff_fffe, "54000"), (0x3fff_ffff, "08P01"), (3, "08P01")] {
        for kind in [from_client::QUERY, from_client::PARSE, from_client::BIND, from_client::FUNCTION_CALL] {
            let mut rig = Rig::new(false);
            rig.client(&[&[kind], &length.to_be_bytes()[..]].concat());
            rig.steps();
            let (kinds, texts) = rig.heard();
            assert!(kinds == "E" && texts.contains(code), "{length}: {texts}");
            assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Client(_)))));
        }
    }
}

#[test]
fn outstanding_answers_are_bounded() {
    let mut rig = Rig::new(false);
    for number in 0..3 * pending::PENDING {
        rig.client(&parse("", format!("select {number}")));
    }
    rig.steps();
    assert!(rig.machine.queue.0.len() <= pending::PENDING);
    rig.settle();
    assert_eq!(rig.heard().0.len(), 3 * pending::PENDING);
    // Names are bounded too.
    let mut rig = Rig::new(false);
    for number in 0..=names::NAMES {
        rig.client(&parse(format!("n{number}"), "select 1"));
        rig.client(&sync());
    }
    rig.settle();
    assert!(rig.heard().1.contains("53400"));
    assert_eq!(rig.machine.committed.count().statements, names::NAMES);
}
