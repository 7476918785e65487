//! Both ends of EAP-TLS, and whom they refuse. That others agree is shown against strongSwan and FreeRADIUS.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::auth::eap::packet::{Code, emit, emit_end, kind};
use crate::auth::eap::tests::{SEED, circumstances, codes_of, talk};
use crate::auth::eap::{Client, ClientMethod, ClientSettings, Rejection, Seed, Server, ServerMethod, Step};
use crate::auth::tests::{Authority, Entity, trust, unchanged};
use crate::config::{Identity, IdentityMatch, Secret};

/// A CA with a certificate for each end.
struct Estate {
    root: Authority,
    gateway: Entity,
    carol: Entity,
}

fn estate() -> Estate {
    let root = Authority::root("Root", unchanged);
    let (gateway, carol) = (root.issue("gw.example", unchanged), root.issue("carol.example", unchanged));
    Estate { root, gateway, carol }
}

fn settings(own: &Entity, trusted: &Authority) -> TlsSettings {
    TlsSettings { credentials: vec![own.credential(&[])], trust: Arc::new(trust(trusted)) }
}

fn server(tls: TlsSettings, wanted: Option<IdentityMatch>) -> Server {
    let id = Identity::Fqdn("carol.example".to_owned());
    Server::new(ServerMethod::Tls, wanted, &id, [].into(), tls)
}

fn client(tls: TlsSettings, user: &str, server: &str) -> Client {
    Client::new(ClientSettings {
        method: ClientMethod::Tls,
        user: user.to_owned(),
        password: Secret(Vec::new()),
        tls,
        server: server.parse().unwrap(),
    })
}

fn user(wanted: Option<IdentityMatch>, name: &str) -> Option<String> {
    let Estate { root, gateway, carol } = estate();
    let mut server = server(settings(&gateway, &root), wanted);
    let ends = talk(&mut server, &mut client(settings(&carol, &root), name, "gw.example"));
    let (Step::Done(server), Step::Done(client)) = ends else { return None };
    assert!(server.msk.is_some() && server.msk == client.msk);
    server.authorization.eap_id
}

#[test]
fn both_prove_themselves_and_have_the_same_key() {
    assert_eq!(user(None, "whatever").as_deref(), Some("carol.example"));
    assert_eq!(user(Some(IdentityMatch::Any), "carol.example").as_deref(), Some("carol.example"));
}

/// RFC 9190 §2.1.7.
#[test]
fn an_anonymous_client_is_who_its_certificate_says() {
    let wanted = |pattern: &str| Some(pattern.parse().unwrap());
    assert_eq!(user(wanted("*.example"), "@example").as_deref(), Some("carol.example"));
    assert_eq!(user(wanted("*.net"), "@example"), None);
    assert_eq!(user(wanted("%any"), "@example").as_deref(), Some("C=CH, O=Acme, CN=carol.example"));
}

#[test]
fn every_kind_of_key_signs() {
    let root = Authority::root("Root", unchanged);
    for algorithm in [
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let gateway = root.issue_for(algorithm, "gw.example", unchanged);
        let carol = root.issue_for(algorithm, "carol.example", unchanged);
        let mut server = server(settings(&gateway, &root), None);
        let ends = talk(&mut server, &mut client(settings(&carol, &root), "carol", "gw.example"));
        assert!(matches!(ends, (Step::Done(_), Step::Done(_))), "{ends:?}");
    }
}

#[test]
fn whoever_cannot_be_trusted_is_refused_and_told_by_an_alert() {
    let Estate { root, gateway, carol } = estate();
    let other = Authority::root("Other", unchanged);
    let expired = root.issue("carol.example", |params| params.not_after = rcgen::date_time_ymd(2029, 1, 1));
    let cases = [
        // The client trusts another CA, or expects another gateway.
        (
            settings(&gateway, &root),
            settings(&carol, &other),
            "gw.example",
            ["EAP_TLS_ALERT", "CERT_NO_ISSUER"],
        ),
        (
            settings(&gateway, &root),
            settings(&carol, &root),
            "b.example",
            ["EAP_TLS_ALERT", "ID_NOT_IN_CERTIFICATE"],
        ),
        // The server does, or the certificate is another's, or over.
        (
            settings(&gateway, &other),
            settings(&carol, &root),
            "gw.example",
            ["CERT_NO_ISSUER", "EAP_TLS_ALERT"],
        ),
        (
            settings(&gateway, &root),
            settings(&gateway, &root),
            "gw.example",
            ["ID_NOT_IN_CERTIFICATE", "EAP_TLS_ALERT"],
        ),
        (
            settings(&gateway, &root),
            settings(&expired, &root),
            "gw.example",
            ["CERT_EXPIRED", "EAP_TLS_ALERT"],
        ),
        (
            settings(&gateway, &root),
            TlsSettings { credentials: Vec::new(), ..settings(&carol, &root) },
            "gw.example",
            ["CERT_MISSING", "EAP_TLS_ALERT"],
        ),
    ];
    for (ours, theirs, expected, codes) in cases {
        let ends = talk(&mut server(ours, None), &mut client(theirs, "carol", expected));
        assert_eq!(codes_of(&ends), codes, "{ends:?}");
    }
}

#[test]
fn revoked_certificates_are_refused() {
    let Estate { root, gateway, carol } = estate();
    let crl = root.crl(&[&carol.certificate], |_| {});
    let circumstances = Circumstances { source: Arc::new(vec![crl]), ..circumstances() };
    let mut server = server(settings(&gateway, &root), None);
    let mut client = client(settings(&carol, &root), "carol", "gw.example");
    let mut packet = Vec::new();
    let why = loop {
        packet = match server.handle(&packet, &SEED, &circumstances) {
            Step::Send(packet) => packet,
            Step::Failed { why, .. } => break why,
            other => panic!("{other:?}"),
        };
        let Step::Send(answer) = client.handle(&packet, &SEED, &circumstances) else { panic!() };
        packet = answer;
    };
    assert_eq!(why.code(), "CERT_REVOKED");
}

/// RFC 9190 §2.5: until the server has committed itself nothing says that it has taken the client's proof, although the
/// client's handshake is over by then.
#[test]
fn success_before_the_commitment_of_the_server_is_none() {
    let Estate { root, gateway, carol } = estate();
    let after = |responses: usize| {
        let mut server = server(settings(&gateway, &root), None);
        let mut client = client(settings(&carol, &root), "carol", "gw.example");
        let mut packet = Vec::new();
        for _ in 0..responses {
            let Step::Send(request) = server.handle(&packet, &SEED, &circumstances()) else { return None };
            let Step::Send(response) = client.handle(&request, &SEED, &circumstances()) else { panic!() };
            packet = response;
        }
        Some(client.handle(&emit_end(Code::Success, 9), &SEED, &circumstances()))
    };
    let mut ends: Vec<Step> = (0..).map_while(after).collect();
    assert!(matches!(ends.pop(), Some(Step::Done(_))));
    // Nothing, ClientHello, Finished.
    assert!(ends.len() >= 3);
    for end in ends {
        assert!(matches!(end, Step::Failed { ref why, .. } if **why == Rejection::Premature), "{end:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn nothing_panics_whatever_comes(data: Vec<u8>, flags: u8, at in 0..4_usize) {
        let Estate { root, gateway, carol } = estate();
        let mut server = server(settings(&gateway, &root), None);
        let mut client = client(settings(&carol, &root), "carol", "gw.example");
        let mut packet = Vec::new();
        for _ in 0..at {
            let Step::Send(request) = server.handle(&packet, &SEED, &circumstances()) else { panic!() };
            let Step::Send(response) = client.handle(&request, &SEED, &circumstances()) else { panic!() };
            packet = response;
        }
        let data = [&[flags][..], &data].concat();
        let identifier = packet.get(1).copied().unwrap_or_default();
        let seed = Seed([1; 32]);
        _ = server.handle(&emit(Code::Response, identifier, kind::TLS, &data), &seed, &circumstances());
        _ = client.handle(&emit(Code::Request, identifier, kind::TLS, &data), &seed, &circumstances());
    }
}
