//! FROM clauses: what is read, and what columns can be qualified with.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        Alias, ColumnDef, JoinExpr, RangeFunction, RangeSubselect, RangeTableFunc, RangeTableFuncCol, RangeTableSample,
        RangeVar,
    },
};

use super::{
    expressions::using,
    names::{Candidate, split, text},
    walk::{Item, Walker},
};

/// Sampling methods that come with the server. Others are functions.
const SAMPLING: [&str; 2] = ["bernoulli", "system"];

/// Items in scope at once. Every column is looked up among them, so this bounds the work that a text can ask for; real
/// statements have a few dozen at most.
const MOST_ITEMS: usize = 200;

impl<'a> Walker<'a> {
    /// The items of a FROM clause, into the innermost scope.
    pub(super) fn from(&mut self, nodes: &[Node]) {
        for node in nodes {
            self.source(node);
        }
    }

    /// One of them.
    pub(super) fn source(&mut self, node: &Node) {
        match &node.node {
            Some(NodeEnum::RangeVar(name)) => self.named_item(name),
            Some(NodeEnum::JoinExpr(join)) => self.join(join),
            Some(NodeEnum::RangeSubselect(select)) => {
                let RangeSubselect { lateral: _, subquery, alias } = &**select;
                self.subquery(subquery.as_deref());
                self.derived(alias.as_ref(), "");
            }
            Some(NodeEnum::RangeFunction(function)) => self.function_item(function),
            Some(NodeEnum::RangeTableSample(sample)) => {
                let RangeTableSample { relation, method, args, repeatable, location: _ } = &**sample;
                if let Some(relation) = relation {
                    self.source(relation);
                }
                match split(method) {
                    Some((None | Some("pg_catalog"), name)) if SAMPLING.contains(&name) => {}
                    Some((schema, name)) => self.call(schema, name),
                    None => self.opaque("a sampling method"),
                }
                self.each(args);
                self.maybe(repeatable.as_deref());
            }
            Some(NodeEnum::RangeTableFunc(table)) => {
                let RangeTableFunc { lateral: _, docexpr, rowexpr, namespaces, columns, alias, location: _ } = &**table;
                self.maybe(docexpr.as_deref());
                self.maybe(rowexpr.as_deref());
                self.each(namespaces);
                for column in columns {
                    self.xml_column(column);
                }
                self.derived(alias.as_ref(), "xmltable");
            }
            Some(NodeEnum::JsonTable(table)) => {
                self.json_table(table);
                self.derived(table.alias.as_ref(), "json_table");
            }
            _ => self.opaque("an item of a FROM clause"),
        }
    }

    /// A table that a statement writes, into the innermost scope; `read` is noted with its tables.
    pub(super) fn written_item(&mut self, name: &RangeVar, candidates: &[Candidate<'a>], written: usize) {
        let item = Item { written: Some(written), ..self.item(name, candidates) };
        self.push(item);
    }

    /// The same rows under other names (`excluded`, `old`, `new`), which nothing but their name leads to.
    pub(super) fn shadow_item(&mut self, name: &str, candidates: &[Candidate<'a>], written: Option<usize>) {
        let relations: Vec<_> = candidates.iter().filter_map(|candidate| candidate.relation).collect();
        let hides = relations.iter().any(|relation| self.proof.masking().hides_in(relation.oid));
        self.push(Item { name: name.into(), relations, known: true, hides, written, shadow: true });
    }

    fn named_item(&mut self, name: &RangeVar) {
        if name.schemaname.is_empty() && name.catalogname.is_empty() && self.ctes.contains(&name.relname) {
            self.derived(name.alias.as_ref(), &name.relname);
            return;
        }
        let candidates = self.ask_read(name);
        let item = self.item(name, &candidates);
        self.push(item);
    }

    fn item(&mut self, name: &RangeVar, candidates: &[Candidate<'a>]) -> Item<'a> {
        let relations: Vec<_> = candidates.iter().filter_map(|candidate| candidate.relation).collect();
        let hides = relations.iter().any(|relation| self.proof.masking().hides_in(relation.oid));
        if hides && name.alias.as_ref().is_some_and(|alias| !alias.colnames.is_empty()) {
            self.proof.refuse(
                format!("the columns of {}, some of which are masked, are renamed by an alias", name.relname),
                "Use an alias without a list of columns.",
            );
        }
        let known = candidates.iter().all(|candidate| candidate.relation.is_some());
        let shown = name.alias.as_ref().map_or(&name.relname, |alias| &alias.aliasname);
        Item { name: shown.clone(), relations, known, hides, written: None, shadow: false }
    }

    fn push(&mut self, item: Item<'a>) {
        if self.scopes.iter().map(Vec::len).sum::<usize>() >= MOST_ITEMS {
            return self.opaque("a statement with very many tables");
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(item);
        }
    }

    fn derived(&mut self, alias: Option<&Alias>, name: &str) {
        self.push(Item::derived(alias.map_or(name, |alias| &alias.aliasname)));
    }

    fn join(&mut self, join: &JoinExpr) {
        let JoinExpr { jointype: _, is_natural, larg, rarg, using_clause, join_using_alias, quals, alias, rtindex: _ } =
            join;
        let first = self.scopes.last().map_or(0, Vec::len);
        for side in [larg, rarg].into_iter().flatten() {
            self.source(side);
        }
        self.maybe(quals.as_deref());
        let masking = self.proof.masking();
        let joined: Vec<_> = self
            .scopes
            .last()
            .into_iter()
            .flat_map(|scope| scope.iter().skip(first))
            .flat_map(|item| &item.relations)
            .collect();
        let hides = joined.iter().any(|relation| masking.hides_in(relation.oid));
        let column = using(join)
            .find(|column| joined.iter().any(|relation| masking.hides_column(relation.oid, column)))
            .map(str::to_owned);
        if let Some(column) = column {
            self.proof.hidden(&column, "to join by");
        } else if hides && (*is_natural || alias.is_some()) {
            self.proof.refuse(
                "a table with masked columns is in a join that is NATURAL or has an alias".into(),
                "Join with ON, and give aliases to the tables.",
            );
        }
        if *is_natural || !using_clause.is_empty() {
            self.operator_named("=");
        }
        for alias in [join_using_alias, alias].into_iter().flatten() {
            self.derived(Some(alias), "");
        }
    }

    fn function_item(&mut self, function: &RangeFunction) {
        let RangeFunction { lateral: _, ordinality: _, is_rowsfrom: _, functions, alias, coldeflist } = function;
        let mut name = String::new();
        for function in functions {
            // Each is a pair of the call and its own list of columns.
            let Some(NodeEnum::List(pair)) = &function.node else {
                self.opaque("a function in a FROM clause");
                continue;
            };
            for part in &pair.items {
                match &part.node {
                    Some(NodeEnum::List(columns)) => self.column_types(&columns.items),
                    Some(NodeEnum::FuncCall(call)) => {
                        name = call.funcname.last().and_then(text).unwrap_or_default().into();
                        self.function_call(call);
                    }
                    _ => self.expression(part),
                }
            }
        }
        self.column_types(coldeflist);
        self.derived(alias.as_ref(), &name);
    }

    /// The list of columns after a function that returns records.
    fn column_types(&mut self, columns: &[Node]) {
        for column in columns {
            match &column.node {
                Some(NodeEnum::ColumnDef(column)) => {
                    let ColumnDef { type_name, .. } = &**column;
                    self.cast(type_name.as_ref());
                }
                _ => self.opaque("a list of columns"),
            }
        }
    }

    fn xml_column(&mut self, column: &Node) {
        let Some(NodeEnum::RangeTableFuncCol(column)) = &column.node else {
            return self.opaque("a column of XMLTABLE");
        };
        let RangeTableFuncCol {
            colname: _,
            type_name,
            for_ordinality: _,
            is_not_null: _,
            colexpr,
            coldefexpr,
            location: _,
        } = &**column;
        self.cast(type_name.as_ref());
        self.maybe(colexpr.as_deref());
        self.maybe(coldefexpr.as_deref());
    }
}
