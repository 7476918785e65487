//! The client's end: its answer to a challenge, and the judgement of the server's proof.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::crypto::{self, PasswordHash};
use super::message::{Challenge, Message, emit, op, without_domain};
use crate::auth::eap::{Answered, Msk, Rejection};
use crate::config::Secret;

/// A client with a name and a password.
#[derive(Debug)]
pub(in crate::auth::eap) struct Client {
    user: String,
    hash: PasswordHash,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Begun,
    Answered { proof: Zeroizing<[u8; 20]>, msk: Option<Msk> },
    Proven { msk: Option<Msk> },
    Refused { why: Rejection },
}

impl Client {
    pub(in crate::auth::eap) fn new(user: &str, password: &Secret) -> Self {
        Self { user: user.to_owned(), hash: crypto::password_hash(&password.0), stage: Stage::Begun }
    }

    /// `random` becomes our challenge to the server.
    pub(in crate::auth::eap) fn handle(&mut self, data: &[u8], random: Challenge) -> Answered {
        let malformed = |what| Answered::Failed(Rejection::Malformed { what });
        let message = match Message::parse(data) {
            Ok(message) => message,
            Err(what) => return malformed(what),
        };
        match (&mut self.stage, message.op) {
            (Stage::Begun, op::CHALLENGE) => match self.answer(&message, random) {
                Ok(response) => Answered::Response(response),
                Err(what) => malformed(what),
            },
            (Stage::Answered { proof, msk }, op::SUCCESS) => {
                if !proves(message.body, proof) {
                    return Answered::Failed(Rejection::ServerNotProven { user: self.user.clone() });
                }
                self.stage = Stage::Proven { msk: msk.take() };
                Answered::Response(vec![op::SUCCESS])
            }
            (Stage::Answered { .. }, op::FAILURE) => {
                let said = refusal(&String::from_utf8_lossy(message.body));
                self.stage = Stage::Refused { why: Rejection::Refused { user: self.user.clone(), said } };
                Answered::Response(vec![op::FAILURE])
            }
            (_, op) => malformed(format!("EAP-MSCHAPv2 operation {op} out of turn")),
        }
    }

    fn answer(&mut self, message: &Message<'_>, peer: Challenge) -> Result<Vec<u8>, String> {
        let (value, _) = message.value(16)?;
        let challenge: &Challenge =
            value.first_chunk().ok_or_else(|| "an EAP-MSCHAPv2 challenge that is cut short".to_owned())?;
        let name = without_domain(self.user.as_bytes());
        let response = crypto::nt_response(challenge, &peer, name, &self.hash);
        let proof = crypto::authenticator_response(challenge, &peer, name, &self.hash, &response);
        let msk = crypto::msk(&self.hash, &response);
        self.stage = Stage::Answered { proof: Zeroizing::new(proof), msk };
        let body = [&[49], peer.as_slice(), &[0; 8], &response, &[0], self.user.as_bytes()].concat();
        Ok(emit(op::RESPONSE, message.id, &body))
    }

    /// Why the server has refused us, once it has.
    pub(in crate::auth::eap) fn refusal(&self) -> Option<&Rejection> {
        match &self.stage {
            Stage::Refused { why } => Some(why),
            _ => None,
        }
    }

    /// The key, once the server has proven that it knows the password too.
    pub(in crate::auth::eap) fn finish(&mut self) -> Option<Option<Msk>> {
        match &mut self.stage {
            Stage::Proven { msk } => Some(msk.take()),
            _ => None,
        }
    }
}

/// Whether a success message (RFC 2759 §5) holds the server's proof.
pub(in crate::auth::eap) fn proves(text: &[u8], proof: &[u8; 20]) -> bool {
    let text = String::from_utf8_lossy(text);
    let found = text.split(' ').find_map(|part| part.strip_prefix("S="));
    let found = found.and_then(|hex| data_encoding::HEXUPPER_PERMISSIVE.decode(hex.as_bytes()).ok());
    found.is_some_and(|found| proof.as_slice().ct_eq(&found).into())
}

/// What a failure message (RFC 2759 §6) says.
pub(in crate::auth::eap) fn refusal(text: &str) -> String {
    let code = text.split(' ').find_map(|part| part.strip_prefix("E="));
    let meaning = match code {
        Some("646") => "it may not log on at this hour",
        Some("647") => "the account is disabled",
        Some("648") => "the password has expired",
        Some("649") => "it may not dial in",
        Some("691") => "wrong name or password",
        Some("709") => "the password cannot be changed",
        _ => return text.to_owned(),
    };
    meaning.to_owned()
}
