//! strongSwan's notation: keywords joined by `-`.

use std::fmt;
use std::str::FromStr;

use super::{EspProposal, EspSuite, IkeProposal, IkeSuite, esp, transform_type as types};
use crate::crypto::{IkeAead, KeMethod, Prf};
use crate::message::Transform;

/// A text that is no proposal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` {problem}")]
pub struct ProposalError {
    /// The keyword or the whole text.
    pub found: String,
    /// What is wrong, and what was expected, with the nearest known keyword.
    pub problem: String,
}

#[derive(Clone, Copy)]
enum Keyword {
    Prf(Prf),
    Ke(KeMethod),
    Esn(bool),
}

/// Encryption in an IKE SA; ESP's is in [`esp`].
const IKE_ENCR: &[(&str, IkeAead)] = &[
    ("aes128gcm16", IkeAead::Aes128Gcm16),
    ("aes128gcm", IkeAead::Aes128Gcm16),
    ("aes128gcm128", IkeAead::Aes128Gcm16),
    ("aes256gcm16", IkeAead::Aes256Gcm16),
    ("aes256gcm", IkeAead::Aes256Gcm16),
    ("aes256gcm128", IkeAead::Aes256Gcm16),
];

/// What IKE and ESP have in common. The first keyword of each meaning is the one that is printed.
const KEYWORDS: &[(&str, Keyword)] = &[
    ("prfsha256", Keyword::Prf(Prf::HmacSha256)),
    ("prfsha384", Keyword::Prf(Prf::HmacSha384)),
    ("prfsha512", Keyword::Prf(Prf::HmacSha512)),
    ("x25519", Keyword::Ke(KeMethod::X25519)),
    ("curve25519", Keyword::Ke(KeMethod::X25519)),
    ("ecp256", Keyword::Ke(KeMethod::Ecp256)),
    ("ecp384", Keyword::Ke(KeMethod::Ecp384)),
    ("modp2048", Keyword::Ke(KeMethod::Modp2048)),
    ("modp3072", Keyword::Ke(KeMethod::Modp3072)),
    ("esn", Keyword::Esn(true)),
    ("noesn", Keyword::Esn(false)),
];

/// Beginnings of strongSwan's other keywords.
const LATER: &[&str] = &[
    "3des",
    "aes",
    "blowfish",
    "camellia",
    "cast",
    "chacha20poly1305",
    "curve448",
    "des",
    "ecp",
    "frodo",
    "ke1_",
    "ke2_",
    "md5",
    "mlkem",
    "modp",
    "newhope",
    "null",
    "prf",
    "serpent",
    "sha",
    "twofish",
    "x448",
];

fn keyword(text: &str) -> Result<Keyword, ProposalError> {
    let error = |problem: String| ProposalError { found: text.to_owned(), problem };
    if let Some((_, keyword)) = KEYWORDS.iter().find(|(name, _)| *name == text) {
        return Ok(*keyword);
    }
    let names = IKE_ENCR.iter().map(|(name, _)| *name).chain(KEYWORDS.iter().map(|(name, _)| *name));
    let nearest = names.map(|name| (strsim::damerau_levenshtein(text, name), name)).min();
    match nearest {
        Some((distance, name)) if distance <= 2 && !is_strongswans(text) => {
            Err(error(format!("is not known, did you mean `{name}`?")))
        }
        _ if LATER.iter().any(|later| text.starts_with(later)) => {
            Err(error("is known to strongSwan, but not supported by this version".to_owned()))
        }
        _ => Err(error("is not known".to_owned())),
    }
}

/// Whole keywords of strongSwan's that are near one of ours and no misspelling of it.
fn is_strongswans(text: &str) -> bool {
    const NEAR: &[&str] = &[
        "aes128gcm8",
        "aes128gcm12",
        "aes128gcm64",
        "aes128gcm96",
        "aes192gcm",
        "aes192gcm8",
        "aes192gcm12",
        "aes192gcm16",
        "aes192gcm128",
        "aes256gcm8",
        "aes256gcm12",
        "aes256gcm64",
        "aes256gcm96",
        "aes128gmac",
        "aes256gmac",
        "ecp192",
        "ecp224",
        "ecp521",
        "modp768",
        "modp1024",
        "modp1536",
        "modp4096",
        "modp6144",
        "modp8192",
        "modp1024s160",
        "modp2048s224",
        "modp2048s256",
        "prfsha1",
        "prfmd5",
        "x448",
        "curve448",
    ];
    NEAR.contains(&text)
}

impl FromStr for IkeProposal {
    type Err = ProposalError;

    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let mut proposal = Self { encr: Vec::new(), prf: Vec::new(), ke: Vec::new() };
        for word in text.split('-') {
            if let Some((_, encr)) = IKE_ENCR.iter().find(|(name, _)| *name == word) {
                once(&mut proposal.encr, *encr);
                continue;
            }
            match keyword(word)? {
                Keyword::Prf(prf) => once(&mut proposal.prf, prf),
                Keyword::Ke(ke) => once(&mut proposal.ke, ke),
                Keyword::Esn(_) => {
                    let problem =
                        "belongs into esp_proposals: an IKE SA has no ESP sequence numbers".to_owned();
                    return Err(ProposalError { found: word.to_owned(), problem });
                }
            }
        }
        let missing = [
            (proposal.encr.is_empty(), "an encryption algorithm", "aes256gcm16"),
            (proposal.prf.is_empty(), "a pseudorandom function, which AEADs need", "prfsha384"),
            (proposal.ke.is_empty(), "a key exchange method", "x25519"),
        ];
        complete(text, &missing)?;
        Ok(proposal)
    }
}

impl FromStr for EspProposal {
    type Err = ProposalError;

    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let mut proposal = Self { encr: Vec::new(), ke: Vec::new(), esn: Vec::new() };
        let mut words = esp::Words::default();
        for word in text.split('-') {
            if words.take(word) {
                continue;
            }
            match keyword(word)? {
                Keyword::Ke(ke) => once(&mut proposal.ke, ke),
                Keyword::Esn(esn) => once(&mut proposal.esn, esn),
                Keyword::Prf(_) => {
                    let problem =
                        "belongs into proposals: a CHILD SA has no pseudorandom function".to_owned();
                    return Err(ProposalError { found: word.to_owned(), problem });
                }
            }
        }
        proposal.encr = words.algorithms(text)?;
        if proposal.esn.is_empty() {
            // As strongSwan reads it.
            proposal.esn.push(false);
        }
        Ok(proposal)
    }
}

pub(super) fn once<T: PartialEq>(list: &mut Vec<T>, value: T) {
    if !list.contains(&value) {
        list.push(value);
    }
}

/// Refuses a proposal that lacks something, and says how it would be whole.
fn complete(text: &str, missing: &[(bool, &str, &str)]) -> Result<(), ProposalError> {
    let mut missing = missing.iter().filter(|(missing, ..)| *missing).peekable();
    let Some((_, what, _)) = missing.peek() else { return Ok(()) };
    let mut problem = format!("lacks {what}; complete would be `{text}");
    for (_, _, keyword) in missing {
        problem.push('-');
        problem.push_str(keyword);
    }
    problem.push('`');
    Err(ProposalError { found: text.to_owned(), problem })
}

fn ike_encr_name(encr: IkeAead) -> &'static str {
    match encr {
        IkeAead::Aes128Gcm16 => "aes128gcm16",
        IkeAead::Aes256Gcm16 => "aes256gcm16",
    }
}

fn prf_name(prf: Prf) -> &'static str {
    match prf {
        Prf::HmacSha256 => "prfsha256",
        Prf::HmacSha384 => "prfsha384",
        Prf::HmacSha512 => "prfsha512",
    }
}

fn ke_name(ke: KeMethod) -> &'static str {
    match ke {
        KeMethod::X25519 => "x25519",
        KeMethod::Ecp256 => "ecp256",
        KeMethod::Ecp384 => "ecp384",
        KeMethod::Modp2048 => "modp2048",
        KeMethod::Modp3072 => "modp3072",
    }
}

fn esn_name(esn: bool) -> &'static str {
    if esn { "esn" } else { "noesn" }
}

impl fmt::Display for KeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ke_name(*self))
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encr = self.encr.iter().map(|encr| ike_encr_name(*encr));
        let prf = self.prf.iter().map(|prf| prf_name(*prf));
        let ke = self.ke.iter().map(|ke| ke_name(*ke));
        join(f, encr.chain(prf).chain(ke))
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encr = esp::words(&self.encr).into_iter();
        let ke = self.ke.iter().map(|ke| ke_name(*ke));
        let esn = self.esn.iter().map(|esn| esn_name(*esn));
        join(f, encr.chain(ke).chain(esn))
    }
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        join(f, [ike_encr_name(self.encr), prf_name(self.prf), ke_name(self.ke)].into_iter())
    }
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ke = self.ke.map(ke_name);
        let esn = self.esn.then_some("esn");
        join(f, [self.encr.name()].into_iter().chain(ke).chain(esn))
    }
}

fn join<'n>(f: &mut fmt::Formatter<'_>, names: impl Iterator<Item = &'n str>) -> fmt::Result {
    for (index, name) in names.enumerate() {
        if index > 0 {
            f.write_str("-")?;
        }
        f.write_str(name)?;
    }
    Ok(())
}

/// Names of other registered transforms that peers offer, for explanations.
const REGISTERED: &[(u8, u16, &str)] = &[
    (types::ENCR, 3, "3des"),
    (types::ENCR, 11, "null"),
    (types::ENCR, 12, "aes"),
    (types::ENCR, 13, "aesctr"),
    (types::ENCR, 14, "aesccm8"),
    (types::ENCR, 15, "aesccm12"),
    (types::ENCR, 16, "aesccm16"),
    (types::ENCR, 18, "aesgcm8"),
    (types::ENCR, 19, "aesgcm12"),
    (types::ENCR, 20, "aesgcm16"),
    (types::ENCR, 23, "camellia"),
    (types::ENCR, 28, "chacha20poly1305"),
    (types::PRF, 1, "prfmd5"),
    (types::PRF, 2, "prfsha1"),
    (types::PRF, 4, "prfaesxcbc"),
    (types::PRF, 8, "prfaescmac"),
    (types::INTEG, 0, "none"),
    (types::INTEG, 1, "md5"),
    (types::INTEG, 2, "sha1"),
    (types::INTEG, 5, "aesxcbc"),
    (types::INTEG, 8, "aescmac"),
    (types::INTEG, 12, "sha256"),
    (types::INTEG, 13, "sha384"),
    (types::INTEG, 14, "sha512"),
    (types::KE, 0, "none"),
    (types::KE, 1, "modp768"),
    (types::KE, 2, "modp1024"),
    (types::KE, 5, "modp1536"),
    (types::KE, 16, "modp4096"),
    (types::KE, 17, "modp6144"),
    (types::KE, 18, "modp8192"),
    (types::KE, 21, "ecp521"),
    (types::KE, 22, "modp1024s160"),
    (types::KE, 23, "modp2048s224"),
    (types::KE, 24, "modp2048s256"),
    (types::KE, 25, "ecp192"),
    (types::KE, 26, "ecp224"),
    (types::KE, 27, "ecp224bp"),
    (types::KE, 28, "ecp256bp"),
    (types::KE, 29, "ecp384bp"),
    (types::KE, 30, "ecp512bp"),
    (types::KE, 32, "x448"),
    (types::KE, 35, "mlkem512"),
    (types::KE, 36, "mlkem768"),
    (types::KE, 37, "mlkem1024"),
];

/// Transform types of additional key exchanges (RFC 9370).
const ADDITIONAL_KE: std::ops::RangeInclusive<u8> = 6..=12;

/// A transform in strongSwan's notation, as far as it has one.
pub(crate) fn transform_name(transform: Transform) -> String {
    let Transform { transform_type, id, key_length, unknown_attribute } = transform;
    let mut name = match (registered_name(transform_type, id), key_length) {
        (Some(name), None) => name,
        (Some(name), Some(bits)) => {
            match ["aes", "camellia"].iter().find(|cipher| name.starts_with(**cipher)) {
                Some(cipher) => name.replacen(cipher, &format!("{cipher}{bits}"), 1),
                None => format!("{name} with {bits}-bit keys"),
            }
        }
        (None, Some(bits)) => format!("transform {transform_type}/{id} with {bits}-bit keys"),
        (None, None) => format!("transform {transform_type}/{id}"),
    };
    if unknown_attribute {
        name.push_str(" (with an attribute that is not known)");
    }
    name
}

fn registered_name(transform_type: u8, id: u16) -> Option<String> {
    if ADDITIONAL_KE.contains(&transform_type) {
        let number = transform_type - ADDITIONAL_KE.start() + 1;
        return registered_name(types::KE, id).map(|name| format!("ke{number}_{name}"));
    }
    let ours = match transform_type {
        types::PRF => Prf::ALL.into_iter().find(|prf| prf.id() == id).map(prf_name),
        types::KE => KeMethod::from_id(id).map(ke_name),
        types::ESN if id < 2 => Some(esn_name(id == 1)),
        _ => None,
    };
    let registered = || REGISTERED.iter().find(|(kind, known, _)| (*kind, *known) == (transform_type, id));
    ours.or_else(|| registered().map(|(_, _, name)| *name)).map(str::to_owned)
}
