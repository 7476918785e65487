//! The choice of one combination (RFC 7296 §2.7, §3.3.6). As a responder our order of preference decides; as an
//! initiator the answer must be one of what we offered.

use std::fmt;

use portcullis_ipsec::{EspAlgorithm, Spi};

use super::notation::{once, transform_name};
use super::{
    Additional, EspProposal, EspSuite, IkeProposal, IkeSuite, additional_ke, esp_encr, esp_integ, ike_encr,
    transform, transform_type as types,
};
use crate::crypto::{KeMethod, Prf, Protection};
use crate::message::{Protocol, Transform, WireProposal};

/// No offered proposal goes together with a configured one: the nearest miss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What kind of transform stood in the way first, in words.
    pub kind: &'static str,
    /// The transforms of that kind that were offered, in strongSwan's notation.
    pub offered: String,
    /// Those that are configured.
    pub configured: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} in common: offered {}, configured {}", self.kind, self.offered, self.configured)
    }
}

/// Kinds of transforms in the order in which they are looked at.
const KINDS: [(u8, &str); 5] = [
    (types::ENCR, "encryption algorithm"),
    (types::INTEG, "integrity algorithm"),
    (types::PRF, "pseudorandom function"),
    (types::KE, "key exchange group"),
    (types::ESN, "use of extended sequence numbers"),
];

/// A misfit of one offered proposal with one configured: how many kinds of transforms fitted before it.
struct Miss {
    fitted: usize,
    mismatch: Mismatch,
}

/// Chooses for an IKE SA: what was chosen, and the number of the proposal that offered it.
pub fn select_ike(configured: &[IkeProposal], offered: &[WireProposal]) -> Result<(IkeSuite, u8), Mismatch> {
    let mut best: Option<Miss> = None;
    for ours in configured {
        for theirs in offered.iter().filter(|theirs| theirs.protocol == Protocol::Ike) {
            match fit_ike(ours, theirs) {
                Ok(suite) => return Ok((suite, theirs.number)),
                Err(miss) => keep_nearest(&mut best, miss),
            }
        }
    }
    Err(nearest(best, "IKE proposal"))
}

/// Chooses for a CHILD SA: what was chosen, the number of the proposal that offered it, and the peer's SPI. Key
/// exchange transforms count only `with_ke`; in IKE_AUTH they are ignored.
pub fn select_esp(
    configured: &[EspProposal],
    offered: &[WireProposal],
    with_ke: bool,
) -> Result<(EspSuite, u8, Spi), Mismatch> {
    let mut best: Option<Miss> = None;
    for ours in configured {
        for theirs in offered.iter().filter(|theirs| theirs.protocol == Protocol::Esp) {
            let Some(spi) = spi(theirs) else { continue };
            match fit_esp(ours, theirs, with_ke) {
                Ok(suite) => return Ok((suite, theirs.number, spi)),
                Err(miss) => keep_nearest(&mut best, miss),
            }
        }
    }
    Err(nearest(best, "ESP proposal"))
}

/// Judges the answer to an offer of `configured`: it must be one proposal with one transform of each kind, out of
/// what we offered under its number.
pub fn accepted_ike(configured: &[IkeProposal], answer: &[WireProposal]) -> Result<IkeSuite, Mismatch> {
    let single = single(answer)?;
    let ours = numbered(configured, single)?;
    select_ike(std::slice::from_ref(ours), answer).map(|(suite, _)| suite)
}

/// The same for a CHILD SA; with the peer's SPI.
pub fn accepted_esp(
    configured: &[EspProposal],
    answer: &[WireProposal],
    with_ke: bool,
) -> Result<(EspSuite, Spi), Mismatch> {
    let single = single(answer)?;
    let ours = numbered(configured, single)?;
    select_esp(std::slice::from_ref(ours), answer, with_ke).map(|(suite, _, spi)| (suite, spi))
}

fn single(answer: &[WireProposal]) -> Result<&WireProposal, Mismatch> {
    let wrong = |offered: String| Mismatch {
        kind: "single choice",
        offered,
        configured: "exactly one proposal with one transform of each kind (RFC 7296 §2.7)".to_owned(),
    };
    let [proposal] = answer else { return Err(wrong(format!("{} proposals", answer.len()))) };
    for kind in KINDS.map(|(kind, _)| kind).into_iter().chain(types::ADDITIONAL_KE) {
        let count = proposal.transforms.iter().filter(|transform| transform.transform_type == kind).count();
        if count > 1 {
            return Err(wrong(format!("{count} transforms of type {kind}")));
        }
    }
    Ok(proposal)
}

fn numbered<'p, P>(configured: &'p [P], answer: &WireProposal) -> Result<&'p P, Mismatch> {
    let index = usize::from(answer.number).checked_sub(1);
    index.and_then(|index| configured.get(index)).ok_or_else(|| Mismatch {
        kind: "proposal number",
        offered: answer.number.to_string(),
        configured: format!("1 to {}", configured.len()),
    })
}

fn keep_nearest(best: &mut Option<Miss>, miss: Miss) {
    if best.as_ref().is_none_or(|best| best.fitted < miss.fitted) {
        *best = Some(miss);
    }
}

fn nearest(best: Option<Miss>, kind: &'static str) -> Mismatch {
    best.map(|miss| miss.mismatch).unwrap_or_else(|| Mismatch {
        kind,
        offered: "none of this protocol".to_owned(),
        configured: "at least one".to_owned(),
    })
}

fn fit_ike(ours: &IkeProposal, theirs: &WireProposal) -> Result<IkeSuite, Miss> {
    let mut fit = Fit { theirs, fitted: 0 };
    let prf_of = |prf: Prf| transform(types::PRF, prf.id());
    let ke_of = |ke: KeMethod| transform(types::KE, ke.id());
    let known = [types::ENCR, types::INTEG, types::PRF, types::KE];
    fit.known_types(|kind| known.contains(&kind) || types::ADDITIONAL_KE.contains(&kind))?;
    let protection = fit.protection(ours)?;
    let prf = fit.choose(types::PRF, &ours.prf, prf_of)?;
    let ke = fit.choose(types::KE, &ours.ke, ke_of)?;
    let additional = fit.additional(Some(ke), &ours.additional)?;
    Ok(IkeSuite { protection, prf, ke, additional })
}

fn fit_esp(ours: &EspProposal, theirs: &WireProposal, with_ke: bool) -> Result<EspSuite, Miss> {
    let mut fit = Fit { theirs, fitted: 0 };
    let ke_of = |ke: KeMethod| transform(types::KE, ke.id());
    let esn_of = |esn: bool| transform(types::ESN, u16::from(esn));
    let known = [types::ENCR, types::INTEG, types::KE, types::ESN];
    fit.known_types(|kind| known.contains(&kind) || types::ADDITIONAL_KE.contains(&kind))?;
    let encr = fit.esp_algorithm(&ours.encr)?;
    let ke = fit.optional_ke(with_ke, &ours.ke, ke_of)?;
    let additional = match with_ke {
        true => fit.additional(ke, &ours.additional)?,
        false => Additional::default(),
    };
    let esn = fit.choose(types::ESN, &ours.esn, esn_of)?;
    Ok(EspSuite { encr, ke, additional, esn })
}

/// One offered proposal being fitted.
struct Fit<'a> {
    theirs: &'a WireProposal,
    fitted: usize,
}

impl Fit<'_> {
    /// RFC 7296 §3.3.6: a proposal with a kind of transform that we do not know is not acceptable.
    fn known_types(&self, known: impl Fn(u8) -> bool) -> Result<(), Miss> {
        let unknown = self.theirs.transforms.iter().find(|transform| !known(transform.transform_type));
        match unknown {
            None => Ok(()),
            Some(transform) => {
                Err(self.miss("kind of transform", transform.transform_type, "none of it".to_owned()))
            }
        }
    }

    /// Our first choice among what is offered.
    fn choose<T: Copy>(&mut self, kind: u8, ours: &[T], wire: impl Fn(T) -> Transform) -> Result<T, Miss> {
        match ours.iter().find(|ours| self.theirs.transforms.contains(&wire(**ours))) {
            Some(chosen) => {
                self.fitted += 1;
                Ok(*chosen)
            }
            None => {
                let configured = names(ours.iter().map(|ours| wire(*ours)));
                Err(self.miss(kind_name(kind), kind, configured))
            }
        }
    }

    /// The encryption of an IKE SA, with an integrity algorithm where it is no AEAD.
    fn protection(&mut self, ours: &IkeProposal) -> Result<Protection, Miss> {
        let encr = self.choose(types::ENCR, &ours.encr, ike_encr)?;
        let integ = if encr.is_aead() {
            self.no_integrity()?;
            None
        } else {
            Some(self.choose(types::INTEG, &ours.integ, |integ| transform(types::INTEG, integ.id()))?)
        };
        // What is configured has been checked to go together.
        Protection::new(encr, integ)
            .ok_or_else(|| self.miss("combination", types::ENCR, "another".to_owned()))
    }

    /// A cipher that is offered, with the integrity algorithm that it needs, if it does: in our order.
    fn esp_algorithm(&mut self, ours: &[EspAlgorithm]) -> Result<EspAlgorithm, Miss> {
        let first = self.choose(types::ENCR, ours, esp_encr)?;
        if first.integrity().is_none() {
            self.no_integrity()?;
            return Ok(first);
        }
        let offered = |transform: &Transform| self.theirs.transforms.contains(transform);
        let whole = |algorithm: &&EspAlgorithm| {
            offered(&esp_encr(**algorithm)) && esp_integ(**algorithm).as_ref().is_some_and(offered)
        };
        match ours.iter().find(whole) {
            Some(algorithm) => {
                self.fitted += 1;
                Ok(*algorithm)
            }
            None => {
                let mut configured = Vec::new();
                ours.iter()
                    .filter_map(|algorithm| esp_integ(*algorithm))
                    .for_each(|integ| once(&mut configured, integ));
                Err(self.miss(kind_name(types::INTEG), types::INTEG, names(configured.into_iter())))
            }
        }
    }

    /// AEADs need no integrity transform; NONE may be offered beside them (RFC 7296 §3.3.2).
    fn no_integrity(&mut self) -> Result<(), Miss> {
        const NONE: u16 = 0;
        if self.of(types::INTEG).next().is_none()
            || self.of(types::INTEG).any(|transform| transform.id == NONE)
        {
            self.fitted += 1;
            return Ok(());
        }
        Err(self.miss(kind_name(types::INTEG), types::INTEG, "none beside an AEAD".to_owned()))
    }

    /// In CREATE_CHILD_SA both must want a key exchange, or both none; NONE counts as none.
    fn optional_ke(
        &mut self,
        with_ke: bool,
        ours: &[KeMethod],
        wire: impl Fn(KeMethod) -> Transform,
    ) -> Result<Option<KeMethod>, Miss> {
        const NONE: u16 = 0;
        let offers_none = self.of(types::KE).next().is_none() || self.of(types::KE).any(|ke| ke.id == NONE);
        if !with_ke || (ours.is_empty() && offers_none) {
            self.fitted += 1;
            return Ok(None);
        }
        self.choose(types::KE, ours, wire).map(Some)
    }

    /// Additional key exchanges: each that either end wants, unless both do without. No method comes twice (RFC 9370
    /// §2.2.1).
    fn additional(
        &mut self,
        first: Option<KeMethod>,
        ours: &Additional<Vec<Option<KeMethod>>>,
    ) -> Result<Additional<Option<KeMethod>>, Miss> {
        let mut chosen = Additional::default();
        let mut taken: Vec<KeMethod> = first.into_iter().collect();
        for ((ours, kind), place) in ours.iter().zip(types::ADDITIONAL_KE).zip(&mut chosen) {
            // Not to propose it is to propose to do without.
            let without = [None];
            let ours = if ours.is_empty() { &without[..] } else { ours };
            let silent = self.of(kind).next().is_none();
            let offered = |method: &Option<KeMethod>| {
                self.theirs.transforms.contains(&additional_ke(kind, *method)) || (method.is_none() && silent)
            };
            let fresh = |method: &Option<KeMethod>| method.is_none_or(|method| !taken.contains(&method));
            let Some(method) = ours.iter().find(|method| fresh(method) && offered(method)) else {
                let configured = names(ours.iter().map(|method| additional_ke(kind, *method)));
                return Err(self.miss("additional key exchange", kind, configured));
            };
            taken.extend(*method);
            *place = *method;
        }
        self.fitted += 1;
        Ok(chosen)
    }

    fn of(&self, kind: u8) -> impl Iterator<Item = &Transform> {
        self.theirs.transforms.iter().filter(move |transform| transform.transform_type == kind)
    }

    fn miss(&self, kind_name: &'static str, kind: u8, configured: String) -> Miss {
        let offered = names(self.of(kind).copied());
        Miss { fitted: self.fitted, mismatch: Mismatch { kind: kind_name, offered, configured } }
    }
}

fn kind_name(kind: u8) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("transform", |(_, name)| name)
}

fn names(transforms: impl Iterator<Item = Transform>) -> String {
    let names: Vec<String> = transforms.map(transform_name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn spi(proposal: &WireProposal) -> Option<Spi> {
    let octets = <[u8; 4]>::try_from(proposal.spi.as_slice()).ok()?;
    Spi::new(u32::from_be_bytes(octets))
}
