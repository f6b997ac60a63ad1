//! `connect` of a Unix socket: those of targets on this host are refused.
//!
//! A path can be spelt in many ways: by a symbolic link, another mount, a hard link, relative to a directory, by a descriptor in
//! `/proc`. So where the kernel asks a security module, the path that was asked for does not count, but the socket that it has
//! led to, and where that one's own file lies: its server has bound it there, and nobody else can move it ([`connect`]).
//!
//! Elsewhere there is nothing but the path as it is spelt ([`connect_by_name`]). Of that the last name counts: it is the same
//! relative to any directory and below any link or mount of one. What this refuses of sockets of the same name in other
//! directories is the price; what it lets pass are files of another name that lead to the same socket.

use core::ptr::{self, read_volatile};

use agent_common::{
    BY_NAME, Counter, DESTINATION_OBSERVE, DESTINATION_TRIAL, Destination, MAX_NAMES, MAX_UNIX_PATH, NAME_BYTES,
    NO_NAMES, Offsets, SocketPlace, fold_letter, fold_name,
};
use aya_ebpf::{
    helpers::{
        bpf_get_current_uid_gid, bpf_probe_read_kernel,
        generated::{self, bpf_get_current_cgroup_id, bpf_get_current_task, bpf_probe_read_kernel_str},
    },
    programs::{LsmContext, SockAddrContext},
};

use crate::{
    maps::{SETTINGS, SOCKETS, count},
    scope,
};

/// Set by the warden when it loads the programs.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets {
    dentry: 0,
    parent: 0,
    name: 0,
    file_system: 0,
    device: 0,
    address: 0,
    length: 0,
    directories: 0,
    root: 0,
};

const ALLOW: i32 = 0;
const EPERM: i32 = 1;

/// What programs at cgroups answer. Without another error the caller is told EPERM.
const REFUSE: i32 = 0;
const PROCEED: i32 = 1;

/// Bytes of an address before the path: its family.
const FAMILY: usize = 2;

/// A Unix socket is about to be connected to one that listens.
pub fn connect(ctx: &LsmContext) -> i32 {
    // What the hook's earlier programs said.
    let earlier: i32 = ctx.arg(3);
    if earlier != 0 {
        return earlier;
    }
    // SAFETY: a static; volatile, since the warden has changed it after it was compiled.
    let offsets = unsafe { read_volatile(&raw const OFFSETS) };
    let listed = place(pointer(ctx.arg(1), offsets.dentry), &offsets).and_then(|place| find(&place));
    if listed.is_some_and(|destination| is_refused(&destination)) { -EPERM } else { ALLOW }
}

/// A Unix socket is about to look for the one that a path leads to.
pub fn connect_by_name(ctx: &SockAddrContext) -> i32 {
    // SAFETY: as above.
    let offsets = unsafe { read_volatile(&raw const OFFSETS) };
    let Some(path) = last_name(ctx.sock_addr.cast(), &offsets) else { return PROCEED };
    let Some(destination) = find(&SocketPlace { device: BY_NAME, pad: 0, path }) else { return PROCEED };
    if is_elsewhere(&offsets) || !is_refused(&destination) { PROCEED } else { REFUSE }
}

/// Whether the current task has another root directory than the host: what it calls by the same name is its own. A root that
/// cannot be read is taken for the host's.
fn is_elsewhere(offsets: &Offsets) -> bool {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() } as *const u8;
    let directories = pointer(task, offsets.directories);
    place(pointer(directories, offsets.root), offsets).is_some_and(|root| find(&root).is_none())
}

/// Whether whoever connects is refused a listed socket.
fn is_refused(destination: &Destination) -> bool {
    if destination.flags & DESTINATION_TRIAL != 0 {
        return true;
    }
    let Some(settings) = SETTINGS.get(0) else { return true };
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    if !scope::somebody(settings, bpf_get_current_uid_gid() as u32, cgroup) {
        return false;
    }
    let observed = destination.flags & DESTINATION_OBSERVE != 0;
    count(if observed { Counter::ObservedDirect } else { Counter::Unix });
    !observed
}

fn find(place: &SocketPlace) -> Option<Destination> {
    // SAFETY: the value is read at once; only the warden changes it.
    unsafe { SOCKETS.get(place).copied() }
}

/// The place of a file; nothing where there is none.
fn place(mut dentry: *const u8, offsets: &Offsets) -> Option<SocketPlace> {
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
    Some(SocketPlace { device, pad: 0, path })
}

/// The last name of the path that is asked for, folded; nothing if that is no path. The context is read as the kernel has it,
/// since what programs are shown of it has no path.
fn last_name(ctx: *const u8, offsets: &Offsets) -> Option<u64> {
    let address: *const u8 = field(ctx, offsets.address)?;
    let length: u32 = field(ctx, offsets.length)?;
    let mut path = [0_u8; MAX_UNIX_PATH];
    let bytes = (length as usize).checked_sub(FAMILY)?.min(MAX_UNIX_PATH);
    // SAFETY: the helper writes no more than it is told, and fails where nothing can be read.
    let read = unsafe {
        generated::bpf_probe_read_kernel(path.as_mut_ptr().cast(), bytes as u32, address.wrapping_add(FAMILY).cast())
    };
    if read != 0 {
        return None;
    }
    let mut name = NO_NAMES;
    for letter in path {
        match letter {
            0 => break,
            b'/' => name = NO_NAMES,
            letter => name = fold_letter(name, letter),
        }
    }
    (name != NO_NAMES).then_some(name)
}

/// A field that is a pointer, or null. Not an option: the verifier refuses to have one without a value passed on.
fn pointer(of: *const u8, offset: u32) -> *const u8 {
    field(of, offset).unwrap_or(ptr::null())
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
