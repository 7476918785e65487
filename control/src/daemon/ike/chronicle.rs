//! What becomes of an engine's events: they are counted, logged, kept as verdicts, and told to whoever listens.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use portcullis_gateway::netlink::NetlinkError;
use portcullis_gateway::netlink::addresses::TunAddresses;
use portcullis_ike::engine::{DatagramPayload, Event};
use portcullis_ipsec::SaInstaller;
use tokio::sync::mpsc;

use super::Totals;
use crate::daemon::handshake::Handshakes;
use crate::daemon::traffic::Traffic;
use crate::daemon::verdicts::Verdicts;
use crate::events::{Listeners, sessions};
use crate::radius::sessions::Told;

/// What has happened in one engine.
pub(super) struct Chronicle {
    traffic: Arc<Traffic>,
    sessions: mpsc::UnboundedSender<Told>,
    present: sessions::Sessions,
    listeners: Listeners,
    inner: InnerAddresses,
    handshakes: Handshakes,
    log_limit: LogLimit,
    pub(super) verdicts: Verdicts,
    pub(super) totals: Totals,
}

/// Addresses that peers give us, on the host's device for as long as an engine has them.
#[derive(Clone)]
pub(super) struct InnerAddresses(Arc<Mutex<(TunAddresses, HashMap<IpAddr, usize>)>>);

impl InnerAddresses {
    /// On that device.
    pub(super) fn of(device: TunAddresses) -> Self {
        Self(Arc::new(Mutex::new((device, HashMap::new()))))
    }

    fn lock(&self) -> MutexGuard<'_, (TunAddresses, HashMap<IpAddr, usize>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, addr: IpAddr) -> Result<(), NetlinkError> {
        let (device, users) = &mut *self.lock();
        let count = users.entry(addr).or_default();
        *count += 1;
        if *count > 1 { Ok(()) } else { device.add(addr) }
    }

    fn remove(&self, addr: IpAddr) -> Result<(), NetlinkError> {
        let (device, users) = &mut *self.lock();
        let count = users.remove(&addr).unwrap_or_default();
        if count > 1 {
            users.insert(addr, count - 1);
            return Ok(());
        }
        device.remove(addr)
    }
}

/// Anybody can make exchanges fail; the log takes a few of them a second.
#[derive(Debug, Default)]
pub(in crate::daemon) struct LogLimit {
    second: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl LogLimit {
    const PER_SECOND: u32 = 10;

    /// Whether to log now, and how many were not logged since the last that was.
    pub(in crate::daemon) fn pass(&mut self, now: Instant) -> Option<u64> {
        let same = self.second.is_some_and(|second| now.duration_since(second) < Duration::from_secs(1));
        if !same {
            (self.second, self.logged) = (Some(now), 0);
        }
        if self.logged >= Self::PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Chronicle {
    /// An empty one.
    pub(super) fn new(
        (traffic, installer): (Arc<Traffic>, Arc<dyn SaInstaller>),
        sessions: mpsc::UnboundedSender<Told>,
        listeners: Listeners,
        inner: InnerAddresses,
    ) -> Self {
        let present = sessions::Sessions::new(Arc::clone(&traffic), installer, listeners.audit.is_some());
        Self {
            traffic,
            sessions,
            present,
            listeners,
            inner,
            handshakes: Handshakes::default(),
            log_limit: LogLimit::default(),
            verdicts: Verdicts::default(),
            totals: Totals::default(),
        }
    }

    /// A message came or went.
    pub(super) fn saw(&mut self, payload: &DatagramPayload) {
        if let DatagramPayload::Ike(message) | DatagramPayload::Stream(message) = payload {
            self.handshakes.saw(Instant::now(), message);
        }
    }

    /// A datagram was dropped.
    pub(super) fn reject(&mut self, label: &'static str) {
        *self.totals.rejected.entry(label).or_default() += 1;
    }

    /// Says of all that are still there that they are gone.
    pub(super) fn stop(&mut self) {
        self.present.stop(&|happening| self.listeners.hear(happening));
    }

    fn tell(&self, told: Told) {
        // The sessions' task may have ended.
        let _ = self.sessions.send(told);
    }

    /// Something has happened. That a command has ended is for whoever gave it.
    pub(super) fn event(&mut self, event: Event) {
        if let Event::ChildEstablished { connection, child, .. }
        | Event::ChildRekeyed { connection, child, .. } = &event
        {
            self.traffic.opened(child.spi_in, connection);
        }
        self.present.hear(&event, &|happening| self.listeners.hear(happening));
        match event {
            Event::CommandDone { .. } => {}
            Event::IkeEstablished { ike } => {
                self.totals.ike_established += 1;
                if let Some(took) = self.handshakes.established(Instant::now(), ike.initiator_spi) {
                    let histogram =
                        if ike.initiator { &mut self.totals.initiated } else { &mut self.totals.answered };
                    histogram.observe(took);
                }
                // No AAA server knows the others.
                if ike.authorization.accounted {
                    self.tell(Told::Began(Box::new(ike.clone())));
                }
                let connection = ike.connection.unwrap_or_default();
                let remote_id = ike.remote_id.map(|id| id.to_string()).unwrap_or_default();
                let proposal = ike.proposal.unwrap_or_default();
                let hex = |spi: &[u8]| data_encoding::HEXLOWER.encode(spi);
                tracing::info!(
                    %connection, ike = ike.id.0, spi_i = %hex(&ike.initiator_spi), spi_r = %hex(&ike.responder_spi),
                    remote = %ike.remote, %remote_id, %proposal, "IKE SA established"
                );
            }
            Event::ChildEstablished { ike, connection, child } => {
                self.tell(Told::Child { ike, pair: child.spi_in });
                self.totals.child_established += 1;
                tracing::info!(
                    %connection, child = %child.name, spi_in = %child.spi_in, spi_out = %child.spi_out,
                    proposal = %child.proposal, local_ts = ?child.local_ts, remote_ts = ?child.remote_ts,
                    "CHILD SA established"
                );
            }
            Event::ChildRekeyed { ike, connection, child, replaced } => {
                self.tell(Told::Child { ike, pair: child.spi_in });
                self.totals.child_rekeyed += 1;
                tracing::info!(
                    %connection, child = %child.name, spi_in = %child.spi_in, spi_out = %child.spi_out, %replaced,
                    "CHILD SA rekeyed"
                );
            }
            Event::IkeRekeyed { ike, replaced } => {
                self.totals.ike_rekeyed += 1;
                self.tell(Told::Rekeyed { ike: ike.id, replaced });
                let connection = ike.connection.unwrap_or_default();
                tracing::info!(%connection, ike = ike.id.0, replaced = replaced.0, "IKE SA rekeyed");
            }
            Event::ChildClosed { connection, child, pair, reason } => {
                tracing::info!(%connection, %child, spi_in = %pair, %reason, "CHILD SA closed");
            }
            Event::IkeClosed { ike, connection, reason } => {
                self.tell(Told::Ended(ike));
                tracing::info!(%connection, ike = ike.0, %reason, "IKE SA closed");
            }
            Event::IkeMoved { ike, connection, from, to } => {
                tracing::info!(
                    %connection, ike = ike.0, local = %to.0, remote = %to.1, from_local = %from.0, from_remote = %from.1,
                    "IKE SA moved"
                );
            }
            Event::AddressesAssigned { ike, connection, identity, addresses } => {
                tracing::info!(%connection, ike = ike.0, %identity, ?addresses, "the peer has inner addresses");
            }
            Event::AddressesReleased { ike, connection, addresses } => {
                tracing::info!(%connection, ike = ike.0, ?addresses, "the peer's inner addresses are free");
            }
            Event::AddressesAcquired { connection, addresses, attributes } => {
                tracing::info!(%connection, ?addresses, ?attributes, "the peer gives us inner addresses");
                for addr in addresses {
                    if let Err(error) = self.inner.add(addr) {
                        tracing::error!(%connection, %addr, %error, "the host cannot use its inner address");
                    }
                }
            }
            Event::AddressesLost { connection, addresses } => {
                tracing::info!(%connection, ?addresses, "our inner addresses are gone");
                for addr in addresses {
                    if let Err(error) = self.inner.remove(addr) {
                        tracing::error!(%connection, %addr, %error, "an inner address stays on the host");
                    }
                }
            }
            Event::Failed(failure) => {
                let connection = failure.connection.clone().unwrap_or_default();
                if let Some(unlogged) = self.log_limit.pass(Instant::now()) {
                    let (remote, reason) = (failure.peer, failure.reason);
                    tracing::warn!(%connection, ?remote, %reason, kind = %reason.kind(), unlogged, "{}", failure.in_one_line());
                }
                let at = SystemTime::now();
                self.totals.last_failures.insert(connection.clone(), at);
                *self.totals.failures.entry((connection, failure.reason)).or_default() += 1;
                self.verdicts.push(failure, Instant::now(), at);
            }
            Event::Redirected { ike, connection, remote, to, by_us } => {
                tracing::info!(%connection, ike = ike.0, %remote, %to, by_us, "redirected to another gateway");
            }
            Event::Rejected { remote, label, detail } => {
                self.reject(label);
                tracing::debug!(%remote, label, "{detail}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_is_logged_a_few_times_a_second_and_counted() {
        let (mut limit, now) = (LogLimit::default(), Instant::now());
        let passed = (0..1000).filter(|_| limit.pass(now).is_some()).count();
        assert_eq!(passed, LogLimit::PER_SECOND as usize);
        assert_eq!(limit.pass(now + Duration::from_secs(1)), Some(990));
        assert_eq!(limit.pass(now + Duration::from_secs(1)), Some(0));
    }
}
