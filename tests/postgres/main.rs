//! PostgreSQL's protocol against a real server and real clients, without the kernel: logins, TLS, decisions, transactions,
//! names, masking, cancelling.

mod cases;
mod login;
mod proxy;

use std::process::ExitCode;

use agent_tests::{Auth, Outcome, Postgres, PostgresBuilder, Python, suite};

/// Customers whose `ssn` and `email` are masked, and what belongs to nobody.
const SAMPLE: &str = "
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, ssn text NOT NULL UNIQUE, email text, born date);
INSERT INTO customers VALUES
  (1, 'Ada', '111-22-3333', 'ada@example.org', '1815-12-10'), (2, 'Grace', '444-55-6666', 'grace@example.com', '1906-12-09');
CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, price numeric);
INSERT INTO products SELECT n, 'product ' || n, n FROM generate_series(1, 100) n;
GRANT ALL ON customers, products TO app;
GRANT CREATE ON SCHEMA public TO app;
";

fn main() -> ExitCode {
    agent_tests::suite::root_main("postgres", || {
        let server = server(Auth::Scram)?;
        let (newest, python) = (server_of(Auth::Scram, 18)?, Python::new()?);
        let cases = cases::all(&server);
        let suite = cases.into_iter().fold(suite("postgres"), |suite, (name, case)| suite.case(name, case));
        Ok(login::cases(suite, &server, &newest, &python).run())
    })
}

/// A server with the sample data, which asks for passwords this way.
fn server(auth: Auth) -> Outcome<Postgres> {
    server_of(auth, 15)
}

/// The same of this major version.
fn server_of(auth: Auth, version: u32) -> Outcome<Postgres> {
    with_data(Postgres::builder().version(version).auth(auth))
}

/// A server with the sample data, and TLS.
fn with_data(builder: PostgresBuilder) -> Outcome<Postgres> {
    let builder = builder.tls(&["orders.test", "127.0.0.1"])?;
    let server = builder.login("app", "upstream secret").start()?;
    server.sql("postgres", "CREATE DATABASE shop")?;
    server.sql("shop", SAMPLE)?;
    Ok(server)
}
