//! The control socket with real peers: this process, and another user's.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::recording::Options;

struct Fake(Arc<Log>);

impl Daemon for Fake {
    fn status(&self) -> Result<Status, String> {
        Ok(Status {
            version: "1".into(),
            pid: 2,
            started: Timestamp::UNIX_EPOCH,
            enforcing: "enforcing".into(),
            targets: vec![],
            counters: BTreeMap::new(),
            surroundings: crate::model::Surroundings::default(),
            policies: Policies { count: 0, epoch: 0 },
            log: self.0.status().into(),
            draining: vec![],
        })
    }

    fn self_test(&self) -> Result<Vec<crate::selftest::Attempt>, String> {
        Ok(Vec::new())
    }

    fn coverage(&self) -> Result<CoverageReport, String> {
        Err("nothing is redirected here".into())
    }

    fn reload(&self) -> Result<Policies, String> {
        Err("a.cedar:1: not a policy".into())
    }

    fn sessions_of(&self, _: Peer) -> Vec<OpenSession> {
        Vec::new()
    }

    fn restart(&self) -> Result<Restarted, String> {
        Err("a.cedar:1: not a policy".into())
    }

    fn log(&self) -> Result<Arc<Log>, String> {
        Ok(Arc::clone(&self.0))
    }
}

struct Running {
    dir: TempDir,
    log: Arc<Log>,
    _runtime: tokio::runtime::Runtime,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.log.close().unwrap();
    }
}

fn running(group: Option<&str>) -> Running {
    let dir = TempDir::new().unwrap();
    let log = Arc::new(Log::open(Options::new(dir.path())).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let daemon: Arc<dyn Daemon> = Arc::new(Fake(Arc::clone(&log)));
    let access = Access::new(group).unwrap();
    let listener = {
        let _in = runtime.enter();
        bind(dir.path(), false).unwrap()
    };
    runtime.spawn(serve(listener, access, daemon));
    // Other users must reach the socket.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    Running { dir, log, _runtime: runtime }
}

fn ask(dir: &Path, lines: &[u8]) -> Vec<Value> {
    let mut stream = UnixStream::connect(dir.join(SOCKET)).unwrap();
    stream.write_all(lines).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    BufReader::new(stream).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

/// Asks as another user, with a real process of that user.
fn ask_as(uid: u32, gid: u32, dir: &Path, request: &str) -> Vec<Value> {
    let script = "import socket,sys\n\
                  s=socket.socket(socket.AF_UNIX)\n\
                  s.connect(sys.argv[1])\n\
                  s.sendall(sys.argv[2].encode()+b'\\n')\n\
                  s.shutdown(socket.SHUT_WR)\n\
                  sys.stdout.write(s.makefile().read())";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(dir.join(SOCKET))
        .arg(request)
        .uid(uid)
        .gid(gid)
        .current_dir("/")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_agents_own_user_may_ask_everything() {
    let running = running(None);
    let replies = ask(running.dir.path(), b"{\"ask\":\"status\"}\n{\"ask\":\"reload\"}\n{\"ask\":\"verify\"}\n");
    assert_eq!(replies[0]["status"]["log"]["records"], 1);
    assert_eq!(replies[1], "done");
    assert!(replies[2]["error"]["message"].as_str().unwrap().contains("a.cedar:1"), "{replies:?}");
    let verified = replies.iter().find(|reply| !reply["verified"].is_null()).unwrap();
    assert_eq!(verified["verified"]["broken"], Value::Null);
    assert_eq!(replies.last().unwrap(), "done");
}

#[test]
fn others_are_told_about_themselves_and_nothing_else() {
    let running = running(None);
    let whoami = ask_as(54_321, 54_321, running.dir.path(), r#"{"ask":"whoami"}"#);
    assert_eq!((&whoami[0]["whoami"]["uid"], &whoami[1]), (&Value::from(54_321), &Value::from("done")));
    for request in [
        r#"{"ask":"status"}"#,
        r#"{"ask":"reload"}"#,
        r#"{"ask":"sessions","filter":{}}"#,
        r#"{"ask":"session","id":"1","records":true}"#,
        r#"{"ask":"verify"}"#,
    ] {
        let refused = ask_as(54_321, 54_321, running.dir.path(), request);
        assert_eq!(refused.len(), 1, "{request}: {refused:?}");
        assert!(refused[0]["error"]["message"].as_str().unwrap().starts_with("uid 54321 may ask"), "{refused:?}");
    }
}

#[test]
fn members_of_the_group_may_ask_everything() {
    let running = running(Some("54400"));
    assert_eq!(running_as(&running, 54_321, 54_400)[0]["status"]["pid"], 2);
    assert!(!running_as(&running, 54_321, 54_401)[0]["error"].is_null());
}

fn running_as(running: &Running, uid: u32, gid: u32) -> Vec<Value> {
    ask_as(uid, gid, running.dir.path(), r#"{"ask":"status"}"#)
}

#[test]
fn what_is_no_request_is_answered_with_an_error_and_a_close() {
    let running = running(None);
    let long = vec![b'x'; 4 * MAX_REQUEST];
    for bad in
        [b"\n".as_slice(), b"{}\n", b"\xff\xfe\n", b"{\"ask\":\"nothing\"}\n", b"{\"ask\":\"status\",\"a\":1}\n", &long]
    {
        let mut stream = UnixStream::connect(running.dir.path().join(SOCKET)).unwrap();
        // The agent may have closed before it has read all.
        let _ = stream.write_all(bad);
        let mut line = String::new();
        // What it had not read makes the kernel reset the connection, so the reply may be lost, but not the end.
        let read = BufReader::new(stream).read_line(&mut line).unwrap_or_default();
        assert!(read == 0 || line.starts_with("{\"error\""), "{line}");
    }
    assert_eq!(ask(running.dir.path(), b"{\"ask\":\"status\"}\n")[0]["status"]["pid"], 2);
}

#[test]
fn a_socket_that_is_served_is_not_taken_and_a_dead_one_is() {
    let running = running(None);
    let path = running.dir.path().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in = runtime.enter();
    assert!(matches!(bind(&path, false), Err(ControlError::InUse(_))));
    let other = TempDir::new().unwrap();
    drop(bind(other.path(), false).unwrap());
    bind(other.path(), false).unwrap();
}

#[test]
fn an_unknown_group_is_refused() {
    assert!(matches!(Access::new(Some("no-such-group")), Err(ControlError::NoGroup(_))));
}
