//! Hostile bytes at the proxy, before and after ReadyForQuery: each ends in a native error or a close, and leaves nothing.

mod inputs;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use agent_tests::{Agent, Auth, Outcome, Postgres, Target, fds, full, rss_kib, suite, suite::root_main, wait_until};

const POLICY: &str = r#"
@id("all")
permit (
    principal in Role::"client",
    action in [Action::"connect", Action::"sql:select", Action::"sql:insert", Action::"sql:copy_in"],
    resource
);
"#;

/// Rounds of all inputs before anything is measured.
const WARM_UP: usize = 3;
/// Memory that may come on top after the warm-up.
const GROWTH_KIB: u64 = 8 * 1024;

fn main() -> ExitCode {
    root_main("malformed", || {
        let server = Postgres::builder().auth(Auth::Trust).login("app", "unused").start()?;
        server.sql("postgres", "CREATE TABLE t (id int, s text); GRANT ALL ON t TO app")?;
        let (asking, plain): (Vec<_>, Vec<_>) = server.addresses().into_iter().partition(SocketAddr::is_ipv6);
        let agent = Agent::builder()
            .target(
                Target::postgres("asking", &asking)
                    .credential("app", None)
                    .line("serve = { password = \"placeholder\" }"),
            )
            .target(Target::postgres("db", plain).credential("app", None).column("*.public.t.s", "secret", "redact"))
            .role("client", ["{ user = \"root\" }"])
            .policy("all.cedar", POLICY)
            .start()?;
        let asking = *asking.first().ok_or("the server has no address of IPv6")?;
        let world = World { address: SocketAddr::from(([127, 0, 0, 1], server.port())), asking, agent };
        world.healthy()?;
        let proxy = world.agent.proxy().ok_or("there is no proxy")?;
        // Warm-up: everything, so that caches and allocator pools have their size.
        let (before, asked, after) = (inputs::before_ready(), inputs::asked(), inputs::after_ready());
        for _ in 0..WARM_UP {
            for input in &before {
                world.send_before(&input.bytes)?;
            }
            for input in &asked {
                world.send_asked(&input.bytes)?;
            }
            for input in &after {
                world.send_after(&input.bytes)?;
            }
        }
        world.settle(proxy)?;
        let (memory, descriptors) = (rss_kib(proxy).ok_or("no proxy")?, fds(proxy).ok_or("no proxy")?);

        let mut cases = suite("malformed");
        let world = &world;
        for input in before {
            cases = cases.case(format!("before ReadyForQuery: {}", input.name), move || {
                world.send_before(&input.bytes).and_then(|answer| judge(&answer))
            });
        }
        for input in asked {
            cases = cases.case(format!("asked for a password: {}", input.name), move || {
                let answer = world.send_asked(&input.bytes)?;
                let let_in = answer.bytes.windows(9).any(|window| window == b"R\0\0\0\x08\0\0\0\0");
                expect(!let_in, || "it is let in".into()).and_then(|()| judge(&answer))
            });
        }
        for input in after {
            cases = cases.case(format!("after ReadyForQuery: {}", input.name), move || {
                world.send_after(&input.bytes).and_then(|answer| judge(&answer))
            });
        }
        Ok(cases
            .case("the proxy is the same process, and serves as before", || {
                world.healthy()?;
                expect(world.agent.proxy() == Some(proxy), || "it is another one".into())
            })
            .case("nothing panicked", || {
                let log = world.agent.log();
                expect(!log.contains("panicked"), || log.lines().filter(|line| line.contains("panicked")).collect())
            })
            .case("descriptors are as many as before", || {
                wait_until("all connections are closed", Duration::from_secs(10), || fds(proxy) == Some(descriptors))
                    .map_err(|error| format!("{error}: {:?} instead of {descriptors}", fds(proxy)))
            })
            .case("memory has grown by no more than 8 MiB", || {
                // What is free is given back every few seconds.
                let mut now = 0;
                let settled = wait_until("memory is given back", Duration::from_secs(15), || {
                    now = rss_kib(proxy).unwrap_or(u64::MAX);
                    now <= memory + GROWTH_KIB
                });
                println!("malformed: {memory} KiB after the warm-up, {now} KiB at the end (full size: {})", full());
                settled.map_err(|error| format!("{error}: {memory} KiB, then {now} KiB"))
            })
            .run())
    })
}

/// How a connection ended, and what was received.
struct Answer {
    bytes: Vec<u8>,
    closed: bool,
}

struct World {
    address: SocketAddr,
    /// Where clients are asked for a password.
    asking: SocketAddr,
    agent: Agent,
}

impl World {
    fn open(&self) -> Outcome<TcpStream> {
        let socket = TcpStream::connect(self.address).map_err(|error| format!("connect: {error}"))?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
        Ok(socket)
    }

    /// Sends bytes as the first of a connection, ends the sending side, and reads to the end.
    fn send_before(&self, bytes: &[u8]) -> Outcome<Answer> {
        finish(self.open()?, bytes)
    }

    /// The same where the agent has asked for a password.
    fn send_asked(&self, bytes: &[u8]) -> Outcome<Answer> {
        let mut socket = TcpStream::connect(self.asking).map_err(|error| format!("connect: {error}"))?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).map_err(|error| error.to_string())?;
        socket.write_all(&inputs::startup("db", "postgres")).map_err(|error| error.to_string())?;
        let mut offer = [0; 24];
        socket.read_exact(&mut offer).map_err(|error| format!("before the offer: {error}"))?;
        expect(&offer == b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", || format!("{offer:?} is no offer"))?;
        finish(socket, bytes)
    }

    /// The same in an open session that is ready for a query.
    fn send_after(&self, bytes: &[u8]) -> Outcome<Answer> {
        let mut socket = self.open()?;
        socket.write_all(&inputs::startup("db", "postgres")).map_err(|error| error.to_string())?;
        let mut seen = Vec::new();
        while !seen.ends_with(b"Z\0\0\0\x05I") {
            let mut buffer = [0; 8192];
            match socket.read(&mut buffer) {
                Ok(0) => return Err(format!("closed before ReadyForQuery: {}", String::from_utf8_lossy(&seen))),
                Ok(read) => seen.extend_from_slice(&buffer[..read]),
                Err(error) => {
                    return Err(format!("before ReadyForQuery: {error} after {:?}", String::from_utf8_lossy(&seen)));
                }
            }
        }
        finish(socket, bytes)
    }

    /// An ordinary session works.
    fn healthy(&self) -> Outcome {
        let answer = self.send_after(&inputs::message(b'Q', b"SELECT 'healthy'\0"))?;
        let text = String::from_utf8_lossy(&answer.bytes).into_owned();
        expect(text.contains("healthy"), || text.clone())
    }

    fn settle(&self, proxy: u32) -> Outcome {
        let mut last = None;
        wait_until("connections are closed", Duration::from_secs(10), || {
            std::thread::sleep(Duration::from_millis(300));
            let now = fds(proxy);
            let same = now == last;
            last = now;
            same
        })
    }
}

/// Writes, shuts the sending side, and reads until the other side closes.
fn finish(mut socket: TcpStream, bytes: &[u8]) -> Outcome<Answer> {
    // A reset while writing is an end like another.
    let written = socket.write_all(bytes).and_then(|()| socket.shutdown(Shutdown::Write));
    let mut answer = Answer { bytes: Vec::new(), closed: written.is_err() };
    let mut buffer = [0; 8192];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => answer.closed = true,
            Ok(read) => answer.bytes.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                break;
            }
            Err(_) => answer.closed = true,
        }
        if answer.closed {
            break;
        }
    }
    Ok(answer)
}

/// The connection must have ended.
fn judge(answer: &Answer) -> Outcome {
    expect(answer.closed, || format!("still open after {} bytes", answer.bytes.len()))
}

fn expect(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise()) }
}
