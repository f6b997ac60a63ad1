//! Rows that pass as they are, in runs and in pieces, and those that do not.

use super::{super::*, from_server, rig::*};

/// A rig whose server has been asked this and says only what a test says for it.
fn asked(masks: bool, text: &str) -> Rig {
    let mut rig = Rig::new(masks);
    rig.client(&query(text));
    rig.steps();
    rig.server.outgoing.clear();
    rig
}

fn description(table: u32, attribute: i16) -> Bytes {
    message::write(from_server::ROW_DESCRIPTION, |body| {
        body.extend_from_slice(&[0, 1, b'c', 0]);
        body.extend_from_slice(&table.to_be_bytes());
        body.extend_from_slice(&attribute.to_be_bytes());
        body.extend_from_slice(&25u32.to_be_bytes());
        body.extend_from_slice(&[0; 8]);
    })
}

fn row(value: &[u8]) -> Bytes {
    message::write(from_server::DATA_ROW, |body| {
        body.extend_from_slice(&[0, 1]);
        body.extend_from_slice(&u32::try_from(value.len()).expect("short").to_be_bytes());
        body.extend_from_slice(value);
    })
}

fn complete() -> Bytes {
    let tag = message::write(from_server::COMMAND_COMPLETE, |body| message::put_string(body, b"SELECT"));
    [tag, message::ready_for_query(b'I')].concat().into()
}

/// Rows counted, rows recorded, and whether that is all of them.
fn recorded(rig: &Rig) -> (u64, usize, bool) {
    let (mut counted, mut kept, mut cut) = (0, 0, false);
    for event in &rig.recorded {
        if let Event::Finished { rows, .. } = event {
            counted = *rows;
        }
        if let Event::Answer { answer, .. } | Event::Finished { answer: Some(answer), .. } = event {
            kept += answer.rows.len();
            cut |= answer.truncated;
        }
    }
    (counted, kept, cut)
}

#[test]
fn rows_beyond_what_is_recorded_pass_in_runs() {
    let mut rig = asked(false, "select 1");
    rig.server(&description(0, 0));
    let rows: Vec<u8> = (0..10_000).flat_map(|_| row(&[b'x'; 100])).collect();
    rig.server(&rows);
    rig.steps();
    rig.server(&complete());
    let mut steps = 0;
    while let Some(step) = rig.machine.next(Instant::now()) {
        steps += 1;
        if let Step::Record(event) = step {
            rig.recorded.push(event);
        }
    }
    assert!(steps < 10);
    let shown: usize = rig.did.iter().map(|did| if let Did::ToClient(bytes) = did { bytes.len() } else { 0 }).sum();
    assert_eq!(shown, description(0, 0).len() + rows.len());
    let (counted, kept, cut) = recorded(&rig);
    assert!(counted == 10_000 && (600..700).contains(&kept) && cut, "{counted} {kept} {cut}");
}

#[test]
fn a_row_of_a_gibibyte_is_never_held() {
    let mut rig = asked(false, "select 1");
    rig.server(&description(0, 0));
    rig.server(&row(b"small"));
    rig.steps();
    rig.server(&[b'D', 0x3f, 0xff, 0xff, 0xfe]);
    rig.steps();
    let mut left = 0x3fff_fffe - 4;
    while left > 0 {
        let piece = vec![b'x'; left.min(4 << 20)];
        left -= piece.len();
        rig.server(&piece);
        let passed = rig.machine.next(Instant::now());
        assert!(matches!(passed, Some(Step::ToClient(bytes)) if bytes.shown().len() == piece.len()));
        assert!(rig.machine.next(Instant::now()).is_none() && rig.machine.from_server.capacity() == 0);
    }
    rig.server(&row(b"last"));
    rig.server(&complete());
    rig.steps();
    assert_eq!(recorded(&rig), (3, 1, true));
}

#[test]
fn a_row_with_masked_columns_that_is_too_long_is_refused() {
    let mut rig = asked(true, "secret");
    rig.server(&description(7, 3));
    rig.server(&[b'D', 0x04, 0, 0, 1]);
    rig.steps();
    let (kinds, texts) = rig.heard();
    assert!(kinds == "TE" && texts.contains("54000") && texts.contains("64 MiB"), "{kinds} {texts}");
    // One that the server could not have made.
    let mut rig = asked(false, "select 1");
    rig.server(&[b'D', 0x3f, 0xff, 0xff, 0xff]);
    rig.steps();
    assert_eq!(rig.did.last(), Some(&Did::Closed(Close::Server("malformed message"))));
}

#[test]
fn nothing_is_kept_of_large_messages() {
    let mut rig = Rig::new(false);
    rig.send(&[query(format!("select {}", "x".repeat(1 << 20)))]);
    rig.send(&vec![sync(); pending::PENDING]);
    let machine = &rig.machine;
    assert_eq!(machine.from_client.capacity() + machine.from_server.capacity(), 0);
    assert!(machine.steps.capacity() <= 64 && machine.queue.0.capacity() <= 64);
}

#[test]
fn what_was_shown_of_an_answer_is_recorded_when_the_session_ends_within_it() {
    let mut rig = asked(false, "select 1");
    rig.server(&description(0, 0));
    rig.server(&row(b"seen"));
    rig.steps();
    let ended = rig.machine.abandon(Instant::now());
    let [Event::Finished { rows: 1, error: Some(failure), answer: Some(answer), .. }] = ended.as_slice() else {
        panic!("{ended:?}");
    };
    assert_eq!(failure.code, "08006");
    assert_eq!(answer.rows[0].shown(), &[Some("seen".to_owned())]);
    assert!(rig.machine.abandon(Instant::now()).is_empty());
}

#[test]
fn nothing_is_said_in_the_middle_of_a_message() {
    let error = NativeError::fatal(error::SHUTDOWN, "enough");
    let mut rig = Rig::new(false);
    rig.scripted = true;
    rig.client(&query("copyout"));
    rig.steps();
    rig.server(&message::write(from_server::COPY_OUT_RESPONSE, |body| body.extend_from_slice(&[0; 3])));
    rig.steps();
    assert!(rig.machine.last_words(&error).is_some());
    // The client breaks the protocol when it has a part of a message: what it is told would be the rest of that.
    rig.server(&[b'd', 0, 0, 0, 100, 1, 2, 3]);
    rig.steps();
    assert!(rig.machine.last_words(&error).is_none());
    rig.client(b"?");
    rig.steps();
    let last = rig.did.iter().rev().take(2).collect::<Vec<_>>();
    let [Did::Closed(Close::Client(_)), Did::ToClient(shown)] = last[..] else { panic!("{last:?}") };
    assert!(shown.ends_with(&[1, 2, 3]), "{shown:?}");
    // Data that may not be shown has not begun.
    let mut rig = Rig::new(true);
    rig.scripted = true;
    rig.client(&query("copyout"));
    rig.steps();
    rig.server(&message::write(from_server::COPY_OUT_RESPONSE, |body| body.extend_from_slice(&[0; 3])));
    rig.server(&description(7, 3));
    rig.server(&[b'd', 0, 0, 0, 100, 1, 2, 3]);
    rig.steps();
    assert_eq!(rig.heard().0, "HTE");
    // The same towards the server.
    let mut rig = Rig::new(false);
    rig.send(&[query("copyin")]);
    assert!(rig.machine.may_terminate());
    rig.client(&[b'd', 0, 0, 0, 100, 1, 2, 3]);
    rig.steps();
    assert!(!rig.machine.may_terminate());
}
