//! From a packet in clear to policy (RFC 4301 §5.1), and through the SA that it names.
//!
//! Frames stay where they are until the last step. First every packet gets its [`Fate`], with what the packets of one
//! SA share found out once per run; then those to be sealed get their headers and go through the engine together; then
//! each frame goes its way.

use std::ptr;

use arrayvec::ArrayVec;
use portcullis_aead as aead;
use portcullis_ipsec::PolicyAction;

use super::egress::{self, Reach};
use super::special::{self, Narrow};
use super::{BATCH, Clear, Context, Origin, Packets, Tally, cut, look_up, take, trapped, trouble, uniform};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, Template};
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::policy::Verdict;
use crate::route::{NextHop, PortIndex};
use crate::sa::{Outbound, OutboundRef};
use crate::wire::decrement_ttl;

/// Packets of one SA that follow each other.
pub(super) struct Run<'a> {
    pub(super) sa: &'a Outbound,
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
    packets: u32,
    /// The next packet's sequence number, or why it gets none.
    sequence: Result<u64, DropReason>,
}

/// What becomes of a packet. Small: every packet has one, written and read a moment later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Sealed, with the run of that number.
    Seal(u16),
    /// Sealed, and then cut into fragments.
    SealAndCut(u16),
    /// On in clear: out of a tunnel and not to go into another, or bypassed.
    Clear(Reach),
    /// Ready, or so when the engine is done, to be sent by this port.
    Send(PortIndex),
    /// Kept until the SA that it has asked for comes up.
    Trapped,
    /// Its TTL ends here.
    Expired,
    /// More octets than pass the tunnel of the run of that number.
    TooBig(u16),
    Dropped(DropReason),
}

type Runs<'a> = ArrayVec<Run<'a>, BATCH>;
type Fates = ArrayVec<Fate, BATCH>;

/// Takes up to a batch of `packets` where policy sends them: into a tunnel, on in clear if they came out of one or are
/// bypassed, or nowhere.
pub(super) fn protect<'a>(context: &mut Context<'a>, packets: &mut Packets<Clear>) {
    let batch = packets.frames.len().min(BATCH);
    let (mut runs, mut fates) = (Runs::new(), Fates::new());
    choose(context, packets.about.get(..batch).unwrap_or_default(), &mut runs, &mut fates);
    number(&context.shared.events, &mut runs);
    seal(context, packets, &mut runs, &mut fates);
    if let Some(Fate::Send(port)) = uniform(&fates) {
        // Most batches by far.
        take(&mut packets.frames, batch, context.out.transmit.of(port));
    } else {
        for ((frame, about), fate) in packets.frames.drain(..batch).zip(&packets.about).zip(&fates) {
            dispatch(context, frame, about, *fate, &runs);
        }
    }
    packets.about.drain(..batch);
}

/// Finds every packet's SA and way.
fn choose<'a>(context: &mut Context<'a>, packets: &[Clear], runs: &mut Runs<'a>, fates: &mut Fates) {
    let mut references = ArrayVec::<Option<OutboundRef>, BATCH>::new();
    for packet in packets {
        let (fate, reference) = match decide(context, packet) {
            Ok(Way::Sealed(reference)) => {
                // On its way into the cache while the rest of the batch is looked up.
                context.shared.sas.prefetch_outbound(reference);
                (Fate::Dropped(DropReason::NoSa), Some(reference))
            }
            Ok(Way::Clear(reach)) => (Fate::Clear(reach), None),
            Ok(Way::Trapped) => (Fate::Trapped, None),
            Err(reason) => (Fate::Dropped(reason), None),
        };
        references.push(reference);
        fates.push(fate);
    }
    let sas = look_up(references.iter().copied(), |reference| {
        let sa = context.shared.sas.outbound(&context.guard, reference?);
        sa.inspect(|sa| sa.prefetch())
    });
    for (((packet, reference), sa), fate) in packets.iter().zip(&references).zip(&sas).zip(fates) {
        if reference.is_some() {
            *fate = match *sa {
                Some(sa) => through(context, packet, sa, runs),
                None => no_sa(context, packet),
            };
        }
    }
}

/// Where a packet goes that was let in, and that no policy takes further.
const INSIDE: Reach = Reach::Inside(DropReason::ClearToOutside);

/// What policy says of a packet that may go on.
enum Way {
    /// Through this SA.
    Sealed(OutboundRef),
    Clear(Reach),
    /// None yet: an SA was asked for.
    Trapped,
}

#[inline(always)]
fn decide(context: &mut Context<'_>, packet: &Clear) -> Result<Way, DropReason> {
    let flow = &packet.flow;
    // What came in by an outside interface was checked against policy there: out of a tunnel, or bypassed.
    let admitted = matches!(packet.origin, Origin::Tunnel { .. } | Origin::Outside { .. });
    if admitted && context.policies.discards_first() && is_discarded_back(context, packet) {
        return Err(DropReason::Discarded);
    }
    let Some(policy) = packet.policy(context.flows, context.policies) else {
        return if admitted { Ok(Way::Clear(INSIDE)) } else { Err(DropReason::NoPolicy) };
    };
    // What is for us is not sent on, even by a policy that covers everything.
    if admitted && context.hops.is_local(flow.dst_bits(), flow.is_ipv6()) {
        return Ok(Way::Clear(INSIDE));
    }
    // Only a policy that protects is ever given an SA.
    if let Some(reference) = policy.outbound() {
        return Ok(Way::Sealed(reference));
    }
    match policy.action() {
        PolicyAction::Protect => {
            context.shared.events.acquire(policy, flow);
            if policy.wants_sa() { Ok(Way::Trapped) } else { Err(DropReason::NoSa) }
        }
        PolicyAction::Bypass => Ok(Way::Clear(Reach::Anywhere)),
        PolicyAction::Discard if admitted => Ok(Way::Clear(Reach::Inside(DropReason::Discarded))),
        PolicyAction::Discard => Err(DropReason::Discarded),
    }
}

/// Whether a policy that goes before those that protect drops the way back of a packet that came in.
#[cold]
fn is_discarded_back(context: &Context<'_>, packet: &Clear) -> bool {
    match context.policies.lookup(packet.tenant, &packet.flow.flow().reversed()) {
        Verdict::Covered(policy) => policy.action() == PolicyAction::Discard,
        Verdict::NoMatch => false,
    }
}

/// Puts a packet into the run of its SA.
#[inline(always)]
fn through<'a>(context: &mut Context<'a>, packet: &Clear, sa: &'a Outbound, runs: &mut Runs<'a>) -> Fate {
    if !sa.permits(&packet.flow) {
        return Fate::Dropped(DropReason::OutsideSa);
    }
    if runs.last().is_none_or(|run| !ptr::eq(run.sa, sa)) {
        match begin(context, sa) {
            Ok(run) => runs.push(run),
            Err(reason) => return Fate::Dropped(reason),
        }
    }
    let number = runs.len().wrapping_sub(1) as u16;
    let Some(run) = runs.last_mut() else { return Fate::Dropped(DropReason::NoSa) };
    if packet.expires() {
        Fate::Expired
    } else if packet.info.total_len() > run.limit {
        too_big(run, packet, number)
    } else {
        run.packets += 1;
        Fate::Seal(number)
    }
}

/// It is cut on one side of the engine or the other, if at all.
#[cold]
fn too_big(run: &mut Run<'_>, packet: &Clear, number: u16) -> Fate {
    match special::narrow(&run.sa.options, run.limit, packet) {
        Narrow::Before => Fate::TooBig(number),
        Narrow::After => {
            run.packets += 1;
            Fate::SealAndCut(number)
        }
    }
}

/// The SA went between the policy's answer and now.
#[cold]
fn no_sa(context: &mut Context<'_>, packet: &Clear) -> Fate {
    if let Some(policy) = packet.policy(context.flows, context.policies) {
        context.shared.events.acquire(policy, &packet.flow);
    }
    Fate::Dropped(DropReason::NoSa)
}

/// Finds out where the packets of an SA go.
fn begin<'a>(context: &mut Context<'a>, sa: &'a Outbound) -> Result<Run<'a>, DropReason> {
    let endpoints = sa.endpoints.get();
    let template = Template::new(&endpoints, sa.spi.get(), sa.algorithm(), sa.salt(), sa.esn);
    let mut template = template.ok_or(DropReason::NoSa)?;
    let hop = context.hops.resolve_addr(endpoints.remote);
    let mtu = egress::mtu(&hop)?;
    let (dst, src) = egress::link(context, &hop);
    template.set_link(dst, src);
    let port = match hop {
        NextHop::Port { port, .. } if !template.needs_finish() => Some(port),
        _ => None,
    };
    let limit = esp::max_inner_len(mtu, &endpoints, sa.algorithm());
    let sequence = Err(DropReason::SequenceExhausted);
    let mut run = Run { sa, template, special: false, hop, port, mtu, limit, packets: 0, sequence };
    if sa.special {
        special::begin(&mut run, mtu);
    }
    Ok(run)
}

/// Gives every run its sequence numbers: one reservation each.
fn number(events: &EventBoard, runs: &mut Runs<'_>) {
    for run in runs.iter_mut().filter(|run| run.packets > 0) {
        run.sequence = run.sa.reserve(run.packets, events).map(|numbers| numbers.start);
    }
}

/// Writes all headers and trailers, and encrypts all packets in one call. What goes on in clear is made ready too.
fn seal<'a>(context: &mut Context<'a>, packets: &mut Packets<Clear>, runs: &mut Runs<'a>, fates: &mut Fates) {
    let mut batch = ArrayVec::<aead::Packet<'_>, BATCH>::new();
    let mut tally = Tally::new(&context.shared.events);
    for ((frame, about), fate) in packets.frames.iter_mut().zip(&packets.about).zip(fates) {
        match *fate {
            Fate::Seal(number) | Fate::SealAndCut(number) => {
                let Some(run) = runs.get_mut(usize::from(number)) else { continue };
                match encapsulate(run, frame, about) {
                    Ok(parameters) => {
                        tally.count(run.sa.traffic(), run.sa.limits(), about.info.total_len(), context.now);
                        batch.push(parameters.packet(run.sa.key(), frame));
                        if let (Some(port), Fate::Seal(_)) = (run.port, *fate) {
                            *fate = Fate::Send(port);
                        }
                    }
                    Err(reason) => *fate = Fate::Dropped(reason),
                }
            }
            Fate::Clear(reach) => {
                if let Some(port) = egress::prepare_clear(context, frame, about, reach) {
                    *fate = Fate::Send(port);
                }
            }
            Fate::Send(_) | Fate::Trapped | Fate::Expired | Fate::TooBig(_) | Fate::Dropped(_) => {}
        }
    }
    tally.flush(context.now);
    if !batch.is_empty() {
        context.shared.sas.engine().seal(&mut batch);
        WorkerCounters::add(&context.counters.sealed, batch.len() as u64);
    }
}

#[inline(always)]
fn encapsulate(
    run: &mut Run<'_>,
    frame: &mut Frame,
    about: &Clear,
) -> Result<esp::AeadParameters, DropReason> {
    let sequence = run.sequence?;
    run.sequence = Ok(sequence + 1);
    if about.counts_down() {
        decrement_ttl(frame.packet_mut());
    }
    if run.special {
        return special::encapsulate(run, frame, about, sequence);
    }
    run.template.encapsulate(frame, &about.info, about.flow.is_ipv6(), sequence)
}

fn dispatch(context: &mut Context<'_>, mut frame: Frame, about: &Clear, fate: Fate, runs: &Runs<'_>) {
    match fate {
        Fate::Send(port) => context.out.transmit.push(port, frame),
        Fate::Seal(number) => match runs.get(usize::from(number)) {
            Some(run) => {
                run.template.finish(&mut frame);
                egress::transmit(context, frame, &run.hop);
            }
            None => context.drop(frame, DropReason::NoSa),
        },
        Fate::SealAndCut(number) => match runs.get(usize::from(number)) {
            Some(run) => {
                run.template.finish(&mut frame);
                cut::send_in_pieces(context, frame, run.mtu, &run.hop);
            }
            None => context.drop(frame, DropReason::NoSa),
        },
        Fate::Clear(reach) => egress::send_clear(context, frame, about, reach),
        Fate::Trapped => trapped::hold(context, frame, about),
        Fate::Expired => trouble::expired(context, frame, about),
        Fate::TooBig(number) => {
            let limit = runs.get(usize::from(number)).map_or(0, |run| run.limit);
            trouble::too_big_for_tunnel(context, frame, about, limit);
        }
        Fate::Dropped(reason) => context.drop(frame, reason),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_aead::Engine;
    use portcullis_ipsec::{
        Encapsulation, EspAlgorithm, EspKey, OutboundSa, SaOptions, Spi, TunnelEndpoints,
    };

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
            options: SaOptions::default(),
        };
        let counter = SequenceCounter::starting_at(first, last);
        Outbound::new(&Engine::select(None).unwrap(), sa.spi, 0, counter, &sa).unwrap()
    }

    fn run(sa: &Outbound, packets: u32) -> Run<'_> {
        let template = Template::new(&sa.endpoints.get(), 4096, sa.algorithm(), sa.salt(), sa.esn).unwrap();
        let sequence = Err(DropReason::NoSa);
        Run {
            sa,
            template,
            special: false,
            hop: NextHop::None,
            port: None,
            mtu: 1500,
            limit: 1400,
            packets,
            sequence,
        }
    }

    #[test]
    fn runs_of_one_sa_are_numbered_upwards_and_an_exhausted_sa_refuses() {
        let events = EventBoard::new(1, 1, Box::new(|| {}));
        let (ending, fresh) = (sa(98, 100), sa(1, 1000));
        let mut runs: Runs<'_> =
            [run(&ending, 2), run(&fresh, 0), run(&fresh, 2), run(&ending, 2)].into_iter().collect();
        number(&events, &mut runs);
        let numbers: Vec<_> = runs.iter().map(|run| run.sequence).collect();
        let (unused, exhausted) = (Err(DropReason::NoSa), Err(DropReason::SequenceExhausted));
        assert_eq!(numbers, [Ok(98), unused, Ok(1), exhausted]);
    }
}
