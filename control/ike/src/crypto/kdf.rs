//! Pseudorandom functions and key derivation (RFC 7296 §2.13 to §2.17).

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha384, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{IkeAead, SharedSecret};

/// Pseudorandom functions (transform type 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Prf {
    /// PRF_HMAC_SHA2_256 (RFC 4868).
    HmacSha256 = 5,
    /// PRF_HMAC_SHA2_384.
    HmacSha384 = 6,
    /// PRF_HMAC_SHA2_512.
    HmacSha512 = 7,
}

impl Prf {
    /// Every PRF that is supported.
    pub const ALL: [Self; 3] = [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512];

    /// The transform ID.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Octets of output, and of the preferred key.
    pub fn output_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// `prf(key, data)`, data given in pieces.
    pub fn compute(self, key: &[u8], data: &[&[u8]]) -> Vec<u8> {
        self.function()(key, data)
    }

    /// `prf+(key, seed)`, `len` octets, 255 outputs at most (RFC 7296 §2.13).
    pub fn plus(self, key: &[u8], seed: &[&[u8]], len: usize) -> Zeroizing<Vec<u8>> {
        prf_plus(self.function(), key, seed, len)
    }

    fn function(self) -> PrfFn {
        match self {
            Self::HmacSha256 => hmac::<Hmac<Sha256>>,
            Self::HmacSha384 => hmac::<Hmac<Sha384>>,
            Self::HmacSha512 => hmac::<Hmac<Sha512>>,
        }
    }
}

/// `prf(key, data)`. What is derived is written for any, so that published vectors of others prove it too.
type PrfFn = fn(&[u8], &[&[u8]]) -> Vec<u8>;

fn hmac<M: Mac + KeyInit>(key: &[u8], data: &[&[u8]]) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else { return Vec::new() };
    data.iter().for_each(|piece| mac.update(piece));
    mac.finalize().into_bytes().to_vec()
}

fn prf_plus(prf: PrfFn, key: &[u8], seed: &[&[u8]], len: usize) -> Zeroizing<Vec<u8>> {
    let mut stream = Zeroizing::new(Vec::with_capacity(len + 64));
    let mut block = Zeroizing::new(Vec::new());
    for counter in 1..=u8::MAX {
        if stream.len() >= len {
            break;
        }
        let mut data: Vec<&[u8]> = vec![&block];
        data.extend(seed);
        let number = [counter];
        data.push(&number);
        block = Zeroizing::new(prf(key, &data));
        stream.extend_from_slice(&block);
    }
    stream.truncate(len);
    stream
}

fn skeyseed(prf: PrfFn, shared: &SharedSecret, input: KdfInput<'_>) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(prf(&[input.nonce_i, input.nonce_r].concat(), &[&shared.0]))
}

/// SKEYSEED of a rekeyed IKE SA, by the PRF and `SK_d` of the old one (RFC 7296 §2.18).
fn rekeyed_skeyseed(
    prf: PrfFn,
    sk_d: &[u8],
    shared: &SharedSecret,
    input: KdfInput<'_>,
) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(prf(sk_d, &[&shared.0, input.nonce_i, input.nonce_r]))
}

fn ike_keymat(prf: PrfFn, skeyseed: &[u8], input: KdfInput<'_>, len: usize) -> Zeroizing<Vec<u8>> {
    let seed: [&[u8]; 4] = [input.nonce_i, input.nonce_r, &input.spi_i, &input.spi_r];
    prf_plus(prf, skeyseed, &seed, len)
}

fn child_keymat(
    prf: PrfFn,
    sk_d: &[u8],
    shared: Option<&SharedSecret>,
    nonces: [&[u8]; 2],
    len: usize,
) -> Zeroizing<Vec<u8>> {
    let shared = shared.map_or(&[][..], |shared| &shared.0);
    prf_plus(prf, sk_d, &[shared, nonces[0], nonces[1]], len)
}

/// The keys of an IKE SA (RFC 7296 §2.14). `SK_ei` and `SK_er` are key and salt; there is no `SK_a*` with AEADs.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct IkeKeys {
    /// Derives CHILD SA keys.
    pub sk_d: Vec<u8>,
    /// Encryption, initiator to responder.
    pub sk_ei: Vec<u8>,
    /// Encryption, responder to initiator.
    pub sk_er: Vec<u8>,
    /// AUTH of the initiator.
    pub sk_pi: Vec<u8>,
    /// AUTH of the responder.
    pub sk_pr: Vec<u8>,
}

impl fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IkeKeys(…)")
    }
}

/// Nonces and SPIs of the IKE_SA_INIT exchange, as KDF input.
#[derive(Debug, Clone, Copy)]
pub struct KdfInput<'a> {
    /// Ni, without its payload header.
    pub nonce_i: &'a [u8],
    /// Nr.
    pub nonce_r: &'a [u8],
    /// SPIi.
    pub spi_i: [u8; 8],
    /// SPIr.
    pub spi_r: [u8; 8],
}

/// SKEYSEED and the seven keys of a new IKE SA (RFC 7296 §2.14).
pub fn derive_ike_keys(prf: Prf, encr: IkeAead, shared: &SharedSecret, input: KdfInput<'_>) -> IkeKeys {
    ike_keys(prf, encr, &skeyseed(prf.function(), shared, input), input)
}

/// The same for an IKE SA that replaces another (RFC 7296 §2.18), whose PRF and `SK_d` are given.
pub fn derive_rekeyed_ike_keys(
    old_prf: Prf,
    old_sk_d: &[u8],
    prf: Prf,
    encr: IkeAead,
    shared: &SharedSecret,
    input: KdfInput<'_>,
) -> IkeKeys {
    ike_keys(prf, encr, &rekeyed_skeyseed(old_prf.function(), old_sk_d, shared, input), input)
}

fn ike_keys(prf: Prf, encr: IkeAead, skeyseed: &[u8], input: KdfInput<'_>) -> IkeKeys {
    let lens = [prf.output_len(), encr.key_len(), encr.key_len(), prf.output_len(), prf.output_len()];
    let keymat = ike_keymat(prf.function(), skeyseed, input, lens.iter().sum());
    let mut rest = keymat.as_slice();
    let [sk_d, sk_ei, sk_er, sk_pi, sk_pr] = lens.map(|len| {
        let (key, left) = rest.split_at_checked(len).unwrap_or_default();
        rest = left;
        key.to_vec()
    });
    IkeKeys { sk_d, sk_ei, sk_er, sk_pi, sk_pr }
}

/// KEYMAT of a CHILD SA (RFC 7296 §2.17): `len` octets, initiator-to-responder key first.
pub fn derive_child_keymat(
    prf: Prf,
    sk_d: &[u8],
    shared: Option<&SharedSecret>,
    nonce_i: &[u8],
    nonce_r: &[u8],
    len: usize,
) -> Zeroizing<Vec<u8>> {
    child_keymat(prf.function(), sk_d, shared, [nonce_i, nonce_r], len)
}

/// The AUTH octets of a shared key (RFC 7296 §2.15): `prf(prf(key, "Key Pad for IKEv2"), signed octets)`, where
/// the signed octets are `message | nonce | prf(SK_p, ID payload without its header)`.
pub fn psk_auth(
    prf: Prf,
    secret: &[u8],
    init_message: &[u8],
    peer_nonce: &[u8],
    sk_p: &[u8],
    id_payload_body: &[u8],
) -> Vec<u8> {
    let key = Zeroizing::new(prf.compute(secret, &[b"Key Pad for IKEv2"]));
    let maced_id = prf.compute(sk_p, &[id_payload_body]);
    prf.compute(&key, &[init_message, peer_nonce, &maced_id])
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use sha1::Sha1;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    // NIST ACVP, IKEv2 KDF with PRF HMAC-SHA1, test case 100, as libreswan's tests have it.
    const NI: &str = "32b50d5f4a3763f3";
    const NR: &str = "9206a04b26564cb1";
    const SPI_I: &str = "34c9e7c188868785";
    const SPI_R: &str = "3ff77d760d2b2199";
    const G_IR: &str = "4b2c1f971981a8ad8d0abeafabf38cf75fc8349c148142465ed9c8b516b8be52";
    const G_IR_NEW: &str = "863f3c9d06efd39d2b907b97f8699e5dd5251ef64a2a176f36ee40c87d4f9330";
    const SKEYSEED: &str = "a9a7b222b59f8f48645f28a1db5b5f5d7479cba7";
    const DKM: &str = "a14293677cc80ff8f9cc0eee30d895da9d8f405666e30ef0dfcb63c634a46002a2a63080e514a062768b76606f9fa5e9\
        92204fc5a670bde3f10d6b027113936a5c55b648a194ae587b0088d52204b702c979fa280870d2ed41efa9c549fd1119\
        8af1670b143d384bd275c5f594cf266b05ebadca855e4249520a441a81157435a7a56cc4";
    const DKM_CHILD: &str = "8059e3ee8810e6c3a91bc8bcd2a7a41151b8d0e6ae239c7b38093ad85ef4c5811a8e7b5d1cdabd9560b2d5e092d1f24e\
        2d4b85eccdf0ad0dc9abd94b51ee71814ca6dbc8bb51b6309f5b9545c7eb35cf5580b1e521a8fe20754a2d883ba0c2cf\
        285f524aea6545b33106bc03e614296d319d41d4b50b3f510b1c0a22f3e664994d234cb4";
    const DKM_CHILD_DH: &str = "bb43244c1860ad65ee1e211ffe8bb3661750c8f89cb9f547df7f4fa61d37301628190e38c66232eab4b3ab14c400a519\
        7dd3730ed4820a8a10394d51e1c0400052f63ebd36b0e7ef53aaed31eba4a5080d7d4b5666023a8bbb5ffb7857240f9a\
        05884d1b7d2f933708450b7b3288f1fc863ab49fa901227cffc06e27899c7054d56fd74c";
    const SKEYSEED_REKEY: &str = "63e81194946ebd05df7df5ebf5d8750056bf1f1d";

    #[test]
    fn keys_are_derived_as_the_acvp_vector_has_them() {
        let prf: PrfFn = hmac::<Hmac<Sha1>>;
        let (nonce_i, nonce_r) = (hex(NI), hex(NR));
        let spis = [SPI_I, SPI_R].map(|spi| <[u8; 8]>::try_from(hex(spi)).unwrap());
        let input = KdfInput { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: spis[0], spi_r: spis[1] };
        let (shared, new) = (SharedSecret(hex(G_IR)), SharedSecret(hex(G_IR_NEW)));
        assert_eq!(*skeyseed(prf, &shared, input), hex(SKEYSEED));
        let keymat = ike_keymat(prf, &skeyseed(prf, &shared, input), input, 132);
        assert_eq!(*keymat, hex(DKM));
        let sk_d = &keymat[..20];
        assert_eq!(*child_keymat(prf, sk_d, None, [&nonce_i, &nonce_r], 132), hex(DKM_CHILD));
        assert_eq!(*child_keymat(prf, sk_d, Some(&new), [&nonce_i, &nonce_r], 132), hex(DKM_CHILD_DH));
        assert_eq!(*rekeyed_skeyseed(prf, sk_d, &new, input), hex(SKEYSEED_REKEY));
    }

    #[test]
    fn hmac_gives_the_answers_of_rfc_4231() {
        // RFC 4231 §4.3, test case 2: a key shorter than the output, data in two pieces.
        let answers = [
            (Prf::HmacSha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                Prf::HmacSha384,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                Prf::HmacSha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
                 caeab1a34d4a6b4b636e070a38bce737",
            ),
        ];
        for (prf, answer) in answers {
            assert_eq!(prf.compute(b"Jefe", &[b"what do ya want ", b"for nothing?"]), hex(answer), "{prf:?}");
            assert_eq!(prf.output_len() * 2, answer.len());
        }
    }

    #[test]
    fn the_keys_of_an_ike_sa_are_cut_in_the_order_of_the_rfc() {
        let input = KdfInput { nonce_i: &[1; 32], nonce_r: &[2; 32], spi_i: [3; 8], spi_r: [4; 8] };
        let shared = SharedSecret(vec![5; 32]);
        let keys = derive_ike_keys(Prf::HmacSha256, IkeAead::Aes256Gcm16, &shared, input);
        let prf = Prf::HmacSha256.function();
        let all = [&keys.sk_d[..], &keys.sk_ei, &keys.sk_er, &keys.sk_pi, &keys.sk_pr].concat();
        assert_eq!(all, *ike_keymat(prf, &skeyseed(prf, &shared, input), input, 32 + 36 + 36 + 32 + 32));
        assert_eq!((keys.sk_d.len(), keys.sk_ei.len(), keys.sk_pr.len()), (32, 36, 32));
        assert!(!format!("{keys:?}").contains(|c: char| c.is_ascii_digit()));
    }
}
