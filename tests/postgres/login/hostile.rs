//! Servers that do not keep to the protocol at login: each ends in a native error, and no session begins.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use agent_tests::{Outcome, Postgres, Python, Suite};

use super::run;
use crate::{
    cases::{holds, lacks},
    proxy::Builder,
};

const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
const SCRAM: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
const READY: &[u8] = b"Z\0\0\0\x05I";

pub fn cases<'a>(suite: Suite<'a>, server: &'a Postgres, python: &'a Python) -> Suite<'a> {
    let broke = "the target broke the protocol";
    let key = |length: usize| {
        let whole = u8::try_from(8 + length).unwrap_or(u8::MAX);
        [&[b'K', 0, u8::from(whole == u8::MAX), 0, whole][..], &vec![7; 4 + length]].concat()
    };
    let hostile: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing at all", Vec::new(), "the connection to the target broke"),
        ("half a message", b"R\0\0".to_vec(), "the connection to the target broke"),
        ("a length that no message has", b"R\0\0\0\x01".to_vec(), broke),
        ("a message of 2 GiB", b"R\x7f\xff\xff\xff\0\0\0\0".to_vec(), broke),
        ("a message that is none", b"!\0\0\0\x04".to_vec(), broke),
        ("rows before the login", b"D\0\0\0\x06\0\0".to_vec(), broke),
        ("ready without a login", READY.to_vec(), broke),
        ("a newer version than was asked for", b"v\0\0\0\x0c\0\x03\0\x07\0\0\0\0".to_vec(), broke),
        ("another version 2", b"v\0\0\0\x0c\0\x02\0\0\0\0\0\0".to_vec(), broke),
        ("the version that was asked for", b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0".to_vec(), broke),
        ("options that nobody asked for", b"v\0\0\0\x0e\0\x03\0\0\0\0\0\x01x\0".to_vec(), broke),
        ("two versions", b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0".repeat(2), broke),
        ("a version after the login", [OK, b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0", READY].concat(), broke),
        ("a key of 3 bytes", [OK, &key(3), READY].concat(), broke),
        ("a key of 257 bytes", [OK, b"K\0\0\x01\x09", &[7; 261], READY].concat(), broke),
        ("a long key before 3.2", [b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0", OK, &key(32), READY].concat(), broke),
        ("a method that is not known", b"R\0\0\0\x08\0\0\0\x07".to_vec(), "authentication method 7"),
        ("SASL without a mechanism", b"R\0\0\0\x09\0\0\0\x0a\0".to_vec(), "authentication method 10"),
        ("an MD5 salt of 2 bytes", b"R\0\0\0\x0a\0\0\0\x05ab".to_vec(), broke),
        ("the end of SCRAM without its beginning", b"R\0\0\0\x0c\0\0\0\x0cv=AA".to_vec(), broke),
        ("let in amid SCRAM", [SCRAM, OK, READY].concat(), "could not prove that it knows the agent's password"),
        (
            "SCRAM with a nonce of its own",
            [SCRAM, b"R\0\0\0\x1b\0\0\0\x0br=xyz,s=AAAA,i=4096"].concat(),
            "could not prove",
        ),
        ("SCRAM twice", [SCRAM, SCRAM].concat(), broke),
        ("an error without its end", b"E\0\0\0\x09SFATA".to_vec(), broke),
    ];
    hostile.into_iter().fold(suite, |suite, (name, answer, told)| {
        suite.case(format!("a server at login: {name}"), move || refused(server, python, &answer, told))
    })
}

fn refused(server: &Postgres, python: &Python, answer: &[u8], told: &str) -> Outcome {
    let proxy = Builder::new(server).destination(stand_in(answer.to_vec())?).start()?;
    let text = "import os, psycopg\npsycopg.connect(os.environ['DSN'])";
    let started = Instant::now();
    let error = run(python, text, &proxy.dsn("max_protocol_version=latest"))?.stderr;
    holds(&error, "FATAL:  Postern: ")?;
    holds(&error, told)?;
    lacks(&proxy.log_text(), "session-started")?;
    if started.elapsed() > Duration::from_secs(10) {
        return Err(format!("it took {:?}", started.elapsed()));
    }
    Ok(())
}

/// A server that answers whatever comes first with this.
fn stand_in(answer: Vec<u8>) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let place = listener.local_addr().map_err(|error| error.to_string())?;
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            // Whatever the agent does then is what is tested.
            let _gone = client.read(&mut [0; 4096]).and_then(|_| client.write_all(&answer));
            let _gone = client.shutdown(std::net::Shutdown::Write);
            let _gone = client.read_to_end(&mut Vec::new());
        }
    });
    Ok(place)
}
