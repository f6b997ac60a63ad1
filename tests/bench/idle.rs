//! What idle connections cost: thousands of them through one target, and as many through a plain TCP proxy.
//!
//! The target is PgBouncer in front of a server: it holds that many clients with a few connections of its own.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use agent_tests::{
    Agent, Outcome, Postgres, Target, TempDir, bpf,
    pooled::{Pool, at_most, encrypted, sessions},
    rss_kib,
};

use crate::{as_float, figures::Figure, world};

/// Name of the figures.
pub const NAME: &str = "idle";

/// Connections that are open at once.
const OPEN: usize = 10_000;

/// After so long, the proxy has given back what ended sessions took.
const GIVEN_BACK: Duration = Duration::from_secs(11);

const USER: &str = "bench";
const PROTECTED: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const UNPROTECTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Protected too, and reached with TLS.
const ENCRYPTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

const POLICY: &str = r#"
@id("bench")
permit (principal in Role::"bench", action == Action::"connect", resource);
"#;

/// Opens the connections on both ways, and compares what they take.
///
/// # Errors
/// Something did not start, or not all connections could be opened.
pub fn measure() -> Outcome<Vec<Figure>> {
    let count = at_most(OPEN)?;
    let server = Postgres::builder().login(USER, "unused").start()?;
    let pool = Pool::start(&server, &[PROTECTED, UNPROTECTED, ENCRYPTED])?;
    let logs = TempDir::new().map_err(|error| format!("temporary directory: {error}"))?;
    let (haproxy, port) = world::haproxy(&logs, pool.port(), count + 50)?;
    let target = Target::postgres("bench", [format!("{PROTECTED}:{}", pool.port())]).credential(USER, None);
    let with_tls = Target::postgres("bench-tls", [format!("{ENCRYPTED}:{}", pool.port())])
        .credential(USER, None)
        .line("tls = { mode = \"require\" }");
    let agent = Agent::builder()
        .target(target)
        .target(with_tls)
        .role("bench", ["{ user = \"root\" }"])
        .policy("bench.cedar", POLICY)
        .start()?;
    let proxy = agent.proxy().ok_or("no proxy")?;
    let rss = |pid| rss_kib(pid).map(as_float).ok_or("a proxy has gone");

    let mut grown = Vec::new();
    let mut maps = Vec::new();
    for (pid, port) in [(proxy, pool.port()), (haproxy.pid(), port)] {
        eprintln!("{NAME}: {count} connections by {}", if pid == proxy { "postern" } else { "haproxy" });
        // One, so that what is made once is there.
        drop(sessions((PROTECTED, port).into(), 1)?);
        let (before, memory) = (rss(pid)?, map_memory(&agent)?);
        let open = sessions((PROTECTED, port).into(), count)?;
        grown.push((rss(pid)? - before) / as_float(count as u64));
        maps.push((memory, map_memory(&agent)?));
        drop(open);
        std::thread::sleep(GIVEN_BACK);
    }
    eprintln!("{NAME}: {count} connections by postern, with TLS on both sides");
    let authority = agent.postern(&["ca", "show"])?.stdout;
    let tls = |count| encrypted((ENCRYPTED, pool.port()).into(), &authority, count);
    drop(tls(1)?);
    let before = rss(proxy)?;
    let open = tls(count)?;
    let encrypted = (rss(proxy)? - before) / as_float(count as u64);
    drop(open);
    let (empty, full) = maps[0];
    Ok(vec![
        Figure::new("idle/rss-each", "KiB", grown[0], "haproxy", grown[1]),
        Figure::new("idle/rss-each-tls", "KiB", encrypted, "plain", grown[0]),
        Figure::new("idle/maps", "KiB", full / 1024.0, "empty", empty / 1024.0),
    ])
}

/// What the kernel accounts all pinned maps for, in bytes.
fn map_memory(agent: &Agent) -> Outcome<f64> {
    let directory = agent.pins().join(format!("v{}", agent_common::LAYOUT));
    let pins = fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let maps = pins.flatten().filter(|pin| !pin.file_name().to_string_lossy().starts_with("link_"));
    let bytes: Outcome<Vec<u64>> = maps.map(|pin| bpf::memory(&pin.path())).collect();
    Ok(as_float(bytes?.into_iter().sum()))
}
