//! What may differ between two runs without meaning anything, and what differs beside that.

use agent_tests::{Cmd, Outcome, TempDir};

use crate::peer::Printed;

/// Lines that only one side has printed, each after `-` (direct) or `+` (through).
///
/// # Errors
/// They cannot be compared.
pub fn changed_lines(right: &Printed, seen: &Printed) -> Outcome<String> {
    let (right, seen) = (normal(right), normal(seen));
    if right == seen {
        return Ok(String::new());
    }
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let write = |name, bytes: &[u8]| dir.write(name, bytes, 0o600).map_err(|error| error.to_string());
    let (right, seen) = (write("direct", &right)?, write("through", &seen)?);
    let finished = Cmd::new("diff")
        .args(["-a", "--unchanged-line-format=", "--old-line-format=-%L", "--new-line-format=+%L"])
        .arg(right)
        .arg(seen)
        .run()?;
    Ok(finished.stdout)
}

/// What was printed, without what must differ.
fn normal(printed: &Printed) -> Vec<u8> {
    let mut text = printed.bytes.clone();
    for normaliser in [files, port] {
        text = normaliser(&text, printed);
    }
    text
}

/// The two runs write their files in directories of their own, and errors name them.
fn files(text: &[u8], printed: &Printed) -> Vec<u8> {
    replaced(text, printed.files.to_string_lossy().as_bytes(), b"PG_ABS_BUILDDIR")
}

/// The two servers have ports of their own, which psql shows when it connects anew.
fn port(text: &[u8], printed: &Printed) -> Vec<u8> {
    replaced(text, format!("port {}", printed.port).as_bytes(), b"port PGPORT")
}

fn replaced(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(old.len()).position(|window| window == old) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(new);
        rest = &rest[at + old.len()..];
    }
    out.extend_from_slice(rest);
    out
}
