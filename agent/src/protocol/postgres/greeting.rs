//! The client's side up to its StartupMessage: encryption is agreed on, and what it wants is read.

use std::{future::Future, io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    startup::{self, CancelKey, Opening, Startup, StartupError},
    upstream::ALPN,
    wire::Client,
};
use crate::{
    masking::{Masked, without_values},
    protocol::{
        Connection, HostError,
        tls::{self, Stream, TlsError},
    },
};

/// How long a client may take to say what it wants: the server's default for its whole login.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client wants.
pub enum Greeting {
    /// A session.
    Session(Box<Client>, Startup),
    /// A statement of another session cancelled.
    Cancel(CancelKey),
}

/// Why it was not learned.
pub enum GreetingError {
    /// The client left, as programs do that only look whether the port is open.
    Left,
    /// It said what it may not, and is to be told.
    Startup(Box<Client>, StartupError),
    /// There was no understanding; nothing can be said any more.
    Failed(GreetingFailure),
}

/// Why nothing can be said to a client.
#[derive(Debug, thiserror::Error)]
pub enum GreetingFailure {
    /// It took too long.
    #[error("the client did not ask for a session within {} seconds", PATIENCE.as_secs())]
    Timeout,
    /// No TLS.
    #[error("no TLS with the client: {0}")]
    Tls(#[from] TlsError),
    /// No certificate.
    #[error("there is no certificate for the client: {0}")]
    Certificate(#[from] HostError),
    /// Bytes came after the request for encryption and before it began.
    #[error("the client sent data before encryption began")]
    Early,
}

impl From<io::Error> for GreetingError {
    fn from(_: io::Error) -> Self {
        Self::Left
    }
}

impl From<GreetingFailure> for GreetingError {
    fn from(failure: GreetingFailure) -> Self {
        Self::Failed(failure)
    }
}

impl From<HostError> for GreetingError {
    fn from(error: HostError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<TlsError> for GreetingError {
    fn from(error: TlsError) -> Self {
        Self::Failed(error.into())
    }
}

/// Learns what a client wants.
///
/// # Errors
/// [`GreetingError`]
pub async fn greet(connection: &Connection, socket: TcpStream) -> Result<Greeting, GreetingError> {
    within(async {
        let mut stream = Stream::Plain(socket);
        let mut buffer = BytesMut::new();
        let (mut asked_ssl, mut asked_gss) = (false, false);
        loop {
            let opening = match startup::take(&mut buffer) {
                Ok(Some(opening)) => opening,
                Ok(None) => {
                    if stream.read_buf(&mut buffer).await? == 0 {
                        return Err(GreetingError::Left);
                    }
                    continue;
                }
                Err(error) => return Err(refused(stream, error)),
            };
            match opening {
                Opening::Startup(startup) => {
                    return Ok(Greeting::Session(Box::new(Client::new(stream, buffer)), startup));
                }
                Opening::Cancel(key) => return Ok(Greeting::Cancel(key)),
                // Each may be asked for once, and TLS not within TLS.
                Opening::Gss if !std::mem::replace(&mut asked_gss, true) && !asked_ssl => {
                    write(&mut stream, &without_values(Bytes::from_static(b"N"))).await?;
                }
                Opening::Ssl if !std::mem::replace(&mut asked_ssl, true) => {
                    if !buffer.is_empty() {
                        return Err(GreetingFailure::Early.into());
                    }
                    stream = encrypt(connection, stream).await?;
                }
                Opening::Gss | Opening::Ssl => return Err(refused(stream, StartupError::Malformed)),
            }
        }
    })
    .await
}

async fn within<T>(greeting: impl Future<Output = Result<T, GreetingError>>) -> Result<T, GreetingError> {
    timeout(PATIENCE, greeting).await.unwrap_or(Err(GreetingFailure::Timeout.into()))
}

fn refused(stream: Stream, error: StartupError) -> GreetingError {
    GreetingError::Startup(Box::new(Client::new(stream, BytesMut::new())), error)
}

async fn write(stream: &mut Stream, message: &Masked<Bytes>) -> io::Result<()> {
    stream.write_all(message.shown()).await?;
    stream.flush().await
}

/// Answers SSLRequest: with the operator's certificate, or one of the agent's own authority.
async fn encrypt(connection: &Connection, mut stream: Stream) -> Result<Stream, GreetingError> {
    let (chain, key) = match &connection.target.serve {
        Some(serve) => (connection.host.read(&serve.cert).await?, connection.host.read(&serve.key).await?),
        None => {
            let (chain, key) = connection.host.certificate(&connection.target, connection.destination.ip()).await?;
            (chain.into_bytes().into(), key.as_bytes().to_vec().into())
        }
    };
    write(&mut stream, &without_values(Bytes::from_static(b"S"))).await?;
    match stream {
        Stream::Plain(socket) => Ok(tls::accept(socket, &chain, &key, ALPN).await?),
        Stream::Tls(_) => Err(GreetingFailure::Early.into()),
    }
}
