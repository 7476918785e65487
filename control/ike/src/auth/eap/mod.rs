//! EAP (RFC 3748), sans-IO, as IKEv2 carries it (RFC 7296 §2.16). EAP's "authenticator" or server is the IKE
//! responder, its "peer" the initiator; here they are called [`Server`] and [`Client`], because a peer is the other end of
//! an IKE SA everywhere else.
//!
//! Either is a conversation: what came goes into `handle`, and the [`Step`] that comes out is to be sent, or ends it. A
//! server that knows no users itself passes the client's packets to an AAA server: then the step is a question
//! ([`Step::Ask`]), and the answer goes into [`Server::handle_answer`].
//!
//! - [`packet`]: packets and their octets. Nothing panics, whatever comes.
//! - [`server`], [`client`]: who the other is, which method; [`mschapv2`], [`tls`] and `ttls` are some.
//! - [`rejection`]: why it failed, for people.

pub mod client;
pub mod mschapv2;
pub mod packet;
mod rejection;
pub mod server;
#[cfg(test)]
mod tests;
pub mod tls;
mod ttls;

use std::fmt;

use zeroize::Zeroizing;

pub use client::{Client, ClientMethod, ClientSettings};
pub use rejection::Rejection;
pub use server::{AaaAnswer, AaaRequest, AaaState, Server, ServerMethod};
pub use tls::{Circumstances, SharedSource, TlsSettings};
pub use ttls::Inner;

use super::Authorization;
use crate::config::Secret;
use client::Answered;
use server::accepts;

/// A master session key (RFC 3748 §7.10), at least 64 octets. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Msk(Zeroizing<Vec<u8>>);

impl Msk {
    /// The shortest that a method may derive (RFC 3748 §7.10).
    pub const MIN_LEN: usize = 64;

    /// From a method's octets; `None` if they are too few.
    pub fn new(octets: Vec<u8>) -> Option<Self> {
        let octets = Zeroizing::new(octets);
        (octets.len() >= Self::MIN_LEN).then_some(Self(octets))
    }

    /// As the shared secret of both ends' AUTH payloads (RFC 7296 §2.16).
    pub(crate) fn to_secret(&self) -> Secret {
        Secret(self.0.to_vec())
    }

    /// Its octets.
    #[cfg(test)]
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Msk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Msk(…)")
    }
}

/// A user's password (swanctl's `secrets.eap-NAME`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSecret {
    /// Its name in the configuration.
    pub name: String,
    /// The users that it is for, as they call themselves in EAP; empty: anyone.
    pub ids: Vec<String>,
    /// The password: octets of UTF-8.
    pub secret: Secret,
}

/// The password of a user: one that names him before one for anyone. Case counts for nothing in names.
pub fn secret_of<'s>(secrets: &'s [UserSecret], user: &str) -> Option<&'s UserSecret> {
    let named = secrets.iter().find(|secret| secret.ids.iter().any(|id| id.eq_ignore_ascii_case(user)));
    named.or_else(|| secrets.iter().find(|secret| secret.ids.is_empty()))
}

/// What is to be done next in a conversation.
#[derive(Debug)]
pub enum Step {
    /// Send this packet, and wait for what comes back.
    Send(Vec<u8>),
    /// Ask an AAA server.
    Ask(Box<AaaRequest>),
    /// The client is authenticated, and so is the server if the method does that.
    Done(Box<Outcome>),
    /// It failed; the packet, if there is one, says so to the other end.
    Failed {
        /// An EAP-Failure.
        packet: Option<Vec<u8>>,
        /// Why.
        why: Box<Rejection>,
    },
}

/// A conversation that succeeded.
#[derive(Debug)]
pub struct Outcome {
    /// An EAP-Success to be sent; a client has none.
    pub packet: Option<Vec<u8>>,
    /// `None`: the method makes no key.
    pub msk: Option<Msk>,
    /// What comes with it.
    pub authorization: Authorization,
    /// The method, for people.
    pub method: String,
}

/// A step of a conversation that is to be taken: what came, and octets of good randomness.
#[derive(Debug)]
pub struct Turn {
    /// Whose.
    pub conversation: Conversation,
    /// The packet that came; empty for a server's first step.
    pub received: Vec<u8>,
    /// Randomness, used once.
    pub seed: Seed,
}

/// 32 random octets, as good as the secrets that they make.
#[derive(Clone)]
pub struct Seed(pub(crate) [u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(…)")
    }
}

/// One end of a conversation.
#[derive(Debug)]
pub enum Conversation {
    /// That of the IKE responder.
    Server(Box<Server>),
    /// That of the IKE initiator.
    Client(Box<Client>),
}

impl Turn {
    /// Takes the step. May take milliseconds, and longer where the status of certificates has to be fetched.
    pub fn take(mut self, circumstances: &Circumstances) -> (Conversation, Step) {
        let step = match &mut self.conversation {
            Conversation::Server(server) => server.handle(&self.received, &self.seed, circumstances),
            Conversation::Client(client) => client.handle(&self.received, &self.seed, circumstances),
        };
        (self.conversation, step)
    }
}
