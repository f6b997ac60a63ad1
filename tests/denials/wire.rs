//! A client that sends what a script says and notes every message that comes back.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use agent_tests::Outcome;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long nothing comes before nothing is expected.
const SILENCE: Duration = Duration::from_millis(50);

/// A connection, and what it has heard.
pub struct Wire {
    socket: TcpStream,
    out: Vec<u8>,
    unread: Vec<u8>,
    heard: String,
}

impl Wire {
    /// Logs in.
    pub fn connect(port: u16, user: &str, database: &str) -> Outcome<Self> {
        let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(text)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(text)?;
        let mut wire = Self { socket, out: Vec::new(), unread: Vec::new(), heard: String::new() };
        let body = format!("\0\x03\0\0user\0{user}\0database\0{database}\0\0");
        wire.out.extend((body.len() as u32 + 4).to_be_bytes());
        wire.out.extend(body.as_bytes());
        wire.until(b'Z', 1)?;
        wire.heard.clear();
        Ok(wire)
    }

    /// Adds one message, as a line of a script has it: the message's letter, then its fields, separated by `|`.
    pub fn add(&mut self, line: &str, function: impl Fn(&str) -> Outcome<u32>) -> Outcome {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let fields: Vec<&str> = rest.split('|').collect();
        let field = |position: usize| fields.get(position).copied().unwrap_or_default();
        let mut body = Vec::new();
        match kind {
            "Q" => string(&mut body, rest),
            "P" => {
                string(&mut body, field(0));
                string(&mut body, field(1));
                body.extend([0, 0]);
            }
            "B" => {
                string(&mut body, field(0));
                string(&mut body, field(1));
                body.extend([0, 0]);
                values(&mut body, fields.get(2..).unwrap_or_default());
                body.extend([0, 0]);
            }
            "D" | "C" => {
                body.push(field(0).as_bytes().first().copied().unwrap_or(b'S'));
                string(&mut body, field(1));
            }
            "E" => {
                string(&mut body, field(0));
                body.extend(field(1).parse::<u32>().unwrap_or(0).to_be_bytes());
            }
            "F" => {
                body.extend(function(field(0))?.to_be_bytes());
                body.extend([0, 0]);
                values(&mut body, fields.get(1..).unwrap_or_default());
                body.extend([0, 0]);
            }
            "d" => body.extend(format!("{}\n", rest.replace(' ', "\t")).as_bytes()),
            "f" => string(&mut body, rest),
            "S" | "H" | "c" => {}
            _ => return Err(format!("the script has a line that is no message: {line}")),
        }
        self.out.push(kind.as_bytes()[0]);
        self.out.extend((body.len() as u32 + 4).to_be_bytes());
        self.out.extend(body);
        Ok(())
    }

    /// Sends what was added, at once, and reads until so many messages of a type have come.
    pub fn until(&mut self, kind: u8, mut count: usize) -> Outcome {
        self.socket.write_all(&self.out).map_err(text)?;
        self.out.clear();
        while count > 0 {
            let (got, body) = self.message()?;
            self.note(got, &body);
            count -= usize::from(got == kind);
        }
        Ok(())
    }

    /// Sends what was added, and reads what comes until nothing more does.
    pub fn drain(&mut self) -> Outcome {
        self.socket.set_read_timeout(Some(SILENCE)).map_err(text)?;
        while self.until(0, 1).is_ok() {}
        self.socket.set_read_timeout(Some(PATIENCE)).map_err(text)
    }

    /// Says goodbye, and gives what was heard. Nothing may come any more, unless `more` may: where nothing is refused, more is
    /// answered.
    pub fn end(mut self, more: bool) -> Outcome<String> {
        self.socket.write_all(b"X\0\0\0\x04").map_err(text)?;
        let mut left = std::mem::take(&mut self.unread);
        let ended = self.socket.read_to_end(&mut left);
        if ended.is_ok() && (more || left.is_empty()) {
            Ok(self.heard)
        } else {
            Err(format!("after Terminate: {ended:?}, {}\n{}", left.escape_ascii(), self.heard))
        }
    }

    fn message(&mut self) -> Outcome<(u8, Vec<u8>)> {
        loop {
            if let Some(length) = self.unread.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().map_err(|_| "a header")?) as usize;
                if self.unread.len() > length {
                    let rest = self.unread.split_off(length + 1);
                    let message = std::mem::replace(&mut self.unread, rest);
                    return Ok((message[0], message[5..].to_vec()));
                }
            }
            let mut piece = [0; 16_384];
            match self.socket.read(&mut piece).map_err(|error| format!("{error}, after:\n{}", self.heard))? {
                0 => return Err(format!("closed after:\n{}", self.heard)),
                count => self.unread.extend_from_slice(&piece[..count]),
            }
        }
    }

    fn note(&mut self, kind: u8, body: &[u8]) {
        let shown = match kind {
            // What a session begins with, and what a random key it has.
            b'R' | b'S' | b'K' => return,
            b'E' | b'N' => format!("{} {}", error_field(body, b'V'), error_field(body, b'C')),
            b'D' => row(body),
            b'T' => columns(body),
            b'V' => row(&[&[0, 1], body].concat()),
            // Whose notification it is differs.
            b'A' => body[4..].escape_ascii().to_string(),
            _ => body.escape_ascii().to_string(),
        };
        let _ = writeln!(self.heard, "{} {shown}", kind as char);
    }
}

fn string(body: &mut Vec<u8>, text: &str) {
    body.extend(text.as_bytes());
    body.push(0);
}

fn values(body: &mut Vec<u8>, values: &[&str]) {
    body.extend((values.len() as u16).to_be_bytes());
    for value in values {
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value.as_bytes());
    }
}

fn error_field(body: &[u8], wanted: u8) -> String {
    let field = body.split(|&byte| byte == 0).find(|field| field.first() == Some(&wanted));
    field.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
}

fn row(body: &[u8]) -> String {
    let mut values = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some((length, more)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0).min(more.len());
        values.push(String::from_utf8_lossy(&more[..length]).into_owned());
        rest = &more[length..];
    }
    values.join("|")
}

fn columns(body: &[u8]) -> String {
    let mut names = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        // Table, attribute, type, length, modifier, format.
        rest = rest.get(end + 19..).unwrap_or_default();
    }
    names.join("|")
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
