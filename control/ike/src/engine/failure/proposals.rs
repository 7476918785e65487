//! Proposals of the IKE SA that do not go together.

use std::fmt::Display;

use super::{About, Fix, Place, Reason, Verdict, join};
use crate::crypto::KeMethod;
use crate::engine::negotiation;
use crate::message::WireProposal;
use crate::proposal::IkeProposal;
use crate::verdict::{ProposalTable, Protocol, libreswan_ike, quoted, toml_list};

impl About {
    /// A peer's whole offer, compared with what we have.
    pub(in crate::engine) fn ike_proposal_mismatch(
        &self,
        ours: &[IkeProposal],
        offered: &[WireProposal],
    ) -> Verdict {
        let table = ProposalTable::compare(Protocol::Ike, &negotiation::offer_ike(ours), offered, true);
        self.fail(table.reason(), format!("the IKE proposals do not go together: {}", table.difference()))
            .fixes(self.ike_proposal_that_matches(ours, &table))
            .fixes(peers_lines(ours, &table))
            .seen(table)
    }

    /// The peer has refused ours and says no more.
    pub(in crate::engine) fn ike_proposal_refused(&self, ours: &[IkeProposal]) -> Verdict {
        let peer = self.peer();
        let table = ProposalTable::ours_alone(Protocol::Ike, &negotiation::offer_ike(ours));
        self.fail(
            Reason::ProposalRefused,
            format!("{peer} refused our first message: it takes none of our IKE proposals ({}), or it has no connection for our address; it does not say which", join(ours.iter())),
        )
        .fix(Fix::step(Place::Here, format!("ask it what it would take: portcullis probe {peer}")))
        .fixes(peers_lines(ours, &table))
        .seen(table)
    }

    pub(in crate::engine) fn ike_proposal_not_ours(&self, mismatch: &dyn Display) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::PeerMisbehaved,
            format!("{peer} chose an IKE proposal that we did not make: {mismatch}"),
        )
        .fix(Fix::step(Place::Peer, "update it, or report it to its maker"))
    }

    /// The peer insists on a group that we did not offer, or asks again for one that we have sent.
    pub(in crate::engine) fn group_refused(&self, wanted: u16, ours: &[IkeProposal]) -> Verdict {
        let (peer, section) = (self.peer(), self.section());
        let table = ProposalTable::ours_alone(Protocol::Ike, &negotiation::offer_ike(ours));
        let known = KeMethod::from_id(wanted);
        let name =
            known.map_or_else(|| format!("group {wanted}"), |method| format!("{method} (group {wanted})"));
        let offered = join(ours.iter().flat_map(|proposal| proposal.ke.iter()));
        let verdict = self
            .fail(
                Reason::ProposalKeMismatch,
                format!("{peer} insists on {name} for the key exchange, which we did not offer or have tried already; we have {offered}"),
            )
            .fixes(peers_lines(ours, &table))
            .seen(table);
        match (known, ours.first()) {
            (Some(method), Some(first)) => {
                let mut with = first.clone();
                with.ke.push(method);
                let rest = ours.iter().skip(1).map(ToString::to_string);
                let list = std::iter::once(with.to_string()).chain(rest);
                verdict.fix(Fix::here(section, "proposals", toml_list(list)))
            }
            _ => verdict,
        }
    }

    /// Our line that would take the nearest of what the peer has, if this version can and it is not weak.
    fn ike_proposal_that_matches(&self, ours: &[IkeProposal], table: &ProposalTable) -> Option<Fix> {
        let wanted: IkeProposal = table.advisable()?.parse().ok()?;
        let list = ours.iter().chain([&wanted]).map(ToString::to_string);
        Some(Fix::here(self.section(), "proposals", toml_list(list)))
    }
}

/// The peer's lines that would take the nearest of what we have.
fn peers_lines(ours: &[IkeProposal], table: &ProposalTable) -> Vec<Fix> {
    let index = table.nearest.map_or(0, |(_, ours)| ours);
    let Some(proposal) = ours.get(index) else { return Vec::new() };
    let libreswan = libreswan_ike(&proposal.offer(1)).map(|line| Fix::libreswan("ike", quoted(line)));
    std::iter::once(Fix::strongswan("", "proposals", proposal.to_string())).chain(libreswan).collect()
}
