//! What a text asks for: requests and facts, as they are found.

use std::collections::{BTreeMap, BTreeSet};

use super::Reading;
use crate::model::{Action, Fact, Request, Resource};

/// Schema of a name that the snapshot does not have: no schema can have this name in a policy by accident, and a permit
/// for the whole target lets the server say what it thinks of the name.
pub(super) const NOWHERE: &str = "?";

/// The database as a resource.
pub(super) fn database(reading: &Reading) -> Resource {
    Resource::target(&reading.target).child("Database", &reading.database)
}

/// A schema as a resource.
pub(super) fn schema(reading: &Reading, name: &str) -> Resource {
    database(reading).child("Schema", name)
}

/// A table, view, sequence, index or other relation as a resource.
pub(super) fn table(reading: &Reading, schema: &str, name: &str) -> Resource {
    self::schema(reading, schema).child("Table", name)
}

/// A function, procedure or aggregate as a resource. Overloads are one.
pub(super) fn function(reading: &Reading, schema: &str, name: &str) -> Resource {
    self::schema(reading, schema).child("Function", name)
}

/// An action of these requests that changes these settings and touches nothing else.
pub(super) fn action<R, S>(requests: R, settings: S) -> Action
where
    R: IntoIterator<Item = Request>,
    S: IntoIterator<Item = String>,
{
    let findings = Findings {
        requests: requests.into_iter().collect(),
        settings: settings.into_iter().collect(),
        ..Findings::default()
    };
    findings.into_action()
}

/// Requests and facts of a text so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What must be permitted.
    pub requests: BTreeSet<Request>,
    /// `schema.table` of every relation that is named.
    pub tables: BTreeSet<String>,
    /// `schema.function` of every function that is called by name.
    pub functions: BTreeSet<String>,
    /// Names of settings that are changed.
    pub settings: BTreeSet<String>,
    /// Whether an UPDATE or DELETE somewhere has no WHERE, or one that restricts nothing.
    pub unbounded: bool,
    /// Number of statements.
    pub statements: i64,
    /// Whether a name is not in the snapshot.
    pub unknown_names: bool,
    /// Whether the session's names were looked up.
    pub looks_up_names: bool,
    /// Whether the text holds a password, or something that may be one.
    pub secret: bool,
}

impl Findings {
    /// Adds what was found elsewhere in the same text.
    pub(super) fn merge(&mut self, other: Self) {
        self.requests.extend(other.requests);
        self.tables.extend(other.tables);
        self.functions.extend(other.functions);
        self.settings.extend(other.settings);
        self.unbounded |= other.unbounded;
        self.statements += other.statements;
        self.unknown_names |= other.unknown_names;
        self.looks_up_names |= other.looks_up_names;
        self.secret |= other.secret;
    }

    /// Adds everything that another action asks for.
    pub(super) fn absorb(&mut self, action: &Action) {
        self.requests.extend(action.requests.iter().cloned());
        for (name, fact) in &action.facts {
            match (*name, fact) {
                ("tables", Fact::Set(set)) => self.tables.extend(set.iter().cloned()),
                ("functions", Fact::Set(set)) => self.functions.extend(set.iter().cloned()),
                ("settings", Fact::Set(set)) => self.settings.extend(set.iter().cloned()),
                ("has_where", Fact::Bool(bounded)) => self.unbounded |= !bounded,
                _ => {}
            }
        }
    }

    /// The action.
    pub(super) fn into_action(self) -> Action {
        let facts = BTreeMap::from([
            ("tables", Fact::Set(self.tables)),
            ("functions", Fact::Set(self.functions)),
            ("settings", Fact::Set(self.settings)),
            ("has_where", Fact::Bool(!self.unbounded)),
            ("statements", Fact::Long(self.statements)),
        ]);
        Action { requests: self.requests, facts }
    }
}

/// `schema.name`, written like the id of an entity.
pub(super) fn qualified(schema: &str, name: &str) -> String {
    let resource = Resource::target(schema).child("Table", name);
    resource.id(2)
}
