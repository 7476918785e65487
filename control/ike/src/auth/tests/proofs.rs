//! Signatures: every scheme both ways, what is mutated, swapped or of another key, what is not accepted.

use rcgen::SignatureAlgorithm;

use super::*;

const GW: &str = "gw.example.org";

fn kinds() -> [(&'static SignatureAlgorithm, &'static str); 5] {
    [
        (&rcgen::PKCS_RSA_SHA256, "RSA 2048"),
        (&rcgen::PKCS_ECDSA_P256_SHA256, "ECDSA P-256"),
        (&rcgen::PKCS_ECDSA_P384_SHA384, "ECDSA P-384"),
        (&rcgen::PKCS_ECDSA_P521_SHA512, "ECDSA P-521"),
        (&rcgen::PKCS_ED25519, "Ed25519"),
    ]
}

#[test]
fn every_kind_of_key_proves_itself_and_no_mutated_proof_does() {
    let ca = Authority::root("Root", unchanged);
    for (algorithm, kind) in kinds() {
        let gw = ca.issue_for(algorithm, GW, unchanged);
        assert_eq!(gw.certificate.key().kind().to_string(), kind);
        let good = gw.proof(GW, trust(&ca), &[]);
        assert_eq!(good.method, 14);
        assert_eq!(judge(&good), Ok(()), "{kind}");

        let mut other_octets = good.clone();
        other_octets.octets[3] ^= 1;
        rejected(judge(&other_octets), "SIGNATURE_INVALID", &[kind]);
        let mut mutated = good.clone();
        *mutated.auth.last_mut().unwrap() ^= 1;
        rejected(judge(&mutated), "SIGNATURE_INVALID", &[kind]);
        for cut in [0, 1, 9, good.auth.len() - 1] {
            let cut = VerifyRequest { auth: good.auth[..cut].to_vec(), ..good.clone() };
            assert!(judge(&cut).is_err(), "{kind}");
        }
    }
}

#[test]
fn the_older_methods_are_made_and_verified() {
    let ca = Authority::root("Root", unchanged);
    for ((algorithm, kind), method) in kinds().into_iter().zip([1, 9, 10, 11]) {
        let gw = ca.issue_for(algorithm, GW, unchanged);
        let scheme = gw.credential(&[]).choose(&Constraint::default(), &[]).unwrap();
        assert_eq!(scheme.method(), method);
        let good = gw.proof_by(scheme, GW, trust(&ca), &[]);
        assert_eq!(judge(&good), Ok(()), "{kind}");
        let mut mutated = good.clone();
        mutated.auth[10] ^= 1;
        rejected(judge(&mutated), "SIGNATURE_INVALID", &[kind]);
        // The same signature under the number of another curve's method.
        let renumbered = VerifyRequest { method: if method == 9 { 10 } else { 9 }, ..good };
        rejected(judge(&renumbered), "AUTH_METHOD_MISMATCH", &[]);
    }
    let ed = ca.issue_for(&rcgen::PKCS_ED25519, GW, unchanged).credential(&[]);
    assert!(ed.choose(&Constraint::default(), &[]).unwrap_err().contains("RFC 7427"));
}

#[test]
fn another_keys_signature_is_refused() {
    let ca = Authority::root("Root", unchanged);
    let (gw, thief) = (ca.issue(GW, unchanged), ca.issue("thief", unchanged));
    let mut stolen = thief.proof(GW, trust(&ca), &[]);
    stolen.certificates = gw.proof(GW, trust(&ca), &[]).certificates;
    rejected(judge(&stolen), "SIGNATURE_INVALID", &["private key"]);
    let rsa = ca.issue_for(&rcgen::PKCS_RSA_SHA256, GW, unchanged);
    stolen.certificates = rsa.proof(GW, trust(&ca), &[]).certificates;
    rejected(judge(&stolen), "AUTH_METHOD_MISMATCH", &["ECDSA with SHA2-256", "RSA 2048"]);
}

#[test]
fn pss_is_signed_when_asked_for_and_verified() {
    let ca = Authority::root("Root", unchanged);
    let gw = ca.issue_for(&rcgen::PKCS_RSA_SHA256, GW, unchanged);
    for (hash, constraint) in [
        (HashAlgorithm::Sha256, "rsa/pss"),
        (HashAlgorithm::Sha384, "rsa/pss-sha384"),
        (HashAlgorithm::Sha512, "ike:rsa/pss-sha512"),
    ] {
        let constraint: Constraint = constraint.parse().unwrap();
        let scheme = gw.credential(&[]).choose(&constraint, &HashAlgorithm::ANNOUNCED).unwrap();
        assert_eq!(scheme, AuthScheme::Digital(Scheme::RsaPss(hash)));
        assert_eq!(judge(&gw.proof_by(scheme, GW, trust(&ca), &[])), Ok(()));
    }
    let pkcs1 = gw.proof(GW, Trust { constraint: "ike:rsa/pss".parse().unwrap(), ..trust(&ca) }, &[]);
    rejected(judge(&pkcs1), "HASH_NOT_SUPPORTED", &["RSA with SHA2-256", "ike:rsa/pss"]);
}

#[test]
fn the_hash_is_one_that_the_peer_announced() {
    use HashAlgorithm::{Sha256, Sha384, Sha512};
    let ca = Authority::root("Root", unchanged);
    let rsa = ca.issue_for(&rcgen::PKCS_RSA_SHA256, GW, unchanged).credential(&[]);
    let choose = |announced: &[HashAlgorithm]| rsa.choose(&Constraint::default(), announced);
    assert_eq!(choose(&[Sha512, Sha256]), Ok(AuthScheme::Digital(Scheme::RsaPkcs1(Sha256))));
    assert_eq!(choose(&[Sha512]), Ok(AuthScheme::Digital(Scheme::RsaPkcs1(Sha512))));
    assert!(choose(&[HashAlgorithm::Sha1]).unwrap_err().contains("RSA with SHA2-256"));
    // ECDSA has methods that need no announcement.
    let ecdsa = ca.issue(GW, unchanged).credential(&[]);
    assert_eq!(ecdsa.choose(&Constraint::default(), &[Sha384]), Ok(AuthScheme::Ecdsa(Curve::P256)));
    let only_384: Constraint = "ecdsa-sha384".parse().unwrap();
    assert!(ecdsa.choose(&only_384, &[Sha384]).unwrap_err().contains("nothing that is allowed"));
}

/// RSA PKCS#1 v1.5 with SHA-1 over `abc` by `SHA1_KEY`, both made with OpenSSL 3.0.
const SHA1_KEY: &str = include_str!("sha1-rsa-spki.hex");
const SHA1_SIGNATURE: &str = include_str!("sha1-rsa-signature.hex");

#[test]
fn sha1_is_refused_unless_it_is_named() {
    let hex = |text: &str| data_encoding::HEXLOWER.decode(text.trim().as_bytes()).unwrap();
    let key = PublicKey::from_spki(&hex(SHA1_KEY)).unwrap();
    let request = |constraint: &str, signature: Vec<u8>| VerifyRequest {
        trust: Arc::new(Trust {
            public_keys: vec![key.clone()],
            constraint: constraint.parse().unwrap(),
            ..Trust::default()
        }),
        id: GW.parse().unwrap(),
        certificates: vec![CertPayload { encoding: 15, data: key.spki().to_vec() }],
        method: 1,
        auth: signature,
        octets: b"abc".to_vec(),
    };
    rejected(
        judge(&request("pubkey", hex(SHA1_SIGNATURE))),
        "HASH_NOT_SUPPORTED",
        &["SHA-1", "SHA2-256 or better"],
    );
    assert_eq!(judge(&request("rsa-sha1", hex(SHA1_SIGNATURE))), Ok(()));
    let digital = [vec![15], Scheme::RsaPkcs1(HashAlgorithm::Sha1).to_der(), hex(SHA1_SIGNATURE)].concat();
    let request = VerifyRequest { method: 14, ..request("pubkey", digital) };
    rejected(judge(&request), "HASH_NOT_SUPPORTED", &["SHA-1"]);
}

#[test]
fn raw_public_keys_are_accepted_where_they_are_configured() {
    let ca = Authority::root("Root", unchanged);
    let gw = ca.issue_for(&rcgen::PKCS_ED25519, GW, unchanged);
    let known = || Trust { public_keys: vec![gw.certificate.key().clone()], ..Trust::default() };
    let raw = |trust: Trust| VerifyRequest {
        certificates: vec![CertPayload { encoding: 15, data: gw.certificate.key().spki().to_vec() }],
        ..gw.proof(GW, trust, &[])
    };
    assert_eq!(judge(&raw(known())), Ok(()));
    rejected(judge(&raw(trust(&ca))), "CERT_NOT_ACCEPTED", &["Ed25519"]);
    // Sent in a certificate, or not sent at all.
    assert_eq!(judge(&gw.proof(GW, known(), &[])), Ok(()));
    assert_eq!(judge(&VerifyRequest { certificates: Vec::new(), ..raw(known()) }), Ok(()));
    let other = ca.issue_for(&rcgen::PKCS_ED25519, GW, unchanged);
    rejected(judge(&other.proof(GW, known(), &[])), "CERT_NOT_ACCEPTED", &[]);
    let silent = VerifyRequest { certificates: Vec::new(), ..other.proof(GW, known(), &[]) };
    rejected(judge(&silent), "SIGNATURE_INVALID", &[]);
}

#[test]
fn other_encodings_and_methods_are_refused_by_name() {
    let ca = Authority::root("Root", unchanged);
    let gw = ca.issue(GW, unchanged);
    for (encoding, words) in [(12, "hash and URL"), (13, "hash and URL"), (1, "encoding 1")] {
        let mut request = gw.proof(GW, trust(&ca), &[]);
        request.certificates[0].encoding = encoding;
        rejected(judge(&request), "CERT_UNUSABLE", &[words]);
    }
    let null = VerifyRequest { method: 13, ..gw.proof(GW, trust(&ca), &[]) };
    rejected(judge(&null), "AUTH_METHOD_MISMATCH", &["method 13"]);
    let signed = |last| VerifyRequest {
        auth: [vec![7, 0x30, 5, 6, 3, 0x2b, 0x65, last], vec![0; 114]].concat(),
        ..gw.proof(GW, trust(&ca), &[])
    };
    rejected(judge(&signed(0x6f)), "AUTH_METHOD_MISMATCH", &["1.3.101.111"]);
    rejected(judge(&signed(0x71)), "AUTH_METHOD_MISMATCH", &["with Ed448", "key is ECDSA P-256"]);
    let silent = VerifyRequest { certificates: Vec::new(), ..gw.proof(GW, trust(&ca), &[]) };
    rejected(judge(&silent), "CERT_MISSING", &[GW]);
}

#[test]
fn certificates_weaker_than_the_constraint_are_refused() {
    let ca = Authority::root("Root", unchanged);
    let gw = ca.issue_for(&rcgen::PKCS_ECDSA_P384_SHA384, GW, unchanged);
    let strict = |constraint: &str| Trust { constraint: constraint.parse().unwrap(), ..trust(&ca) };
    // The CA's key is on P-256 and signs with SHA-256.
    let result = judge(&gw.proof(GW, strict("ecdsa-384-sha384"), &[]));
    rejected(result, "CERT_INVALID", &["ECDSA with SHA2-256 by an ECDSA P-256 key"]);
    assert_eq!(judge(&gw.proof(GW, strict("ike:ecdsa-384-sha384"), &[])), Ok(()));
    let result = judge(&gw.proof(GW, strict("ike:rsa"), &[]));
    rejected(result, "HASH_NOT_SUPPORTED", &["ECDSA P-384", "ike:rsa"]);
}

#[test]
fn a_key_must_be_its_certificates() {
    let ca = Authority::root("Root", unchanged);
    let (gw, other) = (ca.issue(GW, unchanged), ca.issue(GW, unchanged));
    let result = Credential::certified(gw.private_key(), Arc::clone(&other.certificate), &[]);
    assert_eq!(result.unwrap_err(), KeyMismatch);
}

#[test]
fn the_chain_is_sent_without_its_root() {
    let ca = Authority::root("Root", unchanged);
    let lower = ca.below("Lower", unchanged);
    let gw = lower.issue(GW, unchanged);
    let credential = gw.credential(&[&ca, &lower]);
    assert!(credential.intermediates().eq([&lower.certificate]));
    assert!(credential.is_vouched_for_by(&[ca.certificate.key().hash()]));
    assert!(credential.is_vouched_for_by(&[lower.certificate.key().hash()]));
    assert!(!credential.is_vouched_for_by(&[gw.certificate.key().hash()]));
}

#[test]
fn private_keys_are_never_printed() {
    let ca = Authority::root("Root", unchanged);
    for (algorithm, kind) in kinds() {
        let gw = ca.issue_for(algorithm, GW, unchanged);
        assert_eq!(format!("{:?}", gw.private_key()), format!("PrivateKey({kind}, …)"));
    }
}

#[test]
fn keys_that_are_not_supported_are_named() {
    // PKCS#8 as of `openssl genpkey -algorithm ed448` and x448, the keys themselves cut short.
    for (der, problem) in [
        ("3010020100300506032b6571040401020304", "not a valid Ed448 key"),
        ("3010020100300506032b656f040401020304", "of algorithm 1.3.101.111"),
    ] {
        let error = PrivateKey::from_der(&data_encoding::HEXLOWER.decode(der.as_bytes()).unwrap());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    assert!(matches!(PrivateKey::from_der(b"nonsense"), Err(KeyError::Malformed(_))));
}

#[test]
fn what_a_peer_has_proved_itself_with_is_kept_for_the_record() {
    let ca = Authority::root("Root", unchanged);
    let numbered: Change = |params| params.serial_number = Some(SerialNumber::from(0x0a41));
    let gw = ca.issue(GW, numbered);
    let proven = crate::auth::verify(&gw.proof(GW, trust(&ca), &[]), NOW, &Vec::new()).unwrap();
    assert_eq!(proven.method(), "pubkey");
    let Proven::Signature { key, certificate: Some(certificate), .. } = proven else {
        panic!("the certificate is missing in {proven:?}")
    };
    assert_eq!(key, gw.certificate.key().kind());
    assert_eq!(certificate.serial, [0x0a, 0x41]);
    assert_eq!(certificate.issuer, "C=CH, O=Acme, CN=Root");
    assert_eq!(certificate.subject, "C=CH, O=Acme, CN=gw.example.org");
    assert_eq!(certificate.not_after, gw.certificate.not_after());
}
