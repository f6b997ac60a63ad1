//! Understanding texts, and whether what was understood still holds: catalogue, names and masked columns change.

use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Ask, Client, Frame, Machine, Step,
    client::Outcome,
    deciding::{Deciding, opaque},
    names::{Lookup, Portal, Prepared, Source, Understood},
    refusal::Refused,
};
use crate::{
    masking::without_values,
    model::{Action, Denial},
    protocol::postgres::sql::{self, Answer, Effect, Names, Part, Statement},
};

/// How often, at most, unknown names make the catalogue be read again: a client that invents names must not make the server
/// busy.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Machine {
    /// For a message that is decided: the catalogue must be as it will be when the statement runs. `None`: it is.
    pub(super) fn fresh(&mut self, frame: &Frame) -> Option<Outcome> {
        if self.after_change() {
            let denial = Denial::closed("it follows a change of the catalogue within the same pipeline")
                .with_hint("Send Sync after statements that change the catalogue.");
            if self.observes() || !self.start.view.hides() {
                return None;
            }
            let subject = opaque(&self.start.database, "(follows a change of the catalogue within its pipeline)");
            let deciding = Deciding::Refused { refused: Refused::of(frame), statement: None };
            return Some(self.ask(Ask::Refuse(denial), subject, Vec::new(), frame.bytes.clone(), deciding));
        }
        self.fresh_to_open(frame)
    }

    /// What is asked for where an earlier message of the same pipeline may have changed the catalogue: what it means cannot be
    /// told, so whoever may do anything may do this.
    pub(super) fn cautious(&self, mut action: Arc<Action>) -> Arc<Action> {
        if self.after_change() && !self.observes() {
            let opaque = sql::opaque(&self.start.database).requests;
            Arc::make_mut(&mut action).requests.extend(opaque);
        }
        action
    }

    /// Whether an earlier message of the same pipeline may have changed the catalogue.
    pub(super) fn after_change(&self) -> bool {
        self.open && self.changed
    }

    /// For a message that opens a pipeline: within it the catalogue could not be read any more.
    pub(super) fn fresh_to_open(&mut self, frame: &Frame) -> Option<Outcome> {
        if self.open || !(self.stale || self.aged || self.queue.0.iter().any(|pending| pending.catalogue)) {
            return None;
        }
        if !self.quiet() {
            return Some(Outcome::Wait(frame.clone()));
        }
        if self.status == b'E' {
            return None;
        }
        self.client = Client::Refreshing;
        self.steps.push_back(Step::RefreshCatalogue { anew: self.stale });
        Some(Outcome::Wait(frame.clone()))
    }

    /// For a text that names what the snapshot does not have: others may have made it since, so the catalogue is read again
    /// where that is possible, and not too often.
    pub(super) fn look_again(&mut self, understood: &Understood, frame: &Frame, now: Instant) -> Option<Outcome> {
        let lately = self.looked_again.is_some_and(|then| now.saturating_duration_since(then) < LOOK_AGAIN);
        if !understood.statement.unknown_names || lately || !self.quiet() || self.status == b'E' {
            return None;
        }
        self.looked_again = Some(now);
        self.client = Client::Refreshing;
        self.steps.push_back(Step::RefreshCatalogue { anew: true });
        Some(Outcome::Wait(frame.clone()))
    }

    /// Understands a text; `None` while a name that it uses is unsettled.
    pub(super) fn understand(&self, text: &str) -> Option<Understood> {
        let names = Lookups { machine: self, unsettled: Cell::new(false) };
        let statement = self.start.view.classify(text, &names);
        (!names.unsettled.get()).then(|| Understood { statement, text: text.into(), stamp: self.stamp })
    }

    /// What a prepared statement means now; `None` while a name that it uses is unsettled.
    pub(super) fn meaning(&self, prepared: &Prepared) -> Option<Understood> {
        let understood = prepared.understood();
        if understood.holds(self.stamp) {
            return Some(understood);
        }
        let anew = match &prepared.source {
            Source::Parse(text) => self.understand(text)?,
            source => self.meaning_without_names(source),
        };
        prepared.understand(anew.clone());
        Some(anew)
    }

    /// What a prepared statement means now, where it may not lead to other names: so that no two lead to each other.
    fn meaning_without_names(&self, source: &Source) -> Understood {
        let classify = |text: &Arc<str>| self.start.view.classify(text, &NoNames);
        let (statement, text) = match source {
            Source::Parse(text) => (classify(text), Arc::clone(text)),
            Source::Prepare(text, position) => match classify(text).parts.get(*position).map(|part| &part.effect) {
                Some(Effect::Prepare { statement, .. }) => (Arc::clone(statement), Arc::clone(text)),
                _ => return self.incomprehensible("Prepare it again."),
            },
            Source::Unreadable(why) => return self.unread(why),
        };
        Understood { statement, text, stamp: self.stamp }
    }

    /// What rows of a cursor of DECLARE mean now. The server goes on with the tables and columns that it found when the cursor
    /// was declared, so a text that means something else by now tells nothing of them.
    pub(super) fn fetched(&self, cursor: &Portal) -> Understood {
        let Understood { text, stamp, .. } = &cursor.understood;
        if stamp.view == self.stamp.view || self.observes() {
            return cursor.understood.clone();
        }
        let whole = self.start.view.classify(text, &NoNames);
        if let Some(Effect::Declare { statement, .. }) = whole.parts.get(cursor.position).map(|part| &part.effect) {
            let now = Understood { statement: Arc::clone(statement), text: Arc::clone(text), stamp: self.stamp };
            if now.same(&cursor.understood) {
                return now;
            }
        }
        self.incomprehensible("Declare the cursor again.")
    }

    /// What is not understood because it cannot be read.
    pub(super) fn unread(&self, why: &str) -> Understood {
        let mut understood = self.incomprehensible(format!("It could not be read: {why}."));
        Arc::make_mut(&mut understood.statement).unread = Some(why.to_owned());
        understood
    }

    /// What is not understood, and what to do about it.
    fn incomprehensible(&self, hint: impl Into<String>) -> Understood {
        let (action, text) = opaque(&self.start.database, "(not understood)");
        let denial = Denial::closed("it cannot be told what this statement means").with_hint(hint);
        // Where nothing is hidden there is nothing to prove.
        let answer = if self.start.view.hides() { Answer::Unproven(denial) } else { Answer::Clear };
        let part = Part { answer, effect: Effect::ChangesCatalogue };
        let statement = Statement {
            action,
            text,
            parameters_clear: false,
            parts: vec![part],
            unknown_names: false,
            looks_up_names: false,
            unread: None,
        };
        Understood { statement: Arc::new(statement), text: "".into(), stamp: self.stamp }
    }

    /// A text that the server reads otherwise than we do. It is recorded if nothing in the database is masked.
    pub(super) fn unreadable(&self, text: &[u8], why: &str) -> Understood {
        let mut understood = self.unread(why);
        if !self.start.view.masks() {
            Arc::make_mut(&mut understood.statement).text =
                Arc::new(without_values(String::from_utf8_lossy(text).into_owned()));
        }
        understood
    }
}

impl Understood {
    /// Whether it asks for the same as another, and the same is proven of it.
    pub(super) fn same(&self, other: &Self) -> bool {
        let (one, other) = (&self.statement, &other.statement);
        let answers = one.parts.iter().map(|part| &part.answer);
        one.action == other.action && answers.eq(other.parts.iter().map(|part| &part.answer))
    }
}

/// No names at all.
struct NoNames;

impl Names for NoNames {
    fn prepared(&self, _: &str) -> Vec<Arc<Statement>> {
        Vec::new()
    }

    fn cursor(&self, _: &str) -> Vec<Arc<Statement>> {
        Vec::new()
    }
}

/// The session's names as the classifier sees them while it understands one text.
struct Lookups<'a> {
    machine: &'a Machine,
    unsettled: Cell<bool>,
}

impl Lookups<'_> {
    fn settle<T>(&self, lookup: Lookup<T>) -> Option<T> {
        match lookup {
            Lookup::Found(found) => Some(found),
            Lookup::Missing => None,
            Lookup::Unsettled => {
                self.unsettled.set(true);
                None
            }
        }
    }
}

impl Names for Lookups<'_> {
    fn prepared(&self, name: &str) -> Vec<Arc<Statement>> {
        let machine = self.machine;
        let prepared = self.settle(machine.queue.statement(name, machine.pipeline, &machine.committed));
        let Some(prepared) = prepared else { return Vec::new() };
        let understood = prepared.understood();
        // The server analyses a prepared statement again when the catalogue has changed: so is it here.
        if understood.stamp.view == machine.stamp.view {
            return vec![understood.statement];
        }
        let anew = machine.meaning_without_names(&prepared.source);
        if matches!(prepared.source, Source::Prepare(..)) {
            // It can lead to no other names, so this is what it means: a text may ask a thousand times.
            prepared.understand(anew.clone());
        }
        vec![anew.statement]
    }

    fn cursor(&self, name: &str) -> Vec<Arc<Statement>> {
        let machine = self.machine;
        let portal = self.settle(machine.queue.portal(name, machine.pipeline, &machine.committed));
        portal.map(|portal| machine.fetched(&portal).statement).into_iter().collect()
    }
}
