//! The samples of RFC 2759 §9.2 and RFC 3079 §3.5.3, and both ends against each other.

use data_encoding::HEXUPPER;

use super::crypto::*;
use super::message::Challenge;
use super::*;
use crate::auth::eap::{Answered, Rejection, UserSecret};
use crate::config::Secret;

fn hex<const N: usize>(text: &str) -> [u8; N] {
    HEXUPPER.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

const USER: &[u8] = b"User";

fn challenges() -> (Challenge, Challenge) {
    (hex("5B5D7C7D7B3F2F3E3C2C602132262628"), hex("21402324255E262A28295F2B3A337C7E"))
}

#[test]
fn the_proofs_of_both_ends_are_those_of_the_rfc() {
    let (server, peer) = challenges();
    let hash = password_hash(b"clientPass");
    assert_eq!(*hash, hex("44EBBA8D5312B8D611474411F56989AE"));
    let response = nt_response(&server, &peer, USER, &hash);
    assert_eq!(response, hex("82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF"));
    let proof = authenticator_response(&server, &peer, USER, &hash, &response);
    assert_eq!(proof, hex("407A5589115FD0D6209F510FE9C04566932CDA56"));
}

#[test]
fn the_keys_are_those_of_the_rfc() {
    let hash = password_hash(b"clientPass");
    let response: NtResponse = hex("82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF");
    assert_eq!(*master_key(&hash, &response), hex("FDECE3717A8C838CB388E527AE3CDD31"));
    let msk = msk(&hash, &response).unwrap();
    // The RFC's sample is the server's sending key.
    assert_eq!(msk.octets()[16..32], hex::<16>("8B7CDC149B993A1BA118CB153F56DCCB"));
    assert_eq!(msk.octets()[32..], [0; 32]);
}

fn secret(password: &str) -> UserSecret {
    UserSecret { name: "eap-carol".to_owned(), ids: vec![], secret: Secret(password.into()) }
}

fn begun(known: Option<&UserSecret>) -> (Server, Vec<u8>) {
    Server::begin("carol", known, 7, challenges().0)
}

fn answer(client: &mut Client, data: &[u8]) -> Vec<u8> {
    match client.handle(data, challenges().1) {
        Answered::Response(data) => data,
        Answered::Failed(why) => panic!("{why}"),
    }
}

fn ask(server: &mut Server, data: &[u8]) -> Vec<u8> {
    match server.handle(data) {
        Asked::Request(data) => data,
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_ends_come_to_the_same_key_whatever_the_domain_and_the_alphabet() {
    for user in ["carol", "ACME\\carol"] {
        for password in ["correct horse", "Zürich€🔑"] {
            let (mut server, challenge) = begun(Some(&secret(password)));
            let mut client = Client::new(user, &secret(password).secret);
            let response = answer(&mut client, &challenge);
            let success = ask(&mut server, &response);
            assert_eq!(client.finish(), None, "before the server has proven itself");
            let acknowledged = answer(&mut client, &success);
            let Asked::Done(Some(key)) = server.handle(&acknowledged) else { panic!() };
            assert_eq!(client.finish(), Some(Some(key)));
        }
    }
}

#[test]
fn a_wrong_password_and_a_user_that_nobody_knows_look_alike_to_the_client() {
    for known in [Some(secret("other")), None] {
        let (mut server, challenge) = begun(known.as_ref());
        let mut client = Client::new("carol", &secret("guess").secret);
        let response = answer(&mut client, &challenge);
        let failure = ask(&mut server, &response);
        let acknowledged = answer(&mut client, &failure);
        assert_eq!(client.refusal().map(Rejection::code), Some("EAP_REFUSED"));
        let Asked::Failed(why) = server.handle(&acknowledged) else { panic!() };
        assert_eq!(why.code(), if known.is_some() { "EAP_WRONG_PASSWORD" } else { "EAP_UNKNOWN_USER" });
    }
}

#[test]
fn a_server_that_does_not_know_the_password_is_found_out() {
    let (mut server, challenge) = begun(Some(&secret("right")));
    let mut client = Client::new("carol", &secret("right").secret);
    let response = answer(&mut client, &challenge);
    let mut success = ask(&mut server, &response);
    success[7] = if success[7] == b'0' { b'1' } else { b'0' };
    let Answered::Failed(why) = client.handle(&success, challenges().1) else { panic!() };
    assert_eq!(why.code(), "EAP_SERVER_NOT_PROVEN");
    assert_eq!(client.finish(), None);
}

#[test]
fn whatever_is_cut_short_or_out_of_turn_is_refused() {
    let (mut server, challenge) = begun(Some(&secret("right")));
    let mut client = Client::new("carol", &secret("right").secret);
    let response = answer(&mut client, &challenge);
    for len in 0..response.len() - "carol".len() {
        assert!(matches!(server.handle(&response[..len]), Asked::Failed(_)), "{len}");
    }
    for len in 0..challenge.len() - "portcullis".len() {
        let mut fresh = Client::new("carol", &secret("right").secret);
        assert!(matches!(fresh.handle(&challenge[..len], challenges().1), Answered::Failed(_)), "{len}");
    }
    // Success before any proof.
    assert!(matches!(server.handle(&[3]), Asked::Failed(_)));
    assert!(matches!(client.handle(&challenge, challenges().1), Answered::Failed(_)));
}
