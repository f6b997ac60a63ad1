//! The self-test against the real kernel side: it finds every path closed, and the very path open whose program is taken away.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::ExitCode,
};

use agent_tests::{Agent, Cmd, Outcome, Target, suite, suite::root_main};
use serde_json::Value;

const POLICY: &str = r#"
@id("all")
permit (principal in Role::"client", action == Action::"connect", resource in Target::"db");
"#;

/// A user that nothing on the host runs as.
const UID: u32 = 64_331;

/// A link, and the beginnings of the paths that are open without it.
const LINKS: &[(&str, &[&str])] = &[
    ("connect4", &["connect v4", "connect by io_uring v4", "Fast Open by connect v4", "UDP connect v4"]),
    ("connect6", &["connect v6", "connect by io_uring v6", "connect v4-mapped", "UDP connect v6"]),
    ("sendmsg4", &["UDP sendto v4"]),
    ("sendmsg6", &["UDP sendto v6"]),
];

fn main() -> ExitCode {
    root_main("selftest", || {
        let mut cases = suite("selftest")
            .case("every path is closed, and the status says enforcing", all_closed)
            .case("in a scope of users, of a cgroup, and with root excluded", scopes)
            .case("with all programs in force but no guard, raw sockets are closed by their own program", without_guard)
            .case("run --require enforcing ends where something is degraded, and serves where nothing is", required);
        cases = cases.case("a listed Unix socket is refused, or the status says that it is open", unix);
        cases = cases.case("a Unix socket whose permissions keep out everybody in scope is not open", permitted);
        for (link, paths) in LINKS {
            cases = cases.case(format!("without {link} its paths are found open"), || without(link, paths));
        }
        Ok(cases.run())
    })
}

fn agent(more: &str) -> Outcome<Agent> {
    Agent::builder()
        .target(Target::postgres("db", ["192.0.2.77:5432"]).credential("app", None))
        .role("client", [format!("{{ user = \"{UID}\" }}")])
        .policy("all.cedar", POLICY)
        .line(more)
        .prepare()
}

/// Only this user is in scope, so that nobody else on the host is affected.
fn narrow() -> String {
    format!("[intercept]\nusers = [\"{UID}\"]")
}

fn attempts(agent: &Agent) -> Outcome<Vec<(String, String)>> {
    let seen = agent.postern(&["selftest", "--json"])?;
    let attempts: Vec<Value> = serde_json::from_str(&seen.stdout).map_err(|error| format!("{error}: {seen}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let attempts: Vec<_> =
        attempts.iter().map(|each| (text(&each["path"]), text(&each["outcome"]["outcome"]))).collect();
    expect(attempts.len() >= 20, || format!("only {} paths were tried", attempts.len()))?;
    let closed = attempts.iter().all(|(_, outcome)| matches!(outcome.as_str(), "redirected" | "refused" | "absent"));
    expect(seen.success() == closed, || format!("the exit code does not say what the answer says: {seen}"))?;
    Ok(attempts)
}

fn all_closed() -> Outcome {
    let mut agent = agent(&narrow())?;
    agent.start()?;
    let attempts = attempts(&agent)?;
    let of = |path: &str| attempts.iter().find(|(name, _)| name == path).map(|(_, outcome)| outcome.as_str());
    for (path, outcome) in [
        ("connect v4", "redirected"),
        ("connect v6", "redirected"),
        ("connect v4-mapped", "redirected"),
        ("Fast Open by sendto v4", "redirected"),
        ("UDP sendto v6", "refused"),
        ("raw socket v4", "refused"),
        ("packet socket v4", "refused"),
        ("packet socket v6", "refused"),
    ] {
        expect(of(path) == Some(outcome), || format!("{path}: {:?}", of(path)))?;
    }
    let status = agent.postern(&["status"])?;
    expect(status.success() && status.stdout.contains("enforcing"), || status.to_string())?;
    // The attempts were no sessions, and nobody was refused.
    let records = agent.json(&["sessions", "list"])?;
    expect(!records.to_string().contains("refused"), || records.to_string())
}

fn scopes() -> Outcome {
    for scope in [
        "[intercept]\ncgroups = [\"/postern-no-such-cgroup\"]",
        "[intercept]\nunits = [\"postern-no-such.service\"]\nexclude = { users = [\"root\"] }",
    ] {
        let mut agent = agent(scope)?;
        agent.start()?;
        let open: Vec<_> = attempts(&agent)?.into_iter().filter(|(_, outcome)| outcome == "reached").collect();
        let status = agent.postern(&["status"])?;
        expect(open.is_empty() && status.success(), || format!("{scope}: {open:?} {status}"))?;
    }
    Ok(())
}

fn without_guard() -> Outcome {
    let mut agent = agent(&narrow())?;
    agent.start()?;
    detach(&agent, "egress")?;
    let attempts = attempts(&agent)?;
    expect(attempts.iter().all(|(_, outcome)| outcome != "reached"), || format!("{attempts:?}"))?;
    // The other way round, the guard is the last line behind the program that refuses raw sockets.
    agent.restart()?;
    detach(&agent, "create")?;
    let attempts = self::attempts(&agent)?;
    expect(attempts.iter().all(|(_, outcome)| outcome != "reached"), || format!("{attempts:?}"))?;
    detach(&agent, "egress")?;
    let attempts = self::attempts(&agent)?;
    let raw = attempts.iter().find(|(path, _)| path == "raw socket v6").map(|(_, outcome)| outcome.as_str());
    expect(raw == Some("reached"), || format!("the control did not arrive: {attempts:?}"))
}

fn without(link: &str, paths: &[&str]) -> Outcome {
    let mut agent = agent(&narrow())?;
    agent.start()?;
    detach(&agent, link)?;
    // TCP would still be stopped by the guard: without it, the program is what closes the path.
    detach(&agent, "egress")?;
    let attempts = attempts(&agent)?;
    for path in paths {
        let outcome = attempts.iter().find(|(name, _)| name == path).map(|(_, outcome)| outcome.as_str());
        expect(outcome == Some("reached"), || format!("{path}: {outcome:?} without {link}"))?;
        let said = format!("self-test: {path}: OPEN");
        let status = agent.postern(&["status"])?;
        expect(!status.success() && status.stdout.contains(&said), || status.to_string())?;
    }
    agent.restart()?;
    expect(agent.postern(&["status"])?.success(), || "it is still degraded".into())
}

/// On an older kernel, another program may stand in for one.
fn detach(agent: &Agent, link: &str) -> Outcome {
    let pins = [link, &format!("{link}_older")]
        .map(|link| agent.pins().join(format!("v{}", agent_common::LAYOUT)).join(format!("link_{link}")));
    let pin = pins.iter().find(|pin| pin.exists()).unwrap_or(&pins[0]);
    fs::remove_file(pin).map_err(|error| format!("{}: {error}", pin.display()))
}

/// The self-test tries one where the kernel refuses them, finds it open without the program, and the status tells of a target's
/// where the kernel does not.
fn unix() -> Outcome {
    let directory = agent_tests::TempDir::new().map_err(|error| error.to_string())?;
    let failed = |error: std::io::Error| error.to_string();
    let path = directory.path().join("server/socket");
    let serve = || fs::create_dir(directory.path().join("server")).and_then(|()| UnixListener::bind(&path));
    let listener = serve().map_err(failed)?;
    let mut agent = Agent::builder()
        .target(
            Target::postgres("db", ["192.0.2.77:5432"]).credential("app", None).line(format!("sockets = [{path:?}]")),
        )
        .role("client", [format!("{{ user = \"{UID}\" }}")])
        .policy("all.cedar", POLICY)
        .line("[intercept]\nusers = [\"0\"]")
        .prepare()?;
    agent.start()?;
    let of = |way: &str, attempts: &[(String, String)]| {
        let found = attempts.iter().find(|(name, _)| name == way);
        found.map(|(_, outcome)| outcome.clone())
    };
    let outcome = |attempts: &[(String, String)]| of("Unix socket by a descriptor", attempts);
    let status = agent.postern(&["status"])?;
    if status.success() {
        expect(outcome(&attempts(&agent)?).as_deref() == Some("refused"), || "not tried".into())?;
        let refused = || {
            let refused = UnixStream::connect(&path).map_err(|error| error.raw_os_error());
            expect(refused.as_ref().is_err_and(|code| *code == Some(libc::EPERM)), || format!("{refused:?}"))
        };
        refused()?;
        // The server starts again: nobody has to find the new file first.
        drop(listener);
        fs::remove_dir_all(directory.path().join("server")).map_err(failed)?;
        let _listener = serve().map_err(failed)?;
        refused()?;
        let counted = agent.json(&["status"])?["counters"]["refused_unix"].as_u64();
        expect(counted.is_some_and(|count| count > 0), || format!("{counted:?}"))?;
        detach(&agent, "connect_unix")?;
        expect(outcome(&attempts(&agent)?).as_deref() == Some("reached"), || "still closed".into())?;
        UnixStream::connect(&path).map(drop).map_err(|error| format!("the control: {error}"))
    } else {
        let said = format!("db: unix: {}", path.display());
        expect(status.stdout.contains(&said), || status.to_string())?;
        expect(outcome(&attempts(&agent)?).is_none(), || "tried".into())?;
        if status.stdout.contains("refuses only its name") {
            expect(of("Unix socket", &attempts(&agent)?).as_deref() == Some("refused"), || "not tried".into())?;
            by_name(&agent, &path)?;
            detach(&agent, "connect_unix_by_name")?;
            expect(of("Unix socket", &attempts(&agent)?).as_deref() == Some("reached"), || "still closed".into())?;
        }
        UnixStream::connect(&path).map(drop).map_err(|error| format!("the control: {error}"))
    }
}

/// Where the kernel side sees nothing but the path: the name is refused in any directory, but not in another root directory; and
/// the status is satisfied once the permissions keep out everybody in scope.
fn by_name(agent: &Agent, path: &Path) -> Outcome {
    let failed = |error: std::io::Error| error.to_string();
    let said = |path: &Path| UnixStream::connect(path).map(drop).map_err(|error| error.raw_os_error());
    let elsewhere = path.parent().and_then(Path::parent).ok_or("no directory")?.join("elsewhere");
    let other = elsewhere.join("socket");
    fs::create_dir(&elsewhere).map_err(failed)?;
    let _listener = UnixListener::bind(&other).map_err(failed)?;
    for refused in [path, &other] {
        expect(said(refused) == Err(Some(libc::EPERM)), || format!("{}: {:?}", refused.display(), said(refused)))?;
    }
    let status = agent.postern(&["status", "--json"])?;
    let status: Value = serde_json::from_str(&status.stdout).map_err(|error| format!("{error}: {status}"))?;
    let counted = status["counters"]["refused_unix"].as_u64();
    expect(counted.is_some_and(|count| count > 1), || format!("{counted:?}"))?;
    let link = elsewhere.join("link");
    symlink(&other, &link).map_err(failed)?;
    expect(said(&link).is_ok(), || format!("by a link: {:?}", said(&link)))?;
    // What a container has under this name is its own.
    let inner = |root: &Path| {
        let connect =
            "import os, socket, sys; s = socket.socket(socket.AF_UNIX); os.chroot(sys.argv[1]); s.connect('/socket')";
        Cmd::new("python3").args(["-c", connect, &root.display().to_string()]).run().map(|seen| seen.success())
    };
    expect(inner(&elsewhere)?, || "its own socket is refused to who has another root directory".into())?;
    expect(!inner(Path::new("/"))?, || "the control reaches it".into())
}

/// Where the kernel does not refuse all that lead to a Unix socket, its permissions do.
fn permitted() -> Outcome {
    let directory = agent_tests::TempDir::new().map_err(|error| error.to_string())?;
    let failed = |error: std::io::Error| error.to_string();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed);
    mode(directory.path(), 0o755)?;
    let path = directory.path().join("socket");
    let _listener = UnixListener::bind(&path).map_err(failed)?;
    let agent = |scope: &str| {
        let target = Target::postgres("db", ["192.0.2.77:5432"]).credential("app", None);
        let mut agent = Agent::builder()
            .target(target.line(format!("sockets = [{path:?}]")))
            .role("client", [format!("{{ user = \"{UID}\" }}")])
            .policy("all.cedar", POLICY)
            .line(scope)
            .prepare()?;
        agent.start()?;
        Ok::<_, String>(agent)
    };
    let is_open = |agent: &Agent| Ok::<_, String>(agent.postern(&["status"])?.stdout.contains("db: unix: "));
    let users = agent(&narrow())?;
    for (permissions, open) in [(0o777, true), (0o770, false), (0o755, false), (0o772, true)] {
        mode(&path, permissions)?;
        let found = is_open(&users)?;
        expect(found == (open && !by_place(&users)?), || format!("{permissions:o}: {found}"))?;
    }
    drop(users);
    // Who owns it is in scope, or may be.
    mode(&path, 0o700)?;
    for scope in ["[intercept]\nusers = [\"0\"]", "[intercept]\ncgroups = [\"/postern-none\"]"] {
        let agent = agent(scope)?;
        expect(is_open(&agent)? != by_place(&agent)?, || format!("{scope}: not open"))?;
    }
    Ok(())
}

/// Whether the kernel refuses a listed socket by whatever path.
fn by_place(agent: &Agent) -> Outcome<bool> {
    let seen = agent.postern(&["doctor", "--json"])?;
    let found: Value = serde_json::from_str(&seen.stdout).map_err(|error| format!("{error}: {seen}"))?;
    let mut features = found["features"].as_array().into_iter().flatten();
    Ok(features.any(|one| one["name"] == "connect_unix" && one["state"] == "present"))
}

fn required() -> Outcome {
    let good = agent(&narrow())?;
    let child = good.command(["run", "--require", "enforcing"]).spawn()?;
    agent_tests::wait_until("it serves", std::time::Duration::from_secs(20), || {
        good.postern(&["status"]).is_ok_and(|status| status.success())
    })?;
    child.signal(nix::sys::signal::Signal::SIGTERM);
    child.finish(std::time::Duration::from_secs(20))?;
    let degraded = Agent::builder()
        .target(Target::postgres("db", ["postern.invalid:5432"]).credential("app", None))
        .role("client", [format!("{{ user = \"{UID}\" }}")])
        .policy("all.cedar", POLICY)
        .line(&narrow())
        .prepare()?;
    let seen = degraded.command(["run", "--require", "enforcing"]).run()?;
    expect(!seen.success() && seen.stderr.contains("not enforcing: db: "), || seen.to_string())
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise()) }
}
