//! The two connections of a session, with their buffers, which are empty and take nothing while the session is idle.
//!
//! *Invariant:* [`Server`] sends nothing but [`Released`], [`Client`] nothing but [`Masked`].

mod outgoing;

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use self::outgoing::{AT_ONCE, Outgoing};
use super::frame::{self, Frame, FrameError};
use crate::{gate::Released, masking::Masked, protocol::tls::Stream};

/// What is read at once, from either side.
const READ: usize = 64 << 10;

/// Beyond so many bytes that one side has not taken yet, the other side is not read.
const OUTSTANDING: usize = 256 << 10;

thread_local! {
    /// What is read goes here first, so that a connection with nothing to read needs no memory for it.
    static READING: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// A connection and what is on its way.
struct Wire {
    stream: Stream,
    incoming: BytesMut,
    outgoing: Outgoing,
    flushed: bool,
    received: u64,
    sent: u64,
}

impl Wire {
    fn new(stream: Stream, incoming: BytesMut) -> Self {
        Self { stream, incoming, outgoing: Outgoing::default(), flushed: true, received: 0, sent: 0 }
    }

    fn queue(&mut self, bytes: &Bytes) {
        self.sent += bytes.len() as u64;
        self.outgoing.push(bytes);
        self.flushed = false;
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outgoing.len() > 0 {
            let mut room = [IoSlice::new(&[]); AT_ONCE];
            let count = self.outgoing.pieces(&mut room);
            match ready!(Pin::new(&mut self.stream).poll_write_vectored(context, &room[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.outgoing.written(written),
            }
        }
        if !self.flushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => self.flushed = true,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        READING.with_borrow_mut(|reading| {
            let mut read = ReadBuf::new(reading);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut read))?;
            let read = read.filled();
            self.received += read.len() as u64;
            self.incoming.extend_from_slice(read);
            Poll::Ready(Ok(read.len()))
        })
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_write(context)).await
    }

    /// Reads until there is a message.
    async fn receive(&mut self, limit: fn(u8) -> Option<usize>) -> Result<Frame, WireError> {
        loop {
            if let Some(frame) = frame::take(&mut self.incoming, limit)? {
                return Ok(frame);
            }
            self.more().await?;
        }
    }

    /// Reads more.
    async fn more(&mut self) -> io::Result<()> {
        match poll_fn(|context| self.poll_read(context)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// A message did not come.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The connection broke.
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// What came is no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The connection to the client.
pub struct Client(Wire);

impl Client {
    /// A connection, with what was already read from it.
    #[must_use]
    pub fn new(stream: Stream, incoming: BytesMut) -> Self {
        Self(Wire::new(stream, incoming))
    }

    /// Queues a message.
    pub fn send(&mut self, message: &Masked<Bytes>) {
        self.0.queue(message.shown());
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }

    /// The client's answer to an authentication request.
    ///
    /// # Errors
    /// [`WireError`]
    pub async fn password(&mut self) -> Result<Frame, WireError> {
        self.0.receive(frame::password_limit).await
    }

    /// The stream, for what is known of its TLS.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.0.stream
    }

    /// Bytes received and sent.
    #[must_use]
    pub fn traffic(&self) -> (u64, u64) {
        (self.0.received, self.0.sent)
    }

    /// What was received and not yet used.
    pub fn incoming(&mut self) -> &mut BytesMut {
        &mut self.0.incoming
    }

    /// Says that nothing more will be sent.
    pub async fn shutdown(&mut self) {
        // Whoever is gone needs not be told.
        let _gone = self.0.stream.shutdown().await;
    }
}

/// The connection to the server.
pub struct Server(Wire);

impl Server {
    /// A connection.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self(Wire::new(stream, BytesMut::new()))
    }

    /// Queues a message.
    pub fn send(&mut self, message: &Released) {
        self.0.queue(message.bytes());
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }

    /// Sends what is queued, and reads until there is a message.
    ///
    /// # Errors
    /// [`WireError`]
    pub async fn receive(&mut self) -> Result<Frame, WireError> {
        self.0.flush().await?;
        self.0.receive(frame::server_limit).await
    }

    /// The stream, for what is known of its TLS.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.0.stream
    }

    /// What was received and not yet used.
    pub fn incoming(&mut self) -> &mut BytesMut {
        &mut self.0.incoming
    }

    /// Says that nothing more will be sent.
    pub async fn shutdown(&mut self) {
        let _gone = self.0.stream.shutdown().await;
    }
}

/// What ended the exchange.
#[derive(Debug)]
pub enum Gone {
    /// The client sends nothing more, but may still read.
    ClientEnded,
    /// The client.
    Client,
    /// The server.
    Server,
}

/// Moves bytes until some have come in from either side. `listen`: the client is to be read at all; neither side is while
/// the other has much to take.
///
/// # Errors
/// Which side is gone.
pub async fn exchange(client: &mut Client, server: &mut Server, listen: bool) -> Result<(), Gone> {
    poll_fn(|context| {
        let mut moved = false;
        for (wire, gone) in [(&mut client.0, Gone::Client), (&mut server.0, Gone::Server)] {
            if let Poll::Ready(Err(_)) = wire.poll_write(context) {
                return Poll::Ready(Err(gone));
            }
        }
        let (to_client, to_server) = (client.0.outgoing.len(), server.0.outgoing.len());
        if to_client < OUTSTANDING {
            match server.0.poll_read(context) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Gone::Server)),
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Pending => {}
            }
        }
        if listen && to_server < OUTSTANDING && to_client < OUTSTANDING {
            match client.0.poll_read(context) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Gone::ClientEnded)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Gone::Client)),
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Pending => {}
            }
        }
        if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests;
