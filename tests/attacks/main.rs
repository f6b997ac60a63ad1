//! Taking over another process's identity: each attack with the agent's proxy held still, so that the attacker always wins the
//! race that a real one would have to win.
//!
//! In every attack the plain answer, what `/proc` says when the proxy looks or what lies under the connection's ports, is "the
//! permitted one", and that is checked. A control with the same steps but for the deception is let in, so that a refusal means
//! something. Judges are what the client got and what the log says of it: who, and why.

mod ports;
mod world;

use std::{fs, os::unix::fs::MetadataExt, process::ExitCode};

use agent_tests::{Cmd, Outcome, TempDir, suite, suite::root_main};
use serde_json::json;

use crate::world::{HASH_UID, PERMITTED_UID, PSQL, SECRET, UID, World, expect};

/// How many times a race is run.
const ROUNDS: usize = 25;

fn main() -> ExitCode {
    root_main("attacks", || {
        let world = World::start()?;
        Ok(suite("attacks")
            .case("control: the permitted program, by its user, is let in", || {
                let seen = Cmd::psql(&world.dsn(), "SELECT secret FROM gold").user(UID, UID).run()?;
                expect(seen.stdout.trim() == SECRET, || seen.to_string())
            })
            .case("control: the permitted program, by its hash, is let in from anywhere", || {
                let copy = world.dir.join("another-psql");
                fs::copy(PSQL, &copy).map_err(|error| error.to_string())?;
                let psql =
                    Cmd::new(&copy).args(["-X", "-A", "-t", "-d", &world.dsn(), "-c", "SELECT secret FROM gold"]);
                let seen = psql.user(HASH_UID, HASH_UID).run()?;
                expect(seen.stdout.trim() == SECRET, || seen.to_string())
            })
            .case("control: the script that the attacks use is let in as a permitted user", || {
                let seen = world.python(PERMITTED_UID, "plain", &[])?;
                expect(seen.stdout.contains(SECRET), || seen.to_string())
            })
            .case("the script itself, as the attacker, is refused", || {
                let (seen, refusal) = world.refused(UID, || world.python(UID, "plain", &[]))?;
                expect(refusal["pid"] == seen.pid && refusal["exe"] != PSQL, || refusal.to_string())
            })
            .case("control: a child speaks over a socket that its parent has connected", || {
                let seen = world.held(PERMITTED_UID, "inherit", &[PSQL], false)?.0;
                expect(seen.stdout.contains(SECRET), || seen.to_string())
            })
            .case("a process with the longest names is refused, and nobody else's session ends", || {
                let proxy = world.proxy()?;
                let room = TempDir::new().map_err(|error| error.to_string())?;
                let room = room.dir("room", 0o755, PERMITTED_UID, PERMITTED_UID).map_err(|error| error.to_string())?;
                let room = room.display().to_string();
                let (_, refusal) = world.refused(PERMITTED_UID, || world.python(PERMITTED_UID, "long", &[&room]))?;
                let reason = refusal["reason"].as_str().unwrap_or_default();
                expect(reason.contains("together they are too long"), || refusal.to_string())?;
                expect(world.proxy()? == proxy, || "the agent has another proxy".into())?;
                let seen = world.python(PERMITTED_UID, "plain", &[])?;
                expect(seen.stdout.contains(SECRET), || seen.to_string())
            })
            .case("connect, then exec the permitted program, then let a child speak", || {
                world.impostor("exec", &[PSQL], "has executed another program")
            })
            .case("connect, exec at once without holding the proxy, many times", || {
                for round in 0..ROUNDS {
                    world.refused(UID, || world.python(UID, "exec-race", &[PSQL, &round.to_string()]))?;
                }
                Ok(())
            })
            .case("connect, die, and let the permitted program have the pid", || {
                world.impostor("pid-reuse", &[PSQL, &UID.to_string(), "elsewhere"], "has ended")
            })
            .case("connect, die, and let the permitted program have the pid and connect too", || {
                world.impostor("pid-reuse", &[PSQL, &UID.to_string(), "here"], "belongs to another process")
            })
            .case("exec after the session was admitted: the next statement is refused", || {
                let seen = world.python(PERMITTED_UID, "exec-later", &["/bin/sleep"])?;
                expect(seen.stdout.contains(&format!("first {SECRET}")), || seen.to_string())?;
                expect(!seen.stdout.contains(&format!("second {SECRET}")), || seen.to_string())?;
                expect(seen.stdout.contains("has executed another program"), || seen.to_string())
            })
            .case("end of the process after the session was admitted: a child that kept the socket is refused", || {
                let seen = world.python(PERMITTED_UID, "exit-later", &[])?;
                expect(seen.stdout.contains(&format!("first {SECRET}")), || seen.to_string())?;
                expect(!seen.stdout.contains(&format!("second {SECRET}")), || seen.to_string())?;
                expect(seen.stdout.contains("has ended"), || seen.to_string())
            })
            .case("control: a child sends the data of a COPY that its parent has begun", || {
                let seen = world.python(PERMITTED_UID, "copy-stay", &[])?;
                expect(world.copied("copy-stay")?.trim() == "1", || seen.to_string())
            })
            .case(
                "exec, or the end of the process, while it copies: nothing more is taken, and nothing is kept",
                || {
                    for (attack, reason) in [("copy-exec", "has executed another program"), ("copy-exit", "has ended")]
                    {
                        let seen = world.python(PERMITTED_UID, attack, &[])?;
                        expect(seen.stdout.contains(reason), || seen.to_string())?;
                        expect(world.copied(attack)?.trim() == "0", || seen.to_string())?;
                    }
                    Ok(())
                },
            )
            .case("control: the permitted program in a mount namespace of its own", || {
                let seen = mounted(&world, "true", &format!("{PSQL} -X -A -t -d '{}' -c 'TABLE gold'", world.dsn()))?;
                expect(seen.stdout.trim() == SECRET, || seen.to_string())
            })
            .case("another file bind-mounted over the permitted path", || {
                let python = format!("{PSQL} {} plain {}", world.script(), world.port());
                let mount = format!("mount --bind /usr/bin/python3 {PSQL}");
                let (_, refusal) = world.refused(UID, || mounted(&world, &mount, &python))?;
                // By its path alone it would have been the permitted program.
                let process = &world.refusal(&refusal)?["principal"]["process"];
                expect(refusal["exe"] == PSQL && process["exe"]["verified"] == false, || process.to_string())
            })
            .case("a copy of the permitted program elsewhere", || {
                let copy = world.dir.join("psql");
                fs::copy(PSQL, &copy).map_err(|error| error.to_string())?;
                let psql = Cmd::new(&copy).args(["-X", "-d", &world.dsn(), "-c", "SELECT secret FROM gold"]);
                let (_, refusal) = world.refused(UID, || psql.user(UID, UID).run())?;
                expect(refusal["exe"] == *copy.to_string_lossy(), || refusal.to_string())
            })
            .case("argv[0] and the command's name of the permitted program", || {
                let (_, refusal) = world.refused(UID, || world.python(UID, "names", &[PSQL]))?;
                let process = &world.refusal(&refusal)?["principal"]["process"];
                expect(process["argv"][0] == PSQL && refusal["exe"] != PSQL, || process.to_string())
            })
            .case("/proc/PID/exe set to the permitted program, in a user namespace", || pretender(&world))
            .case("a connected socket passed to another process is still of the one that connected it", || {
                let (seen, refusal) =
                    world.refused(UID, || world.python(0, "passed", &[&UID.to_string(), PERMITTED]))?;
                expect(seen.stdout.contains(&format!("connected {}", refusal["pid"])), || format!("{refusal}: {seen}"))
            })
            .case("the accept queue is full: who gives up leaves nothing to the next user of the port", || {
                ports::full_queue(&world)
            })
            .case(
                "the agent is killed between connect and accept: nothing is left to the next user of the port",
                || ports::killed_between(&world),
            )
            .case("who listens at the port of an agent that was killed gets no connection", || ports::squatter(&world))
            .case("a source port used again at once belongs to whoever uses it", || ports::used_again(&world, ROUNDS))
            .case("a direct connect to the proxy's own port is refused", || ports::direct(&world))
            .case("no flow is left over", || {
                let counters = &world.agent.borrow().json(&["status"])?["counters"];
                let count = |name: &str| counters[name].as_u64().unwrap_or_default();
                let gone = count("accepted") + count("abandoned");
                expect(count("redirected") == gone && count("abandoned") > 0, || counters.to_string())
            })
            .run())
    })
}

/// The permitted user, as an argument.
const PERMITTED: &str = "63002";

/// A process that shows the permitted program's own file as what it runs, to a role by path and to one by hash.
fn pretender(world: &World) -> Outcome {
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let loader = loader.into_iter().find(|path| fs::exists(path).unwrap_or(false)).ok_or("no dynamic loader")?;
    let real = fs::metadata(PSQL).map_err(|error| error.to_string())?;
    for uid in [UID, HASH_UID] {
        let port = world.port().to_string();
        let attack = Cmd::new(loader).args(["/usr/bin/python3", &world.script(), "pretend", &port, PSQL]);
        let (_, refusal) = world.refused(uid, || attack.user(uid, uid).run())?;
        let exe = &world.refusal(&refusal)?["principal"]["process"]["exe"];
        // Path and file are those of the permitted program.
        expect(exe["path"] == PSQL && exe["inode"] == real.ino(), || exe.to_string())?;
        expect(exe["verified"] == false && exe["sha256"].is_null(), || exe.to_string())?;
    }
    Ok(())
}

/// Runs a command of the attacker's in a mount namespace of its own, which root has prepared.
fn mounted(world: &World, preparation: &str, command: &str) -> Outcome<agent_tests::Finished> {
    let become_attacker = format!("setpriv --reuid {UID} --regid {UID} --clear-groups");
    let script = format!("mount --make-rprivate / && {preparation} && exec {become_attacker} {command}");
    let seen = Cmd::new("unshare").args(["--mount", "sh", "-c", &script]).run()?;
    // Whatever came of it, it was not for want of a mount or a program.
    let fit = !seen.stderr.contains("mount:") && !seen.stderr.contains("No such file");
    expect(fit, || format!("{}: {seen}", json!(world.port())))?;
    Ok(seen)
}
