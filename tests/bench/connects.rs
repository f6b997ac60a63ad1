//! What `connect` costs: to an address that nobody protects, and to a target, with the programs and without.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

use agent_tests::{Agent, Outcome, Target};
use nix::{
    libc::linger,
    sys::socket::{setsockopt, sockopt},
};

use crate::{
    ROUNDS,
    figures::{Figure, median, quantile},
};

/// Name of the figures.
pub const NAME: &str = "connect";

/// Connects that are timed in one go.
const TIMES: usize = 2_000;

/// Where is connected to.
const KINDS: [&str; 2] = ["unprotected", "protected"];

/// Measures with and without programs, in turns.
///
/// # Errors
/// The agent did not start, or a connect failed.
pub fn measure() -> Outcome<Vec<Figure>> {
    let destinations = [server()?, server()?];
    let target = Target::postgres("bench", [destinations[1].to_string()]).credential("nobody", None);
    let mut agent = Agent::builder().target(target).prepare()?;
    let mut medians: [[Vec<f64>; 2]; 2] = Default::default();
    let mut tails: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 1..=ROUNDS {
        for (way, name) in ["without programs", "with programs"].into_iter().enumerate() {
            eprintln!("{NAME} {name}: round {round} of {ROUNDS}");
            if way == 1 {
                agent.start()?;
            }
            for (kind, destination) in destinations.into_iter().enumerate() {
                let micros = connects(destination)?;
                medians[kind][way].push(quantile(micros.clone(), 50));
                tails[kind][way].push(quantile(micros, 99));
            }
        }
        agent.uninstall()?;
    }
    let mut figures = Vec::new();
    for (part, mut measured) in [("p50", medians), ("p99", tails)] {
        for (kind, name) in KINDS.into_iter().enumerate() {
            let [without, with] = std::mem::take(&mut measured[kind]);
            let name = format!("{NAME}/{name}/{part}");
            figures.push(Figure::new(&name, "us", median(with), "without", median(without)));
        }
    }
    Ok(figures)
}

/// A server that accepts, and closes.
fn server() -> Outcome<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    thread::spawn(move || listener.incoming().for_each(drop));
    Ok(address)
}

/// How long each connect took, in microseconds.
fn connects(to: SocketAddr) -> Outcome<Vec<f64>> {
    let mut micros = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let start = Instant::now();
        let socket = TcpStream::connect(to).map_err(|error| format!("{to}: {error}"))?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        // Reset, so that no port is kept.
        setsockopt(&socket, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).map_err(|error| error.to_string())?;
    }
    Ok(micros)
}
