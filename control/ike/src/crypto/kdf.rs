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

    // The inputs of NIST's ACVP test case 100 of the IKEv2 KDF, as libreswan's tests have it.
    const NI: &str = "32b50d5f4a3763f3";
    const NR: &str = "9206a04b26564cb1";
    const SPI_I: &str = "34c9e7c188868785";
    const SPI_R: &str = "3ff77d760d2b2199";
    const G_IR: &str = "4b2c1f971981a8ad8d0abeafabf38cf75fc8349c148142465ed9c8b516b8be52";
    const G_IR_NEW: &str = "863f3c9d06efd39d2b907b97f8699e5dd5251ef64a2a176f36ee40c87d4f9330";

    struct Answers {
        prf: Prf,
        skeyseed: &'static str,
        dkm: &'static str,
        child: &'static str,
        child_dh: &'static str,
        rekeyed: &'static str,
    }

    /// With HMAC-SHA1, NIST's answers; with the others, what libreswan's `cavp` (4.10, `-hashAlg SHA-256` and so on) makes of
    /// the same inputs.
    const ANSWERS: [Answers; 4] = [
        Answers {
            prf: Prf::HmacSha1,
            skeyseed: "a9a7b222b59f8f48645f28a1db5b5f5d7479cba7",
            dkm: "a14293677cc80ff8f9cc0eee30d895da9d8f405666e30ef0dfcb63c634a46002a2a63080e514a062768b7660\
             6f9fa5e992204fc5a670bde3f10d6b027113936a5c55b648a194ae587b0088d52204b702c979fa280870d2ed\
             41efa9c549fd11198af1670b143d384bd275c5f594cf266b05ebadca855e4249520a441a81157435a7a56cc4",
            child: "8059e3ee8810e6c3a91bc8bcd2a7a41151b8d0e6ae239c7b38093ad85ef4c5811a8e7b5d1cdabd9560b2d5e0\
             92d1f24e2d4b85eccdf0ad0dc9abd94b51ee71814ca6dbc8bb51b6309f5b9545c7eb35cf5580b1e521a8fe20\
             754a2d883ba0c2cf285f524aea6545b33106bc03e614296d319d41d4b50b3f510b1c0a22f3e664994d234cb4",
            child_dh: "bb43244c1860ad65ee1e211ffe8bb3661750c8f89cb9f547df7f4fa61d37301628190e38c66232eab4b3ab14\
             c400a5197dd3730ed4820a8a10394d51e1c0400052f63ebd36b0e7ef53aaed31eba4a5080d7d4b5666023a8b\
             bb5ffb7857240f9a05884d1b7d2f933708450b7b3288f1fc863ab49fa901227cffc06e27899c7054d56fd74c",
            rekeyed: "63e81194946ebd05df7df5ebf5d8750056bf1f1d",
        },
        Answers {
            prf: Prf::HmacSha256,
            skeyseed: "2ce764425edae6bf459a41e4122c6b8429cc46b9ce14c76abc8b1467f5ca2159",
            dkm: "c5a1652b17dc00062e518d71961b996c543b90b8bc54adc6af9f9106c1196a0f9c9b7610ce4a7a0dd301ad7e\
             2d3dd349d76dda0233793b121f62c3a57585a0a2d35b4766651e682770389e533c82522639c5c35fd5c665cf\
             ae18d0fe774cabd5938632924d57d232e4eec175ac4c8003c42efa2a275ed3c76bfdd9b284260795cfcb9a9f",
            child: "f8dbf251b031ebcda17fd4ed543ee0f1c478806bbc4b1117d04baa1cba23fa05285212dcb6737078a97fbbb0\
             8cd05d6877c602857b0aa412f6578aa1baaff831636bc4a66981f8f7cf9cb6e4fdfce83a91c3e6c7ea8d42ed\
             4c2b58f2acc0a67a71f5aa24222b7b24397e084bdefaba28e45a0ff827cbc8769634a5b74e4b866dcd78b686",
            child_dh: "36a4790a0b6d8079ef93c022f1e723a4c5cf56e0a182bba12f910ceb6dbfd376b8dc51ab4d5690aef00a0d53\
             09a09d2b65f166706bd231f3250304c835eb6d9f2d23bede9f97117cf42f8e581b4b1ca4e4b8e8bab5ce62fd\
             383af5645c5c7f7d3ffc2c2ac5a4c80540550c798857b7b0c75c42a302538c0c09d8b73f9150a705d6e87f71",
            rekeyed: "7ecfbdf17fc58b2500169942954689def2cbe31b2dc479bddae77fcc0cd4ee2b",
        },
        Answers {
            prf: Prf::HmacSha384,
            skeyseed: "7d1ffafaca6d1158c9c976d62c9b2316caf485392d71ce057eb93fcb5ceb82ba701428b49e1d3dfba4e10a4b\
             ad80519b",
            dkm: "d9b2af3a958c5fe0a821dd765b23c7da24ff7fab24229f2c8a71786db1591036181759fd44e418b301f40f13\
             87b2f4ff13d2598a71164eb12c6e4ec0972143c894630ee5d042b7cbc1b904e614d0f8dc9f7669539cafb75b\
             5cfb9434517a1cb2e82bdb3923b07934778ec23b7e03c77e4ce6380c3e562b6337204e41f8a5583ae97fe0e4",
            child: "39638c183ed9afbfccd70c60b9cf1574995e8fcd8484819e87c50b37af636516ec91630ccc91f081e0641112\
             7679c5fd81dd252b8e5340087d36dfaaa0bdc32bcd066a663ef29b8cd002b93770020ee6bb488737a300b2ea\
             f5299e0cbf4031594d9e3c6d63886cd0fdfc8b73c7eaf81d2febdf37e3c504d02ab8bfac93e015a9156df779",
            child_dh: "cdaaa769e0fea7124c068c13010a2448e8b69a25ad660dc57566506470eda05d579828fdd94c51113bd0ca0b\
             b39169f4ee71d936592b25091f1003c91d7352391593c009b8422f2feea72ff7ab38ca855af693ffbe0ab25e\
             77408285f45eac10e3ed5ff9ecf07038e95a48537516a87127d0b9c2712c79f653e8d81a9ae6ac9d9c63fe22",
            rekeyed: "7643fcfcdb06edc085a5b34d4c498f7327fe04517917e9dc8c342f29dbebb073084e735f313c44e2c684c041\
             d31b0d8e",
        },
        Answers {
            prf: Prf::HmacSha512,
            skeyseed: "a795716b545c4efa4e2ed98011790f17be4663080a63116ad693eb6a0e0cdf5ead659d75d677aaf29c53e758\
             645b49ce9b676001f03f8e8366ff4cd21bea38cd",
            dkm: "2b0248c072d42344438ff1bd9d40085cd8d49ab62c40d7e604dcbc28600372be7c859bbebf7a36ed2ece3bb6\
             4e87391d7d8efa710271168438957fead3bbc9c4b98c185e19df89f767a5f3ecd005517777323bc95f4f2466\
             b3ebcf0541550b0ddebf1007eb7fb8c90f18aa5a2195e44841d67092a68db6b8de0e286a2cd19cf1dd382ade",
            child: "d9bb85737b920ffa586db08c21cd4c04bbc2a418966eee340119b8519fe62ab9fc58de1c88ee0526a6ba5f82\
             101547e74226a4a1aabad7815b96452167b3ea46724ebf997087d8a95d464d4f8726efdc903f435547b71c5a\
             477aba443ee72ffa203d023a623c63f0677e5f5313dc91425ea65ae4f5998e0c56873e4661dd232e66626856",
            child_dh: "e83f3e1dfcbd45a2c39bd36f9f65662823b674e524223f23c3d5b89d6c5d2fa38ec0ba8cfe1428ade7850666\
             d4d635124479894f972a553f6ee27a106e10a4a99e63c7f8d4a5d471fc5c50dbbade188f47e42ec478925f47\
             e125f75059e2077d7e1445af669f8ec2964d8ed13f2282edcf37e0313948db1e57dc66a52978a9a6c374e9ac",
            rekeyed: "7b0663f0766366ac855979bbd2fb0e37af02b62889e38d038445ddf230267bfbb519dd2b6a94b1e588a1d5f2\
             372b9fb9856b264efa98df0676ce42646fb722ba",
        },
    ];

    #[test]
    fn keys_are_derived_as_nist_and_libreswan_have_them() {
        let (nonce_i, nonce_r) = (hex(NI), hex(NR));
        let spis = [SPI_I, SPI_R].map(|spi| <[u8; 8]>::try_from(hex(spi)).unwrap());
        let input = KdfInput { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: spis[0], spi_r: spis[1] };
        let (shared, new) = (SharedSecret(hex(G_IR)), SharedSecret(hex(G_IR_NEW)));
        for Answers { prf, skeyseed: seed, dkm, child, child_dh, rekeyed } in ANSWERS {
            assert_eq!(*skeyseed(prf, &shared, input), hex(seed), "{prf:?}");
            let keymat = ike_keymat(prf, &skeyseed(prf, &shared, input), input, 132);
            assert_eq!(*keymat, hex(dkm), "{prf:?}");
            let sk_d = &keymat[..prf.output_len()];
            let of =
                |shared: &[SharedSecret]| derive_child_keymat(prf, sk_d, shared, &nonce_i, &nonce_r, 132);
            assert_eq!(*of(&[]), hex(child), "{prf:?}");
            assert_eq!(*of(std::slice::from_ref(&new)), hex(child_dh), "{prf:?}");
            assert_eq!(
                *rekeyed_skeyseed(prf, sk_d, std::slice::from_ref(&new), input),
                hex(rekeyed),
                "{prf:?}"
            );
        }
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
