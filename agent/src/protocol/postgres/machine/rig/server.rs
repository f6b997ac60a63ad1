//! The toy database's server, which keeps PostgreSQL's rules about names, transactions, copying, skipped messages and the length
//! of names.

use std::collections::{HashMap, VecDeque};

use bytes::{BufMut, BytesMut};

use super::toy::{FUNCTIONS, SECRET, STRANGE, known, nested};
use crate::protocol::postgres::{
    frame::{self, client, server},
    message::{self, Bind, Parse, put_string, ready_for_query, write, write_bare},
};

/// The server.
pub struct Server {
    incoming: BytesMut,
    pub outgoing: BytesMut,
    statements: HashMap<String, String>,
    /// Texts, and whether they have run to their end.
    portals: HashMap<String, (String, bool)>,
    status: u8,
    skipping: bool,
    /// What is copied from the client, and what is still to be run of a `Query` then.
    copying: Option<(String, Option<VecDeque<String>>)>,
    /// Something else than data has come while it copied.
    pub misled: bool,
    /// Every text that was run, in order.
    pub ran: Vec<String>,
}

impl Server {
    pub fn new() -> Self {
        Self {
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            statements: HashMap::new(),
            portals: HashMap::new(),
            status: b'I',
            skipping: false,
            copying: None,
            misled: false,
            ran: Vec::new(),
        }
    }

    /// Takes bytes and answers them.
    pub fn take(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
        while let Some(frame) = frame::take(&mut self.incoming, frame::client_limit).expect("a message") {
            let body = frame.body();
            if let Some((data, rest)) = self.copying.take() {
                self.copy(frame.kind, data + &text(body), rest);
                continue;
            }
            if self.skipping && frame.kind != client::SYNC {
                continue;
            }
            let done = match frame.kind {
                client::QUERY => {
                    self.query(&text(message::query(body).expect("Query")));
                    continue;
                }
                client::SYNC => {
                    self.skipping = false;
                    self.end();
                    continue;
                }
                client::FUNCTION_CALL => {
                    self.call(&message::FunctionCall::read(body).expect("FunctionCall"));
                    continue;
                }
                client::PARSE => self.parse(&Parse::read(body).expect("Parse")),
                client::BIND => self.bind(&Bind::read(body).expect("Bind")),
                client::EXECUTE => self.execute(&name(message::execute(body).expect("Execute"))),
                client::DESCRIBE => self.describe(message::named(body).expect("Describe")),
                client::CLOSE => {
                    let (kind, closed) = message::named(body).expect("Close");
                    match kind {
                        b'S' => drop(self.statements.remove(&name(closed))),
                        _ => drop(self.portals.remove(&name(closed))),
                    }
                    self.say(&write_bare(server::CLOSE_COMPLETE));
                    Ok(())
                }
                client::FLUSH | client::COPY_DATA | client::COPY_DONE | client::COPY_FAIL | client::TERMINATE => Ok(()),
                other => panic!("the toy server was sent 0x{other:02x}"),
            };
            if let Err(code) = done {
                self.error(code);
                self.skipping = true;
            }
        }
    }

    fn query(&mut self, text: &str) {
        self.statements.remove("");
        self.portals.remove("");
        let parts = text.split(';').map(|part| part.trim().to_owned()).collect();
        match self.parsable(text) {
            Ok(()) => self.parts(parts),
            Err(code) => {
                self.error(code);
                self.end();
            }
        }
    }

    /// Runs the statements of a `Query`, up to one that copies from the client.
    fn parts(&mut self, mut parts: VecDeque<String>) {
        while let Some(part) = parts.pop_front() {
            if let Err(code) = self.run(&part, true) {
                self.error(code);
                break;
            }
            if let Some((_, rest)) = &mut self.copying {
                *rest = Some(parts);
                return;
            }
        }
        self.end();
    }

    /// A message while it copies from the client: a line that is `bad` is an error as soon as it is there.
    fn copy(&mut self, kind: u8, data: String, rest: Option<VecDeque<String>>) {
        let simple = rest.is_some();
        let done = match kind {
            client::COPY_DATA if data.contains("bad\n") => Err("22P02"),
            client::COPY_DATA => return self.copying = Some((data, rest)),
            client::FLUSH | client::SYNC => return self.copying = Some((data, rest)),
            client::COPY_DONE => Ok(()),
            client::COPY_FAIL => Err("57014"),
            _ => {
                self.misled = true;
                Err("08P01")
            }
        };
        match done {
            Ok(()) => {
                let lines = data.lines().count();
                self.ran.push(format!("copied {data}"));
                self.say(&write(server::COMMAND_COMPLETE, |body| put_string(body, format!("COPY {lines}").as_bytes())));
                rest.into_iter().for_each(|rest| self.parts(rest));
            }
            Err(code) => {
                self.error(code);
                if simple {
                    self.end();
                } else {
                    self.skipping = true;
                }
            }
        }
    }

    fn parsable(&self, text: &str) -> Result<(), &'static str> {
        // It can be read, and that is all.
        if text.starts_with("SELECT * ") && self.status == b'E' {
            return Err("25P02");
        }
        let fine = text.split(';').all(|part| known(part.trim().split(' ').next().unwrap_or_default()));
        if fine { Ok(()) } else { Err("42601") }
    }

    fn parse(&mut self, parse: &Parse<'_>) -> Result<(), &'static str> {
        let (name, text) = (name(parse.name), text(parse.text));
        if name.is_empty() {
            self.statements.remove("");
        }
        self.parsable(&text)?;
        // A prepared statement is one.
        if text.contains(';') {
            return Err("42601");
        }
        if self.statements.contains_key(&name) {
            return Err("42P05");
        }
        self.statements.insert(name, text);
        self.say(&write_bare(server::PARSE_COMPLETE));
        Ok(())
    }

    fn bind(&mut self, bind: &Bind<'_>) -> Result<(), &'static str> {
        let (portal, text) = (name(bind.portal), self.statements.get(&name(bind.statement)).cloned().ok_or("26000")?);
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return Err("42P03");
        }
        self.portals.insert(portal, (text, false));
        self.say(&write_bare(server::BIND_COMPLETE));
        Ok(())
    }

    fn call(&mut self, call: &message::FunctionCall<'_>) {
        let text = FUNCTIONS.get(call.function as usize).copied().unwrap_or_default();
        let done = match text {
            _ if self.status == b'E' => Err("25P02"),
            "" => Err("42883"),
            "fail" => Err("22012"),
            _ => Ok(()),
        };
        match done {
            Ok(()) => {
                self.ran.push(format!("called {text}"));
                self.say(&write(server::FUNCTION_CALL_RESPONSE, |body| body.extend_from_slice(b"\0\0\0\x019")));
            }
            Err(code) => self.error(code),
        }
        self.end();
    }

    fn describe(&mut self, (kind, described): (u8, &[u8])) -> Result<(), &'static str> {
        let text = match kind {
            b'S' => self.statements.get(&name(described)).cloned().ok_or("26000")?,
            _ => self.portals.get(&name(described)).map(|(text, _)| text.clone()).ok_or("34000")?,
        };
        if kind == b'S' {
            self.say(&write(server::PARAMETER_DESCRIPTION, |body| body.put_u16(0)));
        }
        match self.row(&text) {
            Some((description, _)) => self.say(&description),
            None => self.say(&write_bare(server::NO_DATA)),
        }
        Ok(())
    }

    fn execute(&mut self, portal: &str) -> Result<(), &'static str> {
        let (text, done) = self.portals.get(portal).cloned().ok_or("34000")?;
        if !done {
            self.run(&text, false)?;
            self.portals.entry(portal.to_owned()).and_modify(|(_, done)| *done = true);
            return Ok(());
        }
        // What has rows has no more of them; anything else cannot be run again.
        if self.status == b'E' {
            return Err("25P02");
        }
        self.row(&text).ok_or("55000")?;
        self.say(&write(server::COMMAND_COMPLETE, |body| put_string(body, b"SELECT")));
        Ok(())
    }

    /// The description and the row of a text that answers with one.
    fn row(&self, text: &str) -> Option<(bytes::Bytes, bytes::Bytes)> {
        let (table, attribute, value) = match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["select", value] => (0, 0, (*value).to_owned()),
            ["secret"] => (SECRET.0, SECRET.1, "111-22-3333".to_owned()),
            ["strange"] => (STRANGE, 1, "?".to_owned()),
            ["execute", prepared] => {
                return self.statements.get(*prepared).filter(|inner| !nested(inner)).and_then(|inner| self.row(inner));
            }
            _ => return None,
        };
        let description = write(server::ROW_DESCRIPTION, |body| {
            body.put_u16(1);
            put_string(body, b"column");
            body.put_u32(table);
            body.put_i16(attribute);
            body.put_u32(25);
            body.put_i16(-1);
            body.put_i32(-1);
            body.put_i16(0);
        });
        let row = write(server::DATA_ROW, |body| {
            body.put_u16(1);
            body.put_u32(u32::try_from(value.len()).expect("short"));
            body.put_slice(value.as_bytes());
        });
        Some((description, row))
    }

    fn run(&mut self, text: &str, describe: bool) -> Result<(), &'static str> {
        if self.status == b'E' && !matches!(text, "commit" | "rollback") {
            return Err("25P02");
        }
        if let Some((description, row)) = self.row(text) {
            if describe {
                self.say(&description);
            }
            self.say(&row);
        }
        self.ran.push(text.to_owned());
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["fail"] => return Err("22012"),
            ["copyin"] => {
                self.say(&write(server::COPY_IN_RESPONSE, |body| body.extend_from_slice(&[0; 3])));
                self.copying = Some((String::new(), None));
                return Ok(());
            }
            // What it streams is said by the test.
            ["replicate"] => return Ok(()),
            ["copyout"] => {
                self.say(&write(server::COPY_OUT_RESPONSE, |body| body.extend_from_slice(&[0; 3])));
                for line in ["one\n", "two\n"] {
                    self.say(&write(client::COPY_DATA, |body| body.extend_from_slice(line.as_bytes())));
                }
                self.say(&write_bare(client::COPY_DONE));
                self.say(&write(server::COMMAND_COMPLETE, |body| put_string(body, b"COPY 2")));
                return Ok(());
            }
            ["begin"] => self.status = b'T',
            ["commit" | "rollback"] => {
                self.status = b'I';
                self.portals.clear();
            }
            ["declare", name, rest @ ..] => {
                if self.portals.contains_key(*name) {
                    return Err("42P03");
                }
                self.portals.insert((*name).into(), (rest.join(" "), false));
            }
            ["prepare", name, rest @ ..] => {
                if self.statements.contains_key(*name) {
                    return Err("42P05");
                }
                self.statements.insert((*name).into(), rest.join(" "));
            }
            ["execute", name] => {
                let inner = self.statements.get(*name).cloned().ok_or("26000")?;
                if nested(&inner) {
                    return Err("54001");
                }
                self.ran.push(inner);
            }
            ["deallocate", name] => {
                self.statements.remove(*name).ok_or("26000")?;
            }
            _ => {}
        }
        self.say(&write(server::COMMAND_COMPLETE, |body| put_string(body, words[0].to_uppercase().as_bytes())));
        Ok(())
    }

    fn error(&mut self, code: &str) {
        if self.status == b'T' {
            self.status = b'E';
        }
        self.say(&write(server::ERROR_RESPONSE, |body| {
            for (field, text) in [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code), (b'M', "the server's own")] {
                body.put_u8(field);
                put_string(body, text.as_bytes());
            }
            body.put_u8(0);
        }));
    }

    fn end(&mut self) {
        if self.status == b'I' {
            self.portals.clear();
        }
        self.say(&ready_for_query(self.status));
    }

    fn say(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name as the server keeps it.
fn name(bytes: &[u8]) -> String {
    text(&bytes[..bytes.len().min(63)])
}
