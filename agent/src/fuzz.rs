//! Targets of fuzzing: what each is given is judged by laws that hold for any bytes. `cargo xtask fuzz` runs them with
//! coverage; the tests here replay the inputs that are kept below `tests/fuzz/corpus`, and vary them a little.

use crate::protocol::postgres;

/// A target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name: of the folder with the kept inputs, and of the dictionary.
    pub name: &'static str,
    /// Panics if a law does not hold for these bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "client", run: postgres::fuzz::session::client },
    Target { name: "server", run: postgres::fuzz::session::server },
    Target { name: "session", run: postgres::fuzz::session::both },
    Target { name: "opening", run: postgres::fuzz::opening::run },
];

#[cfg(test)]
mod tests;
