//! Network namespaces: where the proxy listens in each, and word to the warden of those where it may not do so yet.

use agent_common::{Settings, TOLD_EXECS, UNSERVED_REFUSED, Unserved, scope::EVERYWHERE};
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;

use crate::{
    maps::{EXECUTED, LISTENERS, SETTINGS, UNSERVED},
    process,
};

/// Ports of the proxy's listeners in a network namespace, now and before; 0 if it has none, of which the warden is told.
pub fn ports(netns: u64, settings: &Settings) -> (u16, u16) {
    // SAFETY: one load of four bytes. An entry that goes away meanwhile leaves a port at which nothing marked listens.
    if let Some(ports) = unsafe { LISTENERS.get(netns) } {
        return (*ports as u16, (*ports >> 16) as u16);
    }
    tell(netns, settings, 0);
    (0, 0)
}

/// The current thread was refused for want of a listener.
pub fn refused(netns: u64, settings: &Settings) {
    tell(netns, settings, UNSERVED_REFUSED);
}

/// The current process has executed a program. If it is among the first in its cgroup, it may be a container's, in a namespace
/// that is new; which one it is cannot be told here.
pub fn executed() {
    let Some(settings) = SETTINGS.get(0) else { return };
    if settings.scope & EVERYWHERE == 0 {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: one load of four bytes; that two at once may count as one does no harm.
    let told = unsafe { EXECUTED.get(cgroup) }.copied().unwrap_or(0);
    if told < TOLD_EXECS && EXECUTED.insert(cgroup, told + 1, 0).is_ok() {
        say(0);
    }
}

/// Nothing needs to be said of the host's own namespace: there the warden makes the listeners before all others.
fn tell(netns: u64, settings: &Settings, flags: u32) {
    if netns != settings.netns && settings.scope & EVERYWHERE != 0 {
        say(flags);
    }
}

fn say(flags: u32) {
    let (thread, _) = process::current();
    // Full if the warden has no time, or is not there: then nothing would come of it.
    let _ = UNSERVED.output(Unserved { thread, flags }, 0);
}
