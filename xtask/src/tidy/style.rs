//! Size of files, words that must not stay, and `unsafe` that says why it is sound.

use super::{
    Complaint,
    source::{Source, line_of},
};

/// Lines that a file may have.
const LINES: usize = 500;

/// Files that may have more, and why.
const LONGER: &[(&str, &str)] = &[];

/// What must not stay in code.
const WORDS: &[(&str, &str)] = &[
    ("todo!", "finish it"),
    ("unimplemented!", "finish it, or deny"),
    ("dbg!", "use tracing"),
    ("#[ignore", "a test that does not run is no test"),
    ("allow(dead_code)", "remove the code"),
    ("allow(unused", "remove the code"),
];

/// Checks all sources.
pub fn check(sources: &[Source]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        if lines > LINES && !LONGER.iter().any(|(path, _)| *path == source.path) {
            complaints.push(Complaint::new(&source.path, format!("{lines} lines; split it: at most {LINES}")));
        }
        for (word, advice) in WORDS {
            for (offset, _) in source.code.match_indices(word) {
                complaints.push(Complaint::at(source, line_of(&source.code, offset), format!("{word}: {advice}")));
            }
        }
        reasons(source, &mut complaints);
    }
    complaints
}

/// `unsafe` stays in files that allow it by name, and every block and implementation says why it is sound.
fn reasons(source: &Source, complaints: &mut Vec<Complaint>) {
    let kernel_side = source.path.starts_with("agent-ebpf/");
    for (offset, _) in source.code.match_indices("unsafe") {
        let before = source.code[..offset].chars().next_back();
        let after = &source.code[offset + "unsafe".len()..];
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
        if before.is_some_and(word) || after.starts_with(word) {
            continue;
        }
        let line = line_of(&source.code, offset);
        if !kernel_side && !source.code.contains("#![allow(unsafe_code)]") {
            complaints.push(Complaint::at(source, line, "unsafe in a file without #![allow(unsafe_code)]"));
        }
        let after = after.trim_start();
        if (after.starts_with('{') || after.starts_with("impl")) && !says_why(source, line) {
            complaints.push(Complaint::at(source, line, "unsafe without a SAFETY comment right above"));
        }
    }
}

/// Whether the comment above a statement that has a line of this number says `SAFETY:`.
fn says_why(source: &Source, line: usize) -> bool {
    let lines: Vec<(&str, &str)> = source.text.lines().zip(source.code.lines()).collect();
    let mut above = lines[..line.min(lines.len())].iter().rev();
    // The line itself may carry the comment.
    if above.next().is_some_and(|(text, _)| text.contains("// SAFETY:")) {
        return true;
    }
    for (text, code) in above {
        let (text, code) = (text.trim(), code.trim());
        if text.starts_with("// SAFETY:") {
            return true;
        }
        // Further up is another statement; a comment's other lines, an attribute and the statement's own first lines are not.
        if code.is_empty() && !text.starts_with("//") || code.ends_with([';', '}']) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        check(&[Source::new(path, text)]).into_iter().map(|complaint| complaint.what).collect()
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(complaints("a/src/a.rs", &"\n".repeat(LINES)).len(), 0);
        assert_eq!(complaints("a/src/a.rs", &"\n".repeat(LINES + 1)).len(), 1);
    }

    #[test]
    fn words_that_must_not_stay_are_found_in_code_only() {
        assert_eq!(complaints("a/src/a.rs", "fn f() { todo!() }\n#[ignore]\n").len(), 2);
        assert_eq!(complaints("a/src/a.rs", "// todo!\nconst A: &str = \"dbg!\";\n").len(), 0);
    }

    #[test]
    fn unsafe_needs_leave_and_a_reason() {
        let leave = "#![allow(unsafe_code)]\n";
        let reason = "// SAFETY: it is.\n// More of it.\n";
        let block = "let a =\n    unsafe { b() };\n";
        assert_eq!(complaints("a/src/a.rs", &format!("{leave}fn f() {{\n{reason}{block}}}")).len(), 0);
        assert_eq!(complaints("a/src/a.rs", &format!("fn f() {{\n{reason}{block}}}")).len(), 1);
        assert_eq!(complaints("a/src/a.rs", &format!("{leave}fn f() {{\n{reason}c();\n{block}}}")).len(), 1);
        assert_eq!(complaints("a/src/a.rs", &format!("{leave}fn f() {{\n{block}}}")).len(), 1);
        assert_eq!(complaints("agent-ebpf/src/a.rs", "fn f() { unsafe { b() } }").len(), 1);
        assert_eq!(complaints("a/src/a.rs", "let unsafe_code = 1; // unsafe {").len(), 0);
    }
}
