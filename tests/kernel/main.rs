//! The kernel side and the warden, for real: programs at the root of this host's cgroup hierarchy, clients of other users.
//!
//! Everything that is protected here are loopback addresses and a documentation network, on ports that the kernel chose, so
//! that nothing else on the host is touched. This binary is all parties: see [`client`] and [`host`].

mod client;
mod host;
mod older;
mod succeeded;
mod unserved;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, OwnedFd},
    process::ExitCode,
};

use agent::{
    model::{Gone, Liveness as _},
    warden::Reason,
};
use agent_tests::turn::Turn;
use nix::sys::socket::{setsockopt, sockopt};

use crate::{client::Client, host::Host};

/// A user and a group that nothing on the host runs as.
const UID: u32 = 64_017;

const EPERM: &str = "error 1";
const EPROTONOSUPPORT: &str = "error 93";
const ECONNREFUSED: &str = "error 111";

type Case = (&'static str, fn(&mut Host));

const CASES: &[Case] = &[
    ("IPv4, IPv6 and IPv4-mapped connects arrive with their flow and their process", arrives),
    ("the unspecified address is loopback, and is protected as that", unspecified),
    ("Fast Open and Multipath TCP are no way past", other_ways),
    ("a direct connect to a listener is refused", direct),
    ("UDP to a protected destination is refused, connected or not", datagrams),
    ("a socket that is used again keeps nothing of its earlier connection", used_again),
    ("only the proxy's marked socket reaches the target itself", marked),
    ("a process that has executed another program is refused", executed),
    ("another file mounted over a program's path is not that program", mounted_over),
    ("a process that has ended is refused", ended),
    ("a thread's exec is an exec, and its process is refused", executed_by_thread),
    ("a process whose exec has failed connects as what it still is", exec_failed),
    ("sockets that were not redirected have no owner", not_redirected),
    ("another network namespace has its own loopback, and no way to a target but the proxy", namespaces),
    ("a target in observe mode is reached directly when no proxy is there", observed),
    ("without a proxy, connects are refused with ECONNREFUSED, and logged", no_proxy),
    ("a connection that is given up before it is accepted leaves nothing behind", unserved::abandoned),
    ("who listens in the place of a proxy that has gone gets connections, and no flow", unserved::squatted),
    ("a warden that is killed leaves the host closed; the next one adopts the pins", killed),
    ("an unprivileged proxy can look at the process map", unprivileged),
    ("a hostile proxy gets no file, no mark and no rest", hostile),
    ("a proxy in whose place another listens gets what its sessions need, and no more", succeeded::refused),
    ("names are protected live, and only at their own ports", named),
    (
        "a connection to an address that becomes protected is ended, and the agent's own is not",
        older::becomes_protected,
    ),
    ("pins of another layout are refused, and a second warden too", refused_start),
    ("run starts the proxy without privileges, and both end together", together),
    ("uninstall leaves neither pins nor filters, twice", uninstall),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "client"] => client::run(),
        [_, "warden", rest @ ..] => host::run_warden(rest, false),
        [_, "run", rest @ ..] => host::run_warden(rest, true),
        [_, "lone-proxy", runtime_dir] => host::run_lone_proxy(runtime_dir),
        // As `run` starts it.
        [_, "proxy", "--config", config] => host::run_proxy(config),
        _ => suite(),
    }
}

fn suite() -> ExitCode {
    assert!(nix::unistd::geteuid().is_root(), "the kernel side can only be tested as root");
    let _turn = Turn::take().expect("a turn");
    let mut host = Host::new();
    let mut failed = 0;
    for (name, case) in CASES {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&mut host)));
        println!("{} - {name}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed += usize::from(outcome.is_err());
    }
    drop(host);
    println!("{} passed, {failed} failed, 0 skipped", CASES.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arrives(host: &mut Host) {
    let proxy = host.proxy();
    for (how, target, asked) in
        [("connect4", 0, host.v4), ("connect6", 1, host.v6), ("connect6", 0, host::mapped(host.v4))]
    {
        let mut client = Client::start(UID);
        assert_eq!(client.ask(&format!("{how} {asked}")), format!("connected to {asked}"));
        let accepted = proxy.accept(asked);
        let (flow, process) = proxy.identify(&accepted).expect("identified");
        assert_eq!((flow.tgid, flow.uid, flow.gid, flow.target), (client.pid(), UID, UID, target));
        assert_eq!(flow.destination, host::canonical(asked));
        assert_eq!((process.pid, process.uid, process.gid), (client.pid(), UID, UID));
        assert!(process.groups.contains(&UID.to_string()), "{:?}", process.groups);
        assert_eq!(process.exe.path, client::binary());
        assert!(process.exe.verified, "{:?}", process.exe);
        assert_eq!(process.exe.sha256.as_deref(), Some(host.sha256.as_str()));
        assert_eq!(process.argv.last().map(String::as_str), Some("client"));
        assert_eq!(proxy.liveness.check(&flow), Ok(()));
        // The accepted side has its own peer, not the address that was asked for.
        assert!(accepted.peer_addr().expect("a peer").ip().is_loopback());
        assert_ne!(accepted.peer_addr().expect("a peer").port(), asked.port());
    }
}

fn unspecified(host: &mut Host) {
    let proxy = host.proxy();
    let (port4, port6) = (host.local.port(), host.v6.port());
    for (how, asked, meant) in [
        ("connect4", format!("0.0.0.0:{port4}"), host.local),
        ("connect6", format!("[::]:{port6}"), host.v6),
        ("connect6", format!("[::ffff:0.0.0.0]:{port4}"), host.local),
        ("connect6-bound-to-v4", format!("[::]:{port4}"), host.local),
    ] {
        let mut client = Client::start(UID);
        let answer = client.ask(&format!("{how} {asked}"));
        assert!(answer.starts_with("connected"), "{how} {asked}: {answer}");
        let (flow, _) = proxy.identify(&proxy.accept(meant)).expect("identified");
        assert_eq!((flow.destination, flow.tgid), (meant, client.pid()));
    }
}

fn other_ways(host: &mut Host) {
    let proxy = host.proxy();
    let _server = TcpListener::bind(host.v4).expect("the target itself");
    for way in ["fast-open-send", "fast-open-connect", "multipath"] {
        let mut client = Client::start(UID);
        let answer = client.ask(&format!("{way} {}", host.v4));
        // A kernel without Multipath TCP has no such socket.
        if way == "multipath" && answer == EPROTONOSUPPORT {
            continue;
        }
        assert_eq!(answer, "sent", "{way}");
        let (flow, _) = proxy.identify(&proxy.accept(host.v4)).expect("identified");
        assert_eq!((flow.tgid, flow.destination), (client.pid(), host.v4), "{way}");
    }
}

fn direct(host: &mut Host) {
    let proxy = host.proxy();
    let before = host.counter(&proxy, "refused_direct_to_listener");
    let mut refused = 0;
    for listener in &proxy.listeners {
        let listener = listener.local_addr().expect("an address");
        let mut ways = match listener {
            SocketAddr::V4(_) => vec![format!("connect4 {listener}"), format!("connect6 {}", host::mapped(listener))],
            SocketAddr::V6(_) => vec![format!("connect6 {listener}"), format!("connect6 [::]:{}", listener.port())],
        };
        // What the unspecified address stands for.
        if listener.ip() == Ipv4Addr::LOCALHOST {
            ways.push(format!("connect4 0.0.0.0:{}", listener.port()));
        }
        for way in ways {
            assert_eq!(Client::start(UID).ask(&way), EPERM, "{way}");
            refused += 1;
        }
    }
    assert!(refused >= 5, "{refused}");
    assert_eq!(host.counter(&proxy, "refused_direct_to_listener"), before + refused);
}

fn datagrams(host: &mut Host) {
    let proxy = host.proxy();
    let before = host.counter(&proxy, "refused_udp");
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("udp-connect {}", host.v4)), EPERM);
    assert_eq!(client.ask(&format!("udp-connect {}", host.v6)), EPERM);
    assert_eq!(client.ask(&format!("udp-send {}", host.v4)), EPERM);
    assert_eq!(client.ask(&format!("udp-send {}", host.v6)), EPERM);
    assert_eq!(host.counter(&proxy, "refused_udp"), before + 4);
    assert_eq!(client.ask("udp-send 127.0.0.1:9"), "sent");
}

fn used_again(host: &mut Host) {
    let proxy = host.proxy();
    let other = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let other_address = other.local_addr().expect("an address");
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    proxy.identify(&proxy.accept(host.v4)).expect("identified");
    assert_eq!(client.ask(&format!("again {other_address}")), format!("connected to {other_address}"));
    let (accepted, _) = other.accept().expect("accepted");
    assert_eq!(proxy.identify(&accepted).expect_err("not redirected").reason, Reason::NoFlow);
    // And the other way round.
    assert_eq!(client.ask(&format!("again {}", host.v4)), format!("connected to {}", host.v4));
    let (flow, _) = proxy.identify(&proxy.accept(host.v4)).expect("identified");
    assert_eq!(flow.destination, host.v4);
}

fn marked(host: &mut Host) {
    let proxy = host.proxy();
    let server = TcpListener::bind(host.v4).expect("the target itself");
    let socket = host::tcp_socket();
    proxy.block(proxy.warden.mark(socket.as_fd())).expect("marked");
    let before = host.counter(&proxy, "own");
    let stream = host::connect(socket, host.v4).expect("connected");
    let (_, peer) = server.accept().expect("accepted");
    assert_eq!(stream.local_addr().expect("an address"), peer);
    assert_eq!(host.counter(&proxy, "own"), before + 1);
    // The proxy's other sockets are nobody special.
    let other = TcpStream::connect(host.v4).expect("redirected");
    let (flow, _) = proxy.identify(&proxy.accept(host.v4)).expect("identified");
    assert_eq!(flow.tgid, std::process::id());
    drop(other);
}

fn executed(host: &mut Host) {
    let proxy = host.proxy();
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    let first = proxy.accept(host.v4);
    let (flow, _) = proxy.identify(&first).expect("identified");
    assert_eq!(client.ask("exec"), "ready");
    assert_eq!(proxy.liveness.check(&flow), Err(Gone::Executed));
    let unidentified = proxy.identify(&first).expect_err("executed since");
    assert_eq!(unidentified.reason, Reason::Gone(Gone::Executed));
    assert_eq!(unidentified.flow.as_deref(), Some(&flow));
    // What connects now is the new program's, with the same generation.
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    let (flow, _) = proxy.identify(&proxy.accept(host.v4)).expect("identified");
    assert_eq!(flow.sequence, 2);
}

fn mounted_over(host: &mut Host) {
    let proxy = host.proxy();
    let (real, other) = host.two_programs();
    let mut client = Client::start(0);
    assert_eq!(client.ask(&format!("mount-and-exec {} {}", other.display(), real.display())), "ready");
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    let (_, process) = proxy.identify(&proxy.accept(host.v4)).expect("identified");
    assert_eq!(process.exe.path, real);
    assert!(!process.exe.verified);
}

fn executed_by_thread(host: &mut Host) {
    let proxy = host.proxy();
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    let accepted = proxy.accept(host.v4);
    let (flow, _) = proxy.identify(&accepted).expect("identified");
    assert_eq!(client.ask("exec-in-thread"), "ready");
    assert_eq!(proxy.liveness.check(&flow), Err(Gone::Executed));
    assert_eq!(proxy.identify(&accepted).expect_err("executed since").reason, Reason::Gone(Gone::Executed));
}

/// The exec fails after the kernel has begun to make its credentials, which is where kernels before 6.10 are watched.
fn exec_failed(host: &mut Host) {
    let proxy = host.proxy();
    for connects_before in [true, false] {
        let mut client = Client::start(0);
        if connects_before {
            assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
            proxy.identify(&proxy.accept(host.v4)).expect("identified");
        }
        let (program, _) = host.two_programs();
        assert_eq!(client.ask(&format!("exec-without-capability {}", program.display())), EPERM);
        assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
        let (flow, process) = proxy.identify(&proxy.accept(host.v4)).expect("identified");
        assert_eq!((flow.tgid, process.exe.path), (client.pid(), client::binary()));
        assert_eq!(proxy.liveness.check(&flow), Ok(()));
    }
}

fn ended(host: &mut Host) {
    let proxy = host.proxy();
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    let accepted = proxy.accept(host.v4);
    let (flow, _) = proxy.identify(&accepted).expect("identified");
    client.end();
    assert_eq!(proxy.liveness.check(&flow), Err(Gone::Ended));
    assert_eq!(proxy.identify(&accepted).expect_err("ended").reason, Reason::Gone(Gone::Ended));
}

fn not_redirected(host: &mut Host) {
    let proxy = host.proxy();
    let client = TcpStream::connect(host.v4).expect("redirected");
    let accepted = proxy.accept(host.v4);
    // The connecting side has a flow of its own, which proves nothing.
    assert_eq!(proxy.identify(&client).expect_err("not accepted").reason, Reason::NotAccepted);
    assert!(proxy.identify(&accepted).is_ok());
    let file = std::fs::File::open("/dev/null").expect("a file");
    assert_eq!(proxy.identify(&file).expect_err("no socket").reason, Reason::NotAccepted);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    assert_eq!(proxy.identify(&listener).expect_err("no flow").reason, Reason::NoFlow);
}

fn namespaces(host: &mut Host) {
    let proxy = host.proxy();
    let mut client = Client::start(0);
    assert_eq!(client.ask("netns"), "ready");
    // Its own loopback is nobody's business.
    assert_eq!(client.ask(&format!("serve {}", host.v4)), "ready");
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    // Any other address is the target's there too: refused until the proxy listens there, and then its.
    let mut answer = ECONNREFUSED.to_owned();
    host::wait_for("a listener in the namespace", || {
        answer = client.ask(&format!("connect4 {}", host.elsewhere));
        answer != ECONNREFUSED
    });
    assert_eq!(answer, format!("connected to {}", host.elsewhere));
    let (flow, process) = proxy.identify(&proxy.accept_elsewhere()).expect("identified");
    assert_eq!((flow.destination, flow.tgid, process.pid), (host.elsewhere, client.pid(), client.pid()));
    let connected = TcpStream::connect(host.v4).expect("redirected");
    let (here, _) = proxy.identify(&proxy.accept(host.v4)).expect("identified");
    assert_ne!(flow.netns, here.netns);
    drop(connected);
}

fn observed(host: &mut Host) {
    let server = TcpListener::bind(host.observed).expect("the target itself");
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.observed)), format!("connected to {}", host.observed));
    server.accept().expect("accepted directly");
    let proxy = host.proxy();
    assert!(host.counter(&proxy, "observed_direct") > 0);
    assert_eq!(client.ask(&format!("connect4 {}", host.observed)), format!("connected to {}", host.observed));
    proxy.identify(&proxy.accept(host.observed)).expect("identified");
}

fn no_proxy(host: &mut Host) {
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), ECONNREFUSED);
    assert_eq!(client.ask(&format!("connect6 {}", host.v6)), ECONNREFUSED);
    assert_eq!(client.ask(&format!("connect6 {}", host::mapped(host.v4))), ECONNREFUSED);
    host.wait_for_log(&format!("the proxy does not listen: process {}", client.pid()));
}

fn killed(host: &mut Host) {
    let proxy = host.proxy();
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    let (flow, _) = proxy.identify(&proxy.accept(host.v4)).expect("identified");
    let links = host.links();
    host.kill_warden();
    proxy.block(proxy.warden.gone());
    drop(proxy);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), ECONNREFUSED);
    host.start_warden();
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), ECONNREFUSED);
    assert_eq!(host.links().len(), links.len());
    let proxy = host.proxy();
    // The process map was adopted: the same process has the same generation.
    assert_eq!(proxy.liveness.check(&flow), Ok(()));
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    let (again, _) = proxy.identify(&proxy.accept(host.v4)).expect("identified");
    assert_eq!((again.tgid, again.generation), (flow.tgid, flow.generation));
}

fn unprivileged(host: &mut Host) {
    let mut proxy = host.start_proxy(65_534);
    assert_eq!(proxy.line(), "listening");
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    assert_eq!(proxy.line(), format!("identified {} Ok(())", client.pid()));
    assert_eq!(client.ask("exec"), "ready");
    proxy.tell("check");
    assert_eq!(proxy.line(), "checked Err(Executed)");
    proxy.end();
}

fn hostile(host: &mut Host) {
    let proxy = host.proxy();
    let refused = |result: Result<OwnedFd, _>| -> String {
        let error: agent::warden::AskError = result.expect_err("refused");
        error.to_string()
    };
    let named = proxy.block(proxy.warden.open(&host.named_file())).expect("the configuration names it");
    assert_eq!(std::io::read_to_string(std::fs::File::from(named)).expect("readable"), "secret\n");
    let other = host.named_file().with_file_name("../../etc/shadow");
    assert!(refused(proxy.block(proxy.warden.open(&other))).contains("does not name"));
    assert!(refused(proxy.block(proxy.warden.open("/etc/shadow".as_ref()))).contains("does not name"));

    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let connected = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    assert!(proxy.block(proxy.warden.mark(connected.as_fd())).is_err());
    assert!(proxy.block(proxy.warden.mark(listener.as_fd())).is_err());
    assert!(proxy.block(proxy.warden.mark(std::fs::File::open("/dev/null").expect("a file").as_fd())).is_err());
    // Closing a socket that lingers would hold the warden up.
    setsockopt(&connected, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 3600 }).expect("lingering");
    assert!(proxy.identify(&connected).is_err());
    drop(connected);
    drop(proxy);

    for nonsense in [&b"{}"[..], b"\xff\xfe", b"{\"id\":1,\"call\":\"everything\"}", &[b' '; 100_000]] {
        host.say_to_warden(nonsense);
    }
    assert!(host.counter(&host.proxy(), "redirected") > 0);
}

fn named(host: &mut Host) {
    let proxy = host.proxy();
    let place: SocketAddr = format!("127.77.3.4:{}", host.named_port).parse().expect("an address");
    let mut client = Client::start(UID);
    let server = TcpListener::bind(place).expect("the target itself");
    assert_eq!(client.ask(&format!("connect4 {place}")), format!("connected to {place}"));
    server.accept().expect("not protected yet");
    // The proxy says only what a name stands for; which ports that is about, the configuration has said.
    assert!(proxy.block(proxy.warden.protect(3, 0, &[])).is_err());
    assert!(proxy.block(proxy.warden.protect(3, 1, &[place.ip()])).is_err());
    assert!(proxy.block(proxy.warden.protect(0, 0, &[place.ip()])).is_err());
    proxy.block(proxy.warden.protect(3, 0, &[place.ip()])).expect("protected");
    assert_eq!(client.ask(&format!("connect4 {place}")), format!("connected to {place}"));
    let (flow, _) = proxy.identify(&proxy.accept(place)).expect("identified");
    assert_eq!((flow.target, flow.destination), (3, place));
    drop(proxy);
    // Until the name is resolved again, what it meant stays closed.
    host.kill_warden();
    host.start_warden();
    let proxy = host.proxy();
    assert_eq!(client.ask(&format!("connect4 {place}")), format!("connected to {place}"));
    assert_eq!(proxy.identify(&proxy.accept(place)).expect_err("unresolved").reason, Reason::NoTarget);
    proxy.block(proxy.warden.protect(3, 0, &["127.77.3.5".parse().expect("an address")])).expect("protected");
    assert_eq!(client.ask(&format!("connect4 {place}")), format!("connected to {place}"));
    server.accept().expect("not protected any more");
}

fn refused_start(host: &mut Host) {
    assert!(host.failing_warden().contains("stop it first"));
    host.kill_warden();
    let foreign = host.pins.join("v0");
    std::fs::create_dir(&foreign).expect("a directory");
    assert!(host.failing_warden().contains("postern uninstall"));
    std::fs::remove_dir(&foreign).expect("removed");
    // A map in another one's place has another layout.
    let pinned = host.pins.join(format!("v{}", agent_common::LAYOUT));
    let (counters, settings) = (pinned.join("COUNTERS"), pinned.join("SETTINGS"));
    std::fs::rename(&counters, pinned.join("kept")).expect("renamed");
    std::fs::rename(&settings, &counters).expect("renamed");
    let said = host.failing_warden();
    assert!(said.contains("COUNTERS has another layout"), "{said}");
    std::fs::rename(&counters, &settings).expect("renamed");
    std::fs::rename(pinned.join("kept"), &counters).expect("renamed");
    host.start_warden();
    host.kill_warden();
}

fn together(host: &mut Host) {
    host.kill_warden();
    // Asked to end, both do.
    let (mut warden, proxy) = host.run();
    host::signal(warden.id(), host::Signal::SIGTERM);
    assert!(warden.wait().expect("waited").success());
    host.wait_for_end(proxy);
    // If the proxy ends, so does the warden.
    let (mut warden, proxy) = host.run();
    host::signal(proxy, host::Signal::SIGKILL);
    assert!(!warden.wait().expect("waited").success());
    host.wait_for_log("the proxy has ended");
    // If the warden is killed, so is the proxy.
    let (mut warden, proxy) = host.run();
    warden.kill().expect("killed");
    warden.wait().expect("waited");
    host.wait_for_end(proxy);
}

fn uninstall(host: &mut Host) {
    let links = host.links();
    // Loopback has a link, or before 6.6 a filter.
    let linked = links.iter().any(|link| link == "link_interface_1");
    assert_eq!(host.filters().len(), usize::from(!linked), "{:?}", host.filters());
    let links = links.len();
    let removed = agent::warden::uninstall(&host.pins).expect("removed");
    // Before 6.10 two probes stand in for a tracepoint; each interface has a link, where the kernel has them.
    assert!(links >= 13, "{links}");
    assert_eq!((removed.links, removed.maps), (links, 18));
    assert!(!host.pins.exists());
    assert_eq!(agent::warden::uninstall(&host.pins).expect("nothing to do"), agent::warden::Removed::default());
    let server = TcpListener::bind(host.v4).expect("the target itself");
    let mut client = Client::start(UID);
    assert_eq!(client.ask(&format!("connect4 {}", host.v4)), format!("connected to {}", host.v4));
    server.accept().expect("accepted directly");
    assert_eq!((host.links(), host.filters()), (Vec::new(), Vec::new()));
}
