//! Cancel keys: the client gets one of ours, and a cancel request with it is passed on with the server's.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{LazyLock, Mutex, PoisonError},
};

use super::{
    startup::CancelKey,
    upstream::{self, UpstreamError},
};
use crate::{
    gate::Admission,
    protocol::{
        Connection,
        tls::{self, TlsError},
    },
};

/// The keys of all sessions that are open in this process.
static KEYS: LazyLock<Mutex<HashMap<CancelKey, Session>>> = LazyLock::new(Mutex::default);

/// What a key of ours stands for.
#[derive(Clone)]
struct Session {
    target: String,
    destination: SocketAddr,
    admission: Admission,
    key: CancelKey,
}

/// A key of ours while its session is open.
pub struct Issued(CancelKey);

impl Issued {
    /// A new key for a session of a target, whose server has given `key`.
    ///
    /// # Errors
    /// No random bytes.
    pub fn new(connection: &Connection, admission: &Admission, key: CancelKey) -> Result<Self, TlsError> {
        let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let [a, b, c, d, secret @ ..]: [u8; 8] = tls::random()?;
            // Clients show the process id as a positive number.
            let process = u32::from_be_bytes([a & 0x7f, b, c, d]);
            let own = CancelKey { process, secret: u32::from_be_bytes(secret) };
            if let std::collections::hash_map::Entry::Vacant(entry) = keys.entry(own) {
                entry.insert(Session {
                    target: connection.target.name.clone(),
                    destination: connection.destination,
                    admission: admission.clone(),
                    key,
                });
                return Ok(Self(own));
            }
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> CancelKey {
        self.0
    }
}

impl Drop for Issued {
    fn drop(&mut self) {
        KEYS.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

/// Passes a cancel request on to the server of the session that the key belongs to. A key that belongs to none, or to a
/// session with another target or server, is ignored, as servers do.
///
/// # Errors
/// The server cannot be reached.
pub async fn cancel(connection: &Connection, key: CancelKey) -> Result<(), UpstreamError> {
    let session = KEYS.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
    let same =
        |session: &Session| session.target == connection.target.name && session.destination == connection.destination;
    let Some(session) = session.filter(same) else { return Ok(()) };
    let mut server = upstream::open(connection, &session.admission).await?;
    server.send(&session.admission.housekeeping(session.key.request()));
    // The server closes once it has sent the signal; the client waits for that too.
    match server.receive().await {
        Ok(_) | Err(_) => Ok(()),
    }
}
