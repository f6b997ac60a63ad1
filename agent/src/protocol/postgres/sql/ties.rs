//! Writes that a constraint answers: whether a row is accepted may tell a masked value of another row, or of the same.

use std::collections::BTreeSet;

use pg_query::{
    Node, NodeEnum,
    protobuf::{CopyStmt, InsertStmt},
};

use super::{
    catalogue::{Relation, Tie},
    names::{Candidate, text},
    walk::Walker,
};

/// What is done to rows of a table.
#[derive(Clone, Debug)]
pub(super) enum Change<'n> {
    /// Rows are made, with these columns given.
    Insert(Columns<'n>),
    /// These columns are assigned; the others stay.
    Update(Columns<'n>),
    /// Rows go.
    Delete,
}

/// Columns that are written.
#[derive(Clone, Debug)]
pub(super) enum Columns<'n> {
    /// By name.
    Named(BTreeSet<&'n str>),
    /// So many of the table's, from the first.
    First(usize),
}

impl<'n> Columns<'n> {
    /// The columns of a list of assignments, or of the names of a list.
    pub(super) fn named(targets: &'n [Node]) -> Self {
        let name = |target: &'n Node| match &target.node {
            Some(NodeEnum::ResTarget(target)) => Some(target.name.as_str()),
            _ => text(target),
        };
        Self::Named(targets.iter().filter_map(name).collect())
    }

    /// Of those that may be left out: then values are given for as many as there are in the first of some rows.
    fn given(targets: &'n [Node], first_row: Option<usize>) -> Self {
        if targets.is_empty() { Self::First(first_row.unwrap_or(usize::MAX)) } else { Self::named(targets) }
    }

    /// The columns of INSERT.
    pub(super) fn inserted(statement: &'n InsertStmt) -> Self {
        let values = match statement.select_stmt.as_deref() {
            None => Some(0),
            Some(Node { node: Some(NodeEnum::SelectStmt(select)) }) => select.values_lists.first().map(row),
            _ => None,
        };
        Self::given(&statement.cols, values)
    }

    /// The columns of the INSERT of a MERGE.
    pub(super) fn merged(targets: &'n [Node], values: &'n [Node]) -> Self {
        Self::given(targets, Some(values.len()))
    }

    /// The columns of COPY.
    pub(super) fn copied(statement: &'n CopyStmt) -> Self {
        Self::given(&statement.attlist, None)
    }

    /// Whether a column of a relation is written.
    fn have(&self, relation: &Relation, attribute: i16) -> bool {
        match self {
            Self::Named(names) => relation.column(attribute).is_none_or(|name| names.contains(name)),
            // Dropped columns are not counted.
            Self::First(count) => relation.columns.iter().filter(|(number, _)| *number < attribute).count() < *count,
        }
    }
}

/// The number of values in a row of VALUES.
fn row(row: &Node) -> usize {
    match &row.node {
        Some(NodeEnum::List(list)) => list.items.len(),
        _ => usize::MAX,
    }
}

impl Walker<'_> {
    /// Rows of a table are changed so: refused if a constraint's answer would depend on a hidden value that the statement
    /// does not give itself.
    pub(super) fn changes(&mut self, candidates: &[Candidate<'_>], change: &Change<'_>) {
        if !self.proof.masking().hides() {
            return;
        }
        for relation in candidates.iter().filter_map(|candidate| candidate.relation) {
            // Rows of a parent are rows of its children, where constraints are a child's own.
            for oid in self.catalogue.descendants(relation.oid) {
                let Some(table) = self.catalogue.relation(oid) else { continue };
                for tie in self.catalogue.ties(oid) {
                    if let Some(reason) = self.tells(table, tie, change) {
                        let hint = "Leave those columns out, or let a role write them that may unmask them.";
                        self.proof.refuse(reason, hint);
                    }
                }
            }
        }
    }

    /// What a constraint would tell about hidden values, if it would.
    fn tells(&self, table: &Relation, tie: &Tie, change: &Change<'_>) -> Option<String> {
        let masking = self.proof.masking();
        let hidden = |oid: u32, columns: &[i16]| {
            let relation = self.catalogue.relation(oid)?;
            columns.iter().filter_map(|column| relation.column(*column)).find(|name| masking.hides_column(oid, name))
        };
        // Hidden columns of the row that the statement does not give: those that it leaves as they are.
        let kept = |columns: &[i16], written: &Columns<'_>| {
            let kept: Vec<i16> = columns.iter().copied().filter(|column| !written.have(table, *column)).collect();
            hidden(table.oid, &kept)
        };
        let touches =
            |columns: &[i16], written: &Columns<'_>| columns.iter().any(|column| written.have(table, *column));
        let name = &table.name;
        match (tie, change) {
            (Tie::Unique(columns), Change::Insert(written) | Change::Update(written)) if touches(columns, written) => {
                let column = hidden(table.oid, columns)?;
                Some(format!(
                    "the masked column {column} is part of a unique index or exclusion constraint of {name}, which would \
                     tell whether a value is there"
                ))
            }
            (Tie::Check(columns), Change::Update(written)) if touches(columns, written) => {
                let column = kept(columns, written)?;
                Some(format!(
                    "a CHECK constraint of {name} would tell how values compare with the masked column {column}"
                ))
            }
            (Tie::References { columns, other, others }, Change::Insert(written) | Change::Update(written))
                if touches(columns, written) =>
            {
                let own = if matches!(change, Change::Update(_)) { kept(columns, written) } else { None };
                let column = hidden(*other, others).or(own)?;
                Some(format!(
                    "a foreign key of {name} would tell whether a value of the masked column {column} is there"
                ))
            }
            (Tie::Referenced { columns, other, others }, change) => {
                let affected = match change {
                    Change::Delete => true,
                    Change::Update(written) => touches(columns, written),
                    Change::Insert(_) => false,
                };
                let column = hidden(*other, others).filter(|_| affected)?;
                Some(format!("a foreign key to {name} would tell whether the masked column {column} refers to the row"))
            }
            _ => None,
        }
    }
}
