//! CHILD SAs of single workers that are not to be had (RFC 9611).

use super::{About, Fix, Place, Reason, Verdict, list, notify_name, toml_key};
use crate::engine::selectors::Selectors;

impl About {
    fn per_cpu_sas(&self, child: &str, value: &str) -> Fix {
        Fix::here(format!("{}.children.{}", self.section(), toml_key(child)), "per_cpu_sas", value.to_owned())
    }

    /// The peer wants no more.
    pub(in crate::engine) fn no_more_for_workers(&self, child: &str, error: u16) -> Verdict {
        self.fail(
            Reason::TsMaxQueue,
            format!(
                "{} takes no more CHILD SAs like that of child `{child}` ({}): workers without one hand their packets on",
                self.peer(),
                notify_name(error)
            ),
        )
        .fix(Fix::step(Place::Peer, "allow as many CHILD SAs with the same traffic selectors as we have workers"))
        .fix(self.per_cpu_sas(child, "<how many it takes>"))
    }

    /// The peer wants more than we do.
    pub(in crate::engine) fn too_many_for_workers(&self, child: &str, most: u16) -> Verdict {
        self.fail(
            Reason::TsMaxQueue,
            format!(
                "{} asks for more CHILD SAs like that of child `{child}` than the {most} that may be beside it",
                self.peer()
            ),
        )
        .fix(self.per_cpu_sas(child, "<as many as the peer has processors>"))
    }

    /// The peer's answer differs from what there is (RFC 9611 §3).
    pub(in crate::engine) fn not_like_the_others(
        &self,
        child: &str,
        answered: &Selectors,
        asked: &Selectors,
    ) -> Verdict {
        let both =
            |selectors: &Selectors| format!("{} and {}", list(&selectors.local), list(&selectors.remote));
        self.fail(
            Reason::PeerMisbehaved,
            format!(
                "{} was asked for one more CHILD SA like that of child `{child}`, and answered with other selectors: {} instead of {}",
                self.peer(),
                both(answered),
                both(asked)
            ),
        )
        .fix(Fix::step(Place::Peer, "update it, or report it to its maker"))
        .fix(self.per_cpu_sas(child, "false"))
    }

    /// The peer asks for what differs from what there is.
    pub(in crate::engine) fn other_algorithms(&self, child: &str, there: &str, asked: &str) -> Verdict {
        self.fail(
            Reason::PeerMisbehaved,
            format!(
                "{} asks for one more CHILD SA like that of child `{child}`, which has {there}, but with {asked}, or in another mode",
                self.peer()
            ),
        )
        .fix(Fix::step(Place::Peer, "have it ask with the same proposals as for the first"))
        .fix(self.per_cpu_sas(child, "false"))
    }
}
