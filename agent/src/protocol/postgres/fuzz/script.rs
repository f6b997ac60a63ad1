//! What the two sides of a session say, as a text with a line for each message: so that inputs which are kept can be read,
//! and what varies a line makes another message more often than none.
//!
//! ```text
//! %clear observe            first line: nothing is masked; all is only observed
//! Q select 1                Query
//! P name select 1           Parse; the name `-` is the empty one, here and below
//! B portal statement 1 2    Bind, with parameters
//! E portal                  Execute
//! D S name    C P name      Describe, Close
//! S    H    X               Sync, Flush, Terminate
//! F 1                       FunctionCall
//! d data    c    f          CopyData, CopyDone, CopyFail
//! =bytes                    what the client says is this
//! ~1 80                     in its message before, the byte at 1 is changed by 0x80
//! ^2                        its message before is cut by two bytes
//! |                         the machine deals with what has come
//! @                         the catalogue is old
//! !                         the client sends nothing more
//! <                         the toy server's answers come
//! <+7                       seven bytes of them
//! <T 7.3 0.0                RowDescription: columns of these tables and attributes
//! <D one two                DataRow
//! <E ERROR 42000 text       ErrorResponse; <N is NoticeResponse
//! <Z I    <C SELECT 1       ReadyForQuery, CommandComplete; others by their type, with what their body is
//! <=bytes                   what the server says is this
//! ```
//! `\n` and `\xHH` stand for bytes.

use bytes::{BufMut, Bytes};

use crate::protocol::postgres::{
    frame::server as from_server,
    machine::rig,
    message::{put_string, ready_for_query, write, write_bare},
};

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A message of a client that means what it says.
    Client(Bytes),
    /// Any bytes of a client.
    Bytes(Vec<u8>),
    /// A byte of the client's last message is changed.
    Change(usize, u8),
    /// The client's last message is cut.
    Cut(usize),
    /// Any bytes of a server.
    Server(Bytes),
    /// So much of the toy server's answers.
    Answers(usize),
    /// The machine goes on.
    Steps,
    /// The catalogue is old.
    Outdated,
    /// The client has closed its side.
    Ended,
}

/// What the first line says: nothing is masked, and all is only observed.
pub fn circumstances(input: &[u8]) -> (bool, bool) {
    let first = lines(input).next().and_then(|line| line.strip_prefix(b"%")).unwrap_or_default();
    (first.contains(&b'c'), first.contains(&b'o'))
}

/// The lines of an input; what is none is what the client says.
pub fn read(input: &[u8]) -> impl Iterator<Item = Line> {
    lines(input).filter(|line| !line.is_empty() && line[0] != b'%').map(line)
}

fn lines(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|&byte| byte == b'\n')
}

fn line(line: &[u8]) -> Line {
    let (kind, rest) = (line[0], unescaped(line.get(1..).unwrap_or_default()));
    let body = rest.strip_prefix(b" ").unwrap_or(&rest);
    let mut words = body.split(|&byte| byte == b' ').map(name);
    let mut word = || words.next().unwrap_or_default();
    match kind {
        b'Q' => Line::Client(rig::query(body)),
        b'P' => {
            let text = body.splitn(2, |&byte| byte == b' ').nth(1).unwrap_or_default();
            Line::Client(rig::parse(word(), text))
        }
        b'B' => {
            let (portal, statement) = (word(), word());
            match words.collect::<Vec<_>>().as_slice() {
                [] => Line::Client(rig::bind(portal, statement)),
                values => Line::Client(rig::bind_values(portal, statement, values)),
            }
        }
        b'E' => Line::Client(rig::execute(word())),
        b'D' => Line::Client(rig::describe(described(word()), word())),
        b'C' => Line::Client(rig::close(described(word()), word())),
        b'S' => Line::Client(rig::sync()),
        b'c' => Line::Client(rig::copy_done()),
        b'H' | b'X' => Line::Client(write_bare(kind)),
        b'F' => Line::Client(rig::function_call(number(body))),
        b'd' => Line::Client(rig::copy_data(body)),
        b'f' => Line::Client(rig::copy_fail()),
        b'~' => Line::Change(number(word()) as usize, u8::from_str_radix(&lossy(word()), 16).unwrap_or(0xff)),
        b'^' => Line::Cut(number(body) as usize),
        b'|' => Line::Steps,
        b'@' => Line::Outdated,
        b'!' => Line::Ended,
        b'<' => match rest.split_first() {
            None => Line::Answers(usize::MAX),
            Some((b'+', count)) => Line::Answers(number(count) as usize),
            Some((b'=', bytes)) => Line::Server(bytes.to_vec().into()),
            Some((kind, body)) => Line::Server(server(*kind, body.strip_prefix(b" ").unwrap_or(body))),
        },
        b'=' => Line::Bytes(rest),
        _ => Line::Bytes(unescaped(line)),
    }
}

/// A message of a server.
fn server(kind: u8, body: &[u8]) -> Bytes {
    let words: Vec<&[u8]> = body.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).collect();
    match kind {
        from_server::ROW_DESCRIPTION => write(kind, |bytes| {
            bytes.put_u16(words.len() as u16);
            for (position, word) in words.iter().enumerate() {
                let mut origin = word.split(|&byte| byte == b'.').map(number);
                put_string(bytes, format!("column{position}").as_bytes());
                bytes.put_u32(origin.next().unwrap_or(0));
                bytes.put_u16(origin.next().unwrap_or(0) as u16);
                bytes.put_u32(25);
                bytes.put_i16(-1);
                bytes.put_i32(-1);
                bytes.put_u16(origin.next().unwrap_or(0) as u16);
            }
        }),
        from_server::DATA_ROW => write(kind, |bytes| rig::put_values(bytes, &words)),
        from_server::ERROR_RESPONSE | from_server::NOTICE_RESPONSE => write(kind, |bytes| {
            let texts = body.splitn(3, |&byte| byte == b' ').chain(std::iter::repeat(&b""[..]));
            for (field, text) in [b'V', b'C', b'M'].into_iter().zip(texts) {
                bytes.put_u8(field);
                put_string(bytes, text);
            }
            bytes.put_u8(0);
        }),
        from_server::READY_FOR_QUERY => ready_for_query(body.first().copied().unwrap_or(b'I')),
        from_server::PARAMETER_DESCRIPTION => write(kind, |bytes| {
            bytes.put_u16(words.len() as u16);
            words.iter().for_each(|word| bytes.put_u32(number(word)));
        }),
        from_server::COPY_IN_RESPONSE | from_server::COPY_OUT_RESPONSE | from_server::COPY_BOTH_RESPONSE => {
            write(kind, |bytes| {
                bytes.put_u8(number(body) as u8);
                bytes.put_u16(0);
            })
        }
        from_server::FUNCTION_CALL_RESPONSE => write(kind, |bytes| {
            bytes.put_u32(body.len() as u32);
            bytes.put_slice(body);
        }),
        from_server::COMMAND_COMPLETE => write(kind, |bytes| put_string(bytes, body)),
        from_server::PARAMETER_STATUS => write(kind, |bytes| {
            words.iter().take(2).for_each(|word| put_string(bytes, word));
        }),
        from_server::NOTIFICATION_RESPONSE => write(kind, |bytes| {
            bytes.put_u32(1);
            words.iter().take(2).for_each(|word| put_string(bytes, word));
        }),
        _ => write(kind, |bytes| bytes.put_slice(body)),
    }
}

fn described(word: &[u8]) -> u8 {
    if word == b"P" { b'P' } else { b'S' }
}

fn name(word: &[u8]) -> &[u8] {
    if word == b"-" { b"" } else { word }
}

fn number(word: &[u8]) -> u32 {
    lossy(word).trim().parse().unwrap_or(0)
}

fn lossy(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        match (first, more) {
            (b'\\', [b'n', ..]) => {
                bytes.push(b'\n');
                rest = &more[1..];
            }
            (b'\\', [b'x', high, low, ..]) => {
                bytes.push(u8::from_str_radix(&lossy(&[*high, *low]), 16).unwrap_or(0));
                rest = &more[3..];
            }
            _ => bytes.push(first),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_the_message_that_it_says() {
        let script = b"%clear\nQ select 1\nP - select 1\nB p -\nD S -\n<Z T\n<+3\n=a\\x00\\nb\n~1 80\n?";
        let wanted = [
            Line::Client(rig::query("select 1")),
            Line::Client(rig::parse("", "select 1")),
            Line::Client(rig::bind("p", "")),
            Line::Client(rig::describe(b'S', "")),
            Line::Server(ready_for_query(b'T')),
            Line::Answers(3),
            Line::Bytes(b"a\0\nb".to_vec()),
            Line::Change(1, 0x80),
            Line::Bytes(b"?".to_vec()),
        ];
        assert_eq!(read(script).collect::<Vec<_>>(), wanted);
        assert_eq!(circumstances(script), (true, false));
    }
}
