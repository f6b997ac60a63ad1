//! Connections older than the agent. The judge is the server: which backends it has, and for how long.

use std::net::IpAddr;

use agent_tests::{Agent, Cmd, Outcome, Running, Suite, wait_until};
use serde_json::Value;

use crate::world::{MASKED, PATIENCE, PLAIN, QUERY, READER, World, answers, ensure, last_session, status};

pub fn cases<'a>(suite: Suite<'a>, world: &'a World) -> Suite<'a> {
    suite
        .case("cut: old connections end on every path, and the next go through the agent", || cut(world))
        .case("cut: what is not protected, or only observed, goes on", || spared(world))
        .case("cut: who is excluded goes on, also once it connects again", || excluded(world))
        .case("the agent's own connections are not taken for old ones", || own(world))
        .case("leave: old connections go on, are listed and recorded; the next go through the agent", || leave(world))
}

/// An open session of a `psql`.
struct Session {
    psql: Running,
    name: &'static str,
}

impl Session {
    fn open(name: &'static str, command: Cmd, words: &[String]) -> Outcome<Self> {
        // The name is how the server tells this one from the others.
        let (dsn, others) = words.split_last().ok_or("no words")?;
        let command = command.args(others).arg(format!("{dsn} application_name={name}"));
        let mut session = Self { psql: command.spawn()?, name };
        session.works()?;
        Ok(session)
    }

    fn works(&mut self) -> Outcome {
        self.psql.send("SELECT 'works';")?;
        let line = self.psql.line(PATIENCE)?;
        ensure(line == "works", || format!("{}: {line}", self.name))
    }

    /// The client has to see an error.
    fn broken(mut self) -> Outcome {
        self.psql.send("SELECT 'works';")?;
        let seen = self.psql.finish(PATIENCE)?;
        ensure(!seen.success() && !seen.stdout.contains("works"), || format!("{}: {seen}", self.name))
    }
}

/// One old connection for each path.
fn sessions(world: &World) -> Outcome<Vec<Session>> {
    let on_host = |name, address: IpAddr| {
        let words = world.psql(address);
        Session::open(name, Cmd::new(&words[0]).user(READER, READER), &words[1..])
    };
    let inside = |name, address: IpAddr| Session::open(name, world.container.command(READER), &world.psql(address));
    let mapped = IpAddr::from(world.link.host4.to_ipv6_mapped());
    Ok(vec![
        on_host("older-loopback", [127, 0, 0, 1].into())?,
        on_host("older-v4", world.link.host4.into())?,
        on_host("older-v6", world.link.host6.into())?,
        on_host("older-mapped", mapped)?,
        inside("older-container-v4", world.link.host4.into())?,
        inside("older-container-v6", world.link.host6.into())?,
        inside("older-container-mapped", mapped)?,
    ])
}

/// Names of the old connections that the server has.
fn backends(world: &World) -> Outcome<Vec<String>> {
    let sql = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'older-%' ORDER BY 1";
    Ok(world.server.sql("postgres", sql)?.lines().map(str::to_owned).collect())
}

fn sorted(sessions: &[Session]) -> Vec<String> {
    let mut names: Vec<String> = sessions.iter().map(|session| session.name.to_owned()).collect();
    names.sort();
    names
}

/// Records of old connections in the agent's journal.
fn records(agent: &Agent) -> Outcome<Vec<Value>> {
    let directory = agent.path("state/journal");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))? {
        let bytes =
            std::fs::read(entry.map_err(|error| error.to_string())?.path()).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        for (start, _) in text.match_indices(r#"{"event":"older-connection""#) {
            let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
            found.extend(values.next().and_then(Result::ok));
        }
    }
    Ok(found)
}

fn recorded(agent: &Agent, sessions: &[Session], fate: &str) -> Outcome {
    let mut last = Vec::new();
    wait_until("all are recorded", PATIENCE, || {
        last = records(agent).unwrap_or_default();
        last.len() >= sessions.len()
    })
    .map_err(|error| format!("{error}: {last:?}"))?;
    ensure(last.len() == sessions.len(), || format!("{last:?}"))?;
    for record in &last {
        let older = &record["connection"];
        let holder = &older["holders"][0];
        ensure(
            record["target"] == "shop"
                && older["fate"] == fate
                && older["uid"] == READER
                && older["destination"].as_str().is_some_and(|to| !to.contains("ffff"))
                && holder["exe"] == "/usr/lib/postgresql/15/bin/psql",
            || record.to_string(),
        )?;
    }
    Ok(())
}

fn cut(world: &World) -> Outcome {
    let sessions = sessions(world)?;
    ensure(backends(world)? == sorted(&sessions), || "the control: not all are open".into())?;
    let agent = world.builder().start()?;
    wait_until("the server has none of them any more", PATIENCE, || backends(world).is_ok_and(|left| left.is_empty()))
        .map_err(|error| format!("{error}: {:?}\n{}", backends(world), agent.log()))?;
    recorded(&agent, &sessions, "cut")?;
    let seen = status(&agent)?;
    ensure(seen["enforcing"] == "enforcing" && seen["surroundings"]["cut"] == sessions.len(), || seen.to_string())?;
    for session in sessions {
        session.broken()?;
    }
    answers(MASKED, || world.ask(world.link.host6))?;
    answers(MASKED, || world.ask_in(&world.container, world.link.host4))
}

fn spared(world: &World) -> Outcome {
    let other = agent_tests::Postgres::builder().auth(agent_tests::Auth::Trust).start()?;
    let dsn = format!("host=127.0.0.1 port={} dbname=postgres user=postgres sslmode=disable", other.port());
    let words = ["-X", "-A", "-t", "-q", "-d", &dsn].map(String::from);
    let mut unprotected =
        Session::open("other", Cmd::new("/usr/lib/postgresql/15/bin/psql").user(READER, READER), &words)?;
    let mut observed = sessions(world)?;
    let agent = world.shaped(|target| target.observe()).start()?;
    wait_until("all connections were looked at", PATIENCE, || {
        status(&agent).is_ok_and(|status| status["surroundings"]["looked"].as_u64() >= Some(1))
    })?;
    unprotected.works()?;
    observed.iter_mut().try_for_each(Session::works)?;
    ensure(status(&agent)?["surroundings"]["cut"] == 0, || "something was cut".into())
}

fn excluded(world: &World) -> Outcome {
    const EXCLUDED: u32 = READER + 1;
    let words = world.psql(world.link.host4);
    let open = |name, uid| Session::open(name, Cmd::new(&words[0]).user(uid, uid), &words[1..]);
    let (mut spared, old) = (open("older-excluded", EXCLUDED)?, open("older-included", READER)?);
    let agent = world.builder().intercept(&format!("exclude = {{ users = [\"{EXCLUDED}\"] }}")).start()?;
    wait_until("one has ended", PATIENCE, || status(&agent).is_ok_and(|seen| seen["surroundings"]["cut"] == 1))?;
    ensure(backends(world)? == ["older-excluded"], || format!("{:?}", backends(world)))?;
    old.broken()?;
    spared.works()?;
    let again = Cmd::new(&words[0]).args(&words[1..]).args(["-c", QUERY]).user(EXCLUDED, EXCLUDED);
    answers(PLAIN, || again.run())?;
    answers(MASKED, || world.ask(world.link.host4))
}

fn own(world: &World) -> Outcome {
    // An old connection that is left makes every question for the status look at all connections again.
    let words = world.psql([127, 0, 0, 1]);
    let mut old = Session::open("older-left", Cmd::new(&words[0]).user(READER, READER), &words[1..])?;
    let agent = world.builder().intercept("existing = \"leave\"").start()?;
    let mut through = Session::open("through", Cmd::new(&words[0]).user(READER, READER), &words[1..])?;
    let seen = status(&agent)?;
    ensure(seen["surroundings"]["open"] == 1, || seen.to_string())?;
    old.works()?;
    through.works()
}

fn leave(world: &World) -> Outcome {
    let mut sessions = sessions(world)?;
    let mut agent = world.builder().intercept("existing = \"leave\"").start()?;
    recorded(&agent, &sessions, "left")?;
    sessions.iter_mut().try_for_each(Session::works)?;
    ensure(backends(world)? == sorted(&sessions), || "some have ended".into())?;
    let seen = status(&agent)?;
    ensure(
        seen["enforcing"].as_str().is_some_and(|state| state.contains("7 connections older than interception go on"))
            && seen["surroundings"]["older"].as_array().is_some_and(|older| older.len() == sessions.len()),
        || seen.to_string(),
    )?;
    let text = agent.postern(&["status"])?;
    ensure(text.code() == Some(1) && text.stdout.contains("(/usr/lib/postgresql/15/bin/psql)"), || text.to_string())?;
    // What connects now goes through the agent.
    answers(MASKED, || world.ask(world.link.host4))?;
    ensure(last_session(&agent)?["target"] == "shop", || "no session".into())?;
    ensure(!agent.log().contains("could not be marked"), || agent.log())?;
    // One that ends by itself is listed no more.
    sessions.truncate(6);
    let mut seen = Value::Null;
    wait_until("it is not listed any more", PATIENCE, || {
        seen = status(&agent).unwrap_or_default();
        seen["surroundings"]["open"] == sessions.len()
    })
    .map_err(|error| format!("{error}: {seen}"))?;
    // Who changes his mind has the others cut.
    let config = std::fs::read_to_string(agent.config()).map_err(|error| error.to_string())?;
    std::fs::write(agent.config(), config.replace("\"leave\"", "\"cut\"")).map_err(|error| error.to_string())?;
    agent.restart()?;
    wait_until("the server has none of them any more", PATIENCE, || backends(world).is_ok_and(|left| left.is_empty()))?;
    sessions.into_iter().try_for_each(Session::broken)?;
    ensure(status(&agent)?["enforcing"] == "enforcing", || "degraded".into())
}
