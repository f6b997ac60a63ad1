//! The log under damage: each test edits real files of a real log and expects the very record to be named.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    thread,
};

use tempfile::TempDir;

use super::{
    frame::{Frame, HEADER, Header, digest, timestamp},
    segment::{Reader, Segment},
    verify::{Break, Evidence, Report, What},
    *,
};
use crate::masking::without_values;

/// 2026-01-02 03:04:05 UTC; every reading of the clock is a millisecond later.
const EPOCH: i64 = 1_767_323_045_000_000_000;

fn options(dir: &Path, segment_bytes: u64) -> Options {
    let time = AtomicI64::new(EPOCH);
    Options {
        segment_bytes,
        clock: Arc::new(move || time.fetch_add(1_000_000, Ordering::Relaxed)),
        ..Options::new(dir)
    }
}

fn decided(session: &str, operation: u64) -> Event {
    Event::Decided(Box::new(Decision {
        session: session.into(),
        operation,
        text: Arc::new(without_values(format!("SELECT {operation}"))),
        parameters: vec![],
        action: Arc::new(Action { requests: [].into(), facts: [].into() }),
        verdict: if operation.is_multiple_of(5) { "deny" } else { "permit" },
        rules: vec!["rule".into()],
        reason: None,
    }))
}

fn answer(session: &str, rows: usize, width: usize) -> Event {
    let row = without_values(vec![Some("x".repeat(width))]);
    Event::Answer {
        session: session.into(),
        operation: 1,
        answer: AnswerPart { columns: Some(vec!["c".into()]), rows: vec![row; rows], truncated: false },
    }
}

/// A closed log: record 1 is the start, 2 to `last - 1` are decisions of session `s1`, `last` is the stop.
fn closed_log(segment_bytes: u64, last: u64) -> TempDir {
    let dir = TempDir::new().unwrap();
    let log = Log::open(options(dir.path(), segment_bytes)).unwrap();
    for operation in 1..=last - 2 {
        log.append(&decided("s1", operation)).unwrap();
    }
    log.close().unwrap();
    dir
}

fn verify(dir: &Path) -> Report {
    Evidence::of_stopped(dir).unwrap().verify(&mut |_, _| {}).unwrap()
}

fn broken(dir: &Path) -> Break {
    verify(dir).broken.expect("the damage is found")
}

fn segments(dir: &Path) -> Vec<Segment> {
    Segment::list(&dir.join("journal")).unwrap()
}

/// Path of the first segment, and the place of every frame in it.
fn frames(dir: &Path) -> (PathBuf, Vec<(u64, Frame)>) {
    let segment = segments(dir).remove(0);
    let mut reader = Reader::open(&segment).unwrap();
    let mut frames = Vec::new();
    loop {
        let offset = reader.offset();
        match reader.next().unwrap() {
            Some(frame) => frames.push((offset, frame.unwrap())),
            None => return (segment.path, frames),
        }
    }
}

fn write_at(path: &Path, bytes: &[u8], offset: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn rewrite(path: &Path, frames: &[Vec<u8>]) {
    fs::write(path, frames.concat()).unwrap();
}

#[test]
fn what_is_appended_is_proven_and_found_again() {
    let dir = closed_log(SEGMENT_BYTES, 40);
    let report = verify(dir.path());
    assert_eq!((report.verified, report.broken, report.notes), (40, None, vec![]));

    let log = Log::open(options(dir.path(), SEGMENT_BYTES)).unwrap();
    let page = log.sessions(&Filter::default()).unwrap();
    assert!(page.sessions.is_empty(), "a session without a start is none");
    let records = log.records("s1", 0, 1000).unwrap();
    assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), (2..40).collect::<Vec<_>>());
    assert_eq!(records[7].event["text"], "SELECT 8");
    let report = log.verify(&mut |_, _| {}).unwrap();
    assert_eq!((report.verified, report.broken), (41, None));
    log.close().unwrap();
}

#[test]
fn a_second_writer_is_refused() {
    let dir = TempDir::new().unwrap();
    let log = Log::open(options(dir.path(), SEGMENT_BYTES)).unwrap();
    match Log::open(options(dir.path(), SEGMENT_BYTES)) {
        Err(OpenError::InUse { owner, .. }) => assert_eq!(owner, std::process::id().to_string()),
        other => panic!("{other:?}"),
    }
    assert!(matches!(Evidence::of_stopped(dir.path()), Err(verify::VerifyError::InUse(_))));
    log.close().unwrap();
    drop(log);
    Log::open(options(dir.path(), SEGMENT_BYTES)).unwrap().close().unwrap();
}

#[test]
fn a_flipped_bit_anywhere_in_a_record_is_found_in_that_record() {
    let dir = closed_log(SEGMENT_BYTES, 6);
    let (path, frames) = frames(dir.path());
    let (offset, frame) = &frames[3];
    for position in (0..frame.bytes.len() as u64).step_by(7) {
        let original = frame.bytes[position as usize];
        write_at(&path, &[original ^ 1], offset + position);
        let broken = broken(dir.path());
        write_at(&path, &[original], offset + position);
        assert_eq!((broken.sequence, broken.what), (4, What::Changed), "byte {position}");
        assert_eq!((broken.file.clone(), broken.offset), (path.clone(), Some(*offset)), "byte {position}");
        assert_eq!(broken.session.as_deref(), Some("s1"), "the store still tells, byte {position}");
    }
    assert_eq!(verify(dir.path()).broken, None);
}

#[test]
fn a_changed_record_that_only_the_journal_holds_is_named_by_its_own_bytes() {
    let dir = closed_log(SEGMENT_BYTES, 20);
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    let (path, frames) = frames(dir.path());
    let (offset, frame) = &frames[16];
    let at = frame.bytes.windows(6).position(|window| window == b"SELECT").unwrap() as u64;
    write_at(&path, b"DELETE", offset + at);
    let broken = broken(dir.path());
    assert_eq!((broken.sequence, broken.what, broken.offset), (17, What::Changed, Some(*offset)));
    assert_eq!((broken.time, broken.session.as_deref()), (Some(timestamp(frame.header.time)), Some("s1")));
}

#[test]
fn removed_repeated_swapped_and_foreign_records_are_named() {
    let dir = closed_log(SEGMENT_BYTES, 20);
    let other = closed_log(SEGMENT_BYTES, 30);
    let (path, originals) = frames(dir.path());
    let bytes: Vec<Vec<u8>> = originals.iter().map(|(_, frame)| frame.bytes.clone()).collect();
    let foreign = frames(other.path()).1[29].1.bytes.clone();

    let mut removed = bytes.clone();
    removed.remove(9);
    let mut swapped = bytes.clone();
    swapped.swap(9, 10);
    let mut repeated = bytes.clone();
    repeated.insert(9, bytes[8].clone());
    let mut spliced = bytes.clone();
    spliced.insert(9, foreign);
    for (name, edited, what) in [
        ("removed", removed, What::Removed),
        ("swapped", swapped, What::Reordered),
        ("repeated", repeated, What::Reordered),
        ("spliced", spliced, What::Reordered),
    ] {
        rewrite(&path, &edited);
        let broken = broken(dir.path());
        assert_eq!((broken.sequence, broken.what), (10, what), "{name}");
        assert_eq!(broken.offset, Some(originals[9].0), "{name}");
        assert_eq!(broken.session.as_deref(), Some("s1"), "{name}");
    }

    rewrite(&path, &bytes[1..]);
    assert_eq!((broken(dir.path()).sequence, broken(dir.path()).what), (1, What::Removed), "the first");
    let mut cut = bytes.concat();
    cut.drain(originals[9].0 as usize + 20..originals[10].0 as usize);
    fs::write(&path, cut).unwrap();
    assert_eq!((broken(dir.path()).sequence, broken(dir.path()).what), (10, What::Changed), "cut out of the middle");
}

#[test]
fn a_cut_tail_of_a_closed_log_is_a_removal() {
    let dir = closed_log(SEGMENT_BYTES, 20);
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    let (path, frames) = frames(dir.path());
    for length in [frames[17].0, frames[17].0 + 60] {
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let broken = broken(dir.path());
        assert_eq!((broken.sequence, broken.what), (18, What::Removed));
        assert!(broken.detail.contains("the mark of the closed log knows records up to 20"), "{}", broken.detail);
    }
    assert!(matches!(Log::open(options(dir.path(), SEGMENT_BYTES)), Err(OpenError::Recovery(_))));
}

#[test]
fn a_record_written_anew_with_fitting_hashes_is_named_itself() {
    let dir = closed_log(SEGMENT_BYTES, 20);
    let (path, originals) = frames(dir.path());
    let old = &originals[16].1;
    let body = String::from_utf8(old.body().to_vec()).unwrap().replace("SELECT", "DELETE").into_bytes();
    let header = Header::new(
        old.header.kind,
        old.header.sequence,
        old.header.time,
        body.len() as u32,
        old.header.previous,
        digest(&body),
    );
    write_at(&path, &[header.encode().as_slice(), &body].concat(), originals[16].0);
    let both = broken(dir.path());
    assert_eq!((both.sequence, both.what), (17, What::Forged), "the store holds the true one: {}", both.detail);
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    let alone = broken(dir.path());
    assert_eq!((alone.sequence, alone.what), (17, What::Forged), "{}", alone.detail);
    assert_eq!((alone.time, alone.offset), (Some(timestamp(old.header.time)), Some(originals[16].0)));
    assert!(matches!(
        Log::open(options(dir.path(), SEGMENT_BYTES)),
        Err(OpenError::Recovery(RecoveryError::Scan(ScanError::Link { sequence: 18, .. })))
    ));
}

#[test]
fn a_running_agent_finds_what_was_edited_on_disk_and_refuses_to_start_on_it() {
    let dir = TempDir::new().unwrap();
    let log = Log::open(options(dir.path(), SEGMENT_BYTES)).unwrap();
    (1..=20).for_each(|operation| _ = log.append_durable(&decided("s1", operation)).unwrap());
    let (path, frames) = frames(dir.path());
    let at = frames[9].1.bytes.windows(6).position(|window| window == b"SELECT").unwrap() as u64;
    write_at(&path, b"DELETE", frames[9].0 + at);
    let broken = log.verify(&mut |_, _| {}).unwrap().broken.unwrap();
    assert_eq!((broken.sequence, broken.what, broken.session.as_deref()), (10, What::Changed, Some("s1")));
    assert_eq!((broken.file, broken.offset), (path, Some(frames[9].0)));
    log.append(&decided("s1", 21)).unwrap();
    // Whether the record was moved before it was edited depends on the moment.
    let _ = log.close();
    drop(log);
    assert!(matches!(
        Log::open(options(dir.path(), SEGMENT_BYTES)),
        Err(OpenError::Recovery(RecoveryError::Scan(ScanError::Broken { sequence: 10, .. })))
    ));
}

#[test]
fn a_damaged_store_is_found_though_the_journal_is_whole() {
    let dir = closed_log(SEGMENT_BYTES, 3000);
    let db = dir.path().join("store/db");
    let bytes = fs::read(&db).unwrap();
    let places: Vec<usize> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"\"text\":\"SELECT 1500\"")).collect();
    for at in &places {
        write_at(&db, b"DELETE", *at as u64 + 8);
    }
    assert!(!places.is_empty());
    let broken = broken(dir.path());
    assert!(broken.file.starts_with(dir.path().join("store")), "{broken:?}");
}

#[test]
fn a_removed_segment_and_a_removed_journal_are_found() {
    let dir = closed_log(4096, 200);
    let left = segments(dir.path());
    assert_eq!(left.len(), 1, "the store holds the others");
    assert_eq!(verify(dir.path()).verified, 200);
    fs::remove_file(&left[0].path).unwrap();
    assert_eq!(verify(dir.path()).broken, None, "the store holds its records too");
    assert!(matches!(
        Log::open(options(dir.path(), 4096)),
        Err(OpenError::Recovery(RecoveryError::Scan(ScanError::Missing { .. })))
    ));
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    assert_eq!((broken(dir.path()).sequence, broken(dir.path()).what), (1, What::Removed));
}

#[test]
fn a_store_that_lost_its_records_is_found() {
    let dir = closed_log(4096, 200);
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    let begins = segments(dir.path())[0].first;
    let broken = broken(dir.path());
    assert_eq!((broken.sequence, broken.what), (1, What::Removed));
    assert!(broken.detail.contains(&format!("begins with record {begins}")), "{}", broken.detail);
}

#[test]
fn a_torn_tail_is_cut_off_and_recorded() {
    for cut in [1, 100, HEADER as u64, HEADER as u64 + 3] {
        let dir = closed_log(SEGMENT_BYTES, 10);
        fs::remove_file(dir.path().join("closed")).unwrap();
        fs::remove_dir_all(dir.path().join("store")).unwrap();
        let (path, frames) = frames(dir.path());
        let offset = frames[9].0;
        OpenOptions::new().write(true).open(&path).unwrap().set_len(offset + cut).unwrap();
        let report = verify(dir.path());
        assert_eq!((report.verified, report.broken), (9, None), "cut {cut}");
        assert!(report.notes.iter().any(|note| note.contains("unfinished")), "{:?}", report.notes);

        let log = Log::open(options(dir.path(), SEGMENT_BYTES)).unwrap();
        log.close().unwrap();
        let (_, after) = self::frames(dir.path());
        let repaired: serde_json::Value = serde_json::from_slice(after[10].1.body()).unwrap();
        assert_eq!(repaired["event"], "log-repaired");
        assert_eq!((repaired["offset"].as_u64(), repaired["bytes"].as_u64()), (Some(offset), Some(cut)));
        assert_eq!(verify(dir.path()).broken, None);
    }
}

#[test]
fn zeroes_after_the_last_record_are_a_torn_tail_and_other_bytes_are_not() {
    let dir = closed_log(SEGMENT_BYTES, 10);
    fs::remove_file(dir.path().join("closed")).unwrap();
    let path = segments(dir.path())[0].path.clone();
    let length = fs::metadata(&path).unwrap().len();
    write_at(&path, &[0; 5000], length);
    Log::open(options(dir.path(), SEGMENT_BYTES)).unwrap().close().unwrap();
    assert_eq!(verify(dir.path()).broken, None);

    fs::remove_file(dir.path().join("closed")).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    write_at(&path, &[b'x'; 5000], length);
    match Log::open(options(dir.path(), SEGMENT_BYTES)) {
        Err(OpenError::Recovery(RecoveryError::Scan(ScanError::Broken { offset, .. }))) => assert_eq!(offset, length),
        other => panic!("{other:?}"),
    }
    assert_eq!(broken(dir.path()).what, What::Changed);
}

#[test]
fn concurrent_appenders_make_one_chain() {
    let dir = TempDir::new().unwrap();
    let log = Arc::new(Log::open(options(dir.path(), 64 << 10)).unwrap());
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let session = format!("s{number}");
                (1..=250)
                    .map(|operation| {
                        let event = decided(&session, operation);
                        if operation % 50 == 0 { log.append_durable(&event) } else { log.append(&event) }.unwrap()
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let expected: Vec<Vec<u64>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(log.settle());
    for (number, sequences) in expected.iter().enumerate() {
        let records = log.records(&format!("s{number}"), 0, 1000).unwrap();
        assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), *sequences);
    }
    assert_eq!(log.verify(&mut |_, _| {}).unwrap().broken, None);
    log.close().unwrap();
    assert!(log.append(&decided("s0", 1)).is_err(), "closed");
    assert_eq!(verify(dir.path()).verified, 2002);
}

#[test]
fn long_answers_are_split_and_longer_records_refused() {
    let dir = TempDir::new().unwrap();
    let log = Log::open(options(dir.path(), SEGMENT_BYTES)).unwrap();
    let last = log.append(&answer("s1", 9, 1 << 20)).unwrap();
    assert_eq!(last, 5, "in four parts");
    let error = log.append(&answer("s1", 1, MAX_BODY)).unwrap_err();
    assert!(error.to_string().contains("is longer than"), "{error}");
    log.settle();
    let records = log.records("s1", 0, 10).unwrap();
    let rows: usize = records.iter().map(|record| record.event["rows"].as_array().unwrap().len()).sum();
    let with_columns = records.iter().filter(|record| !record.event["columns"].is_null()).count();
    assert_eq!((rows, with_columns), (9, 1));
    log.close().unwrap();
    assert_eq!(verify(dir.path()).broken, None);
}

#[test]
fn a_log_that_changes_hands_is_one_chain_whoever_appends() {
    struct Other(Recorder);
    impl Keeper for Other {
        fn append(&self, kind: Kind, body: &[u8], durable: bool) -> Result<u64, AppendError> {
            self.0.append_body(kind, body, durable)
        }
    }
    let dir = TempDir::new().unwrap();
    let open = || Recorder::open(options(dir.path(), 64 << 10));
    let recorder = Arc::new(open().unwrap());
    recorder.append(&decided("s1", 1)).unwrap();

    // Not taken: it goes on here.
    let refused = recorder.hand_over(2, || Err("no".into()));
    assert!(matches!(refused, Err(HandOverError::NotTaken(reason)) if reason == "no"));
    recorder.append(&decided("s1", 2)).unwrap();
    assert!(recorder.log().is_some());

    // Taken, while others append: none of theirs is refused, and all of them are there.
    let appending = {
        let (batched, strict) = (Arc::clone(&recorder), recorder.strict());
        thread::spawn(move || {
            for operation in (3..203).step_by(2) {
                batched.append(&decided("s1", operation)).unwrap();
                strict.append(&decided("s1", operation + 1)).unwrap();
            }
        })
    };
    let other = Arc::new(Mutex::new(None));
    let taken = Arc::clone(&other);
    recorder
        .hand_over(3, move || {
            let keeper = Arc::new(Other(open().map_err(|error| error.to_string())?));
            *taken.lock().unwrap() = Some(Arc::clone(&keeper));
            Ok(keeper as Arc<dyn Keeper>)
        })
        .unwrap();
    assert!(recorder.log().is_none());
    assert!(matches!(recorder.hand_over(4, || Err(String::new())), Err(HandOverError::Elsewhere)));
    appending.join().unwrap();

    let other = other.lock().unwrap().take().unwrap();
    let log = other.0.log().unwrap();
    assert!(log.settle());
    let operations: Vec<u64> =
        log.records("s1", 0, 1000).unwrap().iter().map(|record| record.event["operation"].as_u64().unwrap()).collect();
    assert_eq!(operations, (1..=202).collect::<Vec<_>>());
    assert_eq!(log.verify(&mut |_, _| {}).unwrap().broken, None);
    drop(log);
    recorder.close().unwrap();
    other.0.close().unwrap();
}
