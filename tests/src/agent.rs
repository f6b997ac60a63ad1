//! A running agent with a configuration, directories and pins of its own.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    Cmd, Finished, Outcome, TempDir,
    dir::unique_name,
    proc,
    undo::{Guarded, Undo},
    wait_until,
};

/// The proxy runs as this user, which every host has.
pub const PROXY_USER: &str = "nobody";

/// How long the agent may take to start, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The `postern` program: `POSTERN_BIN`, or the one that was built beside this test.
///
/// # Errors
/// There is none.
pub fn postern() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("POSTERN_BIN") {
        return Ok(path.into());
    }
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    // target/PROFILE/deps/SUITE-HASH, or target/PROFILE/NAME.
    let found = this.ancestors().skip(1).take(2).map(|dir| dir.join("postern")).find(|path| path.is_file());
    found.ok_or_else(|| "postern is not built: cargo xtask build".into())
}

/// A `[[target]]` of the configuration.
#[derive(Clone, Debug)]
pub struct Target {
    name: String,
    mode: String,
    addresses: Vec<String>,
    credential: Option<(String, Option<String>)>,
    lines: Vec<String>,
    columns: Vec<String>,
}

impl Target {
    /// A PostgreSQL target in enforce mode, with its addresses (`127.0.0.1:5432`, `[::1]:5432`, `localhost:5432`).
    /// It is reached without TLS, unless [`line`](Self::line) says otherwise with a `tls = …`.
    #[must_use]
    pub fn postgres<A: ToString>(name: &str, addresses: impl IntoIterator<Item = A>) -> Self {
        Self {
            name: name.into(),
            mode: "enforce".into(),
            addresses: addresses.into_iter().map(|address| address.to_string()).collect(),
            credential: None,
            lines: Vec::new(),
            columns: Vec::new(),
        }
    }

    /// Observes instead of enforcing.
    #[must_use]
    pub fn observe(mut self) -> Self {
        self.mode = "observe".into();
        self
    }

    /// Logs in as this user; the password gets a file that only root can read.
    #[must_use]
    pub fn credential(mut self, user: &str, password: Option<&str>) -> Self {
        self.credential = Some((user.into(), password.map(Into::into)));
        self
    }

    /// A masked column: `*.public.customers.ssn`, its class, and its style.
    #[must_use]
    pub fn column(mut self, column: &str, class: &str, mask: &str) -> Self {
        self.columns.push(format!("{} = {{ class = {}, mask = {} }}", quoted(column), quoted(class), quoted(mask)));
        self
    }

    /// Any other line of the table, such as `tls = { mode = "require" }` or `durability = "strict"`.
    #[must_use]
    pub fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }
}

/// What an agent shall be like.
#[derive(Clone, Debug, Default)]
pub struct AgentBuilder {
    targets: Vec<Target>,
    roles: Vec<(String, Vec<String>)>,
    limits: Vec<(String, String)>,
    policies: Vec<(String, String)>,
    lines: Vec<String>,
    intercept: Vec<String>,
    envs: Vec<(String, String)>,
}

impl AgentBuilder {
    /// Protects a target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    /// Assigns a role by match entries in TOML, such as `{ user = "1234" }`.
    #[must_use]
    pub fn role<S: Into<String>>(mut self, name: &str, matches: impl IntoIterator<Item = S>) -> Self {
        self.roles.push((name.into(), matches.into_iter().map(Into::into).collect()));
        self
    }

    /// What the role that was named last may use at most: a table in TOML, such as `{ rows = 10 }`.
    #[must_use]
    pub fn limits(mut self, limits: &str) -> Self {
        if let Some((name, _)) = self.roles.last() {
            self.limits.push((name.clone(), limits.into()));
        }
        self
    }

    /// A policy file, by name and text.
    #[must_use]
    pub fn policy(mut self, file: &str, text: &str) -> Self {
        self.policies.push((file.into(), text.into()));
        self
    }

    /// Any other line of `[agent]`.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.into());
        self
    }

    /// A line of `[intercept]`.
    #[must_use]
    pub fn intercept(mut self, line: &str) -> Self {
        self.intercept.push(line.into());
        self
    }

    /// A variable of the agent's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.envs.push((name.into(), value.into()));
        self
    }

    /// Writes everything that the configuration names, starts nothing.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn prepare(self) -> Outcome<Agent> {
        let program = postern()?;
        let dir = TempDir::new().map_err(|error| format!("temporary directory: {error}"))?;
        let pins = Path::new("/sys/fs/bpf").join(unique_name());
        // A suffix, because the agent may add the layout's version to the name.
        let undo = Undo::new(format!("rm -rf -- '{0}'", pins.display())).map_err(|e| e.to_string())?;
        self.write(&dir, &pins).map_err(|error| format!("{}: {error}", dir.path().display()))?;
        Ok(Agent { process: None, program, pins, envs: self.envs, _pins: undo, dir })
    }

    /// The same, and starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// It did not become ready; its log is in the text.
    pub fn start(self) -> Outcome<Agent> {
        let mut agent = self.prepare()?;
        agent.start()?;
        Ok(agent)
    }

    fn write(&self, dir: &TempDir, pins: &Path) -> io::Result<()> {
        let policies = dir.dir("policies", 0o755, 0, 0)?;
        let state = dir.dir("state", 0o700, 0, 0)?;
        let runtime = dir.dir("run", 0o755, 0, 0)?;
        for (file, text) in &self.policies {
            dir.write(&format!("policies/{file}"), text, 0o644)?;
        }
        let mut config = String::from("[agent]\n");
        for (key, path) in
            [("state_dir", &*state), ("runtime_dir", &*runtime), ("policies", &*policies), ("pin_dir", pins)]
        {
            let _ = writeln!(config, "{key} = {}", quoted(&path.to_string_lossy()));
        }
        let _ = writeln!(config, "user = \"{PROXY_USER}\"");
        for line in &self.lines {
            let _ = writeln!(config, "{line}");
        }
        if !self.intercept.is_empty() {
            let _ = writeln!(config, "\n[intercept]\n{}", self.intercept.join("\n"));
        }
        for target in &self.targets {
            target.write(dir, &mut config)?;
        }
        for (name, matches) in &self.roles {
            let _ = writeln!(config, "\n[[role]]\nname = {}\nmatch = [{}]", quoted(name), matches.join(", "));
            for (_, limits) in self.limits.iter().filter(|(of, _)| of == name) {
                let _ = writeln!(config, "limits = {limits}");
            }
        }
        dir.write("postern.toml", config, 0o644)?;
        Ok(())
    }
}

impl Target {
    fn write(&self, dir: &TempDir, config: &mut String) -> io::Result<()> {
        let addresses: Vec<String> = self.addresses.iter().map(|address| quoted(address)).collect();
        let _ = writeln!(
            config,
            "\n[[target]]\nname = {}\nprotocol = \"postgres\"\nmode = {}\naddress = [{}]",
            quoted(&self.name),
            quoted(&self.mode),
            addresses.join(", ")
        );
        if !self.lines.iter().any(|line| line.starts_with("tls ") || line.starts_with("tls.")) {
            config.push_str("tls = { mode = \"disable\" }\n");
        }
        if let Some((user, password)) = &self.credential {
            let password = match password {
                Some(password) => {
                    let file = dir.write(&format!("{}.password", self.name), password, 0o600)?;
                    format!(", password.file = {}", quoted(&file.to_string_lossy()))
                }
                None => String::new(),
            };
            let _ = writeln!(config, "credential = {{ user = {}{password} }}", quoted(user));
        }
        for line in &self.lines {
            let _ = writeln!(config, "{line}");
        }
        if !self.columns.is_empty() {
            let _ = writeln!(config, "\n[target.columns]\n{}", self.columns.join("\n"));
        }
        Ok(())
    }
}

/// An agent. On drop it is killed, and its pins and directories are removed.
#[derive(Debug)]
pub struct Agent {
    process: Option<Guarded>,
    program: PathBuf,
    pins: PathBuf,
    envs: Vec<(String, String)>,
    _pins: Undo,
    dir: TempDir,
}

impl Agent {
    /// An agent that protects nothing yet.
    #[must_use]
    pub fn builder() -> AgentBuilder {
        AgentBuilder::default()
    }

    /// Its configuration file, which a test may rewrite.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("postern.toml")
    }

    /// A path in its directory: `policies`, `state`, `run`, `TARGET.password`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The program, for any user: a checkout may lie in somebody's home, so this is a copy.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn program(&self) -> Outcome<PathBuf> {
        let copy = self.dir.join("postern");
        if !copy.exists() {
            fs::copy(&self.program, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
        }
        Ok(copy)
    }

    /// Directory of its pins.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// Pid of the warden; `None` while it is not running.
    #[must_use]
    pub fn warden(&self) -> Option<u32> {
        self.process.as_ref().map(Guarded::pid)
    }

    /// Pid of the proxy; `None` while it is not running.
    #[must_use]
    pub fn proxy(&self) -> Option<u32> {
        proc::children(self.warden()?).into_iter().next()
    }

    /// Everything that it has written to its standard output and error.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.dir.join("log")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Starts it, and waits until it is ready.
    ///
    /// # Errors
    /// It did not become ready; its log is in the text.
    pub fn start(&mut self) -> Outcome {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .map_err(|error| format!("log of the agent: {error}"))?;
        let mut command = Command::new(&self.program);
        command.args(["run", "--config"]).arg(self.config()).current_dir("/").stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
        command.envs(self.envs.iter().map(|(name, value)| (name, value)));
        let process = Guarded::spawn(&mut command).map_err(|error| format!("{}: {error}", self.program.display()))?;
        self.process = Some(process);
        self.await_ready()
    }

    /// Kills warden and proxy with SIGKILL, and waits until both have gone. The pins stay.
    pub fn kill9(&mut self) {
        let proxy = self.proxy();
        self.process = None;
        if let Some(pid) = proxy {
            // Nobody survives SIGKILL; it may take a moment on a busy host.
            let _ = wait_until("the proxy has ended", PATIENCE, || proc::has_ended(pid));
        }
    }

    /// Ends it in order with SIGTERM. The pins stay.
    ///
    /// # Errors
    /// It did not end in time, or not with code 0.
    pub fn stop(&mut self) -> Outcome {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::SIGTERM);
        let mut status = None;
        wait_until("the agent has ended", PATIENCE, || {
            status = process.child.try_wait().ok().flatten();
            status.is_some()
        })
        .map_err(|error| format!("{error}\n{}", self.log()))?;
        match status {
            Some(status) if status.success() => Ok(()),
            other => Err(format!("the agent ended with {other:?}\n{}", self.log())),
        }
    }

    /// Ends it in order and starts it again.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub fn restart(&mut self) -> Outcome {
        self.stop()?;
        self.start()
    }

    /// `postern WORDS --config …`, as root.
    #[must_use]
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Cmd {
        Cmd::new(&self.program).args(words).arg("--config").arg(self.config())
    }

    /// Runs `postern WORDS --config …` to its end, whatever its exit code.
    ///
    /// # Errors
    /// It cannot be started, or takes too long.
    pub fn postern(&self, words: &[&str]) -> Outcome<Finished> {
        self.command(words).run()
    }

    /// The answer of `postern WORDS --json --config …`.
    ///
    /// # Errors
    /// The command failed, or its answer is not JSON.
    pub fn json(&self, words: &[&str]) -> Outcome<Value> {
        let text = self.command(words).arg("--json").ok()?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}: {text}", words.join(" ")))
    }

    /// Removes pins and links with `postern uninstall`.
    ///
    /// # Errors
    /// It failed, or left the pins.
    pub fn uninstall(&mut self) -> Outcome {
        self.stop()?;
        self.command(["uninstall"]).ok()?;
        if self.pins.exists() { Err(format!("uninstall left {}", self.pins.display())) } else { Ok(()) }
    }

    /// Waits until it answers as ready.
    fn await_ready(&mut self) -> Outcome {
        let status = self.command(["status", "--json"]);
        let mut last = String::new();
        let mut ended = None;
        let ready = wait_until("the agent is ready", PATIENCE, || {
            ended = self.process.as_mut().and_then(|process| process.child.try_wait().ok().flatten());
            ended.is_some()
                || status.run().is_ok_and(|finished| {
                    last = finished.to_string();
                    // One that is degraded answers too, with an exit code that says so.
                    finished.stdout.starts_with('{')
                })
        });
        match (ready, ended) {
            (Ok(()), None) => Ok(()),
            (_, Some(status)) => Err(format!("the agent ended: {status}\n{}", self.log())),
            (Err(error), None) => Err(format!("{error}\n{last}\n{}", self.log())),
        }
    }
}

/// Addresses of a server as the configuration takes them.
#[must_use]
pub fn addresses(of: &[SocketAddr]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

/// A TOML basic string. JSON's escapes are among TOML's.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
