//! Certificates against strongSwan: each kind of key as initiator and as responder, an intermediate CA, a revoked
//! certificate, a wrong identity, raw public keys, the older AUTH methods. Both daemons find their files by the same
//! names, in directories beside their configuration.

#![expect(clippy::unwrap_used, reason = "without its certificates there is nothing to try")]

mod authority;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use authority::{Authority, put};
use portcullis_lab::{
    Class, Direction, Frame, Gateway, GatewayConfig, Host, LabError, Process, Result, SiteConfig, Sites,
    StrongSwan,
};
use rcgen::SignatureAlgorithm;

const SOON: Duration = Duration::from_secs(30);
const A: &str = "a.example";
const B: &str = "b.example";

fn site() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

/// Our configuration with certificates, and further lines for `local` and `remote`.
fn toml(local: &str, remote: &str) -> String {
    toml_of(&site(), local, remote)
}

fn toml_of(site: &SiteConfig, local: &str, remote: &str) -> String {
    let text = site.toml();
    let secrets = text.find("[secrets").unwrap();
    text[..secrets]
        .replace("local = { auth = \"psk\"", &format!("local = {{ {local}"))
        .replace("remote = { auth = \"psk\"", &format!("remote = {{ {remote}"))
}

const LOCAL: &str = "auth = \"pubkey\", certs = \"own.pem\"";
const REMOTE: &str = "auth = \"pubkey\"";

/// strongSwan's, likewise.
fn swanctl(local: &str, remote: &str) -> String {
    let text = site().mirrored().swanctl();
    let secrets = text.find("secrets {").unwrap();
    let with = |end: &str, lines: &str| (format!("{end} {{\n auth = psk"), format!("{end} {{\n {lines}"));
    let (local, remote) = (with("local", local), with("remote", remote));
    text[..secrets].replace(&local.0, &local.1).replace(&remote.0, &remote.1)
}

const SWAN_LOCAL: &str = "auth = pubkey\n certs = own.pem";
const SWAN_REMOTE: &str = "auth = pubkey\n cacerts = root.pem";

fn gateway(host: &Host, connections: String) -> Result<Gateway> {
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(connections))
}

fn carries_traffic(sites: &Sites) -> Result<()> {
    let ping = sites.client.ping(Sites::SERVER, 5)?;
    assert!(ping.complete(), "{ping:?}");
    Ok(())
}

/// Two sites under one CA, each with a key of that kind and a certificate: ours has the serial number 1, theirs 2.
fn enrolled(name: &str, algorithm: &'static SignatureAlgorithm) -> Result<(Sites, Authority)> {
    let (sites, root) = (Sites::new(name)?, Authority::root());
    root.enroll(&sites.a, algorithm, A, 1);
    root.enroll(&sites.b, algorithm, B, 2);
    Ok((sites, root))
}

/// A tunnel brought up by us, taken down, and brought up by strongSwan.
fn comes_up_from_both_ends(sites: &Sites, gateway: &Gateway, swan: &StrongSwan) -> Result<()> {
    gateway.initiate("site/net", SOON)?;
    carries_traffic(sites)?;
    gateway.terminate("site")?;
    swan.initiate("net", SOON)?;
    carries_traffic(sites)
}

/// Whom the gateway takes its only peer for.
fn remote_id(gateway: &Gateway) -> Result<Option<String>> {
    Ok(gateway.sas()?.into_iter().find_map(|sa| sa.remote_id))
}

/// A tunnel with keys of one kind on both sides, brought up by us, taken down, and brought up by strongSwan.
fn both_ways(name: &str, algorithm: &'static SignatureAlgorithm) -> Result<()> {
    let (sites, _) = enrolled(name, algorithm)?;
    authenticate_both_ways(sites)
}

fn authenticate_both_ways(sites: Sites) -> Result<()> {
    let swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, SWAN_REMOTE))?;
    let gateway = gateway(&sites.a, toml(LOCAL, REMOTE))?;
    gateway.initiate("site/net", SOON)?;
    carries_traffic(&sites)?;
    assert_eq!(remote_id(&gateway)?.as_deref(), Some(B));
    gateway.terminate("site")?;
    swan.initiate("net", SOON)?;
    carries_traffic(&sites)
}

#[test]
fn rsa_certificates_authenticate_both_ways() -> Result<()> {
    both_ways("rsa", &rcgen::PKCS_RSA_SHA256)
}

#[test]
fn ecdsa_p256_certificates_authenticate_both_ways() -> Result<()> {
    both_ways("p256", &rcgen::PKCS_ECDSA_P256_SHA256)
}

#[test]
fn ecdsa_p384_certificates_authenticate_both_ways() -> Result<()> {
    both_ways("p384", &rcgen::PKCS_ECDSA_P384_SHA384)
}

#[test]
fn ecdsa_p521_certificates_authenticate_both_ways() -> Result<()> {
    both_ways("p521", &rcgen::PKCS_ECDSA_P521_SHA512)
}

#[test]
fn ed25519_certificates_authenticate_both_ways() -> Result<()> {
    both_ways("ed25519", &rcgen::PKCS_ED25519)
}

/// The CA and both certificates are OpenSSL's: rcgen has no Ed448.
#[test]
fn ed448_certificates_authenticate_both_ways() -> Result<()> {
    let sites = Sites::new("ed448")?;
    let script = r#"
        set -e
        cd "$1"
        openssl req -x509 -newkey ed448 -noenc -subj /CN=Root -days 30 -keyout ca.key -out ca.pem
        enroll() {
            mkdir -p "$1/x509" "$1/x509ca" "$1/private"
            cp ca.pem "$1/x509ca/root.pem"
            echo "subjectAltName=DNS:$2" >extensions
            openssl req -newkey ed448 -noenc -subj "/CN=$2" -keyout "$1/private/own.pem" -out request
            openssl x509 -req -in request -CA ca.pem -CAkey ca.key -days 30 -extfile extensions -out "$1/x509/own.pem"
        }
        enroll "$1" a.example
        enroll "$2" b.example"#;
    let mut shell = Command::new("sh");
    let made = shell.args(["-c", script, "sh"]).args([sites.a.dir(), sites.b.dir()]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    authenticate_both_ways(sites)
}

/// Keys of one kind, with what each side signs and demands.
fn constrained(
    name: &str,
    algorithm: &'static SignatureAlgorithm,
    ours: (&str, &str),
    theirs: (&str, &str),
    charon: &str,
) -> Result<()> {
    let (sites, _) = enrolled(name, algorithm)?;
    let swan = StrongSwan::start_with(&sites.b, &swanctl(theirs.0, theirs.1), charon)?;
    let gateway = gateway(&sites.a, toml(ours.0, ours.1))?;
    comes_up_from_both_ends(&sites, &gateway, &swan)
}

#[test]
fn rsa_pss_is_signed_and_verified_where_it_is_asked_for() -> Result<()> {
    constrained(
        "pss",
        &rcgen::PKCS_RSA_SHA256,
        ("auth = \"ike:rsa/pss-sha384\", certs = \"own.pem\"", "auth = \"ike:rsa/pss-sha256\""),
        ("auth = ike:rsa/pss-sha256\n certs = own.pem", "auth = ike:rsa/pss-sha384\n cacerts = root.pem"),
        "",
    )
}

#[test]
fn a_peer_without_signature_hash_algorithms_is_met_with_the_older_methods() -> Result<()> {
    let (ours, theirs) = ((LOCAL, REMOTE), (SWAN_LOCAL, SWAN_REMOTE));
    constrained("older", &rcgen::PKCS_ECDSA_P256_SHA256, ours, theirs, "signature_authentication = no")
}

#[test]
fn an_intermediate_ca_is_sent_along_both_ways() -> Result<()> {
    let sites = Sites::new("chain")?;
    let root = Authority::root();
    for (host, name, serial) in [(&sites.a, A, 1), (&sites.b, B, 2)] {
        let lower = root.below(&format!("Lab CA of {name}"));
        lower.enroll(host, &rcgen::PKCS_ECDSA_P256_SHA256, name, serial);
        put(host, "x509ca/lower.pem", &lower.pem);
        put(host, "x509ca/root.pem", &root.pem);
    }
    let swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, SWAN_REMOTE))?;
    let gateway = gateway(&sites.a, toml(LOCAL, "auth = \"pubkey\", cacerts = \"root.pem\""))?;
    comes_up_from_both_ends(&sites, &gateway, &swan)
}

/// A path that carries no more than IPv6 asks of every path: RSA certificates with an intermediate CA go in fragments of
/// IKE (RFC 7383), none of IP.
#[test]
fn what_is_longer_than_the_path_carries_goes_in_fragments_both_ways() -> Result<()> {
    let sites = Sites::new("frag")?;
    let root = Authority::root();
    for (host, name, serial) in [(&sites.a, A, 1), (&sites.b, B, 2)] {
        let lower = root.below(&format!("Lab CA of {name}"));
        lower.enroll(host, &rcgen::PKCS_RSA_SHA256, name, serial);
        put(host, "x509ca/lower.pem", &lower.pem);
        put(host, "x509ca/root.pem", &root.pem);
        host.run(["ip", "link", "set", "outside0", "mtu", "1280"])?;
    }
    let wire = sites.capture()?;
    let swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, SWAN_REMOTE))?;
    let gateway = gateway(&sites.a, toml(LOCAL, "auth = \"pubkey\", cacerts = \"root.pem\""))?;
    comes_up_from_both_ends(&sites, &gateway, &swan)?;
    wire.settle()?;
    const ETHERNET: usize = 14;
    let fragment_of_ip =
        |bytes: &[u8]| bytes.get(12..14) == Some(&[8, 0]) && (bytes[20] & 0x3f, bytes[21]) != (0, 0);
    let wrong = wire.matching(|frame| frame.bytes.len() > ETHERNET + 1280 || fragment_of_ip(&frame.bytes));
    assert!(wrong.is_empty(), "{wrong:?}");
    // Next Payload in the IKE header, behind the non-ESP marker or not: Encrypted and Authenticated Fragment.
    const SKF: u8 = 53;
    let ike = ETHERNET + 20 + 8;
    let cut = |frame: &Frame| {
        frame.class == Class::Ike && [16, 20].iter().any(|at| frame.bytes.get(ike + at) == Some(&SKF))
    };
    for direction in [Direction::In, Direction::Out] {
        let sent = wire.matching(|frame| frame.direction == direction && cut(frame)).len();
        assert!(sent >= 4, "{sent} fragments {direction:?}");
    }
    Ok(())
}

#[test]
fn a_subject_is_an_identity_both_ways() -> Result<()> {
    let (sites, _) = enrolled("subject", &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let named = |text: String| {
        text.replace("\"a.example\"", "\"C=CH, CN=a.example\"")
            .replace("\"b.example\"", "\"c=ch, cn=*\"")
            .replace("id = a.example", "id = \"C=CH, CN=a.example\"")
            .replace("id = b.example", "id = \"C=CH, CN=b.example\"")
    };
    let swan = StrongSwan::start(&sites.b, &named(swanctl(SWAN_LOCAL, SWAN_REMOTE)))?;
    let gateway = gateway(&sites.a, named(toml(LOCAL, REMOTE)))?;
    gateway.initiate("site/net", SOON)?;
    carries_traffic(&sites)?;
    assert_eq!(remote_id(&gateway)?.as_deref(), Some("C=CH, CN=b.example"));
    gateway.terminate("site")?;
    swan.initiate("net", SOON)?;
    carries_traffic(&sites)
}

#[test]
fn raw_public_keys_authenticate_both_ways() -> Result<()> {
    let (sites, _) = enrolled("rawkeys", &rcgen::PKCS_ED25519)?;
    for (host, other) in [(&sites.a, &sites.b), (&sites.b, &sites.a)] {
        put(host, "pubkey/peer.pub", &fs::read_to_string(other.dir().join("pubkey/own.pub")).unwrap());
        fs::remove_dir_all(host.dir().join("x509ca")).unwrap();
    }
    let theirs = swanctl("auth = pubkey\n pubkeys = own.pub", "auth = pubkey\n pubkeys = peer.pub");
    let swan = StrongSwan::start(&sites.b, &theirs)?;
    let ours = toml("auth = \"pubkey\", pubkeys = \"own.pub\"", "auth = \"pubkey\", pubkeys = \"peer.pub\"");
    let gateway = gateway(&sites.a, ours)?;
    comes_up_from_both_ends(&sites, &gateway, &swan)
}

/// Both sides try; ours must say `code`, and no SA may be left.
fn is_refused(sites: &Sites, gateway: &Gateway, swan: &StrongSwan, code: &str) -> Result<()> {
    let ours = gateway.initiate("site/net", SOON);
    assert!(matches!(&ours, Err(LabError::Failed { output, .. }) if output.contains(code)), "{ours:?}");
    let theirs = swan.initiate("net", SOON);
    let told = "AUTHENTICATION_FAILED";
    assert!(matches!(&theirs, Err(LabError::Failed { output, .. }) if output.contains(told)), "{theirs:?}");
    let verdicts = gateway.status()?.verdicts;
    assert!(verdicts.iter().any(|verdict| verdict.reason == code), "{verdicts:?}");
    assert!(!swan.list_sas()?.contains("INSTALLED"));
    assert_eq!(sites.client.ping(Sites::SERVER, 1)?.received, 0);
    Ok(())
}

#[test]
fn a_revoked_certificate_is_refused_as_soon_as_the_crl_is_there() -> Result<()> {
    let (sites, root) = enrolled("revoked", &rcgen::PKCS_ECDSA_P256_SHA256)?;
    put(&sites.a, "x509crl/root.crl", &root.crl(3));
    let swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, SWAN_REMOTE))?;
    let gateway = gateway(&sites.a, toml(LOCAL, "auth = \"pubkey\", revocation = \"strict\""))?;
    gateway.initiate("site/net", SOON)?;
    carries_traffic(&sites)?;
    gateway.terminate("site")?;
    // Without a restart.
    put(&sites.a, "x509crl/newer.crl", &root.crl(2));
    is_refused(&sites, &gateway, &swan, "CERT_REVOKED")
}

#[test]
fn a_crl_is_fetched_from_where_the_certificate_says() -> Result<()> {
    let sites = Sites::new("fetched")?;
    let mut root = Authority::root();
    root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, A, 1);
    root.crl_url = Some("http://192.0.2.2:8080/root.crl".to_owned());
    root.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, B, 2);
    let served = sites.b.dir().join("served");
    fs::create_dir_all(&served).unwrap();
    let directory = served.display().to_string();
    let server =
        ["python3", "-u", "-m", "http.server", "8080", "--bind", "192.0.2.2", "--directory", &directory];
    let server = sites.b.spawn_words(server)?;
    server.wait_line("Serving HTTP", SOON)?;
    let swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, SWAN_REMOTE))?;
    let strict = || toml(LOCAL, "auth = \"pubkey\", revocation = \"strict\"");

    let without = gateway(&sites.a, strict())?;
    is_refused(&sites, &without, &swan, "CERT_STATUS_UNKNOWN")?;
    let verdict = without.status()?.verdicts.into_iter().next().unwrap();
    assert!(verdict.sentence.contains("root.crl") && verdict.sentence.contains("404"), "{verdict:?}");
    drop(without);

    fs::write(served.join("root.crl"), root.crl_der(3)).unwrap();
    let good = gateway(&sites.a, strict())?;
    comes_up_from_both_ends(&sites, &good, &swan)?;
    good.terminate("site")?;
    drop(good);

    fs::write(served.join("root.crl"), root.crl_der(2)).unwrap();
    let revoked = gateway(&sites.a, strict())?;
    let events = revoked.events(&[])?;
    is_refused(&sites, &revoked, &swan, "CERT_REVOKED")?;
    let asked = events.wait_line("\"event\":\"revocation\"", SOON)?;
    assert!(asked.contains("root.crl") && asked.contains("\"answered\":true"), "{asked}");
    events.wait_line("\"reason\":\"CERT_REVOKED\"", SOON).map(drop)
}

/// OpenSSL's OCSP responder beside strongSwan, at port 8080; `entry` is what it knows of strongSwan's certificate.
fn responder(sites: &Sites, root: &Authority, entry: &str) -> Result<Process> {
    put(&sites.b, "ocsp/root.key", &root.key.serialize_pem());
    put(&sites.b, "ocsp/root.pem", &root.pem);
    put(&sites.b, "ocsp/index", &format!("{entry}\t02\tunknown\t/CN=b.example\n"));
    let command = format!(
        "cd '{}' && exec openssl ocsp -index index -port 8080 -rsigner root.pem -rkey root.key -CA root.pem 2>&1",
        sites.b.dir().join("ocsp").display()
    );
    let responder = sites.b.spawn_words(["sh", "-c", &command])?;
    responder.wait_line("waiting for OCSP client connections", SOON)?;
    Ok(responder)
}

const REVOKED: &str = "R\t460101000000Z\t250101000000Z,keyCompromise";

#[test]
fn an_ocsp_responder_is_asked_about_a_peer() -> Result<()> {
    let sites = Sites::new("ocsp")?;
    let mut root = Authority::root();
    root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, A, 1);
    root.ocsp_url = Some("http://192.0.2.2:8080/".to_owned());
    root.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, B, 2);
    let swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, SWAN_REMOTE))?;
    let ifuri = || toml(LOCAL, "auth = \"pubkey\", revocation = \"ifuri\"");

    let nobody = gateway(&sites.a, ifuri())?;
    is_refused(&sites, &nobody, &swan, "CERT_STATUS_UNKNOWN")?;
    drop(nobody);

    let good = responder(&sites, &root, "V\t460101000000Z\t")?;
    let asking = gateway(&sites.a, ifuri())?;
    comes_up_from_both_ends(&sites, &asking, &swan)?;
    asking.terminate("site")?;
    drop((asking, good));

    let _revoked = responder(&sites, &root, REVOKED)?;
    let asking = gateway(&sites.a, ifuri())?;
    is_refused(&sites, &asking, &swan, "CERT_REVOKED")?;
    let said = asking.portcullis(&["explain", "last"])?.stdout;
    assert!(said.contains("the OCSP responder at http://192.0.2.2:8080/"), "{said}");
    Ok(())
}

#[test]
fn an_ocsp_responder_that_the_configuration_names_is_asked_and_need_not_answer() -> Result<()> {
    let (sites, root) = enrolled("authority", &rcgen::PKCS_ECDSA_P256_SHA256)?;
    let swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, SWAN_REMOTE))?;
    // `relaxed` is what is not said.
    let named = || {
        let source = "[authorities.root]\ncacert = \"root.pem\"\nocsp_uris = \"http://192.0.2.2:8080/\"\n";
        format!("{}\n{source}", toml(LOCAL, REMOTE))
    };
    let asking = gateway(&sites.a, named())?;
    comes_up_from_both_ends(&sites, &asking, &swan)?;
    asking.terminate("site")?;
    drop(asking);
    let _revoked = responder(&sites, &root, REVOKED)?;
    let asking = gateway(&sites.a, named())?;
    is_refused(&sites, &asking, &swan, "CERT_REVOKED")
}

/// Nobody but the peer itself reaches its certificate's responder. strongSwan 5.9.8 has no OCSP inside IKE: both ends are ours,
/// and the responder is OpenSSL's.
#[test]
fn a_peer_brings_what_its_ocsp_responder_says_of_it() -> Result<()> {
    let sites = Sites::new("brought")?;
    let mut root = Authority::root();
    root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, A, 1);
    root.ocsp_url = Some("http://127.0.0.1:8080/".to_owned());
    root.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, B, 2);
    let asking = |ocsp: &str| {
        let text = toml(LOCAL, "auth = \"pubkey\", revocation = \"strict\"");
        gateway(&sites.a, text.replacen("proposals", &format!("ocsp = \"{ocsp}\"\nproposals"), 1))
    };
    let peer = || gateway(&sites.b, toml_of(&site().mirrored(), LOCAL, REMOTE));
    let refusal = |gateway: &Gateway| {
        let refused = gateway.initiate("site/net", SOON);
        let Err(LabError::Failed { output, .. }) = refused else { panic!("{refused:?}") };
        Ok::<_, LabError>(output)
    };

    let good = responder(&sites, &root, "V\t460101000000Z\t")?;
    let (ours, theirs) = (asking("reply")?, peer()?);
    assert!(refusal(&ours)?.contains("CERT_STATUS_UNKNOWN"));
    drop(ours);
    let ours = asking("request")?;
    for end in [&ours, &theirs] {
        end.initiate("site/net", SOON)?;
        carries_traffic(&sites)?;
        end.terminate("site")?;
    }
    drop((good, theirs));

    let _revoked = responder(&sites, &root, REVOKED)?;
    let _theirs = peer()?;
    let said = refusal(&ours)?;
    assert!(said.contains("CERT_REVOKED"), "{said}");
    let said = ours.portcullis(&["explain", "last"])?.stdout;
    assert!(said.contains("the OCSP response that the peer brought"), "{said}");
    Ok(())
}

#[test]
fn our_own_revoked_certificate_is_refused_by_strongswan_and_we_say_so() -> Result<()> {
    let (sites, root) = enrolled("revokedus", &rcgen::PKCS_ECDSA_P256_SHA256)?;
    put(&sites.b, "x509crl/root.crl", &root.crl(1));
    let _swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, SWAN_REMOTE))?;
    let gateway = gateway(&sites.a, toml(LOCAL, REMOTE))?;
    let refused = gateway.initiate("site/net", SOON);
    let told = "does not trust our certificate";
    assert!(matches!(&refused, Err(LabError::Failed { output, .. }) if output.contains(told)), "{refused:?}");
    Ok(())
}

#[test]
fn a_certificate_of_another_ca_is_refused() -> Result<()> {
    let sites = Sites::new("otherca")?;
    Authority::root().enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, A, 1);
    let mut foreign = Authority::root();
    foreign.params = Authority::params("Foreign Root");
    foreign.pem = foreign.params.self_signed(&foreign.key).unwrap().pem();
    foreign.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, B, 2);
    // strongSwan takes us, so that what fails is our own judgement.
    let ours = fs::read_to_string(sites.a.dir().join("x509ca/root.pem")).unwrap();
    put(&sites.b, "x509ca/ours.pem", &ours);
    let swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, "auth = pubkey\n cacerts = ours.pem"))?;
    let gateway = gateway(&sites.a, toml(LOCAL, REMOTE))?;
    is_refused(&sites, &gateway, &swan, "CERT_NO_ISSUER")
}

#[test]
fn an_identity_that_the_certificate_lacks_is_refused() -> Result<()> {
    let sites = Sites::new("wrongid")?;
    let root = Authority::root();
    root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, A, 1);
    root.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, "impostor.example", 2);
    // strongSwan sends what it is told to, if its certificate is named.
    let swan = StrongSwan::start(&sites.b, &swanctl(SWAN_LOCAL, SWAN_REMOTE))?;
    let gateway = gateway(&sites.a, toml(LOCAL, REMOTE))?;
    is_refused(&sites, &gateway, &swan, "ID_NOT_IN_CERTIFICATE")
}
