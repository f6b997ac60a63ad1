//! What a denial leaves.

use super::*;

#[test]
fn a_denial_outside_a_transaction_is_answered_locally() {
    let mut rig = Rig::new(false);
    rig.send(&[query("forbidden"), query("select 1")]);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "EZTDCZ");
    assert!(texts.contains("denied by Postern policy \"law\": Forbidden."), "{texts}");
    assert!(!rig.upstream().contains("forbidden"));

    let mut rig = Rig::new(false);
    rig.send(&[parse("", "forbidden"), bind("", ""), execute(""), sync(), query("select 1")]);
    assert_eq!(rig.heard().0, "1EZTDCZ");
    assert!(rig.server.ran == ["select 1"]);
}

#[test]
fn a_denial_within_a_transaction_fails_it_at_the_server() {
    let mut rig = Rig::new(false);
    rig.send(&[query("begin"), query("forbidden"), query("select 1"), query("rollback"), query("select 2")]);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "CZEZEZCZTDCZ");
    assert!(texts.contains("42501") && texts.contains("25P02"), "{texts}");
    assert_eq!(rig.server.ran, ["begin", "rollback", "select 2"]);
}

#[test]
fn a_denial_after_a_failure_of_the_same_pipeline_never_shows() {
    let mut rig = Rig::new(false);
    let pipeline = [parse("", "fail"), bind("", ""), execute(""), parse("x", "forbidden"), bind("", "x"), sync()];
    rig.send(&pipeline);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "12EZ");
    assert!(!texts.contains("42501"), "{texts}");
}

#[test]
fn a_denial_within_a_pipeline_comes_in_its_place() {
    let mut rig = Rig::new(false);
    let good = [parse("", "select 1"), bind("", ""), execute("")];
    let bad = [parse("", "forbidden"), bind("", ""), execute(""), sync()];
    for message in good.iter().chain(&bad) {
        rig.client(message);
    }
    rig.settle();
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "12DC1EZ");
    assert!(texts.contains("42501"), "{texts}");
}

#[test]
fn a_denial_in_a_failed_transaction_is_that_failure_unless_the_message_would_end_it() {
    for (message, code) in [
        (query("forbidden"), "25P02"),
        (query("forbidden; rollback"), "25P02"),
        (query("rollback; forbidden"), "42501"),
        (function_call(2), "25P02"),
    ] {
        let mut rig = Rig::new(false);
        rig.send(&[query("begin"), query("fail")]);
        rig.did.clear();
        rig.send(&[message, query("rollback"), query("select 1")]);
        let (kinds, texts) = rig.heard();
        assert_eq!(kinds, "EZCZTDCZ");
        assert!(texts.contains(code), "{texts}");
        assert_eq!(rig.server.ran, ["begin", "fail", "rollback", "select 1"]);
    }
    let mut rig = Rig::new(true);
    rig.send(&[
        query("begin"),
        query("fail"),
        parse("a", "unproven"),
        sync(),
        parse("b", "rollback; unproven"),
        sync(),
    ]);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "CZEZEZEZ");
    assert_eq!((texts.matches("25P02").count(), texts.matches("42501").count()), (1, 1), "{texts}");
}

#[test]
fn a_refused_function_leaves_the_unnamed_statement_and_a_refused_query_does_not() {
    for begin in [query("commit"), query("begin")] {
        let mut rig = Rig::new(false);
        rig.send(&[begin.clone(), parse("", "select 1"), sync(), function_call(2), bind("", ""), sync()]);
        let (kinds, texts) = rig.heard();
        // The toy server binds in a transaction that has failed, too.
        assert_eq!(kinds, "CZ1ZEZ2Z", "{texts}");
        let mut rig = Rig::new(false);
        rig.send(&[begin, parse("", "select 1"), sync(), query("forbidden"), bind("", ""), sync()]);
        let (kinds, texts) = rig.heard();
        assert_eq!(kinds, "CZ1ZEZEZ");
        assert!(texts.contains("26000"), "{texts}");
    }
}

#[test]
fn over_a_refused_parse_of_the_unnamed_statement_the_one_before_is_gone() {
    for begin in [query("commit"), query("begin")] {
        let mut rig = Rig::new(true);
        let before = [begin, parse("", "select 1"), parse("n", "select 2"), sync()];
        rig.send(&before).send(&[parse("", "unproven"), sync(), bind("", ""), sync(), bind("", "n"), sync()]);
        let (kinds, texts) = rig.heard();
        assert_eq!(kinds, "CZ11ZEZEZ2Z");
        assert!(texts.contains("26000"), "{texts}");
        // The same, if the client does not wait.
        let mut rig = Rig::new(true);
        rig.send(&before);
        for message in [parse("", "unproven"), sync(), bind("", ""), sync()] {
            rig.client(&message);
        }
        rig.settle();
        assert_eq!(rig.heard().0, "CZ11ZEZEZ");
        assert!(rig.recorded.iter().all(|event| !matches!(event, Event::Finished { error: Some(_), .. })));
        // Another name leaves it alone.
        let mut rig = Rig::new(true);
        rig.send(&before).send(&[parse("other", "unproven"), sync(), bind("", ""), sync()]);
        assert_eq!(rig.heard().0, "CZ11ZEZ2Z");
    }
}

#[test]
fn what_is_denied_when_it_is_executed_is_an_operation_of_its_own() {
    let mut rig = Rig::new(false);
    rig.send(&[query("begin"), parse("", "select 1"), bind("", "")]);
    rig.changed = true;
    rig.send(&[execute(""), sync(), query("rollback")]);
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "CZ12EZCZ");
    assert!(texts.contains("42501"), "{texts}");
    assert_eq!(rig.server.ran, ["begin", "rollback"]);
    // BEGIN, Parse, Bind, Execute, ROLLBACK.
    assert_eq!(rig.did.iter().filter(|did| matches!(did, Did::Asked(_))).count(), 5);
}

#[test]
fn an_operation_ends_with_its_portal() {
    let bound = [parse("s", "select 1"), bind("p", "s")];
    for end in [&[sync()][..], &[close(b'P', "p"), sync()], &[query("select 2")], &[parse("", "unproven"), sync()]] {
        let mut rig = Rig::new(true);
        rig.send(&bound);
        assert!(rig.recorded.is_empty());
        rig.send(end);
        let operations: Vec<u64> = rig
            .recorded
            .iter()
            .filter_map(|event| match event {
                Event::Finished { operation, rows: 0, tag: None, .. } => Some(*operation),
                _ => None,
            })
            .collect();
        assert_eq!(operations, [1], "{end:?}");
    }
    // In a transaction it goes on, until that ends or the session does.
    for (end, ended) in [(query("select 2"), false), (query("rollback"), true)] {
        let mut rig = Rig::new(false);
        rig.send(&[query("begin")]).send(&bound).send(&[sync(), end]);
        let finished = rig.recorded.iter().filter(|event| matches!(event, Event::Finished { operation: 2, .. }));
        assert_eq!(finished.count(), usize::from(ended));
        let late = rig.machine.abandon(Instant::now());
        assert_eq!(late.len(), usize::from(!ended), "{late:?}");
    }
}

#[test]
fn a_refusal_for_what_came_before_it_in_the_pipeline_is_asked_about_too() {
    let changed = [parse("", "create"), bind("", ""), execute("")];
    for (message, kinds) in
        [(function_call(1), "12CEZZ"), (query("select 1"), "12CEZZ"), (parse("", "select 1"), "12CEZ")]
    {
        let mut rig = Rig::new(true);
        rig.send(&changed).send(&[message, sync()]);
        assert_eq!(rig.heard().0, kinds);
        let asked = rig.did.iter().filter_map(|did| if let Did::Asked(action) = did { Some(action) } else { None });
        let opaque = |action: &crate::model::Action| action.requests.iter().any(|it| it.action == "sql:opaque");
        assert_eq!(asked.map(opaque).collect::<Vec<_>>(), [false, false, true]);
    }
}
