//! Two servers with the same content. At one of them the login lacks the rights that policy withholds at the other, where the
//! login has them all.

use std::{cell::Cell, collections::HashSet, fs, time::Duration};

use agent_tests::{Agent, Auth, Control, Outcome, Postgres, Target, wait_until};
use serde_json::json;

use crate::story::{self, Line};

/// Who runs the clients; those within this process run as root.
pub const CLIENT: u32 = 61_040;

/// The database, and the target's name.
pub const DATABASE: &str = "denials";

/// The login at both servers.
pub const LOGIN: &str = "app";

const PATIENCE: Duration = Duration::from_secs(20);

/// Everything is permitted.
const OPEN: &str = r#"
@id("everything")
permit (principal in Role::"tester", action, resource in Target::"denials");
"#;

/// But for what the login of the direct server may not do either.
const CLOSED: &str = r#"
@id("closed")
@reason("The vault is closed.")
forbid (principal in Role::"tester", action, resource in Schema::"denials.denials.closed");

@id("settings")
@reason("Settings stay as they are.")
forbid (principal in Role::"tester", action == Action::"sql:set", resource in Target::"denials");
"#;

/// And for what it may not any more.
const FLIPPED: &str = r#"
@id("flipped")
@reason("No longer.")
forbid (principal in Role::"tester", action, resource in Table::"denials.denials.public.flips");

@id("nothing-unknown")
@reason("What cannot be understood is not run.")
forbid (principal in Role::"tester", action == Action::"sql:opaque", resource in Target::"denials");
"#;

/// The same at the direct server.
const WITHHELD: &str = "REVOKE ALL ON SCHEMA closed FROM app";

/// At the target's server the login may do everything.
const GRANTED: &str = "GRANT ALL ON SCHEMA closed TO app; GRANT ALL ON ALL TABLES IN SCHEMA closed TO app; \
                       GRANT SET ON PARAMETER session_replication_role TO app; GRANT CREATE ON DATABASE denials TO app";

/// What both hold at first.
const CONTENT: &str = "TRUNCATE closed.vault, work, numbered, flips, parent, child RESTART IDENTITY; \
                       DROP TABLE IF EXISTS made, closed.made; INSERT INTO work VALUES (1, 'one'), (2, 'two'), (3, 'three'); \
                       INSERT INTO flips VALUES (1, 'one'); INSERT INTO parent VALUES (1); GRANT ALL ON flips TO app; GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC;";

/// All that they hold and that outlives a session.
const KEPT: &str = "SELECT 'vault', * FROM closed.vault ORDER BY id; SELECT 'work', * FROM work ORDER BY id; \
                    SELECT 'numbered', * FROM numbered ORDER BY id; SELECT 'sequence', last_value, is_called FROM numbered_id_seq; \
                    SELECT 'flips', * FROM flips ORDER BY id; SELECT 'child', * FROM child ORDER BY id; \
                    SELECT 'prepared transaction', gid FROM pg_prepared_xacts ORDER BY gid; \
                    SELECT 'relation', oid::regclass, relkind FROM pg_class WHERE relnamespace IN \
                    ('public'::regnamespace, 'closed'::regnamespace) ORDER BY 2;";

/// What a session of the login holds, as others see it: its state, whether it has written, and its locks.
const HELD: &str = "SELECT state, backend_xid IS NOT NULL FROM pg_stat_activity WHERE usename = 'app'; \
                    SELECT locktype, relation::regclass, mode, objid FROM pg_locks JOIN pg_stat_activity USING (pid) \
                    WHERE usename = 'app' AND locktype <> 'virtualxid' AND locktype <> 'transactionid' ORDER BY 1, 2, 3, 4;";

/// Which server a client talks to, and under which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server that refuses by itself.
    Direct,
    /// The target, whose policy refuses.
    Denied,
    /// The target, whose policy permits everything.
    Permitted,
}

/// What one run of a situation left.
#[derive(Debug)]
pub struct Left {
    /// What the client saw.
    pub client: String,
    /// What the server keeps.
    pub server: String,
    /// What happened, as the log has it: that of the server for [`Side::Direct`], else the agent's.
    pub story: Vec<Line>,
    /// What the target's server has logged meanwhile.
    pub log: String,
}

/// The servers, and the agent before one of them.
pub struct World {
    agent: Agent,
    direct: Postgres,
    target: Postgres,
    law: Cell<Option<(Side, bool)>>,
}

impl World {
    pub fn new() -> Outcome<Self> {
        let (direct, target) = (server(WITHHELD)?, server(GRANTED)?);
        let agent = Agent::builder()
            .target(Target::postgres(DATABASE, target.addresses()).credential(LOGIN, None))
            .role("tester", [format!("{{ user = \"{CLIENT}\" }}"), "{ user = \"root\" }".to_owned()])
            .policy("open.cedar", OPEN)
            .policy("law.cedar", CLOSED)
            .start()?;
        Ok(Self { agent, direct, target, law: Cell::new(None) })
    }

    pub fn server(&self, side: Side) -> &Postgres {
        if side == Side::Direct { &self.direct } else { &self.target }
    }

    /// What the session that is open holds, as others see it.
    pub fn held(&self, side: Side) -> Outcome<String> {
        self.server(side).sql(DATABASE, HELD)
    }

    /// Takes the rights to `flips` and to write procedures away, by policy or by the server's own means.
    pub fn flip(&self, side: Side) -> Outcome {
        match side {
            Side::Direct => self
                .direct
                .sql(DATABASE, "REVOKE ALL ON flips FROM app; REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
                .map(drop),
            Side::Denied => self.rule(side, true),
            Side::Permitted => Ok(()),
        }
    }

    /// Runs a client on new content, and gathers what it left.
    pub fn run(&self, side: Side, client: impl FnOnce() -> Outcome<String>) -> Outcome<Left> {
        let server = self.server(side);
        server.sql(DATABASE, CONTENT)?;
        if side != Side::Direct {
            self.rule(side, false)?;
        }
        let (before, logged) = (self.sessions()?, server.log().len());
        let seen = client()?;
        let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
        wait_until("the server has no session of the client any more", PATIENCE, || {
            server.sql(DATABASE, open).is_ok_and(|count| count == "0")
        })?;
        let kept = server.sql(DATABASE, KEPT)?;
        server.sql(DATABASE, "SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts \\gexec")?;
        let log = server.log().split_off(logged);
        let story = match side {
            Side::Direct => story::of_server(&log),
            _ => self.recorded(&before)?,
        };
        Ok(Left { client: seen, server: kept, story, log })
    }

    /// Has the agent decide by these policies.
    fn rule(&self, side: Side, flipped: bool) -> Outcome {
        if self.law.replace(Some((side, flipped))) == Some((side, flipped)) {
            return Ok(());
        }
        let law = match (side, flipped) {
            (Side::Permitted, _) => String::new(),
            (_, false) => CLOSED.to_owned(),
            (_, true) => format!("{CLOSED}{FLIPPED}"),
        };
        let file = self.agent.path("policies/law.cedar");
        fs::write(&file, law).map_err(|error| format!("{}: {error}", file.display()))?;
        Control::connect(&self.agent)?.ask(&json!({ "ask": "reload" })).map(drop)
    }

    fn sessions(&self) -> Outcome<HashSet<String>> {
        let sessions = Control::connect(&self.agent)?.sessions(&json!({}))?;
        Ok(sessions.iter().filter_map(|session| session["session"].as_str().map(str::to_owned)).collect())
    }

    /// The story of all sessions that are not among these, which must have ended as the client wanted.
    fn recorded(&self, before: &HashSet<String>) -> Outcome<Vec<Line>> {
        let mut control = Control::connect(&self.agent)?;
        let mut new = Vec::new();
        wait_until("the log has the session's end", PATIENCE, || {
            new = control.sessions(&json!({ "limit": 1000 })).unwrap_or_default();
            new.retain(|session| !before.contains(session["session"].as_str().unwrap_or_default()));
            new.iter().all(|session| session["state"] != "open")
        })?;
        let mut story = Vec::new();
        for session in new.iter().rev() {
            let id = session["session"].as_str().ok_or("a session without an id")?;
            story.extend(story::of_session(&control.events(id)?)?);
        }
        Ok(story)
    }
}

fn server(rights: &str) -> Outcome<Postgres> {
    let server = Postgres::builder()
        .auth(Auth::Trust)
        .login(LOGIN, "")
        .setting("max_prepared_transactions = 5")
        // What has run is logged when it is done, and what has failed with its SQLSTATE.
        .setting("log_statement = 'none'")
        .setting("log_min_duration_statement = 0")
        .start()?;
    server.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    server.sql(DATABASE, include_str!("fixture.sql"))?;
    server.sql(DATABASE, rights)?;
    Ok(server)
}
