//! The agent under test: a warden in a process of its own, with this process in the proxy's role.

use std::{
    fs::{self, File},
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpListener},
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use agent::{
    config::{Address, Agent, Allowed, Config, Credential, CredentialSource, Intercept, Lockdown, Members, Target},
    model::Flow,
    warden::{self, Warden},
};
use nix::sys::{prctl::set_pdeathsig, signal::Signal};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::{Outcome, ground};

/// How long the warden may take to begin, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the suite may take before the watchdog takes it for hanging: a slow machine emulates its processor.
const DEADLINE: Duration = Duration::from_secs(45 * 60);

/// What `[intercept]` says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Scope {
    pub users: Vec<String>,
    pub cgroups: Vec<String>,
    pub without_users: Vec<String>,
    pub without_cgroups: Vec<String>,
    /// Networks that may be reached, and resolvers.
    pub lockdown: Option<(Vec<String>, Vec<String>)>,
}

/// The agent. Dropped, it leaves nothing behind.
pub struct Host {
    directory: TempDir,
    pins: PathBuf,
    warden: Option<Child>,
    pub proxy: Option<Proxy>,
    /// Why the target's Unix socket is open, if it is: what the status says.
    pub open: Option<String>,
    watchdog: Child,
    _alive: Option<ChildStdin>,
}

impl Host {
    /// Whether the target's Unix socket is refused where nothing or only its name is called for: what the status says.
    pub fn refuses_by_name(&self) -> bool {
        self.open.as_ref().is_none_or(|why| why.contains("refuses only its name"))
    }

    /// No agent yet; only the watchdog.
    pub fn new() -> Outcome<Self> {
        let failed = |error: std::io::Error| format!("a directory: {error}");
        let directory = tempfile::Builder::new().prefix("postern-bypass-").tempdir().map_err(failed)?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).map_err(failed)?;
        fs::create_dir(directory.path().join("policies")).map_err(failed)?;
        fs::write(directory.path().join("password"), "secret\n").map_err(failed)?;
        let pins: PathBuf = format!("/sys/fs/bpf/postern-test-{}-bypass", std::process::id()).into();
        let mut watchdog = Command::new("/proc/self/exe")
            .args(["watchdog".as_ref(), pins.as_os_str(), std::process::id().to_string().as_ref()])
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the watchdog: {error}"))?;
        let alive = watchdog.stdin.take();
        Ok(Self { directory, pins, warden: None, proxy: None, open: None, watchdog, _alive: alive })
    }

    /// Puts the programs in force for whoever is in scope, and takes the proxy's place.
    pub fn start(&mut self, scope: &Scope) -> Outcome {
        self.kill();
        let log = File::create(self.log()).map_err(|error| error.to_string())?;
        let scope = serde_json::to_string(scope).map_err(|error| error.to_string())?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("warden").args([self.directory.path(), &self.pins]).arg(scope);
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
        let warden = self.warden.insert(command.spawn().map_err(|error| format!("the warden: {error}"))?);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(proxy) = Proxy::connect(&self.directory.path().join("run")) {
                self.open = proxy.open()?;
                self.proxy = Some(proxy);
                return Ok(());
            }
            if warden.try_wait().ok().flatten().is_some() || Instant::now() > deadline {
                return Err(format!("the warden: {}", fs::read_to_string(self.log()).unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills warden and proxy. What is in force stays so.
    pub fn kill(&mut self) {
        self.proxy = None;
        if let Some(mut warden) = self.warden.take() {
            let _ = warden.kill();
            let _ = warden.wait();
        }
    }

    /// Removes everything from the kernel.
    pub fn uninstall(&mut self) -> Outcome {
        self.kill();
        warden::uninstall(&self.pins).map(drop).map_err(|error| format!("{} is left: {error}", self.pins.display()))
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
        if let Err(error) = self.uninstall() {
            eprintln!("{error}");
        }
        self._alive = None;
        let _ = self.watchdog.wait();
    }
}

/// This process in the role of the proxy.
pub struct Proxy {
    warden: Warden,
    listeners: Vec<TcpListener>,
    // Dropped last, and with it the task that holds the connection.
    runtime: tokio::runtime::Runtime,
}

impl Proxy {
    fn connect(runtime_dir: &Path) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let (warden, _handed) =
            runtime.block_on(async { Warden::connect(runtime_dir) }).map_err(|error| error.to_string())?;
        let listeners = runtime.block_on(warden.listen()).map_err(|error| error.to_string())?.sockets;
        Ok(Self { warden, listeners, runtime })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.listeners[0].local_addr().map_or(0, |address| address.port())
    }

    /// What the status says of the Unix sockets.
    fn open(&self) -> Outcome<Option<String>> {
        let surroundings = self.runtime.block_on(self.warden.surroundings()).map_err(|error| error.to_string())?;
        Ok(surroundings.sockets.into_iter().next().map(|(_, why)| why))
    }

    /// Accepts whatever waits, and says whose it is; an error: nobody's.
    pub fn accept(&self) -> Vec<Outcome<Flow>> {
        let mut found = Vec::new();
        for listener in &self.listeners {
            while let Ok((accepted, _)) = listener.accept() {
                let whose = self.runtime.block_on(self.warden.identify(accepted.as_fd()));
                found.push(match whose {
                    Ok((flow, process)) if (process.pid, process.uid) == (flow.tgid, flow.uid) => Ok(flow),
                    Ok((flow, process)) => Err(format!("flow of {} but process {}", flow.tgid, process.pid)),
                    Err(error) => Err(error.to_string()),
                });
            }
        }
        found
    }
}

/// Role: the warden.
pub fn run_warden(directory: &str, pins: &str, scope: &str) -> ExitCode {
    // Ends with the suite, whatever happens to that.
    let _ = set_pdeathsig(Signal::SIGKILL);
    tracing_subscriber::fmt().with_ansi(false).init();
    let (directory, scope) = (Path::new(directory), serde_json::from_str::<Scope>(scope).expect("a scope"));
    let config = Config {
        path: directory.join("postern.toml"),
        agent: Agent {
            state_dir: directory.join("state"),
            runtime_dir: directory.join("run"),
            policies: directory.join("policies"),
            pin_dir: pins.into(),
            user: "nobody".into(),
            group: None,
            name_grace: agent::config::NAME_GRACE,
            drain: agent::config::DRAIN,
        },
        targets: vec![
            target("away", &ground::protected(), directory),
            Target {
                sockets: vec![ground::unix_socket(std::os::unix::process::parent_id())],
                ..target("here", &ground::protected_here(), directory)
            },
        ],
        roles: Vec::new(),
        intercept: intercept(scope),
    };
    match warden::run(&config, None) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn intercept(scope: Scope) -> Intercept {
    let allowed = |address: &String| {
        let address: IpAddr = address.parse().expect("an address");
        Allowed { name: "allowed".into(), address, prefix: if address.is_ipv4() { 32 } else { 128 }, port: None }
    };
    Intercept {
        include: Members { units: Vec::new(), users: scope.users, cgroups: scope.cgroups },
        exclude: Members { units: Vec::new(), users: scope.without_users, cgroups: scope.without_cgroups },
        pass_forwarded: false,
        lockdown: scope.lockdown.map(|(networks, resolvers)| Lockdown {
            dns: Some(resolvers.iter().map(|address| address.parse().expect("an address")).collect()),
            allow: networks.iter().map(allowed).collect(),
        }),
        ..Intercept::default()
    }
}

fn target(name: &str, addresses: &[SocketAddr], directory: &Path) -> Target {
    Target {
        credential: CredentialSource::Agent(vec![Credential {
            role: None,
            user: "agent".into(),
            password_file: Some(directory.join("password")),
            certificate: None,
        }]),
        ..Target::simple(name, addresses.iter().copied().map(Address::from).collect())
    }
}

/// Role: waits for the suite to end or to hang, and removes what it has left in the kernel. A host with stale programs is
/// worse than a failed test.
pub fn run_watchdog(pins: &str, suite: &str) -> ExitCode {
    let (ended, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        let _ = ended.send(());
    });
    if wait.recv_timeout(DEADLINE).is_err()
        && let Ok(pid) = suite.parse()
    {
        eprintln!("the suite hangs");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    }
    for _ in 0..100 {
        // The warden ends a moment after the suite.
        if warden::uninstall(pins.as_ref()).is_ok() {
            return ExitCode::SUCCESS;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    ExitCode::FAILURE
}
