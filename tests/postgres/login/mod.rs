//! How a session begins: versions of the protocol and of the server, TLS, authentication on both sides.

mod versions;

use agent_tests::{Finished, Outcome, Postgres, Python, Suite};

/// Adds the cases.
pub fn cases<'a>(suite: Suite<'a>, server: &'a Postgres, python: &'a Python) -> Suite<'a> {
    let suite = versions::cases(suite, python);
    let _ = server;
    suite
}

/// Standard output of a script of psycopg with libpq 18, which connects with `DSN`.
fn script(python: &Python, text: &str, dsn: &str) -> Outcome<String> {
    run(python, text, dsn).and_then(|finished| match finished.success() {
        true => Ok(finished.stdout),
        false => Err(finished.to_string()),
    })
}

fn run(python: &Python, text: &str, dsn: &str) -> Outcome<Finished> {
    python.script(text).env("DSN", dsn).run()
}
