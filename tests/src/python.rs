//! Python with the drivers that `cargo xtask setup` has installed.

use std::path::{Path, PathBuf};

use crate::{Cmd, Outcome, TempDir, tools::tool};

/// The system's Python with psycopg and asyncpg, for any user.
#[derive(Debug)]
pub struct Python {
    packages: TempDir,
}

impl Python {
    /// Copies the packages to where every user can read them: a checkout may lie in somebody's home.
    ///
    /// # Errors
    /// They are not installed, or cannot be copied.
    pub fn new() -> Outcome<Self> {
        let installed = installed()?;
        let packages = TempDir::new().map_err(|error| format!("temporary directory: {error}"))?;
        Cmd::new("cp").args(["-r", "--no-preserve=ownership"]).arg(installed).arg(packages.join("packages")).ok()?;
        Ok(Self { packages })
    }

    /// Runs a script, given as text.
    #[must_use]
    pub fn script(&self, text: &str) -> Cmd {
        self.command().args(["-c", text])
    }

    /// Where Python looks for packages, and before that in `dir`.
    #[must_use]
    pub fn path_with(&self, dir: &Path) -> String {
        format!("{}:{}", dir.display(), self.packages.join("packages").display())
    }

    /// Runs a script file; add it and its arguments with `arg`.
    #[must_use]
    pub fn command(&self) -> Cmd {
        Cmd::new("/usr/bin/python3")
            .env("PYTHONPATH", self.packages.join("packages"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
    }
}

fn installed() -> Outcome<PathBuf> {
    let versions = tool("venv")?.join("lib").read_dir().map_err(|error| error.to_string())?;
    let mut packages = versions.flatten().map(|version| version.path().join("site-packages"));
    packages
        .find(|packages| packages.join("psycopg").is_dir())
        .ok_or_else(|| "the Python packages are missing: cargo xtask setup".into())
}
