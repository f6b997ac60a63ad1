//! Names of relations, functions, operators and types: what each may stand for.

use pg_query::{
    Node, NodeEnum,
    protobuf::{RangeVar, TypeName},
};

use super::{
    catalogue::{self, Function, Kind, Relation, TEMPORARY},
    functions, relations,
    requests::{self, NOWHERE},
    walk::Walker,
};
use crate::model::Resource;

/// Something that a relation's name may stand for.
pub(super) struct Candidate<'a> {
    /// Schema; [`NOWHERE`] if the name is in no schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `None` if the snapshot does not have it.
    pub relation: Option<&'a Relation>,
}

impl<'a> Walker<'a> {
    /// Everything that a name may stand for, of the kinds that `wanted` accepts. Never empty.
    pub(super) fn candidates(
        &mut self,
        schema: Option<&str>,
        name: &str,
        wanted: fn(Kind) -> bool,
    ) -> Vec<Candidate<'a>> {
        let schema = schema.map(|schema| if catalogue::is_temporary(schema) { TEMPORARY } else { schema });
        let found: Vec<_> = self
            .catalogue
            .named(name)
            .filter(|relation| wanted(relation.kind))
            .filter(|relation| match schema {
                Some(schema) => relation.schema == schema,
                None => self.reachable(&relation.schema),
            })
            .map(|relation| Candidate { schema: relation.schema.clone(), name: name.into(), relation: Some(relation) })
            .collect();
        if !found.is_empty() {
            return found;
        }
        self.findings.unknown_names = true;
        vec![Candidate { schema: schema.unwrap_or(NOWHERE).into(), name: name.into(), relation: None }]
    }

    /// Whether an unqualified name may mean something in this schema.
    fn reachable(&self, schema: &str) -> bool {
        self.reading.search_path.as_ref().is_none_or(|path| {
            schema == "pg_catalog" || schema == TEMPORARY || path.iter().any(|reachable| reachable == schema)
        })
    }

    /// What a name in a FROM clause, or of a table that is written, may stand for.
    pub(super) fn tables(&mut self, name: &RangeVar) -> Vec<Candidate<'a>> {
        if !name.catalogname.is_empty() && name.catalogname != self.reading.database {
            // The server refuses references across databases.
            self.opaque("another database");
        }
        self.candidates(schema_of(name), &name.relname, |kind| kind != Kind::Index)
    }

    /// Notes that these are touched, and returns them as resources.
    pub(super) fn touch(&mut self, candidates: &[Candidate<'a>]) -> Vec<Resource> {
        candidates
            .iter()
            .map(|candidate| {
                self.findings.tables.insert(requests::qualified(&candidate.schema, &candidate.name));
                if let Some(relation) = candidate.relation {
                    self.proof.touch(relation);
                }
                requests::table(self.reading, &candidate.schema, &candidate.name)
            })
            .collect()
    }

    /// Notes that what these hold is read, written or changed.
    pub(super) fn open(&mut self, candidates: &[Candidate<'a>]) {
        for candidate in candidates {
            match candidate.relation {
                Some(relation) => self.proof.open(relation),
                None => self.proof.no_relation(&candidate.name),
            }
        }
    }

    /// Asks for an action on everything that a relation's name may stand for.
    pub(super) fn ask_tables(&mut self, action: &str, name: &RangeVar) -> Vec<Candidate<'a>> {
        let candidates = self.tables(name);
        for resource in self.touch(&candidates) {
            self.ask(action, resource);
        }
        candidates
    }

    /// Asks for reading everything that a relation's name may stand for.
    pub(super) fn ask_read(&mut self, name: &RangeVar) -> Vec<Candidate<'a>> {
        let candidates = self.tables(name);
        self.open(&candidates);
        for (resource, candidate) in self.touch(&candidates).into_iter().zip(&candidates) {
            if relations::is_listed(&candidate.schema, &candidate.name) && candidate.relation.is_some() {
                self.ask_database("sql:basics");
            } else {
                self.read.push(resource.clone());
                self.ask("sql:select", resource);
            }
        }
        candidates
    }

    /// Asks for `create` in the schema of a name: in every schema, if it names none and the search path is not known.
    pub(super) fn ask_create(&mut self, schema: Option<&str>, temporary: bool) {
        let schemas: Vec<String> = match schema {
            _ if temporary => vec![TEMPORARY.into()],
            Some(schema) if catalogue::is_temporary(schema) => vec![TEMPORARY.into()],
            Some(schema) => vec![schema.into()],
            None => self.creation_schemas(),
        };
        for schema in schemas {
            let schema = requests::schema(self.reading, &schema);
            self.ask("sql:create", schema);
        }
    }

    fn creation_schemas(&self) -> Vec<String> {
        let existing = self.catalogue.schemas();
        if let Some(path) = &self.reading.search_path {
            let first = path.iter().find(|schema| existing.contains(schema));
            return vec![first.map_or(NOWHERE, String::as_str).into()];
        }
        let own = |schema: &&String| !matches!(schema.as_str(), "pg_catalog" | "information_schema");
        let schemas: Vec<String> = existing.iter().filter(own).cloned().collect();
        if schemas.is_empty() { vec![NOWHERE.into()] } else { schemas }
    }

    /// Functions that a name may stand for.
    pub(super) fn functions(&self, schema: Option<&str>, name: &str) -> Vec<&'a Function> {
        let accepts = |function: &&Function| match schema {
            Some(schema) => function.schema == schema,
            None => self.reachable(&function.schema),
        };
        self.catalogue.functions(name).iter().filter(accepts).collect()
    }

    /// A function is called by this name.
    pub(super) fn call(&mut self, schema: Option<&str>, name: &str) {
        let found = self.functions(schema, name);
        if found.is_empty() {
            // `type(x)` is a cast where no function has that name.
            if schema.is_none_or(|schema| schema == "pg_catalog") && self.catalogue.is_type(name) {
                self.cast_to(name);
                return;
            }
            self.findings.unknown_names = true;
            self.ask_call(schema.unwrap_or(NOWHERE), name);
        }
        for function in found {
            if function.schema == "pg_catalog" && functions::is_listed(name) {
                self.findings.functions.insert(requests::qualified("pg_catalog", name));
            } else {
                let blind = function.schema == "pg_catalog" && functions::is_blind(name);
                self.changes_catalogue |= function.volatile && !blind;
                self.ask_call(&function.schema, name);
            }
        }
    }

    /// Asks for calling one function.
    pub(super) fn ask_call(&mut self, schema: &str, name: &str) {
        self.findings.functions.insert(requests::qualified(schema, name));
        if !(schema == "pg_catalog" && functions::is_blind(name)) {
            self.proof.obscure(format!("the function {name} may show values of masked columns"));
        }
        let function = requests::function(self.reading, schema, name);
        self.ask("sql:call", function);
    }

    /// An attribute of a row is taken. Where the row has no such attribute, that calls the function of this name.
    pub(super) fn attribute(&mut self, name: &str) {
        if !self.functions(None, name).is_empty() {
            self.call(None, name);
        }
    }

    /// An operator is used: those that users made call functions.
    pub(super) fn operator(&mut self, name: &[Node]) {
        let Some((schema, operator)) = split(name) else { return self.opaque("an operator") };
        if schema != Some("pg_catalog") {
            self.operator_named(operator);
        }
    }

    /// The same for an operator that a keyword stands for.
    pub(super) fn operator_named(&mut self, operator: &str) {
        for (schema, function) in self.catalogue.operators(operator) {
            self.ask_call(schema, function);
        }
    }

    /// A value is cast to this type: casts that users made call functions.
    pub(super) fn cast(&mut self, to: Option<&TypeName>) {
        let Some(TypeName {
            names,
            type_oid: _,
            setof: _,
            pct_type,
            typmods,
            typemod: _,
            array_bounds: _,
            location: _,
        }) = to
        else {
            return;
        };
        self.each(typmods);
        match split(names) {
            // `table.column%TYPE`, in definitions of functions only.
            _ if *pct_type => self.opaque("a type taken from a column"),
            Some((_, name)) => self.cast_to(name),
            None => self.opaque("a type"),
        }
    }

    fn cast_to(&mut self, name: &str) {
        for (schema, function) in self.catalogue.casts(name) {
            self.ask_call(schema, function);
        }
    }
}

/// The schema of a name, if it has one.
pub(super) fn schema_of(name: &RangeVar) -> Option<&str> {
    (!name.schemaname.is_empty()).then_some(name.schemaname.as_str())
}

/// A name that is a list of strings: schema, if it has one, and name. `None` if it is something else.
pub(super) fn split(names: &[Node]) -> Option<(Option<&str>, &str)> {
    match names {
        [name] => Some((None, text(name)?)),
        // The first of three is the database.
        [schema, name] | [_, schema, name] => Some((Some(text(schema)?), text(name)?)),
        _ => None,
    }
}

/// A node that is a string.
pub(super) fn text(node: &Node) -> Option<&str> {
    match &node.node {
        Some(NodeEnum::String(string)) => Some(&string.sval),
        _ => None,
    }
}

/// Splits a qualified name as the server does where a name is a value (`nextval('public."Seq"')`): folded to lower case
/// outside double quotes. `None` if it is not a name of one or two parts.
pub(super) fn parse_name(value: &str) -> Option<(Option<String>, String)> {
    let mut parts = Vec::new();
    let mut rest = value.trim();
    loop {
        let part;
        (part, rest) = if let Some(quoted) = rest.strip_prefix('"') {
            parse_quoted(quoted)?
        } else {
            let end = rest.find(|c: char| c == '.' || c == '"' || c.is_whitespace()).unwrap_or(rest.len());
            (rest[..end].to_lowercase(), &rest[end..])
        };
        if part.is_empty() {
            return None;
        }
        parts.push(part);
        rest = rest.trim_start();
        match rest.strip_prefix('.') {
            Some(next) => rest = next.trim_start(),
            None if rest.is_empty() => break,
            None => return None,
        }
    }
    let name = parts.pop()?;
    let schema = parts.pop();
    parts.is_empty().then_some((schema, name))
}

/// The rest of a quoted part: its text, and what follows the closing quote.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        part.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                part.push('"');
                rest = next;
            }
            None => return Some((part, rest)),
        }
    }
}
