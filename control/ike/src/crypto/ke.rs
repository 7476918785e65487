//! Key exchange (RFC 7296 §2.12): X25519, the ECP groups, the MODP groups.

use std::fmt;

use p256::elliptic_curve::Generate;
use p256::elliptic_curve::sec1::ToSec1Point;
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::modp;

/// Key exchange methods (transform type 4), with their transform IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum KeMethod {
    /// 2048-bit MODP group (RFC 3526).
    Modp2048 = 14,
    /// 3072-bit MODP group (RFC 3526).
    Modp3072 = 15,
    /// 256-bit random ECP group (RFC 5903).
    Ecp256 = 19,
    /// 384-bit random ECP group (RFC 5903).
    Ecp384 = 20,
    /// Curve25519 (RFC 8031).
    X25519 = 31,
}

impl KeMethod {
    /// Every method that is supported.
    pub const ALL: [Self; 5] = [Self::X25519, Self::Ecp384, Self::Ecp256, Self::Modp3072, Self::Modp2048];

    /// The transform ID.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// The method of that transform ID.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.id() == id)
    }

    /// Octets of a public value.
    pub fn public_len(self) -> usize {
        match self {
            Self::Modp2048 => modp::MODP_2048.len,
            Self::Modp3072 => modp::MODP_3072.len,
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::X25519 => 32,
        }
    }
}

/// Why a key exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyExchangeError {
    /// The public value has another length than the method's.
    #[error("a {method:?} public value has {expected} octets, not {found}")]
    Length {
        /// The method.
        method: KeMethod,
        /// Its length.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The public value is not a usable element of the group (RFC 6989, RFC 8031 §3).
    #[error("the peer's {method:?} public value is not a usable element of the group")]
    InvalidPublic {
        /// The method.
        method: KeMethod,
    },
}

/// Our half of a key exchange. Each kind zeroizes itself on drop; never printed.
pub struct KeSecret(Half);

enum Half {
    Modp(KeMethod, Zeroizing<[u8; modp::EXPONENT_LEN]>),
    Ecp256(p256::SecretKey),
    Ecp384(p384::SecretKey),
    X25519(x25519_dalek::StaticSecret),
}

impl KeSecret {
    /// The method that it is for.
    pub fn method(&self) -> KeMethod {
        match &self.0 {
            Half::Modp(method, _) => *method,
            Half::Ecp256(_) => KeMethod::Ecp256,
            Half::Ecp384(_) => KeMethod::Ecp384,
            Half::X25519(_) => KeMethod::X25519,
        }
    }
}

impl fmt::Debug for KeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeSecret({:?}, …)", self.method())
    }
}

/// g^ir, in the form that RFC 7296 §2.14 takes. Zeroized on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret(pub Vec<u8>);

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(…)")
    }
}

/// Makes a key pair: the secret half and the public value for the KE payload.
pub fn generate(method: KeMethod, rng: &mut dyn CryptoRng) -> Result<(KeSecret, Vec<u8>), KeyExchangeError> {
    let unusable = KeyExchangeError::InvalidPublic { method };
    match method {
        KeMethod::Modp2048 => modp_pair(method, &modp::MODP_2048, rng).ok_or(unusable),
        KeMethod::Modp3072 => modp_pair(method, &modp::MODP_3072, rng).ok_or(unusable),
        KeMethod::Ecp256 => {
            let secret = p256::SecretKey::generate_from_rng(rng);
            let public = secret.public_key().to_sec1_point(false);
            Ok((KeSecret(Half::Ecp256(secret)), without_form(public.as_bytes())))
        }
        KeMethod::Ecp384 => {
            let secret = p384::SecretKey::generate_from_rng(rng);
            let public = secret.public_key().to_sec1_point(false);
            Ok((KeSecret(Half::Ecp384(secret)), without_form(public.as_bytes())))
        }
        KeMethod::X25519 => {
            let mut octets = Zeroizing::new([0; 32]);
            rng.fill_bytes(octets.as_mut());
            let secret = x25519_dalek::StaticSecret::from(*octets);
            let public = x25519_dalek::PublicKey::from(&secret);
            Ok((KeSecret(Half::X25519(secret)), public.to_bytes().to_vec()))
        }
    }
}

/// Makes the shared secret from the peer's public value, which is checked first.
pub fn derive(secret: &KeSecret, peer_public: &[u8]) -> Result<SharedSecret, KeyExchangeError> {
    let method = secret.method();
    let (expected, found) = (method.public_len(), peer_public.len());
    if found != expected {
        return Err(KeyExchangeError::Length { method, expected, found });
    }
    let shared = match &secret.0 {
        Half::Modp(KeMethod::Modp2048, exponent) => modp_shared(&modp::MODP_2048, peer_public, exponent),
        Half::Modp(_, exponent) => modp_shared(&modp::MODP_3072, peer_public, exponent),
        Half::Ecp256(secret) => {
            p256::PublicKey::from_sec1_bytes(&uncompressed(peer_public)).ok().map(|public| {
                let shared = p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), public.as_affine());
                shared.raw_secret_bytes().to_vec()
            })
        }
        Half::Ecp384(secret) => {
            p384::PublicKey::from_sec1_bytes(&uncompressed(peer_public)).ok().map(|public| {
                let shared = p384::ecdh::diffie_hellman(secret.to_nonzero_scalar(), public.as_affine());
                shared.raw_secret_bytes().to_vec()
            })
        }
        Half::X25519(secret) => <[u8; 32]>::try_from(peer_public).ok().and_then(|public| {
            let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(public));
            // RFC 8031 §3.1: an all-zero result must be refused.
            shared.was_contributory().then(|| shared.to_bytes().to_vec())
        }),
    };
    shared.map(SharedSecret).ok_or(KeyExchangeError::InvalidPublic { method })
}

fn modp_pair(method: KeMethod, group: &modp::Group, rng: &mut dyn CryptoRng) -> Option<(KeSecret, Vec<u8>)> {
    let mut exponent = Zeroizing::new([0; modp::EXPONENT_LEN]);
    rng.fill_bytes(exponent.as_mut());
    let public = group.public(&exponent)?;
    Some((KeSecret(Half::Modp(method, exponent)), public))
}

fn modp_shared(group: &modp::Group, public: &[u8], exponent: &[u8; modp::EXPONENT_LEN]) -> Option<Vec<u8>> {
    group.power(public, exponent).map(|shared| shared.to_vec())
}

/// RFC 5903 §7: x and y, without SEC 1's first octet, which names the form.
fn without_form(point: &[u8]) -> Vec<u8> {
    point.get(1..).unwrap_or_default().to_vec()
}

fn uncompressed(public: &[u8]) -> Vec<u8> {
    const UNCOMPRESSED: u8 = 4;
    let mut point = vec![UNCOMPRESSED];
    point.extend(public);
    point
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER_PERMISSIVE;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;
    use sha2::{Digest, Sha256};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap()
    }

    /// A half with a known private value, and its public value.
    fn known(method: KeMethod, private: &str) -> (KeSecret, Vec<u8>) {
        let private = hex(private);
        match method {
            KeMethod::X25519 => {
                let secret = x25519_dalek::StaticSecret::from(<[u8; 32]>::try_from(private).unwrap());
                let public = x25519_dalek::PublicKey::from(&secret).to_bytes().to_vec();
                (KeSecret(Half::X25519(secret)), public)
            }
            KeMethod::Ecp256 => {
                let secret = p256::SecretKey::from_slice(&private).unwrap();
                let public = without_form(secret.public_key().to_sec1_point(false).as_bytes());
                (KeSecret(Half::Ecp256(secret)), public)
            }
            KeMethod::Ecp384 => {
                let secret = p384::SecretKey::from_slice(&private).unwrap();
                let public = without_form(secret.public_key().to_sec1_point(false).as_bytes());
                (KeSecret(Half::Ecp384(secret)), public)
            }
            KeMethod::Modp2048 | KeMethod::Modp3072 => {
                let group = if method == KeMethod::Modp2048 { &modp::MODP_2048 } else { &modp::MODP_3072 };
                let exponent = Zeroizing::new(private.try_into().unwrap());
                let public = group.public(&exponent).unwrap();
                (KeSecret(Half::Modp(method, exponent)), public)
            }
        }
    }

    #[test]
    fn x25519_gives_the_answers_of_rfc_7748() {
        // RFC 7748 §6.1.
        let (alice, alice_public) =
            known(KeMethod::X25519, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let (bob, bob_public) =
            known(KeMethod::X25519, "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        assert_eq!(alice_public, hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"));
        assert_eq!(bob_public, hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
        let shared = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(derive(&alice, &bob_public).unwrap().0, shared);
        assert_eq!(derive(&bob, &alice_public).unwrap().0, shared);
    }

    #[test]
    fn the_ecp_groups_give_the_answers_of_rfc_5903() {
        // RFC 5903 §8.1 and §8.2.
        let (initiator, public) =
            known(KeMethod::Ecp256, "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433");
        assert_eq!(
            public,
            hex("DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180\
                 5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3")
        );
        let peer = hex("D12DFB5289C8D4F81208B70270398C342296970A0BCCB74C736FC7554494BF63\
                        56FBF3CA366CC23E8157854C13C58D6AAC23F046ADA30F8353E74F33039872AB");
        let shared = hex("D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE");
        assert_eq!(derive(&initiator, &peer).unwrap().0, shared);

        let (initiator, public) = known(
            KeMethod::Ecp384,
            "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655E35B538041E649EE3FAEF896783AB194",
        );
        assert_eq!(
            public,
            hex(
                "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6DE3AC808ACB4BDB4C88732AEE95F41AA\
                 9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38EEB9FCFF3C2C947DAE69B4C634573A81C"
            )
        );
        let peer = hex(
            "E558DBEF53EECDE3D3FCCFC1AEA08A89A987475D12FD950D83CFA41732BC509D0D1AC43A0336DEF96FDA41D0774A3571\
                 DCFBEC7AACF3196472169E838430367F66EEBE3C6E70C416DD5F0C68759DD1FFF83FA40142209DFF5EAAD96DB9E6386C",
        );
        let shared = hex(
            "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4D603135569B9E9D09CF5D4A270F59746",
        );
        assert_eq!(derive(&initiator, &peer).unwrap().0, shared);
    }

    /// Private values, and SHA-256 of the public values and of the shared secret, computed with Python's `pow` from
    /// the primes of RFC 3526.
    #[rustfmt::skip]
    const MODP: &[(KeMethod, &str, &str, &str, &str, &str)] = &[
        (KeMethod::Modp2048, "565669ce122372431f36a7b88fb1f6a16c1a8eebc11b4e49eb2ad81130bd10f87c903529aec76fb2e1fe018ff1bc487d", "6ce58329c5c3ba806a63c37d77b8518b1387598c0d11271f480a819091835c45f944741bc6491bbe0b49ab18b6422ac1", "134b299573df26d83c2a61a061dfc464d3807f4ebfdd196ffe6ca2abd9c02eb8", "f5adf667f2b20f3e9768b939a9579cbf08fd4b5843fa6d3051a4a5f844c93d7b", "c3b9187df3d82d042373508304a4224b1615b699c6b3e10a6d0c405e54d4497c"),
        (KeMethod::Modp3072, "7bab012e6d4502687aa26a29f20b2f32be50e07d9297d6e4f56e0c9a05a0ef9967421327046781904335defd4f15fb57", "8c503c220070e3d36142379e5b7bdb2d3004013f871c75250cf7131b4800a777dc820ed2ad8a2091719dc2857f99b875", "cb4ca84b1175c883c0905be76b729d10f250e91a14a49d0b419d9932a3cfd39f", "1a94eb0f6d817d220ffb447794928370ac4a12b2cf414aeaa90ad7fa74212b72", "24d3250ffffe7ae0a6090292f5f72793bb9344b53dc8cf6488f04225980c140d"),
    ];

    #[test]
    fn the_modp_groups_give_the_answers_of_another_implementation() {
        for (method, initiator, responder, public_i, public_r, shared) in MODP {
            let (secret_i, gi) = known(*method, initiator);
            let (secret_r, gr) = known(*method, responder);
            assert_eq!(gi.len(), method.public_len());
            assert_eq!(Sha256::digest(&gi).to_vec(), hex(public_i));
            assert_eq!(Sha256::digest(&gr).to_vec(), hex(public_r));
            assert_eq!(Sha256::digest(&derive(&secret_i, &gr).unwrap().0).to_vec(), hex(shared));
            assert_eq!(Sha256::digest(&derive(&secret_r, &gi).unwrap().0).to_vec(), hex(shared));
        }
    }

    #[test]
    fn both_ends_of_a_fresh_exchange_agree() {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        for method in KeMethod::ALL {
            let (ours, our_public) = generate(method, &mut rng).unwrap();
            let (theirs, their_public) = generate(method, &mut rng).unwrap();
            assert_eq!((ours.method(), our_public.len()), (method, method.public_len()));
            assert_eq!(derive(&ours, &their_public).unwrap().0, derive(&theirs, &our_public).unwrap().0);
        }
    }

    #[test]
    fn values_that_are_no_usable_element_of_the_group_are_refused() {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        for method in KeMethod::ALL {
            let (secret, _) = generate(method, &mut rng).unwrap();
            let len = method.public_len();
            let mut one = vec![0; len];
            *one.last_mut().unwrap() = 1;
            // Zero; one; all ones, above the prime; for the ECP groups, points off the curve.
            let mut unusable = vec![vec![0; len]];
            if method != KeMethod::X25519 {
                unusable.extend([one, vec![0xff; len]]);
            }
            for public in unusable {
                assert_eq!(derive(&secret, &public).unwrap_err(), KeyExchangeError::InvalidPublic { method });
            }
            let short = derive(&secret, &vec![2; len - 1]).unwrap_err();
            assert_eq!(short, KeyExchangeError::Length { method, expected: len, found: len - 1 });
        }
    }
}
