//! What is wrong with a policy, and where: file, line, column, the line itself, and what to do.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Width of an excerpt, in characters: longer lines are cut, so that a report stays readable on a terminal.
const EXCERPT: usize = 160;

/// One fault in a policy file, or in a file beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 if the fault is about the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 if the fault is about the file as a whole.
    pub column: usize,
    /// What is wrong, in one sentence.
    pub message: String,
    /// The line, without its end.
    pub excerpt: Option<String>,
    /// How many characters of the line are meant, from `column` on. At least 1 if there is an excerpt.
    pub width: usize,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault of a file as a whole.
    pub(super) fn whole(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: 0, column: 0, message: message.into(), excerpt: None, width: 0, hint: None }
    }

    /// A fault at bytes `start..end` of the text of a file. Only the first line of that range is shown.
    pub(super) fn at(file: &Path, text: &str, start: usize, end: usize, message: impl Into<String>) -> Self {
        let start = floor(text, start);
        let end = floor(text, end.max(start));
        let begin = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let stop = text[begin..].find('\n').map_or(text.len(), |length| begin + length);
        let excerpt: String = text[begin..stop].trim_end_matches('\r').chars().take(EXCERPT).collect();
        let column = text[begin..start].chars().count() + 1;
        let shown = excerpt.chars().count().saturating_sub(column - 1).max(1);
        Self {
            file: file.to_owned(),
            line: text[..begin].matches('\n').count() + 1,
            column,
            message: message.into(),
            excerpt: Some(excerpt.replace('\t', " ")),
            width: text[start..end.min(stop).max(start)].chars().count().clamp(1, shown),
            hint: None,
        }
    }

    /// The same with advice.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The nearest character boundary at or before `offset`.
fn floor(text: &str, offset: usize) -> usize {
    (0..=offset.min(text.len())).rev().find(|&offset| text.is_char_boundary(offset)).unwrap_or(0)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        if self.line == 0 {
            write!(f, "{file}: {}", self.message)?;
        } else {
            write!(f, "{file}:{}:{}: {}", self.line, self.column, self.message)?;
        }
        if let Some(excerpt) = &self.excerpt {
            let gutter = self.line.to_string().len();
            let indent = " ".repeat(self.column.saturating_sub(1));
            write!(f, "\n{:gutter$} |\n{} | {excerpt}", "", self.line)?;
            if self.column <= EXCERPT {
                write!(f, "\n{:gutter$} | {indent}{}", "", "^".repeat(self.width))?;
            }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Why a set of policies was refused: all its faults at once, in the order of files and lines. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct LoadErrors(pub Vec<Fault>);

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            write!(f, "{fault}\n\n")?;
        }
        match self.0.len() {
            1 => write!(f, "1 fault: none of these policies is in force"),
            count => write!(f, "{count} faults: none of these policies is in force"),
        }
    }
}
