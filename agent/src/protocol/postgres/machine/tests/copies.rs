//! COPY over the machine.

use super::{super::*, from_server, rig::*};

fn copied(rig: &Rig) -> Vec<(u64, Option<u64>, Option<&str>)> {
    let finished = rig.recorded.iter().filter_map(|event| match event {
        Event::Finished { rows, copied, tag, .. } => Some((*rows, *copied, tag.as_deref())),
        _ => None,
    });
    finished.collect()
}

fn lines(rig: &Rig) -> (Vec<String>, bool) {
    let mut truncated = false;
    let mut lines = Vec::new();
    for event in &rig.recorded {
        if let Event::Answer { answer, .. } | Event::Finished { answer: Some(answer), .. } = event {
            truncated |= answer.truncated;
            lines.extend(answer.rows.iter().flat_map(|row| row.shown().iter().flatten().cloned()));
        }
    }
    (lines, truncated)
}

#[test]
fn copying_goes_both_ways_and_is_counted_and_recorded() {
    let mut rig = Rig::new(false);
    rig.send(&[query("copyout"), query("copyin"), copy_data("a\nb"), copy_data("c\nd"), copy_done()]);
    assert_eq!(rig.heard().0, "HddcCZGCZ");
    assert_eq!(rig.server.ran, ["copyout", "copyin", "copied a\nbc\nd"]);
    assert_eq!(copied(&rig), [(2, Some(8), Some("COPY 2")), (3, Some(6), Some("COPY 3"))]);
    assert_eq!(lines(&rig), (["one", "two", "a", "bc", "d"].map(str::to_owned).into(), false));
}

#[test]
fn copied_data_of_masked_tables_is_only_counted() {
    let mut rig = Rig::new(true);
    rig.send(&[query("copyin"), copy_data("111-22-3333\n"), copy_done()]);
    let portal = [parse("", "copyin"), bind("", ""), execute(""), copy_data("444\n"), copy_done(), sync()];
    rig.send(&portal);
    assert_eq!(rig.heard().0, "GCZ12GCZ");
    assert_eq!(copied(&rig), [(1, Some(12), Some("COPY 1")), (1, Some(4), Some("COPY 1"))]);
    assert_eq!(lines(&rig).0, Vec::<String>::new());
}

#[test]
fn an_early_sync_is_ignored_where_data_is_taken_and_answered_where_it_is_not() {
    let begin = |text| [parse("", text), bind("", ""), execute(""), sync()];
    let mut rig = Rig::new(false);
    rig.send(&begin("copyin")).send(&[copy_data("x\n"), message::write_bare(from_client::FLUSH), copy_done(), sync()]);
    rig.send(&[query("select 1")]);
    assert_eq!(rig.heard().0, "12GCZTDCZ");
    // It fails before it takes any.
    let mut rig = Rig::new(false);
    rig.send(&[query("begin"), query("fail")]).send(&begin("copyin")).send(&[copy_data("x\n"), copy_done(), sync()]);
    assert_eq!(rig.heard().0, "CZEZ12EZZ");
    // It fails while the client believes that it had said enough.
    let mut rig = Rig::new(false);
    rig.send(&begin("copyin")).send(&[copy_data("bad\n"), copy_data("more\n"), copy_done(), sync(), query("select 1")]);
    assert_eq!(rig.heard().0, "12GEZTDCZ");
    assert!(!rig.server.ran.iter().any(|text| text.starts_with("copied")));
}

#[test]
fn a_sync_that_the_server_has_not_read_is_answered() {
    let mut rig = Rig::new(false);
    rig.send(&[parse("", "copyin"), bind("", ""), execute("")]);
    for message in [copy_data("bad\n"), sync()] {
        rig.client(&message);
    }
    rig.settle();
    assert_eq!(rig.heard().0, "12GEZ");
}

#[test]
fn data_after_an_error_goes_nowhere_and_into_no_other_copy() {
    let mut rig = Rig::new(false);
    rig.send(&[query("copyin; select 1"), copy_data("bad\n")]);
    let before = rig.upstream();
    rig.send(&[copy_data("more\n"), copy_done()]);
    assert_eq!(rig.upstream(), before);
    rig.send(&[
        query("copyin"),
        copy_data("good\n"),
        copy_done(),
        query("forbidden"),
        copy_data("lost\n"),
        copy_done(),
    ]);
    assert_eq!(rig.heard().0, "GEZGCZEZ");
    assert_eq!(rig.server.ran, ["copyin", "copyin", "copied good\n"]);
    assert!(!rig.upstream().contains("lost"));
}

#[test]
fn copies_of_one_text_follow_one_another() {
    let mut rig = Rig::new(false);
    let all = [query("copyin; copyin; copyout"), copy_data("a\n"), copy_done(), copy_data("b\n"), copy_done()];
    rig.send(&all).send(&[query("select 1")]);
    assert_eq!(rig.heard().0, "GCGCHddcCZTDCZ");
    let mut rig = Rig::new(false);
    rig.send(&[
        query("copyin; copyin"),
        copy_data("a\n"),
        copy_fail(),
        copy_data("b\n"),
        copy_done(),
        query("select 1"),
    ]);
    assert_eq!(rig.heard().0, "GEZTDCZ");
}

#[test]
fn anything_else_while_data_is_taken_ends_the_session() {
    for message in [query("select 1"), parse("", "select 1"), execute("")] {
        let mut rig = Rig::new(false);
        rig.send(&[query("copyin"), copy_data("a\n"), message]);
        assert_eq!(rig.heard().0, "GE");
        assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Client(_)))), "{:?}", rig.did.last());
        assert!(!rig.upstream().contains("select"));
    }
    let mut rig = Rig::new(false);
    rig.send(&[query("copyin"), copy_data("a\n")]);
    rig.machine.client_ended();
    rig.steps();
    assert_eq!(rig.did.last(), Some(&Did::Closed(Close::Left)));
}

#[test]
fn a_base_backup_may_come_as_several_copies() {
    let mut rig = Rig::new(false);
    rig.client(&query("replicate"));
    rig.steps();
    rig.server.outgoing.clear();
    let out = message::write(from_server::COPY_OUT_RESPONSE, |body| body.extend_from_slice(&[0; 3]));
    let tag = message::write(from_server::COMMAND_COMPLETE, |body| message::put_string(body, b"BASE_BACKUP"));
    for part in [&out, &copy_data("base"), &copy_done(), &out, &copy_data("manifest"), &copy_done(), &tag] {
        rig.server(part);
    }
    rig.server(&message::ready_for_query(b'I'));
    rig.steps();
    assert_eq!(rig.heard().0, "HdcHdcCZ", "{:?}", rig.did.last());
}

#[test]
fn replication_streams_both_ways_at_once() {
    let mut rig = Rig::new(false);
    rig.client(&query("replicate"));
    rig.steps();
    rig.server.outgoing.clear();
    let both = message::write(from_server::COPY_BOTH_RESPONSE, |body| body.extend_from_slice(&[0; 3]));
    // What the client says before the server has begun waits.
    rig.client(&copy_data("early"));
    rig.steps();
    assert!(!rig.upstream().contains("early"));
    for (client, server) in [(None, Some(both)), (None, Some(copy_data("a\n"))), (Some(copy_data("status")), None)] {
        client.iter().for_each(|bytes| rig.client(bytes));
        server.iter().for_each(|bytes| rig.server(bytes));
        rig.steps();
    }
    assert!(rig.upstream().ends_with("earlyd\0\0\0\nstatus"), "{}", rig.upstream());
    rig.client(&copy_done());
    rig.client(&copy_data("late"));
    rig.steps();
    rig.server(&copy_data("b\n"));
    rig.server(&copy_done());
    rig.server(&message::write(from_server::COMMAND_COMPLETE, |body| message::put_string(body, b"COPY 0")));
    rig.server(&message::ready_for_query(b'I'));
    rig.steps();
    assert_eq!(rig.heard().0, "WddcCZ");
    assert!(!rig.upstream().contains("late"));
    assert_eq!((copied(&rig), lines(&rig).0.len()), (vec![(0, Some(15), Some("COPY 0"))], 0));
}

#[test]
fn data_passes_in_pieces_and_is_never_held() {
    let mut rig = Rig::new(false);
    rig.send(&[query("copyin")]);
    rig.client(&[b'd', 0x3f, 0xff, 0xff, 0xfe]);
    for _ in 0..1_000 {
        rig.client(&[b'x'; 1_000]);
        assert!(rig.machine.next(Instant::now()).is_some_and(|step| matches!(step, Step::ToServer(_))));
        assert!(rig.machine.next(Instant::now()).is_none());
        assert!(rig.machine.from_client.is_empty());
    }
    // Nothing is said in the middle of a message.
    rig.machine.client_ended();
    assert!(matches!(rig.machine.next(Instant::now()), Some(Step::Close(Close::Left))));
}

#[test]
fn what_is_not_proven_is_not_copied_out() {
    let mut rig = Rig::new(true);
    rig.send(&[query("unproven")]);
    assert_eq!(rig.heard().0, "EZ");
    // A server that copies out where a statement should have answered with rows.
    rig.client(&query("secret"));
    rig.machine.next(Instant::now());
    rig.steps();
    rig.server(&message::write(from_server::COPY_OUT_RESPONSE, |body| body.extend_from_slice(&[0; 3])));
    rig.steps();
    assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Server("copy")))));
}

#[test]
fn what_comes_before_a_broken_message_is_passed_on_as_if_it_had_come_alone() {
    let data = copy_data("one\n");
    let broken = [b'd', 0, 0, 0, 3];
    let mut rig = Rig::new(false);
    rig.send(&[query("copyin")]);
    rig.client(&[&data[..], &broken].concat());
    rig.steps();
    assert!(rig.upstream().ends_with("one\n"), "{}", rig.upstream());
    assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Client(_)))));
    // The same of the server's.
    let mut rig = Rig::new(false);
    rig.scripted = true;
    rig.client(&query("copyout"));
    rig.steps();
    rig.server(&message::write(from_server::COPY_OUT_RESPONSE, |body| body.extend_from_slice(&[0; 3])));
    rig.server(&[&data[..], &broken].concat());
    rig.steps();
    assert_eq!(rig.heard().0, "HdE");
    assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Server(_)))));
}
