//! The maps. All but [`UNSERVED`] and [`EXECUTED`] are pinned by the warden, which knows their types and sizes and compares
//! them at start.
//!
//! No map that holds a security fact evicts: what does not fit is refused.

use core::{arch::asm, ffi::c_void, marker::PhantomData, ptr};

use agent_common::{
    ABANDONED_BYTES, COUNTERS as COUNTER_COUNT, Counter, Destination, DestinationKey, FlowKey, FlowRecord, LedgerKey,
    LedgerRow, Listeners, MAX_ALLOWED, MAX_CGROUPS, MAX_DESTINATIONS, MAX_EXECUTED, MAX_LEDGER, MAX_NAMESPACES,
    MAX_OPEN, MAX_PROCESSES, MAX_SOCKETS, MAX_TUPLES, MAX_USERS, Mark, Membership, ProcessEntry, Settings, SocketPlace,
    TupleKey, UNSERVED_BYTES, Unserved,
};
use aya_ebpf::{
    bindings::{
        BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE, bpf_sock,
    },
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, RingBuf},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};

/// Agent-wide settings.
#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

/// See [`Counter`].
#[btf_map]
pub static COUNTERS: Array<u64, { COUNTER_COUNT as usize }> = Array::new();

/// Where the proxy listens, by the cookie of the network namespace.
#[btf_map]
pub static LISTENERS: HashMap<u64, Listeners, { MAX_NAMESPACES as usize }> = HashMap::new();

/// Word to the warden. Not pinned: it concerns the agent that runs, and no later one.
#[btf_map]
pub static UNSERVED: RingBuf<Unserved, { UNSERVED_BYTES as usize }> = RingBuf::new();

/// Cgroups in which programs were executed lately, with how many of them the warden was told. Not pinned either; it may evict,
/// since it is no security fact.
#[btf_map]
pub static EXECUTED: LruHashMap<u64, u32, { MAX_EXECUTED as usize }> = LruHashMap::new();

/// Protected IPv4 destinations.
#[btf_map]
pub static PROTECTED4: LpmTrie<DestinationKey, Destination, { MAX_DESTINATIONS as usize }> = LpmTrie::new();

/// Protected IPv6 destinations.
#[btf_map]
pub static PROTECTED6: LpmTrie<DestinationKey, Destination, { MAX_DESTINATIONS as usize }> = LpmTrie::new();

/// Users of the scope, by uid.
#[btf_map]
pub static USERS: HashMap<u32, Membership, { MAX_USERS as usize }> = HashMap::new();

/// Cgroups of the scope, by id.
#[btf_map]
pub static CGROUPS: HashMap<u64, Membership, { MAX_CGROUPS as usize }> = HashMap::new();

/// IPv4 destinations that lockdown allows; port 0 stands for any.
#[btf_map]
pub static ALLOWED4: LpmTrie<DestinationKey, u32, { MAX_ALLOWED as usize }> = LpmTrie::new();

/// IPv6 destinations that lockdown allows; port 0 stands for any.
#[btf_map]
pub static ALLOWED6: LpmTrie<DestinationKey, u32, { MAX_ALLOWED as usize }> = LpmTrie::new();

/// Unix sockets of targets on this host.
#[btf_map]
pub static SOCKETS: HashMap<SocketPlace, Destination, { MAX_SOCKETS as usize }> = HashMap::new();

/// Processes that connect, by tgid.
#[btf_map]
pub static PROCESSES: HashMap<u32, ProcessEntry, { MAX_PROCESSES as usize }> = HashMap::new();

/// Flows on their way from the connecting to the accepted socket.
#[btf_map]
pub static TUPLES: HashMap<TupleKey, FlowRecord, { MAX_TUPLES as usize }> = HashMap::new();

/// Redirected connects whose record is not durable yet. The warden removes those that are.
#[btf_map]
pub static OPEN: HashMap<FlowKey, FlowRecord, { MAX_OPEN as usize }> = HashMap::new();

/// Which connects were abandoned.
#[btf_map]
pub static ABANDONED: RingBuf<FlowRecord, { ABANDONED_BYTES as usize }> = RingBuf::new();

/// How often what was done, by target and user.
#[btf_map]
pub static LEDGER: HashMap<LedgerKey, LedgerRow, { MAX_LEDGER as usize }> = HashMap::new();

/// The flow of a socket: of the connecting one, with its own cookie, and of the accepted one, with the other's.
#[btf_map]
pub static FLOWS: Storage<FlowRecord, PLAIN> = Storage::new();

/// The key under which a connecting socket's flow was published in [`TUPLES`].
#[btf_map]
pub static PUBLISHED: Storage<TupleKey, PLAIN> = Storage::new();

/// Roles of the agent's own sockets, and which others are in scope. An accepted socket has the mark of the one that listens.
#[btf_map]
pub static MARKS: Storage<Mark, INHERITED> = Storage::new();

/// Adds one to a counter.
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a value of an array map, which is aligned to eight bytes and is never freed.
        unsafe { add_one(value) };
    }
}

/// Adds one to a number that several processors may add to. The compiler offers no atomic addition for this target, though the
/// instruction set has one.
///
/// # Safety
/// `number` must point into a map's value and be aligned.
pub unsafe fn add_one(number: *mut u64) {
    // SAFETY: the caller vouches for the pointer.
    unsafe { asm!("lock *(u64 *)({number} + 0) += {one}", number = in(reg) number, one = in(reg) 1_u64) };
}

/// Flags of a storage whose values belong to one socket.
const PLAIN: usize = BPF_F_NO_PREALLOC as usize;
/// Flags of a storage whose values an accepted socket has from the one that listens.
const INHERITED: usize = (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize;

/// A map of socket storage, as the loader reads its definition: out of the types of fields that nobody uses.
#[repr(C)]
pub struct Storage<T, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: nothing is ever read from it or written to it.
unsafe impl<T, const FLAGS: usize> Sync for Storage<T, FLAGS> {}

impl<T, const FLAGS: usize> Storage<T, FLAGS> {
    const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }
}

/// Storage of a socket, of which the kernel can have several kinds of pointer: a socket's, or the context of a program whose
/// context is a socket.
pub struct Stored<'a, T> {
    map: *mut c_void,
    values: PhantomData<&'a T>,
}

impl<'a, T> Stored<'a, T> {
    /// The value, if there is one; valid until the socket is released, and changed by nobody else while a program runs on it.
    ///
    /// # Safety
    /// `sk` must be a pointer to a socket that the verifier accepts for this helper, or null.
    pub unsafe fn get(&self, sk: *mut bpf_sock) -> Option<&'a T> {
        if sk.is_null() {
            return None;
        }
        // SAFETY: the caller vouches for `sk`; the map is a socket storage of `T`, whose values live as long as the socket.
        unsafe { bpf_sk_storage_get(self.map, sk.cast(), ptr::null_mut(), 0).cast::<T>().as_ref() }
    }

    /// Sets the value. The helper leaves a value alone that is there already: delete it first. False if there is no memory.
    ///
    /// # Safety
    /// As for [`Stored::get`].
    #[must_use]
    pub unsafe fn insert(&self, sk: *mut bpf_sock, value: &T) -> bool {
        if sk.is_null() {
            return false;
        }
        let initial: *mut T = ptr::from_ref(value).cast_mut();
        // SAFETY: as in `get`; the helper only reads the initial value.
        unsafe {
            let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
            !bpf_sk_storage_get(self.map, sk.cast(), initial.cast(), flags).is_null()
        }
    }

    /// Deletes the value, if there is one.
    ///
    /// # Safety
    /// As for [`Stored::get`].
    pub unsafe fn delete(&self, sk: *mut bpf_sock) {
        if !sk.is_null() {
            // SAFETY: as in `get`.
            unsafe { bpf_sk_storage_delete(self.map, sk.cast()) };
        }
    }
}

/// [`FLOWS`], [`PUBLISHED`] or [`MARKS`] for use with a socket.
pub const fn stored<T, const FLAGS: usize>(map: &Storage<T, FLAGS>) -> Stored<'_, T> {
    Stored { map: ptr::from_ref(map).cast_mut().cast(), values: PhantomData }
}
