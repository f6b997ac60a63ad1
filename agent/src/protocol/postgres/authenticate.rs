//! Clients that insist on authentication are asked for the placeholder password of their target, if it has one.
//!
//! *Invariant:* it decides nothing. Who knows the password may do what the process may do that it is.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use bytes::{BufMut, Bytes};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{
    error::{self, NativeError},
    frame::{Fields, Frame, server},
    greeting::PATIENCE,
    message::{put_string, write},
    scram::{Beginning, Challenge, ScramError, Verifier},
    startup::Startup,
    wire::{Client, WireError},
};
use crate::{
    config::{Placeholder, PlaceholderPassword},
    masking::without_values,
    protocol::{
        Connection, HostError,
        tls::{self, TlsError},
    },
};

/// `AuthenticationSASL…`
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// What a password is verified by, for each target: making it takes some milliseconds, and it stays while the password does.
static VERIFIERS: LazyLock<Mutex<HashMap<String, Kept>>> = LazyLock::new(Mutex::default);

struct Kept {
    password: Zeroizing<Vec<u8>>,
    verifier: Arc<Verifier>,
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// It left, as clients do that find out that they need a password.
    #[error("the client left when it was asked for a password")]
    Left,
    /// It took too long.
    #[error("the client did not answer within {} seconds when it was asked for a password", PATIENCE.as_secs())]
    Late,
    /// It sent something else than an answer.
    #[error("the client did not answer when it was asked for a password")]
    Unexpected,
    /// It could not prove that it knows the password.
    #[error("the client could not log in: {0}")]
    Scram(#[from] ScramError),
    /// The password could not be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] TlsError),
}

impl LoginError {
    /// For the client.
    #[must_use]
    pub fn native(&self, user: &str) -> NativeError {
        match self {
            Self::Scram(error) => error.native(user),
            Self::Left | Self::Late | Self::Unexpected => {
                NativeError::fatal(error::PROTOCOL_VIOLATION, "expected SASL response")
            }
            // They may name files, which are no business of the client.
            Self::Host(_) | Self::Random(_) => NativeError::fatal(
                error::CONFIGURATION,
                "Postern: the agent cannot use its configuration for the target",
            )
            .hint("Tell the operator of Postern: `postern status` says why."),
        }
    }
}

impl From<WireError> for LoginError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Broken(_) => Self::Left,
            WireError::Frame(_) => Self::Unexpected,
        }
    }
}

/// Asks a client for the placeholder password of its target, if it has one. `AuthenticationOk` is left to the caller.
///
/// # Errors
/// [`LoginError`]
pub async fn authenticate(connection: &Connection, client: &mut Client, startup: &Startup) -> Result<(), LoginError> {
    match &connection.target.serve.password {
        Some(placeholder) => {
            timeout(PATIENCE, exchange(connection, client, startup, placeholder)).await.map_err(|_| LoginError::Late)?
        }
        None => Ok(()),
    }
}

async fn exchange(
    connection: &Connection,
    client: &mut Client,
    startup: &Startup,
    placeholder: &Placeholder,
) -> Result<(), LoginError> {
    let verifier = verifier(connection, &placeholder.password).await?;
    let end_point = client.stream().end_point().map(<[u8]>::to_vec);
    let beginning = Beginning {
        verifier: &verifier,
        end_point: end_point.as_deref(),
        known: placeholder.user.as_ref().is_none_or(|user| *user == startup.user),
    };
    let offer = write(server::AUTHENTICATION, |body| {
        body.put_u32(SASL);
        beginning.mechanisms().iter().for_each(|mechanism| put_string(body, mechanism.as_bytes()));
        body.put_u8(0);
    });
    let chosen = ask(client, offer).await?;
    let (challenge, message) = first(beginning, &chosen)?;
    let proof = ask(client, authentication(SASL_CONTINUE, &message)).await?;
    let message = challenge.finish(proof.body())?;
    client.send(&without_values(authentication(SASL_FINAL, &message)));
    Ok(())
}

/// Sends a message and waits for the answer.
async fn ask(client: &mut Client, message: Bytes) -> Result<Frame, LoginError> {
    client.send(&without_values(message));
    client.flush().await.map_err(|_| LoginError::Left)?;
    Ok(client.password().await?)
}

/// Reads `SASLInitialResponse`.
fn first<'a>(beginning: Beginning<'a>, chosen: &Frame) -> Result<(Challenge<'a>, String), LoginError> {
    let malformed = |_| ScramError::Malformed;
    let mut fields = Fields::new(chosen.body());
    let mechanism = fields.string().map_err(malformed)?;
    let message = fields.value().map_err(malformed)?.ok_or(ScramError::Malformed)?;
    fields.end().map_err(malformed)?;
    Ok(beginning.first(mechanism, message, tls::random()?)?)
}

fn authentication(method: u32, message: &str) -> Bytes {
    write(server::AUTHENTICATION, |body| {
        body.put_u32(method);
        body.put_slice(message.as_bytes());
    })
}

async fn verifier(connection: &Connection, password: &PlaceholderPassword) -> Result<Arc<Verifier>, LoginError> {
    let password = match password {
        PlaceholderPassword::Plain(password) => Zeroizing::new(password.clone().into_bytes()),
        PlaceholderPassword::File(file) => line(connection.host.read(file).await?),
    };
    let mut verifiers = VERIFIERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = verifiers.get(&connection.target.name).filter(|kept| kept.password == password) {
        return Ok(Arc::clone(&kept.verifier));
    }
    let verifier = Verifier::new(&password).map(Arc::new).ok_or(ScramError::Password)?;
    let kept = Kept { password, verifier: Arc::clone(&verifier) };
    verifiers.insert(connection.target.name.clone(), kept);
    Ok(verifier)
}

/// The content of a file without one newline at its end.
fn line(mut bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    bytes
}
