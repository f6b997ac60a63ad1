//! The attempts: one function each, run in a process of its own by the user in scope.

mod datagram;
mod links;
mod names;
mod older;
mod passed;
mod raw;
mod stream;
mod unix;
mod uring;

use std::io;

pub use passed::{Cgroup, Maker, run_maker};

use crate::field::{Field, Stage};

/// The families that an attempt is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    Both,
    V4,
    V6,
    /// None: not of the Internet.
    None,
}

/// Privileges with which an attempt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// As the user in scope, with none.
    None,
    /// As the user in scope, with all of them.
    All,
    /// As root and out of scope; it enters the scope itself.
    Later,
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At the proxy, as the attempt's own.
    Redirected,
    /// Nowhere: by an error, or by packets that are dropped.
    Refused,
}

/// A row of the matrix.
#[derive(Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub families: Families,
    pub rights: Rights,
    pub stage: Stage,
    pub ending: Ending,
    /// A Unix socket is called by another name than its own, or in another root directory.
    pub renamed: bool,
    pub run: fn(&mut Field) -> io::Result<()>,
}

impl Row {
    pub const fn new(name: &'static str, ending: Ending, run: fn(&mut Field) -> io::Result<()>) -> Self {
        Self { name, families: Families::Both, rights: Rights::None, stage: Stage::Alive, ending, renamed: false, run }
    }

    pub const fn renamed(mut self) -> Self {
        self.renamed = true;
        self
    }

    pub const fn only(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    pub const fn with(mut self, rights: Rights) -> Self {
        self.rights = rights;
        self
    }

    pub const fn at(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }

    /// Its name with a family.
    pub fn shown(&self, six: bool) -> String {
        match self.families {
            Families::None => self.name.into(),
            _ => format!("{} (IPv{})", self.name, if six { 6 } else { 4 }),
        }
    }

    /// The families: whether it is IPv6.
    pub fn sixes(&self) -> &'static [bool] {
        match self.families {
            Families::Both => &[false, true],
            Families::V4 | Families::None => &[false],
            Families::V6 => &[true],
        }
    }
}

/// All attempts.
pub fn all() -> Vec<Row> {
    [
        stream::ROWS,
        uring::ROWS,
        datagram::ROWS,
        raw::ROWS,
        links::ROWS,
        passed::ROWS,
        names::ROWS,
        older::ROWS,
        unix::ROWS,
    ]
    .concat()
}
