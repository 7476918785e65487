//! Redirect (RFC 5685): a gateway sends its clients to another one. The client begins an IKE SA there, with the same
//! children and the same demands on the other's identity, and then deletes the old one.
//!
//! A client can be sent away in IKE_SA_INIT, where nothing is authenticated but that whoever answers has seen its nonce; in
//! IKE_AUTH, in place of a child; and at any time after that. As a gateway we do what [`RedirectWhen`] says.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Engine;
use super::api::{CommandId, Event, Failure, IkeSaId};
use super::context::{Context, Effect};
use super::established::{Established, Ours};
use super::failure::About;
use super::ike_sa_init::{data_of, notification, notifications};
use super::rekey_ike::patience;
use super::sa::{Base, Goal};
use super::state::State;
use crate::config::RedirectWhen;
use crate::message::{ExchangeType, Payload, notify};

/// RFC 5685 §7: a client that is sent on more often within this time is sent in circles.
const MAX_REDIRECTS: usize = 5;
const LOOP_DETECT_PERIOD: Duration = Duration::from_secs(300);

/// GW Ident Type (RFC 5685 §5.2).
const IPV4: u8 = 1;
const IPV6: u8 = 2;
const FQDN: u8 = 3;

/// Where a client was sent, and how it got there.
#[derive(Debug, Clone)]
pub(super) struct Redirect {
    pub(super) to: IpAddr,
    from: IpAddr,
    /// When it was sent on, this time included.
    times: Vec<Instant>,
}

/// Where a gateway sends us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Address(IpAddr),
    /// We resolve no names.
    Name(String),
    /// It cannot be read.
    Unreadable,
}

/// The gateway's identity, and the nonce that follows it in IKE_SA_INIT.
fn parse(data: &[u8]) -> (Target, &[u8]) {
    let [kind, len, rest @ ..] = data else { return (Target::Unreadable, &[]) };
    let Some((identity, nonce)) = rest.split_at_checked((*len).into()) else {
        return (Target::Unreadable, &[]);
    };
    let target = match (*kind, <[u8; 4]>::try_from(identity), <[u8; 16]>::try_from(identity)) {
        (IPV4, Ok(octets), _) => Target::Address(octets.into()),
        (IPV6, _, Ok(octets)) => Target::Address(octets.into()),
        (FQDN, ..) => Target::Name(String::from_utf8_lossy(identity).into_owned()),
        _ => Target::Unreadable,
    };
    (target, nonce)
}

/// A gateway's identity as it is sent.
fn identity(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => [&[IPV4, 4][..], &addr.octets()].concat(),
        IpAddr::V6(addr) => [&[IPV6, 16][..], &addr.octets()].concat(),
    }
}

/// What a client says in IKE_SA_INIT: that it goes where it is sent, or that it was.
pub(super) fn announce(cx: &Context, base: &Base) -> Option<Payload> {
    let follows = cx.connection(base.connection).is_some_and(|connection| connection.follow_redirects);
    let said = || match &base.redirect {
        Some(redirect) => notification(notify::REDIRECTED_FROM, identity(redirect.from)),
        None => notification(notify::REDIRECT_SUPPORTED, Vec::new()),
    };
    follows.then(said)
}

/// Whether a client goes where it is sent.
pub(super) fn is_announced(payloads: &[Payload]) -> bool {
    let supports = |kind: u16| matches!(kind, notify::REDIRECT_SUPPORTED | notify::REDIRECTED_FROM);
    notifications(payloads).any(|found| supports(found.notify_type))
}

/// Where the answer to an IKE_SA_INIT request with this nonce of ours sends us. One with another nonce is none: whoever made
/// it has not seen our request (RFC 5685 §3).
pub(super) fn in_init(payloads: &[Payload], nonce: &[u8]) -> Option<Target> {
    let (target, shown) = parse(data_of(payloads, notify::REDIRECT)?);
    (shown == nonce).then_some(target)
}

/// Where an authentic message sends us.
pub(super) fn found(payloads: &[Payload]) -> Option<Target> {
    Some(parse(data_of(payloads, notify::REDIRECT)?).0)
}

/// What a gateway answers to an IKE_SA_INIT request with this nonce, if the connection that the addresses speak for sends its
/// clients away before they have proved anything, and this one would go (RFC 5685 §3). Nothing is kept of it, nor told: a
/// flood would be told of as well.
pub(super) fn at_once(
    cx: &Context,
    candidates: &[usize],
    local: IpAddr,
    overloaded: bool,
    payloads: &[Payload],
    nonce: &[u8],
) -> Option<Payload> {
    let connection = cx.connection(*candidates.first()?)?;
    let to = connection.redirect_to?;
    let now = match connection.redirect_when {
        RedirectWhen::Authenticated => false,
        RedirectWhen::AtOnce => true,
        RedirectWhen::Overloaded => overloaded,
    };
    // Whoever was sent here from there would be sent in circles.
    let came_from = data_of(payloads, notify::REDIRECTED_FROM).map(|data| parse(data).0);
    let goes = is_announced(payloads) && to != local && came_from != Some(Target::Address(to));
    (now && goes).then(|| notification(notify::REDIRECT, [&identity(to), nonce].concat()))
}

/// What a gateway puts in place of a child, if its connection sends clients away and this one would go.
pub(super) fn instead_of_a_child(cx: &mut Context, base: &mut Base, now: Instant) -> Option<Payload> {
    let connection = cx.connection(base.connection)?;
    let to = connection.redirect_to?;
    // Who was not sent away at its first message was let in: it came from there, or there was room.
    let due = connection.redirect_when == RedirectWhen::Authenticated;
    if !due || !base.takes_redirects || to == base.local.ip() {
        return None;
    }
    base.awaits_its_end(cx, now);
    cx.redirected(base, to, true);
    Some(notification(notify::REDIRECT, identity(to)))
}

impl Base {
    /// The client is to delete the IKE SA; if it does not, we do.
    fn awaits_its_end(&mut self, cx: &Context, now: Instant) {
        let end = now + patience(&cx.config.retransmission);
        self.session_end = Some(self.session_end.map_or(end, |earlier| earlier.min(end)));
    }

    /// Judges where we are sent.
    pub(super) fn redirected(
        &self,
        cx: &Context,
        now: Instant,
        target: &Target,
    ) -> Result<Redirect, Failure> {
        let about = self.about(cx);
        let follows = cx.connection(self.connection).is_some_and(|connection| connection.follow_redirects);
        let to = match target {
            Target::Address(addr) if follows && !addr.is_unspecified() && !addr.is_multicast() => *addr,
            Target::Address(addr) => return Err(about.redirect_not_followed(&addr.to_string())),
            Target::Name(name) => return Err(about.redirect_to_a_name(name)),
            Target::Unreadable => return Err(about.redirect_unreadable()),
        };
        let mut times = self.redirect.as_ref().map(|redirect| redirect.times.clone()).unwrap_or_default();
        times.retain(|time| now.saturating_duration_since(*time) < LOOP_DETECT_PERIOD);
        if times.len() >= MAX_REDIRECTS || to == self.remote.ip() {
            return Err(about.redirect_loop(to, times.len()));
        }
        times.push(now);
        Ok(Redirect { to, from: self.remote.ip(), times })
    }
}

impl Established {
    /// A gateway's request sends us away.
    pub(super) fn redirected(&mut self, cx: &mut Context, base: &Base, now: Instant, payloads: &[Payload]) {
        let Some(target) = found(payloads).filter(|_| base.original_initiator && !base.doomed) else {
            return;
        };
        match base.redirected(cx, now, &target) {
            Ok(redirect) => {
                cx.redirected(base, redirect.to, false);
                cx.effects.push_back(Effect::Redirected { old: base.id, redirect });
            }
            Err(failure) => cx.event(Event::Failed(failure)),
        }
    }

    /// Sends the client away, if that was asked for.
    pub(super) fn begin_redirect(&mut self, cx: &mut Context, base: &mut Base, now: Instant) -> bool {
        let Some(to) = base.redirecting.take() else { return false };
        base.awaits_its_end(cx, now);
        cx.redirected(base, to, true);
        let redirect = notification(notify::REDIRECT, identity(to));
        self.channel.request(cx, base, now, ExchangeType::Informational, vec![redirect]);
        self.ours = Ours::Probing;
        true
    }
}

impl Engine {
    /// Sends every client of a connection to another gateway.
    pub(super) fn redirect_clients(
        &mut self,
        now: Instant,
        id: CommandId,
        name: &str,
        to: IpAddr,
    ) -> Result<(), Failure> {
        let (connection, _) = self.find(name, None)?;
        let mut sent = false;
        for sa in self.cx.index.of_connection(connection) {
            self.step(now, sa, |state, _, base| {
                let client = !base.original_initiator && base.takes_redirects && base.superseded.is_none();
                if matches!(state, State::Established(_)) && client && to != base.local.ip() {
                    base.redirecting = Some(to);
                    sent = true;
                }
                Ok(state)
            });
            self.nudge(now, sa);
        }
        if !sent {
            let about = About { connection: Some(name.to_owned()), remote: None };
            return Err(about.nothing_to_redirect(to));
        }
        self.cx.begin_command(id, 0);
        Ok(())
    }

    /// What a gateway has refused us as it sent us away is brought up where it sent us.
    pub(super) fn follow(&mut self, now: Instant, connection: usize, goals: Vec<Goal>, redirect: &Redirect) {
        let mut goals = goals.into_iter();
        let Some(first) = goals.next() else { return };
        let new: Option<IkeSaId> = self.begin_ike_sa(now, connection, first, Some(redirect), None);
        if let Some(sa) = new.and_then(|new| self.sas.get_mut(&new)) {
            sa.base.goals.extend(goals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answer: the identity that stands in Wireshark's sample capture `ikev2_notify_redirect.pcap`.
    #[test]
    fn a_name_is_read_as_a_gateway_has_sent_it() {
        let sent = b"\x03\x1cmoneybin.duckburg.disney.com";
        assert_eq!(parse(sent), (Target::Name("moneybin.duckburg.disney.com".to_owned()), &[][..]));
    }

    #[test]
    fn the_gateway_is_read_as_it_is_written_and_nothing_else_is_read() {
        let v4: IpAddr = "192.0.2.7".parse().unwrap();
        assert_eq!(parse(&[1, 4, 192, 0, 2, 7, 9, 9]), (Target::Address(v4), &[9, 9][..]));
        let v6: IpAddr = "2001:db8::7".parse().unwrap();
        assert_eq!(parse(&identity(v6)), (Target::Address(v6), &[][..]));
        assert_eq!(parse(b"\x03\x04gw.x").0, Target::Name("gw.x".to_owned()));
        for bad in [&[][..], &[1], &[1, 4, 1, 2, 3], &[1, 3, 1, 2, 3], &[2, 4, 1, 2, 3, 4], &[9, 0]] {
            assert_eq!(parse(bad), (Target::Unreadable, &[][..]), "{bad:?}");
        }
    }
}
