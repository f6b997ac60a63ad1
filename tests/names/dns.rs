//! A real name server, and the files by which this host's resolver finds it: all in namespaces of the suite's own.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    net::{IpAddr, ToSocketAddrs},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use agent_tests::{Outcome, TempDir, undo::Guarded, wait_until};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};

/// All names of the suite are in this domain, which the host searches too.
pub const DOMAIN: &str = "postern.test";

/// How long the name server may take to know what it was told.
const PATIENCE: Duration = Duration::from_secs(30);

/// The name server. Its answers have a TTL of one second.
pub struct Dns {
    process: Guarded,
    dir: TempDir,
    zone: RefCell<BTreeMap<String, BTreeSet<IpAddr>>>,
}

impl Dns {
    /// Starts it at 127.0.0.1:53 of this network namespace, and makes it this host's own, for this thread and all that it
    /// starts from now on. `alias` is another name for the other.
    pub fn start(alias: (&str, &str)) -> Outcome<Self> {
        let dir = TempDir::new().map_err(|error| error.to_string())?;
        let write = |name: &str, text: &str| dir.write(name, text, 0o644).map_err(|error| format!("{name}: {error}"));
        write("zone", "")?;
        write("resolv.conf", &format!("nameserver 127.0.0.1\nsearch {DOMAIN}\noptions timeout:1 attempts:2\n"))?;
        write("hosts", "127.0.0.1 localhost\n")?;
        write("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("mount namespace: {error}"))?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(|error| format!("/: {error}"))?;
        for name in ["resolv.conf", "hosts", "nsswitch.conf"] {
            let place = PathBuf::from("/etc").join(name);
            mount(Some(&dir.join(name)), &place, none, MsFlags::MS_BIND, none)
                .map_err(|error| format!("{}: {error}", place.display()))?;
        }
        let process = serve(&dir, alias)?;
        let dns = Self { process, dir, zone: RefCell::default() };
        // Before it has read its zone, the signal to read it again would end it.
        wait_until("the name server is ready", PATIENCE, || dns.log().contains("zone - 0 names"))?;
        dns.set("begin", &["192.0.2.1"])?;
        Ok(dns)
    }

    /// Lets a name stand for these addresses, or for nothing. Returns once this host's resolver says so.
    pub fn set<A: AsRef<str>>(&self, name: &str, addresses: &[A]) -> Outcome {
        let addresses: Result<BTreeSet<IpAddr>, _> = addresses.iter().map(|address| address.as_ref().parse()).collect();
        let addresses = addresses.map_err(|error| format!("{name}: {error}"))?;
        self.tell(name, &addresses)?;
        wait_until(&format!("{name} stands for {addresses:?}"), PATIENCE, || self.resolve(name) == addresses)
    }

    /// The same, and returns at once.
    pub fn tell(&self, name: &str, addresses: &BTreeSet<IpAddr>) -> Outcome {
        self.zone.borrow_mut().insert(name.into(), addresses.clone());
        let mut text = String::new();
        for (name, addresses) in &*self.zone.borrow() {
            for address in addresses {
                let _ = writeln!(text, "{address} {name}.{DOMAIN}");
            }
        }
        fs::write(self.dir.join("zone"), text).map_err(|error| error.to_string())?;
        // It then reads its zone again.
        self.process.signal(Signal::SIGHUP);
        Ok(())
    }

    /// What a name stands for, as any program of this host learns it.
    pub fn resolve(&self, name: &str) -> BTreeSet<IpAddr> {
        resolve(&format!("{name}.{DOMAIN}"))
    }

    /// How often it was asked for a name.
    pub fn asked(&self, name: &str) -> usize {
        self.log().matches(&format!("query[A] {name}.{DOMAIN} from")).count()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The hosts file says this, beside localhost.
    pub fn hosts(&self, text: &str) -> Outcome {
        // In place: it is mounted.
        fs::write(self.dir.join("hosts"), format!("127.0.0.1 localhost\n{text}\n")).map_err(|error| error.to_string())
    }

    /// Holds it still, so that it answers nobody, while `during` runs.
    pub fn silent<T>(&self, during: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        self.process.signal(Signal::SIGSTOP);
        let outcome = during();
        self.process.signal(Signal::SIGCONT);
        outcome
    }
}

/// What a name stands for, as any program of this host learns it.
pub fn resolve(name: &str) -> BTreeSet<IpAddr> {
    (name, 0).to_socket_addrs().map(|found| found.map(|socket| socket.ip()).collect()).unwrap_or_default()
}

fn serve(dir: &TempDir, (alias, name): (&str, &str)) -> Outcome<Guarded> {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut command = Command::new("/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--no-resolv", "--no-hosts"]);
    command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--local-ttl=1", "--log-queries", "--pid-file="]);
    command.arg(format!("--local=/{DOMAIN}/")).arg(format!("--cname={alias}.{DOMAIN},{name}.{DOMAIN}"));
    command.arg(format!("--addn-hosts={}", path("zone"))).arg(format!("--log-facility={}", path("log")));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Guarded::spawn(&mut command).map_err(|error| format!("dnsmasq: {error}: cargo xtask setup"))
}
