//! What was recorded of a session, read back from JSON: a [`Masked`](crate::masking::Masked) value cannot be read back into
//! being, so an event is read into its own, plain form here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    cli::{Failure, Global, client::Client, output::count},
    control::{Reply, Request},
    model::Limit,
    recording::{Record, Summary},
};

/// A record of a session, as far as it is shown.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// It was admitted.
    SessionStarted(Box<Start>),
    /// It was refused.
    ConnectionRefused(Box<Refusal>),
    /// A statement was decided.
    Decided(Decided),
    /// A part of an answer came.
    Answer(Part),
    /// A statement ended.
    Finished(Finished),
    /// A limit of a role was reached.
    LimitReached(Reached),
    /// It ended.
    SessionEnded(End),
    /// Something that a newer agent wrote.
    #[serde(other)]
    Other,
}

/// How it began.
#[derive(Debug, Deserialize)]
pub struct Start {
    pub principal: Principal,
    pub target: String,
    pub protocol: String,
    pub mode: String,
    pub rules: Vec<String>,
    pub client_tls: Option<String>,
    pub server_tls: Option<String>,
    pub upstream_user: String,
    pub client_user: String,
    pub details: BTreeMap<String, String>,
}

/// Who.
#[derive(Debug, Deserialize)]
pub struct Principal {
    pub flow: Flow,
    pub process: Process,
    pub roles: Vec<String>,
}

/// The connection.
#[derive(Debug, Deserialize)]
pub struct Flow {
    pub tgid: u32,
    pub uid: u32,
    pub destination: String,
}

/// The process.
#[derive(Debug, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub uid: u32,
    pub user: Option<String>,
    pub exe: Executable,
    pub argv: Vec<String>,
    pub cgroup: String,
    pub unit: Option<String>,
    pub user_unit: Option<String>,
    /// Absent in records of earlier versions.
    #[serde(default)]
    pub container: Option<String>,
}

/// Its running file.
#[derive(Debug, Deserialize)]
pub struct Executable {
    pub path: String,
    pub sha256: Option<String>,
    pub verified: bool,
}

/// Why it was refused.
#[derive(Debug, Deserialize)]
pub struct Refusal {
    pub target: Option<String>,
    pub principal: Option<Principal>,
    pub flow: Option<Flow>,
    pub reason: String,
    pub rule: Option<String>,
}

/// A decided statement.
#[derive(Debug, Deserialize)]
pub struct Decided {
    pub operation: u64,
    pub text: String,
    pub parameters: Vec<Option<String>>,
    pub verdict: String,
    pub rules: Vec<String>,
    pub reason: Option<String>,
}

/// A part of an answer that has a record of its own.
#[derive(Debug, Deserialize)]
pub struct Part {
    pub operation: u64,
    #[serde(flatten)]
    pub answer: Answer,
}

/// A part of an answer.
#[derive(Debug, Deserialize)]
pub struct Answer {
    pub columns: Option<Vec<String>>,
    pub rows: Vec<Vec<Option<String>>>,
    pub truncated: bool,
}

/// How a statement ended.
#[derive(Debug, Deserialize)]
pub struct Finished {
    pub operation: u64,
    pub rows: u64,
    /// Absent but for a COPY.
    #[serde(default)]
    pub copied: Option<u64>,
    pub micros: u64,
    pub tag: Option<String>,
    pub error: Option<Error>,
    /// Absent where there is none.
    pub answer: Option<Answer>,
}

impl Finished {
    /// How many rows it was about, and how many bytes were copied.
    pub fn size(&self) -> String {
        let rows = count(self.rows, "row", "rows");
        match self.copied {
            Some(bytes) => format!("{rows}, {} copied", count(bytes, "byte", "bytes")),
            None => rows,
        }
    }
}

/// The target's error.
#[derive(Debug, Deserialize)]
pub struct Error {
    pub code: String,
    pub message: String,
}

/// A limit of a role was reached.
#[derive(Debug, Deserialize)]
pub struct Reached {
    /// Absent if it is about the session itself.
    #[serde(default)]
    pub operation: Option<u64>,
    #[serde(flatten)]
    pub limit: Limit,
}

/// How it ended.
#[derive(Debug, Deserialize)]
pub struct End {
    pub reason: String,
}

/// Asks for a session, and hands over its summary and each of its records as they come.
///
/// # Errors
/// The agent is not there or refuses, there is no such session, or `take` failed.
pub fn records(
    global: &Global,
    id: &str,
    mut head: impl FnMut(&Summary) -> Result<(), Failure>,
    mut take: impl FnMut(Record) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let request = Request::Session { id: id.to_owned(), records: true };
    Client::connect(global)?.ask(&request, |reply| match reply {
        Reply::Session(summary) => head(&summary),
        Reply::Record(record) => take(record),
        _ => Ok(()),
    })
}

/// Reads a record's event.
///
/// # Errors
/// It is not one that this program knows the form of.
pub fn event(record: Record) -> Result<(Timestamp, Event), Failure> {
    let Record { sequence, time, event, .. } = record;
    let event = serde_json::from_value(event)
        .map_err(|error| Failure::wrong(format!("record {sequence} is not understood: {error}")))?;
    Ok((time, event))
}
