//! The walk over a statement's tree: its state, and where it begins and ends.
//!
//! Queries and expressions with several parts are taken apart field by field, without `..`, so that a field that a
//! newer grammar adds does not compile until someone has decided what it means. A node that is not expected asks for
//! `sql:opaque`.

use std::sync::Arc;

use pg_query::{Node, NodeEnum};

use super::{
    Answer, Effect, Names, Part, Reading, Statement,
    catalogue::{Catalogue, Relation},
    masks::Masking,
    proof::Proof,
    requests::{self, Findings},
};
use crate::model::{Request, Resource};

/// Where an expression stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An output column of the outermost statement, which has no set operation and no DISTINCT.
    Output,
    /// Anywhere else. A hidden column cannot be masked there.
    Inside,
}

/// Something that a column can be qualified with.
#[derive(Debug)]
pub(super) struct Item<'a> {
    /// Its alias, or the relation's name.
    pub name: String,
    /// The relations that it may be. None for subqueries, functions and CTEs, whose columns are clear.
    pub relations: Vec<&'a Relation>,
    /// Whether `relations` are all that it may be, so that other columns do not exist.
    pub known: bool,
    /// Whether any of them has hidden columns.
    pub hides: bool,
    /// Position in [`Walker::written`], if it is the table that a statement writes.
    pub written: Option<usize>,
    /// Whether it only stands for other versions of a row (`excluded`, `old`, `new`): it is found by its name alone,
    /// and the server may not name the origin of its columns.
    pub shadow: bool,
}

impl Item<'_> {
    /// A subquery, function or CTE.
    pub(super) fn derived(name: &str) -> Self {
        Self { name: name.into(), relations: Vec::new(), known: false, hides: false, written: None, shadow: false }
    }
}

/// A table that a statement writes, and whether it reads any column of it.
#[derive(Debug)]
pub(super) struct Written {
    pub tables: Vec<Resource>,
    pub read: bool,
}

/// Names that earlier statements of the same text define.
#[derive(Debug, Default)]
pub(super) struct Local {
    prepared: Vec<(String, Arc<Statement>)>,
    cursors: Vec<(String, Arc<Statement>)>,
}

impl Local {
    /// Takes in what a statement defines. Nothing is forgotten: whether the statement will succeed is not known.
    pub(super) fn learn(&mut self, effect: &Effect) {
        match effect {
            Effect::Prepare { name, statement } => self.prepared.push((name.clone(), Arc::clone(statement))),
            Effect::Declare { name, statement } => self.cursors.push((name.clone(), Arc::clone(statement))),
            _ => {}
        }
    }

    fn find(names: &[(String, Arc<Statement>)], name: &str) -> Vec<Arc<Statement>> {
        names.iter().filter(|(known, _)| known == name).map(|(_, statement)| Arc::clone(statement)).collect()
    }
}

/// The walk over one statement.
pub(super) struct Walker<'a> {
    pub reading: &'a Reading,
    pub catalogue: &'a Catalogue,
    pub proof: Proof<'a>,
    pub findings: Findings,
    /// Query levels from the outside in; in each, what columns can be qualified with.
    pub scopes: Vec<Vec<Item<'a>>>,
    /// Names of the CTEs in scope.
    pub ctes: Vec<String>,
    /// Tables that are written.
    pub written: Vec<Written>,
    /// Every table read so far, in order: FOR UPDATE locks those of a FROM clause.
    pub read: Vec<Resource>,
    /// Whether something is called that may change the catalogue.
    pub changes_catalogue: bool,
    names: &'a dyn Names,
    local: &'a Local,
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        reading: &'a Reading,
        catalogue: &'a Catalogue,
        masking: &'a Masking,
        names: &'a dyn Names,
        local: &'a Local,
    ) -> Self {
        Self {
            reading,
            catalogue,
            proof: Proof::new(masking),
            findings: Findings::default(),
            scopes: Vec::new(),
            ctes: Vec::new(),
            written: Vec::new(),
            read: Vec::new(),
            changes_catalogue: false,
            names,
            local,
        }
    }

    /// Walks a statement as the server would run it, and says what it does to the session.
    pub(super) fn outermost(&mut self, node: Option<&Node>) -> Effect {
        let Some(node) = node.and_then(|node| node.node.as_ref()) else {
            self.opaque("an empty statement");
            return Effect::None;
        };
        if self.query(node, true) { Effect::None } else { self.utility(node) }
    }

    /// The statement's part of the text, and whether its literals are clear. `changed`: an earlier statement of the
    /// same text may have changed the catalogue that this one was read by.
    pub(super) fn finish(mut self, effect: Effect, changed: bool, into: &mut Findings) -> (Part, bool) {
        if changed && self.proof.masking().hides() && self.proof.touches() {
            self.proof.refuse(
                "an earlier statement of the same text changes the catalogue".into(),
                "Send the statements one by one.",
            );
        }
        let clear = self.proof.values_clear() && !(changed && self.proof.touches());
        let answer = match self.proof.answer() {
            // No column of it is an output of the statement, so that a hidden one is nowhere in it.
            Answer::ByOrigin if matches!(effect, Effect::CopyOut) => Answer::Clear,
            answer => answer,
        };
        let effect = match effect {
            Effect::None if self.changes_catalogue => Effect::ChangesCatalogue,
            effect => effect,
        };
        into.merge(self.findings);
        (Part { answer, effect }, clear)
    }

    /// Walks the statement of PREPARE, DECLARE or EXPLAIN as one of its own.
    pub(super) fn inner(&mut self, node: Option<&Node>) -> Statement {
        let mut walker = Self::new(self.reading, self.catalogue, self.proof.masking(), self.names, self.local);
        let effect = walker.outermost(node);
        let mut findings = Findings { statements: 1, ..Findings::default() };
        let (part, clear) = walker.finish(effect, false, &mut findings);
        if findings.requests.is_empty() {
            findings.requests.insert(Request::new("sql:basics", requests::database(self.reading)));
        }
        self.findings.unknown_names |= findings.unknown_names;
        self.findings.looks_up_names |= findings.looks_up_names;
        self.findings.secret |= findings.secret;
        let statement = Statement {
            unknown_names: findings.unknown_names,
            looks_up_names: findings.looks_up_names,
            unread: None,
            parameters_clear: clear && !findings.secret,
            parts: vec![part],
            action: Arc::new(findings.into_action()),
            // The caller puts the text that it is part of in here.
            text: Arc::new(super::text::whole("")),
        };
        self.carry(&statement);
        statement
    }

    /// Takes over what another statement asks for, and what is known about its answer.
    pub(super) fn carry(&mut self, statement: &Statement) {
        self.findings.absorb(&statement.action);
        self.proof.carry(statement);
        self.changes_catalogue |= statement.parts.iter().any(|part| matches!(part.effect, Effect::ChangesCatalogue));
    }

    /// The statements that a prepared name may stand for.
    pub(super) fn prepared(&mut self, name: &str) -> Vec<Arc<Statement>> {
        self.findings.looks_up_names = true;
        let mut found = Local::find(&self.local.prepared, name);
        found.extend(self.names.prepared(name));
        found
    }

    /// The statements that a cursor's name may stand for.
    pub(super) fn cursor(&mut self, name: &str) -> Vec<Arc<Statement>> {
        self.findings.looks_up_names = true;
        let mut found = Local::find(&self.local.cursors, name);
        found.extend(self.names.cursor(name));
        found
    }

    /// Asks for an action on a resource.
    pub(super) fn ask(&mut self, action: &str, resource: Resource) {
        self.findings.requests.insert(Request::new(action, resource));
    }

    /// Asks for an action on the database.
    pub(super) fn ask_database(&mut self, action: &str) {
        self.ask(action, requests::database(self.reading));
    }

    /// Asks for the most dangerous action, since this cannot be judged by its text.
    pub(super) fn opaque(&mut self, what: &str) {
        self.ask_database("sql:opaque");
        self.findings.unbounded = true;
        self.changes_catalogue = true;
        self.proof.obscure(format!("{what} may show values of masked columns"));
    }

    /// Nodes that a walk does not expect in this place.
    pub(super) fn unexpected(&mut self, _node: &NodeEnum) {
        self.opaque("a construct that is not understood");
    }
}
