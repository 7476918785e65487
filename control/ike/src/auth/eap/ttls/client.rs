//! The client's end, inside TLS: EAP-MSCHAPv2, so that the password is shown to nobody.

use super::avp::{self, code};
use crate::auth::eap::packet::{self, Code, kind};
use crate::auth::eap::{Circumstances, ClientMethod, ClientSettings, Rejection, Seed, Step, TlsSettings};
use crate::config::{IdentityMatch, Secret};

/// A client with a name and a password.
#[derive(Debug)]
pub(in crate::auth::eap) struct Client {
    inner: Box<crate::auth::eap::Client>,
    begun: bool,
}

impl Client {
    pub(in crate::auth::eap) fn new(user: &str, password: &Secret) -> Self {
        let inner = crate::auth::eap::Client::new(ClientSettings {
            method: ClientMethod::MsChapV2,
            user: user.to_owned(),
            password: password.clone(),
            tls: TlsSettings::default(),
            server: IdentityMatch::Any,
        });
        Self { inner: Box::new(inner), begun: false }
    }

    /// Why the server has refused us, once it has.
    pub(in crate::auth::eap) fn refusal(&self) -> Option<&Rejection> {
        self.inner.refusal()
    }

    /// What is to be said once TLS is there, and to what the server said in it; it may have said nothing.
    pub(in crate::auth::eap) fn handle(
        &mut self,
        octets: &[u8],
        seed: &Seed,
        circumstances: &Circumstances,
    ) -> Result<Vec<u8>, Rejection> {
        if !std::mem::replace(&mut self.begun, true) {
            // RFC 5281 §11.2.1: unasked.
            let identity = packet::emit(Code::Response, 0, kind::IDENTITY, self.inner.user().as_bytes());
            return Ok(avp::emit(code::EAP_MESSAGE, &identity));
        }
        let avps = avp::parse(octets).map_err(|what| Rejection::Malformed { what })?;
        let ours = avps.iter().filter(|avp| avp.vendor.is_none() && avp.code == code::EAP_MESSAGE);
        let packet: Vec<u8> = ours.flat_map(|avp| avp.data).copied().collect();
        if packet.is_empty() {
            return Ok(Vec::new());
        }
        match self.inner.handle(&packet, seed, circumstances) {
            Step::Send(packet) => Ok(avp::emit(code::EAP_MESSAGE, &packet)),
            Step::Failed { why, .. } => Err(*why),
            Step::Done(_) | Step::Ask(_) => Err(Rejection::Premature),
        }
    }

    /// Whether both have proven that they know the password.
    pub(in crate::auth::eap) fn is_proven(&mut self) -> bool {
        self.inner.is_proven()
    }
}
