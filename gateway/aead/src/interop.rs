//! The algorithms that are there for interoperability, one packet at a time, each by way of its crate: shortened tags
//! and GMAC, ChaCha20-Poly1305, and ciphers with an HMAC, encrypt-then-MAC as ESP has it (RFC 4303 §3.3.2, §3.4.4).
//!
//! Cipher keys are expanded for each packet: with AES instructions that takes some tens of nanoseconds, against
//! hundreds for what follows, and so keys stay within [`Key`].

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt};
use aes::cipher::{InnerIvInit, StreamCipherCore, typenum::consts};
use aes::{Aes128, Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256, Aes256Dec, Aes256Enc};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, AesGcm, KeyInit};
use chacha20poly1305::ChaCha20Poly1305;
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::{Aes, Algorithm, Hmac, Key, MAX_AAD, Packet, hmac};

type Block = Array<u8, consts::U16>;
type Aes128Gcm12 = AesGcm<Aes128, consts::U12, consts::U12>;
type Aes256Gcm12 = AesGcm<Aes256, consts::U12, consts::U12>;
type Aes128Gcm8 = AesGcm<Aes128, consts::U12, consts::U8>;
type Aes256Gcm8 = AesGcm<Aes256, consts::U12, consts::U8>;

/// Encrypts the buffer and writes its tag. One that does not fit the algorithm is left alone.
pub(crate) fn seal(packet: &mut Packet<'_>) {
    let Some(parts) = Parts::of(packet) else { return };
    if work::<true>(parts) == Some(false) {
        packet.buffer.fill(0);
    }
}

/// Checks the tag and decrypts the buffer, or fills it with zeros. One that does not fit the algorithm is left alone.
pub(crate) fn open(packet: &mut Packet<'_>) {
    let Some(parts) = Parts::of(packet) else { return };
    match work::<false>(parts) {
        Some(true) => packet.authentic = true,
        Some(false) => packet.buffer.fill(0),
        None => {}
    }
}

/// A packet taken apart.
struct Parts<'p> {
    key: &'p Key,
    nonce: [u8; 12],
    /// SPI and sequence number.
    head: &'p [u8],
    /// IV and text.
    body: &'p mut [u8],
    tag: &'p mut [u8],
}

impl<'p> Parts<'p> {
    /// `None` if there is no room for IV and tag.
    fn of(packet: &'p mut Packet<'_>) -> Option<Self> {
        let algorithm = packet.key.algorithm();
        let end =
            packet.buffer.len().checked_sub(algorithm.tag_len()).filter(|end| *end >= algorithm.iv_len())?;
        let (body, tag) = packet.buffer.split_at_mut_checked(end)?;
        let head = packet.aad.get(..packet.aad_len.min(MAX_AAD))?;
        Some(Self { key: packet.key, nonce: packet.nonce, head, body, tag })
    }
}

/// Whether the packet was sealed, or authentic and opened; `None` if its text is of an impossible length.
fn work<const SEAL: bool>(parts: Parts<'_>) -> Option<bool> {
    match parts.key.algorithm() {
        // These have engines.
        Algorithm::Aes128Gcm | Algorithm::Aes256Gcm => None,
        Algorithm::Aes128Gcm12 => Some(aead::<SEAL, Aes128Gcm12>(parts)),
        Algorithm::Aes256Gcm12 => Some(aead::<SEAL, Aes256Gcm12>(parts)),
        Algorithm::Aes128Gcm8 => Some(aead::<SEAL, Aes128Gcm8>(parts)),
        Algorithm::Aes256Gcm8 => Some(aead::<SEAL, Aes256Gcm8>(parts)),
        Algorithm::ChaCha20Poly1305 => Some(aead::<SEAL, ChaCha20Poly1305>(parts)),
        Algorithm::Aes128Gmac => Some(gmac::<SEAL, Aes128Enc>(parts)),
        Algorithm::Aes256Gmac => Some(gmac::<SEAL, Aes256Enc>(parts)),
        Algorithm::AesCbc(aes, mac) => {
            let whole = parts.body.len().is_multiple_of(16);
            whole.then(|| encrypt_then_mac::<SEAL>(parts, mac, cbc::<SEAL>(aes)))
        }
        Algorithm::AesCtr(aes, mac) => Some(encrypt_then_mac::<SEAL>(parts, mac, ctr(aes))),
        Algorithm::Null(mac) => Some(encrypt_then_mac::<SEAL>(parts, mac, |_, _, _| true)),
    }
}

/// The cipher, if `key` begins with a key for it.
fn keyed<C: KeyInit>(key: &[u8]) -> Option<C> {
    C::new_from_slice(key.get(..C::key_size())?).ok()
}

fn aead<const SEAL: bool, C>(parts: Parts<'_>) -> bool
where
    C: KeyInit + AeadInOut<NonceSize = consts::U12>,
{
    let Parts { key, nonce, head, body, tag } = parts;
    let Some(cipher) = keyed::<C>(&*key.cipher_key()) else { return false };
    let text = InOutBuf::from(body);
    if SEAL {
        let computed = cipher.encrypt_inout_detached((&nonce).into(), head, text);
        computed.map(|computed| tag.copy_from_slice(&computed)).is_ok()
    } else {
        (&*tag)
            .try_into()
            .is_ok_and(|tag| cipher.decrypt_inout_detached((&nonce).into(), head, text, tag).is_ok())
    }
}

/// GMAC over head, IV and text as one string (RFC 4543 §3.3).
fn gmac<const SEAL: bool, C>(parts: Parts<'_>) -> bool
where
    C: KeyInit + BlockCipherEncrypt<BlockSize = consts::U16>,
{
    let Parts { key, nonce, head, body, tag } = parts;
    let Some(cipher) = keyed::<C>(&*key.cipher_key()) else { return false };
    let mut subkey = Block::default();
    cipher.encrypt_block(&mut subkey);
    let mut ghash = GHash::new(&subkey);
    subkey.as_mut_slice().zeroize();
    // The head is shorter than a block, the string hardly ever.
    let (completing, rest) = body.split_at(body.len().min(16 - head.len()));
    let mut first = Block::default();
    first.iter_mut().zip(head.iter().chain(completing)).for_each(|(to, from)| *to = *from);
    ghash.update(&[first]);
    ghash.update_padded(rest);
    let bits = 8 * (head.len() + body.len()) as u128;
    ghash.update(&[(bits << 64).to_be_bytes().into()]);
    let mut computed = counter_block(nonce);
    cipher.encrypt_block(&mut computed);
    computed.iter_mut().zip(ghash.finalize()).for_each(|(to, from)| *to ^= from);
    write_or_compare::<SEAL>(&computed, tag)
}

/// Twelve octets and a counter that starts at one (NIST SP 800-38D §7.1, RFC 3686 §4).
fn counter_block([n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11]: [u8; 12]) -> Block {
    [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, 0, 0, 0, 1].into()
}

/// `cipher` works on cipher key, nonce, and body.
fn encrypt_then_mac<const SEAL: bool>(
    parts: Parts<'_>,
    mac: Hmac,
    cipher: impl Fn(&[u8], [u8; 12], &mut [u8]) -> bool,
) -> bool {
    let Parts { key, nonce, head, body, tag } = parts;
    if SEAL && !cipher(&*key.cipher_key(), nonce, body) {
        return false;
    }
    // SPI and lower half as the packet has them, and last what it does not have (RFC 4303 §2.2.1).
    let (spi, sequence) = head.split_at(head.len().min(4));
    let (upper, lower) = sequence.split_at(sequence.len().saturating_sub(4));
    let computed = hmac::compute(mac, &key.powers, &[spi, lower, body, upper]);
    let right = computed.is_some_and(|computed| {
        let (computed, _) = computed.split_at(tag.len().min(computed.len()));
        write_or_compare::<SEAL>(computed, tag)
    });
    right && (SEAL || cipher(&*key.cipher_key(), nonce, body))
}

/// Whether, if it was to be compared, the tag was right. In constant time.
fn write_or_compare<const SEAL: bool>(computed: &[u8], tag: &mut [u8]) -> bool {
    if SEAL {
        tag.iter_mut().zip(computed).for_each(|(to, from)| *to = *from);
        return true;
    }
    computed.ct_eq(tag).into()
}

/// The work of AES in counter mode on a body whose IV is part of the nonce.
fn ctr(aes: Aes) -> fn(&[u8], [u8; 12], &mut [u8]) -> bool {
    fn with<C>(key: &[u8], nonce: [u8; 12], body: &mut [u8]) -> bool
    where
        C: KeyInit + BlockCipherEncrypt<BlockSize = consts::U16>,
    {
        let (Some(cipher), Some((_, text))) = (keyed::<C>(key), body.split_first_chunk_mut::<8>()) else {
            return false;
        };
        let core = ctr::CtrCore::<C, ctr::flavors::Ctr32BE>::inner_iv_init(cipher, &counter_block(nonce));
        core.apply_keystream_partial(InOutBuf::from(text));
        true
    }
    match aes {
        Aes::Aes128 => with::<Aes128Enc>,
        Aes::Aes192 => with::<Aes192Enc>,
        Aes::Aes256 => with::<Aes256Enc>,
    }
}

/// The work of AES-CBC on a body that is whole blocks, the first of them the IV.
///
/// The IV must not be known before the text is chosen (RFC 3602 §2.3, §5): it is the nonce, encrypted under the same
/// key (NIST SP 800-38A Appendix C).
fn cbc<const SEAL: bool>(aes: Aes) -> fn(&[u8], [u8; 12], &mut [u8]) -> bool {
    fn seal<C>(
        key: &[u8],
        [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11]: [u8; 12],
        body: &mut [u8],
    ) -> bool
    where
        C: KeyInit + BlockCipherEncrypt<BlockSize = consts::U16>,
    {
        let (Some(cipher), Some((iv, text))) = (keyed::<C>(key), blocks(body).split_first_mut()) else {
            return false;
        };
        *iv = [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, 0, 0, 0, 0].into();
        cipher.encrypt_block(iv);
        cbc::Encryptor::inner_iv_init(cipher, iv).encrypt_blocks(text);
        true
    }
    fn open<C>(key: &[u8], _: [u8; 12], body: &mut [u8]) -> bool
    where
        C: KeyInit + BlockCipherDecrypt<BlockSize = consts::U16>,
    {
        let (Some(cipher), Some((iv, text))) = (keyed::<C>(key), blocks(body).split_first_mut()) else {
            return false;
        };
        cbc::Decryptor::inner_iv_init(cipher, iv).decrypt_blocks(text);
        true
    }
    match (SEAL, aes) {
        (true, Aes::Aes128) => seal::<Aes128Enc>,
        (true, Aes::Aes192) => seal::<Aes192Enc>,
        (true, Aes::Aes256) => seal::<Aes256Enc>,
        (false, Aes::Aes128) => open::<Aes128Dec>,
        (false, Aes::Aes192) => open::<Aes192Dec>,
        (false, Aes::Aes256) => open::<Aes256Dec>,
    }
}

fn blocks(octets: &mut [u8]) -> &mut [Block] {
    Array::cast_slice_from_core_mut(octets.as_chunks_mut().0)
}
