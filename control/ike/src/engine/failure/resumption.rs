//! IKE SAs that were to be resumed.

use super::{About, Fix, Place, Reason, Verdict};
use crate::config::Identity;

impl About {
    /// The gateway took our ticket and then refused us.
    pub(in crate::engine) fn not_let_resume(&self, id: &Identity) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::NotResumed,
            format!("{peer} did not let us (`{id}`) resume an IKE SA, though our ticket was good; the next is begun in full"),
        )
        .fact("identity", id)
        .fix(Fix::step(Place::Peer, "nothing, if it happens once; else read its log for this moment"))
    }

    /// The other end does not prove that it is the one of the ticket.
    pub(in crate::engine) fn not_resumed(&self, id: &Identity, why: &str) -> Verdict {
        let peer = self.peer();
        self.fail(Reason::NotResumed, format!("{peer} (`{id}`) was not let resume an IKE SA: {why}"))
            .fact("identity", id)
            .fix(Fix::step(
                Place::Peer,
                "nothing, if it happens once: the next IKE SA is begun in full; else look for one that repeats other people's tickets",
            ))
    }
}
