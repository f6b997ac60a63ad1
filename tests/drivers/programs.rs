//! PostgreSQL's own programs: psql, pgbench, pg_dump, pg_restore.

use agent_tests::{Cmd, Outcome, Suite, TempDir, postgres::BIN};

use crate::{
    placed,
    world::{DATABASE, World, same_lines},
};

pub fn cases<'a>(suite: Suite<'a>, world: &'a World) -> Suite<'a> {
    suite
        .case("psql: its backslash commands, formats and copies", || psql(world))
        .case("pgbench: every protocol, and pipelines", || pgbench(world))
        .case("pg_dump and pg_restore: a whole database there and back", || dump(world))
}

fn program(name: &str) -> Cmd {
    Cmd::new(format!("{BIN}/{name}"))
}

fn psql(world: &World) -> Outcome {
    world.same(&[], |_| program("psql").args(["-X", "-a", "-q"]).input(include_str!("all.psql")))
}

fn pgbench(world: &World) -> Outcome {
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let pipeline = "\\startpipeline\nSELECT 1;\nUPDATE pgbench_branches SET bbalance = bbalance + 1 WHERE bid = 1;\n\
                    SELECT count(*) FROM pgbench_branches;\n\\endpipeline\n";
    let pipeline = dir.write("pipeline.sql", pipeline, 0o644).map_err(|error| error.to_string())?;
    for port in world.ports() {
        placed(program("pgbench").args(["-i", "-s", "1", "-q"]), port).ok()?;
        for mode in ["simple", "extended", "prepared"] {
            let bench = program("pgbench").args(["-n", "-c", "3", "-t", "40", "-M", mode]);
            done(&placed(bench, port).ok()?, 120)?;
        }
        let bench = program("pgbench").args(["-n", "-c", "2", "-t", "20", "-M", "extended", "-f"]).arg(&pipeline);
        done(&placed(bench, port).ok()?, 40)?;
    }
    let sums = "SELECT (SELECT count(*) FROM pgbench_history), (SELECT sum(abalance) FROM pgbench_accounts) \
                = (SELECT sum(delta) FROM pgbench_history), (SELECT sum(bbalance) FROM pgbench_branches) - 40 \
                = (SELECT sum(delta) FROM pgbench_history)";
    same_lines("360|t|t", &world.target.sql(DATABASE, sums)?)
}

fn done(said: &str, transactions: u32) -> Outcome {
    let processed = format!("number of transactions actually processed: {transactions}/{transactions}");
    if said.contains(&processed) { Ok(()) } else { Err(said.to_owned()) }
}

fn dump(world: &World) -> Outcome {
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let space = dir.dir("dumps", 0o777, 0, 0).map_err(|error| error.to_string())?;
    let [direct, through] = world.ports().map(|port| {
        let plain = |database: &str| {
            let dump = placed(program("pg_dump").args(["-T", "pgbench*", "-d", database]), port).ok()?;
            // A word that is drawn anew for each dump.
            let drawn = |line: &&str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
            Ok::<_, String>(dump.lines().filter(|line| !drawn(line)).collect::<Vec<_>>().join("\n"))
        };
        let before = plain(DATABASE)?;
        let mut all = vec![before];
        for (format, jobs) in [("c", "1"), ("d", "2")] {
            let (file, name) = (space.join(format!("{format}-{port}")), format!("restored_{format}"));
            let dump = program("pg_dump").args(["-T", "pgbench*", "-j", jobs, "-F", format, "-f"]).arg(&file);
            placed(dump, port).ok()?;
            placed(program("createdb").arg(&name), port).ok()?;
            let restore = program("pg_restore").args(["-j", "2", "-d", &name]).arg(&file);
            placed(restore, port).ok()?;
            all.push(plain(&name)?);
        }
        if all.iter().any(|dump| *dump != all[0]) {
            return Err("what was restored differs from what was dumped".to_owned());
        }
        Ok(all.join("\n"))
    });
    same_lines(&direct?, &through?)
}
