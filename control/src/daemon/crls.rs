//! The CRLs of `gateway.x509crl`, read again whenever a file there has changed, so that a new CRL counts without a
//! restart; and those that certificates name, fetched by HTTP and kept while they are new. And what OCSP responders answer.

mod fetch;
mod http;
mod ocsp;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use portcullis_ike::auth::ocsp::{Answer, Question, Status};
use portcullis_ike::auth::{Crl, DistinguishedName, RevocationSource, UnixTime};

use crate::api::events::Happened;
use crate::config::files;
use crate::events::hub::Hub;
use fetch::Fetched;
use ocsp::{Answers, Found, Purpose};

/// The CRLs of a directory, and of wherever certificates say.
pub(super) struct CrlStore {
    directory: Mutex<PathBuf>,
    read: Mutex<Read>,
    fetched: Fetched,
    answers: Answers,
    hub: Arc<Hub>,
}

#[derive(Default)]
struct Read {
    /// The directory when they were read.
    seen: Vec<Seen>,
    crls: Vec<Arc<Crl>>,
}

/// What tells a changed file from an unchanged one.
#[derive(PartialEq)]
struct Seen {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
}

impl CrlStore {
    /// The CRLs of `directory`, read when they are first asked for.
    pub(super) fn new(directory: PathBuf, hub: Arc<Hub>) -> Self {
        let directory = Mutex::new(directory);
        let (fetched, answers) = (Fetched::default(), Answers::default());
        Self { directory, read: Mutex::default(), fetched, answers, hub }
    }

    /// Tells what was learned anew.
    fn tell(&self, source: &str, uri: &str, learned: Result<String, String>) {
        self.hub.publish(|| Happened::Revocation {
            source: source.to_owned(),
            uri: uri.to_owned(),
            answered: learned.is_ok(),
            detail: learned.unwrap_or_else(|why| why),
        });
    }

    fn answer(
        &self,
        uri: &str,
        question: &Question<'_>,
        now: UnixTime,
        purpose: Purpose,
    ) -> Result<Found, String> {
        self.answers.get(uri, question, now, purpose, |found| {
            let status = found.as_ref().map(|found| format!("{:?}", found.answer.status).to_lowercase());
            self.tell("ocsp", uri, status.map_err(String::clone));
        })
    }

    /// Looks in another directory from now on.
    pub(super) fn set_directory(&self, directory: PathBuf) {
        *self.directory.lock().unwrap_or_else(PoisonError::into_inner) = directory;
    }

    fn directory(&self) -> PathBuf {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look(&self) -> Vec<Seen> {
        let files = files::files_in(&self.directory()).unwrap_or_default();
        let look = |path: PathBuf| {
            let metadata = std::fs::metadata(&path).ok()?;
            Some(Seen { len: metadata.len(), modified: metadata.modified().ok(), path })
        };
        files.into_iter().filter_map(look).collect()
    }
}

impl RevocationSource for CrlStore {
    fn crls(&self, issuer: &DistinguishedName) -> Vec<Arc<Crl>> {
        let seen = self.look();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.seen != seen {
            let (crls, problems) = files::crls_in(&self.directory());
            for (path, problem) in problems {
                tracing::warn!(path = %path.display(), %problem, "a file in gateway.x509crl is not used");
            }
            *read = Read { seen, crls };
        }
        read.crls.crls(issuer)
    }

    fn fetch(&self, uri: &str) -> Option<Result<Arc<Crl>, String>> {
        Some(self.fetched.get(uri, |what| {
            self.tell("crl", uri, what.as_ref().map(|crl| crl.issuer().to_string()).map_err(String::clone));
        }))
    }

    fn ask(&self, uri: &str, question: &Question<'_>, now: UnixTime) -> Option<Result<Answer, String>> {
        Some(self.answer(uri, question, now, Purpose::Own).map(|found| found.answer))
    }

    fn response(&self, uri: &str, question: &Question<'_>, now: UnixTime) -> Option<Vec<u8>> {
        let found = self.answer(uri, question, now, Purpose::PassedOn).ok()?;
        if found.answer.status != Status::Good {
            tracing::warn!(%uri, status = ?found.answer.status, "one of our own certificates is not good");
        }
        Some(found.response.to_vec())
    }
}
