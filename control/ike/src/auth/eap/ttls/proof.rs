//! Proofs of a password that are attributes themselves, without EAP (RFC 5281 §11.2.2 to §11.2.5). Challenges are not sent but
//! drawn from TLS by both ends (§11.1), so that a proof is good for one TLS session.

use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::avp::{self, Avp, code};
use crate::auth::eap::Rejection;
use crate::auth::eap::mschapv2::crypto::{self, NtResponse};
use crate::auth::eap::mschapv2::message::{Challenge, without_domain};
use crate::config::Secret;

/// What both ends have drawn from TLS.
#[derive(Debug, Clone, Copy)]
pub(in crate::auth::eap) struct Challenges {
    /// For CHAP and MS-CHAP-V2: the challenge, and the identifier.
    pub(in crate::auth::eap) long: [u8; 17],
    /// For MS-CHAP: likewise.
    pub(in crate::auth::eap) short: [u8; 9],
}

/// How a client proves that it knows the password, as attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pap,
    Chap,
    MsChap,
    MsChapV2,
}

/// What a client sends, and what the server's proof has to be where the method has one.
pub(super) struct Sent {
    pub(super) attributes: Vec<u8>,
    pub(super) proof: Option<Zeroizing<[u8; 20]>>,
}

/// A client's proof as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof<'a> {
    Pap { password: &'a [u8] },
    Chap { challenge: &'a [u8], response: &'a [u8] },
    MsChap { challenge: &'a [u8], response: &'a [u8] },
    MsChapV2 { challenge: &'a [u8], response: &'a [u8] },
}

/// What the server thinks of a proof.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Wrong,
    Right,
    /// And the client wants to hear this before it believes that we know the password too.
    Answered(Vec<u8>),
}

impl Kind {
    /// The attributes behind User-Name. `random`: the client's own challenge, where it has one.
    pub(super) fn prove(
        self,
        user: &str,
        password: &Secret,
        challenges: &Challenges,
        random: &Challenge,
    ) -> Sent {
        let [long @ .., long_id] = &challenges.long;
        let [short @ .., short_id] = &challenges.short;
        let mut proof = None;
        let attributes = match self {
            Self::Pap => {
                // RFC 5281 §11.2.5: its length is nobody else's affair.
                let mut padded = Zeroizing::new(password.0.clone());
                padded.resize(password.0.len().next_multiple_of(16).max(16), 0);
                avp::emit(code::USER_PASSWORD, &padded)
            }
            Self::Chap => {
                let response = [&[*long_id], &chap(*long_id, password, long)[..]].concat();
                [avp::emit(code::CHAP_CHALLENGE, long), avp::emit(code::CHAP_PASSWORD, &response)].concat()
            }
            Self::MsChap => {
                let hash = crypto::password_hash(&password.0);
                // RFC 2548 §2.1.3: the NT response alone.
                let nt = crypto::challenge_response(*short, &hash);
                let response = [&[*short_id, 1], &[0; 24][..], &nt].concat();
                [avp::emit(code::MS_CHAP_CHALLENGE, short), avp::emit(code::MS_CHAP_RESPONSE, &response)]
                    .concat()
            }
            Self::MsChapV2 => {
                let (hash, name) = (crypto::password_hash(&password.0), without_domain(user.as_bytes()));
                let nt = crypto::nt_response(long, random, name, &hash);
                let theirs = crypto::authenticator_response(long, random, name, &hash, &nt);
                proof = Some(Zeroizing::new(theirs));
                let response = [&[*long_id, 0], &random[..], &[0; 8], &nt].concat();
                [avp::emit(code::MS_CHAP_CHALLENGE, long), avp::emit(code::MS_CHAP2_RESPONSE, &response)]
                    .concat()
            }
        };
        Sent { attributes, proof }
    }
}

impl<'a> Proof<'a> {
    /// The proof among a client's attributes.
    pub(super) fn find(avps: &[Avp<'a>]) -> Option<Self> {
        let find = |code| avp::find(avps, code);
        let with = |challenge, response| Some((find(challenge)?, find(response)?));
        if let Some(password) = find(code::USER_PASSWORD) {
            Some(Self::Pap { password })
        } else if let Some((challenge, response)) = with(code::CHAP_CHALLENGE, code::CHAP_PASSWORD) {
            Some(Self::Chap { challenge, response })
        } else if let Some((challenge, response)) = with(code::MS_CHAP_CHALLENGE, code::MS_CHAP2_RESPONSE) {
            Some(Self::MsChapV2 { challenge, response })
        } else if let Some((challenge, response)) = with(code::MS_CHAP_CHALLENGE, code::MS_CHAP_RESPONSE) {
            Some(Self::MsChap { challenge, response })
        } else {
            None
        }
    }

    /// Whether whoever made it knows the password.
    pub(super) fn judge(
        self,
        user: &[u8],
        password: &Secret,
        challenges: &Challenges,
    ) -> Result<Judged, Rejection> {
        let [long @ .., long_id] = &challenges.long;
        let [short @ .., short_id] = &challenges.short;
        let right = match self {
            Self::Pap { password: said } => {
                let end = said.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
                password.0.ct_eq(said.get(..end).unwrap_or_default())
            }
            Self::Chap { challenge, response } => {
                let [id, response @ ..] = response else { return Err(cut_short("CHAP-Password")) };
                ours(challenge, *id, (long, *long_id))?;
                chap(*long_id, password, long).as_slice().ct_eq(response)
            }
            Self::MsChap { challenge, response } => {
                let wrong = || cut_short("MS-CHAP-Response");
                let ([id, flags], rest) = response.split_first_chunk().ok_or_else(wrong)?;
                let found: &NtResponse = rest.get(24..).and_then(<[u8]>::first_chunk).ok_or_else(wrong)?;
                ours(challenge, *id, (short, *short_id))?;
                if flags & 1 == 0 {
                    let what = "an answer by LAN Manager's hash in MS-CHAP, which is as good as the password";
                    return Err(Rejection::Malformed { what: what.to_owned() });
                }
                crypto::challenge_response(*short, &crypto::password_hash(&password.0)).ct_eq(found)
            }
            Self::MsChapV2 { challenge, response } => {
                let wrong = || cut_short("MS-CHAP2-Response");
                let ([id, _flags], rest) = response.split_first_chunk().ok_or_else(wrong)?;
                let (peer, rest): (&Challenge, _) = rest.split_first_chunk().ok_or_else(wrong)?;
                let found: &NtResponse = rest.get(8..).and_then(<[u8]>::first_chunk).ok_or_else(wrong)?;
                ours(challenge, *id, (long, *long_id))?;
                let (hash, name) = (crypto::password_hash(&password.0), without_domain(user));
                if crypto::nt_response(long, peer, name, &hash).ct_eq(found).into() {
                    let proof = crypto::authenticator_response(long, peer, name, &hash, found);
                    let text = format!("S={}", data_encoding::HEXUPPER.encode(&proof));
                    let success = [&[*id], text.as_bytes()].concat();
                    return Ok(Judged::Answered(avp::emit(code::MS_CHAP2_SUCCESS, &success)));
                }
                return Ok(Judged::Wrong);
            }
        };
        Ok(if right.into() { Judged::Right } else { Judged::Wrong })
    }
}

/// Whether a client's challenge is the one that TLS gave: any other may be somebody else's, with an answer heard elsewhere.
fn ours(challenge: &[u8], id: u8, (expected, expected_id): (&[u8], u8)) -> Result<(), Rejection> {
    if challenge == expected && id == expected_id {
        return Ok(());
    }
    let what = "a challenge inside EAP-TTLS that does not come from this TLS (RFC 5281 §11.1)";
    Err(Rejection::Malformed { what: what.to_owned() })
}

fn cut_short(name: &str) -> Rejection {
    Rejection::Malformed { what: format!("{name} inside EAP-TTLS, cut short") }
}

/// CHAP with MD5 (RFC 1994 §4.1).
fn chap(id: u8, password: &Secret, challenge: &[u8]) -> [u8; 16] {
    Md5::new().chain_update([id]).chain_update(&password.0).chain_update(challenge).finalize().into()
}
