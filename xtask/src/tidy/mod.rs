//! Checks of the layout that no compiler makes. Each is a pure function from sources to complaints.

mod dependencies;
mod folders;
mod imports;
mod source;
mod style;

use std::fs;

use crate::run::{self, Outcome};

use source::Source;

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// File, and line if there is one.
    place: String,
    /// What is wrong, and what to do.
    what: String,
}

impl Complaint {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }

    fn at(source: &Source, line: usize, what: impl Into<String>) -> Self {
        Self::new(format!("{}:{line}", source.path), what)
    }
}

/// Checks everything, prints the complaints and gives their number.
///
/// # Errors
/// A file cannot be read.
pub fn tidy() -> Outcome<usize> {
    let root = run::root();
    let read = |path: &str| fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"));
    let sources = Source::all(&root)?;
    let mut complaints = imports::check(&sources);
    complaints.extend(dependencies::check(&read("agent/Cargo.toml")?, &sources)?);
    complaints.extend(style::check(&sources));
    complaints.extend(folders::check(&read("tests/Cargo.toml")?, &folders::list(&root.join("tests"))?)?);
    for complaint in &complaints {
        println!("{}: {}", complaint.place, complaint.what);
    }
    println!("tidy: {} files, {} complaints", sources.len(), complaints.len());
    Ok(complaints.len())
}
