//! Statement texts for the log.

use std::ops::Range;

use super::Masked;

/// A statement's text with some of its spans replaced: literals by a placeholder, comments by a space.
///
/// The caller states that no other span holds a value of a masked column. `spans` are byte ranges in ascending order,
/// each with what replaces it; if they do not fit the text, nothing of it is shown.
#[must_use]
pub fn statement_text(text: &str, spans: &[(Range<usize>, &'static str)]) -> Masked<String> {
    replaced(text, spans).map_or_else(|| omitted_text(text, "are not shown"), Masked)
}

/// What stands for a text that must not be shown at all: its length, and why.
#[must_use]
pub fn omitted_text(text: &str, why: &'static str) -> Masked<String> {
    Masked(format!("<{} bytes that {why}>", text.len()))
}

fn replaced(text: &str, spans: &[(Range<usize>, &'static str)]) -> Option<String> {
    let mut shown = String::with_capacity(text.len());
    let mut position = 0;
    for (span, placeholder) in spans {
        shown.push_str(text.get(position..span.start)?);
        shown.push_str(placeholder);
        position = span.end;
    }
    shown.push_str(text.get(position..)?);
    Some(shown)
}
