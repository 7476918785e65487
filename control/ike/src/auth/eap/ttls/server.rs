//! The server's end, inside TLS.

use std::sync::Arc;

use subtle::ConstantTimeEq as _;

use super::avp::{self, Avp, code};
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
}

impl Server {
    pub(in crate::auth::eap) fn new(wanted: IdentityMatch, users: Arc<[UserSecret]>) -> Self {
        let inner = crate::auth::eap::Server::unasked(wanted.clone(), Arc::clone(&users));
        Self { wanted, users, inner: Box::new(inner) }
    }

    /// Why the client is refused, once it is.
    pub(in crate::auth::eap) fn refusal(&self) -> Option<&Rejection> {
        self.inner.refusal()
    }

    pub(in crate::auth::eap) fn handle(
        &mut self,
        octets: &[u8],
        seed: &Seed,
        circumstances: &Circumstances,
    ) -> Said {
        let avps = match avp::parse(octets) {
            Ok(avps) => avps,
            Err(what) => return Said::Failed(Rejection::Malformed { what }),
        };
        let all = |code| avps.iter().filter(move |avp| avp.vendor.is_none() && avp.code == code);
        let packet: Vec<u8> = all(code::EAP_MESSAGE).flat_map(|avp| avp.data).copied().collect();
        if !packet.is_empty() {
            return match self.inner.handle(&packet, seed, circumstances) {
                Step::Send(packet) => Said::Attributes(avp::emit(code::EAP_MESSAGE, &packet)),
                Step::Done(_) => Said::Done { user: self.inner.user().to_owned() },
                Step::Failed { why, .. } => Said::Failed(*why),
                Step::Ask(_) => Said::Failed(Rejection::Premature),
            };
        }
        match (all(code::USER_NAME).next(), all(code::USER_PASSWORD).next()) {
            (Some(user), Some(password)) => self.judge(user, password),
            _ => {
                let offered = "EAP-MSCHAPv2 or PAP inside EAP-TTLS".to_owned();
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

    /// PAP (RFC 5281 §11.2.5): the password is padded with zeros.
    fn judge(&self, user: &Avp<'_>, password: &Avp<'_>) -> Said {
        let user = String::from_utf8_lossy(user.data).into_owned();
        if !accepts(&self.wanted, &user) {
            return Said::Failed(Rejection::OtherUser { user, wanted: Box::new(self.wanted.clone()) });
        }
        let Some(known) = secret_of(&self.users, &user) else {
            return Said::Failed(Rejection::UnknownUser { user });
        };
        let end = password.data.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
        let said = password.data.get(..end).unwrap_or_default();
        match known.secret.0.ct_eq(said).into() {
            true => Said::Done { user },
            false => Said::Failed(Rejection::WrongPassword { user, secret: known.name.clone() }),
        }
    }
}
