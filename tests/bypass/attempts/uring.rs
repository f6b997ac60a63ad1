//! io_uring: the same calls, made by the kernel for the process.

use std::io;

use super::{
    Ending::{Redirected, Refused},
    Row,
};
use crate::{
    field::{Field, WORDS},
    sys::{self, Raw, Ring},
};

pub const ROWS: &[Row] = &[
    Row::new("io_uring: connect inline", Redirected, |field| connect(field, Ring::Inline)),
    Row::new("io_uring: connect by a worker (IOSQE_ASYNC)", Redirected, |field| connect(field, Ring::Async)),
    Row::new("io_uring: connect by a polling thread (SQPOLL)", Redirected, |field| connect(field, Ring::Polled)),
    Row::new("io_uring: a socket without a descriptor", Redirected, direct),
    Row::new("io_uring: Fast Open by sendmsg", Redirected, fast_open),
    Row::new("io_uring: UDP sendmsg inline", Refused, |field| datagram(field, Ring::Inline)),
    Row::new("io_uring: UDP sendmsg by a worker", Refused, |field| datagram(field, Ring::Async)),
    Row::new("io_uring: UDP sendmsg by a polling thread", Refused, |field| datagram(field, Ring::Polled)),
];

fn connect(field: &mut Field, how: Ring) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::ring_connect(how, &socket, &Raw::of(field.target()), WORDS)?;
    field.keep(socket);
    Ok(())
}

fn direct(field: &mut Field) -> io::Result<()> {
    let ring = sys::ring_direct(field.family(), &Raw::of(field.target()), WORDS)?;
    // Lives until all is judged, and with it the socket.
    std::mem::forget(ring);
    Ok(())
}

fn fast_open(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::ring_send_message(Ring::Inline, &socket, WORDS, libc::MSG_FASTOPEN, &Raw::of(field.target()))?;
    field.keep(socket);
    Ok(())
}

fn datagram(field: &mut Field, how: Ring) -> io::Result<()> {
    let socket = field.udp()?;
    sys::ring_send_message(how, &socket, WORDS, 0, &Raw::of(field.target()))
}
