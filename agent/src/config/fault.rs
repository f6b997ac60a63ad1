//! What is wrong with a configuration: file, line, what, and the remedy; and the nearest word to a mistyped one.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

/// Letters that a word shares with a longer one before it is taken for its beginning.
const PREFIX: usize = 4;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The configuration file.
    pub file: PathBuf,
    /// Line, from 1; 0 if the fault is about the file as a whole.
    pub line: usize,
    /// What is wrong, in one sentence.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}\n    remedy: {}", self.what, self.remedy)
    }
}

/// Why a configuration was refused: all its faults at once, by line. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Fault>);

impl ConfigErrors {
    /// The one fault of a file that could not be read at all.
    pub(super) fn whole(file: &Path, what: String, remedy: &str) -> Self {
        Self(vec![Fault { file: file.to_owned(), line: 0, what, remedy: remedy.to_owned() }])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            writeln!(f, "{fault}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 fault: this configuration is refused"),
            count => write!(f, "{count} faults: this configuration is refused"),
        }
    }
}

/// The known word that a mistyped one is most likely meant to be: at most a third of its letters differ, or one of the two
/// goes on where the other ends.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = (word.chars().count() / 3).max(1);
    let goes_on = |candidate: &str| {
        word.len().min(candidate.len()) >= PREFIX && (word.starts_with(candidate) || candidate.starts_with(word))
    };
    known
        .into_iter()
        .map(|candidate| (if goes_on(candidate) { 1 } else { distance(word, candidate) }, candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Words in double quotes, separated by commas.
pub(super) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")
}
