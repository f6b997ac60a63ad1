//! How a value is hidden: a style applied to its text.
//!
//! *Invariant:* what comes out depends on nothing of the value but what the style is there to show, not even on its length. A
//! value that is not of the shape that a style expects is replaced whole.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::model::Style;

/// In place of a whole value.
pub const REDACTED: &str = "[redacted]";
/// In place of a value of style [`Style::Fixed`], and of the hidden part of others.
pub const HIDDEN: &str = "***";
/// Characters that [`Style::Last4`] shows.
const SHOWN: usize = 4;
/// Bytes of the keyed hash that are shown: 128 bits, so that two values of one target do not meet by chance.
const HASH: usize = 16;

/// The text to show for a value; `None` is NULL.
///
/// - `Redact`: `[redacted]`.
/// - `Null`: NULL.
/// - `Fixed`: `***`.
/// - `Last4`: `***` and the last four letters or digits, if there are more than four; else `[redacted]`.
/// - `Hash`: HMAC-SHA256 under `key`, cut to 32 hexadecimal digits: equal values stay equal. The key is 32 random
///   bytes per target, so that values can be neither guessed offline nor compared across targets.
/// - `Email`: `a***@***.org`: the first character of the local part, and the top-level domain.
/// - `Year`: of a date or time that begins `YYYY-MM-DD`, the first of January of its year, which is a date still.
#[must_use]
pub fn hide(style: Style, key: &[u8], text: &str) -> Option<String> {
    let shown = match style {
        Style::Null => return None,
        Style::Redact => None,
        Style::Fixed => Some(HIDDEN.to_owned()),
        Style::Last4 => last4(text),
        Style::Hash => hash(key, text),
        Style::Email => email(text),
        Style::Year => year(text),
    };
    Some(shown.unwrap_or_else(|| REDACTED.to_owned()))
}

fn last4(text: &str) -> Option<String> {
    let mut backwards = text.chars().rev().filter(|each| each.is_alphanumeric());
    let shown: Vec<char> = backwards.by_ref().take(SHOWN).collect();
    // With four or fewer, the end would be the whole.
    backwards.next()?;
    Some(HIDDEN.chars().chain(shown.into_iter().rev()).collect())
}

/// `None` without a key: a hash that anyone can compute hides nothing.
fn hash(key: &[u8], text: &str) -> Option<String> {
    if key.is_empty() {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().get(..HASH).map(hex::encode)
}

fn email(text: &str) -> Option<String> {
    let (local, domain) = text.split_once('@')?;
    let (name, top) = domain.rsplit_once('.')?;
    let first = local.chars().next()?;
    // A top-level domain is letters, or `xn--` and more: anything else is not an address, and could be the secret itself.
    let ends = (2..=63).contains(&top.len()) && top.starts_with(|each: char| each.is_ascii_alphabetic());
    let whole = ends && top.bytes().all(|each| each.is_ascii_alphanumeric() || each == b'-') && !name.is_empty();
    let odd = |each: char| each == '@' || each.is_whitespace() || each.is_control();
    (whole && !text.replacen('@', "", 1).contains(odd)).then(|| format!("{first}{HIDDEN}@{HIDDEN}.{top}"))
}

fn year(text: &str) -> Option<String> {
    let date = text.get(..10)?.as_bytes();
    let shape = date.iter().zip(b"0000-00-00").all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        _ => byte == shape,
    });
    // Behind the day there is nothing, or a time of day; and no year counted from another epoch.
    let rest = &text[10..];
    let ends = rest.is_empty() || rest.starts_with([' ', 'T']);
    (shape && ends && !rest.ends_with("BC")).then(|| format!("{}-01-01", &text[..4]))
}

#[cfg(test)]
mod tests;
