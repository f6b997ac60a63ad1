//! Two servers with the same content: one is talked to directly, the other is a target.

use std::time::Duration;

use agent_tests::{Agent, Auth, Cmd, Outcome, Postgres, Target};

use crate::placed;

/// Who runs the clients.
pub const CLIENT: u32 = 61_030;

/// The database.
pub const DATABASE: &str = "drivers";

/// How long a client may take.
const LIMIT: Duration = Duration::from_secs(240);

/// Everything is permitted, also what cannot be understood.
const POLICY: &str = r#"
@id("everything")
permit (principal in Role::"tester", action, resource in Target::"drivers");
"#;

/// The servers, and the agent before one of them.
pub struct World {
    _agent: Agent,
    pub direct: Postgres,
    pub target: Postgres,
}

impl World {
    pub fn new() -> Outcome<Self> {
        let (direct, target) = (server()?, server()?);
        let agent = Agent::builder()
            .target(
                Target::postgres("drivers", target.addresses())
                    .credential("postgres", None)
                    // What a driver says it is, it expects to hear from the server.
                    .line("application_name = \"client\""),
            )
            .role("tester", [format!("{{ user = \"{CLIENT}\" }}"), "{ user = \"root\" }".to_owned()])
            .policy("all.cedar", POLICY)
            .start()?;
        Ok(Self { _agent: agent, direct, target })
    }

    /// The ports of the direct server and of the target.
    pub fn ports(&self) -> [u16; 2] {
        [self.direct.port(), self.target.port()]
    }

    /// Removes what an earlier client has left.
    pub fn reset(&self) -> Outcome {
        for server in [&self.direct, &self.target] {
            server.sql(DATABASE, "TRUNCATE work; DROP TABLE IF EXISTS piped")?;
        }
        Ok(())
    }

    /// Runs a client directly and through the agent. It must succeed, have a line for each of these scenarios, and print the
    /// same.
    pub fn same(&self, scenarios: &[&str], client: impl Fn(u16) -> Cmd) -> Outcome {
        self.reset()?;
        let [direct, through] = self.ports().map(|port| placed(client(port), port).limit(LIMIT).ok());
        let direct = direct.map_err(|error| format!("directly: {error}"))?;
        let through = through.map_err(|error| format!("through the agent: {error}"))?;
        let lacking = scenarios.iter().find(|name| !direct.contains(&format!("[\"{name}\"")));
        if let Some(name) = lacking {
            return Err(format!("the script does not go through {name}"));
        }
        same_lines(&direct, &through)
    }
}

/// Fails with the first line that differs.
pub fn same_lines(direct: &str, through: &str) -> Outcome {
    if direct == through {
        return Ok(());
    }
    let (mut one, mut other) = (direct.lines(), through.lines());
    loop {
        match (one.next(), other.next()) {
            (None, None) => return Err("line ends differ".into()),
            (one, other) if one == other => {}
            (one, other) => {
                return Err(format!(
                    "direct:  {}\nthrough: {}",
                    one.unwrap_or("(nothing)"),
                    other.unwrap_or("(nothing)")
                ));
            }
        }
    }
}

fn server() -> Outcome<Postgres> {
    let server = Postgres::builder()
        .auth(Auth::Trust)
        .setting("max_prepared_transactions = 10")
        .setting("wal_level = logical")
        .start()?;
    server.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
    server.sql(DATABASE, include_str!("fixture.sql"))?;
    Ok(server)
}
