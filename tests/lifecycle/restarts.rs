//! Connections without pause while the agent is stopped and started: the judge is the target, which notes whoever arrives.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use agent_tests::{Agent, Cmd, Outcome, Running, Target, free_port, full, net::enter_own_namespace, wait_until};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{POLICY, expect};

/// Restarts at everyday and at full size.
const RESTARTS: (usize, usize) = (10, 100);

/// Connects of each loop that are waited for at every step.
pub const SOME: u64 = 50;

/// Asks a PostgreSQL server whether it speaks TLS. It answers with one letter; the agent does before it dials.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that accepts whatever comes, counts it and closes it. Nobody arrives but who came around the agent: the agent itself
/// dials for a client that wants a session, and these want none.
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

/// How connects ended.
pub type Ends = BTreeMap<&'static str, u64>;

/// Connects to one address over and over until it is stopped.
pub struct Loop {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: JoinHandle<Ends>,
}

impl Loop {
    pub fn start(address: SocketAddr) -> Self {
        Self::after(address, || None)
    }

    /// The same in a network namespace of its own, with a process in it, once the agent listens there.
    pub fn apart(address: SocketAddr) -> Outcome<Self> {
        let (ready, is_ready) = mpsc::channel();
        let this = Self::after(address, move || {
            let inhabited = enter_own_namespace(&[]).and_then(|()| Cmd::new("sleep").arg("infinity").spawn());
            let served = inhabited.and_then(|inhabitant| {
                wait_until("the agent listens in a new network namespace", PATIENCE, || once(address) == "answered")?;
                Ok(inhabitant)
            });
            let (inhabitant, result) = match served {
                Ok(inhabitant) => (Some(inhabitant), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Somebody waits for it.
            let _ = ready.send(result);
            inhabitant
        });
        is_ready.recv().map_err(|error| error.to_string())??;
        Ok(this)
    }

    fn after(address: SocketAddr, prepare: impl FnOnce() -> Option<Running> + Send + 'static) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&made));
        let thread = thread::spawn(move || {
            let _inhabitant = prepare();
            let mut ends = Ends::new();
            while !stopped.load(Ordering::SeqCst) {
                *ends.entry(once(address)).or_default() += 1;
                counted.fetch_add(1, Ordering::SeqCst);
            }
            ends
        });
        Self { stop, made, thread }
    }

    /// Waits until it has made some more connects: none of them began before this call.
    pub fn goes_on(&self) -> Outcome {
        let before = self.made.load(Ordering::SeqCst);
        wait_until("the loop connects", 2 * PATIENCE, || self.made.load(Ordering::SeqCst) > before + SOME)
    }

    /// Ends it, and tells how its connects ended.
    pub fn stop(self) -> Outcome<Ends> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| "the loop panicked".into())
    }
}

/// Connects and asks. It ends with a reset, so that the port is free again at once.
fn once(address: SocketAddr) -> &'static str {
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        // Fails where the connection is reset already, and then so does what follows.
        let _ = setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&SSL_REQUEST)?;
        stream.read(&mut [0])
    });
    match asked {
        Ok(0) => "closed",
        Ok(_) => "answered",
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => "refused",
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset",
            ErrorKind::PermissionDenied => "not permitted",
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "timed out",
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
    let unanswered = |ends: &Ends| ends.keys().all(|end| matches!(*end, "closed" | "reset"));
    expect(ends.iter().all(unanswered), || format!("without an agent: {ends:?}"))?;

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
        expect(of("answered") > SOME && of("refused") > SOME, || format!("{ends:?}"))?;
        // Accepted, and then the agent ended.
        let others = ends.keys().find(|end| !matches!(**end, "answered" | "refused" | "reset" | "closed"));
        expect(others.is_none(), || format!("{ends:?}"))?;
    }
    agent.uninstall()
}
