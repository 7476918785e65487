//! Both ends of EAP-TTLS, and whom they refuse. That others agree is shown against strongSwan, FreeRADIUS and wpa_supplicant.

use std::sync::Arc;

use super::avp::{self, Code, code};
use super::proof::{Judged, Kind, Proof};
use super::{Challenges, Inner, Said, Server};
use crate::auth::eap::tests::{SEED, circumstances, codes_of, talk, users};
use crate::auth::eap::{Client, ClientMethod, ClientSettings, ServerMethod, Step, TlsSettings};
use crate::auth::tests::{Authority, trust, unchanged};
use crate::config::{Identity, IdentityMatch, Secret};

/// Both ends' outcomes, where the server has a certificate for `gw.example`.
fn ends(inner: Inner, wanted: &str, user: &str, password: &str, server: &str) -> (Step, Step) {
    let root = Authority::root("Root", unchanged);
    let credentials = vec![root.issue("gw.example", unchanged).credential(&[])];
    let id = Identity::Fqdn("device".to_owned());
    let tls = TlsSettings { credentials, trust: Arc::default() };
    let mut gateway =
        crate::auth::eap::Server::new(ServerMethod::Ttls, Some(wanted.parse().unwrap()), &id, users(), tls);
    let mut client = Client::new(ClientSettings {
        method: ClientMethod::Ttls(inner),
        user: user.to_owned(),
        password: Secret(password.as_bytes().to_vec()),
        tls: TlsSettings { credentials: Vec::new(), trust: Arc::new(trust(&root)) },
        server: server.parse().unwrap(),
    });
    talk(&mut gateway, &mut client)
}

const INNER: [Inner; 5] = [Inner::EapMsChapV2, Inner::MsChapV2, Inner::MsChap, Inner::Chap, Inner::Pap];

#[test]
fn a_password_inside_tls_is_believed_and_both_have_the_same_key() {
    for inner in INNER {
        let ends = ends(inner, "%any", "carol", "carol's", "gw.example");
        let (Step::Done(server), Step::Done(client)) = &ends else { panic!("{inner:?}: {ends:?}") };
        assert!(server.msk.is_some() && server.msk == client.msk);
        assert_eq!(server.authorization.eap_id.as_deref(), Some("carol"));
    }
}

#[test]
fn who_cannot_be_believed_is_refused() {
    for inner in INNER {
        let codes = |wanted, user, password, server| codes_of(&ends(inner, wanted, user, password, server));
        assert_eq!(codes("%any", "carol", "roses", "gw.example"), ["EAP_WRONG_PASSWORD", "EAP_REFUSED"]);
        assert_eq!(
            codes("*@example.org", "carol", "carol's", "gw.example"),
            ["ID_UNEXPECTED", "EAP_REFUSED"]
        );
        let names = codes("%any", "carol", "carol's", "b.example");
        assert_eq!(names, ["EAP_TLS_ALERT", "ID_NOT_IN_CERTIFICATE"]);
    }
}

const DRAWN: Challenges = Challenges { long: [1; 17], short: [2; 9] };

fn server() -> Server {
    Server::new("*r*".parse().unwrap_or(IdentityMatch::Any), users())
}

/// What a server makes of carol's attributes.
fn said(avps: &[(Code, &[u8])]) -> Said {
    let name = avp::emit(code::USER_NAME, b"carol");
    let rest = avps.iter().flat_map(|(code, data)| avp::emit(*code, data));
    let all = name.into_iter().chain(rest);
    server().handle(&all.collect::<Vec<_>>(), &DRAWN, &SEED, &circumstances())
}

fn refused(said: &Said) -> String {
    match said {
        Said::Failed(why) => format!("{} {why}", why.code()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_password_itself_is_compared_without_its_padding() {
    let pap = |password: &[u8]| match said(&[(code::USER_PASSWORD, password)]) {
        Said::Done { user } => user,
        Said::Failed(why) => why.code().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(pap(b"carol's\0\0\0\0\0\0\0\0\0"), "carol");
    assert_eq!(pap(b"carol's"), "carol");
    assert_eq!(pap(b"carol\0\0\0"), "EAP_WRONG_PASSWORD");
    assert_eq!(pap(b""), "EAP_WRONG_PASSWORD");
}

#[test]
fn an_answer_to_a_challenge_of_another_tls_is_refused() {
    let elsewhere = Challenges { long: [3; 17], short: [4; 9] };
    let carols = Secret(b"carol's".to_vec());
    for kind in [Kind::Chap, Kind::MsChap, Kind::MsChapV2] {
        let sent = |challenges| {
            let sent = kind.prove("carol", &carols, challenges, &[5; 16]).attributes;
            let octets = [avp::emit(code::USER_NAME, b"carol"), sent].concat();
            server().handle(&octets, &DRAWN, &SEED, &circumstances())
        };
        assert!(matches!(sent(&DRAWN), Said::Done { .. } | Said::Attributes(_)), "{kind:?}");
        assert!(refused(&sent(&elsewhere)).contains("does not come from this TLS"), "{kind:?}");
        // Nor with the same challenge and another identifier.
        let mut long = DRAWN.long;
        long[16] ^= 1;
        let mut short = DRAWN.short;
        short[8] ^= 1;
        assert!(refused(&sent(&Challenges { long, short })).contains("this TLS"), "{kind:?}");
    }
}

#[test]
fn lan_managers_hash_is_not_taken() {
    let response = [&[2, 0][..], &[0; 48]].concat();
    let sent = [(code::MS_CHAP_CHALLENGE, &[2; 8][..]), (code::MS_CHAP_RESPONSE, &response)];
    assert!(refused(&said(&sent)).contains("LAN Manager"));
}

/// RFC 2433, appendix B.2.
#[test]
fn ms_chap_answers_as_the_rfc_does() {
    let hex = |text: &str| data_encoding::HEXUPPER.decode(text.as_bytes()).unwrap();
    let challenge = hex("102DB5DF085D3041");
    let nt = hex("4E9D3C8F9CFD385D5BF4D3246791956CA4C351AB409A3D61");
    let short = [&challenge[..], &[9]].concat().try_into().unwrap();
    let (drawn, password) = (Challenges { long: [0; 17], short }, Secret(b"MyPw".to_vec()));
    let response = [&[9, 1][..], &[0; 24], &nt].concat();
    let proof = Proof::MsChap { challenge: &challenge, response: &response };
    assert_eq!(proof.judge(b"x", &password, &drawn), Ok(Judged::Right));
    let sent = Kind::MsChap.prove("x", &password, &drawn, &[0; 16]).attributes;
    assert_eq!(Proof::find(&avp::parse(&sent).unwrap()), Some(proof));
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out_inside_tls() {
    let mut client = super::Client::new(Inner::MsChapV2, "carol", &Secret(b"carol's".to_vec()));
    let mut say = |octets: &[u8]| client.handle(octets, &DRAWN, &SEED, &circumstances());
    say(&[]).unwrap();
    let success = avp::emit(code::MS_CHAP2_SUCCESS, &[b"\x01S=", &[b'A'; 40][..]].concat());
    assert_eq!(say(&success).unwrap_err().code(), "EAP_SERVER_NOT_PROVEN");
    assert!(!client.is_proven());
}

#[test]
fn whatever_is_cut_short_is_refused() {
    let kinds = [
        (code::CHAP_CHALLENGE, code::CHAP_PASSWORD, 1),
        (code::MS_CHAP_CHALLENGE, code::MS_CHAP_RESPONSE, 50),
        (code::MS_CHAP_CHALLENGE, code::MS_CHAP2_RESPONSE, 50),
    ];
    for (challenge, response, len) in kinds {
        for len in 0..len {
            let sent = [(challenge, &[1; 16][..]), (response, &vec![1; len])];
            assert!(refused(&said(&sent)).contains("cut short"), "{response:?} {len}");
        }
    }
}

#[test]
fn another_method_inside_is_named_as_what_it_is() {
    // RADIUS's digest authentication.
    let why = refused(&said(&[((None, 103), &[0; 32])]));
    assert!(why.starts_with("EAP_METHOD_MISMATCH"), "{why}");
}
