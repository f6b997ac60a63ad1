//! What happened, as two logs have it: that of a server that was talked to directly, and the agent's.

use agent_tests::Outcome;
use serde_json::Value;

/// Why a session ends whose client said goodbye.
const GOODBYE: &str = "the client ended the session";

/// The SQLSTATE of whatever comes in a transaction that has failed.
const FAILED: &str = "25P02";

/// What stands for a function that is called by its OID.
const CALL: &str = "(call)";

/// What became of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It ran.
    Ran,
    /// It failed, with this SQLSTATE.
    Failed(String),
    /// The agent refused it.
    Refused,
}

/// A statement, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub text: String,
    pub fate: Fate,
}

/// The story as the log of a server tells it, which logs the duration of what has run, and errors with their statements; a function
/// that is called by its OID has none.
pub fn of_server(log: &str) -> Vec<Line> {
    let mut story: Vec<Line> = Vec::new();
    // Whether what comes next may go on with the last line's text.
    let mut open = false;
    for line in log.lines() {
        if let (Some(more), true, Some(last)) = (line.strip_prefix('\t'), open, story.last_mut()) {
            last.text.push('\n');
            last.text.push_str(more);
            continue;
        }
        open = false;
        let Some((head, said)) = line.split_once(" app@denials ") else { continue };
        if said.starts_with("ERROR:  ") {
            let code = head.rsplit(' ').next().unwrap_or_default();
            story.push(Line { text: CALL.to_owned(), fate: Fate::Failed(code.to_owned()) });
        } else if let (Some(text), Some(failed)) = (said.strip_prefix("STATEMENT:  "), story.last_mut()) {
            text.clone_into(&mut failed.text);
            open = true;
        } else if let Some((_, what)) = said.split_once(" ms  ") {
            let (kind, text) = what.split_once(": ").unwrap_or((what, ""));
            // A portal that goes on is still the same operation.
            open = kind == "statement" || kind.starts_with("execute ") && !kind.starts_with("execute fetch from ");
            if open {
                story.push(Line { text: text.to_owned(), fate: Fate::Ran });
            }
        }
    }
    // A name that stands for nothing is no operation, and nor is nothing.
    story.retain(|line| match &line.fate {
        Fate::Failed(code) => line.text != CALL || code != "26000" && code != "34000",
        _ => !line.text.is_empty(),
    });
    story.iter_mut().for_each(|line| line.text = comparable(&line.text));
    story
}

/// A text without what differs from run to run, and without the constants that are not recorded.
fn comparable(text: &str) -> String {
    if text.starts_with("DO ") {
        return "DO ?".to_owned();
    }
    if text.starts_with("SELECT \"closed\".\"touch\"(") {
        return CALL.to_owned();
    }
    // Data that psql took for a command; of a text that cannot be read, no constant is recorded.
    if text.contains("\tcopied") {
        return "(data)".to_owned();
    }
    // ODBC names things by addresses.
    let mut pieces = text.split("0x");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |all, piece| all + "0x" + piece.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
}

/// The story as the agent's log tells it, once it is known to be whole: whatever was permitted has come to an end, what was refused
/// has a reason and never began, and the session has ended as its client wanted.
pub fn of_session(events: &[Value]) -> Outcome<Vec<Line>> {
    let of = |name: &'static str| events.iter().filter(move |event| event["event"] == name);
    let ended = of("session-ended").next().ok_or("the session has no end")?;
    let denied = of("decided").filter(|decided| decided["verdict"] == "deny").count();
    if ended["reason"] != GOODBYE || ended["denied"] != denied {
        return Err(format!("{denied} were denied, and the session ended otherwise: {ended}"));
    }
    let mut story = Vec::new();
    for decided in of("decided") {
        let finished: Vec<_> =
            of("finished").filter(|finished| finished["operation"] == decided["operation"]).collect();
        let text = comparable(decided["text"].as_str().unwrap_or_default());
        match (decided["verdict"].as_str(), finished.as_slice()) {
            (Some("deny"), []) if decided["reason"].is_string() => story.push(Line { text, fate: Fate::Refused }),
            (Some("permit"), [finished]) => {
                let error = &finished["error"];
                let not_run = error["message"].as_str().is_some_and(|message| message.starts_with("not run: "));
                let idle = error.is_null() && finished["tag"].is_null() && finished["rows"] == 0;
                if let Some(code) = error["code"].as_str().filter(|_| !not_run) {
                    story.push(Line { text, fate: Fate::Failed(code.to_owned()) });
                } else if !not_run && !idle {
                    story.push(Line { text, fate: Fate::Ran });
                }
            }
            _ => return Err(format!("{decided}\nhas these ends: {finished:?}")),
        }
    }
    story.retain(|line| !line.text.is_empty());
    Ok(story)
}

/// Fails unless both tell the same: what a server refused by itself, the agent has refused.
pub fn same(server: &[Line], agent: &[Line]) -> Outcome {
    let failed = |line: &Line| matches!(&line.fate, Fate::Failed(code) if code == FAILED);
    let (mut rest, mut before, mut fits) = (server, Fate::Ran, true);
    for line in agent {
        // What failed with its transaction when it was parsed is no operation yet.
        while let Some((_, more)) = rest.split_first().filter(|(first, _)| failed(first) && first.text != line.text) {
            rest = more;
        }
        let alike = |first: &Line| match (&first.fate, &line.fate) {
            _ if first.text != line.text => false,
            // Where the server only said that the transaction had failed, the agent knows better.
            (Fate::Failed(code), Fate::Refused) => code == "42501" || code == FAILED,
            // An operation that goes on has one end, its last.
            (Fate::Ran, Fate::Failed(code)) if code == FAILED => {
                rest.iter().any(|it| failed(it) && it.text == line.text)
            }
            (one, other) => one == other,
        };
        match rest.split_first() {
            Some((first, more)) if alike(first) => rest = more,
            // It was refused before the server said that it would not have come to it.
            _ if line.fate == Fate::Refused && before != Fate::Ran => {}
            _ => fits = false,
        }
        before = line.fate.clone();
    }
    if fits && rest.iter().all(failed) {
        return Ok(());
    }
    let listed = |story: &[Line]| {
        story.iter().map(|line| format!("  {:?} {}", line.fate, line.text)).collect::<Vec<_>>().join("\n")
    };
    Err(format!("the server's log:\n{}\nthe agent's log:\n{}", listed(server), listed(agent)))
}
