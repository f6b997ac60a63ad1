//! Processes: when one connects for the first time, and what exec and exit do to what is known of it.
//!
//! The rules are pure functions of [`ProcessEntry`]; here they meet the map. Nothing is read from the kernel's task
//! structures, whose layout differs between kernels.

use core::ptr;

use agent_common::{Counter, ProcessEntry};
use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns},
};

use crate::maps::{PROCESSES, count};

/// The entry of the process that connects; made if there is none. `None`: an exec is under way, or the map is full.
pub fn connecting(tgid: u32) -> Option<ProcessEntry> {
    if let Some(entry) = known(tgid) {
        return usable(entry);
    }
    // SAFETY: the helper has no preconditions.
    let fresh = ProcessEntry::connected(unsafe { bpf_ktime_get_boot_ns() });
    if PROCESSES.insert(tgid, fresh, u64::from(BPF_NOEXIST)).is_ok() {
        return Some(fresh);
    }
    // Another thread of the process, or its exec, was faster; or there is no room.
    let Some(entry) = known(tgid) else {
        count(Counter::MapFull);
        return None;
    };
    usable(entry)
}

/// An exec of the current process cannot fail any more without ending it.
pub fn exec_begun() {
    let (thread, tgid) = current();
    if change(tgid, |entry| entry.exec_begun(thread)) {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let placeholder = ProcessEntry::placeholder(unsafe { bpf_ktime_get_boot_ns() }, thread);
    if PROCESSES.insert(tgid, placeholder, u64::from(BPF_NOEXIST)).is_err() {
        // Another thread connected meanwhile. If instead the map is full, no thread of this process can connect either.
        change(tgid, |entry| entry.exec_begun(thread));
    }
}

/// An exec of the current process has succeeded, or has failed: what is known of the process from before is not relied on
/// in either case.
pub fn exec_done() {
    let (_, tgid) = current();
    if let Some(entry) = known(tgid) {
        match entry.exec_done() {
            Some(after) => {
                change(tgid, |_| after);
            }
            None => forget(tgid),
        }
    }
}

/// The current thread exits.
pub fn exited() {
    let (thread, tgid) = current();
    if let Some(entry) = known(tgid)
        && entry.ends_with(thread, tgid)
    {
        forget(tgid);
    }
}

/// Thread id and thread-group id of the current task.
pub fn current() -> (u32, u32) {
    let both = bpf_get_current_pid_tgid();
    (both as u32, (both >> 32) as u32)
}

fn usable(entry: ProcessEntry) -> Option<ProcessEntry> {
    if entry.in_exec() { None } else { Some(entry) }
}

fn known(tgid: u32) -> Option<ProcessEntry> {
    let entry = PROCESSES.get_ptr(tgid)?;
    // SAFETY: the pointer is the map's value for the rest of the program. Should the entry be replaced meanwhile, its
    // generation is another one, which whoever compares it finds.
    unsafe {
        Some(ProcessEntry {
            generation: ptr::read_volatile(&raw const (*entry).generation),
            sequence: ptr::read_volatile(&raw const (*entry).sequence),
            executor: ptr::read_volatile(&raw const (*entry).executor),
            pad: 0,
        })
    }
}

/// Changes sequence and executor in place, so that a reader never finds the entry missing. False if there is none.
fn change(tgid: u32, rule: impl Fn(ProcessEntry) -> ProcessEntry) -> bool {
    let Some(before) = known(tgid) else { return false };
    let Some(entry) = PROCESSES.get_ptr_mut(tgid) else { return false };
    let after = rule(before);
    // SAFETY: as in `known`. Only exec and exit write to an entry, and a process has one exec at a time.
    unsafe {
        ptr::write_volatile(&raw mut (*entry).executor, after.executor);
        ptr::write_volatile(&raw mut (*entry).sequence, after.sequence);
    }
    true
}

fn forget(tgid: u32) {
    // An error says that it was gone already.
    let _ = PROCESSES.remove(tgid);
}
