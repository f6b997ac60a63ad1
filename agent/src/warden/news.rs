//! What the warden tells the proxy unasked.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::warn;

use super::wire::{self, Answer, NEWS, Response};

/// The proxy that listens, if one does.
#[derive(Default)]
pub(super) struct News(Mutex<Option<Arc<OwnedFd>>>);

impl News {
    /// A proxy listens that is told over this connection, or none does any more. Gives the one before it.
    pub(super) fn set(&self, proxy: Option<Arc<OwnedFd>>) -> Option<Arc<OwnedFd>> {
        std::mem::replace(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), proxy)
    }

    /// Whether this is the proxy's connection.
    pub(super) fn is(&self, connection: &Arc<OwnedFd>) -> bool {
        let proxy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        proxy.as_ref().is_some_and(|proxy| Arc::ptr_eq(proxy, connection))
    }

    /// Whether there is a proxy.
    pub(super) fn anybody(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Tells the proxy. False if there is none, or it does not listen: it is about to go then.
    pub(super) fn tell(&self, answer: Answer, descriptors: &[BorrowedFd<'_>]) -> bool {
        let Some(proxy) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return false };
        tell(&proxy, answer, descriptors)
    }
}

/// Tells a proxy over its connection, be it the one that listens or another. False if it does not listen.
pub(super) fn tell(proxy: &OwnedFd, answer: Answer, descriptors: &[BorrowedFd<'_>]) -> bool {
    match wire::send(proxy.as_fd(), &Response { id: NEWS, answer }, descriptors) {
        Ok(()) => true,
        Err(error) => {
            warn!(%error, "the proxy does not take what it is told");
            false
        }
    }
}
