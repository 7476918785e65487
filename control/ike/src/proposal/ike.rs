//! IKE's encryption and integrity keywords. AEADs go without an integrity algorithm, all else with one.

use super::ProposalError;
use crate::crypto::{AesKey, IkeEncr, IkeInteg, Prf};

/// The first keyword of each meaning is the one that is printed.
const INTEGRITIES: &[(&str, IkeInteg)] = &[
    ("sha256", IkeInteg::HmacSha256),
    ("sha2_256", IkeInteg::HmacSha256),
    ("sha384", IkeInteg::HmacSha384),
    ("sha2_384", IkeInteg::HmacSha384),
    ("sha512", IkeInteg::HmacSha512),
    ("sha2_512", IkeInteg::HmacSha512),
    ("aesxcbc", IkeInteg::AesXcbc),
    ("aescmac", IkeInteg::AesCmac),
    ("sha1", IkeInteg::HmacSha1),
    ("sha", IkeInteg::HmacSha1),
];

/// The encryption algorithm of a keyword: `aes`, bits, mode, and octets or bits of ICV.
pub(super) fn encr(word: &str) -> Option<IkeEncr> {
    if word == "chacha20poly1305" {
        return Some(IkeEncr::ChaCha20Poly1305);
    }
    let rest = word.strip_prefix("aes")?;
    let keys = [("128", AesKey::Aes128), ("192", AesKey::Aes192), ("256", AesKey::Aes256)];
    let key = keys.into_iter().find_map(|(bits, key)| rest.strip_prefix(bits).map(|mode| (key, mode)));
    match (key, rest) {
        (Some((key, "")), _) => Some(IkeEncr::AesCbc(key)),
        (Some((key, "ctr")), _) => Some(IkeEncr::AesCtr(key)),
        (Some((key, "gcm16" | "gcm128" | "gcm")), _) => Some(IkeEncr::AesGcm16(key)),
        (Some((key, "gcm12" | "gcm96")), _) => Some(IkeEncr::AesGcm12(key)),
        (Some((key, "gcm8" | "gcm64")), _) => Some(IkeEncr::AesGcm8(key)),
        // Without bits they are 128, as strongSwan reads it.
        (None, "") => Some(IkeEncr::AesCbc(AesKey::Aes128)),
        (None, "ctr") => Some(IkeEncr::AesCtr(AesKey::Aes128)),
        _ => None,
    }
}

/// The keyword that is printed.
pub(super) fn encr_name(encr: IkeEncr) -> String {
    let bits = encr.key_bits().unwrap_or_default();
    match encr {
        IkeEncr::AesCbc(_) => format!("aes{bits}"),
        IkeEncr::AesCtr(_) => format!("aes{bits}ctr"),
        IkeEncr::AesGcm8(_) => format!("aes{bits}gcm8"),
        IkeEncr::AesGcm12(_) => format!("aes{bits}gcm12"),
        IkeEncr::AesGcm16(_) => format!("aes{bits}gcm16"),
        IkeEncr::ChaCha20Poly1305 => "chacha20poly1305".to_owned(),
    }
}

/// The integrity algorithm of a keyword.
pub(super) fn integ(word: &str) -> Option<IkeInteg> {
    INTEGRITIES.iter().find(|(name, _)| *name == word).map(|(_, integ)| *integ)
}

/// The keyword that is printed.
pub(super) fn integ_name(integ: IkeInteg) -> &'static str {
    INTEGRITIES.iter().find(|(_, found)| *found == integ).map_or("", |(name, _)| name)
}

/// The pseudorandom function that goes with an integrity algorithm where none is named, as strongSwan has it.
pub(super) fn prf_of(integ: IkeInteg) -> Prf {
    match integ {
        IkeInteg::HmacSha1 => Prf::HmacSha1,
        IkeInteg::HmacSha256 => Prf::HmacSha256,
        IkeInteg::HmacSha384 => Prf::HmacSha384,
        IkeInteg::HmacSha512 => Prf::HmacSha512,
        IkeInteg::AesXcbc => Prf::AesXcbc,
        IkeInteg::AesCmac => Prf::AesCmac,
    }
}

/// Every keyword that is printed, for suggestions.
pub(super) fn names() -> impl Iterator<Item = String> {
    IkeEncr::all().map(encr_name).chain(INTEGRITIES.iter().map(|(name, _)| (*name).to_owned()))
}

/// Whether these go together in one proposal (RFC 7296 §3.3). `text` is the whole of it.
pub(super) fn check(text: &str, encr: &[IkeEncr], integ: &[IkeInteg]) -> Result<(), ProposalError> {
    let wrong = |problem: &str| Err(ProposalError { found: text.to_owned(), problem: problem.to_owned() });
    let aeads = encr.iter().filter(|encr| encr.is_aead()).count();
    if aeads > 0 && aeads < encr.len() {
        return wrong(
            "has AEADs beside ciphers that need an integrity algorithm: make it two proposals (RFC 7296 §3.3)",
        );
    }
    if aeads > 0 && !integ.is_empty() {
        return wrong("has an integrity algorithm beside an AEAD, which brings its own");
    }
    Ok(())
}
