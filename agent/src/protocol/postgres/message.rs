//! The messages whose fields matter, read and written.

use bytes::{BufMut, Bytes, BytesMut};

use super::frame::{Fields, Malformed, client, server};

/// `Parse`
#[derive(Debug)]
pub struct Parse<'a> {
    /// Name of the statement; empty for the unnamed one.
    pub name: &'a [u8],
    /// Text.
    pub text: &'a [u8],
    /// OIDs of the parameter types that the client prescribes; 0 leaves one open.
    pub types: Vec<u32>,
}

impl<'a> Parse<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let parse = Self { name: fields.string()?, text: fields.string()?, types: fields.list(4, Fields::unsigned)? };
        fields.end()?;
        Ok(parse)
    }
}

/// `Bind`
#[derive(Debug)]
pub struct Bind<'a> {
    /// Name of the portal; empty for the unnamed one.
    pub portal: &'a [u8],
    /// Name of the statement.
    pub statement: &'a [u8],
    /// Format codes of the parameters: none (all text), one for all, or one each.
    pub formats: Vec<i16>,
    /// Parameters; `None` is NULL.
    pub parameters: Vec<Option<&'a [u8]>>,
    /// Format codes of the result columns, as `formats`.
    pub results: Vec<i16>,
}

impl<'a> Bind<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let bind = Self {
            portal: fields.string()?,
            statement: fields.string()?,
            formats: fields.list(2, Fields::int16)?,
            parameters: fields.list(4, Fields::value)?,
            results: fields.list(2, Fields::int16)?,
        };
        fields.end()?;
        Ok(bind)
    }
}

/// `FunctionCall`
#[derive(Debug)]
pub struct FunctionCall<'a> {
    /// OID of the function.
    pub function: u32,
    /// Format codes of the arguments, as in [`Bind`].
    pub formats: Vec<i16>,
    /// Arguments; `None` is NULL.
    pub arguments: Vec<Option<&'a [u8]>>,
    /// Format code of the result.
    pub result: i16,
}

impl<'a> FunctionCall<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`]
    pub fn read(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(body);
        let call = Self {
            function: fields.unsigned()?,
            formats: fields.list(2, Fields::int16)?,
            arguments: fields.list(4, Fields::value)?,
            result: fields.int16()?,
        };
        fields.end()?;
        Ok(call)
    }
}

/// The value of `FunctionCallResponse`.
///
/// # Errors
/// [`Malformed`]
pub fn function_result(body: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut fields = Fields::new(body);
    let value = fields.value()?;
    fields.end()?;
    Ok(value)
}

/// Format code number `position` of a list of format codes: none means text for all, one counts for all.
#[must_use]
pub fn format_of(formats: &[i16], position: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(position).copied().unwrap_or(0),
    }
}

/// What `Describe` and `Close` name: a statement (`S`) or a portal (`P`).
///
/// # Errors
/// [`Malformed`]
pub fn named(body: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    let mut fields = Fields::new(body);
    let kind = fields.byte()?;
    let name = fields.string()?;
    fields.end()?;
    if matches!(kind, b'S' | b'P') { Ok((kind, name)) } else { Err(Malformed) }
}

/// The portal that `Execute` names; the row limit is the server's affair.
///
/// # Errors
/// [`Malformed`]
pub fn execute(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut fields = Fields::new(body);
    let portal = fields.string()?;
    fields.int32()?;
    fields.end()?;
    Ok(portal)
}

/// The text of `Query`.
///
/// # Errors
/// [`Malformed`]
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut fields = Fields::new(body);
    let text = fields.string()?;
    fields.end()?;
    Ok(text)
}

/// A column as `RowDescription` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: String,
    /// OID of the table that it comes from; 0 if from none.
    pub table: u32,
    /// Attribute number in that table; 0 if none.
    pub attribute: i16,
    /// OID of the type.
    pub oid: u32,
    /// Format code: 0 text, 1 binary.
    pub format: i16,
}

/// The columns of `RowDescription`.
///
/// # Errors
/// [`Malformed`]
pub fn row_description(body: &[u8]) -> Result<Vec<Column>, Malformed> {
    // Shortest column: an empty name and 18 bytes.
    const LEAST: usize = 19;
    let mut fields = Fields::new(body);
    let columns = fields.list(LEAST, |fields| {
        let name = String::from_utf8_lossy(fields.string()?).into_owned();
        let (table, attribute, oid) = (fields.unsigned()?, fields.int16()?, fields.unsigned()?);
        let (_size, _modifier) = (fields.int16()?, fields.int32()?);
        Ok(Column { name, table, attribute, oid, format: fields.int16()? })
    })?;
    fields.end()?;
    Ok(columns)
}

/// Whether `CopyInResponse` or `CopyOutResponse` announces lines of text, and not the binary form.
///
/// # Errors
/// [`Malformed`]
pub fn copies_text(body: &[u8]) -> Result<bool, Malformed> {
    let mut fields = Fields::new(body);
    let format = fields.byte()?;
    fields.list(2, Fields::int16)?;
    fields.end()?;
    match format {
        0 => Ok(true),
        1 => Ok(false),
        _ => Err(Malformed),
    }
}

/// The types of `ParameterDescription`.
///
/// # Errors
/// [`Malformed`]
pub fn parameter_description(body: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut fields = Fields::new(body);
    let types = fields.list(4, Fields::unsigned)?;
    fields.end()?;
    Ok(types)
}

/// Name and value of `ParameterStatus`.
///
/// # Errors
/// [`Malformed`]
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut fields = Fields::new(body);
    let pair = (fields.string()?, fields.string()?);
    fields.end()?;
    Ok(pair)
}

/// The fields of `ErrorResponse` and `NoticeResponse`: a code letter and a text each.
///
/// # Errors
/// [`Malformed`]
pub fn error_fields(body: &[u8]) -> Result<Vec<(u8, &[u8])>, Malformed> {
    let mut fields = Fields::new(body);
    let mut found = Vec::new();
    loop {
        match fields.byte()? {
            0 => {
                fields.end()?;
                return Ok(found);
            }
            code => found.push((code, fields.string()?)),
        }
    }
}

/// Writes a message of a type with a body.
#[must_use]
pub fn write(kind: u8, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::with_capacity(64);
    bytes.put_u8(kind);
    bytes.put_u32(0);
    body(&mut bytes);
    let length = u32::try_from(bytes.len() - 1).unwrap_or(u32::MAX);
    bytes[1..5].copy_from_slice(&length.to_be_bytes());
    bytes.freeze()
}

/// Writes a `String` field. A zero byte within it would end it early, so there it ends.
pub fn put_string(bytes: &mut BytesMut, string: &[u8]) {
    bytes.put_slice(string.split(|&byte| byte == 0).next().unwrap_or_default());
    bytes.put_u8(0);
}

/// `ReadyForQuery`
#[must_use]
pub fn ready_for_query(status: u8) -> Bytes {
    write(server::READY_FOR_QUERY, |body| body.put_u8(status))
}

/// `Query`
#[must_use]
pub fn write_query(text: &str) -> Bytes {
    write(client::QUERY, |body| put_string(body, text.as_bytes()))
}

/// `Parse` without prescribed types.
#[must_use]
pub fn write_parse(name: &str, text: &str) -> Bytes {
    write(client::PARSE, |body| {
        put_string(body, name.as_bytes());
        put_string(body, text.as_bytes());
        body.put_u16(0);
    })
}

/// `Describe` or `Close` of a statement (`S`) or portal (`P`).
#[must_use]
pub fn write_named(message: u8, kind: u8, name: &[u8]) -> Bytes {
    write(message, |body| {
        body.put_u8(kind);
        put_string(body, name);
    })
}

/// A message without a body.
#[must_use]
pub fn write_bare(kind: u8) -> Bytes {
    write(kind, |_| {})
}
