//! Upstream secrets, and which login serves a principal.
//!
//! *Invariant:* a [`Secret`] cannot be printed or serialised, and its memory is wiped when it goes.

mod keys;

use zeroize::Zeroizing;

pub use self::keys::MaskingKeys;
use crate::{config::Credential, model::Denial};

/// A password longer than this is something else: a wrong file.
const MAX_SECRET: usize = 4096;

/// A password. It has neither `Debug` nor `Display` nor `Serialize`, so that no log line and no record can hold it.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// What a password file holds: its bytes without one newline at the end.
    ///
    /// # Errors
    /// It holds no password.
    pub fn from_file(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        match bytes.as_slice() {
            [] => Err(SecretError::Empty),
            long if long.len() > MAX_SECRET => Err(SecretError::TooLong),
            odd if odd.iter().any(|byte| matches!(byte, 0 | b'\n')) => Err(SecretError::NotOneLine),
            _ => Ok(Self(bytes)),
        }
    }

    /// The password, for the login and nothing else.
    #[must_use]
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Why a file holds no password. Names nothing of what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// No byte but a newline.
    #[error("the password file is empty")]
    Empty,
    /// More than a password can be.
    #[error("the password file is longer than 4096 bytes")]
    TooLong,
    /// More than one line, or a zero byte, which no login can send.
    #[error("the password file holds more than one line, or a zero byte")]
    NotOneLine,
}

/// The login for a principal with these roles: the first that is for one of them, or for everyone.
///
/// # Errors
/// No login is for any of them.
pub fn choose<'a>(credentials: &'a [Credential], roles: &[String]) -> Result<&'a Credential, Denial> {
    let serves = |credential: &&Credential| credential.role.as_ref().is_none_or(|role| roles.contains(role));
    credentials.iter().find(serves).ok_or_else(|| {
        Denial::closed("the target has no login for this process's roles")
            .with_hint("A credential of the target has to name one of its roles, or none.")
    })
}

/// Does not compile if [`Secret`] can be printed or serialised: the call would then be ambiguous.
const _: () = {
    trait Closed<Marker> {
        fn holds() {}
    }
    struct Open;
    impl<T> Closed<()> for T {}
    impl<T: std::fmt::Debug> Closed<[Open; 1]> for T {}
    impl<T: std::fmt::Display> Closed<[Open; 2]> for T {}
    impl<T: serde::Serialize> Closed<[Open; 3]> for T {}
    impl<T: Clone> Closed<[Open; 4]> for T {}
    let _ = <Secret as Closed<_>>::holds;
};

#[cfg(test)]
mod tests;
