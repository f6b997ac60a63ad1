//! What must not compile: ways around the gate, around masking, around secrets.
//!
//! `cases/NAME.rs` starts with `// error: CODE` and must be refused with that code and no other. Its twin `cases/NAME.ok.rs`
//! does the same thing rightly and must compile, so that the refusal has no other cause.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::SystemTime,
};

use agent_tests::{Outcome, TempDir, suite};
use serde_json::Value;

fn main() -> ExitCode {
    match (Compiler::new(), cases()) {
        (Ok(compiler), Ok(cases)) => {
            let mut suite = suite("compile-fail");
            for case in cases {
                let compiler = &compiler;
                let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
                suite = suite.case(name, move || compiler.check(&case));
            }
            suite.run()
        }
        (Err(error), _) | (_, Err(error)) => suite("compile-fail").case("preparation", || Err(error)).run(),
    }
}

/// All case files, refused ones and twins; each must have the other.
fn cases() -> Outcome<Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("compile-fail/cases");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in &files {
        let twin = twin(file);
        if !twin.is_file() {
            return Err(format!("{} is missing", twin.display()));
        }
    }
    Ok(files)
}

fn is_twin(file: &Path) -> bool {
    file.to_string_lossy().ends_with(".ok.rs")
}

fn twin(file: &Path) -> PathBuf {
    let name = file.to_string_lossy();
    match name.strip_suffix(".ok.rs") {
        Some(stem) => format!("{stem}.rs").into(),
        None => file.with_extension("ok.rs"),
    }
}

/// The compiler, with the crates that this program itself was built with.
struct Compiler {
    dependencies: PathBuf,
    harness: PathBuf,
    out: TempDir,
}

impl Compiler {
    fn new() -> Outcome<Self> {
        let this = std::env::current_exe().map_err(|error| error.to_string())?;
        let dependencies = this.parent().ok_or("this program is nowhere")?.to_owned();
        // Each set of features has a library of its own; the newest is of the newest sources. The harness names the crates
        // beside it exactly, so that the cases use them through it.
        let harness = fs::read_dir(&dependencies)
            .map_err(|error| format!("{}: {error}", dependencies.display()))?
            .flatten()
            .filter(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.starts_with("libagent_tests-") && name.ends_with(".rlib")
            })
            .max_by_key(|entry| entry.metadata().and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH))
            .ok_or("the library of the harness is not beside this program")?
            .path();
        let out = TempDir::new().map_err(|error| format!("temporary directory: {error}"))?;
        Ok(Self { dependencies, harness, out })
    }

    fn check(&self, case: &Path) -> Outcome {
        let text = fs::read_to_string(case).map_err(|error| format!("{}: {error}", case.display()))?;
        let wanted: BTreeSet<String> = if is_twin(case) {
            BTreeSet::new()
        } else {
            let code = text.lines().next().and_then(|line| line.strip_prefix("// error: "));
            BTreeSet::from([code.ok_or("its first line is not `// error: CODE`")?.to_owned()])
        };
        let (found, said) = self.errors(case)?;
        if found == wanted { Ok(()) } else { Err(format!("found {found:?}, wanted {wanted:?}\n{said}")) }
    }

    /// Codes of the errors that the compiler finds in a file, and what it says about them.
    fn errors(&self, file: &Path) -> Outcome<(BTreeSet<String>, String)> {
        let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        command.args([
            "--edition=2024",
            "--crate-type=lib",
            "--crate-name=case",
            "--emit=metadata",
            "--error-format=json",
        ]);
        command.arg("--out-dir").arg(self.out.path());
        command.arg("-L").arg(format!("dependency={}", self.dependencies.display()));
        command.arg("--extern").arg(format!("agent_tests={}", self.harness.display()));
        command.env_remove("RUSTFLAGS").arg(file);
        let output = command.output().map_err(|error| format!("rustc: {error}"))?;
        let (mut codes, mut said) = (BTreeSet::new(), String::new());
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
            if message["level"] != "error"
                || message["message"].as_str().is_some_and(|text| text.starts_with("aborting"))
            {
                continue;
            }
            codes.insert(message["code"]["code"].as_str().unwrap_or("without a code").to_owned());
            said.push_str(message["rendered"].as_str().unwrap_or_default());
        }
        if codes.is_empty() && !output.status.success() {
            return Err(format!("rustc: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
        Ok((codes, said))
    }
}
