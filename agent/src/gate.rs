//! The one door: a protocol asks it to decide, to release, and to record.
//!
//! *Invariant:* a [`Permit`] and a [`Released`] are made only here. A protocol's upstream writer takes nothing but
//! [`Released`], so that a byte that no one decided on cannot be sent.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;

use crate::{
    limits::Applied,
    masking::Masked,
    model::{Action, Decide, Denial, Gone, Liveness, Mode, Subject, Verdict},
    recording::{Append, Decision, Event},
};

/// Verdicts kept per session; beyond it the whole set is dropped, since a client that varies its requests that much gains
/// nothing from them.
const KEPT_VERDICTS: usize = 256;

/// Numbers that tie a [`Permit`] to its [`Held`]: unique in this process.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// What the services are to a session, wired once at start.
#[derive(Clone)]
pub struct Services {
    /// Decides.
    pub policy: Arc<dyn Decide>,
    /// Knows whether the process still is what it was.
    pub liveness: Arc<dyn Liveness>,
    /// Records.
    pub log: Arc<dyn Append>,
    /// What the session's principal may use at most.
    pub limits: Applied,
}

/// An operation whose bytes wait for a verdict.
#[derive(Debug)]
pub struct Held {
    serial: u64,
    action: Arc<Action>,
    text: Arc<Masked<String>>,
    parameters: Vec<Masked<Option<String>>>,
    bytes: Bytes,
    /// How many statements it is, for limits of them.
    statements: u64,
}

impl Held {
    /// Holds the bytes of an operation. `text` and `parameters` are what the log will show of it.
    #[must_use]
    pub fn new(
        action: Arc<Action>,
        text: Arc<Masked<String>>,
        parameters: Vec<Masked<Option<String>>>,
        bytes: Bytes,
    ) -> Self {
        Self { serial: SERIAL.fetch_add(1, Ordering::Relaxed), action, text, parameters, bytes, statements: 1 }
    }

    /// The same as so many statements: none, if it must be possible where no further statement is.
    #[must_use]
    pub fn counted(self, statements: u64) -> Self {
        Self { statements, ..self }
    }

    /// What is asked.
    #[must_use]
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// Lets the bytes go, and what else will belong to the operation.
    ///
    /// # Errors
    /// [`WrongPermit`] if the permit is for another operation.
    pub fn release(self, permit: Permit) -> Result<(Released, Ongoing), WrongPermit> {
        if permit.serial != self.serial {
            return Err(WrongPermit);
        }
        Ok((Released(self.bytes), Ongoing { operation: permit.operation }))
    }
}

/// Leave to carry out exactly one operation, once.
#[must_use]
#[derive(Debug)]
pub struct Permit {
    serial: u64,
    operation: u64,
}

impl Permit {
    /// Number of the operation within its session, as in the log.
    #[must_use]
    pub fn operation(&self) -> u64 {
        self.operation
    }
}

/// Leave to send what belongs to an operation that was let go: the data of a COPY.
#[derive(Clone, Copy, Debug)]
pub struct Ongoing {
    operation: u64,
}

impl Ongoing {
    /// Number of the operation within its session, as in the log.
    #[must_use]
    pub fn operation(self) -> u64 {
        self.operation
    }

    /// Lets a part of the operation's data go.
    #[must_use]
    pub fn data(self, bytes: Bytes) -> Released {
        Released(bytes)
    }
}

/// A permit was offered for another operation than the one that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the permit is for another operation")]
pub struct WrongPermit;

/// Bytes that may go upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released(Bytes);

impl Released {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Leave to open a session with a target: to dial, to log in, and to send messages that carry no operation.
#[derive(Clone, Debug)]
pub struct Admission {
    rules: Vec<String>,
}

impl Admission {
    /// Ids of the policies that admitted the session.
    #[must_use]
    pub fn rules(&self) -> &[String] {
        &self.rules
    }

    /// Lets a message go that carries no operation of the client: the login, `Sync`, `Describe`, a message that the server
    /// is meant to refuse. The caller states that with this call's name.
    #[must_use]
    pub fn housekeeping(&self, bytes: Bytes) -> Released {
        Released(bytes)
    }
}

/// A session's own door.
pub struct Gate {
    services: Services,
    subject: Subject,
    operations: u64,
    denied: u64,
    kept: HashMap<Action, Verdict>,
    kept_epoch: u64,
    /// The process was seen to be what it was since [`Gate::waited`].
    seen: bool,
}

impl Gate {
    /// Decides whether the subject may connect at all.
    ///
    /// In observe mode the answer is yes, and the verdict is left for the record.
    ///
    /// # Errors
    /// The denial, for a native error.
    pub fn admit(services: Services, subject: Subject, connect: &Action) -> Result<(Self, Admission), Denial> {
        let mut gate = Self {
            kept_epoch: services.policy.epoch(),
            services,
            subject,
            operations: 0,
            denied: 0,
            kept: HashMap::new(),
            seen: false,
        };
        let observing = gate.subject.mode == Mode::Observe;
        if let Err(gone) = gate.alive()
            && !observing
        {
            return Err(gone);
        }
        match gate.verdict(connect) {
            Verdict::Permit { rules } => Ok((gate, Admission { rules })),
            Verdict::Deny(_) if observing => Ok((gate, Admission { rules: Vec::new() })),
            Verdict::Deny(denial) => Err(denial),
        }
    }

    /// Decides on an operation and records the decision. The permit exists only once the record is in the journal.
    ///
    /// # Errors
    /// The denial, for a native error. It is recorded too.
    pub fn decide(&mut self, held: &Held) -> Result<Permit, Denial> {
        let verdict = match self.alive() {
            Ok(()) => self.verdict(&held.action),
            Err(gone) => Verdict::Deny(gone),
        };
        let verdict = match verdict {
            Verdict::Permit { rules } => match self.services.limits.begin(held.statements, Instant::now()) {
                Ok(()) => Verdict::Permit { rules },
                Err(limit) => Verdict::Deny(limit.into()),
            },
            denied @ Verdict::Deny(_) => denied,
        };
        self.settle(held, verdict)
    }

    /// Decides on an operation that is only announced (a statement that is parsed and not yet run): refused outright if its
    /// verdict is a denial, else let through without a record, since nothing happens yet.
    ///
    /// # Errors
    /// The denial, for a native error. It is recorded.
    pub fn foresee(&mut self, held: &Held) -> Result<Permit, Denial> {
        let verdict = match self.alive() {
            Ok(()) => self.verdict(&held.action),
            Err(gone) => Verdict::Deny(gone),
        };
        match verdict {
            Verdict::Permit { .. } => Ok(Permit { serial: held.serial, operation: self.operations }),
            denied @ Verdict::Deny(_) => self.settle(held, denied),
        }
    }

    /// Records a refusal that the protocol itself arrived at: something unproven, or not built.
    ///
    /// # Errors
    /// In enforce mode always the denial; in observe mode a permit.
    pub fn refuse(&mut self, held: &Held, denial: Denial) -> Result<Permit, Denial> {
        self.settle(held, Verdict::Deny(denial))
    }

    /// Rechecks, before an operation that was decided earlier is carried out, that the process is still the same and that
    /// the policies have not changed since `epoch`.
    ///
    /// # Errors
    /// The denial, for a native error.
    pub fn recheck(&mut self, epoch: u64) -> Result<(), Denial> {
        if self.subject.mode == Mode::Observe {
            return Ok(());
        }
        self.alive()?;
        if self.services.policy.epoch() == epoch {
            Ok(())
        } else {
            Err(Denial::closed("the policies have changed since this statement was bound").with_hint("Run it again."))
        }
    }

    /// Checks that the process still is what it was, for what goes on without a further decision: the data of a COPY, and streams.
    ///
    /// # Errors
    /// The denial, for a native error; none in observe mode.
    pub fn is_present(&mut self) -> Result<(), Denial> {
        if self.subject.mode == Mode::Observe { Ok(()) } else { self.alive() }
    }

    /// The epoch of the policies that decide now.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.services.policy.epoch()
    }

    /// A verdict that is neither recorded nor carried out: for `unmask`, and for startup parameters.
    pub fn verdict(&mut self, action: &Action) -> Verdict {
        let epoch = self.services.policy.epoch();
        if epoch != self.kept_epoch {
            self.kept.clear();
            self.kept_epoch = epoch;
        }
        if let Some(verdict) = self.kept.get(action) {
            return verdict.clone();
        }
        let verdict = self.services.policy.decide(&self.subject.principal, action, &jiff::Zoned::now());
        if !self.services.policy.depends_on_time() {
            if self.kept.len() >= KEPT_VERDICTS {
                self.kept.clear();
            }
            self.kept.insert(action.clone(), verdict.clone());
        }
        verdict
    }

    /// Appends a record.
    ///
    /// # Errors
    /// The log cannot be written: the session must end.
    pub fn record(&self, event: &Event) -> Result<(), Denial> {
        self.services.log.append(event).map(drop).map_err(|error| Denial::closed(error.to_string()))
    }

    /// Whose door this is.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Operations decided, and denied among them.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.operations, self.denied)
    }

    /// The caller has waited for bytes. Whether the process still is what it was is asked once for all that came together:
    /// an operation is no younger than the bytes that asked for it.
    pub fn waited(&mut self) {
        self.seen = false;
    }

    fn alive(&mut self) -> Result<(), Denial> {
        if !self.seen {
            let checked = self.services.liveness.check(&self.subject.principal.flow);
            checked.map_err(|gone: Gone| Denial::closed(gone.to_string()))?;
            self.seen = true;
        }
        Ok(())
    }

    fn settle(&mut self, held: &Held, verdict: Verdict) -> Result<Permit, Denial> {
        self.operations += 1;
        let (word, rules, denial) = match verdict {
            Verdict::Permit { rules } => ("permit", rules, None),
            Verdict::Deny(denial) => {
                let word = if self.subject.mode == Mode::Observe { "observe" } else { "deny" };
                self.denied += 1;
                (word, denial.rule.clone().into_iter().collect(), Some(denial))
            }
        };
        let event = Event::Decided(Box::new(Decision {
            session: self.subject.session.clone(),
            operation: self.operations,
            text: Arc::clone(&held.text),
            parameters: held.parameters.clone(),
            action: Arc::clone(&held.action),
            verdict: word,
            rules,
            reason: denial.as_ref().map(|denial| denial.reason.clone()),
        }));
        self.record(&event)?;
        if let Some(limit) = denial.as_ref().and_then(|denial| denial.limit.clone()) {
            let (session, operation) = (self.subject.session.clone(), Some(self.operations));
            self.record(&Event::LimitReached { session, operation, limit })?;
        }
        match denial {
            Some(denial) if self.subject.mode == Mode::Enforce => Err(denial),
            _ => Ok(Permit { serial: held.serial, operation: self.operations }),
        }
    }
}
