//! Connections that are there before their destination is protected.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    time::Duration,
};

use crate::host::{self, Host};

pub fn becomes_protected(host: &mut Host) {
    let proxy = host.proxy();
    let (place, other): (SocketAddr, SocketAddr) = (
        format!("127.77.3.6:{}", host.named_port).parse().expect("an address"),
        format!("127.77.3.7:{}", host.named_port).parse().expect("an address"),
    );
    let (server, other_server) = (TcpListener::bind(place).expect("bound"), TcpListener::bind(other).expect("bound"));
    let connect = |to, server: &TcpListener| {
        let stream = TcpStream::connect(to).expect("not protected yet");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
        (stream, server.accept().expect("accepted directly").0)
    };
    let (mut old, mut old_server) = connect(place, &server);
    let (mut spared, mut spared_server) = connect(other, &other_server);
    let own = host::tcp_socket();
    proxy.block(proxy.warden.mark(own.as_fd())).expect("marked");
    let mut own = host::connect(own, place).expect("connected");
    let (mut own_server, _) = server.accept().expect("accepted directly");

    proxy.block(proxy.warden.protect(3, 0, &[place.ip()])).expect("protected");
    let mut byte = [0];
    let kind = |result: io::Result<()>| result.expect_err("ended").kind();
    assert_eq!(kind(old.read_exact(&mut byte)), ErrorKind::ConnectionAborted);
    assert_eq!(kind(old_server.read_exact(&mut byte)), ErrorKind::ConnectionReset);
    for (client, server) in [(&mut own, &mut own_server), (&mut spared, &mut spared_server)] {
        server.write_all(b"x").expect("sent");
        client.read_exact(&mut byte).expect("it goes on");
    }
    let surroundings = proxy.block(proxy.warden.surroundings()).expect("told");
    assert_eq!((surroundings.open, surroundings.blind), (0, None));
    assert!(surroundings.cut > 0);
}
