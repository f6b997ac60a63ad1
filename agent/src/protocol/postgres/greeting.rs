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
        tls::{self, Beginning, Pem, Stream, TlsError},
    },
};

/// How long a client may take to say what it wants, and again to answer when it is asked for a password: the server's default for
/// its whole login.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// First byte of a connection that begins with TLS: no length of a message that may come first has it.
const TLS_HANDSHAKE: u8 = 0x16;

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

impl GreetingFailure {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Tls(TlsError::Handshake(failure)) => Some(failure.remedy()),
            _ => None,
        }
    }
}

impl From<io::Error> for GreetingError {
    fn from(error: io::Error) -> Self {
        // What a client thinks of the agent's certificate may come after the handshake.
        match tls::failure(&error, tls::Peer::Client) {
            Some(failure) => TlsError::Handshake(failure).into(),
            None => Self::Left,
        }
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
        // The first byte is looked at and left there: it may belong to TLS.
        let mut first = [0];
        let direct = socket.peek(&mut first).await? == 1 && first == [TLS_HANDSHAKE];
        let mut stream = Stream::Plain(socket);
        if direct {
            stream = encrypt(connection, stream, direct).await?;
        }
        let mut buffer = BytesMut::new();
        let (mut asked_ssl, mut asked_gss) = (direct, direct);
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
                    stream = encrypt(connection, stream, false).await?;
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

/// Makes TLS, with the operator's certificate, or one of the agent's own authority. Answers SSLRequest, unless TLS begins directly.
async fn encrypt(connection: &Connection, mut stream: Stream, direct: bool) -> Result<Stream, GreetingError> {
    let (chain, key) = match &connection.target.serve.certificate {
        Some(files) => (connection.host.read(&files.cert).await?, connection.host.read(&files.key).await?),
        None => {
            let (chain, key) = connection.host.certificate(&connection.target, connection.destination.ip()).await?;
            (chain.into_bytes().into(), key.as_bytes().to_vec().into())
        }
    };
    if !direct {
        write(&mut stream, &without_values(Bytes::from_static(b"S"))).await?;
    }
    match stream {
        Stream::Plain(socket) => {
            let own = Pem { chain: &chain, key: &key };
            Ok(tls::accept(socket, own, Beginning { alpn: ALPN, direct }).await?)
        }
        Stream::Tls(_) => Err(GreetingFailure::Early.into()),
    }
}
