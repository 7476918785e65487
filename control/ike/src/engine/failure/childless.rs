//! IKE SAs without a child.

use super::{About, Fix, Reason, Verdict};
use crate::verdict::quoted;

impl About {
    /// We insist on one, and the peer does not take it.
    pub(in crate::engine) fn childless_not_supported(&self) -> Verdict {
        let (peer, section) = (self.peer(), self.section());
        self.childless_mismatch(format!(
            "{section}.childless is \"force\", and {peer} does not say that it takes IKE SAs without a child (RFC 6023)"
        ))
    }

    /// The peer began with one.
    pub(in crate::engine) fn childless_not_allowed(&self) -> Verdict {
        let (peer, section) = (self.peer(), self.section());
        self.childless_mismatch(format!(
            "{section}.childless is \"never\", and {peer} has begun an IKE SA without a child (RFC 6023)"
        ))
    }

    /// The peer asked for a child in IKE_AUTH.
    pub(in crate::engine) fn child_in_ike_auth(&self) -> Verdict {
        let (peer, section) = (self.peer(), self.section());
        self.childless_mismatch(format!(
            "{section}.childless is \"force\", and {peer} asks for a child in IKE_AUTH, which gets none there"
        ))
    }

    fn childless_mismatch(&self, sentence: String) -> Verdict {
        self.fail(Reason::ChildlessMismatch, sentence)
            .fix(Fix::here(self.section(), "childless", quoted("allow")))
            .fix(Fix::strongswan("", "childless", "prefer"))
    }
}
