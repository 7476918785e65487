//! IKE_SESSION_RESUME as the client. A gateway that does not take the ticket, or does not know the exchange, is asked in the
//! ordinary way: nothing in the exchange is authenticated, so that all that anybody can do is to make us do that.

use std::time::Instant;

use super::{Session, is_used};
use crate::config::Childless;
use crate::crypto::{KdfInput, KeMethod, derive_resumed_ike_keys};
use crate::engine::channel::{Channel, Outstanding, Retransmitted, header};
use crate::engine::context::Context;
use crate::engine::ike_auth::{self, SignatureSupport};
use crate::engine::ike_sa_init::initiator::{MAX_COOKIES, float};
use crate::engine::ike_sa_init::{
    self, InitRecord, NONCE_LEN, announce_fragmentation, answers, data_of, learn_way, nat, notification,
};
use crate::engine::mobike;
use crate::engine::sa::{Base, Inbound, Next, Role};
use crate::engine::state::State;
use crate::engine::streams;
use crate::message::{ExchangeType, Message, Payload, notify};

/// Retransmissions after which the gateway is taken not to know the exchange.
const TRIES: u32 = 2;

/// The session that an IKE SA which begins now may go on from: each is shown once.
pub(in crate::engine) fn session_for(
    cx: &mut Context,
    connection: usize,
    now: Instant,
) -> Option<Box<Session>> {
    let session = cx.sessions.remove(&connection)?;
    let config = cx.connection(connection).filter(|config| is_used(config))?;
    // IKE_AUTH has a child, as ever: whether none is taken was said in IKE_SA_INIT.
    (now < session.expires && config.childless != Childless::Force).then_some(session)
}

/// Shows the ticket of the session in `base.resumed`. `method` is for when it is not taken.
pub(in crate::engine) fn begin(cx: &mut Context, base: &mut Base, now: Instant, method: KeMethod) -> State {
    let nonce = cx.random();
    let octets = request(cx, base, &nonce, None);
    let outstanding = Outstanding::send(cx, base, now, vec![octets]);
    State::AwaitingResumption(AwaitingResumption { nonce, method, cookies: 0, tries: 0, outstanding })
}

fn request(cx: &Context, base: &Base, nonce: &[u8; NONCE_LEN], cookie: Option<&[u8]>) -> Vec<u8> {
    let ticket = base.resumed.as_ref().map(|session| session.ticket.clone()).unwrap_or_default();
    let cookie = cookie.map(|cookie| notification(notify::COOKIE, cookie.to_vec()));
    let mut payloads: Vec<Payload> = cookie.into_iter().collect();
    payloads.push(Payload::Nonce(nonce.to_vec()));
    payloads.push(notification(notify::TICKET_OPAQUE, ticket));
    let spis = (base.spi_i, [0; 8]);
    payloads.extend(nat::announce(spis, base.local, base.remote, nat::is_forced(cx, base)));
    payloads.extend(cx.connection(base.connection).and_then(announce_fragmentation));
    Message { header: header(base, ExchangeType::IkeSessionResume, false, 0), payloads }.emit()
}

/// Awaits the IKE_SESSION_RESUME response.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingResumption {
    nonce: [u8; NONCE_LEN],
    method: KeMethod,
    cookies: u32,
    tries: u32,
    outstanding: Outstanding,
}

impl AwaitingResumption {
    pub(in crate::engine) fn handle_message(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        let found = inbound.header();
        if !answers(base, inbound, ExchangeType::IkeSessionResume) {
            return Ok(State::AwaitingResumption(self));
        }
        let payloads = &inbound.received.message.payloads;
        if let Some(cookie) = data_of(payloads, notify::COOKIE)
            && self.cookies < MAX_COOKIES
        {
            self.cookies += 1;
            let octets = request(cx, base, &self.nonce, Some(cookie));
            self.outstanding = Outstanding::send(cx, base, now, vec![octets]);
            return Ok(State::AwaitingResumption(self));
        }
        let nonce = payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        });
        match (nonce, base.resumed.as_deref()) {
            (Some(nonce_r), Some(session)) if found.spi_r != [0; 8] => {
                let (suite, sk_d) = (session.suite, session.sk_d.clone());
                base.spi_r = found.spi_r;
                base.suite = Some(suite);
                learn_way(cx, base, inbound, found.spi_r);
                base.mobility.detects_nats = mobike::detects_nats(payloads);
                let record = InitRecord {
                    request: self.outstanding.octets().to_vec(),
                    response: inbound.octets.to_vec(),
                    nonce_i: self.nonce.to_vec(),
                    nonce_r,
                    peer: SignatureSupport::default(),
                    ppk: false,
                };
                base.lowest_nonce = record.lowest_nonce();
                let (nonce_i, nonce_r) = (&record.nonce_i, &record.nonce_r);
                let input = KdfInput { nonce_i, nonce_r, spi_i: base.spi_i, spi_r: base.spi_r };
                let keys = derive_resumed_ike_keys(suite.prf, &sk_d.0, suite.protection, input);
                float(cx, base);
                let channel = Channel::new(suite, keys, Role::Initiator);
                ike_auth::initiator::begin(cx, base, now, channel, record)
            }
            // TICKET_NACK, or what no gateway says.
            _ => Ok(self.begin_in_full(cx, base, now)),
        }
    }

    fn begin_in_full(self, cx: &mut Context, base: &mut Base, now: Instant) -> State {
        base.resumed = None;
        base.spi_i = cx.fresh_spi();
        ike_sa_init::initiator::begin(cx, base, now, self.method)
    }

    pub(in crate::engine) fn handle_timeout(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
    ) -> Next {
        if self.outstanding.needs_another_way(cx, now)
            && streams::fall_back(cx, base, self.outstanding.sent())
        {
            // The ticket is shown again: it may never have arrived.
            base.spi_i = cx.fresh_spi();
            return Ok(ike_sa_init::initiator::begin(cx, base, now, self.method));
        }
        match self.outstanding.retransmit(cx, base, now) {
            Retransmitted::NotDue => Ok(State::AwaitingResumption(self)),
            Retransmitted::Sent if self.tries < TRIES => {
                self.tries += 1;
                Ok(State::AwaitingResumption(self))
            }
            Retransmitted::Sent | Retransmitted::GivenUp(_) => Ok(self.begin_in_full(cx, base, now)),
        }
    }

    pub(in crate::engine) fn deadline(&self) -> Instant {
        self.outstanding.due()
    }
}
