//! strongSwan's notation: keywords joined by `-`.

use std::fmt;
use std::str::FromStr;

use super::{Additional, EspProposal, EspSuite, IkeProposal, IkeSuite, esp, ike, transform_type as types};
use crate::crypto::{IkeInteg, KeMethod, Prf};
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

/// What IKE and ESP have in common. The first keyword of each meaning is the one that is printed.
const KEYWORDS: &[(&str, Keyword)] = &[
    ("prfsha256", Keyword::Prf(Prf::HmacSha256)),
    ("prfsha384", Keyword::Prf(Prf::HmacSha384)),
    ("prfsha512", Keyword::Prf(Prf::HmacSha512)),
    ("prfaesxcbc", Keyword::Prf(Prf::AesXcbc)),
    ("prfaescmac", Keyword::Prf(Prf::AesCmac)),
    ("prfsha1", Keyword::Prf(Prf::HmacSha1)),
    ("x25519", Keyword::Ke(KeMethod::X25519)),
    ("curve25519", Keyword::Ke(KeMethod::X25519)),
    ("x448", Keyword::Ke(KeMethod::X448)),
    ("curve448", Keyword::Ke(KeMethod::X448)),
    ("ecp256", Keyword::Ke(KeMethod::Ecp256)),
    ("ecp384", Keyword::Ke(KeMethod::Ecp384)),
    ("ecp521", Keyword::Ke(KeMethod::Ecp521)),
    ("modp2048", Keyword::Ke(KeMethod::Modp2048)),
    ("modp3072", Keyword::Ke(KeMethod::Modp3072)),
    ("modp4096", Keyword::Ke(KeMethod::Modp4096)),
    ("modp6144", Keyword::Ke(KeMethod::Modp6144)),
    ("modp8192", Keyword::Ke(KeMethod::Modp8192)),
    ("mlkem512", Keyword::Ke(KeMethod::MlKem512)),
    ("mlkem768", Keyword::Ke(KeMethod::MlKem768)),
    ("mlkem1024", Keyword::Ke(KeMethod::MlKem1024)),
    ("modp1024", Keyword::Ke(KeMethod::Modp1024)),
    ("modp1536", Keyword::Ke(KeMethod::Modp1536)),
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
    "des",
    "ecp",
    "frodo",
    "md5",
    "mlkem",
    "modp",
    "newhope",
    "null",
    "prf",
    "serpent",
    "sha",
    "twofish",
];

fn keyword(text: &str) -> Result<Keyword, ProposalError> {
    let error = |problem: String| ProposalError { found: text.to_owned(), problem };
    if let Some((_, keyword)) = KEYWORDS.iter().find(|(name, _)| *name == text) {
        return Ok(*keyword);
    }
    let names = ike::names().chain(KEYWORDS.iter().map(|(name, _)| (*name).to_owned()));
    let nearest = names.map(|name| (strsim::damerau_levenshtein(text, &name), name)).min();
    match nearest {
        Some((0, _)) => {
            Err(error("is known to strongSwan, but not supported by this version for ESP".to_owned()))
        }
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
        "aes192gcm",
        "aes192gcm8",
        "aes192gcm12",
        "aes192gcm16",
        "aes192gcm128",
        "aes128gmac",
        "aes256gmac",
        "aes128ccm8",
        "aes128ccm12",
        "aes128ccm16",
        "aes192ccm8",
        "aes192ccm12",
        "aes192ccm16",
        "aes256ccm8",
        "aes256ccm12",
        "aes256ccm16",
        "ecp192",
        "ecp224",
        "md5",
        "modp768",
        "modp1024s160",
        "modp2048s224",
        "modp2048s256",
        "prfmd5",
        "sha256_96",
    ];
    NEAR.contains(&text)
}

impl FromStr for IkeProposal {
    type Err = ProposalError;

    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let mut proposal = Self {
            encr: Vec::new(),
            integ: Vec::new(),
            prf: Vec::new(),
            ke: Vec::new(),
            additional: Additional::default(),
        };
        for word in text.split('-') {
            if let Some((place, method)) = additional(word)? {
                if let Some(methods) = proposal.additional.get_mut(place) {
                    once(methods, method);
                }
                continue;
            }
            if let Some(encr) = ike::encr(word) {
                once(&mut proposal.encr, encr);
                continue;
            }
            if let Some(integ) = ike::integ(word) {
                once(&mut proposal.integ, integ);
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
        ike::check(text, &proposal.encr, &proposal.integ)?;
        if proposal.prf.is_empty() {
            proposal.integ.iter().for_each(|integ| once(&mut proposal.prf, ike::prf_of(*integ)));
        }
        let needs_integ = proposal.encr.iter().any(|encr| !encr.is_aead()) && proposal.integ.is_empty();
        // With an integrity algorithm goes the pseudorandom function of the same name.
        let needs_prf = proposal.prf.is_empty() && !needs_integ;
        let aead = if proposal.integ.is_empty() { "aes256gcm16" } else { "aes256" };
        let missing = [
            (proposal.encr.is_empty(), "an encryption algorithm", aead),
            (needs_integ, "an integrity algorithm", "sha256"),
            (needs_prf, "a pseudorandom function, which AEADs need", "prfsha384"),
            (proposal.ke.is_empty(), "a key exchange method", "x25519"),
        ];
        complete(text, &missing)?;
        Ok(proposal)
    }
}

/// An additional key exchange: which, counted from zero, and its method.
fn additional(word: &str) -> Result<Option<(usize, Option<KeMethod>)>, ProposalError> {
    let parts = word.strip_prefix("ke").and_then(|rest| rest.split_once('_'));
    let Some((number, method)) = parts else { return Ok(None) };
    let wrong = |problem: &str| Err(ProposalError { found: word.to_owned(), problem: problem.to_owned() });
    let place = match number.parse::<usize>() {
        Ok(number @ 1..=7) => number - 1,
        _ => return wrong("is no additional key exchange: they are `ke1_` to `ke7_` (RFC 9370)"),
    };
    if method == "none" {
        return Ok(Some((place, None)));
    }
    match keyword(method) {
        Ok(Keyword::Ke(method)) => Ok(Some((place, Some(method)))),
        Ok(_) => wrong("names no key exchange method"),
        Err(error) => Err(error),
    }
}

impl FromStr for EspProposal {
    type Err = ProposalError;

    fn from_str(text: &str) -> Result<Self, ProposalError> {
        let mut proposal = Self {
            encr: Vec::new(),
            ke: Vec::new(),
            additional: Additional::default(),
            esn: Vec::new(),
            accepted_only: false,
        };
        let mut words = esp::Words::default();
        for word in text.split('-') {
            if words.take(word) {
                continue;
            }
            if let Some((place, method)) = additional(word)? {
                if let Some(methods) = proposal.additional.get_mut(place) {
                    once(methods, method);
                }
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
        if proposal.ke.is_empty() && proposal.additional.iter().flatten().any(Option::is_some) {
            let problem = format!(
                "has an additional key exchange and none that it is added to; complete would be `{text}-x25519`"
            );
            return Err(ProposalError { found: text.to_owned(), problem });
        }
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

fn name_of(wanted: impl Fn(&Keyword) -> bool) -> &'static str {
    KEYWORDS.iter().find(|(_, keyword)| wanted(keyword)).map_or("", |(name, _)| name)
}

pub(super) fn prf_name(prf: Prf) -> &'static str {
    name_of(|keyword| matches!(keyword, Keyword::Prf(found) if *found == prf))
}

pub(super) fn ke_name(ke: KeMethod) -> &'static str {
    name_of(|keyword| matches!(keyword, Keyword::Ke(found) if *found == ke))
}

pub(super) use ike::integ_name;

fn additional_name(number: usize, method: Option<KeMethod>) -> String {
    format!("ke{number}_{}", method.map_or("none", ke_name))
}

fn additional_names(additional: &Additional<Vec<Option<KeMethod>>>) -> Vec<String> {
    let all = additional.iter().zip(1..);
    all.flat_map(|(methods, number)| methods.iter().map(move |method| additional_name(number, *method)))
        .collect()
}

fn chosen_names(additional: Additional<Option<KeMethod>>) -> Vec<String> {
    additional_names(&additional.map(|method| method.into_iter().map(Some).collect()))
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
        let encr: Vec<String> = self.encr.iter().map(|encr| ike::encr_name(*encr)).collect();
        let integ = self.integ.iter().map(|integ| integ_name(*integ));
        let prf = self.prf.iter().map(|prf| prf_name(*prf));
        let ke = self.ke.iter().map(|ke| ke_name(*ke));
        let additional = additional_names(&self.additional);
        let names = encr.iter().map(String::as_str).chain(integ).chain(prf).chain(ke);
        join(f, names.chain(additional.iter().map(String::as_str)))
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encr = esp::words(&self.encr).into_iter();
        let ke = self.ke.iter().map(|ke| ke_name(*ke));
        let additional = additional_names(&self.additional);
        let esn = self.esn.iter().map(|esn| esn_name(*esn));
        join(f, encr.chain(ke).chain(additional.iter().map(String::as_str)).chain(esn))
    }
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encr = ike::encr_name(self.protection.encr());
        let integ = self.protection.integ().map(integ_name);
        let additional = chosen_names(self.additional);
        let names = [encr.as_str()].into_iter().chain(integ).chain([prf_name(self.prf), ke_name(self.ke)]);
        join(f, names.chain(additional.iter().map(String::as_str)))
    }
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ke = self.ke.map(ke_name);
        let additional = chosen_names(self.additional);
        let esn = self.esn.then_some("esn");
        let names = [self.encr.name()].into_iter().chain(ke);
        join(f, names.chain(additional.iter().map(String::as_str)).chain(esn))
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
    (types::INTEG, 0, "none"),
    (types::INTEG, 1, "md5"),
    (types::KE, 0, "none"),
    (types::KE, 1, "modp768"),
    (types::KE, 22, "modp1024s160"),
    (types::KE, 23, "modp2048s224"),
    (types::KE, 24, "modp2048s256"),
    (types::KE, 25, "ecp192"),
    (types::KE, 26, "ecp224"),
    (types::KE, 27, "ecp224bp"),
    (types::KE, 28, "ecp256bp"),
    (types::KE, 29, "ecp384bp"),
    (types::KE, 30, "ecp512bp"),
];

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
    if types::ADDITIONAL_KE.contains(&transform_type) {
        let number = transform_type - types::ADDITIONAL_KE.start() + 1;
        return registered_name(types::KE, id).map(|name| format!("ke{number}_{name}"));
    }
    let ours = match transform_type {
        types::PRF => Prf::ALL.into_iter().find(|prf| prf.id() == id).map(prf_name),
        types::KE => KeMethod::from_id(id).map(ke_name),
        types::INTEG => IkeInteg::ALL.into_iter().find(|integ| integ.id() == id).map(integ_name),
        types::ESN if id < 2 => Some(esn_name(id == 1)),
        _ => None,
    };
    let registered = || REGISTERED.iter().find(|(kind, known, _)| (*kind, *known) == (transform_type, id));
    ours.or_else(|| registered().map(|(_, _, name)| *name)).map(str::to_owned)
}
