//! The session's names: prepared statements and portals, of the protocol and of SQL, which share their namespaces.
//!
//! The server's truth decides. A name is *committed* when the server has said so; until then its change waits with the
//! message that asked for it ([`Pending`](super::pending::Pending)). So a client cannot make us believe that a name holds a
//! harmless statement while the server keeps another.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};

use super::operation::Operation;
use crate::{
    protocol::postgres::{message::Column, sql::Statement},
    recording::Event,
};

/// Prepared statements and portals that one session may have, each. More are refused with a native error.
pub const NAMES: usize = 4_096;

/// Bytes of text of all prepared statements that one session may have.
pub const TEXTS: usize = 32 << 20;

/// Longest name in bytes, as in the server (`NAMEDATALEN` - 1): it cuts longer ones, so that two names would be one.
pub const NAME_LENGTH: usize = 63;

/// A prepared statement.
#[derive(Debug)]
pub struct Prepared {
    /// Where it comes from, to understand it again when the catalogue has changed.
    pub source: Source,
    /// OIDs of the parameter types, as far as the client prescribed them.
    pub types: Vec<u32>,
    /// What it is understood to be, and under which circumstances.
    pub understood: Mutex<Understood>,
    /// Types and columns as the server described them, once it has: for the log only.
    pub described: OnceLock<Described>,
}

/// Where a prepared statement comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// `Parse` of this text.
    Parse(Arc<str>),
    /// The PREPARE that is the statement at this position of a text.
    Prepare(Arc<str>, usize),
    /// A text that cannot be read, and why.
    Unreadable(&'static str),
}

impl Source {
    /// Bytes of text that are kept for it.
    fn bytes(&self) -> usize {
        match self {
            Self::Parse(text) | Self::Prepare(text, _) => text.len(),
            Self::Unreadable(_) => 0,
        }
    }
}

/// A server's description of a statement.
#[derive(Debug)]
pub struct Described {
    /// OIDs of the parameter types.
    pub types: Vec<u32>,
    /// Types of the output columns.
    pub columns: Vec<Column>,
}

impl Prepared {
    /// What it was understood to be last.
    pub fn understood(&self) -> Understood {
        self.understood.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It was understood anew.
    pub fn understand(&self, understood: Understood) {
        *self.understood.lock().unwrap_or_else(PoisonError::into_inner) = understood;
    }

    /// OID of a parameter's type; 0 if not known.
    pub fn parameter_type(&self, position: usize) -> u32 {
        let prescribed = self.types.get(position).copied().filter(|oid| *oid != 0);
        let described = || self.described.get().and_then(|described| described.types.get(position).copied());
        prescribed.or_else(described).unwrap_or(0)
    }

    /// OIDs of the output columns' types, if described.
    pub fn column_types(&self) -> Vec<u32> {
        self.described.get().map_or_else(Vec::new, |it| it.columns.iter().map(|column| column.oid).collect())
    }

    /// Names of the output columns, if described.
    pub fn column_names(&self) -> Option<Vec<String>> {
        self.described.get().map(|it| it.columns.iter().map(|column| column.name.clone()).collect())
    }
}

/// What a text was understood to be, and when.
#[derive(Clone, Debug)]
pub struct Understood {
    /// The statement.
    pub statement: Arc<Statement>,
    /// The text that it is, or was part of.
    pub text: Arc<str>,
    /// The circumstances.
    pub stamp: Stamp,
}

impl Understood {
    /// Whether it still means the same.
    pub fn holds(&self, now: Stamp) -> bool {
        self.stamp.view == now.view && (!self.statement.looks_up_names || self.stamp.names == now.names)
    }
}

/// Circumstances under which a text is understood: numbers that grow whenever they change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Catalogue, and the set of masked columns.
    pub view: u64,
    /// Names that SQL can see.
    pub names: u64,
}

/// A portal, or a cursor of SQL's DECLARE.
#[derive(Debug)]
pub struct Portal {
    /// What was decided, and when. For a cursor: what FETCH means.
    pub understood: Understood,
    /// What Bind made of it; `None` for a cursor.
    pub bound: Option<Bound>,
}

impl Portal {
    /// It is gone: its operation will not go on. What is left to record of that.
    pub fn ended(&self, now: Instant) -> Option<Event> {
        self.bound.as_ref().and_then(|bound| bound.operation().finish(now))
    }
}

/// What Bind made of a portal.
#[derive(Debug)]
pub struct Bound {
    /// The prepared statement.
    pub prepared: Arc<Prepared>,
    /// Epoch of the policies that decided.
    pub epoch: u64,
    /// It is decided, and recorded, each time that it runs.
    pub once: bool,
    /// The recorded operation, which all its `Execute`s carry on.
    pub operation: Mutex<Operation>,
}

impl Bound {
    /// The recorded operation.
    pub fn operation(&self) -> MutexGuard<'_, Operation> {
        self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a message or a statement does to the names, once the server has carried it out.
#[derive(Clone, Debug)]
pub enum Change {
    /// A prepared statement exists.
    Statement(Arc<str>, Arc<Prepared>),
    /// A portal exists.
    Portal(Arc<str>, Arc<Portal>),
    /// A prepared statement is gone.
    NoStatement(Arc<str>),
    /// A portal is gone.
    NoPortal(Arc<str>),
    /// All prepared statements but the unnamed one are gone.
    NoStatements,
    /// All portals are gone.
    NoPortals,
}

/// What is known about a name.
#[derive(Clone, Debug)]
pub enum Lookup<T> {
    /// It stands for this.
    Found(T),
    /// It stands for nothing.
    Missing,
    /// The server's answer is outstanding.
    Unsettled,
}

/// The committed names.
#[derive(Debug, Default)]
pub struct Committed {
    statements: HashMap<Arc<str>, Arc<Prepared>>,
    portals: HashMap<Arc<str>, Arc<Portal>>,
}

impl Committed {
    /// Carries out a change, and gives the portals that are gone over it.
    pub fn commit(&mut self, change: Change, mut gone: impl FnMut(&Portal)) {
        match change {
            Change::Statement(name, prepared) => {
                self.statements.insert(name, prepared);
            }
            Change::Portal(name, portal) => {
                self.portals.insert(name, portal).iter().for_each(|before| gone(before));
            }
            Change::NoStatement(name) => {
                self.statements.remove(&name);
            }
            Change::NoPortal(name) => {
                self.portals.remove(&name).iter().for_each(|portal| gone(portal));
            }
            Change::NoStatements => self.statements.retain(|name, _| name.is_empty()),
            Change::NoPortals => self.portals.drain().for_each(|(_, portal)| gone(&portal)),
        }
    }

    /// A prepared statement.
    pub fn statement(&self, name: &str) -> Option<&Arc<Prepared>> {
        self.statements.get(name)
    }

    /// A portal or cursor.
    pub fn portal(&self, name: &str) -> Option<&Arc<Portal>> {
        self.portals.get(name)
    }

    /// A `Query` has come: the unnamed ones are gone.
    pub fn forget_unnamed(&mut self, gone: impl FnMut(&Portal)) {
        self.statements.remove("");
        self.commit(Change::NoPortal("".into()), gone);
    }

    /// The transaction has ended: portals that Bind made are gone. Cursors of DECLARE may be held; one that is believed to
    /// exist and does not is only refused by the server.
    pub fn transaction_ended(&mut self, mut gone: impl FnMut(&Portal)) {
        self.portals.retain(|_, portal| {
            let stays = portal.bound.is_none();
            if !stays {
                gone(portal);
            }
            stays
        });
    }

    /// Prepared statements and portals, and what they take.
    pub fn count(&self) -> Count {
        Count {
            statements: self.statements.len(),
            portals: self.portals.len(),
            texts: self.statements.values().map(|prepared| prepared.source.bytes()).sum(),
        }
    }
}

/// How much a session keeps under names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Prepared statements.
    pub statements: usize,
    /// Portals.
    pub portals: usize,
    /// Bytes of the statements' texts.
    pub texts: usize,
}

impl Count {
    /// With what a change will add.
    pub fn announced(mut self, change: &Change) -> Self {
        match change {
            Change::Statement(name, prepared) => {
                self.statements += usize::from(!name.is_empty());
                self.texts += prepared.source.bytes();
            }
            Change::Portal(name, _) => self.portals += usize::from(!name.is_empty()),
            _ => {}
        }
        self
    }

    /// Whether there is room for one more.
    pub fn has_room(self) -> bool {
        self.statements < NAMES && self.portals < NAMES && self.texts < TEXTS
    }
}
