//! Limits of statements: a server that cancels, one that has finished by then, and one that does neither.

use std::time::Duration;

use super::{super::*, from_server, rig::*};
use crate::{
    model::{Limit, Measure},
    protocol::postgres::{machine::limiting::PATIENCE, message::ready_for_query},
};

fn limit(measure: Measure, most: u64) -> Option<Limit> {
    Some(Limit { measure, role: "r".into(), most })
}

fn rows(most: u64) -> PerStatement {
    PerStatement { rows: limit(Measure::Rows, most), ..PerStatement::default() }
}

fn bytes(most: u64) -> PerStatement {
    PerStatement { bytes: limit(Measure::Bytes, most), ..PerStatement::default() }
}

fn seconds(most: u64) -> PerStatement {
    PerStatement { time: limit(Measure::StatementTime, most * 1_000), ..PerStatement::default() }
}

fn limited(limits: PerStatement) -> Rig {
    Rig::limited(false, Mode::Enforce, limits)
}

/// The client has sent this, and the server says only what a test says for it.
fn mute(limits: PerStatement, messages: &[Bytes]) -> Rig {
    let mut rig = limited(limits);
    messages.iter().for_each(|message| rig.client(message));
    rig.steps();
    rig.server.outgoing.clear();
    rig
}

fn server_error(code: &str) -> Bytes {
    message::write(from_server::ERROR_RESPONSE, |body| {
        for (field, text) in [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code), (b'M', "the server's own")] {
            body.extend_from_slice(&[field]);
            message::put_string(body, text.as_bytes());
        }
        body.extend_from_slice(&[0]);
    })
}

fn row(value: &str) -> Bytes {
    message::write(from_server::DATA_ROW, |body| {
        body.extend_from_slice(&[0, 1]);
        body.extend_from_slice(&u32::try_from(value.len()).expect("short").to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    })
}

fn complete() -> Bytes {
    message::write(from_server::COMMAND_COMPLETE, |body| message::put_string(body, b"SELECT 3"))
}

fn bare(kind: u8) -> Bytes {
    message::write_bare(kind)
}

fn reached(rig: &Rig) -> usize {
    rig.recorded.iter().filter(|event| matches!(event, Event::LimitReached { operation: Some(_), .. })).count()
}

fn asked_to_cancel(rig: &Rig) -> bool {
    rig.did.contains(&Did::Cancel)
}

fn closed(rig: &Rig) -> bool {
    matches!(rig.did.last(), Some(Did::Closed(Close::Agent(_))))
}

#[test]
fn the_error_of_a_cancelled_statement_is_ours_and_what_follows_waits_for_the_end_of_the_request() {
    let mut rig = mute(rows(2), &[query("select 1"), query("select 2")]);
    for part in [row("a"), row("b"), row("c"), row("d"), server_error("57014"), ready_for_query(b'I')] {
        rig.server(&part);
        rig.steps();
    }
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "DDEZ");
    assert!(
        texts.contains("53400") && texts.contains("limit rows of role \"r\"") && !texts.contains("57014"),
        "{texts}"
    );
    assert_eq!((reached(&rig), asked_to_cancel(&rig)), (1, true));
    // The server is ready, and yet the request could still reach it.
    assert!(!rig.upstream().contains("select 2"));
    assert!(!rig.machine.wants_client());
    rig.cancelled(true);
    assert!(rig.upstream().contains("select 2"));
    assert_eq!(rig.heard().0, "DDEZTDCZ");
    let failed = rig.recorded.iter().find_map(|event| match event {
        Event::Finished { rows, error: Some(error), .. } => Some((*rows, error.code.as_str())),
        _ => None,
    });
    assert_eq!(failed, Some((2, "53400")));
}

#[test]
fn a_query_that_only_reads_and_completes_first_fails_for_the_client() {
    let mut rig = limited(rows(0));
    rig.send(&[query("select 1")]);
    // The server's state is not shown before the request has ended.
    assert_eq!(rig.heard().0, "T");
    rig.cancelled(true);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "TEZ");
    assert!(texts.contains("53400"), "{texts}");
    rig.send(&[query("begin")]);
    assert_eq!(rig.heard().0, "TEZCZ");
}

#[test]
fn within_a_transaction_one_that_completes_first_is_undone_by_the_server() {
    let mut rig = limited(rows(0));
    rig.send(&[query("begin"), query("select 1"), query("begin"), query("rollback")]);
    assert_eq!(rig.heard().0, "CZT");
    rig.cancelled(true);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "CZTEZEZCZ");
    assert!(texts.contains("53400") && texts.contains("25P02"), "{texts}");
    assert_eq!(rig.server.ran, ["begin", "select 1", "rollback"]);
}

#[test]
fn one_that_may_have_written_and_completes_first_ends_the_session() {
    for limits in [rows(0), bytes(10)] {
        let mut rig = limited(limits);
        rig.send(&[query("secret")]);
        rig.cancelled(true);
        let (kinds, texts) = rig.heard();
        assert!(kinds == "TE" && texts.contains("FATAL") && texts.contains("53400"), "{kinds} {texts}");
        assert!(closed(&rig) && reached(&rig) == 1);
    }
}

#[test]
fn a_text_that_goes_on_after_it_ends_the_session() {
    let mut rig = limited(rows(0));
    rig.send(&[query("select 1; select 2")]);
    assert!(closed(&rig) && !rig.heard().0.contains('C'), "{:?}", rig.heard());
}

#[test]
fn within_a_pipeline_the_server_undoes_it_before_it_can_commit() {
    let mut rig = limited(rows(0));
    let pipeline = [parse("", "select 1"), bind("", ""), execute(""), parse("x", "select 2"), sync()];
    for message in &pipeline {
        rig.client(message);
    }
    rig.settle();
    // What comes after it in the pipeline waits, and the server is asked for its answer.
    assert_eq!(rig.heard().0, "12");
    assert!(!rig.upstream().contains("select 2"));
    rig.cancelled(true);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "12EZ");
    assert!(texts.contains("53400") && !texts.contains("42601"), "{texts}");
    assert_eq!(rig.server.ran, ["select 1"]);
    rig.send(&[bind("", "x"), sync(), query("begin")]);
    assert_eq!(rig.heard().0, "12EZEZCZ");
}

#[test]
fn an_error_after_completion_is_ours_too() {
    let mut rig = mute(rows(0), &[parse("", "select 1"), bind("", ""), execute("")]);
    for part in [bare(from_server::PARSE_COMPLETE), bare(from_server::BIND_COMPLETE), row("a"), complete()] {
        rig.server(&part);
    }
    rig.steps();
    rig.server(&server_error("57014"));
    rig.steps();
    rig.client(&sync());
    rig.cancelled(true);
    let (kinds, texts) = rig.heard();
    assert!(kinds == "12EZ" && texts.contains("53400"), "{kinds} {texts}");
}

#[test]
fn rows_of_a_portal_add_up_over_its_executions() {
    let mut rig = mute(rows(3), &[parse("", "select 1"), bind("p", ""), execute("p")]);
    let suspended = bare(from_server::PORTAL_SUSPENDED);
    for part in [bare(from_server::PARSE_COMPLETE), bare(from_server::BIND_COMPLETE), row("a"), row("b"), suspended] {
        rig.server(&part);
    }
    rig.steps();
    rig.client(&execute("p"));
    rig.steps();
    rig.server(&row("c"));
    rig.server(&row("d"));
    rig.steps();
    assert_eq!((rig.heard().0.as_str(), asked_to_cancel(&rig)), ("12DDsD", true));
}

#[test]
fn each_statement_of_a_text_has_its_own_share() {
    let mut rig = limited(rows(1));
    rig.send(&[query("select 1; select 2; select 3")]);
    assert_eq!((rig.heard().0.as_str(), reached(&rig)), ("TDCTDCTDCZ", 0));
}

#[test]
fn a_server_that_does_not_end_it_loses_the_session() {
    let mut rig = mute(seconds(5), &[query("select 1")]);
    rig.wait(Duration::from_millis(4_999));
    assert!(!asked_to_cancel(&rig));
    assert!(rig.machine.deadline().is_some());
    rig.wait(Duration::from_millis(1));
    assert!(asked_to_cancel(&rig) && reached(&rig) == 1);
    rig.cancelled(true);
    rig.server.outgoing.clear();
    rig.wait(PATIENCE - Duration::from_millis(1));
    assert!(!closed(&rig));
    rig.wait(Duration::from_millis(1));
    let (kinds, texts) = rig.heard();
    assert!(closed(&rig) && kinds == "E", "{kinds}");
    assert!(texts.contains("FATAL") && texts.contains("a statement takes at most 5s"), "{texts}");
    // Also if it is the request that does not end.
    let mut rig = mute(seconds(5), &[query("select 1")]);
    rig.wait(Duration::from_secs(5));
    rig.server(&server_error("57014"));
    rig.server(&ready_for_query(b'I'));
    rig.wait(PATIENCE);
    assert!(closed(&rig));
}

#[test]
fn a_request_that_cannot_be_made_ends_the_session_unless_the_statement_has_ended() {
    let mut rig = mute(seconds(5), &[query("select 1")]);
    rig.wait(Duration::from_secs(5));
    rig.cancelled(false);
    assert!(closed(&rig));
    let mut rig = mute(seconds(5), &[query("select 1")]);
    rig.wait(Duration::from_secs(5));
    rig.server(&server_error("22012"));
    rig.server(&ready_for_query(b'I'));
    rig.steps();
    rig.cancelled(false);
    assert_eq!((closed(&rig), rig.heard().0.as_str(), rig.machine.wants_client()), (false, "EZ", true));
}

#[test]
fn time_counts_from_when_the_server_comes_to_it() {
    let mut rig = limited(seconds(5));
    rig.send(&[query("begin")]);
    rig.wait(Duration::from_secs(600));
    assert_eq!(rig.machine.deadline(), None);
    rig.client(&query("select 1"));
    rig.steps();
    rig.server.outgoing.clear();
    rig.wait(Duration::from_secs(4));
    assert!(!asked_to_cancel(&rig));
    rig.wait(Duration::from_secs(1));
    assert!(asked_to_cancel(&rig));
}

#[test]
fn a_message_that_has_begun_is_shown_to_its_end() {
    let mut rig = mute(seconds(5), &[query("select 1")]);
    let long = message::write(from_server::DATA_ROW, |body| body.extend_from_slice(&vec![b'x'; 300 << 10]));
    let (begin, end) = long.split_at(1_000);
    rig.server(begin);
    rig.steps();
    rig.wait(Duration::from_secs(5));
    assert!(asked_to_cancel(&rig));
    for part in [end, &long, &row("more"), &server_error("57014"), &ready_for_query(b'I')] {
        rig.server(part);
        rig.steps();
    }
    assert_eq!(rig.heard().0, "DEZ");
}

#[test]
fn what_is_copied_from_the_client_fails_at_the_server() {
    for extended in [false, true] {
        let mut rig = limited(bytes(20));
        match extended {
            false => rig.send(&[query("copyin")]),
            true => rig.send(&[parse("", "copyin"), bind("", ""), execute("")]),
        };
        rig.send(&[copy_data("one\n"), copy_data("two\n"), copy_data("three\n"), copy_data("four\n"), copy_done()]);
        if extended {
            rig.send(&[sync()]);
        }
        let (kinds, texts) = rig.heard();
        assert!(kinds.ends_with("GEZ") && texts.contains("53400"), "{kinds} {texts}");
        assert!(!asked_to_cancel(&rig) && reached(&rig) == 1);
        let upstream = rig.upstream();
        assert!(upstream.contains("two") && !upstream.contains("three") && !upstream.contains("four"), "{upstream}");
        rig.send(&[query("begin")]);
        assert!(rig.heard().0.ends_with("EZCZ"), "{}", rig.heard().0);
    }
}

#[test]
fn time_within_the_clients_message_fails_the_copy_at_its_end() {
    let mut rig = limited(seconds(5));
    rig.send(&[query("copyin")]);
    let message = copy_data("something long\n");
    rig.client(&message[..9]);
    rig.settle();
    rig.wait(Duration::from_secs(5));
    assert!(rig.machine.wants_client() && !rig.heard().0.contains('E'));
    rig.client(&[&message[9..], &copy_data("more\n")[..]].concat());
    rig.settle();
    let (kinds, texts) = rig.heard();
    assert!(kinds == "GEZ" && texts.contains("53400"), "{kinds} {texts}");
    assert!(rig.upstream().contains("something long") && !rig.upstream().contains("more"));
    assert!(!rig.server.ran.iter().any(|ran| ran.contains("copied")), "{:?}", rig.server.ran);
}

#[test]
fn what_is_copied_to_the_client_stops_between_messages() {
    let mut rig = limited(rows(1));
    rig.send(&[query("copyout")]);
    rig.cancelled(true);
    let (kinds, texts) = rig.heard();
    assert!(kinds.starts_with("Hd") && !kinds.contains('c') && texts.contains("53400"), "{kinds} {texts}");
    assert!(texts.contains("one\n") && !texts.contains("two\n"), "{texts}");
}

#[test]
fn a_function_result_beyond_a_limit_is_withheld() {
    let mut rig = limited(bytes(3));
    rig.send(&[query("begin"), function_call(1)]);
    rig.cancelled(true);
    let (kinds, texts) = rig.heard();
    assert!(kinds == "CZEZ" && texts.contains("53400"), "{kinds} {texts}");
}

#[test]
fn masked_rows_count_as_they_are_shown() {
    // "111-22-3333" is shown as "***3333": seven characters, and eleven bytes around them.
    for (most, kinds) in [(18, "TDCZ"), (17, "T")] {
        let mut rig = Rig::limited(true, Mode::Enforce, bytes(most));
        rig.send(&[query("secret")]);
        assert_eq!(rig.heard().0, kinds, "{most}");
    }
}

#[test]
fn where_nothing_is_enforced_a_limit_is_noted_once_for_each_statement() {
    let all = PerStatement { time: seconds(5).time, ..rows(0) };
    let mut rig = Rig::limited(false, Mode::Observe, all);
    rig.send(&[query("select 1"), query("select 2; select 3")]);
    assert_eq!((rig.heard().0.as_str(), reached(&rig), asked_to_cancel(&rig)), ("TDCZTDCTDCZ", 3, false));
    let mut rig = Rig::limited(false, Mode::Observe, seconds(5));
    rig.client(&query("select 1"));
    rig.steps();
    rig.wait(Duration::from_secs(50));
    rig.wait(Duration::from_secs(50));
    rig.settle();
    assert_eq!((rig.heard().0.as_str(), reached(&rig), asked_to_cancel(&rig)), ("TDCZ", 1, false));
}

#[test]
fn answers_that_the_server_keeps_to_itself_are_not_late() {
    // Nothing asks for the answer to a Parse.
    let mut rig = mute(seconds(5), &[parse("", "select 1"), bind("", "")]);
    rig.wait(Duration::from_secs(600));
    assert!(!asked_to_cancel(&rig));
    // What prepares a statement is answered together with it.
    rig.client(&execute(""));
    rig.steps();
    rig.server.outgoing.clear();
    rig.wait(Duration::from_secs(4));
    assert!(!asked_to_cancel(&rig));
    rig.wait(Duration::from_secs(1));
    assert!(asked_to_cancel(&rig) && reached(&rig) == 1);
    for part in [bare(from_server::PARSE_COMPLETE), bare(from_server::BIND_COMPLETE), row("a"), server_error("57014")] {
        rig.server(&part);
    }
    rig.steps();
    rig.cancelled(true);
    let (kinds, texts) = rig.heard();
    assert!(kinds == "12E" && texts.contains("53400"), "{kinds} {texts}");
    assert!(rig.machine.wants_client());
}
