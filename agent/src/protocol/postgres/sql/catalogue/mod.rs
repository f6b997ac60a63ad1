//! A snapshot of one database's catalogue: schemas, relations, columns, inheritance, constraints, functions, and the
//! operators, casts and types that users made.
//!
//! It is what the classifier knows of the database. Pure data: whoever has a connection runs [`QUERIES`] and hands the
//! rows to [`Catalogue::build`]. A statement with [`Effect::ChangesCatalogue`](super::Effect::ChangesCatalogue) makes
//! it stale.

mod queries;
mod ties;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::atomic::{AtomicU64, Ordering},
};

pub use queries::QUERIES;
pub use ties::Tie;

/// Tells snapshots apart in caches: unique in this process.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// Name under which the temporary schemas of all sessions are known here: a client can only mean its own.
pub const TEMPORARY: &str = "pg_temp";

/// Columns that every table has beside its own.
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

/// A row of an answer, in text form; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A table, also a partitioned one.
    Table,
    /// A view or a materialised view: what it shows is read from elsewhere.
    View,
    /// A foreign table: what it shows is read from another server.
    Foreign,
    /// A sequence.
    Sequence,
    /// An index. It cannot be read, but dropped or rebuilt.
    Index,
}

/// A relation.
#[derive(Clone, Debug)]
pub struct Relation {
    /// OID, as the server names the origin of an output column.
    pub oid: u32,
    /// Schema; [`TEMPORARY`] for any session's temporary schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Attribute numbers and names, without dropped and system columns.
    pub columns: Vec<(i16, String)>,
}

impl Relation {
    /// Attribute number of a column.
    #[must_use]
    pub fn attribute(&self, column: &str) -> Option<i16> {
        self.columns.iter().find(|(_, name)| name == column).map(|(number, _)| *number)
    }

    /// Name of the column with this attribute number.
    #[must_use]
    pub fn column(&self, attribute: i16) -> Option<&str> {
        self.columns.iter().find(|(number, _)| *number == attribute).map(|(_, name)| name.as_str())
    }

    /// Whether it has this column, among its own or those that every table has.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        self.attribute(column).is_some() || SYSTEM_COLUMNS.contains(&column)
    }
}

/// A function's (or procedure's, or aggregate's) name. Overloads are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Function {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// Whether any overload is volatile, so that it may change the database.
    pub volatile: bool,
    /// OIDs of the overloads.
    pub oids: Vec<u32>,
}

/// The snapshot.
#[derive(Debug, Default)]
pub struct Catalogue {
    serial: u64,
    schemas: Vec<String>,
    relations: Vec<Relation>,
    by_oid: HashMap<u32, usize>,
    by_name: HashMap<String, Vec<usize>>,
    inheritance: Vec<(u32, u32)>,
    functions: HashMap<String, Vec<Function>>,
    operators: HashMap<String, Vec<(String, String)>>,
    casts: HashMap<String, Vec<(String, String)>>,
    types: HashSet<String>,
    ties: HashMap<u32, Vec<Tie>>,
    generated: Vec<(u32, i16, i16)>,
}

impl Catalogue {
    /// Makes a snapshot of the answers to [`QUERIES`], in their order.
    ///
    /// # Errors
    /// An answer is missing, or has another shape than its query's.
    pub fn build(answers: Vec<Vec<Row>>) -> Result<Self, CatalogueError> {
        let answers: [Vec<Row>; QUERIES.len()] =
            answers.try_into().map_err(|answers: Vec<_>| CatalogueError::Answers(answers.len()))?;
        let [schemas, relations, columns, inheritance, functions, operators, casts, types, ties, generated] = answers;
        let mut catalogue = Self { serial: SERIAL.fetch_add(1, Ordering::Relaxed), ..Self::default() };
        for row in schemas {
            let [schema] = fields(0, row)?;
            if !is_temporary(&schema) && !schema.starts_with("pg_toast") {
                catalogue.schemas.push(schema);
            }
        }
        for row in relations {
            let [oid, schema, name, kind, persistence] = fields(1, row)?;
            let kind = match kind.as_str() {
                "r" | "p" => Kind::Table,
                "v" | "m" => Kind::View,
                "f" => Kind::Foreign,
                "S" => Kind::Sequence,
                "i" | "I" => Kind::Index,
                _ => return Err(CatalogueError::Field(1)),
            };
            let schema = if persistence == "t" || is_temporary(&schema) { TEMPORARY.into() } else { schema };
            let oid = number(1, &oid)?;
            let position = catalogue.relations.len();
            catalogue.by_oid.insert(oid, position);
            catalogue.by_name.entry(name.clone()).or_default().push(position);
            catalogue.relations.push(Relation { oid, schema, name, kind, columns: Vec::new() });
        }
        for row in columns {
            let [oid, attribute, name] = fields(2, row)?;
            // Relations in pg_toast have columns too, but are not in the snapshot.
            if let Some(position) = catalogue.by_oid.get(&number(2, &oid)?) {
                catalogue.relations[*position].columns.push((number(2, &attribute)?, name));
            }
        }
        for row in inheritance {
            let [child, parent] = fields(3, row)?;
            catalogue.inheritance.push((number(3, &child)?, number(3, &parent)?));
        }
        for row in functions {
            let [schema, name, volatile, oids] = fields(4, row)?;
            let oids = oids.split(' ').map(|oid| number(4, oid)).collect::<Result<_, _>>()?;
            let function = Function { schema, name: name.clone(), volatile: volatile != "f", oids };
            catalogue.functions.entry(name).or_default().push(function);
        }
        for row in operators {
            let [operator, schema, function] = fields(5, row)?;
            catalogue.operators.entry(operator).or_default().push((schema, function));
        }
        for row in casts {
            let [target, schema, function] = fields(6, row)?;
            catalogue.casts.entry(target).or_default().push((schema, function));
        }
        for row in types {
            let [name] = fields(7, row)?;
            catalogue.types.insert(name);
        }
        for row in ties {
            for (oid, tie) in Tie::read(fields(8, row)?)? {
                catalogue.ties.entry(oid).or_default().push(tie);
            }
        }
        for row in generated {
            let [oid, attribute, source] = fields(9, row)?;
            catalogue.generated.push((number(9, &oid)?, number(9, &attribute)?, number(9, &source)?));
        }
        Ok(catalogue)
    }

    /// Tells this snapshot from every other in this process.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Every schema but toast and temporary ones.
    #[must_use]
    pub fn schemas(&self) -> &[String] {
        &self.schemas
    }

    /// Every relation of this name, in any schema.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Relation> {
        self.by_name.get(name).into_iter().flatten().map(|position| &self.relations[*position])
    }

    /// The relation with this OID.
    #[must_use]
    pub fn relation(&self, oid: u32) -> Option<&Relation> {
        self.by_oid.get(&oid).map(|position| &self.relations[*position])
    }

    /// Child and parent OIDs of inheritance and partitioning.
    #[must_use]
    pub fn inheritance(&self) -> &[(u32, u32)] {
        &self.inheritance
    }

    /// A table, and everything that inherits from it or is a partition of it.
    #[must_use]
    pub fn descendants(&self, oid: u32) -> BTreeSet<u32> {
        let mut found = BTreeSet::from([oid]);
        let mut fresh = vec![oid];
        while let Some(parent) = fresh.pop() {
            let children = self.inheritance.iter().filter(|edge| edge.1 == parent).map(|edge| edge.0);
            fresh.extend(children.filter(|child| found.insert(*child)).collect::<Vec<_>>());
        }
        found
    }

    /// What the constraints and unique indexes of a table compare.
    #[must_use]
    pub fn ties(&self, oid: u32) -> &[Tie] {
        self.ties.get(&oid).map_or(&[], Vec::as_slice)
    }

    /// Generated columns: table, attribute number, and that of a column that it is made of.
    #[must_use]
    pub fn generated(&self) -> &[(u32, i16, i16)] {
        &self.generated
    }

    /// Every function of this name, in any schema.
    #[must_use]
    pub fn functions(&self, name: &str) -> &[Function] {
        self.functions.get(name).map_or(&[], Vec::as_slice)
    }

    /// The function with this OID.
    #[must_use]
    pub fn function(&self, oid: u32) -> Option<&Function> {
        self.functions.values().flatten().find(|function| function.oids.contains(&oid))
    }

    /// Schemas and names of the functions that operators of this name call, where users made them.
    #[must_use]
    pub fn operators(&self, name: &str) -> &[(String, String)] {
        self.operators.get(name).map_or(&[], Vec::as_slice)
    }

    /// Schemas and names of the functions that casts to a type of this name call, where users made them.
    #[must_use]
    pub fn casts(&self, to: &str) -> &[(String, String)] {
        self.casts.get(to).map_or(&[], Vec::as_slice)
    }

    /// Whether any type has this name.
    #[must_use]
    pub fn is_type(&self, name: &str) -> bool {
        self.types.contains(name)
    }
}

/// Whether this is the name of a session's temporary schema (or of its toast schema).
pub(super) fn is_temporary(schema: &str) -> bool {
    schema == TEMPORARY || schema.starts_with("pg_temp_") || schema.starts_with("pg_toast_temp_")
}

fn fields<const N: usize>(query: usize, row: Row) -> Result<[String; N], CatalogueError> {
    let row: Vec<String> = row.into_iter().collect::<Option<_>>().ok_or(CatalogueError::Field(query))?;
    row.try_into().map_err(|_| CatalogueError::Field(query))
}

fn number<T: std::str::FromStr>(query: usize, text: &str) -> Result<T, CatalogueError> {
    text.parse().map_err(|_| CatalogueError::Field(query))
}

/// The answers do not make a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// So many answers for [`QUERIES`].
    #[error("{0} answers to {expected} catalogue queries", expected = QUERIES.len())]
    Answers(usize),
    /// The answer to the query at this position has a row of an unexpected shape.
    #[error("unexpected row in the answer to catalogue query {0}")]
    Field(usize),
}
