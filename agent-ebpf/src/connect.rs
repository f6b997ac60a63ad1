//! `connect`, `sendto` and `getpeername`: the decision about a destination, taken where the process asks for it.
//!
//! What writes to a context is generic over the family of the socket: a program on IPv4 sockets must not have an instruction,
//! reachable or not, that writes an IPv6 address.

use core::{arch::asm, mem::size_of_val};

use agent_common::{
    AF_INET, AF_INET6, CANARY, Column, Counter, DESTINATION_OBSERVE, Destination, FLOW_CONNECTING, FlowRecord,
    LedgerKey, MARK_EXISTING, MARK_LISTENER, MARK_SCOPED, MARK_UPSTREAM, Settings, scope::LOCKDOWN,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::{
        bpf_get_current_uid_gid,
        generated::{
            bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_ktime_get_boot_ns,
            bpf_set_retval, bpf_sk_lookup_tcp, bpf_sk_release,
        },
    },
    programs::SockAddrContext,
};
use aya_log_ebpf::{debug, warn};

use crate::{
    address::{self, Asked, Words},
    ledger,
    maps::{FLOWS, MARKS, SETTINGS, count, stored},
    namespaces, process, scope,
};

/// Return value of a program that lets the call go on.
const ALLOW: i32 = 1;
/// Return value of a program that refuses the call: with EPERM, unless another error was set.
const REFUSE: i32 = 0;

const ECONNREFUSED: i32 = 111;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_ICMPV6: u32 = 58;

/// What becomes of a call. [`settle`] is the only place that carries it out.
#[must_use]
enum Outcome {
    /// Nothing of ours.
    Untouched,
    /// The agent's own connection to a target.
    Own,
    /// To the proxy's listener, with the flow noted.
    Redirected,
    /// Refused, or in observe mode let through directly. The counter says why.
    Refused { why: Counter, observe: bool },
}

/// `connect` of any socket.
pub fn connect<const V6: bool>(ctx: &SockAddrContext, asked: &Asked) -> i32 {
    let outcome = if address::protocol(ctx) == IPPROTO_TCP { stream::<V6>(ctx, asked) } else { datagram(ctx, asked) };
    settle(ctx, asked, outcome)
}

/// `sendto` of an unconnected datagram socket.
pub fn send(ctx: &SockAddrContext, asked: &Asked) -> i32 {
    settle(ctx, asked, datagram(ctx, asked))
}

/// `getpeername`: a redirected socket shows the address that was asked for.
pub fn show_peer<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let sk = address::socket(ctx);
    // SAFETY: the context's socket.
    let flow = unsafe { stored(&FLOWS).get(sk) };
    // The accepted side of a connection has a flow too, with the other side's cookie.
    // SAFETY: the helper takes the program's context.
    if let Some(flow) = flow
        && flow.cookie == unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
    {
        address::write::<V6>(ctx, &Words::from_bytes(flow.address), flow.port);
    }
    ALLOW
}

/// The decision about a TCP connection.
fn stream<const V6: bool>(ctx: &SockAddrContext, asked: &Asked) -> Outcome {
    let sk = address::socket(ctx);
    // A socket can be used again: nothing of an earlier connection may remain.
    // SAFETY: the context's socket; the helper takes the program's context.
    unsafe {
        if let Some(flow) = stored(&FLOWS).get(sk)
            && flow.cookie == bpf_get_socket_cookie(ctx.as_ptr())
        {
            ledger::dropped(flow);
        }
        stored(&FLOWS).delete(sk);
        if stored(&MARKS).get(sk) == Some(&MARK_EXISTING) {
            stored(&MARKS).delete(sk);
            // Without memory for it, the socket's user and cgroup decide.
            let _ = stored(&MARKS).insert(sk, &MARK_SCOPED);
        }
    }

    let Some(settings) = SETTINGS.get(0) else {
        return Outcome::Refused { why: Counter::NotRecorded, observe: false };
    };
    let here = netns(ctx);
    let listeners = namespaces::listeners(here, settings);
    if let Some(listeners) = listeners
        && namespaces::has_port(listeners, asked.port)
        && listening(ctx, &asked.address, asked.port)
    {
        return Outcome::Refused { why: Counter::DirectToListener, observe: false };
    }
    let Some(destination) = protected(ctx, here, asked, settings) else { return elsewhere(ctx, asked, settings) };
    // SAFETY: the context's socket.
    if unsafe { stored(&MARKS).get(sk) } == Some(&MARK_UPSTREAM) {
        return Outcome::Own;
    }
    // SAFETY: the context's socket.
    if !unsafe { scope::concerns(settings, sk) } {
        return Outcome::Untouched;
    }
    // SAFETY: the helper takes the program's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (lane, port) = listeners.map_or((0, 0), |listeners| namespaces::lane(listeners, cookie));
    let proxy = asked.address.loopback(lane);
    if port == 0 || !listening(ctx, &proxy, port) {
        // It may listen there for the other family only, or not any more.
        namespaces::refused(here, settings);
        return refused(destination, Counter::NoListener, Column::NoListener);
    }
    if !note::<V6>(ctx, asked, destination) {
        return refused(destination, Counter::NotRecorded, Column::NotRecorded);
    }
    address::write::<V6>(ctx, &proxy, port);
    Outcome::Redirected
}

/// The decision about anything else that has ports.
fn datagram(ctx: &SockAddrContext, asked: &Asked) -> Outcome {
    if matches!(address::protocol(ctx), IPPROTO_ICMP | IPPROTO_ICMPV6) {
        return Outcome::Untouched;
    }
    let Some(settings) = SETTINGS.get(0) else {
        return Outcome::Refused { why: Counter::Udp, observe: false };
    };
    let here = netns(ctx);
    // A name is usually looked up before it is connected to: so the warden can be there in time.
    namespaces::listeners(here, settings);
    match protected(ctx, here, asked, settings) {
        // SAFETY: the context's socket.
        Some(destination) if unsafe { scope::concerns(settings, address::socket(ctx)) } => {
            refused(destination, Counter::Udp, Column::Udp)
        }
        Some(_) => Outcome::Untouched,
        None => elsewhere(ctx, asked, settings),
    }
}

/// A call to a target that is refused, or in observe mode let through, and counts in the ledger.
fn refused(destination: Destination, why: Counter, column: Column) -> Outcome {
    let observe = destination.flags & DESTINATION_OBSERVE != 0;
    if destination.target != CANARY {
        let key = LedgerKey { target: destination.ledger, uid: bpf_get_current_uid_gid() as u32 };
        ledger::count_in(key, if observe { Column::ObservedDirect } else { column });
    }
    Outcome::Refused { why, observe }
}

/// The decision about a destination that is nobody's: only lockdown minds.
fn elsewhere(ctx: &SockAddrContext, asked: &Asked, settings: &Settings) -> Outcome {
    let sk = address::socket(ctx);
    if settings.scope & LOCKDOWN == 0 || scope::allowed(&asked.address, asked.port) {
        return Outcome::Untouched;
    }
    // SAFETY: the context's socket.
    if !unsafe { scope::concerns(settings, sk) } {
        return Outcome::Untouched;
    }
    Outcome::Refused { why: Counter::Lockdown, observe: false }
}

/// Counts an outcome, logs a refusal, and gives the program's return value.
///
/// Inlined, since parts of an outcome that its kind does not use are uninitialised registers in a call, which the verifier
/// refuses.
#[inline(always)]
fn settle(ctx: &SockAddrContext, asked: &Asked, outcome: Outcome) -> i32 {
    let (counter, verdict) = match outcome {
        Outcome::Untouched => return ALLOW,
        Outcome::Own => (Counter::Own, ALLOW),
        Outcome::Redirected => (Counter::Redirected, ALLOW),
        Outcome::Refused { observe: true, .. } => (Counter::ObservedDirect, ALLOW),
        Outcome::Refused { why, observe: false } => {
            report(ctx, asked, why);
            if matches!(why, Counter::NoListener) {
                // What a client understands best: there is nobody, try again.
                // SAFETY: the helper sets the error of this call, and takes any small negative number.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
            }
            (why, REFUSE)
        }
    };
    count(counter);
    one_bit(verdict)
}

/// The lowest bit of a verdict, in a way that the compiler does not see through: it may have taken the verdict from a register
/// that happens to hold its value, which the verifier cannot follow.
fn one_bit(mut verdict: i32) -> i32 {
    // SAFETY: changes this one register.
    unsafe { asm!("{verdict} &= 1", verdict = inout(reg) verdict) };
    verdict
}

fn report(ctx: &SockAddrContext, asked: &Asked, why: Counter) {
    let (_, tgid) = process::current();
    let address = asked.address.bytes();
    let port = asked.port;
    match why {
        Counter::NoListener => {
            warn!(ctx, "refused: the proxy does not listen: process {} to [{:i}]:{}", tgid, address, port);
        }
        Counter::NotRecorded => {
            warn!(ctx, "refused: could not be recorded: process {} to [{:i}]:{}", tgid, address, port);
        }
        Counter::DirectToListener => {
            warn!(ctx, "refused: direct connection to the proxy: process {} to [{:i}]:{}", tgid, address, port);
        }
        Counter::Lockdown => {
            debug!(ctx, "refused: lockdown: process {} to [{:i}]:{}", tgid, address, port);
        }
        _ => debug!(ctx, "refused: not TCP: process {} to [{:i}]:{}", tgid, address, port),
    }
}

/// The protected destination that is asked for, if it is one.
///
/// A target's loopback address is the host's. Another namespace's loopback is never meant; any other address is protected there
/// too, whether the proxy listens there or not.
fn protected(ctx: &SockAddrContext, here: u64, asked: &Asked, settings: &Settings) -> Option<Destination> {
    let destination = address::destination(&asked.address, asked.port)?;
    if asked.address.is_loopback() && here != settings.netns {
        // SAFETY: the context's socket.
        unsafe { scope::set_apart(settings, address::socket(ctx)) };
        return None;
    }
    Some(destination)
}

/// Whether one of the proxy's listeners is at this very address in the socket's network namespace: a listening socket that
/// only the warden can have marked.
fn listening(ctx: &SockAddrContext, address: &Words, port: u16) -> bool {
    // SAFETY: all-zero is a valid tuple: from nowhere, which no established connection has.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    // SAFETY: both members of the union are plain integers.
    let size = unsafe {
        if let Some(v4) = address.as_v4() {
            let tuple = &mut tuple.__bindgen_anon_1.ipv4;
            tuple.daddr = v4;
            tuple.dport = port.to_be();
            size_of_val(tuple)
        } else {
            let tuple = &mut tuple.__bindgen_anon_1.ipv6;
            tuple.daddr = address.0;
            tuple.dport = port.to_be();
            size_of_val(tuple)
        }
    };
    // SAFETY: the helper takes the program's context; the reference that it returns is given back on the only path.
    unsafe {
        let netns = BPF_F_CURRENT_NETNS as i64 as u64;
        let found: *mut bpf_sock = bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size as u32, netns, 0);
        if found.is_null() {
            return false;
        }
        let marked = stored(&MARKS).get(found) == Some(&MARK_LISTENER);
        bpf_sk_release(found.cast());
        marked
    }
}

/// Notes the flow: in the socket's storage, and as open. False if it could not be noted.
fn note<const V6: bool>(ctx: &SockAddrContext, asked: &Asked, destination: Destination) -> bool {
    let (_, tgid) = process::current();
    let Some(entry) = process::connecting(tgid) else { return false };
    let owner = bpf_get_current_uid_gid();
    // SAFETY: the helpers take the program's context or nothing.
    let flow = unsafe {
        FlowRecord {
            cookie: bpf_get_socket_cookie(ctx.as_ptr()),
            generation: entry.generation,
            sequence: entry.sequence,
            cgroup: bpf_get_current_cgroup_id(),
            netns: netns(ctx),
            at: bpf_ktime_get_boot_ns(),
            tgid,
            uid: owner as u32,
            gid: (owner >> 32) as u32,
            target: destination.target,
            address: asked.address.bytes(),
            port: asked.port,
            family: if V6 { AF_INET6 } else { AF_INET },
            ledger: destination.ledger,
            state: FLOW_CONNECTING,
            pad: 0,
        }
    };
    // SAFETY: the context's socket.
    unsafe { stored(&FLOWS).insert(address::socket(ctx), &flow) && ledger::open(&flow) }
}

fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes the program's context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}
