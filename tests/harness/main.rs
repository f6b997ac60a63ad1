//! The harness itself: what it starts works, and nothing of it is left, however the process ends.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Duration,
};

use agent_tests::{
    Auth, Cmd, Netns, Outcome, Postgres, Python, Running, SystemUser, TempDir, fds, free_port, leftovers, proc,
    rss_kib, suite, wait_until,
};
use nix::sys::signal::Signal;

/// A user without passwd entry.
const NOBODY_KNOWN: u32 = 64_321;

/// Argument with which this program starts a server, says so, and waits to be killed.
const VICTIM: &str = "--victim";

const PATIENCE: Duration = Duration::from_secs(90);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(VICTIM) {
        return agent_tests::suite::root_part("victim", || victim().map(|()| ExitCode::SUCCESS));
    }
    agent_tests::suite::root_main("harness", || {
        Ok(suite("harness")
            .case("a command runs as a user that has no name", command_as_user)
            .case("a command that takes too long is killed with all that it started", command_limit)
            .case("a running command is talked to line by line", command_lines)
            .case("a port is free at all addresses", port_is_free)
            .case("a namespace has its own loopback and goes", namespace_goes)
            .case("a system user is made and removed", user_goes)
            .case("a server answers over TCP to the right password only", server_asks_for_password)
            .case("a server speaks TLS under its authority", server_speaks_tls)
            .case("Python's drivers work for any user", python_drivers)
            .case("a server goes with all its files", server_goes)
            .case("SIGKILL leaves nothing behind", || ending_leaves_nothing(Signal::SIGKILL))
            .case("SIGINT leaves nothing behind", || ending_leaves_nothing(Signal::SIGINT))
            .case("what is left by a test whose watchdog was killed too goes with the next suite", leftovers_go)
            .run())
    })
}

fn leftovers_go() -> Outcome {
    let mut ended = std::process::Command::new("true").spawn().map_err(|error| error.to_string())?;
    ended.wait().map_err(|error| error.to_string())?;
    let made = |pid: u32| -> Outcome<Vec<PathBuf>> {
        let name = format!("postern-test-{pid}-left");
        let paths = ["/sys/fs/bpf", "/tmp"].map(|place| Path::new(place).join(&name));
        paths.iter().try_for_each(std::fs::create_dir).map_err(|error| format!("{name}: {error}"))?;
        Ok(paths.into())
    };
    let (left, used) = (made(ended.id())?, made(std::process::id())?);
    leftovers::remove();
    let there = |paths: &[PathBuf]| paths.iter().filter(|path| path.exists()).count();
    let found = (there(&left), there(&used));
    left.iter().chain(&used).for_each(|path| drop(std::fs::remove_dir(path)));
    if found == (0, 2) { Ok(()) } else { Err(format!("of ended tests, of others: {found:?}")) }
}

fn command_as_user() -> Outcome {
    let ids = Cmd::new("sh").args(["-c", "id -u; id -g; id -G; cat"]).user(NOBODY_KNOWN, 5).input("said").ok()?;
    expect(&ids, "64321\n5\n5\nsaid")
}

fn command_limit() -> Outcome {
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let script = format!("sleep 1000 & echo $! > {}/pid; wait", dir.path().display());
    let failure = Cmd::new("sh").args(["-c", &script]).limit(Duration::from_millis(300)).run();
    let pid = std::fs::read_to_string(dir.join("pid")).map_err(|error| error.to_string())?;
    wait_until("the child has gone", PATIENCE, || gone(pid.trim()))?;
    if failure.is_err() { Ok(()) } else { Err("no time limit".into()) }
}

fn command_lines() -> Outcome {
    let mut cat = Cmd::new("cat").spawn()?;
    for line in ["first", "second"] {
        cat.send(line)?;
        expect(&cat.line(PATIENCE)?, line)?;
    }
    if rss_kib(cat.pid()).is_none_or(|kib| kib == 0) || fds(cat.pid()).is_none_or(|count| count < 3) {
        return Err("cat has neither memory nor descriptors".into());
    }
    cat.finish(PATIENCE).map(drop)
}

fn port_is_free() -> Outcome {
    let addresses = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::from(Ipv6Addr::LOCALHOST),
        "127.0.0.9".parse().map_err(|_| "address")?,
    ];
    let port = free_port(&addresses)?;
    for address in addresses {
        std::net::TcpListener::bind((address, port)).map_err(|error| format!("{address}: {error}"))?;
    }
    Ok(())
}

fn namespace_goes() -> Outcome {
    let namespace = Netns::new()?;
    let name = namespace.name().to_owned();
    let links = namespace.command().args(["ip", "-o", "link"]).ok()?;
    if links.lines().count() == 0 || !links.contains("UP") {
        return Err(format!("its loopback is not up: {links}"));
    }
    drop(namespace);
    if Path::new("/run/netns").join(&name).exists() { Err(format!("{name} is left")) } else { Ok(()) }
}

fn user_goes() -> Outcome {
    let name = format!("postern-t-{}", std::process::id());
    let user = SystemUser::new(&name)?;
    expect(&Cmd::new("id").args(["-un"]).user(user.uid(), user.gid()).ok()?, &format!("{name}\n"))?;
    drop(user);
    match agent_tests::users::find(&name)? {
        None => Ok(()),
        Some(_) => Err(format!("{name} is left")),
    }
}

fn server_asks_for_password() -> Outcome {
    for auth in [Auth::Scram, Auth::Md5, Auth::Cleartext] {
        let server = Postgres::builder().auth(auth).login("reader", "right").start()?;
        for address in server.addresses() {
            let connection =
                format!("host={} port={} user=reader dbname=postgres sslmode=disable", address.ip(), address.port());
            let psql = Cmd::psql(&connection, "SELECT 'in'").user(NOBODY_KNOWN, NOBODY_KNOWN);
            expect(&psql.clone().env("PGPASSWORD", "right").ok()?, "in\n")?;
            let refused = psql.env("PGPASSWORD", "wrong").run()?;
            if refused.success() || !refused.stderr.contains("password authentication failed") {
                return Err(format!("{auth:?} {address}: a wrong password: {refused}"));
            }
        }
        if !server.log().contains("SELECT 'in'") {
            return Err(format!("the statement is not in the server's log:\n{}", server.log()));
        }
    }
    Ok(())
}

fn server_speaks_tls() -> Outcome {
    let server = Postgres::builder().auth(Auth::Trust).tls(&["localhost", "127.0.0.1"])?.tls_only().start()?;
    let ca = server.ca().ok_or("no authority")?;
    let connection = |mode: &str| {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode={mode} sslrootcert={}",
            server.port(),
            ca.display()
        )
    };
    let shown = Cmd::psql(&connection("verify-full"), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    expect(&shown.user(NOBODY_KNOWN, NOBODY_KNOWN).ok()?, "t\n")?;
    if Cmd::psql(&connection("disable"), "SELECT 1").run()?.success() {
        return Err("a connection without TLS was let in".into());
    }
    Ok(())
}

fn python_drivers() -> Outcome {
    let server = Postgres::builder().login("reader", "right").start()?;
    let script = r#"
import asyncio, os, asyncpg, psycopg
url = os.environ["URL"]
with psycopg.connect(url) as connection:
    print(connection.execute("SELECT %s::int + 1", [41]).fetchone()[0])
async def again():
    connection = await asyncpg.connect(url)
    print(await connection.fetchval("SELECT $1::int + 1", 42))
    await connection.close()
asyncio.run(again())
"#;
    let url = format!("postgresql://reader:right@127.0.0.1:{}/postgres", server.port());
    let python = Python::new()?;
    let script = python.script(script).env("URL", url).user(NOBODY_KNOWN, NOBODY_KNOWN);
    expect(&script.ok()?, "42\n43\n")
}

fn server_goes() -> Outcome {
    let mut server = Postgres::builder().start()?;
    server.sql("postgres", "CREATE TABLE t (i int); INSERT INTO t VALUES (1), (2)")?;
    server.start_again()?;
    expect(&server.sql("postgres", "SELECT i, -i FROM t ORDER BY 1")?, "1|-1\n2|-2")?;
    if server.sql("postgres", "SELECT nothing").is_ok() {
        return Err("an error was not reported".into());
    }
    let (pid, socket) = (server.pid().to_string(), server.socket());
    if !socket.exists() {
        return Err("no socket".into());
    }
    drop(server);
    if gone(&pid) && !socket.exists() { Ok(()) } else { Err("the server or its files are left".into()) }
}

/// Starts this program once more as [`VICTIM`], ends it, and looks whether the server, its files and the command are gone.
fn ending_leaves_nothing(signal: Signal) -> Outcome {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut victim: Running = Cmd::new(this).arg(VICTIM).spawn()?;
    let words = victim.line(PATIENCE)?;
    let words: Vec<&str> = words.split(' ').collect();
    let [server, command, socket] = words[..] else { return Err(format!("the victim said: {words:?}")) };
    if gone(server) || gone(command) || !Path::new(socket).exists() {
        return Err("the victim has started nothing".into());
    }
    let directory = Path::new(socket).ancestors().nth(2).ok_or("no directory")?.to_owned();
    victim.signal(signal);
    wait_until("everything is gone", PATIENCE, || gone(server) && gone(command) && !directory.exists())
}

fn victim() -> Outcome {
    let server = Postgres::builder().start()?;
    let command = Cmd::new("sleep").arg("1000").spawn()?;
    println!("{} {} {}", server.pid(), command.pid(), server.socket().display());
    std::io::stdout().flush().map_err(|error| error.to_string())?;
    thread::sleep(Duration::from_secs(600));
    Err("nobody ended it".into())
}

fn gone(pid: &str) -> bool {
    let Ok(pid) = pid.parse() else { return false };
    // A process that has ended and is not waited for yet has no children and no memory.
    proc::start_ticks(pid).is_none() || rss_kib(pid).is_none()
}

fn expect(found: &str, wanted: &str) -> Outcome {
    if found == wanted { Ok(()) } else { Err(format!("found  {found:?}\nwanted {wanted:?}")) }
}
