//! The judge: the target itself, which knows who has reached it past the agent.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use agent_tests::{Outcome, wait_until};

/// An address of this host that is no target's.
const BESIDE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// How long a connect may take. What is refused is refused at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause of a client between two connects, so that it leaves the others time.
const PAUSE: Duration = Duration::from_millis(2);

/// Listens at every address of this network namespace, and notes where somebody arrived.
pub struct Judge {
    arrived: Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>,
}

impl Judge {
    /// Listens at these ports.
    pub fn start(ports: impl IntoIterator<Item = u16>) -> Outcome<Self> {
        let judge = Self { arrived: Arc::default() };
        for port in ports {
            let listener = TcpListener::bind(("::", port)).map_err(|error| format!("port {port}: {error}"))?;
            let arrived = Arc::clone(&judge.arrived);
            thread::spawn(move || {
                while let Ok((client, peer)) = listener.accept() {
                    let Ok(at) = client.local_addr() else { continue };
                    let at = SocketAddr::new(at.ip().to_canonical(), at.port());
                    arrived.lock().unwrap_or_else(PoisonError::into_inner).push((at, peer));
                }
            });
        }
        Ok(judge)
    }

    /// Where clients have arrived since the last time, at this port.
    pub fn arrived(&self, port: u16) -> Outcome<BTreeSet<SocketAddr>> {
        // They arrive in order: when one that comes last is there, all are.
        let last = TcpStream::connect((BESIDE, port)).map_err(|error| format!("{BESIDE}:{port}: {error}"))?;
        let own = last.local_addr().map_err(|error| error.to_string())?.port();
        let noted = || self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let here = |(at, peer): &(SocketAddr, SocketAddr)| at.ip() == BESIDE && peer.port() == own;
        wait_until("the judge has seen all", PATIENCE, || noted().iter().any(here))?;
        let mut noted = noted();
        let (seen, others) = noted.drain(..).partition(|(at, _)| at.port() == port);
        *noted = others;
        let seen: Vec<(SocketAddr, SocketAddr)> = seen;
        Ok(seen.into_iter().map(|(at, _)| at).filter(|at| at.ip() != BESIDE).collect())
    }

    /// Fails if anybody has arrived since the last time.
    pub fn nobody(&self, port: u16) -> Outcome {
        let arrived = self.arrived(port)?;
        if arrived.is_empty() { Ok(()) } else { Err(format!("reached past the agent: {arrived:?}")) }
    }
}

/// Clients that connect without pause to what a function names.
pub struct Storm {
    stop: Arc<AtomicBool>,
    connects: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Storm {
    /// Starts one.
    pub fn start(goals: impl Fn() -> Vec<SocketAddr> + Send + 'static) -> Self {
        let mut storm = Self { stop: Arc::default(), connects: Arc::default(), threads: Vec::new() };
        storm.join(goals);
        storm
    }

    /// Starts another.
    pub fn join(&mut self, goals: impl Fn() -> Vec<SocketAddr> + Send + 'static) {
        let (stop, connects) = (Arc::clone(&self.stop), Arc::clone(&self.connects));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for goal in goals() {
                    // Refused, or accepted by the agent: the judge knows which of them reached the target.
                    let _ = TcpStream::connect_timeout(&goal, PATIENCE);
                    connects.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
            }
        }));
    }

    /// How many connects there were.
    pub fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }

    /// Ends all, and says how many connects there were.
    pub fn end(mut self) -> Outcome<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| "a client has panicked")?;
        }
        Ok(self.connects())
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
