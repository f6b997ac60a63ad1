//! `connect` of a Unix socket: those of targets on this host are refused.
//!
//! A path can be spelt in many ways: by a symbolic link, another mount, a hard link, relative to a directory, by a descriptor in
//! `/proc`. So the path that was asked for does not count, but the socket that it has led to, and where that one's own file lies:
//! its server has bound it there, and nobody else can move it.

use core::ptr::{self, read_volatile};

use agent_common::{
    Counter, DESTINATION_OBSERVE, DESTINATION_TRIAL, Destination, MAX_NAMES, NAME_BYTES, NO_NAMES, Offsets,
    SocketPlace, fold_name,
};
use aya_ebpf::{
    helpers::{
        bpf_get_current_uid_gid, bpf_probe_read_kernel,
        generated::{bpf_get_current_cgroup_id, bpf_probe_read_kernel_str},
    },
    programs::LsmContext,
};

use crate::{
    maps::{SETTINGS, SOCKETS, count},
    scope,
};

/// Set by the warden when it loads the programs.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets { dentry: 0, parent: 0, name: 0, file_system: 0, device: 0 };

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// A Unix socket is about to be connected to one that listens.
pub fn connect(ctx: &LsmContext) -> i32 {
    // What the hook's earlier programs said.
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    let Some(destination) = listed(ctx.arg(1)) else { return ALLOW };
    if destination.flags & DESTINATION_TRIAL != 0 {
        return -EPERM;
    }
    let Some(settings) = SETTINGS.get(0) else { return -EPERM };
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    if !scope::somebody(settings, bpf_get_current_uid_gid() as u32, cgroup) {
        return ALLOW;
    }
    if destination.flags & DESTINATION_OBSERVE != 0 {
        count(Counter::ObservedDirect);
        return ALLOW;
    }
    count(Counter::Unix);
    -EPERM
}

/// The listed socket that this one is, by the place of its file; one without a file is none.
fn listed(socket: *const u8) -> Option<Destination> {
    // SAFETY: a static; volatile, since the warden has changed it after it was compiled.
    let offsets = unsafe { read_volatile(&raw const OFFSETS) };
    let mut dentry: *const u8 = field(socket, offsets.dentry)?;
    if dentry.is_null() {
        return None;
    }
    let device = field(field(dentry, offsets.file_system)?, offsets.device)?;
    let mut path = NO_NAMES;
    for _ in 0..MAX_NAMES {
        let parent: *const u8 = field(dentry, offsets.parent)?;
        if ptr::eq(parent, dentry) {
            break;
        }
        path = fold_name(path, &name(field(dentry, offsets.name)?));
        dentry = parent;
    }
    // SAFETY: the value is read at once; only the warden changes it.
    unsafe { SOCKETS.get(&SocketPlace { device, pad: 0, path }).copied() }
}

/// A field of a structure of the kernel.
fn field<T>(of: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper fails where nothing can be read; integers and pointers have any value.
    unsafe { bpf_probe_read_kernel(of.wrapping_add(offset as usize).cast::<T>()).ok() }
}

fn name(of: *const u8) -> [u64; NAME_BYTES / 8] {
    let mut name = [0; NAME_BYTES / 8];
    // SAFETY: the helper writes no more than it is told, and fails where nothing can be read.
    unsafe { bpf_probe_read_kernel_str(name.as_mut_ptr().cast(), NAME_BYTES as u32, of.cast()) };
    name
}
