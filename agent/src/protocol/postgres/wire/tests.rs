//! Back-pressure.

use std::{future::Future, pin::pin};

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::masking::without_values;

/// More than the kernel holds for a connection over loopback.
const MUCH: usize = 64 << 20;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (here, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (here.expect("a connection"), accepted.expect("a connection").0)
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_not_listened_to() {
    let (mut theirs, client) = pair().await;
    let (_target, server) = pair().await;
    let mut client = Client::new(Stream::Plain(client), BytesMut::new());
    let mut server = Server::new(Stream::Plain(server));
    // What it asks is answered here, and it goes on asking without taking the answers.
    client.send(&without_values(Bytes::from(vec![b'x'; MUCH])));
    theirs.write_all(b"more").await.expect("room");
    if let Stream::Plain(socket) = client.stream() {
        socket.readable().await.expect("it has come");
    }
    {
        let mut exchanging = pin!(exchange(&mut client, &mut server, true));
        let polled = poll_fn(|context| Poll::Ready(exchanging.as_mut().poll(context).is_ready())).await;
        assert!(!polled, "more was read while {MUCH} bytes were not taken");
    }
    // Once it reads, it is listened to.
    let moving = async {
        exchange(&mut client, &mut server, true).await.expect("both are there");
        client.flush().await.expect("somebody reads");
    };
    let reading = async {
        let mut taken = vec![0; MUCH];
        theirs.read_exact(&mut taken).await.expect("all of it");
    };
    tokio::join!(moving, reading);
    assert_eq!(&client.incoming()[..], b"more");
}
