//! References to columns: whether they are hidden, and whether they read a table that is written.

use pg_query::{NodeEnum, protobuf::ColumnRef};

use super::{
    names::text,
    walk::{Item, Place, Walker},
};

/// What a reference's last field is.
#[derive(Clone, Copy)]
enum Field<'n> {
    Column(&'n str),
    Star,
}

impl Walker<'_> {
    /// A reference to a column, a row or all columns.
    pub(super) fn column(&mut self, reference: &ColumnRef, place: Place) {
        let ColumnRef { fields, location: _ } = reference;
        let Some((last, qualifiers)) = fields.split_last() else { return self.opaque("a column") };
        let field = match &last.node {
            Some(NodeEnum::String(name)) => Field::Column(&name.sval),
            Some(NodeEnum::AStar(_)) => Field::Star,
            _ => return self.opaque("a column"),
        };
        match (qualifiers.last().map(text), field) {
            (None, Field::Column(column)) => self.bare_column(column, place),
            (None, Field::Star) => self.bare_star(place),
            (Some(Some(qualifier)), field) => self.qualified(qualifier, field, place),
            (Some(None), _) => self.opaque("a column"),
        }
    }

    /// `name`: a column of any relation in scope, or a whole row.
    fn bare_column(&mut self, name: &str, place: Place) {
        let masking = self.proof.masking();
        let mut hidden = false;
        let mut whole_row = false;
        for item in self.scopes.iter().flatten().filter(|item| item.hides) {
            for relation in &item.relations {
                hidden |= !item.shadow && masking.hides_column(relation.oid, name);
                whole_row |= item.name == name && masking.hides_in(relation.oid);
            }
        }
        if whole_row {
            self.proof.hidden(name, "as part of a whole row");
        }
        if hidden && place == Place::Inside {
            self.proof.hidden(name, "elsewhere than as a plain output column");
        }
        // It may be a masked column that has another name since.
        if !self.knows(name) && self.scopes.iter().flatten().any(|item| item.hides) {
            self.findings.unknown_names = true;
            self.proof.unresolved(name.into());
        }
        self.note_read(name);
    }

    /// Whether anything in scope has a column of this name, for all that is known, or is called so itself.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.scopes
            .iter()
            .flatten()
            .any(|item| !item.known || item.name == name || item.relations.iter().any(|relation| relation.has(name)))
    }

    /// A table that is written is read if the innermost level that knows this name knows it there.
    fn note_read(&mut self, name: &str) {
        if self.written.is_empty() {
            return;
        }
        for scope in self.scopes.iter().rev() {
            let mut found = false;
            for item in scope.iter().filter(|item| !item.shadow) {
                let has = !item.known || item.name == name || item.relations.iter().any(|relation| relation.has(name));
                if has && !item.relations.is_empty() {
                    found |= item.known;
                    mark(&mut self.written, item);
                }
            }
            if found {
                return;
            }
        }
    }

    /// `*`: all columns of this query level.
    fn bare_star(&mut self, place: Place) {
        let mut hidden = None;
        for item in self.scopes.last().into_iter().flatten().filter(|item| !item.shadow) {
            if item.hides && place == Place::Inside {
                hidden = Some(item.name.clone());
            }
            mark(&mut self.written, item);
        }
        if let Some(table) = hidden {
            self.proof.hidden(&format!("{table}.*"), "elsewhere than as plain output columns");
        }
    }

    /// `item.name` or `item.*`, perhaps with a schema before it.
    fn qualified(&mut self, qualifier: &str, field: Field<'_>, place: Place) {
        let mut found = false;
        let mut may_call = false;
        let mut hidden = None;
        let masking = self.proof.masking();
        // Which level the server finds a qualifier on depends on LATERAL: every level that has it counts.
        for item in self.scopes.iter().flatten().filter(|item| item.name == qualifier) {
            found = true;
            mark(&mut self.written, item);
            match field {
                Field::Star => {
                    if item.hides && (place == Place::Inside || item.shadow) {
                        hidden = Some("elsewhere than as plain output columns");
                    }
                }
                Field::Column(name) => {
                    for relation in &item.relations {
                        if masking.hides_column(relation.oid, name) {
                            if place == Place::Inside || item.shadow {
                                hidden = Some("elsewhere than as a plain output column");
                            }
                        } else if !relation.has(name) && masking.hides_in(relation.oid) {
                            self.findings.unknown_names = true;
                            hidden = Some("as part of a whole row");
                        }
                    }
                    may_call |= !item.known || item.relations.iter().any(|relation| !relation.has(name));
                }
            }
        }
        let name = match field {
            Field::Column(name) => format!("{qualifier}.{name}"),
            Field::Star => format!("{qualifier}.*"),
        };
        if let Some(place) = hidden {
            self.proof.hidden(&name, place);
        }
        if !found {
            self.proof.unresolved(name);
        }
        if let (true, Field::Column(name)) = (may_call || !found, field) {
            // `t.f` is `f(t)` where `t` has no column `f`.
            self.attribute(name);
        }
    }
}

fn mark(written: &mut [super::walk::Written], item: &Item<'_>) {
    if let Some(table) = item.written.and_then(|position| written.get_mut(position)) {
        table.read = true;
    }
}
