//! The client of an EAP conversation: says who it is, and answers the method that the server offers if that is one that
//! it may do.

use super::packet::{self, Code, Packet, kind, kind_name};
use super::tls::{self, Claim};
use super::{Circumstances, Inner, Outcome, Rejection, Seed, Step, TlsSettings, mschapv2, ttls};
use crate::auth::Authorization;
use crate::config::{IdentityMatch, Secret};

/// Packets of the server in one conversation.
const MAX_PACKETS: u32 = 100;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientMethod {
    /// EAP-MSCHAPv2.
    MsChapV2,
    /// EAP-TLS.
    Tls,
    /// EAP-TTLS, with this inside.
    Ttls(Inner),
}

impl ClientMethod {
    fn kind(self) -> u8 {
        match self {
            Self::MsChapV2 => kind::MSCHAPV2,
            Self::Tls => kind::TLS,
            Self::Ttls(_) => kind::TTLS,
        }
    }

    /// Whether it needs a password.
    pub fn has_password(self) -> bool {
        match self {
            Self::MsChapV2 | Self::Ttls(_) => true,
            Self::Tls => false,
        }
    }

    /// Whether it proves the server as well, and so well that nobody else needs to (RFC 5998 §4).
    pub fn is_mutual(self) -> bool {
        match self {
            // Whoever records a conversation can try passwords at leisure.
            Self::MsChapV2 => false,
            Self::Tls | Self::Ttls(_) => true,
        }
    }

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MsChapV2 => "eap-mschapv2",
            Self::Tls => "eap-tls",
            Self::Ttls(_) => "eap-ttls",
        }
    }
}

/// Who a client is, and what it proves that with.
#[derive(Debug)]
pub struct ClientSettings {
    /// The method.
    pub method: ClientMethod,
    /// Who we say we are.
    pub user: String,
    /// The password; empty for methods without one.
    pub password: Secret,
    /// What methods over TLS need.
    pub tls: TlsSettings,
    /// Whom the server's certificate has to be for.
    pub server: IdentityMatch,
}

/// What a method does next.
#[derive(Debug)]
pub(super) enum Answered {
    /// It sends this, as the data of a response.
    Response(Vec<u8>),
    /// It failed.
    Failed(Rejection),
}

/// A conversation as its client.
#[derive(Debug)]
pub struct Client {
    settings: ClientSettings,
    received: u32,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begun,
    MsChapV2(Box<mschapv2::Client>),
    /// EAP-TLS, or another method over it.
    Tls(Box<tls::Client>),
    Ended,
}

impl Client {
    /// A client that has heard nothing yet.
    pub fn new(settings: ClientSettings) -> Self {
        Self { settings, received: 0, stage: Stage::Begun }
    }

    /// Who we say we are.
    pub fn user(&self) -> &str {
        &self.settings.user
    }

    /// Why the server has refused us, once it has said so in the method.
    pub fn refusal(&self) -> Option<&Rejection> {
        match &self.stage {
            Stage::MsChapV2(method) => method.refusal(),
            Stage::Tls(method) => method.refusal(),
            Stage::Begun | Stage::Ended => None,
        }
    }

    /// Takes what the server sent.
    pub(super) fn handle(&mut self, received: &[u8], seed: &Seed, circumstances: &Circumstances) -> Step {
        self.received += 1;
        if self.received > MAX_PACKETS {
            return self.fail(Rejection::TooLong { packets: MAX_PACKETS });
        }
        let found = match Packet::parse(received) {
            Ok(found) => found,
            Err(what) => return self.fail(Rejection::Malformed { what }),
        };
        match (found.code, found.content) {
            (Code::Request, Some((kind, data))) => {
                self.answer(found.identifier, (kind, data), seed, circumstances)
            }
            (Code::Success, _) => self.succeed(),
            (Code::Failure, _) => {
                let said = || "it ended EAP with failure; its log says why".to_owned();
                let why = self.refusal().cloned();
                let why =
                    why.unwrap_or_else(|| Rejection::Refused { user: self.user().to_owned(), said: said() });
                self.fail(why)
            }
            (code, _) => self.fail(Rejection::Malformed { what: format!("an EAP {code:?} to its client") }),
        }
    }

    fn answer(
        &mut self,
        identifier: u8,
        (kind, data): (u8, &[u8]),
        seed: &Seed,
        circumstances: &Circumstances,
    ) -> Step {
        let respond = |kind, data: &[u8]| Step::Send(packet::emit(Code::Response, identifier, kind, data));
        let ours = self.settings.method.kind();
        match (&mut self.stage, kind) {
            (Stage::Begun, kind::IDENTITY) => respond(kind::IDENTITY, self.user().as_bytes()),
            // What the server would have people read: acknowledged (RFC 3748 §5.2).
            (_, kind::NOTIFICATION) => respond(kind::NOTIFICATION, &[]),
            (Stage::Begun, kind) if kind == ours => match self.begin() {
                Ok(stage) => {
                    self.stage = stage;
                    self.answer(identifier, (kind, data), seed, circumstances)
                }
                Err(why) => self.fail(why),
            },
            (Stage::Begun, _) => respond(kind::NAK, &[ours]),
            (Stage::MsChapV2(method), kind::MSCHAPV2) => {
                let random = seed.0.first_chunk().copied().unwrap_or_default();
                match method.handle(data, random) {
                    Answered::Response(data) => respond(kind::MSCHAPV2, &data),
                    Answered::Failed(why) => self.fail(why),
                }
            }
            (Stage::Tls(method), kind) if kind == ours => match method.handle(data, seed, circumstances) {
                Answered::Response(data) => respond(kind, &data),
                Answered::Failed(why) => self.fail(why),
            },
            (_, kind) => self
                .fail(Rejection::Malformed { what: format!("an {} request out of turn", kind_name(kind)) }),
        }
    }

    /// The server has offered our method.
    fn begin(&self) -> Result<Stage, Rejection> {
        let ClientSettings { method, user, password, tls, server } = &self.settings;
        let claim = || Claim::OneOf(server.clone());
        Ok(match method {
            ClientMethod::MsChapV2 => Stage::MsChapV2(Box::new(mschapv2::Client::new(user, password))),
            ClientMethod::Tls => Stage::Tls(Box::new(tls::Client::new(tls, claim())?)),
            ClientMethod::Ttls(inner) => {
                let inner = ttls::Client::new(*inner, user, password);
                Stage::Tls(Box::new(tls::Client::tunnel(tls, claim(), inner)?))
            }
        })
    }

    /// Whether the method has proven both ends, where nobody says so by EAP-Success.
    pub(super) fn is_proven(&mut self) -> bool {
        match &mut self.stage {
            Stage::MsChapV2(method) => method.finish().is_some(),
            Stage::Tls(method) => method.finish().is_some(),
            Stage::Begun | Stage::Ended => false,
        }
    }

    fn succeed(&mut self) -> Step {
        let finished = match &mut self.stage {
            Stage::MsChapV2(method) => method.finish(),
            Stage::Tls(method) => method.finish(),
            Stage::Begun | Stage::Ended => None,
        };
        let Some(msk) = finished else {
            let why = self.refusal().cloned().unwrap_or(Rejection::Premature);
            return self.fail(why);
        };
        self.stage = Stage::Ended;
        let method = kind_name(self.settings.method.kind());
        Step::Done(Box::new(Outcome { packet: None, msk, authorization: Authorization::default(), method }))
    }

    fn fail(&mut self, why: Rejection) -> Step {
        self.stage = Stage::Ended;
        Step::Failed { packet: None, why: Box::new(why) }
    }
}
