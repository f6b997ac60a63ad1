//! Records and pure decisions shared by Postern's kernel side and user side.
//!
//! Everything in a BPF map is defined here once, as integers with explicit padding. Sizes and offsets are asserted at
//! compile time, so that a build in which the two sides disagree does not exist; [`LAYOUT`] is compared with the pinned
//! maps when the agent starts.
#![no_std]
#![forbid(unsafe_code)]

mod ledger;
mod unix;

pub use ledger::*;
pub use unix::*;

/// Version of the layout of pinned maps; part of the pin directory's name. A new agent never adopts another layout.
pub const LAYOUT: u32 = 3;

/// Address families as the kernel numbers them.
pub const AF_INET: u16 = 2;
/// See [`AF_INET`].
pub const AF_INET6: u16 = 10;

/// What a connect left behind about the process that made it: the value of the socket-storage map, of the tuple map and of the
/// map of open flows.
///
/// Addresses are IPv6, IPv4 as mapped (`::ffff:a.b.c.d`), in network byte order; ports are in host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Socket cookie of the connecting socket.
    pub cookie: u64,
    /// Generation of the process entry at connect time; see [`ProcessEntry`].
    pub generation: u64,
    /// Exec sequence of the process entry at connect time; always even.
    pub sequence: u64,
    /// Cgroup id of the connecting task (cgroup v2).
    pub cgroup: u64,
    /// Cookie of the network namespace of the connecting socket.
    pub netns: u64,
    /// `CLOCK_BOOTTIME` at connect, in nanoseconds.
    pub at: u64,
    /// Thread-group id of the connecting task, in the initial pid namespace.
    pub tgid: u32,
    /// Real user id in the initial user namespace.
    pub uid: u32,
    /// Real group id in the initial user namespace.
    pub gid: u32,
    /// Index of the target, as written by the agent into the protected maps.
    pub target: u32,
    /// Original destination address.
    pub address: [u8; 16],
    /// Original destination port.
    pub port: u16,
    /// Family of the connecting socket: [`AF_INET`] or [`AF_INET6`].
    pub family: u16,
    /// The target in the coverage ledger.
    pub ledger: LedgerId,
    /// In the map of open flows: [`FLOW_CONNECTING`] or [`FLOW_ACCEPTED`]. Elsewhere zero.
    pub state: u32,
    /// Zero.
    pub pad: u32,
}

/// The client is connecting to the proxy, or may begin to.
pub const FLOW_CONNECTING: u32 = 0;
/// The proxy's listener has taken the connection.
pub const FLOW_ACCEPTED: u32 = 1;

impl FlowRecord {
    /// Its place in the map of open flows.
    #[must_use]
    pub const fn key(&self) -> FlowKey {
        FlowKey { cookie: self.cookie, at: self.at }
    }

    /// Its row in the coverage ledger.
    #[must_use]
    pub const fn row(&self) -> LedgerKey {
        LedgerKey { target: self.ledger, uid: self.uid }
    }
}

/// Key of the tuple map: the redirected connection as seen by its *active* side.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TupleKey {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// Local address of the connecting socket, IPv4 as mapped.
    pub source: [u8; 16],
    /// Remote address, that of the proxy's listener, IPv4 as mapped.
    pub destination: [u8; 16],
    /// Local port, host byte order.
    pub source_port: u16,
    /// Remote port, host byte order.
    pub destination_port: u16,
    /// Zero.
    pub pad: u32,
}

/// A process that has connected to a protected target, or is executing a program: the value of the process map, whose key
/// is the tgid.
///
/// `sequence` is a seqlock over exec: odd while an exec is under way, even otherwise, and changed by every exec. An exec of a
/// process without an entry makes a placeholder for its duration, so that another of its threads cannot connect meanwhile
/// and be taken for the program that is about to run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessEntry {
    /// `CLOCK_BOOTTIME` in nanoseconds when the entry was made. Unique for a tgid, and never before the process's start:
    /// a process that started later than this is another one that was given the same pid.
    pub generation: u64,
    /// Exec sequence.
    pub sequence: u64,
    /// Thread that executes, while the sequence is odd.
    pub executor: u32,
    /// Zero.
    pub pad: u32,
}

/// Bit of a sequence: the entry was made by an exec and goes with it.
const PLACEHOLDER: u64 = 1 << 63;

impl ProcessEntry {
    /// The entry of a process that connects for the first time.
    #[must_use]
    pub const fn connected(now: u64) -> Self {
        Self { generation: now, sequence: 0, executor: 0, pad: 0 }
    }

    /// The entry of a process that has none and whose thread `executor` begins to execute a program.
    #[must_use]
    pub const fn placeholder(now: u64, executor: u32) -> Self {
        Self { generation: now, sequence: PLACEHOLDER | 1, executor, pad: 0 }
    }

    /// The entry once an exec by `executor` has begun. Idempotent: two programs that see the same event leave the same value.
    #[must_use]
    pub const fn exec_begun(self, executor: u32) -> Self {
        Self { sequence: self.sequence | 1, executor, ..self }
    }

    /// The entry once an exec has succeeded: even, and different from before even if the beginning went unseen. `None`: a
    /// placeholder, no longer needed.
    #[must_use]
    pub const fn exec_done(self) -> Option<Self> {
        if self.sequence & PLACEHOLDER != 0 {
            return None;
        }
        Some(Self { sequence: (self.sequence | 1).wrapping_add(1), executor: 0, ..self })
    }

    /// Whether the entry ends with the exit of `thread` of the process `tgid`: with the thread-group leader's, unless that
    /// leader gives way to another thread's exec; with the executing thread's, since that exec has failed for good.
    #[must_use]
    pub const fn ends_with(self, thread: u32, tgid: u32) -> bool {
        if self.in_exec() { thread == self.executor } else { thread == tgid }
    }

    /// Whether an exec is under way.
    #[must_use]
    pub const fn in_exec(self) -> bool {
        self.sequence & 1 == 1
    }
}

/// Key of the protected-destination maps (longest prefix): the port first, so that a lookup is by exact port and
/// longest address prefix. The family decides the map; an IPv4 address uses the first four bytes of `address`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationKey {
    /// Destination port, network byte order.
    pub port: [u8; 2],
    /// Zero; part of the prefix.
    pub pad: [u8; 2],
    /// Address, network byte order.
    pub address: [u8; 16],
}

/// Bits of [`DestinationKey`] before the address.
pub const DESTINATION_PREFIX: u32 = 32;

/// What to do with a connection to a protected destination: the value of the protected-destination maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Index of the target.
    pub target: u32,
    /// [`DESTINATION_OBSERVE`], [`DESTINATION_TRIAL`] or zero.
    pub flags: u32,
    /// The target in the coverage ledger.
    pub ledger: LedgerId,
}

/// Target of the self-test's own destinations. They are in no ledger.
pub const CANARY: u32 = u32::MAX - 1;

/// The target is in observe mode: without a listener the connection goes through directly, and is counted.
pub const DESTINATION_OBSERVE: u32 = 1;
/// Of a Unix socket: refused to everybody, to find out whether the kernel asks the program at all.
pub const DESTINATION_TRIAL: u32 = 2;

/// Agent-wide settings: the only entry of the settings map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Cookie of the network namespace of the host, whose loopback addresses targets may have.
    pub netns: u64,
    /// Bits of [`scope`].
    pub scope: u16,
    /// Zero.
    pub pad: [u16; 3],
}

/// What the programs are concerned with: bits of [`Settings::scope`].
pub mod scope {
    /// Somebody is not in scope: the maps of users and cgroups count.
    pub const PARTIAL: u16 = 1;
    /// Only who is listed is in scope; otherwise everybody is who is not excluded.
    pub const LISTED: u16 = 1 << 1;
    /// Cgroups are listed or excluded. One that nobody has looked at yet counts as in scope.
    pub const CGROUPS: u16 = 1 << 2;
    /// Who is in scope reaches protected destinations and those that are allowed, and nothing else beyond loopback.
    pub const LOCKDOWN: u16 = 1 << 3;
    /// Forwarded packets to protected destinations pass. They belong to no socket of this host.
    pub const FORWARD: u16 = 1 << 4;
    /// The agent listens in every network namespace: the warden is told of those where it does not yet.
    pub const EVERYWHERE: u16 = 1 << 5;
}

/// Whether somebody is in scope: the value of the maps of users (by uid) and of cgroups (by id).
pub type Membership = u32;
/// Listed: in scope.
pub const MEMBER: Membership = 1;
/// Excluded: not in scope, whatever else is true.
pub const EXCLUDED: Membership = 2;
/// Looked at, and neither.
pub const NEITHER: Membership = 3;

/// In no map.
pub const UNKNOWN: Membership = 0;

/// Whether somebody is in scope by what the maps say of its user and its cgroup, [`UNKNOWN`] if nothing. Plain numbers: where this
/// is a call, half of an `Option` can be a register without a value, which a verifier refuses.
#[must_use]
pub const fn in_scope(bits: u16, user: Membership, cgroup: Membership) -> bool {
    let cgroups = bits & scope::CGROUPS != 0;
    if user == EXCLUDED || (cgroups && cgroup == EXCLUDED) {
        return false;
    }
    bits & scope::LISTED == 0 || user == MEMBER || (cgroups && matches!(cgroup, UNKNOWN | MEMBER))
}

/// Pairs of listeners in the host's own network namespace. One address and port takes some 28,000 connections, as many as there
/// are ports to connect from; so many times more can be open with these.
pub const LANES: usize = 4;

/// Ports of pairs of listeners, in host byte order; 0 where there is none. The first is at 127.0.0.1 and ::1, the second at
/// 127.0.0.2 and ::1, and so on.
pub type Ports = [u16; LANES];

/// Where the proxy listens in a network namespace: the value of the listener map, whose key is the namespace's cookie. A port can
/// be taken in one namespace and free in another. One value, so that there is no moment in which neither half holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listeners {
    /// Where it listens now: at the first at least.
    pub now: Ports,
    /// Where a proxy that hands over may still accept what was on its way.
    pub before: Ports,
}

impl Listeners {
    /// A proxy listens at these, in place of what listened until now.
    #[must_use]
    pub const fn moved(self, now: Ports) -> Self {
        Self { now, before: self.now }
    }
}

/// Network namespaces in which the agent listens, the host's own among them. Each costs the proxy two descriptors. Beyond it,
/// connects to protected destinations are refused there.
pub const MAX_NAMESPACES: u32 = 1_024;

/// Word of the kernel side to the warden: this thread is in a network namespace where the proxy may not listen yet. Lost if too
/// many come at once: the next attempt says it again.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unserved {
    /// Id of the thread, in the initial pid namespace.
    pub thread: u32,
    /// [`UNSERVED_REFUSED`] or zero.
    pub flags: u32,
}

/// A connect of the thread was refused for it.
pub const UNSERVED_REFUSED: u32 = 1;

/// Bytes of the ring buffer of [`Unserved`]: some thousand threads.
pub const UNSERVED_BYTES: u32 = 64 * 1024;

/// Cgroups in which programs were executed lately. It only spares the warden words that it has heard.
pub const MAX_EXECUTED: u32 = 4_096;

/// Programs executed in a cgroup of which the warden is told: a runtime may execute some before it enters a namespace.
pub const TOLD_EXECS: u32 = 16;

/// Protected destinations per family: sixteen bytes of address each, for a few hundred targets with all their addresses.
pub const MAX_DESTINATIONS: u32 = 16_384;
/// Processes that are connected to protected targets at once, or executing a program. Beyond it, connects are refused.
pub const MAX_PROCESSES: u32 = 65_536;
/// Users that are named in the scope.
pub const MAX_USERS: u32 = 1024;
/// Cgroups of the host that are looked at, if the scope names any. What does not fit counts as in scope.
pub const MAX_CGROUPS: u32 = 65_536;
/// Destinations that lockdown allows, per family.
pub const MAX_ALLOWED: u32 = 1024;
/// Redirected connections that wait for their handshake at once. Beyond it, connections are refused.
pub const MAX_TUPLES: u32 = 65_536;

/// What is known of a socket: the value of the mark map (socket storage). The agent's roles are written by the warden alone,
/// and nothing takes their place.
pub type Mark = u32;
/// The socket is one of the proxy's listeners.
pub const MARK_LISTENER: Mark = 1;
/// The socket is the proxy's own, on its way to a protected target.
pub const MARK_UPSTREAM: Mark = 2;
/// Somebody in scope made or connected the socket: it is in scope whoever uses it.
pub const MARK_SCOPED: Mark = 3;
/// The connection is older than interception, and was left as it was. It goes with the connection: after another connect the
/// socket is in scope.
pub const MARK_EXISTING: Mark = 4;
/// As [`MARK_SCOPED`], and the socket is of another network namespace than the agent's: not every program can tell.
pub const MARK_APART: Mark = 5;

/// Counters of governed connects, as indexes of the counter map. Each is monotonic while the map stays pinned.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Redirected to the proxy.
    Redirected = 0,
    /// Refused because no marked listener was there.
    NoListener = 1,
    /// Refused because the process or the flow could not be noted.
    NotRecorded = 2,
    /// Refused: a direct connect to one of the agent's listeners.
    DirectToListener = 3,
    /// Refused: UDP to a protected destination.
    Udp = 4,
    /// Let through to a target in observe mode because no listener was there.
    ObservedDirect = 5,
    /// Redirected, and closed before it was accepted.
    Abandoned = 6,
    /// Accepted with its flow.
    Accepted = 7,
    /// The agent's own marked socket to a protected destination.
    Own = 8,
    /// Refused: a raw socket.
    Raw = 9,
    /// Refused: a Multipath TCP socket; the client falls back to TCP.
    Multipath = 10,
    /// Refused: a Unix socket of a target on this host.
    Unix = 11,
    /// Dropped: a packet to a protected destination from a socket without the agent's mark.
    Guarded = 12,
    /// Dropped: a forwarded packet to a protected destination.
    Forwarded = 13,
    /// Refused or dropped: lockdown allows no such destination.
    Lockdown = 14,
    /// Something had no place in a map. Whatever needed it was refused.
    MapFull = 15,
    /// A word to the warden had no place in its ring buffer: of a namespace, which will be said again; or which connect was
    /// abandoned, which is counted and stays without a name.
    Unheard = 16,
}

/// Number of counters.
pub const COUNTERS: u32 = 17;

/// All counters with the names that the command line shows.
pub const COUNTER_NAMES: [(Counter, &str); COUNTERS as usize] = [
    (Counter::Redirected, "redirected"),
    (Counter::NoListener, "refused_no_listener"),
    (Counter::NotRecorded, "refused_not_recorded"),
    (Counter::DirectToListener, "refused_direct_to_listener"),
    (Counter::Udp, "refused_udp"),
    (Counter::ObservedDirect, "observed_direct"),
    (Counter::Abandoned, "abandoned"),
    (Counter::Accepted, "accepted"),
    (Counter::Own, "own"),
    (Counter::Raw, "refused_raw"),
    (Counter::Multipath, "refused_multipath"),
    (Counter::Unix, "refused_unix"),
    (Counter::Guarded, "dropped_guard"),
    (Counter::Forwarded, "dropped_forwarded"),
    (Counter::Lockdown, "refused_lockdown"),
    (Counter::MapFull, "map_full"),
    (Counter::Unheard, "ring_buffer_lost"),
];

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<FlowRecord>() == 96);
    assert!(offset_of!(FlowRecord, tgid) == 48);
    assert!(offset_of!(FlowRecord, address) == 64);
    assert!(offset_of!(FlowRecord, port) == 80);
    assert!(offset_of!(FlowRecord, state) == 88);
    assert!(size_of::<FlowKey>() == 16);
    assert!(size_of::<LedgerKey>() == 8);
    assert!(size_of::<LedgerRow>() == 56);
    assert!(size_of::<TupleKey>() == 48);
    assert!(offset_of!(TupleKey, source_port) == 40);
    assert!(size_of::<ProcessEntry>() == 24);
    assert!(offset_of!(ProcessEntry, executor) == 16);
    assert!(size_of::<DestinationKey>() == 20);
    assert!(size_of::<Destination>() == 12);
    assert!(size_of::<Listeners>() == 16);
    assert!(size_of::<SocketPlace>() == 16);
    assert!(size_of::<Offsets>() == 36);
    assert!(size_of::<Settings>() == 16);
    assert!(size_of::<Unserved>() == 8);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusion_wins_and_an_unknown_cgroup_is_in_scope() {
        let (all, users, cgroups) = (0, scope::LISTED, scope::LISTED | scope::CGROUPS);
        for (bits, user, cgroup, expected) in [
            (all, UNKNOWN, UNKNOWN, true),
            (all, EXCLUDED, UNKNOWN, false),
            (all, UNKNOWN, EXCLUDED, true),
            (all | scope::CGROUPS, UNKNOWN, EXCLUDED, false),
            (all | scope::CGROUPS, MEMBER, EXCLUDED, false),
            (users, UNKNOWN, UNKNOWN, false),
            (users, UNKNOWN, MEMBER, false),
            (users, MEMBER, UNKNOWN, true),
            (cgroups, UNKNOWN, UNKNOWN, true),
            (cgroups, UNKNOWN, NEITHER, false),
            (cgroups, UNKNOWN, MEMBER, true),
            (cgroups, MEMBER, NEITHER, true),
            (cgroups, EXCLUDED, MEMBER, false),
        ] {
            assert_eq!(in_scope(bits, user, cgroup), expected, "{bits} {user} {cgroup}");
        }
    }

    #[test]
    fn every_exec_changes_the_sequence_and_leaves_it_even() {
        let idle = ProcessEntry { sequence: 4, ..ProcessEntry::connected(7) };
        let begun = idle.exec_begun(12);
        assert!(begun.in_exec() && !idle.in_exec());
        assert_eq!(begun.exec_begun(12), begun);
        assert_eq!(begun.exec_done(), Some(ProcessEntry { sequence: 6, ..idle }));
        // Two programs at once during an upgrade, or one that began watching in the middle of an exec.
        assert_eq!(begun.exec_done().and_then(ProcessEntry::exec_done), Some(ProcessEntry { sequence: 8, ..idle }));
        assert_eq!(idle.exec_done(), Some(ProcessEntry { sequence: 6, ..idle }));
    }

    #[test]
    fn a_placeholder_is_in_exec_and_goes_with_it() {
        let placeholder = ProcessEntry::placeholder(7, 12);
        assert!(placeholder.in_exec());
        assert_eq!(placeholder.exec_begun(12), placeholder);
        assert_eq!(placeholder.exec_done(), None);
    }

    #[test]
    fn an_entry_ends_with_the_leader_or_with_a_failed_exec() {
        let idle = ProcessEntry::connected(7);
        assert!(idle.ends_with(10, 10));
        assert!(!idle.ends_with(12, 10));
        // Thread 12 executes and makes the leader exit: the process goes on.
        let begun = idle.exec_begun(12);
        assert!(!begun.ends_with(10, 10));
        assert!(!begun.ends_with(13, 10));
        assert!(begun.ends_with(12, 10));
    }
}
