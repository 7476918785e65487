//! `auth = "pubkey"` with real files: what fits is accepted, what does not is told plainly.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use portcullis_ike::auth::{KeyKind, Revocation};
use portcullis_ike::config::{Identity, LocalMethod, RemoteMethod};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use tempfile::TempDir;

use super::*;

/// A directory with a CA, a certificate for `a.example` with its key, and one for `b.example`.
struct Files {
    dir: TempDir,
    ca: CertificateParams,
    ca_key: KeyPair,
    key: KeyPair,
}

impl Files {
    fn new() -> Self {
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "Root");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let files = Self { dir: TempDir::new().unwrap(), ca, ca_key, key };
        for name in ["x509", "x509ca", "x509crl", "private", "pubkey"] {
            fs::create_dir(files.path(name)).unwrap();
        }
        files.write("x509ca/ca.pem", files.ca_pem());
        files.write("x509/a.pem", files.certificate("a.example", |_| {}));
        files.write("x509/b.pem", files.other("b.example", |_| {}));
        files.write("private/a.pem", files.key.serialize_pem());
        files
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn ca_pem(&self) -> String {
        self.ca.self_signed(&self.ca_key).unwrap().pem()
    }

    /// A certificate of the key in `private`, PEM.
    fn certificate(&self, name: &str, change: fn(&mut CertificateParams)) -> String {
        self.issue(name, &self.key, change)
    }

    /// A certificate of a key that nobody has.
    fn other(&self, name: &str, change: fn(&mut CertificateParams)) -> String {
        self.issue(name, &KeyPair::generate().unwrap(), change)
    }

    fn issue(&self, name: &str, key: &KeyPair, change: fn(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        params.signed_by(key, &Issuer::from_params(&self.ca, &self.ca_key)).unwrap().pem()
    }

    fn parse(&self, text: &str) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
        Config::parse(text, self.dir.path())
    }

    #[track_caller]
    fn refused(&self, text: &str, words: &[&str]) {
        let findings = self.parse(text).expect_err("this configuration must not be accepted");
        let text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} are not all in:\n{text}");
    }

    #[track_caller]
    fn warned(&self, text: &str, words: &[&str]) {
        let (_, findings) = self.parse(text).unwrap_or_else(|errors| panic!("{errors:#?}"));
        let text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} are not all in:\n{text}");
    }
}

/// The whole configuration with certificates instead of a secret.
fn pubkey() -> String {
    let end = WHOLE.find("[secrets").unwrap();
    WHOLE[..end]
        .replace(
            "local = { auth = \"psk\", id = \"a.example\" }",
            "local = { auth = \"pubkey\", id = \"a.example\", certs = \"a.pem\" }",
        )
        .replace(
            "remote = { auth = \"psk\", id = \"b.example\" }",
            "remote = { auth = \"pubkey\", id = \"b.example\" }",
        )
}

fn with(from: &str, to: &str) -> String {
    let text = pubkey();
    assert!(text.contains(from), "`{from}` is not in the configuration");
    text.replacen(from, to, 1)
}

fn remote(more: &str) -> String {
    with(
        "remote = { auth = \"pubkey\", id = \"b.example\"",
        &format!("remote = {{ auth = \"pubkey\", id = \"b.example\", {more}"),
    )
}

#[test]
fn certificates_and_keys_are_found_by_their_names() {
    let files = Files::new();
    let (config, warnings) = files.parse(&pubkey()).unwrap();
    assert_eq!(warnings, []);
    let site = config.connection("site").unwrap();
    let LocalMethod::Pubkey { credentials, .. } = &site.local[0].auth else { panic!("{site:?}") };
    let leaf = credentials[0].certificate().unwrap();
    assert!(leaf.contains(&"a.example".parse().unwrap()));
    let RemoteMethod::Pubkey(trust) = &site.remote[0].auth else { panic!("{site:?}") };
    assert_eq!(trust.authorities.len(), 1);
    assert_eq!(trust.revocation, Revocation::Relaxed);
    assert!(!format!("{config:?}").contains("PRIVATE"));
}

#[test]
fn der_and_paths_and_chains_in_one_file_do_as_well() {
    let files = Files::new();
    let pem = fs::read_to_string(files.path("x509/a.pem")).unwrap();
    let ca = fs::read_to_string(files.path("x509ca/ca.pem")).unwrap();
    files.write("elsewhere.pem", format!("# a comment\n{pem}{ca}"));
    fs::remove_file(files.path("private/a.pem")).unwrap();
    files.write("key.der", files.key.serialize_der());
    let secret = format!("\n[secrets.private-a]\nfile = \"{}\"\n", files.path("key.der").display());
    let path = files.path("elsewhere.pem").display().to_string();
    let text = with("certs = \"a.pem\"", &format!("certs = \"{path}\"")) + &secret;
    assert_eq!(files.parse(&text).unwrap().1, []);
}

#[test]
fn without_an_identity_the_subject_is_ours_and_patterns_stand_for_peers() {
    let files = Files::new();
    let text = with("id = \"a.example\", ", "").replace("id = \"b.example\"", "id = \"*.example\"");
    let (config, _) = files.parse(&text).unwrap();
    let site = config.connection("site").unwrap();
    assert_eq!(site.local[0].id, None);
    let pattern: Identity = Identity::Fqdn("*.example".to_owned());
    assert_eq!(site.remote[0].id, IdentityMatch::Pattern(pattern));
    files.warned(
        &with("remote = { auth = \"pubkey\", id = \"b.example\"", "remote = { auth = \"pubkey\""),
        &["connections.site.remote", "everybody whom the CAs have certified"],
    );
}

#[test]
fn raw_public_keys_need_an_identity_and_no_ca() {
    let files = Files::new();
    files.write("pubkey/a.pub", files.key.public_key_pem());
    files.write("pubkey/b.pub", KeyPair::generate().unwrap().public_key_pem());
    fs::remove_file(files.path("x509ca/ca.pem")).unwrap();
    let text = with("certs = \"a.pem\"", "pubkeys = \"a.pub\"")
        .replace("id = \"b.example\" }", "id = \"b.example\", pubkeys = [\"b.pub\"] }");
    let (config, warnings) = files.parse(&text).unwrap();
    assert_eq!(warnings, []);
    let site = config.connection("site").unwrap();
    let LocalMethod::Pubkey { credentials, .. } = &site.local[0].auth else { panic!("{site:?}") };
    assert!(matches!(credentials[0].key().public().kind(), KeyKind::Ecdsa(_)));
    files.refused(
        &text.replace("id = \"b.example\", pubkeys", "pubkeys"),
        &["remote: `id` is missing", "raw public key"],
    );
}

#[test]
fn a_key_of_another_certificate_is_told_apart() {
    let files = Files::new();
    files.write("private/a.pem", KeyPair::generate().unwrap().serialize_pem());
    files.refused(
        &pubkey(),
        &["local.certs", "x509/a.pem` is for an ECDSA P-256 key", "private/a.pem` is another key"],
    );
}

#[test]
fn a_private_key_that_everybody_may_read_is_refused() {
    let files = Files::new();
    fs::set_permissions(files.path("private/a.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    files.refused(
        &pubkey(),
        &["private/a.pem` holds a private key that everybody", "mode 0644, expected 0600"],
    );
}

#[test]
fn an_expired_certificate_is_a_warning_so_that_other_connections_come_up() {
    let files = Files::new();
    files.write(
        "x509/a.pem",
        files.certificate("a.example", |params| params.not_after = date_time_ymd(2020, 1, 2)),
    );
    files.warned(&pubkey(), &["warning: connections.site.local.certs", "expired at 2020-01-02"]);
    let mut ca = Files::new();
    ca.ca.not_after = date_time_ymd(2021, 1, 2);
    ca.write("x509ca/ca.pem", ca.ca.self_signed(&ca.ca_key).unwrap().pem());
    ca.warned(&pubkey(), &["CN=Root", "expired at 2021-01-02"]);
}

#[test]
fn missing_and_damaged_files_are_named() {
    let files = Files::new();
    files.refused(
        &with("\"a.pem\"", "\"c.pem\""),
        &["local.certs", "x509/c.pem` cannot be read: No such file"],
    );
    files.refused(&remote("cacerts = \"none.pem\""), &["remote.cacerts", "x509ca/none.pem` cannot be read"]);
    files.write("x509/a.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    files.refused(&pubkey(), &["x509/a.pem` holds no certificate that can be used"]);
    files.write("x509/a.pem", b"nonsense");
    files.refused(&pubkey(), &["x509/a.pem` holds no certificate that can be used: it is not an X.509"]);
    files.write("x509/a.pem", files.key.public_key_pem());
    files.refused(&pubkey(), &["x509/a.pem` holds PEM, but not an X.509 certificate"]);
    files.write("x509/a.pem", files.certificate("a.example", |_| {}));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
    files.write("private/a.pem", encrypted);
    files.refused(&pubkey(), &["private/a.pem` is encrypted"]);
    files.refused(
        &with("[gateway]", "[gateway]\nx509ca = \"/nonexistent\""),
        &["gateway.x509ca", "is no directory"],
    );
    fs::remove_file(files.path("x509ca/ca.pem")).unwrap();
    files.refused(&pubkey(), &["remote: `cacerts` is missing", "there is none in"]);
}

macro_rules! key {
    ($name:literal) => {
        include_str!(concat!("keys/", $name, ".pem"))
    };
}

/// Keys that OpenSSL 3.0 has encrypted.
#[test]
fn an_encrypted_private_key_is_read_with_its_passphrase_and_no_other() {
    let files = Files::new();
    let key = KeyPair::from_pem(key!("plain")).unwrap();
    files.write("x509/a.pem", files.issue("a.example", &key, |_| {}));
    let text = |secret: &str| format!("{}\n[secrets.private-a]\nfile = \"a.pem\"\n{secret}\n", pubkey());
    let right = text("secret = \"correct horse\"");
    // PBKDF2 with HMAC-SHA-256, scrypt; also behind something else.
    for encrypted in [key!("pbkdf2"), key!("scrypt"), &format!("{}{}", files.ca_pem(), key!("pbkdf2"))] {
        files.write("private/a.pem", encrypted);
        let (config, findings) = files.parse(&right).unwrap();
        let LocalMethod::Pubkey { credentials, .. } = &config.engine.connections[0].local[0].auth else {
            panic!()
        };
        assert_eq!(credentials[0].key().public().kind().to_string(), "ECDSA P-256");
        assert!(!findings.iter().any(|finding| finding.to_string().contains("passphrase")), "{findings:?}");
        let wrong = text("secret = \"correct house\"");
        files.refused(&wrong, &["secrets.private-a.file", "a.pem`", "`secret`"]);
    }
    files.refused(&text(""), &["private/a.pem` is encrypted (expected", "`secret`"]);
    files.refused(&pubkey(), &["private/a.pem` is encrypted (expected a `[secrets.private-NAME]`"]);
    files.refused(&text("secret = \"\""), &["secrets.private-a.secret", "is empty"]);
    for encrypted in [key!("pbes1"), key!("des3")] {
        files.write("private/a.pem", encrypted);
        files.refused(&right, &["encrypted in a way that is not supported", "openssl pkcs8 -topk8"]);
    }
    files.write("private/a.pem", key!("old"));
    files.refused(&right, &["OpenSSL's old way", "openssl pkcs8 -topk8"]);
    files.write("private/a.pem", key!("plain"));
    files.warned(&right, &["secrets.private-a.secret", "is not encrypted"]);
}

#[test]
fn an_identity_that_is_not_in_the_certificate_is_refused() {
    let files = Files::new();
    files.refused(
        &with("\"a.example\"", "\"c.example\""),
        &["local.id", "`c.example` is not in the certificate", "`CN=a.example`, `a.example`"],
    );
    files.refused(
        &with("id = \"b.example\" }", "id = \"c.example\", certs = \"b.pem\" }"),
        &["remote.id", "`c.example`"],
    );
    assert_eq!(files.parse(&remote("certs = \"b.pem\"")).unwrap().1, []);
}

#[test]
fn a_ca_that_is_none_is_refused() {
    let files = Files::new();
    let path = files.path("x509/b.pem").display().to_string();
    files.refused(&remote(&format!("cacerts = \"{path}\"")), &["remote.cacerts", "CN=b.example", "no CA's"]);
    fs::copy(files.path("x509/b.pem"), files.path("x509ca/b.pem")).unwrap();
    files.refused(&pubkey(), &["x509ca/b.pem` holds the certificate of", "no CA's"]);
    files
        .refused(&remote("certs = \"b.pem\", cacerts = \"ca.pem\""), &["remote.certs", "excludes `cacerts`"]);
}

#[test]
fn signatures_that_the_key_cannot_make_are_refused() {
    let files = Files::new();
    let with_auth = |auth: &str| with("auth = \"pubkey\", id = \"a", &format!("auth = \"{auth}\", id = \"a"));
    assert_eq!(files.parse(&with_auth("ecdsa-256-sha256")).unwrap().1, []);
    files.refused(&with_auth("ecdsa-384"), &["local.auth", "leaves nothing that an ECDSA P-256 key"]);
    files.refused(&with_auth("ed448"), &["local.auth", "leaves nothing that an ECDSA P-256 key"]);
    files.refused(&with_auth("rsa-sha3"), &["local.auth", "`sha3` is not known"]);
    files.refused(&with_auth("any"), &["local.auth", "not supported by this version"]);
    let sha1 = with("remote = { auth = \"pubkey\"", "remote = { auth = \"rsa-sha1-sha256\"");
    files.warned(&sha1, &["remote.auth", "SHA-1"]);
}

#[test]
fn revocation_without_crls_is_warned_of() {
    let files = Files::new();
    files.warned(&remote("revocation = \"strict\""), &["remote.revocation", "no CRL of the CA `CN=Root`"]);
    assert_eq!(files.parse(&remote("revocation = \"ifuri\"")).unwrap().1, []);
    files.refused(
        &remote("revocation = \"sometimes\""),
        &["remote.revocation", "\"strict\", \"ifuri\" or \"relaxed\""],
    );
    let crl = |until| rcgen::CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: until,
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let issuer = || Issuer::from_params(&files.ca, &files.ca_key);
    files
        .write("x509crl/ca.crl", crl(date_time_ymd(2021, 1, 1)).signed_by(&issuer()).unwrap().pem().unwrap());
    files.warned(&remote("revocation = \"strict\""), &["CRLs of the CA `CN=Root`", "have expired"]);
    files.write("x509crl/ca.crl", crl(date_time_ymd(2999, 1, 1)).signed_by(&issuer()).unwrap().der());
    assert_eq!(files.parse(&remote("revocation = \"strict\"")).unwrap().1, []);
    files.write("x509crl/ca.crl", "-----BEGIN X509 CRL-----\nMIIB\n-----END X509 CRL-----\n");
    files.refused(&remote("revocation = \"strict\""), &["x509crl/ca.crl`"]);
}

#[test]
fn keys_of_certificates_do_not_go_with_a_secret() {
    let files = Files::new();
    let text = WHOLE.replace("id = \"a.example\" }", "id = \"a.example\", certs = \"a.pem\" }");
    files.refused(&text, &["local.certs", "`auth` is \"psk\""]);
}

#[test]
fn nothing_is_read_where_only_secrets_are_used() {
    assert!(Config::parse(WHOLE, Path::new("/nonexistent")).is_ok());
}

#[test]
fn a_certificate_that_ends_soon_is_told_by_check_alone() {
    let files = Files::new();
    files.write(
        "x509/a.pem",
        files.certificate("a.example", |params| params.not_after = date_time_ymd(2090, 1, 31)),
    );
    let lint = |build: Build| {
        let (_, found) = Config::parse_as(&pubkey(), &files.path(""), build).unwrap();
        found.iter().map(ToString::to_string).collect::<String>()
    };
    // 2090-01-11 and 2089-12-31, both at 00:00.
    let soon = lint(|root, base| super::lints::linted(root, base, 3_787_776_000, |_| None));
    assert!(
        soon.contains("warning: connections.site.local.certs: the certificate of `CN=a.example`"),
        "{soon}"
    );
    assert!(soon.contains("in 20 days: renew it"), "{soon}");
    let early = lint(|root, base| super::lints::linted(root, base, 3_786_825_600, |_| None));
    assert!(!early.contains("expires"), "{early}");
}
