//! A client that keeps every byte.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use agent_tests::Outcome;

/// Runs a text as a Query message and gives all bytes up to the close.
pub fn simple(address: SocketAddr, sql: &str) -> Outcome<Vec<u8>> {
    session(address, &message(b'Q', &[sql.as_bytes(), b"\0"].concat()))
}

/// Runs a text as Parse, Describe, Bind, Execute, Sync, with parameters in text form.
pub fn extended(address: SocketAddr, sql: &str, parameters: &[&str], binary: bool) -> Outcome<Vec<u8>> {
    let mut bind = b"\0\0\0\0".to_vec();
    bind.extend((parameters.len() as u16).to_be_bytes());
    for parameter in parameters {
        bind.extend((parameter.len() as u32).to_be_bytes());
        bind.extend(parameter.as_bytes());
    }
    bind.extend([0, 1, 0, u8::from(binary)]);
    let all = [
        message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat()),
        message(b'D', b"S\0"),
        message(b'B', &bind),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ];
    session(address, &all.concat())
}

fn session(address: SocketAddr, request: &[u8]) -> Outcome<Vec<u8>> {
    let text = |error: std::io::Error| error.to_string();
    let mut socket = TcpStream::connect(address).map_err(text)?;
    socket.set_read_timeout(Some(Duration::from_secs(20))).map_err(text)?;
    let body = b"\0\x03\0\0user\0x\0database\0shop\0\0";
    socket.write_all(&[&(body.len() as u32 + 4).to_be_bytes()[..], body].concat()).map_err(text)?;
    let ready = b"Z\0\0\0\x05";
    let mut bytes = Vec::new();
    read_until(&mut socket, &mut bytes, |bytes| bytes.windows(5).any(|window| window == ready))?;
    socket.write_all(request).map_err(text)?;
    socket.write_all(&message(b'X', b"")).map_err(text)?;
    read_until(&mut socket, &mut bytes, |_| false)?;
    Ok(bytes)
}

fn read_until(socket: &mut TcpStream, bytes: &mut Vec<u8>, enough: impl Fn(&[u8]) -> bool) -> Outcome {
    let mut buffer = [0; 16_384];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        if enough(bytes) {
            return Ok(());
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// Every message as text, every byte of it, except the key for cancelling, which is random in each session.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (kind, body) in messages(bytes) {
        if kind != b'K' {
            let _ = writeln!(text, "{} {}", kind as char, body.escape_ascii());
        }
    }
    text
}

/// Whether the answer is a refusal of the agent's.
pub fn denied(bytes: &[u8]) -> bool {
    messages(bytes).any(|(kind, body)| kind == b'E' && body.windows(17).any(|window| window == b"denied by Postern"))
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let kind = *bytes.first()?;
        let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().ok()?) as usize;
        let body = bytes.get(5..length + 1)?;
        bytes = &bytes[length + 1..];
        Some((kind, body))
    })
}
