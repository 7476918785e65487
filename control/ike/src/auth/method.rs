//! AUTH methods that are signatures, and what their AUTH payloads hold: RSA (1), ECDSA on three curves (9 to 11,
//! RFC 4754), Digital Signature (14, RFC 7427).

use der::asn1::{AnyRef, UintRef};
use der::{Decode as _, Encode as _, Reader as _, SliceReader};

use super::key::{Curve, KeyKind};
use super::scheme::{HashAlgorithm, Scheme};

/// How AUTH is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthScheme {
    /// Method 1. RFC 7296 §3.8 leaves the hash open; the signature says which it was.
    Rsa(HashAlgorithm),
    /// Methods 9, 10 and 11.
    Ecdsa(Curve),
    /// Method 14.
    Digital(Scheme),
}

impl AuthScheme {
    /// The number of the method.
    pub fn method(self) -> u8 {
        match self {
            Self::Rsa(_) => RSA,
            Self::Ecdsa(Curve::P256) => ECDSA_256,
            Self::Ecdsa(Curve::P384) => ECDSA_384,
            Self::Ecdsa(Curve::P521) => ECDSA_521,
            Self::Digital(_) => DIGITAL_SIGNATURE,
        }
    }

    /// The signature scheme.
    pub fn scheme(self) -> Scheme {
        match self {
            Self::Rsa(hash) => Scheme::RsaPkcs1(hash),
            Self::Ecdsa(curve) => Scheme::Ecdsa(curve.hash()),
            Self::Digital(scheme) => scheme,
        }
    }

    /// The data of an AUTH payload from a signature as certificates have it.
    pub(super) fn encode(self, signature: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Rsa(_) => Some(signature),
            Self::Ecdsa(curve) => fixed(&signature, curve.octets()),
            Self::Digital(scheme) => {
                let algorithm = scheme.to_der();
                let mut data = vec![u8::try_from(algorithm.len()).ok()?];
                data.extend(algorithm);
                data.extend(signature);
                Some(data)
            }
        }
    }
}

/// RSA Digital Signature; this and the others are the registry's numbers of AUTH methods (RFC 7296 §3.8).
pub(crate) const RSA: u8 = 1;
/// Shared Key Message Integrity Code.
pub(crate) const SHARED_KEY_MIC: u8 = 2;
/// ECDSA with SHA-256 on the P-256 curve.
pub(crate) const ECDSA_256: u8 = 9;
/// ECDSA with SHA-384 on the P-384 curve.
pub(crate) const ECDSA_384: u8 = 10;
/// ECDSA with SHA-512 on the P-521 curve.
pub(crate) const ECDSA_521: u8 = 11;
/// NULL Authentication (RFC 7619).
pub(crate) const NULL: u8 = 13;
/// Digital Signature (RFC 7427).
pub(crate) const DIGITAL_SIGNATURE: u8 = 14;

/// What an AUTH payload holds: ways to read it, and the signature as certificates have it. Method 1 does not say its
/// hash outside the signature, so that several have to be tried.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) schemes: Vec<Scheme>,
    pub(super) signature: Vec<u8>,
    /// The only curve that the method allows.
    pub(super) curve: Option<Curve>,
}

impl Proof {
    /// From method and data. `Err` says what is wrong with it, for people.
    pub(super) fn parse(method: u8, data: &[u8]) -> Result<Self, String> {
        use HashAlgorithm::{Sha1, Sha256, Sha384, Sha512};
        let curve = match method {
            RSA => {
                let schemes = [Sha256, Sha384, Sha512, Sha1].map(Scheme::RsaPkcs1).to_vec();
                return Ok(Self { schemes, signature: data.to_vec(), curve: None });
            }
            ECDSA_256 => Curve::P256,
            ECDSA_384 => Curve::P384,
            ECDSA_521 => Curve::P521,
            DIGITAL_SIGNATURE => {
                let malformed = || "a digital signature that is cut short".to_owned();
                let (len, rest) = data.split_first().ok_or_else(malformed)?;
                let (algorithm, signature) = rest.split_at_checked((*len).into()).ok_or_else(malformed)?;
                let scheme = Scheme::from_der(algorithm)?;
                return Ok(Self { schemes: vec![scheme], signature: signature.to_vec(), curve: None });
            }
            other => return Err(format!("authentication method {other}")),
        };
        let signature = unfixed(data, curve.octets())
            .ok_or_else(|| format!("an ECDSA signature of {} octets", data.len()))?;
        Ok(Self { schemes: vec![Scheme::Ecdsa(curve.hash())], signature, curve: Some(curve) })
    }

    /// Whether the method can be used with such a key.
    pub(super) fn fits(&self, key: KeyKind) -> bool {
        self.schemes.iter().any(|scheme| key.fits(*scheme))
            && self.curve.is_none_or(|curve| key == KeyKind::Ecdsa(curve))
    }
}

/// `r` and `s` side by side, each as long as a coordinate (RFC 4754 §7), from a SEQUENCE of both.
fn fixed(der: &[u8], coordinate: usize) -> Option<Vec<u8>> {
    let sequence = AnyRef::from_der(der).ok()?;
    let mut fields = SliceReader::new(sequence.value()).ok()?;
    let mut octets = Vec::with_capacity(2 * coordinate);
    for _ in 0..2 {
        let number = UintRef::decode(&mut fields).ok()?;
        let padding = coordinate.checked_sub(number.as_bytes().len())?;
        octets.extend(std::iter::repeat_n(0, padding));
        octets.extend(number.as_bytes());
    }
    fields.finish().ok()?;
    Some(octets)
}

/// The reverse of [`fixed`].
fn unfixed(octets: &[u8], coordinate: usize) -> Option<Vec<u8>> {
    if octets.len() != 2 * coordinate {
        return None;
    }
    let (r, s) = octets.split_at_checked(coordinate)?;
    let mut content = UintRef::new(r).ok()?.to_der().ok()?;
    content.extend(UintRef::new(s).ok()?.to_der().ok()?);
    AnyRef::new(der::Tag::Sequence, &content).ok()?.to_der().ok()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER_PERMISSIVE;

    use super::*;
    use crate::auth::key::PublicKey;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER_PERMISSIVE.decode(text.replace([' ', '\n'], "").as_bytes()).unwrap()
    }

    /// RFC 4754 §8.1: ECDSA-256 with SHA-256 over "abc".
    #[test]
    fn the_published_signature_of_method_9_verifies() {
        let spki = "3059301306072a8648ce3d020106082a8648ce3d030107034200 04
                    2442A5CC0ECD015FA3CA31DC8E2BBC70BF42D60CBCA20085E0822CB04235E970
                    6FC98BD7E50211A4A27102FA3549DF79EBCB4BF246B80945CDDFE7D509BBFD7D";
        let signature = "CB28E0999B9C7715FD0A80D8E47A77079716CBBF917DD72E97566EA1C066957C
                         86FA3BB4E26CAD5BF90B7F81899256CE7594BB1EA0C89212748BFF3B3D5B0315";
        let key = PublicKey::from_spki(&hex(spki)).unwrap();
        let proof = Proof::parse(ECDSA_256, &hex(signature)).unwrap();
        assert!(proof.fits(key.kind()));
        assert!(key.verify(proof.schemes[0], b"abc", &proof.signature));
        assert!(!key.verify(proof.schemes[0], b"abd", &proof.signature));
        assert_eq!(fixed(&proof.signature, 32).unwrap(), hex(signature));
    }

    #[test]
    fn small_numbers_are_padded() {
        let fixed_form = [[0; 30].as_slice(), &[1, 2], &[0; 31], &[0xff]].concat();
        let der = unfixed(&fixed_form, 32).unwrap();
        assert_eq!(der, hex("300802 020102 020200ff"));
        assert_eq!(fixed(&der, 32).unwrap(), fixed_form);
        assert_eq!(unfixed(&fixed_form[1..], 32), None);
    }

    #[test]
    fn a_digital_signature_carries_its_algorithm() {
        let scheme = AuthScheme::Digital(Scheme::Ed25519);
        let data = scheme.encode(vec![7; 64]).unwrap();
        assert_eq!(data[..8], [7, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70]);
        let proof = Proof::parse(14, &data).unwrap();
        assert_eq!(proof, Proof { schemes: vec![Scheme::Ed25519], signature: vec![7; 64], curve: None });
        for cut in [&data[..0], &data[..5]] {
            assert!(Proof::parse(14, cut).unwrap_err().contains("cut short"));
        }
    }
}
