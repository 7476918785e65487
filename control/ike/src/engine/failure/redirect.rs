//! Gateways that send us elsewhere.

use std::net::IpAddr;

use super::{About, Fix, Place, Reason, Verdict};

impl About {
    /// The connection stays where it is.
    pub(in crate::engine) fn redirect_not_followed(&self, to: &str) -> Verdict {
        let section = self.section();
        self.fail(
            Reason::RedirectRefused,
            format!(
                "{} sends us to {to}, and {section}.follow_redirects is false or that is nowhere to go",
                self.peer()
            ),
        )
        .fix(Fix::here(section, "follow_redirects", "true"))
    }

    /// Names are not resolved.
    pub(in crate::engine) fn redirect_to_a_name(&self, name: &str) -> Verdict {
        self.fail(
            Reason::RedirectRefused,
            format!("{} sends us to `{}`, a name, and we resolve none", self.peer(), name.escape_debug()),
        )
        .fix(Fix::step(Place::Peer, "name the other gateway by its address"))
    }

    /// What it sends is no gateway's identity.
    pub(in crate::engine) fn redirect_unreadable(&self) -> Verdict {
        self.fail(
            Reason::PeerMisbehaved,
            format!("{} sends us elsewhere (REDIRECT, RFC 5685) without saying where", self.peer()),
        )
        .fix(Fix::step(Place::Peer, "update it, or report it to its maker"))
    }

    /// Gateways send us to one another.
    pub(in crate::engine) fn redirect_loop(&self, to: IpAddr, times: usize) -> Verdict {
        self.fail(
            Reason::RedirectRefused,
            format!(
                "{} sends us to {to} after we were sent on {times} times: that leads in circles",
                self.peer()
            ),
        )
        .fix(Fix::step(Place::Peer, "have the gateways agree on who serves this client"))
    }

    /// None of them would go.
    pub(in crate::engine) fn nothing_to_redirect(&self, to: IpAddr) -> Verdict {
        self.fail(
            Reason::NothingToRedirect,
            format!("{} has no client that could be sent to {to}: only peers that have begun an IKE SA and take REDIRECT (RFC 5685) can", self.section()),
        )
    }
}
