//! `socket`: kinds of sockets by which somebody in scope could go past `connect`.

use agent_common::{AF_INET, AF_INET6, Counter};
use aya_ebpf::{helpers::generated::bpf_set_retval, programs::SockContext};
use aya_log_ebpf::debug;

use crate::{
    maps::{SETTINGS, count},
    process, scope,
};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

const SOCK_RAW: u32 = 3;
const IPPROTO_MPTCP: u32 = 262;
const EPROTONOSUPPORT: i32 = 93;

/// An Internet socket is made. Packet sockets come by no cgroup program; see [`crate::guard`].
pub fn socket(ctx: &SockContext) -> i32 {
    let Some(settings) = SETTINGS.get(0) else { return REFUSE };
    // SAFETY: the kernel passes a valid context; see the module `address` for `volatile`.
    let (family, kind, protocol) = unsafe {
        let sk = ctx.sock;
        (
            core::ptr::read_volatile(&raw const (*sk).family),
            core::ptr::read_volatile(&raw const (*sk).type_),
            core::ptr::read_volatile(&raw const (*sk).protocol),
        )
    };
    // In any case, so that the socket remembers who has made it.
    // SAFETY: in this program the context is the socket.
    if !unsafe { scope::concerns(settings, ctx.sock) } {
        return ALLOW;
    }
    let why = if family != u32::from(AF_INET) && family != u32::from(AF_INET6) {
        return ALLOW;
    } else if kind == SOCK_RAW {
        Counter::Raw
    } else if protocol == IPPROTO_MPTCP {
        // Clients take this for a kernel without it, and use TCP.
        // SAFETY: the helper sets the error of this call, and takes any small negative number.
        unsafe { bpf_set_retval(-EPROTONOSUPPORT) };
        Counter::Multipath
    } else {
        return ALLOW;
    };
    let (_, tgid) = process::current();
    debug!(ctx, "refused: a socket of type {} and protocol {} for process {}", kind, protocol, tgid);
    count(why);
    REFUSE
}
