//! A proxy in whose place another listens.

use std::{net::IpAddr, os::fd::AsFd as _};

use agent::warden::AskError;

use crate::{
    UID,
    client::Client,
    host::{self, Host},
};

/// The first may have been under way when the second came; what changes something is told that one, once.
pub fn refused(host: &mut Host) {
    let first = host.proxy();
    let address = [IpAddr::from([192, 0, 2, 91])];
    first.block(first.warden.protect(3, 0, &address)).expect("its own, until another comes");
    let second = host.proxy();
    let refused =
        |outcome: Result<(), AskError>| matches!(outcome, Err(AskError::Refused(why)) if why.contains("in this one's"));
    assert!(refused(first.block(first.warden.counters()).map(drop)));
    assert!(second.overstepped.lock().expect("nobody panics with it").is_empty());
    assert!(refused(first.block(first.warden.protect(3, 0, &[IpAddr::from([192, 0, 2, 92])]))));
    let flow = (1, 1);
    assert!(refused(first.block(first.warden.settle(&[flow]))));
    assert!(refused(first.block(first.warden.self_test()).map(drop)));
    assert!(refused(first.block(first.warden.abandoned()).map(drop)));
    assert!(refused(first.block(first.warden.prepare())));
    assert!(refused(first.block(first.warden.listen()).map(drop)));
    host::wait_for("it is told", || !second.overstepped.lock().expect("nobody panics with it").is_empty());
    assert_eq!(*second.overstepped.lock().expect("nobody panics with it"), ["protect"]);
    // For sessions that it keeps, and what is on its way to it.
    first.block(first.warden.open(&host.named_file())).expect("the configuration names it");
    first.block(first.warden.mark(host::tcp_socket().as_fd())).expect("marked");
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    first.identify(&second.accept(host.v4)).expect("identified");
    first.block(first.warden.let_go()).expect("the listeners are closed");
    second.block(second.warden.settle(&[flow])).expect("the second one's own");
}
