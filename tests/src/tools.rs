//! What `cargo xtask setup` has installed beside the packages of the host.

use std::path::PathBuf;

use crate::Outcome;

/// `target/tools/NAME`, a link to what all checkouts share.
///
/// # Errors
/// It is not installed.
pub fn tool(name: &str) -> Outcome<PathBuf> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let found = this.ancestors().map(|dir| dir.join("tools").join(name)).find(|dir| dir.is_dir());
    let found = found.ok_or_else(|| format!("tools/{name} is missing: cargo xtask setup"))?;
    found.canonicalize().map_err(|error| format!("{}: {error}", found.display()))
}
