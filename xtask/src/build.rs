//! Building: the kernel side with its own compiler, then the workspace.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    run::{self, Outcome},
    setup::{self, Toolchain},
};

/// Where the kernel side is, with a lock and a target directory of its own.
const KERNEL_SIDE: &str = "agent-ebpf";

/// Builds the eBPF object, which the agent embeds.
///
/// # Errors
/// A program failed.
pub fn kernel_side() -> Outcome {
    let dir = run::root().join(KERNEL_SIDE);
    if !dir.join("Cargo.toml").is_file() {
        return Err(format!("{} is missing", dir.display()));
    }
    let toolchain = Toolchain::find()?;
    let linker = setup::linker()?.join("bin");
    let path = std::env::join_paths([&linker, Path::new("/usr/bin"), Path::new("/bin")]).map_err(|e| e.to_string())?;
    let mut command = toolchain.cargo();
    command
        .args(["build", "--release", "--target", "bpfel-unknown-none", "-Zbuild-std=core"])
        .current_dir(&dir)
        .env("PATH", path)
        .env("CARGO_TARGET_DIR", dir.join("target"))
        .env("RUSTC_BOOTSTRAP", "1");
    run::must(&mut command)
}

/// Builds `postern` alone, with the features that the whole workspace gives its dependencies: they are built once.
///
/// # Errors
/// The build failed.
pub fn agent(release: bool) -> Outcome {
    let mut command = cargo("build")?;
    command.args(["--workspace", "--bin", "postern"]);
    if release {
        command.arg("--release");
    }
    run::must(&mut command)
}

/// What a build of the whole workspace made.
#[derive(Debug, Default)]
pub struct Built {
    programs: BTreeMap<String, PathBuf>,
    /// Names and files of the test programs: package, target, file.
    pub tests: Vec<(String, String, PathBuf)>,
}

impl Built {
    /// The file of a program.
    ///
    /// # Errors
    /// There is no such program.
    pub fn program(&self, name: &str) -> Outcome<PathBuf> {
        self.programs.get(name).cloned().ok_or_else(|| format!("the workspace has no program {name}"))
    }
}

/// Which targets of the workspace to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Programs only.
    Programs,
    /// Programs and tests.
    All,
}

/// Builds the whole workspace in one go, so that all of it shares its dependencies.
///
/// # Errors
/// The build failed.
pub fn workspace(what: What) -> Outcome<Built> {
    let mut built = Built::default();
    let mut command = cargo("build")?;
    let targets = if what == What::All { "--all-targets" } else { "--bins" };
    command.args(["--workspace", targets, "--message-format=json-render-diagnostics"]);
    let status = run::lines(&mut command, |line| built.note(line))?;
    if status.success() { Ok(built) } else { Err(format!("cargo build failed: {status}")) }
}

impl Built {
    fn note(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else { return };
        let (Some(file), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) else {
            return;
        };
        if message["profile"]["test"] == Value::Bool(true) || message["target"]["kind"][0] == "test" {
            let package = message["package_id"].as_str().map(package_name).unwrap_or_default();
            self.tests.push((package.into(), name.into(), file.into()));
        } else {
            self.programs.insert(name.into(), file.into());
        }
    }
}

/// Name in a package id: `path+file:///…/agent-common#0.1.0`, `path+file:///…/tests#agent-tests@0.1.0`.
fn package_name(id: &str) -> &str {
    let (place, version) = id.rsplit_once('#').unwrap_or((id, ""));
    match version.split_once('@') {
        Some((name, _)) => name,
        None => place.rsplit('/').next().unwrap_or(place),
    }
}

/// Builds the program that runs the targets of fuzzing. What the agent depends on is built as for all else.
///
/// # Errors
/// libFuzzer is missing, or the build failed.
pub fn fuzz() -> Outcome<PathBuf> {
    let libfuzzer = setup::libfuzzer();
    if !libfuzzer.is_file() {
        return Err(format!("libFuzzer is missing: {}", libfuzzer.display()));
    }
    let mut built = Built::default();
    let mut command = cargo("build")?;
    command
        .args(["--workspace", "--bin", "fuzz", "--features", "agent-tests/fuzz"])
        .arg("--message-format=json-render-diagnostics")
        .env("RUSTC_WORKSPACE_WRAPPER", run::root().join("tests/fuzz/rustc.sh"))
        .env("POSTERN_LIBFUZZER", libfuzzer)
        // It would cut the agent into hundreds of pieces, which are slow.
        .env("CARGO_INCREMENTAL", "0");
    let status = run::lines(&mut command, |line| built.note(line))?;
    if status.success() { built.program("fuzz") } else { Err(format!("cargo build failed: {status}")) }
}

/// A cargo command for the workspace.
///
/// # Errors
/// A directory could not be made.
pub fn cargo(word: &str) -> Outcome<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(word).current_dir(run::root());
    // What cargo says to this program of itself: build scripts (of ring) would take it for a change, and build again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    if let Some(path) = path_without_protoc().map_err(|error| format!("a PATH without protoc: {error}"))? {
        command.env("PATH", path);
    }
    Ok(command)
}

/// `PATH` with every directory that holds `protoc` replaced by one with links to all else in it; `None` if none does.
///
/// The build of pg_query would rewrite its own source with any `protoc` that it finds.
fn path_without_protoc() -> io::Result<Option<OsString>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut changed = false;
    let mut directories = Vec::new();
    for (position, directory) in std::env::split_paths(&path).enumerate() {
        if !directory.join("protoc").exists() {
            directories.push(directory);
            continue;
        }
        changed = true;
        let links = run::target().join("tools/path").join(position.to_string());
        let _ = fs::remove_dir_all(&links);
        fs::create_dir_all(&links)?;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if entry.file_name() != "protoc" {
                symlink(entry.path(), links.join(entry.file_name()))?;
            }
        }
        directories.push(links);
    }
    if changed { std::env::join_paths(directories).map(Some).map_err(io::Error::other) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_ids_of_both_kinds_have_names() {
        assert_eq!(package_name("path+file:///a/agent-common#0.1.0"), "agent-common");
        assert_eq!(package_name("path+file:///a/tests#agent-tests@0.1.0"), "agent-tests");
    }

    #[test]
    fn test_programs_are_told_from_programs() {
        let mut built = Built::default();
        built.note(
            r#"{"package_id":"path+file:///a/agent#0.1.0","target":{"name":"agent","kind":["lib"]},"profile":{"test":true},"executable":"/t/agent-1"}"#,
        );
        built.note(
            r#"{"package_id":"path+file:///a/agent#0.1.0","target":{"name":"postern","kind":["bin"]},"profile":{"test":false},"executable":"/t/postern"}"#,
        );
        built.note(r#"{"target":{"name":"agent","kind":["lib"]},"executable":null}"#);
        assert_eq!(built.tests, [("agent".to_owned(), "agent".to_owned(), "/t/agent-1".into())]);
        assert_eq!(built.program("postern"), Ok("/t/postern".into()));
        assert!(built.program("agent").is_err());
    }
}
