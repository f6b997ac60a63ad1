//! Native errors: what a client is told in its own protocol.

use std::borrow::Cow;

use bytes::{BufMut, Bytes};

use super::{
    frame::server,
    message::{put_string, write},
};
use crate::{
    masking::{Masked, without_values},
    model::{Denial, Limit, Measure},
};

/// How grave an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
}

/// An `ErrorResponse` of Postern's own. Holds no data of the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeError {
    severity: Severity,
    code: &'static str,
    message: String,
    detail: Option<String>,
    hint: Option<Cow<'static, str>>,
}

/// `feature_not_supported`
pub const NOT_SUPPORTED: &str = "0A000";
/// `protocol_violation`
pub const PROTOCOL_VIOLATION: &str = "08P01";
/// `sqlclient_unable_to_establish_sqlconnection`
pub const CANNOT_CONNECT: &str = "08001";
/// `admin_shutdown`
pub const SHUTDOWN: &str = "57P01";
/// `connection_failure`
pub const CONNECTION_FAILURE: &str = "08006";
/// `invalid_authorization_specification`
pub const AUTHORIZATION: &str = "28000";
/// `invalid_password`
pub const PASSWORD: &str = "28P01";
/// `insufficient_privilege`
pub const DENIED: &str = "42501";
/// `invalid_sql_statement_name`
pub const NO_STATEMENT: &str = "26000";
/// `invalid_cursor_name`
pub const NO_PORTAL: &str = "34000";
/// `name_too_long`
pub const NAME_TOO_LONG: &str = "42622";
/// `program_limit_exceeded`
pub const TOO_LONG: &str = "54000";
/// `configuration_limit_exceeded`
pub const LIMIT: &str = "53400";
/// `too_many_connections`
pub const TOO_MANY: &str = "53300";
/// `invalid_parameter_value`
pub const PARAMETER: &str = "22023";
/// `config_file_error`
pub const CONFIGURATION: &str = "F0000";

impl NativeError {
    /// The statement failed.
    #[must_use]
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), detail: None, hint: None }
    }

    /// The session ends.
    #[must_use]
    pub fn fatal(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(code, message) }
    }

    /// A refused operation, with what can be done about it: SQLSTATE 42501, or that of a limit.
    #[must_use]
    pub fn denied(denial: &Denial) -> Self {
        let code = match &denial.limit {
            None => DENIED,
            Some(Limit { measure: Measure::Sessions, .. }) => TOO_MANY,
            Some(_) => LIMIT,
        };
        let hint = denial.hint.clone().map_or(
            Cow::Borrowed("Ask the operator of Postern for a policy that permits this, if you need it."),
            Cow::Owned,
        );
        Self { hint: Some(hint), ..Self::error(code, denial.to_string()) }
    }

    /// The same as the end of the session.
    #[must_use]
    pub fn and_end(self) -> Self {
        Self { severity: Severity::Fatal, ..self }
    }

    /// With what it is about.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// With advice.
    #[must_use]
    pub fn hint(self, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// As `ErrorResponse`.
    pub fn encode(&self) -> Masked<Bytes> {
        let severity: &[u8] = match self.severity {
            Severity::Error => b"ERROR",
            Severity::Fatal => b"FATAL",
        };
        without_values(write(server::ERROR_RESPONSE, |body| {
            let hint = self.hint.as_deref().map(str::as_bytes);
            let detail = self.detail.as_deref().map(str::as_bytes);
            let fields: [(u8, Option<&[u8]>); 6] = [
                (b'S', Some(severity)),
                (b'V', Some(severity)),
                (b'C', Some(self.code.as_bytes())),
                (b'M', Some(self.message.as_bytes())),
                (b'D', detail),
                (b'H', hint),
            ];
            for (code, text) in fields {
                if let Some(text) = text {
                    body.put_u8(code);
                    put_string(body, text);
                }
            }
            body.put_u8(0);
        }))
    }
}
