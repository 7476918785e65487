//! Packets that somebody traces ([`crate::trace`]): each goes through the pipeline alone, and what became of it is read off
//! the lists and counters that it has changed. Nothing on a packet's usual way knows of this.
//!
//! What is in an ESP packet is found out on a copy, which is wiped: whatever becomes of the packet itself, its SA's state
//! is touched once.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_ipsec::{Flow, PolicyAction, Spi, TenantId};

use super::{FrameSource, Ingress, Output, Pipeline, inbound};
use crate::coarse::Coarse;
use crate::drop::{DropReason, WorkerCounters};
use crate::esp;
use crate::frame::Frame;
use crate::policy::Verdict;
use crate::route::{PortInfo, Role, RouteTable};
use crate::sa::{Guard, SaTable};
use crate::trace::{Class, Fate, Octets, Piece, Place, Record, Session};
use crate::wire::{self, Ethernet, protocol};

/// Packets of one worker that are looked at in a second; the others go on as if nobody asked.
const LOOKED_AT: u32 = 20_000;

/// How many packets were looked at in the current second.
#[derive(Debug, Default)]
pub(super) struct Looked {
    second: Coarse,
    packets: u32,
}

impl Looked {
    fn admits(&mut self, now: Coarse) -> bool {
        if now != self.second {
            *self = Self { second: now, packets: 0 };
        }
        self.packets = self.packets.saturating_add(1);
        self.packets <= LOOKED_AT
    }
}

/// Where packets have gone so far.
struct Tally {
    transmit: Vec<usize>,
    to_kernel: usize,
    held: usize,
    trapped: usize,
    handed: usize,
    drops: Vec<u64>,
    sealed: u64,
    generated: u64,
}

impl Tally {
    fn of(pipeline: &Pipeline, out: &mut Output) -> Self {
        let load =
            |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        let counters: &WorkerCounters = &pipeline.counters;
        let ports: Vec<_> = out.transmit.ports().collect();
        Self {
            transmit: ports.into_iter().map(|port| out.transmit.of(port).len()).collect(),
            to_kernel: out.to_kernel.len() + out.to_device.len() + out.to_streams.len(),
            held: out.held.len(),
            trapped: pipeline.trapped.len(),
            handed: out.handed.len(),
            drops: DropReason::ALL.iter().map(|reason| counters.drops(*reason)).collect(),
            sealed: load(&counters.sealed),
            generated: load(&counters.generated),
        }
    }
}

impl Pipeline {
    /// As [`Pipeline::process`], while sessions are open.
    #[cold]
    pub(super) fn process_traced(
        &mut self,
        now: Coarse,
        ingress: Ingress,
        batch: &mut Vec<Frame>,
        spare: &mut dyn FrameSource,
        out: &mut Output,
    ) {
        let shared = Arc::clone(&self.shared);
        let sessions = shared.trace.sessions();
        let frames = std::mem::take(batch);
        let mut others = Vec::new();
        for frame in frames {
            let Some(mut record) = self.look(&sessions, now, ingress, &frame, spare, out) else {
                others.push(frame);
                continue;
            };
            // In order: what came before goes before.
            self.process_batch(now, ingress, &mut others, spare, out);
            let before = Tally::of(self, out);
            self.process_batch(now, ingress, &mut vec![frame], spare, out);
            self.conclude(&mut record, &before, &sessions, out);
            let record = Arc::new(record);
            for session in sessions.iter().filter(|session| session.filter().fits(&record)) {
                session.report(now, &record);
            }
        }
        self.process_batch(now, ingress, &mut others, spare, out);
        // Its room, for the next batch.
        *batch = others;
    }

    /// What can be said of a packet beforehand, if any session may want it.
    fn look(
        &mut self,
        sessions: &[Arc<Session>],
        now: Coarse,
        ingress: Ingress,
        frame: &Frame,
        spare: &mut dyn FrameSource,
        out: &mut Output,
    ) -> Option<Record> {
        let shared = Arc::clone(&self.shared);
        let routes = shared.routes.load();
        let port = match ingress {
            Ingress::Port(index) => routes.port(index),
            Ingress::Kernel | Ingress::Device(_) | Ingress::Socket => None,
        };
        let (receiver, l2_len) = match port {
            Some(port) => {
                let ethernet = Ethernet::parse(frame.packet()).ok()?;
                let vlan = ethernet.vlan(frame.packet());
                (routes.receiver(port.index, vlan).or(Some(port)), ethernet.header_len)
            }
            None => (None, 0),
        };
        let packet = frame.packet().get(l2_len..)?;
        let mut record = Record {
            number: 0,
            at: SystemTime::now(),
            received_on: receiver.map(|port| port.name.clone()),
            tenant: ingress.tenant(),
            flow: None,
            class: Class::Unreadable,
            spi_in: None,
            inner: None,
            policy: None,
            spi_out: None,
            fate: Fate::Other,
            sealed: false,
            answered: false,
            octets: Vec::new(),
        };
        if let Ok((key, info)) = wire::read(packet) {
            let flow = key.flow();
            record.flow = Some(flow);
            let outer = match ingress {
                Ingress::Socket => esp::parse_from_socket(packet, &key, &info, shared.nat_port),
                Ingress::Port(_) | Ingress::Kernel | Ingress::Device(_) => {
                    esp::parse(packet, &key, &info, shared.nat_port)
                }
            }
            .ok();
            let from_host = matches!(ingress, Ingress::Kernel | Ingress::Device(_));
            let stream = ingress == Ingress::Socket && key.protocol() == protocol::TCP;
            let for_us = stream || routes.is_tunnel_address(key.dst());
            match outer.filter(|_| !from_host && for_us) {
                Some(outer) => {
                    record.class = Class::Esp;
                    record.spi_in = Spi::new(outer.spi);
                    let wanted = |session: &Arc<Session>| {
                        let filter = session.filter();
                        filter.fits_spi(outer.spi) && (filter.fits_flow(&flow) || filter.looks_inside())
                    };
                    if !self.admits(sessions, now, wanted) {
                        return None;
                    }
                    let guard = self.reader.guard();
                    let opened = peek(&shared.sas, &guard, packet, &outer, spare, out);
                    if let Some((tenant, inner, _)) = &opened {
                        (record.tenant, record.inner) = (*tenant, Some(*inner));
                    }
                    self.note_policy(&mut record, opened.as_ref().map(|(_, inner, _)| inner.reversed()));
                    if let Some((.., octets)) = opened.filter(|_| wants(sessions, Octets::Decrypted)) {
                        record.octets.push(piece(Place::Decrypted, None, false, true, octets));
                    }
                }
                None => {
                    if !self.admits(sessions, now, |session| session.filter().fits_flow(&flow)) {
                        return None;
                    }
                    let outside = port.is_some_and(|port| port.role == Role::Outside);
                    record.class = if outside { Class::ClearOutside } else { Class::Clear };
                    self.note_policy(&mut record, Some(if outside { flow.reversed() } else { flow }));
                }
            }
        } else if !self.admits(sessions, now, |session| !session.filter().looks_inside()) {
            return None;
        }
        record.number = shared.trace.number();
        if wants(sessions, Octets::Outer) {
            let bypassed = record.policy.as_ref().is_some_and(|(_, action)| *action == PolicyAction::Bypass);
            let protected = record.class == Class::Clear && !bypassed;
            let octets = frame.packet().to_vec();
            let received = piece(Place::Received, port, port.is_some(), protected, octets);
            record.octets.insert(0, received);
        }
        Some(record)
    }

    fn admits(
        &mut self,
        sessions: &[Arc<Session>],
        now: Coarse,
        wanted: impl Fn(&Arc<Session>) -> bool,
    ) -> bool {
        let mut wanting = sessions.iter().filter(|session| wanted(session)).peekable();
        if wanting.peek().is_none() {
            return false;
        }
        let admitted = self.looked.admits(now);
        if !admitted {
            wanting.for_each(|session| session.miss());
        }
        admitted
    }

    fn note_policy(&self, record: &mut Record, flow: Option<Flow>) {
        let Some(flow) = flow else { return };
        let policies = self.shared.policies.snapshot();
        if let Verdict::Covered(policy) = policies.lookup(record.tenant, &flow) {
            record.policy = Some((policy.policy().name.clone(), policy.action()));
            let guard = self.reader.guard();
            let own = policy.lanes().and_then(|lanes| lanes.own(self.worker));
            let outbound = own
                .or_else(|| policy.outbound())
                .and_then(|reference| self.shared.sas.outbound(&guard, reference));
            record.spi_out = outbound.map(|sa| sa.spi);
        }
    }

    /// Says what became of the one packet that was taken through since `before`.
    fn conclude(&self, record: &mut Record, before: &Tally, sessions: &[Arc<Session>], out: &mut Output) {
        let after = Tally::of(self, out);
        let grown = |after: usize, before: usize| after > before;
        record.sealed = after.sealed > before.sealed;
        let sent = after.transmit.iter().enumerate().find_map(|(at, count)| {
            let before = before.transmit.get(at).copied().unwrap_or(0);
            grown(*count, before).then_some((crate::route::PortIndex(at as u16), before))
        });
        let dropped =
            DropReason::ALL.iter().enumerate().find(|(at, _)| after.drops.get(*at) > before.drops.get(*at));
        let routes = self.shared.routes.load();
        record.fate = match (dropped, sent) {
            (Some((_, reason)), _) => {
                record.answered = after.generated > before.generated;
                Fate::Dropped(*reason)
            }
            (None, Some((port, _))) => Fate::Sent(name_of(&routes, port)),
            (None, None) if grown(after.to_kernel, before.to_kernel) => Fate::ToHost,
            (None, None) if grown(after.held, before.held) => Fate::AwaitsNeighbour,
            (None, None) if grown(after.trapped, before.trapped) => Fate::AwaitsSa,
            (None, None) if grown(after.handed, before.handed) => Fate::HandedOver,
            (None, None) => Fate::Other,
        };
        if !wants(sessions, Octets::Outer) || dropped.is_some() {
            return;
        }
        let protected = record.class == Class::Esp && !record.sealed;
        if let Some((index, from)) = sent {
            for frame in out.transmit.of(index).iter().skip(from) {
                let port = routes.port(index);
                record.octets.push(piece(Place::Sent, port, true, protected, frame.packet().to_vec()));
            }
        } else if let Fate::ToHost = record.fate
            && let Some(frame) = match record.tenant.is_routed() {
                true => out.to_device.last().map(|(_, frame)| frame),
                false => out.to_kernel.last(),
            }
        {
            record.octets.push(piece(Place::Sent, None, false, protected, frame.packet().to_vec()));
        }
    }
}

/// Opens a copy of an ESP packet: whose it is and what is in it, if it is authentic and what its SA is for, and its octets.
fn peek(
    sas: &SaTable,
    guard: &Guard<'_>,
    packet: &[u8],
    outer: &esp::EspPacket,
    spare: &mut dyn FrameSource,
    out: &mut Output,
) -> Option<(TenantId, Flow, Vec<u8>)> {
    let sa = sas.inbound_at(guard, sas.locate(outer.spi))?;
    let start = super::SPARE_START;
    let mut frame = spare.take_for(start + packet.len())?;
    let range = (start, start + packet.len());
    let opened = if frame.set_range(range.0, range.1) {
        frame.packet_mut().copy_from_slice(packet);
        inbound::look_into(sas, sa, &mut frame, outer)
    } else {
        None
    };
    let opened = opened.map(|(flow, info)| {
        let octets = frame.packet().get(..info.total_len()).unwrap_or_default().to_vec();
        (sa.tenant, flow.flow(), octets)
    });
    if frame.set_range(range.0, range.1) {
        frame.packet_mut().fill(0);
    }
    out.recycled.push(frame);
    opened
}

fn wants(sessions: &[Arc<Session>], octets: Octets) -> bool {
    sessions.iter().any(|session| session.octets() >= octets)
}

fn piece(place: Place, port: Option<&PortInfo>, ethernet: bool, protected: bool, octets: Vec<u8>) -> Piece {
    Piece { place, interface: port.map(|port| port.name.clone()), ethernet, protected, octets }
}

fn name_of(routes: &RouteTable, port: crate::route::PortIndex) -> String {
    routes.port(port).map_or_else(|| format!("port {}", port.0), |port| port.name.clone())
}
