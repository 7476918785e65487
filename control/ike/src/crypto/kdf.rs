//! Key derivation (RFC 7296 §2.14 to §2.18, RFC 9370 §2.2.4).

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{DirectionKeys, Prf, Protection, SharedSecret};

fn skeyseed(prf: Prf, shared: &SharedSecret, input: KdfInput<'_>) -> Zeroizing<Vec<u8>> {
    let key = prf.nonce_key(input.nonce_i, input.nonce_r);
    Zeroizing::new(prf.compute(&key, &[&shared.0]))
}

/// SKEYSEED of a rekeyed IKE SA, by the PRF and `SK_d` of the old one (RFC 7296 §2.18, RFC 9370 §2.2.4).
fn rekeyed_skeyseed(
    prf: Prf,
    sk_d: &[u8],
    shared: &[SharedSecret],
    input: KdfInput<'_>,
) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(prf.compute(sk_d, &around_nonces(shared, input.nonce_i, input.nonce_r)))
}

/// `SK(0) | Ni | Nr | SK(1) | … | SK(n)` (RFC 9370 §2.2.4).
fn around_nonces<'a>(shared: &'a [SharedSecret], nonce_i: &'a [u8], nonce_r: &'a [u8]) -> Vec<&'a [u8]> {
    let (first, additional) = shared.split_at(shared.len().min(1));
    let octets = |shared: &'a SharedSecret| shared.0.as_slice();
    first.iter().map(octets).chain([nonce_i, nonce_r]).chain(additional.iter().map(octets)).collect()
}

fn ike_keymat(prf: Prf, skeyseed: &[u8], input: KdfInput<'_>, len: usize) -> Zeroizing<Vec<u8>> {
    prf.plus(skeyseed, &[input.nonce_i, input.nonce_r, &input.spi_i, &input.spi_r], len)
}

/// The keys of an IKE SA (RFC 7296 §2.14). `SK_ei` and `SK_er` are key and salt; `SK_ai` and `SK_ar` are empty with AEADs.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct IkeKeys {
    /// Derives CHILD SA keys.
    pub sk_d: Vec<u8>,
    /// Integrity, initiator to responder.
    pub sk_ai: Vec<u8>,
    /// Integrity, responder to initiator.
    pub sk_ar: Vec<u8>,
    /// Encryption, initiator to responder.
    pub sk_ei: Vec<u8>,
    /// Encryption, responder to initiator.
    pub sk_er: Vec<u8>,
    /// AUTH of the initiator.
    pub sk_pi: Vec<u8>,
    /// AUTH of the responder.
    pub sk_pr: Vec<u8>,
}

impl IkeKeys {
    /// The keys with a post-quantum pre-shared key mixed in (RFC 8784 §3): each of three with prf+, the rest as they are.
    pub fn with_ppk(&self, prf: Prf, ppk: &[u8]) -> Self {
        let mixed = |key: &[u8]| prf.plus(ppk, &[key], key.len()).to_vec();
        let mut keys = self.clone();
        for key in [&mut keys.sk_d, &mut keys.sk_pi, &mut keys.sk_pr] {
            let plain = Zeroizing::new(std::mem::take(key));
            *key = mixed(&plain);
        }
        keys
    }

    /// What the initiator protects with.
    pub fn of_initiator(&self) -> DirectionKeys<'_> {
        DirectionKeys { sk_e: &self.sk_ei, sk_a: &self.sk_ai }
    }

    /// What the responder protects with.
    pub fn of_responder(&self) -> DirectionKeys<'_> {
        DirectionKeys { sk_e: &self.sk_er, sk_a: &self.sk_ar }
    }
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
pub fn derive_ike_keys(
    prf: Prf,
    protection: Protection,
    shared: &SharedSecret,
    input: KdfInput<'_>,
) -> IkeKeys {
    ike_keys(prf, protection, &skeyseed(prf, shared, input), input)
}

/// The same for an IKE SA that replaces another (RFC 7296 §2.18), whose PRF and `SK_d` are given; `shared` are the
/// secrets of its key exchange and of the additional ones (RFC 9370 §2.2.4).
///
/// An IKE SA whose keys are made anew by an additional key exchange in IKE_INTERMEDIATE replaces itself: with one
/// secret, and its own nonces and SPIs (RFC 9370 §2.2.2).
pub fn derive_rekeyed_ike_keys(
    old_prf: Prf,
    old_sk_d: &[u8],
    prf: Prf,
    protection: Protection,
    shared: &[SharedSecret],
    input: KdfInput<'_>,
) -> IkeKeys {
    ike_keys(prf, protection, &rekeyed_skeyseed(old_prf, old_sk_d, shared, input), input)
}

/// The same for an IKE SA that is resumed, with the algorithms that it had (RFC 5723 §5.1).
pub fn derive_resumed_ike_keys(
    prf: Prf,
    old_sk_d: &[u8],
    protection: Protection,
    input: KdfInput<'_>,
) -> IkeKeys {
    let skeyseed = Zeroizing::new(prf.compute(old_sk_d, &[b"Resumption", input.nonce_i, input.nonce_r]));
    ike_keys(prf, protection, &skeyseed, input)
}

fn ike_keys(prf: Prf, protection: Protection, skeyseed: &[u8], input: KdfInput<'_>) -> IkeKeys {
    let (prf_len, integ_len, encr_len) =
        (prf.output_len(), protection.integ_key_len(), protection.encr_key_len());
    let lens = [prf_len, integ_len, integ_len, encr_len, encr_len, prf_len, prf_len];
    let keymat = ike_keymat(prf, skeyseed, input, lens.iter().sum());
    let mut rest = keymat.as_slice();
    let [sk_d, sk_ai, sk_ar, sk_ei, sk_er, sk_pi, sk_pr] = lens.map(|len| {
        let (key, left) = rest.split_at_checked(len).unwrap_or_default();
        rest = left;
        key.to_vec()
    });
    IkeKeys { sk_d, sk_ai, sk_ar, sk_ei, sk_er, sk_pi, sk_pr }
}

/// KEYMAT of a CHILD SA (RFC 7296 §2.17, RFC 9370 §2.2.4): `len` octets, initiator-to-responder key first. `shared` is
/// empty without a key exchange of its own; what follows the first are the secrets of additional ones.
pub fn derive_child_keymat(
    prf: Prf,
    sk_d: &[u8],
    shared: &[SharedSecret],
    nonce_i: &[u8],
    nonce_r: &[u8],
    len: usize,
) -> Zeroizing<Vec<u8>> {
    prf.plus(sk_d, &around_nonces(shared, nonce_i, nonce_r), len)
}

/// The AUTH octets of a shared key (RFC 7296 §2.15): `prf(prf(key, "Key Pad for IKEv2"), signed octets)`, where
/// the signed octets are `message | nonce | prf(SK_p, ID payload without its header)`, and behind them what AUTH covers of
/// IKE_INTERMEDIATE exchanges (RFC 9242 §3.3.2), if there were any.
pub fn psk_auth(
    prf: Prf,
    secret: &[u8],
    init_message: &[u8],
    peer_nonce: &[u8],
    sk_p: &[u8],
    id_payload_body: &[u8],
    int_auth: &[u8],
) -> Vec<u8> {
    let key = Zeroizing::new(prf.compute(secret, &[b"Key Pad for IKEv2"]));
    let maced_id = prf.compute(sk_p, &[id_payload_body]);
    prf.compute(&key, &[init_message, peer_nonce, &maced_id, int_auth])
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::super::{AesKey, IkeEncr, IkeInteg};
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
        let prf = Prf::HmacSha1;
        let (nonce_i, nonce_r) = (hex(NI), hex(NR));
        let spis = [SPI_I, SPI_R].map(|spi| <[u8; 8]>::try_from(hex(spi)).unwrap());
        let input = KdfInput { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: spis[0], spi_r: spis[1] };
        let (shared, new) = (SharedSecret(hex(G_IR)), SharedSecret(hex(G_IR_NEW)));
        assert_eq!(*skeyseed(prf, &shared, input), hex(SKEYSEED));
        let keymat = ike_keymat(prf, &skeyseed(prf, &shared, input), input, 132);
        assert_eq!(*keymat, hex(DKM));
        let sk_d = &keymat[..20];
        let child = |shared: &[SharedSecret]| derive_child_keymat(prf, sk_d, shared, &nonce_i, &nonce_r, 132);
        assert_eq!(*child(&[]), hex(DKM_CHILD));
        assert_eq!(*child(std::slice::from_ref(&new)), hex(DKM_CHILD_DH));
        assert_eq!(*rekeyed_skeyseed(prf, sk_d, &[new], input), hex(SKEYSEED_REKEY));
    }

    #[test]
    fn secrets_of_additional_key_exchanges_follow_the_nonces() {
        let secrets = [1, 2, 3].map(|octet| SharedSecret(vec![octet; 2]));
        assert_eq!(around_nonces(&secrets, &[8], &[9]).concat(), [1, 1, 8, 9, 2, 2, 3, 3]);
        assert_eq!(around_nonces(&[], &[8], &[9]).concat(), [8, 9]);
    }

    /// Worked out by Python's `hmac` from the formula of RFC 9370 §2.2.4 alone.
    #[test]
    fn keymat_of_a_child_with_additional_key_exchanges_is_a_known_answer() {
        let sk_d: Vec<u8> = (0..32).collect();
        let shared = [(0x10, 32), (0x21, 32), (0x32, 48)].map(|(octet, len)| SharedSecret(vec![octet; len]));
        let keymat = derive_child_keymat(Prf::HmacSha256, &sk_d, &shared, &[0xa1; 32], &[0xb2; 32], 72);
        let answer = "99a2a3f5312fa75e0d70d03522f056ae9f9d407ddd693043019a37a56e6df896cb23556fe9e82ce274924672b9a49261\
                      918fc5628d6e8b13e3cd72bc206de64194bed8e7650f6a0d";
        assert_eq!(*keymat, hex(answer));
    }

    /// Worked out by Python's `hmac` from the formula of RFC 5723 §5.1 alone.
    #[test]
    fn the_keys_of_a_resumed_ike_sa_are_a_known_answer() {
        let sk_d: Vec<u8> = (0..32).collect();
        let input = KdfInput { nonce_i: &[1; 32], nonce_r: &[2; 32], spi_i: [3; 8], spi_r: [4; 8] };
        let protection = Protection::new(IkeEncr::AesGcm16(AesKey::Aes256), None).unwrap();
        let keys = derive_resumed_ike_keys(Prf::HmacSha256, &sk_d, protection, input);
        assert_eq!(keys.sk_d, hex("0e1c9bfd36992382161d08d935c50b59c98d69d78c8976f17fb14b3a5ad11fe3"));
        assert_eq!(keys.sk_pr, hex("71ffdd16d306380979a786bfcb465afb3139f1e8ded14747a2eadd74427dc5c0"));
    }

    #[test]
    fn the_keys_of_an_ike_sa_are_cut_in_the_order_of_the_rfc() {
        let input = KdfInput { nonce_i: &[1; 32], nonce_r: &[2; 32], spi_i: [3; 8], spi_r: [4; 8] };
        let shared = SharedSecret(vec![5; 32]);
        let prf = Prf::HmacSha256;
        for (encr, integ, lens) in [
            (IkeEncr::AesGcm16(AesKey::Aes256), None, [32, 0, 0, 36, 36, 32, 32]),
            (IkeEncr::AesCbc(AesKey::Aes128), Some(IkeInteg::HmacSha512), [32, 64, 64, 16, 16, 32, 32]),
        ] {
            let protection = Protection::new(encr, integ).unwrap();
            let keys = derive_ike_keys(prf, protection, &shared, input);
            let all =
                [&keys.sk_d, &keys.sk_ai, &keys.sk_ar, &keys.sk_ei, &keys.sk_er, &keys.sk_pi, &keys.sk_pr];
            assert_eq!(all.map(|key| key.len()), lens);
            let keymat = ike_keymat(prf, &skeyseed(prf, &shared, input), input, lens.iter().sum());
            assert_eq!(all.map(|key| key.clone()).concat(), *keymat);
            assert!(!format!("{keys:?}").contains(|c: char| c.is_ascii_digit()));
        }
    }
}
