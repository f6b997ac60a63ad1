//! What the allocator keeps: little enough that the proxy's size is that of its sessions, not of the largest there ever was.
//!
//! Parsing a long statement or passing a large row needs memory for a moment. Left to itself, the C library keeps such memory
//! in as many pools as there are threads, and raises the size above which it gives back at once.
#![allow(unsafe_code)]

use std::time::Duration;

/// Pools. Two threads at a time allocate without waiting for each other, which is measured to be enough here.
const POOLS: libc::c_int = 2;
/// Pieces of this size and more, in bytes, are given back as soon as they are free. Much less would be dear: what is moved
/// into the store goes through buffers of some hundred KiB, and each that is given back has to be faulted in again.
const GIVEN_BACK: libc::c_int = 1 << 20;
/// Free memory at the end of a pool that is kept until the next return.
const SPARE: libc::c_int = 8 << 20;
/// Time between two returns of the smaller pieces.
const EVERY: Duration = Duration::from_secs(5);

/// Sets the allocator up. To be called before threads are started; where it fails, memory is merely kept for longer.
pub fn limit() {
    // SAFETY: no memory of ours is involved; the C library takes its lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, POOLS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, GIVEN_BACK);
        libc::mallopt(libc::M_TRIM_THRESHOLD, SPARE);
    }
}

/// Gives free memory back from time to time, for ever.
pub(super) async fn give_back() {
    loop {
        tokio::time::sleep(EVERY).await;
        // It takes a millisecond or so, in which a thread of the runtime would serve nobody.
        // SAFETY: as above; it touches free memory only.
        let _ = tokio::task::spawn_blocking(|| unsafe { libc::malloc_trim(0) }).await;
    }
}
