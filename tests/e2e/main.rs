//! End to end: the real kernel, a real PostgreSQL, real clients, and the agent between them.

mod denials;
mod drivers;
mod limits;
mod observe;
mod psql;
mod record;
mod tls;
mod world;

use std::process::ExitCode;

use agent_tests::{suite, suite::root_main};
use world::World;

fn main() -> ExitCode {
    root_main("e2e", || {
        let world = World::new()?;
        let mut suite = suite("e2e");
        suite = psql::cases(suite, &world);
        suite = denials::cases(suite, &world);
        suite = drivers::cases(suite, &world);
        suite = record::cases(suite, &world);
        suite = limits::cases(suite, &world);
        suite = tls::cases(suite);
        suite = observe::cases(suite);
        Ok(suite.run())
    })
}
