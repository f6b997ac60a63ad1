//! What the machine asks about the database: what a text means, and what an origin of an output column is. A trait, so that
//! the machine is tested without a grammar.

use std::sync::Arc;

use super::sql::{Names, Statement};
use crate::masking::Cover;

/// A database as one session sees it: its catalogue, and the columns that are masked.
///
/// What is *masked* is what the configuration says, and the log goes by it; what is *hidden* is what of it this principal
/// may not see, and the client's answers go by that.
pub trait View: Send + Sync {
    /// Understands a text.
    fn classify(&self, text: &str, names: &dyn Names) -> Arc<Statement>;

    /// The text of SQL that calls the function with this OID, with so many parameters as arguments.
    fn call(&self, function: u32, arguments: usize) -> Option<String>;

    /// What covers an output column of this origin (OID of the table, not 0, and attribute number) towards the client.
    /// `None`: the origin is unknown, or nothing can be said of it.
    fn cover(&self, table: u32, attribute: i16) -> Option<Cover>;

    /// The same towards the log.
    fn cover_in_log(&self, table: u32, attribute: i16) -> Option<Cover>;

    /// Whether any column is hidden.
    fn hides(&self) -> bool;

    /// Whether any column is masked.
    fn masks(&self) -> bool;
}

/// How the bytes of a client's texts are read.
///
/// Those whose characters may hold bytes of ASCII are refused: they let a text mean one thing here and another thing at the
/// server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `UTF8`
    Utf8,
    /// `LATIN1`
    Latin1,
    /// Any other that only adds to ASCII, and `SQL_ASCII`, where bytes beyond ASCII mean whatever the server's own encoding
    /// makes of them: they are not understood.
    Ascii,
}

/// Encodings in which a byte of ASCII is nothing but that character, by all names that the server knows.
const ADDING_TO_ASCII: &[&[u8]] = &[
    b"abc",
    b"alt",
    b"euccn",
    b"eucjis2004",
    b"eucjp",
    b"euckr",
    b"euctw",
    b"iso885910",
    b"iso885913",
    b"iso885914",
    b"iso885915",
    b"iso885916",
    b"iso88592",
    b"iso88593",
    b"iso88594",
    b"iso88595",
    b"iso88596",
    b"iso88597",
    b"iso88598",
    b"iso88599",
    b"koi8",
    b"koi8r",
    b"koi8u",
    b"latin10",
    b"latin2",
    b"latin3",
    b"latin4",
    b"latin5",
    b"latin6",
    b"latin7",
    b"latin8",
    b"latin9",
    b"sqlascii",
    b"tcvn",
    b"tcvn5712",
    b"vscii",
    b"win",
    b"win1250",
    b"win1251",
    b"win1252",
    b"win1253",
    b"win1254",
    b"win1255",
    b"win1256",
    b"win1257",
    b"win1258",
    b"win866",
    b"win874",
    b"windows1250",
    b"windows1251",
    b"windows1252",
    b"windows1253",
    b"windows1254",
    b"windows1255",
    b"windows1256",
    b"windows1257",
    b"windows1258",
    b"windows866",
    b"windows874",
];

impl Encoding {
    /// By a name as `SET client_encoding` takes it: case and everything but letters and digits is ignored.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        let clean: Vec<u8> =
            name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
        match clean.as_slice() {
            b"utf8" | b"unicode" => Some(Self::Utf8),
            b"latin1" | b"iso88591" => Some(Self::Latin1),
            name if ADDING_TO_ASCII.contains(&name) => Some(Self::Ascii),
            _ => None,
        }
    }

    /// The text of these bytes; `None` if they are none in this encoding.
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Utf8 => std::str::from_utf8(bytes).ok().map(str::to_owned),
            Self::Latin1 => Some(bytes.iter().map(|&byte| char::from(byte)).collect()),
            Self::Ascii => bytes.is_ascii().then(|| String::from_utf8_lossy(bytes).into_owned()),
        }
    }
}
