//! What constraints and unique indexes compare.

use super::{CatalogueError, number};

/// Position of the answer in [`QUERIES`](super::QUERIES).
const ANSWER: usize = 8;

/// Columns of a table, by attribute number, that decide together whether a row is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tie {
    /// No two rows agree in these: a unique index, or an exclusion constraint.
    Unique(Vec<i16>),
    /// A CHECK constraint looks at these.
    Check(Vec<i16>),
    /// A foreign key of this table.
    References {
        /// Its columns.
        columns: Vec<i16>,
        /// The table that it refers to.
        other: u32,
        /// The columns there.
        others: Vec<i16>,
    },
    /// A foreign key of another table refers to this one.
    Referenced {
        /// Columns of this table.
        columns: Vec<i16>,
        /// The table with the foreign key.
        other: u32,
        /// Its columns.
        others: Vec<i16>,
    },
}

impl Tie {
    /// Reads a row. A foreign key ties two tables.
    pub(super) fn read([oid, kind, columns, other, others]: [String; 5]) -> Result<Vec<(u32, Self)>, CatalogueError> {
        let attributes = |text: &str| {
            text.split_ascii_whitespace().map(|attribute| number(ANSWER, attribute)).collect::<Result<Vec<i16>, _>>()
        };
        let (columns, others) = (attributes(&columns)?, attributes(&others)?);
        let (oid, other): (u32, u32) = (number(ANSWER, &oid)?, number(ANSWER, &other)?);
        Ok(match kind.as_str() {
            "u" => vec![(oid, Self::Unique(columns))],
            "c" => vec![(oid, Self::Check(columns))],
            "f" => {
                let back = Self::Referenced { columns: others.clone(), other: oid, others: columns.clone() };
                vec![(oid, Self::References { columns, other, others }), (other, back)]
            }
            _ => return Err(CatalogueError::Field(ANSWER)),
        })
    }
}
