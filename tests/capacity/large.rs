//! A row as large as PostgreSQL can make one, and a client that stops reading it.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use agent_tests::{Outcome, pooled::sessions, rss_kib};

/// Bytes of the row's one value.
const VALUE: usize = 1_000_000_000;
/// What is read before the client stops.
const READ: usize = 1 << 20;
/// What the proxy may take beyond what it takes while idle.
const KIB: u64 = 64 << 10;
/// For so long the client reads nothing once the proxy has stopped growing.
const STOPPED: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(120);

/// The row comes whole, and neither while its client reads nor while it does not has the proxy more than a part of it.
pub fn row(proxy: u32, place: SocketAddr) -> Outcome {
    let rss = || rss_kib(proxy).ok_or("the proxy has gone");
    let mut session = sessions(place, 1)?.pop().ok_or("no session")?;
    let idle = rss()?;
    let mut most = idle;
    session.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    ask(&mut session, &format!("SELECT repeat('x', {VALUE})"))?;
    let mut reader = Reader { session, buffer: vec![0; READ], seen: 0, value: 0, ended: false };
    reader.more()?;

    // It has as much as it will take once it has been at rest for a while; the server is kept waiting meanwhile.
    let deadline = Instant::now() + PATIENCE;
    let mut rest = Instant::now();
    while rest.elapsed() < STOPPED {
        let now = rss()?;
        if now > most {
            (most, rest) = (now, Instant::now());
        }
        if Instant::now() > deadline {
            return Err(format!("the proxy goes on growing: {most} KiB, {idle} while idle"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    let stopped = most;
    while !reader.ended {
        reader.more()?;
        most = most.max(rss()?);
    }
    println!(
        "capacity: a row of {VALUE} bytes: {idle} KiB idle, {stopped} with a client that does not read, at most {most}"
    );
    match () {
        () if reader.value != VALUE => Err(format!("{} of {VALUE} bytes of the value", reader.value)),
        () if most - idle > KIB => Err(format!("the proxy grew from {idle} to {most} KiB")),
        () => Ok(()),
    }
}

/// What comes of the answer. None of its messages is kept: the value is the only thing in it with this letter.
struct Reader {
    session: TcpStream,
    buffer: Vec<u8>,
    seen: usize,
    value: usize,
    /// Ready for the next statement.
    ended: bool,
}

impl Reader {
    fn more(&mut self) -> Outcome {
        let count =
            self.session.read(&mut self.buffer).map_err(|error| format!("after {} bytes: {error}", self.seen))?;
        if count == 0 {
            return Err(format!("the answer ends after {} bytes", self.seen));
        }
        self.seen += count;
        self.value += self.buffer[..count].iter().filter(|byte| **byte == b'x').count();
        self.ended = self.buffer[..count].ends_with(b"Z\0\0\0\x05I");
        Ok(())
    }
}

fn ask(session: &mut TcpStream, statement: &str) -> Outcome {
    let length = (statement.len() as u32 + 5).to_be_bytes();
    let message = [&b"Q"[..], &length, statement.as_bytes(), b"\0"].concat();
    session.write_all(&message).map_err(|error| error.to_string())
}
