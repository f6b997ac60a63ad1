//! Statements that are not queries and define nothing: the session, transactions, COPY, and what stands for other
//! statements.

use std::sync::Arc;

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        ClusterStmt, CopyStmt, DiscardMode, ExecuteStmt, FetchStmt, ReindexObjectType, ReindexStmt,
        TransactionStmtKind, TruncateStmt, VacuumRelation, VacuumStmt, VariableSetKind, VariableSetStmt, a_const,
    },
};

use super::{
    Effect, requests, settings,
    ties::{Change, Columns},
    walk::Walker,
};
use pg_query::protobuf::DropBehavior;

impl Walker<'_> {
    /// Walks a statement that is not a query.
    pub(super) fn utility(&mut self, node: &NodeEnum) -> Effect {
        match node {
            NodeEnum::TransactionStmt(statement) => return self.transaction(statement.kind()),
            NodeEnum::VariableShowStmt(_) | NodeEnum::ConstraintsSetStmt(_) | NodeEnum::UnlistenStmt(_) => {
                self.ask_database("sql:basics");
            }
            NodeEnum::VariableSetStmt(statement) => {
                self.variable(statement);
                // What follows is read otherwise, so it waits, as after a change of the catalogue.
                if settings::changes_reading(&statement.name) {
                    return Effect::ChangesCatalogue;
                }
            }
            NodeEnum::DiscardStmt(statement) => {
                self.ask_database("sql:basics");
                return match statement.target() {
                    DiscardMode::DiscardAll => Effect::Discard,
                    DiscardMode::DiscardTemp => Effect::ChangesCatalogue,
                    _ => Effect::None,
                };
            }
            NodeEnum::DeallocateStmt(statement) => {
                self.ask_database("sql:basics");
                return Effect::Deallocate((!statement.isall).then(|| statement.name.clone()));
            }
            NodeEnum::ClosePortalStmt(statement) => {
                self.ask_database("sql:basics");
                return Effect::Close((!statement.portalname.is_empty()).then(|| statement.portalname.clone()));
            }
            NodeEnum::ListenStmt(_) | NodeEnum::NotifyStmt(_) => self.ask_database("sql:notify"),
            NodeEnum::PrepareStmt(statement) => {
                let inner = self.inner(statement.query.as_deref());
                return Effect::Prepare { name: statement.name.clone(), statement: Arc::new(inner) };
            }
            NodeEnum::DeclareCursorStmt(statement) => {
                let inner = self.inner(statement.query.as_deref());
                return Effect::Declare { name: statement.portalname.clone(), statement: Arc::new(inner) };
            }
            NodeEnum::ExecuteStmt(statement) => self.execute(statement),
            NodeEnum::FetchStmt(statement) => self.fetch(statement),
            NodeEnum::ExplainStmt(statement) => {
                self.inner(statement.query.as_deref());
                if self.proof.touches_hidden() {
                    self.proof.refuse(
                        "the estimates of a plan over masked columns come from samples of their values".into(),
                        "EXPLAIN statements over tables without masked columns.",
                    );
                }
            }
            NodeEnum::CopyStmt(statement) => return self.copy(statement),
            NodeEnum::CallStmt(statement) => match &statement.funccall {
                Some(call) => self.function_call(call),
                None => self.opaque("CALL"),
            },
            NodeEnum::LockStmt(statement) => {
                for table in &statement.relations {
                    self.ask_node("sql:lock", table);
                }
            }
            NodeEnum::TruncateStmt(statement) => {
                let TruncateStmt { relations, restart_seqs: _, behavior: _ } = statement;
                for table in relations {
                    self.ask_node("sql:truncate", table);
                }
                // CASCADE goes on to tables that are not named.
                if statement.behavior() == DropBehavior::DropCascade {
                    self.ask_database("sql:truncate");
                }
            }
            NodeEnum::VacuumStmt(statement) => self.vacuum(statement),
            NodeEnum::ClusterStmt(statement) => {
                let ClusterStmt { relation, indexname: _, params: _ } = statement;
                self.maintain(relation.as_ref());
                if self.proof.touches_hidden() {
                    self.proof.refuse(
                        "the order of rows after CLUSTER may be that of a masked column".into(),
                        "Cluster the table with a role that may unmask its columns.",
                    );
                }
            }
            NodeEnum::ReindexStmt(statement) => self.reindex(statement),
            NodeEnum::RefreshMatViewStmt(statement) => self.maintain(statement.relation.as_ref()),
            NodeEnum::CheckPointStmt(_) => self.ask_database("sql:maintenance"),
            node => self.definition(node),
        }
        Effect::None
    }

    fn transaction(&mut self, kind: TransactionStmtKind) -> Effect {
        let action = match kind {
            TransactionStmtKind::TransStmtPrepare
            | TransactionStmtKind::TransStmtCommitPrepared
            | TransactionStmtKind::TransStmtRollbackPrepared => "sql:two_phase",
            TransactionStmtKind::Undefined => "sql:opaque",
            _ => "sql:basics",
        };
        self.ask_database(action);
        match kind {
            TransactionStmtKind::TransStmtCommit
            | TransactionStmtKind::TransStmtPrepare
            | TransactionStmtKind::TransStmtRollback
            | TransactionStmtKind::TransStmtRollbackTo => Effect::EndsTransaction,
            _ => Effect::None,
        }
    }

    fn variable(&mut self, statement: &VariableSetStmt) {
        let VariableSetStmt { kind: _, name, args, jumble_args: _, is_local: _, location: _ } = statement;
        match statement.kind() {
            VariableSetKind::VarSetValue => {
                let value = args.first().and_then(value);
                if value.is_none() && settings::changes_reading(name) {
                    return self.opaque("a setting whose value is not a constant");
                }
                self.set(name, value.as_deref());
            }
            VariableSetKind::VarSetDefault | VariableSetKind::VarSetCurrent | VariableSetKind::VarReset => {
                self.set(name, None);
            }
            // SET TRANSACTION and SET SESSION CHARACTERISTICS. Taking on another session's snapshot is not that
            // harmless.
            VariableSetKind::VarSetMulti if name != "TRANSACTION SNAPSHOT" => self.ask_database("sql:basics"),
            VariableSetKind::VarResetAll => self.ask_database("sql:basics"),
            VariableSetKind::VarSetMulti => self.ask_database("sql:set"),
            VariableSetKind::Undefined => self.opaque("SET"),
        }
    }

    /// A setting is changed.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) {
        // Settings of applications may be anything, tokens included.
        self.findings.secret |= name.contains('.');
        self.findings.settings.insert(name.to_ascii_lowercase());
        self.findings.requests.insert(settings::request(name, value, self.reading));
    }

    fn execute(&mut self, statement: &ExecuteStmt) {
        let ExecuteStmt { name, params } = statement;
        let prepared = self.prepared(name);
        if prepared.is_empty() {
            self.opaque("a prepared statement that is not known");
        }
        for statement in prepared {
            self.carry(&statement);
        }
        self.each(params);
    }

    fn fetch(&mut self, statement: &FetchStmt) {
        let FetchStmt { direction: _, how_many: _, portalname, ismove: _ } = statement;
        let cursors = self.cursor(portalname);
        if cursors.is_empty() {
            self.opaque("a cursor that is not known");
        }
        for statement in cursors {
            self.carry(&statement);
        }
    }

    fn copy(&mut self, statement: &CopyStmt) -> Effect {
        let CopyStmt { relation, query, attlist, is_from, is_program, filename, options: _, where_clause } = statement;
        let elsewhere = *is_program || !filename.is_empty();
        if elsewhere {
            self.findings.secret |= is_program;
            self.opaque("COPY with a file or a program");
        }
        let action = if *is_from { "sql:copy_in" } else { "sql:copy_out" };
        if let Some(query) = query {
            let first = self.read.len();
            self.subquery(Some(query));
            let sources = self.read[first..].to_vec();
            if sources.is_empty() {
                self.ask_database(action);
            }
            for source in sources {
                self.ask(action, source);
            }
        }
        if let Some(relation) = relation {
            let candidates = self.ask_tables(action, relation);
            self.open(&candidates);
            self.ask_tables(if *is_from { "sql:insert" } else { "sql:select" }, relation);
            let hidden = candidates.iter().filter_map(|candidate| candidate.relation).any(|relation| {
                let masking = self.proof.masking();
                let names = |column: &str| masking.hides_column(relation.oid, column);
                if attlist.is_empty() {
                    masking.hides_in(relation.oid)
                } else {
                    attlist.iter().filter_map(super::names::text).any(names)
                }
            });
            if hidden && !is_from {
                self.proof.refuse(
                    format!("COPY of the masked columns of {} cannot be masked", relation.relname),
                    "Name the columns that are not masked, or SELECT them.",
                );
            }
            let written = self.begin_write(relation, &candidates);
            self.maybe(where_clause.as_deref());
            self.end_write(written);
            if *is_from {
                self.changes(&candidates, &Change::Insert(Columns::copied(statement)));
            }
        }
        match is_from {
            _ if elsewhere => Effect::None,
            true => Effect::CopyIn,
            false => Effect::CopyOut,
        }
    }

    fn vacuum(&mut self, statement: &VacuumStmt) {
        let VacuumStmt { options: _, rels, is_vacuumcmd: _ } = statement;
        if rels.is_empty() {
            self.maintain(None);
        }
        for relation in rels {
            match &relation.node {
                Some(NodeEnum::VacuumRelation(relation)) => {
                    let VacuumRelation { relation, oid: _, va_cols: _ } = relation;
                    self.maintain(relation.as_ref());
                }
                _ => self.opaque("VACUUM"),
            }
        }
    }

    fn reindex(&mut self, statement: &ReindexStmt) {
        let ReindexStmt { kind: _, relation, name, params: _ } = statement;
        match statement.kind() {
            ReindexObjectType::ReindexObjectSchema => {
                let schema = requests::schema(self.reading, name);
                self.ask("sql:maintenance", schema);
            }
            ReindexObjectType::ReindexObjectIndex => match relation {
                Some(index) => self.ask_indexes("sql:maintenance", index),
                None => self.opaque("REINDEX"),
            },
            _ => self.maintain(relation.as_ref()),
        }
    }

    fn maintain(&mut self, relation: Option<&pg_query::protobuf::RangeVar>) {
        match relation {
            Some(relation) => {
                self.ask_tables("sql:maintenance", relation);
            }
            None => self.ask_database("sql:maintenance"),
        }
    }

    /// Asks for an action on the relation that a node names.
    fn ask_node(&mut self, action: &str, node: &Node) {
        match &node.node {
            Some(NodeEnum::RangeVar(relation)) => {
                self.ask_tables(action, relation);
            }
            _ => self.opaque("a list of tables"),
        }
    }
}

/// The value of a setting, as text.
fn value(node: &Node) -> Option<String> {
    let Some(NodeEnum::AConst(constant)) = &node.node else { return None };
    match constant.val.as_ref()? {
        a_const::Val::Sval(text) => Some(text.sval.clone()),
        a_const::Val::Ival(number) => Some(number.ival.to_string()),
        a_const::Val::Fval(number) => Some(number.fval.clone()),
        a_const::Val::Boolval(value) => Some(value.boolval.to_string()),
        a_const::Val::Bsval(_) => None,
    }
}
