//! Paths, names, revocation: one trial for each check, and the honest case beside it.

use rcgen::{
    CidrSubnet, CrlDistributionPoint, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree,
    NameConstraints,
};

use super::*;

const GW: &str = "gw.example.org";

#[test]
fn a_certificate_of_a_trusted_ca_is_accepted() {
    let ca = Authority::root("Root", unchanged);
    let gw = ca.issue(GW, unchanged);
    assert_eq!(judge(&gw.proof(GW, trust(&ca), &[])), Ok(()));
}

#[test]
fn a_chain_over_intermediates_is_accepted_sent_or_configured() {
    let ca = Authority::root("Root", unchanged);
    let (upper, lower) = {
        let upper = ca.below("Upper", unchanged);
        let lower = upper.below("Lower", unchanged);
        (upper, lower)
    };
    let gw = lower.issue(GW, unchanged);
    assert_eq!(judge(&gw.proof(GW, trust(&ca), &[&lower, &upper])), Ok(()));
    assert_eq!(judge(&gw.proof(GW, trust(&ca), &[&upper, &lower])), Ok(()), "the order does not matter");
    let intermediates = vec![Arc::clone(&upper.certificate), Arc::clone(&lower.certificate)];
    let configured = Trust { intermediates, ..trust(&ca) };
    assert_eq!(judge(&gw.proof(GW, configured, &[])), Ok(()));
    // An intermediate that is itself trusted ends the path.
    assert_eq!(judge(&gw.proof(GW, trust(&lower), &[])), Ok(()));
    let result = judge(&gw.proof(GW, trust(&ca), &[&upper]));
    rejected(result, "CERT_NO_ISSUER", &["CN=gw.example.org", "CN=Lower", "CN=Root"]);
}

#[test]
fn a_certificate_of_another_ca_is_refused() {
    let (ca, other) = (Authority::root("Root", unchanged), Authority::root("Other", unchanged));
    let gw = other.issue(GW, unchanged);
    rejected(
        judge(&gw.proof(GW, trust(&ca), &[&other])),
        "CERT_NO_ISSUER",
        &["CN=Other", "trusted here", "CN=Root"],
    );
}

#[test]
fn a_chain_of_the_right_names_but_another_key_is_refused() {
    let no_ids: Change = |params| params.use_authority_key_identifier_extension = false;
    let (ca, forged) = (Authority::root("Root", no_ids), Authority::root("Root", no_ids));
    let gw = forged.issue(GW, no_ids);
    rejected(judge(&gw.proof(GW, trust(&ca), &[])), "CERT_INVALID", &["not signed with the key", "CN=Root"]);
    // With key identifiers it is plain that the issuer is another.
    let gw = forged.issue(GW, unchanged);
    rejected(judge(&gw.proof(GW, trust(&ca), &[])), "CERT_NO_ISSUER", &["with another key"]);
}

#[test]
fn swapped_certificates_are_refused() {
    let ca = Authority::root("Root", unchanged);
    let lower = ca.below("Lower", unchanged);
    let gw = lower.issue(GW, unchanged);
    let mut request = gw.proof(GW, trust(&ca), &[&lower]);
    request.certificates.swap(0, 1);
    // The first is that of the key that signs (RFC 7296 §3.6).
    rejected(judge(&request), "CERT_INVALID", &["CN=Lower", "keyUsage"]);
}

#[test]
fn an_issuer_that_is_no_ca_is_refused() {
    let ca = Authority::root("Root", unchanged);
    for (change, words) in [
        ((|params| params.is_ca = IsCa::NoCa) as Change, "basicConstraints"),
        (|params| params.is_ca = IsCa::ExplicitNoCa, "basicConstraints"),
        (|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature], "keyCertSign"),
    ] {
        let fake = ca.below("Fake", change);
        let gw = fake.issue(GW, unchanged);
        rejected(judge(&gw.proof(GW, trust(&ca), &[&fake])), "CERT_INVALID", &["CN=Fake", words]);
    }
}

#[test]
fn a_path_longer_than_a_ca_allows_is_refused() {
    let ca = Authority::root("Root", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let lower = ca.below("Lower", unchanged);
    assert_eq!(judge(&ca.issue(GW, unchanged).proof(GW, trust(&ca), &[])), Ok(()));
    let gw = lower.issue(GW, unchanged);
    rejected(
        judge(&gw.proof(GW, trust(&ca), &[&lower])),
        "CERT_INVALID",
        &["CN=Root", "pathLenConstraint is 0"],
    );
}

#[test]
fn certificates_are_valid_between_their_dates() {
    let ca = Authority::root("Root", unchanged);
    let expired: Change = |params| params.not_after = date_time_ymd(2029, 12, 31);
    let future: Change = |params| params.not_before = date_time_ymd(2030, 1, 2);
    let gw = ca.issue(GW, expired);
    let result = judge(&gw.proof(GW, trust(&ca), &[]));
    rejected(result, "CERT_EXPIRED", &["CN=gw.example.org", "2029-12-31", "2030-01-01"]);
    rejected(judge(&ca.issue(GW, future).proof(GW, trust(&ca), &[])), "CLOCK_SKEW", &["2030-01-02"]);
    let old = ca.below("Old", expired);
    rejected(judge(&old.issue(GW, unchanged).proof(GW, trust(&ca), &[&old])), "CERT_EXPIRED", &["CN=Old"]);
    let old = Authority::root("Root", expired);
    rejected(judge(&old.issue(GW, unchanged).proof(GW, trust(&old), &[])), "CERT_EXPIRED", &["CN=Root"]);
    assert_eq!(verify(&gw.proof(GW, trust(&ca), &[]), UnixTime(NOW.0 - 86_400), &Vec::new()), Ok(()));
}

#[test]
fn a_certificate_for_other_purposes_is_refused() {
    let ca = Authority::root("Root", unchanged);
    for (change, accepted) in [
        ((|params| params.key_usages = vec![]) as Change, true),
        (|params| params.key_usages = vec![KeyUsagePurpose::ContentCommitment], true),
        (|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment], false),
        (|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any], true),
        (|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], true),
        (
            |params| {
                params.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17])];
            },
            true,
        ),
        (|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning], false),
    ] {
        let result = judge(&ca.issue(GW, change).proof(GW, trust(&ca), &[]));
        match accepted {
            true => assert_eq!(result, Ok(())),
            false => rejected(result, "CERT_INVALID", &["eyUsage"]),
        }
    }
}

#[test]
fn a_critical_extension_that_is_not_understood_is_refused() {
    let ca = Authority::root("Root", unchanged);
    let critical: Change = |params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    rejected(
        judge(&ca.issue(GW, critical).proof(GW, trust(&ca), &[])),
        "CERT_INVALID",
        &["1.3.6.1.4.1.32473.1"],
    );
    let odd = ca.below("Odd", critical);
    rejected(judge(&odd.issue(GW, unchanged).proof(GW, trust(&ca), &[&odd])), "CERT_INVALID", &["CN=Odd"]);
    let harmless: Change = |params| {
        params
            .custom_extensions
            .push(CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 1], vec![5, 0]));
    };
    assert_eq!(judge(&ca.issue(GW, harmless).proof(GW, trust(&ca), &[])), Ok(()));
}

#[test]
fn the_identity_must_be_in_the_certificate() {
    let ca = Authority::root("Root", unchanged);
    let gw = ca.issue(GW, mail);
    for id in [
        GW,
        "GW.Example.ORG",
        "admin@example.org",
        "192.0.2.7",
        "2001:db8::7",
        "C=CH, O=Acme, CN=gw.example.org",
        "c=ch, o=ACME, cn=GW.example.org",
    ] {
        assert_eq!(judge(&gw.proof(id, trust(&ca), &[])), Ok(()), "{id}");
    }
    for id in [
        "other.example.org",
        "example.org",
        "admin@example.com",
        "192.0.2.8",
        "C=CH, O=Acme, CN=other",
        "O=Acme, C=CH, CN=gw.example.org",
        "@#0a0b",
        "@gw",
    ] {
        let result = judge(&gw.proof(id, trust(&ca), &[]));
        rejected(result, "ID_NOT_IN_CERTIFICATE", &["gw.example.org", "192.0.2.7", "admin@example.org"]);
    }
}

#[test]
fn a_common_name_is_no_fqdn_and_a_wildcard_in_a_certificate_is_none() {
    let ca = Authority::root("Root", unchanged);
    let bare = ca.issue(GW, |params| params.subject_alt_names.clear());
    rejected(judge(&bare.proof(GW, trust(&ca), &[])), "ID_NOT_IN_CERTIFICATE", &["CN=gw.example.org"]);
    let wild = ca.issue("*.example.org", unchanged);
    rejected(judge(&wild.proof(GW, trust(&ca), &[])), "ID_NOT_IN_CERTIFICATE", &[]);
}

#[test]
fn names_keep_to_the_constraints_of_every_ca_above() {
    let constrained: Change = |params| {
        let mut org = RcgenName::new();
        org.push(DnType::CountryName, "CH");
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![
                GeneralSubtree::DnsName("example.org".to_owned()),
                GeneralSubtree::Rfc822Name("example.org".to_owned()),
                GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([192, 0, 2, 0], 24)),
                GeneralSubtree::DirectoryName(org),
            ],
            excluded_subtrees: vec![GeneralSubtree::DnsName("secret.example.org".to_owned())],
        });
    };
    let ca = Authority::root("Root", unchanged);
    let upper = ca.below("Upper", constrained);
    let lower = upper.below("Lower", unchanged);
    let judged = |common_name: &str, change: Change| {
        let entity = lower.issue(common_name, change);
        judge(&entity.proof("C=CH, O=Acme, CN=x", trust(&ca), &[&lower, &upper]))
    };
    // All that remains wrong is the identity.
    rejected(judged(GW, unchanged), "ID_NOT_IN_CERTIFICATE", &[]);
    let good: Change = |params| {
        params.subject_alt_names.push(SanType::Rfc822Name("a@example.org".try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("192.0.2.7".parse().unwrap()));
    };
    rejected(judged(GW, good), "ID_NOT_IN_CERTIFICATE", &[]);
    let words = |what| ["CN=Upper", "nameConstraints", what];
    rejected(
        judged("gw.example.com", unchanged),
        "CERT_INVALID",
        &words("`gw.example.com` is not among the permitted"),
    );
    rejected(judged("notexample.org", unchanged), "CERT_INVALID", &words("notexample.org"));
    rejected(judged("a.secret.example.org", unchanged), "CERT_INVALID", &words("excluded"));
    for (bad, what) in [
        (
            (|p| p.subject_alt_names.push(SanType::Rfc822Name("a@b.example.org".try_into().unwrap())))
                as Change,
            "a@b",
        ),
        (|p| p.subject_alt_names.push(SanType::IpAddress("192.0.3.7".parse().unwrap())), "192.0.3.7"),
        (|p| p.subject_alt_names.push(SanType::IpAddress("2001:db8::7".parse().unwrap())), "2001:db8::7"),
        (
            |p| {
                p.distinguished_name = RcgenName::new();
                p.distinguished_name.push(DnType::CountryName, "DE");
            },
            "C=DE",
        ),
    ] {
        rejected(judged(GW, bad), "CERT_INVALID", &words(what));
    }
}

#[test]
fn a_constraint_on_names_that_we_cannot_judge_lets_none_of_them_pass() {
    // permittedSubtrees [0] { { uniformResourceIdentifier [6] ".example.org" } }
    let uri: Change = |params| {
        let subtree = [&[0x86, 12][..], b".example.org"].concat();
        let subtrees = [&[0xa0, 16, 0x30, 14][..], &subtree].concat();
        let content = [&[0x30, 18][..], &subtrees].concat();
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    };
    let ca = Authority::root("Root", unchanged);
    let lower = ca.below("Lower", uri);
    assert_eq!(judge(&lower.issue(GW, unchanged).proof(GW, trust(&ca), &[&lower])), Ok(()));
    let with_uri: Change =
        |params| params.subject_alt_names.push(SanType::URI("http://gw.example.org".try_into().unwrap()));
    let result = judge(&lower.issue(GW, with_uri).proof(GW, trust(&ca), &[&lower]));
    rejected(result, "CERT_INVALID", &["http://gw.example.org", "do not understand"]);
}

#[test]
fn what_a_crl_lists_is_refused_whatever_is_configured() {
    let ca = Authority::root("Root", unchanged);
    let (gw, other) = (ca.issue(GW, unchanged), ca.issue("other", unchanged));
    let crls = vec![ca.crl(&[&gw.certificate], |_| {})];
    for revocation in [Revocation::Strict, Revocation::IfUri, Revocation::Relaxed] {
        let trust = || Trust { revocation, ..trust(&ca) };
        let result = verify(&gw.proof(GW, trust(), &[]), NOW, &crls);
        rejected(result, "CERT_REVOKED", &["CN=gw", &gw.certificate.serial(), "2029-06-01", "KeyCompromise"]);
        assert_eq!(verify(&other.proof("other", trust(), &[]), NOW, &crls), Ok(()));
    }
    // A CRL that should have been replaced still knows what was revoked.
    let stale = vec![ca.crl(&[&gw.certificate], |params| params.next_update = date_time_ymd(2029, 12, 31))];
    rejected(verify(&gw.proof(GW, trust(&ca), &[]), NOW, &stale), "CERT_REVOKED", &[]);
}

#[test]
fn a_revoked_intermediate_is_refused() {
    let ca = Authority::root("Root", unchanged);
    let lower = ca.below("Lower", unchanged);
    let gw = lower.issue(GW, unchanged);
    let crls = vec![lower.crl(&[], |_| {}), ca.crl(&[&lower.certificate], |_| {})];
    rejected(verify(&gw.proof(GW, trust(&ca), &[&lower]), NOW, &crls), "CERT_REVOKED", &["CN=Lower"]);
}

#[test]
fn strict_wants_to_know_ifuri_only_where_there_is_something_to_know() {
    let ca = Authority::root("Root", unchanged);
    let with_uri: Change = |params| {
        let uris = vec!["http://crl.example/root.crl".to_owned()];
        params.crl_distribution_points.push(CrlDistributionPoint { uris });
    };
    let (plain, pointed) = (ca.issue(GW, unchanged), ca.issue(GW, with_uri));
    let none = Vec::new();
    for (revocation, plain_passes, pointed_passes) in [
        (Revocation::Strict, false, false),
        (Revocation::IfUri, true, false),
        (Revocation::Relaxed, true, true),
    ] {
        for (entity, passes) in [(&plain, plain_passes), (&pointed, pointed_passes)] {
            let result = verify(&entity.proof(GW, Trust { revocation, ..trust(&ca) }, &[]), NOW, &none);
            match passes {
                true => assert_eq!(result, Ok(())),
                false => rejected(result, "CERT_STATUS_UNKNOWN", &["no CRL of its issuer"]),
            }
        }
    }
    let strict = || Trust { revocation: Revocation::Strict, ..trust(&ca) };
    assert_eq!(verify(&plain.proof(GW, strict(), &[]), NOW, &vec![ca.crl(&[], |_| {})]), Ok(()));
}

/// A server of CRLs, which serves only what is at one URI.
struct Server {
    uri: &'static str,
    crl: Option<Arc<Crl>>,
}

impl RevocationSource for Server {
    fn crls(&self, _: &DistinguishedName) -> Vec<Arc<Crl>> {
        Vec::new()
    }

    fn fetch(&self, uri: &str) -> Option<Result<Arc<Crl>, String>> {
        let found = self.crl.clone().filter(|_| uri == self.uri);
        Some(found.ok_or_else(|| "nobody answers".to_owned()))
    }
}

#[test]
fn relaxed_asks_and_believes_what_it_is_told_and_takes_silence_for_nothing() {
    const URI: &str = "http://crl.example/root.crl";
    let ca = Authority::root("Root", unchanged);
    let with_uri: Change = |params| {
        params.crl_distribution_points.push(CrlDistributionPoint { uris: vec![URI.to_owned()] });
    };
    let gw = ca.issue(GW, with_uri);
    let judged = |server: &Server| verify(&gw.proof(GW, trust(&ca), &[]), NOW, server);
    rejected(
        judged(&Server { uri: URI, crl: Some(ca.crl(&[&gw.certificate], |_| {})) }),
        "CERT_REVOKED",
        &[],
    );
    assert_eq!(judged(&Server { uri: URI, crl: Some(ca.crl(&[], |_| {})) }), Ok(()));
    assert_eq!(judged(&Server { uri: URI, crl: None }), Ok(()));
}

#[test]
fn whom_the_configuration_names_is_asked_about_the_certificates_of_his_ca_and_no_other() {
    const URI: &str = "http://status.example/root.crl";
    let (ca, another) = (Authority::root("Root", unchanged), Authority::root("Root", unchanged));
    let gw = ca.issue(GW, unchanged);
    let of = |authority: &Authority, revocation| {
        let source = StatusSource {
            authority: Arc::clone(&authority.certificate),
            ocsp_uris: Vec::new(),
            crl_uris: vec![URI.to_owned()],
        };
        Trust { revocation, status_sources: [source].into(), ..trust(&ca) }
    };
    let revoked = Server { uri: URI, crl: Some(ca.crl(&[&gw.certificate], |_| {})) };
    for revocation in [Revocation::Strict, Revocation::IfUri, Revocation::Relaxed] {
        let result = verify(&gw.proof(GW, of(&ca, revocation), &[]), NOW, &revoked);
        rejected(result, "CERT_REVOKED", &[]);
    }
    // One that does not answer counts as if the certificate named him.
    let silent = Server { uri: URI, crl: None };
    let result = verify(&gw.proof(GW, of(&ca, Revocation::IfUri), &[]), NOW, &silent);
    rejected(result, "CERT_STATUS_UNKNOWN", &["nobody answers"]);
    let other = gw.proof(GW, of(&another, Revocation::IfUri), &[]);
    assert_eq!(verify(&other, NOW, &revoked), Ok(()));
}

#[test]
fn a_crl_that_cannot_be_relied_on_says_nothing() {
    let no_ids: Change = |params| params.use_authority_key_identifier_extension = false;
    let ca = Authority::root("Root", no_ids);
    let forged = Authority::root("Root", no_ids);
    let mute = Authority::root("Root", |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    let gw = ca.issue(GW, no_ids);
    let strict = |authority: &Authority| Trust { revocation: Revocation::Strict, ..trust(authority) };
    for (crl, words) in [
        (forged.crl(&[&gw.certificate], |_| {}), "not the CA's"),
        (ca.crl(&[], |params| params.next_update = date_time_ymd(2029, 12, 31)), "expired at 2029-12-31"),
        (ca.crl(&[], |params| params.this_update = date_time_ymd(2030, 1, 2)), "begins only"),
        (
            ca.crl(&[], |params| {
                params.issuing_distribution_point = Some(rcgen::CrlIssuingDistributionPoint {
                    distribution_point: CrlDistributionPoint { uris: vec!["http://crl.example".to_owned()] },
                    scope: Some(rcgen::CrlScope::CaCertsOnly),
                });
            }),
            "CA certificates only",
        ),
    ] {
        let result = verify(&gw.proof(GW, strict(&ca), &[]), NOW, &vec![crl]);
        rejected(result, "CERT_STATUS_UNKNOWN", &[words]);
    }
    let gw = mute.issue(GW, unchanged);
    let crls = vec![Arc::new(Crl::from_der(crl_by_force(&mute).der()).unwrap())];
    rejected(verify(&gw.proof(GW, strict(&mute), &[]), NOW, &crls), "CERT_STATUS_UNKNOWN", &["cRLSign"]);
}

/// A CRL of a CA that may not sign any; rcgen would refuse.
fn crl_by_force(authority: &Authority) -> rcgen::CertificateRevocationList {
    let params = authority_params("Root");
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2029, 12, 30),
        next_update: date_time_ymd(2030, 12, 31),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&Issuer::from_params(&params, &authority.key)).unwrap()
}

#[test]
fn pinned_certificates_need_no_ca_and_admit_no_other() {
    let ca = Authority::root("Root", unchanged);
    let (gw, twin) = (ca.issue(GW, unchanged), ca.issue(GW, unchanged));
    let pinned = || Trust { certificates: vec![Arc::clone(&gw.certificate)], ..trust(&ca) };
    assert_eq!(judge(&gw.proof(GW, Trust { authorities: Vec::new(), ..pinned() }, &[])), Ok(()));
    rejected(judge(&twin.proof(GW, pinned(), &[])), "CERT_NOT_ACCEPTED", &["CN=gw.example.org"]);
    rejected(judge(&gw.proof("other", pinned(), &[])), "ID_NOT_IN_CERTIFICATE", &[]);
    // A peer that sends none is looked up by its identity.
    let silent = |id: &str| VerifyRequest { certificates: Vec::new(), ..gw.proof(id, pinned(), &[]) };
    assert_eq!(judge(&silent(GW)), Ok(()));
    rejected(judge(&silent("other")), "CERT_MISSING", &["other"]);
    let old = ca.issue(GW, |params| params.not_after = date_time_ymd(2029, 12, 31));
    let only_old = || Trust { certificates: vec![Arc::clone(&old.certificate)], ..Trust::default() };
    rejected(judge(&old.proof(GW, only_old(), &[])), "CERT_EXPIRED", &[]);
    // Nor does an old certificate stand in the way of its successor.
    let both =
        Trust { certificates: vec![Arc::clone(&old.certificate), Arc::clone(&gw.certificate)], ..trust(&ca) };
    let silent = |trust: Trust| VerifyRequest { certificates: Vec::new(), ..gw.proof(GW, trust, &[]) };
    assert_eq!(judge(&silent(both)), Ok(()));
    rejected(judge(&silent(only_old())), "CERT_EXPIRED", &[]);
}

#[test]
fn a_heap_of_certificates_of_one_name_costs_a_bounded_number_of_signatures() {
    let no_ids: Change = |params| params.use_authority_key_identifier_extension = false;
    let ca = Authority::root("Root", unchanged);
    let heap: Vec<Authority> = (0..15).map(|_| Authority::root("Loop", no_ids)).collect();
    let first = heap.first().unwrap();
    let gw = first.issue(GW, no_ids);
    let heap: Vec<&Authority> = heap.iter().collect();
    let code = judge(&gw.proof(GW, trust(&ca), &heap)).unwrap_err().reason().code();
    assert!(["CERT_INVALID", "CERT_NO_ISSUER"].contains(&code));
}

#[test]
fn octets_that_are_no_certificate_are_refused_and_never_panic() {
    let ca = Authority::root("Root", unchanged);
    let gw = ca.issue(GW, unchanged);
    let whole = gw.proof(GW, trust(&ca), &[]);
    let der = gw.certificate.der();
    for at in 0..der.len() {
        let mut cut = whole.clone();
        cut.certificates[0].data.truncate(at);
        rejected(judge(&cut), "CERT_UNUSABLE", &[]);
        let mut flipped = whole.clone();
        flipped.certificates[0].data[at] ^= 0x55;
        assert!(judge(&flipped).is_err(), "octet {at} is not protected");
    }
}
