//! Certificates against strongSwan: each kind of key as initiator and as responder, an intermediate CA, a revoked
//! certificate, a wrong identity, raw public keys, the older AUTH methods. Both daemons find their files by the same
//! names, in directories beside their configuration.

#![expect(clippy::unwrap_used, reason = "without its certificates there is nothing to try")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Class, Direction, Frame, Gateway, GatewayConfig, Host, LabError, Result, SiteConfig, Sites, StrongSwan,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};

const SOON: Duration = Duration::from_secs(30);
const A: &str = "a.example";
const B: &str = "b.example";

/// A CA of our own.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params
    }

    fn root() -> Self {
        let (params, key) = (Self::params("Lab Root"), KeyPair::generate().unwrap());
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn below(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let pem = params.signed_by(&key, &self.issuer()).unwrap().pem();
        Self { params, key, pem }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// Gives a host a key, a certificate for `name` and this CA's; the certificate's serial number is `serial`.
    fn enroll(&self, host: &Host, algorithm: &'static SignatureAlgorithm, name: &str, serial: u64) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "CH");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pem = params.signed_by(&key, &self.issuer()).unwrap().pem();
        put(host, "x509/own.pem", &pem);
        put(host, "x509ca/root.pem", &self.pem);
        put(host, "private/own.pem", &key.serialize_pem());
        put(host, "pubkey/own.pub", &key.public_key_pem());
    }

    /// A CRL that lists one certificate.
    fn crl(&self, serial: u64) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }
}

fn put(host: &Host, name: &str, content: &str) {
    let path = host.dir().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn site() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

/// Our configuration with certificates, and further lines for `local` and `remote`.
fn toml(local: &str, remote: &str) -> String {
    let text = site().toml();
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
    assert!(verdicts.iter().filter(|verdict| verdict.reason == code).count() >= 2, "{verdicts:?}");
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
