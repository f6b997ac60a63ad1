//! `postern restart`: one proxy takes another's place. Sessions go on where they began, new connections are served by the new
//! one, and at no moment is anybody refused, let through, or left out of the log.

use std::{
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use agent_tests::{Agent, Auth, Cmd, Finished, Outcome, Postgres, Running, Target, full, has_ended, proc, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    POLICY, UID, expect,
    restarts::{Loop, SOME, Silent},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An agent with a server of its own behind it.
pub struct Handing {
    agent: Agent,
    server: Postgres,
}

impl Handing {
    pub fn new(line: &str) -> Outcome<Self> {
        let server = Postgres::builder().auth(Auth::Trust).login("app", "unused").login("direct", "unused").start()?;
        let agent = Agent::builder()
            .line(line)
            .target(Target::postgres("db", server.addresses()).credential("app", None))
            .role("client", [format!("{{ user = \"{UID}\" }}")])
            .policy("all.cedar", POLICY)
            .start()?;
        Ok(Self { agent, server })
    }

    fn psql(&self) -> Outcome<Finished> {
        crate::psql(&self.server)
    }

    /// A session that has answered once.
    fn session(&self) -> Outcome<Session> {
        let psql = Cmd::new("/usr/lib/postgresql/15/bin/psql")
            .args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose", "-d", &crate::dsn(&self.server)])
            .user(UID, UID)
            .spawn()?;
        let mut session = Session(psql);
        session.answers("here")?;
        Ok(session)
    }

    fn status(&self) -> Outcome<Value> {
        self.agent.json(&["status"])
    }

    /// Pid of the proxy that serves.
    fn pid(&self) -> Outcome<u32> {
        let status = self.status()?;
        status["pid"].as_u64().and_then(|pid| pid.try_into().ok()).ok_or_else(|| status.to_string())
    }

    /// Restarts, and gives the pids of the proxy before and after.
    fn restart(&self) -> Outcome<(u32, u32)> {
        let before = self.pid()?;
        let said = self.agent.json(&["restart"])?;
        let after = self.pid()?;
        let pid = |key: &str| said[key].as_u64();
        let same = pid("before") == Some(before.into()) && pid("pid") == Some(after.into());
        expect(same && before != after, || format!("{before}, {after}: {said}"))?;
        Ok((before, after))
    }

    fn nobody_direct(&self) -> Outcome {
        expect(crate::direct_logins(&self.server) == 0, || "somebody got past the agent".into())
    }

    /// The log is one chain; gives the sessions in it, the oldest first.
    fn verified(&self) -> Outcome<Vec<Value>> {
        let verified = self.agent.postern(&["audit", "verify"])?;
        expect(verified.success(), || verified.to_string())?;
        let listed = self.agent.json(&["sessions", "list"])?;
        let mut sessions = listed["sessions"].as_array().cloned().ok_or_else(|| listed.to_string())?;
        sessions.reverse();
        Ok(sessions)
    }

    fn end(mut self) -> Outcome {
        self.nobody_direct()?;
        self.agent.uninstall()
    }
}

/// A psql that waits for more.
struct Session(Running);

impl Session {
    /// Fails unless the server answers with this word.
    fn answers(&mut self, word: &str) -> Outcome {
        self.0.send(&format!("SELECT '{word}';"))?;
        let line = self.0.line(PATIENCE)?;
        expect(line == word, || format!("{line:?} instead of {word:?}"))
    }

    /// Sends something more, and gives all that it says until it ends.
    fn last(mut self, statement: &str) -> Outcome<Finished> {
        self.0.send(statement)?;
        self.0.finish(PATIENCE)
    }
}

fn ended(pid: u32) -> Outcome {
    wait_until(&format!("process {pid} has ended"), PATIENCE, || has_ended(pid))
}

fn kill9(pid: u32) -> Outcome {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).map_err(|error| error.to_string())
}

/// Two restarts, one after the other, while a session is open in each process.
pub fn sessions_go_on() -> Outcome {
    let handing = Handing::new("drain = 600")?;
    let mut first = handing.session()?;
    first.answers("before")?;
    let (one, two) = handing.restart()?;
    first.answers("between")?;
    let mut second = handing.session()?;
    let (_, three) = handing.restart()?;
    first.answers("after")?;
    second.answers("after")?;
    let third = handing.psql()?;
    expect(third.stdout.trim() == "1", || third.to_string())?;

    let status = handing.status()?;
    let draining: Vec<(u64, u64)> = status["draining"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|process| (process["pid"].as_u64().unwrap_or_default(), process["sessions"].as_u64().unwrap_or_default()))
        .collect();
    expect(draining == [(one.into(), 1), (two.into(), 1)], || status.to_string())?;
    expect(status["targets"][0]["connections"] == 2, || status.to_string())?;
    let shown = handing.agent.postern(&["status"])?;
    expect(shown.stdout.contains(&format!("pid {one}, which still has 1 session")), || shown.to_string())?;

    let states = |sessions: &[Value]| -> Vec<String> {
        sessions.iter().map(|session| session["state"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let listed = handing.verified()?;
    expect(states(&listed) == ["open", "open", "ended"], || format!("{listed:?}"))?;
    let end = first.last("\\q")?;
    expect(end.success(), || end.to_string())?;
    ended(one)?;
    let end = second.last("\\q")?;
    expect(end.success(), || end.to_string())?;
    ended(two)?;
    wait_until("nothing is before it any more", PATIENCE, || {
        handing.status().is_ok_and(|status| status["draining"].as_array().is_some_and(Vec::is_empty))
    })?;
    expect(handing.pid()? == three, || "another process serves".into())?;

    // All of it is in one chain, also what the older processes' sessions did and how they ended.
    let listed = handing.verified()?;
    expect(states(&listed) == ["ended", "ended", "ended"], || format!("{listed:?}"))?;
    let id = listed[0]["session"].as_str().ok_or("no id")?;
    let records = handing.agent.json(&["sessions", "show", id])?.to_string();
    for word in ["before", "between", "after"] {
        expect(records.matches(&format!("'{word}'")).count() == 1, || format!("{word}: {records}"))?;
    }
    // Also that the processes have ended: the older one's end reaches the log through the other.
    let events = handing.agent.json(&["audit", "events"])?;
    let ended = events.as_array().into_iter().flatten().map(|record| &record["event"]);
    let ended: Vec<_> = ended.filter(|event| event["event"] == "process-ended").map(|event| &event["pid"]).collect();
    expect(ended == [one, two], || events.to_string())?;
    handing.end()
}

/// Ctrl-C in psql opens a connection of its own, which goes to the new process; the statement runs in an old one.
pub fn cancel_requests() -> Outcome {
    let handing = Handing::new("drain = 600")?;
    let mut session = handing.session()?;
    handing.restart()?;
    let _between = handing.session()?;
    handing.restart()?;
    session.answers("on")?;
    session.0.send("SELECT count(*) FROM generate_series(1, 100000000000);")?;
    wait_until("the statement runs", PATIENCE, || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%generate_series%' \
                       AND pid <> pg_backend_pid()";
        handing.server.sql("postgres", running).is_ok_and(|count| count.trim() == "1")
    })?;
    session.0.signal(Signal::SIGINT);
    let seen = session.last("")?;
    expect(seen.stderr.contains("canceling statement due to user request"), || seen.to_string())?;
    handing.end()
}

/// Every connect is answered by one or the other process, also in another network namespace.
pub fn nobody_is_refused() -> Outcome {
    let target = Silent::new()?;
    // Protected in every namespace, and reached from none but through the agent.
    let elsewhere = "203.0.113.7:5432";
    let addresses = target.addresses.iter().map(ToString::to_string).chain([elsewhere.to_owned()]);
    let agent = Agent::builder()
        .target(Target::postgres("db", addresses).credential("app", None))
        .policy("all.cedar", POLICY)
        .start()?;
    let handing = |words: &[&str]| agent.json(words);
    let apart = Loop::apart(elsewhere.parse().map_err(|_| "not an address")?)?;
    let loops: Vec<Loop> = target.addresses.iter().copied().map(Loop::start).chain([apart]).collect();
    for _ in 0..if full() { 30 } else { 4 } {
        loops.iter().try_for_each(Loop::goes_on)?;
        handing(&["restart"])?;
    }
    loops.iter().try_for_each(Loop::goes_on)?;
    let ends = loops.into_iter().map(Loop::stop).collect::<Outcome<Vec<_>>>()?;
    println!("    {ends:?}");
    let only_answered = ends.iter().all(|ends| ends.len() == 1 && ends.get("answered").is_some_and(|of| *of > SOME));
    expect(only_answered, || format!("{ends:?}\n{}", agent.log()))?;
    expect(target.accepted() == 0, || format!("{} got around the agent", target.accepted()))?;
    let mut agent = agent;
    agent.uninstall()
}

/// A proxy that would have other targets than the kernel side does not take over.
pub fn other_targets() -> Outcome {
    let handing = Handing::new("")?;
    let config = handing.agent.config();
    let written = std::fs::read_to_string(&config).map_err(|error| error.to_string())?;
    let changed = written.replace("mode = \"enforce\"", "mode = \"observe\"");
    std::fs::write(&config, &changed).map_err(|error| error.to_string())?;
    let seen = handing.agent.postern(&["restart"])?;
    expect(!seen.success() && seen.stderr.contains("other targets"), || seen.to_string())?;
    std::fs::write(&config, &written).map_err(|error| error.to_string())?;
    let status = handing.agent.postern(&["status"])?;
    expect(status.success(), || status.to_string())?;
    handing.restart()?;
    handing.end()
}

/// The ports of both processes' listeners are closed to whoever connects to them directly, for as long as they listen.
pub fn ports_are_closed() -> Outcome {
    let handing = Handing::new("drain = 600")?;
    let _session = handing.session()?;
    let port = |nth: usize| {
        let log = handing.agent.log();
        let ports = log.lines().filter_map(|line| line.split_once("the proxy listens")?.1.split_once("ports=["));
        let port = ports.map(|(_, rest)| rest.split(',').next().unwrap_or_default().parse::<u16>().ok()).nth(nth);
        port.flatten().ok_or(log)
    };
    let knock = |port: u16| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|error| error.kind());
    expect(knock(port(0)?) == Err(ErrorKind::PermissionDenied), || "the port of the proxy is open".into())?;
    handing.restart()?;
    let (old, new) = (port(0)?, port(1)?);
    let since = Instant::now();
    let mut seen = Vec::new();
    while since.elapsed() < Duration::from_secs(6) && seen.last() != Some(&Err(ErrorKind::ConnectionRefused)) {
        expect(knock(new) == Err(ErrorKind::PermissionDenied), || "the port of the new proxy is open".into())?;
        let knocked = knock(old);
        if seen.last() != Some(&knocked) {
            seen.push(knocked);
        }
    }
    // First guarded, then gone.
    expect(seen == [Err(ErrorKind::PermissionDenied), Err(ErrorKind::ConnectionRefused)], || {
        format!("the port of the old proxy: {seen:?}")
    })?;
    handing.end()
}

/// Sessions that are still open when the time is over end with an error of their own protocol, and so does their process.
pub fn drain_limit() -> Outcome {
    let handing = Handing::new("drain = 1")?;
    let session = handing.session()?;
    let (old, _) = handing.restart()?;
    ended(old)?;
    let seen = session.last("SELECT 'late';")?;
    expect(!seen.stdout.contains("late") && seen.stderr.contains("57P01"), || seen.to_string())?;
    let listed = handing.verified()?;
    let reason = listed[0]["reason"].as_str().unwrap_or_default();
    expect(listed[0]["state"] == "ended" && reason.contains("time for sessions"), || format!("{listed:?}"))?;
    let seen = handing.psql()?;
    expect(seen.stdout.trim() == "1", || seen.to_string())?;
    handing.end()
}

/// The old process is killed while it has sessions: they are lost, and nothing else is.
pub fn old_is_killed() -> Outcome {
    let handing = Handing::new("drain = 600")?;
    let session = handing.session()?;
    let (old, new) = handing.restart()?;
    kill9(old)?;
    ended(old)?;
    let seen = session.last("SELECT 'lost';")?;
    expect(!seen.stdout.contains("lost"), || seen.to_string())?;
    let seen = handing.psql()?;
    expect(seen.stdout.trim() == "1", || seen.to_string())?;
    expect(handing.pid()? == new, || "another process serves".into())?;
    wait_until("the session is lost", PATIENCE, || {
        handing.verified().is_ok_and(|listed| listed.first().is_some_and(|first| first["state"] == "lost"))
    })?;
    handing.end()
}

/// The new process is killed: nobody records what the old one's sessions do, so that they end, and the host is closed.
pub fn new_is_killed() -> Outcome {
    let mut handing = Handing::new("drain = 600")?;
    let session = handing.session()?;
    let (old, new) = handing.restart()?;
    kill9(new)?;
    ended(old)?;
    let warden = handing.agent.warden().ok_or("no warden")?;
    ended(warden)?;
    let seen = session.last("SELECT 'on';")?;
    expect(!seen.stdout.contains("on\n") && seen.stderr.contains("57P01"), || seen.to_string())?;
    let seen = handing.psql()?;
    expect(seen.stderr.contains("Connection refused"), || seen.to_string())?;
    handing.nobody_direct()?;
    handing.agent.kill9();
    handing.agent.start()?;
    let seen = handing.psql()?;
    expect(seen.stdout.trim() == "1", || seen.to_string())?;
    let listed = handing.verified()?;
    expect(listed[0]["state"] == "lost", || format!("{listed:?}"))?;
    handing.end()
}

/// The warden is killed: nobody can say who connects, so that both processes end, and the host is closed.
pub fn warden_is_killed() -> Outcome {
    let mut handing = Handing::new("drain = 600")?;
    let session = handing.session()?;
    let (old, new) = handing.restart()?;
    kill9(handing.agent.warden().ok_or("no warden")?)?;
    ended(old)?;
    ended(new)?;
    let seen = session.last("SELECT 'on';")?;
    expect(!seen.stdout.contains("on\n"), || seen.to_string())?;
    let seen = handing.psql()?;
    expect(seen.stderr.contains("Connection refused"), || seen.to_string())?;
    handing.nobody_direct()?;
    handing.agent.kill9();
    handing.agent.start()?;
    let seen = handing.psql()?;
    expect(seen.stdout.trim() == "1", || seen.to_string())?;
    handing.verified()?;
    handing.end()
}

/// What cannot start does not take the place of what runs.
pub fn wrong_policies() -> Outcome {
    let handing = Handing::new("drain = 600")?;
    let mut session = handing.session()?;
    let before = handing.pid()?;
    let fault = handing.agent.path("policies").join("fault.cedar");
    fs::write(&fault, "permit (nonsense").map_err(|error| error.to_string())?;
    let seen = handing.agent.postern(&["restart"])?;
    expect(seen.code() == Some(1) && seen.stderr.contains("fault.cedar"), || seen.to_string())?;
    expect(handing.pid()? == before, || "another process serves".into())?;
    expect(proc::children(before).is_empty(), || "it left a process behind".into())?;
    session.answers("on")?;
    fs::remove_file(&fault).map_err(|error| error.to_string())?;
    handing.restart()?;
    session.answers("and on")?;
    handing.end()
}

/// Sessions of the old process are decided by the policies that are in force, whoever has read them.
pub fn policies_reach_all() -> Outcome {
    let handing = Handing::new("drain = 600")?;
    handing.server.sql("postgres", "CREATE TABLE public.t AS SELECT 1 AS a; GRANT SELECT ON public.t TO app")?;
    let mut session = handing.session()?;
    handing.restart()?;
    let select = |word| format!("SELECT '{word}' FROM public.t;");
    session.0.send(&select("permitted"))?;
    let line = session.0.line(PATIENCE)?;
    expect(line == "permitted", || line)?;
    let none = POLICY.replace("Action::\"sql:select\"", "Action::\"sql:update\"");
    fs::write(handing.agent.path("policies").join("all.cedar"), none).map_err(|error| error.to_string())?;
    handing.agent.command(["policy", "reload"]).ok()?;
    // The old process hears of it a moment later.
    std::thread::sleep(Duration::from_millis(500));
    let seen = session.last(&select("denied"))?;
    expect(!seen.stdout.contains("denied\n") && seen.stderr.contains("42501"), || seen.to_string())?;
    handing.end()
}

/// An orderly stop ends both, the old one first, with its sessions' ends in the log.
pub fn stop_while_draining() -> Outcome {
    let mut handing = Handing::new("drain = 600")?;
    let session = handing.session()?;
    let (old, new) = handing.restart()?;
    handing.agent.stop()?;
    ended(old)?;
    ended(new)?;
    let seen = session.last("SELECT 'stopped';")?;
    expect(!seen.stdout.contains("stopped\n") && seen.stderr.contains("57P01"), || seen.to_string())?;
    handing.agent.start()?;
    let listed = handing.verified()?;
    expect(listed[0]["state"] == "ended", || format!("{listed:?}"))?;
    handing.end()
}
