//! What a connection leaves under its addresses and ports, and who uses them next.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use agent_tests::{Cmd, Outcome, Running, wait_until};

use crate::world::{PATIENCE, PERMITTED_UID, SECRET, UID, World, expect, nothing, standing};

/// The first source port that is used; nothing else does, in this network namespace.
const FIRST: u16 = 20_000;
/// More connections than the proxy's listeners let wait, which is 1024 each.
const MANY: u16 = 6000;
/// Ports that are tried after that: some whose connections waited to be accepted, and the last, which hung before.
const AGAIN: u16 = 20;

/// The permitted user fills the queue of the listener until connections hang in the handshake, and is gone, without a trace of
/// it left in the ports. The attacker takes the ports while all of that still waits to be looked at.
pub fn full_queue(world: &World) -> Outcome {
    let before = world.refusals(UID)?.len();
    let held = world.hold()?;
    let mut filling = world.attack(PERMITTED_UID, "fill", &[&FIRST.to_string(), &MANY.to_string()]).spawn()?;
    let last = full(&mut filling)?;
    expect(filling.finish(Duration::from_secs(20))?.success(), || "the queue could not be filled".into())?;
    let ports = (last - AGAIN + 1).to_string();
    let mut taking = world.attack(UID, "take", &[&ports, &AGAIN.to_string()]).spawn()?;
    standing(&mut taking)?;
    drop(held);
    let seen = taking.finish(Duration::from_secs(60))?;
    nothing(&seen)?;
    expect(seen.stdout.contains(&format!("tried {AGAIN}")), || seen.to_string())?;
    let refused = world.refusals(UID)?.len() - before;
    expect(refused == usize::from(AGAIN), || format!("{refused} refusals in the log: {seen}"))?;
    control(world, &ports)
}

/// The last port of those that fill the queue; it and some before it hang in the handshake.
fn full(filling: &mut Running) -> Outcome<u16> {
    let last = standing(filling)?.parse().map_err(|error| format!("{error}"))?;
    expect(last > FIRST + 4000, || format!("the queue was full at port {last}"))?;
    Ok(last)
}

/// The same ports in the hands of the permitted user.
fn control(world: &World, ports: &str) -> Outcome {
    let seen = world.python(PERMITTED_UID, "take", &[ports, "2"])?;
    expect(seen.stdout.matches(SECRET).count() == 2, || seen.to_string())
}

/// The permitted user's connections wait to be accepted, and some of them for their handshake, when agent and user are killed.
pub fn killed_between(world: &World) -> Outcome {
    let held = world.hold()?;
    let mut waiting = world.attack(PERMITTED_UID, "wait", &[&FIRST.to_string(), &MANY.to_string()]).spawn()?;
    let last = full(&mut waiting)?;
    world.agent.borrow_mut().kill9();
    drop(held);
    drop(waiting);
    world.agent.borrow_mut().start()?;
    let before = world.refusals(UID)?.len();
    let ports = (last - AGAIN + 1).to_string();
    let seen = world.python(UID, "take", &[&ports, &AGAIN.to_string()])?;
    nothing(&seen)?;
    expect(seen.stdout.contains(&format!("tried {AGAIN}")), || seen.to_string())?;
    let refused = world.refusals(UID)?.len() - before;
    expect(refused == usize::from(AGAIN), || format!("{refused} refusals in the log: {seen}"))?;
    control(world, &ports)
}

/// The port stays in the kernel's settings when the agent is killed; what counts is whose socket listens there.
pub fn squatter(world: &World) -> Outcome {
    let failed = |error: std::io::Error| error.to_string();
    let listeners = listening(world.proxy()?.as_raw())?;
    expect(listeners.len() == 2 * agent_common::LANES, || format!("listeners: {listeners:?}"))?;
    world.agent.borrow_mut().kill9();
    let squatters = listeners.iter().map(TcpListener::bind).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    for host in ["127.0.0.1", "::1"] {
        let dsn = format!("host={host} port={} dbname=postgres user=x sslmode=disable", world.port());
        let seen = Cmd::psql(&dsn, "SELECT 1").user(PERMITTED_UID, PERMITTED_UID).run()?;
        expect(seen.stderr.contains("Connection refused"), || seen.to_string())?;
    }
    for (squatter, address) in squatters.iter().zip(&listeners) {
        // Whoever asks for that very port gets there, so the next one to arrive would have been psql.
        let direct = TcpStream::connect(address).map_err(failed)?;
        squatter.set_nonblocking(true).map_err(failed)?;
        let mut accepted = None;
        wait_until("the connection has arrived", PATIENCE, || {
            accepted = squatter.accept().ok();
            accepted.is_some()
        })?;
        let arrived = accepted.map(|(_, from)| from).ok_or("nothing arrived")?;
        expect(arrived == direct.local_addr().map_err(failed)?, || format!("{arrived} arrived at {address}"))?;
    }
    drop(squatters);
    world.agent.borrow_mut().start()
}

/// One port, in turns.
pub fn used_again(world: &World, rounds: usize) -> Outcome {
    let port = FIRST.to_string();
    for _ in 0..rounds {
        let seen = world.python(PERMITTED_UID, "take", &[&port, "1"])?;
        expect(seen.stdout.contains(SECRET), || seen.to_string())?;
        let (seen, _) = world.refused(UID, || world.python(UID, "take", &[&port, "1"]))?;
        expect(seen.stdout.contains("tried 1"), || seen.to_string())?;
    }
    Ok(())
}

/// Whoever finds out where the proxy listens gains nothing, permitted or not.
pub fn direct(world: &World) -> Outcome {
    let listeners = listening(world.proxy()?.as_raw())?;
    expect(listeners.len() == 2 * agent_common::LANES, || format!("listeners: {listeners:?}"))?;
    for address in listeners {
        let seen = world.python(PERMITTED_UID, "direct", &[&address.ip().to_string(), &address.port().to_string()])?;
        expect(seen.stdout.trim() == "EPERM", || format!("{address}: {seen}"))?;
    }
    // The same steps reach a listener that is not the proxy's.
    let other = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let port = other.local_addr().map_err(|error| error.to_string())?.port();
    let seen = world.python(PERMITTED_UID, "direct", &["127.0.0.1", &port.to_string()])?;
    expect(seen.stdout.trim() == "connected", || seen.to_string())
}

/// TCP addresses at which a process listens, from `ss`.
fn listening(pid: i32) -> Outcome<Vec<SocketAddr>> {
    let text = Cmd::new("ss").args(["-Hltnp"]).ok()?;
    Ok(text
        .lines()
        .filter(|line| line.contains(&format!("pid={pid},")))
        .filter_map(|line| line.split_ascii_whitespace().nth(3)?.parse().ok())
        .collect())
}
