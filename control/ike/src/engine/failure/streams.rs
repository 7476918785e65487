//! TCP connections of ours that fail (RFC 9329).

use std::net::SocketAddr;

use super::{About, Fix, Place, Reason, Verdict, times};
use crate::config::ConnectionConfig;
use crate::engine::api::StreamFailure;
use crate::engine::sa::Base;

impl About {
    /// There is no TCP connection to the peer.
    pub(in crate::engine) fn no_stream(
        &self,
        connection: Option<&ConnectionConfig>,
        base: &Base,
        remote: SocketAddr,
        why: &StreamFailure,
    ) -> Verdict {
        let (port, section) = (remote.port(), self.section());
        let what = match why {
            StreamFailure::Refused => {
                format!("{remote} refuses it: nothing listens there, or a firewall rejects it")
            }
            StreamFailure::NoAnswer => {
                format!("{remote} does not answer: a firewall drops it, or nobody has that address")
            }
            StreamFailure::Ended if base.established.is_some() => {
                format!("{remote} ends it again and again")
            }
            StreamFailure::Ended => {
                format!("{remote} took it, and ended it before the IKE SA was up")
            }
            StreamFailure::Impossible(error) => format!("the kernel cannot connect to {remote}: {error}"),
        };
        let sentence = match (base.established.is_some(), base.tried_udp) {
            (true, _) => {
                format!("the TCP connection that carried the tunnel broke, and there is no other: {what}")
            }
            (false, 0) => format!("there is no TCP connection to the peer: {what}"),
            (false, sent) => format!(
                "there is no way to the peer: our first message, sent {} by UDP, was not answered, and by TCP {what}",
                times(sent)
            ),
        };
        let verdict = self.fail(Reason::TcpFailed, sentence).fact("TCP connection to", remote);
        let listens = Fix::step(
            Place::Peer,
            format!(
                "see whether IKE in TCP (RFC 9329) is listened for on port {port}: ss -ltnp 'sport = :{port}'"
            ),
        );
        let other_port = Fix::here(section.clone(), "tcp_port", "<the peer's TCP port, if it is another>");
        let passes = Fix::step(Place::Network, format!("let TCP pass to port {port} of {}", remote.ip()));
        let verdict = match why {
            StreamFailure::Refused => verdict.fix(listens).fix(other_port).fix(passes),
            StreamFailure::NoAnswer => verdict.fix(passes).fix(other_port),
            StreamFailure::Ended => verdict
                .fix(Fix::step(
                    Place::Peer,
                    "read its log for this moment: what has that port may not speak IKE, or wants TLS around it",
                ))
                .fix(other_port),
            StreamFailure::Impossible(_) => {
                verdict.fix(Fix::step(Place::Here, format!("ip route get {}", remote.ip())))
            }
        };
        match connection.map(|connection| connection.tcp) {
            Some(crate::config::Tcp::Only) => {
                verdict.fix(Fix::here(section, "tcp", crate::verdict::quoted("fallback")))
            }
            _ => verdict,
        }
    }

    /// The peer does not answer a request that a TCP stream has taken.
    pub(super) fn silent_stream(&self, exchange: &str, base: &Base) -> Verdict {
        let remote = base.remote;
        let after = if base.established.is_some() { ", after the IKE SA had been up" } else { "" };
        self.fail(
            Reason::PeerSilent,
            format!("{remote} took our {exchange} request by TCP and does not answer it{after}"),
        )
        .fix(Fix::step(
            Place::Peer,
            "read its log for this moment: what has that port may not speak IKE (RFC 9329), or has lost the IKE SA",
        ))
    }
}
