//! The unit files: clean for systemd's own checker, as tight as they are meant to be, and consistent with each other.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use agent_tests::{Cmd, Outcome, TempDir, agent::postern, suite};

const WARDEN: &str = "postern-warden.service";
const PROXY: &str = "postern-proxy.service";

/// Exposure that `systemd-analyze security` may find at most, in tenths.
const WARDEN_EXPOSURE: u32 = 47;
const PROXY_EXPOSURE: u32 = 16;

/// What the warden needs, with the reasons in its unit.
const WARDEN_CAPABILITIES: &[&str] = &[
    "CAP_BPF",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_PERFMON",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_PTRACE",
];

fn main() -> ExitCode {
    agent_tests::suite::root_main("systemd", || {
        let units = Units::new()?;
        Ok(suite("systemd")
            .case("both units are clean", || units.clean())
            .case("a broken unit would be noticed", || units.broken())
            .case("the exposure of the warden is low", || units.exposure(WARDEN, WARDEN_EXPOSURE))
            .case("the exposure of the proxy is lower", || units.exposure(PROXY, PROXY_EXPOSURE))
            .case("the warden has the capabilities that it needs, and no other", || units.capabilities())
            .case("the proxy has no capability and is no root", || units.proxy_is_powerless())
            .case("the proxy lives no longer than its warden", || units.bound())
            .case("what the README and the units run is a command", || units.commands())
            .case("the user and the directories are made as the units need them", || units.directories())
            .run())
    })
}

/// The unit files, copied so that the program that they start exists.
struct Units {
    source: PathBuf,
    copies: TempDir,
}

impl Units {
    fn new() -> Outcome<Self> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
        let copies = TempDir::new().map_err(|error| format!("temporary directory: {error}"))?;
        let units = Self { source, copies };
        for unit in [WARDEN, PROXY] {
            let text = units.text(unit)?;
            if !text.contains("ExecStart=/usr/bin/postern ") {
                return Err(format!("{unit} does not start /usr/bin/postern"));
            }
            let started = text.replace("=/usr/bin/postern ", "=/usr/bin/true ");
            units.copies.write(unit, started, 0o644).map_err(|error| format!("{unit}: {error}"))?;
        }
        Ok(units)
    }

    fn text(&self, name: &str) -> Outcome<String> {
        fs::read_to_string(self.source.join(name)).map_err(|error| format!("{name}: {error}"))
    }

    /// All values of a setting, in order.
    fn values(&self, unit: &str, setting: &str) -> Outcome<Vec<String>> {
        let text = self.text(unit)?;
        let values = text.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
        Ok(values.map(str::to_owned).collect())
    }

    fn verify(&self, units: &[&str]) -> Outcome<agent_tests::Finished> {
        let paths = units.iter().map(|unit| self.copies.join(unit));
        Cmd::new("systemd-analyze").args(["verify", "--man=no"]).args(paths).run()
    }

    fn clean(&self) -> Outcome {
        let finished = self.verify(&[WARDEN, PROXY])?;
        let quiet = finished.stdout.is_empty() && finished.stderr.is_empty();
        if finished.success() && quiet { Ok(()) } else { Err(finished.to_string()) }
    }

    fn broken(&self) -> Outcome {
        let broken = self.text(WARDEN)?.replace("Restart=always", "Restart=perhaps");
        self.copies.write("postern-broken.service", broken, 0o644).map_err(|error| error.to_string())?;
        let finished = self.verify(&["postern-broken.service"])?;
        if finished.stderr.contains("perhaps") { Ok(()) } else { Err(finished.to_string()) }
    }

    fn exposure(&self, unit: &str, most: u32) -> Outcome {
        let finished = Cmd::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager", "--threshold", &most.to_string()])
            .arg(self.copies.join(unit))
            .run()?;
        print!("{}", finished.stdout);
        if finished.success() { Ok(()) } else { Err(format!("its exposure is above {most} tenths")) }
    }

    fn capabilities(&self) -> Outcome {
        let values = self.values(WARDEN, "CapabilityBoundingSet")?;
        let found: BTreeSet<&str> = values.iter().flat_map(|value| value.split(' ')).collect();
        let wanted: BTreeSet<&str> = WARDEN_CAPABILITIES.iter().copied().collect();
        if found == wanted { Ok(()) } else { Err(format!("found {found:?}, wanted {wanted:?}")) }
    }

    fn proxy_is_powerless(&self) -> Outcome {
        let wanted = [
            ("CapabilityBoundingSet", ""),
            ("AmbientCapabilities", ""),
            ("NoNewPrivileges", "yes"),
            ("User", "postern"),
            ("Group", "postern"),
        ];
        for (setting, value) in wanted {
            let found = self.values(PROXY, setting)?;
            if found != [value] {
                return Err(format!("{setting} is {found:?}, not {value:?}"));
            }
        }
        Ok(())
    }

    fn bound(&self) -> Outcome {
        for setting in ["BindsTo", "After"] {
            let found = self.values(PROXY, setting)?;
            if found != [WARDEN] {
                return Err(format!("{setting} of the proxy is {found:?}"));
            }
        }
        Ok(())
    }

    /// Each command is one that the program has, and each file that the README installs is there.
    fn commands(&self) -> Outcome {
        for (unit, setting) in [(WARDEN, "ExecStart"), (PROXY, "ExecStart"), (PROXY, "ExecReload")] {
            let values = self.values(unit, setting)?;
            let [line] = values.as_slice() else { return Err(format!("{setting} of {unit} is {values:?}")) };
            let words = line.strip_prefix("/usr/bin/postern ").ok_or_else(|| format!("{unit} runs {line}"))?;
            Cmd::new(postern()?).args(words.split(' ')).arg("--help").ok()?;
        }
        let readme =
            fs::read_to_string(self.source.join("../README.md")).map_err(|error| format!("README.md: {error}"))?;
        let named = readme.split_whitespace().filter(|word| word.starts_with("systemd/") && !word.contains('*'));
        let missing: Vec<&str> = named.filter(|word| !self.source.join("..").join(word).is_file()).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("README.md installs what is not there: {missing:?}")) }
    }

    /// Lets systemd's own tools make them below a root of their own.
    fn directories(&self) -> Outcome {
        let root = self.copies.dir("root", 0o755, 0, 0).map_err(|error| error.to_string())?;
        self.copies.dir("root/etc", 0o755, 0, 0).map_err(|error| error.to_string())?;
        let below = |tool: &str, words: &[&str], file: &str| {
            let mut root_option = std::ffi::OsString::from("--root=");
            root_option.push(&root);
            Cmd::new(tool).args(words).arg(root_option).arg(self.source.join(file)).ok()
        };
        below("systemd-sysusers", &[], "postern.sysusers.conf")?;
        below("systemd-tmpfiles", &["--create"], "postern.tmpfiles.conf")?;
        let users = fs::read_to_string(root.join("etc/passwd")).map_err(|error| format!("etc/passwd: {error}"))?;
        let user: Vec<&str> = users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields[0] == "postern")
            .ok_or("there is no user postern")?;
        let uid: u32 = user.get(2).and_then(|uid| uid.parse().ok()).ok_or("the user has no uid")?;
        if uid == 0 || user.get(6) != Some(&"/usr/sbin/nologin") {
            return Err(format!("the user is {user:?}"));
        }
        let wanted = [
            ("etc/postern", 0o755, 0),
            ("etc/postern/policies", 0o755, 0),
            ("var/lib/postern", 0o700, uid),
            ("run/postern", 0o1771, 0),
        ];
        for (path, mode, owner) in wanted {
            let about = fs::metadata(root.join(path)).map_err(|error| format!("{path}: {error}"))?;
            let (found, uid) = (about.permissions().mode() & 0o7777, about.uid());
            if (found, uid) != (mode, owner) {
                return Err(format!("{path} has mode {found:o} and owner {uid}, not {mode:o} and {owner}"));
            }
        }
        Ok(())
    }
}
