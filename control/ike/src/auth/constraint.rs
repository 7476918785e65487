//! Which keys and signatures are accepted, in strongSwan's notation for `auth`: `pubkey`, `rsa-3072-sha256`,
//! `ecdsa-384-sha384`, `rsa/pss-sha512`, `ike:pubkey-sha384`.

use std::fmt;
use std::str::FromStr;

use super::key::KeyKind;
use super::scheme::{HashAlgorithm, Scheme};

/// A constraint on keys and signatures. The default accepts all that is supported, except SHA-1, which has to be
/// named.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Constraint {
    /// Kinds of key with the fewest bits that will do; empty: any.
    keys: Vec<(Family, u32)>,
    /// Hashes; empty: any but SHA-1.
    hashes: Vec<HashAlgorithm>,
    /// Concerns AUTH alone (`ike:`), not the certificates.
    ike_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Rsa,
    RsaPss,
    Ecdsa,
    Ed25519,
    Ed448,
}

/// A text that is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{found}\" is no kind of signature: {problem}")]
pub struct ConstraintError {
    /// The text.
    pub found: String,
    /// What is wrong with it.
    pub problem: String,
}

impl Constraint {
    /// Whether AUTH may be signed so.
    pub fn allows(&self, key: KeyKind, scheme: Scheme) -> bool {
        self.allows_key(key, scheme) && self.allows_hash(scheme.hash())
    }

    /// Whether a certificate may be signed so.
    pub(super) fn allows_in_chain(&self, key: KeyKind, scheme: Scheme) -> bool {
        self.ike_only || self.allows(key, scheme)
    }

    /// Hashes in order of preference; empty: no preference.
    pub(super) fn hashes(&self) -> &[HashAlgorithm] {
        &self.hashes
    }

    /// Whether RSA is to be PSS.
    pub(super) fn prefers_pss(&self) -> bool {
        let names = |family| self.keys.iter().any(|(key, _)| *key == family);
        names(Family::RsaPss) && !names(Family::Rsa)
    }

    fn allows_key(&self, key: KeyKind, scheme: Scheme) -> bool {
        self.keys.is_empty()
            || self.keys.iter().any(|(family, bits)| match (family, key) {
                (Family::Rsa, KeyKind::Rsa(found)) => found >= *bits,
                (Family::RsaPss, KeyKind::Rsa(found)) => {
                    found >= *bits && matches!(scheme, Scheme::RsaPss(_))
                }
                (Family::Ecdsa, KeyKind::Ecdsa(curve)) => curve.bits() >= *bits,
                (Family::Ed25519, KeyKind::Ed25519) | (Family::Ed448, KeyKind::Ed448) => true,
                _ => false,
            })
    }

    fn allows_hash(&self, hash: HashAlgorithm) -> bool {
        match hash {
            // It has none to choose.
            HashAlgorithm::Identity => true,
            HashAlgorithm::Sha1 => self.hashes.contains(&hash),
            _ => self.hashes.is_empty() || self.hashes.contains(&hash),
        }
    }

    /// Whether SHA-1 is among the hashes.
    pub fn names_sha1(&self) -> bool {
        self.hashes.contains(&HashAlgorithm::Sha1)
    }
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        let wrong = |problem: String| ConstraintError { found: text.to_owned(), problem };
        let (rest, ike_only) = match text.strip_prefix("ike:") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let mut constraint = Self { ike_only, ..Self::default() };
        for (index, word) in rest.split('-').enumerate() {
            match word {
                "pubkey" if index == 0 => {}
                "rsa" => constraint.keys.push((Family::Rsa, 0)),
                "rsa/pss" => constraint.keys.push((Family::RsaPss, 0)),
                "ecdsa" => constraint.keys.push((Family::Ecdsa, 0)),
                "ed25519" => constraint.keys.push((Family::Ed25519, 0)),
                "ed448" => constraint.keys.push((Family::Ed448, 0)),
                "sha1" if index > 0 => constraint.hashes.push(HashAlgorithm::Sha1),
                "sha256" if index > 0 => constraint.hashes.push(HashAlgorithm::Sha256),
                "sha384" if index > 0 => constraint.hashes.push(HashAlgorithm::Sha384),
                "sha512" if index > 0 => constraint.hashes.push(HashAlgorithm::Sha512),
                "identity" if index > 0 => constraint.hashes.push(HashAlgorithm::Identity),
                other => match (other.parse::<u32>(), constraint.keys.last_mut()) {
                    (Ok(bits), Some((Family::Rsa | Family::RsaPss | Family::Ecdsa, least))) => *least = bits,
                    _ => return Err(wrong(format!("`{other}` is not known there"))),
                },
            }
        }
        Ok(constraint)
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for (family, bits) in &self.keys {
            let name = match family {
                Family::Rsa => "rsa",
                Family::RsaPss => "rsa/pss",
                Family::Ecdsa => "ecdsa",
                Family::Ed25519 => "ed25519",
                Family::Ed448 => "ed448",
            };
            words.push(if *bits == 0 { name.to_owned() } else { format!("{name}-{bits}") });
        }
        if words.is_empty() {
            words.push("pubkey".to_owned());
        }
        for hash in &self.hashes {
            words.push(match hash {
                HashAlgorithm::Sha1 => "sha1".to_owned(),
                HashAlgorithm::Sha256 => "sha256".to_owned(),
                HashAlgorithm::Sha384 => "sha384".to_owned(),
                HashAlgorithm::Sha512 => "sha512".to_owned(),
                HashAlgorithm::Identity => "identity".to_owned(),
            });
        }
        write!(f, "{}{}", if self.ike_only { "ike:" } else { "" }, words.join("-"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key::Curve;
    use HashAlgorithm::{Sha1, Sha256, Sha384};

    fn constraint(text: &str) -> Constraint {
        let parsed: Constraint = text.parse().unwrap();
        assert_eq!(parsed.to_string(), text);
        parsed
    }

    #[test]
    fn keys_sizes_and_hashes_are_held_to() {
        let p256 = KeyKind::Ecdsa(Curve::P256);
        let p384 = KeyKind::Ecdsa(Curve::P384);
        let strict = constraint("ecdsa-384-sha384");
        assert!(strict.allows(p384, Scheme::Ecdsa(Sha384)));
        assert!(!strict.allows(p256, Scheme::Ecdsa(Sha384)));
        assert!(!strict.allows(p384, Scheme::Ecdsa(Sha256)));
        assert!(!strict.allows(KeyKind::Rsa(4096), Scheme::RsaPkcs1(Sha384)));
        let two = constraint("rsa-3072-ecdsa-256-sha256");
        assert!(two.allows(KeyKind::Rsa(3072), Scheme::RsaPkcs1(Sha256)));
        assert!(!two.allows(KeyKind::Rsa(2048), Scheme::RsaPkcs1(Sha256)));
        assert!(two.allows(p256, Scheme::Ecdsa(Sha256)));
        let pss = constraint("rsa/pss");
        assert!(pss.allows(KeyKind::Rsa(2048), Scheme::RsaPss(Sha256)));
        assert!(!pss.allows(KeyKind::Rsa(2048), Scheme::RsaPkcs1(Sha256)));
        assert!(constraint("ed25519").allows(KeyKind::Ed25519, Scheme::Ed25519));
        assert!(constraint("ed448").allows(KeyKind::Ed448, Scheme::Ed448));
        assert!(!constraint("ed448").allows(KeyKind::Ed25519, Scheme::Ed25519));
    }

    #[test]
    fn sha1_has_to_be_named() {
        let sha1 = Scheme::RsaPkcs1(Sha1);
        assert!(!constraint("pubkey").allows(KeyKind::Rsa(2048), sha1));
        assert!(!constraint("rsa").allows(KeyKind::Rsa(2048), sha1));
        assert!(constraint("rsa-sha1-sha256").allows(KeyKind::Rsa(2048), sha1));
    }

    #[test]
    fn a_constraint_on_ike_leaves_the_certificates_alone() {
        let ike = constraint("ike:pubkey-sha384");
        assert!(ike.allows_in_chain(KeyKind::Rsa(2048), Scheme::RsaPkcs1(Sha256)));
        assert!(!ike.allows(KeyKind::Rsa(2048), Scheme::RsaPkcs1(Sha256)));
        assert!(!constraint("pubkey-sha384").allows_in_chain(KeyKind::Rsa(2048), Scheme::RsaPkcs1(Sha256)));
    }

    #[test]
    fn what_is_not_known_is_named() {
        for (text, problem) in [
            ("ed488", "ed488"),
            ("rsa-sha3", "sha3"),
            ("sha256", "sha256"),
            ("pubkey-2048", "2048"),
            ("", "``"),
        ] {
            assert!(text.parse::<Constraint>().unwrap_err().problem.contains(problem), "{text}");
        }
    }
}
