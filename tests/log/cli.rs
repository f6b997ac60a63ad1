//! The command line against the fixed log: what it prints, and how it ends.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use agent_tests::{Cmd, Finished, Outcome, TempDir, agent::postern};
use serde_json::Value;

use crate::fixture::{self, Running};

/// Set to `1` to write the snapshots anew.
const UPDATE: &str = "POSTERN_SNAPSHOTS";

fn run(running: &Running, words: &[&str]) -> Outcome<Finished> {
    Cmd::new(postern()?).args(words).arg("--config").arg(running.config()).env("TZ", "Europe/Berlin").run()
}

fn snapshot(name: &str, found: &str) -> Outcome {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("log/snapshots").join(name);
    if std::env::var(UPDATE).is_ok_and(|value| value == "1") {
        return fs::write(&path, found).map_err(|error| error.to_string());
    }
    let expected = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if expected == found {
        return Ok(());
    }
    Err(format!("{}: expected\n{expected}\nfound\n{found}\n({UPDATE}=1 writes it anew)", path.display()))
}

fn exits(finished: &Finished, code: i32) -> Outcome {
    match finished.code() {
        Some(found) if found == code => Ok(()),
        found => Err(format!("exit code {found:?}, not {code}: {}{}", finished.stdout, finished.stderr)),
    }
}

/// The text is that of the snapshot.
pub fn text(running: &Running, name: &str, words: &[&str], code: i32) -> Outcome {
    let finished = run(running, words)?;
    exits(&finished, code)?;
    if finished.stdout.contains('\x1b') {
        return Err("escape sequences in a pipe".into());
    }
    snapshot(&format!("{name}.txt"), &finished.stdout)
}

/// The JSON is that of the snapshot, but for the hashes: the agent's boot is a part of the first record.
pub fn json(running: &Running, name: &str, words: &[&str], code: i32) -> Outcome {
    let finished = run(running, &[words, &["--json"]].concat())?;
    exits(&finished, code)?;
    let mut value: Value = serde_json::from_str(&finished.stdout).map_err(|error| error.to_string())?;
    for record in value.get_mut("records").and_then(Value::as_array_mut).into_iter().flatten() {
        let hash = record["hash"].as_str().unwrap_or_default();
        if hash.len() != 64 {
            return Err(format!("no hash: {record}"));
        }
        record["hash"] = "(64 digits)".into();
    }
    let text = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
    snapshot(&format!("{name}.json"), &(text + "\n"))
}

/// Each filter picks its sessions, and pages together are the whole.
pub fn filters(running: &Running) -> Outcome {
    let refused = refused_id(running)?;
    let refused = refused.as_str();
    let cases: [(&[&str], &[&str]); 11] = [
        (&[], &["s2b", "s2a", "s1", refused]),
        (&["--user", "svc-orders"], &["s2b", "s1"]),
        (&["--user", "1002"], &["s2a"]),
        (&["--role", "night-shift"], &["s1"]),
        (&["--target", "orders", "--verdict", "permit"], &["s2a"]),
        (&["--target", "other"], &[]),
        (&["--verdict", "deny"], &["s2b", "s1", refused]),
        (&["--verdict", "refused"], &[refused]),
        (&["--since", "2026-01-02T03:04:05.45Z"], &["s2b", "s2a", refused]),
        (&["--since", "2026-01-02T04:04:05.45"], &["s2b", "s2a", refused]),
        (&["--limit", "1", "--before", "s2b"], &["s2a"]),
    ];
    for (words, expected) in cases {
        let finished = run(running, &[&["sessions", "list", "--json"], words].concat())?;
        exits(&finished, 0)?;
        let page: Value = serde_json::from_str(&finished.stdout).map_err(|error| error.to_string())?;
        let found: Vec<&str> = page["sessions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|session| session["session"].as_str())
            .collect();
        if found != expected {
            return Err(format!("{words:?}: {found:?}, not {expected:?}"));
        }
    }
    let page = run(running, &["sessions", "list", "--limit", "2"])?.stdout;
    if !page.ends_with("more: --before s2a\n") {
        return Err(page);
    }
    Ok(())
}

fn refused_id(running: &Running) -> Outcome<String> {
    let finished = run(running, &["sessions", "list", "--json", "--verdict", "refused"])?;
    let page: Value = serde_json::from_str(&finished.stdout).map_err(|error| error.to_string())?;
    page["sessions"][0]["session"].as_str().map(str::to_owned).ok_or(finished.stdout)
}

/// A refused connection is shown like a session.
pub fn refused(running: &Running) -> Outcome {
    let id = refused_id(running)?;
    text(running, "refused", &["sessions", "show", &id], 0)
}

/// The records of `s1` are 350 ms apart from first to last.
pub fn replay_takes_its_time(running: &Running) -> Outcome {
    let at_once = run(running, &["sessions", "replay", "s1", "--no-wait"])?;
    let start = Instant::now();
    let slowly = run(running, &["sessions", "replay", "s1", "--speed", "0.5"])?;
    let took = start.elapsed().as_millis();
    if at_once.stdout != slowly.stdout {
        return Err("the pauses change what is shown".into());
    }
    // It cannot be done sooner; how much later depends on the machine.
    if took >= 700 { Ok(()) } else { Err(format!("700 ms were replayed in {took} ms")) }
}

/// On a terminal too: with `script`, which gives the command one.
pub fn hostile_text(running: &Running) -> Outcome {
    for verb in ["show", "replay"] {
        let command = format!(
            "{} sessions {verb} s1 {}--config {}",
            postern()?.display(),
            if verb == "replay" { "--no-wait " } else { "" },
            running.config().display()
        );
        let output = Cmd::new("script").args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").ok()?;
        if !output.contains("\x1b[32m") && verb == "show" {
            return Err(format!("no colours on a terminal: {output:?}"));
        }
        for forbidden in ["\x1b[2J", "\x1b]0;", "\x07", "\u{202e}", "\u{9b}", "x\x1b[31m"] {
            if output.contains(forbidden) {
                return Err(format!("{verb} shows {forbidden:?}"));
            }
        }
        if !output.contains(r"\u{1b}[2J\u{1b}]0;owned\u{7} \u{202e}txet neddih\u{9b}31m\r") {
            return Err(format!("{verb} does not show the text: {output:?}"));
        }
    }
    let exact = run(running, &["sessions", "show", "s1", "--json"])?;
    let shown: Value = serde_json::from_str(&exact.stdout).map_err(|error| error.to_string())?;
    let texts: Vec<&str> = shown["records"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|record| record["event"]["text"].as_str())
        .collect();
    if texts.contains(&fixture::HOSTILE) { Ok(()) } else { Err(format!("JSON is not exact: {texts:?}")) }
}

/// Beginnings of ids, and what is said of those that are none.
pub fn ids(running: &Running) -> Outcome {
    for words in [&["sessions", "show", "s2a"][..], &["sessions", "replay", "s2a", "--no-wait"]] {
        let shown = run(running, words)?;
        exits(&shown, 0)?;
        if !shown.stdout.contains("limit rows of role \"orders-reader\" is reached: a statement shows at most 1 rows") {
            return Err(format!("its limit is not shown: {}", shown.stdout));
        }
    }
    let several = run(running, &["sessions", "show", "s2"])?;
    exits(&several, 1)?;
    let none = run(running, &["sessions", "replay", "s3", "--no-wait"])?;
    exits(&none, 1)?;
    snapshot("ids.txt", &format!("{}{}", several.stderr, none.stderr))
}

/// `postern … | head -1` ends quietly.
pub fn broken_pipe(running: &Running) -> Outcome {
    let command = format!(
        "set -o pipefail; {} sessions show s1 --json --config {} | head -c 1 > /dev/null",
        postern()?.display(),
        running.config().display()
    );
    for _ in 0..5 {
        let finished = Cmd::new("bash").args(["-c", &command]).run()?;
        if finished.code() != Some(0) || !finished.stderr.is_empty() {
            return Err(format!("{:?} {}", finished.code(), finished.stderr));
        }
    }
    // A reader that is gone before the first byte.
    let mut child = Command::new(postern()?)
        .args(["sessions", "list", "--config"])
        .arg(running.config())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    drop(child.stdout.take());
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("{status}")) }
}

/// 80 columns: a session is a line that begins with its whole id, and no line is longer.
pub fn narrow(running: &Running) -> Outcome {
    let list = format!("{} sessions list --config {}", postern()?.display(), running.config().display());
    let command = format!("stty cols 80 rows 24; {list}");
    let output = Cmd::new("script").args(["-qec", &command, "/dev/null"]).env("TERM", "xterm").env("TZ", "UTC").ok()?;
    let text = output.replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    let firsts: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    let refused = refused_id(running)?;
    let fits = lines.iter().all(|line| line.chars().count() <= 80);
    match fits && firsts == ["ID", "s2b", "s2a", "s1", &refused] {
        true => Ok(()),
        false => Err(text),
    }
}

/// 2 and 3, and what is said then.
pub fn exit_codes(running: &Running) -> Outcome {
    let program = postern()?;
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let write = |name: &str, text: &str| dir.write(name, text, 0o644).map_err(|error| error.to_string());
    let stopped = write("stopped.toml", &format!("[agent]\nruntime_dir = {:?}\n", dir.path()))?;
    let broken = write("broken.toml", "[agent\n")?;
    let number = write("number.toml", "[agent]\nruntime_dir = 7\n")?;
    let missing = dir.join("missing.toml");
    let mut said = String::new();
    for (words, config, code) in [
        (&["status"][..], &stopped, 3),
        (&["audit", "verify"], &stopped, 3),
        (&["sessions", "list"], &broken, 2),
        (&["sessions", "list"], &number, 2),
        (&["sessions", "list"], &missing, 2),
        (&["sessions", "list", "--since", "yesterday"], &stopped, 2),
        (&["sessions", "replay", "s1", "--json"], &stopped, 2),
        (&["sessions"], &stopped, 2),
    ] {
        let finished = Cmd::new(&program).args(words).arg("--config").arg(config).run()?;
        exits(&finished, code).map_err(|what| format!("{words:?}: {what}"))?;
        said.push_str(&format!("$ postern {}\n{}\n", words.join(" "), finished.stderr));
    }
    exits(&run(running, &["audit", "verify"])?, 0)?;
    // What only root sees must not look as if it were not there.
    let kept = dir.dir("kept", 0o700, 0, 0).map_err(|error| error.to_string())?.to_string_lossy().into_owned();
    for words in [&["uninstall"][..], &["audit", "verify", "--state-dir", &kept], &["run"]] {
        let finished = Cmd::new(&program).args(words).arg("--config").arg(&stopped).user(64_123, 64_123).run()?;
        exits(&finished, 1).map_err(|what| format!("{words:?}: {what}"))?;
        said.push_str(&format!("(uid 64123)$ postern {}\n{}\n", words.join(" "), finished.stderr));
    }
    let said = said.replace(&*dir.path().to_string_lossy(), "DIR");
    let nobody = Cmd::new(&program).args(["status", "--config"]).arg(running.config()).user(64_123, 64_123).run()?;
    exits(&nobody, 1)?;
    snapshot("exit-codes.txt", &(said + &nobody.stderr))
}

/// The demo's last step, offline: verified, then edited, then named.
pub fn audit() -> Outcome {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let dir = TempDir::new().map_err(|error| said(&error))?;
    let state = dir.join("state");
    let log = fixture::open(&state)?;
    fixture::fill(&log)?;
    let verify = || Cmd::new(postern()?).args(["audit", "verify", "--state-dir"]).arg(&state).env("TZ", "UTC").run();
    let busy = verify()?;
    exits(&busy, 1)?;
    log.close().map_err(|error| said(&error))?;
    drop(log);
    let whole = verify()?;
    exits(&whole, 0)?;

    let path = state.join("journal/00000000000000000001.journal");
    let bytes = fs::read(&path).map_err(|error| said(&error))?;
    let at = bytes.windows(18).position(|window| window == b"DELETE FROM orders").ok_or("no such text")?;
    let file = fs::OpenOptions::new().write(true).open(&path).map_err(|error| said(&error))?;
    file.write_all_at(b"SELECT", at as u64).map_err(|error| said(&error))?;
    let edited = verify()?;
    exits(&edited, 1)?;
    let all = [busy.stdout, busy.stderr, whole.stdout, whole.stderr, edited.stdout, edited.stderr].concat();
    let all = all.replace(&*state.to_string_lossy(), "STATE");
    // The offset depends on the length of the boot's record only in the version's length.
    snapshot("audit.txt", &all)
}
