//! Protocols: one folder each, and what they share.
//!
//! *Invariant:* a protocol imports neither a sibling nor a service nor `policy`; it reaches them through `gate` and the
//! traits here.

pub mod postgres;

use std::{future::Future, net::SocketAddr, os::fd::BorrowedFd, path::PathBuf, pin::Pin, sync::Arc};

use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::{
    config,
    gate::Services,
    model::{Principal, Subject},
};

/// A boxed future, for traits that are used as objects.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the host does for a protocol, through the warden.
pub trait Host: Send + Sync {
    /// Marks a socket, before it connects, as the agent's own, so that it is not redirected.
    fn mark<'a>(&'a self, socket: BorrowedFd<'a>) -> Boxed<'a, Result<(), HostError>>;

    /// Reads a file that the configuration names: a password, a key, a certificate.
    fn read<'a>(&'a self, file: &'a PathBuf) -> Boxed<'a, Result<Zeroizing<Vec<u8>>, HostError>>;

    /// Certificate chain and key (PEM) from the agent's own authority, for names of this target.
    fn certificate<'a>(
        &'a self,
        target: &'a config::Target,
    ) -> Boxed<'a, Result<(String, Zeroizing<String>), HostError>>;
}

/// The host could not do it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// An accepted and identified connection, handed to the protocol of its target.
pub struct Connection {
    /// The client's socket.
    pub client: TcpStream,
    /// Session id, principal, target name, mode.
    pub subject: Subject,
    /// The same principal.
    pub principal: Arc<Principal>,
    /// Where the client wanted to go, and where the agent dials.
    pub destination: SocketAddr,
    /// The target's settings.
    pub target: Arc<config::Target>,
    /// For the gate.
    pub services: Services,
    /// For the host's help.
    pub host: Arc<dyn Host>,
}
