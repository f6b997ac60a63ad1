//! Network namespaces: containers are intercepted as themselves, and connections older than the agent are ended.
//!
//! What is protected here are addresses of a documentation network, which only this suite's own namespaces lead to, and loopback
//! at a port that the kernel chose.

mod churn;
mod container;
mod containers;
mod older;
mod world;

use std::process::ExitCode;

use agent_tests::{suite, suite::root_main};
use world::World;

fn main() -> ExitCode {
    root_main("netns", || {
        let world = World::new()?;
        let mut suite = suite("netns");
        suite = containers::cases(suite, &world);
        suite = churn::cases(suite, &world);
        suite = older::cases(suite, &world);
        Ok(suite.run())
    })
}
