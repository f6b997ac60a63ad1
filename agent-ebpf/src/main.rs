//! Postern's kernel side: connections to protected destinations are noted and led to the proxy, or refused.
//!
//! Attached at the root of the cgroup v2 hierarchy and pinned there, so that it outlives the agent. In the order of one
//! connection: [`create`], [`connect`], then [`handover`]; beside them [`unix`] refuses a target's own sockets on this host,
//! [`process`] keeps watch on exec and exit, [`guard`] on packets that have come past all of them, and [`ledger`] counts.
//!
//! *Invariant:* a connection to a protected destination reaches the proxy together with its flow, or does not happen.
//! Whatever cannot be looked up, noted or recognised is refused.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod address;
mod connect;
mod create;
mod guard;
mod handover;
mod ledger;
mod maps;
mod namespaces;
mod process;
mod scope;
mod unix;

use aya_ebpf::{
    macros::{btf_tracepoint, cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier, kprobe, kretprobe, lsm, sock_ops},
    programs::{
        BtfTracePointContext, LsmContext, ProbeContext, RetProbeContext, SkBuffContext, SockAddrContext, SockContext,
        SockOpsContext, TcContext,
    },
};

use crate::address::Asked;

/// An Internet socket is made.
#[cgroup_sock(sock_create)]
pub fn create(ctx: SockContext) -> i32 {
    create::socket(&ctx)
}

/// `connect` of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::connect::<false>(&ctx, &Asked::v4(&ctx))
}

/// `connect` of an IPv6 socket, also to IPv4-mapped addresses.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect::connect::<true>(&ctx, &Asked::v6(&ctx))
}

/// `sendto` of an unconnected IPv4 datagram socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    connect::send(&ctx, &Asked::v4(&ctx))
}

/// `sendto` of an unconnected IPv6 datagram socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    connect::send(&ctx, &Asked::v6(&ctx))
}

/// `getpeername` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    connect::show_peer::<false>(&ctx)
}

/// `getpeername` of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    connect::show_peer::<true>(&ctx)
}

/// Events of TCP connections.
#[sock_ops]
pub fn handover(ctx: SockOpsContext) -> u32 {
    handover::event(&ctx)
}

/// The last descriptor of a socket is closed.
#[cgroup_sock(sock_release)]
pub fn release(ctx: SockContext) -> i32 {
    handover::released(&ctx)
}

/// A Unix socket connects to one that listens.
#[lsm(hook = "unix_stream_connect")]
pub fn connect_unix(ctx: LsmContext) -> i32 {
    unix::connect(&ctx)
}

/// The same where no program may be asked there (6.7 and later). The loader knows no section for it: the warden takes it out of
/// the section of another hook and loads it by itself.
#[cgroup_sock_addr(connect4)]
pub fn connect_unix_by_name(ctx: SockAddrContext) -> i32 {
    unix::connect_by_name(&ctx)
}

/// A packet leaves a socket.
#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    guard::egress::<true>(ctx.skb.skb)
}

/// The same before 6.15, where the kernel does not say from which network namespace.
#[cgroup_skb(egress)]
pub fn egress_older(ctx: SkBuffContext) -> i32 {
    guard::egress::<false>(ctx.skb.skb)
}

/// A packet leaves by an interface.
#[classifier]
pub fn interface(ctx: TcContext) -> i32 {
    guard::interface(ctx.skb.skb)
}

/// An exec has passed the point of no return (kernel 6.10 and later); the process is still what it was.
#[btf_tracepoint(function = "sched_prepare_exec")]
pub fn prepare_exec(_ctx: BtfTracePointContext) -> i32 {
    process::exec_begun();
    0
}

/// The same before 6.10: an exec is about to pass that point.
#[kprobe]
pub fn begin_exec(_ctx: ProbeContext) -> u32 {
    process::exec_begun();
    0
}

/// The function in which an exec passes that point returns. If it has failed, the process is still what it was, or is killed
/// before it returns from the kernel.
#[kretprobe]
pub fn fail_exec(ctx: RetProbeContext) -> u32 {
    if ctx.ret::<i32>() != 0 {
        process::exec_done();
    }
    0
}

/// An exec has succeeded.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn process_exec(_ctx: BtfTracePointContext) -> i32 {
    process::exec_done();
    namespaces::executed();
    0
}

/// A thread exits.
#[btf_tracepoint(function = "sched_process_exit")]
pub fn process_exit(_ctx: BtfTracePointContext) -> i32 {
    process::exited();
    0
}

/// The licence that the helpers ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier accepts no loop without an end: a program with a reachable panic does not load.
    loop {}
}
