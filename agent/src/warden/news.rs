//! What the warden tells the proxy unasked.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::warn;

use super::wire::{self, Answer, NEWS, Response};

/// The proxy that is there, if one is.
#[derive(Default)]
pub(super) struct News(Mutex<Option<Arc<OwnedFd>>>);

impl News {
    /// A proxy has been greeted over this connection, or has gone.
    pub(super) fn set(&self, proxy: Option<Arc<OwnedFd>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = proxy;
    }

    /// Whether there is a proxy.
    pub(super) fn anybody(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Tells the proxy. False if there is none, or it does not listen: it is about to go then.
    pub(super) fn tell(&self, answer: Answer, descriptors: &[BorrowedFd<'_>]) -> bool {
        let Some(proxy) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return false };
        match wire::send(proxy.as_fd(), &Response { id: NEWS, answer }, descriptors) {
            Ok(()) => true,
            Err(error) => {
                warn!(%error, "the proxy does not take what it is told");
                false
            }
        }
    }
}
