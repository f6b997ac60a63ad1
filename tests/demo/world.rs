//! What the demo takes place in: a database server, two system users, the agent.

use std::{fs, path::Path};

use agent_tests::{Agent, Cmd, Outcome, Postgres, Python, SystemUser, Target, postgres, proc, users};

use crate::narrator::Narrator;

/// The user that the agent logs in as, and its password, which no client knows.
pub const APP: &str = "orders_app";
/// See [`APP`].
pub const PASSWORD: &str = "correct-horse-battery-staple";

/// The user that reads, and sees masked columns.
pub const READER: &str = "postern-demo-reader";
/// The user that reads, and may unmask.
pub const ANALYST: &str = "postern-demo-analyst";

const DATABASE: &str = "shop";

const SAMPLE: &str = "
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, email text NOT NULL, ssn text NOT NULL);
INSERT INTO customers VALUES
    (1, 'Customer One', 'first@example.com', '078-05-1120'),
    (2, 'Customer Two', 'second@example.com', '219-09-9999'),
    (3, 'Customer Three', 'third@example.com', '457-55-5462');
CREATE TABLE orders (id int PRIMARY KEY, customer int NOT NULL REFERENCES customers, total numeric(8,2) NOT NULL);
INSERT INTO orders SELECT n, 1 + n % 3, 10 * n FROM generate_series(1, 30) AS n;
GRANT ALL ON ALL TABLES IN SCHEMA public TO orders_app;
ALTER TABLE customers OWNER TO orders_app;
ALTER TABLE orders OWNER TO orders_app;
";

/// What something was, and a look at whether it is gone.
pub type Trace = (String, Box<dyn Fn() -> bool>);

/// All of it. The order of the fields is the order in which it goes: the agent first.
pub struct World {
    /// The agent, which protects the server.
    pub agent: Agent,
    /// Python with a PostgreSQL driver.
    pub python: Python,
    /// The server.
    pub server: Postgres,
    /// Who reads.
    pub reader: SystemUser,
    /// Who may unmask.
    pub analyst: SystemUser,
}

impl World {
    /// Makes everything, and starts it; the agent only if it is wanted.
    ///
    /// # Errors
    /// A part of it did not start.
    pub fn new(narrator: &mut Narrator, with_agent: bool) -> Outcome<Self> {
        narrator.scene(
            "A database, two system users, and the agent",
            "A throwaway PostgreSQL with customers and orders, which asks for a password; and Postern on the same host.",
        );
        let reader = SystemUser::new(READER)?;
        let analyst = SystemUser::new(ANALYST)?;
        let server = Postgres::builder().login(APP, PASSWORD).start()?;
        server.sql("postgres", &format!("CREATE DATABASE {DATABASE}"))?;
        server.sql(DATABASE, SAMPLE)?;
        let python = Python::new()?;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/orders/orders.cedar");
        let policy = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let target = Target::postgres("orders", server.addresses())
            .credential(APP, Some(PASSWORD))
            .column("*.public.customers.ssn", "pii", "last4")
            .column("*.public.customers.email", "pii", "email");
        let mut agent = Agent::builder()
            .target(target)
            .role("orders-reader", [format!("{{ user = \"{READER}\" }}")])
            .role("orders-analyst", [format!("{{ user = \"{ANALYST}\" }}")])
            .policy("orders.cedar", &policy)
            .prepare()?;
        for line in fs::read_to_string(agent.config()).map_err(|error| error.to_string())?.lines() {
            narrator.say(&format!("| {line}"));
        }
        if with_agent {
            agent.start()?;
            let status = narrator.run("root", &agent.command(["status"]))?;
            narrator.check("the agent is ready", status.success())?;
        } else {
            narrator.say("The agent is left stopped.");
        }
        Ok(Self { agent, python, server, reader, analyst })
    }

    /// An unmodified psql of the reader, with a password that is not the database's.
    pub fn reader_psql(&self, sql: &str) -> Cmd {
        self.psql("127.0.0.1", "not-the-password", &[], sql).user(self.reader.uid(), self.reader.gid())
    }

    /// The same of the analyst.
    pub fn analyst_psql(&self, sql: &str) -> Cmd {
        self.psql("127.0.0.1", "not-the-password", &[], sql).user(self.analyst.uid(), self.analyst.gid())
    }

    /// A psql of the reader that uses the database's own user and password.
    pub fn leaked_psql(&self, host: &str, sql: &str) -> Cmd {
        self.psql(host, PASSWORD, &["-U", APP], sql).user(self.reader.uid(), self.reader.gid())
    }

    fn psql(&self, host: &str, password: &str, words: &[&str], sql: &str) -> Cmd {
        Cmd::new(format!("{}/psql", postgres::BIN))
            .env("PGPASSWORD", password)
            .args(["-X", "-v", "VERBOSITY=verbose", "-h", host, "-p", &self.server.port().to_string()])
            .args(words)
            .args(["-d", DATABASE, "-c", sql])
    }

    /// Where a driver connects.
    pub fn url(&self) -> String {
        format!("postgresql://127.0.0.1:{}/{DATABASE}", self.server.port())
    }

    /// How many rows a table really has.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn rows(&self, table: &str) -> Outcome<String> {
        self.server.sql(DATABASE, &format!("SELECT count(*) FROM {table}"))
    }

    /// What must be gone after this world, each with a look at whether it is.
    pub fn traces(&self) -> Vec<Trace> {
        let mut traces: Vec<Trace> = Vec::new();
        for (what, path) in [("pins", self.agent.pins().to_owned()), ("the agent's files", self.agent.path(""))] {
            traces.push((format!("gone: {what}, {}", path.display()), Box::new(move || !path.exists())));
        }
        let pid = self.server.pid();
        traces.push((format!("gone: the database, process {pid}"), Box::new(move || proc::start_ticks(pid).is_none())));
        for user in [READER, ANALYST] {
            traces.push((format!("gone: user {user}"), Box::new(move || matches!(users::find(user), Ok(None)))));
        }
        traces
    }

    /// Says what can be tried while everything is kept running.
    pub fn invite(&self) {
        let port = self.server.port();
        println!("\nEverything is left running. Try, as root, in another terminal:");
        println!("   runuser -u {READER} -- psql -h 127.0.0.1 -p {port} -d {DATABASE}");
        println!("   runuser -u {ANALYST} -- psql -h 127.0.0.1 -p {port} -d {DATABASE}");
        for words in [&["status"][..], &["sessions", "list"], &["sessions", "replay", "ID"], &["audit", "verify"]] {
            let mut line = String::from("   ");
            if let Ok(program) = agent_tests::agent::postern() {
                line.push_str(&program.to_string_lossy());
            }
            println!("{line} {} --config {}", words.join(" "), self.agent.config().display());
        }
        println!("Ctrl-C ends and removes it all.");
    }
}
