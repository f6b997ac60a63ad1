//! Many questions to a running agent over one connection to its control socket.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{Agent, Outcome};

/// The most sessions that the agent names at once.
const PAGE: usize = 1000;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the control socket, as root.
#[derive(Debug)]
pub struct Control {
    reader: BufReader<UnixStream>,
}

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// The agent does not serve its socket.
    pub fn connect(agent: &Agent) -> Outcome<Self> {
        let path = agent.path("run/control.sock");
        let stream = UnixStream::connect(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Asks, and gives the lines of the answer without the last one, which says that they are all.
    ///
    /// # Errors
    /// The agent answers with an error, or not at all.
    pub fn ask(&mut self, request: &Value) -> Outcome<Vec<Value>> {
        let failed = |error: &dyn std::fmt::Display| format!("{request}: {error}");
        writeln!(self.reader.get_mut(), "{request}").map_err(|error| failed(&error))?;
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).map_err(|error| failed(&error))?;
            let reply: Value = serde_json::from_str(&line).map_err(|error| failed(&error))?;
            if reply == "done" {
                return Ok(lines);
            }
            if !reply["error"].is_null() {
                return Err(failed(&reply["error"]));
            }
            lines.push(reply);
        }
    }

    /// All sessions that a filter lets through, refused connections among them, newest first.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn sessions(&mut self, filter: &Value) -> Outcome<Vec<Value>> {
        let mut filter = filter.clone();
        filter["limit"] = PAGE.into();
        let mut sessions = Vec::new();
        loop {
            let answer = self.ask(&json!({ "ask": "sessions", "filter": filter }))?;
            let page = answer.first().map(|reply| &reply["sessions"]).ok_or("no page of sessions")?;
            sessions.extend(page["sessions"].as_array().ok_or_else(|| page.to_string())?.iter().cloned());
            if page["next"].is_null() {
                return Ok(sessions);
            }
            filter["before"] = page["next"].clone();
        }
    }

    /// The events of a session, in order.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn events(&mut self, session: &str) -> Outcome<Vec<Value>> {
        let answer = self.ask(&json!({ "ask": "session", "id": session, "records": true }))?;
        Ok(answer.into_iter().filter_map(|mut reply| Some(reply.get_mut("record")?["event"].take())).collect())
    }
}
