//! The server's end of EAP-TLS, and of methods inside it.

use super::fragments::{Came, Fragments};
use super::session::{Export, Session};
use super::{Circumstances, Claim, TlsSettings};
use crate::auth::eap::packet::kind;
use crate::auth::eap::{Msk, Rejection, Seed, ttls};

/// How EAP-TLS exports its key.
pub(super) const EXPORT: Export = Export { label: b"client EAP encryption", kind: kind::TLS };

/// The octet by which a server says that its handshake is over (RFC 9190 §2.5).
pub(super) const COMMITMENT: &[u8] = &[0];

/// What the server does next.
#[derive(Debug)]
pub(in crate::auth::eap) enum Asked {
    /// It sends this, as the data of a request.
    Request(Vec<u8>),
    /// The client has proven who it is, and knows that we have.
    Done {
        /// Its key.
        msk: Option<Msk>,
        /// Who its certificate says it is.
        user: String,
    },
    /// It failed.
    Failed(Rejection),
}

/// A server that has begun.
#[derive(Debug)]
pub(in crate::auth::eap) struct Server {
    session: Session,
    fragments: Fragments,
    purpose: Purpose,
    stage: Stage,
}

/// What TLS is for.
#[derive(Debug)]
enum Purpose {
    /// The certificates in it.
    Certificates,
    /// What is said inside.
    Tunnel(ttls::Server),
}

#[derive(Debug)]
enum Stage {
    Handshaking,
    /// The client is to acknowledge our last message.
    Finished,
    /// It was told by an alert.
    Refusing(Rejection),
}

impl Server {
    /// With the data of its first request.
    pub(in crate::auth::eap) fn begin(
        settings: &TlsSettings,
        claim: Claim,
    ) -> Result<(Self, Vec<u8>), Rejection> {
        Self::start(Session::server(settings, Some(claim))?, Purpose::Certificates)
    }

    /// For a method inside TLS, where the client needs no certificate.
    pub(in crate::auth::eap) fn begin_tunnel(
        settings: &TlsSettings,
        inner: ttls::Server,
    ) -> Result<(Self, Vec<u8>), Rejection> {
        Self::start(Session::server(settings, None)?, Purpose::Tunnel(inner))
    }

    fn start(session: Session, purpose: Purpose) -> Result<(Self, Vec<u8>), Rejection> {
        let (fragments, stage) = (Fragments::default(), Stage::Handshaking);
        Ok((Self { session, fragments, purpose, stage }, Fragments::start()))
    }

    /// Why the client is refused, once it is.
    pub(in crate::auth::eap) fn refusal(&self) -> Option<&Rejection> {
        match (&self.stage, &self.purpose) {
            (Stage::Refusing(why), _) => Some(why),
            (_, Purpose::Tunnel(inner)) => inner.refusal(),
            _ => None,
        }
    }

    pub(in crate::auth::eap) fn handle(
        &mut self,
        data: &[u8],
        seed: &Seed,
        circumstances: &Circumstances,
    ) -> Asked {
        let malformed = |what: &str| Asked::Failed(Rejection::Malformed { what: what.to_owned() });
        if let Stage::Refusing(why) = &self.stage {
            // Whatever it says to the alert.
            return match self.fragments.next() {
                Some(fragment) => Asked::Request(fragment),
                None => Asked::Failed(why.clone()),
            };
        }
        match self.fragments.receive(data) {
            Ok(Came::Message(message)) => self.take(&message, seed, circumstances),
            Ok(Came::Part) => Asked::Request(Fragments::nothing()),
            Ok(Came::Nothing) => match (self.fragments.next(), &self.stage) {
                (Some(fragment), _) => Asked::Request(fragment),
                (None, Stage::Finished) => self.finish(),
                (None, _) => match self.acknowledged() {
                    Some(user) => Asked::Done { msk: self.session.msk(ttls::EXPORT), user },
                    None => malformed("an empty packet in place of TLS"),
                },
            },
            Ok(Came::Start) => malformed("the start of TLS to its server"),
            Err(what) => malformed(&what),
        }
    }

    /// Who has acknowledged by nothing what was said inside TLS.
    fn acknowledged(&mut self) -> Option<String> {
        match &mut self.purpose {
            Purpose::Tunnel(inner) => inner.acknowledged(),
            Purpose::Certificates => None,
        }
    }

    fn take(&mut self, message: &[u8], seed: &Seed, circumstances: &Circumstances) -> Asked {
        let taken = self.session.take(message, circumstances);
        if let Err(why) = taken {
            return match self.session.output() {
                alert if alert.is_empty() => Asked::Failed(why),
                alert => {
                    self.stage = Stage::Refusing(why);
                    Asked::Request(self.fragments.send(alert))
                }
            };
        }
        let established = self.session.is_established();
        match &mut self.purpose {
            _ if !established => {}
            Purpose::Tunnel(inner) => {
                let said = self.session.read();
                if !said.is_empty() {
                    let challenges = match self.session.challenges() {
                        Ok(challenges) => challenges,
                        Err(why) => return Asked::Failed(why),
                    };
                    match inner.handle(&said, &challenges, seed, circumstances) {
                        ttls::Said::Attributes(answer) => self.session.write(&answer),
                        ttls::Said::Done { user } => {
                            return Asked::Done { msk: self.session.msk(ttls::EXPORT), user };
                        }
                        ttls::Said::Failed(why) => return Asked::Failed(why),
                    }
                }
            }
            Purpose::Certificates if matches!(self.stage, Stage::Finished) => {
                let what = "more of TLS after its handshake".to_owned();
                return Asked::Failed(Rejection::Malformed { what });
            }
            Purpose::Certificates => {
                self.stage = Stage::Finished;
                if self.session.is_tls13() {
                    self.session.write(COMMITMENT);
                }
            }
        }
        match self.session.output() {
            // In TLS 1.3 it is the client's turn when its handshake is done.
            output if output.is_empty() && established => Asked::Request(Fragments::nothing()),
            output if output.is_empty() => {
                Asked::Failed(Rejection::Malformed { what: "TLS that asks for nothing".to_owned() })
            }
            output => Asked::Request(self.fragments.send(output)),
        }
    }

    fn finish(&self) -> Asked {
        match self.session.peer() {
            Some(id) => Asked::Done { msk: self.session.msk(EXPORT), user: id.to_string() },
            None => Asked::Failed(Rejection::NoCertificate),
        }
    }
}
