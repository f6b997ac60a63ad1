//! Nothing gets around it: a matrix of attempts to reach a protected target directly, each proven to reach it while the
//! programs are not in force.
//!
//! The target is a machine of its own behind a link, and a server on loopback; the judge listens on the wire ([`ground`]). An
//! attempt is a process of the one user who is in scope ([`field`]). It first runs as a control, without an agent. Only if the
//! target was reached then does it count; what the kernel at hand lacks is listed as untested, and must be on the list of what
//! may be. With the agent it must end at the proxy, identified as what it is, or nowhere, and nothing may reach the target.

mod attempts;
mod field;
mod ground;
mod host;
mod netlink;
mod packet;
mod scope;
mod sys;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use agent_tests::turn::Turn;
use attempts::{Ending, Families, Row};
use field::{Attempt, INSIDE, Stage, Start};
use ground::{Ground, HOST, pick};
use host::{Host, Proxy, Scope};

/// An error is a text for whoever reads the test's output.
type Outcome<T = ()> = Result<T, String>;

/// What an attempt may say of itself: done, though nobody may have got it, or an error that a refusal is, a queue that is said to
/// be full or a silence among them. Any other error is the attempt's own, and proves nothing.
const EXPECTED: &[&str] = &[
    "done",
    "error EPERM",
    "error ECONNREFUSED",
    "error ECONNABORTED",
    "error EPROTONOSUPPORT",
    "error ENOBUFS",
    "error EINPROGRESS",
    "error EAGAIN",
];

/// The table of the manual: how each attempt ends, and which ones a kernel may lack.
const TABLE: &str = include_str!("../../agent/docs/bypass.md");

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "warden", directory, pins, scope] => host::run_warden(directory, pins, scope),
        [_, "watchdog", pins, suite] => host::run_watchdog(pins, suite),
        [_, "attempt", start, guest] => field::run(start, guest),
        [_, "maker", uid, family, kind] => attempts::run_maker(uid, family, kind),
        [_, words @ ..] => suite(words),
        [] => ExitCode::FAILURE,
    }
}

fn suite(words: &[&str]) -> ExitCode {
    let mut results = Results::default();
    let run = |results: &mut Results| {
        let _turn = Turn::take()?;
        Matrix::new(words)?.run(words, results)
    };
    if let Err(error) = run(&mut results) {
        results.report("the suite", Err(error));
    }
    println!("{} passed, {} failed, 0 skipped", results.passed, results.failed);
    if results.failed == 0 && results.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What has come out so far.
#[derive(Default)]
pub struct Results {
    passed: usize,
    failed: usize,
    untested: usize,
    endings: BTreeMap<&'static str, usize>,
}

impl Results {
    fn report(&mut self, name: &str, outcome: Outcome) {
        match outcome {
            Ok(()) => {
                self.passed += 1;
                println!("ok - {name}");
            }
            Err(reason) => {
                self.failed += 1;
                println!("FAILED - {name}: {reason}");
            }
        }
        let _ = std::io::stdout().flush();
    }
}

/// One attempt in one family.
struct Cell {
    row: Row,
    six: bool,
    /// How the control ended, in words.
    control: String,
    early: Option<Attempt>,
}

impl Cell {
    fn name(&self) -> String {
        self.row.shown(self.six)
    }

    /// How it ends by the manual's table.
    fn told(&self) -> Option<&'static str> {
        let begin = format!("| {} | ", self.row.name);
        let row = TABLE.lines().find_map(|line| line.strip_prefix(begin.as_str()))?;
        row.split(" | ").nth(usize::from(self.six))
    }

    /// Whether the manual's table tells the same of it.
    fn documented(&self, said: &str) -> Outcome {
        let told = self.told().ok_or("it is not in agent/docs/bypass.md")?;
        let same = match (self.row.ending, said.strip_prefix("error ")) {
            (Ending::Redirected, _) => told.starts_with("redirected"),
            // Nothing that the caller is told, but that nobody answers.
            (Ending::Refused, None | Some("EINPROGRESS" | "EAGAIN")) => {
                told.starts_with("dropped") || told.starts_with("no answer")
            }
            (Ending::Refused, Some(error)) => told.contains(&format!("(`{error}`)")),
        };
        if same { Ok(()) } else { Err(format!("agent/docs/bypass.md has `{told}`")) }
    }
}

/// Ground, agent and attempts.
struct Matrix {
    ground: Ground,
    host: Host,
    cells: Vec<Cell>,
}

impl Matrix {
    fn new(words: &[&str]) -> Outcome<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err("this needs root: it loads kernel programs and makes network namespaces".into());
        }
        // Before there are threads: all of them must be in the host's place.
        let ground = Ground::new()?;
        let host = Host::new()?;
        let cell = |row: Row, six| Cell { row, six, control: String::new(), early: None };
        let rows = attempts::all().into_iter();
        let all = rows.flat_map(|row| row.sixes().iter().map(move |six| cell(row, *six)));
        let wanted = |cell: &Cell| words.is_empty() || words.iter().any(|word| cell.name().contains(word));
        Ok(Self { ground, host, cells: all.filter(wanted).collect() })
    }

    fn run(&mut self, words: &[&str], results: &mut Results) -> Outcome {
        self.controls(results)?;
        self.prepare_early(results)?;
        let scope = Scope { users: vec![INSIDE.to_string()], ..Scope::default() };
        self.host.start(&scope)?;
        self.set_apart(results);
        for stage in [Stage::Alive, Stage::Early] {
            self.stage(stage, results)?;
        }
        // Another port, which no old connection keeps from being taken.
        self.host.start(&scope)?;
        let port = self.proxy()?.port();
        self.host.kill();
        self.dead(port, results)?;
        if words.is_empty() || words.iter().any(|word| "scope".contains(word)) {
            scope::run(&mut self.ground, &mut self.host, results)?;
        }
        self.host.uninstall()?;
        if words.is_empty() {
            results.report("the target is reached again once the programs are gone", self.reached_again());
        }
        println!("untested: {}, ended: {:?}", results.untested, results.endings);
        Ok(())
    }

    /// Where the kernel refuses no Unix socket, or only its name, and the status says so, there is nothing to try: the target is
    /// reached.
    fn set_apart(&mut self, results: &mut Results) {
        let Some(why) = &self.host.open else { return };
        // What the kernel itself says, where it can be asked.
        let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
        let could = modules.trim().split(',').any(|module| module == "bpf");
        let by_name = self.host.refuses_by_name();
        let is_open = |cell: &Cell| cell.row.families == Families::None && (cell.row.renamed || !by_name);
        for cell in self.cells.iter().filter(|cell| is_open(cell)) {
            println!("open: {}: the status says so: {why}", cell.name());
            results.untested += 1;
        }
        self.cells.retain(|cell| !is_open(cell));
        if could {
            results.report("Unix sockets", Err(format!("open, though this kernel has BPF's security module: {why}")));
        }
    }

    fn proxy(&self) -> Outcome<&Proxy> {
        self.host.proxy.as_ref().ok_or_else(|| "no proxy".into())
    }

    /// Every attempt without an agent. Those that do not reach the target count for nothing.
    fn controls(&mut self, results: &mut Results) -> Outcome {
        let mut counting = Vec::new();
        // Where the proxy will be, somebody else is.
        let stand_ins = stand_ins()?;
        let port = stand_ins[0].local_addr().map_err(|error| error.to_string())?.port();
        for mut cell in std::mem::take(&mut self.cells) {
            // One that takes the proxy's port must be able to.
            let port = if cell.row.stage == Stage::Dead { ground::SPARE } else { port };
            let mut attempt = self.start(&cell, port, false)?;
            let said = self.follow(&mut attempt, cell.six)?;
            let mut evidence = self.ground.evidence()?;
            drop(attempt);
            for stand_in in &stand_ins {
                while stand_in.accept().is_ok() {
                    evidence.push("a connection to the port itself".into());
                }
            }
            // What the end of the attempt sets free.
            self.ground.evidence()?;
            if evidence.is_empty() {
                println!("untested: {}: the control does not reach the target: {said}", cell.name());
                results.untested += 1;
                if !cell.told().is_some_and(|told| told.contains("untested")) {
                    results.report(&cell.name(), Err(format!("must not be untested: {said}")));
                }
                continue;
            }
            cell.control = evidence.swap_remove(0);
            counting.push(cell);
        }
        self.cells = counting;
        Ok(())
    }

    fn start(&self, cell: &Cell, port: u16, early: bool) -> Outcome<Attempt> {
        let start = Start { early, ..Start::new(&cell.row, cell.six, port) };
        Attempt::start(&start, &self.ground.guest)
    }

    fn prepare_early(&mut self, results: &mut Results) -> Outcome {
        for mut cell in self.take(Stage::Early) {
            let mut attempt = self.start(&cell, 0, true)?;
            let said = attempt.line()?;
            if said == "ready" {
                cell.early = Some(attempt);
                self.cells.push(cell);
            } else {
                results.report(&cell.name(), Err(format!("cannot be prepared: {said}")));
            }
        }
        self.ground.evidence().map(drop)
    }

    fn stage(&mut self, stage: Stage, results: &mut Results) -> Outcome {
        for mut cell in self.take(stage) {
            let port = self.proxy()?.port();
            let mut attempt = match cell.early.take() {
                Some(mut early) => {
                    early.go()?;
                    early
                }
                None => self.start(&cell, port, false)?,
            };
            let said = self.follow(&mut attempt, cell.six)?;
            let evidence = self.ground.evidence()?;
            let accepted = self.proxy()?.accept();
            let pids = std::mem::take(&mut attempt.pids);
            let outcome = verdict(&cell, &said, &evidence, &accepted, &pids);
            drop(attempt);
            self.conclude(&cell, &said, outcome, results)?;
        }
        Ok(())
    }

    fn dead(&mut self, port: u16, results: &mut Results) -> Outcome {
        for cell in self.take(Stage::Dead) {
            let mut attempt = self.start(&cell, port, false)?;
            let said = self.follow(&mut attempt, cell.six)?;
            let evidence = self.ground.evidence()?;
            drop(attempt);
            let outcome = verdict(&cell, &said, &evidence, &[], &[]);
            self.conclude(&cell, &said, outcome, results)?;
        }
        Ok(())
    }

    /// The end of an attempt must not set anything free either.
    fn conclude(&mut self, cell: &Cell, said: &str, outcome: Outcome, results: &mut Results) -> Outcome {
        let late = self.ground.evidence()?;
        if let Some(proxy) = &self.host.proxy {
            proxy.accept();
        }
        let outcome = if late.is_empty() { outcome } else { outcome.and(Err(format!("afterwards: {late:?}"))) };
        let outcome = outcome.and_then(|()| cell.documented(said));
        let ending = match cell.row.ending {
            Ending::Redirected => "redirected",
            Ending::Refused => "refused",
        };
        if outcome.is_ok() {
            *results.endings.entry(ending).or_default() += 1;
        }
        results.report(&format!("{}: {ending} [{said}]; control: {}", cell.name(), cell.control), outcome);
        Ok(())
    }

    fn take(&mut self, stage: Stage) -> Vec<Cell> {
        let (these, others) = std::mem::take(&mut self.cells).into_iter().partition(|cell| cell.row.stage == stage);
        self.cells = others;
        these
    }

    /// Waits for what an attempt says in the end, and does what it asks the target for.
    fn follow(&self, attempt: &mut Attempt, six: bool) -> Outcome<String> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let mut calls = Vec::new();
            let said = loop {
                match attempt.line() {
                    Ok(line) => match line.strip_prefix("call ").map(str::parse::<u16>) {
                        Some(Ok(port)) => {
                            let to = SocketAddr::new(pick(HOST, six), port);
                            let stop = &stop;
                            calls.push(scope.spawn(move || self.ground.call_back(to, stop)));
                        }
                        Some(Err(_)) => break Err(format!("not a port: {line}")),
                        None if line == "ready" => attempt.go()?,
                        None => break Ok(line),
                    },
                    Err(error) => break Err(error),
                }
            };
            stop.store(true, Ordering::SeqCst);
            drop(calls);
            said
        })
    }

    fn reached_again(&mut self) -> Outcome {
        let row = attempts::all().into_iter().find(|row| row.name == "plain connect").ok_or("no such row")?;
        let mut attempt = Attempt::start(&Start::new(&row, false, 0), &self.ground.guest)?;
        let said = attempt.line()?;
        if self.ground.evidence()?.is_empty() { Err(said) } else { Ok(()) }
    }
}

/// Whether an attempt has ended as it must.
fn verdict(
    cell: &Cell,
    said: &str,
    evidence: &[String],
    accepted: &[Outcome<agent::model::Flow>],
    pids: &[u32],
) -> Outcome {
    if !evidence.is_empty() {
        return Err(format!("the target was reached ({said}): {}", evidence.join("; ")));
    }
    if !EXPECTED.contains(&said) {
        return Err(format!("it did not get that far: {said}"));
    }
    for whose in accepted {
        let flow = whose.as_ref().map_err(|error| format!("a connection of nobody: {error}"))?;
        if flow.uid != INSIDE || !pids.contains(&flow.tgid) {
            return Err(format!("identified as process {} of user {}, not as {pids:?}", flow.tgid, flow.uid));
        }
    }
    match (cell.row.ending, accepted.is_empty()) {
        (Ending::Redirected, true) => Err(format!("not redirected: {said}")),
        (Ending::Refused, false) => Err(format!("not refused: {said}")),
        // What a client sees as success without anybody there would be a dropped packet: fine, if nothing has arrived.
        _ => Ok(()),
    }
}

/// Listeners on loopback, one port for both families.
fn stand_ins() -> Outcome<[TcpListener; 2]> {
    let failed = |error: std::io::Error| error.to_string();
    let four = TcpListener::bind((IpAddr::from(Ipv4Addr::LOCALHOST), 0)).map_err(failed)?;
    let port = four.local_addr().map_err(failed)?.port();
    let six = TcpListener::bind((IpAddr::from(Ipv6Addr::LOCALHOST), port)).map_err(failed)?;
    for listener in [&four, &six] {
        listener.set_nonblocking(true).map_err(failed)?;
    }
    Ok([four, six])
}
