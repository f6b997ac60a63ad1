//! SELECT, INSERT, UPDATE, DELETE and MERGE, at any depth.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        CmdType, CommonTableExpr, CteCycleClause, DeleteStmt, IndexElem, InferClause, InsertStmt, IntoClause,
        LockingClause, MergeStmt, MergeWhenClause, OnConflictAction, OnConflictClause, RangeVar, ReturningClause,
        SelectStmt, SetOperation, UpdateStmt, WithClause,
    },
};

use super::{
    keys::Rows,
    names::{Candidate, schema_of},
    requests,
    restricts::restricts,
    ties::{Change, Columns},
    walk::{Place, Walker, Written},
};

/// WITH queries in scope at once. Every name in FROM is looked up among them.
const MOST_CTES: usize = 200;

impl<'a> Walker<'a> {
    /// Walks a query. `outermost`: its outputs are those of the whole statement. Says whether the node is a query.
    pub(super) fn query(&mut self, node: &NodeEnum, outermost: bool) -> bool {
        match node {
            NodeEnum::SelectStmt(statement) => self.select(statement, outermost),
            NodeEnum::InsertStmt(statement) => self.insert(statement, outermost),
            NodeEnum::UpdateStmt(statement) => self.update(statement, outermost),
            NodeEnum::DeleteStmt(statement) => self.delete(statement, outermost),
            NodeEnum::MergeStmt(statement) => self.merge(statement, outermost),
            _ => return false,
        }
        true
    }

    /// A query within a statement.
    pub(super) fn subquery(&mut self, node: Option<&Node>) {
        let Some(Node { node: Some(node) }) = node else { return };
        if !self.query(node, false) {
            self.unexpected(node);
        }
    }

    fn select(&mut self, statement: &SelectStmt, outermost: bool) {
        let SelectStmt {
            distinct_clause,
            into_clause,
            target_list,
            from_clause,
            where_clause,
            group_clause,
            group_distinct: _,
            having_clause,
            window_clause,
            values_lists,
            sort_clause,
            limit_offset,
            limit_count,
            limit_option: _,
            locking_clause,
            with_clause,
            op,
            all: _,
            larg,
            rarg,
        } = statement;
        let ctes = self.with(with_clause.as_ref());
        self.scopes.push(Vec::new());
        if !matches!(SetOperation::try_from(*op), Ok(SetOperation::SetopNone)) {
            for arm in [larg, rarg].into_iter().flatten() {
                self.select(arm, false);
            }
        }
        let first_read = self.read.len();
        self.from(from_clause);
        self.locks(locking_clause, first_read);
        let place = if outermost && into_clause.is_none() { Place::Output } else { Place::Inside };
        self.outputs(target_list, place);
        self.ordered_by_outputs(target_list, &[sort_clause, group_clause, distinct_clause]);
        self.keys(distinct_clause, target_list, Rows::Whole);
        self.maybe(where_clause.as_deref());
        self.keys(group_clause, target_list, Rows::Apart);
        self.maybe(having_clause.as_deref());
        self.each(window_clause);
        self.each(values_lists);
        self.keys(sort_clause, target_list, Rows::Whole);
        self.maybe(limit_offset.as_deref());
        self.maybe(limit_count.as_deref());
        if let Some(into) = into_clause {
            self.into(into);
        }
        self.scopes.pop();
        self.ctes.truncate(ctes);
    }

    /// Output columns.
    fn outputs(&mut self, targets: &[Node], place: Place) {
        for target in targets {
            match &target.node {
                Some(NodeEnum::ResTarget(target)) => self.target(target, place),
                _ => self.opaque("an output column"),
            }
        }
    }

    /// FOR UPDATE and its like lock the tables of the FROM clause, those of its subqueries included.
    fn locks(&mut self, clauses: &[Node], first_read: usize) {
        for clause in clauses {
            let Some(NodeEnum::LockingClause(clause)) = &clause.node else {
                self.opaque("a locking clause");
                continue;
            };
            let LockingClause { locked_rels, strength: _, wait_policy: _ } = clause;
            let mut locked = Vec::new();
            if locked_rels.is_empty() {
                locked.extend_from_slice(&self.read[first_read..]);
            }
            for name in locked_rels {
                let Some(NodeEnum::RangeVar(RangeVar { relname, .. })) = &name.node else {
                    self.opaque("a locking clause");
                    continue;
                };
                let item = self.scopes.last().into_iter().flatten().find(|item| item.name == *relname);
                match item {
                    Some(item) if !item.relations.is_empty() => {
                        locked.extend(
                            item.relations
                                .iter()
                                .map(|relation| requests::table(self.reading, &relation.schema, &relation.name)),
                        );
                    }
                    // A subquery, or nothing that is known: whatever was read.
                    _ => locked.extend_from_slice(&self.read[first_read..]),
                }
            }
            for table in locked {
                self.ask("sql:lock", table);
            }
        }
    }

    /// WITH. Returns how many CTEs were in scope before, to go back to.
    fn with(&mut self, clause: Option<&WithClause>) -> usize {
        let before = self.ctes.len();
        let Some(WithClause { ctes, recursive, location: _ }) = clause else { return before };
        if before + ctes.len() > MOST_CTES {
            self.opaque("a statement with very many WITH queries");
            return before;
        }
        let name = |node: &Node| match &node.node {
            Some(NodeEnum::CommonTableExpr(cte)) => Some(cte.ctename.clone()),
            _ => None,
        };
        if *recursive {
            self.ctes.extend(ctes.iter().filter_map(name));
        }
        for cte in ctes {
            let Some(NodeEnum::CommonTableExpr(cte)) = &cte.node else {
                self.opaque("a WITH clause");
                continue;
            };
            let CommonTableExpr {
                ctename,
                aliascolnames: _,
                ctematerialized: _,
                ctequery,
                search_clause: _,
                cycle_clause,
                location: _,
                cterecursive: _,
                cterefcount: _,
                ctecolnames: _,
                ctecoltypes: _,
                ctecoltypmods: _,
                ctecolcollations: _,
            } = &**cte;
            self.subquery(ctequery.as_deref());
            if let Some(cycle) = cycle_clause {
                let CteCycleClause {
                    cycle_col_list: _,
                    cycle_mark_column: _,
                    cycle_mark_value,
                    cycle_mark_default,
                    cycle_path_column: _,
                    location: _,
                    cycle_mark_type: _,
                    cycle_mark_typmod: _,
                    cycle_mark_collation: _,
                    cycle_mark_neop: _,
                } = &**cycle;
                self.maybe(cycle_mark_value.as_deref());
                self.maybe(cycle_mark_default.as_deref());
            }
            if !*recursive {
                self.ctes.push(ctename.clone());
            }
        }
        before
    }

    /// The table that SELECT INTO or CREATE TABLE AS makes.
    pub(super) fn into(&mut self, into: &IntoClause) {
        self.changes_catalogue = true;
        let Some(name) = &into.rel else { return self.opaque("INTO") };
        self.ask_create(schema_of(name), name.relpersistence == "t");
    }

    /// Begins a statement that writes a table: asks for the action, and opens a scope with the table in it.
    fn write(&mut self, relation: Option<&RangeVar>, action: &str) -> Option<(Vec<Candidate<'a>>, usize)> {
        let Some(relation) = relation else {
            self.opaque("a statement without a table");
            return None;
        };
        let candidates = self.ask_tables(action, relation);
        self.open(&candidates);
        // A rule of the server makes an UPDATE of this view a SET.
        if candidates.iter().any(|candidate| candidate.schema == "pg_catalog" && candidate.name == "pg_settings") {
            self.opaque("pg_settings");
        }
        let written = self.begin_write(relation, &candidates);
        Some((candidates, written))
    }

    /// Opens a scope with a table that is written. Returns its position in [`Walker::written`].
    pub(super) fn begin_write(&mut self, relation: &RangeVar, candidates: &[Candidate<'a>]) -> usize {
        let tables = candidates
            .iter()
            .map(|candidate| requests::table(self.reading, &candidate.schema, &candidate.name))
            .collect();
        let written = self.written.len();
        self.written.push(Written { tables, read: false });
        self.scopes.push(Vec::new());
        self.written_item(relation, candidates, written);
        written
    }

    /// Closes it: asks for `select` if any column of the table was read.
    pub(super) fn end_write(&mut self, written: usize) {
        self.scopes.pop();
        let Some(Written { tables, read: true }) = self.written.get(written) else { return };
        for table in tables.clone() {
            self.ask("sql:select", table);
        }
    }

    fn insert(&mut self, statement: &InsertStmt, outermost: bool) {
        let InsertStmt {
            relation,
            cols,
            select_stmt,
            on_conflict_clause,
            returning_clause,
            with_clause,
            r#override: _,
        } = statement;
        let ctes = self.with(with_clause.as_ref());
        self.subquery(select_stmt.as_deref());
        if let Some((candidates, written)) = self.write(relation.as_ref(), "sql:insert") {
            self.assignments(cols);
            if let Some(conflict) = on_conflict_clause {
                self.on_conflict(conflict, &candidates, written);
            }
            self.returning(returning_clause.as_ref(), &candidates, written, outermost);
            self.changes(&candidates, &Change::Insert(Columns::inserted(statement)));
            self.end_write(written);
        }
        self.ctes.truncate(ctes);
    }

    fn on_conflict(&mut self, conflict: &OnConflictClause, candidates: &[Candidate<'a>], written: usize) {
        let OnConflictClause { action, infer, target_list, where_clause, location: _ } = conflict;
        if let Some(infer) = infer {
            let InferClause { index_elems, where_clause, conname, location: _ } = &**infer;
            self.inference(index_elems, conname, candidates);
            // The server wants to read the columns by which it infers the index, also where a constraint names them.
            self.written[written].read = true;
            for element in index_elems {
                self.index_element(element);
            }
            self.maybe(where_clause.as_deref());
        }
        if !matches!(OnConflictAction::try_from(*action), Ok(OnConflictAction::OnconflictNothing)) {
            for table in self.written[written].tables.clone() {
                self.ask("sql:update", table);
            }
        }
        self.shadow_item("excluded", candidates, None);
        self.assignments(target_list);
        self.changes(candidates, &Change::Update(Columns::named(target_list)));
        if let Some(clause) = where_clause {
            self.expression(clause);
        }
    }

    /// Whether a row conflicts by a hidden column tells whether its value is there. The columns of a constraint are not
    /// known.
    fn inference(&mut self, elements: &[Node], constraint: &str, candidates: &[Candidate<'a>]) {
        let masking = self.proof.masking();
        let relations = || candidates.iter().filter_map(|candidate| candidate.relation);
        let names = elements.iter().filter_map(|element| match &element.node {
            Some(NodeEnum::IndexElem(element)) => Some(element.name.as_str()),
            _ => None,
        });
        let named = names.into_iter().find(|name| relations().any(|relation| masking.hides_column(relation.oid, name)));
        if let Some(name) = named {
            self.proof.hidden(name, "to find conflicts by");
        } else if !constraint.is_empty() && relations().any(|relation| masking.hides_in(relation.oid)) {
            self.proof.refuse(
                format!("the columns of the constraint {constraint} may be masked"),
                "Name the columns that rows conflict by.",
            );
        }
    }

    /// A column or expression of an index. A plain column is not an expression: comparing by it is what the index does.
    pub(super) fn index_element(&mut self, element: &Node) {
        let Some(NodeEnum::IndexElem(element)) = &element.node else { return self.opaque("an index") };
        let IndexElem {
            name: _,
            expr,
            indexcolname: _,
            collation: _,
            opclass: _,
            opclassopts: _,
            ordering: _,
            nulls_ordering: _,
        } = &**element;
        self.maybe(expr.as_deref());
    }

    fn update(&mut self, statement: &UpdateStmt, outermost: bool) {
        let UpdateStmt { relation, target_list, where_clause, from_clause, returning_clause, with_clause } = statement;
        let ctes = self.with(with_clause.as_ref());
        if let Some((candidates, written)) = self.write(relation.as_ref(), "sql:update") {
            self.from(from_clause);
            self.assignments(target_list);
            self.findings.unbounded |= !restricts(where_clause.as_deref());
            self.maybe(where_clause.as_deref());
            self.returning(returning_clause.as_ref(), &candidates, written, outermost);
            self.changes(&candidates, &Change::Update(Columns::named(target_list)));
            self.end_write(written);
        }
        self.ctes.truncate(ctes);
    }

    fn delete(&mut self, statement: &DeleteStmt, outermost: bool) {
        let DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause } = statement;
        let ctes = self.with(with_clause.as_ref());
        if let Some((candidates, written)) = self.write(relation.as_ref(), "sql:delete") {
            self.from(using_clause);
            self.findings.unbounded |= !restricts(where_clause.as_deref());
            self.maybe(where_clause.as_deref());
            self.returning(returning_clause.as_ref(), &candidates, written, outermost);
            self.changes(&candidates, &Change::Delete);
            self.end_write(written);
        }
        self.ctes.truncate(ctes);
    }

    fn merge(&mut self, statement: &MergeStmt, outermost: bool) {
        let MergeStmt { relation, source_relation, join_condition, merge_when_clauses, returning_clause, with_clause } =
            statement;
        let ctes = self.with(with_clause.as_ref());
        if let Some((candidates, written)) = self.write(relation.as_ref(), "sql:merge") {
            if let Some(source) = source_relation {
                self.source(source);
            }
            self.findings.unbounded |= !restricts(join_condition.as_deref());
            self.maybe(join_condition.as_deref());
            for clause in merge_when_clauses {
                self.merge_when(clause, &candidates, written);
            }
            self.returning(returning_clause.as_ref(), &candidates, written, outermost);
            self.end_write(written);
        }
        self.ctes.truncate(ctes);
    }

    fn merge_when(&mut self, clause: &Node, candidates: &[Candidate<'a>], written: usize) {
        let Some(NodeEnum::MergeWhenClause(clause)) = &clause.node else { return self.opaque("a clause of MERGE") };
        let MergeWhenClause { match_kind: _, command_type, r#override: _, condition, target_list, values } = &**clause;
        let action = match CmdType::try_from(*command_type) {
            Ok(CmdType::CmdInsert) => Some(("sql:insert", Change::Insert(Columns::merged(target_list, values)))),
            Ok(CmdType::CmdUpdate) => Some(("sql:update", Change::Update(Columns::named(target_list)))),
            Ok(CmdType::CmdDelete) => Some(("sql:delete", Change::Delete)),
            Ok(CmdType::CmdNothing) => None,
            _ => return self.opaque("a clause of MERGE"),
        };
        self.maybe(condition.as_deref());
        self.assignments(target_list);
        self.each(values);
        let Some((action, change)) = action else { return };
        for table in self.written[written].tables.clone() {
            self.ask(action, table);
        }
        self.changes(candidates, &change);
    }

    /// Columns that are assigned, with their values.
    fn assignments(&mut self, targets: &[Node]) {
        self.outputs(targets, Place::Inside);
    }

    fn returning(
        &mut self,
        clause: Option<&ReturningClause>,
        candidates: &[Candidate<'a>],
        written: usize,
        outermost: bool,
    ) {
        let Some(ReturningClause { options, exprs }) = clause else { return };
        for option in options {
            match &option.node {
                Some(NodeEnum::ReturningOption(option)) => self.shadow_item(&option.value, candidates, Some(written)),
                _ => self.opaque("an option of RETURNING"),
            }
        }
        for name in ["old", "new"] {
            // They are names only where no table has them.
            if !self.scopes.last().is_some_and(|scope| scope.iter().any(|item| item.name == name)) {
                self.shadow_item(name, candidates, Some(written));
            }
        }
        self.outputs(exprs, if outermost { Place::Output } else { Place::Inside });
    }
}
