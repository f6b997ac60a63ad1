//! The laws that every protocol keeps, over the machine: with a toy database, and with anything at all.

mod toy;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use proptest::prelude::*;

use self::toy::{Server, Toy};
use super::*;
use crate::{
    gate::{Gate, Services},
    model::{
        Action, Decide, Executable, Flow, Gone, Liveness, Principal, Process, Request, Resource, Subject, Verdict,
    },
    protocol::postgres::frame::server as from_server,
    recording::{Append, AppendError},
};

/// Nothing that asks for `forbidden` is permitted.
struct Rules;

impl Decide for Rules {
    fn decide(&self, _: &Principal, action: &Action, _: &jiff::Zoned) -> Verdict {
        if action.requests.iter().any(|request| matches!(request.action.as_str(), "forbidden" | "sql:opaque")) {
            Verdict::Deny(Denial { rule: Some("law".into()), reason: "Forbidden.".into(), hint: None })
        } else {
            Verdict::Permit { rules: Vec::new() }
        }
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn depends_on_time(&self) -> bool {
        false
    }
}

/// Everything is permitted.
struct Anything;

impl Decide for Anything {
    fn decide(&self, _: &Principal, _: &Action, _: &jiff::Zoned) -> Verdict {
        Verdict::Permit { rules: Vec::new() }
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn depends_on_time(&self) -> bool {
        false
    }
}

struct Alive;

impl Liveness for Alive {
    fn check(&self, _: &Flow) -> Result<(), Gone> {
        Ok(())
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<Event>>, AtomicU64);

impl Append for Log {
    fn append(&self, event: &Event) -> Result<u64, AppendError> {
        self.0.lock().map_err(|error| AppendError(error.to_string()))?.push(event.clone());
        Ok(self.1.fetch_add(1, Ordering::Relaxed))
    }
}

fn gate(policy: Arc<dyn Decide>, mode: Mode) -> (Gate, Admission) {
    let destination = ([127, 0, 0, 1], 5432).into();
    let flow = Flow {
        cookie: 1,
        tgid: 1,
        generation: 1,
        sequence: 0,
        uid: 1,
        gid: 1,
        cgroup: 1,
        netns: 1,
        destination,
        target: 0,
    };
    let exe = Executable { path: "/bin/x".into(), device: 1, inode: 1, sha256: None, verified: true };
    let process = Process {
        pid: 1,
        started: 1,
        uid: 1,
        user: None,
        gid: 1,
        groups: [].into(),
        exe,
        argv: Vec::new(),
        directory: "/".into(),
        cgroup: "/".into(),
        unit: None,
        user_unit: None,
    };
    let principal = Arc::new(Principal { flow, process, roles: Vec::new() });
    let services = Services { policy, liveness: Arc::new(Alive), log: Arc::new(Log::default()) };
    let subject = Subject { session: "s".into(), principal, target: "toy".into(), mode };
    let connect = Action { requests: [Request::new("connect", Resource::target("toy"))].into(), facts: [].into() };
    Gate::admit(services, subject, &connect).expect("admitted")
}

/// What a machine did, in order, without what differs between two runs by its nature.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    ToServer(Bytes),
    ToClient(Bytes),
    Asked(Action),
    Recorded(&'static str),
    Refreshed,
    Closed(Close),
}

/// A machine with its driver, a gate, and a server.
struct Rig {
    machine: Machine,
    gate: Gate,
    /// Permits announcements: so that the laws about names do not hold only because nothing forbidden is ever prepared.
    lenient: Gate,
    server: Server,
    did: Vec<Did>,
    masks: bool,
    /// Questions that are answered before the driver falls silent.
    patience: usize,
    now: Instant,
}

impl Rig {
    fn new(masks: bool) -> Self {
        Self::in_mode(masks, Mode::Enforce)
    }

    fn in_mode(masks: bool, mode: Mode) -> Self {
        let (gate, admission) = gate(Arc::new(Rules), mode);
        let machine = Machine::new(Start {
            admission,
            mode,
            session: "s".into(),
            database: Resource::target("toy").child("Database", "toy"),
            view: Arc::new(Toy { masks }),
            encoding: Encoding::Utf8,
            server_is_utf8: true,
            key: Arc::from([1; 32]),
        });
        Self {
            machine,
            gate,
            lenient: self::gate(Arc::new(Anything), mode).0,
            server: Server::new(),
            did: Vec::new(),
            masks,
            patience: usize::MAX,
            now: Instant::now(),
        }
    }

    /// Carries out every step; the server's answers stay with the server.
    fn steps(&mut self) {
        while let Some(step) = self.machine.next(self.now) {
            match step {
                Step::Decide(Question { held, ask }) => {
                    self.did.push(Did::Asked(held.action().clone()));
                    if self.patience == 0 {
                        return;
                    }
                    self.patience -= 1;
                    let verdict = match ask {
                        Ask::Foresee(None) => self.lenient.foresee(&held),
                        Ask::Decide(None) => self.gate.decide(&held),
                        Ask::Foresee(Some(denial)) | Ask::Decide(Some(denial)) | Ask::Refuse(denial) => {
                            self.gate.refuse(&held, denial)
                        }
                    };
                    self.machine.decided(held, verdict, 1, self.now);
                }
                Step::Recheck(_) => self.machine.rechecked(Ok(())),
                Step::RefreshCatalogue => {
                    self.did.push(Did::Refreshed);
                    let masks = self.masks;
                    self.machine.refreshed(Arc::new(Toy { masks }));
                }
                Step::ToServer(released) => {
                    self.server.take(released.bytes());
                    self.did.push(Did::ToServer(released.bytes().clone()));
                }
                Step::ToClient(message) => self.did.push(Did::ToClient(message.into_shown())),
                Step::Record(Event::Answer { .. }) => self.did.push(Did::Recorded("answer")),
                Step::Record(Event::Finished { .. }) => self.did.push(Did::Recorded("finished")),
                Step::Record(_) | Step::Stale => {}
                Step::Close(close) => self.did.push(Did::Closed(close)),
            }
        }
    }

    /// Lets the server's answers in, and carries on until nothing moves.
    fn settle(&mut self) {
        self.steps();
        while !self.server.outgoing.is_empty() {
            let bytes = std::mem::take(&mut self.server.outgoing);
            self.machine.push_server(&bytes);
            self.steps();
        }
    }

    fn send(&mut self, messages: &[Bytes]) -> &mut Self {
        for message in messages {
            self.machine.push_client(message);
        }
        self.settle();
        self
    }

    /// Types of the messages that the client has got, and the texts in them.
    fn heard(&self) -> (String, String) {
        let all: Vec<u8> = self
            .did
            .iter()
            .filter_map(|did| if let Did::ToClient(bytes) = did { Some(bytes.as_ref()) } else { None })
            .flatten()
            .copied()
            .collect();
        let mut buffer = BytesMut::from(&all[..]);
        let mut kinds = String::new();
        while let Some(frame) = frame::take(&mut buffer, frame::server_limit).expect("messages") {
            kinds.push(char::from(frame.kind));
        }
        (kinds, String::from_utf8_lossy(&all).into_owned())
    }

    fn upstream(&self) -> String {
        let sent = self.did.iter().filter_map(|did| if let Did::ToServer(bytes) = did { Some(bytes) } else { None });
        sent.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

fn query(text: &str) -> Bytes {
    message::write_query(text)
}

fn parse(name: &str, text: &str) -> Bytes {
    message::write_parse(name, text)
}

fn bind(portal: &str, statement: &str) -> Bytes {
    message::write(from_client::BIND, |body| {
        message::put_string(body, portal.as_bytes());
        message::put_string(body, statement.as_bytes());
        body.extend_from_slice(&[0; 6]);
    })
}

fn execute(portal: &str) -> Bytes {
    message::write(from_client::EXECUTE, |body| {
        message::put_string(body, portal.as_bytes());
        body.extend_from_slice(&[0; 4]);
    })
}

fn describe(kind: u8, name: &str) -> Bytes {
    message::write_named(from_client::DESCRIBE, kind, name.as_bytes())
}

fn close(kind: u8, name: &str) -> Bytes {
    message::write_named(from_client::CLOSE, kind, name.as_bytes())
}

fn sync() -> Bytes {
    message::write_bare(from_client::SYNC)
}

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
        rig.machine.push_client(message);
    }
    rig.settle();
    let (kinds, texts) = rig.heard();
    assert_eq!(kinds, "12DC1EZ");
    assert!(texts.contains("42501"), "{texts}");
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
    rig.send(&[parse(&long, "select 1"), sync(), query(&format!("prepare {long} select 1"))]);
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
fn a_setting_that_changes_how_texts_are_read_closes() {
    for (name, value) in [("standard_conforming_strings", "off"), ("client_encoding", "SJIS")] {
        let mut rig = Rig::new(false);
        let status = message::write(from_server::PARAMETER_STATUS, |body| {
            message::put_string(body, name.as_bytes());
            message::put_string(body, value.as_bytes());
        });
        rig.machine.push_server(&status);
        rig.settle();
        assert!(matches!(rig.did.last(), Some(Did::Closed(Close::Server(_)))), "{name}");
    }
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
        rig.machine.push_client(&query("begin"));
        rig.steps();
        rig.machine.push_server(&message::write(kind, |body| body.extend_from_slice(&[0; 3])));
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
        rig.machine.push_server(&error);
        rig.settle();
        let (_, texts) = rig.heard();
        assert_eq!(texts.contains("111-22"), shown);
        assert!(texts.contains("22P02") && texts.contains("customers"));
    }
}

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
        Just("select 1; forbidden".to_owned()),
        Just("prepare a select 1; fail".to_owned()),
        (a_name(), prop_oneof![Just("select 1"), Just("forbidden")])
            .prop_map(|(name, text)| format!("prepare {name} {text}")),
        a_name().prop_map(|name| format!("execute {name}")),
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
        3 => Just(sync()),
    ]
}

fn messages() -> impl Strategy<Value = Vec<Bytes>> {
    proptest::collection::vec(a_message(), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Law 1: any split of the input gives the same steps.
    #[test]
    fn splits_make_no_difference(messages in messages(), cuts in proptest::collection::vec(1usize..40, 1..200)) {
        let bytes: Vec<u8> = messages.iter().flatten().copied().collect();
        let mut whole = Rig::new(true);
        whole.machine.push_client(&bytes);
        whole.steps();
        let mut pieces = Rig::new(true);
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            pieces.machine.push_client(piece);
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
                pieces.machine.push_server(&[byte]);
                pieces.steps();
            }
        }
        prop_assert_eq!(whole.heard().0, pieces.heard().0);
        prop_assert_eq!(whole.server.ran, pieces.server.ran);
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
            silent.machine.push_client(&query("select 2"));
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
        rig.machine.push_client(&bytes[..cut.min(bytes.len())]);
        rig.steps();
        rig.machine.push_client(&from_client);
        rig.steps();
        rig.machine.push_server(&from_server);
        rig.steps();
        prop_assert!(rig.machine.from_client.len() <= bytes.len() + from_client.len());
        prop_assert!(rig.machine.from_server.len() <= from_server.len());
    }
}

#[test]
fn announced_lengths_reserve_nothing() {
    for kind in 0..=u8::MAX {
        for length in [0u32, 3, 4, 1 << 20, 64 << 20, u32::MAX] {
            let mut rig = Rig::new(true);
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&length.to_be_bytes());
            rig.machine.push_client(&bytes);
            rig.machine.push_server(&bytes);
            rig.steps();
            assert!(rig.machine.from_client.capacity() < 4_096 && rig.machine.from_server.capacity() < 4_096);
        }
    }
}

#[test]
fn outstanding_answers_are_bounded() {
    let mut rig = Rig::new(false);
    for number in 0..3 * pending::PENDING {
        rig.machine.push_client(&parse("", &format!("select {number}")));
    }
    rig.steps();
    assert!(rig.machine.queue.0.len() <= pending::PENDING);
    rig.settle();
    assert_eq!(rig.heard().0.len(), 3 * pending::PENDING);
    // Names are bounded too.
    let mut rig = Rig::new(false);
    for number in 0..=names::NAMES {
        rig.machine.push_client(&parse(&format!("n{number}"), "select 1"));
        rig.machine.push_client(&sync());
    }
    rig.settle();
    assert!(rig.heard().1.contains("53400"));
    assert_eq!(rig.machine.committed.count().statements, names::NAMES);
}
