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

impl Suite {
    /// The fewest cases that it may pass at its full or everyday size.
    #[must_use]
    pub fn least(&self, full: bool) -> usize {
        if full { self.full } else { self.everyday }
    }
}

/// The library tests of the workspace's crates.
pub const UNIT: &str = "unit";

/// What is kept of fuzzing, as tests of the libraries; at its full size also new inputs.
pub const FUZZ: &str = "fuzz";

/// All suites, in the order in which they run: the cheap ones first.
pub const SUITES: &[Suite] = &[
    Suite { name: UNIT, everyday: 310, full: 310 },
    Suite { name: FUZZ, everyday: 5, full: 9 },
    Suite { name: "compile-fail", everyday: 38, full: 38 },
    Suite { name: "config", everyday: 40, full: 40 },
    Suite { name: "policy", everyday: 30, full: 30 },
    Suite { name: "systemd", everyday: 9, full: 9 },
    Suite { name: "harness", everyday: 13, full: 13 },
    Suite { name: "log", everyday: 19, full: 19 },
    Suite { name: "sql", everyday: 580, full: 580 },
    Suite { name: "postgres", everyday: 106, full: 106 },
    Suite { name: "kernel", everyday: 27, full: 27 },
    Suite { name: "selftest", everyday: 10, full: 10 },
    Suite { name: "bypass", everyday: 345, full: 345 },
    Suite { name: "doctor", everyday: 13, full: 13 },
    Suite { name: "e2e", everyday: 68, full: 68 },
    Suite { name: "regress", everyday: 137, full: 219 },
    Suite { name: "denials", everyday: 122, full: 122 },
    Suite { name: "drivers", everyday: 17, full: 17 },
    Suite { name: "attacks", everyday: 26, full: 26 },
    Suite { name: "netns", everyday: 15, full: 15 },
    Suite { name: "lifecycle", everyday: 31, full: 31 },
    Suite { name: "coverage", everyday: 18, full: 18 },
    Suite { name: "capacity", everyday: 7, full: 7 },
    Suite { name: "names", everyday: 13, full: 13 },
    Suite { name: "identity", everyday: 5, full: 5 },
    Suite { name: "noninterference", everyday: 116, full: 116 },
    Suite { name: "malformed", everyday: 520, full: 520 },
];

/// Those of them that also run on the older kernels (`--kernel`), where a suite has no host but the kernel, the agent and a few
/// programs: no servers, no Python.
pub const OLDER: &[Suite] = &[
    Suite { name: "kernel", everyday: 27, full: 27 },
    Suite { name: "selftest", everyday: 10, full: 10 },
    Suite { name: "bypass", everyday: 345, full: 345 },
    Suite { name: "doctor", everyday: 13, full: 13 },
];
