//! The client's end of EAP-TLS, and of methods inside it.

use super::fragments::{Came, Fragments};
use super::server::{COMMITMENT, EXPORT};
use super::session::Session;
use super::{Circumstances, Claim, TlsSettings};
use crate::auth::eap::{Answered, Msk, Rejection, Seed, ttls};

/// A client, with a certificate or with something to say inside TLS.
#[derive(Debug)]
pub(in crate::auth::eap) struct Client {
    session: Session,
    fragments: Fragments,
    inner: Option<ttls::Client>,
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
        Ok(Self { session, fragments: Fragments::default(), inner: None, stage: Stage::Begun })
    }

    /// With a method inside TLS.
    pub(in crate::auth::eap) fn tunnel(
        settings: &TlsSettings,
        server: Claim,
        inner: ttls::Client,
    ) -> Result<Self, Rejection> {
        Ok(Self { inner: Some(inner), ..Self::new(settings, server)? })
    }

    /// What has ended it, once something has.
    pub(in crate::auth::eap) fn refusal(&self) -> Option<&Rejection> {
        match &self.stage {
            Stage::Over(why) => Some(why),
            _ => self.inner.as_ref()?.refusal(),
        }
    }

    pub(in crate::auth::eap) fn handle(
        &mut self,
        data: &[u8],
        seed: &Seed,
        circumstances: &Circumstances,
    ) -> Answered {
        let malformed = |what: &str| Answered::Failed(Rejection::Malformed { what: what.to_owned() });
        match (self.fragments.receive(data), &self.stage) {
            (Ok(Came::Start), Stage::Begun) => {
                self.stage = Stage::Handshaking;
                self.say()
            }
            (Ok(Came::Message(message)), Stage::Handshaking) => {
                if let Err(why) = self.take(&message, seed, circumstances) {
                    self.stage = Stage::Over(why);
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

    fn take(&mut self, message: &[u8], seed: &Seed, circumstances: &Circumstances) -> Result<(), Rejection> {
        self.session.take(message, circumstances)?;
        if !self.session.is_established() {
            return Ok(());
        }
        let said = self.session.read();
        match &mut self.inner {
            Some(inner) => {
                let answer = inner.handle(&said, &self.session.challenges()?, seed, circumstances)?;
                self.session.write(&answer);
            }
            None if !self.session.is_tls13() || said == COMMITMENT => self.stage = Stage::Finished,
            None => {}
        }
        Ok(())
    }

    /// What TLS wants said; that may be nothing.
    fn say(&mut self) -> Answered {
        Answered::Response(match self.session.output() {
            output if output.is_empty() => Fragments::nothing(),
            output => self.fragments.send(output),
        })
    }

    /// The key, once the server has proven itself and taken our proof.
    pub(in crate::auth::eap) fn finish(&mut self) -> Option<Option<Msk>> {
        match (&self.stage, &mut self.inner) {
            (Stage::Finished, None) => Some(self.session.msk(EXPORT)),
            (Stage::Handshaking, Some(inner)) => inner.is_proven().then(|| self.session.msk(ttls::EXPORT)),
            _ => None,
        }
    }
}
