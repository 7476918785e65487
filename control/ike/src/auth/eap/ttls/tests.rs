//! Both ends of EAP-TTLS, and whom they refuse. That others agree is shown against strongSwan.

use std::sync::Arc;

use super::avp::{self, code};
use super::{Said, Server};
use crate::auth::eap::tests::{SEED, circumstances, codes_of, talk, users};
use crate::auth::eap::{Client, ClientMethod, ClientSettings, ServerMethod, Step, TlsSettings};
use crate::auth::tests::{Authority, trust, unchanged};
use crate::config::{Identity, IdentityMatch, Secret};

/// Both ends' outcomes, where the server has a certificate for `gw.example`.
fn ends(wanted: &str, user: &str, password: &str, server: &str) -> (Step, Step) {
    let root = Authority::root("Root", unchanged);
    let credentials = vec![root.issue("gw.example", unchanged).credential(&[])];
    let id = Identity::Fqdn("device".to_owned());
    let tls = TlsSettings { credentials, trust: Arc::default() };
    let mut gateway =
        crate::auth::eap::Server::new(ServerMethod::Ttls, Some(wanted.parse().unwrap()), &id, users(), tls);
    let mut client = Client::new(ClientSettings {
        method: ClientMethod::Ttls,
        user: user.to_owned(),
        password: Secret(password.as_bytes().to_vec()),
        tls: TlsSettings { credentials: Vec::new(), trust: Arc::new(trust(&root)) },
        server: server.parse().unwrap(),
    });
    talk(&mut gateway, &mut client)
}

#[test]
fn a_password_inside_tls_is_believed_and_both_have_the_same_key() {
    let ends = ends("%any", "carol", "carol's", "gw.example");
    let (Step::Done(server), Step::Done(client)) = &ends else { panic!("{ends:?}") };
    assert!(server.msk.is_some() && server.msk == client.msk);
    assert_eq!(server.authorization.eap_id.as_deref(), Some("carol"));
}

#[test]
fn who_cannot_be_believed_is_refused() {
    let codes = |wanted, user, password, server| codes_of(&ends(wanted, user, password, server));
    assert_eq!(codes("%any", "carol", "roses", "gw.example"), ["EAP_WRONG_PASSWORD", "EAP_REFUSED"]);
    assert_eq!(codes("*@example.org", "carol", "carol's", "gw.example"), ["ID_UNEXPECTED", "EAP_REFUSED"]);
    assert_eq!(codes("%any", "carol", "carol's", "b.example"), ["EAP_TLS_ALERT", "ID_NOT_IN_CERTIFICATE"]);
}

#[test]
fn a_password_itself_is_compared_without_its_padding() {
    let pap = |user: &str, password: &[u8]| {
        let avps = [avp::emit(code::USER_NAME, user.as_bytes()), avp::emit(code::USER_PASSWORD, password)];
        let mut server = Server::new("*r*".parse().unwrap_or(IdentityMatch::Any), users());
        match server.handle(&avps.concat(), &SEED, &circumstances()) {
            Said::Done { user } => user,
            Said::Failed(why) => why.code().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pap("carol", b"carol's\0\0\0\0\0\0\0\0\0"), "carol");
    assert_eq!(pap("carol", b"carol's"), "carol");
    assert_eq!(pap("carol", b"carol\0\0\0"), "EAP_WRONG_PASSWORD");
    assert_eq!(pap("carol", b""), "EAP_WRONG_PASSWORD");
}

#[test]
fn another_method_inside_is_named_as_what_it_is() {
    let mut server = Server::new(IdentityMatch::Any, users());
    // CHAP-Password.
    let avps = [avp::emit(code::USER_NAME, b"carol"), avp::emit(3, &[0; 17])].concat();
    let Said::Failed(why) = server.handle(&avps, &SEED, &circumstances()) else { panic!() };
    assert_eq!(why.code(), "EAP_METHOD_MISMATCH");
}
