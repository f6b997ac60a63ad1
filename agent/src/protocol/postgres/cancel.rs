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
static KEYS: LazyLock<Mutex<HashMap<CancelKey, Session>>> = LazyLock::new(Mutex::default);

/// What a key of ours stands for.
#[derive(Clone)]
struct Session {
    connection: Arc<Connection>,
    admission: Admission,
    key: CancelKey,
}

/// A key of ours while its session is open.
pub struct Issued(CancelKey);

impl Issued {
    /// A new key for a session of a target, whose server has given `key`. Its secret is as long as the session's minor version of
    /// the protocol has it.
    ///
    /// # Errors
    /// No random bytes.
    pub fn new(
        connection: &Arc<Connection>,
        admission: &Admission,
        key: CancelKey,
        minor: u16,
    ) -> Result<Self, TlsError> {
        let length = if minor < 2 { SHORT_SECRET } else { LONG_SECRET };
        let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let secret: [u8; LONG_SECRET] = tls::random()?;
            // The server's own process id: clients compare it with pg_backend_pid() and with who notifies.
            let own = CancelKey { process: key.process, secret: Bytes::copy_from_slice(&secret[..length]) };
            if let std::collections::hash_map::Entry::Vacant(entry) = keys.entry(own.clone()) {
                entry.insert(Session { connection: Arc::clone(connection), admission: admission.clone(), key });
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
    let Some(Session { connection, admission, key }) = session else { return Ok(false) };
    if connection.target.name != request.target || connection.destination != request.destination {
        return Ok(true);
    }
    // The way of the session: through TLS if that did, and with its certificate.
    let login = match connection.target.credential {
        CredentialSource::Agent(_) => Some(connection.host.login(&connection.target, &connection.principal).await?),
        CredentialSource::Client => None,
    };
    let mut server = upstream::open(&connection, &admission, login.as_ref()).await?;
    server.send(&admission.housekeeping(key.request()));
    // The server closes once it has sent the signal; the client waits for that too.
    match server.receive().await {
        Ok(_) | Err(_) => Ok(true),
    }
}
