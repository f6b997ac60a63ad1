//! An unmodified psql.

use std::time::Duration;

use agent_tests::{Cmd, Outcome, Suite};
use nix::sys::signal::Signal;

use crate::world::{ANALYST, READER, STRANGER, WRITER, World, ensure, refused, says};

const ALL: &str = "SELECT id, name, ssn, email, born FROM customers ORDER BY id";

pub fn cases<'a>(suite: Suite<'a>, world: &'a World) -> Suite<'a> {
    suite
        .case("a reader sees masked columns", || {
            let seen = world.psql(READER, ALL)?;
            says(&seen, "1|Ann|***1120|a***@***.com|1980-01-01\n2|Ben|***9999|b***@***.org|1991-01-01\n3|Cat|||")
        })
        .case("an analyst sees them as they are", || {
            let seen = world.psql(ANALYST, ALL)?;
            says(&seen, "1|Ann|078-05-1120|ann@example.com|1980-05-06\n2|Ben|219-09-9999|ben@example.org|1991-10-11\n3|Cat|||")
        })
        .case("the role depends on the file that runs, not on the user alone", || {
            // The same user with another program has no role.
            let python = format!(
                "import socket,struct\ns=socket.create_connection(('127.0.0.1',{}))\nb=b'\\0\\3\\0\\0user\\0x\\0database\\0shop\\0\\0'\ns.sendall(struct.pack('!i',len(b)+4)+b)\nprint(s.recv(4096))",
                world.server.port()
            );
            let seen = Cmd::new("/usr/bin/python3").args(["-c", &python]).user(ANALYST, ANALYST).run()?;
            ensure(seen.stdout.contains("42501"), || seen.to_string())
        })
        .case("a user without a role is refused with a native error", || {
            refused(&world.psql(STRANGER, "SELECT 1")?, "denied by Postern")
        })
        .case("a writer writes", || {
            says(&world.psql(WRITER, "INSERT INTO orders VALUES (100, 1, 7.5)")?, "INSERT 0 1")?;
            says(&world.psql(WRITER, "UPDATE orders SET paid = true WHERE id = 100")?, "UPDATE 1")?;
            says(&world.psql(WRITER, "DELETE FROM orders WHERE id = 100")?, "DELETE 1")
        })
        .case("a DELETE without WHERE is refused and deletes nothing", || {
            let before = world.truth("SELECT count(*) FROM orders")?;
            let seen = world.psql(WRITER, "DELETE FROM orders")?;
            refused(&seen, "denied by Postern policy \"no-unbounded-writes\": DELETE and UPDATE need a WHERE clause here.")?;
            ensure(world.truth("SELECT count(*) FROM orders")? == before, || "rows are gone".into())
        })
        .case("a DROP is refused and drops nothing", || {
            refused(&world.psql(WRITER, "DROP TABLE orders")?, "denied by Postern")?;
            world.truth("SELECT 1 FROM orders LIMIT 1").map(drop)
        })
        .case("a function that users made is refused and does not run", || {
            let before = world.truth("SELECT count(*) FROM orders")?;
            refused(&world.psql(WRITER, "SELECT wipe()")?, "denied by Postern")?;
            ensure(world.truth("SELECT count(*) FROM orders")? == before, || "rows are gone".into())
        })
        .case("\\d, \\dt, \\l and \\df answer as they do directly", || {
            let script = "\\d customers\n\\dt\n\\dn\n\\df\n\\di\n\\d+ orders\n";
            let through = world.script(READER, script)?;
            let direct = Cmd::new("/usr/lib/postgresql/15/bin/psql")
                .args(["-X", "-A", "-t", "-q", "-U", "app", "-d", "shop", "-p", &world.server.port().to_string(), "-h"])
                .arg(world.server.socket().parent().ok_or("a socket without a directory")?)
                .input(script)
                .ok()?;
            ensure(through.stderr.is_empty(), || through.stderr.clone())?;
            ensure(through.stdout == direct, || format!("through:\n{}\ndirect:\n{direct}", through.stdout))
        })
        .case("psql shows the address that it asked for", || {
            let seen = world.script(READER, "\\conninfo\n")?;
            let port = format!("port \"{}\"", world.server.port());
            ensure(seen.stdout.contains("127.0.0.1") && seen.stdout.contains(&port), || seen.to_string())
        })
        .case("IPv6, IPv4-mapped and other spellings of the address are the same target", || {
            for host in ["::1", "::ffff:127.0.0.1", "0:0:0:0:0:0:0:1", "localhost", "0.0.0.0"] {
                let dsn = format!("host={host} port={} dbname=shop user=x sslmode=disable", world.server.port());
                let seen = Cmd::psql(&dsn, "SELECT ssn FROM customers WHERE id = 1").user(READER, READER).run()?;
                says(&seen, "***1120").map_err(|error| format!("{host}: {error}"))?;
            }
            Ok(())
        })
        .case("the database's name is passed on, and an unknown one is the server's own error", || {
            let dsn = world.dsn("").replace("dbname=shop", "dbname=nowhere");
            refused(&Cmd::psql(&dsn, "SELECT 1").user(READER, READER).run()?, "database \"nowhere\" does not exist")
        })
        .case("Ctrl-C cancels the statement at the server", || cancel(world))
        .case("a syntax error is refused with what is wrong, and the session goes on", || {
            let seen = world.script(READER, "SELEKT 1;\nSELECT 2;\n")?;
            let told = seen.stderr.contains("it does not parse: syntax error at or near \"SELEKT\"");
            ensure(seen.stdout.trim() == "2" && told, || seen.to_string())
        })
        .case("a large answer arrives whole", || {
            let seen = world.psql(READER, "SELECT count(*), sum(length(x)) FROM (SELECT repeat('x', 100) AS x FROM orders a, orders b, orders c, orders d) s")?;
            says(&seen, "10000|1000000")?;
            let rows = world.psql(READER, "SELECT a.id, repeat('y', 1000) FROM orders a, orders b, orders c, orders d")?;
            ensure(rows.stdout.lines().count() == 10_000 && rows.stdout.len() > 10_000_000, || {
                format!("{} lines, {} bytes", rows.stdout.lines().count(), rows.stdout.len())
            })
        })
}

fn cancel(world: &World) -> Outcome {
    let sleeping =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT count(*) FROM orders a%' AND state = 'active'";
    let joins: String = (b'b'..=b'z').map(|letter| format!(", orders {}", letter as char)).collect();
    let psql = Cmd::psql(&world.dsn("sslmode=disable"), &format!("SELECT count(*) FROM orders a{joins}"))
        .user(READER, READER)
        .spawn()?;
    agent_tests::wait_until("the statement runs", Duration::from_secs(10), || {
        world.truth(sleeping).is_ok_and(|count| count == "1")
    })?;
    psql.signal(Signal::SIGINT);
    let seen = psql.finish(Duration::from_secs(10)).map_err(|error| format!("{error}\n{}", world.agent.log()))?;
    refused(&seen, "canceling statement due to user request")?;
    ensure(world.truth(sleeping)? == "0", || "it still runs at the server".into())
}
