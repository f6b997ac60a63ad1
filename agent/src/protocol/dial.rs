//! Dials a target: the one place where a connection to one is opened.

use std::{io, net::SocketAddr, os::fd::AsFd, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{Host, HostError};

/// How long a connection may take to be made. Clients give up after about as long.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a target was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The socket could not be marked as the agent's own, so it would be redirected to the agent.
    #[error("the agent's socket could not be marked: {0}")]
    Mark(#[from] HostError),
    /// Refused, unreachable, …
    #[error("{0}")]
    Connect(#[from] io::Error),
    /// No answer.
    #[error("no answer within {} seconds", PATIENCE.as_secs())]
    Timeout,
}

/// Connects to a target with a socket that is marked before it connects.
///
/// # Errors
/// [`DialError`]
pub async fn dial(host: &dyn Host, destination: SocketAddr) -> Result<TcpStream, DialError> {
    let socket = if destination.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    host.mark(socket.as_fd()).await?;
    let stream = timeout(PATIENCE, socket.connect(destination)).await.map_err(|_| DialError::Timeout)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
