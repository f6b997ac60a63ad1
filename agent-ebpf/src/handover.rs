//! The way of a flow from the connecting socket to the accepted one, under the connection's addresses and ports.
//!
//! *Invariant:* a flow is given to an accepted socket only if the connection with exactly these addresses and ports published
//! it, and at most once. Every new TCP connection of the host replaces or deletes what lies under its tuple.

use core::ptr;

use agent_common::{AF_INET, Counter, FlowRecord, MARK_LISTENER, TupleKey};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie},
    programs::{SockContext, SockOpsContext},
};
use aya_log_ebpf::warn;

use crate::{
    address::Words,
    ledger,
    maps::{FLOWS, MARKS, PUBLISHED, TUPLES, count, stored},
};

/// `TCP_CLOSE`
const CLOSED: u32 = 7;

/// Any event of a TCP connection. The return value means nothing to the kernel for those that are handled here.
pub fn event(ctx: &SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == CLOSED => closed(ctx),
        _ => {}
    }
    1
}

/// A connecting socket was released by its last descriptor. If its connection has not been accepted by now, nobody is left
/// who could use it.
pub fn released(ctx: &SockContext) -> i32 {
    // SAFETY: in this program the helpers take the context for the socket.
    unsafe {
        let cookie = bpf_get_socket_cookie(ctx.as_ptr());
        if let Some(key) = stored(&PUBLISHED).get(ctx.sock) {
            abandon(key, cookie);
        }
        if let Some(flow) = stored(&FLOWS).get(ctx.sock)
            && flow.cookie == cookie
        {
            ledger::dropped(flow);
        }
    }
    1
}

/// A connection is about to send its first packet; addresses and ports are final.
fn connecting(ctx: &SockOpsContext) {
    let sk = socket(ctx);
    // SAFETY: the context's socket.
    let flow = unsafe { stored(&FLOWS).get(sk) };
    let key = tuple(ctx, true);
    let Some(flow) = flow else {
        // Another connection with these addresses and ports may have left its flow behind.
        let _ = TUPLES.remove(key);
        return;
    };
    // Without the callback or the key, a connection that is given up would leave its flow behind.
    let watched = ctx.set_cb_flags(ctx.cb_flags() as i32 | BPF_SOCK_OPS_STATE_CB_FLAG as i32).is_ok();
    // SAFETY: the context's socket.
    let published = unsafe {
        stored(&PUBLISHED).delete(sk);
        watched && stored(&PUBLISHED).insert(sk, &key)
    } && (TUPLES.insert(key, flow, 0).is_ok() || {
        count(Counter::MapFull);
        false
    });
    if !published {
        let _ = TUPLES.remove(key);
        lost(ctx, flow);
    }
}

/// A connection was established from the side that listens.
fn accepted(ctx: &SockOpsContext) {
    let sk = socket(ctx);
    let key = tuple(ctx, false);
    // SAFETY: see below for what happens if the entry goes away while it is used.
    let Some(flow) = (unsafe { TUPLES.get(key) }) else { return };
    // Somebody else listens there: the proxy has gone while this connection was on its way, or packets are led past it. The flow
    // stays where it is until the client gives up.
    // SAFETY: the context's socket.
    if unsafe { stored(&MARKS).get(sk) } != Some(&MARK_LISTENER) {
        return;
    }
    // SAFETY: the context's socket.
    unsafe {
        let flows = stored(&FLOWS);
        flows.delete(sk);
        if !flows.insert(sk, flow) {
            lost(ctx, flow);
            let _ = TUPLES.remove(key);
            return;
        }
        // If the client gave up in this very moment, the entry's memory may have been given to another flow before it was
        // copied. Then the tuple is gone, or belongs to another socket.
        let copied = flows.get(sk).map(|copied| copied.cookie);
        let current = TUPLES.get(key).map(|current| current.cookie);
        // Before the tuple goes: whoever does not find it must know why.
        if let Some(copied) = flows.get(sk) {
            ledger::accepted(copied);
        }
        if current.is_none() || current != copied || TUPLES.remove(key).is_err() {
            flows.delete(sk);
            return;
        }
    }
    count(Counter::Accepted);
}

fn lost(ctx: &SockOpsContext, flow: &FlowRecord) {
    count(Counter::NotRecorded);
    ledger::lost(flow);
    warn!(ctx, "a connection of process {} could not be handed over to the proxy", flow.tgid);
}

/// A connecting socket is closed by either side.
fn closed(ctx: &SockOpsContext) {
    // SAFETY: the context's socket.
    unsafe {
        if let Some(key) = stored(&PUBLISHED).get(socket(ctx)) {
            abandon(key, bpf_get_socket_cookie(ctx.as_ptr()));
        }
    }
}

/// Takes back a flow that nobody accepted, unless what lies there belongs to another socket by now.
fn abandon(key: &TupleKey, cookie: u64) {
    // A copy: the entry's memory may be given to another flow once it is removed.
    // SAFETY: the value is read before anything could change the map's entry under it.
    if let Some(flow) = unsafe { TUPLES.get(key) }.copied()
        && flow.cookie == cookie
        && TUPLES.remove(key).is_ok()
    {
        count(Counter::Abandoned);
        ledger::abandoned(&flow);
    }
}

fn socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: the kernel passes a valid context, in which this member of the union is the one in use.
    unsafe { ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_2.sk) }
}

/// The connection as its active side sees it.
fn tuple(ctx: &SockOpsContext, active: bool) -> TupleKey {
    let raw = ctx.ops;
    // SAFETY: the kernel passes a valid context. All fields are read one by one, volatile, and before the family decides which
    // count: an access that the compiler merges with another is refused by the verifier.
    let (family, local4, remote4, local6, remote6, local_port, remote_port) = unsafe {
        (
            ptr::read_volatile(&raw const (*raw).family),
            ptr::read_volatile(&raw const (*raw).local_ip4),
            ptr::read_volatile(&raw const (*raw).remote_ip4),
            [
                ptr::read_volatile(&raw const (*raw).local_ip6[0]),
                ptr::read_volatile(&raw const (*raw).local_ip6[1]),
                ptr::read_volatile(&raw const (*raw).local_ip6[2]),
                ptr::read_volatile(&raw const (*raw).local_ip6[3]),
            ],
            [
                ptr::read_volatile(&raw const (*raw).remote_ip6[0]),
                ptr::read_volatile(&raw const (*raw).remote_ip6[1]),
                ptr::read_volatile(&raw const (*raw).remote_ip6[2]),
                ptr::read_volatile(&raw const (*raw).remote_ip6[3]),
            ],
            ptr::read_volatile(&raw const (*raw).local_port),
            ptr::read_volatile(&raw const (*raw).remote_port),
        )
    };
    let (local, remote) = if family == u32::from(AF_INET) {
        (Words::mapped(local4), Words::mapped(remote4))
    } else {
        (Words(local6), Words(remote6))
    };
    // The local port is in host byte order, the remote one in network byte order and in the upper half.
    let (local_port, remote_port) = (local_port as u16, u32::from_be(remote_port) as u16);
    let (source, destination, source_port, destination_port) =
        if active { (local, remote, local_port, remote_port) } else { (remote, local, remote_port, local_port) };
    TupleKey {
        // SAFETY: the helper takes the program's context.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        source: source.bytes(),
        destination: destination.bytes(),
        source_port,
        destination_port,
        pad: 0,
    }
}
