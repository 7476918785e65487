//! What only `portcullis check` looks for: configurations that can be used, but that will not do what was probably meant.
//! Every finding is a warning.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use portcullis_gateway::dataplane::Role;
use portcullis_ike::auth::{Certificate, UnixTime};
use portcullis_ike::config::LocalMethod;
use portcullis_ipsec::{Policy, PolicyOrigin, TrafficSelector};

use super::reader::Section;
use super::{Config, null};
use crate::doctor::largest_inner;

/// For how long before its end a certificate is spoken of.
const EXPIRY_NOTICE: u64 = 30 * 24 * 60 * 60;

/// What every link must carry (RFC 8200 §5).
const IPV6_MIN_MTU: u32 = 1280;

/// What the lints know of the machine.
pub(super) struct Machine<'a> {
    /// The time.
    pub(super) now: u64,
    /// The MTU of an interface, if there is one of that name.
    pub(super) mtu: &'a dyn Fn(&str) -> Option<u32>,
}

/// Reports everything about a configuration that has no errors.
pub(super) fn run(root: &Section<'_>, config: &Config, machine: &Machine<'_>) {
    let connections = root.named_sections("connections").into_iter().collect();
    policies(&connections, config);
    certificates(&connections, config, machine.now);
    strangers(&connections, config);
    mtus(root, config, machine.mtu);
}

/// The MTU as the kernel has it now.
pub(super) fn mtu_of(interface: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?.trim().parse().ok()
}

/// `[connections]`, by name.
type Connections<'a> = BTreeMap<String, Section<'a>>;

/// One of the policies, with the span of its destinations to look for neighbours by.
struct Reach {
    place: (String, String),
    policy: Policy,
    first: IpAddr,
    last: IpAddr,
}

/// Policies that others leave nothing of, and those that meet in part.
fn policies(connections: &Connections<'_>, config: &Config) {
    let reach = |(place, policy): ((String, String), Policy)| {
        let addrs = || policy.remote_ts.iter().map(|ts| ts.addrs);
        let (first, last) = (addrs().map(|a| a.start()).min()?, addrs().map(|a| a.end()).max()?);
        Some(Reach { place, policy, first, last })
    };
    let mut all: Vec<Reach> = config.policies().into_iter().filter_map(reach).collect();
    all.sort_by_key(|reach| reach.first);
    for (index, one) in all.iter().enumerate() {
        for other in all.iter().skip(index + 1).take_while(|other| other.first <= one.last) {
            let (winner, loser) =
                if other.policy.precedence() < one.policy.precedence() { (other, one) } else { (one, other) };
            if let Some(message) = conflict(&winner.policy, &loser.policy) {
                let (of, child) = &loser.place;
                let Some(section) = connections.get(of) else { continue };
                let children = section.named_sections("children");
                if let Some((_, section)) = children.iter().find(|(name, _)| name == child) {
                    section.warning(span(section, "remote_ts"), "remote_ts", message);
                }
            }
        }
    }
}

/// What is to be said of two policies, the first of which is not asked later than the second.
fn conflict(winner: &Policy, loser: &Policy) -> Option<String> {
    let (first, then) = (winner.precedence(), loser.precedence());
    let (from, to) = overlap(winner, loser)?;
    let name = &winner.name;
    if first < then && contains(winner, loser) {
        return Some(format!(
            "can never match: `{name}` covers all of it and goes first ({first} before {then}); give this one a \
             `priority` below {first}, or narrow the selectors of `{name}`"
        ));
    }
    if first == then {
        let acquires = |policy: &Policy| policy.origin == PolicyOrigin::Configured { acquire: true };
        let same = contains(winner, loser) && contains(loser, winner);
        return (same && (acquires(winner) || acquires(loser))).then(|| {
            format!(
                "has the selectors and the precedence ({then}) of `{name}`: the one that is installed first takes every \
                 packet that asks for an SA; give one of them another `priority`, or other selectors"
            )
        });
    }
    // The narrower first is an exception that somebody has meant.
    let crossing = !contains(loser, winner);
    crossing.then(|| {
        format!(
            "overlaps `{name}`, which wins ({first} before {then}): packets from {from} to {to} are its; if that is not \
             meant, change `priority` or the selectors"
        )
    })
}

/// A pair of selectors whose packets both cover.
fn overlap(a: &Policy, b: &Policy) -> Option<(TrafficSelector, TrafficSelector)> {
    let common = |a: &[TrafficSelector], b: &[TrafficSelector]| {
        a.iter().find_map(|a| b.iter().find_map(|b| a.intersection(*b)))
    };
    Some((common(&a.local_ts, &b.local_ts)?, common(&a.remote_ts, &b.remote_ts)?))
}

/// Whether each selector of one is within a single one of the other.
fn contains(outer: &Policy, inner: &Policy) -> bool {
    let within = |outer: &[TrafficSelector], inner: &[TrafficSelector]| {
        inner.iter().all(|ts| outer.iter().any(|all| all.intersection(*ts) == Some(*ts)))
    };
    within(&outer.local_ts, &inner.local_ts) && within(&outer.remote_ts, &inner.remote_ts)
}

/// Connections that let anybody in, which is not wrong, but seldom what is wanted.
fn strangers(connections: &Connections<'_>, config: &Config) {
    for connection in config.engine.connections.iter().filter(|connection| null::lets_anybody_in(connection))
    {
        let Some(section) = connections.get(&connection.name) else { continue };
        let reached: Vec<String> = connection
            .children
            .iter()
            .flat_map(|child| &child.local_ts)
            .map(|ts| ts.map_or_else(|| "our own address".to_owned(), |ts| ts.to_string()))
            .collect();
        let we = match connection.local.iter().any(|round| round.auth == LocalMethod::Null) {
            true => {
                "; nor do we prove anything, so that whoever can change packets on their way reads and changes it all"
            }
            false => "",
        };
        let message = format!(
            "is \"null\" (RFC 7619): whoever reaches us gets a tunnel to {}, no matter who it is{we}; a firewall has to say \
             what such peers may do",
            reached.join(", ")
        );
        section.warning(section.span(), "remote", message);
    }
}

/// Certificates that end soon; those that have ended are told of whenever the file is read.
fn certificates(connections: &Connections<'_>, config: &Config, now: u64) {
    let mut told = BTreeSet::new();
    let mut report = |section: &Section<'_>, key: &'static str, certificate: &Certificate| {
        let UnixTime(end) = certificate.not_after();
        let soon = (now..now.saturating_add(EXPIRY_NOTICE)).contains(&end);
        if soon && told.insert((certificate.subject().to_string(), end)) {
            let message = format!(
                "the certificate of `{}` expires at {}, in {} days: renew it, and `portcullis reload`",
                certificate.subject(),
                certificate.not_after(),
                (end - now) / (24 * 60 * 60)
            );
            section.warning(span(section, key), key, message);
        }
    };
    for connection in &config.engine.connections {
        let Some(section) = connections.get(&connection.name) else { continue };
        let (local, remote) = (section.sections("local"), section.sections("remote"));
        for (round, section) in connection.local.iter().zip(&local) {
            let own = round.auth.credentials().iter().filter_map(|credential| credential.certificate());
            own.for_each(|certificate| report(section, "certs", certificate));
        }
        for (round, section) in connection.remote.iter().zip(&remote) {
            let Some(trust) = round.auth.trust() else { continue };
            trust.certificates.iter().for_each(|certificate| report(section, "certs", certificate));
            trust.authorities.iter().for_each(|certificate| report(section, "cacerts", certificate));
        }
    }
}

/// Where a list of names stands, or else its table.
fn span(section: &Section<'_>, key: &'static str) -> Range<usize> {
    let names = section.strings(key, "names").unwrap_or_default();
    names.first().map_or_else(|| section.span(), |name| name.span.clone())
}

/// Outside interfaces through which a tunnel has no room for what every IPv6 link must carry.
fn mtus(root: &Section<'_>, config: &Config, mtu: &dyn Fn(&str) -> Option<u32>) {
    let Some(gateway) = root.section("gateway") else { return };
    for (interface, section) in config.gateway.interfaces.iter().zip(gateway.sections("interfaces")) {
        let Some(mtu) = mtu(&interface.name) else { continue };
        let carried = if Role::is_outside(interface.role) { largest_inner(mtu) } else { mtu };
        if carried < IPV6_MIN_MTU {
            let message = format!(
                "`{}` has an MTU of {mtu}, which leaves packets of {carried} octets inside: less than the {IPV6_MIN_MTU} \
                 that IPv6 needs (RFC 8200 §5); `ip link set {} mtu {}` or more, if the link carries it",
                interface.name,
                interface.name,
                mtu + (IPV6_MIN_MTU - carried).next_multiple_of(4)
            );
            section.warning(super::credentials::span_of(&section, "name"), "name", message);
        }
    }
}
