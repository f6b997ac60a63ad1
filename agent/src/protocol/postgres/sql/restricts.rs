//! Whether a WHERE clause restricts anything.

use pg_query::{
    Node, NodeEnum, NodeRef,
    protobuf::{AExpr, BoolExpr, BoolExprType},
};

/// Whether a WHERE clause may leave out any row: it looks at a column, and not only beside something that is always
/// true.
///
/// `WHERE true`, `WHERE 1 = 1`, `WHERE id = id` and `WHERE id = 5 OR true` do not. It is a guard against slips, not a
/// proof: `WHERE id > 0` counts as a restriction.
pub(super) fn restricts(clause: Option<&Node>) -> bool {
    let Some(Node { node: Some(node) }) = clause else { return false };
    match node {
        NodeEnum::BoolExpr(expression) => {
            let BoolExpr { xpr: _, boolop, args, location: _ } = &**expression;
            match BoolExprType::try_from(*boolop) {
                Ok(BoolExprType::OrExpr) => args.iter().all(|arm| restricts(Some(arm))),
                _ => args.iter().any(|arm| restricts(Some(arm))),
            }
        }
        NodeEnum::AExpr(expression) => {
            let AExpr { lexpr, rexpr, .. } = &**expression;
            let same = matches!((lexpr, rexpr), (Some(left), Some(right)) if same_column(left, right));
            !same && looks_at_column(clause)
        }
        NodeEnum::CurrentOfExpr(_) => true,
        _ => looks_at_column(clause),
    }
}

/// Whether an expression depends on a column. A node that is not looked into does not: then the clause counts as none.
fn looks_at_column(node: Option<&Node>) -> bool {
    let Some(Node { node: Some(node) }) = node else { return false };
    match node {
        NodeEnum::ColumnRef(_) => true,
        NodeEnum::AIndirection(indirection) => looks_at_column(indirection.arg.as_deref()),
        NodeEnum::CollateClause(collate) => looks_at_column(collate.arg.as_deref()),
        NodeEnum::TypeCast(cast) => looks_at_column(cast.arg.as_deref()),
        NodeEnum::FuncCall(call) => call.args.iter().any(|argument| looks_at_column(Some(argument))),
        NodeEnum::AExpr(expression) => {
            looks_at_column(expression.lexpr.as_deref()) || looks_at_column(expression.rexpr.as_deref())
        }
        _ => node.nodes().iter().any(|(node, ..)| matches!(node, NodeRef::ColumnRef(_))),
    }
}

fn same_column(left: &Node, right: &Node) -> bool {
    match (&left.node, &right.node) {
        (Some(NodeEnum::ColumnRef(left)), Some(NodeEnum::ColumnRef(right))) => left.fields == right.fields,
        _ => false,
    }
}
