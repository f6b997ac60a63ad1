//! Policies: the examples say what their verdict tables expect, and each faulty set gets the report that is kept beside it.
//!
//! A case is a file `NN-name.cedar` with its report in `NN-name.expected`. `POSTERN_TEST_BLESS=1` writes the reports anew, to
//! be read before they are committed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use agent::{policy, protocol::FRAGMENTS};
use agent_tests::{Outcome, TempDir, suite};

/// Where a faulty set is said to be.
const FILE: &str = "/etc/postern/policies/test.cedar";

fn main() -> ExitCode {
    match (below("../policies"), below("policy/cases")) {
        (Ok(examples), Ok(cases)) => run(examples, cases),
        (Err(reason), _) | (_, Err(reason)) => {
            println!("policy: preparation ... FAILED\n    {reason}\n0 passed, 1 failed, 0 skipped");
            ExitCode::FAILURE
        }
    }
}

fn run(examples: Vec<PathBuf>, cases: Vec<PathBuf>) -> ExitCode {
    let mut suite = suite("policy")
        .case("a directory that is not there is said to be so", absent)
        .case("a table that is not there, is no TOML, or is empty fails", tables)
        .case("a verdict that is not the expected one fails, and is shown", unexpected)
        .case("a case that cannot be tried fails", untried)
        .case("a file that is not text is a fault", not_text);
    for example in examples.into_iter().filter(|path| path.is_dir()) {
        suite = suite.case(format!("example {}", name(&example)), move || verdicts(&example));
    }
    for case in cases.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "cedar")) {
        suite = suite.case(name(&case), move || faulty(&case));
    }
    suite.run()
}

/// What is in a folder of this repository, sorted.
fn below(folder: &str) -> Outcome<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A directory with one file of policies and, if given, one table.
fn directory(policies: &[u8], table: Option<&str>) -> Outcome<TempDir> {
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    fs::write(dir.join("test.cedar"), policies).map_err(|error| error.to_string())?;
    if let Some(table) = table {
        fs::write(dir.join("verdicts.toml"), table).map_err(|error| error.to_string())?;
    }
    Ok(dir)
}

/// The example passes, and no policy of it goes without a case.
fn verdicts(example: &Path) -> Outcome {
    let tested = policy::test(example, FRAGMENTS);
    if tested.passed() && tested.untested.is_empty() { Ok(()) } else { Err(tested.to_string()) }
}

fn faulty(case: &Path) -> Outcome {
    let text = fs::read(case).map_err(|error| error.to_string())?;
    let dir = directory(&text, None)?;
    let checked = policy::check(dir.path(), FRAGMENTS);
    if checked.passed() {
        return Err("this set was accepted".into());
    }
    let report = format!("{checked}\n").replace(&dir.join("test.cedar").display().to_string(), FILE);
    let expected = case.with_extension("expected");
    if std::env::var_os("POSTERN_TEST_BLESS").is_some_and(|value| value == "1") {
        return fs::write(&expected, report).map_err(|error| error.to_string());
    }
    let kept = fs::read_to_string(&expected).map_err(|error| format!("{}: {error}", expected.display()))?;
    if kept == report { Ok(()) } else { Err(format!("the report is\n{report}\nand the one that is kept\n{kept}")) }
}

fn absent() -> Outcome {
    let checked = policy::check(Path::new("/no/such/policies"), FRAGMENTS);
    let shown = checked.to_string();
    if !checked.passed() && shown.starts_with("/no/such/policies: the directory of policies cannot be read") {
        Ok(())
    } else {
        Err(shown)
    }
}

const READER: &str =
    "@id(\"reader\")\npermit (principal in Role::\"reader\", action, resource in Target::\"orders\");\n";

fn tested(table: Option<&str>) -> Outcome<(bool, String)> {
    let dir = directory(READER.as_bytes(), table)?;
    let tested = policy::test(dir.path(), FRAGMENTS);
    Ok((tested.passed(), tested.to_string()))
}

/// Fails unless the test of a table fails and its report says so in these words.
fn fails(table: Option<&str>, words: &str) -> Outcome {
    let (passed, shown) = tested(table)?;
    if !passed && shown.contains(words) { Ok(()) } else { Err(format!("expected: {words}\n{shown}")) }
}

fn tables() -> Outcome {
    fails(None, "verdicts.toml: this file cannot be read")?;
    fails(Some("[[case]\n"), "verdicts.toml:1:")?;
    fails(Some(""), "there is no [[case]] here")?;
    fails(Some("[[case]]\nname = \"x\"\nexpects = \"permit\"\n"), "verdicts.toml:3:1: unknown field `expects`")
}

fn unexpected() -> Outcome {
    let case = |roles: &str, rest: &str| {
        format!("[[case]]\nname = \"x\"\nroles = [{roles}]\naction = \"connect\"\nresource = \"Target orders\"\n{rest}")
    };
    fails(Some(&case("", "expect = \"permit\"\n")), "verdict  deny: no policy permits connect on Target orders")?;
    fails(Some(&case("\"reader\"", "expect = \"deny\"\n")), "verdict  permit by reader")?;
    fails(Some(&case("\"reader\"", "expect = \"permit\"\nrule = \"other\"\n")), "expected permit by other")?;
    match tested(Some(&case("\"reader\"", "expect = \"permit\"\nrule = \"reader\"\n")))? {
        (true, shown) if shown.contains("1 right, 0 wrong") => Ok(()),
        (_, shown) => Err(shown),
    }
}

fn untried() -> Outcome {
    let case = |action: &str, resource: &str, facts: &str| {
        format!(
            "[[case]]\nname = \"x\"\naction = \"{action}\"\nresource = '{resource}'\nfacts = {{ {facts} }}\nexpect = \"deny\"\n"
        )
    };
    fails(Some(&case("conect", "Target orders", "")), "no action is named conect")?;
    fails(Some(&case("connect", "Tarket orders", "")), "is not a resource")?;
    fails(Some(&case("sql:select", "Table orders.shop.customers", "")), "is not a resource")?;
    fails(Some(&case("connect", "Target orders", "has_where = true")), "has no fact named has_where")
}

fn not_text() -> Outcome {
    let dir = directory(b"permit \xff", None)?;
    let checked = policy::check(dir.path(), FRAGMENTS);
    let shown = checked.to_string();
    if shown.contains("test.cedar: this file cannot be read") { Ok(()) } else { Err(shown) }
}
