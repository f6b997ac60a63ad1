//! Network namespaces: where the proxy listens in each, and word to the warden of those where it may not do so yet.

use agent_common::{Counter, LANES, Listeners, Settings, TOLD_EXECS, UNSERVED_REFUSED, Unserved, scope::EVERYWHERE};
use aya_ebpf::helpers::generated::bpf_get_current_cgroup_id;

use crate::{
    maps::{EXECUTED, LISTENERS, SETTINGS, UNSERVED, count},
    process,
};

/// Where the proxy listens in a network namespace; `None` if it does not, of which the warden is told.
pub fn listeners(netns: u64, settings: &Settings) -> Option<&'static Listeners> {
    // SAFETY: ports, each one load. An entry that changes or goes away meanwhile leaves one at which nothing marked listens.
    let found = unsafe { LISTENERS.get(netns) };
    if found.is_none() {
        tell(netns, settings, 0);
    }
    found
}

/// Whether one of the proxies listens, or did, at this port.
pub fn has_port(listeners: &Listeners, port: u16) -> bool {
    let Listeners { now: [a, b, c, d], before: [e, f, g, h] } = *listeners;
    port != 0 && (port == a || port == b || port == c || port == d || port == e || port == f || port == g || port == h)
}

/// The pair of listeners for a connection, by its socket's cookie: its number, and its port.
pub fn lane(listeners: &Listeners, cookie: u64) -> (u32, u16) {
    // Cookies are given in order, also to the proxy's own sockets: every second or fourth would lead to the same few.
    let lane = (cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % LANES;
    match listeners.now[lane] {
        0 => (0, listeners.now[0]),
        port => (lane as u32, port),
    }
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
    if UNSERVED.output(Unserved { thread, flags }, 0).is_err() {
        count(Counter::Unheard);
    }
}
