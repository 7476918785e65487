//! Proposals as the exchanges need them: offered, chosen from an offer, answered. The rules of the choice are in
//! [`crate::proposal`].

use std::borrow::Cow;

use portcullis_ipsec::{EspAlgorithm, Spi};

use crate::crypto::KeMethod;
use crate::message::WireProposal;
use crate::proposal::{
    Additional, EspProposal, EspSuite, IkeProposal, IkeSuite, Mismatch, select_esp, select_ike,
    transform_type,
};

/// Our offer for an IKE SA.
pub(super) fn offer_ike(ours: &[IkeProposal]) -> Vec<WireProposal> {
    ours.iter().zip(1..).map(|(proposal, number)| proposal.offer(number)).collect()
}

/// What of our proposals does without additional key exchanges: all of them, where none names any.
pub(super) fn without_additional(ours: &[IkeProposal]) -> Cow<'_, [IkeProposal]> {
    let names_none = |proposal: &IkeProposal| proposal.additional.iter().all(Vec::is_empty);
    if ours.iter().all(names_none) {
        return Cow::Borrowed(ours);
    }
    let optional = |methods: &Vec<Option<KeMethod>>| methods.is_empty() || methods.contains(&None);
    let can = ours.iter().filter(|proposal| proposal.additional.iter().all(optional));
    can.map(|proposal| IkeProposal { additional: Additional::default(), ..proposal.clone() }).collect()
}

/// What of our proposals for a CHILD SA we propose ourselves; for the successor of one also what that has.
pub(super) fn offered_esp(ours: &[EspProposal], of_old: Option<EspAlgorithm>) -> Vec<EspProposal> {
    let has = |proposal: &EspProposal| of_old.is_some_and(|algorithm| proposal.encr.contains(&algorithm));
    ours.iter().filter(|proposal| !proposal.accepted_only || has(proposal)).cloned().collect()
}

/// Our offer for a CHILD SA.
pub(super) fn offer_esp(ours: &[EspProposal], spi: Spi, with_ke: bool) -> Vec<WireProposal> {
    ours.iter().zip(1..).map(|(proposal, number)| proposal.offer(number, spi, with_ke)).collect()
}

/// Chooses from a peer's offer for an IKE SA. `group` is that of its KE payload: a suite that goes with it is
/// preferred, because any other costs another round trip (RFC 7296 §1.2).
pub(super) fn choose_ike(
    ours: &[IkeProposal],
    offered: &[WireProposal],
    group: u16,
) -> Result<(IkeSuite, u8), Mismatch> {
    select_ike(ours, &with_group(offered, Some(group))).or_else(|_| select_ike(ours, offered))
}

/// Whether an IKE SA of this suite could have come of these proposals.
pub(super) fn allows(ours: &[IkeProposal], suite: IkeSuite) -> bool {
    select_ike(ours, &[suite.answer(1)]).is_ok()
}

/// What was chosen of a peer's offer for a CHILD SA.
#[derive(Debug, Clone, Copy)]
pub(super) struct EspChoice {
    pub(super) suite: EspSuite,
    /// The number of the proposal.
    pub(super) number: u8,
    /// The peer's SPI.
    pub(super) peer: Spi,
}

/// Chooses from a peer's offer for a CHILD SA; `group` as in [`choose_ike`], `None` without a KE payload. Key
/// exchange counts only `with_ke`, which is not so in IKE_AUTH.
pub(super) fn choose_esp(
    ours: &[EspProposal],
    offered: &[WireProposal],
    with_ke: bool,
    group: Option<u16>,
) -> Result<EspChoice, Mismatch> {
    let (suite, number, peer) = select_esp(ours, &with_group(offered, group), with_ke)
        .or_else(|_| select_esp(ours, offered, with_ke))?;
    Ok(EspChoice { suite, number, peer })
}

/// The offer without the groups of other KE payloads than the one that came.
fn with_group(offered: &[WireProposal], group: Option<u16>) -> Vec<WireProposal> {
    let mut offered = offered.to_vec();
    for proposal in &mut offered {
        proposal.transforms.retain(|transform| {
            transform.transform_type != transform_type::KE || Some(transform.id) == group
        });
    }
    offered
}
