//! EAP in the configuration.

use std::sync::Arc;

use portcullis_ike::auth::eap::{ClientMethod, ServerMethod};
use portcullis_ike::config::{IdentityMatch, LocalMethod, RemoteMethod};

use super::*;

const USERS: &str = "[secrets.eap-carol]\nid = [\"carol\", \"carol@example.org\"]\nsecret = \"violets\"\n";

/// A connection with these rounds, and what follows it.
fn text(local: &str, remote: &str, more: &str) -> String {
    format!(
        "[gateway]\n[[gateway.interfaces]]\nname = \"a\"\nrole = \"outside\"\n\
         [[gateway.interfaces]]\nname = \"b\"\nrole = \"inside\"\n\
         [connections.site]\nremote_addrs = \"192.0.2.1\"\nlocal = {{ {local} }}\nremote = {{ {remote} }}\n\
         [connections.site.children.net]\n{more}"
    )
}

const KEY: &str = "[secrets.ike]\nsecret = \"a secret that is long enough\"\n";

fn findings(local: &str, remote: &str, more: &str) -> String {
    let found = match Config::parse(&text(local, remote, more), Path::new("/nowhere")) {
        Ok((_, findings)) | Err(findings) => findings,
    };
    found.iter().map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn users_and_methods_are_read() {
    let gateway = text(
        "auth = \"psk\"",
        "auth = \"eap-mschapv2\", eap_id = \"*@example.org\"",
        &format!("{KEY}{USERS}"),
    );
    let (config, findings) = Config::parse(&gateway, Path::new("/nowhere")).unwrap();
    let eap_id: IdentityMatch = "*@example.org".parse().unwrap();
    let expected =
        RemoteMethod::Eap { method: ServerMethod::MsChapV2, eap_id: Some(eap_id), trust: Arc::default() };
    assert_eq!(config.engine.connections[0].remote[0].auth, expected);
    assert_eq!(config.engine.users[0].ids, ["carol", "carol@example.org"]);
    assert!(findings.iter().any(|finding| finding.to_string().contains("can pass for us")), "{findings:?}");
    let client = text("auth = \"eap\", eap_id = \"carol\"", "auth = \"psk\"", &format!("{KEY}{USERS}"));
    let (config, _) = Config::parse(&client, Path::new("/nowhere")).unwrap();
    let expected = LocalMethod::Eap {
        method: ClientMethod::MsChapV2,
        eap_id: Some("carol".to_owned()),
        aaa_id: None,
        credentials: Vec::new(),
    };
    assert_eq!(config.engine.connections[0].local[0].auth, expected);
}

#[test]
fn what_cannot_work_is_said() {
    let (psk, eap) = ("auth = \"psk\"", "auth = \"eap-mschapv2\", eap_id = \"carol\"");
    let both = format!("{KEY}{USERS}");
    for (local, remote, more, said) in [
        (psk, eap, KEY, "but there are none"),
        (eap, psk, KEY, "no `[secrets.eap-NAME]` is for him"),
        ("auth = \"eap\"", psk, both.as_str(), "names no user"),
        (eap, eap, both.as_str(), "are both EAP"),
        (eap, "auth = \"eap-radius\"", both.as_str(), "are both EAP"),
        ("auth = \"eap-radius\"", psk, both.as_str(), "then `remote` is that too"),
        (
            "auth = \"eap-radius\", certs = \"x\"",
            "auth = \"eap-radius\"",
            both.as_str(),
            "is not ours to say",
        ),
        ("auth = \"psk\", aaa_id = \"x\"", psk, both.as_str(), "belongs to EAP methods over TLS"),
        (psk, "auth = \"eap-ttls\"", both.as_str(), "a server of TLS needs a certificate"),
        (
            "auth = \"eap\", eap_id = \"carol\", eap_inner = \"pap\"",
            psk,
            both.as_str(),
            "what EAP-TTLS carries",
        ),
        (
            "auth = \"eap-ttls\", eap_id = \"carol\", eap_inner = \"md5\"",
            "auth = \"pubkey\"",
            both.as_str(),
            "\"md5\" is not known here",
        ),
        (psk, "auth = \"eap-ttls\", eap_inner = \"pap\"", both.as_str(), "eap_inner"),
        (psk, "auth = \"eap-tls\"", both.as_str(), "the CA that vouches for the peer"),
        ("auth = \"eap-tls\"", psk, both.as_str(), "the certificate that we prove ourselves with"),
        (psk, "auth = \"eap-sim\"", both.as_str(), "is no EAP method that this version does"),
        (psk, "auth = \"psk\", eap_id = \"x\"", both.as_str(), "belongs to EAP"),
        (psk, "auth = \"eap-mschapv2\", cacerts = \"x\"", both.as_str(), "belongs to public keys"),
        (psk, psk, "[secrets.eap-x]\nsecret = \"y\"\n", "`id` is missing"),
        (psk, psk, "[secrets.eap-x]\nid = \"y\"\n", "`secret` is missing"),
        (psk, eap, &format!("start_action = \"start\"\n{both}"), "only an end that initiates"),
    ] {
        let found = findings(local, remote, more);
        assert!(found.contains(said), "{local} {remote} {more}: {found}");
    }
}

#[test]
fn tickets_do_not_go_with_eap() {
    let resumes = |remote: &str| {
        let text = text("auth = \"psk\"", remote, &format!("{KEY}{USERS}"));
        let text = text.replace("remote_addrs", "session_resumption = true\nremote_addrs");
        let text = text.replace(
            "remote = { auth = \"psk\", two }",
            "remote = [{ auth = \"psk\" }, { auth = \"psk\", id = \"b2\" }]",
        );
        Config::parse(&text, Path::new("/nowhere"))
    };
    assert!(resumes("auth = \"psk\"").unwrap().0.engine.connections[0].session_resumption);
    let findings = resumes("auth = \"eap-mschapv2\"").unwrap_err();
    assert!(findings.iter().any(|finding| finding.to_string().contains("does not go with EAP")));
    let findings = resumes("auth = \"psk\", two").unwrap_err();
    assert!(findings.iter().any(|finding| finding.to_string().contains("several rounds")), "{findings:?}");
}

#[test]
fn several_rounds_are_read_and_what_does_not_go_with_them_is_said() {
    let (two, eap) = (
        "[{ auth = \"psk\" }, { auth = \"psk\", id = \"a2\" }]",
        "[{ auth = \"psk\" }, { auth = \"eap-mschapv2\" }]",
    );
    let rounds = |local: &str, remote: &str, more: &str| {
        let text = text("", "", &format!("{KEY}{USERS}{more}"));
        let text = text.replace("local = {  }", &format!("local = {local}"));
        let text = text.replace("remote = {  }", &format!("remote = {remote}"));
        Config::parse(&text, Path::new("/nowhere"))
    };
    let (config, _) = rounds(two, "{ auth = \"psk\" }", "").unwrap();
    assert_eq!(config.engine.connections[0].local.len(), 2);
    let (config, _) = rounds("{ auth = \"psk\" }", eap, "").unwrap();
    assert_eq!(config.engine.connections[0].remote.len(), 2);
    let findings = rounds(two, eap, "").unwrap_err();
    assert!(
        findings.iter().any(|it| it.to_string().contains("has 2 rounds of authentication, but EAP")),
        "{findings:?}"
    );
}

#[test]
fn a_password_is_in_no_error_and_no_debug_output() {
    let text = text("auth = \"psk\"", "auth = \"eap-mschapv2\"", &format!("{KEY}{USERS}"));
    let (config, _) = Config::parse(&text, Path::new("/nowhere")).unwrap();
    assert!(!format!("{config:?}").contains("violets"));
}
