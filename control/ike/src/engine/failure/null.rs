//! Peers that prove nothing (RFC 7619).

use portcullis_ipsec::TrafficSelector;

use super::{About, Fix, Place, Reason, Verdict};

impl About {
    /// Its AUTH payload does not fit the messages that we have seen.
    pub(in crate::engine) fn null_auth_wrong(&self) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::PeerMisbehaved,
            format!("the AUTH payload of {peer}, which has to prove nothing, does not even fit this IKE SA: somebody between both has changed IKE_SA_INIT, or the peer does not compute it as RFC 7619 §2.1 has it"),
        )
    }

    /// There are as many of them as may be.
    pub(in crate::engine) fn too_many_unauthenticated(&self, limit: usize) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::UnauthenticatedRefused,
            format!("{peer} proves nothing, and {limit} IKE SAs with such peers are there already"),
        )
        .fix(Fix::here("ike", "unauthenticated_limit", format!("{}", limit.saturating_mul(2).max(1))))
        .fix(Fix::step(
            Place::Here,
            "see who they are: portcullis status; dpd_delay on their connection ends those that are gone",
        ))
    }

    /// It would get traffic that is for a peer that proves itself.
    pub(in crate::engine) fn selectors_of_another(
        &self,
        theirs: TrafficSelector,
        connection: &str,
    ) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::UnauthenticatedRefused,
            format!("{peer} proves nothing, and the traffic that it asks for lies within {theirs}, which is for the authenticated peer of [connections.{connection}]"),
        )
        .fact("asked for", format!("traffic of {theirs}"))
        .fact("belongs to", format!("connections.{connection}"))
        .fix(Fix::step(Place::Here, "give such peers inner addresses: `pools` on their connection"))
        .fix(Fix::step(Place::Peer, "have it prove who it is"))
    }
}
