//! `postern doctor`: finds what is missing, says what to do, and changes nothing.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process::ExitCode,
};

use agent_tests::{Agent, Outcome, Target, free_port, suite, suite::root_main};
use serde_json::Value;

/// The kernel's own description of its types, in which a tracepoint has a type of its own.
const TYPES: &str = "/sys/kernel/btf/vmlinux";

const POLICY: &str = r#"@id("all") permit (principal, action in [Action::"connect"], resource in Target::"db");"#;

fn main() -> ExitCode {
    root_main("doctor", || {
        Ok(suite("doctor")
            .case("nothing is missing on a host as it should be", healthy)
            .case("features are what the kernel's types say, each with what is lost without it", features)
            .case("nothing is put in force", nothing_in_force)
            .case("an agent that is running is seen and not disturbed", running)
            .case("a user that is not there is found", || {
                wrong(&prepared()?, "\"nobody\"", "\"postern-no-such-user\"", "user", "useradd")
            })
            .case("pins outside of a BPF file system are found", || {
                let agent = prepared()?;
                wrong(&agent, "/sys/fs/bpf/", "/var/lib/", "pins", "not in a BPF file system")
            })
            .case("pins of another version are found", foreign_pins)
            .case("a file in a directory's place is found", || {
                let agent = prepared()?;
                wrong(&agent, "/state\"", "/postern.toml\"", "state_dir", "is not a directory")
            })
            .case("policies that the proxy could not read are found", policies)
            .case("a name that does not resolve is found", || {
                let agent = prepared()?;
                wrong(&agent, "\"127.77", "\"name.invalid:1\", \"127.77", "name of db", "does not resolve")
            })
            .case("a target's socket that everybody can connect to is found", socket)
            .case("a configuration with a fault is found, and the kernel is looked at all the same", faulty)
            .case("whoever is not root is refused", not_root)
            .run())
    })
}

/// An agent that was not started, with one target.
fn prepared() -> Outcome<Agent> {
    let address = free_address()?;
    Agent::builder()
        .target(Target::postgres("db", [address]).credential("app", None))
        .policy("all.cedar", POLICY)
        .prepare()
}

fn free_address() -> Outcome<SocketAddr> {
    let ip = "127.77.9.1".parse().map_err(|_| "an address")?;
    Ok(SocketAddr::new(ip, free_port(&[ip])?))
}

/// Exit code and answer.
fn doctor(agent: &Agent) -> Outcome<(Option<i32>, Value)> {
    let finished = agent.postern(&["doctor", "--json"])?;
    let answer = serde_json::from_str(&finished.stdout).map_err(|error| format!("{error}: {finished}"))?;
    Ok((finished.code(), answer))
}

/// The checks that did not pass: name and what was found.
fn failed(answer: &Value) -> Vec<(String, String)> {
    let checks = answer["checks"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    checks
        .filter(|check| check["passed"] != Value::Bool(true))
        .map(|check| (text(&check["name"]), text(&check["found"])))
        .collect()
}

fn expect(holds: bool, what: impl std::fmt::Display) -> Outcome {
    if holds { Ok(()) } else { Err(what.to_string()) }
}

/// With one thing changed in the configuration, exactly one check fails, and says this.
fn wrong(agent: &Agent, from: &str, to: &str, name: &str, says: &str) -> Outcome {
    let text = fs::read_to_string(agent.config()).map_err(|error| error.to_string())?;
    expect(text.contains(from), format!("{from} is not in the configuration"))?;
    fs::write(agent.config(), text.replacen(from, to, 1)).map_err(|error| error.to_string())?;
    one_failed(agent, name, says)
}

fn one_failed(agent: &Agent, name: &str, says: &str) -> Outcome {
    let (code, answer) = doctor(agent)?;
    let failed = failed(&answer);
    let fits = matches!(&failed[..], [(found, why)] if found == name && why.contains(says));
    expect(fits && code == Some(1) && answer["passed"] == Value::Bool(false), format!("{code:?} {failed:?}"))
}

fn healthy() -> Outcome {
    let agent = prepared()?;
    let (code, answer) = doctor(&agent)?;
    expect(code == Some(0) && answer["passed"] == Value::Bool(true), format!("{code:?} {answer}"))?;
    let names: Vec<&str> =
        answer["checks"].as_array().into_iter().flatten().filter_map(|check| check["name"].as_str()).collect();
    for name in
        ["kernel", "namespaces", "cgroup v2", "programs", "pins", "user", "policies", "runtime_dir", "state_dir"]
    {
        expect(names.contains(&name), format!("{name} is not among {names:?}"))?;
    }
    let text = agent.command(["doctor"]).ok()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").map_err(|error| error.to_string())?;
    expect(text.contains(release.trim()) && text.contains("sched_prepare_exec"), text)
}

fn features() -> Outcome {
    let agent = prepared()?;
    let (_, answer) = doctor(&agent)?;
    let found = answer["features"].as_array().cloned().unwrap_or_default();
    expect(!found.is_empty(), "no features")?;
    for feature in &found {
        expect(feature["lost"].as_str().is_some_and(|lost| !lost.is_empty()), feature)?;
        expect(feature["why"].is_null() == (feature["state"] == "present"), feature)?;
    }
    let types = fs::read(TYPES).map_err(|error| format!("{TYPES}: {error}"))?;
    let name = b"btf_trace_sched_prepare_exec\0";
    let expected = if types.windows(name.len()).any(|window| window == name) { "present" } else { "replaced" };
    let exec = found.iter().find(|feature| feature["name"] == "sched_prepare_exec").ok_or("not listed")?;
    expect(exec["state"] == expected, format!("{exec}, but {expected} by its types"))
}

fn nothing_in_force() -> Outcome {
    let agent = prepared()?;
    let text = fs::read_to_string(agent.config()).map_err(|error| error.to_string())?;
    let address: SocketAddr =
        text.split('"').find_map(|word| word.parse().ok()).ok_or("no address in the configuration")?;
    doctor(&agent)?;
    expect(!agent.pins().exists(), "it left pins")?;
    expect(!agent.path("run/warden.sock").exists(), "it left a socket")?;
    let server = TcpListener::bind(address).map_err(|error| error.to_string())?;
    let client = TcpStream::connect(address).map_err(|error| format!("not reached directly: {error}"))?;
    let (_, peer) = server.accept().map_err(|error| error.to_string())?;
    expect(client.local_addr().is_ok_and(|local| local == peer), "somebody else was accepted")
}

fn running() -> Outcome {
    let mut agent = prepared()?;
    agent.start()?;
    let links = || fs::read_dir(agent.pins()).map(Iterator::count).unwrap_or_default();
    let before = links();
    let (code, answer) = doctor(&agent)?;
    expect(code == Some(0), &answer)?;
    expect(answer.to_string().contains("an agent is running"), &answer)?;
    expect(links() == before && before > 0, "the pins have changed")?;
    let status = agent.json(&["status"])?;
    expect(status["enforcing"] == "enforcing", status)?;
    agent.kill9();
    let (_, answer) = doctor(&agent)?;
    expect(answer.to_string().contains("no agent is running"), &answer)
}

fn foreign_pins() -> Outcome {
    let agent = prepared()?;
    let foreign = agent.pins().join("v0");
    fs::create_dir_all(&foreign).map_err(|error| format!("{}: {error}", foreign.display()))?;
    one_failed(&agent, "pins", "postern uninstall")
}

fn policies() -> Outcome {
    let agent = prepared()?;
    let path = agent.path("policies/all.cedar");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(|error| error.to_string())?;
    one_failed(&agent, "policies", "o+r")
}

/// Where the kernel side refuses connections to it, its permissions do not matter.
fn socket() -> Outcome {
    let agent = prepared()?;
    let path = agent.path("socket");
    let _listener = UnixListener::bind(&path).map_err(|error| error.to_string())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).map_err(|error| error.to_string())?;
    let text = fs::read_to_string(agent.config()).map_err(|error| error.to_string())?;
    let with = format!("protocol = \"postgres\"\nsockets = [\"{}\"]\n", path.display());
    fs::write(agent.config(), text.replace("protocol = \"postgres\"\n", &with)).map_err(|error| error.to_string())?;
    let (code, answer) = doctor(&agent)?;
    let refused = answer["features"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["name"] == "connect_unix" && one["state"] == "present"));
    if refused {
        return expect(code == Some(0) && answer.to_string().contains("connections to it are refused"), answer);
    }
    one_failed(&agent, "socket of db", "past Postern")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).map_err(|error| error.to_string())?;
    let (code, answer) = doctor(&agent)?;
    expect(code == Some(0), answer)
}

fn faulty() -> Outcome {
    let agent = prepared()?;
    fs::write(agent.config(), "[agent]\nno_such_key = 1\n").map_err(|error| error.to_string())?;
    one_failed(&agent, "configuration", "postern check")?;
    let (_, answer) = doctor(&agent)?;
    expect(answer["features"].as_array().is_some_and(|features| !features.is_empty()), answer)
}

fn not_root() -> Outcome {
    let agent = prepared()?;
    let refused = agent_tests::Cmd::new(agent.program()?).args(["doctor"]).user(64_123, 64_123).run()?;
    expect(refused.code() == Some(1) && refused.stderr.contains("needs root"), refused)
}
