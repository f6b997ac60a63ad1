//! A source file, and what of it is code.

use std::{fs, path::Path};

use crate::run::Outcome;

/// Folders with Rust sources.
const FOLDERS: &[&str] = &["agent/src", "agent-common/src", "agent-ebpf/src", "tests", "xtask/src"];

/// A Rust source file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the workspace's directory.
    pub path: String,
    /// Its lines.
    pub text: String,
    /// The same with comments and the contents of literals blanked, line for line.
    pub code: String,
}

impl Source {
    /// From a path and a text.
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into(), code: code(text) }
    }

    /// All sources of the workspace and the kernel side, sorted.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn all(root: &Path) -> Outcome<Vec<Self>> {
        let mut found = Vec::new();
        for folder in FOLDERS {
            collect(root, &root.join(folder), &mut found)?;
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    /// Path of the module within its crate: `agent/src/policy/load.rs` is `policy`, `load`.
    pub fn module(&self) -> Vec<&str> {
        let inner = self.path.split_once("/src/").map_or("", |(_, inner)| inner);
        let inner = inner.strip_suffix(".rs").unwrap_or(inner);
        let mut parts: Vec<&str> = inner.split('/').collect();
        if matches!(parts.last(), Some(&"mod" | &"lib")) {
            parts.pop();
        }
        parts
    }

    /// Whether the whole file holds tests, or what they and fuzzing have in common.
    pub fn is_test(&self) -> bool {
        let module = self.module();
        !self.path.contains("/src/") || ["tests", "rig", "fuzz"].iter().any(|name| module.contains(name))
    }

    /// The code before its inline tests.
    pub fn code_without_tests(&self) -> &str {
        self.code.find("#[cfg(test)]\nmod ").map_or(&self.code, |start| &self.code[..start])
    }
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) -> Outcome {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            found.push(Source::new(&name, &text));
        }
    }
    Ok(())
}

/// Line number of a byte offset.
pub fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// Blanks comments and the contents of literals. Every byte but a newline becomes one space, so that offsets stay.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => find(bytes, at, b"\n").unwrap_or(bytes.len()),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment(bytes, at),
            b'"' => string(bytes, at + 1),
            b'r' if !after_word(bytes, at) && raw_hashes(bytes, at).is_some() => {
                let hashes = raw_hashes(bytes, at).unwrap_or(0);
                let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
                find(bytes, at + hashes + 2, &close).map_or(bytes.len(), |end| end + close.len())
            }
            b'\'' => character(bytes, at),
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes.get(from..)?.windows(what.len()).position(|window| window == what).map(|position| from + position)
}

fn block_comment(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1);
    while at < bytes.len() && depth > 0 {
        if bytes[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if bytes[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
        } else {
            at += 1;
        }
    }
    at.min(bytes.len())
}

fn string(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// Whether the `r` at `at` is only the end of a word. `br"…"` and `cr"…"` are raw strings as well.
fn after_word(bytes: &[u8], at: usize) -> bool {
    let before = |back: usize| at.checked_sub(back).and_then(|at| bytes.get(at)).copied().unwrap_or(b' ');
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    match before(1) {
        b'b' | b'c' => word(before(2)),
        byte => word(byte),
    }
}

/// Number of `#` of a raw string that starts with the `r` at `at`.
fn raw_hashes(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

/// The end of a character literal; a lifetime ends right after its quote.
fn character(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        return find(bytes, at + 3, b"'").map_or(bytes.len(), |end| end + 1);
    }
    // One character of up to four bytes.
    (2..=5).find(|length| bytes.get(at + length) == Some(&b'\'')).filter(|_| bytes.get(at + 1) != Some(&b'\'')).map_or(
        at + 1,
        |length| {
            let one = std::str::from_utf8(&bytes[at + 1..at + length]).is_ok_and(|text| text.chars().count() == 1);
            if one { at + length + 1 } else { at + 1 }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"a("b \" c", d)"#, "a(        , d)"),
            (r##"a(r#"b " c"#, d)"##, "a(          , d)"),
            (r#"a(br"\", d)"#, "a(b    , d)"),
            ("f::<'a>('b', '\\'', 'ä', c)", "f::< a>(   ,     ,     , c)"),
            ("for r in x { \"y\" }", "for r in x {     }"),
        ];
        for (text, wanted) in cases {
            assert_eq!(code(text), wanted, "{text}");
        }
    }

    #[test]
    fn modules_follow_from_paths() {
        assert_eq!(Source::new("agent/src/lib.rs", "").module(), Vec::<&str>::new());
        assert_eq!(Source::new("agent/src/gate.rs", "").module(), ["gate"]);
        assert_eq!(Source::new("agent/src/policy/mod.rs", "").module(), ["policy"]);
        assert_eq!(Source::new("agent/src/protocol/postgres/wire.rs", "").module(), ["protocol", "postgres", "wire"]);
        assert!(Source::new("agent/src/policy/tests.rs", "").is_test());
        assert!(Source::new("tests/e2e/main.rs", "").is_test());
    }

    #[test]
    fn inline_tests_are_no_code() {
        let source = Source::new("agent/src/a.rs", "use crate::b;\n#[cfg(test)]\nmod tests { use crate::c; }\n");
        assert_eq!(source.code_without_tests(), "use crate::b;\n");
    }
}
