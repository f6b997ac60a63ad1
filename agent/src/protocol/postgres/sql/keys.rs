//! Keys of ORDER BY, GROUP BY and DISTINCT ON, which may stand for an output by its name or position.

use std::collections::HashMap;

use pg_query::{
    Node, NodeEnum,
    protobuf::{CoercionForm, ResTarget},
};

use super::{names::text, walk::Walker};

/// What `(a, b)` is as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// One value, a row, within which no name stands for an output.
    Whole,
    /// Two keys, as in GROUP BY.
    Apart,
}

impl Walker<'_> {
    /// Keys, beside the outputs of their query. A name that is no column stands for the output of that name.
    pub(super) fn keys(&mut self, keys: &[Node], outputs: &[Node], rows: Rows) {
        for key in keys {
            if let Some(NodeEnum::SortBy(sort)) = &key.node
                && !sort.use_op.is_empty()
            {
                self.operator(&sort.use_op);
            }
            for part in parts(key, rows) {
                let output = bare(part).is_some_and(|name| {
                    // The outputs of a set operation are those of its first arm.
                    !self.knows(name)
                        && (outputs.is_empty() || outputs.iter().any(|output| named(output) == Some(name)))
                });
                if !output {
                    self.expression(part);
                }
            }
        }
    }

    /// Keys that name an output by alias or position, and DISTINCT, compare values of the output.
    pub(super) fn ordered_by_outputs(&mut self, targets: &[Node], [sort, group, distinct]: &[&[Node]; 3]) {
        let mut aliases = HashMap::new();
        let mut first = None;
        for target in targets {
            if let Some(NodeEnum::ResTarget(target)) = &target.node
                && let Some(column) = self.hidden_output(target)
            {
                aliases.insert(target.name.as_str(), column);
                first.get_or_insert(column);
            }
        }
        let Some(column) = first else { return };
        if !distinct.is_empty() {
            return self.proof.hidden(column, "under DISTINCT");
        }
        for key in sort.iter().chain(group.iter()).flat_map(|key| parts(key, Rows::Apart)) {
            match &key.node {
                Some(NodeEnum::AConst(_)) => {
                    self.proof.hidden(column, "in a statement that sorts or groups by position");
                }
                Some(NodeEnum::ColumnRef(reference)) => {
                    if let [alias] = reference.fields.as_slice()
                        && let Some(column) = text(alias).and_then(|alias| aliases.get(alias))
                    {
                        self.proof.hidden(column, "to sort or group by");
                    }
                }
                _ => {}
            }
        }
    }

    /// The hidden column that an output is, or `*` over one.
    fn hidden_output<'n>(&self, target: &'n ResTarget) -> Option<&'n str> {
        let Some(Node { node: Some(NodeEnum::ColumnRef(reference)) }) = target.val.as_deref() else { return None };
        let masking = self.proof.masking();
        let column = reference.fields.last()?;
        let name = text(column);
        let hides =
            self.scopes.last().into_iter().flatten().flat_map(|item| &item.relations).any(|relation| match name {
                Some(name) => masking.hides_column(relation.oid, name),
                None => masking.hides_in(relation.oid),
            });
        hides.then(|| name.unwrap_or("*"))
    }
}

/// The keys that one is made of: of a grouping set, at any depth, those in it.
fn parts(key: &Node, rows: Rows) -> Vec<&Node> {
    let inner = match &key.node {
        Some(NodeEnum::SortBy(sort)) => return sort.node.iter().flat_map(|key| parts(key, rows)).collect(),
        Some(NodeEnum::GroupingSet(set)) => &set.content,
        Some(NodeEnum::List(list)) => &list.items,
        Some(NodeEnum::RowExpr(row)) if rows == Rows::Apart && row.row_format() == CoercionForm::CoerceImplicitCast => {
            &row.args
        }
        _ => return vec![key],
    };
    inner.iter().flat_map(|key| parts(key, rows)).collect()
}

/// A name without a qualifier.
fn bare(node: &Node) -> Option<&str> {
    match &node.node {
        Some(NodeEnum::ColumnRef(reference)) => match reference.fields.as_slice() {
            [name] => text(name),
            _ => None,
        },
        _ => None,
    }
}

/// The name of an output: its alias, or what the server calls an expression of the commoner kinds.
fn named(output: &Node) -> Option<&str> {
    let Some(NodeEnum::ResTarget(target)) = &output.node else { return None };
    if target.name.is_empty() { target.val.as_deref().and_then(called) } else { Some(&target.name) }
}

fn called(expression: &Node) -> Option<&str> {
    match expression.node.as_ref()? {
        NodeEnum::ColumnRef(reference) => reference.fields.last().and_then(text),
        NodeEnum::FuncCall(call) => call.funcname.last().and_then(text),
        NodeEnum::TypeCast(cast) => cast
            .arg
            .as_deref()
            .and_then(called)
            .or_else(|| cast.type_name.as_ref().and_then(|name| name.names.last().and_then(text))),
        NodeEnum::CollateClause(collate) => collate.arg.as_deref().and_then(called),
        NodeEnum::CaseExpr(case) => case.defresult.as_deref().and_then(called).or(Some("case")),
        NodeEnum::CoalesceExpr(_) => Some("coalesce"),
        _ => None,
    }
}
