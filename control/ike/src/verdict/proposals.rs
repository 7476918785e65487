//! Two sides' proposals, transform by transform, and the pair of them that misses least.
//!
//! Works on proposals as they are on the wire, so that it knows everything that a peer can offer, and nothing about what this
//! version supports.

use serde::{Deserialize, Serialize};

use super::evidence::MOST;
use super::reason::Reason;
use crate::message::{Transform, WireProposal};
use crate::proposal::{transform_name, transform_type as types};

/// A kind of transform (RFC 7296 §3.3.2, RFC 9370).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformKind {
    /// ENCR.
    Encryption,
    /// INTEG.
    Integrity,
    /// PRF.
    Prf,
    /// KE.
    KeyExchange,
    /// ADDKE1 to ADDKE7.
    AdditionalKeyExchange,
    /// ESN.
    SequenceNumbers,
    /// One that this version has never heard of.
    Unknown,
}

impl TransformKind {
    /// Of a transform type.
    pub fn of(transform_type: u8) -> Self {
        match transform_type {
            types::ENCR => Self::Encryption,
            types::INTEG => Self::Integrity,
            types::PRF => Self::Prf,
            types::KE => Self::KeyExchange,
            6..=12 => Self::AdditionalKeyExchange,
            types::ESN => Self::SequenceNumbers,
            _ => Self::Unknown,
        }
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Encryption => "encryption",
            Self::Integrity => "integrity",
            Self::Prf => "pseudorandom function",
            Self::KeyExchange => "key exchange",
            Self::AdditionalKeyExchange => "additional key exchange",
            Self::SequenceNumbers => "sequence numbers",
            Self::Unknown => "unknown kind",
        }
    }
}

/// Whose proposals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Of an IKE SA.
    Ike,
    /// Of a CHILD SA.
    Esp,
}

/// A transform that at least one side names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalRow {
    /// Its kind.
    pub kind: TransformKind,
    /// In strongSwan's notation.
    pub transform: String,
    /// The peer names it.
    pub peer: bool,
    /// We name it.
    pub here: bool,
    /// Why nobody should use it, if so.
    pub weak: Option<String>,
}

/// Both sides' proposals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalTable {
    /// Of what.
    pub protocol: Protocol,
    /// Whether the peer's proposals are known. They are not where the peer has refused ours: it does not say what it would
    /// have taken.
    pub peer_known: bool,
    /// Every transform, kinds in order.
    pub rows: Vec<ProposalRow>,
    /// Each proposal of the peer's in strongSwan's notation.
    pub peer: Vec<String>,
    /// Each of ours.
    pub here: Vec<String>,
    /// The kinds in which the nearest pair of proposals has nothing in common; empty if there is a pair that agrees.
    pub apart: Vec<TransformKind>,
    /// Which two miss least, counted from 0: the peer's and ours.
    pub nearest: Option<(usize, usize)>,
    /// What the peer would have to be offered, or we to take, for the nearest pair to agree: one transform of each kind.
    pub would_match: Option<String>,
}

impl ProposalTable {
    /// Compares. `with_ke`: whether key exchange counts, which for a CHILD SA of IKE_AUTH it does not (RFC 7296 §1.2).
    pub fn compare(protocol: Protocol, here: &[WireProposal], peer: &[WireProposal], with_ke: bool) -> Self {
        let counts = |kind: u8| with_ke || !(kind == types::KE || (6..=12).contains(&kind));
        let (here, peer) = (&cut(here), &cut(peer));
        let mut nearest: Option<(Vec<u8>, usize, usize)> = None;
        for (j, ours) in here.iter().enumerate() {
            for (i, theirs) in peer.iter().enumerate() {
                let mut apart = apart(ours, theirs);
                apart.retain(|kind| counts(*kind));
                if nearest.as_ref().is_none_or(|(best, ..)| apart.len() < best.len()) {
                    nearest = Some((apart, i, j));
                }
            }
        }
        let would_match = nearest.as_ref().and_then(|(_, i, j)| {
            let (theirs, ours) = (peer.get(*i)?, here.get(*j)?);
            let both = combine(ours, theirs);
            let kept = both.transforms.into_iter().filter(|found| counts(found.transform_type)).collect();
            Some(notation(&WireProposal { transforms: kept, ..both }))
        });
        let (apart, nearest) = match nearest {
            Some((apart, i, j)) => (apart, Some((i, j))),
            None => (Vec::new(), None),
        };
        let mut apart: Vec<_> = apart.into_iter().map(TransformKind::of).collect();
        apart.dedup();
        let shown = |proposals: &[WireProposal]| proposals.iter().map(notation).collect();
        Self {
            protocol,
            peer_known: true,
            rows: rows(here, peer, counts),
            peer: shown(peer),
            here: shown(here),
            apart,
            nearest,
            would_match,
        }
    }

    /// Where only ours are known: the peer has refused them without saying what it would take.
    pub fn ours_alone(protocol: Protocol, here: &[WireProposal]) -> Self {
        Self { peer_known: false, ..Self::compare(protocol, here, &[], true) }
    }

    /// The reason that the nearest miss decides.
    pub fn reason(&self) -> Reason {
        use TransformKind as Kind;
        match (self.protocol, self.apart.as_slice()) {
            (Protocol::Ike, [Kind::Encryption]) => Reason::ProposalEncrMismatch,
            (Protocol::Ike, [Kind::Integrity]) => Reason::ProposalIntegMismatch,
            (Protocol::Ike, [Kind::Prf]) => Reason::ProposalPrfMismatch,
            (Protocol::Ike, [Kind::KeyExchange | Kind::AdditionalKeyExchange]) => Reason::ProposalKeMismatch,
            (Protocol::Ike, _) => Reason::ProposalMismatch,
            (Protocol::Esp, [Kind::Encryption]) => Reason::ChildProposalEncrMismatch,
            (Protocol::Esp, [Kind::Integrity]) => Reason::ChildProposalIntegMismatch,
            (Protocol::Esp, [Kind::KeyExchange | Kind::AdditionalKeyExchange]) => {
                Reason::ChildProposalKeMismatch
            }
            (Protocol::Esp, [Kind::SequenceNumbers]) => Reason::ChildProposalEsnMismatch,
            (Protocol::Esp, _) => Reason::ChildProposalMismatch,
        }
    }

    /// What would match, unless it is weak and better not recommended.
    pub fn advisable(&self) -> Option<&str> {
        let wanted = self.would_match.as_deref()?;
        let weak = |word: &str| self.rows.iter().any(|row| row.transform == word && row.weak.is_some());
        (!wanted.split('-').any(weak)).then_some(wanted)
    }

    /// The nearest miss in words: `the peer offers modp2048 for the key exchange, and we take ecp384 or x25519`.
    pub fn difference(&self) -> String {
        if self.peer.is_empty() {
            let what = if self.protocol == Protocol::Ike { "IKE" } else { "ESP" };
            return format!("the peer makes no {what} proposal");
        }
        let difference = |kind: &TransformKind| {
            let of = |side: fn(&ProposalRow) -> bool| {
                let names: Vec<&str> = self
                    .rows
                    .iter()
                    .filter(|row| row.kind == *kind && side(row))
                    .map(|row| row.transform.as_str())
                    .collect();
                if names.is_empty() { "none".to_owned() } else { any_of(&names) }
            };
            format!(
                "for {} the peer has {} and we have {}",
                kind.name(),
                of(|row| row.peer),
                of(|row| row.here)
            )
        };
        let parts: Vec<String> = self.apart.iter().map(difference).collect();
        if parts.is_empty() {
            return "no proposal of the peer's goes with any of ours".to_owned();
        }
        parts.join("; ")
    }
}

/// What is looked at of an offer: anybody may send one that is as long as a datagram.
fn cut(proposals: &[WireProposal]) -> Vec<WireProposal> {
    let mut left = MOST * 4;
    let cut = |proposal: &WireProposal| {
        let transforms: Vec<_> = proposal.transforms.iter().take(left.min(MOST)).copied().collect();
        left -= transforms.len();
        WireProposal { transforms, ..proposal.clone() }
    };
    proposals.iter().take(MOST).map(cut).collect()
}

/// `a, b or c`.
fn any_of(names: &[&str]) -> String {
    match names {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        names => names.concat(),
    }
}

/// The kinds of transform in which two proposals have nothing in common, the weightiest first.
fn apart(ours: &WireProposal, theirs: &WireProposal) -> Vec<u8> {
    let mut kinds: Vec<u8> =
        ours.transforms.iter().chain(&theirs.transforms).map(|found| found.transform_type).collect();
    kinds.sort_by_key(|kind| (TransformKind::of(*kind), *kind));
    kinds.dedup();
    let mut apart: Vec<u8> = kinds.into_iter().filter(|kind| common(ours, theirs, *kind).is_none()).collect();
    // With another cipher goes another integrity algorithm, or none: the cipher is what differs.
    if apart.contains(&types::ENCR) {
        apart.retain(|kind| *kind != types::INTEG);
    }
    apart
}

/// A transform of a kind that both have, in our order. Where one side has none of the kind, NONE is what it has
/// (RFC 7296 §3.3.3); of the two kinds of sequence numbers, the short ones.
fn common(ours: &WireProposal, theirs: &WireProposal, kind: u8) -> Option<Transform> {
    let of = |proposal: &WireProposal| -> Vec<Transform> {
        let found: Vec<_> =
            proposal.transforms.iter().filter(|found| found.transform_type == kind).copied().collect();
        if found.is_empty() && kind != types::ENCR && kind != types::PRF {
            return vec![Transform {
                transform_type: kind,
                id: 0,
                key_length: None,
                unknown_attribute: false,
            }];
        }
        found
    };
    let theirs = of(theirs);
    of(ours).into_iter().find(|transform| theirs.contains(transform) && !transform.unknown_attribute)
}

/// The proposal that is nearest to both: of each kind what they have in common, else the peer's strongest.
fn combine(ours: &WireProposal, theirs: &WireProposal) -> WireProposal {
    let mut transforms: Vec<Transform> = Vec::new();
    for transform in &theirs.transforms {
        let kind = transform.transform_type;
        if transforms.iter().any(|kept| kept.transform_type == kind) {
            continue;
        }
        let strong = theirs
            .transforms
            .iter()
            .find(|found| found.transform_type == kind && weakness(kind, &transform_name(**found)).is_none());
        transforms.push(common(ours, theirs, kind).or(strong.copied()).unwrap_or(*transform));
    }
    WireProposal { transforms, ..theirs.clone() }
}

fn rows(here: &[WireProposal], peer: &[WireProposal], counts: impl Fn(u8) -> bool) -> Vec<ProposalRow> {
    let mut rows: Vec<(u8, ProposalRow)> = Vec::new();
    for (proposals, from_peer) in [(here, false), (peer, true)] {
        for transform in proposals.iter().flat_map(|proposal| &proposal.transforms) {
            let kind = transform.transform_type;
            let name = transform_name(*transform);
            if let Some((_, row)) =
                rows.iter_mut().find(|(known, row)| *known == kind && row.transform == name)
            {
                row.peer |= from_peer;
            } else if rows.len() < MOST && counts(kind) {
                let weak = weakness(kind, &name).map(str::to_owned);
                let (transform, kind_of) = (name, TransformKind::of(kind));
                let row = ProposalRow { kind: kind_of, transform, peer: from_peer, here: !from_peer, weak };
                rows.push((kind, row));
            }
        }
    }
    rows.sort_by_key(|(kind, row)| (row.kind, *kind));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Why a transform should not be used any more.
pub(crate) fn weakness(kind: u8, name: &str) -> Option<&'static str> {
    match (kind, name) {
        (types::ENCR, "3des" | "des" | "blowfish" | "cast" | "idea") => Some("64-bit blocks (RFC 8247)"),
        (types::ENCR, "null") => Some("no encryption"),
        (types::PRF, "prfmd5") | (types::INTEG, "md5") => Some("MD5 (RFC 8247)"),
        (types::PRF, "prfsha1") | (types::INTEG, "sha1") => Some("SHA-1"),
        (types::KE, "modp768" | "modp1024" | "modp1024s160") => Some("broken with means at hand (RFC 8247)"),
        (types::KE, "modp1536" | "modp2048s224" | "modp2048s256" | "ecp192" | "ecp224") => {
            Some("too short, or of unknown origin (RFC 8247)")
        }
        _ => None,
    }
}

/// A proposal in strongSwan's notation: encryption first.
fn notation(proposal: &WireProposal) -> String {
    let mut transforms: Vec<&Transform> = proposal.transforms.iter().collect();
    transforms.sort_by_key(|found| (TransformKind::of(found.transform_type), found.transform_type));
    let words: Vec<String> = transforms
        .into_iter()
        .filter(|found| !(found.id == 0 && matches!(found.transform_type, types::INTEG | types::KE | 6..=12)))
        .map(|transform| transform_name(*transform))
        .collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proposal::{EspProposal, IkeProposal};
    use portcullis_ipsec::Spi;

    fn ike(texts: &[&str]) -> Vec<WireProposal> {
        texts.iter().zip(1..).map(|(text, n)| text.parse::<IkeProposal>().unwrap().offer(n)).collect()
    }

    fn raw(transforms: &[(u8, u16, Option<u16>)]) -> WireProposal {
        let transform = |(transform_type, id, key_length): &(u8, u16, Option<u16>)| Transform {
            transform_type: *transform_type,
            id: *id,
            key_length: *key_length,
            unknown_attribute: false,
        };
        WireProposal {
            number: 1,
            protocol: crate::message::Protocol::Ike,
            spi: Vec::new(),
            transforms: transforms.iter().map(transform).collect(),
        }
    }

    fn compare(here: &[WireProposal], peer: &[WireProposal]) -> ProposalTable {
        ProposalTable::compare(Protocol::Ike, here, peer, true)
    }

    #[test]
    fn the_reason_is_that_of_the_nearest_miss() {
        let here = ike(&["aes256gcm16-prfsha384-ecp384", "aes128gcm16-prfsha256-x25519"]);
        for (theirs, reason) in [
            ("aes256gcm16-prfsha384-modp3072", Reason::ProposalKeMismatch),
            ("aes128gcm16-prfsha384-ecp384", Reason::ProposalEncrMismatch),
            ("aes256gcm16-prfsha512-ecp384", Reason::ProposalPrfMismatch),
            ("aes256gcm16-prfsha512-modp2048", Reason::ProposalMismatch),
        ] {
            assert_eq!(compare(&here, &ike(&[theirs])).reason(), reason, "{theirs}");
        }
        // The second offer misses less than the first.
        let table = compare(&here, &ike(&["aes128gcm16-prfsha512-modp2048", "aes128gcm16-prfsha256-ecp256"]));
        assert_eq!((table.reason(), table.nearest), (Reason::ProposalKeMismatch, Some((1, 1))));
        assert_eq!(table.would_match.as_deref(), Some("aes128gcm16-prfsha256-ecp256"));
    }

    #[test]
    fn a_cbc_offer_misses_an_aead_by_its_cipher_alone() {
        // aes256-sha256-prfsha256-modp2048
        let cbc = raw(&[(1, 12, Some(256)), (3, 12, None), (2, 5, None), (4, 14, None)]);
        let table = compare(&ike(&["aes256gcm16-prfsha256-modp2048"]), &[cbc]);
        assert_eq!(table.reason(), Reason::ProposalEncrMismatch);
        assert_eq!(table.difference(), "for encryption the peer has aes256 and we have aes256gcm16");
        assert_eq!(table.peer, ["aes256-sha256-prfsha256-modp2048"]);
    }

    #[test]
    fn weak_choices_are_flagged_and_not_recommended_if_there_is_another() {
        let offer = raw(&[(1, 20, Some(256)), (2, 6, None), (4, 2, None), (4, 19, None)]);
        let table = compare(&ike(&["aes256gcm16-prfsha384-ecp384"]), &[offer]);
        let weak: Vec<_> =
            table.rows.iter().filter(|row| row.weak.is_some()).map(|row| &*row.transform).collect();
        assert_eq!(weak, ["modp1024"]);
        assert_eq!(table.would_match.as_deref(), Some("aes256gcm16-prfsha384-ecp256"));
    }

    #[test]
    fn a_key_exchange_of_esp_counts_only_where_it_is_negotiated() {
        let spi = Spi::new(256).unwrap();
        let esp = |text: &str| vec![text.parse::<EspProposal>().unwrap().offer(1, spi, true)];
        let (here, peer) = (esp("aes256gcm16"), esp("aes256gcm16-x25519"));
        let table = |with_ke| ProposalTable::compare(Protocol::Esp, &here, &peer, with_ke);
        assert_eq!(table(true).reason(), Reason::ChildProposalKeMismatch);
        assert!(table(false).apart.is_empty());
        let esn = ProposalTable::compare(Protocol::Esp, &esp("aes256gcm16-esn"), &here, false);
        assert_eq!(esn.reason(), Reason::ChildProposalEsnMismatch);
    }

    #[test]
    fn a_peers_endless_offer_is_cut() {
        let endless: Vec<_> = (0..4000).map(|id| (1, 1000 + id, None)).collect();
        let table = compare(&ike(&["aes256gcm16-prfsha384-ecp384"]), &vec![raw(&endless); 300]);
        assert!(table.rows.len() <= MOST && table.peer.len() <= MOST);
    }

    #[test]
    fn a_kind_that_nobody_knows_is_said_to_be_in_the_way() {
        let mut offer = raw(&[(1, 20, Some(256)), (2, 6, None), (4, 20, None), (99, 7, None)]);
        let table = compare(&ike(&["aes256gcm16-prfsha384-ecp384"]), std::slice::from_ref(&offer));
        assert_eq!(table.apart, [TransformKind::Unknown]);
        offer.transforms.pop();
        assert!(compare(&ike(&["aes256gcm16-prfsha384-ecp384"]), &[offer]).apart.is_empty());
    }
}
