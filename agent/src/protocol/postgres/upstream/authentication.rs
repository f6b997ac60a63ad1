//! The client's side of a login at the target.

use bytes::{BufMut, Bytes};
use postgres_protocol::authentication::{
    md5_hash,
    sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256},
};
use zeroize::Zeroizing;

use super::{
    super::{
        frame::{Fields, Malformed, client},
        message::{self, put_string},
    },
    UpstreamError,
};
use crate::protocol::Login;

/// `AuthenticationSASL`
const SASL: u32 = 10;

/// What to do about a message of the server.
pub(super) enum Answer {
    /// It is answered.
    Send(Bytes),
    /// The agent is logged in.
    Done,
}

/// The client's side of an authentication.
pub(super) struct Authentication<'a> {
    login: &'a Login,
    channel: Channel,
    scram: Option<ScramSha256>,
    progress: Progress,
}

/// What the login goes through.
pub(super) struct Channel {
    /// TLS that has verified the server.
    pub(super) verified: bool,
    /// What a login is bound to, if it can be.
    pub(super) end_point: Option<Vec<u8>>,
    /// There is no login that is not bound.
    pub(super) must_bind: bool,
}

/// How far a login is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing that has to be proven was begun.
    Open,
    /// SCRAM has begun: the server has to prove that it knows the password.
    Unproven,
    /// It has.
    Proven,
}

impl<'a> Authentication<'a> {
    /// Nothing said yet.
    pub(super) fn new(login: &'a Login, channel: Channel) -> Self {
        Self { login, channel, scram: None, progress: Progress::Open }
    }

    /// Answers `Authentication…`.
    pub(super) fn answer(&mut self, body: &[u8]) -> Result<Option<Answer>, UpstreamError> {
        const OK: u32 = 0;
        const CLEARTEXT: u32 = 3;
        const MD5: u32 = 5;
        const SASL_CONTINUE: u32 = 11;
        const SASL_FINAL: u32 = 12;

        let mut fields = Fields::new(body);
        let method = fields.unsigned()?;
        if self.channel.must_bind && matches!(method, OK | CLEARTEXT | MD5) && self.progress != Progress::Proven {
            return Err(UpstreamError::NotBound);
        }
        match method {
            OK if self.progress != Progress::Unproven => Ok(Some(Answer::Done)),
            OK => Err(UpstreamError::Proof),
            CLEARTEXT if !self.channel.verified => Err(UpstreamError::Plaintext),
            CLEARTEXT => Ok(Some(Answer::Send(password_message(self.password()?)))),
            MD5 => {
                let salt = fields.bytes(4)?.try_into().map_err(|_| Malformed)?;
                let hash = Zeroizing::new(md5_hash(self.login.user.as_bytes(), self.password()?, salt));
                Ok(Some(Answer::Send(password_message(hash.as_bytes()))))
            }
            SASL if self.progress == Progress::Open => {
                let mut offered = Vec::new();
                while fields.left() > 1 {
                    offered.push(fields.string()?);
                }
                let (mechanism, binding) = self.mechanism(&offered)?;
                let scram = ScramSha256::new(self.password()?, binding);
                let answer = message::write(client::PASSWORD, |body| {
                    put_string(body, mechanism.as_bytes());
                    body.put_i32(i32::try_from(scram.message().len()).unwrap_or(-1));
                    body.put_slice(scram.message());
                });
                self.scram = Some(scram);
                self.progress = Progress::Unproven;
                Ok(Some(Answer::Send(answer)))
            }
            SASL_CONTINUE => {
                let mut scram = self.scram.take().ok_or(UpstreamError::Protocol)?;
                scram.update(fields.bytes(fields.left())?).map_err(|_| UpstreamError::Proof)?;
                let answer = message::write(client::PASSWORD, |body| body.put_slice(scram.message()));
                self.scram = Some(scram);
                Ok(Some(Answer::Send(answer)))
            }
            SASL_FINAL => {
                let mut scram = self.scram.take().ok_or(UpstreamError::Protocol)?;
                scram.finish(fields.bytes(fields.left())?).map_err(|_| UpstreamError::Proof)?;
                self.progress = Progress::Proven;
                Ok(None)
            }
            SASL => Err(UpstreamError::Protocol),
            method => Err(UpstreamError::Method(method)),
        }
    }

    /// Of what the server offers, the strongest. Where it offers no binding although there is something to bind to, it is told that
    /// the agent could: if somebody between has taken the offer out, the server notices that.
    fn mechanism(&self, offered: &[&[u8]]) -> Result<(&'static str, ChannelBinding), UpstreamError> {
        let offers = |mechanism: &str| offered.contains(&mechanism.as_bytes());
        match &self.channel.end_point {
            Some(hash) if offers(SCRAM_SHA_256_PLUS) => {
                Ok((SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.clone())))
            }
            _ if self.channel.must_bind => Err(UpstreamError::NotBound),
            _ if !offers(SCRAM_SHA_256) => Err(UpstreamError::Method(SASL)),
            Some(_) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
            None => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        }
    }

    fn password(&self) -> Result<&[u8], UpstreamError> {
        self.login.password.as_deref().map(Vec::as_slice).ok_or(UpstreamError::NoPassword)
    }
}

fn password_message(password: &[u8]) -> Bytes {
    message::write(client::PASSWORD, |body| put_string(body, password))
}

#[cfg(test)]
mod tests;
