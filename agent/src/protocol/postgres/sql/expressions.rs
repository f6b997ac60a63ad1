//! Expressions.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        AExpr, AExprKind, AIndices, AIndirection, CaseExpr, CaseWhen, FuncCall, JoinExpr, NamedArgExpr, ResTarget,
        RowExpr, SortBy, SubLink, TypeCast, WindowDef, XmlExpr, XmlSerialize,
    },
};

use super::{
    names::{parse_name, split, text},
    settings,
    walk::{Place, Walker},
};
use crate::protocol::postgres::sql::{catalogue::Kind, requests};

impl Walker<'_> {
    /// Expressions, none of which is an output.
    pub(super) fn each(&mut self, nodes: &[Node]) {
        for node in nodes {
            self.expression(node);
        }
    }

    /// An expression that may be missing.
    pub(super) fn maybe(&mut self, node: Option<&Node>) {
        if let Some(node) = node {
            self.expression(node);
        }
    }

    /// An expression, a list of them, or one of the nodes that stand around expressions.
    pub(super) fn expression(&mut self, node: &Node) {
        let Some(node) = &node.node else { return };
        match node {
            NodeEnum::AConst(_)
            | NodeEnum::ParamRef(_)
            | NodeEnum::SetToDefault(_)
            | NodeEnum::SqlvalueFunction(_)
            | NodeEnum::MergeSupportFunc(_)
            | NodeEnum::CurrentOfExpr(_)
            | NodeEnum::String(_)
            | NodeEnum::Integer(_) => {}
            NodeEnum::ColumnRef(column) => self.column(column, Place::Inside),
            NodeEnum::AExpr(expression) => self.operation(expression),
            NodeEnum::FuncCall(call) => self.function_call(call),
            NodeEnum::TypeCast(cast) => {
                let TypeCast { arg, type_name, location: _ } = &**cast;
                self.maybe(arg.as_deref());
                self.cast(type_name.as_ref());
            }
            NodeEnum::CollateClause(collate) => self.maybe(collate.arg.as_deref()),
            NodeEnum::AIndirection(indirection) => {
                let AIndirection { arg, indirection } = &**indirection;
                self.maybe(arg.as_deref());
                self.indirections(indirection);
            }
            NodeEnum::AArrayExpr(array) => self.each(&array.elements),
            NodeEnum::List(list) => self.each(&list.items),
            NodeEnum::RowExpr(row) => {
                let RowExpr { xpr: _, args, row_typeid: _, row_format: _, colnames: _, location: _ } = &**row;
                self.each(args);
            }
            NodeEnum::BoolExpr(expression) => self.each(&expression.args),
            NodeEnum::CaseExpr(case) => {
                let CaseExpr { xpr: _, casetype: _, casecollid: _, arg, args, defresult, location: _ } = &**case;
                if arg.is_some() {
                    self.operator_named("=");
                }
                self.maybe(arg.as_deref());
                self.each(args);
                self.maybe(defresult.as_deref());
            }
            NodeEnum::CaseWhen(when) => {
                let CaseWhen { xpr: _, expr, result, location: _ } = &**when;
                self.maybe(expr.as_deref());
                self.maybe(result.as_deref());
            }
            NodeEnum::CoalesceExpr(coalesce) => self.each(&coalesce.args),
            NodeEnum::MinMaxExpr(extreme) => self.each(&extreme.args),
            NodeEnum::NullTest(test) => self.maybe(test.arg.as_deref()),
            NodeEnum::BooleanTest(test) => self.maybe(test.arg.as_deref()),
            NodeEnum::GroupingFunc(grouping) => self.each(&grouping.args),
            NodeEnum::GroupingSet(set) => self.each(&set.content),
            NodeEnum::MultiAssignRef(assign) => self.maybe(assign.source.as_deref()),
            NodeEnum::NamedArgExpr(argument) => {
                let NamedArgExpr { xpr: _, arg, name: _, argnumber: _, location: _ } = &**argument;
                self.maybe(arg.as_deref());
            }
            NodeEnum::SubLink(link) => {
                let SubLink { xpr: _, sub_link_type: _, sub_link_id: _, testexpr, oper_name, subselect, location: _ } =
                    &**link;
                self.maybe(testexpr.as_deref());
                match oper_name.as_slice() {
                    [] if testexpr.is_some() => self.operator_named("="),
                    [] => {}
                    name => self.operator(name),
                }
                self.subquery(subselect.as_deref());
            }
            NodeEnum::SortBy(sort) => {
                let SortBy { node, sortby_dir: _, sortby_nulls: _, use_op, location: _ } = &**sort;
                self.maybe(node.as_deref());
                if !use_op.is_empty() {
                    self.operator(use_op);
                }
            }
            NodeEnum::WindowDef(window) => self.window(window),
            NodeEnum::XmlExpr(xml) => {
                let XmlExpr {
                    xpr: _,
                    op: _,
                    name: _,
                    named_args,
                    arg_names: _,
                    args,
                    xmloption: _,
                    indent: _,
                    r#type: _,
                    typmod: _,
                    location: _,
                } = &**xml;
                self.each(named_args);
                self.each(args);
            }
            NodeEnum::XmlSerialize(xml) => {
                let XmlSerialize { xmloption: _, expr, type_name, indent: _, location: _ } = &**xml;
                self.maybe(expr.as_deref());
                self.cast(type_name.as_ref());
            }
            // The named arguments of XML functions.
            NodeEnum::ResTarget(target) => self.target(target, Place::Inside),
            other if self.json(other) => {}
            other => self.unexpected(other),
        }
    }

    /// An output column, or a column that is assigned.
    pub(super) fn target(&mut self, target: &ResTarget, place: Place) {
        let ResTarget { name: _, indirection, val, location: _ } = target;
        self.indirections(indirection);
        match val.as_deref() {
            Some(Node { node: Some(NodeEnum::ColumnRef(column)) }) => self.column(column, place),
            other => self.maybe(other),
        }
    }

    /// Subscripts and attributes after an expression.
    fn indirections(&mut self, indirections: &[Node]) {
        for indirection in indirections {
            match &indirection.node {
                Some(NodeEnum::String(name)) => self.attribute(&name.sval),
                Some(NodeEnum::AIndices(indices)) => {
                    let AIndices { is_slice: _, lidx, uidx } = &**indices;
                    self.maybe(lidx.as_deref());
                    self.maybe(uidx.as_deref());
                }
                Some(NodeEnum::AStar(_)) => {}
                _ => self.opaque("a subscript"),
            }
        }
    }

    fn operation(&mut self, expression: &AExpr) {
        let AExpr { kind, name, lexpr, rexpr, rexpr_list_start: _, rexpr_list_end: _, location: _ } = expression;
        match AExprKind::try_from(*kind) {
            Ok(
                AExprKind::AexprBetween
                | AExprKind::AexprNotBetween
                | AExprKind::AexprBetweenSym
                | AExprKind::AexprNotBetweenSym,
            ) => {
                for operator in ["<", ">", "<=", ">="] {
                    self.operator_named(operator);
                }
            }
            _ => self.operator(name),
        }
        self.maybe(lexpr.as_deref());
        self.maybe(rexpr.as_deref());
    }

    /// A call, with everything that may stand in its parentheses and after them.
    pub(super) fn function_call(&mut self, call: &FuncCall) {
        let FuncCall {
            funcname,
            args,
            agg_order,
            agg_filter,
            over,
            agg_within_group: _,
            agg_star: _,
            agg_distinct: _,
            func_variadic: _,
            funcformat: _,
            location: _,
        } = call;
        self.each(args);
        self.each(agg_order);
        self.maybe(agg_filter.as_deref());
        if let Some(window) = over {
            self.window(window);
        }
        let Some((schema, name)) = split(funcname) else { return self.opaque("a function") };
        // Their arguments are connection strings, and texts for another server.
        self.findings.secret |= name.starts_with("dblink");
        let built_in = schema.is_none_or(|schema| schema == "pg_catalog");
        if built_in && self.special(name, args) {
            // Others of the same name may be meant as well.
            for function in self.functions(schema, name) {
                if function.schema != "pg_catalog" {
                    self.call(Some(&function.schema), name);
                }
            }
        } else {
            self.call(schema, name);
        }
    }

    /// Functions that are another statement in disguise. Says whether this is one, and asks for what that statement
    /// asks for.
    fn special(&mut self, name: &str, args: &[Node]) -> bool {
        match name {
            "pg_notify" => self.ask_database("sql:notify"),
            "set_config" => {
                let value = args.get(1).and_then(constant);
                match args.first().and_then(constant) {
                    Some(name) if value.is_some() || !settings::changes_reading(name) => self.set(name, value),
                    _ => self.opaque("a setting whose name or value is computed"),
                }
            }
            "nextval" | "setval" | "currval" => {
                let Some((schema, sequence)) = args.first().and_then(constant).and_then(parse_name) else {
                    return false;
                };
                let action = if name == "currval" { "sql:select" } else { "sql:update" };
                let sequences = self.candidates(schema.as_deref(), &sequence, |kind| kind == Kind::Sequence);
                for resource in self.touch(&sequences) {
                    self.ask(action, resource);
                }
            }
            _ => return false,
        }
        self.findings.functions.insert(requests::qualified("pg_catalog", name));
        true
    }

    /// The definition of a window.
    pub(super) fn window(&mut self, window: &WindowDef) {
        let WindowDef {
            name: _,
            refname: _,
            partition_clause,
            order_clause,
            frame_options: _,
            start_offset,
            end_offset,
            location: _,
        } = window;
        self.each(partition_clause);
        self.each(order_clause);
        self.maybe(start_offset.as_deref());
        self.maybe(end_offset.as_deref());
    }
}

/// The string that an expression is: a constant, perhaps with a cast.
pub(super) fn constant(node: &Node) -> Option<&str> {
    match &node.node {
        Some(NodeEnum::AConst(constant)) => match &constant.val {
            Some(pg_query::protobuf::a_const::Val::Sval(string)) => Some(&string.sval),
            _ => None,
        },
        Some(NodeEnum::TypeCast(cast)) => cast.arg.as_deref().and_then(constant),
        _ => None,
    }
}

/// Names of the columns that a join is made by.
pub(super) fn using(join: &JoinExpr) -> impl Iterator<Item = &str> {
    join.using_clause.iter().filter_map(text)
}
