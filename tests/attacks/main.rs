//! Taking over another process's identity: each attack with the agent's proxy held still, so that the attacker always wins the
//! race that a real one would have to win.
//!
//! In every attack the plain answer, what `/proc` says when the proxy looks, is "the permitted program". A control with the
//! same steps but for the deception is let in, so that a refusal means something.

use std::{fs, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use agent_tests::{
    Agent, Auth, Cmd, Finished, Outcome, Postgres, Target, TempDir, suite, suite::root_main, wait_until,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// The user of attackers and controls alike: the role depends on the file that runs.
const UID: u32 = 63_001;
/// Another user, with a role by its number alone.
const PERMITTED_UID: u32 = 63_002;
const PSQL: &str = "/usr/lib/postgresql/15/bin/psql";

const POLICY: &str = r#"
@id("psql-only")
permit (principal in Role::"psql", action in [Action::"connect", Action::"sql:select"], resource in Target::"vault");
@id("by-user")
permit (principal in Role::"user", action in [Action::"connect", Action::"sql:select"], resource in Target::"vault");
"#;

/// How many times a race is run.
const ROUNDS: usize = 25;

fn main() -> ExitCode {
    root_main("attacks", || {
        let world = World::start()?;
        Ok(suite("attacks")
            .case("control: the permitted program, by its user, is let in", || {
                let seen = Cmd::psql(&world.dsn(), "SELECT secret FROM gold").user(UID, UID).run()?;
                expect(seen.stdout.trim() == "nugget", || seen.to_string())
            })
            .case("control: the script that the attacks use is let in as a permitted user", || {
                let seen = world.python(PERMITTED_UID, "plain", &[])?;
                expect(seen.stdout.contains("nugget"), || seen.to_string())
            })
            .case("the script itself, as the attacker, is refused", || {
                world.nothing(&world.python(UID, "plain", &[])?)
            })
            .case("connect, then exec the permitted program, then speak", || {
                world.held(UID, "exec", &[PSQL], "has executed another program")
            })
            .case("connect, exec at once without holding the proxy, many times", || {
                for round in 0..ROUNDS {
                    world.nothing(&world.python(UID, "exec-race", &[PSQL, &round.to_string()])?)?;
                }
                Ok(())
            })
            .case("connect, die, and let the permitted program have the pid", || {
                world.held(UID, "pid-reuse", &[PSQL], "ended|another process|no flow")
            })
            .case("exec after the session was admitted: the next statement is refused", || {
                let seen = world.python(PERMITTED_UID, "exec-later", &["/bin/sleep"])?;
                expect(
                    seen.stdout.contains("first nugget") && seen.stdout.contains("executed another program"),
                    || seen.to_string(),
                )?;
                expect(!seen.stdout.contains("second nugget"), || seen.to_string())
            })
            .case("end of the process after the session was admitted: a child that kept the socket is refused", || {
                let seen = world.python(PERMITTED_UID, "exit-later", &[])?;
                expect(seen.stdout.contains("first nugget"), || seen.to_string())?;
                expect(seen.stdout.contains("ended") && !seen.stdout.contains("second nugget"), || seen.to_string())
            })
            .case("another file bind-mounted over the permitted path", || world.bind_mount())
            .case("a copy of the permitted program elsewhere", || {
                let copy = world.dir.join("psql");
                fs::copy(PSQL, &copy).map_err(|error| error.to_string())?;
                let seen = Cmd::new(&copy)
                    .args(["-X", "-d", &world.dsn(), "-c", "SELECT secret FROM gold"])
                    .user(UID, UID)
                    .run()?;
                world.nothing(&seen)
            })
            .case("argv[0] and the command's name of the permitted program", || {
                world.nothing(&world.python(UID, "names", &[PSQL])?)
            })
            .case("the accept queue is full: who gives up leaves nothing to the next user of the port", || {
                world.held_queue()
            })
            .case(
                "the agent is killed between connect and accept: nothing is left to the next user of the port",
                || world.killed_between(),
            )
            .case("a source port used again at once belongs to whoever uses it", || {
                for _ in 0..ROUNDS {
                    let seen = world.python(PERMITTED_UID, "bound", &["40404"])?;
                    expect(seen.stdout.contains("nugget"), || seen.to_string())?;
                    world.nothing(&world.python(UID, "bound", &["40404"])?)?;
                }
                Ok(())
            })
            .case("a direct connect to the proxy's own port is refused", || world.direct())
            .run())
    })
}

struct World {
    agent: std::cell::RefCell<Agent>,
    server: Postgres,
    dir: TempDir,
    script: PathBuf,
}

impl World {
    fn start() -> Outcome<Self> {
        let server = Postgres::builder().auth(Auth::Trust).login("app", "unused").start()?;
        server.sql(
            "postgres",
            "CREATE TABLE gold (secret text); INSERT INTO gold VALUES ('nugget'); GRANT SELECT ON gold TO app",
        )?;
        let agent = Agent::builder()
            .target(Target::postgres("vault", server.addresses()).credential("app", None))
            .role("psql", [format!("{{ user = \"{UID}\", exe = \"{PSQL}\" }}")])
            .role("user", [format!("{{ user = \"{PERMITTED_UID}\" }}")])
            .policy("vault.cedar", POLICY)
            .start()?;
        let dir = TempDir::new().map_err(|error| error.to_string())?;
        let script = dir.write("attack.py", include_str!("attack.py"), 0o644).map_err(|error| error.to_string())?;
        Ok(Self { agent: agent.into(), server, dir, script })
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.server.port()))
    }

    fn dsn(&self) -> String {
        format!("host=127.0.0.1 port={} dbname=postgres user=x sslmode=disable", self.server.port())
    }

    fn attack(&self, uid: u32, name: &str, args: &[&str]) -> Cmd {
        Cmd::new("/usr/bin/python3")
            .arg(&self.script)
            .args([name, &self.server.port().to_string()])
            .args(args)
            .user(uid, uid)
            .limit(Duration::from_secs(20))
    }

    fn python(&self, uid: u32, name: &str, args: &[&str]) -> Outcome<Finished> {
        self.attack(uid, name, args).run()
    }

    /// Fails if the attack got the secret.
    fn nothing(&self, seen: &Finished) -> Outcome {
        expect(!seen.stdout.contains("nugget") && !seen.stderr.contains("nugget"), || format!("it got in: {seen}"))
    }

    /// Runs an attack with the proxy stopped until the deception stands (it says `standing`), then lets the proxy go on.
    fn held(&self, uid: u32, name: &str, args: &[&str], reason: &str) -> Outcome {
        let proxy = self.agent.borrow().proxy().ok_or("there is no proxy")?;
        let proxy = Pid::from_raw(proxy as i32);
        let since = self.refusals()?.len();
        kill(proxy, Signal::SIGSTOP).map_err(|error| error.to_string())?;
        let outcome: Outcome<_> = (|| {
            // Reusing a pid needs root; the script gives it up afterwards.
            let mut attack = match name {
                "pid-reuse" => self.attack(0, name, &[args[0], &uid.to_string()]),
                _ => self.attack(uid, name, args),
            }
            .spawn()?;
            let line = attack.line(Duration::from_secs(10))?;
            let pid = line.strip_prefix("standing ").ok_or_else(|| format!("the attack says {line:?}"))?;
            // The plain answer is the permitted program.
            wait_until("the permitted program stands there", Duration::from_secs(5), || {
                fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy() == args[0])
            })?;
            Ok(attack)
        })();
        kill(proxy, Signal::SIGCONT).map_err(|error| error.to_string())?;
        let seen = outcome?.finish(Duration::from_secs(15))?;
        self.nothing(&seen)?;
        let reasons = self.refusals()?;
        expect(reasons.iter().skip(since).any(|text| reason.split('|').any(|word| text.contains(word))), || {
            format!("the log does not say why ({reason}): {:?}; {seen}", &reasons[since..])
        })
    }

    /// Reasons of all refused connections.
    fn refusals(&self) -> Outcome<Vec<String>> {
        let listed = self.agent.borrow().json(&["sessions", "list", "--refused"])?;
        let list = listed["sessions"].as_array().ok_or_else(|| listed.to_string())?;
        Ok(list.iter().filter_map(|refusal: &Value| refusal["reason"].as_str().map(str::to_owned)).collect())
    }

    fn bind_mount(&self) -> Outcome {
        // Root prepares the namespace and then becomes the attacker, which runs python under psql's path.
        let script = format!(
            "mount --make-rprivate / && mount --bind /usr/bin/python3 {PSQL} && exec setpriv --reuid {UID} --regid {UID} --clear-groups {PSQL} {} plain {}",
            self.script.display(),
            self.server.port()
        );
        let seen = Cmd::new("unshare").args(["--mount", "sh", "-c", &script]).run()?;
        self.nothing(&seen)?;
        expect(seen.stdout.contains("42501"), || format!("it did not come so far: {seen}"))
    }

    fn held_queue(&self) -> Outcome {
        let proxy = Pid::from_raw(self.agent.borrow().proxy().ok_or("there is no proxy")? as i32);
        kill(proxy, Signal::SIGSTOP).map_err(|error| error.to_string())?;
        // The permitted user connects from many ports until the queue is full, waits, and is gone.
        let filled = self.python(PERMITTED_UID, "fill", &["41000", "6000"]);
        let taken = self.attack(UID, "take", &["41000", "6000"]).spawn();
        kill(proxy, Signal::SIGCONT).map_err(|error| error.to_string())?;
        let filled = filled?;
        expect(filled.stdout.contains("full"), || filled.to_string())?;
        let seen = taken?.finish(Duration::from_secs(20))?;
        expect(seen.stdout.contains("tried"), || seen.to_string())?;
        self.nothing(&seen)
    }

    fn killed_between(&self) -> Outcome {
        let mut agent = self.agent.borrow_mut();
        let proxy = Pid::from_raw(agent.proxy().ok_or("there is no proxy")? as i32);
        kill(proxy, Signal::SIGSTOP).map_err(|error| error.to_string())?;
        let waiting = self.attack(PERMITTED_UID, "wait", &["40500", "40"]).spawn();
        let mut waiting = waiting?;
        let line = waiting.line(Duration::from_secs(10))?;
        agent.kill9();
        expect(line.starts_with("standing"), || line)?;
        drop(waiting);
        agent.start()?;
        drop(agent);
        let seen = self.python(UID, "take", &["40500", "40"])?;
        expect(seen.stdout.contains("tried"), || seen.to_string())?;
        self.nothing(&seen)
    }

    fn direct(&self) -> Outcome {
        let proxy = self.agent.borrow().proxy().ok_or("there is no proxy")?;
        let listeners = listening(proxy)?;
        expect(!listeners.is_empty(), || "no listener found".into())?;
        for address in listeners {
            let seen =
                self.python(PERMITTED_UID, "direct", &[&address.ip().to_string(), &address.port().to_string()])?;
            expect(seen.stdout.contains("EPERM"), || format!("{address} from {}: {seen}", self.address()))?;
        }
        Ok(())
    }
}

/// TCP addresses at which a process listens, from `ss`.
fn listening(pid: u32) -> Outcome<Vec<SocketAddr>> {
    let text = Cmd::new("ss").args(["-Hltnp"]).ok()?;
    Ok(text
        .lines()
        .filter(|line| line.contains(&format!("pid={pid},")))
        .filter_map(|line| line.split_ascii_whitespace().nth(3)?.parse().ok())
        .collect())
}

fn expect(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise()) }
}
