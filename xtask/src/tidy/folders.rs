//! Every suite is in the table, has a folder and an entry in `tests/Cargo.toml`; and nothing else has.

use std::{collections::BTreeSet, fs, path::Path};

use toml_edit::DocumentMut;

use super::Complaint;
use crate::{
    run::Outcome,
    suites::{FUZZ, SUITES, UNIT},
};

/// Programs of the tests' crate, which are no suites.
const PROGRAMS: &[&str] = &["bench", "demo"];

/// Suites that are tests of the libraries, and so have neither.
const WITHIN: &[&str] = &[UNIT, FUZZ];

/// Names of the folders that have a `main.rs`.
///
/// # Errors
/// The folder cannot be read.
pub fn list(tests: &Path) -> Outcome<Vec<String>> {
    let entries = fs::read_dir(tests).map_err(|error| format!("{}: {error}", tests.display()))?;
    let names = entries.flatten().filter(|entry| entry.path().join("main.rs").is_file());
    Ok(names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// Checks the names in the manifest, of the folders and in the table against each other.
pub fn check(manifest: &str, folders: &[String]) -> Outcome<Vec<Complaint>> {
    let manifest: DocumentMut = manifest.parse().map_err(|error| format!("tests/Cargo.toml: {error}"))?;
    let entries = manifest.get("test").and_then(|tests| tests.as_array_of_tables());
    let entries = entries.into_iter().flatten().filter_map(|entry| entry.get("name")?.as_str());
    let entries: BTreeSet<&str> = entries.collect();
    let folders: BTreeSet<&str> = folders.iter().map(String::as_str).filter(|name| !PROGRAMS.contains(name)).collect();
    let table: BTreeSet<&str> = SUITES.iter().map(|suite| suite.name).filter(|name| !WITHIN.contains(name)).collect();
    let places = [
        (&entries, "a [[test]] in tests/Cargo.toml"),
        (&folders, "a folder with main.rs in tests/"),
        (&table, "an entry in xtask/src/suites.rs"),
    ];
    let mut complaints = Vec::new();
    for name in entries.iter().chain(&folders).chain(&table).collect::<BTreeSet<_>>() {
        for (names, what) in places {
            if !names.contains(*name) {
                complaints.push(Complaint::new("tests", format!("suite {name} lacks {what}")));
            }
        }
    }
    Ok(complaints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_that_is_missing_anywhere_is_found() {
        let mut manifest = String::new();
        let mut folders = vec!["demo".to_owned()];
        for suite in SUITES.iter().filter(|suite| !WITHIN.contains(&suite.name)) {
            manifest.push_str(&format!("[[test]]\nname = \"{}\"\n", suite.name));
            folders.push(suite.name.into());
        }
        assert_eq!(check(&manifest, &folders), Ok(Vec::new()));
        assert_eq!(check(&manifest, &folders[..folders.len() - 1]).map(|found| found.len()), Ok(1));
        manifest.push_str("[[test]]\nname = \"stray\"\n");
        assert_eq!(check(&manifest, &folders).map(|found| found.len()), Ok(2));
    }
}
