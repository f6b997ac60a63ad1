//! The packages that the agent is built on are its direct dependencies, and its sources use them.

use toml_edit::DocumentMut;

use super::{Complaint, source::Source};
use crate::run::Outcome;

/// What the agent is built on.
const FIXED: &[&str] = &["aya", "aya-log", "tokio", "rustls", "libc", "nix", "serde", "sled", "tracing", "clap"];

/// Checks `agent/Cargo.toml` and the agent's sources.
pub fn check(manifest: &str, sources: &[Source]) -> Outcome<Vec<Complaint>> {
    let manifest: DocumentMut = manifest.parse().map_err(|error| format!("agent/Cargo.toml: {error}"))?;
    let mut complaints = Vec::new();
    for name in FIXED {
        if manifest.get("dependencies").and_then(|table| table.get(name)).is_none() {
            complaints.push(Complaint::new("agent/Cargo.toml", format!("{name} is no direct dependency of the agent")));
        }
        let path = format!("{}::", name.replace('-', "_"));
        let used = sources.iter().any(|source| {
            source.path.starts_with("agent/src/") && !source.is_test() && names(source.code_without_tests(), &path)
        });
        if !used {
            complaints.push(Complaint::new("agent/src", format!("nothing uses {name}")));
        }
    }
    Ok(complaints)
}

fn names(code: &str, path: &str) -> bool {
    code.match_indices(path)
        .any(|(offset, _)| !code[..offset].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_and_missing_packages_are_found() {
        let manifest = "[dependencies]\naya.workspace = true\naya-log.workspace = true\n";
        let uses = Source::new("agent/src/a.rs", "use aya::Ebpf;\nuse my_tokio::x;\n");
        let complaints = check(manifest, &[uses]).unwrap_or_default();
        let about = |name: &str| complaints.iter().filter(|complaint| complaint.what.contains(name)).count();
        assert_eq!(about("nothing uses aya-log"), 1);
        assert_eq!(about("tokio"), 2);
        assert_eq!(complaints.len(), 1 + 8 * 2);
    }
}
