//! From a packet in clear to policy (RFC 4301 §5.1), and through the SA that it names.
//!
//! Frames stay where they are until the last step. First policy is asked about every packet; then what the packets of one
//! SA share is found out once per run of them; then those to be sealed get their headers and go through the engine
//! together; then each frame goes its way.

use arrayvec::ArrayVec;
use portcullis_aead as aead;
use portcullis_ipsec::PolicyAction;

use super::egress::{self, Reach};
use super::special::{self, Narrow};
use super::{
    BATCH, Clear, Context, Handed, Packets, PolicyTally, Straight, cut, police, take, trapped, trouble,
};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, Template};
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::policy::{FlowCache, Verdict, lanes};
use crate::route::{NextHop, PortIndex};
use crate::sa::{Outbound, OutboundRef};
use crate::wire::decrement_ttl;

/// Packets of one SA that follow each other.
pub(super) struct Run<'a> {
    pub(super) sa: &'a Outbound,
    reference: OutboundRef,
    pub(super) template: Template,
    /// Its packets are not simply put into the tunnel: see [`special`].
    pub(super) special: bool,
    hop: NextHop,
    /// Where its sealed packets leave, if nothing but that is left to do.
    port: Option<PortIndex>,
    /// Octets of the largest packet that passes the way to the peer.
    mtu: usize,
    /// Octets of the largest inner packet that passes.
    pub(super) limit: usize,
    /// The next packet's sequence number, or why it gets none.
    sequence: Result<u64, DropReason>,
    /// What has been sealed, and its octets.
    packets: u64,
    octets: u64,
}

/// What becomes of a packet. Small: every packet has one, written and read a moment later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Sealed, with the run of that number.
    Seal {
        run: u8,
        /// Known to lie within the SA's selectors.
        permitted: bool,
    },
    /// Sealed with the run of that number, and then to be cut into fragments.
    SealedToCut(u8),
    /// On in clear: out of a tunnel and not to go into another, or bypassed.
    Clear(Reach),
    /// To the host, whose routes and firewall take it on.
    Kernel,
    /// Ready, or so when the engine is done, to be sent by this port.
    Send(PortIndex),
    /// Kept until the SA that it has asked for comes up.
    Trapped,
    /// Its TTL ends here.
    Expired,
    /// More octets than pass the tunnel of the run of that number.
    TooBig(u8),
    /// Its SA is that worker's.
    Elsewhere(u16),
    Dropped(DropReason),
}

/// Why the packets of an SA go no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    Dropped(DropReason),
    /// The SA is that worker's.
    Elsewhere(u16),
}

/// Of the way to a peer that is behind an interface that no worker serves, and has a TCP stream.
const STREAM_MTU: usize = 1500;

/// More flows than these that were not remembered in one batch, and in the next they are asked for ahead.
const FEW_MISSES: u32 = 3;

/// By number: an SA, how many packets of it follow each other, and the octets of the first of them.
type Wanted = ArrayVec<(OutboundRef, u32, usize), BATCH>;
/// By the same number: the run, or why its packets go no further here.
type Runs<'a> = ArrayVec<Result<Run<'a>, Halt>, BATCH>;
type Fates = ArrayVec<Fate, BATCH>;

/// Takes up to a batch of `packets` where policy sends them: into a tunnel, on in clear if they came out of one or are
/// bypassed, or nowhere.
#[inline(always)]
pub(super) fn protect<'a>(context: &mut Context<'a>, packets: &mut Packets<Clear>) {
    let batch = packets.frames.len().min(BATCH);
    let (mut wanted, mut fates) = (Wanted::new(), Fates::new());
    let about = packets.about.get(..batch).unwrap_or_default();
    choose(context, about, &mut wanted, &mut fates);
    let mut runs = Runs::new();
    begin(context, about, &wanted, &mut fates, &mut runs);
    let straight = seal(context, packets, &mut runs, &mut fates);
    if let Some(port) = straight.whole(batch) {
        take(&mut packets.frames, batch, context.out.transmit.of(port));
    } else {
        let mut tally = PolicyTally::default();
        for ((frame, about), fate) in packets.frames.drain(..batch).zip(&packets.about).zip(&fates) {
            dispatch(context, frame, about, *fate, &runs, &mut tally);
        }
        tally.flush();
    }
    packets.about.drain(..batch);
}

/// Asks policy about every packet.
#[inline(always)]
fn choose(context: &mut Context<'_>, packets: &[Clear], wanted: &mut Wanted, fates: &mut Fates) {
    if context.flows.take_misses() > FEW_MISSES {
        look_ahead(context, packets);
    }
    if let ([first, ..], [.., last]) = (packets, packets)
        && first.place != last.place
    {
        // A batch of several flows: whose policies' handles are anywhere.
        packets.iter().for_each(|packet| context.flows.prefetch_policy(packet.place as usize));
    }
    let mut tally = PolicyTally::default();
    let firewall = context.shared.firewall;
    for packet in packets {
        let mut way = decide(context, packet, &mut tally);
        if firewall {
            way = through_firewall(context, packet, way);
        }
        fates.push(match way {
            Ok(Way::Sealed { reference, permitted }) => {
                match wanted.last_mut() {
                    Some((last, packets, _)) if *last == reference => *packets += 1,
                    _ => {
                        // On its way into the cache while the rest of the batch is decided about.
                        context.shared.sas.prefetch_outbound(reference);
                        wanted.push((reference, 1, packet.info.total_len()));
                    }
                }
                Fate::Seal { run: wanted.len().wrapping_sub(1) as u8, permitted }
            }
            Ok(Way::Clear(reach)) => Fate::Clear(reach),
            Ok(Way::Kernel) => Fate::Kernel,
            Ok(Way::Trapped) => Fate::Trapped,
            Err(reason) => Fate::Dropped(reason),
        });
    }
    tally.flush();
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

/// Where a packet goes that was let in, and that no policy takes further.
const INSIDE: Reach = Reach::Inside(DropReason::ClearToOutside);

/// What policy says of a packet that may go on.
enum Way {
    /// Through this SA, if its selectors permit it, as may be known.
    Sealed {
        reference: OutboundRef,
        permitted: bool,
    },
    Clear(Reach),
    /// To the host.
    Kernel,
    /// None yet: an SA was asked for.
    Trapped,
}

#[inline(always)]
fn decide(context: &mut Context<'_>, packet: &Clear, tally: &mut PolicyTally) -> Result<Way, DropReason> {
    let Clear { flow, place, tenant, .. } = packet;
    let admitted = packet.is_admitted();
    if admitted && context.policies.discards_first() && is_discarded_back(context, packet) {
        return Err(DropReason::Discarded);
    }
    if admitted && tenant.is_routed() {
        // What is behind this tunnel, and who else its packets may go to, the routes of its device say.
        return Ok(Way::Kernel);
    }
    let recalled = match packet.pinned {
        None => context.flows.recall(context.policies, *tenant, flow, *place as usize),
        Some(pinned) => context.again.pinned(pinned).map(|policy| (Some(policy), 0)),
    };
    let Some((Some(policy), permitted)) = recalled else {
        return if admitted { Ok(Way::Clear(INSIDE)) } else { Err(DropReason::NoPolicy) };
    };
    // What is for us is not sent on, even by a policy that covers everything.
    if admitted && context.hops.is_local(flow.dst_bits(), flow.is_ipv6()) {
        return Ok(Way::Clear(INSIDE));
    }
    // Only a policy that protects is ever given an SA.
    let outbound = match policy.lanes() {
        None => policy.outbound(),
        Some(lanes) => {
            let (who, shared) = ((context.worker, context.now), context.shared);
            lanes::of_worker(policy, lanes, who, &shared.events, |sa| {
                // The first worker that looks has it from then on, so that of two which begin together one asks.
                shared
                    .sas
                    .outbound(&context.guard, sa)
                    .is_some_and(|sa| sa.owner(context.worker) != context.worker)
            })
        }
    };
    if let Some(reference) = outbound {
        return Ok(Way::Sealed { reference, permitted: permitted == reference.to_word() });
    }
    match policy.action() {
        PolicyAction::Protect => {
            context.shared.events.acquire(policy, flow);
            // A pinned policy is known for this batch alone.
            let may_wait = policy.wants_sa() && packet.pinned.is_none();
            if may_wait { Ok(Way::Trapped) } else { Err(DropReason::NoSa) }
        }
        PolicyAction::Bypass => {
            tally.passed(policy, packet.info.total_len());
            Ok(Way::Clear(Reach::Anywhere))
        }
        PolicyAction::Discard if admitted => Ok(Way::Clear(Reach::Inside(DropReason::Discarded))),
        PolicyAction::Discard => Err(DropReason::Discarded),
    }
}

/// What policy lets on that came in by an outside interface goes to the kernel, and comes back from the TUN device if it is
/// for another tunnel. Where it may not go in clear stays what it was.
#[cold]
fn through_firewall(
    context: &mut Context<'_>,
    packet: &Clear,
    way: Result<Way, DropReason>,
) -> Result<Way, DropReason> {
    if !packet.is_admitted() {
        return way;
    }
    if let Ok(Way::Clear(Reach::Inside(reason))) = way
        && egress::leads_outside(context, &packet.flow)
    {
        return Err(reason);
    }
    way.map(|_| Way::Kernel)
}

/// Whether a policy that goes before those that protect drops the way back of a packet that came in.
#[cold]
fn is_discarded_back(context: &Context<'_>, packet: &Clear) -> bool {
    match context.policies.lookup(packet.tenant, &packet.flow.flow().reversed()) {
        Verdict::Covered(policy) => policy.action() == PolicyAction::Discard,
        Verdict::NoMatch => false,
    }
}

/// Finds the SAs, and out where the packets of each go.
#[inline(always)]
fn begin<'a>(
    context: &mut Context<'a>,
    packets: &[Clear],
    wanted: &Wanted,
    fates: &mut Fates,
    runs: &mut Runs<'a>,
) {
    let mut sas = ArrayVec::<Option<&'a Outbound>, BATCH>::new();
    for (reference, _, octets) in wanted {
        let sa = context.shared.sas.outbound(&context.guard, *reference);
        sas.push(sa.inspect(|sa| sa.prefetch(octets + esp::TRAILER_LEN)));
    }
    for (number, ((reference, count, _), sa)) in (0..).zip(wanted.iter().zip(&sas)) {
        runs.push(match sa.map(|sa| (sa, sa.owner(context.worker))) {
            Some((sa, owner)) if owner == context.worker => {
                Run::new(context, sa, *reference).map_err(Halt::Dropped)
            }
            Some((_, owner)) => Err(Halt::Elsewhere(owner)),
            None => Err(Halt::Dropped(DropReason::NoSa)),
        });
        if let Some(Ok(run)) = runs.last_mut() {
            let count = match run.sa.limiter() {
                None => *count,
                Some(limiter) => police::outbound(context, limiter, (run, number), packets, fates, *count),
            };
            run.number(count, &context.shared.events);
        }
    }
}

impl<'a> Run<'a> {
    fn new(context: &mut Context<'_>, sa: &'a Outbound, reference: OutboundRef) -> Result<Self, DropReason> {
        let endpoints = sa.endpoints.get();
        let template = Template::new(&endpoints, sa.spi.get(), sa.algorithm(), sa.salt(), sa.esn);
        let mut template = template.ok_or(DropReason::NoSa)?;
        let hop = context.hops.resolve_addr(endpoints.remote);
        let mtu = match (egress::mtu(&hop), template.is_for_stream()) {
            // The host sends it, wherever its routes lead.
            (mtu, true) => mtu.unwrap_or(STREAM_MTU),
            (mtu, false) => mtu?,
        };
        let mtu = sa.path_mtu.narrow(mtu, context.now);
        let (dst, src) = egress::addresses(context, &hop);
        template.set_link(dst, src);
        let port = match hop {
            NextHop::Port { port, .. } if !template.needs_finish() && !template.is_for_stream() => Some(port),
            _ => None,
        };
        let limit = esp::max_inner_len(mtu, &endpoints, sa.algorithm());
        let (special, sequence) = (false, Err(DropReason::SequenceExhausted));
        let (packets, octets) = (0, 0);
        let mut run =
            Self { sa, reference, template, special, hop, port, mtu, limit, sequence, packets, octets };
        if sa.special {
            special::begin(&mut run, mtu);
        }
        Ok(run)
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
                        Ok((parameters, sealed)) => {
                            batch.push(parameters.packet(run.sa.key(), frame));
                            sealed
                        }
                        Err(fate) => fate,
                    },
                    Some(Err(halt)) => stopped(context, about, *halt),
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
            Fate::Send(_) | Fate::SealedToCut(_) | Fate::Trapped | Fate::Kernel => {}
            Fate::Expired | Fate::TooBig(_) | Fate::Elsewhere(_) | Fate::Dropped(_) => {}
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

/// Puts all headers around a packet that may go through the SA of a run, and says what becomes of it when it is sealed; or
/// what becomes of it otherwise.
#[inline(always)]
fn encapsulate(
    flows: &mut FlowCache,
    run: &mut Run<'_>,
    number: u8,
    permitted: bool,
    frame: &mut Frame,
    about: &Clear,
) -> Result<(esp::AeadParameters, Fate), Fate> {
    if !permitted {
        if !run.sa.permits(&about.flow) {
            return Err(Fate::Dropped(DropReason::OutsideSa));
        }
        flows.permit(true, about.tenant, &about.flow, about.place as usize, run.reference.to_word());
    }
    if about.expires() {
        return Err(Fate::Expired);
    }
    let sealed = if about.info.total_len() > run.limit {
        too_big(run, about, number)?
    } else {
        run.port.map_or(Fate::Seal { run: number, permitted }, Fate::Send)
    };
    let sequence = run.sequence.map_err(Fate::Dropped)?;
    run.sequence = Ok(sequence + 1);
    run.packets += 1;
    run.octets += about.info.total_len() as u64;
    if about.counts_down() {
        decrement_ttl(frame.packet_mut());
    }
    let encapsulated = match run.special {
        false => run.template.encapsulate(frame, &about.info, about.flow.is_ipv6(), sequence),
        true => special::encapsulate(run, frame, about, sequence),
    };
    match encapsulated {
        Ok(parameters) => Ok((parameters, sealed)),
        Err(reason) => {
            run.packets -= 1;
            run.octets -= about.info.total_len() as u64;
            Err(Fate::Dropped(reason))
        }
    }
}

/// What becomes of a packet that the tunnel is too narrow for: it is cut on one side of the engine or the other, if at all.
#[cold]
fn too_big(run: &Run<'_>, packet: &Clear, number: u8) -> Result<Fate, Fate> {
    match special::narrow(&run.sa.options, run.limit, packet) {
        Narrow::Before => Err(Fate::TooBig(number)),
        Narrow::After => Ok(Fate::SealedToCut(number)),
    }
}

/// The packet's run could not begin here: the SA is another worker's, or perhaps it went between the policy's answer and now.
#[cold]
fn stopped(context: &mut Context<'_>, packet: &Clear, halt: Halt) -> Fate {
    let shared = context.shared;
    let reason = match halt {
        // A pinned policy is known to this worker alone. Its SA was another one when the packet was cut, a moment ago.
        Halt::Elsewhere(_) if packet.pinned.is_some() => return Fate::Dropped(DropReason::NoSa),
        Halt::Elsewhere(worker) => return Fate::Elsewhere(worker),
        Halt::Dropped(reason) => reason,
    };
    if reason == DropReason::NoSa
        && let Some(policy) = packet.policy(context)
    {
        shared.events.acquire(policy, &packet.flow);
    }
    Fate::Dropped(reason)
}

fn dispatch(
    context: &mut Context<'_>,
    mut frame: Frame,
    about: &Clear,
    fate: Fate,
    runs: &Runs<'_>,
    tally: &mut PolicyTally,
) {
    match fate {
        Fate::Send(port) => context.out.transmit.push(port, frame),
        Fate::Seal { run, .. } => match runs.get(usize::from(run)) {
            Some(Ok(run)) if run.template.is_for_stream() => context.out.to_streams.push(frame),
            Some(Ok(run)) => {
                run.template.finish(&mut frame);
                egress::transmit(context, frame, &run.hop);
            }
            _ => context.drop(frame, DropReason::NoSa),
        },
        Fate::SealedToCut(number) => match runs.get(usize::from(number)) {
            // TCP makes segments of it.
            Some(Ok(run)) if run.template.is_for_stream() => context.out.to_streams.push(frame),
            Some(Ok(run)) => {
                run.template.finish(&mut frame);
                cut::send_in_pieces(context, frame, run.mtu, &run.hop);
            }
            _ => context.drop(frame, DropReason::NoSa),
        },
        Fate::Clear(reach) => egress::send_clear(context, frame, about, reach),
        Fate::Kernel => context.give_host(about.tenant, frame),
        Fate::Trapped => trapped::hold(context, frame, about),
        Fate::Expired => trouble::expired(context, frame, about),
        Fate::TooBig(number) => {
            let run = runs.get(usize::from(number)).and_then(|run| run.as_ref().ok());
            let limit = run.map_or(0, |run| run.limit);
            trouble::too_big_for_tunnel(context, frame, about, limit);
        }
        Fate::Elsewhere(worker) => context.out.handed.push(worker, Handed { frame, about: *about }),
        Fate::Dropped(reason) => {
            if let Some(policy) = about.policy(context) {
                tally.dropped(policy);
            }
            context.drop(frame, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_aead::Engine;
    use portcullis_ipsec::{
        Encapsulation, EspAlgorithm, EspKey, OutboundSa, SaOptions, Spi, TunnelEndpoints,
    };

    use super::*;
    use crate::sa::Whole;
    use crate::sa::sequence::SequenceCounter;

    fn sa(first: u64, last: u64) -> Whole<Outbound> {
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
            options: SaOptions::default(),
        };
        let counter = SequenceCounter::starting_at(first, last);
        Outbound::new(&Engine::select(None).unwrap(), sa.spi, 0, counter, &sa).unwrap()
    }

    fn run(sa: &Outbound) -> Run<'_> {
        let template = Template::new(&sa.endpoints.get(), 4096, sa.algorithm(), sa.salt(), sa.esn).unwrap();
        let (reference, sequence) = (OutboundRef::from_word(1 << 32).unwrap(), Err(DropReason::NoSa));
        let (hop, port, packets, octets) = (NextHop::None, None, 0, 0);
        let (special, mtu, limit) = (false, 1500, 1400);
        Run { sa, reference, template, special, hop, port, mtu, limit, sequence, packets, octets }
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
