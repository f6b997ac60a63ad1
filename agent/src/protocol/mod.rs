//! Protocols: one folder each, and what they share.
//!
//! *Invariant:* a protocol imports neither a sibling nor a service nor `policy`; it reaches them through `gate` and the
//! traits here.

pub mod ca;
pub mod dial;
pub mod postgres;
pub mod tls;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::{
    config,
    gate::Services,
    model::{Boxed, Fragment, Principal, Subject},
};

/// The protocols that are built in: their names, as in the configuration, and their fragments of the policy schema.
pub const FRAGMENTS: &[Fragment] =
    &[Fragment { name: "postgres", text: include_str!("../../../policies/postgres.cedarschema") }];

/// Serves one connection to its end.
pub type Serve = fn(TcpStream, Connection) -> Boxed<'static, ()>;

/// The registry: names as in the configuration, and who serves.
pub const PROTOCOLS: &[(&str, Serve)] = &[("postgres", postgres::serve)];

/// Carries out a request about a session that came over a connection of its own, if that session is open in this process, with
/// this target and at this server: a cancel request of PostgreSQL, say. Tells whether it is.
pub type Aside = fn(&Request) -> Boxed<'_, bool>;

/// Protocols that have such requests.
pub const ASIDES: &[(&str, Aside)] = &[("postgres", postgres::aside)];

/// A request about a session that another process of the agent may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Name of the protocol.
    pub protocol: String,
    /// Name of the target.
    pub target: String,
    /// The server.
    pub destination: SocketAddr,
    /// What the protocol makes of it.
    pub body: Vec<u8>,
}

/// Who serves a protocol.
#[must_use]
pub fn protocol(name: &str) -> Option<Serve> {
    PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, serve)| *serve)
}

/// What the host does for a protocol, through the warden.
pub trait Host: Send + Sync {
    /// Marks a socket, before it connects, as the agent's own, so that it is not redirected.
    fn mark<'a>(&'a self, socket: BorrowedFd<'a>) -> Boxed<'a, Result<(), HostError>>;

    /// Reads a file that the configuration names: a password, a key, a certificate.
    fn read<'a>(&'a self, file: &'a Path) -> Boxed<'a, Result<Zeroizing<Vec<u8>>, HostError>>;

    /// What the agent logs in with at a target, for a principal: of the target's credentials the first that is for one of its
    /// roles.
    fn login<'a>(&'a self, target: &'a config::Target, principal: &'a Principal)
    -> Boxed<'a, Result<Login, HostError>>;

    /// Certificate chain and key (PEM) from the agent's own authority, for names of this target, and for the address that a
    /// client asked for if that is one of its networks'.
    fn certificate<'a>(
        &'a self,
        target: &'a config::Target,
        destination: IpAddr,
    ) -> Boxed<'a, Result<(String, Zeroizing<String>), HostError>>;

    /// Notes, for the agent's state, that a session with a target began, or what of the target or of the settings for it kept
    /// it from beginning.
    fn attempted(&self, target: &str, trouble: Option<&str>);

    /// Hands a request on whose session is not open in this process.
    fn elsewhere(&self, request: Request);

    /// Waits until sessions must end, and says why.
    fn ending(&self) -> Boxed<'_, &'static str>;
}

/// The host could not do it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// What the agent logs in with. Has no `Debug`, so that nothing prints it.
pub struct Login {
    /// User at the target.
    pub user: String,
    /// Password; `None`: the target asks for none.
    pub password: Option<Zeroizing<Vec<u8>>>,
    /// For a target that asks for a client's certificate.
    pub certificate: Option<KeyPair>,
}

/// A certificate chain and its private key (PEM). Has no `Debug` either.
pub struct KeyPair {
    /// The chain.
    pub chain: Zeroizing<Vec<u8>>,
    /// The key.
    pub key: Zeroizing<Vec<u8>>,
}

/// An accepted and identified connection, handed to the protocol of its target with its socket.
pub struct Connection {
    /// Session id, principal, target name, mode.
    pub subject: Subject,
    /// The same principal.
    pub principal: Arc<Principal>,
    /// Where the client wanted to go, and where the agent dials.
    pub destination: SocketAddr,
    /// The target's name that stands for the destination, if one does.
    pub named: Option<String>,
    /// The target's settings.
    pub target: Arc<config::Target>,
    /// Key of the target for the style `hash`.
    pub masking_key: Arc<[u8]>,
    /// For the gate.
    pub services: Services,
    /// For the host's help.
    pub host: Arc<dyn Host>,
}
