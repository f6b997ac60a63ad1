//! Sessions with hostile clients and servers. The laws that hold at each step are the rig's own
//! ([`Watch`](crate::protocol::postgres::machine::rig)); those of whole sessions are here.

use super::script::{self, Line};
use crate::{
    model::Mode,
    protocol::postgres::machine::rig::{Did, Rig, copy_fail, query, sync},
};

/// Any bytes of a client, to a server that keeps the rules.
pub fn client(input: &[u8]) {
    Session::new(input, true, false).play(input);
}

/// Any bytes of a server, to a client that keeps the rules.
pub fn server(input: &[u8]) {
    Session::new(input, false, true).play(input);
}

/// Any bytes of both.
pub fn both(input: &[u8]) {
    Session::new(input, true, true).play(input);
}

/// What the masked column holds.
const SECRET: &[u8] = b"111-22";

/// The same session twice: what comes at once in one comes in pieces in the other.
struct Session {
    whole: Rig,
    pieces: Rig,
    /// Of the client, and not yet said.
    said: Vec<u8>,
    /// Where the last message of it begins.
    last: usize,
    hostile_client: bool,
    hostile_server: bool,
    enforced: bool,
    /// The client keeps the rules, and has not left.
    regular: bool,
    ended: bool,
    /// Bytes of both sides.
    came: usize,
}

impl Session {
    fn new(input: &[u8], hostile_client: bool, hostile_server: bool) -> Self {
        let (clear, observes) = script::circumstances(input);
        let mode = if observes { Mode::Observe } else { Mode::Enforce };
        Self {
            whole: Rig::in_mode(!clear, mode),
            pieces: Rig::in_mode(!clear, mode),
            said: Vec::new(),
            last: 0,
            hostile_client,
            hostile_server,
            enforced: !observes,
            regular: true,
            ended: false,
            came: 0,
        }
    }

    fn play(mut self, input: &[u8]) {
        for line in script::read(input) {
            self.line(line);
            if self.whole.has_closed() {
                break;
            }
        }
        self.steps();
        assert_eq!(outcome(&self.whole.did), outcome(&self.pieces.did), "what comes in pieces is dealt with otherwise");
        if !self.whole.scripted {
            self.settle(input);
        }
        for rig in [&mut self.whole, &mut self.pieces] {
            rig.abandon();
        }
    }

    fn line(&mut self, line: Line) {
        match line {
            Line::Client(bytes) => {
                self.regular &= bytes[0] != b'X';
                self.say(&bytes);
            }
            Line::Bytes(bytes) if self.hostile_client => {
                self.regular = false;
                self.say(&bytes);
            }
            Line::Change(at, by) if self.hostile_client => {
                self.regular = false;
                let last = &mut self.said[self.last..];
                if !last.is_empty() {
                    let at = at % last.len();
                    last[at] ^= by;
                }
            }
            Line::Cut(by) if self.hostile_client => {
                self.regular = false;
                let left = self.said.len().saturating_sub(by).max(self.last);
                self.said.truncate(left);
            }
            Line::Server(bytes) if self.hostile_server => {
                self.steps();
                // From here on the toy server does not know what the machine believes.
                self.whole.scripted = true;
                self.pieces.scripted = true;
                self.hear(&bytes);
            }
            Line::Answers(count) if !self.whole.scripted => {
                self.steps();
                let answers = self.whole.answers(count);
                assert_eq!(answers, self.pieces.answers(count), "the toy server answers what it was asked");
                self.hear(&answers);
            }
            Line::Steps => self.steps(),
            Line::Outdated => {
                self.steps();
                self.whole.machine.outdated();
                self.pieces.machine.outdated();
            }
            Line::Ended => {
                self.steps();
                self.regular = false;
                self.ended = true;
                self.whole.machine.client_ended();
                self.pieces.machine.client_ended();
            }
            Line::Bytes(_) | Line::Change(..) | Line::Cut(_) | Line::Server(_) | Line::Answers(_) => {}
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        if !self.ended {
            self.last = self.said.len();
            self.said.extend_from_slice(bytes);
        }
    }

    /// What the client has said comes: law 1, any split of it gives the same steps.
    fn steps(&mut self) {
        let said = std::mem::take(&mut self.said);
        self.last = 0;
        self.came += said.len();
        self.whole.client(&said);
        self.whole.steps();
        for piece in pieces(&said) {
            self.pieces.client(piece);
            self.pieces.steps();
        }
        self.pieces.steps();
        self.measure();
    }

    /// The same for what a server says, unless what the client has said waits for it.
    fn hear(&mut self, bytes: &[u8]) {
        self.came += bytes.len();
        self.whole.server(bytes);
        self.whole.steps();
        if self.pieces.waits() {
            self.pieces.server(bytes);
        } else {
            for piece in pieces(bytes) {
                self.pieces.server(piece);
                self.pieces.steps();
            }
        }
        self.pieces.steps();
        self.measure();
    }

    /// Law 5: memory does not grow beyond what came.
    fn measure(&self) {
        for rig in [&self.whole, &self.pieces] {
            let kept = rig.kept();
            assert!(kept <= 4 * self.came + 4096, "{kept} bytes are kept of {}", self.came);
        }
    }

    /// Lets the toy server answer everything, and asks for more.
    fn settle(&mut self, input: &[u8]) {
        let rig = &mut self.whole;
        rig.settle();
        // What a stream is answered with is said by scripts alone.
        let streams = rig.server.ran.iter().any(|text| text == "replicate");
        // A text that cannot be read may copy, and what was sent after it goes lost at the server: see D29. Here only observing
        // lets such texts pass.
        let readable = self.enforced || input.is_ascii() && !contains(input, b"\\x");
        let usable = self.regular && readable && !streams && !rig.server.misled && !rig.has_closed();
        if usable {
            rig.send(&[copy_fail(), copy_fail(), copy_fail(), sync(), query("rollback"), query("select 12345")]);
        }
        if self.enforced {
            let refused = |text: &String| text.split(' ').next() == Some("forbidden");
            assert!(!rig.server.ran.iter().any(refused), "what nothing permits was run: {:?}", rig.server.ran);
        }
        let (kinds, texts) = rig.heard();
        if self.enforced && rig.masks && !contains(input, SECRET) {
            assert!(!contains(texts.as_bytes(), SECRET), "a masked value was shown: {texts}");
            let recorded = serde_json::to_vec(&rig.recorded).expect("records are JSON");
            assert!(!contains(&recorded, SECRET), "a masked value was recorded");
        }
        if usable && !rig.has_closed() {
            assert!(kinds.ends_with("TDCZ") && texts.contains("12345"), "the session is not usable any more: {kinds}");
        }
    }
}

/// What was done, without where a text was cut.
fn outcome(did: &[Did]) -> (Vec<u8>, Vec<u8>, Vec<&Did>) {
    let (mut to_server, mut to_client, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for did in did {
        match did {
            Did::ToServer(bytes) => to_server.extend_from_slice(bytes),
            Did::ToClient(bytes) => to_client.extend_from_slice(bytes),
            other => others.push(other),
        }
    }
    (to_server, to_client, others)
}

/// Cuts bytes into pieces of one to eleven, by what they are.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = bytes.len();
    std::iter::from_fn(move || {
        let &first = rest.first()?;
        state = state.wrapping_mul(31).wrapping_add(usize::from(first));
        let (piece, more) = rest.split_at((1 + state % 11).min(rest.len()));
        rest = more;
        Some(piece)
    })
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
