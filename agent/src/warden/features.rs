//! What this kernel has, found by loading the programs that need it: version numbers do not tell what a distribution has
//! taken over from later kernels, or what a sandbox forbids.
//!
//! *Invariant:* nothing is put in force here. A kernel that lacks something required is refused before anything is.

use std::{
    fmt::Write as _,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use aya::{
    Btf, Ebpf,
    maps::HashMap,
    programs::{Program, ProgramError},
};
use serde::Serialize;
use tracing::debug;

use super::{
    capture::CaptureError,
    filters::Filters,
    interfaces::Way,
    pins::{Hook, PROGRAMS, Row},
    sockets,
    sys::{self, AttachType},
};

/// Index of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;

/// What lines of the verifier's log say that follow the reason.
const VERIFIER_STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed "];

/// Stands for the directory of pins while filters are tried: that of no agent.
const TRIAL: &str = "";

/// Something that not every kernel has.
#[derive(Debug)]
pub(super) struct Feature {
    /// As it is known to whoever knows kernels.
    pub name: &'static str,
    /// The release that brought it.
    since: &'static str,
    /// What is lost where neither it nor a stand-in is.
    lost: &'static str,
    /// What is lost where only its stand-in is.
    lost_with_stand_in: &'static str,
    /// Whether the agent does not start with neither.
    required: bool,
    /// Whether every host loses something without it; otherwise what it is for is judged by itself.
    general: bool,
}

/// The tracepoint between an exec's last chance to fail and its first change to the process.
pub(super) static PREPARE_EXEC: Feature = Feature {
    name: "sched_prepare_exec",
    since: "6.10",
    lost: "a process could be taken for the program that it is about to execute",
    lost_with_stand_in: "a kprobe on begin_new_exec stands in: on a kernel with full preemption it can miss the beginning of \
                         an exec, whose end then ends the process's sessions; a failed exec can end them too",
    required: true,
    general: true,
};

/// The helper that says from which network namespace a packet leaves.
pub(super) static NETNS_COOKIE: Feature = Feature {
    name: "bpf_get_netns_cookie for packets",
    since: "6.15",
    lost: "what gets past `connect` to a target is not dropped on its way out",
    lost_with_stand_in: "the sockets themselves say it, once they connect or send: a connection of another network namespace to \
                         its own loopback, to a target's port there, is dropped if it is older than the agent",
    required: true,
    general: true,
};

/// Links of programs to interfaces.
pub(super) static TCX: Feature = Feature {
    name: "tcx",
    since: "6.6",
    lost: "packet sockets and forwarded packets reach targets: `status` says so",
    lost_with_stand_in: "filters of the queueing discipline clsact stand in: who configures interfaces can remove them by \
                         accident, and an interface with the older discipline ingress has no place for them: `status` \
                         tells of both",
    required: false,
    general: true,
};

/// The hook of security modules at which Unix sockets connect.
pub(super) static CONNECT_UNIX: Feature = Feature {
    name: "connect_unix",
    since: "5.7, with `bpf` among its `lsm=`",
    lost: "whoever the permissions let reaches the listed Unix sockets of targets: `status` says so",
    lost_with_stand_in: "a program at `connect` of Unix sockets (6.7 and later) stands in, which knows the path only as it is \
                         spelt, and refuses its last name: a link or file of another name, a descriptor, and another root \
                         directory still lead to a listed socket, and a socket of the same name elsewhere is refused too",
    required: false,
    general: false,
};

/// When a program is loaded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Need {
    /// Always: without it the agent does not start.
    Always,
    /// Where the kernel has the feature.
    With(&'static Feature),
    /// As a stand-in, where the kernel lacks it.
    Without(&'static Feature),
}

/// Whether a kernel has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It has.
    Present,
    /// It has not, and something else does its work.
    Replaced,
    /// It has neither.
    Missing,
}

/// What was found out about a feature.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// As it is known to whoever knows kernels.
    pub name: &'static str,
    /// The release that brought it.
    pub since: &'static str,
    /// Whether it is there.
    pub state: State,
    /// What is lost here for want of it; of one that is there, what would be.
    pub lost: &'static str,
    /// What the kernel said to each program that needs it, or stands in for it.
    pub why: Option<String>,
    #[serde(skip)]
    required: bool,
    #[serde(skip)]
    general: bool,
}

impl Found {
    /// Whether something is lost for want of it on any host.
    #[must_use]
    pub fn is_wanting(&self) -> bool {
        self.general && self.state == State::Missing
    }

    fn of(feature: &Feature, state: State, why: &str) -> Self {
        let lost = if state == State::Replaced { feature.lost_with_stand_in } else { feature.lost };
        let why = (state != State::Present).then(|| why.to_owned());
        Self {
            name: feature.name,
            since: feature.since,
            state,
            lost,
            why,
            required: feature.required,
            general: feature.general,
        }
    }
}

/// The programs that this kernel takes, loaded, and what it has.
#[derive(Debug)]
pub(super) struct Selection {
    /// In the order of [`PROGRAMS`].
    pub programs: Vec<&'static Row>,
    /// The one of them that aya does not know.
    pub by_name: Option<OwnedFd>,
    pub features: Vec<Found>,
}

/// Loads the programs that this kernel takes. One is tried with a socket below this directory.
///
/// # Errors
/// It refuses one that is always needed.
pub(super) fn select(
    kernel: &mut Ebpf,
    by_name: Result<OwnedFd, ProgramError>,
    types: &Btf,
    below: &Path,
) -> Result<Selection, CaptureError> {
    let mut programs = Vec::new();
    let (by_name, mut refused) = match by_name {
        Ok(program) => (Some(program), None),
        Err(error) => (None, Some(error)),
    };
    let mut trials: Vec<Trial> = Vec::new();
    for row in &PROGRAMS {
        if let Need::Without(feature) = row.need
            && !Trial::of(feature, &mut trials).refused
        {
            continue;
        }
        let program = kernel.program_mut(row.name).ok_or(CaptureError::Missing(row.name))?;
        let outcome = match row.hook {
            Hook::Cgroup(AttachType::ConnectUnix) => refused.take().map_or(Ok(()), Err),
            Hook::Security(_) => load(program, row.hook, types).and_then(|()| on_trial(kernel, row.name, below)),
            _ => load(program, row.hook, types),
        };
        if let Err(error) = &outcome {
            debug!(program = row.name, %error, "the kernel does not take a program");
        }
        let taken = match row.need {
            Need::Always => {
                outcome.map_err(|source| CaptureError::Program { name: row.name, source: Box::new(source) })?;
                true
            }
            Need::With(feature) => Trial::of(feature, &mut trials).takes(row.name, outcome),
            Need::Without(feature) => Trial::of(feature, &mut trials).stands_in(row.name, outcome),
        };
        if taken {
            programs.push(row);
        }
    }
    Ok(Selection { programs, by_name, features: trials.iter().map(Trial::found).collect() })
}

/// Refuses a kernel that lacks what the agent does not work without.
pub(super) fn demand(features: &[Found]) -> Result<(), CaptureError> {
    match features.iter().find(|found| found.required && found.state == State::Missing) {
        Some(found) => Err(CaptureError::Feature {
            name: found.name,
            lost: found.lost,
            why: found.why.clone().unwrap_or_default(),
        }),
        None => Ok(()),
    }
}

/// A feature while its programs are tried.
struct Trial {
    feature: &'static Feature,
    /// One of its programs was not taken.
    refused: bool,
    /// There are stand-ins, and all that were tried were taken.
    replaced: Option<bool>,
    why: String,
}

impl Trial {
    fn of<'a>(feature: &'static Feature, trials: &'a mut Vec<Self>) -> &'a mut Self {
        let known = trials.iter().position(|trial| std::ptr::eq(trial.feature, feature));
        let position = known.unwrap_or_else(|| {
            trials.push(Self { feature, refused: false, replaced: None, why: String::new() });
            trials.len() - 1
        });
        &mut trials[position]
    }

    fn takes(&mut self, name: &str, outcome: Result<(), ProgramError>) -> bool {
        let taken = self.note(name, outcome);
        self.refused |= !taken;
        taken
    }

    fn stands_in(&mut self, name: &str, outcome: Result<(), ProgramError>) -> bool {
        let taken = self.note(name, outcome);
        self.replaced = Some(self.replaced.unwrap_or(true) && taken);
        taken
    }

    fn note(&mut self, name: &str, outcome: Result<(), ProgramError>) -> bool {
        let Err(error) = outcome else { return true };
        let separator = if self.why.is_empty() { "" } else { "; " };
        let _ = write!(self.why, "{separator}{name}: {}", brief(&error));
        false
    }

    fn found(&self) -> Found {
        let state = match (self.refused, self.replaced) {
            (false, _) => State::Present,
            (true, Some(true)) => State::Replaced,
            (true, _) => State::Missing,
        };
        Found::of(self.feature, state, &self.why)
    }
}

/// What the kernel said, without what led its verifier there.
pub(super) fn brief(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            // The last line but its statistics.
            let last = log.lines().rev().find(|line| !VERIFIER_STATISTICS.iter().any(|word| line.contains(word)));
            match last.map(str::trim) {
                None | Some("") => io_error.to_string(),
                Some(last) => format!("{io_error}: {last}"),
            }
        }
        error => error.to_string(),
    }
}

/// Loads a program. One whose hook may be missing on a kernel that knows its kind is also put there for a moment.
fn load(program: &mut Program, hook: Hook, types: &Btf) -> Result<(), ProgramError> {
    match (program, hook) {
        (Program::CgroupSockAddr(program), _) => program.load(),
        (Program::CgroupSock(program), _) => program.load(),
        (Program::CgroupSkb(program), _) => program.load(),
        (Program::SockOps(program), _) => program.load(),
        (Program::SchedClassifier(program), Hook::Interfaces(way)) => {
            // It may have been loaded for the other way.
            if program.fd().is_err() {
                program.load()?;
            }
            let taken = match way {
                Way::Link => sys::link_interface(program.fd()?.as_fd(), LOOPBACK).map(drop),
                Way::Filter => Filters::open(TRIAL.as_ref())
                    .and_then(|filters| filters.trial(program.fd().map_err(io::Error::other)?.as_fd(), LOOPBACK)),
            };
            taken.map_err(ProgramError::IOError)
        }
        (Program::BtfTracePoint(program), Hook::Tracepoint(name)) => program.load(name, types),
        (Program::Lsm(program), Hook::Security(name)) => program.load(name, types),
        (Program::KProbe(program), Hook::Probe(function)) => {
            program.load()?;
            let link = program.attach(function, 0)?;
            program.detach(link)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Puts a loaded program for Unix sockets in force for a moment: a kernel that takes it need not ask it.
fn on_trial(kernel: &mut Ebpf, name: &str, below: &Path) -> Result<(), ProgramError> {
    let Some(Program::Lsm(program)) = kernel.program_mut(name) else { return Err(ProgramError::UnexpectedProgramType) };
    let link = program.attach()?;
    let places = kernel.map_mut("SOCKETS").ok_or(ProgramError::UnexpectedProgramType)?;
    let tried = sockets::trial(&mut HashMap::try_from(places)?, below).map_err(ProgramError::IOError);
    let Some(Program::Lsm(program)) = kernel.program_mut(name) else { return Err(ProgramError::UnexpectedProgramType) };
    program.detach(link)?;
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    static ANY: Feature = Feature {
        name: "any",
        since: "6.1",
        lost: "much",
        lost_with_stand_in: "little",
        required: true,
        general: true,
    };

    fn trial(own: bool, stand_ins: &[bool]) -> Found {
        let mut trials = Vec::new();
        let outcome = |taken: bool| if taken { Ok(()) } else { Err(ProgramError::NotLoaded) };
        Trial::of(&ANY, &mut trials).takes("own", outcome(own));
        for taken in stand_ins {
            Trial::of(&ANY, &mut trials).stands_in("other", outcome(*taken));
        }
        assert_eq!(trials.len(), 1);
        trials[0].found()
    }

    #[test]
    fn a_feature_is_there_or_replaced_or_missing() {
        let found = trial(true, &[]);
        assert_eq!((found.state, found.lost, found.why), (State::Present, "much", None));
        let found = trial(false, &[true, true]);
        assert_eq!((found.state, found.lost), (State::Replaced, "little"));
        for stand_ins in [&[][..], &[false], &[true, false], &[false, true]] {
            let found = trial(false, stand_ins);
            assert_eq!((found.state, found.lost), (State::Missing, "much"), "{stand_ins:?}");
            assert!(found.why.as_deref().is_some_and(|why| why.starts_with("own: ")));
        }
    }

    #[test]
    fn a_kernel_without_what_is_required_is_refused() {
        assert!(demand(&[trial(true, &[]), trial(false, &[true])]).is_ok());
        let refused = demand(&[trial(false, &[false])]);
        assert!(matches!(refused, Err(CaptureError::Feature { name: "any", lost: "much", .. })));
        let optional = Found { required: false, ..trial(false, &[]) };
        assert!(demand(&[optional]).is_ok());
    }
}
