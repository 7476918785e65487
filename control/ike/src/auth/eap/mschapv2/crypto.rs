//! The arithmetic of MS-CHAPv2 (RFC 2759 §8) and of its keys (RFC 3079 §3): MD4, DES and SHA-1, as old as they are. It
//! stands here for interoperation alone.

use des::Des;
use des::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use md4::{Digest as _, Md4};
use sha1::Sha1;
use zeroize::Zeroizing;

use super::super::Msk;
use super::message::Challenge;

/// The hash of a password: as good as the password.
pub(in crate::auth::eap) type PasswordHash = Zeroizing<[u8; 16]>;
/// A client's proof.
pub(in crate::auth::eap) type NtResponse = [u8; 24];

/// `NtPasswordHash`: MD4 of the password in UTF-16, little endian. Octets that are no UTF-8 stand for themselves.
pub(in crate::auth::eap) fn password_hash(password: &[u8]) -> PasswordHash {
    let unicode: Zeroizing<Vec<u8>> = Zeroizing::new(match std::str::from_utf8(password) {
        Ok(text) => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        Err(_) => password.iter().flat_map(|octet| [*octet, 0]).collect(),
    });
    Zeroizing::new(Md4::digest(unicode.as_slice()).into())
}

/// `ChallengeHash`.
fn challenge_hash(peer: &Challenge, server: &Challenge, user: &[u8]) -> [u8; 8] {
    let digest: [u8; 20] =
        Sha1::new().chain_update(peer).chain_update(server).chain_update(user).finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    [a, b, c, d, e, f, g, h]
}

/// `GenerateNTResponse`.
pub(in crate::auth::eap) fn nt_response(
    server: &Challenge,
    peer: &Challenge,
    user: &[u8],
    hash: &PasswordHash,
) -> NtResponse {
    challenge_response(challenge_hash(peer, server, user), hash)
}

/// `ChallengeResponse`: the challenge encrypted with three keys cut from the hash.
pub(in crate::auth::eap) fn challenge_response(challenge: [u8; 8], hash: &PasswordHash) -> NtResponse {
    let mut padded = Zeroizing::new([0; 21]);
    padded.iter_mut().zip(hash.iter()).for_each(|(to, from)| *to = *from);
    let mut response = [0; 24];
    for (key, block) in padded.as_chunks::<7>().0.iter().zip(response.as_chunks_mut::<8>().0) {
        *block = challenge;
        Des::new(&with_parity(key).into()).encrypt_block(block.into());
    }
    response
}

/// 56 bits of key, seven to an octet; DES ignores the eighth.
fn with_parity(key: &[u8; 7]) -> [u8; 8] {
    let bits = key.iter().fold(0_u64, |bits, octet| bits << 8 | u64::from(*octet));
    let mut octets = [0; 8];
    for (octet, shift) in octets.iter_mut().zip((0..=49).rev().step_by(7)) {
        *octet = ((bits >> shift & 0x7f) as u8) << 1;
    }
    octets
}

/// `GenerateAuthenticatorResponse`, without the `S=` before it: the server's proof, 20 octets.
pub(in crate::auth::eap) fn authenticator_response(
    server: &Challenge,
    peer: &Challenge,
    user: &[u8],
    hash: &PasswordHash,
    response: &NtResponse,
) -> [u8; 20] {
    const MAGIC_1: &[u8] = b"Magic server to client signing constant";
    const MAGIC_2: &[u8] = b"Pad to make it do more than one iteration";
    let hash_hash: Zeroizing<[u8; 16]> = Zeroizing::new(Md4::digest(hash.as_slice()).into());
    let digest = Sha1::new()
        .chain_update(hash_hash.as_slice())
        .chain_update(response)
        .chain_update(MAGIC_1)
        .finalize();
    Sha1::new()
        .chain_update(digest)
        .chain_update(challenge_hash(peer, server, user))
        .chain_update(MAGIC_2)
        .finalize()
        .into()
}

/// The master session key: `MasterReceiveKey | MasterSendKey` of the server with 128 bits each (RFC 3079 §3), and 32
/// octets of zero.
pub(super) fn msk(hash: &PasswordHash, response: &NtResponse) -> Option<Msk> {
    const RECEIVE: &[u8] =
        b"On the client side, this is the send key; on the server side, it is the receive key.";
    const SEND: &[u8] =
        b"On the client side, this is the receive key; on the server side, it is the send key.";
    let master = master_key(hash, response);
    let mut octets = Vec::with_capacity(64);
    for magic in [RECEIVE, SEND] {
        octets.extend(session_key(&master, magic).iter());
    }
    octets.resize(64, 0);
    Msk::new(octets)
}

/// `GetMasterKey`.
pub(super) fn master_key(hash: &PasswordHash, response: &NtResponse) -> Zeroizing<[u8; 16]> {
    const MAGIC: &[u8] = b"This is the MPPE Master Key";
    let hash_hash: Zeroizing<[u8; 16]> = Zeroizing::new(Md4::digest(hash.as_slice()).into());
    first_16(Sha1::new().chain_update(hash_hash.as_slice()).chain_update(response).chain_update(MAGIC))
}

/// `GetAsymmetricStartKey` with 128 bits.
pub(super) fn session_key(master: &Zeroizing<[u8; 16]>, magic: &[u8]) -> Zeroizing<[u8; 16]> {
    let hash = Sha1::new().chain_update(master.as_slice()).chain_update([0; 40]);
    first_16(hash.chain_update(magic).chain_update([0xf2; 40]))
}

fn first_16(hash: Sha1) -> Zeroizing<[u8; 16]> {
    let digest: [u8; 20] = hash.finalize().into();
    let mut first = Zeroizing::new([0; 16]);
    first.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    first
}
