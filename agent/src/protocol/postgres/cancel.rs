//! Cancel keys: the client gets one of ours, and a cancel request with it is passed on with the server's.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use bytes::Bytes;

use super::{
    startup::{CancelKey, LONG_SECRET, SHORT_SECRET},
    upstream::{self, UpstreamError},
};
use crate::{
    config::CredentialSource,
    gate::Admission,
    protocol::{
        Connection, Request,
        tls::{self, TlsError},
    },
};

/// The keys of all sessions that are open in this process.
static KEYS: LazyLock<Mutex<HashMap<CancelKey, Running>>> = LazyLock::new(Mutex::default);

/// What a key of ours stands for: a session at its server.
#[derive(Clone)]
pub struct Running {
    /// The client's connection.
    pub connection: Arc<Connection>,
    /// Leave for the request.
    pub admission: Admission,
    /// The server's key.
    pub key: CancelKey,
}

impl Running {
    /// Asks the server to cancel what the session does, and waits until it has.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn cancel(self) -> Result<(), UpstreamError> {
        let Self { connection, admission, key } = self;
        // The way of the session: through TLS if that did, and with its certificate.
        let login = match connection.target.credential {
            CredentialSource::Agent(_) => Some(connection.host.login(&connection.target, &connection.principal).await?),
            CredentialSource::Client => None,
        };
        let mut server = upstream::open(&connection, &admission, login.as_ref()).await?;
        server.send(&admission.housekeeping(key.request()));
        // The server closes once it has sent the signal; the client waits for that too.
        match server.receive().await {
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// A key of ours while its session is open.
pub struct Issued(CancelKey);

impl Issued {
    /// A new key for a session. Its secret is as long as the session's minor version of the protocol has it.
    ///
    /// # Errors
    /// No random bytes.
    pub fn new(running: Running, minor: u16) -> Result<Self, TlsError> {
        let length = if minor < 2 { SHORT_SECRET } else { LONG_SECRET };
        let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let secret: [u8; LONG_SECRET] = tls::random()?;
            // The server's own process id: clients compare it with pg_backend_pid() and with who notifies.
            let own = CancelKey { process: running.key.process, secret: Bytes::copy_from_slice(&secret[..length]) };
            if let std::collections::hash_map::Entry::Vacant(entry) = keys.entry(own.clone()) {
                entry.insert(running);
                return Ok(Self(own));
            }
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &CancelKey {
        &self.0
    }
}

impl Drop for Issued {
    fn drop(&mut self) {
        KEYS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Passes a cancel request on to the server of the session that the key belongs to. A key that belongs to none, or to a
/// session with another target or server, is ignored, as servers do. `false` if it belongs to none in this process.
///
/// # Errors
/// The server cannot be reached.
pub async fn cancel(request: &Request) -> Result<bool, UpstreamError> {
    let Ok(key) = CancelKey::read(&request.body) else { return Ok(true) };
    let session = KEYS.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    let Some(running) = session else { return Ok(false) };
    let Running { connection, .. } = &running;
    if connection.target.name == request.target && connection.destination == request.destination {
        running.cancel().await?;
    }
    Ok(true)
}
