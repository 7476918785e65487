//! The client's end of EAP-TLS.

use super::fragments::{Came, Fragments};
use super::server::{COMMITMENT, EXPORT};
use super::session::Session;
use super::{Circumstances, Claim, TlsSettings};
use crate::auth::eap::{Answered, Msk, Rejection};

/// A client with a certificate.
#[derive(Debug)]
pub(in crate::auth::eap) struct Client {
    session: Session,
    fragments: Fragments,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begun,
    Handshaking,
    /// The server has proven itself, and says that it is content with us.
    Finished,
    /// The server was refused, or has refused us.
    Over(Rejection),
}

impl Client {
    /// `server`: whom its certificate has to be for.
    pub(in crate::auth::eap) fn new(settings: &TlsSettings, server: Claim) -> Result<Self, Rejection> {
        let session = Session::client(settings, server)?;
        Ok(Self { session, fragments: Fragments::default(), stage: Stage::Begun })
    }

    /// What has ended it, once something has.
    pub(in crate::auth::eap) fn refusal(&self) -> Option<&Rejection> {
        match &self.stage {
            Stage::Over(why) => Some(why),
            _ => None,
        }
    }

    pub(in crate::auth::eap) fn handle(&mut self, data: &[u8], circumstances: &Circumstances) -> Answered {
        let malformed = |what: &str| Answered::Failed(Rejection::Malformed { what: what.to_owned() });
        match (self.fragments.receive(data), &self.stage) {
            (Ok(Came::Start), Stage::Begun) => {
                self.stage = Stage::Handshaking;
                self.say()
            }
            (Ok(Came::Message(message)), Stage::Handshaking) => {
                if let Err(why) = self.session.take(&message, circumstances) {
                    self.stage = Stage::Over(why);
                } else if self.session.is_established()
                    && (!self.session.is_tls13() || self.session.read() == COMMITMENT)
                {
                    self.stage = Stage::Finished;
                }
                self.say()
            }
            (Ok(Came::Part), _) => Answered::Response(Fragments::nothing()),
            (Ok(Came::Nothing), _) => match self.fragments.next() {
                Some(fragment) => Answered::Response(fragment),
                None => malformed("an empty packet in place of TLS"),
            },
            (Ok(Came::Start | Came::Message(_)), _) => malformed("TLS out of turn"),
            (Err(what), _) => malformed(&what),
        }
    }

    /// What TLS wants said; that may be nothing.
    fn say(&mut self) -> Answered {
        Answered::Response(match self.session.output() {
            output if output.is_empty() => Fragments::nothing(),
            output => self.fragments.send(output),
        })
    }

    /// The key, once the server has proven itself and taken our proof.
    pub(in crate::auth::eap) fn finish(&self) -> Option<Option<Msk>> {
        matches!(self.stage, Stage::Finished).then(|| self.session.msk(EXPORT))
    }
}
