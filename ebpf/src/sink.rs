//! The sink of `bench forward`: an XDP program that counts the bench's packets where they arrive and drops them, or hands
//! them to an AF_XDP socket, as [`Look`] says. What is a packet of the bench's is in `portcullis-ebpf-common`.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, XskMap};
use aya_ebpf::programs::XdpContext;
use portcullis_ebpf_common::sink::{
    Look, MAX_FLOWS, MAX_QUEUES, PORT, SHORTEST_FOREIGN, Tally, flow_of, in_order,
};

#[map]
static LOOK: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static TALLY: Array<Tally> = Array::with_max_entries(1, 0);
#[map]
static LAST: Array<u64> = Array::with_max_entries(MAX_FLOWS, 0);
#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(MAX_QUEUES, 0);

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const UDP_LEN: usize = 8;
/// Version 4, no options.
const IPV4: u8 = 0x45;
const UDP: u8 = 17;
const ESP: u8 = 50;
/// Behind Ethernet and IPv4.
const UPPER: usize = ETHERNET_LEN + IPV4_LEN;

/// What a packet is.
enum Seen {
    /// Of the bench, with its number.
    Numbered(u64),
    /// Of the bench, where it should be or not.
    Ordered(bool),
    /// Of nobody.
    Other,
}

/// The program.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    let look = LOOK.get(0).copied().unwrap_or_default();
    if look == Look::HandOver as u32 {
        let queue = ctx.rx_queue_index();
        return SOCKETS.redirect(queue, u64::from(xdp_action::XDP_PASS)).unwrap_or(xdp_action::XDP_PASS);
    }
    let seen = if look == Look::Clear as u32 {
        clear(&ctx)
    } else if look == Look::Sealed as u32 {
        sealed(&ctx)
    } else {
        foreign(&ctx)
    };
    count(seen.unwrap_or(Seen::Other));
    xdp_action::XDP_DROP
}

#[inline(always)]
fn count(seen: Seen) {
    let Some(tally) = TALLY.get_ptr_mut(0) else { return };
    // SAFETY: the map is this interface's own, which one processor works for at a time; user space reads words of it.
    let tally = unsafe { &mut *tally };
    match seen {
        Seen::Numbered(number) => {
            tally.received += 1;
            if number < tally.next {
                tally.reordered += 1;
            } else {
                tally.next = number + 1;
            }
        }
        Seen::Ordered(right) => {
            tally.received += 1;
            if !right {
                tally.reordered += 1;
            }
        }
        Seen::Other => tally.other += 1,
    }
}

/// A clear packet: UDP between discard ports, whose payload begins with its number.
#[inline(always)]
fn clear(ctx: &XdpContext) -> Option<Seen> {
    let ports: [u16; 2] = load(ctx, UPPER)?;
    if protocol(ctx)? != UDP || ports != [PORT.to_be(); 2] {
        return None;
    }
    let number: [u32; 2] = load(ctx, UPPER + UDP_LEN)?;
    Some(Seen::Numbered(big_endian(number)))
}

/// Raw ESP. The IV tells all 64 bits of its sequence number.
#[inline(always)]
fn sealed(ctx: &XdpContext) -> Option<Seen> {
    let sequence: [u32; 2] = load(ctx, UPPER + 8)?;
    let spi: u32 = load(ctx, UPPER)?;
    if protocol(ctx)? != ESP {
        return None;
    }
    let (flow, generation) = flow_of(u32::from_be(spi))?;
    let last = LAST.get_ptr_mut(flow)?;
    // SAFETY: as for the tally.
    let last = unsafe { &mut *last };
    let (now, right) = in_order(*last, generation, big_endian(sequence));
    *last = now;
    Some(Seen::Ordered(right))
}

/// ESP of anybody, raw or in UDP.
#[inline(always)]
fn foreign(ctx: &XdpContext) -> Option<Seen> {
    let esp = match protocol(ctx)? {
        ESP => UPPER,
        UDP => UPPER + UDP_LEN,
        _ => return None,
    };
    let [spi, sequence]: [u32; 2] = load(ctx, esp)?;
    // Zero would be IKE.
    let is_esp = spi != 0 && ctx.data_end() - ctx.data() > ETHERNET_LEN + SHORTEST_FOREIGN;
    is_esp.then_some(Seen::Numbered(u64::from(u32::from_be(sequence))))
}

/// Of IPv4 without options.
#[inline(always)]
fn protocol(ctx: &XdpContext) -> Option<u8> {
    let header: [u8; 10] = load(ctx, ETHERNET_LEN)?;
    (header[0] == IPV4).then_some(header[9])
}

#[inline(always)]
fn big_endian([high, low]: [u32; 2]) -> u64 {
    u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low))
}

/// The value at `offset`, if the frame reaches that far. Only for types that any octets are a value of.
#[inline(always)]
fn load<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: within the frame, as just compared.
    Some(unsafe { (start as *const T).read_unaligned() })
}

// No GPL-only helper is used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
