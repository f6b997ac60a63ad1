//! Objects of any kind, as statements name them that drop, change, grant or comment: which resource each is.

use pg_query::{
    Node, NodeEnum,
    protobuf::{DropBehavior, DropStmt, GrantStmt, GrantTargetType, ObjectType, RangeVar},
};

use super::{
    catalogue::Kind,
    names::{schema_of, split, text},
    requests,
    walk::Walker,
};

impl Walker<'_> {
    pub(super) fn drop_objects(&mut self, statement: &DropStmt) {
        let DropStmt { objects, remove_type: _, behavior: _, missing_ok: _, concurrent: _ } = statement;
        for object in objects {
            self.ask_object("sql:drop", statement.remove_type(), None, Some(object));
        }
        // CASCADE goes on to what is not named.
        if statement.behavior() == DropBehavior::DropCascade {
            self.ask_database("sql:drop");
        }
    }

    pub(super) fn grant(&mut self, statement: &GrantStmt) {
        for object in &statement.objects {
            match (&object.node, statement.targtype(), statement.objtype()) {
                (Some(NodeEnum::String(schema)), GrantTargetType::AclTargetAllInSchema, _)
                | (Some(NodeEnum::String(schema)), _, ObjectType::ObjectSchema) => {
                    let schema = requests::schema(self.reading, &schema.sval);
                    self.ask("sql:grant", schema);
                }
                (Some(NodeEnum::RangeVar(table)), ..) => {
                    self.ask_tables("sql:grant", table);
                }
                (Some(NodeEnum::ObjectWithArgs(function)), ..) => self.ask_functions("sql:grant", &function.objname),
                _ => self.ask_database("sql:grant"),
            }
        }
    }

    /// Asks for an action on an object of any kind, or on the nearest thing above it that is a resource.
    pub(super) fn ask_object(
        &mut self,
        action: &str,
        kind: ObjectType,
        relation: Option<&RangeVar>,
        object: Option<&Node>,
    ) {
        use ObjectType as Is;
        match kind {
            Is::ObjectRole => return self.ask_database("sql:grant"),
            Is::ObjectPublication | Is::ObjectSubscription => return self.ask_database("sql:replication"),
            Is::ObjectIndex => {
                if let Some(index) = relation {
                    return self.ask_indexes(action, index);
                }
            }
            _ => {}
        }
        if let Some(relation) = relation {
            return self.change(action, relation);
        }
        let Some(Node { node: Some(object) }) = object else { return self.opaque("an object without a name") };
        match (kind, object) {
            (Is::ObjectSchema, NodeEnum::String(schema)) => {
                let schema = requests::schema(self.reading, &schema.sval);
                self.ask(action, schema);
            }
            (Is::ObjectIndex, NodeEnum::List(name)) => match range(&name.items) {
                Some(index) => self.ask_indexes(action, &index),
                None => self.opaque("an index"),
            },
            (
                Is::ObjectTable | Is::ObjectView | Is::ObjectMatview | Is::ObjectForeignTable | Is::ObjectSequence,
                NodeEnum::List(name),
            ) => self.change_named(action, &name.items),
            // The last part is the column's, constraint's, trigger's … own name.
            (
                Is::ObjectColumn | Is::ObjectTabconstraint | Is::ObjectTrigger | Is::ObjectRule | Is::ObjectPolicy,
                NodeEnum::List(name),
            ) => match name.items.split_last() {
                Some((_, table)) => self.change_named(action, table),
                None => self.opaque("an object without a name"),
            },
            (
                Is::ObjectFunction | Is::ObjectProcedure | Is::ObjectRoutine | Is::ObjectAggregate,
                NodeEnum::ObjectWithArgs(function),
            ) => self.ask_functions(action, &function.objname),
            (Is::ObjectType | Is::ObjectDomain, NodeEnum::TypeName(name)) => self.ask_named(action, &name.names),
            (
                Is::ObjectType
                | Is::ObjectDomain
                | Is::ObjectCollation
                | Is::ObjectConversion
                | Is::ObjectStatisticExt
                | Is::ObjectTsconfiguration
                | Is::ObjectTsdictionary,
                NodeEnum::List(name),
            ) => self.ask_named(action, &name.items),
            _ => self.opaque("an object of the whole database"),
        }
    }

    /// Asks for an action on what is made in a schema and is no resource itself.
    pub(super) fn ask_named(&mut self, action: &str, name: &[Node]) {
        match split(name) {
            Some((Some(schema), _)) => {
                let schema = requests::schema(self.reading, schema);
                self.ask(action, schema);
            }
            _ => self.ask_database(action),
        }
    }

    pub(super) fn create_named(&mut self, name: &[Node]) {
        match split(name) {
            Some((schema, _)) => self.ask_create(schema, false),
            None => self.opaque("CREATE"),
        }
    }

    fn ask_functions(&mut self, action: &str, name: &[Node]) {
        let Some((schema, name)) = split(name) else { return self.opaque("a function") };
        let mut schemas: Vec<_> =
            self.functions(schema, name).iter().map(|function| function.schema.as_str()).collect();
        if schemas.is_empty() {
            self.findings.unknown_names = true;
            schemas.push(schema.unwrap_or(requests::NOWHERE));
        }
        for schema in schemas {
            let function = requests::function(self.reading, schema, name);
            self.ask(action, function);
        }
    }

    /// Asks for an action on everything that an index's name may stand for.
    pub(super) fn ask_indexes(&mut self, action: &str, index: &RangeVar) {
        for candidate in self.candidates(schema_of(index), &index.relname, |kind| kind == Kind::Index) {
            let index = requests::table(self.reading, &candidate.schema, &candidate.name);
            self.ask(action, index);
        }
    }

    fn change_named(&mut self, action: &str, name: &[Node]) {
        match range(name) {
            Some(relation) => self.change(action, &relation),
            None => self.opaque("a relation"),
        }
    }

    /// Asks for `alter` on a table.
    pub(super) fn alter(&mut self, relation: Option<&RangeVar>) {
        match relation {
            Some(relation) => self.change("sql:alter", relation),
            None => self.opaque("a definition without a table"),
        }
    }

    pub(super) fn alter_node(&mut self, node: &Node) {
        match &node.node {
            Some(NodeEnum::RangeVar(relation)) => self.alter(Some(relation)),
            _ => self.opaque("a list of tables"),
        }
    }

    /// Asks for an action on a relation. To alter one with hidden columns may copy their values to where they are not
    /// hidden.
    fn change(&mut self, action: &str, relation: &RangeVar) {
        let candidates = self.ask_tables(action, relation);
        let hides = candidates
            .iter()
            .filter_map(|candidate| candidate.relation)
            .any(|relation| self.proof.masking().hides_in(relation.oid));
        if action == "sql:alter" {
            self.open(&candidates);
        }
        if hides && action == "sql:alter" {
            self.proof.refuse(
                format!("{} has masked columns, and changing it could copy them", relation.relname),
                "Change it with a role that may unmask its columns.",
            );
        }
    }
}

/// A name that is a list of strings, as the name of a relation.
fn range(name: &[Node]) -> Option<RangeVar> {
    let (schema, relname) = split(name)?;
    let catalogname = match name {
        [database, _, _] => text(database)?.into(),
        _ => String::new(),
    };
    Some(RangeVar {
        catalogname,
        schemaname: schema.unwrap_or_default().into(),
        relname: relname.into(),
        ..RangeVar::default()
    })
}
