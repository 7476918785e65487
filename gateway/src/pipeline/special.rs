//! What the options of an SA ask beyond plain tunnel mode: transport mode, fields of the outer header, padding, segment
//! sizes. The phases come here for the SAs that say so ([`Outbound::special`](crate::sa::Outbound::special), [`Inbound::special`]), and for packets that
//! are too big.

use portcullis_ipsec::{CopyDf, Fragmentation, Mode, MssClamp, SaOptions, TfcPadding};

use super::outbound::Run;
use super::{Clear, Context, egress};
use crate::drop::DropReason;
use crate::esp::{self, AeadParameters, EspPacket};
use crate::frame::Frame;
use crate::sa::Inbound;
use crate::wire::{self, FlowKey, Fragment, IPV6_MIN_MTU, Ipv4, L3Info, protocol};

/// Makes a run's template and limit what the SA's options say. `mtu` is that of the way to the peer.
#[cold]
pub(super) fn begin(run: &mut Run<'_>, mtu: usize) {
    let (options, endpoints) = (&run.sa.options, &run.sa.endpoints);
    run.special = options.mode == Mode::Transport || options.mss_clamp != MssClamp::Off;
    if options.mode == Mode::Transport {
        run.limit = esp::max_transport_len(mtu, &endpoints.get(), run.sa.algorithm());
        return;
    }
    let limit = u16::try_from(run.limit).unwrap_or(u16::MAX);
    let least_text = match options.tfc_padding {
        TfcPadding::Off => 0,
        TfcPadding::To(octets) => octets.min(limit),
        TfcPadding::Mtu => limit,
    };
    run.template.set_options(options, least_text);
}

/// Writes everything but the ciphertext for a packet of a run with such options.
#[cold]
pub(super) fn encapsulate(
    run: &Run<'_>,
    frame: &mut Frame,
    about: &Clear,
    sequence: u64,
) -> Result<AeadParameters, DropReason> {
    let options = &run.sa.options;
    clamp(frame, &about.flow, &about.info, options.mss_clamp, run.limit);
    match options.mode {
        Mode::Tunnel => run.template.encapsulate(frame, &about.info, about.flow.is_ipv6(), sequence),
        Mode::Transport => run.template.insert(frame, &about.info, sequence),
    }
}

/// What becomes of a packet that the way to the peer is too narrow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Narrow {
    /// It is cut, or its sender told.
    Before,
    /// It is sealed whole and cut then.
    After,
}

/// RFC 4301 §8.2.1, RFC 2473 §7: where a packet larger than the run's limit is cut.
#[cold]
pub(super) fn narrow(options: &SaOptions, limit: usize, about: &Clear) -> Narrow {
    let may_cut_before = !about.info.dont_fragment() && options.mode == Mode::Tunnel;
    let outer_may_be_cut = match options.mode {
        // The packet's own header is the outer one.
        Mode::Transport => !about.info.dont_fragment(),
        Mode::Tunnel => match options.copy_df {
            CopyDf::Yes => !about.info.dont_fragment(),
            CopyDf::No => true,
            CopyDf::Set => false,
        },
    };
    // No sender makes IPv6 packets smaller than this: it would learn nothing from being told.
    let no_smaller = about.flow.is_ipv6() && limit < IPV6_MIN_MTU && about.info.total_len() <= IPV6_MIN_MTU;
    let after = outer_may_be_cut && !(may_cut_before && options.fragmentation == Fragmentation::Before);
    if after || no_smaller { Narrow::After } else { Narrow::Before }
}

/// Takes an accepted packet out of an SA with such options.
#[cold]
pub(super) fn deliver(
    context: &mut Context<'_>,
    sa: &Inbound,
    outer: &EspPacket,
    frame: &mut Frame,
) -> Result<(FlowKey, L3Info), DropReason> {
    if sa.transport {
        let (flow, info) = esp::extract(frame, outer, sa.algorithm())?;
        clamp_inbound(context, sa, frame, &flow, &info);
        return Ok((flow, info));
    }
    let (flow, mut info) = esp::decapsulate(frame, outer, sa.algorithm())?;
    if sa.opaque && reaches_into_ports(frame, &flow, &info) {
        return Err(DropReason::SelectorMismatch);
    }
    if sa.copy_dscp {
        // The ECN field is what both headers say together.
        info = info.with_dscp(outer.tos());
        wire::set_tos(frame.packet_mut(), info.tos());
    }
    clamp_inbound(context, sa, frame, &flow, &info);
    Ok((flow, info))
}

/// RFC 4301 §7.2, RFC 1858 §3: a later fragment that begins within what its first one's selectors were read from, or right
/// behind, could change that when they are put together. Of IPv6 it cannot be told.
fn reaches_into_ports(frame: &Frame, flow: &FlowKey, info: &L3Info) -> bool {
    const LEAST_OFFSET: usize = 16;
    info.fragment() == Fragment::Later
        && !flow.is_ipv6()
        && Ipv4::parse(frame.packet()).is_ok_and(|header| header.fragment_offset < LEAST_OFFSET)
}

/// What comes out of the tunnel announces no more than what fits into it on the way back.
fn clamp_inbound(context: &mut Context<'_>, sa: &Inbound, frame: &mut Frame, flow: &FlowKey, info: &L3Info) {
    if sa.mss_clamp == MssClamp::Off || flow.protocol() != protocol::TCP {
        return;
    }
    let endpoints = sa.endpoints.get();
    let Ok(mtu) = egress::mtu(&context.hops.resolve_addr(endpoints.remote)) else { return };
    let limit = match sa.transport {
        true => esp::max_transport_len(mtu, &endpoints, sa.algorithm()),
        false => esp::max_inner_len(mtu, &endpoints, sa.algorithm()),
    };
    clamp(frame, flow, info, sa.mss_clamp, limit);
}

/// Lowers the segment size that a SYN announces. `limit` is the largest packet that the SA takes.
fn clamp(frame: &mut Frame, flow: &FlowKey, info: &L3Info, clamp: MssClamp, limit: usize) {
    if flow.protocol() != protocol::TCP || info.fragment() == Fragment::Later {
        return;
    }
    let fits = limit.saturating_sub(wire::headers_of_segment(flow.is_ipv6()));
    let fits = u16::try_from(fits).unwrap_or(u16::MAX);
    let most = match clamp {
        MssClamp::Off => return,
        MssClamp::To(octets) => octets,
        MssClamp::Mtu => fits,
    };
    let segment = frame.packet_mut().get_mut(info.header_len()..info.total_len());
    wire::clamp_mss(segment.unwrap_or_default(), most);
}
