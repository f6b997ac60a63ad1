//! How a command ends when it does not end well.

use std::{fmt, io, process::ExitCode};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// Whoever reads the output has gone away, as `head` does: nothing is wrong.
    Quiet,
    /// Something to tell.
    Told {
        /// The exit code.
        code: Code,
        /// What happened, to what and why.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
}

/// Exit codes beside 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Refused, or found wrong.
    Wrong = 1,
    /// Bad usage or configuration.
    Usage = 2,
    /// The daemon is not there.
    Absent = 3,
}

impl Failure {
    /// Refused, or found wrong.
    #[must_use]
    pub fn wrong(message: impl Into<String>) -> Self {
        Self::Told { code: Code::Wrong, message: message.into(), remedy: None }
    }

    /// Bad usage or configuration.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Told { code: Code::Usage, message: message.into(), remedy: None }
    }

    /// The daemon is not there.
    #[must_use]
    pub fn absent(message: impl Into<String>) -> Self {
        Self::Told { code: Code::Absent, message: message.into(), remedy: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_remedy(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Told { code, message, .. } => Self::Told { code, message, remedy: Some(advice.into()) },
            Self::Quiet => Self::Quiet,
        }
    }

    /// What the process exits with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Quiet => ExitCode::SUCCESS,
            Self::Told { code, .. } => ExitCode::from(*code as u8),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Quiet,
            _ => Self::wrong(format!("the output cannot be written: {error}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        io::Error::from(error).into()
    }
}

/// As it is printed on standard error: whole lines, or nothing.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Told { message, remedy, .. } = self else { return Ok(()) };
        write!(f, "postern: {message}")?;
        match remedy {
            Some(remedy) => writeln!(f, "\n  {remedy}"),
            None => writeln!(f),
        }
    }
}
