//! OCSP responses that OpenSSL 3.0 has made (`openssl ocsp`), good from 2026-11-29 for seven days, without nonce.

use super::super::ocsp::{NONCE_LEN, Question, Status};
use super::super::revocation::{Brought, check};
use super::*;

const TODAY: UnixTime = UnixTime(1795934400);
const NONCE: [u8; NONCE_LEN] = [7; NONCE_LEN];
const DAY: u64 = 24 * 3600;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("ocsp/", $name, ".der"))
    };
}

fn certificate(der: &[u8]) -> Certificate {
    Certificate::from_der(der).unwrap()
}

/// What is said of a certificate by a response.
fn judge(about: &[u8], response: &[u8], now: UnixTime) -> Result<Status, String> {
    let ca = certificate(file!("ca"));
    let answer = Question::about(&certificate(about), &ca).judge(response, Some(&NONCE), now)?;
    Ok(answer.status)
}

#[test]
fn openssl_is_understood_and_the_dates_count() {
    let good = file!("good");
    assert_eq!(certificate(good).ocsp_uris(), ["http://ocsp.example/"]);
    assert_eq!(judge(good, file!("good-by-ca"), TODAY), Ok(Status::Good));
    let Ok(Status::Revoked { since, reason }) = judge(file!("revoked"), file!("revoked-by-ca"), TODAY) else {
        panic!("it is revoked");
    };
    assert_eq!(
        (since.to_string().as_str(), reason.as_deref()),
        ("2025-01-01T00:00:00Z", Some("KeyCompromise"))
    );
    for (now, said) in [(TODAY.0 + 8 * DAY, "expired"), (TODAY.0 - DAY, "only from")] {
        let why = judge(good, file!("good-by-ca"), UnixTime(now)).unwrap_err();
        assert!(why.contains(said), "{why}");
    }
    // Not in the responder's index.
    let ca = certificate(file!("ca"));
    assert!(judge(good, file!("impostor-by-ca"), TODAY).unwrap_err().contains("another certificate"));
    assert_eq!(Question::about(&certificate(good), &ca).id(), Question::about(&certificate(good), &ca).id());
}

#[test]
fn only_the_issuer_and_whom_it_has_certified_for_ocsp_are_believed() {
    let good = file!("good");
    assert_eq!(judge(good, file!("good-by-responder"), TODAY), Ok(Status::Good));
    let why = judge(good, file!("good-by-impostor"), TODAY).unwrap_err();
    assert!(why.contains("CN=impostor") && why.contains("OCSPSigning"), "{why}");
    let why = judge(file!("revoked"), file!("good-by-ca"), TODAY).unwrap_err();
    assert!(why.contains("another certificate"), "{why}");
    // A CA of the same name.
    let other = Authority::root("Root", unchanged);
    let asked = certificate(good);
    let why =
        Question::about(&asked, &other.certificate).judge(file!("good-by-responder"), Some(&NONCE), TODAY);
    assert!(why.unwrap_err().contains("was not certified by the CA"));
}

#[test]
fn a_mutated_or_cut_response_never_says_that_a_certificate_is_good() {
    for whole in [file!("good-by-ca").to_vec(), file!("good-by-responder").to_vec()] {
        for at in 0..whole.len() {
            assert!(judge(file!("good"), &whole[..at], TODAY).is_err());
        }
    }
    // The tail holds the CA's certificate, which is not looked at.
    let whole = file!("revoked-by-ca");
    for at in 0..whole.len() {
        let mut mutated = whole.to_vec();
        mutated[at] ^= 0x11;
        assert_ne!(judge(file!("revoked"), &mutated, TODAY), Ok(Status::Good), "octet {at}");
    }
}

/// What becomes of a certificate whose peer brings these, where nobody else is to be asked.
fn brought(about: &[u8], responses: &[&[u8]], now: UnixTime) -> Result<(), Rejection> {
    let source = &Vec::<Arc<Crl>>::new();
    let brought = Brought { responses: responses.to_vec(), source };
    let (certificate, ca) = (certificate(about), certificate(file!("ca")));
    check(&certificate, &ca, (Revocation::Strict, &[]), now, &brought)
}

#[test]
fn what_a_peer_brings_is_believed_only_where_a_responder_would_be() {
    let (good, revoked) = (file!("good"), file!("revoked"));
    let (by_ca, of_revoked) = (file!("good-by-ca").as_slice(), file!("revoked-by-ca").as_slice());
    assert_eq!(brought(good, &[by_ca], TODAY), Ok(()));
    // Whatever lies before it about others.
    assert_eq!(brought(good, &[b"nonsense", of_revoked, file!("good-by-responder")], TODAY), Ok(()));
    let said = |result: Result<(), Rejection>| result.unwrap_err().to_string();
    assert!(said(brought(good, &[], TODAY)).contains("no CRL of its issuer is at hand"));
    assert!(said(brought(good, &[of_revoked], TODAY)).contains("no CRL of its issuer is at hand"));
    let impostor = said(brought(good, &[file!("good-by-impostor")], TODAY));
    assert!(impostor.contains("OCSPSigning") && impostor.contains("the peer brought it"), "{impostor}");
    let old = said(brought(good, &[by_ca], UnixTime(TODAY.0 + 8 * DAY)));
    assert!(old.contains("expired"), "{old}");
    let Err(Rejection::Revoked { responder, .. }) = brought(revoked, &[of_revoked], TODAY) else { panic!() };
    assert_eq!(responder, Some(Responder::Brought));
}
