//! CHILD SAs that do not come about: ESP proposals and traffic selectors.

use std::fmt::Display;

use portcullis_ipsec::{Mode, Spi, TrafficSelector};

use super::{About, Fix, Place, Reason, Verdict, join, list, toml_key};
use crate::config::ChildConfig;
use crate::engine::negotiation;
use crate::engine::selectors::Selectors;
use crate::message::WireProposal;
use crate::proposal::EspProposal;
use crate::verdict::{
    ChildSelectors, ProposalTable, Protocol, Selector, SelectorTable, libreswan_esp, quoted, toml_list,
};

impl About {
    fn child_section(&self, child: &str) -> String {
        format!("{}.children.{}", self.section(), toml_key(child))
    }

    /// A peer's whole offer, compared with what a child has.
    pub(in crate::engine) fn child_proposal_mismatch(
        &self,
        child: &ChildConfig,
        offered: &[WireProposal],
        with_ke: bool,
    ) -> Verdict {
        let ours = &child.esp_proposals;
        let here = negotiation::offer_esp(ours, Spi::MIN, with_ke);
        let table = ProposalTable::compare(Protocol::Esp, &here, offered, with_ke);
        self.fail(
            table.reason(),
            format!(
                "the ESP proposals for child `{}` do not go together: {}",
                child.name,
                table.difference()
            ),
        )
        .fixes(self.esp_proposal_that_matches(child, &table))
        .fixes(peers_lines(ours, &table))
        .seen(table)
    }

    /// The peer has refused ours and says no more.
    pub(in crate::engine) fn child_proposal_refused(&self, child: &str, ours: &[EspProposal]) -> Verdict {
        let peer = self.peer();
        let table = ProposalTable::ours_alone(Protocol::Esp, &negotiation::offer_esp(ours, Spi::MIN, true));
        self.fail(
            Reason::ChildProposalRefused,
            format!("{peer} takes none of the ESP proposals of child `{child}` ({}); it does not say what it would take", join(ours.iter())),
        )
        .fixes(peers_lines(ours, &table))
        .fix(Fix::here(self.child_section(child), "esp_proposals", toml_list(["<what the peer has>"])))
        .seen(table)
    }

    /// The peer's answer is not one of what we offered.
    pub(in crate::engine) fn child_proposal_not_ours(&self, child: &str, why: &dyn Display) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::PeerMisbehaved,
            format!("{peer} chose an ESP proposal for child `{child}` that we did not make: {why}"),
        )
        .fix(Fix::step(Place::Peer, "update it, or report it to its maker"))
    }

    fn esp_proposal_that_matches(&self, child: &ChildConfig, table: &ProposalTable) -> Option<Fix> {
        let wanted: EspProposal = table.advisable()?.parse().ok()?;
        let list = child.esp_proposals.iter().chain([&wanted]).map(ToString::to_string);
        Some(Fix::here(self.child_section(&child.name), "esp_proposals", toml_list(list)))
    }

    /// A peer asked for traffic that no child of ours has.
    pub(in crate::engine) fn selectors_do_not_overlap(
        &self,
        asked: &Selectors,
        children: &[(String, Selectors)],
    ) -> Verdict {
        let table = table(true, asked, children);
        let (peer, section) = (self.peer(), self.section());
        let verdict = |sentence: String| self.fail(Reason::TsNoOverlap, sentence).seen(table.clone());
        let (local, remote) = (list(&asked.local), list(&asked.remote));
        let Some((name, ours)) = nearest(asked, children) else {
            return verdict(format!("{peer} asked for a CHILD SA, but {section} has no children"));
        };
        let common = |a: &[TrafficSelector], b: &[TrafficSelector]| !overlap(a, b).is_empty();
        let (local_fits, remote_fits) =
            (common(&asked.local, &ours.local), common(&asked.remote, &ours.remote));
        let sides = [
            (local_fits, "our side", &local, list(&ours.local), "local_ts", &asked.local),
            (remote_fits, "its side", &remote, list(&ours.remote), "remote_ts", &asked.remote),
        ];
        let apart = sides.iter().filter(|(fits, ..)| !fits);
        let parts = apart.clone().map(|(_, side, asked, ours, ..)| {
            format!("on {side} it asked for {asked}, and child `{name}` has {ours}")
        });
        let parts: Vec<String> = parts.collect();
        let fixes: Vec<Fix> = apart
            .clone()
            .map(|(_, _, _, _, option, asked)| {
                Fix::here(self.child_section(name), option, toml_list(asked.iter()))
            })
            .collect();
        let theirs: Vec<Fix> = apart.flat_map(|(.., option, _)| peers_selectors(option, ours)).collect();
        verdict(format!("the traffic selectors have nothing in common: {}", parts.join("; ")))
            .fixes(fixes)
            .fixes(theirs)
    }

    /// The peer has refused ours and says no more.
    pub(in crate::engine) fn selectors_refused(&self, child: &str, asked: &Selectors) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::TsNoOverlap,
            format!("{peer} takes none of the traffic of child `{child}`: {} on our side and {} on its side; it does not say what it has", list(&asked.local), list(&asked.remote)),
        )
        .seen(table(false, asked, &[]))
        .fixes(peers_selectors("local_ts", asked))
        .fixes(peers_selectors("remote_ts", asked))
        .fix(Fix::here(self.child_section(child), "local_ts", toml_list(["<the peer's remote_ts>"])))
        .fix(Fix::here(self.child_section(child), "remote_ts", toml_list(["<the peer's local_ts>"])))
    }

    /// The peer answered with another mode than we asked for.
    pub(in crate::engine) fn mode_refused(&self, child: &str, asked: Mode) -> Verdict {
        let (peer, section) = (self.peer(), self.child_section(child));
        match asked {
            Mode::Transport => self
                .fail(
                    Reason::ChildModeMismatch,
                    format!("{peer} agrees to child `{child}` in tunnel mode alone, and {section}.mode asks for transport mode"),
                )
                .fix(Fix::here(section, "mode", "\"tunnel\""))
                .fixes(peers_mode("transport")),
            Mode::Tunnel => self
                .fail(
                    Reason::PeerMisbehaved,
                    format!("{peer} answered for child `{child}` with transport mode, for which we did not ask"),
                )
                .fix(Fix::step(Place::Peer, "update it, or report it to its maker")),
        }
    }

    /// The peer asked for another mode than a child of ours is for.
    pub(in crate::engine) fn mode_mismatch(&self, child: &str, asked: Mode) -> Verdict {
        let (peer, section) = (self.peer(), self.child_section(child));
        let asked = match asked {
            Mode::Tunnel => "tunnel mode",
            Mode::Transport => "transport mode between selectors that are not one address on each side",
        };
        self.fail(
            Reason::ChildModeMismatch,
            format!("{peer} asks for {asked}, and {section}.mode is \"transport\""),
        )
        .fix(Fix::here(section, "mode", "\"tunnel\""))
        .fixes(peers_mode("transport"))
    }

    pub(in crate::engine) fn selectors_wider_than_asked(
        &self,
        child: &str,
        answered: &[TrafficSelector],
        asked: &[TrafficSelector],
    ) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::PeerMisbehaved,
            format!(
                "{peer} answered for child `{child}` with selectors ({}) beyond what we asked for ({})",
                list(answered),
                list(asked)
            ),
        )
        .fix(Fix::step(Place::Peer, "update it, or report it to its maker: an answer may only narrow"))
    }
}

/// The peer's lines that would take the nearest of what we have.
fn peers_lines(ours: &[EspProposal], table: &ProposalTable) -> Vec<Fix> {
    let index = table.nearest.map_or(0, |(_, ours)| ours);
    let Some(proposal) = ours.get(index) else { return Vec::new() };
    let offer = proposal.offer(1, Spi::MIN, true);
    let libreswan = libreswan_esp(&offer).map(|line| Fix::libreswan("esp", quoted(line)));
    let strongswan = Fix::strongswan("children.<child>", "esp_proposals", proposal.to_string());
    std::iter::once(strongswan).chain(libreswan).collect()
}

/// The peer's lines for a mode.
fn peers_mode(mode: &str) -> [Fix; 2] {
    [Fix::strongswan("children.<child>", "mode", mode), Fix::libreswan("type", mode)]
}

/// The peer's lines for one side of ours.
fn peers_selectors(ours: &str, selectors: &Selectors) -> [Fix; 2] {
    let (theirs, libreswan, list) = match ours {
        "local_ts" => ("remote_ts", "rightsubnets", &selectors.local),
        _ => ("local_ts", "leftsubnets", &selectors.remote),
    };
    let text = join(list.iter());
    [
        Fix::strongswan("children.<child>", theirs, text.clone()),
        Fix::libreswan(libreswan, quoted(text.replace(", ", ","))),
    ]
}

/// The child of which most is left; among equals the first.
fn nearest<'c>(asked: &Selectors, children: &'c [(String, Selectors)]) -> Option<&'c (String, Selectors)> {
    let sides = |(_, ours): &&(String, Selectors)| {
        let fits = |a: &[TrafficSelector], b: &[TrafficSelector]| u8::from(!overlap(a, b).is_empty());
        fits(&asked.local, &ours.local) + fits(&asked.remote, &ours.remote)
    };
    children.iter().rev().max_by_key(sides)
}

fn overlap(a: &[TrafficSelector], b: &[TrafficSelector]) -> Vec<TrafficSelector> {
    a.iter().flat_map(|a| b.iter().filter_map(|b| a.intersection(*b))).collect()
}

fn table(asked_by_peer: bool, asked: &Selectors, children: &[(String, Selectors)]) -> SelectorTable {
    let row = |(name, ours): &(String, Selectors)| ChildSelectors {
        child: name.clone(),
        local: Selector::list(&ours.local),
        remote: Selector::list(&ours.remote),
        common_local: Selector::list(&overlap(&asked.local, &ours.local)),
        common_remote: Selector::list(&overlap(&asked.remote, &ours.remote)),
    };
    SelectorTable {
        asked_by_peer,
        asked_local: Selector::list(&asked.local),
        asked_remote: Selector::list(&asked.remote),
        children: children.iter().take(16).map(row).collect(),
    }
}
