//! The client of an EAP conversation: says who it is, and answers the method that the server offers if that is one that
//! it may do.

use super::packet::{self, Code, Packet, kind, kind_name};
use super::{Outcome, Rejection, Seed, Step, mschapv2};
use crate::auth::Authorization;
use crate::config::Secret;

/// Packets of the server in one conversation.
const MAX_PACKETS: u32 = 100;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMethod {
    /// EAP-MSCHAPv2.
    MsChapV2,
}

impl ClientMethod {
    fn kind(self) -> u8 {
        match self {
            Self::MsChapV2 => kind::MSCHAPV2,
        }
    }

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MsChapV2 => "eap-mschapv2",
        }
    }
}

/// A conversation as its client.
#[derive(Debug)]
pub struct Client {
    method: ClientMethod,
    user: String,
    password: Secret,
    received: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begun,
    MsChapV2(Box<mschapv2::Client>),
    Ended,
}

impl Client {
    /// A client of that name, with that password.
    pub fn new(method: ClientMethod, user: String, password: Secret) -> Self {
        Self { method, user, password, received: 0, stage: Stage::Begun }
    }

    /// Who we say we are.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Why the server has refused us, once it has said so in the method.
    pub fn refusal(&self) -> Option<&Rejection> {
        match &self.stage {
            Stage::MsChapV2(method) => method.refusal(),
            _ => None,
        }
    }

    /// Takes what the server sent.
    pub(super) fn handle(&mut self, received: &[u8], seed: &Seed) -> Step {
        self.received += 1;
        if self.received > MAX_PACKETS {
            return self.fail(Rejection::TooLong { packets: MAX_PACKETS });
        }
        let found = match Packet::parse(received) {
            Ok(found) => found,
            Err(what) => return self.fail(Rejection::Malformed { what }),
        };
        match (found.code, found.content) {
            (Code::Request, Some((kind, data))) => self.answer(found.identifier, kind, data, seed),
            (Code::Success, _) => self.succeed(),
            (Code::Failure, _) => {
                let said = || "it ended EAP with failure; its log says why".to_owned();
                let why = self.refusal().cloned();
                let why = why.unwrap_or_else(|| Rejection::Refused { user: self.user.clone(), said: said() });
                self.fail(why)
            }
            (code, _) => self.fail(Rejection::Malformed { what: format!("an EAP {code:?} to its client") }),
        }
    }

    fn answer(&mut self, identifier: u8, kind: u8, data: &[u8], seed: &Seed) -> Step {
        let respond = |kind, data: &[u8]| Step::Send(packet::emit(Code::Response, identifier, kind, data));
        match (&mut self.stage, kind) {
            (Stage::Begun, kind::IDENTITY) => respond(kind::IDENTITY, self.user.as_bytes()),
            // What the server would have people read: acknowledged (RFC 3748 §5.2).
            (_, kind::NOTIFICATION) => respond(kind::NOTIFICATION, &[]),
            (Stage::Begun, kind) if kind == self.method.kind() => {
                let method = mschapv2::Client::new(&self.user, &self.password);
                self.stage = Stage::MsChapV2(Box::new(method));
                self.answer(identifier, kind, data, seed)
            }
            (Stage::Begun, _) => respond(kind::NAK, &[self.method.kind()]),
            (Stage::MsChapV2(method), kind::MSCHAPV2) => {
                let random = seed.0.first_chunk().copied().unwrap_or_default();
                match method.handle(data, random) {
                    mschapv2::Answered::Response(data) => respond(kind::MSCHAPV2, &data),
                    mschapv2::Answered::Failed(why) => self.fail(why),
                }
            }
            (_, kind) => self
                .fail(Rejection::Malformed { what: format!("an {} request out of turn", kind_name(kind)) }),
        }
    }

    fn succeed(&mut self) -> Step {
        let finished = match &mut self.stage {
            Stage::MsChapV2(method) => method.finish(),
            Stage::Begun | Stage::Ended => None,
        };
        let Some(msk) = finished else { return self.fail(Rejection::Premature) };
        self.stage = Stage::Ended;
        let method = "EAP-MSCHAPv2";
        Step::Done(Box::new(Outcome { packet: None, msk, authorization: Authorization::default(), method }))
    }

    fn fail(&mut self, why: Rejection) -> Step {
        self.stage = Stage::Ended;
        Step::Failed { packet: None, why: Box::new(why) }
    }
}
