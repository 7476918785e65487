//! The client's end, inside TLS: the password is proven, or shown.

use zeroize::Zeroizing;

use super::Inner;
use super::avp::{self, code};
use super::proof::{Challenges, Kind};
use crate::auth::eap::mschapv2::client::{proves, refusal};
use crate::auth::eap::packet::{self, Code, kind};
use crate::auth::eap::{Circumstances, ClientMethod, ClientSettings, Rejection, Seed, Step, TlsSettings};
use crate::config::{IdentityMatch, Secret};

/// A client with a name and a password.
#[derive(Debug)]
pub(in crate::auth::eap) struct Client {
    inner: Inner,
    user: String,
    password: Secret,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begun,
    Eap(Box<crate::auth::eap::Client>),
    /// The server is to prove that it knows the password.
    Said {
        proof: Zeroizing<[u8; 20]>,
    },
    /// Nothing more is to be said: the server has proven itself, by its certificate at least.
    Proven,
    Refused(Rejection),
}

impl Client {
    pub(in crate::auth::eap) fn new(inner: Inner, user: &str, password: &Secret) -> Self {
        Self { inner, user: user.to_owned(), password: password.clone(), stage: Stage::Begun }
    }

    /// Why the server has refused us, once it has.
    pub(in crate::auth::eap) fn refusal(&self) -> Option<&Rejection> {
        match &self.stage {
            Stage::Eap(inner) => inner.refusal(),
            Stage::Refused(why) => Some(why),
            _ => None,
        }
    }

    /// What is to be said once TLS is there, and to what the server said in it; it may have said nothing.
    pub(in crate::auth::eap) fn handle(
        &mut self,
        octets: &[u8],
        challenges: &Challenges,
        seed: &Seed,
        circumstances: &Circumstances,
    ) -> Result<Vec<u8>, Rejection> {
        if matches!(self.stage, Stage::Begun) {
            let (said, stage) = self.begin(challenges, seed);
            self.stage = stage;
            return Ok(said);
        }
        let avps = avp::parse(octets).map_err(|what| Rejection::Malformed { what })?;
        match &mut self.stage {
            Stage::Eap(inner) => {
                let packet = avp::eap_message(&avps);
                if packet.is_empty() {
                    return Ok(Vec::new());
                }
                match inner.handle(&packet, seed, circumstances) {
                    Step::Send(packet) => Ok(avp::emit(code::EAP_MESSAGE, &packet)),
                    Step::Failed { why, .. } => Err(*why),
                    Step::Done(_) | Step::Ask(_) => Err(Rejection::Premature),
                }
            }
            Stage::Said { proof } => {
                // Both begin with the identifier (RFC 2548 §2.1.5, §2.3.3).
                let text = |code| avp::find(&avps, code).and_then(|data| data.get(1..));
                if let Some(success) = text(code::MS_CHAP2_SUCCESS) {
                    if !proves(success, proof) {
                        return Err(Rejection::ServerNotProven { user: self.user.clone() });
                    }
                    self.stage = Stage::Proven;
                } else if let Some(error) = text(code::MS_CHAP_ERROR) {
                    let said = refusal(&String::from_utf8_lossy(error));
                    self.stage = Stage::Refused(Rejection::Refused { user: self.user.clone(), said });
                }
                // RFC 5281 §11.2.4: acknowledged by nothing.
                Ok(Vec::new())
            }
            Stage::Begun | Stage::Proven | Stage::Refused(_) => Ok(Vec::new()),
        }
    }

    /// What is said first, unasked.
    fn begin(&self, challenges: &Challenges, seed: &Seed) -> (Vec<u8>, Stage) {
        let kind = match self.inner {
            Inner::EapMsChapV2 => {
                let inner = crate::auth::eap::Client::new(ClientSettings {
                    method: ClientMethod::MsChapV2,
                    user: self.user.clone(),
                    password: self.password.clone(),
                    tls: TlsSettings::default(),
                    server: IdentityMatch::Any,
                });
                // RFC 5281 §11.2.1.
                let identity = packet::emit(Code::Response, 0, kind::IDENTITY, self.user.as_bytes());
                return (avp::emit(code::EAP_MESSAGE, &identity), Stage::Eap(Box::new(inner)));
            }
            Inner::MsChapV2 => Kind::MsChapV2,
            Inner::MsChap => Kind::MsChap,
            Inner::Chap => Kind::Chap,
            Inner::Pap => Kind::Pap,
        };
        let random = seed.0.first_chunk().copied().unwrap_or_default();
        let said = kind.prove(&self.user, &self.password, challenges, &random);
        let octets = [avp::emit(code::USER_NAME, self.user.as_bytes()), said.attributes].concat();
        (octets, said.proof.map_or(Stage::Proven, |proof| Stage::Said { proof }))
    }

    /// Whether the server has proven itself as well as the method has it.
    pub(in crate::auth::eap) fn is_proven(&mut self) -> bool {
        match &mut self.stage {
            Stage::Eap(inner) => inner.is_proven(),
            Stage::Proven => true,
            Stage::Begun | Stage::Said { .. } | Stage::Refused(_) => false,
        }
    }
}
