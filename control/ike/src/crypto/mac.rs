//! Message authentication codes, which pseudorandom functions and integrity algorithms are made of: HMAC, AES-CMAC and
//! AES-XCBC-MAC.

use aes::Aes128Enc;
use aes::cipher::{Array, BlockCipherEncrypt, typenum::consts};
use aws_lc_rs::cmac;
use hmac::{Hmac, KeyInit, Mac};

pub(super) type HmacSha1 = Hmac<sha1::Sha1>;
pub(super) type HmacSha256 = Hmac<sha2::Sha256>;
pub(super) type HmacSha384 = Hmac<sha2::Sha384>;
pub(super) type HmacSha512 = Hmac<sha2::Sha512>;

/// Octets of an AES-128 key, and of the codes that AES makes.
pub(super) const AES_LEN: usize = 16;

/// HMAC (RFC 2104), of keys of any length. Empty, which is no code, if there is no such key.
pub(super) fn hmac<M: Mac + KeyInit + Clone>(key: &[u8], data: &[&[u8]]) -> Vec<u8> {
    hmac_of::<M>(hmac_key(key).as_ref(), data)
}

/// The key alone, of any length, for several messages.
pub(super) fn hmac_key<M: KeyInit>(key: &[u8]) -> Option<M> {
    M::new_from_slice(key).ok()
}

/// The code of a message under such a key.
pub(super) fn hmac_of<M: Mac + Clone>(key: Option<&M>, data: &[&[u8]]) -> Vec<u8> {
    let Some(mut mac) = key.cloned() else { return Vec::new() };
    data.iter().for_each(|piece| mac.update(piece));
    mac.finalize().into_bytes().to_vec()
}

/// AES-CMAC (RFC 4493). Empty, which is no code, with a key that is not of 16 octets.
pub(super) fn aes_cmac(key: &[u8], data: &[&[u8]]) -> Vec<u8> {
    let Ok(key) = cmac::Key::new(cmac::AES_128, key) else { return Vec::new() };
    let mut context = cmac::Context::with_key(&key);
    let taken = data.iter().try_for_each(|piece| context.update(piece));
    taken.and_then(|()| context.sign()).map(|tag| tag.as_ref().to_vec()).unwrap_or_default()
}

type Block = Array<u8, consts::U16>;

/// AES-XCBC-MAC (RFC 3566 §4), not shortened. Empty, which is no code, with a key that is not of 16 octets.
pub(super) fn aes_xcbc(key: &[u8], data: &[&[u8]]) -> Vec<u8> {
    let Ok(cipher) = Aes128Enc::new_from_slice(key) else { return Vec::new() };
    let [k1, k2, k3] = [1, 2, 3].map(|octet| {
        let mut block = Block::from([octet; AES_LEN]);
        cipher.encrypt_block(&mut block);
        block
    });
    let cipher = Aes128Enc::new(&k1);
    let message = data.concat();
    // The last block is mixed with K2 if it is whole, else padded and mixed with K3.
    let (whole, rest) = message.as_chunks::<AES_LEN>();
    let (whole, last, mask) = match (whole, rest) {
        ([whole @ .., last], []) => (whole, *last, k2),
        (whole, rest) => {
            let mut last = [0; AES_LEN];
            last.iter_mut().zip(rest.iter().chain(&[0x80])).for_each(|(to, from)| *to = *from);
            (whole, last, k3)
        }
    };
    let mut state = Block::default();
    for block in whole {
        xor(&mut state, block);
        cipher.encrypt_block(&mut state);
    }
    xor(&mut state, &last);
    xor(&mut state, &mask);
    cipher.encrypt_block(&mut state);
    state.to_vec()
}

fn xor(state: &mut Block, block: &[u8]) {
    state.iter_mut().zip(block).for_each(|(to, from)| *to ^= from);
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn aes_xcbc_gives_the_answers_of_rfc_3566() {
        // RFC 3566 §4.6: octets counted up from zero, and a thousand zeros.
        let key = hex("000102030405060708090a0b0c0d0e0f");
        for (len, answer) in [
            (0, "75f0251d528ac01c4573dfd584d79f29"),
            (3, "5b376580ae2f19afe7219ceef172756f"),
            (16, "d2a246fa349b68a79998a4394ff7a263"),
            (20, "47f51b4564966215b8985c63055ed308"),
            (32, "f54f0ec8d2b9f3d36807734bd5283fd4"),
            (34, "becbb3bccdb518a30677d5481fb6b4d8"),
        ] {
            let message: Vec<u8> = (0..len).collect();
            assert_eq!(aes_xcbc(&key, &[&message]), hex(answer), "{len}");
            let (one, other) = message.split_at(message.len() / 2);
            assert_eq!(aes_xcbc(&key, &[one, other]), hex(answer), "{len} in two pieces");
        }
        assert_eq!(aes_xcbc(&key, &[&[0; 1000]]), hex("f0dafee895db30253761103b5d84528f"));
    }

    #[test]
    fn aes_cmac_gives_the_answers_of_rfc_4493() {
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c");
        let message = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411");
        for (len, answer) in [
            (0, "bb1d6929e95937287fa37d129b756746"),
            (16, "070a16b46b4d4144f79bdd9dd04a287c"),
            (40, "dfa66747de9ae63030ca32611497c827"),
        ] {
            assert_eq!(aes_cmac(&key, &[&message[..len]]), hex(answer), "{len}");
            let (one, other) = message[..len].split_at(len / 3);
            assert_eq!(aes_cmac(&key, &[one, other]), hex(answer), "{len} in two pieces");
        }
    }

    #[test]
    fn keys_of_another_length_make_no_code() {
        assert!(aes_cmac(&[0; 15], &[b"text"]).is_empty());
        assert!(aes_xcbc(&[0; 17], &[b"text"]).is_empty());
    }
}
