//! Who connected: many processes of different users and files, to several addresses at once, and every one attributed.
//!
//! Each client writes down who it is and where it goes before it connects, and puts a nonce into its SQL. The log is joined
//! with that by the nonce. Everything happens in a network namespace of the suite's own, so that there are addresses beyond
//! loopback to go to.

mod client;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use agent_tests::{
    Agent, Auth, Cmd, Control, Outcome, Postgres, Target, TempDir, net::enter_own_namespace, suite, suite::root_main,
};
use serde_json::{Value, json};

/// Client processes, each with a user of its own.
const PROCESSES: usize = 50;
/// Connections of each.
const CONNECTIONS: usize = 40;
/// Copies of the client program, so that not all run the same file.
const PROGRAMS: usize = 5;
/// Where they go; the server listens at all.
const DESTINATIONS: [&str; 4] = ["127.0.0.1", "10.77.0.1", "::1", "fd00:77::1"];
/// User of the first process.
const FIRST_UID: u32 = 62_000;

const POLICY: &str = r#"
@id("all")
permit (principal in Role::"client", action in [Action::"connect", Action::"sql:select"], resource in Target::"ledger");
"#;

fn main() -> ExitCode {
    if let Some(code) = client::main() {
        return code;
    }
    root_main("identity", || {
        enter_own_namespace(&DESTINATIONS)?;
        let world = World::start()?;
        let (claims, open) = world.connect_all()?;
        let records = world.records()?;
        let (start, nonces) = log(&records)?;
        Ok(suite("identity")
            .case(format!("{} connections are open at once", PROCESSES * CONNECTIONS), || {
                let all = PROCESSES * CONNECTIONS;
                expect(claims.len() == all && open == all as u64, || format!("{} claims, {open} open", claims.len()))
            })
            .case("every nonce is in the log exactly once", || {
                let missing = claims.keys().filter(|nonce| !nonces.contains_key(*nonce)).count();
                expect(missing == 0 && nonces.len() == claims.len(), || {
                    format!("{missing} of {} are missing, the log has {}", claims.len(), nonces.len())
                })
            })
            .case("pid, uid, file and destination of every session are those of the client", || {
                let mut wrong = Vec::new();
                for (nonce, claim) in &claims {
                    let seen = nonces.get(nonce).and_then(|session| start.get(session));
                    if seen != Some(claim) {
                        wrong.push(format!("{nonce}: claimed {claim:?}, the log has {seen:?}"));
                    }
                }
                expect(wrong.is_empty(), || format!("{} differ, such as {}", wrong.len(), wrong[0]))
            })
            .case("the file's hash is that of the file that ran", || {
                for program in &world.programs {
                    let hash = Cmd::new("sha256sum").arg(program).ok()?;
                    let path = program.to_string_lossy();
                    let found = start.values().filter(|claim| claim.exe == path).count();
                    let right = hashes(&records, &path, hash.split(' ').next().unwrap_or_default());
                    expect(found > 0 && right == found, || format!("{path}: {right} of {found} have the hash"))?;
                }
                Ok(())
            })
            .case("no flow is left over", || {
                let counters = &world.agent.json(&["status"])?["counters"];
                expect(counters["abandoned"] == 0 && counters["redirected"] == counters["accepted"], || {
                    counters.to_string()
                })
            })
            .run())
    })
}

/// What a client says of one connection, and what the log says of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    pid: u32,
    uid: u32,
    exe: String,
    destination: String,
}

struct World {
    agent: Agent,
    server: Postgres,
    programs: Vec<PathBuf>,
    _dir: TempDir,
}

impl World {
    fn start() -> Outcome<Self> {
        let listen: Vec<IpAddr> = DESTINATIONS.iter().filter_map(|address| address.parse().ok()).collect();
        let server = Postgres::builder()
            .listen(&listen)
            .auth(Auth::Trust)
            .login("app", "unused")
            .setting(&format!("max_connections = {}", PROCESSES * CONNECTIONS + 50))
            .setting("shared_buffers = 64MB")
            .start()?;
        let agent = Agent::builder()
            .target(Target::postgres("ledger", server.addresses()).credential("app", None))
            .role("client", (0..PROCESSES).map(|n| format!("{{ user = \"{}\" }}", uid(n))))
            .policy("all.cedar", POLICY)
            .start()?;
        let dir = TempDir::new().map_err(|error| error.to_string())?;
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut programs = Vec::new();
        for n in 0..PROGRAMS {
            let path = dir.join(format!("client-{n}"));
            fs::copy(&this, &path).map_err(|error| error.to_string())?;
            // A byte more at the end of the file: the same program with a hash of its own.
            let mut bytes = fs::read(&path).map_err(|error| error.to_string())?;
            bytes.push(n as u8);
            fs::write(&path, bytes).map_err(|error| error.to_string())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string())?;
            programs.push(path);
        }
        Ok(Self { agent, server, programs, _dir: dir })
    }

    /// Starts all clients, lets them go at once, and collects what they wrote down, and how many sessions the agent has open when
    /// all of them have.
    fn connect_all(&self) -> Outcome<(BTreeMap<String, Claim>, u64)> {
        let mut running = Vec::new();
        for n in 0..PROCESSES {
            let command = Cmd::new(&self.programs[n % PROGRAMS])
                .args([client::MARK, &self.server.port().to_string(), &CONNECTIONS.to_string()])
                .args(DESTINATIONS)
                .user(uid(n), uid(n));
            running.push(command.spawn()?);
        }
        for client in &mut running {
            expect(client.line(Duration::from_secs(60))? == "ready", || "a client is not ready".into())?;
        }
        for client in &mut running {
            client.send("go")?;
        }
        let mut claims = BTreeMap::new();
        for client in &mut running {
            loop {
                let line = match client.line(Duration::from_secs(180)) {
                    Ok(line) if line == "open" => break,
                    Ok(line) => line,
                    Err(error) => return Err(format!("{error}; {}", self.agent.log())),
                };
                let words: Vec<&str> = line.split('\t').collect();
                let [nonce, pid, uid, exe, destination] = words[..] else {
                    return Err(format!("a client wrote {line:?}"));
                };
                let number = |word: &str| word.parse().map_err(|_| format!("a client wrote {line:?}"));
                let claim =
                    Claim { pid: number(pid)?, uid: number(uid)?, exe: exe.into(), destination: destination.into() };
                claims.insert(nonce.to_owned(), claim);
            }
        }
        let open = self.agent.json(&["status"])?["targets"][0]["connections"].as_u64().unwrap_or_default();
        for client in running {
            let finished = client.finish(Duration::from_secs(60))?;
            expect(finished.success(), || finished.to_string())?;
        }
        Ok((claims, open))
    }

    /// The events of all sessions.
    fn records(&self) -> Outcome<Vec<Value>> {
        let mut control = Control::connect(&self.agent)?;
        let mut records = Vec::new();
        for session in control.sessions(&json!({}))? {
            records.extend(control.events(session["session"].as_str().unwrap_or_default())?);
        }
        Ok(records)
    }
}

/// Sessions by id, and the session of each nonce.
fn log(records: &[Value]) -> Outcome<(HashMap<String, Claim>, HashMap<String, String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
    let (mut sessions, mut nonces) = (HashMap::new(), HashMap::new());
    for record in records {
        let session = text(&record["session"]);
        if record["event"] == "session-started" {
            let principal = &record["principal"];
            let process = &principal["process"];
            let claim = Claim {
                pid: number(&process["pid"]),
                uid: number(&process["uid"]),
                exe: text(&process["exe"]["path"]),
                destination: text(&principal["flow"]["destination"]),
            };
            if let Some(before) = sessions.insert(session, claim) {
                return Err(format!("a session has begun twice: {before:?}"));
            }
        } else if record["event"] == "decided"
            && let Some(nonce) = record["text"].as_str().and_then(|text| text.split('\'').nth(1))
            && nonces.insert(nonce.to_owned(), session).is_some()
        {
            return Err(format!("{nonce} is in the log twice"));
        }
    }
    Ok((sessions, nonces))
}

/// Sessions of a program whose file has this hash.
fn hashes(records: &[Value], path: &str, hash: &str) -> usize {
    let right = |record: &&Value| {
        let exe = &record["principal"]["process"]["exe"];
        record["event"] == "session-started" && exe["path"] == path && exe["sha256"] == hash
    };
    records.iter().filter(right).count()
}

fn uid(process: usize) -> u32 {
    FIRST_UID + process as u32
}

fn expect(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise()) }
}
