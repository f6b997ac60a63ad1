//! Loads: pgbench's built-in scripts, in two query modes, with few and with many clients, and with a login for each
//! transaction.

use std::{fs, path::Path, time::Duration};

use agent_tests::{Cmd, Outcome};

use crate::figures::quantile;

/// Length of one run.
const SECONDS: u64 = 4;

/// How pgbench sends its queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Simple,
    Prepared,
}

impl Mode {
    /// Its name for pgbench.
    fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Prepared => "prepared",
        }
    }
}

/// What a transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// It reads one row.
    Select,
    /// The transaction of TPC-B: seven statements, of which four write.
    TpcB,
    /// It connects, reads one row, and leaves.
    Login,
}

/// A load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    script: Script,
    mode: Mode,
    clients: u32,
}

/// All of them.
pub const ALL: &[Load] = &[
    Load::new(Script::Select, Mode::Simple, 1),
    Load::new(Script::Select, Mode::Simple, 16),
    Load::new(Script::Select, Mode::Prepared, 1),
    Load::new(Script::Select, Mode::Prepared, 16),
    Load::new(Script::TpcB, Mode::Simple, 1),
    Load::new(Script::TpcB, Mode::Simple, 16),
    Load::new(Script::TpcB, Mode::Prepared, 1),
    Load::new(Script::TpcB, Mode::Prepared, 16),
    Load::new(Script::Login, Mode::Simple, 4),
];

/// What one run came to. Latencies are of single transactions, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Transactions.
    pub transactions: u64,
    /// Transactions a second, without the time to connect.
    pub tps: f64,
    /// Median latency.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

/// A pgbench that knows where to connect, and a directory that it may write to.
pub struct Pgbench {
    /// The command without a load.
    pub command: Cmd,
    /// Where its logs go; empty.
    pub logs: std::path::PathBuf,
}

impl Load {
    /// One client's simple statements.
    pub const SIMPLE: Self = Self::new(Script::Select, Mode::Simple, 1);
    /// One client's prepared statements.
    pub const PREPARED: Self = Self::new(Script::Select, Mode::Prepared, 1);

    const fn new(script: Script, mode: Mode, clients: u32) -> Self {
        Self { script, mode, clients }
    }

    /// `simple-16`
    pub fn name(&self) -> String {
        let Self { script, mode, clients } = self;
        match script {
            Script::Select => format!("{}-{clients}", mode.name()),
            Script::TpcB => format!("tpcb-{}-{clients}", mode.name()),
            Script::Login => format!("login-{clients}"),
        }
    }

    /// Statements of a transaction; `None` where each has a session of its own.
    pub fn statements(&self) -> Option<u64> {
        match self.script {
            Script::Select => Some(1),
            Script::TpcB => Some(7),
            Script::Login => None,
        }
    }

    /// Runs it once.
    ///
    /// # Errors
    /// pgbench failed, or a transaction did.
    pub fn run(&self, pgbench: &Pgbench) -> Outcome<Measured> {
        let threads = self.clients.min(2).to_string();
        let output = pgbench
            .command
            .clone()
            .args([
                "-n",
                "-b",
                if self.script == Script::TpcB { "tpcb-like" } else { "select-only" },
                "-M",
                self.mode.name(),
                "-c",
                &self.clients.to_string(),
                "-j",
                &threads,
                "-T",
                &SECONDS.to_string(),
            ])
            .args((self.script == Script::Login).then_some("-C"))
            .arg("-l")
            .arg("--log-prefix")
            .arg(pgbench.logs.join("run"))
            .limit(Duration::from_secs(SECONDS * 5 + 30))
            .ok()?;
        if field(&output, "number of failed transactions: ").is_none_or(|failed| failed != "0") {
            return Err(format!("transactions failed:\n{output}"));
        }
        let transactions = field(&output, "number of transactions actually processed: ");
        let tps = field(&output, "tps = ");
        let latencies = latencies(&pgbench.logs)?;
        Ok(Measured {
            transactions: transactions.and_then(|count| count.parse().ok()).ok_or_else(|| output.clone())?,
            tps: tps.and_then(|tps| tps.parse().ok()).ok_or_else(|| output.clone())?,
            p50: quantile(latencies.clone(), 50),
            p95: quantile(latencies.clone(), 95),
            p99: quantile(latencies, 99),
        })
    }
}

/// The word after a label.
fn field<'a>(output: &'a str, label: &str) -> Option<&'a str> {
    output.lines().find_map(|line| line.strip_prefix(label))?.split_ascii_whitespace().next()
}

/// The third column of every line of pgbench's logs.
fn latencies(logs: &Path) -> Outcome<Vec<f64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(logs).map_err(|error| format!("{}: {error}", logs.display()))?.flatten() {
        let text = fs::read_to_string(entry.path()).map_err(|error| format!("{}: {error}", entry.path().display()))?;
        found.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok()));
    }
    if found.is_empty() { Err(format!("pgbench has logged nothing in {}", logs.display())) } else { Ok(found) }
}
