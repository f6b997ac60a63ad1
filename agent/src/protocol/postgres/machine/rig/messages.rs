//! Messages of a client.

use bytes::{BufMut, Bytes, BytesMut};

use crate::protocol::postgres::{
    frame::client,
    message::{put_string, write, write_bare, write_named},
};

pub fn query(text: impl AsRef<[u8]>) -> Bytes {
    write(client::QUERY, |body| put_string(body, text.as_ref()))
}

pub fn parse(name: impl AsRef<[u8]>, text: impl AsRef<[u8]>) -> Bytes {
    write(client::PARSE, |body| {
        put_string(body, name.as_ref());
        put_string(body, text.as_ref());
        body.put_u16(0);
    })
}

pub fn bind(portal: impl AsRef<[u8]>, statement: impl AsRef<[u8]>) -> Bytes {
    bind_values(portal, statement, &[])
}

pub fn bind_values(portal: impl AsRef<[u8]>, statement: impl AsRef<[u8]>, values: &[&[u8]]) -> Bytes {
    write(client::BIND, |body| {
        put_string(body, portal.as_ref());
        put_string(body, statement.as_ref());
        body.put_u16(0);
        put_values(body, values);
        body.put_u16(0);
    })
}

/// As in `Bind` and in `DataRow`.
pub fn put_values(body: &mut BytesMut, values: &[&[u8]]) {
    body.put_u16(values.len() as u16);
    for value in values {
        body.put_u32(value.len() as u32);
        body.put_slice(value);
    }
}

pub fn execute(portal: impl AsRef<[u8]>) -> Bytes {
    write(client::EXECUTE, |body| {
        put_string(body, portal.as_ref());
        body.put_u32(0);
    })
}

pub fn describe(kind: u8, name: impl AsRef<[u8]>) -> Bytes {
    write_named(client::DESCRIBE, kind, name.as_ref())
}

pub fn close(kind: u8, name: impl AsRef<[u8]>) -> Bytes {
    write_named(client::CLOSE, kind, name.as_ref())
}

pub fn copy_data(data: impl AsRef<[u8]>) -> Bytes {
    write(client::COPY_DATA, |body| body.put_slice(data.as_ref()))
}

pub fn copy_done() -> Bytes {
    write_bare(client::COPY_DONE)
}

pub fn copy_fail() -> Bytes {
    write(client::COPY_FAIL, |body| put_string(body, b"enough"))
}

pub fn function_call(function: u32) -> Bytes {
    write(client::FUNCTION_CALL, |body| {
        body.put_u32(function);
        body.put_slice(b"\0\0\0\x01\0\0\0\x017\0\0");
    })
}

pub fn sync() -> Bytes {
    write_bare(client::SYNC)
}
