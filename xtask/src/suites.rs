//! The table of suites: each is a folder of `tests/` with an entry in its Cargo.toml, beside `unit`.

/// A suite, and the fewest cases that it may pass.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// Name of the folder, and of the test target.
    pub name: &'static str,
    /// At its everyday size.
    pub everyday: usize,
    /// At its full size (`--all`).
    pub full: usize,
}

/// The library tests of the workspace's crates.
pub const UNIT: &str = "unit";

/// All suites, in the order in which they run: the cheap ones first.
pub const SUITES: &[Suite] = &[
    Suite { name: UNIT, everyday: 180, full: 180 },
    Suite { name: "compile-fail", everyday: 36, full: 36 },
    Suite { name: "config", everyday: 33, full: 33 },
    Suite { name: "policy", everyday: 30, full: 30 },
    Suite { name: "systemd", everyday: 9, full: 9 },
    Suite { name: "harness", everyday: 12, full: 12 },
    Suite { name: "log", everyday: 19, full: 19 },
    Suite { name: "sql", everyday: 580, full: 580 },
    Suite { name: "postgres", everyday: 29, full: 29 },
    Suite { name: "kernel", everyday: 23, full: 23 },
    Suite { name: "bypass", everyday: 320, full: 320 },
    Suite { name: "e2e", everyday: 63, full: 63 },
    Suite { name: "attacks", everyday: 23, full: 23 },
    Suite { name: "lifecycle", everyday: 17, full: 17 },
    Suite { name: "identity", everyday: 5, full: 5 },
    Suite { name: "noninterference", everyday: 110, full: 110 },
    Suite { name: "malformed", everyday: 430, full: 430 },
];
