//! The server with the secret, the agent before it, and how attacks are run and judged.

use std::{
    cell::{Ref, RefCell},
    fs,
    path::PathBuf,
    time::Duration,
};

use agent_tests::{
    Agent, Auth, Cmd, Control, Finished, Outcome, Postgres, Running, Target, TempDir, net::enter_own_namespace,
    wait_until,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

/// The user of attackers and controls alike: the role depends on the file that runs.
pub const UID: u32 = 63_001;
/// Another user, with a role by its number alone.
pub const PERMITTED_UID: u32 = 63_002;
/// A third user, with a role by the permitted program's hash.
pub const HASH_UID: u32 = 63_003;
/// The permitted program.
pub const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";
/// What the attacks are after.
pub const SECRET: &str = "nugget";

/// How long an attack may take for its preparations.
pub const PATIENCE: Duration = Duration::from_secs(20);

const POLICY: &str = r#"
@id("psql-only")
permit (principal in Role::"psql", action in [Action::"connect", Action::"sql:select"], resource in Target::"vault");
@id("by-hash")
permit (principal in Role::"hash", action in [Action::"connect", Action::"sql:select"], resource in Target::"vault");
@id("by-user")
permit (principal in Role::"user", action in [Action::"connect", Action::"sql:select", Action::"sql:insert", Action::"sql:copy_in"], resource in Target::"vault");
"#;

/// Everything that the cases share.
pub struct World {
    pub agent: RefCell<Agent>,
    pub dir: TempDir,
    server: Postgres,
    script: PathBuf,
}

impl World {
    /// In a network namespace of its own: the cases use thousands of ports, and say which.
    pub fn start() -> Outcome<Self> {
        enter_own_namespace(&[])?;
        let server = Postgres::builder().auth(Auth::Trust).login("app", "unused").start()?;
        let gold = format!(
            "CREATE TABLE gold (secret text); INSERT INTO gold VALUES ('{SECRET}'); GRANT SELECT ON gold TO app; \
             CREATE TABLE nuggets (of text); GRANT INSERT ON nuggets TO app"
        );
        server.sql("postgres", &gold)?;
        let hash = Cmd::new("sha256sum").arg(PSQL).ok()?;
        let hash = hash.split(' ').next().unwrap_or_default();
        let agent = Agent::builder()
            .target(Target::postgres("vault", server.addresses()).credential("app", None))
            .role("psql", [format!("{{ user = \"{UID}\", exe = \"{PSQL}\" }}")])
            .role("hash", [format!("{{ user = \"{HASH_UID}\", exe_sha256 = \"{hash}\" }}")])
            .role("user", [format!("{{ user = \"{PERMITTED_UID}\" }}")])
            .policy("vault.cedar", POLICY)
            .start()?;
        let dir = TempDir::new().map_err(|error| error.to_string())?;
        let script = dir.write("attack.py", include_str!("attack.py"), 0o644).map_err(|error| error.to_string())?;
        Ok(Self { agent: agent.into(), server, dir, script })
    }

    /// What was copied into the server by this attack.
    pub fn copied(&self, attack: &str) -> Outcome<String> {
        self.server.sql("postgres", &format!("SELECT count(*) FROM nuggets WHERE of = '{attack}'"))
    }

    pub fn port(&self) -> u16 {
        self.server.port()
    }

    pub fn dsn(&self) -> String {
        format!("host=127.0.0.1 port={} dbname=postgres user=x sslmode=disable", self.port())
    }

    pub fn script(&self) -> String {
        self.script.display().to_string()
    }

    /// An attack as a command.
    pub fn attack(&self, uid: u32, name: &str, args: &[&str]) -> Cmd {
        Cmd::new("/usr/bin/python3")
            .arg(&self.script)
            .args([name, &self.port().to_string()])
            .args(args)
            .user(uid, uid)
            .limit(PATIENCE * 2)
    }

    /// Runs one to its end.
    pub fn python(&self, uid: u32, name: &str, args: &[&str]) -> Outcome<Finished> {
        self.attack(uid, name, args).run()
    }

    /// Runs something that must get nothing and must leave exactly one refusal of that user in the log, which is returned.
    pub fn refused(&self, uid: u32, attack: impl FnOnce() -> Outcome<Finished>) -> Outcome<(Finished, Value)> {
        let before = self.refusals(uid)?.len();
        let seen = attack()?;
        nothing(&seen)?;
        let mut refusals = self.refusals(uid)?;
        expect(refusals.len() == before + 1, || format!("{} refusals of {uid}: {seen}", refusals.len() - before))?;
        let refusal = refusals.swap_remove(0);
        expect(refusal["target"] == "vault" && refusal["uid"] == uid, || refusal.to_string())?;
        Ok((seen, refusal))
    }

    /// Runs an attack that must be refused although `/proc` shows the permitted program under the pid that connected: the
    /// log names that pid, and why it was not enough.
    pub fn impostor(&self, name: &str, args: &[&str], reason: &str) -> Outcome {
        let before = self.refusals(UID)?.len();
        // Giving a process a certain pid needs root; the script gives it up afterwards.
        let uid = if name == "pid-reuse" { 0 } else { UID };
        let (seen, pid) = self.held(uid, name, args, true)?;
        nothing(&seen)?;
        let refusals = self.refusals(UID)?;
        let new = &refusals[..refusals.len() - before];
        let pid: u64 = pid.parse().map_err(|error| format!("the attack stands as {pid}: {error}"))?;
        let why = |refusal: &Value| refusal["reason"].as_str().is_some_and(|text| text.contains(reason));
        let found = new.iter().any(|refusal| refusal["pid"] == pid && why(refusal));
        expect(found, || format!("nothing like \"{reason}\" of {pid} in {new:?}: {seen}"))
    }

    /// Runs an attack with the proxy stopped until the deception stands, which it says with `standing PID`, then lets the
    /// proxy go on. With `as_psql`, the plain answer for that pid must by then be the permitted program and user.
    pub fn held(&self, uid: u32, name: &str, args: &[&str], as_psql: bool) -> Outcome<(Finished, String)> {
        let held = self.hold()?;
        let mut attack = self.attack(uid, name, args).spawn()?;
        let pid = standing(&mut attack)?;
        if as_psql {
            wait_until("the permitted program stands there", PATIENCE, || {
                let exe = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy() == PSQL);
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                exe && status.contains(&format!("Uid:\t{UID}\t"))
            })?;
        }
        drop(held);
        Ok((attack.finish(PATIENCE)?, pid))
    }

    /// Stops the proxy until what is returned is dropped.
    pub fn hold(&self) -> Outcome<Held> {
        let proxy = self.proxy()?;
        kill(proxy, Signal::SIGSTOP).map_err(|error| error.to_string())?;
        Ok(Held(proxy))
    }

    pub fn proxy(&self) -> Outcome<Pid> {
        let proxy = self.agent.borrow().proxy().ok_or("there is no proxy")?;
        Ok(Pid::from_raw(proxy.cast_signed()))
    }

    /// Refused connections of a user, newest first.
    pub fn refusals(&self, uid: u32) -> Outcome<Vec<Value>> {
        self.control()?.sessions(&json!({ "user": uid.to_string(), "verdict": "refused" }))
    }

    /// The record of a refusal.
    pub fn refusal(&self, listed: &Value) -> Outcome<Value> {
        let id = listed["session"].as_str().ok_or_else(|| listed.to_string())?;
        self.control()?.events(id)?.into_iter().next().ok_or_else(|| format!("{id} has no record"))
    }

    fn control(&self) -> Outcome<Control> {
        let agent: Ref<'_, Agent> = self.agent.borrow();
        Control::connect(&agent)
    }
}

/// The proxy, stopped.
pub struct Held(Pid);

impl Drop for Held {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Waits until an attack says that its deception stands, and gives the pid that it names.
pub fn standing(attack: &mut Running) -> Outcome<String> {
    let line = attack.line(PATIENCE)?;
    line.strip_prefix("standing ").map(str::to_owned).ok_or_else(|| format!("the attack says {line:?}"))
}

/// Fails if the attack got the secret.
pub fn nothing(seen: &Finished) -> Outcome {
    expect(!seen.stdout.contains(SECRET) && !seen.stderr.contains(SECRET), || format!("it got in: {seen}"))
}

/// Fails with a text unless the condition holds.
pub fn expect(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise()) }
}
