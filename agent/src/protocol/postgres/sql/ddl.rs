//! Statements that define, change and drop things, and that grant rights.

use pg_query::{
    Node, NodeEnum,
    protobuf::{
        AlterTableCmd, AlterTableStmt, AlterTableType, ColumnDef, Constraint, CreateStmt, CreateTableAsStmt,
        CreateTrigStmt, DropBehavior, IndexStmt, ObjectType, PartitionBoundSpec, PartitionCmd, PartitionElem,
        PartitionRangeDatum, TableLikeClause, ViewStmt,
    },
};

use super::{
    catalogue::Kind,
    names::{schema_of, split},
    requests,
    walk::Walker,
};

impl Walker<'_> {
    /// Walks a definition. Whatever is not named here is opaque: it runs code, reaches other servers, or is the whole
    /// database.
    pub(super) fn definition(&mut self, node: &NodeEnum) {
        self.changes_catalogue = true;
        match node {
            NodeEnum::CreateStmt(statement) => self.create_table(statement),
            NodeEnum::CreateTableAsStmt(statement) => self.create_table_as(statement),
            NodeEnum::ViewStmt(statement) => self.create_view(statement),
            NodeEnum::CreateSeqStmt(statement) => match &statement.sequence {
                Some(name) => self.ask_create(schema_of(name), name.relpersistence == "t"),
                None => self.opaque("CREATE SEQUENCE"),
            },
            NodeEnum::CompositeTypeStmt(statement) => match &statement.typevar {
                Some(name) => self.ask_create(schema_of(name), false),
                None => self.opaque("CREATE TYPE"),
            },
            NodeEnum::CreateEnumStmt(statement) => self.create_named(&statement.type_name),
            NodeEnum::CreateDomainStmt(statement) => {
                self.create_named(&statement.domainname);
                self.constraints(&statement.constraints);
            }
            NodeEnum::DefineStmt(statement) if statement.kind() == ObjectType::ObjectCollation => {
                self.create_named(&statement.defnames);
            }
            NodeEnum::CreateSchemaStmt(statement) => {
                self.ask_database("sql:create");
                for element in statement.schema_elts.iter().filter_map(|element| element.node.as_ref()) {
                    self.utility(element);
                }
            }
            NodeEnum::IndexStmt(statement) => self.create_index(statement),
            NodeEnum::CreateStatsStmt(statement) => {
                for relation in &statement.relations {
                    self.alter_node(relation);
                }
                for element in &statement.exprs {
                    match &element.node {
                        Some(NodeEnum::StatsElem(element)) => self.maybe(element.expr.as_deref()),
                        _ => self.opaque("CREATE STATISTICS"),
                    }
                }
            }
            NodeEnum::CreateTrigStmt(statement) => self.create_trigger(statement),
            NodeEnum::CreatePolicyStmt(statement) => {
                self.alter(statement.table.as_ref());
                self.maybe(statement.qual.as_deref());
                self.maybe(statement.with_check.as_deref());
            }
            NodeEnum::AlterPolicyStmt(statement) => {
                self.alter(statement.table.as_ref());
                self.maybe(statement.qual.as_deref());
                self.maybe(statement.with_check.as_deref());
            }
            NodeEnum::AlterTableStmt(statement) => self.alter_table(statement),
            NodeEnum::AlterSeqStmt(statement) => self.alter(statement.sequence.as_ref()),
            NodeEnum::AlterDomainStmt(statement) => {
                self.ask_named("sql:alter", &statement.type_name);
                self.constraints(statement.def.as_deref().map_or(&[], std::slice::from_ref));
            }
            NodeEnum::AlterEnumStmt(statement) => self.ask_named("sql:alter", &statement.type_name),
            NodeEnum::AlterStatsStmt(statement) => self.ask_named("sql:alter", &statement.defnames),
            NodeEnum::AlterCollationStmt(statement) => self.ask_named("sql:alter", &statement.collname),
            NodeEnum::RenameStmt(statement) if statement.rename_type() == ObjectType::ObjectSchema => {
                let schema = requests::schema(self.reading, &statement.subname);
                self.ask("sql:alter", schema);
            }
            NodeEnum::RenameStmt(statement) => {
                let kind = statement.rename_type();
                self.ask_object("sql:alter", kind, statement.relation.as_ref(), statement.object.as_deref());
            }
            NodeEnum::AlterObjectSchemaStmt(statement) => {
                let kind = statement.object_type();
                self.ask_object("sql:alter", kind, statement.relation.as_ref(), statement.object.as_deref());
                self.ask_create(Some(&statement.newschema), false);
            }
            NodeEnum::AlterObjectDependsStmt(statement) => {
                let kind = statement.object_type();
                self.ask_object("sql:alter", kind, statement.relation.as_ref(), statement.object.as_deref());
            }
            NodeEnum::CommentStmt(statement) => {
                self.ask_object("sql:alter", statement.objtype(), None, statement.object.as_deref());
            }
            NodeEnum::DropStmt(statement) => self.drop_objects(statement),
            other => self.rights(other),
        }
    }

    /// Rights, roles and replication.
    fn rights(&mut self, node: &NodeEnum) {
        match node {
            NodeEnum::GrantStmt(statement) => self.grant(statement),
            NodeEnum::AlterOwnerStmt(statement) => {
                let kind = statement.object_type();
                self.ask_object("sql:grant", kind, statement.relation.as_ref(), statement.object.as_deref());
            }
            NodeEnum::SecLabelStmt(statement) => {
                self.ask_object("sql:grant", statement.objtype(), None, statement.object.as_deref());
            }
            NodeEnum::GrantRoleStmt(_)
            | NodeEnum::AlterDefaultPrivilegesStmt(_)
            | NodeEnum::DropRoleStmt(_)
            | NodeEnum::AlterRoleSetStmt(_)
            | NodeEnum::ReassignOwnedStmt(_) => self.ask_database("sql:grant"),
            NodeEnum::CreateRoleStmt(_) | NodeEnum::AlterRoleStmt(_) => {
                self.findings.secret = true;
                self.ask_database("sql:grant");
            }
            NodeEnum::CreatePublicationStmt(_)
            | NodeEnum::AlterPublicationStmt(_)
            | NodeEnum::DropSubscriptionStmt(_) => self.ask_database("sql:replication"),
            NodeEnum::CreateSubscriptionStmt(_) | NodeEnum::AlterSubscriptionStmt(_) => {
                self.findings.secret = true;
                self.ask_database("sql:replication");
            }
            other => {
                // Options of servers and user mappings, and settings of the server, may be passwords.
                self.findings.secret = true;
                self.unexpected(other);
            }
        }
    }

    fn create_table(&mut self, statement: &CreateStmt) {
        let CreateStmt {
            relation,
            table_elts,
            inh_relations,
            partbound,
            partspec,
            of_typename: _,
            constraints,
            nnconstraints,
            options: _,
            oncommit: _,
            tablespacename: _,
            access_method: _,
            if_not_exists: _,
        } = statement;
        match relation {
            Some(name) => self.ask_create(schema_of(name), name.relpersistence == "t"),
            None => self.opaque("CREATE TABLE"),
        }
        for parent in inh_relations {
            self.alter_node(parent);
        }
        self.bound(partbound.as_ref());
        for element in partspec.iter().flat_map(|spec| &spec.part_params) {
            match &element.node {
                Some(NodeEnum::PartitionElem(element)) => {
                    let PartitionElem { name: _, expr, collation: _, opclass: _, location: _ } = &**element;
                    self.maybe(expr.as_deref());
                }
                _ => self.opaque("PARTITION BY"),
            }
        }
        for element in table_elts {
            self.table_element(element);
        }
        self.constraints(constraints);
        self.constraints(nnconstraints);
    }

    /// A column, a constraint, or what ALTER TABLE makes of one.
    fn table_element(&mut self, element: &Node) {
        match &element.node {
            Some(NodeEnum::ColumnDef(column)) => {
                let ColumnDef { type_name, raw_default, cooked_default: _, constraints, fdwoptions, .. } = &**column;
                self.findings.secret |= !fdwoptions.is_empty();
                self.cast(type_name.as_ref());
                self.maybe(raw_default.as_deref());
                self.constraints(constraints);
            }
            Some(NodeEnum::TableLikeClause(like)) => {
                let TableLikeClause { relation, options: _, relation_oid: _ } = like;
                match relation {
                    Some(relation) => {
                        self.ask_read(relation);
                    }
                    None => self.opaque("LIKE"),
                }
            }
            Some(NodeEnum::Constraint(_)) => self.constraints(std::slice::from_ref(element)),
            _ => self.opaque("an element of a table"),
        }
    }

    fn constraints(&mut self, constraints: &[Node]) {
        for constraint in constraints {
            let Some(NodeEnum::Constraint(constraint)) = &constraint.node else {
                // A default of a domain.
                self.expression(constraint);
                continue;
            };
            let Constraint { raw_expr, exclusions, where_clause, pktable, .. } = &**constraint;
            self.maybe(raw_expr.as_deref());
            self.maybe(where_clause.as_deref());
            for exclusion in exclusions {
                // A pair of an index element and an operator.
                match &exclusion.node {
                    Some(NodeEnum::List(pair)) => match pair.items.as_slice() {
                        [element, Node { node: Some(NodeEnum::List(operator)) }] => {
                            self.index_element(element);
                            self.operator(&operator.items);
                        }
                        _ => self.opaque("EXCLUDE"),
                    },
                    _ => self.opaque("EXCLUDE"),
                }
            }
            // A foreign key tells which values the other table has.
            if pktable.is_some() {
                self.alter(pktable.as_ref());
            }
        }
    }

    fn create_table_as(&mut self, statement: &CreateTableAsStmt) {
        let CreateTableAsStmt { query, into, objtype: _, is_select_into: _, if_not_exists: _ } = statement;
        match query.as_deref().and_then(|query| query.node.as_ref()) {
            Some(execute @ NodeEnum::ExecuteStmt(_)) => {
                self.utility(execute);
                if self.proof.touches_hidden() {
                    self.proof.hidden("of a prepared statement", "to make a table of");
                }
            }
            _ => self.subquery(query.as_deref()),
        }
        match into {
            Some(into) => self.into(into),
            None => self.opaque("CREATE TABLE AS"),
        }
    }

    fn create_view(&mut self, statement: &ViewStmt) {
        let ViewStmt { view, aliases: _, query, replace, options: _, with_check_option: _ } = statement;
        let Some(view) = view else { return self.opaque("CREATE VIEW") };
        self.ask_create(schema_of(view), view.relpersistence == "t");
        if *replace {
            for candidate in self.candidates(schema_of(view), &view.relname, |kind| kind == Kind::View) {
                if candidate.relation.is_some() {
                    let view = requests::table(self.reading, &candidate.schema, &candidate.name);
                    self.ask("sql:alter", view);
                }
            }
        }
        self.subquery(query.as_deref());
    }

    fn create_index(&mut self, statement: &IndexStmt) {
        let IndexStmt { relation, index_params, index_including_params, where_clause, exclude_op_names, .. } =
            statement;
        self.alter(relation.as_ref());
        for element in index_params.iter().chain(index_including_params) {
            self.index_element(element);
        }
        self.maybe(where_clause.as_deref());
        self.each(exclude_op_names);
    }

    fn create_trigger(&mut self, statement: &CreateTrigStmt) {
        let CreateTrigStmt { relation, funcname, when_clause, constrrel, .. } = statement;
        self.alter(relation.as_ref());
        if constrrel.is_some() {
            self.alter(constrrel.as_ref());
        }
        match split(funcname) {
            Some((schema, name)) => self.call(schema, name),
            None => self.opaque("CREATE TRIGGER"),
        }
        self.maybe(when_clause.as_deref());
    }

    fn alter_table(&mut self, statement: &AlterTableStmt) {
        let AlterTableStmt { relation, cmds, objtype: _, missing_ok: _ } = statement;
        match (statement.objtype(), relation) {
            (ObjectType::ObjectIndex, Some(index)) => self.ask_indexes("sql:alter", index),
            _ => self.alter(relation.as_ref()),
        }
        for command in cmds {
            let Some(NodeEnum::AlterTableCmd(command)) = &command.node else {
                self.opaque("ALTER TABLE");
                continue;
            };
            let AlterTableCmd { subtype: _, name: _, num: _, newowner: _, def, behavior, missing_ok: _, recurse: _ } =
                &**command;
            if *behavior == DropBehavior::DropCascade as i32 {
                self.ask_database("sql:drop");
            }
            if command.subtype() == AlterTableType::AtChangeOwner {
                self.ask_database("sql:grant");
            }
            if command.subtype() == AlterTableType::AtGenericOptions {
                self.findings.secret = true;
            }
            if let Some(definition) = def {
                self.alter_command(definition);
            }
        }
    }

    /// What a command of ALTER TABLE carries.
    fn alter_command(&mut self, definition: &Node) {
        match &definition.node {
            Some(NodeEnum::ColumnDef(_) | NodeEnum::Constraint(_)) => self.table_element(definition),
            Some(NodeEnum::RangeVar(parent)) => self.alter(Some(parent)),
            Some(NodeEnum::PartitionCmd(command)) => {
                let PartitionCmd { name, bound, concurrent: _ } = command;
                self.alter(name.as_ref());
                self.bound(bound.as_ref());
            }
            // Storage parameters, options and identities: names and constants.
            Some(
                NodeEnum::TypeName(_)
                | NodeEnum::ReplicaIdentityStmt(_)
                | NodeEnum::AtalterConstraint(_)
                | NodeEnum::RoleSpec(_)
                | NodeEnum::Float(_),
            ) => {}
            Some(NodeEnum::List(list))
                if list.items.iter().all(|item| matches!(item.node, Some(NodeEnum::DefElem(_)))) => {}
            _ => self.expression(definition),
        }
    }

    fn bound(&mut self, bound: Option<&PartitionBoundSpec>) {
        let Some(bound) = bound else { return };
        let PartitionBoundSpec {
            strategy: _,
            is_default: _,
            modulus: _,
            remainder: _,
            listdatums,
            lowerdatums,
            upperdatums,
            location: _,
        } = bound;
        for datum in listdatums.iter().chain(lowerdatums).chain(upperdatums) {
            match &datum.node {
                Some(NodeEnum::PartitionRangeDatum(datum)) => {
                    let PartitionRangeDatum { kind: _, value, location: _ } = &**datum;
                    self.maybe(value.as_deref());
                }
                // MINVALUE and MAXVALUE look like columns.
                Some(NodeEnum::ColumnRef(_)) => {}
                _ => self.expression(datum),
            }
        }
    }
}
