//! How a session begins: versions of the protocol and of the server, TLS, authentication on both sides.

mod clients;
mod failures;
mod hostile;
mod middle;
mod tls;
mod upstream;
mod versions;

use agent_tests::{Finished, Outcome, Postgres, Python, Suite};

const SESSION: &str = include_str!("session.py");

/// Adds the cases. `newest` speaks protocol 3.2 and direct TLS.
pub fn cases<'a>(suite: Suite<'a>, server: &'a Postgres, newest: &'a Postgres, python: &'a Python) -> Suite<'a> {
    let suite = versions::cases(suite, python);
    let suite = tls::cases(suite, server, newest, python);
    let suite = upstream::cases(suite, server);
    let suite = clients::cases(suite, server, python);
    let suite = hostile::cases(suite, server, python);
    failures::cases(suite, server, python)
}

/// Standard output of a script of psycopg with libpq 18, which connects with `DSN`.
fn script(python: &Python, text: &str, dsn: &str) -> Outcome<String> {
    let finished = run(python, text, dsn)?;
    if finished.success() { Ok(finished.stdout) } else { Err(finished.to_string()) }
}

fn run(python: &Python, text: &str, dsn: &str) -> Outcome<Finished> {
    python.script(text).env("DSN", dsn).run()
}
