//! The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, 7677), without I/O, as PostgreSQL speaks it: for clients that
//! insist on authentication. What they prove is a placeholder: the kernel has said who they are.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use postgres_protocol::{
    authentication::sasl::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS},
    password::scram_sha_256,
};
use sha2::{Digest, Sha256};

use super::error::{self, NativeError};

/// Longest message of an exchange: the server's own limit.
const MESSAGE: usize = 1024;

/// What a password is verified by.
#[derive(Clone)]
pub struct Verifier {
    /// Salt, in base64.
    salt: String,
    iterations: String,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

impl Verifier {
    /// Of a password, with a new salt. `None` if it cannot be made, which no password is a cause of.
    #[must_use]
    pub fn new(password: &[u8]) -> Option<Self> {
        // SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY
        let text = scram_sha_256(password);
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let key = |text| STANDARD.decode(text).ok()?.try_into().ok();
        Some(Self {
            salt: salt.to_owned(),
            iterations: iterations.to_owned(),
            stored_key: key(stored)?,
            server_key: key(server)?,
        })
    }
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// None of those that were offered.
    #[error("client selected an invalid SASL authentication mechanism")]
    Mechanism,
    /// Not SCRAM.
    #[error("malformed SCRAM message")]
    Malformed,
    /// It could bind to the connection, and believes that this was not offered: somebody has taken the offer away.
    #[error("SCRAM channel binding negotiation error")]
    Downgraded,
    /// It is bound to another connection: somebody is between.
    #[error("SCRAM channel binding check failed")]
    NotBound,
    /// It wants to act as somebody else.
    #[error("client uses authorization identity, but it is not supported")]
    Authorization,
    /// An extension that it insists on.
    #[error("client requires an unsupported SCRAM extension")]
    Extension,
    /// Another exchange's.
    #[error("invalid SCRAM response")]
    Nonce,
    /// The user is not known, or the password is another.
    #[error("password authentication failed")]
    Password,
}

impl ScramError {
    /// As a server tells it to a user.
    #[must_use]
    pub fn native(self, user: &str) -> NativeError {
        match self {
            Self::Mechanism | Self::Malformed | Self::Nonce => {
                NativeError::fatal(error::PROTOCOL_VIOLATION, self.to_string())
            }
            Self::Authorization | Self::Extension => NativeError::fatal(error::NOT_SUPPORTED, self.to_string()),
            Self::Downgraded | Self::NotBound => NativeError::fatal(error::AUTHORIZATION, self.to_string()),
            Self::Password => {
                NativeError::fatal(error::PASSWORD, format!("password authentication failed for user \"{user}\""))
                    .hint("Postern asks for the password (and user) of the target's serve in its configuration.")
            }
        }
    }
}

/// An exchange that waits for the client's first message.
pub struct Beginning<'a> {
    /// What the password is verified by.
    pub verifier: &'a Verifier,
    /// What the client may bind itself to; `None`: binding is not offered.
    pub end_point: Option<&'a [u8]>,
    /// Whether the user exists. If not, all goes on as if, and fails at the end.
    pub known: bool,
}

/// An exchange that waits for the client's proof.
pub struct Challenge<'a> {
    beginning: Beginning<'a>,
    /// `c=`: what the client has to say once more, with what it is bound to.
    binding: String,
    first_bare: String,
    server_first: String,
    nonce: String,
}

impl<'a> Beginning<'a> {
    /// The mechanisms that are offered.
    #[must_use]
    pub fn mechanisms(&self) -> &'static [&'static str] {
        if self.end_point.is_some() { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
    }

    /// Takes the client's choice and first message; `nonce` is fresh. The second is the answer.
    ///
    /// # Errors
    /// [`ScramError`]
    pub fn first(
        self,
        mechanism: &[u8],
        message: &[u8],
        nonce: [u8; 18],
    ) -> Result<(Challenge<'a>, String), ScramError> {
        let offered = self.mechanisms().iter().find(|offered| offered.as_bytes() == mechanism);
        let plus = *offered.ok_or(ScramError::Mechanism)? == SCRAM_SHA_256_PLUS;
        let message = text(message)?;
        let (flag, rest) = message.split_once(',').ok_or(ScramError::Malformed)?;
        let bound_to = match (flag, self.end_point) {
            ("n", _) if !plus => None,
            ("y", None) => None,
            ("y", Some(_)) if !plus => return Err(ScramError::Downgraded),
            ("p=tls-server-end-point", Some(end_point)) if plus => Some(end_point),
            _ => return Err(ScramError::Malformed),
        };
        let (authorization, bare) = rest.split_once(',').ok_or(ScramError::Malformed)?;
        match authorization {
            "" => {}
            identity if identity.starts_with("a=") => return Err(ScramError::Authorization),
            _ => return Err(ScramError::Malformed),
        }
        if bare.starts_with("m=") {
            return Err(ScramError::Extension);
        }
        // The user's name is that of the StartupMessage, whatever stands here.
        let mut attributes = bare.split(',');
        attributes.next().filter(|user| user.starts_with("n=")).ok_or(ScramError::Malformed)?;
        let clients = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(ScramError::Malformed)?;
        if clients.is_empty() || !clients.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ScramError::Malformed);
        }
        let nonce = format!("{clients}{}", STANDARD.encode(nonce));
        let server_first = format!("r={nonce},s={},i={}", self.verifier.salt, self.verifier.iterations);
        let binding = [format!("{flag},,").as_bytes(), bound_to.unwrap_or_default()].concat();
        let challenge = Challenge {
            beginning: self,
            binding: STANDARD.encode(binding),
            first_bare: bare.to_owned(),
            server_first: server_first.clone(),
            nonce,
        };
        Ok((challenge, server_first))
    }
}

impl Challenge<'_> {
    /// Takes the client's proof, and answers with the server's.
    ///
    /// # Errors
    /// [`ScramError`]
    pub fn finish(self, message: &[u8]) -> Result<String, ScramError> {
        let (without_proof, proof) = text(message)?.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let proof = STANDARD.decode(proof).map_err(|_| ScramError::Malformed)?;
        let proof: [u8; 32] = proof.try_into().map_err(|_| ScramError::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|binding| binding.strip_prefix("c=")).ok_or(ScramError::Malformed)?;
        if binding != self.binding {
            return Err(ScramError::NotBound);
        }
        let nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(ScramError::Malformed)?;
        if nonce != self.nonce {
            return Err(ScramError::Nonce);
        }
        let signed = format!("{},{},{without_proof}", self.first_bare, self.server_first);
        let Verifier { stored_key, server_key, .. } = self.beginning.verifier;
        let mut client_key = hmac(stored_key, signed.as_bytes())?;
        client_key.iter_mut().zip(proof).for_each(|(key, proof)| *key ^= proof);
        let proven = Sha256::digest(client_key).as_slice() == stored_key;
        if !(proven & self.beginning.known) {
            return Err(ScramError::Password);
        }
        Ok(format!("v={}", STANDARD.encode(hmac(server_key, signed.as_bytes())?)))
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE {
        return Err(ScramError::Malformed);
    }
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed)
}

fn hmac(key: &[u8; 32], message: &[u8]) -> Result<[u8; 32], ScramError> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| ScramError::Password)?;
    hmac.update(message);
    Ok(hmac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests;
