//! Whom the programs are concerned with: the whole host, or who is listed.
//!
//! *Invariant:* a socket is in scope if whoever made it, connected it or uses it is: it cannot be brought in from outside, and
//! not be given away.

use agent_common::{
    DESTINATION_PREFIX, DestinationKey, MARK_APART, MARK_SCOPED, Mark, Membership, Settings, UNKNOWN, in_scope, scope,
};
use aya_ebpf::{
    bindings::bpf_sock,
    btf_maps::lpm_trie::Key,
    helpers::{bpf_get_current_uid_gid, generated::bpf_get_current_cgroup_id},
};

use crate::{
    address::Words,
    maps::{ALLOWED4, ALLOWED6, CGROUPS, MARKS, USERS, stored},
};

/// Whether the current task, or the socket that it uses, is in scope. The socket remembers it.
///
/// # Safety
/// `sk` must be a pointer to a socket that the verifier accepts for a socket's storage, or null.
pub unsafe fn concerns(settings: &Settings, sk: *mut bpf_sock) -> bool {
    if settings.scope & scope::PARTIAL == 0 {
        return true;
    }
    // SAFETY: the caller vouches for `sk`.
    let mark = unsafe { stored(&MARKS).get(sk) };
    if matches!(mark, Some(&MARK_SCOPED | &MARK_APART)) {
        return true;
    }
    let user = bpf_get_current_uid_gid() as u32;
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let concerned = somebody(settings, user, cgroup);
    if concerned && mark.is_none() {
        let scoped: Mark = MARK_SCOPED;
        // Without memory for it the decision stands for this call, and the socket's user and cgroup decide later.
        // SAFETY: as above.
        let _ = unsafe { stored(&MARKS).insert(sk, &scoped) };
    }
    concerned
}

/// Notes on a socket in scope that it is of another network namespace than the agent's.
///
/// # Safety
/// As for [`concerns`].
pub unsafe fn set_apart(settings: &Settings, sk: *mut bpf_sock) {
    // SAFETY: the caller vouches for `sk`.
    unsafe {
        if !concerns(settings, sk) || !matches!(stored(&MARKS).get(sk), None | Some(&MARK_SCOPED)) {
            return;
        }
        stored(&MARKS).delete(sk);
        // Without memory for it, what it sends to its own loopback may be dropped.
        let _ = stored(&MARKS).insert(sk, &MARK_APART);
    }
}

/// Whether a user in a cgroup is in scope.
pub fn somebody(settings: &Settings, user: u32, cgroup: u64) -> bool {
    if settings.scope & scope::PARTIAL == 0 {
        return true;
    }
    // SAFETY: the values are read at once; only the warden changes them.
    let (user, cgroup) = unsafe { (known(USERS.get(user)), known(CGROUPS.get(cgroup))) };
    in_scope(settings.scope, user, cgroup)
}

fn known(found: Option<&Membership>) -> Membership {
    found.copied().unwrap_or(UNKNOWN)
}

/// Whether lockdown lets somebody go to an address and port: loopback, which leaves no host, and what the operator has named.
pub fn allowed(address: &Words, port: u16) -> bool {
    address.is_loopback() || named(address, port.to_be_bytes()) || named(address, [0; 2])
}

fn named(address: &Words, port: [u8; 2]) -> bool {
    let (bits, address) = match address.as_v4() {
        Some(v4) => {
            let [a, b, c, d] = v4.to_ne_bytes();
            (32, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        }
        None => (128, address.bytes()),
    };
    let key = Key::new(DESTINATION_PREFIX + bits, DestinationKey { port, pad: [0; 2], address });
    if bits == 32 { ALLOWED4.get(&key).is_some() } else { ALLOWED6.get(&key).is_some() }
}
