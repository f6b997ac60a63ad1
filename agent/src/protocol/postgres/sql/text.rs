//! The text of a statement as the log shows it.

use std::ops::Range;

use pg_query::protobuf::Token;

use crate::masking::{self, Masked};

/// What stands for a literal.
const PLACEHOLDER: &str = "?";

/// The text as it is: it is proven to touch no masked column, and holds no password.
pub(super) fn whole(text: &str) -> Masked<String> {
    masking::statement_text(text, &[])
}

/// The text without its literals and comments.
///
/// The server's own scanner finds them, so that a literal is what the server takes for one. What it cannot scan is not
/// shown.
pub(super) fn placeholders(text: &str) -> Masked<String> {
    let shown = spans(text).map(|spans| masking::statement_text(text, &spans));
    match shown {
        // A placeholder beside another token must not have made a literal of the two.
        Some(shown) if spans(shown.shown()).is_some_and(|left| left.is_empty()) => shown,
        _ => unread(text),
    }
}

/// Only the length of a text that could not be read.
pub(super) fn unread(text: &str) -> Masked<String> {
    masking::omitted_text(text, "do not parse")
}

/// Literals and comments, in order, with what replaces each. `None` if the text does not scan.
fn spans(text: &str) -> Option<Vec<(Range<usize>, &'static str)>> {
    let mut spans = Vec::new();
    for token in pg_query::scan(text).ok()?.tokens {
        let placeholder = match token.token() {
            Token::Iconst | Token::Fconst | Token::Sconst | Token::Usconst | Token::Bconst | Token::Xconst => {
                PLACEHOLDER
            }
            Token::SqlComment | Token::CComment => " ",
            _ => continue,
        };
        spans.push((usize::try_from(token.start).ok()?..usize::try_from(token.end).ok()?, placeholder));
    }
    Some(spans)
}
