//! Takes authentic packets out of their tunnels and sends them on (RFC 4301 §5.2): what [`inbound`](super::inbound) does last.

use arrayvec::ArrayVec;

use super::egress::{self, Link, PlainLink, Reach};
use super::inbound::{Arrival, Verdict};
use super::tally::Tally;
use super::train::{self, Straight, Train};
use super::{BATCH, Clear, Context, Origin, Packets, ingress, special};
use crate::drop::DropReason;
use crate::esp::{self, EspPacket, Opening};
use crate::frame::Frame;
use crate::sa::Inbound;
use crate::sa::table::Handle;
use crate::wire::{self, FlowKey, L3Info, PlainHeader};

/// Takes the tunnels off the accepted packets.
#[inline(always)]
pub(super) fn unpack(
    context: &mut Context<'_>,
    trains: &[Train<Arrival>],
    frames: &mut [Frame],
    (sas, verdicts): (&[Option<&Inbound>], &mut [Verdict]),
    clear: &mut Packets<Clear>,
) -> Straight {
    let mut straight = Straight::default();
    let shared = context.shared;
    // Nothing overtakes what waits to be asked policy about; a policy that drops the way back is asked every time; and a
    // firewall sees everything.
    let direct = clear.is_empty() && !context.policies.discards_first() && !shared.firewall;
    if direct && is_scattered(trains) {
        look_ahead(context, trains, frames, (sas, verdicts));
    }
    let tally = Tally::new(&shared.events);
    let mut deliveries = Deliveries { tally, last: None, direct, learned: ArrayVec::new(), clear };
    for ((arrival, frames, verdicts), sa) in train::each(trains, frames, verdicts).zip(sas) {
        if let Some(sa) = *sa {
            deliveries.deliver_train(context, sa, arrival, (frames, verdicts), &mut straight);
        }
    }
    deliveries.tally.flush(context.now);
    for (about, place) in &deliveries.learned {
        context.flows.permit(false, about.tenant, &about.flow, about.place as usize, place.to_word());
    }
    straight
}

/// Whether the packets of a batch are of several SAs out of so many that what is remembered of their flows is hardly ever in a
/// cache; as far as the batch's ends tell. To look ahead takes more than it gains where there are few.
#[inline(always)]
fn is_scattered(trains: &[Train<Arrival>]) -> bool {
    /// Slots of the table. They are used from the first on.
    const FEW: u32 = 16_384;
    match trains {
        [first, .., last] => {
            let [first, last] = [first, last].map(|train| train.about.place);
            first != last && first.slot.max(last.slot) >= FEW
        }
        _ => false,
    }
}

/// Asks the processor for what the worker remembers of the flows that have come out of tunnels: of each train the first.
#[inline(never)]
fn look_ahead(
    context: &Context<'_>,
    trains: &[Train<Arrival>],
    frames: &mut [Frame],
    (sas, verdicts): (&[Option<&Inbound>], &mut [Verdict]),
) {
    for ((arrival, frames, verdicts), sa) in train::each(trains, frames, verdicts).zip(sas) {
        if let (Some(sa), Some(frame), Some(Verdict::Good)) = (sa, frames.first(), verdicts.first())
            && let Some(flow) = arrival.outer.peek(frame, sa.algorithm())
        {
            context.flows.locate(sa.tenant, &flow);
        }
    }
}

/// What a batch of packets that came out of tunnels have in common.
struct Deliveries<'a, 'c> {
    tally: Tally<'a>,
    /// The flow that the packet before belonged to, the place of its SA, and where it went. Packets of a flow often follow
    /// each other.
    last: Option<(FlowKey, Handle, Link)>,
    /// Whether flows that are known may go straight to their next hops.
    direct: bool,
    /// Packets of flows that were found to be what their SAs are for, and the places of these. They are remembered when
    /// the batch is done, so that packets of one flow all take the same way and keep their order.
    learned: ArrayVec<(Clear, Handle), BATCH>,
    clear: &'c mut Packets<Clear>,
}

/// An inner packet that went straight to its next hop, as those that follow are compared with it.
struct Like {
    header: PlainHeader,
    /// Where it went.
    way: PlainLink,
}

impl Like {
    /// Takes those packets out of the tunnel, from the first on, that are like this one and go the same way; leaves the
    /// others as they are. Says how many, and how many octets they have together.
    ///
    /// They are of the same train: of the same SA, and with the same ECN field outside. Their headers are the same, and so is
    /// the flow, which the SA was known to be for, and no policy to cover; and their TTL has not expired.
    #[inline(always)]
    fn deliver(
        &self,
        opening: &Opening,
        frames: &mut &mut [Frame],
        verdicts: &mut &mut [Verdict],
    ) -> (usize, usize) {
        let (mut packets, mut octets) = (0, 0);
        let sent = Verdict::Send(self.way.port());
        for (frame, verdict) in frames.iter_mut().zip(verdicts.iter_mut()) {
            if *verdict != Verdict::Good {
                break;
            }
            let Some(len) = opening.unwrap_alike(frame, &self.header, self.way.mtu()) else { break };
            *verdict = match self.way.prepare(frame) {
                true => sent,
                // What was taken off leaves more room than this takes.
                false => Verdict::Dropped(DropReason::NoHeadroom),
            };
            octets += len;
            packets += 1;
        }
        let _ = (frames.split_off_mut(..packets), verdicts.split_off_mut(..packets));
        (packets, octets)
    }
}

impl<'a> Deliveries<'a, '_> {
    /// Takes the packets of a train out of the tunnel: one, then those that are like it, then the next.
    #[inline(always)]
    fn deliver_train(
        &mut self,
        context: &mut Context<'_>,
        sa: &'a Inbound,
        arrival: &Arrival,
        (mut frames, mut verdicts): (&mut [Frame], &mut [Verdict]),
        straight: &mut Straight,
    ) {
        let packets = frames.len();
        while let (Some(frame), Some(verdict)) =
            (frames.split_off_first_mut(), verdicts.split_off_first_mut())
        {
            if *verdict != Verdict::Good {
                continue;
            }
            let outer = arrival.outer_of(frame, packets);
            if frames.is_empty() {
                // None comes after it that would be compared with it.
                *verdict = self.deliver_first(context, sa, arrival, &outer, frame, None);
                if let Verdict::Send(port) = *verdict {
                    straight.add(port, 1);
                }
                break;
            }
            let mut header = None;
            *verdict = self.deliver_first(context, sa, arrival, &outer, frame, Some(&mut header));
            let Verdict::Send(port) = *verdict else { continue };
            straight.add(port, 1);
            if let (Some(header), Some((.., link))) = (header, &self.last) {
                let like = Like { header, way: PlainLink::new(link) };
                let opening = Opening::new(&arrival.outer, sa.algorithm(), sa.salt(), sa.esn);
                let (packets, octets) = like.deliver(&opening, &mut frames, &mut verdicts);
                straight.add(like.way.port(), packets);
                if packets > 0 {
                    self.tally.count((sa.traffic(), sa.limits()), packets as u64, octets, context.now);
                }
            }
        }
    }

    /// Takes out a packet, which none that is like it has come before, and shows its header as it was in the tunnel, if that
    /// is plain.
    #[inline(always)]
    fn deliver_first(
        &mut self,
        context: &mut Context<'_>,
        sa: &'a Inbound,
        arrival: &Arrival,
        outer: &EspPacket,
        frame: &mut Frame,
        header: Option<&mut Option<PlainHeader>>,
    ) -> Verdict {
        let plain = match sa.special {
            false => esp::decapsulate_plain(frame, outer, sa.algorithm()),
            true => None,
        };
        let Some((flow, info)) = plain else { return self.deliver_any(context, sa, arrival, outer, frame) };
        if let Some(header) = header {
            *header = PlainHeader::of(frame.packet());
        }
        self.deliver(context, sa, arrival, frame, flow, info)
    }

    /// Of whatever packet it may be.
    #[inline(never)]
    fn deliver_any(
        &mut self,
        context: &mut Context<'_>,
        sa: &'a Inbound,
        arrival: &Arrival,
        outer: &EspPacket,
        frame: &mut Frame,
    ) -> Verdict {
        let unpacked = match sa.special {
            false => esp::decapsulate(frame, outer, sa.algorithm()),
            true => special::deliver(context, sa, outer, frame),
        };
        match unpacked {
            Ok((flow, info)) => self.deliver(context, sa, arrival, frame, flow, info),
            Err(reason) => Verdict::Dropped(reason),
        }
    }

    /// Sends on what came out of a tunnel, if it is what the SA is for. What no policy covers, as the worker may remember,
    /// goes straight to its next hop; everything else is asked policy about.
    #[inline(always)]
    fn deliver(
        &mut self,
        context: &mut Context<'_>,
        sa: &'a Inbound,
        arrival: &Arrival,
        frame: &mut Frame,
        flow: FlowKey,
        info: L3Info,
    ) -> Verdict {
        let link = match &self.last {
            Some((last, place, link)) if *last == flow && *place == arrival.place => Some(*link),
            _ => self.recall(context, sa, arrival, &flow),
        };
        if self.direct
            && let Some(link) = link
        {
            if let Some(port) = egress::prepare(frame, info, true, &link) {
                self.tally.count((sa.traffic(), sa.limits()), 1, info.total_len(), context.now);
                return Verdict::Send(port);
            }
            self.direct = false;
        }
        self.deliver_slowly(context, sa, arrival, frame, flow, info)
    }

    /// Where a flow goes that is known to be what the SA is for, to be covered by no policy, and not to be ESP for us.
    #[inline(always)]
    fn recall(
        &mut self,
        context: &mut Context<'_>,
        sa: &Inbound,
        arrival: &Arrival,
        flow: &FlowKey,
    ) -> Option<Link> {
        let place = context.flows.locate(sa.tenant, flow);
        let name = arrival.place.to_word();
        if !context.flows.is_permitted(context.policies, sa.tenant, flow, place, name)
            || ingress::is_esp_for_us(context, flow)
        {
            return None;
        }
        let link = egress::find_link(context, flow, Reach::Inside(DropReason::ClearToOutside))?;
        self.last = Some((*flow, arrival.place, link));
        Some(link)
    }

    #[inline(never)]
    fn deliver_slowly(
        &mut self,
        context: &mut Context<'_>,
        sa: &'a Inbound,
        arrival: &Arrival,
        frame: &Frame,
        flow: FlowKey,
        info: L3Info,
    ) -> Verdict {
        let permitted = sa.permits(&flow);
        if !permitted && !is_about_what_we_sent(sa, frame, &flow, &info) {
            return Verdict::Dropped(DropReason::SelectorMismatch);
        }
        // What comes after it does not overtake it, of whatever flow it is: an SA's packets leave in their order.
        self.direct = false;
        self.tally.count((sa.traffic(), sa.limits()), 1, info.total_len(), context.now);
        // Our own addresses are not those of a tenant's network.
        if !sa.tenant.is_routed() && ingress::is_esp_for_us(context, &flow) {
            return Verdict::Again;
        }
        let about = Clear::new(context, Origin::Tunnel { depth: arrival.depth + 1 }, sa.tenant, flow, info);
        // What another error of the same router says is another matter; and of a tenant everything goes to its device.
        if permitted && !sa.tenant.is_routed() {
            let _ = self.learned.try_push((about, arrival.place));
        }
        self.clear.begin(about);
        Verdict::Good
    }
}

/// RFC 4301 §6.2: a router beyond the peer, whose address no selector names, may tell the sender of a packet what became of it,
/// if that packet's answer could have come through this SA.
#[cold]
fn is_about_what_we_sent(sa: &Inbound, frame: &Frame, flow: &FlowKey, info: &L3Info) -> bool {
    let Some(quoted) = wire::quoted(frame.packet(), flow, info) else { return false };
    quoted.src_bits() == flow.dst_bits() && sa.permits(&FlowKey::from(&quoted.flow().reversed()))
}
