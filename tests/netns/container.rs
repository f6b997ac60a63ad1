//! A process as a container runtime starts it: mount, pid and network namespace of its own, a pair of virtual interfaces to the
//! host, and a cgroup that is named by the container's id.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::chown,
    path::PathBuf,
};

use agent_tests::{Cmd, Netns, Outcome, undo::Undo};

/// A container without processes. Dropped, it leaves nothing behind.
pub struct Container {
    netns: Netns,
    /// What its runtime calls it.
    pub id: String,
    cgroup: PathBuf,
    _cgroup: Undo,
}

impl Container {
    /// With an id that ends with this number.
    pub fn new(number: u32) -> Outcome<Self> {
        let id = format!("{:08x}{:056x}", std::process::id(), number);
        let cgroup = cgroup_root()?.join(format!("docker-{id}.scope"));
        let undo = Undo::new(format!("rmdir -- '{}' 2>/dev/null", cgroup.display())).map_err(|e| e.to_string())?;
        fs::create_dir(&cgroup).map_err(|error| format!("{}: {error}", cgroup.display()))?;
        Ok(Self { netns: Netns::new()?, id, cgroup, _cgroup: undo })
    }

    /// Gives its cgroup to a user, as a runtime without root's rights has it.
    pub fn give_away(&self, uid: u32) -> Outcome {
        chown(&self.cgroup, Some(uid), None).map_err(|error| error.to_string())
    }

    /// Takes IPv6 from its loopback interface.
    pub fn without_v6(&self) -> Outcome {
        self.netns.command().args(["sysctl", "-q", "-w", "net.ipv6.conf.lo.disable_ipv6=1"]).ok().map(drop)
    }

    /// Connects it with the host.
    pub fn link(&self, link: &Link) -> Outcome {
        let name = self.netns.name();
        ip(&["link", "set", &link.inner, "netns", name])?;
        ip(&["-n", name, "address", "add", &format!("{}/30", link.container4), "dev", &link.inner])?;
        ip(&["-n", name, "address", "add", &format!("{}/64", link.container6), "dev", &link.inner, "nodad"])?;
        ip(&["-n", name, "link", "set", &link.inner, "up"])
    }

    /// A command of a user in it; add the program and its arguments with `args`.
    pub fn command(&self, uid: u32) -> Cmd {
        const ENTER: &str = r#"echo $$ > "$1/cgroup.procs" && shift && exec "$@""#;
        let uid = uid.to_string();
        Cmd::new("sh")
            .args(["-c", ENTER, "enter"])
            .arg(&self.cgroup)
            .args(["ip", "netns", "exec", self.netns.name()])
            .args(["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
            .args(["setpriv", "--reuid", &uid, "--regid", &uid, "--clear-groups"])
    }
}

/// A pair of virtual interfaces with addresses of documentation networks. Dropped, it is gone.
pub struct Link {
    inner: String,
    pub host4: Ipv4Addr,
    pub host6: Ipv6Addr,
    container4: Ipv4Addr,
    container6: Ipv6Addr,
    _undo: Undo,
}

impl Link {
    pub fn new() -> Outcome<Self> {
        let pid = std::process::id();
        let (outer, inner) = (format!("pt{pid}o"), format!("pt{pid}i"));
        // The next of 64 networks with two hosts each, and one of 65536 for IPv6: other suites may run beside this one.
        let base = (pid % 64) as u8 * 4;
        let [.., high, low] = pid.to_be_bytes();
        let six = |host| Ipv6Addr::new(0x2001, 0xdb8, u16::from_be_bytes([high, low]), 0, 0, 0, 0, host);
        let undo = Undo::new(format!("ip link delete {outer} 2>/dev/null")).map_err(|e| e.to_string())?;
        let link = Self {
            inner,
            host4: Ipv4Addr::new(198, 51, 100, base + 1),
            host6: six(1),
            container4: Ipv4Addr::new(198, 51, 100, base + 2),
            container6: six(2),
            _undo: undo,
        };
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", &link.inner])?;
        ip(&["address", "add", &format!("{}/30", link.host4), "dev", &outer])?;
        ip(&["address", "add", &format!("{}/64", link.host6), "dev", &outer, "nodad"])?;
        ip(&["link", "set", &outer, "up"])?;
        Ok(link)
    }

    /// Its addresses on the host.
    pub fn host(&self) -> [IpAddr; 2] {
        [self.host4.into(), self.host6.into()]
    }
}

fn ip(words: &[&str]) -> Outcome {
    Cmd::new("ip").args(words).ok().map(drop)
}

/// Where the cgroup v2 hierarchy is mounted.
fn cgroup_root() -> Outcome<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|mount| mount[2] == "cgroup2");
    mount.map(|mount| mount[1].into()).ok_or_else(|| "no cgroup v2 hierarchy is mounted".into())
}
