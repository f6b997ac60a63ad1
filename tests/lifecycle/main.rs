//! The agent's own life: killed at any moment it leaves the host closed, and comes back.
//!
//! The judge of "nobody got through" is the server's own log: direct logins use a user name of their own.

mod handover;
mod restarts;
mod services;

use std::{process::ExitCode, time::Duration};

use agent_tests::{
    Agent, Auth, Cmd, Finished, Outcome, Postgres, Running, Target, full, suite, suite::root_main, wait_until,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const UID: u32 = 64_001;

const POLICY: &str = r#"
@id("all")
permit (principal in Role::"client", action in [Action::"connect", Action::"sql:select"], resource in Target::"db");
"#;

fn main() -> ExitCode {
    root_main("lifecycle", || {
        let server = Postgres::builder().auth(Auth::Trust).login("app", "unused").login("direct", "unused").start()?;
        let agent = prepare(&server)?;
        let world = World { agent: agent.into(), server };
        Ok(suite("lifecycle")
            .case("without an agent the server is reached directly", || {
                expect(world.psql()?.stdout.trim() == "1", || "not reached".into())?;
                expect(world.direct_logins() == 1, || format!("{} direct logins", world.direct_logins()))
            })
            .case("with an agent it is reached through it", || {
                world.agent.borrow_mut().start()?;
                expect(world.psql()?.stdout.trim() == "1", || "not reached".into())?;
                expect(world.direct_logins() == 1, || "it was a direct login".into())
            })
            .case("kill -9 of both: refused at once, and the server is not reached", || {
                world.agent.borrow_mut().kill9();
                world.refused("after kill -9")
            })
            .case("the pins stay in a directory that only root can enter", || pins(&world))
            .case("a new start adopts the pins and works", || {
                world.agent.borrow_mut().start()?;
                expect(world.psql()?.stdout.trim() == "1", || "not reached".into())?;
                expect(world.agent.borrow().log().contains("adopt"), || world.agent.borrow().log())
            })
            .case("kill -9 of the proxy alone closes the host", || {
                let proxy = world.agent.borrow().proxy().ok_or("no proxy")?;
                world.kill_one(proxy)
            })
            .case("kill -9 of the warden alone closes the host", || {
                let warden = world.agent.borrow().warden().ok_or("no warden")?;
                world.kill_one(warden)
            })
            .case("established sessions end with the agent", || {
                let mut psql = world.session()?;
                world.agent.borrow_mut().kill9();
                psql.send("SELECT 2;")?;
                let seen = psql.finish(Duration::from_secs(10))?;
                expect(!seen.success() && !seen.stdout.contains('2'), || seen.to_string())?;
                world.agent.borrow_mut().start()
            })
            .case("an orderly stop ends within its time and leaves the host closed", || {
                world.agent.borrow_mut().stop()?;
                world.refused("after an orderly stop")?;
                world.agent.borrow_mut().start()
            })
            .case("the server's end is the client's end, and the next session works", server_restart)
            .case("kill -9 at random moments under load, and a restart each time", || {
                let before = world.direct_logins();
                for round in 0..if full() { 200 } else { 20 } {
                    let mut load = (0..3).map(|_| world.load()).collect::<Outcome<Vec<_>>>()?;
                    std::thread::sleep(Duration::from_millis(20 + (round * 37) % 170));
                    world.agent.borrow_mut().kill9();
                    world.refused(&format!("round {round}"))?;
                    world.agent.borrow_mut().start()?;
                    load.clear();
                }
                expect(world.psql()?.stdout.trim() == "1", || "not reached".into())?;
                // None of the load either, at whatever moment it came.
                expect(world.direct_logins() == before, || "somebody got past the agent".into())?;
                let verified = world.agent.borrow().postern(&["audit", "verify"])?;
                expect(verified.success(), || verified.to_string())?;
                accounted(&world.agent.borrow())
            })
            .case("a second agent over the same pins is refused with a clear error", || {
                let second = world.agent.borrow().command(["run"]).run()?;
                expect(!second.success() && second.stderr.contains("running"), || second.to_string())?;
                expect(world.psql()?.stdout.trim() == "1", || "the first one no longer works".into())
            })
            .case("a program that was detached makes the status degraded; a new start attaches it again", || {
                let status = || world.agent.borrow().postern(&["status"]);
                expect(status()?.success(), || "it was degraded before".into())?;
                for name in ["connect4", "process_exec"] {
                    let pin = world
                        .agent
                        .borrow()
                        .pins()
                        .join(format!("v{}", agent_common::LAYOUT))
                        .join(format!("link_{name}"));
                    std::fs::remove_file(&pin).map_err(|error| format!("{}: {error}", pin.display()))?;
                    let seen = status()?;
                    let said = format!("degraded: the kernel program {name} is not in force");
                    expect(!seen.success() && seen.stdout.contains(&said), || seen.to_string())?;
                    world.agent.borrow_mut().restart()?;
                    expect(status()?.success(), || "it is still degraded".into())?;
                }
                Ok(())
            })
            .case("uninstall removes everything, and the server is reached directly again", || {
                let before = world.direct_logins();
                world.agent.borrow_mut().uninstall()?;
                expect(world.psql()?.stdout.trim() == "1", || "not reached".into())?;
                expect(world.direct_logins() == before + 1, || "it was not a direct login".into())?;
                let again = world.agent.borrow().postern(&["uninstall"])?;
                expect(again.success(), || again.to_string())
            })
            .case("connects without pause across restarts: redirected or refused, and none is direct", || {
                restarts::never_direct()
            })
            .case("restart: sessions go on where they began, twice, and the log is one chain", handover::sessions_go_on)
            .case("restart: Ctrl-C reaches a statement in a process before", handover::cancel_requests)
            .case("restart: of connects without pause none is refused and none is direct", handover::nobody_is_refused)
            .case("restart: the ports of both processes are closed to direct connects", handover::ports_are_closed)
            .case("restart: with other targets than the kernel side has, nothing changes", handover::other_targets)
            .case("restart: when their time is over, sessions end with 57P01", handover::drain_limit)
            .case("restart: kill -9 of the old process loses its sessions and no more", handover::old_is_killed)
            .case("restart: kill -9 of the new process closes the host", handover::new_is_killed)
            .case("restart: kill -9 of the warden ends both processes and closes the host", handover::warden_is_killed)
            .case("restart: what cannot start does not take the place of what runs", handover::wrong_policies)
            .case("restart: policies that are read again hold in the old process, too", handover::policies_reach_all)
            .case("restart: a stop ends both processes in order", handover::stop_while_draining)
            .case("restart: the service manager is told of the new process", || services::restarted(&world.server))
            .case("as two services, each says when it is ready", || services::apart(&world.server))
            .case("the proxy's user may be a number that belongs to nobody", || services::numeric_user(&world.server))
            .case("policies that the proxy cannot read: refused before anything is redirected", || {
                services::closed_policies(&world.server)
            })
            .run())
    })
}

/// Fails unless the ledger tells of every connect, and names each one that was abandoned, or lost when the agent was killed.
fn accounted(agent: &Agent) -> Outcome {
    let mut report = Value::Null;
    let settled = wait_until("every connect has its record", Duration::from_secs(20), || {
        report = agent.json(&["coverage"]).unwrap_or_default();
        total(&report, "redirected") > 0 && total(&report, "open") == 0
    });
    settled.map_err(|error| format!("{error}: {report}"))?;
    expect(report["unexplained"] == 0, || report.to_string())?;
    let events = agent.json(&["audit", "events", "--limit", "1000"])?;
    for (column, event) in [("abandoned", "connects-abandoned"), ("lost_at_restart", "lost-at-restart")] {
        let events = events.as_array().into_iter().flatten().map(|record| &record["event"]);
        let named = events.filter(|found| found["event"] == event).filter_map(|found| found["flows"].as_array());
        let (named, counted) = (named.map(Vec::len).sum::<usize>() as u64, total(&report, column));
        println!("lifecycle: {column}: {counted}, {named} named");
        expect(named == counted, || format!("{column}: {counted} are counted, {named} are named"))?;
    }
    Ok(())
}

/// The sum of a column of the ledger.
fn total(report: &Value, column: &str) -> u64 {
    report["rows"].as_array().into_iter().flatten().filter_map(|row| row[column].as_u64()).sum()
}

/// An agent, not started, with the policy and the role of these cases.
fn prepare(server: &Postgres) -> Outcome<Agent> {
    Agent::builder()
        .target(Target::postgres("db", server.addresses()).credential("app", None))
        .role("client", [format!("{{ user = \"{UID}\" }}")])
        .policy("all.cedar", POLICY)
        .prepare()
}

/// Runs a statement as the permitted user, under the name that nobody but a client that came around the agent logs in with.
fn psql(server: &Postgres) -> Outcome<Finished> {
    Cmd::psql(&dsn(server), "SELECT 1").user(UID, UID).run()
}

fn dsn(server: &Postgres) -> String {
    format!("host=127.0.0.1 port={} dbname=postgres user=direct sslmode=disable", server.port())
}

/// Logins of clients that came around the agent.
fn direct_logins(server: &Postgres) -> usize {
    server.log().matches("connection authorized: user=direct").count()
}

struct World {
    agent: std::cell::RefCell<Agent>,
    server: Postgres,
}

impl World {
    fn psql(&self) -> Outcome<Finished> {
        psql(&self.server)
    }

    fn direct_logins(&self) -> usize {
        direct_logins(&self.server)
    }

    /// A psql that has answered once and waits for more.
    fn session(&self) -> Outcome<Running> {
        let mut psql = Cmd::new("/usr/lib/postgresql/15/bin/psql")
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &dsn(&self.server)])
            .user(UID, UID)
            .spawn()?;
        psql.send("SELECT 'here';")?;
        expect(psql.line(Duration::from_secs(10))? == "here", || "no answer".into())?;
        Ok(psql)
    }

    /// Connects over and over for a second, whatever comes of it.
    fn load(&self) -> Outcome<Running> {
        let script = format!("for n in $(seq 40); do psql -X -A -t -d '{}' -c 'SELECT 1'; done", dsn(&self.server));
        Cmd::new("sh").args(["-c", &script]).env("PGCONNECT_TIMEOUT", "5").user(UID, UID).spawn()
    }

    /// Fails unless psql is refused while nothing reaches the server directly.
    fn refused(&self, when: &str) -> Outcome {
        let before = self.direct_logins();
        let seen = self.psql()?;
        expect(!seen.success() && seen.stderr.contains("Connection refused"), || format!("{when}: {seen}"))?;
        expect(self.direct_logins() == before, || format!("{when}: the server was reached"))
    }

    /// Kills one of the two processes, expects the host to be closed and the other to end, and starts again.
    fn kill_one(&self, pid: u32) -> Outcome {
        let (warden, proxy) = {
            let agent = self.agent.borrow();
            (agent.warden().ok_or("no warden")?, agent.proxy().ok_or("no proxy")?)
        };
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).map_err(|error| error.to_string())?;
        wait_until("the other process has ended too", Duration::from_secs(10), || {
            [warden, proxy].iter().all(|pid| agent_tests::has_ended(*pid))
        })?;
        self.refused("with one of two killed")?;
        self.agent.borrow_mut().kill9();
        self.agent.borrow_mut().start()
    }
}

fn pins(world: &World) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    let agent = world.agent.borrow();
    let mode = std::fs::metadata(agent.pins()).map_err(|error| error.to_string())?.permissions().mode() & 0o777;
    expect(mode == 0o700, || format!("mode {mode:o}"))
}

fn server_restart() -> Outcome {
    let mut server = Postgres::builder().auth(Auth::Trust).login("app", "unused").start()?;
    let mut agent = prepare(&server)?;
    agent.start()?;
    let dsn = format!("host=127.0.0.1 port={} dbname=postgres user=x sslmode=disable", server.port());
    let mut psql =
        Cmd::new("/usr/lib/postgresql/15/bin/psql").args(["-X", "-A", "-t", "-d", &dsn]).user(UID, UID).spawn()?;
    psql.send("SELECT 'here';")?;
    expect(psql.line(Duration::from_secs(10))? == "here", || "no answer".into())?;
    server.stop();
    psql.send("SELECT 'there';")?;
    let seen = psql.finish(Duration::from_secs(10))?;
    expect(!seen.stdout.contains("there"), || seen.to_string())?;
    let down = Cmd::psql(&dsn, "SELECT 1").user(UID, UID).run()?;
    expect(down.stderr.contains("denied by Postern") || down.stderr.contains("cannot"), || down.to_string())?;
    server.start_again()?;
    let up = Cmd::psql(&dsn, "SELECT 1").user(UID, UID).run()?;
    expect(up.stdout.trim() == "1", || up.to_string())?;
    drop(agent);
    Ok(())
}

fn expect(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise()) }
}
