//! Who is not in scope is left alone; who is, is not, whoever's socket it uses. Lockdown closes everything else to the latter.

use std::{io, net::SocketAddr};

use crate::{
    Outcome, Results,
    attempts::{
        self, Cgroup, Ending,
        Ending::{Redirected, Refused},
        Maker, Rights, Row,
    },
    field::{Attempt, Field, INSIDE, OUTSIDE, Start, WORDS},
    ground::{ALLOWED, Both, Ground, NEIGHBOUR, OPEN, RESOLVER, TARGET_HARDWARE, TO_TARGET, pick},
    host::{Host, Scope},
    netlink,
    packet::{Carried, Packet},
    sys::{self, Raw},
};

/// Port of resolvers.
const DNS: u16 = 53;

/// Ways to the target, one of each class.
const CLASSES: &[&str] = &["plain connect", "UDP: sendto", "raw: a SYN (IPPROTO_TCP)", "packet socket: a SYN"];
/// The same where the kernel refuses Unix sockets.
const UNIX_CLASS: &str = "Unix socket: its path";

/// Attempts that only make sense here. Those that concern lockdown go to other places than a target; their endings are those of
/// somebody in scope.
const ROWS: &[Row] = &[
    Row::new("given away: connect", Redirected, given_away).with(Rights::Later),
    Row::new("given away: UDP sendto", Refused, given_away_datagram).with(Rights::Later),
    Row::new("elsewhere: TCP", Refused, |field| stream(field, NEIGHBOUR)),
    Row::new("elsewhere: UDP", Refused, |field| datagram(field, NEIGHBOUR, OPEN)),
    Row::new("elsewhere: ICMP", Refused, |field| ping(field, NEIGHBOUR)),
    Row::new("elsewhere: raw", Refused, raw).with(Rights::All),
    Row::new("elsewhere: packet socket", Refused, framed).with(Rights::All),
    Row::new("the resolver: another port", Refused, |field| datagram(field, RESOLVER, OPEN)),
    Row::new("the resolver: DNS", Redirected, |field| datagram(field, RESOLVER, DNS)),
    Row::new("allowed: TCP", Redirected, |field| stream(field, ALLOWED)),
    Row::new("allowed: UDP", Redirected, |field| datagram(field, ALLOWED, OPEN)),
    Row::new("allowed: ICMP", Redirected, |field| ping(field, ALLOWED)),
];

/// See [`ROWS`].
pub fn rows() -> Vec<Row> {
    ROWS.to_vec()
}

/// Somebody in scope made the socket; somebody who is not connects it.
fn given_away(field: &mut Field) -> io::Result<()> {
    let maker = Maker::start(field, INSIDE, libc::SOCK_STREAM)?;
    field.enter_scope(false)?;
    let socket = sys::receive(&maker.over)?;
    field.go(socket, field.target())
}

fn given_away_datagram(field: &mut Field) -> io::Result<()> {
    let maker = Maker::start(field, INSIDE, libc::SOCK_DGRAM)?;
    field.enter_scope(false)?;
    let socket = sys::receive(&maker.over)?;
    sys::send_to(&socket, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn stream(field: &mut Field, to: Both) -> io::Result<()> {
    field.go(field.tcp()?, field.of(to, OPEN))
}

fn datagram(field: &mut Field, to: Both, port: u16) -> io::Result<()> {
    sys::send_to(&field.udp()?, WORDS, 0, &Raw::of(field.of(to, port))).map(drop)
}

/// An echo request by a socket that needs no privileges.
fn ping(field: &mut Field, to: Both) -> io::Result<()> {
    let (protocol, kind) = if field.six { (libc::IPPROTO_ICMPV6, 128) } else { (libc::IPPROTO_ICMP, 8) };
    let socket = field.socket(libc::SOCK_DGRAM, protocol)?;
    sys::send_to(&socket, &[kind, 0, 0, 0, 0, 0, 0, 1], 0, &Raw::of(field.of(to, 0))).map(drop)
}

fn packet(field: &Field) -> Packet {
    Packet::new(Carried::Udp, (pick(NEIGHBOUR, field.six), OPEN))
}

fn raw(field: &mut Field) -> io::Result<()> {
    let socket = field.socket(libc::SOCK_RAW, libc::IPPROTO_UDP)?;
    let packet = packet(field);
    let to = SocketAddr::new(packet.to.0, 0);
    sys::send_to(&socket, &packet.carried.segment(packet.from, packet.to), 0, &Raw::of(to)).map(drop)
}

fn framed(field: &mut Field) -> io::Result<()> {
    let packet = packet(field);
    let interface = netlink::index(TO_TARGET).map_err(io::Error::other)?;
    let to = Raw::link(interface, packet.ethertype(), TARGET_HARDWARE);
    sys::send_to(&sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?, &packet.frame(&[]), 0, &to).map(drop)
}

/// Runs all cases. Nothing is in force afterwards.
pub fn run(ground: &mut Ground, host: &mut Host, results: &mut Results) -> Outcome {
    let cgroup = Cgroup::new().map_err(|error| format!("a cgroup: {error}"))?;
    let name = cgroup.0.file_name().ok_or("no name")?.to_string_lossy().into_owned();
    let below = vec![format!("/{name}")];
    let users = vec![INSIDE.to_string()];
    let mut arena = Arena { ground, host, results, cgroup: &cgroup };
    let (inside, outside) = ((INSIDE, false), (OUTSIDE, false));

    arena.with("users", &Scope { users: users.clone(), ..Scope::default() })?;
    arena.classes("users: somebody else", outside, false)?;
    arena.classes("users: who is listed", inside, true)?;
    for row in ["given away: connect", "given away: UDP sendto"] {
        arena.governed("users: a socket made by who is listed", row, outside)?;
    }

    arena.with("cgroups", &Scope { cgroups: below.clone(), ..Scope::default() })?;
    arena.classes("cgroups: outside of it", outside, false)?;
    arena.classes("cgroups: in it", (OUTSIDE, true), true)?;

    let excluded = Scope { users: users.clone(), without_cgroups: below.clone(), ..Scope::default() };
    arena.with("an excluded cgroup", &excluded)?;
    arena.classes("an excluded cgroup: who is listed, in it", (INSIDE, true), false)?;
    arena.classes("an excluded cgroup: who is listed, outside of it", inside, true)?;

    let excluded = Scope { cgroups: below, without_users: vec![OUTSIDE.to_string()], ..Scope::default() };
    arena.with("an excluded user", &excluded)?;
    arena.classes("an excluded user: in the listed cgroup", (OUTSIDE, true), false)?;
    arena.classes("an excluded user: another one there", (INSIDE, true), true)?;

    let networks = vec![ALLOWED.0.to_string(), ALLOWED.1.to_string()];
    let resolvers = vec![RESOLVER.0.to_string(), RESOLVER.1.to_string()];
    arena.ground.watched = [NEIGHBOUR, ALLOWED, RESOLVER].iter().flat_map(|b| [b.0.into(), b.1.into()]).collect();
    arena.with("lockdown", &Scope { users, lockdown: Some((networks, resolvers)), ..Scope::default() })?;
    for row in ROWS.iter().filter(|row| !row.name.starts_with("given away")) {
        arena.left_alone("lockdown: somebody else", row.name, outside)?;
        match row.ending {
            Ending::Refused => arena.refused("lockdown: who is listed", row.name, inside)?,
            Ending::Redirected => arena.left_alone("lockdown: who is listed", row.name, inside)?,
        }
    }
    arena.classes("lockdown: who is listed", inside, true)?;
    arena.ground.watched.clear();
    arena.host.uninstall()
}

/// A user, and whether it is in the suite's cgroup.
type Somebody = (u32, bool);

/// Everything that a case needs.
struct Arena<'a> {
    ground: &'a mut Ground,
    host: &'a mut Host,
    results: &'a mut Results,
    cgroup: &'a Cgroup,
}

/// How an attempt went.
struct Went {
    said: String,
    evidence: Vec<String>,
    /// Uids of the connections that the proxy could identify as the attempt's.
    proxied: Vec<Outcome<u32>>,
}

impl Arena<'_> {
    /// Another agent, with this scope.
    fn with(&mut self, what: &str, scope: &Scope) -> Outcome {
        self.host.uninstall()?;
        self.host.start(scope).map_err(|error| format!("{what}: {error}"))
    }

    fn classes(&mut self, what: &str, who: Somebody, governed: bool) -> Outcome {
        let unix = self.host.refuses_by_name().then_some(UNIX_CLASS);
        for row in CLASSES.iter().copied().chain(unix) {
            if governed { self.governed(what, row, who)? } else { self.left_alone(what, row, who)? }
        }
        Ok(())
    }

    /// It reaches where it goes, past the proxy.
    fn left_alone(&mut self, what: &str, row: &str, who: Somebody) -> Outcome {
        self.judge(what, row, who, "reaches it", |_, went| !went.evidence.is_empty() && went.proxied.is_empty())
    }

    /// It reaches nothing.
    fn refused(&mut self, what: &str, row: &str, who: Somebody) -> Outcome {
        self.judge(what, row, who, "refused", |_, went| went.evidence.is_empty() && went.proxied.is_empty())
    }

    /// It ends as its row says.
    fn governed(&mut self, what: &str, row: &str, who: Somebody) -> Outcome {
        self.judge(what, row, who, "redirected or refused", move |row, went| {
            let own = went.proxied.iter().all(|uid| *uid == Ok(who.0));
            went.evidence.is_empty() && own && went.proxied.is_empty() == (row.ending == Ending::Refused)
        })
    }

    fn judge(
        &mut self,
        what: &str,
        row: &str,
        who: Somebody,
        expected: &str,
        right: impl Fn(&Row, &Went) -> bool,
    ) -> Outcome {
        let row = attempts::all().into_iter().chain(rows()).find(|known| known.name == row).ok_or("no such row")?;
        for six in row.sixes().iter().copied() {
            let went = self.attempt(&row, six, who)?;
            let name = format!("{what}: {}: {expected} [{}]", row.shown(six), went.said);
            let outcome = if right(&row, &went) {
                Ok(())
            } else {
                Err(format!("arrived: {:?}, at the proxy: {:?}", went.evidence, went.proxied))
            };
            self.results.report(&name, outcome);
        }
        Ok(())
    }

    fn attempt(&mut self, row: &Row, six: bool, (uid, inside): Somebody) -> Outcome<Went> {
        let proxy = self.host.proxy.as_ref().ok_or("no proxy")?;
        let cgroup = inside.then(|| self.cgroup.0.join("cgroup.procs"));
        let start = Start { uid, cgroup, ..Start::new(row, six, proxy.port()) };
        let mut attempt = Attempt::start(&start, &self.ground.guest)?;
        let said = attempt.line()?;
        let evidence = self.ground.evidence()?;
        let pids = std::mem::take(&mut attempt.pids);
        let own = |flow: agent::model::Flow| {
            if pids.contains(&flow.tgid) { Ok(flow.uid) } else { Err(format!("process {}", flow.tgid)) }
        };
        let proxied = proxy.accept().into_iter().map(|whose| whose.and_then(own)).collect();
        drop(attempt);
        self.ground.evidence()?;
        proxy.accept();
        Ok(Went { said, evidence, proxied })
    }
}
