//! The server's end: a challenge, the judgement of the answer, its own proof.

use subtle::ConstantTimeEq as _;

use super::crypto::{self, NtResponse, PasswordHash};
use super::message::{AUTHENTICATION_FAILURE, Challenge, Message, emit, op, without_domain};
use crate::auth::eap::{Msk, Rejection, UserSecret};

/// What the server says of itself.
const NAME: &[u8] = b"portcullis";

/// What the server does next.
#[derive(Debug)]
pub(in crate::auth::eap) enum Asked {
    /// It sends this, as the data of a request.
    Request(Vec<u8>),
    /// The client has proven itself, and knows that we have.
    Done(Option<Msk>),
    /// It failed.
    Failed(Rejection),
}

/// A server that has sent a challenge.
#[derive(Debug)]
pub(in crate::auth::eap) struct Server {
    /// Who the client says it is.
    user: String,
    /// The name of his password and its hash; `None` if he is not known.
    secret: Option<(String, PasswordHash)>,
    challenge: Challenge,
    id: u8,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Challenged,
    Proven { msk: Option<Msk> },
    Refused { why: Rejection },
}

impl Server {
    /// The challenge, as the data of a request. A user that is not known gets one as well: what is wrong is only said
    /// after the answer.
    pub(in crate::auth::eap) fn begin(
        user: &str,
        secret: Option<&UserSecret>,
        id: u8,
        challenge: Challenge,
    ) -> (Self, Vec<u8>) {
        let secret = secret.map(|secret| (secret.name.clone(), crypto::password_hash(&secret.secret.0)));
        let body = [&[16], challenge.as_slice(), NAME].concat();
        let request = emit(op::CHALLENGE, id, &body);
        (Self { user: user.to_owned(), secret, challenge, id, stage: Stage::Challenged }, request)
    }

    /// Why the client is refused, once it is.
    pub(in crate::auth::eap) fn refusal(&self) -> Option<&Rejection> {
        match &self.stage {
            Stage::Refused { why } => Some(why),
            _ => None,
        }
    }

    pub(in crate::auth::eap) fn handle(&mut self, data: &[u8]) -> Asked {
        let malformed = |what| Asked::Failed(Rejection::Malformed { what });
        let message = match Message::parse(data) {
            Ok(message) => message,
            Err(what) => return malformed(what),
        };
        match (&mut self.stage, message.op) {
            (Stage::Challenged, op::RESPONSE) if message.id == self.id => match self.judge(&message) {
                Ok(request) => Asked::Request(request),
                Err(what) => malformed(what),
            },
            (Stage::Proven { msk }, op::SUCCESS) => Asked::Done(msk.take()),
            // Whatever it says to that.
            (Stage::Refused { why }, _) => Asked::Failed(why.clone()),
            (_, op) => malformed(format!("EAP-MSCHAPv2 operation {op} out of turn")),
        }
    }

    /// The request that says whether the answer was right.
    fn judge(&mut self, message: &Message<'_>) -> Result<Vec<u8>, String> {
        let (value, name) = message.value(49)?;
        let cut_short = || "an EAP-MSCHAPv2 response that is cut short".to_owned();
        let (peer, rest) = value.split_first_chunk::<16>().ok_or_else(cut_short)?;
        // Eight octets that are reserved, the proof, and flags.
        let found: &NtResponse = rest.get(8..).and_then(<[u8]>::first_chunk).ok_or_else(cut_short)?;
        let name = without_domain(name);
        let (why, proof) = match &self.secret {
            None => (Rejection::UnknownUser { user: self.user.clone() }, None),
            Some((secret, hash)) => {
                let expected = crypto::nt_response(&self.challenge, peer, name, hash);
                let proven: bool = expected.ct_eq(found).into();
                let why = Rejection::WrongPassword { user: self.user.clone(), secret: secret.clone() };
                let proof = || crypto::authenticator_response(&self.challenge, peer, name, hash, found);
                (why, proven.then(|| (proof(), crypto::msk(hash, found))))
            }
        };
        Ok(match proof {
            Some((proof, msk)) => {
                self.stage = Stage::Proven { msk };
                let text = format!("S={} M=Welcome", data_encoding::HEXUPPER.encode(&proof));
                emit(op::SUCCESS, self.id, text.as_bytes())
            }
            None => {
                self.stage = Stage::Refused { why };
                // RFC 2759 §6: no retry, and the password cannot be changed here.
                let challenge = data_encoding::HEXUPPER.encode(&self.challenge);
                let text =
                    format!("E={AUTHENTICATION_FAILURE} R=0 C={challenge} V=3 M=Authentication failed");
                emit(op::FAILURE, self.id, text.as_bytes())
            }
        })
    }
}
