//! `portcullis pki` as an operator uses it, judged by OpenSSL and by strongSwan's `pki`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panicking that it has failed")]
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Host, LabError, SiteConfig, Sites};

/// A directory of its own, and what is run in it.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// With a CA, and the arguments of the brief's three commands.
    fn with_authority(arguments: &[&str]) -> Self {
        let bench = Self::new();
        bench.pki(&[&["ca"], arguments].concat());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn try_pki(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(["pki", "--dir"]).arg(self.dir.path()).args(arguments);
        command.output().unwrap()
    }

    /// What it printed.
    fn pki(&self, arguments: &[&str]) -> String {
        let output = self.try_pki(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it complained about.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.try_pki(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?} should have been refused");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs a tool in the directory; its output, both streams.
    fn tool(&self, words: &[&str]) -> (bool, String) {
        let (program, arguments) = words.split_first().unwrap();
        let output = Command::new(program).args(arguments).current_dir(self.dir.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{program} does not run: {error}"));
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text.into_owned())
    }

    fn openssl(&self, arguments: &[&str]) -> String {
        let (good, text) = self.tool(&[&["openssl"], arguments].concat());
        assert!(good, "openssl {arguments:?}: {text}");
        text
    }

    fn verify(&self, further: &[&str], certificate: &str) -> (bool, String) {
        self.tool(&[&["openssl", "verify", "-CAfile", "ca.crt"], further, &[certificate]].concat())
    }

    /// The revocation list as PEM, which is what `openssl verify` reads.
    fn pem_list(&self) {
        self.openssl(&["crl", "-inform", "DER", "-in", "ca.crl", "-out", "list.pem"]);
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn installed(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

#[test]
fn three_commands_make_a_gateway_and_a_client_that_openssl_accepts() {
    let bench = Bench::new();
    bench.pki(&["ca", "--name", "Example CA"]);
    bench.pki(&["server", "gw.example", "192.0.2.1", "2001:db8::1"]);
    bench.pki(&["client", "alice@example.org"]);
    for (purpose, certificate) in [("sslserver", "gw.example.crt"), ("sslclient", "alice@example.org.crt")] {
        let (good, text) = bench.verify(&["-x509_strict", "-purpose", purpose], certificate);
        assert!(good, "{text}");
    }
    let (crossed, _) = bench.verify(&["-purpose", "sslserver"], "alice@example.org.crt");
    assert!(!crossed, "a client's certificate must not do for a gateway");

    let text = bench.openssl(&["x509", "-noout", "-text", "-in", "gw.example.crt"]);
    for expected in [
        "Issuer: CN = Example CA",
        "Subject: CN = gw.example",
        "DNS:gw.example, IP Address:192.0.2.1, IP Address:2001:DB8:0:0:0:0:0:1",
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Server Authentication, ipsec Internet Key Exchange, 1.3.6.1.5.5.8.2.2",
        "X509v3 Authority Key Identifier",
        "X509v3 Subject Key Identifier",
        "ASN1 OID: prime256v1",
        "Signature Algorithm: ecdsa-with-SHA384",
    ] {
        assert!(text.contains(expected), "`{expected}` is missing in\n{text}");
    }
    let text = bench.openssl(&["x509", "-noout", "-text", "-in", "ca.crt"]);
    for expected in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "ASN1 OID: secp384r1"] {
        assert!(text.contains(expected), "`{expected}` is missing in\n{text}");
    }
    let key = bench.openssl(&["pkey", "-in", "gw.example.key", "-pubout"]);
    assert_eq!(key, bench.openssl(&["x509", "-in", "gw.example.crt", "-noout", "-pubkey"]));
}

#[test]
fn every_key_algorithm_signs_and_is_signed() {
    for key in ["ecdsa-p256", "ecdsa-p384", "ed25519"] {
        let bench = Bench::with_authority(&["--key", key]);
        bench.pki(&["server", "gw.example", "--key", key]);
        let (good, text) = bench.verify(&["-x509_strict"], "gw.example.crt");
        assert!(good, "{key}: {text}");
        bench.pki(&["revoke", "gw.example"]);
        bench.pem_list();
        let text = bench.openssl(&["crl", "-in", "list.pem", "-CAfile", "ca.crt", "-noout"]);
        assert!(text.contains("verify OK"), "{key}: {text}");
    }
}

#[test]
fn a_bundle_opens_with_its_password_and_holds_key_certificate_and_authority() {
    let bench = Bench::with_authority(&[]);
    fs::write(bench.path("secret"), "correct horse\n").unwrap();
    let secret = bench.path("secret");
    bench.pki(&["client", "alice@example.org", "--p12", "--password-file", secret.to_str().unwrap()]);
    let open = |password: &str, name: &str| {
        bench.tool(&["openssl", "pkcs12", "-in", name, "-nodes", "-passin", password, "-info"])
    };
    let (good, text) = open("pass:correct horse", "alice@example.org.p12");
    assert!(good, "{text}");
    assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2, "{text}");
    assert_eq!(text.matches("BEGIN PRIVATE KEY").count(), 1, "{text}");
    for expected in ["CN = alice@example.org", "CN = Portcullis CA", "AES-256-CBC", "PRF hmacWithSHA256"] {
        assert!(text.contains(expected), "`{expected}` is missing in\n{text}");
    }
    assert!(!open("pass:wrong", "alice@example.org.p12").0);
    // Without a file, a password is made up and stays off the terminal.
    let printed = bench.pki(&["client", "bob@example.org", "--p12"]);
    let password = fs::read_to_string(bench.path("bob@example.org.p12.password")).unwrap();
    assert!(password.trim().len() >= 24, "{password}");
    assert!(!printed.contains(password.trim()), "{printed}");
    let (good, text) = open("file:bob@example.org.p12.password", "bob@example.org.p12");
    assert!(good, "{text}");
}

#[test]
fn files_are_the_owners_alone() {
    let bench = Bench::with_authority(&[]);
    bench.pki(&["client", "alice@example.org", "--p12"]);
    let files = bench.files();
    assert!(files.len() >= 8, "{files:?}");
    for name in files.iter().filter(|name| *name != ".lock") {
        let mode = fs::metadata(bench.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    let inner = bench.path("made");
    let made =
        Command::new(env!("CARGO_BIN_EXE_portcullis")).args(["pki", "ca", "--dir"]).arg(&inner).output();
    assert!(made.unwrap().status.success());
    assert_eq!(fs::metadata(inner).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn nothing_is_overwritten_unless_told_so() {
    let bench = Bench::with_authority(&[]);
    bench.pki(&["server", "gw.example"]);
    let contents =
        || bench.files().iter().map(|name| fs::read(bench.path(name)).unwrap()).collect::<Vec<_>>();
    let before = contents();
    assert!(bench.refused(&["ca"]).contains("ca.crt exists already, and nothing was written (--force"));
    assert!(bench.refused(&["server", "gw.example"]).contains("gw.example.crt exists already"));
    fs::write(bench.path("new.example.p12"), "somebody's").unwrap();
    assert!(bench.refused(&["client", "new.example", "--p12"]).contains("new.example.p12 exists already"));
    assert!(!bench.path("new.example.key").exists(), "all or nothing");
    fs::remove_file(bench.path("new.example.p12")).unwrap();
    assert_eq!(before, contents());

    let printed = bench.pki(&["server", "gw.example", "--force"]);
    assert!(printed.contains("a former certificate of that name stays valid"), "{printed}");
    assert_ne!(before, contents());
    let ambiguous = bench.refused(&["revoke", "gw.example"]);
    assert!(ambiguous.contains("has several certificates"), "{ambiguous}");
}

#[test]
fn a_revoked_certificate_is_on_the_list_and_openssl_refuses_it() {
    let bench = Bench::with_authority(&["--crl-url", "http://pki.example/ca.crl"]);
    bench.pki(&["server", "gw.example"]);
    bench.pki(&["client", "alice@example.org"]);
    bench.pki(&["client", "bob@example.org"]);
    bench.pem_list();
    let check = |certificate: &str| bench.verify(&["-crl_check", "-CRLfile", "list.pem"], certificate);
    let (good, text) = check("alice@example.org.crt");
    assert!(good, "not revoked yet: {text}");

    bench.pki(&[
        "revoke",
        bench.path("alice@example.org.crt").to_str().unwrap(),
        "--reason",
        "key-compromise",
    ]);
    let serial = bench.openssl(&["x509", "-noout", "-serial", "-in", "bob@example.org.crt"]);
    bench.pki(&["revoke", serial.trim().trim_start_matches("serial=")]);
    bench.pem_list();
    for (certificate, expected) in
        [("gw.example.crt", true), ("alice@example.org.crt", false), ("bob@example.org.crt", false)]
    {
        let (good, text) = check(certificate);
        assert_eq!(good, expected, "{certificate}: {text}");
        assert_eq!(text.contains("certificate revoked"), !expected, "{certificate}: {text}");
    }
    let text = bench.openssl(&["crl", "-noout", "-text", "-in", "list.pem"]);
    assert!(text.contains("Key Compromise"), "{text}");
    assert_eq!(text.matches("Serial Number").count(), 2, "{text}");
    let text = bench.openssl(&["x509", "-noout", "-text", "-in", "gw.example.crt"]);
    assert!(text.contains("URI:http://pki.example/ca.crl"), "{text}");

    let again = bench.refused(&["revoke", "alice@example.org"]);
    assert!(again.contains("was revoked on"), "{again}");
    let unknown = bench.refused(&["revoke", "nobody"]);
    assert!(unknown.contains("no certificate with the name or serial number `nobody`"), "{unknown}");
    let list = bench.pki(&["list"]);
    assert!(list.contains("key-compromise") && list.contains("server  gw.example  until"), "{list}");
}

#[test]
fn the_number_of_a_revocation_list_only_grows() {
    let bench = Bench::with_authority(&[]);
    let number = || bench.openssl(&["crl", "-inform", "DER", "-in", "ca.crl", "-noout", "-crlnumber"]);
    assert_eq!(number().trim(), "crlNumber=0x01");
    bench.pki(&["crl", "--days", "7"]);
    assert_eq!(number().trim(), "crlNumber=0x02");
}

#[test]
fn what_makes_no_sense_is_refused_with_the_way_out() {
    let bench = Bench::new();
    let says = |arguments: &[&str], expected: &str| {
        let text = bench.refused(arguments);
        assert!(text.contains(expected), "{arguments:?}: {text}");
    };
    says(&["server", "gw.example"], "make one with `portcullis pki ca --dir");
    bench.pki(&["ca", "--days", "100"]);
    says(&["server", "gw.example"], "at most --days ");
    says(&["server", "gw.example", "--days", "0"], "expected 1 to 36500");
    let wrong_name = bench.try_pki(&["server", "../gw"]);
    assert_eq!(wrong_name.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong_name.stderr).contains("expected a domain name, an address"));
    fs::write(bench.path("ca.key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        .unwrap();
    says(&["client", "alice@example.org", "--days", "9"], "ca.key is not a private key in PEM");
}

#[test]
fn the_key_of_another_authority_is_not_used() {
    let (bench, other) = (Bench::with_authority(&[]), Bench::with_authority(&[]));
    fs::copy(other.path("ca.key"), bench.path("ca.key")).unwrap();
    let text = bench.refused(&["server", "gw.example"]);
    assert!(text.contains("it belongs to another certificate"), "{text}");
}

#[test]
fn strongswans_own_tool_reads_and_verifies_all_of_it() {
    assert!(installed("pki"), "strongswan-pki is missing: ./dev setup test installs it");
    let bench = Bench::with_authority(&[]);
    bench.pki(&["server", "gw.example", "192.0.2.1"]);
    bench.pki(&["client", "alice@example.org"]);
    let verify = |certificate: &str, further: &[&str]| {
        bench.tool(&[&["pki", "--verify", "--in", certificate, "--cacert", "ca.crt"], further].concat())
    };
    for certificate in ["gw.example.crt", "alice@example.org.crt"] {
        let (good, text) = verify(certificate, &[]);
        assert!(good && text.contains("certificate trusted"), "{text}");
    }
    let (good, text) = bench.tool(&["pki", "--print", "--in", "gw.example.crt"]);
    assert!(good, "{text}");
    for expected in ["altNames:  gw.example, 192.0.2.1", "serverAuth", "ECDSA 256 bits"] {
        assert!(text.contains(expected), "`{expected}` is missing in\n{text}");
    }
    bench.pki(&["revoke", "alice@example.org"]);
    let (good, text) = verify("alice@example.org.crt", &["--crl", "ca.crl"]);
    assert!(!good && text.contains("revoked"), "{text}");
    let (_, text) = bench.tool(&["pki", "--print", "--type", "crl", "--in", "ca.crl"]);
    assert!(text.contains("1 revoked certificate"), "{text}");
    let private = fs::metadata(Path::new(&bench.path("gw.example.key"))).unwrap();
    assert!(private.len() > 0);
    let (good, text) = bench.tool(&["pki", "--print", "--type", "priv", "--in", "gw.example.key"]);
    assert!(good && text.contains("ECDSA 256 bits"), "{text}");
}

/// What an operator copies to a gateway, into the folders beside its configuration.
fn enroll(bench: &Bench, host: &Host, name: &str) {
    for (folder, from) in [
        ("x509", format!("{name}.crt")),
        ("private", format!("{name}.key")),
        ("x509ca", "ca.crt".to_owned()),
        ("x509crl", "ca.crl".to_owned()),
    ] {
        let folder = host.dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::copy(bench.path(&from), folder.join(&from)).unwrap();
    }
}

#[test]
fn three_commands_make_certificates_that_a_tunnel_comes_up_with_until_one_is_revoked()
-> portcullis_lab::Result<()> {
    const SOON: Duration = Duration::from_secs(30);
    let bench = Bench::with_authority(&[]);
    bench.pki(&["server", "a.example"]);
    bench.pki(&["server", "b.example"]);
    let sites = Sites::new("pki")?;
    let start = |host: &Host, config: &SiteConfig, name: &str| {
        enroll(&bench, host, name);
        let toml = config.toml();
        let connection = toml.split("[secrets").next().unwrap_or_default();
        let connection = connection
            .replace(
                "local = { auth = \"psk\"",
                &format!("local = {{ auth = \"pubkey\", certs = \"{name}.crt\""),
            )
            .replace("remote = { auth = \"psk\"", "remote = { auth = \"pubkey\", revocation = \"strict\"");
        Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(connection))
    };
    let ours = SiteConfig { local_id: "a.example".into(), remote_id: "b.example".into(), ..SiteConfig::a() };
    let mut a = start(&sites.a, &ours, "a.example")?;
    let b = start(&sites.b, &ours.mirrored(), "b.example")?;
    a.initiate("site/net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    let end = bench.openssl(&["x509", "-noout", "-enddate", "-in", "a.example.crt"]);
    let (_, end) = bench.tool(&["date", "+%s", "-d", end.trim().trim_start_matches("notAfter=")]);
    let scrape = "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
    let page = sites.a.run(["bash", "-c", scrape])?.stdout;
    let told =
        format!("portcullis_certificate_expiry_timestamp_seconds{{connection=\"site\"}} {}", end.trim());
    assert!(page.contains(&told), "`{told}` is missing in {page}");
    a.stop()?;

    bench.pki(&["revoke", "b.example", "--reason", "key-compromise"]);
    enroll(&bench, &sites.a, "a.example");
    a.restart()?;
    match a.initiate("site/net", SOON) {
        Err(LabError::Failed { output, .. }) => assert!(output.contains("revoked"), "{output}"),
        other => assert!(other.is_err(), "a revoked certificate is believed: {other:?}"),
    }
    drop(b);
    Ok(())
}
