//! The host under test: configuration, warden, and the proxy's part.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use agent::{
    config::{Address, Agent, Config, Credential, CredentialSource, DRAIN, NAME_GRACE, Target},
    model::{Flow, Liveness as _, Mode, Process},
    warden::{self, Handed, Listeners, Liveness, Tidings, Unidentified, Warden},
};
pub use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, UnixAddr, connect as connect_socket, recv, send,
    socket,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::client::{self, Client};

/// How long anything may take that other processes do. Generous: nothing is measured with it.
const PATIENCE: Duration = Duration::from_secs(30);

/// One host with one warden. Dropped, it leaves nothing behind.
pub struct Host {
    directory: TempDir,
    pub pins: PathBuf,
    warden: Option<Child>,
    pub v4: SocketAddr,
    pub local: SocketAddr,
    pub v6: SocketAddr,
    pub observed: SocketAddr,
    pub elsewhere: SocketAddr,
    pub named_port: u16,
    /// SHA-256 of this binary.
    pub sha256: String,
}

impl Host {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("postern-kernel-").tempdir().expect("a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        fs::create_dir(directory.path().join("policies")).expect("a directory");
        fs::write(directory.path().join("password"), "secret\n").expect("a file");
        let port = free_port();
        let mut host = Self {
            pins: format!("/sys/fs/bpf/postern-test-{}-kernel", std::process::id()).into(),
            directory,
            warden: None,
            v4: format!("127.77.3.3:{port}").parse().expect("an address"),
            local: format!("127.0.0.1:{port}").parse().expect("an address"),
            v6: format!("[::1]:{}", free_port()).parse().expect("an address"),
            observed: format!("127.77.1.2:{}", free_port()).parse().expect("an address"),
            elsewhere: format!("192.0.2.7:{port}").parse().expect("an address"),
            named_port: free_port(),
            sha256: hex::encode(Sha256::digest(fs::read(client::binary()).expect("readable"))),
        };
        host.start_warden();
        host
    }

    pub fn start_warden(&mut self) {
        self.end_warden();
        self.warden = Some(self.spawn_warden());
        let socket = self.runtime_dir().join("warden.sock");
        // A warden that was killed has left its socket; the new one listens once it can be connected to.
        wait_for("the warden", || dial(&socket).is_some());
    }

    /// Starts one that is expected to fail, and returns what it says.
    pub fn failing_warden(&self) -> String {
        let output = self.spawn_warden().wait_with_output().expect("ended");
        assert!(!output.status.success());
        fs::read_to_string(self.log()).expect("a log")
    }

    fn spawn_warden(&self) -> Child {
        self.spawn("warden")
    }

    /// Starts the warden with the proxy as its child, and returns both once the proxy has its listeners.
    pub fn run(&self) -> (Child, u32) {
        fs::write(self.log(), "").expect("a log");
        let warden = self.spawn("run");
        self.wait_for_log("listening as");
        let log = fs::read_to_string(self.log()).expect("a log");
        let line = log.lines().find(|line| line.contains("listening as")).expect("a line");
        let (pid, status) = line.split_once(" listening as ").expect("a pid");
        assert_eq!(
            status,
            "Uid: 65534 65534 65534 65534, Gid: 65534 65534 65534 65534, Groups:, CapPrm: 0000000000000000, \
             CapEff: 0000000000000000, CapAmb: 0000000000000000, NoNewPrivs: 1, SigBlk: 0000000000000000"
        );
        for (directory, owner, mode) in [("run", 0, 0o1771), ("state", 65_534, 0o700)] {
            let found = fs::metadata(self.directory.path().join(directory)).expect("a directory");
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (owner, 65_534, mode), "{directory}");
        }
        (warden, pid.parse().expect("a pid"))
    }

    pub fn wait_for_end(&self, pid: u32) {
        wait_for("the end of a process", || !Path::new(&format!("/proc/{pid}")).exists());
    }

    /// Two copies of this binary, with different contents.
    pub fn two_programs(&self) -> (PathBuf, PathBuf) {
        let copy = |name| {
            let path = self.directory.path().join(name);
            fs::copy(client::binary(), &path).expect("copied");
            path
        };
        (copy("real"), copy("other"))
    }

    fn spawn(&self, role: &str) -> Child {
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let mut command = Command::new(client::binary());
        command.arg(role).args([self.directory.path(), &self.pins]);
        for place in [self.v4, self.local, self.elsewhere, self.v6, self.observed] {
            command.arg(place.to_string());
        }
        command.arg(self.named_port.to_string());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        command.spawn().expect("started")
    }

    pub fn kill_warden(&mut self) {
        if let Some(mut warden) = self.warden.take() {
            warden.kill().expect("killed");
            warden.wait().expect("waited");
        }
    }

    fn end_warden(&mut self) {
        if let Some(mut warden) = self.warden.take() {
            signal(warden.id(), Signal::SIGTERM);
            warden.wait().expect("waited");
        }
    }

    /// This process as the proxy, as root.
    pub fn proxy(&self) -> Proxy {
        Proxy::connect(&self.runtime_dir())
    }

    /// A proxy in a process of its own, of another user.
    pub fn start_proxy(&self, uid: u32) -> Client {
        Client::spawn(uid, &["lone-proxy", self.runtime_dir().to_str().expect("a path")])
    }

    pub fn counter(&self, proxy: &Proxy, name: &str) -> u64 {
        proxy.block(proxy.warden.counters()).expect("counted")[name]
    }

    pub fn named_file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    pub fn wait_for_log(&self, text: &str) {
        wait_for(text, || fs::read_to_string(self.log()).is_ok_and(|log| log.contains(text)));
    }

    /// Names of the pinned links.
    pub fn links(&self) -> Vec<String> {
        let Ok(pins) = fs::read_dir(self.pins.join(format!("v{}", agent_common::LAYOUT))) else { return Vec::new() };
        let names = pins.map(|pin| pin.expect("a pin").file_name().into_string().expect("a name"));
        names.filter(|name| name.starts_with("link_")).collect()
    }

    /// Filters on what leaves by loopback, as `tc` tells of them: the agent's, where the kernel has no links to interfaces.
    pub fn filters(&self) -> Vec<String> {
        let told = Command::new("tc").args(["filter", "show", "dev", "lo", "egress"]).output().expect("tc");
        let told = String::from_utf8(told.stdout).expect("text");
        told.lines().filter(|line| line.contains("postern")).map(str::to_owned).collect()
    }

    /// Sends something that is not a question, and waits until the warden hangs up.
    pub fn say_to_warden(&self, nonsense: &[u8]) {
        let socket = dial(&self.runtime_dir().join("warden.sock")).expect("connected");
        send(socket.as_raw_fd(), nonsense, MsgFlags::MSG_NOSIGNAL).expect("sent");
        let mut answer = [0; 16];
        assert!(matches!(recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()), Ok(0) | Err(_)));
    }

    fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::env::var_os("POSTERN_TEST_LOG").is_some() {
            eprintln!("{}", fs::read_to_string(self.log()).unwrap_or_default());
        }
        self.kill_warden();
        if let Err(error) = warden::uninstall(&self.pins) {
            eprintln!("{} is left behind: {error}", self.pins.display());
        }
    }
}

/// This process in the role of the proxy.
pub struct Proxy {
    pub warden: Warden,
    pub listeners: Vec<TcpListener>,
    /// Those in other network namespaces, as they come.
    elsewhere: Arc<Mutex<Vec<TcpListener>>>,
    /// What a proxy before this one has asked that is not its own any more.
    pub overstepped: Arc<Mutex<Vec<String>>>,
    pub liveness: Liveness,
    // Dropped last, and with it the task that holds the connection.
    runtime: tokio::runtime::Runtime,
}

impl Proxy {
    fn connect(runtime_dir: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (warden, Handed { liveness, mut tidings, .. }) =
            runtime.block_on(async { Warden::connect(runtime_dir) }).expect("greeted");
        let listeners = runtime.block_on(warden.listen()).expect("handed over").sockets;
        let elsewhere = Arc::default();
        let kept: Arc<Mutex<Vec<TcpListener>>> = Arc::clone(&elsewhere);
        let overstepped = Arc::default();
        let noted: Arc<Mutex<Vec<String>>> = Arc::clone(&overstepped);
        runtime.spawn(async move {
            while let Some(news) = tidings.recv().await {
                match news {
                    Tidings::Entered(Listeners { sockets, .. }) => {
                        kept.lock().expect("nobody panics with it").extend(sockets);
                    }
                    Tidings::Overstepped { asked, .. } => noted.lock().expect("nobody panics with it").push(asked),
                    _ => {}
                }
            }
        });
        Self { warden, listeners, elsewhere, overstepped, liveness, runtime }
    }

    pub fn block<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Accepts a connection that was meant for `asked`.
    pub fn accept(&self, asked: SocketAddr) -> TcpStream {
        let six = canonical(asked).is_ipv6();
        let is_its = |listener: &&TcpListener| listener.local_addr().is_ok_and(|address| address.is_ipv6() == six);
        let mut accepted = None;
        wait_for("a connection", || {
            accepted = self.listeners.iter().filter(is_its).find_map(|listener| listener.accept().ok());
            accepted.is_some()
        });
        accepted.expect("accepted").0
    }

    /// Accepts a connection in another network namespace.
    pub fn accept_elsewhere(&self) -> TcpStream {
        let mut accepted = None;
        wait_for("a connection in another namespace", || {
            let listeners = self.elsewhere.lock().expect("nobody panics with it");
            accepted = listeners.iter().find_map(|listener| listener.accept().ok());
            accepted.is_some()
        });
        accepted.expect("accepted").0
    }

    /// Accepts whatever waits.
    pub fn drain(&self) {
        for listener in &self.listeners {
            while listener.accept().is_ok() {}
        }
    }

    pub fn identify(&self, socket: &impl AsFd) -> Result<(Flow, Process), Unidentified> {
        self.block(self.warden.identify(socket.as_fd()))
    }
}

/// Role: the warden.
pub fn run_warden(arguments: &[&str], spawn_proxy: bool) -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).init();
    let [directory, pins, v4, local, elsewhere, v6, observed, named_port] = arguments else {
        panic!("wrong arguments: {arguments:?}");
    };
    let directory = Path::new(directory);
    let place = |text: &str| text.parse::<SocketAddr>().expect("an address").into();
    let port: u16 = named_port.parse().expect("a port");
    let name = Address::Name { host: "name.invalid".into(), ports: port.into() };
    let config = Config {
        path: directory.join("postern.toml"),
        agent: Agent {
            state_dir: directory.join("state"),
            runtime_dir: directory.join("run"),
            policies: directory.join("policies"),
            pin_dir: pins.into(),
            user: "nobody".into(),
            group: None,
            name_grace: NAME_GRACE,
            drain: DRAIN,
        },
        targets: vec![
            target("enforced", vec![place(v4), place(local), place(elsewhere)], Mode::Enforce, directory),
            target("enforced6", vec![place(v6)], Mode::Enforce, directory),
            target("observed", vec![place(observed)], Mode::Observe, directory),
            target("named", vec![name], Mode::Enforce, directory),
        ],
        roles: Vec::new(),
        intercept: agent::config::Intercept::default(),
    };
    match warden::run(&config, spawn_proxy.then_some(warden::Spawn { must_enforce: false })) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn target(name: &str, addresses: Vec<Address>, mode: Mode, directory: &Path) -> Target {
    Target {
        mode,
        credential: CredentialSource::Agent(vec![Credential {
            role: None,
            user: "agent".into(),
            password_file: Some(directory.join("password")),
            certificate: None,
        }]),
        ..Target::simple(name, addresses)
    }
}

/// Role: a proxy that identifies one connection.
pub fn run_lone_proxy(runtime_dir: &str) -> ExitCode {
    let proxy = Proxy::connect(runtime_dir.as_ref());
    println!("listening");
    let accepted = proxy.accept("127.0.0.1:1".parse().expect("an address"));
    let (flow, process) = proxy.identify(&accepted).expect("identified");
    println!("identified {} {:?}", process.pid, proxy.liveness.check(&flow));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("told");
    println!("checked {:?}", proxy.liveness.check(&flow));
    ExitCode::SUCCESS
}

/// Role: the proxy that the warden starts. It says what it is, and waits.
pub fn run_proxy(config: &str) -> ExitCode {
    let directory = Path::new(config).parent().expect("a directory");
    let proxy = Proxy::connect(&directory.join("run"));
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let facts: Vec<String> = ["Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs", "SigBlk"]
        .iter()
        .filter_map(|name| status.lines().find(|line| line.split(':').next() == Some(name)))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    println!("{} listening as {}", std::process::id(), facts.join(", "));
    proxy.block(proxy.warden.gone());
    ExitCode::SUCCESS
}

/// Sends a signal to a process that this suite has started.
pub fn signal(pid: u32, signal: Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).expect("a process");
}

/// The IPv4-mapped form of an address.
pub fn mapped(of: SocketAddr) -> SocketAddr {
    match of.ip() {
        IpAddr::V4(v4) => SocketAddrV6::new(v4.to_ipv6_mapped(), of.port(), 0, 0).into(),
        IpAddr::V6(_) => of,
    }
}

/// The IPv4 form of an IPv4-mapped address.
pub fn canonical(of: SocketAddr) -> SocketAddr {
    (of.ip().to_canonical(), of.port()).into()
}

/// An IPv4 TCP socket that is not connected.
pub fn tcp_socket() -> OwnedFd {
    socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket")
}

/// Connects it.
pub fn connect(socket: OwnedFd, to: SocketAddr) -> nix::Result<TcpStream> {
    connect_socket(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(socket.into())
}

fn dial(path: &Path) -> Option<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    connect_socket(socket.as_raw_fd(), &UnixAddr::new(path).expect("a path")).ok()?;
    Some(socket)
}

/// A port that is free at this moment on every loopback address.
fn free_port() -> u16 {
    TcpListener::bind("[::]:0").expect("a port").local_addr().expect("an address").port()
}

/// Waits until something is so.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
