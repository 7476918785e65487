mod fuzz;

use std::fs;

use portcullis_ike::config::{IdentityMatch, LocalMethod, RemoteMethod, Tcp};

use super::*;

fn surroundings(base: &Path) -> Surroundings {
    let names = |name: &str| vec![name.to_owned()];
    Surroundings { outside: names("eth0"), inside: names("eth1"), base: base.to_path_buf() }
}

fn from_swanctl(text: &str) -> Imported {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("swanctl.conf");
    fs::write(&file, text).unwrap();
    swanctl(&file, &surroundings(dir.path())).unwrap()
}

fn from_ipsec(conf: &str, secrets: &str) -> Imported {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ipsec.conf");
    fs::write(&file, conf).unwrap();
    fs::write(dir.path().join("ipsec.secrets"), secrets).unwrap();
    ipsec_conf(&file, None, &surroundings(dir.path())).unwrap()
}

/// What comes out is a configuration as it is.
fn parsed(imported: &Imported) -> Config {
    let text = imported.to_toml();
    let (config, _) = Config::parse(&text, Path::new("")).unwrap_or_else(|findings| {
        let findings: Vec<String> = findings.iter().map(ToString::to_string).collect();
        panic!("{}\n{text}", findings.join("\n"))
    });
    config
}

fn notes(imported: &Imported, outcome: Outcome) -> Vec<&Note> {
    imported.notes.iter().filter(|note| note.outcome == outcome).collect()
}

const SITE: &str = "
connections {
  site {
    version = 2
    local_addrs = 192.0.2.1
    remote_addrs = 192.0.2.2
    proposals = aes256gcm16-prfsha384-ecp384, 3des-md5-modp768, default
    rekey_time = 2h
    dpd_delay = 30
    encap = yes
    unique = replace
    mediation_peer = somebody
    local { auth = psk
      id = a.example }
    remote { auth = psk
      id = b.example }
    children {
      net {
        local_ts = 10.1.0.0/24, 10.3.0.0/16
        remote_ts = 10.2.0.0/24
        esp_proposals = aes256gcm16
        replay_window = 128
        per_cpu_sas = yes
        rekey_bytes = 1G
        start_action = trap|start
        interface = eth7
      }
    }
  }
}
secrets {
  ike-site { id-1 = a.example
    id-2 = \"C=CH, O=Acme, CN=b\"
    id-3 = b.example
    secret = \"a # secret of 32 octets or thereabouts\" }
}
";

#[test]
fn a_site_is_carried_over_whole_and_what_is_not_is_named_with_its_place() {
    let imported = from_swanctl(SITE);
    let config = parsed(&imported);
    let connection = &config.engine.connections[0];
    assert_eq!((imported.connections, imported.children), (1, 1));
    assert_eq!(connection.proposals[0].to_string(), "aes256gcm16-prfsha384-ecp384");
    assert!(connection.encap && connection.dpd_delay.as_secs() == 30);
    assert_eq!(connection.lifetime.rekey_time.as_secs(), 7200);
    let child = &connection.children[0];
    assert_eq!((child.local_ts.len(), child.replay_window), (2, 128));
    assert!(child.per_worker.is_some());
    assert_eq!(child.start_action, portcullis_ike::config::StartAction::Start);
    assert_eq!(config.engine.shared_keys[0].ids.len(), 3);
    assert_eq!(config.engine.shared_keys[0].secret.0, b"a # secret of 32 octets or thereabouts");

    let dropped: Vec<String> =
        notes(&imported, Outcome::Dropped).iter().map(|note| note.to_string()).collect();
    for (line, subject) in [
        (7, "connections.site.proposals = 3des-md5-modp768"),
        (12, "connections.site.mediation_peer = somebody"),
        (26, "connections.site.children.net.interface = eth7"),
    ] {
        let said = format!("swanctl.conf:{line}: not carried over: `{subject}`");
        assert!(dropped.iter().any(|note| note.contains(&said)), "{said}: {dropped:#?}");
    }
    assert_eq!(imported.notes.len(), 3, "{:#?}", imported.notes);
    assert!(imported.to_toml().contains("# not carried over: interface = eth7"));
}

#[test]
fn what_would_protect_or_admit_something_else_is_left_out_whole_and_the_rest_stays() {
    let with = |old: &str, new: &str| from_swanctl(&SITE.replace(old, new));
    let child = with("remote_ts = 10.2.0.0/24", "remote_ts = 10.2.0.0/24\n mark_in = 42");
    assert_eq!((child.connections, child.children), (0, 0), "a connection without children is none");
    let left_out = notes(&child, Outcome::LeftOut);
    assert_eq!(left_out[0].subject, "connections.site.children.net");
    assert!(left_out[0].reason.contains("`mark_in = 42`"), "{left_out:?}");
    assert_eq!(left_out[1].subject, "connections.site");

    let old = with("version = 2", "version = 1");
    assert!(notes(&old, Outcome::LeftOut)[0].reason.contains("`version = 1`"), "{:?}", old.notes);
    let other = with("    remote { auth = psk", "    remote { ca_id = nobody\n auth = psk");
    assert!(
        notes(&other, Outcome::LeftOut)[0].reason.contains("remote: `ca_id = nobody`"),
        "{:?}",
        other.notes
    );

    let two = SITE.replace(
        "connections {",
        "connections {\n  old { version = 1\n local { auth = psk }\n remote { auth = psk }\n children { x { } } }",
    );
    let two = from_swanctl(&two);
    assert_eq!(two.connections, 1);
    parsed(&two);
}

#[test]
fn secrets_are_withheld_where_they_would_be_seen() {
    let imported = from_swanctl(SITE);
    assert!(imported.to_toml().contains("32 octets"));
    assert!(!imported.to_toml_without_secrets().contains("32 octets"));
    let wrong = from_swanctl(&SITE.replace("\"a # secret of", "\"0xzz # secret of"));
    for shown in imported.notes.iter().chain(&wrong.notes) {
        assert!(!shown.to_string().contains("octets or") && !shown.to_string().contains("0xzz"), "{shown}");
    }
    assert!(notes(&wrong, Outcome::LeftOut).iter().any(|note| note.subject == "secrets.ike-site"));
}

const CONF: &str = "
config setup
\tcharondebug=\"ike 2\"

conn %default
\tkeyexchange=ikev2
\tikelifetime=2h
\tlifetime=1h
\tmargintime=6m

conn base
\tleft=192.0.2.1
\tleftid=@a.example
\tauthby=secret
\tike=aes256gcm16-prfsha384-ecp384!
\tesp=aes256gcm16!

conn site
\talso=base
\tright=192.0.2.2
\trightid=@b.example     # the other one
\tleftsubnet=10.1.0.0/24,10.3.0.0/16
\trightsubnet=10.2.0.0/24
\trightprotoport=tcp/443
\tauto=route
\tleftfirewall=yes

conn old
\tkeyexchange=ikev1
\tleft=192.0.2.1
\tright=192.0.2.3
\tauto=add
";

#[test]
fn a_conn_of_ipsec_conf_becomes_a_connection_with_a_child() {
    let imported = from_ipsec(CONF, "@a.example @b.example : PSK \"0123456789 abcdef\"\n: XAUTH \"x y\"\n");
    let config = parsed(&imported);
    let connection =
        config.engine.connections.iter().find(|connection| connection.name == "site").expect("site is there");
    assert_eq!(connection.lifetime.rekey_time.as_secs(), 114 * 60);
    let child = &connection.children[0];
    assert_eq!(child.local_ts.len(), 2);
    assert_eq!(child.remote_ts[0].unwrap().to_string(), "10.2.0.0/24[tcp/443]");
    assert_eq!(child.start_action, portcullis_ike::config::StartAction::Trap);
    assert_eq!(child.lifetime.time.life.as_secs(), 3600);
    assert_eq!(config.engine.shared_keys[0].secret.0, b"0123456789 abcdef");
    let said: Vec<String> = imported.notes.iter().map(ToString::to_string).collect();
    assert!(!said.iter().any(|note| note.contains("base")), "it is only there for others: {said:#?}");
    for part in [
        "ipsec.conf:26: not carried over: `site leftfirewall = yes`",
        "`connections.old`",
        "a secret of the kind `XAUTH`",
    ] {
        assert!(said.iter().any(|note| note.contains(part)), "{part}: {said:#?}");
    }
}

#[test]
fn libreswans_tcp_is_carried_over() {
    for (theirs, tcp) in [("yes", Tcp::Only), ("fallback", Tcp::Fallback), ("no", Tcp::No)] {
        let options = format!("\tenable-tcp={theirs}\n\ttcp-remoteport=443\n\tauto=route\n");
        let conf = CONF
            .replace("\tauto=route\n", &options)
            .replace("config setup", "config setup\n\tlisten-tcp=yes");
        let imported = from_ipsec(&conf, "@a.example @b.example : PSK \"0123456789 abcdef\"\n");
        let config = parsed(&imported);
        let connection =
            config.engine.connections.iter().find(|connection| connection.name == "site").unwrap();
        assert_eq!((connection.tcp, connection.tcp_port), (tcp, 443));
        let listens =
            |note: &Note| note.subject == "listen-tcp=yes" && note.reason.contains("gateway.tcp_port");
        assert!(imported.notes.iter().any(listens), "{:#?}", imported.notes);
    }
}

#[test]
fn what_is_no_such_file_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    for (text, said) in [
        ("conn a\n\tleft 192.0.2.1\n", "ipsec.conf:2: `left 192.0.2.1` has no `=`"),
        ("connection a\n", "ipsec.conf:1: `connection` begins no section"),
        ("conn a\n\talso=b\n", "ipsec.conf:2: `also=b` names a conn that is not there"),
        ("conn a\n\talso=a\n", "takes over others without end"),
        ("", "has no connections (expected `conn NAME`)"),
    ] {
        let file = dir.path().join("ipsec.conf");
        fs::write(&file, text).unwrap();
        let error = ipsec_conf(&file, None, &surroundings(dir.path())).unwrap_err().to_string();
        assert!(error.contains(said), "{text:?}: {error}");
    }
}

#[test]
fn an_xfrm_interface_becomes_a_device_where_all_of_a_connection_belongs_to_it() {
    let connection = |ids: &str, child: &str| {
        let text = SITE.replacen("version = 2", &format!("version = 2\n{ids}"), 1);
        from_swanctl(&text.replacen("replay_window = 128", child, 1))
    };
    for imported in [
        connection("if_id_in = 42\nif_id_out = 0x2a", ""),
        connection("", "if_id_in = 42\nif_id_out = 42"),
        connection("if_id_in = 7\nif_id_out = 42", "if_id_in = 42"),
    ] {
        let config = parsed(&imported);
        assert_eq!(config.devices.names(), ["ipsec42"]);
        assert!(config.engine.connections[0].tenant.is_routed());
        let notes = notes(&imported, Outcome::ToDo);
        assert!(notes.iter().any(|note| note.reason.contains("with if_id 42")), "{notes:?}");
    }
    for imported in [
        connection("if_id_in = 42\nif_id_out = 43", ""),
        connection("if_id_in = %unique\nif_id_out = %unique", ""),
        connection("if_id_in = 42", ""),
    ] {
        assert!(imported.to_toml().contains("if_id_in"), "{}", imported.to_toml());
        assert_eq!(parsed(&imported).devices.names(), [] as [&str; 0]);
        assert!(
            !notes(&imported, Outcome::LeftOut).is_empty() || !notes(&imported, Outcome::Dropped).is_empty()
        );
    }
}

#[test]
fn second_rounds_of_ipsec_conf_come_along_and_eap_identities_go_where_eap_is() {
    let conf = "conn a\n\tauto=add\n\tleft=192.0.2.1\n\tright=%any\n\tleftsubnet=10.1.0.0/16\n\tleftauth=psk\n\tleftid=gw.example\n\
                \trightsourceip=10.3.0.0/24\n\trightauth=psk\n\trightid=*.example\n\trightauth2=eap-mschapv2\n\teap_identity=%identity\n\
                conn b\n\tauto=add\n\tright=192.0.2.9\n\tleftauth=eap-mschapv2\n\teap_identity=carol\n\trightauth=psk\n\trightid=gw.example\n\
                \tleftid2=unused.example\n";
    let imported = from_ipsec(conf, "carol : EAP \"violets\"\n: PSK \"0123456789 abcdef\"\n");
    let config = parsed(&imported);
    let [a, b] = &config.engine.connections[..] else { panic!("{}", imported.to_toml()) };
    assert!(imported.to_toml().contains("[[connections.a.remote]]"), "{}", imported.to_toml());
    let methods: Vec<_> =
        a.remote.iter().map(|round| matches!(round.auth, RemoteMethod::Eap { .. })).collect();
    assert_eq!((a.local.len(), methods), (1, vec![false, true]));
    let RemoteMethod::Eap { eap_id, .. } = &a.remote[1].auth else { unreachable!() };
    assert_eq!(*eap_id, Some(IdentityMatch::Any));
    let LocalMethod::Eap { eap_id, .. } = &b.local[0].auth else { panic!("{}", imported.to_toml()) };
    assert_eq!((eap_id.as_deref(), b.local.len()), (Some("carol"), 1));
}

#[test]
fn libreswans_null_authentication_is_ours() {
    let conf = "conn a\n\tauto=add\n\tleft=192.0.2.1\n\tright=192.0.2.2\n\tauthby=null\n\tleftid=%null\n\trightid=%null\n";
    let imported = from_ipsec(conf, "");
    let config = parsed(&imported);
    let a = &config.engine.connections[0];
    assert_eq!((&a.local[0].auth, &a.remote[0].auth), (&LocalMethod::Null, &RemoteMethod::Null));
}

#[test]
fn authorities_go_on_saying_where_it_is_asked_what_was_revoked() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("x509ca")).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "CA");
    fs::write(dir.path().join("x509ca/ca.pem"), ca.self_signed(&key).unwrap().pem()).unwrap();
    let file = dir.path().join("swanctl.conf");
    let authority = "authorities {
  acme {
    cacert = ca.pem
    ocsp_uris = http://a.example/, http://b.example/
    crl_uris = http://a.example/crl
    cert_uri_base = http://a.example/certs/
  }
}";
    fs::write(&file, format!("{SITE}{authority}")).unwrap();
    let imported = swanctl(&file, &surroundings(dir.path())).unwrap();
    let text = imported.to_toml();
    let lines = [
        "[authorities.acme]",
        "cacert = \"ca.pem\"",
        "ocsp_uris = [\"http://a.example/\", \"http://b.example/\"]",
        "crl_uris = \"http://a.example/crl\"",
    ];
    assert!(lines.iter().all(|line| text.lines().any(|found| found == *line)), "{text}");
    parsed(&imported);
    let dropped = notes(&imported, Outcome::Dropped);
    assert!(
        dropped.iter().any(|note| note.subject.contains("authorities.acme.cert_uri_base")),
        "{dropped:?}"
    );
}
