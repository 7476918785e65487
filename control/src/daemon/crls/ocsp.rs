//! What OCSP responders answer (RFC 6960 A.1, by POST): kept until it does not count any more, and no longer than an hour,
//! so that a revocation is heard of. What cannot be had is not asked for again for a minute.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use portcullis_ike::auth::UnixTime;
use portcullis_ike::auth::ocsp::{Answer, CertId, NONCE_LEN, Question, REQUEST_TYPE};

use super::http;

/// Seconds until what could not be had is asked for again.
const REST: u64 = 60;
/// The longest that an answer is kept, in seconds.
const LONGEST: u64 = 3600;
/// Answers that are remembered.
const MAX_ANSWERS: usize = 4096;

type Known = HashMap<(String, CertId), (Result<Answer, String>, UnixTime)>;

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
        tell: impl FnOnce(&Result<Answer, String>),
    ) -> Result<Answer, String> {
        let key = (uri.to_owned(), question.id().clone());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((answer, _)) = lock().get(&key).filter(|(_, until)| now < *until) {
            return answer.clone();
        }
        let answer = ask(uri, question, now);
        tell(&answer);
        let until = match &answer {
            Ok(Answer { status, until }) => {
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

fn ask(uri: &str, question: &Question<'_>, now: UnixTime) -> Result<Answer, String> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
    let answer = http::post(uri, REQUEST_TYPE, question.to_der(&nonce)?)?;
    question.judge(&answer, &nonce, now)
}
