//! Whether an answer is free of masked columns, as far as it is known while the text is walked.
//!
//! A statement that touches a table with hidden columns is proven only if each of those columns appears nowhere but as
//! a bare column (or in a `*`) among the outputs of the outermost statement: then the server names the column's origin
//! with the answer, and its values are masked one by one. A hidden column anywhere else (a predicate, an expression, a
//! sort key, a subquery) would let values be guessed or computed with.

use super::{
    Answer, Statement,
    catalogue::{Kind, Relation},
    masks::Masking,
    relations,
};
use crate::model::Denial;

/// What is known so far about one statement.
#[derive(Debug)]
pub(super) struct Proof<'a> {
    masking: &'a Masking,
    touches_masked: bool,
    touches_hidden: bool,
    touches_any: bool,
    obscured: bool,
    unresolved: Option<String>,
    unproven: Option<Denial>,
}

impl<'a> Proof<'a> {
    pub(super) fn new(masking: &'a Masking) -> Self {
        Self {
            masking,
            touches_masked: false,
            touches_hidden: false,
            touches_any: false,
            obscured: false,
            unresolved: None,
            unproven: None,
        }
    }

    pub(super) fn masking(&self) -> &'a Masking {
        self.masking
    }

    /// A relation is named, for whatever purpose.
    pub(super) fn touch(&mut self, relation: &Relation) {
        self.touches_any = true;
        self.touches_masked |= self.masking.masks_in(relation.oid);
        self.touches_hidden |= self.masking.hides_in(relation.oid);
    }

    /// What a relation holds is read, written or changed.
    pub(super) fn open(&mut self, relation: &Relation) {
        if relations::is_listed(&relation.schema, &relation.name) {
            return;
        }
        let name = format!("{}.{}", relation.schema, relation.name);
        match relation.kind {
            _ if matches!(relation.schema.as_str(), "pg_catalog" | "information_schema") => {
                self.obscure(format!("{name} may show values of masked columns"));
            }
            Kind::View => {
                self.obscure(format!("{name} is a view, and what it shows cannot be proven free of masked columns"))
            }
            Kind::Foreign => {
                self.obscure(format!(
                    "{name} is a foreign table, and what it shows cannot be proven free of masked columns"
                ));
            }
            Kind::Table | Kind::Sequence | Kind::Index => {}
        }
    }

    /// Something is used that may show masked columns, for all that is known.
    pub(super) fn obscure(&mut self, reason: String) {
        self.obscure_with(reason, "Read the columns of tables directly, with built-in functions only.");
    }

    /// A relation is named that the catalogue does not have: most often by mistake.
    pub(super) fn no_relation(&mut self, name: &str) {
        self.obscure_with(format!("the catalogue has no relation {name}"), "Check the spelling, and the schema.");
    }

    fn obscure_with(&mut self, reason: String, hint: &str) {
        self.obscured = true;
        if self.masking.hides() {
            self.refuse(reason, hint);
        }
    }

    /// A qualifier was not found: it matters only if the statement touches hidden columns.
    pub(super) fn unresolved(&mut self, name: String) {
        self.unresolved.get_or_insert(name);
    }

    /// A hidden column is used where it cannot be masked.
    pub(super) fn hidden(&mut self, column: &str, place: &str) {
        self.refuse(
            format!("the masked column {column} is used {place}"),
            "Masked columns can only be selected as they are: remove it, or select it as a plain output column.",
        );
    }

    /// The answer cannot be proven. The first reason is kept.
    pub(super) fn refuse(&mut self, reason: String, hint: &str) {
        self.unproven.get_or_insert_with(|| Denial::closed(reason).with_hint(hint));
    }

    /// Takes over what is known about a statement that is carried: prepared, declared or explained.
    pub(super) fn carry(&mut self, statement: &Statement) {
        self.touches_any = true;
        self.touches_masked |= !statement.parameters_clear;
        for part in &statement.parts {
            match &part.answer {
                Answer::Clear => {}
                Answer::ByOrigin => self.touches_hidden = true,
                Answer::Unproven(denial) => {
                    self.unproven.get_or_insert_with(|| denial.clone());
                }
            }
        }
    }

    /// Whether any relation is touched, or anything is unknown.
    pub(super) fn touches(&self) -> bool {
        self.touches_any || self.obscured
    }

    /// Whether a table with hidden columns is touched.
    pub(super) fn touches_hidden(&self) -> bool {
        self.touches_hidden
    }

    /// Whether literals and parameters cannot be values of a masked column.
    pub(super) fn values_clear(&self) -> bool {
        !self.masking.masks() || !(self.touches_masked || self.obscured)
    }

    /// What is known in the end.
    pub(super) fn answer(&mut self) -> Answer {
        if !self.masking.hides() {
            return Answer::Clear;
        }
        if let (true, Some(name)) = (self.touches_hidden, self.unresolved.take()) {
            self.refuse(
                format!("{name} cannot be resolved, in a statement that touches masked columns"),
                "Qualify columns with the alias of their table.",
            );
        }
        match self.unproven.take() {
            Some(denial) => Answer::Unproven(denial),
            None if self.touches_hidden => Answer::ByOrigin,
            None => Answer::Clear,
        }
    }
}
