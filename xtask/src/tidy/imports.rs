//! Which part of the agent may import which, and what the pure parts may not touch.

use super::{
    Complaint,
    source::{Source, line_of},
};

/// Parts that wire the others together, and so may import all of them.
const WIRING: &[&str] = &["main", "cli", "control", "session"];

/// For each other part, what of the crate it may import: a module, or one item of it. Left may import right:
/// session -> protocol -> gate -> services -> policy, masking -> model; services do not import each other.
const EDGES: &[(&str, &[&str])] = &[
    // The records that a protocol writes are nouns of the log; the log itself it reaches through the gate.
    (
        "protocol",
        &[
            "gate",
            "limits",
            "masking",
            "model",
            "config",
            "recording::AnswerPart",
            "recording::Event",
            "recording::Failure",
            "recording::SessionStart",
        ],
    ),
    ("gate", &["limits", "masking", "model", "recording::Append", "recording::Decision", "recording::Event"]),
    // It starts the attempts, and is what judges them.
    ("warden", &["model", "config", "selftest"]),
    ("selftest", &[]),
    ("target", &["model", "config"]),
    ("identity", &["model", "config"]),
    ("limits", &["model", "config"]),
    ("credential", &["model", "config"]),
    ("recording", &["masking", "model", "config"]),
    ("policy", &["model"]),
    ("masking", &["model"]),
    ("config", &["model"]),
    ("model", &[]),
];

/// Parts that know no socket, clock, async or protocol, and the words that would tell.
const PURE: &[&str] = &["policy", "masking"];
const IMPURE_WORDS: &[&str] = &[
    "async ",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "std::net",
    "std::os::unix::net",
    "tokio",
    "postgres",
    "rustls",
];

/// Checks the agent's sources.
pub fn check(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("agent/src/") && !source.is_test()) {
        let module = source.module();
        let Some(part) = module.first().copied() else { continue };
        if WIRING.contains(&part) {
            continue;
        }
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == part) else {
            complaints.push(Complaint::new(&source.path, format!("module {part} is in neither table of {}", file!())));
            continue;
        };
        let code = source.code_without_tests();
        for (offset, import) in imports(code, &module) {
            if let Some(what) = fault(&module, &import, allowed) {
                complaints.push(Complaint::at(source, line_of(code, offset), what));
            }
        }
        if PURE.contains(&part) {
            for word in IMPURE_WORDS {
                for (offset, _) in code.match_indices(word) {
                    let what =
                        format!("{part} is pure: it knows no socket, clock, async or protocol ({})", word.trim());
                    complaints.push(Complaint::at(source, line_of(code, offset), what));
                }
            }
        }
    }
    complaints
}

fn fault(module: &[&str], import: &[String], allowed: &[&str]) -> Option<String> {
    let (part, other) = (*module.first()?, import.first()?);
    if other == part {
        // One protocol's folder never imports another's.
        let sibling = |path: Option<&str>| path.filter(|name| name.starts_with(char::is_lowercase)).map(str::to_owned);
        let (own, theirs) = (module.get(1).copied(), sibling(import.get(1).map(String::as_str)));
        let folders = part == "protocol" && own.is_some() && import.len() > 2;
        return match theirs {
            Some(theirs) if folders && PROTOCOLS.contains(&&*theirs) && own != Some(&theirs) => {
                Some(format!("protocol {} may not import its sibling {theirs}", own.unwrap_or_default()))
            }
            _ => None,
        };
    }
    let path = import.join("::");
    let fits = |edge: &&str| path == **edge || path.starts_with(&format!("{edge}::"));
    if allowed.iter().any(fits) {
        return None;
    }
    Some(format!("{part} may not import {path}; it may: {}", allowed.join(", ")))
}

/// Folders of `protocol` that are protocols, rather than what they share.
const PROTOCOLS: &[&str] = &["postgres", "mysql", "ssh", "kubernetes", "redis", "mongodb"];

/// Every path into the crate that the code of a module names, from the crate's root, with its offset.
fn imports(code: &str, module: &[&str]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for (offset, _) in code.match_indices("crate::") {
        if !word_before(code, offset) && !code[..offset].ends_with("::") {
            expand(&code[offset + "crate::".len()..], Vec::new(), &mut |path| found.push((offset, path)));
        }
    }
    for (offset, _) in code.match_indices("super::") {
        if word_before(code, offset) || code[..offset].ends_with("super::") {
            continue;
        }
        let mut rest = &code[offset..];
        let mut above: Vec<String> = module.iter().map(ToString::to_string).collect();
        while let Some(inner) = rest.strip_prefix("super::") {
            above.pop();
            rest = inner;
        }
        // Within the own part everything goes; only what leaves it matters.
        expand(rest, above, &mut |path| found.push((offset, path)));
    }
    found
}

fn word_before(code: &str, offset: usize) -> bool {
    code[..offset].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
}

/// Follows a path, and each branch of its braces, and gives every one to `found`.
fn expand<'a>(mut code: &'a str, mut path: Vec<String>, found: &mut dyn FnMut(Vec<String>)) -> &'a str {
    loop {
        code = code.trim_start();
        if let Some(mut inner) = code.strip_prefix('{') {
            loop {
                inner = expand(inner, path.clone(), found).trim_start();
                match inner.strip_prefix(',') {
                    Some(rest) if !rest.trim_start().starts_with('}') => inner = rest,
                    Some(rest) => return rest.trim_start().strip_prefix('}').unwrap_or(rest),
                    None => return inner.strip_prefix('}').unwrap_or(inner),
                }
            }
        }
        let end = code.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(code.len());
        let (word, rest) = code.split_at(end);
        if !word.is_empty() && word != "self" {
            path.push(word.into());
        }
        match rest.strip_prefix("::") {
            Some(inner) if !inner.starts_with('<') => code = inner,
            _ => {
                if !path.is_empty() {
                    found(path);
                }
                let rest = rest.strip_prefix('*').unwrap_or(rest);
                return rest.trim_start().strip_prefix("as ").map_or(rest, |alias| {
                    alias.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(code: &str, module: &[&str]) -> Vec<String> {
        imports(code, module).into_iter().map(|(_, path)| path.join("::")).collect()
    }

    fn complaints(path: &str, code: &str) -> usize {
        check(&[Source::new(path, code)]).len()
    }

    #[test]
    fn use_trees_are_expanded() {
        let code = "use crate::{\n    a::{B, c::D as E, f::*},\n    g::{self, H},\n};\nfn x() { crate::i::j(); }";
        assert_eq!(paths(code, &["k"]), ["a::B", "a::c::D", "a::f", "g", "g::H", "i::j"]);
    }

    #[test]
    fn super_is_followed_to_the_root() {
        assert_eq!(paths("use super::super::policy::X;", &["protocol", "postgres"]), ["policy::X"]);
        assert_eq!(paths("use super::wire;", &["protocol", "postgres", "machine"]), ["protocol::postgres::wire"]);
    }

    #[test]
    fn edges_to_the_left_are_found() {
        assert_eq!(complaints("agent/src/policy/mod.rs", "use crate::{gate::Gate, model::Action};"), 1);
        assert_eq!(complaints("agent/src/protocol/postgres/mod.rs", "use crate::recording::Event;"), 0);
        assert_eq!(complaints("agent/src/protocol/postgres/mod.rs", "use crate::recording::Journal;"), 1);
        assert_eq!(complaints("agent/src/protocol/postgres/mod.rs", "fn f() { super::super::policy::g() }"), 1);
        assert_eq!(complaints("agent/src/identity/mod.rs", "use crate::warden::Process;"), 1);
        assert_eq!(complaints("agent/src/session.rs", "use crate::warden::Process;"), 0);
        assert_eq!(complaints("agent/src/policy/tests.rs", "use crate::gate::Gate;"), 0);
        assert_eq!(
            complaints("agent/src/policy/mod.rs", "// crate::gate\n#[cfg(test)]\nmod t { use crate::gate; }"),
            0
        );
    }

    #[test]
    fn protocols_do_not_import_each_other() {
        assert_eq!(complaints("agent/src/protocol/mysql/mod.rs", "use crate::protocol::postgres::Frame;"), 1);
        assert_eq!(
            complaints("agent/src/protocol/mysql/mod.rs", "use crate::protocol::{tls::Upgrade, mysql::Frame};"),
            0
        );
        assert_eq!(complaints("agent/src/protocol/mod.rs", "use crate::protocol::postgres::Driver;"), 0);
    }

    #[test]
    fn pure_parts_know_nothing_of_the_world() {
        assert_eq!(complaints("agent/src/masking/style.rs", "use tokio::sync::Mutex;"), 1);
        assert_eq!(complaints("agent/src/policy/mod.rs", "fn now() -> jiff::Zoned { jiff::Zoned::now() }"), 1);
        assert_eq!(complaints("agent/src/recording/mod.rs", "use tokio::sync::Mutex;"), 0);
    }

    #[test]
    fn an_unknown_part_is_a_complaint() {
        assert_eq!(complaints("agent/src/helpers.rs", ""), 1);
    }
}
