//! Errors and notices of the server: their texts may quote values, so where columns are masked only what cannot is passed on.

use bytes::{BufMut, Bytes};

use crate::{
    masking::{Masked, nothing_hidden, without_values},
    protocol::postgres::{
        frame::{Frame, Malformed, server},
        message::{error_fields, put_string, write},
    },
    recording::Failure,
};

/// Classes of SQLSTATE whose messages name objects and states, never values: connection, transaction state, integrity
/// constraints (the values are in the detail), names, transactions, authorisation, syntax, resources, intervention.
const SPEAKING: [&[u8]; 12] = [b"08", b"23", b"25", b"26", b"28", b"34", b"3D", b"40", b"42", b"53", b"55", b"57"];

/// Source files of procedural languages: their code raises what it likes, under any SQLSTATE.
const RAISERS: [&[u8]; 4] = [b"pl_exec.c", b"plpy_elog.c", b"plperl.c", b"pltcl.c"];

/// An error or notice for the client and for the log.
#[derive(Debug)]
pub struct Report {
    /// For the client.
    pub client: Masked<Bytes>,
    /// For the log.
    pub failure: Failure,
    /// The session is over.
    pub fatal: bool,
}

/// Reads an `ErrorResponse` or `NoticeResponse`. `masks`: columns are masked, so it is filtered for the log; `hide`: they are
/// hidden from the client too.
///
/// # Errors
/// [`Malformed`]
pub fn report(frame: &Frame, masks: bool, hide: bool) -> Result<Report, Malformed> {
    let fields = error_fields(frame.body())?;
    let field = |wanted: u8| fields.iter().find(|(code, _)| *code == wanted).map_or(&b""[..], |(_, text)| text);
    let state = field(b'C');
    let class = state.get(..2).unwrap_or_default();
    let speaks = !masks || SPEAKING.contains(&class) && !RAISERS.contains(&field(b'F'));
    let message = if speaks {
        String::from_utf8_lossy(field(b'M')).into_owned()
    } else {
        format!(
            "the target's message is withheld, since it may quote masked values (SQLSTATE {})",
            String::from_utf8_lossy(state)
        )
    };
    let client = if masks && hide {
        without_values(write(frame.kind, |body| {
            for (code, text) in &fields {
                match code {
                    b'M' => {
                        body.put_u8(b'M');
                        put_string(body, message.as_bytes());
                    }
                    b'H' if class != b"42" || !speaks => {}
                    // Severity, SQLSTATE, position, names of objects, and the place in the server's source.
                    b'S' | b'V' | b'C' | b'P' | b'H' | b's' | b't' | b'c' | b'd' | b'n' | b'F' | b'L' | b'R' => {
                        body.put_u8(*code);
                        put_string(body, text);
                    }
                    _ => {}
                }
            }
            body.put_u8(0);
        }))
    } else {
        nothing_hidden(frame.bytes.clone())
    };
    let severity = if field(b'V').is_empty() { field(b'S') } else { field(b'V') };
    Ok(Report {
        client,
        failure: Failure { code: String::from_utf8_lossy(state).into_owned(), message: without_values(message) },
        fatal: frame.kind == server::ERROR_RESPONSE && matches!(severity, b"FATAL" | b"PANIC"),
    })
}

/// A `NotificationResponse` without its payload, which anyone may have filled with anything.
///
/// # Errors
/// [`Malformed`]
pub fn notification(frame: &Frame) -> Result<Masked<Bytes>, Malformed> {
    let mut fields = crate::protocol::postgres::frame::Fields::new(frame.body());
    let (process, channel) = (fields.unsigned()?, fields.string()?);
    fields.string()?;
    fields.end()?;
    Ok(without_values(write(server::NOTIFICATION_RESPONSE, |body| {
        body.put_u32(process);
        put_string(body, channel);
        body.put_u8(0);
    })))
}
