//! From a packet in clear to policy (RFC 4301 §5.1), and through the SA that it names.
//!
//! Frames stay where they are until the last step. First policy is asked about every [train](super::train); then what the
//! packets of one SA share is found out once per run of them; then those to be sealed get their headers and go through the
//! engine together; then each frame goes its way.

use arrayvec::ArrayVec;
use portcullis_aead as aead;

use super::egress::{self, Reach};
use super::special::{self, Narrow};
use super::tally::PolicyTally;
use super::train::{self, Straight, take};
use super::{BATCH, Clear, Context, Handed, Packets, Train, choose, cut, police, trapped, trouble};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, Plain, Template};
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::policy::FlowCache;
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

/// By number: an SA, how many packets of it follow each other, and the octets of the first of them.
pub(super) type Wanted = ArrayVec<(OutboundRef, u32, usize), BATCH>;
/// By the same number: the run, or why its packets go no further here.
type Runs<'a> = ArrayVec<Result<Run<'a>, Halt>, BATCH>;

/// Takes up to a batch of `packets` where policy sends them: into a tunnel, on in clear if they came out of one or are
/// bypassed, or nowhere.
#[inline(always)]
pub(super) fn protect<'a>(context: &mut Context<'a>, packets: &mut Packets<Clear>) {
    let (trains, batch) = packets.batch();
    let (mut wanted, mut fates) = (Wanted::new(), [Fate::Dropped(DropReason::NoPolicy); BATCH]);
    let Packets { frames, trains: all } = packets;
    let of_batch = all.get(..trains).unwrap_or_default();
    let fates = fates.get_mut(..batch).unwrap_or_default();
    choose::choose(context, of_batch, frames, &mut wanted, fates);
    let mut runs = Runs::new();
    begin(context, of_batch, frames, &wanted, fates, &mut runs);
    let straight = seal(context, of_batch, frames, &mut runs, fates);
    if let Some(port) = straight.whole(batch) {
        take(frames, batch, context.out.transmit.of(port));
    } else {
        let mut tally = PolicyTally::default();
        let mut packets = frames.drain(..batch).zip(&*fates);
        for train in of_batch {
            for (frame, fate) in packets.by_ref().take(train.packets) {
                dispatch(context, frame, &train.about, *fate, &runs, &mut tally);
            }
        }
        tally.flush();
    }
    all.drain(..trains);
}

/// Finds the SAs, and out where the packets of each go.
#[inline(always)]
fn begin<'a>(
    context: &mut Context<'a>,
    trains: &[Train<Clear>],
    frames: &mut [Frame],
    wanted: &Wanted,
    fates: &mut [Fate],
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
                Some(limiter) => {
                    police::outbound(context, limiter, (run, number), (trains, frames), fates, *count)
                }
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
    trains: &[Train<Clear>],
    frames: &mut [Frame],
    runs: &mut Runs<'a>,
    fates: &mut [Fate],
) -> Straight {
    let mut straight = Straight::default();
    let mut batch = ArrayVec::<aead::Packet<'_>, BATCH>::new();
    for (about, mut frames, mut fates) in train::each(trains, frames, fates) {
        if let Some(Fate::Seal { run, permitted: true }) = fates.first()
            && let Some(Ok(run)) = runs.get_mut(usize::from(*run))
        {
            seal_train(run, about, &mut frames, &mut fates, &mut batch, &mut straight);
        }
        let link = match fates.first() {
            Some(Fate::Clear(reach)) => egress::find_link(context, &about.flow, *reach),
            _ => None,
        };
        for (frame, fate) in frames.iter_mut().zip(fates) {
            if let Some(link) = &link {
                let info = about.info.with_total_len(frame.len());
                if let Some(port) = egress::prepare(frame, info, about.counts_down(), link) {
                    *fate = Fate::Send(port);
                }
            } else if let Fate::Seal { run, permitted } = *fate {
                *fate = seal_one(context, about, frame, (run, permitted), runs, &mut batch);
            }
            if let Fate::Send(port) = *fate {
                straight.add(port, 1);
            }
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

/// Puts all headers around the packets of a train, as long as there is nothing more to it than that, and leaves the others.
#[inline(always)]
fn seal_train<'a: 'p, 'p>(
    run: &mut Run<'a>,
    about: &Clear,
    frames: &mut &'p mut [Frame],
    fates: &mut &mut [Fate],
    batch: &mut ArrayVec<aead::Packet<'p>, BATCH>,
    straight: &mut Straight,
) {
    let Run { sa, special: false, port: Some(port), limit, sequence: Ok(mut sequence), .. } = *run else {
        return;
    };
    if about.flow.is_ipv6() || about.expires() {
        return;
    }
    let Some(headers) = Plain::new(&run.template, &about.info, about.counts_down()) else { return };
    let (key, mut octets, before) = (sa.key(), 0, batch.len());
    // For those alone that are to be sealed there are numbers: not for what is beyond a rate.
    while matches!(fates.first(), Some(Fate::Seal { .. }))
        && frames.first().is_some_and(|frame| frame.len() <= limit)
        && let (Some(frame), Some(fate)) = (frames.split_off_first_mut(), fates.split_off_first_mut())
    {
        let len = frame.len();
        *fate = match headers.encapsulate(frame, sequence) {
            Ok(parameters) => {
                batch.push(parameters.packet(key, frame));
                octets += len as u64;
                Fate::Send(port)
            }
            Err(reason) => Fate::Dropped(reason),
        };
        sequence += 1;
    }
    let packets = batch.len() - before;
    straight.add(port, packets);
    run.sequence = Ok(sequence);
    run.packets += packets as u64;
    run.octets += octets;
}

/// Puts all headers around one packet of a train, if it may go through the SA, and says what becomes of it.
#[inline(never)]
fn seal_one<'a: 'p, 'p>(
    context: &mut Context<'a>,
    about: &Clear,
    frame: &'p mut Frame,
    (number, permitted): (u8, bool),
    runs: &mut Runs<'a>,
    batch: &mut ArrayVec<aead::Packet<'p>, BATCH>,
) -> Fate {
    let about = &about.of(frame);
    match runs.get_mut(usize::from(number)) {
        Some(Ok(run)) => match encapsulate(context.flows, run, number, permitted, frame, about) {
            Ok((parameters, sealed)) => {
                batch.push(parameters.packet(run.sa.key(), frame));
                sealed
            }
            Err(fate) => fate,
        },
        Some(Err(halt)) => stopped(context, about, *halt),
        None => Fate::Dropped(DropReason::NoSa),
    }
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

/// Takes a frame where its packet goes, which was one of such a train.
fn dispatch(
    context: &mut Context<'_>,
    mut frame: Frame,
    about: &Clear,
    fate: Fate,
    runs: &Runs<'_>,
    tally: &mut PolicyTally,
) {
    // Of one that is sealed by now nobody asks this any more.
    let about = &about.of(&frame);
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
