//! `postern uninstall`: removes the redirection from the kernel.

use super::{Failure, Global, output::Out};
use crate::warden;

/// Removes programs, links and maps.
///
/// # Errors
/// The agent is running, or something could not be removed.
pub fn run(global: &Global, out: &mut Out) -> Result<(), Failure> {
    // To anybody else the pins look as if there were none.
    super::as_root("removing the kernel side")?;
    let pins = global.places()?.pin_dir;
    let removed = warden::uninstall(&pins).map_err(|error| Failure::wrong(error.to_string()))?;
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
