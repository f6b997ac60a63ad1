//! Connections that were led to the proxy, and that it never had.

use std::net::{SocketAddr, TcpListener, TcpStream};

use agent::warden::Reason;

use crate::{
    UID,
    client::Client,
    host::{Host, wait_for},
};

pub fn abandoned(host: &mut Host) {
    let proxy = host.proxy();
    let before = host.counter(&proxy, "abandoned");
    // Fills the accept queues, whose length is 4096 and four, and goes beyond it: the handshakes of the last ones are not
    // completed on the proxy's side.
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("fill {}", host.v4)), "filled");
    client.end();
    assert!(host.counter(&proxy, "abandoned") > before);
    proxy.drain();
    // Every redirected connection so far was either accepted or given up: nothing is left in between.
    let count = |name| host.counter(&proxy, name);
    assert_eq!(count("redirected"), count("accepted") + count("abandoned"));
}

/// The first packets of some are lost, since the queues are full, and sent again when somebody else listens there.
pub fn squatted(host: &mut Host) {
    let proxy = host.proxy();
    let places: Vec<SocketAddr> =
        proxy.listeners.iter().map(|listener| listener.local_addr().expect("an address")).collect();
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("fill {}", host.v4)), "filled");
    drop(proxy);
    let bind = |place: &SocketAddr| {
        let listener = TcpListener::bind(place).expect("the proxy has gone");
        listener.set_nonblocking(true).expect("non-blocking");
        listener
    };
    let squatters: Vec<TcpListener> = places.iter().filter(|place| place.is_ipv4()).map(bind).collect();
    let mut caught: Vec<TcpStream> = Vec::new();
    wait_for("connections that come again", || {
        caught.extend(squatters.iter().filter_map(|squatter| squatter.accept().ok()).map(|(stream, _)| stream));
        caught.len() >= 4
    });
    let proxy = host.proxy();
    for stream in &caught {
        let unidentified = proxy.identify(stream).expect_err("nobody's");
        assert_eq!((unidentified.reason, unidentified.flow), (Reason::NoFlow, None));
    }
    drop((squatters, caught));
    client.end();
    let count = |name| host.counter(&proxy, name);
    assert_eq!(count("redirected"), count("accepted") + count("abandoned"));
}
