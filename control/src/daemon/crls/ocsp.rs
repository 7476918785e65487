//! What OCSP responders answer (RFC 6960 A.1, by POST), about peers' certificates, and about ours, to be passed on: kept until it does not count any more, and no longer than an hour,
//! so that a revocation is heard of. What cannot be had is not asked for again for a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use hyper::body::Bytes;
use portcullis_ike::auth::UnixTime;
use portcullis_ike::auth::ocsp::{Answer, CertId, NONCE_LEN, Question, REQUEST_TYPE};

use super::http;

/// Seconds until what could not be had is asked for again.
const REST: u64 = 60;
/// The longest that an answer is kept, in seconds.
const LONGEST: u64 = 3600;
/// Answers that are remembered.
const MAX_ANSWERS: usize = 4096;

type Known = HashMap<(String, CertId, Purpose), (Result<Found, String>, UnixTime)>;

/// What an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// For us: it has to repeat our nonce, if it has one.
    Own,
    /// For somebody else, who would know no nonce.
    PassedOn,
}

/// An answer, and the octets that were signed.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) answer: Answer,
    pub(super) response: Bytes,
}

/// Answers by responder and certificate, each with the time until which it is kept.
#[derive(Default)]
pub(super) struct Answers(Mutex<Known>);

impl Answers {
    /// What the responder at a URI answers; `tell` hears of it if it was asked. Blocks while it is, on a thread of the runtime
    /// that may block.
    pub(super) fn get(
        &self,
        uri: &str,
        question: &Question<'_>,
        now: UnixTime,
        purpose: Purpose,
        tell: impl FnOnce(&Result<Found, String>),
    ) -> Result<Found, String> {
        let key = (uri.to_owned(), question.id().clone(), purpose);
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((answer, _)) = lock().get(&key).filter(|(_, until)| now < *until) {
            return answer.clone();
        }
        let answer = ask(uri, question, now, purpose);
        tell(&answer);
        let until = match &answer {
            Ok(Found { answer: Answer { status, until }, .. }) => {
                tracing::info!(%uri, certificate = ?question.id(), ?status, "an OCSP responder answered");
                UnixTime(until.0.min(now.0.saturating_add(LONGEST)))
            }
            Err(why) => {
                tracing::warn!(%uri, %why, "an OCSP responder gives no answer that can be believed");
                UnixTime(now.0.saturating_add(REST))
            }
        };
        let mut known = lock();
        if known.len() >= MAX_ANSWERS {
            known.clear();
        }
        known.insert(key, (answer.clone(), until));
        answer
    }
}

fn ask(uri: &str, question: &Question<'_>, now: UnixTime, purpose: Purpose) -> Result<Found, String> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
    let nonce = (purpose == Purpose::Own).then_some(&nonce);
    let response = http::post(uri, REQUEST_TYPE, question.to_der(nonce)?)?;
    let answer = question.judge(&response, nonce, now)?;
    Ok(Found { answer, response })
}
