//! Many connections at once through one target: none is refused for want of ports, and what each takes is bounded.
//!
//! In a network namespace of its own, whose range of ports can be made small. The target is PgBouncer, which needs no process
//! for each of its clients.

mod large;

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    process::ExitCode,
    time::Duration,
};

use agent_tests::{
    Agent, Outcome, Postgres, Target, fds, full, has_ended,
    net::enter_own_namespace,
    pooled::{Pool, answers, at_most, sessions},
    rss_kib, suite,
    suite::root_main,
    wait_until,
};

const POLICY: &str = r#"
@id("idle")
permit (principal in Role::"client", action in [Action::"connect", Action::"sql:select"], resource in Target::"pool");
"#;

/// What the pool listens at. The agent's own connections have as many ports at each.
const ADDRESSES: [&str; 8] =
    ["127.0.0.11", "127.0.0.12", "127.0.0.13", "127.0.0.14", "fd00::11", "fd00::12", "fd00::13", "fd00::14"];

/// A hundred ports for all that connect.
const FEW_PORTS: &str = "40000 40099";
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Beyond what a hundred ports allow with one destination, within what they allow with four.
const BEYOND: usize = 240;

/// An idle session may take so much of the proxy's memory.
const KIB_EACH: f64 = 16.0;
/// The same where there are few: what is made once weighs on each, such as what waits to be moved into the store.
const KIB_EACH_OF_FEW: f64 = 48.0;
/// The same in a process that has just begun.
const KIB_EACH_OF_NEW: f64 = 128.0;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    root_main("capacity", || {
        let all = if full() { 10_400 } else { 1_000 };
        let open = at_most(if full() { 9_800 } else { 800 })?;
        enter_own_namespace(&ADDRESSES)?;
        let addresses: Vec<IpAddr> = ADDRESSES.iter().filter_map(|address| address.parse().ok()).collect();
        let server = Postgres::builder().login("app", "unused").start()?;
        let pool = Pool::start(&server, &addresses)?;
        let places: Vec<SocketAddr> = addresses.iter().map(|address| (*address, pool.port()).into()).collect();
        let mut agent = Agent::builder()
            .target(Target::postgres("pool", places.clone()).credential("app", None))
            .role("client", ["{ user = \"root\" }"])
            .policy("idle.cedar", POLICY)
            .prepare()?;
        let usual = fs::read_to_string(PORT_RANGE).map_err(|error| format!("{PORT_RANGE}: {error}"))?;
        // The same way with all cases, so that no case depends on what another has done.
        let few_ports = |few| {
            let range = if few { FEW_PORTS } else { &usual };
            fs::write(PORT_RANGE, range).map_err(|error| format!("{PORT_RANGE}: {error}"))
        };

        few_ports(true)?;
        let alone = sessions(places[0], BEYOND);
        few_ports(false)?;
        agent.start()?;
        Ok(suite("capacity")
            .case("control: with few ports, one destination takes no more connections", || match &alone {
                Err(error) if error.contains("Cannot assign requested address") => Ok(()),
                other => Err(format!("{:?}", other.as_ref().map(Vec::len))),
            })
            // Before those that leave free memory behind, in which this one's could hide.
            .case("a row of 1 GB is passed on in pieces, also while its client does not read", || {
                large::row(pid(&agent)?, places[0])
            })
            .case(format!("{open} sessions are open at once, all recorded"), || idle(&agent, &places, open))
            .case(format!("{all} sessions are open at once in two processes, and all of them answer"), || {
                in_two_processes(&agent, &places, all)
            })
            .case("with few ports, IPv4: connections to several addresses lead to the proxy", || {
                few_ports(true)?;
                let opened = spread(&places[..4]);
                few_ports(false)?;
                opened
            })
            .case("with few ports, IPv6: connections to several addresses lead to the proxy", || {
                few_ports(true)?;
                let opened = spread(&places[4..]);
                few_ports(false)?;
                opened
            })
            // Last: ports that were bound are passed over by connects for a minute where an ended connection has them too.
            .case("without a free port on ::1, a restart is refused, and the older process goes on", || {
                let mut idle = sessions(places[0], 1)?;
                few_ports(true)?;
                let outcome = no_free_port(&agent);
                few_ports(false)?;
                outcome?;
                idle.iter_mut().try_for_each(answers)?;
                drop(sessions(places[0], 1)?);
                restart(&agent).map(drop)
            })
            .run())
    })
}

/// Opens sessions, has all of them in the log, and closes them; what they took is given back.
fn idle(agent: &Agent, places: &[SocketAddr], count: usize) -> Outcome {
    let proxy = agent.proxy().ok_or("no proxy")?;
    let rss = || rss_kib(proxy).ok_or("the proxy has gone");
    // What is made once is there after these.
    drop(sessions(places[0], 50)?);
    let none_open = || wait_until("all sessions have ended", PATIENCE, || connections(agent) == Some(0));
    none_open()?;
    let (memory, descriptors) = (rss()?, fds(proxy));
    let proxied = proxied(agent)?;
    let each = count / places.len();
    let open: Vec<_> = places.iter().map(|place| sessions(*place, each)).collect::<Outcome<_>>()?;
    let count = (each * places.len()) as u64;
    if connections(agent) != Some(count) {
        return Err(format!("{:?} of {count} are open", connections(agent)));
    }
    let grown = self::proxied(agent)? - proxied;
    if grown != count {
        return Err(format!("{grown} of {count} are recorded"));
    }
    #[allow(clippy::cast_precision_loss)]
    let taken = rss()?.saturating_sub(memory) as f64 / count as f64;
    println!("capacity: {count} idle sessions: {taken:.1} KiB of the proxy's memory each");
    drop(open);
    none_open()?;
    if fds(proxy) != descriptors {
        return Err(format!("{descriptors:?} descriptors before, {:?} after", fds(proxy)));
    }
    let limit = if full() { KIB_EACH } else { KIB_EACH_OF_FEW };
    if taken > limit { Err(format!("an idle session takes {taken:.1} KiB")) } else { Ok(()) }
}

/// Half of them before a restart and half after it, each more than the ports of one destination and the files of one process
/// could be in a smaller world: all are alive at once, and the ledger knows of each.
fn in_two_processes(agent: &Agent, places: &[SocketAddr], count: usize) -> Outcome {
    let each = count / places.len() / 2;
    let half = || places.iter().map(|place| sessions(*place, each)).collect::<Outcome<Vec<_>>>();
    wait_until("all sessions have ended", PATIENCE, || connections(agent) == Some(0))?;
    let recorded = proxied(agent)?;
    let rss = |pid| rss_kib(pid).ok_or("a proxy has gone");
    let before = rss(agent.proxy().ok_or("no proxy")?)?;
    let first = half()?;
    let (old, new) = restart(agent)?;
    let fresh = rss(new)?;
    let second = half()?;
    let count = (each * places.len() * 2) as u64;
    wait_until("the new process knows of all sessions", PATIENCE, || connections(agent) == Some(count))
        .map_err(|error| format!("{error}: {:?} of {count} are open", connections(agent)))?;
    let mut all: Vec<TcpStream> = first.into_iter().chain(second).flatten().collect();
    all.iter_mut().try_for_each(answers)?;
    #[allow(clippy::cast_precision_loss)]
    let taken = |pid, before: u64| Ok::<_, String>(rss(pid)?.saturating_sub(before) as f64 / (count / 2) as f64);
    let (of_old, of_new) = (taken(old, before)?, taken(new, fresh)?);
    println!(
        "capacity: {count} sessions in two processes: {of_old:.1} KiB of the old one's memory each, {of_new:.1} of the new one's"
    );
    drop(all);
    wait_until("the old process has ended", PATIENCE, || has_ended(old))?;
    wait_until("all sessions have ended", PATIENCE, || connections(agent) == Some(0))?;
    let report = agent.json(&["coverage"])?;
    if report["unexplained"].as_u64() != Some(0) || proxied(agent)? - recorded != count {
        return Err(format!("{count} sessions: {report}"));
    }
    if of_old.max(of_new) > KIB_EACH_OF_NEW { Err("an idle session takes too much".into()) } else { Ok(()) }
}

/// All of the few ports are somebody else's. What runs must not have given anything up for it.
fn no_free_port(agent: &Agent) -> Outcome {
    let taken: Vec<TcpListener> =
        (40_000..=40_099).filter_map(|port| TcpListener::bind((Ipv6Addr::LOCALHOST, port)).ok()).collect();
    let seen = agent.postern(&["restart"])?;
    drop(taken);
    if seen.success() || !seen.stderr.contains("no port is free") { Err(seen.to_string()) } else { Ok(()) }
}

/// Gives the processes before and after.
fn restart(agent: &Agent) -> Outcome<(u32, u32)> {
    let before = pid(agent)?;
    let seen = agent.postern(&["restart"])?;
    if seen.success() { Ok((before, pid(agent)?)) } else { Err(seen.to_string()) }
}

/// Of the process that serves new connections.
fn pid(agent: &Agent) -> Outcome<u32> {
    let pid = agent.json(&["status"])?["pid"].as_u64();
    pid.and_then(|pid| u32::try_from(pid).ok()).ok_or_else(|| "no pid".to_owned())
}

fn spread(places: &[SocketAddr]) -> Outcome {
    let each = BEYOND / places.len();
    places.iter().map(|place| sessions(*place, each)).collect::<Outcome<Vec<_>>>().map(drop)
}

fn connections(agent: &Agent) -> Option<u64> {
    agent.json(&["status"]).ok()?["targets"][0]["connections"].as_u64()
}

fn proxied(agent: &Agent) -> Outcome<u64> {
    let report = agent.json(&["coverage"])?;
    Ok(report["rows"].as_array().into_iter().flatten().filter_map(|row| row["proxied"].as_u64()).sum())
}
