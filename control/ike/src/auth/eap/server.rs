//! The server of an EAP conversation: asks who the client is where that is wanted, then runs a method with it, or has
//! an AAA server do so.

use std::sync::Arc;

use super::packet::{self, Code, Packet, kind, kind_name};
use super::tls::{self, Claim};
use super::{
    Circumstances, Msk, Outcome, Rejection, Seed, Step, TlsSettings, UserSecret, mschapv2, secret_of, ttls,
};
use crate::auth::Authorization;
use crate::config::{Identity, IdentityMatch};

/// Methods that prove the server as well, make a key, and give nobody anything to try passwords on (RFC 5998 §4).
const MUTUAL: [u8; 13] = [
    kind::TLS,
    kind::TTLS,
    kind::AKA,
    kind::PEAP,
    kind::FAST,
    kind::PAX,
    kind::PSK,
    kind::SAKE,
    kind::IKEV2,
    kind::AKA_PRIME,
    kind::GPSK,
    kind::PWD,
    kind::TEAP,
];

/// Packets of the client in one conversation: certificates in small fragments take many, nothing honest takes more.
const MAX_PACKETS: u32 = 100;

/// How clients are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerMethod {
    /// EAP-MSCHAPv2, with passwords that are configured here.
    MsChapV2,
    /// EAP-TLS, with certificates.
    Tls,
    /// EAP-TTLS, with passwords that are configured here.
    Ttls,
    /// Whatever an AAA server does with them.
    Aaa,
}

impl ServerMethod {
    /// Whether it is one over TLS, for which the server has to have a certificate.
    pub fn is_over_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Ttls)
    }

    /// Whether users have passwords that are configured here.
    pub fn has_passwords(self) -> bool {
        matches!(self, Self::MsChapV2 | Self::Ttls)
    }

    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MsChapV2 => "eap-mschapv2",
            Self::Tls => "eap-tls",
            Self::Ttls => "eap-ttls",
            Self::Aaa => "eap-radius",
        }
    }
}

/// A question to an AAA server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AaaRequest {
    /// Who the client says it is.
    pub user: String,
    /// The client's packet.
    pub packet: Vec<u8>,
    /// What the AAA server gave us with its last challenge, to be given back; `None` with the first question.
    pub state: Option<AaaState>,
}

/// What ties the questions of one conversation together at an AAA server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AaaState {
    /// Which server it is, by its place in the configuration: no other can go on.
    pub server: usize,
    /// Its State attribute (RFC 2865 §5.24); empty if it gave none.
    pub state: Vec<u8>,
}

/// What an AAA server answers.
#[derive(Debug)]
pub enum AaaAnswer {
    /// The conversation goes on.
    Challenge {
        /// For the client.
        packet: Vec<u8>,
        /// For the next question.
        state: AaaState,
    },
    /// The client is authenticated.
    Accept {
        /// An EAP-Success for the client, if the server sent one.
        packet: Option<Vec<u8>>,
        /// The method's key, if it makes one.
        msk: Option<Msk>,
        /// What comes with it.
        authorization: Box<Authorization>,
    },
    /// It is not.
    Reject {
        /// An EAP-Failure for the client, if the server sent one.
        packet: Option<Vec<u8>>,
        /// What the server says about it; may be empty.
        said: String,
    },
    /// No server answered so that we could believe it.
    Unreachable {
        /// What was tried, for people.
        why: String,
    },
}

/// A conversation as its server.
#[derive(Debug)]
pub struct Server {
    method: ServerMethod,
    /// Whom EAP-Identity has to name; `None`: it is not asked, the client is who it says it is in IKE.
    wanted: Option<IdentityMatch>,
    /// Who the client says it is in IKE.
    id: Identity,
    user: String,
    secrets: Arc<[UserSecret]>,
    tls: TlsSettings,
    /// Of the request under way.
    identifier: u8,
    received: u32,
    /// Nothing else proves us to the client (RFC 5998).
    alone: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begun,
    /// The client is to say who it is without being asked.
    Unasked,
    Identifying,
    MsChapV2(Box<mschapv2::Server>),
    /// EAP-TLS, or another method over it.
    Tls(u8, Box<tls::Server>),
    Aaa(Option<AaaState>),
    Ended,
}

impl Server {
    /// A conversation with a client that calls itself `id` in IKE. EAP-Identity is asked if `wanted` says whom to expect.
    pub fn new(
        method: ServerMethod,
        wanted: Option<IdentityMatch>,
        id: &Identity,
        secrets: Arc<[UserSecret]>,
        tls: TlsSettings,
    ) -> Self {
        let (id, user, identifier) = (id.clone(), id.to_string(), 0);
        Self {
            method,
            wanted,
            id,
            user,
            secrets,
            tls,
            identifier,
            received: 0,
            alone: false,
            stage: Stage::Begun,
        }
    }

    /// Whether nothing else proves us to the client: then what an AAA server does with it has to (RFC 5998 §4).
    pub fn proving_us(self, alone: bool) -> Self {
        Self { alone, ..self }
    }

    /// The server of a conversation inside another's TLS, where passwords are asked for; the client begins it by saying who it
    /// is (RFC 5281 §11.2.1).
    pub(super) fn unasked(wanted: IdentityMatch, secrets: Arc<[UserSecret]>) -> Self {
        let (method, nobody) = (ServerMethod::MsChapV2, Identity::Fqdn(String::new()));
        let server = Self::new(method, Some(wanted), &nobody, secrets, TlsSettings::default());
        Self { stage: Stage::Unasked, ..server }
    }

    /// Who the client is: what it says in IKE until it has said more.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Why the client is refused, once that is decided; it may hear it before it is at its end.
    pub fn refusal(&self) -> Option<&Rejection> {
        match &self.stage {
            Stage::MsChapV2(method) => method.refusal(),
            Stage::Tls(_, method) => method.refusal(),
            _ => None,
        }
    }

    /// Takes what the client sent; nothing for the first step.
    pub(super) fn handle(&mut self, received: &[u8], seed: &Seed, circumstances: &Circumstances) -> Step {
        if matches!(self.stage, Stage::Begun) {
            let [identifier, ..] = seed.0;
            self.identifier = identifier;
            return match self.wanted {
                Some(_) => {
                    self.stage = Stage::Identifying;
                    self.request(kind::IDENTITY, &[])
                }
                None => self.begin_method(seed, None),
            };
        }
        self.received += 1;
        if self.received > MAX_PACKETS {
            return self.fail(Rejection::TooLong { packets: MAX_PACKETS });
        }
        let found = match Packet::parse(received) {
            Ok(found) => found,
            Err(what) => return self.fail(Rejection::Malformed { what }),
        };
        let Packet { code: Code::Response, content: Some((kind, data)), .. } = found else {
            return self
                .fail(Rejection::Malformed { what: format!("an EAP {:?} to its server", found.code) });
        };
        if matches!(self.stage, Stage::Aaa(_)) && self.is_too_weak(kind) {
            let (user, method) = (self.user.clone(), kind_name(kind));
            return self.fail(Rejection::NotMutual { user, method });
        }
        if let Stage::Aaa(state) = &mut self.stage {
            // Its identifier is the AAA server's to judge.
            let state = state.take();
            return self.ask(received.to_vec(), state);
        }
        if matches!(self.stage, Stage::Unasked) {
            self.identifier = found.identifier;
            self.stage = Stage::Identifying;
        }
        if found.identifier != self.identifier {
            let what = format!("an EAP response to request {}, not {}", found.identifier, self.identifier);
            return self.fail(Rejection::Malformed { what });
        }
        match (&mut self.stage, kind) {
            (Stage::Identifying, kind::IDENTITY) => {
                // RFC 3748 §5.1: options may follow a zero.
                let name = data.split(|octet| *octet == 0).next().unwrap_or_default();
                self.user = String::from_utf8_lossy(name).into_owned();
                match &self.wanted {
                    Some(wanted) if !accepts(wanted, &self.user) && !self.is_told_inside() => {
                        let why = Rejection::OtherUser {
                            user: self.user.clone(),
                            wanted: Box::new(wanted.clone()),
                        };
                        self.fail(why)
                    }
                    _ => self.begin_method(seed, Some(received)),
                }
            }
            (Stage::MsChapV2(method), kind::MSCHAPV2) => match method.handle(data) {
                mschapv2::Asked::Request(data) => self.request(kind::MSCHAPV2, &data),
                mschapv2::Asked::Done(msk) => self.succeed(kind, msk),
                mschapv2::Asked::Failed(why) => self.fail(why),
            },
            (Stage::Tls(ours, method), kind) if kind == *ours => {
                match method.handle(data, seed, circumstances) {
                    tls::Asked::Request(data) => self.request(kind, &data),
                    tls::Asked::Done { msk, user } => {
                        self.user = user;
                        self.succeed(kind, msk)
                    }
                    tls::Asked::Failed(why) => self.fail(why),
                }
            }
            (Stage::MsChapV2(_) | Stage::Tls(..), kind::NAK) => {
                let offered = match self.stage {
                    Stage::Tls(ours, _) => kind_name(ours),
                    _ => kind_name(kind::MSCHAPV2),
                };
                self.fail(Rejection::OtherMethod { offered, wanted: data.to_vec() })
            }
            (_, kind) => self
                .fail(Rejection::Malformed { what: format!("an {} response out of turn", kind_name(kind)) }),
        }
    }

    /// Takes what an AAA server has answered to [`Step::Ask`].
    pub fn handle_answer(&mut self, answer: AaaAnswer) -> Step {
        match answer {
            AaaAnswer::Challenge { packet, state } => {
                self.identifier = packet.get(1).copied().unwrap_or_default();
                self.stage = Stage::Aaa(Some(state));
                Step::Send(packet)
            }
            AaaAnswer::Accept { msk: None, .. } => {
                // Every method that is worth having in IKEv2 makes a key, and without it nothing ties what was
                // authenticated to this IKE SA (RFC 7296 §2.16).
                self.fail(Rejection::NoKey { user: self.user.clone() })
            }
            AaaAnswer::Accept { packet, msk, authorization } => {
                self.stage = Stage::Ended;
                let packet = packet.unwrap_or_else(|| packet::emit_end(Code::Success, self.identifier));
                let named = authorization.eap_id.unwrap_or_else(|| self.user.clone());
                let authorization = Authorization { eap_id: Some(named), ..*authorization };
                Step::Done(Box::new(Outcome {
                    packet: Some(packet),
                    msk,
                    authorization,
                    method: "EAP by an AAA server".to_owned(),
                }))
            }
            AaaAnswer::Reject { packet, said } => {
                let why = Rejection::AaaRefused { user: self.user.clone(), said };
                self.stage = Stage::Ended;
                let packet = packet.unwrap_or_else(|| packet::emit_end(Code::Failure, self.identifier));
                Step::Failed { packet: Some(packet), why: Box::new(why) }
            }
            AaaAnswer::Unreachable { why } => self.fail(Rejection::AaaUnreachable { why }),
        }
    }

    /// Whether a method that the client takes is to prove us, and cannot. It may be offered: the client asks for another.
    fn is_too_weak(&self, kind: u8) -> bool {
        let is_method = !matches!(kind, kind::IDENTITY | kind::NOTIFICATION | kind::NAK);
        self.alone && is_method && !MUTUAL.contains(&kind)
    }

    fn begin_tls(&mut self, kind: u8, begun: Result<(tls::Server, Vec<u8>), Rejection>) -> Step {
        match begun {
            Ok((method, data)) => {
                self.stage = Stage::Tls(kind, Box::new(method));
                self.request(kind, &data)
            }
            Err(why) => self.fail(why),
        }
    }

    /// Whether the client says only inside TLS who it is, where nobody listens: with EAP-TTLS, and with EAP-TLS if it was asked and
    /// gave an anonymous name (RFC 9190 §2.1.7, RFC 7542 §2.4).
    fn is_told_inside(&self) -> bool {
        let anonymous = self.user.is_empty() || self.user.starts_with('@');
        match self.method {
            ServerMethod::Ttls => true,
            ServerMethod::Tls => self.wanted.is_some() && anonymous,
            ServerMethod::MsChapV2 | ServerMethod::Aaa => false,
        }
    }

    /// `identity`: the client's answer to EAP-Identity, if it was asked.
    fn begin_method(&mut self, seed: &Seed, identity: Option<&[u8]>) -> Step {
        match self.method {
            ServerMethod::MsChapV2 => {
                let (_, random) = seed.0.split_at(16);
                let challenge = random.first_chunk().copied().unwrap_or_default();
                let secret = secret_of(&self.secrets, &self.user);
                let id = self.identifier.wrapping_add(1);
                let (method, data) = mschapv2::Server::begin(&self.user, secret, id, challenge);
                self.stage = Stage::MsChapV2(Box::new(method));
                self.request(kind::MSCHAPV2, &data)
            }
            ServerMethod::Tls => {
                let claim = match (&self.wanted, self.user.parse()) {
                    (None, _) => Claim::Named(self.id.clone()),
                    (Some(_), Ok(id)) if !self.is_told_inside() => Claim::Named(id),
                    (Some(wanted), _) => Claim::OneOf(wanted.clone()),
                };
                self.begin_tls(kind::TLS, tls::Server::begin(&self.tls, claim))
            }
            ServerMethod::Ttls => {
                let wanted = match &self.wanted {
                    Some(wanted) => wanted.clone(),
                    None => IdentityMatch::Exactly(self.id.clone()),
                };
                let inner = ttls::Server::new(wanted, Arc::clone(&self.secrets));
                self.begin_tls(kind::TTLS, tls::Server::begin_tunnel(&self.tls, inner))
            }
            ServerMethod::Aaa => {
                // As RFC 3579 §2.1 has it where the authenticator knows the identity already.
                let made =
                    || packet::emit(Code::Response, self.identifier, kind::IDENTITY, self.user.as_bytes());
                let packet = identity.map_or_else(made, <[u8]>::to_vec);
                self.ask(packet, None)
            }
        }
    }

    fn ask(&mut self, packet: Vec<u8>, state: Option<AaaState>) -> Step {
        self.stage = Stage::Aaa(None);
        Step::Ask(Box::new(AaaRequest { user: self.user.clone(), packet, state }))
    }

    fn request(&mut self, kind: u8, data: &[u8]) -> Step {
        self.identifier = self.identifier.wrapping_add(1);
        Step::Send(packet::emit(Code::Request, self.identifier, kind, data))
    }

    fn succeed(&mut self, kind: u8, msk: Option<Msk>) -> Step {
        self.stage = Stage::Ended;
        let method = kind_name(kind);
        let packet = Some(packet::emit_end(Code::Success, self.identifier));
        let authorization = Authorization { eap_id: Some(self.user.clone()), ..Authorization::default() };
        Step::Done(Box::new(Outcome { packet, msk, authorization, method }))
    }

    fn fail(&mut self, why: Rejection) -> Step {
        self.stage = Stage::Ended;
        let packet = Some(packet::emit_end(Code::Failure, self.identifier));
        Step::Failed { packet, why: Box::new(why) }
    }
}

/// Whether a user's name is one that is wanted.
pub(super) fn accepts(wanted: &IdentityMatch, user: &str) -> bool {
    matches!(wanted, IdentityMatch::Any) || user.parse::<Identity>().is_ok_and(|id| wanted.accepts(&id))
}
