//! Containers: intercepted with their own identity, refused where the agent is not, and left alone in what is their own.

use std::net::IpAddr;

use agent_tests::{Cmd, Outcome, Suite, wait_until};

use crate::{
    container::Container,
    world::{MASKED, PATIENCE, PLAIN, QUERY, READER, World, answers, ensure, last_session, refused, status},
};

pub fn cases<'a>(suite: Suite<'a>, world: &'a World) -> Suite<'a> {
    suite
        .case("without an agent, a container reaches the server itself", || {
            for address in world.link.host() {
                answers(PLAIN, || world.ask_in(&world.container, address))?;
            }
            answers(PLAIN, || world.ask_in(&world.container, world.link.host4.to_ipv6_mapped()))
        })
        .case("a container is intercepted as itself: IPv4, IPv6, IPv4-mapped", || identified(world))
        .case("of a new namespace at most the first connect is refused", || prompt(world))
        .case("a container's own loopback service on the target's port is left alone", || own_service(world))
        .case("a killed agent leaves a container closed, and the next one opens it", || killed(world))
        .case("a cgroup that a user owns proves no container", || given_away(world))
        .case("a namespace whose loopback is down is refused until it is up", || loopback_down(world))
        .case("a namespace without IPv6 is refused for it, and named once somebody asks", || without_v6(world))
        .case("namespaces = \"host\" refuses other namespaces", || host_only(world))
}

fn identified(world: &World) -> Outcome {
    let agent =
        world.builder().role("contained", [format!("{{ container = \"{}\" }}", &world.container.id[..12])]).start()?;
    answers(MASKED, || world.ask(world.link.host4))?;
    let on_host = last_session(&agent)?;
    ensure(on_host["principal"]["process"]["container"].is_null(), || on_host.to_string())?;
    let mapped = world.link.host4.to_ipv6_mapped();
    for address in [world.link.host()[0], world.link.host()[1], mapped.into()] {
        answers(MASKED, || world.ask_in(&world.container, address))?;
        let start = last_session(&agent)?;
        let (flow, process) = (&start["principal"]["flow"], &start["principal"]["process"]);
        ensure(
            process["container"] == world.container.id.as_str()
                && start["principal"]["roles"] == serde_json::json!(["reader", "contained"])
                && process["uid"] == READER
                && process["exe"]["path"] == "/usr/lib/postgresql/15/bin/psql"
                && process["pid"] == flow["tgid"]
                && flow["netns"] != on_host["principal"]["flow"]["netns"]
                && flow["destination"].as_str().is_some_and(|to| to.contains(&address.to_canonical().to_string())),
            || start.to_string(),
        )?;
    }
    // The direct way is the agent's alone.
    let counters = &status(&agent)?["counters"];
    ensure(counters["own"].as_u64() >= Some(4), || counters.to_string())
}

/// Processes of a namespace that is a moment old connect at once, and again after a refusal.
fn prompt(world: &World) -> Outcome {
    let agent = world.builder().start()?;
    let refusals = || Ok::<_, String>(status(&agent)?["counters"]["refused_no_listener"].as_u64().unwrap_or(0));
    let before = refusals()?;
    for number in 1..=5 {
        let container = Container::new(number)?;
        // Where to is decided before there is a route.
        let mut attempts = 0;
        answers(MASKED, || {
            attempts += 1;
            world.ask_in(&container, world.link.host4)
        })?;
        ensure(attempts <= 2, || format!("namespace {number} took {attempts} attempts"))?;
    }
    let refused = refusals()? - before;
    ensure(refused <= 5, || format!("{refused} connects were refused"))
}

fn own_service(world: &World) -> Outcome {
    const SERVE: &str = "import socket, sys, threading
server = socket.create_server(('127.0.0.1', int(sys.argv[1])))
client = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
accepted, peer = server.accept()
accepted.sendall(b'its own')
assert client.getsockname() == peer
print(client.recv(16).decode())";
    let agent = world.builder().start()?;
    let port = world.server.port().to_string();
    let before = status(&agent)?["counters"].clone();
    answers("its own", || world.container.command(READER).args(["/usr/bin/python3", "-c", SERVE, &port]).run())?;
    let after = status(&agent)?["counters"].clone();
    let governed = |counters: &serde_json::Value| {
        (counters["redirected"].clone(), counters["refused_no_listener"].clone(), counters["observed_direct"].clone())
    };
    ensure(governed(&before) == governed(&after), || format!("{before} became {after}"))?;
    // The very same address on the host is the target's.
    answers(MASKED, || world.ask([127, 0, 0, 1]))
}

fn killed(world: &World) -> Outcome {
    let mut agent = world.builder().start()?;
    answers(MASKED, || world.ask_in(&world.container, world.link.host4))?;
    agent.kill9();
    for address in world.link.host() {
        refused(&world.ask_in(&world.container, address)?)?;
    }
    agent.start()?;
    answers(MASKED, || world.ask_in(&world.container, world.link.host4))?;
    agent.uninstall()?;
    answers(PLAIN, || world.ask_in(&world.container, world.link.host4))
}

fn given_away(world: &World) -> Outcome {
    let agent = world.builder().start()?;
    let container = Container::new(9)?;
    container.give_away(READER)?;
    answers(MASKED, || world.ask_in(&container, world.link.host4))?;
    let start = last_session(&agent)?;
    let process = &start["principal"]["process"];
    ensure(
        process["container"].is_null() && process["cgroup"].as_str().is_some_and(|it| it.contains(&container.id)),
        || process.to_string(),
    )
}

fn loopback_down(world: &World) -> Outcome {
    let agent = world.builder().start()?;
    // A namespace whose loopback has never been up.
    let resident = Cmd::new("unshare").args(["--net", "sleep", "600"]).spawn()?;
    let namespace = format!("--net=/proc/{}/ns/net", resident.pid());
    let inside = || Cmd::new("nsenter").arg(&namespace);
    let ask = |address: IpAddr| {
        let user = READER.to_string();
        let command = inside().args(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"]);
        command.args(world.psql(address)).args(["-c", QUERY]).run()
    };
    for address in world.link.host() {
        let seen = ask(address)?;
        ensure(!seen.success(), || seen.to_string())?;
    }
    inside().args(["ip", "link", "set", "lo", "up"]).ok()?;
    for address in world.link.host() {
        answers(MASKED, || ask(address))?;
    }
    ensure(status(&agent)?["enforcing"] == "enforcing", || "degraded".into())
}

fn without_v6(world: &World) -> Outcome {
    let container = Container::new(10)?;
    container.without_v6()?;
    let agent = world.builder().start()?;
    answers(MASKED, || world.ask_in(&container, world.link.host4))?;
    let seen = status(&agent)?;
    ensure(seen["surroundings"]["silent"] == serde_json::json!([]), || format!("nobody has asked yet: {seen}"))?;
    // Somebody has to be in it when the status is asked for.
    let _resident = container.command(READER).args(["sleep", "600"]).spawn()?;
    let mut seen = serde_json::Value::Null;
    wait_until("the namespace is named", PATIENCE, || {
        let refused = world.ask_in(&container, world.link.host6).is_ok_and(|seen| refused(&seen).is_ok());
        seen = status(&agent).unwrap_or_default();
        refused && seen["surroundings"]["silent"][0]["reason"].as_str().is_some_and(|why| why.contains("::1"))
    })
    .map_err(|error| format!("{error}: {seen}"))?;
    // Refusing is what it is for.
    let text = agent.postern(&["status"])?;
    ensure(text.success() && text.stdout.contains("no listener: not on ::1"), || text.to_string())
}

fn host_only(world: &World) -> Outcome {
    let agent = world.builder().intercept("namespaces = \"host\"").start()?;
    answers(MASKED, || world.ask(world.link.host4))?;
    for _ in 0..3 {
        refused(&world.ask_in(&world.container, world.link.host4)?)?;
    }
    let seen = status(&agent)?;
    ensure(seen["surroundings"]["listening"] == 0, || seen.to_string())
}
