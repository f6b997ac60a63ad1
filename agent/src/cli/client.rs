//! The asking side of the control socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use super::{Failure, Global};
use crate::control::{MAX_REPLY, Reply, Request, SOCKET};

/// A connection to the running agent.
pub struct Client {
    path: PathBuf,
    reader: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the agent of a configuration.
    ///
    /// # Errors
    /// It is not there ([`Code::Absent`](super::failure::Code::Absent)).
    pub fn connect(global: &Global) -> Result<Self, Failure> {
        let path = global.places()?.runtime_dir.join(SOCKET);
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self { path, reader: BufReader::new(stream) }),
            Err(error) => {
                let remedy = match error.kind() {
                    io::ErrorKind::PermissionDenied => "Ask as root.",
                    _ => "Start it: `systemctl start postern-warden postern-proxy`, or `postern run` in a terminal.",
                };
                Err(Failure::absent(format!("the agent does not answer at {}: {error}", path.display()))
                    .with_remedy(remedy))
            }
        }
    }

    /// Asks, and hands over each line of the answer but the last.
    ///
    /// # Errors
    /// The agent refused or failed, went away, or `take` failed.
    pub fn ask(
        &mut self,
        request: &Request,
        mut take: impl FnMut(Reply) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let path = self.path.clone();
        let gone = |error: io::Error| Failure::absent(format!("the agent at {} went away: {error}", path.display()));
        self.reader.get_mut().write_all(&line).map_err(gone)?;
        loop {
            line.clear();
            let limit = MAX_REPLY as u64 + 1;
            (&mut self.reader).take(limit).read_until(b'\n', &mut line).map_err(gone)?;
            if line.is_empty() {
                return Err(gone(io::ErrorKind::UnexpectedEof.into()));
            }
            let reply = serde_json::from_slice(&line).map_err(|error| {
                Failure::wrong(format!("the agent's answer is not understood: {error}"))
                    .with_remedy("Use the command line of the same version as the agent.")
            })?;
            match reply {
                Reply::Done => return Ok(()),
                Reply::Error { message, remedy } => {
                    let failure = Failure::wrong(message);
                    return Err(match remedy {
                        Some(remedy) => failure.with_remedy(remedy),
                        None => failure,
                    });
                }
                reply => take(reply)?,
            }
        }
    }

    /// Asks for something that has one answer.
    ///
    /// # Errors
    /// As [`Client::ask`], or another answer came.
    pub fn one<T>(&mut self, request: &Request, pick: impl Fn(Reply) -> Option<T>) -> Result<T, Failure> {
        let mut answer = None;
        self.ask(request, |reply| {
            answer = pick(reply);
            Ok(())
        })?;
        answer.ok_or_else(|| Failure::wrong("the agent answered something else than it was asked"))
    }
}
