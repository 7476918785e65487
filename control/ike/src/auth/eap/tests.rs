//! Conversations of both ends, and what may go wrong in them. That others agree is shown against strongSwan and
//! FreeRADIUS.

use std::sync::Arc;

use proptest::prelude::*;

use super::packet::{Code, Packet, emit, emit_end, kind};
use super::*;
use crate::auth::tests::NOW;
use crate::config::{Identity, IdentityMatch};

pub(super) fn users() -> Arc<[UserSecret]> {
    let user = |name: &str, ids: &[&str], password: &str| UserSecret {
        name: name.to_owned(),
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        secret: Secret(password.as_bytes().to_vec()),
    };
    [user("eap-any", &[], "anyone's"), user("eap-carol", &["carol"], "carol's")].into()
}

fn server(wanted: Option<IdentityMatch>) -> Server {
    let id = Identity::Fqdn("device".to_owned());
    Server::new(ServerMethod::MsChapV2, wanted, &id, users(), TlsSettings::default())
}

fn client(user: &str, password: &str) -> Client {
    Client::new(ClientSettings {
        method: ClientMethod::MsChapV2,
        user: user.to_owned(),
        password: Secret(password.as_bytes().to_vec()),
        tls: TlsSettings::default(),
        server: IdentityMatch::Any,
    })
}

pub(super) const SEED: Seed = Seed([7; 32]);

/// No CRLs.
pub(super) fn circumstances() -> Circumstances {
    Circumstances { now: NOW, source: Arc::new(Vec::new()) }
}

/// Both to their ends, the server's first.
pub(super) fn talk(server: &mut Server, client: &mut Client) -> (Step, Step) {
    let mut from_server = server.handle(&[], &SEED, &circumstances());
    loop {
        match from_server {
            Step::Send(packet) => match client.handle(&packet, &SEED, &circumstances()) {
                Step::Send(answer) => from_server = server.handle(&answer, &SEED, &circumstances()),
                end => return (Step::Send(packet), end),
            },
            Step::Done(ref outcome) => {
                let end = client.handle(outcome.packet.as_ref().unwrap(), &SEED, &circumstances());
                return (from_server, end);
            }
            Step::Failed { ref packet, .. } => {
                let end = client.handle(packet.as_ref().unwrap(), &SEED, &circumstances());
                return (from_server, end);
            }
            Step::Ask(_) => panic!("nobody to ask"),
        }
    }
}

/// The codes of what went wrong at either end, the server's first.
pub(super) fn codes_of((server, client): &(Step, Step)) -> [&'static str; 2] {
    [server, client].map(|step| match step {
        Step::Failed { why, .. } => why.code(),
        _ => "",
    })
}

fn codes(server: Option<IdentityMatch>, mut client: Client) -> (&'static str, &'static str) {
    let [server, client] = codes_of(&talk(&mut self::server(server), &mut client));
    (server, client)
}

#[test]
fn a_user_is_who_he_says_in_eap_where_that_is_asked() {
    let (Step::Done(server), Step::Done(client)) =
        talk(&mut server(Some(IdentityMatch::Any)), &mut client("Carol", "carol's"))
    else {
        panic!()
    };
    assert_eq!(server.authorization.eap_id.as_deref(), Some("Carol"));
    assert!(server.msk.is_some() && server.msk == client.msk);
}

#[test]
fn a_user_is_who_he_says_in_ike_where_that_is_not_asked() {
    let (Step::Done(server), Step::Done(_)) = talk(&mut server(None), &mut client("x", "anyone's")) else {
        panic!()
    };
    assert_eq!(server.authorization.eap_id.as_deref(), Some("device"));
}

#[test]
fn the_password_of_a_user_is_preferred_to_anyones() {
    let any = || Some(IdentityMatch::Any);
    assert_eq!(codes(any(), client("dave", "anyone's")), ("", ""));
    assert_eq!(codes(any(), client("carol", "anyone's")), ("EAP_WRONG_PASSWORD", "EAP_REFUSED"));
}

#[test]
fn another_user_than_the_wanted_is_refused_before_his_password_is_asked() {
    let wanted = Some("*@example.org".parse().unwrap());
    assert_eq!(codes(wanted.clone(), client("dave@example.org", "anyone's")), ("", ""));
    assert_eq!(codes(wanted, client("dave@example.net", "anyone's")), ("ID_UNEXPECTED", "EAP_REFUSED"));
}

#[test]
fn a_method_that_the_other_end_does_not_do_is_named() {
    let mut server = server(None);
    let Step::Send(request) = server.handle(&[], &SEED, &circumstances()) else { panic!() };
    let nak = emit(Code::Response, request[1], kind::NAK, &[kind::TLS, kind::PEAP]);
    let Step::Failed { packet, why } = server.handle(&nak, &SEED, &circumstances()) else { panic!() };
    assert_eq!(why.to_string(), "it does not want EAP-MSCHAPv2, but EAP-TLS or PEAP");
    assert_eq!(packet, Some(emit_end(Code::Failure, request[1])));
    let Step::Send(nak) =
        client("x", "y").handle(&emit(Code::Request, 3, kind::TLS, &[0x20]), &SEED, &circumstances())
    else {
        panic!()
    };
    assert_eq!(nak, emit(Code::Response, 3, kind::NAK, &[kind::MSCHAPV2]));
}

#[test]
fn success_before_any_proof_is_no_success() {
    let Step::Failed { why, .. } =
        client("x", "y").handle(&emit_end(Code::Success, 1), &SEED, &circumstances())
    else {
        panic!()
    };
    assert_eq!(*why, Rejection::Premature);
}

#[test]
fn a_response_to_another_request_is_refused() {
    let mut server = server(Some(IdentityMatch::Any));
    let Step::Send(request) = server.handle(&[], &SEED, &circumstances()) else { panic!() };
    let old = emit(Code::Response, request[1].wrapping_sub(1), kind::IDENTITY, b"carol");
    assert!(matches!(server.handle(&old, &SEED, &circumstances()), Step::Failed { .. }));
}

#[test]
fn an_aaa_server_is_asked_and_believed() {
    let id = Identity::Fqdn("device".to_owned());
    let mut server =
        Server::new(ServerMethod::Aaa, Some(IdentityMatch::Any), &id, users(), TlsSettings::default());
    let Step::Send(request) = server.handle(&[], &SEED, &circumstances()) else { panic!() };
    let identity = emit(Code::Response, request[1], kind::IDENTITY, b"carol");
    let Step::Ask(question) = server.handle(&identity, &SEED, &circumstances()) else { panic!() };
    let expected = AaaRequest { user: "carol".to_owned(), packet: identity, state: None };
    assert_eq!(*question, expected);
    let state = AaaState { server: 1, state: vec![9] };
    let challenge = emit(Code::Request, 200, kind::TLS, &[0x20]);
    let answer = AaaAnswer::Challenge { packet: challenge.clone(), state: state.clone() };
    let Step::Send(passed) = server.handle_answer(answer) else { panic!() };
    assert_eq!(passed, challenge);
    let response = emit(Code::Response, 200, kind::TLS, &[0]);
    let Step::Ask(question) = server.handle(&response, &SEED, &circumstances()) else { panic!() };
    assert_eq!((question.packet, question.state), (response, Some(state)));
    let authorization =
        Box::new(Authorization { groups: vec!["staff".to_owned()], ..Authorization::default() });
    let accept = AaaAnswer::Accept { packet: None, msk: Msk::new(vec![1; 64]), authorization };
    let Step::Done(outcome) = server.handle_answer(accept) else { panic!() };
    assert_eq!(outcome.packet, Some(emit_end(Code::Success, 200)));
    assert_eq!(outcome.authorization.groups, ["staff"]);
    assert_eq!(outcome.authorization.eap_id.as_deref(), Some("carol"));
}

/// Without the method's key, whoever sits between client and server could be the one that we talk to.
#[test]
fn an_acceptance_without_a_key_is_none() {
    let id = Identity::Fqdn("device".to_owned());
    let mut server = Server::new(ServerMethod::Aaa, None, &id, users(), TlsSettings::default());
    let Step::Ask(question) = server.handle(&[], &SEED, &circumstances()) else { panic!() };
    let made = Packet::parse(&question.packet).unwrap();
    assert_eq!((made.code, made.content), (Code::Response, Some((kind::IDENTITY, b"device".as_slice()))));
    let accept = AaaAnswer::Accept { packet: None, msk: None, authorization: Box::default() };
    let Step::Failed { why, .. } = server.handle_answer(accept) else { panic!() };
    assert_eq!(why.code(), "AAA_NO_KEY");
}

#[test]
fn endless_conversations_end() {
    let mut client = client("x", "y");
    let notification = emit(Code::Request, 1, kind::NOTIFICATION, b"patience");
    let steps = (0..1000)
        .take_while(|_| matches!(client.handle(&notification, &SEED, &circumstances()), Step::Send(_)))
        .count();
    assert_eq!(steps, 100);
}

proptest! {
    #[test]
    fn nothing_panics_whatever_comes(octets: Vec<u8>, kind in prop_oneof![Just(1_u8), Just(3), Just(26), any::<u8>()], data: Vec<u8>) {
        _ = Packet::parse(&octets);
        let mut server = server(None);
        let Step::Send(request) = server.handle(&[], &SEED, &circumstances()) else { panic!() };
        _ = server.handle(&octets, &SEED, &circumstances());
        let mut server = self::server(None);
        _ = server.handle(&[], &SEED, &circumstances());
        _ = server.handle(&emit(Code::Response, request[1], kind, &data), &SEED, &circumstances());
        let mut client = client("x", "y");
        _ = client.handle(&octets, &SEED, &circumstances());
        _ = client.handle(&emit(Code::Request, 1, kind, &data), &SEED, &circumstances());
    }
}

/// One end is mad: what it sends is spoilt as the input says. The first octet says which end; neither panics, and no
/// client believes in a server that does not know its password.
#[test]
fn fuzz_eap() {
    let seeds = (0..4)
        .map(|who| vec![who, 0])
        .chain((0..4).map(|at| [&[at % 2], &vec![0; at.into()][..], &[1, 0, 9, 1]].concat()));
    portcullis_fuzz::Target::new("eap").seeds(seeds).run(|input| {
        let mut script = portcullis_fuzz::Script::new(input);
        let who = script.octet();
        let wanted = (who & 2 != 0).then_some(IdentityMatch::Any);
        let password = if who & 4 != 0 { "another" } else { "carol's" };
        let (mut server, mut client) = (server(wanted), client("carol", password));
        let mut packet = Vec::new();
        for _ in 0..20 {
            let mut step = server.handle(&packet, &SEED, &circumstances());
            for end in [0, 1] {
                let sent = match step {
                    Step::Send(sent) | Step::Failed { packet: Some(sent), .. } => sent,
                    Step::Done(outcome) => {
                        assert!(end == 0 || password == "carol's", "believed in");
                        let Some(sent) = outcome.packet else { return };
                        sent
                    }
                    Step::Failed { .. } | Step::Ask(_) => return,
                };
                packet = sent;
                if who & 1 == end {
                    script.spoil(&mut packet);
                }
                let _ = Packet::parse(&packet);
                if end == 1 {
                    break;
                }
                step = client.handle(&packet, &SEED, &circumstances());
            }
        }
    });
}
