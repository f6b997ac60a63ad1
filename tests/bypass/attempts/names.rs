//! Other names for the target.

use std::{
    fs,
    io::{self, Error},
    net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket},
    thread,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{Ending::Redirected, Rights, Row};
use crate::{field::Field, ground::PORT};

/// Nobody's name.
const NAME: &str = "another-name.example";

pub const ROWS: &[Row] = &[
    Row::new("an alias in the hosts file", Redirected, hosts).with(Rights::All),
    Row::new("a second name in DNS", Redirected, dns).with(Rights::All),
];

/// Puts a file over another one, for this process alone.
fn cover(path: &str, text: &str) -> io::Result<()> {
    let none = None::<&str>;
    let ours = format!("/tmp/postern-bypass-{}-{}", std::process::id(), path.replace('/', "-"));
    fs::write(&ours, text)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let mounted = mount(Some(ours.as_str()), path, none, MsFlags::MS_BIND, none);
    fs::remove_file(&ours)?;
    Ok(mounted?)
}

fn resolve(field: &mut Field) -> io::Result<()> {
    let of_family = |address: &SocketAddr| address.is_ipv6() == field.six;
    let found = (NAME, PORT).to_socket_addrs()?.find(of_family).ok_or_else(|| Error::other("no such name"))?;
    field.go(field.tcp()?, found)
}

fn hosts(field: &mut Field) -> io::Result<()> {
    cover("/etc/hosts", &format!("{} {NAME}\n", field.target().ip()))?;
    resolve(field)
}

/// With a name server of the attempt's own.
fn dns(field: &mut Field) -> io::Result<()> {
    let server = UdpSocket::bind("127.0.0.1:53")?;
    let address = field.target().ip();
    thread::spawn(move || answer(&server, address));
    cover("/etc/resolv.conf", "nameserver 127.0.0.1\n")?;
    resolve(field)
}

/// Answers every question for an address of this family with this one.
fn answer(server: &UdpSocket, address: IpAddr) -> io::Result<()> {
    let (kind, octets) = match address {
        IpAddr::V4(v4) => (1_u16, v4.octets().to_vec()),
        IpAddr::V6(v6) => (28, v6.octets().to_vec()),
    };
    let mut buffer = [0; 512];
    loop {
        let (size, from) = server.recv_from(&mut buffer)?;
        // The question is one name, which ends with a zero, a type and a class.
        let Some(end) = buffer[12..size].iter().position(|byte| *byte == 0).map(|at| 12 + at + 5) else { continue };
        let matches = buffer[end - 4..end - 2] == kind.to_be_bytes();
        let mut reply = buffer[..end].to_vec();
        reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(matches), 0, 0, 0, 0]);
        if matches {
            reply.extend([0xc0, 12]);
            reply.extend(kind.to_be_bytes());
            reply.extend([0, 1, 0, 0, 0, 1]);
            reply.extend((octets.len() as u16).to_be_bytes());
            reply.extend(&octets);
        }
        server.send_to(&reply, from)?;
    }
}
