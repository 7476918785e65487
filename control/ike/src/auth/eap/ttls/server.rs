//! The server's end, inside TLS.

use std::sync::Arc;

use super::avp::{self, code};
use super::proof::{Challenges, Judged, Proof};
use crate::auth::eap::{Circumstances, Rejection, Seed, Step, UserSecret, accepts, secret_of};
use crate::config::IdentityMatch;

/// What the server does next.
#[derive(Debug)]
pub(in crate::auth::eap) enum Said {
    /// It says this inside TLS.
    Attributes(Vec<u8>),
    /// The client has proven that it is this user.
    Done {
        /// Its name inside TLS, which the one outside need not be.
        user: String,
    },
    /// It failed.
    Failed(Rejection),
}

/// A server that awaits a client's first attributes, or goes on with EAP inside.
#[derive(Debug)]
pub(in crate::auth::eap) struct Server {
    wanted: IdentityMatch,
    users: Arc<[UserSecret]>,
    inner: Box<crate::auth::eap::Server>,
    /// Who has proven that he knows his password, and is to acknowledge our proof.
    proven: Option<String>,
}

impl Server {
    pub(in crate::auth::eap) fn new(wanted: IdentityMatch, users: Arc<[UserSecret]>) -> Self {
        let inner = crate::auth::eap::Server::unasked(wanted.clone(), Arc::clone(&users));
        Self { wanted, users, inner: Box::new(inner), proven: None }
    }

    /// Why the client is refused, once it is.
    pub(in crate::auth::eap) fn refusal(&self) -> Option<&Rejection> {
        self.inner.refusal()
    }

    /// Takes an empty packet: who has proven himself, if it acknowledges our proof.
    pub(in crate::auth::eap) fn acknowledged(&mut self) -> Option<String> {
        self.proven.take()
    }

    pub(in crate::auth::eap) fn handle(
        &mut self,
        octets: &[u8],
        challenges: &Challenges,
        seed: &Seed,
        circumstances: &Circumstances,
    ) -> Said {
        let avps = match avp::parse(octets) {
            Ok(avps) => avps,
            Err(what) => return Said::Failed(Rejection::Malformed { what }),
        };
        let packet = avp::eap_message(&avps);
        if !packet.is_empty() {
            return match self.inner.handle(&packet, seed, circumstances) {
                Step::Send(packet) => Said::Attributes(avp::emit(code::EAP_MESSAGE, &packet)),
                Step::Done(_) => Said::Done { user: self.inner.user().to_owned() },
                Step::Failed { why, .. } => Said::Failed(*why),
                Step::Ask(_) => Said::Failed(Rejection::Premature),
            };
        }
        match (avp::find(&avps, code::USER_NAME), Proof::find(&avps)) {
            (Some(user), Some(proof)) => self.judge(user, proof, challenges).unwrap_or_else(Said::Failed),
            _ => {
                let offered = "EAP-MSCHAPv2, MS-CHAP-V2, MS-CHAP, CHAP or PAP inside EAP-TTLS".to_owned();
                let refused = avps.iter().any(|avp| avp.mandatory);
                Said::Failed(match refused {
                    true => Rejection::OtherMethod { offered, wanted: Vec::new() },
                    false => {
                        Rejection::Malformed { what: "nothing that proves a user inside TLS".to_owned() }
                    }
                })
            }
        }
    }

    fn judge(&mut self, name: &[u8], proof: Proof<'_>, challenges: &Challenges) -> Result<Said, Rejection> {
        let user = String::from_utf8_lossy(name).into_owned();
        if !accepts(&self.wanted, &user) {
            return Err(Rejection::OtherUser { user, wanted: Box::new(self.wanted.clone()) });
        }
        let Some(known) = secret_of(&self.users, &user) else {
            return Err(Rejection::UnknownUser { user });
        };
        Ok(match proof.judge(name, &known.secret, challenges)? {
            Judged::Right => Said::Done { user },
            Judged::Answered(attributes) => {
                self.proven = Some(user);
                Said::Attributes(attributes)
            }
            Judged::Wrong => Said::Failed(Rejection::WrongPassword { user, secret: known.name.clone() }),
        })
    }
}
