//! Many connections at once through one target: none is refused for want of ports, and what each takes is bounded.
//!
//! In a network namespace of its own, whose range of ports can be made small. The target is PgBouncer, which needs no process
//! for each of its clients.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use agent_tests::{
    Agent, Outcome, Postgres, Target, fds, full,
    net::enter_own_namespace,
    pooled::{Pool, at_most, sessions},
    rss_kib, suite,
    suite::root_main,
    wait_until,
};

const POLICY: &str = r#"
@id("idle")
permit (principal in Role::"client", action == Action::"connect", resource in Target::"pool");
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
const KIB_EACH: f64 = 128.0;

const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    root_main("capacity", || {
        let open = at_most(if full() { 10_000 } else { 1_000 })?;
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
            .case(format!("{open} sessions are open at once, all recorded"), || idle(&agent, &places, open))
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
    if taken > KIB_EACH { Err(format!("an idle session takes {taken:.1} KiB")) } else { Ok(()) }
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
