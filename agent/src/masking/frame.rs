//! Masking of one row of an answer, and of the texts around it: the values are the protocol's, taken apart and put together
//! by its [`Codec`]; which of them may be shown, and what is shown of the others, is decided here.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Cover, Covers, Masked, style::hide};
use crate::model::Style;

/// A protocol's own encoding of a row. It sees values, and never decides whether one is shown.
pub trait Codec {
    /// Takes a frame apart into its values; `None` is NULL.
    ///
    /// # Errors
    /// The frame is no row.
    fn split<'a>(&self, frame: &'a [u8]) -> Result<Vec<Option<&'a [u8]>>, Unreadable>;

    /// Puts a frame together.
    ///
    /// # Errors
    /// The values do not fit into a frame.
    fn join(&self, values: &[Option<Cow<'_, [u8]>>]) -> Result<Bytes, Unreadable>;

    /// A value in text form, for the log.
    fn text(&self, column: usize, value: &[u8]) -> String;

    /// What stands for a masked value: valid for the column's type, showing no more than `style` does; `None` is NULL.
    /// `hide` masks a text.
    fn masked(
        &self,
        column: usize,
        value: &[u8],
        style: Style,
        hide: &dyn Fn(Style, &str) -> Option<String>,
    ) -> Option<Vec<u8>>;
}

/// A row could not be taken apart, or has another number of columns than its covers: nothing of it may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of the answer cannot be read")]
pub struct Unreadable;

/// A row for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Values in text form; `None` is NULL.
    pub values: Masked<Vec<Option<String>>>,
    /// Whether a value was cut.
    pub cut: bool,
}

/// A row for the client. NULL stays NULL: every style shows whether there is a value.
///
/// # Errors
/// [`Unreadable`]
pub fn frame(covers: &Covers, key: &[u8], codec: &dyn Codec, frame: Bytes) -> Result<Masked<Bytes>, Unreadable> {
    if covers.all_clear() {
        return Ok(Masked(frame));
    }
    let values = codec.split(&frame)?;
    codec.join(&shown(covers, key, codec, &values)?).map(Masked)
}

/// Rows or copied lines as they are, where nothing covers any of them.
///
/// # Errors
/// [`Unreadable`]: something does.
pub fn verbatim<T>(covers: &Covers, shown: T) -> Result<Masked<T>, Unreadable> {
    if covers.all_clear() { Ok(Masked(shown)) } else { Err(Unreadable) }
}

/// The same row for the log; values are cut to `longest` bytes.
///
/// # Errors
/// [`Unreadable`]
pub fn row(covers: &Covers, key: &[u8], codec: &dyn Codec, frame: &[u8], longest: usize) -> Result<Row, Unreadable> {
    let values = codec.split(frame)?;
    let mut cut = false;
    let texts = shown(covers, key, codec, &values)?
        .iter()
        .enumerate()
        .map(|(column, value)| {
            let value = value.as_deref()?;
            let mut text = codec.text(column, value);
            if text.len() > longest {
                text.truncate(text.floor_char_boundary(longest));
                cut = true;
            }
            Some(text)
        })
        .collect();
    Ok(Row { values: Masked(texts), cut })
}

fn shown<'a>(
    covers: &Covers,
    key: &[u8],
    codec: &dyn Codec,
    values: &[Option<&'a [u8]>],
) -> Result<Vec<Option<Cow<'a, [u8]>>>, Unreadable> {
    if covers.all_clear() {
        return Ok(values.iter().map(|value| value.map(Cow::Borrowed)).collect());
    }
    if covers.columns().len() != values.len() {
        return Err(Unreadable);
    }
    let shown = covers.columns().iter().zip(values).enumerate().map(|(column, (cover, value))| {
        let value = (*value)?;
        match cover {
            Cover::Clear => Some(Cow::Borrowed(value)),
            Cover::Style(style) => {
                codec.masked(column, value, *style, &|style, text| hide(style, key, text)).map(Cow::Owned)
            }
        }
    });
    Ok(shown.collect())
}

/// A message to a client from whom nothing of this target is hidden: no column is masked for it, or it is only observed.
#[must_use]
pub fn nothing_hidden(message: Bytes) -> Masked<Bytes> {
    Masked(message)
}

/// A parameter of a statement for the log: as it is if the statement touches nothing masked, else a placeholder.
#[must_use]
pub fn parameter(clear: bool, text: Option<String>) -> Masked<Option<String>> {
    Masked(text.map(|text| if clear { text } else { "?".into() }))
}
