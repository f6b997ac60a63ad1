//! What is known to differ, and why: `known.txt`.

use std::{collections::BTreeMap, path::Path};

use agent_tests::Outcome;

/// How many tests may differ. It only ever gets smaller.
const MOST: usize = 3;

/// Differences, by test.
#[derive(Debug)]
pub struct Known(BTreeMap<String, String>);

impl Known {
    /// Reads them: a comment (`#`) that says why, `== TEST`, and the lines that differ.
    ///
    /// # Errors
    /// There are too many, or one has no reason.
    pub fn read() -> Outcome<Self> {
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        let (mut test, mut reason) = (None, false);
        for line in include_str!("known.txt").split_inclusive('\n') {
            if let Some(name) = line.strip_prefix("== ") {
                let name = name.trim().to_owned();
                if !std::mem::take(&mut reason) {
                    return Err(format!("known.txt: no comment says why {name} differs"));
                }
                if known.insert(name.clone(), String::new()).is_some() {
                    return Err(format!("known.txt: {name} is there twice"));
                }
                test = Some(name);
            } else if line.starts_with('#') {
                reason = true;
            } else if line.starts_with(['+', '-']) {
                let lines = test.as_ref().and_then(|test| known.get_mut(test)).ok_or("known.txt: lines of no test")?;
                lines.push_str(line);
            } else if !line.trim().is_empty() {
                return Err(format!("known.txt: what is {line:?}?"));
            }
        }
        if known.len() > MOST {
            return Err(format!("known.txt: {} tests differ, and {MOST} may", known.len()));
        }
        Ok(Self(known))
    }

    /// The lines by which a test is known to differ.
    #[must_use]
    pub fn lines(&self, test: &str) -> &str {
        self.0.get(test).map_or("", String::as_str)
    }

    /// Fails if it names a test that does not exist.
    ///
    /// # Errors
    /// The name of that test.
    pub fn are_among(&self, source: &Path) -> Outcome {
        match self.0.keys().find(|name| !source.join(format!("sql/{name}.sql")).is_file()) {
            Some(name) => Err(format!("known.txt names {name}, which is no test")),
            None => Ok(()),
        }
    }
}
