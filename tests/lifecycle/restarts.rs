//! Connections without pause while the agent is stopped and started: the judge is the target, which notes whoever arrives.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use agent_tests::{Agent, Outcome, Target, free_port, full, wait_until};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{POLICY, expect};

/// Restarts at everyday and at full size.
const RESTARTS: (usize, usize) = (10, 100);

/// Between two connects of a loop: as good as none for what is looked for, and enough that the log stays small.
const PAUSE: Duration = Duration::from_micros(200);

/// Connects that each loop makes, before and after, for the control and at every restart.
const SOME: u64 = 100;

/// A server that accepts whatever comes and counts it. Nobody but a client that came around the agent ever does: the agent
/// itself dials only for a client that has said something, and these say nothing.
pub struct Silent {
    pub addresses: Vec<SocketAddr>,
    accepted: Arc<AtomicU64>,
}

impl Silent {
    /// Listens on a port of its own, at 127.0.0.1 and at ::1, until this process ends.
    pub fn new() -> Outcome<Self> {
        let hosts = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let port = free_port(&hosts)?;
        let addresses = hosts.map(|host| SocketAddr::new(host, port)).to_vec();
        let accepted = Arc::new(AtomicU64::new(0));
        for address in &addresses {
            let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
            let accepted = Arc::clone(&accepted);
            thread::spawn(move || {
                for client in listener.incoming() {
                    accepted.fetch_add(u64::from(client.is_ok()), Ordering::SeqCst);
                }
            });
        }
        Ok(Self { addresses, accepted })
    }

    /// How many connections have arrived.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

/// How connects ended: established, or by their error.
pub type Ends = BTreeMap<&'static str, u64>;

/// Connects to one address over and over until it is stopped.
pub struct Loop {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: JoinHandle<Ends>,
}

impl Loop {
    pub fn start(address: SocketAddr) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&made));
        let thread = thread::spawn(move || {
            let mut ends = Ends::new();
            while !stopped.load(Ordering::SeqCst) {
                *ends.entry(once(address)).or_default() += 1;
                counted.fetch_add(1, Ordering::SeqCst);
                thread::sleep(PAUSE);
            }
            ends
        });
        Self { stop, made, thread }
    }

    /// Waits until it has made some more connects: none of them began before this call.
    pub fn goes_on(&self) -> Outcome {
        let before = self.made.load(Ordering::SeqCst);
        wait_until("the loop connects", Duration::from_secs(60), || self.made.load(Ordering::SeqCst) > before + SOME)
    }

    /// Ends it, and tells how its connects ended.
    pub fn stop(self) -> Outcome<Ends> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| "the loop panicked".into())
    }
}

/// Connects, and resets the connection, so that its port is free again at once.
fn once(address: SocketAddr) -> &'static str {
    match TcpStream::connect(address) {
        Ok(stream) => {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            match setsockopt(&stream, sockopt::Linger, &linger) {
                Ok(()) => "established",
                // Reset before it could be set.
                Err(_) => "reset",
            }
        }
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => "refused",
            ErrorKind::ConnectionReset => "reset",
            ErrorKind::PermissionDenied => "not permitted",
            ErrorKind::TimedOut => "timed out",
            ErrorKind::AddrNotAvailable => "no port",
            _ => "another error",
        },
    }
}

/// No connect gets around the agent at whatever moment of a restart it comes.
pub fn never_direct() -> Outcome {
    let target = Silent::new()?;
    let mut agent = Agent::builder()
        .target(Target::postgres("db", target.addresses.iter()).credential("app", None))
        .policy("all.cedar", POLICY)
        .prepare()?;

    let loops = || target.addresses.iter().copied().map(Loop::start).collect::<Vec<_>>();
    let control = loops();
    control.iter().try_for_each(Loop::goes_on)?;
    let ends = control.into_iter().map(Loop::stop).collect::<Outcome<Vec<_>>>()?;
    expect(target.accepted() >= 2 * SOME, || format!("without an agent: {} arrived, {ends:?}", target.accepted()))?;
    let established = |ends: &Ends| ends.keys().all(|end| *end == "established");
    expect(ends.iter().all(established), || format!("without an agent: {ends:?}"))?;

    agent.start()?;
    // What came before the agent has arrived by now: each was accepted by the kernel, and the server waits for nothing.
    let mut before = target.accepted();
    wait_until("all have arrived that came before the agent", Duration::from_secs(10), || {
        thread::sleep(Duration::from_millis(100));
        std::mem::replace(&mut before, target.accepted()) == target.accepted()
    })?;
    let loops = loops();
    for restart in 0..if full() { RESTARTS.1 } else { RESTARTS.0 } {
        loops.iter().try_for_each(Loop::goes_on)?;
        agent.stop()?;
        loops.iter().try_for_each(Loop::goes_on)?;
        expect(target.accepted() == before, || format!("restart {restart}: while stopped, somebody got around"))?;
        agent.start()?;
    }
    loops.iter().try_for_each(Loop::goes_on)?;
    let ends = loops.into_iter().map(Loop::stop).collect::<Outcome<Vec<_>>>()?;
    println!("    {ends:?}");
    expect(target.accepted() == before, || format!("{} got around the agent: {ends:?}", target.accepted() - before))?;
    for ends in &ends {
        let of = |end| ends.get(end).copied().unwrap_or_default();
        // Both of the permitted ends were seen often, and no other: reset is how the agent ends one that it accepted.
        expect(of("established") > SOME && of("refused") > SOME, || format!("{ends:?}"))?;
        let others = ends.keys().find(|end| !matches!(**end, "established" | "refused" | "reset"));
        expect(others.is_none(), || format!("{ends:?}"))?;
    }
    agent.uninstall()
}
