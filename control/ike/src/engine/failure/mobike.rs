//! Ends that move.

use std::net::IpAddr;

use super::{About, Fix, Place, Reason, Verdict, notify_name};
use crate::verdict::toml_list;

impl About {
    /// The peer does not let us be where we are now.
    pub(in crate::engine) fn move_refused(&self, local: IpAddr, error: u16) -> Verdict {
        self.fail(
            Reason::MoveRefused,
            format!(
                "{} does not accept that we have moved to {local}: it answered {}",
                self.peer(),
                notify_name(error)
            ),
        )
        .fix(Fix::strongswan("", "remote_addrs", "<what it is now>, <our new address>"))
        .fix(Fix::step(Place::Peer, format!("let this connection come from {local} as well")))
    }

    /// The peer has moved to where its connection must not be.
    pub(in crate::engine) fn peer_moved_too_far(&self, local: IpAddr, remote: IpAddr) -> Verdict {
        let section = self.section();
        self.fail(
            Reason::MoveRefused,
            format!(
                "the peer has moved to {remote}, and asks for us at {local}: {section} does not allow both"
            ),
        )
        .fix(Fix::here(
            &section,
            "remote_addrs",
            toml_list([remote.to_string(), "<what it is now>".to_owned()]),
        ))
        .fix(Fix::here(
            section,
            "local_addrs",
            toml_list([local.to_string(), "<what it is now>".to_owned()]),
        ))
    }

    /// The peer allows no NAT, and one has changed what it sent.
    pub(in crate::engine) fn peer_allows_no_nat(&self, remote: IpAddr) -> Verdict {
        self.fail(
            Reason::MoveRefused,
            format!(
                "the peer has moved and allows no NAT on its way, but its message came from {remote}, changed"
            ),
        )
        .fix(Fix::step(Place::Network, "take the NAT between the two ends away"))
        .fix(Fix::step(Place::Peer, "let its connection pass a NAT"))
    }

    /// What answered is not what was asked.
    pub(in crate::engine) fn cookie_differs(&self) -> Verdict {
        self.fail(
            Reason::PeerMisbehaved,
            format!("{} did not give back the COOKIE2 that it was sent (RFC 4555 §4.2.5)", self.peer()),
        )
        .fix(Fix::step(Place::Peer, "update it, or report it to its maker"))
    }
}
