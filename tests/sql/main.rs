//! The SQL corpus: what texts ask for, against a real server as the oracle, and what is proven about their answers.
//!
//! - `corpus/*.sql`: texts with the requests that they make. Where a role of the server can be granted the
//!   corresponding privileges, a role with exactly those must succeed, and fail with 42501 when any one is taken away.
//! - `proof/*.sql`: texts with what is known about their answers with respect to masked columns.
//! - what `psql` sends by itself must need nothing beyond `sql:basics`.

mod corpus;
mod known;
mod oracle;
mod proofs;
mod psql;
mod server;

use std::{error::Error, process::ExitCode};

use corpus::Case;
use server::Server;

/// Texts with expected requests. The suite fails if there are fewer.
const REQUESTS: usize = 325;

/// Of those, texts that the server was asked about too.
const ASKED: usize = 195;

/// Texts with an expected answer.
const PROOFS: usize = 165;

/// Texts that psql sends.
const PSQL: usize = 85;

const CORPUS: &[(&str, &str)] = &[
    ("queries", include_str!("corpus/queries.sql")),
    ("writes", include_str!("corpus/writes.sql")),
    ("names", include_str!("corpus/names.sql")),
    ("functions", include_str!("corpus/functions.sql")),
    ("session", include_str!("corpus/session.sql")),
    ("catalogue", include_str!("corpus/catalogue.sql")),
    ("definitions", include_str!("corpus/definitions.sql")),
    ("administration", include_str!("corpus/administration.sql")),
];

/// Counts cases and prints what is wrong with those that fail.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    fn note(&mut self, name: &str, problems: Vec<String>) {
        if problems.is_empty() {
            self.passed += 1;
            return;
        }
        self.failed += 1;
        println!("FAILED {name}");
        for problem in problems {
            println!("    {problem}");
        }
    }

    fn at_least(&mut self, what: &str, declared: usize, found: usize) {
        if found < declared {
            self.failed += 1;
            println!("FAILED {what}: {found} cases, declared {declared}");
        }
    }
}

fn main() -> ExitCode {
    let mut tally = Tally::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(&mut tally)));
    if let Err(error) = outcome {
        tally.failed += 1;
        println!("FAILED: {error}");
    }
    println!("{} passed, {} failed, 0 skipped", tally.passed, tally.failed);
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn run(tally: &mut Tally) -> Result<(), Box<dyn Error>> {
    let server = Server::start()?;
    let admin = server.connect().await?;
    admin.batch_execute(include_str!("fixture.sql")).await?;
    let catalogue = known::catalogue(&admin).await?;

    let mut cases = Vec::new();
    for (file, text) in CORPUS {
        cases.extend(Case::parse(file, text)?);
    }
    let mut seen = std::collections::HashSet::new();
    oracle::prepare(&admin, &cases).await?;
    let mut asked = 0;
    for case in &cases {
        let mut problems = case.compare(&catalogue);
        if !seen.insert(case.sql.clone()) {
            problems.push("the text is in the corpus twice".into());
        }
        if case.ungrantable.is_none() {
            asked += 1;
            problems
                .extend(oracle::ask(&server, &admin, case).await.map_err(|error| format!("{}: {error}", case.name))?);
        }
        tally.note(&case.name, problems);
    }
    tally.at_least("requests", REQUESTS, cases.len());
    tally.at_least("requests that the server was asked about", ASKED, asked);
    println!("{} texts with requests, {asked} of them with the server as the oracle", cases.len());

    let proofs = proofs::run(tally, &catalogue)?;
    tally.at_least("proofs", PROOFS, proofs);
    let texts = psql::run(tally, &server, &catalogue)?;
    tally.at_least("texts of psql", PSQL, texts);
    println!("{proofs} proofs, {texts} texts of psql");
    Ok(())
}
