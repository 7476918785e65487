//! What each failure says: the reason, one sentence, the evidence, what to change on either side. One function a cause, so
//! that every text is found in one place; proposals, authentication and children have files of their own below. A new
//! failure is one function here, and one line in [`Reason`] if it is of a new kind.
//!
//! [`Reason`]: crate::verdict::Reason

mod addresses;
mod authentication;
mod childless;
mod children;
mod eap;
mod mobike;
mod null;
mod ppk;
mod proposals;
mod redirect;
mod resources;
mod resumption;
mod streams;

use std::fmt::{Display, Write as _};
use std::net::{IpAddr, SocketAddr};

use portcullis_ipsec::{InstallError, TrafficSelector};

pub(super) use authentication::Claims;

use super::api::Failure;
use super::channel::Unanswered;
use super::sa::Base;
use crate::config::{AddressMatch, ConnectionConfig};
use crate::crypto::KeyExchangeError;
use crate::message::{MessageError, notify};
use crate::verdict::{Candidate, Check, Fix, Place, Reason, Silence, Verdict, toml_list};

/// Octets of an IKE message from which IP may have to cut it: what fits into 1280 octets goes everywhere.
const LARGE: usize = 1232;

/// Whether somebody said no, so that trying again soon is hardly worth while.
pub(super) fn is_refusal(failure: &Failure) -> bool {
    use Reason::{
        AuthNeverCame, ClosedEarly, FragmentsLost, Nat4500Blocked, NoRoute, NotResumed, PeerRestarted,
        PeerSilent, TcpFailed,
    };
    !matches!(
        failure.reason,
        PeerSilent
            | PeerRestarted
            | TcpFailed
            | NotResumed
            | ClosedEarly
            | AuthNeverCame
            | FragmentsLost
            | Nat4500Blocked
            | NoRoute
    )
}

/// Whom a failure is about.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) connection: Option<String>,
    pub(super) remote: Option<SocketAddr>,
}

impl About {
    fn fail(&self, reason: Reason, sentence: impl Into<String>) -> Verdict {
        Verdict { connection: self.connection.clone(), peer: self.remote, ..Verdict::new(reason, sentence) }
    }

    /// Where the connection is configured: `connections.site`.
    fn section(&self) -> String {
        match &self.connection {
            Some(name) => format!("connections.{}", toml_key(name)),
            None => "connections.<name>".to_owned(),
        }
    }

    fn peer(&self) -> String {
        self.remote.map_or_else(|| "the peer".to_owned(), |remote| format!("{}", remote.ip()))
    }
}

/// Commands that name what is not there.
impl About {
    pub(super) fn unknown_connection(&self, name: &str) -> Verdict {
        self.fail(
            Reason::UnknownConnection,
            format!("no connection is called `{name}`; see [connections.*] in the configuration"),
        )
    }

    pub(super) fn unknown_child(&self, child: &str, children: &str) -> Verdict {
        let sentence = format!("{} has no child `{child}`; it has {children}", self.section());
        self.fail(Reason::UnknownChild, sentence)
    }

    pub(super) fn nothing_to_terminate(&self) -> Verdict {
        self.fail(
            Reason::NothingToTerminate,
            format!("{} has no SA that could be terminated", self.section()),
        )
    }

    pub(super) fn nothing_to_rekey(&self) -> Verdict {
        self.fail(
            Reason::NothingToRekey,
            format!("{} has no SA that could be rekeyed from here", self.section()),
        )
    }

    pub(super) fn no_remote_address(&self) -> Verdict {
        let section = self.section();
        self.fail(
            Reason::NoRemoteAddress,
            format!("{section}.remote_addrs names no single address, so only the peer can initiate"),
        )
        .fix(Fix::here(section, "remote_addrs", toml_list(["<the peer's address>"])))
    }
}

/// The network.
impl About {
    pub(super) fn no_source_address(&self) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::NoRoute,
            format!("the kernel has no route to {peer}, so there is no address to send from"),
        )
        .fix(Fix::step(Place::Here, format!("ip route add {peer} via <gateway> dev <outside interface>")))
        .fix(Fix::here(
            self.section(),
            "remote_addrs",
            toml_list(["<an address that can be reached>"]),
        ))
    }

    /// Nobody has answered `request` of ours. Where the peer has answered before, how far it got tells the cause.
    pub(super) fn silent(&self, exchange: &str, request: Unanswered, base: &Base) -> Verdict {
        let (peer, section) = (self.peer(), self.section());
        let (local, remote) = (base.local, base.remote);
        let silence = |heard: Vec<String>| Silence {
            exchange: exchange.to_owned(),
            sent: request.sent,
            octets: request.octets,
            from: local,
            to: remote,
            heard,
        };
        let tries = times(request.sent);
        if base.path().is_stream() {
            return self.silent_stream(exchange, base).seen(silence(Vec::new()));
        }
        if exchange == "IKE_SA_INIT" {
            return self
                .fail(
                    Reason::PeerSilent,
                    format!(
                        "{peer} did not answer our first message (IKE_SA_INIT, sent {tries} to UDP {}): nothing came back at all",
                        remote.port()
                    ),
                )
                .seen(silence(Vec::new()))
                .fix(Fix::step(Place::Peer, format!("see whether IKE runs there and listens on UDP {}: ss -ulpn", remote.port())))
                .fix(Fix::here(section, "remote_addrs", toml_list(["<the peer's address, if it is another>"])))
                .fix(Fix::step(Place::Network, format!("let UDP 500 and 4500 pass both ways between {} and {peer}", local.ip())));
        }
        if base.established.is_some() {
            return self
                .fail(
                    Reason::PeerSilent,
                    format!("{peer} no longer answers: our {exchange} request was sent {tries} without an answer, after the IKE SA had been up"),
                )
                .seen(silence(Vec::new()))
                .fix(Fix::step(Place::Network, format!("see whether {peer} is up and reachable: ping {peer}")))
                .fix(Fix::step(Place::Peer, "see whether it was restarted: it then knows nothing of this IKE SA"));
        }
        let answered = silence(vec![format!("{peer} answered IKE_SA_INIT")]);
        let floated = base.encapsulated();
        if request.octets > LARGE && (!floated || request.octets > 1472) {
            self.fail(
                Reason::FragmentsLost,
                format!("{peer} answered our small first message and never the large second one ({exchange}, {} octets, sent {tries}): large UDP packets do not arrive", request.octets),
            )
            .seen(answered)
            .fix(Fix::step(Place::Network, format!("let IP fragments pass between {} and {peer}, and ICMP \"fragmentation needed\"", local.ip())))
            .fix(Fix::here(section, "fragmentation", crate::verdict::quoted("yes")))
            .fix(Fix::strongswan("", "fragmentation", "yes"))
            .fix(Fix::libreswan("fragmentation", "yes"))
            .fix(Fix::step(Place::Here, "send less: ECDSA or Ed25519 certificates instead of RSA, no intermediate CAs that the peer has itself"))
        } else if floated {
            self.fail(
                Reason::Nat4500Blocked,
                format!("{peer} answered on UDP 500 and never on UDP {}, where IKE goes on behind a NAT ({exchange}, sent {tries})", remote.port()),
            )
            .seen(answered)
            .fix(Fix::step(Place::Network, format!("let UDP {} pass both ways between {} and {peer}: nft add rule inet filter forward udp dport {} accept", remote.port(), local.ip(), remote.port())))
            .fix(Fix::step(Place::Peer, format!("see whether its own firewall takes UDP {}", remote.port())))
        } else {
            self.fail(
                Reason::PeerSilent,
                format!("{peer} answered IKE_SA_INIT and then fell silent: our {exchange} request was sent {tries} without an answer"),
            )
            .seen(answered)
            .fix(Fix::step(Place::Peer, "read its log for this moment: it took the first message and dropped the second"))
        }
    }

    pub(super) fn half_open_expired(&self, base: &Base) -> Verdict {
        let peer = self.peer();
        let behind_nat = base.nat.remote || base.nat.local;
        let why = if behind_nat {
            "there is a NAT between us, so it goes on over UDP 4500, which may not pass"
        } else {
            "our answer, or its second message, was lost on the way (large ones are, where fragments are dropped), or it gave up"
        };
        self.fail(
            Reason::AuthNeverCame,
            format!(
                "{peer} began an IKE SA and never sent a second message that we could read (IKE_AUTH): {why}"
            ),
        )
        .fact("first message came from", base.remote)
        .fact("and to", base.local)
        .fact("NAT before the peer", yes(base.nat.remote))
        .fact("NAT before us", yes(base.nat.local))
        .fix(Fix::step(
            Place::Network,
            format!(
                "let UDP 500 and 4500, and IP fragments, pass both ways between {} and {peer}",
                base.local.ip()
            ),
        ))
        .fix(Fix::step(
            Place::Peer,
            "read its log: it says whether our answer reached it and what it did then",
        ))
    }
}

fn yes(condition: bool) -> &'static str {
    if condition { "yes" } else { "no" }
}

/// Connections and their addresses.
impl About {
    pub(super) fn no_connection_for(&self, local: SocketAddr, connections: &[&ConnectionConfig]) -> Verdict {
        /// Connections that are shown.
        const SHOWN: usize = 16;
        let (peer, local) = (self.remote.map(|remote| remote.ip()), local.ip());
        let allows = |allowed: &[AddressMatch], addr| {
            allowed.is_empty() || allowed.iter().any(|own| own.contains(addr))
        };
        let here = |connection: &&&ConnectionConfig| allows(&connection.local_addrs, local);
        let there =
            |connection: &&&ConnectionConfig| peer.is_some_and(|peer| allows(&connection.remote_addrs, peer));
        let judge = |connection: &&ConnectionConfig| {
            let check = |option: &str, found: IpAddr, allowed: &[AddressMatch]| Check {
                option: option.to_owned(),
                found: found.to_string(),
                wanted: addresses(allowed),
                passed: allows(allowed, found),
            };
            let remote = peer.map(|peer| check("remote_addrs", peer, &connection.remote_addrs));
            let local = check("local_addrs", local, &connection.local_addrs);
            Candidate {
                connection: connection.name.clone(),
                checks: remote.into_iter().chain([local]).collect(),
            }
        };
        // Whoever has the peer's address means the peer.
        let of_peer: Vec<_> = connections.iter().filter(there).take(SHOWN).collect();
        let of_ours: Vec<_> = connections.iter().filter(here).take(SHOWN).collect();
        let (option, meant, missing) = match of_peer.is_empty() {
            false => ("local_addrs", of_peer, Some(local)),
            true => ("remote_addrs", of_ours, peer),
        };
        let shown: Vec<Candidate> = match meant.is_empty() {
            true => connections.iter().take(SHOWN).map(judge).collect(),
            false => meant.iter().copied().map(judge).collect(),
        };
        let peer = self.peer();
        let verdict = self
            .fail(
                Reason::NoConfigForAddress,
                format!("{peer} asked for an IKE SA with {local}, but no connection has both addresses"),
            )
            .seen(shown);
        match meant.as_slice() {
            [connection] => {
                let allowed =
                    if option == "local_addrs" { &connection.local_addrs } else { &connection.remote_addrs };
                let list =
                    allowed.iter().map(ToString::to_string).chain(missing.map(|addr| addr.to_string()));
                let section = format!("connections.{}", toml_key(&connection.name));
                verdict.fix(Fix::here(section, option, toml_list(list)))
            }
            [] => verdict.fix(Fix::step(
                Place::Here,
                format!("add a connection with local_addrs = [\"{local}\"] and remote_addrs = [\"{peer}\"]"),
            )),
            // Which of them only the operator knows.
            _ => verdict.fix(Fix::here("connections.<name>", option, toml_list(missing))),
        }
        .fix(Fix::strongswan("", "remote_addrs", "<the address that is meant>"))
        .fix(Fix::libreswan("right", "<the address that is meant>"))
    }
}

/// The peer, and we ourselves.
impl About {
    pub(super) fn refused(&self, exchange: &str, notify_type: u16) -> Verdict {
        let name = notify_name(notify_type);
        self.fail(
            Reason::PeerRefused,
            format!("{} answered our {exchange} request with the error {name}", self.peer()),
        )
        .fact("error notification", format!("{name} ({notify_type})"))
        .fix(Fix::step(Place::Peer, "read its log for this moment: the protocol lets it say no more"))
    }

    pub(super) fn key_exchange(&self, error: &KeyExchangeError) -> Verdict {
        self.fail(Reason::KeyExchangeFailed, format!("the key exchange could not be computed: {error}")).fix(
            Fix::step(
                Place::Here,
                "offer another key exchange method; if it happens with every peer, report it",
            ),
        )
    }

    pub(super) fn always_busy(&self) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::PeerBusy,
            format!("{peer} has answered TEMPORARY_FAILURE for minutes, so its view of the IKE SA and ours differ; the IKE SA is closed"),
        )
        .fix(Fix::step(Place::Peer, "nothing has to be done unless it happens again; then read its log for this IKE SA"))
    }

    pub(super) fn peer_restarted(&self) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::PeerRestarted,
            format!("{peer} has lost the IKE SA, as it proves with its token (RFC 6290): it was restarted; the IKE SA is closed"),
        )
        .fix(Fix::step(Place::Peer, "if nobody restarted it, read its log for the moment before this one"))
    }

    pub(super) fn cookie_loop(&self, asked: u32) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::PeerMisbehaved,
            format!("{peer} asked {} for another cookie and took none of them", times(asked)),
        )
        .fix(Fix::step(
            Place::Network,
            "see whether something between changes our source address or port with every packet",
        ))
    }

    pub(super) fn missing(&self, exchange: &str, what: &str) -> Verdict {
        let peer = self.peer();
        self.fail(Reason::PeerMisbehaved, format!("the {exchange} message of {peer} lacks {what}")).fix(
            Fix::step(
                Place::Peer,
                "update it, or report it to its maker: the standard asks for this payload",
            ),
        )
    }

    pub(super) fn malformed(&self, exchange: &str, error: &MessageError) -> Verdict {
        let peer = self.peer();
        self.fail(Reason::PeerMisbehaved, format!("the {exchange} message of {peer} cannot be read: {error}"))
            .fix(Fix::step(
                Place::Peer,
                "update it, or report it to its maker with a capture of the exchange",
            ))
    }

    pub(super) fn version(&self) -> Verdict {
        let peer = self.peer();
        self.fail(Reason::VersionMismatch, format!("{peer} does not speak IKEv2, and we speak nothing else"))
            .fix(Fix::strongswan("", "version", "2"))
            .fix(Fix::libreswan("ikev2", "yes"))
    }

    pub(super) fn older_version(&self, major: u8) -> Verdict {
        let peer = self.peer();
        self.fail(Reason::VersionMismatch, format!("{peer} began with IKEv{major}, and we speak IKEv2 alone"))
            .fix(Fix::strongswan("", "version", "2"))
            .fix(Fix::libreswan("ikev2", "yes"))
    }

    pub(super) fn not_installed(&self, child: &str, error: &InstallError) -> Verdict {
        self.fail(
            Reason::InstallFailed,
            format!("child `{child}` was negotiated, but the data plane refused it: {error}"),
        )
        .fix(Fix::step(
            Place::Here,
            "see `portcullis status` for what has run out; gateway.max_sas limits SAs",
        ))
    }

    pub(super) fn closed_early(&self, reason: &str) -> Verdict {
        self.fail(
            Reason::ClosedEarly,
            format!("{} was not up yet when its IKE SA or child ended: {reason}", self.section()),
        )
    }
}

/// What a list of addresses allows, for people.
fn addresses(allowed: &[AddressMatch]) -> String {
    if allowed.is_empty() { "any".to_owned() } else { join(allowed.iter()) }
}

/// A key of TOML, quoted where it has to be.
pub(super) fn toml_key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { crate::verdict::quoted(name) }
}

/// `once`, `twice`, `6 times`.
fn times(count: u32) -> String {
    match count {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        count => format!("{count} times"),
    }
}

/// Selectors, for people.
pub(super) fn list(selectors: &[TrafficSelector]) -> String {
    join(selectors.iter())
}

/// Anything, separated by commas.
pub(super) fn join(items: impl Iterator<Item = impl Display>) -> String {
    let mut text = String::new();
    for item in items {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{item}");
    }
    text
}

/// The RFC's name of an error notification.
pub fn notify_name(notify_type: u16) -> String {
    match notify_type {
        notify::UNSUPPORTED_CRITICAL_PAYLOAD => "UNSUPPORTED_CRITICAL_PAYLOAD",
        notify::INVALID_IKE_SPI => "INVALID_IKE_SPI",
        notify::INVALID_MAJOR_VERSION => "INVALID_MAJOR_VERSION",
        notify::INVALID_SYNTAX => "INVALID_SYNTAX",
        notify::INVALID_MESSAGE_ID => "INVALID_MESSAGE_ID",
        notify::INVALID_SPI => "INVALID_SPI",
        notify::NO_PROPOSAL_CHOSEN => "NO_PROPOSAL_CHOSEN",
        notify::INVALID_KE_PAYLOAD => "INVALID_KE_PAYLOAD",
        notify::AUTHENTICATION_FAILED => "AUTHENTICATION_FAILED",
        notify::SINGLE_PAIR_REQUIRED => "SINGLE_PAIR_REQUIRED",
        notify::NO_ADDITIONAL_SAS => "NO_ADDITIONAL_SAS",
        notify::INTERNAL_ADDRESS_FAILURE => "INTERNAL_ADDRESS_FAILURE",
        notify::FAILED_CP_REQUIRED => "FAILED_CP_REQUIRED",
        notify::TS_UNACCEPTABLE => "TS_UNACCEPTABLE",
        notify::INVALID_SELECTORS => "INVALID_SELECTORS",
        notify::UNACCEPTABLE_ADDRESSES => "UNACCEPTABLE_ADDRESSES",
        notify::UNEXPECTED_NAT_DETECTED => "UNEXPECTED_NAT_DETECTED",
        notify::TEMPORARY_FAILURE => "TEMPORARY_FAILURE",
        notify::CHILD_SA_NOT_FOUND => "CHILD_SA_NOT_FOUND",
        notify::TS_MAX_QUEUE => "TS_MAX_QUEUE",
        other => return format!("error notification {other}"),
    }
    .to_owned()
}
