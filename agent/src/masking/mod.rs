//! Hides values: which is decided by the catalogue of a target and by `unmask`; how, by a [`Style`].
//!
//! *Invariant:* [`Masked`] is made only here, and nothing reaches a client or the log but as a [`Masked`]. Masking knows no
//! protocol: a protocol passes in a [`Codec`] for its own values.

mod frame;
pub mod style;
mod text;

use serde::{Serialize, Serializer};

use crate::model::Style;

pub use frame::{Codec, Row, Unreadable, frame, nothing_hidden, parameter, row, verbatim};
pub use text::{omitted_text, statement_text};

/// Something that may be shown: to the client, and in the log. There is no way to make one outside this module, so that
/// a path around masking does not compile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Masked<T>(T);

impl<T> Masked<T> {
    /// What may be shown.
    #[must_use]
    pub fn shown(&self) -> &T {
        &self.0
    }

    /// What may be shown, by value.
    #[must_use]
    pub fn into_shown(self) -> T {
        self.0
    }
}

impl<T: Serialize> Serialize for Masked<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// What covers one column of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cover {
    /// Proven free of masked columns.
    Clear,
    /// Exactly one masked column, in its own style.
    Style(Style),
}

/// What covers the columns of one answer, in order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Covers(Vec<Cover>);

impl Covers {
    /// Covers for the columns of an answer, in order.
    #[must_use]
    pub fn new(covers: Vec<Cover>) -> Self {
        Self(covers)
    }

    /// Whether nothing is hidden, so that frames may be passed on as they are.
    #[must_use]
    pub fn all_clear(&self) -> bool {
        self.0.iter().all(|cover| *cover == Cover::Clear)
    }

    /// The covers, in order.
    #[must_use]
    pub fn columns(&self) -> &[Cover] {
        &self.0
    }
}

/// A message of a protocol that carries no value of the target: acknowledgements, states, the agent's own errors.
///
/// The caller states that with this call's name; it is the only maker of [`Masked`] that looks at nothing.
#[must_use]
pub fn without_values<T>(message: T) -> Masked<T> {
    Masked(message)
}
