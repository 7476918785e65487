//! Octets and texts of any kind: nothing panics, and nothing is accepted that was not signed.

use proptest::prelude::*;

use super::super::method::Proof;
use super::super::ocsp::{NONCE_LEN, Question};
use super::*;

proptest! {
    #[test]
    fn random_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Certificate::from_der(&octets);
        let _ = Crl::from_der(&octets);
        let ca = Certificate::from_der(include_bytes!("ocsp/ca.der")).unwrap();
        let _ = Question::about(&ca, &ca).judge(&octets, Some(&[0; NONCE_LEN]), NOW);
        let _ = DistinguishedName::from_der(&octets);
        let _ = PublicKey::from_spki(&octets);
        let _ = PrivateKey::from_der(&octets);
        let _ = Scheme::from_der(&octets);
        for method in [1, 2, 9, 10, 11, 14] {
            let _ = Proof::parse(method, &octets);
        }
    }

    #[test]
    fn random_texts_never_panic_and_names_come_back(text in "(CN|O|C|DC)=\\PC{0,20}(, ?(OU|E)=[ -~]{0,20})?") {
        if let Ok(name) = DistinguishedName::parse(&text) {
            let read = DistinguishedName::from_der(name.der()).unwrap();
            prop_assert!(read.same(&name) && name.matches(&name));
            prop_assert_eq!(read.to_string(), name.to_string());
        }
    }

    #[test]
    fn constraints_and_identities_of_any_text_never_panic(text in "\\PC{0,40}") {
        let _ = text.parse::<Constraint>();
        let _ = text.parse::<Identity>();
        let _ = text.parse::<crate::identity::IdentityMatch>();
    }
}

/// Octets of a CRL changed one by one: it is never taken for the CA's.
#[test]
fn a_mutated_crl_is_never_relied_on() {
    let ca = Authority::root("Root", unchanged);
    let gw = ca.issue("gw.example.org", unchanged);
    let strict = || Trust { revocation: Revocation::Strict, ..trust(&ca) };
    let good = ca.crl_der(&[], |_| {});
    let request = gw.proof("gw.example.org", strict(), &[]);
    assert_eq!(verify(&request, NOW, &vec![Arc::new(Crl::from_der(&good).unwrap())]), Ok(()));
    for at in 0..good.len() {
        let mut mutated = good.clone();
        mutated[at] ^= 0x11;
        if let Ok(crl) = Crl::from_der(&mutated) {
            rejected(verify(&request, NOW, &vec![Arc::new(crl)]), "CERT_STATUS_UNKNOWN", &[]);
        }
    }
}
