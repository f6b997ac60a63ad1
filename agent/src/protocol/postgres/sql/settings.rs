//! Settings: which of them a client may change by itself.

use super::{Reading, requests};
use crate::model::{Action, Request};

/// Settings that change how values are shown, or bound the session's own work: what drivers set by themselves.
///
/// `search_path` is among them because an unqualified name means every relation of that name anyway.
const HARMLESS: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_min_messages",
    "datestyle",
    "default_text_search_config",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "escape_string_warning",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "search_path",
    "statement_timeout",
    "timezone",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_timeout",
    "xmloption",
];

/// Settings that name who the session acts as.
const IDENTITY: &[&str] = &["role", "session_authorization"];

/// Encodings in which a byte below 0x80 may be part of a longer character, so that a quote need not be a quote.
const UNSAFE_ENCODINGS: &[&str] = &[
    "big5",
    "gb18030",
    "gbk",
    "johab",
    "mskanji",
    "shiftjis",
    "shiftjis2004",
    "sjis",
    "uhc",
    "win932",
    "win936",
    "win949",
    "win950",
    "windows932",
    "windows936",
    "windows949",
    "windows950",
];

/// The encoding that texts are read in here, by all its names, and the one that makes the server not look at them.
const UTF8: &[&str] = &["sqlascii", "unicode", "utf8"];

/// What a change of a setting must be permitted for.
///
/// `value` is `None` where it goes back to its default, and for values that are not constants. Startup parameters are
/// decided by this too.
#[must_use]
pub fn setting(name: &str, value: Option<&str>, reading: &Reading) -> Action {
    let request = request(name, value, reading);
    requests::action([request], [name.to_ascii_lowercase()])
}

/// Whether a setting changes how texts are read, so that its value matters.
pub(super) fn changes_reading(name: &str) -> bool {
    matches!(name.to_ascii_lowercase().as_str(), "standard_conforming_strings" | "client_encoding")
}

/// The one request that a change of a setting makes.
pub(super) fn request(name: &str, value: Option<&str>, reading: &Reading) -> Request {
    let name = name.to_ascii_lowercase();
    let action = match (name.as_str(), value) {
        ("standard_conforming_strings", Some(value)) if !is_on(value) => "sql:opaque",
        ("standard_conforming_strings", _) => "sql:basics",
        ("client_encoding", Some(value)) => encoding(value),
        ("client_encoding", None) => "sql:basics",
        (name, _) if IDENTITY.contains(&name) => "sql:grant",
        (name, _) if HARMLESS.contains(&name) => "sql:basics",
        _ => "sql:set",
    };
    Request::new(action, requests::database(reading))
}

/// Spellings of true that the server takes, abbreviations included.
fn is_on(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    matches!(value.as_str(), "on" | "1")
        || (!value.is_empty() && ("true".starts_with(&value) || "yes".starts_with(&value)))
}

fn encoding(value: &str) -> &'static str {
    let value: String = value.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    if UTF8.contains(&value.as_str()) {
        "sql:basics"
    } else if UNSAFE_ENCODINGS.contains(&value.as_str()) {
        "sql:opaque"
    } else {
        "sql:set"
    }
}
