//! Values of PostgreSQL types in text and binary form: shown in the log, and masked so that they stay valid for their type.
//!
//! A type whose values cannot show what a style shows gets NULL. Names and OIDs are those of `pg_type.dat`.

use std::borrow::Cow;

use bytes::{BufMut, Bytes};
use jiff::{ToSpan, civil::Date};

use super::{
    frame::{Fields, server},
    message::{Column, format_of, write},
};
use crate::{
    masking::{Codec, Unreadable},
    model::Style,
};

const BOOL: u32 = 16;
const NAME: u32 = 19;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const OID: u32 = 26;
const JSON: u32 = 114;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const UNKNOWN: u32 = 705;
const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const DATE: u32 = 1082;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const UUID: u32 = 2950;

/// Day 0 of binary dates and timestamps.
const EPOCH: Date = jiff::civil::date(2000, 1, 1);
const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;

/// Rows of an answer whose columns have these types and formats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    types: Vec<u32>,
    formats: Vec<i16>,
}

impl Rows {
    /// Rows of columns as the server described them.
    #[must_use]
    pub fn described(columns: &[Column]) -> Self {
        Self {
            types: columns.iter().map(|column| column.oid).collect(),
            formats: columns.iter().map(|column| column.format).collect(),
        }
    }

    /// Rows of these types as far as they are known, in the formats that `Bind` asked for.
    #[must_use]
    pub fn bound(types: Vec<u32>, formats: Vec<i16>) -> Self {
        Self { types, formats }
    }

    fn column(&self, position: usize) -> (u32, i16) {
        (self.types.get(position).copied().unwrap_or(UNKNOWN), format_of(&self.formats, position))
    }
}

impl Codec for Rows {
    fn split<'a>(&self, frame: &'a [u8]) -> Result<Vec<Option<&'a [u8]>>, Unreadable> {
        let mut fields = Fields::new(frame.get(super::frame::HEADER..).ok_or(Unreadable)?);
        let values = fields.list(4, Fields::value).map_err(|_| Unreadable)?;
        fields.end().map_err(|_| Unreadable)?;
        Ok(values)
    }

    fn join(&self, values: &[Option<Cow<'_, [u8]>>]) -> Result<Bytes, Unreadable> {
        let count = u16::try_from(values.len()).map_err(|_| Unreadable)?;
        Ok(write(server::DATA_ROW, |body| {
            body.put_u16(count);
            for value in values {
                match value {
                    // A value came in a frame below 64 MiB, and its mask is no longer than a few bytes more.
                    Some(value) => {
                        body.put_i32(i32::try_from(value.len()).unwrap_or(-1));
                        body.put_slice(value);
                    }
                    None => body.put_i32(-1),
                }
            }
        }))
    }

    fn text(&self, column: usize, value: &[u8]) -> String {
        let (oid, format) = self.column(column);
        text(oid, format, value)
    }

    fn masked(
        &self,
        column: usize,
        value: &[u8],
        style: Style,
        hide: &dyn Fn(Style, &str) -> Option<String>,
    ) -> Option<Vec<u8>> {
        let (oid, format) = self.column(column);
        match (oid, style) {
            (_, Style::Null) => None,
            (TEXT | VARCHAR | BPCHAR | NAME | UNKNOWN, _) => {
                let text = String::from_utf8_lossy(value);
                // A bpchar is padded; the last four of the padding would show nothing but its length.
                let text = if oid == BPCHAR { text.trim_end_matches(' ') } else { &text };
                hide(style, text).map(String::into_bytes)
            }
            (DATE | TIMESTAMP | TIMESTAMPTZ, Style::Year) => year(oid, format, value),
            _ => None,
        }
    }
}

/// January 1 of the year of a date or timestamp, in the same form. `None` for infinity, years before the common era, and
/// styles of dates other than ISO.
fn year(oid: u32, format: i16, value: &[u8]) -> Option<Vec<u8>> {
    if format == 0 {
        let text = std::str::from_utf8(value).ok()?;
        let (year, rest) = text.split_at(text.find('-')?);
        let iso = year.len() >= 4
            && year.bytes().all(|byte| byte.is_ascii_digit())
            && rest.len() >= 6
            && rest.as_bytes()[3] == b'-'
            && !text.ends_with("BC");
        let suffix = match oid {
            DATE => "",
            TIMESTAMP => " 00:00:00",
            _ => " 00:00:00+00",
        };
        return iso.then(|| format!("{year}-01-01{suffix}").into_bytes());
    }
    if oid == DATE {
        let days = i32::from_be_bytes(value.try_into().ok()?);
        let first = first_of_year(i64::from(days))?;
        return Some(i32::try_from(first).ok()?.to_be_bytes().to_vec());
    }
    let micros = i64::from_be_bytes(value.try_into().ok()?);
    let first = first_of_year(micros.div_euclid(MICROSECONDS_PER_DAY))?;
    Some(first.checked_mul(MICROSECONDS_PER_DAY)?.to_be_bytes().to_vec())
}

/// The first day of the year of a day, both counted from 2000-01-01.
fn first_of_year(day: i64) -> Option<i64> {
    let date = EPOCH.checked_add(day_span(day)?).ok()?;
    if date.year() < 1 {
        return None;
    }
    let first = jiff::civil::Date::new(date.year(), 1, 1).ok()?;
    Some(i64::from(EPOCH.until(first).ok()?.get_days()))
}

fn day_span(days: i64) -> Option<jiff::Span> {
    // Wider than what jiff can represent is wider than what it can add.
    0.days().try_days(days).ok()
}

/// A value in text form, for the log. Binary values of types that are not listed show their size only.
#[must_use]
pub fn text(oid: u32, format: i16, value: &[u8]) -> String {
    if format == 0 {
        return String::from_utf8_lossy(value).into_owned();
    }
    let shown = match (oid, value) {
        (TEXT | VARCHAR | BPCHAR | NAME | JSON, _) => std::str::from_utf8(value).ok().map(str::to_owned),
        (BOOL, [byte]) => Some(if *byte == 0 { "f" } else { "t" }.to_owned()),
        (INT2, &[a, b]) => Some(i16::from_be_bytes([a, b]).to_string()),
        (INT4, &[a, b, c, d]) => Some(i32::from_be_bytes([a, b, c, d]).to_string()),
        (OID, &[a, b, c, d]) => Some(u32::from_be_bytes([a, b, c, d]).to_string()),
        (INT8, _) => value.try_into().ok().map(|bytes| i64::from_be_bytes(bytes).to_string()),
        (FLOAT4, &[a, b, c, d]) => Some(f32::from_be_bytes([a, b, c, d]).to_string()),
        (FLOAT8, _) => value.try_into().ok().map(|bytes| f64::from_be_bytes(bytes).to_string()),
        (DATE, &[a, b, c, d]) => date(i64::from(i32::from_be_bytes([a, b, c, d]))).map(|date| date.to_string()),
        (TIMESTAMP | TIMESTAMPTZ, _) => value.try_into().ok().and_then(|bytes| timestamp(i64::from_be_bytes(bytes))),
        (UUID, _) if value.len() == 16 => {
            let hex = hex::encode(value);
            Some(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
        }
        _ => None,
    };
    shown.unwrap_or_else(|| format!("<{} bytes>", value.len()))
}

fn date(day: i64) -> Option<Date> {
    EPOCH.checked_add(day_span(day)?).ok()
}

fn timestamp(micros: i64) -> Option<String> {
    let within = micros.rem_euclid(MICROSECONDS_PER_DAY);
    let time = date(micros.div_euclid(MICROSECONDS_PER_DAY))?.at(0, 0, 0, 0).checked_add(within.microseconds()).ok()?;
    Some(format!("{} {}", time.date(), time.time()))
}

#[cfg(test)]
mod tests;
