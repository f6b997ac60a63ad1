//! What libFuzzer calls: one of the agent's targets, which the environment names, with its inputs. Memory is counted, and a
//! panic, or more memory than any input may cost, ends the process, by which libFuzzer takes the input for a finding.
#![allow(unsafe_code)]
#![no_main]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    process::abort,
    slice,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use agent::fuzz::{TARGETS, Target};

/// Bytes that may be asked for at once, and altogether: an input has 4 KiB, and the longest buffers have 64 KiB.
const AT_ONCE: usize = 4 << 20;
const ALTOGETHER: usize = 64 << 20;

#[global_allocator]
static MEMORY: Counted = Counted;

static USED: AtomicUsize = AtomicUsize::new(0);

/// Which target this process runs.
static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("POSTERN_FUZZ_TARGET").unwrap_or_default();
    TARGETS.iter().copied().find(|target| target.name == name).unwrap_or_else(|| {
        let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        panic!("POSTERN_FUZZ_TARGET is to name one of: {}", known.join(", "))
    })
});

/// The system's allocator, within bounds.
struct Counted;

// SAFETY: the system's allocator does all of it; what is more than allowed ends the process.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        if layout.size() > AT_ONCE || used > ALTOGETHER {
            abort();
        }
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for this function.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Runs one input.
// SAFETY: nothing else has this name, which is libFuzzer's.
#[unsafe(no_mangle)]
extern "C" fn LLVMFuzzerTestOneInput(bytes: *const u8, length: usize) -> i32 {
    let input = if length == 0 {
        &[]
    } else {
        // SAFETY: libFuzzer gives that many bytes, which stay as they are until this returns.
        unsafe { slice::from_raw_parts(bytes, length) }
    };
    (TARGET.run)(input);
    0
}
