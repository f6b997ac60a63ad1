//! One line per session, kept up to date while records are moved into the store.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::Value;

use super::frame::{Header, timestamp};

/// Names longer than this are clipped in a summary (never in the records), so that it stays below a store's chunk.
const NAME: usize = 128;
/// The same for paths and reasons.
const TEXT: usize = 320;
/// Roles that a summary names.
const ROLES: usize = 6;

/// How a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has not ended.
    Open,
    /// It has ended.
    Ended,
    /// The connection was refused before there was a session.
    Refused,
    /// The agent ended before the session did, and could not record its end.
    Lost,
}

/// A session in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Session id.
    pub session: String,
    /// How it stands.
    pub state: State,
    /// Sequence of its first record.
    pub first: u64,
    /// Sequence of its last record so far.
    pub last: u64,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Name of the target.
    pub target: Option<String>,
    /// Protocol of the target.
    pub protocol: Option<String>,
    /// Mode of the target.
    pub mode: Option<String>,
    /// Name of the process's user.
    pub user: Option<String>,
    /// Its uid.
    pub uid: Option<u32>,
    /// Its pid.
    pub pid: Option<u32>,
    /// Path of its executable.
    pub exe: Option<String>,
    /// Its unit.
    pub unit: Option<String>,
    /// Its roles.
    pub roles: Vec<String>,
    /// The database, where the protocol has one.
    pub database: Option<String>,
    /// Operations decided so far.
    pub operations: u64,
    /// Of those, denied, or in observe mode: would have been.
    pub denied: u64,
    /// Rows sent to the client so far.
    pub rows: u64,
    /// Bytes received from the client; counted at the end.
    pub bytes_in: u64,
    /// Bytes sent to the client; counted at the end.
    pub bytes_out: u64,
    /// Why it ended, or was refused.
    pub reason: Option<String>,
}

/// What of an event counts for a summary: read without taking the rest of it apart.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Brief<'a> {
    /// Which event it is.
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    /// Its session, if it has one.
    pub session: Option<Cow<'a, str>>,
    verdict: Option<Cow<'a, str>>,
    reason: Option<Cow<'a, str>>,
    rows: Rows,
    bytes_in: u64,
    bytes_out: u64,
}

/// A number of rows. Where an event has the rows themselves (an answer), they are passed over.
#[derive(Debug, Default)]
struct Rows(u64);

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Rows;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of rows, or rows")
            }

            fn visit_u64<E>(self, count: u64) -> Result<Rows, E> {
                Ok(Rows(count))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Rows, A::Error> {
                while rows.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Rows(0))
            }
        }
        deserializer.deserialize_any(Count)
    }
}

impl Summary {
    /// The summary of a session, from its first record's body; `None` if the session does not begin with this record. `id`
    /// is given, since a refused connection has no session of its own.
    #[must_use]
    pub fn begin(header: &Header, body: &[u8], id: String) -> Option<Self> {
        let event: Value = serde_json::from_slice(body).ok()?;
        let refused = match event["event"].as_str() {
            Some("session-started") => false,
            Some("connection-refused") => true,
            _ => return None,
        };
        let process = &event["principal"]["process"];
        // All that is known of a process that could not be proven to be the one that connected.
        let noted = &event["flow"];
        let roles = event["principal"]["roles"].as_array().map(Vec::as_slice).unwrap_or_default();
        Some(Self {
            session: id,
            state: if refused { State::Refused } else { State::Open },
            first: header.sequence,
            last: header.sequence,
            started: timestamp(header.time),
            ended: refused.then(|| timestamp(header.time)),
            target: text(&event["target"], NAME),
            protocol: text(&event["protocol"], NAME),
            mode: text(&event["mode"], NAME),
            user: text(&process["user"], NAME),
            uid: number(&process["uid"]).or_else(|| number(&noted["uid"])),
            pid: number(&process["pid"]).or_else(|| number(&noted["tgid"])),
            exe: text(&process["exe"]["path"], TEXT),
            unit: text(&process["unit"], NAME),
            roles: roles.iter().take(ROLES).filter_map(|role| text(role, NAME / 2)).collect(),
            database: text(&event["details"]["database"], NAME),
            operations: 0,
            denied: u64::from(refused),
            rows: 0,
            bytes_in: 0,
            bytes_out: 0,
            reason: text(&event["reason"], TEXT),
        })
    }

    /// Takes in a further record of the session.
    pub fn add(&mut self, header: &Header, event: &Brief<'_>) {
        self.last = header.sequence;
        match event.event.as_ref() {
            "decided" => {
                self.operations += 1;
                self.denied += u64::from(event.verdict.as_ref().is_none_or(|verdict| verdict != "permit"));
            }
            "finished" => self.rows += event.rows.0,
            "session-ended" => {
                self.state = State::Ended;
                self.ended = Some(timestamp(header.time));
                self.bytes_in = event.bytes_in;
                self.bytes_out = event.bytes_out;
                self.reason = event.reason.as_deref().map(|reason| clip(reason, TEXT));
            }
            _ => {}
        }
    }
}

fn text(value: &Value, limit: usize) -> Option<String> {
    value.as_str().map(|text| clip(text, limit))
}

/// A text without control characters, clipped to `limit` bytes.
fn clip(text: &str, limit: usize) -> String {
    let mut clipped = String::new();
    for character in text.chars() {
        let character = if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
        if clipped.len() + character.len_utf8() > limit {
            break;
        }
        clipped.push(character);
    }
    clipped
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| number.try_into().ok())
}
