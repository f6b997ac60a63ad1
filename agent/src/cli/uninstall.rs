//! `postern uninstall`: removes the redirection from the kernel.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use super::{Failure, Global, output::Out};
use crate::{
    recording::{Event, Log, Options},
    warden::{self, Removed},
};

/// Removes programs, links and maps, and records that.
///
/// # Errors
/// The agent is running, something could not be removed, or it could not be recorded.
pub fn run(global: &Global, out: &mut Out) -> Result<(), Failure> {
    // To anybody else the pins look as if there were none.
    super::as_root("removing the kernel side")?;
    let places = global.places()?;
    let pins = places.pin_dir;
    let removed = warden::uninstall(&pins).map_err(|error| Failure::wrong(error.to_string()))?;
    if !removed.is_empty() {
        record(&places.state_dir, removed).map_err(|error| {
            let state = places.state_dir.display();
            Failure::wrong(format!("the kernel side is removed, but the log in {state} does not say so: {error}"))
        })?;
    }
    match global.json {
        true => out.json(&removed)?,
        false if removed.is_empty() => out.line(format!("{}: nothing is installed", pins.display()))?,
        false => out.line(format!(
            "removed {} links and {} maps from {}; connections go to their destinations directly again",
            removed.links,
            removed.maps,
            pins.display()
        ))?,
    }
    Ok(())
}

/// Appends to the log, if there is one: as the user that it belongs to, since what root writes there the proxy could not read.
fn record(state_dir: &Path, removed: Removed) -> Result<(), String> {
    let Ok(found) = fs::metadata(state_dir.join("journal")) else { return Ok(()) };
    let (user, group) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    setgroups(&[group]).and_then(|()| setgid(group)).and_then(|()| setuid(user)).map_err(|error| error.to_string())?;
    let log = Log::open(Options::new(state_dir)).map_err(|error| error.to_string())?;
    let Removed { links, maps } = removed;
    log.append_durable(&Event::KernelSideRemoved { links, maps }).map_err(|error| error.to_string())?;
    log.close().map_err(|error| error.to_string())
}
