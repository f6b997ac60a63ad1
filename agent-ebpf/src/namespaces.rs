//! Network namespaces: where the proxy listens in each, and word to the warden of those where it does not.

use agent_common::{SETTINGS_EVERYWHERE, Settings};

use crate::{
    maps::{LISTENERS, UNSERVED},
    process,
};

/// Port of the proxy's listeners in a network namespace; 0 if it has none, of which the warden is told.
pub fn port(netns: u64, settings: &Settings) -> u16 {
    // SAFETY: one load of four bytes. An entry that goes away meanwhile leaves a port at which nothing marked listens.
    if let Some(port) = unsafe { LISTENERS.get(netns) } {
        return *port as u16;
    }
    unserved(netns, settings);
    0
}

/// Tells the warden that the current thread uses a network namespace where a listener is missing.
///
/// Not of the host's own: there it makes the listeners before all others.
pub fn unserved(netns: u64, settings: &Settings) {
    if netns != settings.netns && settings.flags & SETTINGS_EVERYWHERE != 0 {
        let (thread, _) = process::current();
        // Full if the warden has no time, or is not there: then nothing would come of it.
        let _ = UNSERVED.output(thread, 0);
    }
}
