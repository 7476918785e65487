//! Repeated authentication (RFC 4478): only the end that began an IKE SA can make it anew, and the other, whose policy it
//! may be that somebody proves himself again, tells it how long the authentication is good for: in IKE_AUTH where
//! `reauth_time` says so, and whenever an operator asks for it.

use std::time::{Duration, Instant};

use super::context::Context;
use super::established::Established;
use super::ike_sa_init::{data_of, notification};
use super::lifetime::part;
use super::sa::Base;
use crate::message::{Payload, notify};

/// However short a peer says that its authentication of us lasts, we do not begin anew sooner.
const SOONEST: Duration = Duration::from_secs(5);

/// What a peer is told that is to begin anew now: long enough to be done in time with a few messages lost.
const AT_ONCE: Duration = Duration::from_secs(30);

/// AUTH_LIFETIME, in whole seconds (RFC 4478 §3).
fn lifetime(time: Duration) -> Payload {
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    notification(notify::AUTH_LIFETIME, seconds.to_be_bytes().to_vec())
}

/// How long it is good, if a message says so.
fn found(payloads: &[Payload]) -> Option<Duration> {
    let seconds = data_of(payloads, notify::AUTH_LIFETIME)?.try_into().ok()?;
    Some(Duration::from_secs(u32::from_be_bytes(seconds).into()))
}

impl Base {
    /// As responder, what a peer is told whose authentication ends: the moment at which we would begin anew ourselves, so
    /// that `over_time` is left for it.
    pub(super) fn announce_lifetime(&self, now: Instant) -> Option<Payload> {
        Some(lifetime(self.authentication.due?.saturating_duration_since(now)))
    }

    /// What the responder says of our authentication, in an authentic message. We begin anew after four to nine tenths of
    /// its time, unless that is due earlier anyway.
    pub(super) fn heed_lifetime(&mut self, cx: &mut Context, now: Instant, payloads: &[Payload]) {
        let Some(time) = found(payloads).filter(|_| self.original_initiator) else { return };
        let latest = time.mul_f64(0.9);
        let due = now.checked_add(SOONEST.max(latest - part(cx, time / 2)));
        self.authentication.due = [self.authentication.due, due].into_iter().flatten().min();
    }
}

impl Established {
    /// That the peer is to prove itself anew, if that was asked for.
    pub(super) fn asks_to_reauthenticate(base: &mut Base) -> Option<Payload> {
        std::mem::take(&mut base.owes_reauthentication).then(|| lifetime(AT_ONCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ExchangeType, Header, Message};

    /// The layout of RFC 4478 §3: Protocol ID and SPI size zero, type 16403, four octets of seconds.
    #[test]
    fn a_lifetime_is_written_as_the_rfc_draws_it() {
        let header = Header {
            spi_i: [1; 8],
            spi_r: [2; 8],
            major: 2,
            minor: 0,
            exchange: ExchangeType::Informational,
            initiator: false,
            response: false,
            message_id: 0,
        };
        let octets = Message { header, payloads: vec![lifetime(Duration::from_millis(3_600_900))] }.emit();
        assert_eq!(octets[28..], [0, 0, 0, 12, 0, 0, 0x40, 0x13, 0, 0, 0x0e, 0x10]);
        assert_eq!(found(&[lifetime(Duration::MAX)]), Some(Duration::from_secs(u32::MAX.into())));
        for wrong in [vec![], vec![0; 3], vec![0; 5]] {
            assert_eq!(found(&[notification(notify::AUTH_LIFETIME, wrong)]), None);
        }
    }
}
