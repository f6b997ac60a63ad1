//! Warden and proxy as a service manager runs them, and what keeps them from running at all.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    time::Duration,
};

use agent_tests::{Agent, Cmd, Outcome, Postgres, Running, has_ended, users, wait_until};
use nix::sys::signal::Signal;

use crate::{direct_logins, expect, prepare, psql};

const PATIENCE: Duration = Duration::from_secs(30);

/// The service manager, as far as the services speak to it.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(agent: &Agent) -> Outcome<Self> {
        let path = agent.path("notify");
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let socket = UnixDatagram::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, Permissions::from_mode(0o777)).map_err(failed)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { socket, path: path.display().to_string() })
    }

    /// Fails unless the next thing that a service says is this.
    fn hears(&self, expected: &str) -> Outcome {
        let mut buffer = [0; 256];
        let length = self.socket.recv(&mut buffer).map_err(|error| format!("nobody says {expected}: {error}"))?;
        let said = String::from_utf8_lossy(&buffer[..length]);
        expect(said.trim() == expected, || format!("{said:?} instead of {expected:?}"))
    }
}

fn start(agent: &Agent, word: &str, manager: &Manager) -> Outcome<Running> {
    let user = users::find(agent_tests::agent::PROXY_USER)?.ok_or("no user for the proxy")?;
    match word {
        "proxy" => {
            agent.command([word]).env("NOTIFY_SOCKET", &manager.path).user(user.uid.as_raw(), user.gid.as_raw()).spawn()
        }
        _ => Cmd::new("setpriv")
            .args(["--bounding-set", &capabilities(), "--no-new-privs"])
            .arg(agent.program()?)
            .args([word, "--config"])
            .arg(agent.config())
            .env("NOTIFY_SOCKET", &manager.path)
            .spawn(),
    }
}

/// Stops the warden as the service manager does.
fn stop(warden: Running, manager: &Manager) -> Outcome {
    warden.signal(Signal::SIGTERM);
    manager.hears("STOPPING=1")?;
    let ended = warden.finish(PATIENCE)?;
    expect(ended.success(), || ended.to_string())
}

/// The capabilities that the warden's unit leaves it, as setpriv spells them.
fn capabilities() -> String {
    let unit = include_str!("../../systemd/postern-warden.service");
    let named = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let named = named.flat_map(str::split_ascii_whitespace).filter_map(|name| name.strip_prefix("CAP_"));
    named.fold("-all".to_owned(), |all, name| format!("{all},+{}", name.to_ascii_lowercase()))
}

/// Two units, and what each of them tells the service manager.
pub fn apart(server: &Postgres) -> Outcome {
    let agent = prepare(server)?;
    let manager = Manager::new(&agent)?;
    let warden = start(&agent, "warden", &manager)?;
    manager.hears("READY=1")?;
    // In force: nobody gets past. Served: a proxy can come.
    let before = direct_logins(server);
    let seen = psql(server)?;
    expect(seen.stderr.contains("Connection refused"), || seen.to_string())?;
    let proxy = start(&agent, "proxy", &manager)?;
    manager.hears("READY=1")?;
    let seen = psql(server)?;
    expect(seen.stdout.trim() == "1" && direct_logins(server) == before, || seen.to_string())?;
    // With the privileges that the unit leaves the warden, the self-test can be made, and everything else.
    let status = agent.postern(&["status"])?;
    expect(status.success(), || status.to_string())?;
    // A proxy that is restarted alone is taken back.
    proxy.signal(Signal::SIGTERM);
    let ended = proxy.finish(PATIENCE)?;
    expect(ended.success(), || ended.to_string())?;
    let seen = psql(server)?;
    expect(seen.stderr.contains("Connection refused"), || seen.to_string())?;
    let proxy = start(&agent, "proxy", &manager)?;
    manager.hears("READY=1")?;
    let seen = psql(server)?;
    expect(seen.stdout.trim() == "1", || seen.to_string())?;
    stop(warden, &manager)?;
    let ended = proxy.finish(PATIENCE)?;
    expect(ended.stderr.contains("the warden has ended"), || ended.to_string())?;
    agent.command(["uninstall"]).ok().map(drop)
}

/// The proxy of two units is restarted, with a session open.
pub fn restarted(server: &Postgres) -> Outcome {
    let agent = prepare(server)?;
    let manager = Manager::new(&agent)?;
    let warden = start(&agent, "warden", &manager)?;
    manager.hears("READY=1")?;
    let proxy = start(&agent, "proxy", &manager)?;
    manager.hears("READY=1")?;
    let said = agent.json(&["restart"])?;
    manager.hears(&format!("MAINPID={}", said["pid"]))?;
    manager.hears("READY=1")?;
    let seen = psql(server)?;
    expect(seen.stdout.trim() == "1", || seen.to_string())?;
    // It had no sessions.
    wait_until("the old proxy has ended", PATIENCE, || has_ended(proxy.pid()))?;
    let seen = psql(server)?;
    expect(seen.stdout.trim() == "1", || seen.to_string())?;
    stop(warden, &manager)?;
    let pid = said["pid"].as_u64().and_then(|pid| pid.try_into().ok()).ok_or("no pid")?;
    wait_until("the new proxy has ended too", PATIENCE, || has_ended(pid))?;
    agent.command(["uninstall"]).ok().map(drop)
}

/// Replaces the proxy's user in the configuration.
fn with_user(agent: &Agent, user: &str) -> Outcome {
    let failed = |error: std::io::Error| error.to_string();
    let config = fs::read_to_string(agent.config()).map_err(failed)?;
    let named = format!("user = \"{}\"", agent_tests::agent::PROXY_USER);
    expect(config.contains(&named), || config.clone())?;
    fs::write(agent.config(), config.replace(&named, &format!("user = \"{user}\""))).map_err(failed)
}

/// `agent.user` by number.
pub fn numeric_user(server: &Postgres) -> Outcome {
    const NUMBER: u32 = 64_321;
    expect(users::find(&NUMBER.to_string())?.is_none(), || format!("there is a user {NUMBER}"))?;
    let mut agent = prepare(server)?;
    with_user(&agent, &NUMBER.to_string())?;
    agent.start()?;
    let seen = psql(server)?;
    expect(seen.stdout.trim() == "1", || seen.to_string())?;
    let proxy = agent.proxy().ok_or("no proxy")?;
    let status = fs::read_to_string(format!("/proc/{proxy}/status")).map_err(|error| error.to_string())?;
    for line in ["Uid:", "Gid:"].map(|word| format!("{word}\t{NUMBER}\t{NUMBER}\t{NUMBER}\t{NUMBER}\n")) {
        expect(status.contains(&line), || status.clone())?;
    }
    expect(status.contains("CapEff:\t0000000000000000") && status.contains("Groups:\t \n"), || status.clone())?;
    agent.uninstall()
}

/// Directories that only root can enter, or files that only root can read.
pub fn closed_policies(server: &Postgres) -> Outcome {
    let agent = prepare(server)?;
    let before = direct_logins(server);
    for (name, mode, open) in [("policies", 0o700, 0o755), ("policies/all.cedar", 0o600, 0o644)] {
        let path = agent.path(name);
        let set = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(|error| error.to_string());
        set(mode)?;
        for word in ["run", "warden"] {
            let seen = agent.command([word]).run()?;
            let remedy = format!(" {}`", path.display());
            let said = seen.stderr.contains("`chmod o+r") && seen.stderr.contains(&remedy);
            expect(!seen.success() && said, || seen.to_string())?;
        }
        set(open)?;
    }
    expect(!agent.pins().exists(), || "there are pins".into())?;
    let seen = psql(server)?;
    expect(seen.stdout.trim() == "1" && direct_logins(server) == before + 1, || seen.to_string())
}
