//! SQL/JSON: constructors, queries and `JSON_TABLE`.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        JsonAggConstructor, JsonArrayAgg, JsonArrayConstructor, JsonArrayQueryConstructor, JsonBehavior, JsonFuncExpr,
        JsonIsPredicate, JsonKeyValue, JsonObjectAgg, JsonObjectConstructor, JsonOutput, JsonParseExpr, JsonScalarExpr,
        JsonSerializeExpr, JsonTable, JsonTableColumn, JsonTablePathSpec, JsonValueExpr,
    },
};

use super::walk::Walker;

impl Walker<'_> {
    /// Walks a node of SQL/JSON. Says whether it is one.
    pub(super) fn json(&mut self, node: &NodeEnum) -> bool {
        match node {
            NodeEnum::JsonFuncExpr(function) => {
                let JsonFuncExpr {
                    op: _,
                    column_name: _,
                    context_item,
                    pathspec,
                    passing,
                    output,
                    on_empty,
                    on_error,
                    wrapper: _,
                    quotes: _,
                    location: _,
                } = &**function;
                self.json_value(context_item.as_deref());
                self.maybe(pathspec.as_deref());
                self.each(passing);
                self.json_output(output.as_ref());
                self.json_behaviour(on_empty.as_deref());
                self.json_behaviour(on_error.as_deref());
            }
            NodeEnum::JsonArgument(argument) => self.json_value(argument.val.as_deref()),
            NodeEnum::JsonValueExpr(value) => self.json_value(Some(value)),
            NodeEnum::JsonKeyValue(pair) => self.json_pair(Some(pair)),
            NodeEnum::JsonTablePathSpec(path) => self.json_path(Some(path)),
            NodeEnum::JsonParseExpr(parse) => {
                let JsonParseExpr { expr, output, unique_keys: _, location: _ } = &**parse;
                self.json_value(expr.as_deref());
                self.json_output(output.as_ref());
            }
            NodeEnum::JsonScalarExpr(scalar) => {
                let JsonScalarExpr { expr, output, location: _ } = &**scalar;
                self.maybe(expr.as_deref());
                self.json_output(output.as_ref());
            }
            NodeEnum::JsonSerializeExpr(serialize) => {
                let JsonSerializeExpr { expr, output, location: _ } = &**serialize;
                self.json_value(expr.as_deref());
                self.json_output(output.as_ref());
            }
            NodeEnum::JsonObjectConstructor(object) => {
                let JsonObjectConstructor { exprs, output, absent_on_null: _, unique: _, location: _ } = object;
                self.each(exprs);
                self.json_output(output.as_ref());
            }
            NodeEnum::JsonArrayConstructor(array) => {
                let JsonArrayConstructor { exprs, output, absent_on_null: _, location: _ } = array;
                self.each(exprs);
                self.json_output(output.as_ref());
            }
            NodeEnum::JsonArrayQueryConstructor(array) => {
                let JsonArrayQueryConstructor { query, output, format: _, absent_on_null: _, location: _ } = &**array;
                self.subquery(query.as_deref());
                self.json_output(output.as_ref());
            }
            NodeEnum::JsonObjectAgg(aggregate) => {
                let JsonObjectAgg { constructor, arg, absent_on_null: _, unique: _ } = &**aggregate;
                self.json_aggregate(constructor.as_deref());
                self.json_pair(arg.as_deref());
            }
            NodeEnum::JsonArrayAgg(aggregate) => {
                let JsonArrayAgg { constructor, arg, absent_on_null: _ } = &**aggregate;
                self.json_aggregate(constructor.as_deref());
                self.json_value(arg.as_deref());
            }
            NodeEnum::JsonIsPredicate(predicate) => {
                let JsonIsPredicate { expr, format: _, item_type: _, unique_keys: _, location: _ } = &**predicate;
                self.maybe(expr.as_deref());
            }
            _ => return false,
        }
        true
    }

    /// The expressions of `JSON_TABLE`.
    pub(super) fn json_table(&mut self, table: &JsonTable) {
        let JsonTable { context_item, pathspec, passing, columns, on_error, alias: _, lateral: _, location: _ } = table;
        self.json_value(context_item.as_deref());
        self.json_path(pathspec.as_deref());
        self.each(passing);
        self.json_columns(columns);
        self.json_behaviour(on_error.as_deref());
    }

    fn json_columns(&mut self, columns: &[Node]) {
        for column in columns {
            let Some(NodeEnum::JsonTableColumn(column)) = &column.node else {
                self.opaque("a column of JSON_TABLE");
                continue;
            };
            let JsonTableColumn {
                coltype: _,
                name: _,
                type_name,
                pathspec,
                format: _,
                wrapper: _,
                quotes: _,
                columns,
                on_empty,
                on_error,
                location: _,
            } = &**column;
            self.cast(type_name.as_ref());
            self.json_path(pathspec.as_deref());
            self.json_columns(columns);
            self.json_behaviour(on_empty.as_deref());
            self.json_behaviour(on_error.as_deref());
        }
    }

    fn json_value(&mut self, value: Option<&JsonValueExpr>) {
        let Some(JsonValueExpr { raw_expr, formatted_expr, format: _ }) = value else { return };
        self.maybe(raw_expr.as_deref());
        self.maybe(formatted_expr.as_deref());
    }

    fn json_pair(&mut self, pair: Option<&JsonKeyValue>) {
        let Some(JsonKeyValue { key, value }) = pair else { return };
        self.maybe(key.as_deref());
        self.json_value(value.as_deref());
    }

    fn json_path(&mut self, path: Option<&JsonTablePathSpec>) {
        let Some(JsonTablePathSpec { string, name: _, name_location: _, location: _ }) = path else { return };
        self.maybe(string.as_deref());
    }

    fn json_output(&mut self, output: Option<&JsonOutput>) {
        let Some(JsonOutput { type_name, returning: _ }) = output else { return };
        self.cast(type_name.as_ref());
    }

    fn json_behaviour(&mut self, behaviour: Option<&JsonBehavior>) {
        let Some(JsonBehavior { btype: _, expr, coerce: _, location: _ }) = behaviour else { return };
        self.maybe(expr.as_deref());
    }

    fn json_aggregate(&mut self, aggregate: Option<&JsonAggConstructor>) {
        let Some(JsonAggConstructor { output, agg_filter, agg_order, over, location: _ }) = aggregate else { return };
        self.json_output(output.as_ref());
        self.maybe(agg_filter.as_deref());
        self.each(agg_order);
        if let Some(window) = over {
            self.window(window);
        }
    }
}
