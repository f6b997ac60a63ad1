//! The coverage ledger and the records of gaps: what the clients know of their own connects is what the ledger must tell.
//!
//! What the agent cannot know by itself is brought about from outside: connects that it lost are made while the proxy stands
//! still, and connects that nobody can account for by taking them off the kernel's map.

use std::{
    cell::RefCell,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use agent_tests::{
    Agent, Auth, Cmd, Outcome, Postgres, Python, Target, bpf, full, suite, suite::root_main, wait_until,
};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt},
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime, clock_settime},
    unistd::Pid,
};
use serde_json::Value;

/// Who has the role, and who has not.
const CLIENT: u32 = 64_051;
const STRANGER: u32 = 64_052;

const POLICY: &str = r#"
@id("all")
permit (principal in Role::"client", action in [Action::"connect", Action::"sql:select", Action::"sql:call"], resource);
"#;

/// How long a full ledger may take.
const FILLED: Duration = Duration::from_secs(5);

const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    root_main("coverage", || {
        let servers = [server()?, server()?];
        let agent = agent(&servers, ["orders", "stock"])?;
        let world = World { servers, agent: RefCell::new(agent) };
        Ok(suite("coverage")
            .case("every session is a redirected connect, by target and user", || world.sessions())
            .case("who is refused is told of as denied", || world.denied())
            .case("who leaves without a word has a record", || world.left())
            .case("a request to cancel has a record", || world.cancelled())
            .case("a connect that fails before its first packet is abandoned", || world.failed())
            .case("a socket that connects again counts each time", || world.again())
            .case("datagrams and connects without a listener count as refused", || world.refused())
            .case("the counts go on when the agent is restarted, also with its targets in another order", || {
                world.restarted()
            })
            .case("connects that a killed proxy had taken are named one by one", || world.lost())
            .case("a killed agent's recorded sessions are not lost", || world.recorded())
            .case("many at once, from many processes", || world.many())
            .case("a connect that nobody can account for is an alarm", || world.unexplained())
            .case("the kernel side's removal and its new epoch are in the log", || world.epochs())
            .case(
                "thousands of users fill the ledger's rows, and it is still told, recorded and reconciled in time",
                || world.filled(),
            )
            .case("a program that is detached, and is back, is in the log", || world.detached())
            .case("a full map and a lost word are in the log", || world.losses())
            .case("a set clock is in the log", || world.clock())
            .case("the chain with all of it verifies", || {
                let verified = world.agent.borrow().postern(&["audit", "verify"])?;
                expect(verified.success(), || verified.to_string())
            })
            .run())
    })
}

fn server() -> Outcome<Postgres> {
    Postgres::builder().auth(Auth::Trust).login("app", "unused").start()
}

fn agent(servers: &[Postgres; 2], names: [&str; 2]) -> Outcome<Agent> {
    let builder = servers.iter().zip(names).fold(Agent::builder(), |builder, (server, name)| {
        builder.target(Target::postgres(name, server.addresses()).credential("app", None))
    });
    builder.role("client", [format!("{{ user = \"{CLIENT}\" }}")]).policy("all.cedar", POLICY).start()
}

struct World {
    servers: [Postgres; 2],
    agent: RefCell<Agent>,
}

/// Columns of a row by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row(std::collections::BTreeMap<String, i64>);

impl Row {
    fn get(&self, column: &str) -> i64 {
        self.0.get(column).copied().unwrap_or(0)
    }

    /// How much the columns that are not as they were have grown.
    fn since(&self, before: &Self) -> Vec<(String, i64)> {
        let grown = self.0.keys().map(|column| (column.clone(), self.get(column) - before.get(column)));
        grown.filter(|(_, grown)| *grown != 0).collect()
    }
}

impl World {
    fn psql(&self, server: usize, user: u32, sql: &str) -> Outcome<bool> {
        let port = self.servers[server].port();
        let dsn = format!("host=127.0.0.1 port={port} dbname=postgres user=any sslmode=disable");
        Ok(Cmd::psql(&dsn, sql).user(user, user).run()?.success())
    }

    fn destination(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.servers[0].port()).into()
    }

    /// What the ledger says: of everything, it must say that nothing is unexplained.
    fn ledger(&self) -> Outcome<Value> {
        let report = self.agent.borrow().json(&["coverage"])?;
        expect(report["unexplained"] == 0, || report.to_string())?;
        Ok(report)
    }

    fn row(&self, target: &str, user: u32) -> Outcome<Row> {
        Ok(row(&self.ledger()?, target, user))
    }

    /// How the row of a user of the first target changes by what is done.
    fn grown(&self, user: u32, act: impl FnOnce() -> Outcome) -> Outcome<Vec<(String, i64)>> {
        let before = self.row("orders", user)?;
        act()?;
        Ok(self.row("orders", user)?.since(&before))
    }

    fn events(&self, name: &str) -> Outcome<Vec<Value>> {
        let all = self.agent.borrow().json(&["audit", "events", "--limit", "1000"])?;
        let all = all.as_array().ok_or_else(|| all.to_string())?;
        Ok(all.iter().map(|record| record["event"].clone()).filter(|event| event["event"] == name).collect())
    }

    fn pinned(&self, map: &str) -> PathBuf {
        self.agent.borrow().pins().join(format!("v{}", agent_common::LAYOUT)).join(map)
    }

    fn sessions(&self) -> Outcome {
        for (server, times) in [(0, 3), (1, 2)] {
            for _ in 0..times {
                expect(self.psql(server, CLIENT, "SELECT 1")?, || "no session".into())?;
            }
        }
        let report = self.ledger()?;
        for (target, times) in [("orders", 3), ("stock", 2)] {
            let found = row(&report, target, CLIENT).since(&Row::default());
            expect(found == grown(&[("proxied", times), ("redirected", times)]), || format!("{target}: {found:?}"))?;
        }
        // As people read it.
        let printed = self.agent.borrow().postern(&["coverage"])?;
        expect(printed.success() && printed.stdout.contains("0 unexplained"), || printed.to_string())
    }

    fn denied(&self) -> Outcome {
        let found = self.grown(STRANGER, || expect(!self.psql(0, STRANGER, "SELECT 1")?, || "a session".into()))?;
        expect(found == grown(&[("denied", 1), ("redirected", 1)]), || format!("{found:?}"))
    }

    fn left(&self) -> Outcome {
        let found = self.grown(0, || {
            for words in [&b""[..], b"\0\0\0\x10\0\x03"] {
                let mut client = TcpStream::connect(self.destination()).map_err(text)?;
                client.write_all(words).map_err(text)?;
            }
            self.nothing_open()
        })?;
        expect(found == grown(&[("denied", 2), ("redirected", 2)]), || format!("{found:?}"))
    }

    fn cancelled(&self) -> Outcome {
        let found = self.grown(0, || {
            let mut client = TcpStream::connect(self.destination()).map_err(text)?;
            // CancelRequest with a key that nobody has.
            let request = [16_u32, 80_877_102, 1, 2].map(u32::to_be_bytes).concat();
            client.write_all(&request).map_err(text)?;
            self.nothing_open()
        })?;
        expect(found == grown(&[("proxied", 1), ("redirected", 1)]), || format!("{found:?}"))
    }

    /// From an address that is not the host's: no route is found, after the connect was redirected.
    fn failed(&self) -> Outcome {
        let mut expected = 0;
        let found = self.grown(0, || {
            let socket = tcp()?;
            expected = bpf::cookie(&socket)?;
            setsockopt(&socket, sockopt::IpFreebind, &true).map_err(text)?;
            bind(socket.as_raw_fd(), &SockaddrIn::new(203, 0, 113, 77, 0)).map_err(text)?;
            expect(self.connect(&socket).is_err(), || "it has connected".into())
        })?;
        expect(found == grown(&[("abandoned", 1), ("redirected", 1)]), || format!("{found:?}"))?;
        self.wait_for("connects-abandoned", |event| event["flows"][0]["cookie"] == expected)
    }

    fn connect(&self, socket: &OwnedFd) -> Outcome {
        let destination = SockaddrIn::new(127, 0, 0, 1, self.servers[0].port());
        connect(socket.as_raw_fd(), &destination).map_err(text)
    }

    fn again(&self) -> Outcome {
        let found = self.grown(0, || {
            let socket = tcp()?;
            for _ in 0..3 {
                self.connect(&socket)?;
                bpf::disconnect(&socket)?;
            }
            self.nothing_open()
        })?;
        expect(found == grown(&[("denied", 3), ("redirected", 3)]), || format!("{found:?}"))
    }

    fn refused(&self) -> Outcome {
        let found = self.grown(0, || {
            let datagrams = UdpSocket::bind("127.0.0.1:0").map_err(text)?;
            expect(datagrams.send_to(b"x", self.destination()).is_err(), || "a datagram went".into())?;
            expect(datagrams.connect(self.destination()).is_err(), || "a datagram socket is connected".into())?;
            self.agent.borrow_mut().kill9();
            for _ in 0..4 {
                expect(TcpStream::connect(self.destination()).is_err(), || "somebody listens".into())?;
            }
            self.agent.borrow_mut().start()
        })?;
        expect(found == grown(&[("refused_no_listener", 4), ("refused_udp", 2)]), || format!("{found:?}"))
    }

    /// By datagrams, each of which counts in the row of a user of its own.
    fn filled(&self) -> Outcome {
        let send = "import os, socket, sys\n\
                    for uid in range(100_000, 108_400):\n\
                    \x20   os.setresuid(uid, 0, 0)\n\
                    \x20   try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', int(sys.argv[1])))\n\
                    \x20   except PermissionError: continue\n\
                    \x20   sys.exit('a datagram went')\n";
        let seen = Cmd::new("python3").args(["-c", send, &self.servers[0].port().to_string()]).run()?;
        expect(seen.success(), || seen.to_string())?;
        let began = Instant::now();
        let report = self.agent.borrow().json(&["coverage"])?;
        let (took, rows) = (began.elapsed(), report["rows"].as_array().map_or(0, Vec::len));
        println!("coverage: {rows} rows were read, reconciled and recorded in {took:?}");
        expect(rows == 8_192 && report["unexplained"] == 0, || format!("{rows} rows, {}", report["unexplained"]))?;
        expect(self.psql(0, CLIENT, "SELECT 1")?, || "no session".into())?;
        expect(took < FILLED, || format!("it took {took:?}"))
    }

    fn restarted(&self) -> Outcome {
        let before = [self.row("orders", CLIENT)?, self.row("stock", CLIENT)?];
        let config = self.agent.borrow().config();
        let written = std::fs::read_to_string(&config).map_err(text)?;
        let (head, targets) = written.split_once("\n[[target]]").ok_or("no target")?;
        let (targets, roles) = targets.split_once("\n[[role]]").ok_or("no role")?;
        let (first, second) = targets.split_once("\n[[target]]").ok_or("one target")?;
        let turned = format!("{head}\n[[target]]{second}\n[[target]]{first}\n[[role]]{roles}");
        std::fs::write(&config, turned).map_err(text)?;
        self.agent.borrow_mut().restart()?;
        expect(self.psql(1, CLIENT, "SELECT 1")?, || "no session".into())?;
        let after = [self.row("orders", CLIENT)?, self.row("stock", CLIENT)?];
        expect(after[0] == before[0], || format!("orders: {:?}", after[0].since(&before[0])))?;
        let found = after[1].since(&before[1]);
        expect(found == grown(&[("proxied", 1), ("redirected", 1)]), || format!("stock: {found:?}"))
    }

    fn lost(&self) -> Outcome {
        let named = self.events("lost-at-restart")?.len();
        let mut expected = Vec::new();
        let found = self.grown(0, || {
            let proxy = self.agent.borrow().proxy().ok_or("no proxy")?;
            kill(Pid::from_raw(proxy as i32), Signal::SIGSTOP).map_err(text)?;
            // The kernel completes the handshake, and nobody accepts.
            let clients: Outcome<Vec<TcpStream>> =
                (0..5).map(|_| TcpStream::connect(self.destination()).map_err(text)).collect();
            for client in clients? {
                expected.push(bpf::cookie(&client)?);
            }
            self.agent.borrow_mut().kill9();
            self.agent.borrow_mut().start()
        })?;
        expect(found == grown(&[("lost_at_restart", 5), ("redirected", 5)]), || format!("{found:?}"))?;
        let records = self.events("lost-at-restart")?;
        let flows: Vec<&Value> =
            records[named..].iter().filter_map(|event| event["flows"].as_array()).flatten().collect();
        let mut cookies: Vec<u64> = flows.iter().filter_map(|flow| flow["cookie"].as_u64()).collect();
        cookies.sort_unstable();
        expected.sort_unstable();
        expect(cookies == expected, || format!("{flows:?}"))?;
        let own = u64::from(std::process::id());
        expect(flows.iter().all(|flow| flow["tgid"] == own), || format!("{flows:?}"))
    }

    /// Recorded, and killed before the kernel side was told: the record is found.
    fn recorded(&self) -> Outcome {
        let found = self.grown(CLIENT, || {
            for round in 0..5 {
                expect(self.psql(0, CLIENT, "SELECT 1")?, || "no session".into())?;
                std::thread::sleep(Duration::from_millis(round * 7));
                self.agent.borrow_mut().kill9();
                self.agent.borrow_mut().start()?;
            }
            Ok(())
        })?;
        expect(found == grown(&[("proxied", 5), ("redirected", 5)]), || format!("{found:?}"))
    }

    fn many(&self) -> Outcome {
        let rounds = if full() { 400 } else { 60 };
        let before = self.row("orders", CLIENT)?;
        let script = format!(
            "import psycopg\nfor _ in range({rounds}):\n psycopg.connect('host=127.0.0.1 port={} dbname=postgres user=any sslmode=disable').close()",
            self.servers[0].port()
        );
        let python = Python::new()?;
        let clients: Outcome<Vec<_>> = (0..4).map(|_| python.script(&script).user(CLIENT, CLIENT).spawn()).collect();
        for client in clients? {
            // While they come and go the ledger is read, and finds nothing missing.
            self.ledger()?;
            let ended = client.finish(Duration::from_secs(300))?;
            expect(ended.success(), || ended.to_string())?;
        }
        let found = self.row("orders", CLIENT)?.since(&before);
        expect(found == grown(&[("proxied", 4 * rounds), ("redirected", 4 * rounds)]), || format!("{found:?}"))
    }

    fn unexplained(&self) -> Outcome {
        let proxy = self.agent.borrow().proxy().ok_or("no proxy")?;
        kill(Pid::from_raw(proxy as i32), Signal::SIGSTOP).map_err(text)?;
        let client = TcpStream::connect(self.destination()).map_err(text)?;
        let removed = bpf::remove_all(&self.pinned("OPEN"))?;
        drop(client);
        self.agent.borrow_mut().kill9();
        self.agent.borrow_mut().start()?;
        expect(removed == 1, || format!("{removed} were open"))?;

        let report = self.agent.borrow().postern(&["coverage", "--json"])?;
        let seen: Value = serde_json::from_str(&report.stdout).map_err(text)?;
        expect(report.code() == Some(1) && seen["unexplained"] == 1, || report.to_string())?;
        expect(row(&seen, "orders", 0).get("unexplained") == 1, || report.to_string())?;
        expect(self.events("unexplained")?.len() == 1, || "no alarm in the log".into())?;
        let status = self.agent.borrow().postern(&["status"])?;
        expect(status.code() == Some(1) && status.stdout.contains("degraded: coverage: "), || status.to_string())
    }

    /// After it nothing is unexplained any more: the counts are new.
    fn epochs(&self) -> Outcome {
        let before = self.events("kernel-side")?;
        self.agent.borrow_mut().uninstall()?;
        self.agent.borrow_mut().start()?;
        let removed = self.events("kernel-side-removed")?;
        expect(removed.len() == 1 && removed[0]["maps"].as_u64() > Some(10), || format!("{removed:?}"))?;
        let epochs = self.events("kernel-side")?;
        let (last, earlier) = (epochs.last().ok_or("no epoch")?, before.last().ok_or("no epoch")?);
        expect(last["epoch"] != earlier["epoch"] && last["adopted"] == 0, || format!("{last}"))?;
        expect(earlier["adopted"].as_u64() > Some(10), || format!("{earlier}"))?;
        expect(last["programs"]["connect4"].is_u64(), || format!("{last}"))?;
        let report = self.ledger()?;
        expect(report["rows"].as_array().is_some_and(Vec::is_empty), || report.to_string())
    }

    fn detached(&self) -> Outcome {
        std::fs::remove_file(self.pinned("link_release")).map_err(text)?;
        self.wait_for("programs-missing", |event| event["programs"] == serde_json::json!(["release"]))?;
        self.agent.borrow_mut().restart()?;
        let status = self.agent.borrow().postern(&["status"])?;
        expect(status.success(), || status.to_string())
    }

    fn losses(&self) -> Outcome {
        for (counter, times) in [(agent_common::Counter::MapFull, 3), (agent_common::Counter::Unheard, 2)] {
            bpf::set(&self.pinned("COUNTERS"), counter as u32, times)?;
        }
        self.wait_for("kernel-losses", |event| event["map_full"] == 3 && event["ring_buffer_lost"] == 2)
    }

    /// Forwards by a second and a half, and back at once.
    fn clock(&self) -> Outcome {
        let step = |by: TimeSpec| {
            let now = clock_gettime(ClockId::CLOCK_REALTIME).map_err(text)?;
            clock_settime(ClockId::CLOCK_REALTIME, now + by).map_err(text)
        };
        let by = TimeSpec::new(1, 500_000_000);
        step(by)?;
        let seen = self.wait_for("clock-step", |event| near(event, 1_500_000));
        step(TimeSpec::new(-2, 500_000_000))?;
        seen?;
        self.wait_for("clock-step", |event| near(event, -1_500_000))
    }

    fn wait_for(&self, name: &str, is_it: impl Fn(&Value) -> bool) -> Outcome {
        let mut seen = Vec::new();
        let found = wait_until(&format!("a record \"{name}\""), PATIENCE, || {
            seen = self.events(name).unwrap_or_default();
            seen.iter().any(&is_it)
        });
        found.map_err(|error| format!("{error}: {seen:?}"))
    }

    /// Waits until every connect has its record.
    fn nothing_open(&self) -> Outcome {
        let mut seen = Value::Null;
        let settled = wait_until("every connect has its record", PATIENCE, || {
            seen = self.agent.borrow().json(&["coverage"]).unwrap_or_default();
            seen["rows"].as_array().is_some_and(|rows| rows.iter().all(|row| row["open"] == 0))
        });
        settled.map_err(|error| format!("{error}: {seen}"))
    }
}

fn tcp() -> Outcome<OwnedFd> {
    socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(text)
}

fn near(event: &Value, micros: i64) -> bool {
    event["micros"].as_i64().is_some_and(|found| (found - micros).abs() < 200_000)
}

fn row(report: &Value, target: &str, user: u32) -> Row {
    let rows = report["rows"].as_array().into_iter().flatten();
    let found = rows.filter(|row| row["target"] == target && row["uid"] == user).find_map(Value::as_object);
    let columns = found.into_iter().flatten().filter(|(name, _)| *name != "uid");
    Row(columns.filter_map(|(name, value)| Some((name.clone(), value.as_i64()?))).collect())
}

fn grown(columns: &[(&str, i64)]) -> Vec<(String, i64)> {
    columns.iter().map(|(name, grown)| ((*name).to_owned(), *grown)).collect()
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
