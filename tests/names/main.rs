//! Targets by name, by network and by range of ports: a real name server whose answers change, the real kernel, and the target
//! itself as the judge of who reached it past the agent.
//!
//! Everything happens in a network and a mount namespace of the suite's own, in which the host's resolver asks that server.

mod dns;
mod judge;
mod world;

use std::{cell::Cell, collections::BTreeSet, net::SocketAddr, process::ExitCode, thread, time::Duration};

use agent_tests::{Outcome, suite, suite::root_main, wait_until};

use crate::{
    dns::DOMAIN,
    judge::Storm,
    world::{BEYOND, DATABASE, PORT, RANGE, World, at, ensure},
};

/// Addresses that a name rotates over.
const ADDRESSES: usize = 50;
/// How many of them it stands for at a time, where it is not one.
const WINDOW: usize = 5;
/// How often all of them have their turn.
const ROUNDS: usize = 3;
/// The TTL of every answer, and so the time that an address has in a rotation.
const TTL: Duration = Duration::from_secs(1);
/// How long the agent may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// Questions after which a name that does not resolve has been tried often enough.
const TRIES: usize = 3;

fn main() -> ExitCode {
    root_main("names", || {
        let world = World::prepare()?;
        let started = Cell::new(false);
        let begin = || -> Outcome { if started.replace(true) { Ok(()) } else { world.agent.borrow_mut().start() } };
        Ok(suite("names")
            .case("control: without the agent every address of every target is reached", || control(&world))
            .case("a name inside its target's networks: 50 addresses, one at a time, from the first moment", || {
                begin()?;
                closed(&world)
            })
            .case("a name alone: 50 addresses in rotation, once each was seen", || {
                begin()?;
                open(&world)
            })
            .case("status says which targets are known by name only", || {
                begin()?;
                name_only(&world)
            })
            .case("both families, and by another name for the name", || {
                begin()?;
                families(&world)
            })
            .case("a name that is searched for", || {
                begin()?;
                reached_only_by_agent(&world, "short", "127.50.6.1")
            })
            .case("a name of the hosts file, and its change", || {
                begin()?;
                hosts_file(&world)
            })
            .case("an answer that is too long for a datagram", || {
                begin()?;
                long_answer(&world)
            })
            .case("networks and ranges of ports, and nothing beside them", || {
                begin()?;
                ranges(&world)
            })
            .case("an address inside another target's network belongs to its own target", || {
                begin()?;
                inner(&world)
            })
            .case("an old address stays while a session to it is open, and goes then", || {
                begin()?;
                lifetime(&world)
            })
            .case("a name that does not resolve keeps its addresses, raises an alarm once, and over a restart", || {
                begin()?;
                lost(&world)
            })
            .case(
                "an agent that is killed leaves the names' addresses closed, and starts without a name server",
                || {
                    begin()?;
                    killed(&world)
                },
            )
            .run())
    })
}

/// Addresses of a rotation.
fn ring(network: &str) -> Vec<String> {
    (1..=ADDRESSES).map(|number| format!("{network}.{number}")).collect()
}

fn control(world: &World) -> Outcome {
    let mut goals = Vec::new();
    for network in ["127.50.1", "127.50.2"] {
        goals.extend(at(&ring(network), PORT)?);
    }
    goals.extend(at(&["127.50.4.1", "fd00:60::1", "127.50.5.1", "127.50.5.2", "127.50.6.1", "127.50.7.1"], PORT)?);
    goals.extend(at(&["127.50.8.1"], PORT)?);
    reached(world, &goals)?;
    for port in RANGE.0..=BEYOND {
        reached(world, &at(&["127.50.3.0", "127.50.3.15", "127.50.3.16", "fd00:50::1", "fd00:51::1"], port)?)?;
    }
    // The database itself asks for a password that the client does not have.
    let seen = world.psql(DATABASE[0])?;
    ensure(seen.stderr.contains("password"), || seen.to_string())
}

/// Fails unless each of these is reached past the agent.
fn reached(world: &World, goals: &[SocketAddr]) -> Outcome {
    for goal in goals {
        std::net::TcpStream::connect(goal).map_err(|error| format!("{goal}: {error}"))?;
    }
    let Some(port) = goals.first().map(SocketAddr::port) else { return Ok(()) };
    let arrived = world.judge.arrived(port)?;
    let missing: Vec<_> = goals.iter().filter(|goal| !arrived.contains(goal)).collect();
    ensure(missing.is_empty(), || format!("not reached: {missing:?}"))
}

/// Fails if one of these is reached past the agent, or not by way of it.
fn redirected(world: &World, goals: &[SocketAddr]) -> Outcome {
    let before = world.status()?["counters"]["redirected"].as_u64().unwrap_or_default();
    for goal in goals {
        std::net::TcpStream::connect(goal).map_err(|error| format!("{goal}: {error}"))?;
    }
    let after = world.status()?["counters"]["redirected"].as_u64().unwrap_or_default();
    ensure(after == before + goals.len() as u64, || format!("{} of {} redirected", after - before, goals.len()))?;
    let Some(port) = goals.first().map(SocketAddr::port) else { return Ok(()) };
    world.judge.nobody(port)
}

fn reached_only_by_agent(world: &World, target: &str, address: &str) -> Outcome {
    let goals = at(&[address], PORT)?;
    world.await_protected(target, &goals)?;
    redirected(world, &goals)
}

/// Clients that ask the resolver and connect at once are never faster than the agent: the network is closed before.
fn closed(world: &World) -> Outcome {
    world.judge.nobody(PORT)?;
    let name = format!("closed.{DOMAIN}");
    let storm =
        Storm::start(move || dns::resolve(&name).into_iter().map(|address| SocketAddr::new(address, PORT)).collect());
    for address in ring("127.50.1") {
        let before = storm.connects();
        world.dns.set("closed", &[&address])?;
        wait_until("clients have connected", PATIENCE, || storm.connects() > before + 1)?;
    }
    let connects = storm.end()?;
    world.judge.nobody(PORT)?;
    ensure(connects > ADDRESSES as u64, || format!("only {connects} connects"))
}

/// Known by name only: what the agent has been told once stays closed while the name goes round and round.
fn open(world: &World) -> Outcome {
    let ring = ring("127.50.2");
    for window in ring.chunks(WINDOW) {
        world.dns.set("open", window)?;
        world.await_protected("open", &at(window, PORT)?)?;
    }
    let goals = at(&ring, PORT)?;
    world.await_protected("open", &goals)?;
    world.judge.arrived(PORT)?;
    let mut storm = Storm::start(move || goals.clone());
    let name = format!("open.{DOMAIN}");
    storm.join(move || dns::resolve(&name).into_iter().map(|address| SocketAddr::new(address, PORT)).collect());
    for _ in 0..ROUNDS {
        for window in ring.chunks(WINDOW) {
            let window: Result<BTreeSet<_>, _> = window.iter().map(|address| address.parse()).collect();
            world.dns.tell("open", &window.map_err(|error| format!("{error}"))?)?;
            thread::sleep(TTL);
        }
    }
    let connects = storm.end()?;
    world.judge.nobody(PORT)?;
    ensure(connects > 10 * ADDRESSES as u64, || format!("only {connects} connects"))
}

fn name_only(world: &World) -> Outcome {
    world.dns.set("closed", &["127.50.1.50"])?;
    world.await_protected("closed", &at(&["127.50.1.50"], PORT)?)?;
    for (target, expected) in [("closed", false), ("open", true), ("alias", true), ("range", false)] {
        let found = world.target(target)?;
        ensure(found["problems"].to_string().contains("name-only") == expected, || format!("{target}: {found}"))?;
    }
    let status = world.status()?;
    let state = status["enforcing"].as_str().unwrap_or_default();
    ensure(state.contains("open: name-only") && !state.contains("closed: name-only"), || state.into())?;
    // It leaves the network that closed it.
    world.dns.set("closed", &["127.50.9.1"])?;
    world.await_problem("closed", "name-only", true)?;
    world.dns.set("closed", &["127.50.1.1"])?;
    world.await_problem("closed", "name-only", false)
}

fn families(world: &World) -> Outcome {
    let both = at(&["127.50.4.1", "fd00:60::1"], PORT)?;
    world.await_protected("alias", &both)?;
    redirected(world, &both)?;
    let moved = at(&["127.50.4.2", "fd00:60::1"], PORT)?;
    reached(world, &moved[..1])?;
    world.dns.set("dual", &["127.50.4.2", "fd00:60::1"])?;
    world.await_protected("alias", &moved)?;
    redirected(world, &moved)
}

fn hosts_file(world: &World) -> Outcome {
    reached_only_by_agent(world, "written", "127.50.8.1")?;
    world.dns.hosts("127.50.8.2 written.example")?;
    reached_only_by_agent(world, "written", "127.50.8.2")?;
    // Whoever still has the old answer.
    redirected(world, &at(&["127.50.8.1"], PORT)?)
}

fn long_answer(world: &World) -> Outcome {
    let all: Vec<String> = (1..=200).map(|number| format!("127.50.7.{number}")).collect();
    world.dns.set("many", &all)?;
    let goals = at(&all, PORT)?;
    world.await_protected("many", &goals)?;
    redirected(world, &goals)?;
    // More than anybody serves a database under: as many as there is room for, and an alarm.
    let all: Vec<String> = (1..=300).map(|number| format!("127.51.{}.{}", number / 200, number % 200)).collect();
    world.dns.set("many", &all)?;
    world.await_problem("many", "unprotected", true)?;
    world.dns.set("many", &["127.50.7.1"])?;
    world.await_problem("many", "unprotected", false)
}

fn ranges(world: &World) -> Outcome {
    for port in RANGE.0..=RANGE.1 {
        redirected(world, &at(&["127.50.3.0", "127.50.3.15", "fd00:50::1", "fd00:50::3"], port)?)?;
        reached(world, &at(&["127.50.3.16", "fd00:51::1"], port)?)?;
    }
    reached(world, &at(&["127.50.3.0", "127.50.3.15", "fd00:50::1"], BEYOND)?)
}

fn inner(world: &World) -> Outcome {
    let refusals = |address: &str, port: u16| -> Outcome<String> {
        let goal = at(&[address], port)?;
        world.refusal(goal[0])?;
        let listed = world.agent.borrow().json(&["sessions", "list", "--limit", "1"])?;
        Ok(listed["sessions"][0]["target"].as_str().unwrap_or_default().to_owned())
    };
    for (address, port, target) in [
        ("127.50.3.7", RANGE.0, "inner"),
        ("127.50.3.7", RANGE.1, "range"),
        ("127.50.3.6", RANGE.0, "range"),
        ("fd00:50::2", RANGE.0, "range"),
    ] {
        let found = refusals(address, port)?;
        ensure(found == target, || format!("{address}:{port} is of {found}"))?;
    }
    world.judge.nobody(RANGE.0)
}

/// Two addresses become old at once. The one without a session shows when the time of grace is over.
fn lifetime(world: &World) -> Outcome {
    let [used, unused, new, _] = DATABASE;
    let port = world.server.port();
    world.await_protected("ledger", &at(&[used, unused], port)?)?;
    let mut session = world.session(used)?;
    world.dns.set("ledger", &[new])?;
    world.await_protected("ledger", &at(&[used, unused, new], port)?)?;
    world.await_gone("ledger", &format!("{unused}:{port}"))?;
    for address in [used, new] {
        let seen = world.psql(address)?;
        ensure(seen.success() && seen.stdout.trim() == "42", || format!("{address}: {seen}"))?;
    }
    session.send("SELECT 41 + 2;")?;
    let line = session.line(PATIENCE)?;
    ensure(line == "43", || line)?;
    let seen = world.psql(unused)?;
    ensure(seen.stderr.contains("password"), || format!("{unused} is still protected: {seen}"))?;
    session.finish(PATIENCE)?;
    world.await_gone("ledger", &format!("{used}:{port}"))?;
    let seen = world.psql(used)?;
    ensure(seen.stderr.contains("password"), || format!("{used} is still protected: {seen}"))
}

fn lost(world: &World) -> Outcome {
    let addresses = at(&["127.50.5.1", "127.50.5.2"], PORT)?;
    world.await_protected("lost", &addresses)?;
    world.dns.set::<&str>("lost", &[])?;
    world.await_problem("lost", "unresolved: lost", true)?;
    let before = world.dns.asked("lost");
    wait_until("it was tried again", PATIENCE, || world.dns.asked("lost") >= before + TRIES)?;
    redirected(world, &addresses)?;
    let status = world.agent.borrow().postern(&["status"])?;
    ensure(status.code() == Some(1) && status.stdout.contains("lost: unresolved"), || status.to_string())?;
    let failed = world.records("name-failed", "lost")?;
    ensure(failed == 1, || format!("{failed} records of a name that failed once"))?;

    world.agent.borrow_mut().restart()?;
    world.await_problem("lost", "unresolved: lost", true)?;
    redirected(world, &addresses)?;
    // Not only closed: they are still the target's.
    let refusal = world.refusal(addresses[0])?;
    ensure(refusal.contains("denied by Postern"), || refusal)?;

    world.dns.set("lost", &["127.50.5.3"])?;
    world.await_protected("lost", &at(&["127.50.5.1", "127.50.5.3"], PORT)?)?;
    world.await_problem("lost", "unresolved", false)?;
    let restored = world.records("name-restored", "lost")?;
    ensure(restored == 1, || format!("{restored} records of a name that was restored once"))?;
    world.await_gone("lost", &format!("127.50.5.1:{PORT}"))?;
    reached(world, &addresses[..1])
}

fn killed(world: &World) -> Outcome {
    world.dns.set("dual", &["127.50.4.2", "fd00:60::1"])?;
    let goals = at(&["127.50.4.2", "fd00:60::1", "127.50.6.1"], PORT)?;
    world.await_protected("alias", &goals[..2])?;
    world.judge.arrived(PORT)?;
    let storm = {
        let goals = goals.clone();
        Storm::start(move || goals.clone())
    };
    world.agent.borrow_mut().kill9();
    let before = storm.connects();
    wait_until("clients have connected", PATIENCE, || storm.connects() > before + 20)?;
    world.dns.silent(|| {
        world.agent.borrow_mut().start()?;
        world.await_problem("short", "unresolved: short", true)?;
        redirected_among(world, &goals)?;
        // Its end does not wait for the name server either.
        world.agent.borrow_mut().restart()?;
        let log = world.agent.borrow().log();
        ensure(!log.contains("does not end when asked"), || log.clone())
    })?;
    world.await_problem("short", "unresolved", false)?;
    storm.end()?;
    world.judge.nobody(PORT)
}

/// Fails unless each of these is accepted by the agent; others may connect meanwhile.
fn redirected_among(world: &World, goals: &[SocketAddr]) -> Outcome {
    for goal in goals {
        let refusal = world.refusal(*goal)?;
        ensure(refusal.contains("denied by Postern"), || format!("{goal}: {refusal}"))?;
    }
    world.judge.nobody(goals[0].port())
}
