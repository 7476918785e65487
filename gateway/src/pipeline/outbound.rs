//! From a packet in clear to policy (RFC 4301 §5.1), and through the SA that it names.
//!
//! Frames stay where they are until the last step. First policy is asked about every packet; then what the packets of one
//! SA share is found out once per run of them; then those to be sealed get their headers and go through the engine
//! together; then each frame goes its way.

use arrayvec::ArrayVec;
use portcullis_aead as aead;
use portcullis_ipsec::PolicyAction;

use super::egress::{self, Reach};
use super::{BATCH, Clear, Context, Origin, Packets, Straight, take, trouble};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, Template};
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::policy::FlowCache;
use crate::route::{NextHop, PortIndex};
use crate::sa::{Outbound, OutboundRef};
use crate::wire::decrement_ttl;

/// Packets of one SA that follow each other.
struct Run<'a> {
    sa: &'a Outbound,
    reference: OutboundRef,
    template: Template,
    hop: NextHop,
    /// Where its sealed packets leave, if nothing but that is left to do.
    port: Option<PortIndex>,
    /// Octets of the largest inner packet that passes.
    limit: usize,
    /// The next packet's sequence number, or why it gets none.
    sequence: Result<u64, DropReason>,
    /// What has been sealed, and its octets.
    packets: u64,
    octets: u64,
}

/// What becomes of a packet. Small: every packet has one, written and read a moment later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Sealed, with the run of that number.
    Seal {
        run: u8,
        /// Known to lie within the SA's selectors.
        permitted: bool,
    },
    /// On in clear: out of a tunnel and not to go into another, or bypassed.
    Clear(Reach),
    /// Ready, or so when the engine is done, to be sent by this port.
    Send(PortIndex),
    /// Its TTL ends here.
    Expired,
    /// More octets than pass the tunnel of the run of that number.
    TooBig(u8),
    Dropped(DropReason),
}

/// More flows than these that were not remembered in one batch, and in the next they are asked for ahead.
const FEW_MISSES: u32 = 3;

/// By number: an SA, and how many packets of it follow each other.
type Wanted = ArrayVec<(OutboundRef, u32), BATCH>;
/// By the same number: the run, or why its packets go no further.
type Runs<'a> = ArrayVec<Result<Run<'a>, DropReason>, BATCH>;
type Fates = ArrayVec<Fate, BATCH>;

/// Takes up to a batch of `packets` where policy sends them: into a tunnel, on in clear if they came out of one or are
/// bypassed, or nowhere.
#[inline(always)]
pub(super) fn protect<'a>(context: &mut Context<'a>, packets: &mut Packets<Clear>) {
    let batch = packets.frames.len().min(BATCH);
    let (mut wanted, mut fates) = (Wanted::new(), Fates::new());
    choose(context, packets.about.get(..batch).unwrap_or_default(), &mut wanted, &mut fates);
    let mut runs = Runs::new();
    begin(context, &wanted, &mut runs);
    let straight = seal(context, packets, &mut runs, &mut fates);
    if let Some(port) = straight.whole(batch) {
        take(&mut packets.frames, batch, context.out.transmit.of(port));
    } else {
        for ((frame, about), fate) in packets.frames.drain(..batch).zip(&packets.about).zip(&fates) {
            dispatch(context, frame, about, *fate, &runs);
        }
    }
    packets.about.drain(..batch);
}

/// Asks policy about every packet.
#[inline(always)]
fn choose(context: &mut Context<'_>, packets: &[Clear], wanted: &mut Wanted, fates: &mut Fates) {
    if context.flows.take_misses() > FEW_MISSES {
        look_ahead(context, packets);
    }
    for packet in packets {
        fates.push(match decide(context, packet) {
            Ok(Way::Sealed { reference, permitted }) => {
                match wanted.last_mut() {
                    Some((last, packets)) if *last == reference => *packets += 1,
                    _ => {
                        // On its way into the cache while the rest of the batch is decided about.
                        context.shared.sas.prefetch_outbound(reference);
                        wanted.push((reference, 1));
                    }
                }
                Fate::Seal { run: wanted.len().wrapping_sub(1) as u8, permitted }
            }
            Ok(Way::Clear(reach)) => Fate::Clear(reach),
            Err(reason) => Fate::Dropped(reason),
        });
    }
}

/// Asks the processor for the policies of the packets whose flows are not remembered.
#[inline(never)]
fn look_ahead(context: &Context<'_>, packets: &[Clear]) {
    let unknown = packets.iter().filter(|Clear { flow, place, tenant, .. }| {
        !context.flows.remembers(context.policies, *tenant, flow, *place as usize)
    });
    let wanted: ArrayVec<_, BATCH> = unknown.map(|packet| (packet.tenant, packet.flow.dst())).collect();
    context.policies.prefetch(&wanted);
}

/// What policy says of a packet that may go on.
enum Way {
    /// Through this SA, if its selectors permit it, as may be known.
    Sealed {
        reference: OutboundRef,
        permitted: bool,
    },
    Clear(Reach),
}

#[inline(always)]
fn decide(context: &mut Context<'_>, packet: &Clear) -> Result<Way, DropReason> {
    let Clear { flow, place, tenant, .. } = packet;
    let recalled = match packet.pinned {
        None => context.flows.recall(context.policies, *tenant, flow, *place as usize),
        Some(pinned) => context.again.pinned(pinned).map(|policy| (Some(policy), 0)),
    };
    let from_tunnel = matches!(packet.origin, Origin::Tunnel { .. });
    let Some((Some(policy), permitted)) = recalled else {
        return if from_tunnel { Ok(Way::Clear(Reach::Inside)) } else { Err(DropReason::NoPolicy) };
    };
    // What is for us is not sent on, even by a policy that covers everything.
    if from_tunnel && context.hops.is_local(flow.dst_bits(), flow.is_ipv6()) {
        return Ok(Way::Clear(Reach::Inside));
    }
    // Only a policy that protects is ever given an SA.
    if let Some(reference) = policy.outbound() {
        return Ok(Way::Sealed { reference, permitted: permitted == reference.to_word() });
    }
    match policy.action() {
        PolicyAction::Protect => {
            context.shared.events.acquire(policy, flow);
            Err(DropReason::NoSa)
        }
        PolicyAction::Bypass => Ok(Way::Clear(Reach::Anywhere)),
        PolicyAction::Discard => Err(DropReason::Discarded),
    }
}

/// Finds the SAs, and out where the packets of each go.
#[inline(always)]
fn begin<'a>(context: &mut Context<'a>, wanted: &Wanted, runs: &mut Runs<'a>) {
    let mut sas = ArrayVec::<Option<&'a Outbound>, BATCH>::new();
    for (reference, _) in wanted {
        let sa = context.shared.sas.outbound(&context.guard, *reference);
        sas.push(sa.inspect(|sa| sa.prefetch()));
    }
    for ((reference, packets), sa) in wanted.iter().zip(&sas) {
        let run = sa.ok_or(DropReason::NoSa).and_then(|sa| Run::new(context, sa, *reference));
        runs.push(run);
        if let Some(Ok(run)) = runs.last_mut() {
            run.number(*packets, &context.shared.events);
        }
    }
}

impl<'a> Run<'a> {
    fn new(context: &mut Context<'_>, sa: &'a Outbound, reference: OutboundRef) -> Result<Self, DropReason> {
        let endpoints = sa.endpoints.get();
        let template = Template::new(&endpoints, sa.spi.get(), sa.algorithm(), sa.salt(), sa.esn);
        let mut template = template.ok_or(DropReason::NoSa)?;
        let hop = context.hops.resolve_addr(endpoints.remote);
        let mtu = egress::mtu(&hop)?;
        let (dst, src) = egress::addresses(context, &hop);
        template.set_link(dst, src);
        let port = match hop {
            NextHop::Port { port, .. } if !template.needs_finish() => Some(port),
            _ => None,
        };
        let limit = esp::max_inner_len(mtu, &endpoints, sa.algorithm());
        let sequence = Err(DropReason::SequenceExhausted);
        Ok(Self { sa, reference, template, hop, port, limit, sequence, packets: 0, octets: 0 })
    }

    /// Takes sequence numbers for all its packets in one reservation. Those that are not sealed leave some unused, which
    /// are lost.
    fn number(&mut self, packets: u32, events: &EventBoard) {
        self.sequence = self.sa.reserve(packets, events).map(|numbers| numbers.start);
    }
}

/// Writes all headers and trailers, and encrypts all packets in one call. What goes on in clear is made ready too.
#[inline(always)]
fn seal<'a>(
    context: &mut Context<'a>,
    packets: &mut Packets<Clear>,
    runs: &mut Runs<'a>,
    fates: &mut Fates,
) -> Straight {
    let mut straight = Straight::default();
    let mut batch = ArrayVec::<aead::Packet<'_>, BATCH>::new();
    for ((frame, about), fate) in packets.frames.iter_mut().zip(&packets.about).zip(fates) {
        match *fate {
            Fate::Seal { run: number, permitted } => {
                *fate = match runs.get_mut(usize::from(number)) {
                    Some(Ok(run)) => match encapsulate(context.flows, run, number, permitted, frame, about) {
                        Ok(parameters) => {
                            batch.push(parameters.packet(run.sa.key(), frame));
                            run.port.map_or(*fate, Fate::Send)
                        }
                        Err(fate) => fate,
                    },
                    Some(Err(reason)) => stopped(context, about, *reason),
                    None => Fate::Dropped(DropReason::NoSa),
                };
            }
            Fate::Clear(reach) => {
                if let Some(link) = egress::find_link(context, &about.flow, reach)
                    && let Some(port) = egress::prepare(frame, about.info, about.counts_down(), &link)
                {
                    *fate = Fate::Send(port);
                }
            }
            Fate::Send(_) | Fate::Expired | Fate::TooBig(_) | Fate::Dropped(_) => {}
        }
        if let Fate::Send(port) = *fate {
            straight.add(port);
        }
    }
    if batch.is_empty() {
        return straight;
    }
    context.shared.sas.engine().seal(&mut batch);
    WorkerCounters::add(&context.counters.sealed, batch.len() as u64);
    for run in runs.iter().flatten().filter(|run| run.packets > 0) {
        let reached = run.sa.traffic().count(run.sa.limits(), run.packets, run.octets, context.now);
        context.shared.events.milestones(reached);
    }
    straight
}

/// Puts all headers around a packet that may go through the SA of a run; else says what becomes of it.
#[inline(always)]
fn encapsulate(
    flows: &mut FlowCache,
    run: &mut Run<'_>,
    number: u8,
    permitted: bool,
    frame: &mut Frame,
    about: &Clear,
) -> Result<esp::AeadParameters, Fate> {
    if !permitted {
        if !run.sa.permits(&about.flow) {
            return Err(Fate::Dropped(DropReason::OutsideSa));
        }
        flows.permit(true, about.tenant, &about.flow, about.place as usize, run.reference.to_word());
    }
    if about.expires() {
        return Err(Fate::Expired);
    }
    if about.info.total_len() > run.limit {
        return Err(Fate::TooBig(number));
    }
    let sequence = run.sequence.map_err(Fate::Dropped)?;
    run.sequence = Ok(sequence + 1);
    run.packets += 1;
    run.octets += about.info.total_len() as u64;
    if about.counts_down() {
        decrement_ttl(frame.packet_mut());
    }
    let parameters = run.template.encapsulate(frame, &about.info, about.flow.is_ipv6(), sequence);
    parameters.map_err(|reason| {
        run.packets -= 1;
        run.octets -= about.info.total_len() as u64;
        Fate::Dropped(reason)
    })
}

/// The packet's run could not begin: perhaps its SA went between the policy's answer and now.
#[cold]
fn stopped(context: &mut Context<'_>, packet: &Clear, reason: DropReason) -> Fate {
    let shared = context.shared;
    if reason == DropReason::NoSa
        && let Some(policy) = packet.policy(context)
    {
        shared.events.acquire(policy, &packet.flow);
    }
    Fate::Dropped(reason)
}

fn dispatch(context: &mut Context<'_>, mut frame: Frame, about: &Clear, fate: Fate, runs: &Runs<'_>) {
    match fate {
        Fate::Send(port) => context.out.transmit.push(port, frame),
        Fate::Seal { run, .. } => match runs.get(usize::from(run)) {
            Some(Ok(run)) => {
                run.template.finish(&mut frame);
                egress::transmit(context, frame, &run.hop);
            }
            _ => context.drop(frame, DropReason::NoSa),
        },
        Fate::Clear(reach) => egress::send_clear(context, frame, about, reach),
        Fate::Expired => trouble::expired(context, frame, about),
        Fate::TooBig(number) => {
            let run = runs.get(usize::from(number)).and_then(|run| run.as_ref().ok());
            let limit = run.map_or(0, |run| run.limit);
            trouble::too_big_for_tunnel(context, frame, about, limit);
        }
        Fate::Dropped(reason) => context.drop(frame, reason),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_aead::Engine;
    use portcullis_ipsec::{Encapsulation, EspAlgorithm, EspKey, OutboundSa, Spi, TunnelEndpoints};

    use super::*;
    use crate::sa::sequence::SequenceCounter;

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

    fn run(sa: &Outbound) -> Run<'_> {
        let template = Template::new(&sa.endpoints.get(), 4096, sa.algorithm(), sa.salt(), sa.esn).unwrap();
        let (reference, sequence) = (OutboundRef::from_word(1 << 32).unwrap(), Err(DropReason::NoSa));
        let (hop, port) = (NextHop::None, None);
        Run { sa, reference, template, hop, port, limit: 1400, sequence, packets: 0, octets: 0 }
    }

    #[test]
    fn runs_of_one_sa_are_numbered_upwards_and_an_exhausted_sa_refuses() {
        let events = EventBoard::new(1, 1, Box::new(|| {}));
        let (ending, fresh) = (sa(98, 100), sa(1, 1000));
        let numbers = [(&ending, 2), (&fresh, 2), (&ending, 2)].map(|(sa, packets)| {
            let mut run = run(sa);
            run.number(packets, &events);
            run.sequence
        });
        assert_eq!(numbers, [Ok(98), Ok(1), Err(DropReason::SequenceExhausted)]);
    }
}
