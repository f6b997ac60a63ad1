//! Operations between their question and their verdict, and what becomes of them then.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Instant,
};

use bytes::Bytes;

use super::{
    Ask, Client, Close, Expect, Machine, NativeError, Question, Step,
    answer::Answer,
    client::Outcome,
    from_client,
    limiting::Meter,
    message,
    names::{Bound, Change, NAME_LENGTH, NAMES, Portal, Prepared, Source, Understood},
    operation::Operation,
    refusal::{Refused, fails_with_transaction},
};
use crate::{
    gate::{Held, Ongoing, Released},
    masking::{self, without_values},
    model::{Action, Denial, Resource},
    protocol::postgres::{
        sql::{self, Effect, Statement},
        value::Rows,
    },
};

/// A message whose verdict is outstanding.
pub(super) enum Deciding {
    Query {
        understood: Understood,
    },
    Parse {
        name: Arc<str>,
        prepared: Arc<Prepared>,
    },
    Bind {
        portal: Arc<str>,
        prepared: Arc<Prepared>,
        understood: Understood,
        results: Vec<i16>,
    },
    /// `Execute` of a cursor.
    Fetch {
        name: Arc<str>,
        understood: Understood,
    },
    Call {
        understood: Understood,
        result: i16,
    },
    /// What is refused in any case, and only recorded. The statement, as far as it is known.
    Refused {
        refused: Refused,
        statement: Option<Arc<Statement>>,
    },
}

impl Deciding {
    /// What the message is, once it is refused.
    fn refused(&self) -> Refused {
        match self {
            Self::Query { .. } => Refused::Query,
            Self::Call { .. } => Refused::Call,
            Self::Parse { name, .. } if name.is_empty() => Refused::Parse,
            Self::Parse { .. } | Self::Bind { .. } | Self::Fetch { .. } => Refused::Other,
            Self::Refused { refused, .. } => *refused,
        }
    }

    /// The statement, as far as it is known.
    fn statement(&self) -> Option<Arc<Statement>> {
        match self {
            Self::Query { understood }
            | Self::Bind { understood, .. }
            | Self::Fetch { understood, .. }
            | Self::Call { understood, .. } => Some(Arc::clone(&understood.statement)),
            Self::Parse { prepared, .. } => Some(prepared.understood().statement),
            Self::Refused { statement, .. } => statement.clone(),
        }
    }

    /// How many statements it is. What ends a transaction is none: where no other can run, it still must.
    fn statements(&self) -> u64 {
        let statement = match self {
            Self::Query { understood } | Self::Bind { understood, .. } => &understood.statement,
            Self::Fetch { .. } | Self::Call { .. } | Self::Parse { .. } | Self::Refused { .. } => return 1,
        };
        let counts = |part: &&sql::Part| !matches!(part.effect, Effect::EndsTransaction);
        statement.parts.iter().filter(counts).count() as u64
    }

    /// A denial of it, with what was wrong with a text that could not be read: that is a slip more often than an attack.
    pub(super) fn explain(&self, denial: Denial) -> Denial {
        let statement = matches!(self, Self::Query { .. } | Self::Parse { .. }).then(|| self.statement()).flatten();
        match statement.as_ref().and_then(|statement| statement.unread.as_ref()) {
            Some(unread) => denial.with_hint(format!("The statement could not be read: {unread}.")),
            None => denial,
        }
    }
}

/// An `Execute` whose recheck is outstanding.
pub(super) struct Rechecking {
    pub(super) portal: Arc<Portal>,
    pub(super) bytes: Bytes,
}

impl Machine {
    /// Asks about an operation.
    pub(super) fn ask(
        &mut self,
        ask: Ask,
        (action, text): (Arc<Action>, Arc<masking::Masked<String>>),
        parameters: Vec<masking::Masked<Option<String>>>,
        bytes: Bytes,
        deciding: Deciding,
    ) -> Outcome {
        let statements = deciding.statements();
        let held = Held::new(self.cautious(action), text, parameters, bytes).counted(statements);
        self.client = Client::Deciding(Box::new(deciding));
        self.steps.push_back(Step::Decide(Question { held, ask }));
        Outcome::Done
    }

    /// What we hold against a statement ourselves.
    pub(super) fn objection(&self, statement: &Statement) -> Option<Denial> {
        let long = |name: &str| name.len() > NAME_LENGTH;
        let odd = statement.parts.iter().any(|part| match &part.effect {
            Effect::Prepare { name, .. } | Effect::Declare { name, .. } => long(name),
            Effect::Deallocate(Some(name)) | Effect::Close(Some(name)) => long(name),
            _ => false,
        });
        if odd {
            return Some(Denial::closed("the name of a prepared statement or cursor is too long"));
        }
        let defines = |part: &sql::Part| matches!(part.effect, Effect::Prepare { .. } | Effect::Declare { .. });
        if statement.parts.iter().any(defines) && !self.queue.count(&self.committed).has_room() {
            let reason = format!("a session has at most {NAMES} prepared statements here, and as many portals");
            return Some(Denial::closed(reason).with_hint("Close or deallocate some."));
        }
        // In a failed transaction the catalogue cannot be read; one ROLLBACK may be followed by anything.
        (self.stale && statement.parts.len() > 1)
            .then(|| Denial::closed("the catalogue has changed").with_hint("Send ROLLBACK on its own."))
    }

    /// Carries out what was permitted.
    pub(super) fn permitted(
        &mut self,
        deciding: Deciding,
        released: Released,
        ongoing: Ongoing,
        epoch: u64,
        now: Instant,
    ) {
        let session = Arc::clone(&self.start.session);
        let (limits, observes) = (Arc::clone(&self.start.limits), self.observes());
        let meter = || Meter::new(Arc::clone(&limits), observes);
        let (view, mode) = (Arc::clone(&self.start.view), self.start.mode);
        let undescribed = |statement: Option<&Statement>, rows| Answer::undescribed(&*view, mode, statement, 0, rows);
        if self.skipping {
            // Its pipeline failed while it was decided: the server would drop it.
            if !matches!(deciding, Deciding::Parse { .. }) {
                let mut operation =
                    Operation::new(session, ongoing, None, undescribed(None, Rows::default()), meter(), now);
                operation.failed(super::server::not_run());
                self.record(operation.finish(now));
            }
            return;
        }
        match deciding {
            Deciding::Query { understood } => {
                self.steps.push_back(Step::ToServer(released));
                let (changes, catalogue) = self.changes(&understood);
                let answer = undescribed(Some(&understood.statement), Rows::default());
                let operation = Operation::new(session, ongoing, Some(understood.statement), answer, meter(), now);
                self.expect(Expect::Query(Box::new(operation)), changes, catalogue);
            }
            Deciding::Fetch { name, understood } => {
                let answer = undescribed(Some(&understood.statement), Rows::default());
                let by_origin = answer.shown.is_none() || answer.logged.is_none();
                let statement = Some(Arc::clone(&understood.statement));
                let operation = Mutex::new(Operation::new(session, ongoing, statement, answer, meter(), now));
                let source = Source::Parse(Arc::clone(&understood.text));
                let prepared = prepared(source, Vec::new(), understood.clone());
                let bound = Some(Bound { prepared, epoch, operation, once: true });
                let portal = Arc::new(Portal { understood, bound });
                if by_origin {
                    self.describe_portal(&name, &portal);
                }
                self.steps.push_back(Step::ToServer(released));
                self.expect(Expect::Execute(portal), Vec::new(), false);
                self.ask_for_answer();
            }
            Deciding::Call { understood, result } => {
                self.steps.push_back(Step::ToServer(released));
                let (_, catalogue) = self.changes(&understood);
                let answer = undescribed(Some(&understood.statement), Rows::bound(Vec::new(), vec![result]));
                let operation = Operation::new(session, ongoing, Some(understood.statement), answer, meter(), now);
                self.expect(Expect::Call(Box::new(operation)), Vec::new(), catalogue);
            }
            Deciding::Parse { name, prepared } => {
                self.steps.push_back(Step::ToServer(released));
                self.expect(Expect::Parse, vec![vec![Change::Statement(name, prepared)]], false);
            }
            Deciding::Refused { .. } => self.close(Close::Agent("a permit came for what is refused")),
            Deciding::Bind { portal: name, prepared, understood, results } => {
                self.steps.push_back(Step::ToServer(released));
                let mut answer =
                    undescribed(Some(&understood.statement), Rows::bound(prepared.column_types(), results));
                answer.columns = prepared.column_names();
                let by_origin = answer.shown.is_none() || answer.logged.is_none();
                let statement = Some(Arc::clone(&understood.statement));
                let operation = Mutex::new(Operation::new(session, ongoing, statement, answer, meter(), now));
                let portal =
                    Arc::new(Portal { understood, bound: Some(Bound { prepared, epoch, operation, once: false }) });
                self.expect(Expect::Bind, vec![vec![Change::Portal(Arc::clone(&name), Arc::clone(&portal))]], false);
                if by_origin {
                    self.describe_portal(&name, &portal);
                }
            }
        }
    }

    /// Tells the client of a denial, in place of what the message would have been answered with.
    pub(super) fn deny(&mut self, deciding: &Deciding, denial: Denial) {
        let unless_failed = deciding.statement().is_some_and(|statement| fails_with_transaction(&statement));
        self.refuse(deciding.refused(), unless_failed, &NativeError::denied(&denial));
    }

    /// Denies an `Execute` of what was permitted when it was bound: another operation, as far as the log is concerned.
    pub(super) fn deny_execute(&mut self, Rechecking { portal, bytes }: Rechecking, denial: Denial) {
        let statement = Arc::clone(&portal.understood.statement);
        let subject = (Arc::clone(&statement.action), Arc::clone(&statement.text));
        let deciding = Deciding::Refused { refused: Refused::Other, statement: Some(statement) };
        self.ask(Ask::Refuse(denial), subject, Vec::new(), bytes, deciding);
    }

    /// Asks for a portal's columns. A description of the statement would do for them, but not for where they come from: the
    /// server may have analysed it again since. That of the portal is what will run.
    fn describe_portal(&mut self, name: &str, portal: &Arc<Portal>) {
        self.housekeeping(message::write_named(from_client::DESCRIBE, b'P', name.as_bytes()));
        self.expect(Expect::DescribePortal { portal: Some(Arc::clone(portal)), ours: true }, Vec::new(), false);
    }

    /// Carries out an `Execute` that was rechecked.
    pub(super) fn execute_now(&mut self, Rechecking { portal, bytes }: Rechecking) {
        if self.skipping {
            return;
        }
        let (changes, catalogue) = self.changes(&portal.understood);
        self.housekeeping(bytes);
        self.expect(Expect::Execute(portal), changes, catalogue);
        self.ask_for_answer();
    }

    /// What a statement does to names, for each of its statements, and whether it changes the catalogue.
    fn changes(&self, understood: &Understood) -> (Vec<Vec<Change>>, bool) {
        let changing = |part: &sql::Part| matches!(part.effect, Effect::ChangesCatalogue | Effect::Discard);
        let catalogue = understood.statement.parts.iter().any(changing);
        let of = |statement: &Arc<Statement>| Understood { statement: Arc::clone(statement), ..understood.clone() };
        let changes = understood.statement.parts.iter().enumerate().map(|(position, part)| match &part.effect {
            Effect::None
            | Effect::ChangesCatalogue
            | Effect::CopyIn
            | Effect::CopyOut
            | Effect::Replicates
            | Effect::EndsTransaction => Vec::new(),
            Effect::Prepare { name, statement } => {
                let source = Source::Prepare(Arc::clone(&understood.text), position);
                vec![Change::Statement(name.as_str().into(), prepared(source, Vec::new(), of(statement)))]
            }
            Effect::Declare { name, statement } => {
                vec![Change::Portal(name.as_str().into(), Arc::new(Portal { understood: of(statement), bound: None }))]
            }
            Effect::Deallocate(Some(name)) => vec![Change::NoStatement(name.as_str().into())],
            Effect::Deallocate(None) => vec![Change::NoStatements],
            Effect::Close(Some(name)) => vec![Change::NoPortal(name.as_str().into())],
            Effect::Close(None) => vec![Change::NoPortals],
            Effect::Discard => vec![Change::NoStatements, Change::NoPortals],
        });
        (changes.collect(), catalogue)
    }
}

/// A prepared statement that the server has not described yet.
pub(super) fn prepared(source: Source, types: Vec<u32>, understood: Understood) -> Arc<Prepared> {
    Arc::new(Prepared { source, types, understood: Mutex::new(understood), described: OnceLock::new() })
}

/// The most dangerous action, for what is not understood, and what is shown of it.
pub(super) fn opaque(database: &Resource, shown: &str) -> (Arc<Action>, Arc<masking::Masked<String>>) {
    (Arc::new(sql::opaque(database)), Arc::new(without_values(shown.to_owned())))
}
