//! From a packet in clear to policy (RFC 4301 §5.1), and through the SA that it names.

use std::ptr;

use arrayvec::ArrayVec;
use portcullis_aead as aead;
use portcullis_ipsec::PolicyAction;

use super::egress::{self, Reach};
use super::{BATCH, Clear, Context, Origin, Tally, trouble};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, AeadParameters, Outer};
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::route::NextHop;
use crate::sa::Outbound;
use crate::wire::decrement_ttl;

/// Where the packets of one SA go.
#[derive(Debug, Clone, Copy)]
struct Path {
    outer: Outer,
    hop: NextHop,
    /// Octets of the largest inner packet that passes.
    limit: usize,
}

/// A packet whose SA was found.
struct Chosen<'a> {
    packet: Clear,
    sa: &'a Outbound,
    path: Path,
    sequence: Result<u64, DropReason>,
}

/// A packet that lacks only encryption.
struct Sealing<'a> {
    frame: Frame,
    sa: &'a Outbound,
    path: Path,
    parameters: AeadParameters,
}

/// Takes up to a batch of `packets` where policy sends them: into a tunnel, on in clear if they came out of one or are
/// bypassed, or nowhere.
pub(super) fn protect<'a>(context: &mut Context<'a>, packets: &mut Vec<Clear>) {
    let mut chosen = choose(context, packets);
    number(&context.shared.events, &mut chosen);
    let mut sealing = encapsulate(context, &mut chosen);
    seal(context, &mut sealing);
    for Sealing { mut frame, path, .. } in sealing.drain(..) {
        esp::write_udp_checksum(&mut frame, &path.outer.endpoints);
        egress::send(context, frame, path.hop);
    }
}

/// Finds every packet's SA and way; what has none ends here.
fn choose<'a>(context: &mut Context<'a>, packets: &mut Vec<Clear>) -> ArrayVec<Chosen<'a>, BATCH> {
    let mut chosen = ArrayVec::<Chosen<'a>, BATCH>::new();
    for packet in packets.drain(..packets.len().min(BATCH)) {
        let sa = match decide(context, &packet) {
            Ok(Decision::Seal(sa)) => sa,
            Ok(Decision::Clear(reach)) => {
                egress::send_clear(context, packet, reach);
                continue;
            }
            Err(reason) => {
                context.drop(packet.frame, reason);
                continue;
            }
        };
        // A run of packets of one SA shares what is found out about its way.
        let path = match chosen.last() {
            Some(last) if ptr::eq(last.sa, sa) => Ok(last.path),
            _ => path(context, sa),
        };
        match path {
            Ok(_) if packet.expires() => trouble::expired(context, packet),
            Ok(path) if packet.info.total_len > path.limit => {
                trouble::too_big_for_tunnel(context, packet, path.limit);
            }
            Ok(path) => {
                chosen.push(Chosen { packet, sa, path, sequence: Err(DropReason::SequenceExhausted) })
            }
            Err(reason) => context.drop(packet.frame, reason),
        }
    }
    chosen
}

enum Decision<'a> {
    Seal(&'a Outbound),
    /// Out of a tunnel and not to go into another, or bypassed.
    Clear(Reach),
}

fn decide<'a>(context: &mut Context<'a>, packet: &Clear) -> Result<Decision<'a>, DropReason> {
    let from_tunnel = matches!(packet.origin, Origin::Tunnel { .. });
    // What is for us is not sent on, even by a policy that covers everything.
    if from_tunnel && context.routes.is_local(packet.flow.dst) {
        return Ok(Decision::Clear(Reach::Inside));
    }
    let policy = match &packet.policy {
        Some(policy) => Some(policy),
        None => context.flows.lookup(context.policies, packet.tenant, &packet.flow),
    };
    let Some(policy) = policy else {
        return if from_tunnel { Ok(Decision::Clear(Reach::Inside)) } else { Err(DropReason::NoPolicy) };
    };
    match policy.action() {
        PolicyAction::Protect => {}
        PolicyAction::Bypass => return Ok(Decision::Clear(Reach::Anywhere)),
        PolicyAction::Discard => return Err(DropReason::Discarded),
    }
    let sas = &context.shared.sas;
    let Some(sa) = policy.outbound().and_then(|reference| sas.outbound(&context.guard, reference)) else {
        context.shared.events.acquire(policy, &packet.flow);
        return Err(DropReason::NoSa);
    };
    if !sa.permits(&packet.flow) {
        return Err(DropReason::OutsideSa);
    }
    Ok(Decision::Seal(sa))
}

fn path(context: &Context<'_>, sa: &Outbound) -> Result<Path, DropReason> {
    let endpoints = sa.endpoints.get();
    let hop = context.routes.resolve(endpoints.remote);
    let mtu = egress::mtu(&hop)?;
    Ok(Path {
        outer: Outer { endpoints, spi: sa.spi.get(), salt: sa.salt(), esn: sa.esn },
        hop,
        limit: esp::max_inner_len(mtu, &endpoints, sa.algorithm()),
    })
}

/// Gives every packet its sequence number: one reservation per run of packets of one SA.
fn number(events: &EventBoard, chosen: &mut [Chosen<'_>]) {
    for run in chosen.chunk_by_mut(|a, b| ptr::eq(a.sa, b.sa)) {
        let Some(sa) = run.first().map(|first| first.sa) else { continue };
        match sa.reserve(run.len() as u32, events) {
            Ok(numbers) => {
                run.iter_mut().zip(numbers).for_each(|(chosen, number)| chosen.sequence = Ok(number))
            }
            Err(reason) => run.iter_mut().for_each(|chosen| chosen.sequence = Err(reason)),
        }
    }
}

/// Writes all headers and trailers.
fn encapsulate<'a>(
    context: &mut Context<'a>,
    chosen: &mut ArrayVec<Chosen<'a>, BATCH>,
) -> ArrayVec<Sealing<'a>, BATCH> {
    let mut sealing = ArrayVec::<Sealing<'a>, BATCH>::new();
    let mut tally = Tally::default();
    for Chosen { packet, sa, path, sequence } in chosen.drain(..) {
        let counts_down = packet.counts_down();
        let Clear { mut frame, flow, info, .. } = packet;
        if counts_down {
            decrement_ttl(frame.packet_mut());
        }
        let parameters = sequence.and_then(|sequence| {
            esp::encapsulate(&mut frame, &info, flow.src.is_ipv6(), &path.outer, sequence)
        });
        match parameters {
            Ok(parameters) => {
                tally.count(&sa.traffic, info.total_len, context.now);
                sealing.push(Sealing { frame, sa, path, parameters });
            }
            Err(reason) => context.drop(frame, reason),
        }
    }
    tally.flush(context.now);
    sealing
}

/// Encrypts all in one call.
fn seal(context: &Context<'_>, sealing: &mut [Sealing<'_>]) {
    let mut batch = ArrayVec::<aead::Packet<'_>, BATCH>::new();
    batch.extend(
        sealing.iter_mut().map(|Sealing { frame, sa, parameters, .. }| parameters.packet(sa.key(), frame)),
    );
    context.shared.sas.engine().seal(&mut batch);
    WorkerCounters::add(&context.counters.sealed, batch.len() as u64);
}

#[cfg(test)]
mod tests {
    use portcullis_aead::Engine;
    use portcullis_ipsec::{Encapsulation, EspAlgorithm, EspKey, OutboundSa, Spi, TenantId, TunnelEndpoints};

    use super::*;
    use crate::sa::sequence::SequenceCounter;
    use crate::wire;

    fn sa(first: u64, last: u64) -> Outbound {
        let endpoints = TunnelEndpoints {
            local: [192, 0, 2, 1].into(),
            remote: [192, 0, 2, 2].into(),
            encapsulation: Encapsulation::None,
        };
        let sa = OutboundSa {
            spi: Spi::new(4096).unwrap(),
            key: EspKey::from_keymat(EspAlgorithm::Aes128Gcm16, &[7; 20]).unwrap(),
            esn: false,
            endpoints,
            local_ts: vec!["10.1.0.0/16".parse().unwrap()],
            remote_ts: vec!["10.2.0.0/16".parse().unwrap()],
        };
        let counter = SequenceCounter::starting_at(first, last);
        Outbound::new(&Engine::select(None).unwrap(), sa.spi, 0, counter, &sa).unwrap()
    }

    fn chosen(sa: &Outbound) -> Chosen<'_> {
        let header = wire::Ipv4 {
            header_len: 20,
            total_len: 20,
            tos: 0,
            id: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 9,
            protocol: 17,
            src: [10, 1, 0, 1].into(),
            dst: [10, 2, 0, 1].into(),
        };
        let (flow, info) = wire::flow(&header.write(&[])).unwrap();
        let frame = Frame::leaked(64, 64);
        let packet =
            Clear { frame, origin: Origin::Kernel, tenant: TenantId::default(), flow, info, policy: None };
        let outer = Outer { endpoints: sa.endpoints.get(), spi: 4096, salt: sa.salt(), esn: sa.esn };
        let path = Path { outer, hop: NextHop::None, limit: 1400 };
        Chosen { packet, sa, path, sequence: Err(DropReason::NoSa) }
    }

    #[test]
    fn runs_of_one_sa_are_numbered_upwards_and_an_exhausted_sa_refuses() {
        let events = EventBoard::new(1, 1, Box::new(|| {}));
        let (ending, fresh) = (sa(98, 100), sa(1, 1000));
        let mut batch: Vec<_> =
            [&ending, &ending, &fresh, &fresh, &ending, &ending].into_iter().map(chosen).collect();
        number(&events, &mut batch);
        let exhausted = Err(DropReason::SequenceExhausted);
        let numbers: Vec<_> = batch.iter().map(|chosen| chosen.sequence).collect();
        assert_eq!(numbers, [Ok(98), Ok(99), Ok(1), Ok(2), exhausted, exhausted]);
    }
}
