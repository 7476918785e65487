//! Pseudorandom functions (RFC 7296 §2.13).

use zeroize::Zeroizing;

use super::mac::{
    AES_LEN, HmacSha1, HmacSha256, HmacSha384, HmacSha512, aes_cmac, aes_xcbc, hmac_key, hmac_of,
};

/// Pseudorandom functions (transform type 2), with their transform IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Prf {
    /// PRF_HMAC_SHA1 (RFC 2104). For old peers: only where it is named.
    HmacSha1 = 2,
    /// PRF_AES128_XCBC (RFC 4434).
    AesXcbc = 4,
    /// PRF_HMAC_SHA2_256 (RFC 4868).
    HmacSha256 = 5,
    /// PRF_HMAC_SHA2_384.
    HmacSha384 = 6,
    /// PRF_HMAC_SHA2_512.
    HmacSha512 = 7,
    /// PRF_AES128_CMAC (RFC 4615).
    AesCmac = 8,
}

impl Prf {
    /// Every PRF that is supported.
    pub const ALL: [Self; 6] =
        [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512, Self::AesXcbc, Self::AesCmac, Self::HmacSha1];

    /// The transform ID.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Octets of output, and of the preferred key.
    pub fn output_len(self) -> usize {
        match self {
            Self::AesXcbc | Self::AesCmac => AES_LEN,
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// `prf(key, data)`, data given in pieces, the key of any length.
    pub fn compute(self, key: &[u8], data: &[&[u8]]) -> Vec<u8> {
        self.keyed(key).compute(data)
    }

    /// `prf+(key, seed)`, `len` octets, 255 outputs at most (RFC 7296 §2.13).
    pub fn plus(self, key: &[u8], seed: &[&[u8]], len: usize) -> Zeroizing<Vec<u8>> {
        let keyed = self.keyed(key);
        let mut stream = Zeroizing::new(Vec::with_capacity(len + self.output_len()));
        let mut block = Zeroizing::new(Vec::new());
        for counter in 1..=u8::MAX {
            if stream.len() >= len {
                break;
            }
            let mut data: Vec<&[u8]> = vec![&block];
            data.extend(seed);
            let number = [counter];
            data.push(&number);
            block = Zeroizing::new(keyed.compute(&data));
            stream.extend_from_slice(&block);
        }
        stream.truncate(len);
        stream
    }

    fn keyed(self, key: &[u8]) -> Keyed {
        match self {
            Self::HmacSha1 => Keyed::HmacSha1(hmac_key(key)),
            Self::HmacSha256 => Keyed::HmacSha256(hmac_key(key)),
            Self::HmacSha384 => Keyed::HmacSha384(hmac_key(key)),
            Self::HmacSha512 => Keyed::HmacSha512(hmac_key(key)),
            Self::AesXcbc => Keyed::AesXcbc(xcbc_key(key)),
            Self::AesCmac => Keyed::AesCmac(cmac_key(key)),
        }
    }

    /// The key that SKEYSEED is made with: both nonces; of those whose key is of fixed length, the first eight octets
    /// of each (RFC 7296 §2.14).
    pub(super) fn nonce_key(self, nonce_i: &[u8], nonce_r: &[u8]) -> Vec<u8> {
        let taken = match self {
            Self::AesXcbc | Self::AesCmac => AES_LEN / 2,
            _ => usize::MAX,
        };
        [nonce_i, nonce_r].iter().flat_map(|nonce| nonce.iter().take(taken)).copied().collect()
    }
}

/// A PRF with its key, which HMAC has then hashed once for all.
enum Keyed {
    HmacSha1(Option<HmacSha1>),
    HmacSha256(Option<HmacSha256>),
    HmacSha384(Option<HmacSha384>),
    HmacSha512(Option<HmacSha512>),
    AesXcbc(Zeroizing<Vec<u8>>),
    AesCmac(Zeroizing<Vec<u8>>),
}

impl Keyed {
    fn compute(&self, data: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::HmacSha1(key) => hmac_of(key.as_ref(), data),
            Self::HmacSha256(key) => hmac_of(key.as_ref(), data),
            Self::HmacSha384(key) => hmac_of(key.as_ref(), data),
            Self::HmacSha512(key) => hmac_of(key.as_ref(), data),
            Self::AesXcbc(key) => aes_xcbc(key, data),
            Self::AesCmac(key) => aes_cmac(key, data),
        }
    }
}

/// A key of any length as AES takes it: padded with zeros, or made shorter by the function itself (RFC 4434 §2).
fn xcbc_key(key: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut fitting = match key.len() {
        ..=AES_LEN => key.to_vec(),
        _ => aes_xcbc(&[0; AES_LEN], &[key]),
    };
    fitting.resize(AES_LEN, 0);
    Zeroizing::new(fitting)
}

/// The same for CMAC, which makes a key of its own of every other length (RFC 4615 §3).
fn cmac_key(key: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(if key.len() == AES_LEN { key.to_vec() } else { aes_cmac(&[0; AES_LEN], &[key]) })
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn hmac_gives_the_answers_of_rfc_2202_and_rfc_4231() {
        // Test case 2 of both: a key shorter than the output, data in two pieces.
        let answers = [
            (Prf::HmacSha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
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
    fn the_prfs_of_aes_give_the_answers_of_rfc_4434_and_rfc_4615() {
        // RFC 4434 §2 and RFC 4615 §4: keys of 16, 10 and 18 octets, and the message of 20 octets.
        let message = hex("000102030405060708090a0b0c0d0e0f10111213");
        for (key, xcbc, cmac) in [
            (
                "000102030405060708090a0b0c0d0e0f",
                "47f51b4564966215b8985c63055ed308",
                "980ae87b5f4c9c5214f5b6a8455e4c2d",
            ),
            ("00010203040506070809", "0fa087af7d866e7653434e602fdde835", "290d9e112edb09ee141fcf64c0b72f3d"),
            (
                "000102030405060708090a0b0c0d0e0fedcb",
                "8cd3c93ae598a9803006ffb67c40e9e4",
                "84a348a4a45d235babfffc0d2b4da09a",
            ),
        ] {
            assert_eq!(Prf::AesXcbc.compute(&hex(key), &[&message]), hex(xcbc), "{key}");
            assert_eq!(Prf::AesCmac.compute(&hex(key), &[&message]), hex(cmac), "{key}");
        }
    }

    #[test]
    fn skeyseed_takes_eight_octets_of_each_nonce_where_keys_have_a_fixed_length() {
        let (nonce_i, nonce_r) = ([1; 32], [2; 16]);
        assert_eq!(Prf::AesXcbc.nonce_key(&nonce_i, &nonce_r), [[1; 8], [2; 8]].concat());
        assert_eq!(Prf::HmacSha256.nonce_key(&nonce_i, &nonce_r), [&nonce_i[..], &nonce_r].concat());
    }
}
