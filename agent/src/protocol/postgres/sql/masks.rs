//! The masked columns of one database, resolved against its catalogue.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    catalogue::{Catalogue, Kind, Relation},
    relations,
};
use crate::{config::ColumnRule, masking::Cover, model::Style};

/// A column that the configuration masks, itself or by inheritance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedColumn {
    /// OID of its table.
    pub oid: u32,
    /// Attribute number.
    pub attribute: i16,
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Column.
    pub column: String,
    /// Class for policies.
    pub class: String,
    /// How it is hidden.
    pub style: Style,
}

/// Which columns of a database are masked, and which of them are hidden from this principal.
///
/// The two differ by what `unmask` permits. Answers go by what is hidden; the log by what is masked.
#[derive(Clone, Debug, Default)]
pub struct Masking {
    masked: Arc<BTreeMap<(u32, i16), MaskedColumn>>,
    tables: Arc<HashSet<u32>>,
    hidden: Arc<BTreeSet<(u32, i16)>>,
    hiding: Arc<HashMap<u32, BTreeSet<String>>>,
}

impl Masking {
    /// Resolves the rules that hold in this database, everything hidden.
    ///
    /// A column that is masked in a table is masked in all that inherit from it, and in all that those inherit from:
    /// reading a parent shows its children's rows. A generated column is redacted if a column is masked that it is made of.
    ///
    /// # Errors
    /// The rule whose column does not exist. The target must then be closed: nobody knows where its data went.
    pub fn new(rules: &[ColumnRule], database: &str, catalogue: &Catalogue) -> Result<Self, MaskingError> {
        let mut masked = BTreeMap::new();
        let mut inherited = Vec::new();
        // A rule for this very database goes before one for all.
        let (exact, general): (Vec<_>, Vec<_>) = rules
            .iter()
            .filter(|rule| rule.database.as_ref().is_none_or(|name| name == database))
            .partition(|rule| rule.database.is_some());
        for rule in exact.into_iter().chain(general) {
            let relation = catalogue
                .named(&rule.table)
                .find(|relation| relation.schema == rule.schema)
                .filter(|relation| relation.attribute(&rule.column).is_some())
                .ok_or_else(|| MaskingError {
                    column: format!("{}.{}.{}", rule.schema, rule.table, rule.column),
                    database: database.into(),
                    line: rule.line,
                })?;
            mask(&mut masked, relation, rule);
            inherited.push((relation.oid, rule));
        }
        for (oid, rule) in inherited {
            for relation in related(oid, catalogue).iter().filter_map(|oid| catalogue.relation(*oid)) {
                mask(&mut masked, relation, rule);
            }
        }
        // Whatever is computed of a masked column would show it.
        for (oid, attribute, source) in catalogue.generated() {
            let (Some(source), Some(relation)) = (masked.get(&(*oid, *source)), catalogue.relation(*oid)) else {
                continue;
            };
            let Some(column) = relation.column(*attribute) else { continue };
            let generated =
                MaskedColumn { attribute: *attribute, column: column.into(), style: Style::Redact, ..source.clone() };
            masked.entry((*oid, *attribute)).or_insert(generated);
        }
        let tables = masked.keys().map(|(oid, _)| *oid).collect();
        let everything = Self { masked: Arc::new(masked), tables: Arc::new(tables), ..Self::default() };
        Ok(everything.without(&|_| false))
    }

    /// The same, with nothing hidden of what `unmasked` says that the principal may see.
    #[must_use]
    pub fn without(&self, unmasked: &dyn Fn(&MaskedColumn) -> bool) -> Self {
        let mut hidden = BTreeSet::new();
        let mut hiding: HashMap<u32, BTreeSet<String>> = HashMap::new();
        for (key, column) in self.masked.iter().filter(|(_, column)| !unmasked(column)) {
            hidden.insert(*key);
            hiding.entry(column.oid).or_default().insert(column.column.clone());
        }
        Self { hidden: Arc::new(hidden), hiding: Arc::new(hiding), ..self.clone() }
    }

    /// Every masked column, hidden or not.
    pub fn columns(&self) -> impl Iterator<Item = &MaskedColumn> {
        self.masked.values()
    }

    /// What covers an output column that the server says comes from here. `None`: it cannot be said, so the answer must
    /// be refused.
    ///
    /// OID 0 is an expression. In an answer that is [`Answer::ByOrigin`](super::Answer::ByOrigin) those are proven
    /// clear.
    #[must_use]
    pub fn cover(&self, oid: u32, attribute: i16, catalogue: &Catalogue) -> Option<Cover> {
        if oid == 0 || self.hidden.is_empty() {
            return Some(Cover::Clear);
        }
        if self.hidden.contains(&(oid, attribute)) {
            return self.masked.get(&(oid, attribute)).map(|column| Cover::Style(column.style));
        }
        let relation = catalogue.relation(oid)?;
        let known = match relation.kind {
            Kind::Table | Kind::Sequence => {
                attribute < 0
                    || relation.columns.iter().any(|(number, _)| *number == attribute)
                    || (attribute == 0 && !self.hides_in(oid))
            }
            Kind::View => relations::is_listed(&relation.schema, &relation.name),
            Kind::Foreign | Kind::Index => false,
        };
        known.then_some(Cover::Clear)
    }

    /// Whether anything at all is hidden.
    #[must_use]
    pub fn hides(&self) -> bool {
        !self.hidden.is_empty()
    }

    /// Whether a relation has a hidden column.
    pub(super) fn hides_in(&self, oid: u32) -> bool {
        self.hiding.contains_key(&oid)
    }

    /// Whether this column of a relation is hidden.
    pub(super) fn hides_column(&self, oid: u32, column: &str) -> bool {
        self.hiding.get(&oid).is_some_and(|columns| columns.contains(column))
    }

    /// Whether anything at all is masked, hidden or not.
    #[must_use]
    pub fn masks(&self) -> bool {
        !self.masked.is_empty()
    }

    /// Whether a relation has a masked column, hidden or not.
    pub(super) fn masks_in(&self, oid: u32) -> bool {
        self.tables.contains(&oid)
    }

    /// What is hidden, for keys of caches. Together with a catalogue's serial it says all that the classifier looks at,
    /// as long as rules do not change without a new catalogue.
    pub(super) fn hidden(&self) -> &Arc<BTreeSet<(u32, i16)>> {
        &self.hidden
    }
}

/// Masks a column of a relation, unless another rule already does, or the relation has no such column.
fn mask(masked: &mut BTreeMap<(u32, i16), MaskedColumn>, relation: &Relation, rule: &ColumnRule) {
    if let Some(attribute) = relation.attribute(&rule.column) {
        masked.entry((relation.oid, attribute)).or_insert_with(|| MaskedColumn {
            oid: relation.oid,
            attribute,
            schema: relation.schema.clone(),
            table: relation.name.clone(),
            column: rule.column.clone(),
            class: rule.class.clone(),
            style: rule.style,
        });
    }
}

/// Everything that inherits from a table, and everything that the table or one of those inherits from.
fn related(oid: u32, catalogue: &Catalogue) -> BTreeSet<u32> {
    let mut found = catalogue.descendants(oid);
    let mut fresh: Vec<u32> = found.iter().copied().collect();
    while let Some(child) = fresh.pop() {
        let parents = catalogue.inheritance().iter().filter(|edge| edge.0 == child).map(|edge| edge.1);
        fresh.extend(parents.filter(|parent| found.insert(*parent)).collect::<Vec<_>>());
    }
    found
}

/// A masked column does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("masked column {column} (line {line} of the configuration) does not exist in database {database}")]
pub struct MaskingError {
    /// `schema.table.column`
    pub column: String,
    /// Database.
    pub database: String,
    /// Line in the configuration.
    pub line: usize,
}
