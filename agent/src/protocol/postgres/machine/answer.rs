//! Answers: how their rows are shown, and what of them is recorded.

use crate::{
    masking::{Cover, Covers},
    model::{Mode, Style},
    protocol::postgres::{message::Column, sql, value::Rows, view::View},
};

/// How the rows of an answer are shown and recorded.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Covers towards the client; `None` while nothing proves any: such rows are not shown.
    pub shown: Option<Covers>,
    /// Covers towards the log; `None`: rows are only counted.
    pub logged: Option<Covers>,
    /// Types and formats.
    pub rows: Rows,
    /// Names of the columns, until they are recorded.
    pub columns: Option<Vec<String>>,
}

/// A described column comes from a table that the catalogue does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOrigin;

impl Answer {
    /// Before the server has described anything: rows are clear only where the statement's proof alone makes them so.
    pub fn undescribed(
        view: &dyn View,
        mode: Mode,
        statement: Option<&sql::Statement>,
        part: usize,
        rows: Rows,
    ) -> Self {
        let clear = proof(statement, part) == Some(&sql::Answer::Clear);
        let untouched = clear && statement.is_some_and(|statement| statement.parameters_clear);
        let open = mode == Mode::Observe || clear || !view.hides();
        Self {
            shown: open.then(Covers::default),
            logged: (untouched || !view.masks()).then(Covers::default),
            rows,
            columns: None,
        }
    }

    /// Once the server has described it. What it says of a column's origin may only add masking to what was proven.
    ///
    /// # Errors
    /// [`UnknownOrigin`], in enforce mode.
    pub fn described(
        view: &dyn View,
        mode: Mode,
        statement: Option<&sql::Statement>,
        part: usize,
        columns: &[Column],
    ) -> Result<Self, UnknownOrigin> {
        let rows = Rows::described(columns);
        let mut answer = Self::undescribed(view, mode, statement, part, rows);
        answer.columns = Some(columns.iter().map(|column| column.name.clone()).collect());
        let proven = matches!(proof(statement, part), Some(sql::Answer::Clear | sql::Answer::ByOrigin));
        if view.hides() && mode == Mode::Enforce {
            let cover = |column: &Column| match column.table {
                // An expression: clear, as proven.
                0 => Some(Cover::Clear),
                table => view.cover(table, column.attribute),
            };
            let covers = columns.iter().map(cover).collect::<Option<_>>().ok_or(UnknownOrigin)?;
            answer.shown = proven.then(|| Covers::new(covers));
        }
        if view.masks() {
            // The proof is about what is hidden: where this principal sees more, an expression may hold what is masked.
            let hidden_in_log = !view.hides() || statement.is_none_or(|statement| !statement.parameters_clear);
            let cover = |column: &Column| match column.table {
                0 if hidden_in_log => Some(Cover::Style(Style::Redact)),
                0 => Some(Cover::Clear),
                table => view.cover_in_log(table, column.attribute),
            };
            let covers: Option<Vec<_>> = columns.iter().map(cover).collect();
            answer.logged = covers.filter(|_| proven).map(Covers::new);
        }
        Ok(answer)
    }
}

/// What is proven of the answer of one of a text's statements.
fn proof(statement: Option<&sql::Statement>, part: usize) -> Option<&sql::Answer> {
    statement?.parts.get(part).map(|part| &part.answer)
}
