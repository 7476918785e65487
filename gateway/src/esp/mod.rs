//! ESP in tunnel mode and in transport mode (RFC 4303), raw or in UDP (RFC 3948), around or off one packet.
//!
//! A [`Template`] writes everything but the ciphertext into a frame, [`parse`] and [`decapsulate()`] are its reverse;
//! between them stands the AEAD engine, which the pipeline calls once per batch with what [`AeadParameters`] says.
//! Nothing here looks up an SA, counts or decides: sequence numbers, keys and addresses are passed in. What an algorithm
//! asks of a packet's layout is said by [`EspAlgorithm`], and which of the engine's algorithms it is, by [`expand`].

mod algorithm;
mod decapsulate;
mod ecn;
mod opening;
mod plain;
mod template;
#[cfg(test)]
mod tests;
mod transport;

use std::net::IpAddr;

use portcullis_aead::{Key, MAX_AAD, MAX_BUFFER, Packet};
use portcullis_ipsec::{Encapsulation, EspAlgorithm, TunnelEndpoints};

pub(crate) use algorithm::expand;
pub use decapsulate::{EspPacket, decapsulate, parse, parse_from_socket};
pub(crate) use decapsulate::{Own, decapsulate_plain};
pub(crate) use opening::Opening;
pub(crate) use plain::Plain;
pub use template::Template;
pub use transport::{extract, max_transport_len};

use crate::frame::Frame;
use crate::wire::{ETHERNET_HEADER_LEN, IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_HEADER_LEN};

/// Octets of SPI and sequence number.
pub const ESP_HEADER_LEN: usize = 8;

/// Octets of IV in each packet that reach the nonce, in every algorithm that has one (RFC 4106 §3.1, RFC 3686 §4).
const NONCE_IV_LEN: usize = 8;

/// Octets of pad length and next header.
pub(crate) const TRAILER_LEN: usize = 2;

/// Octets that a frame needs free in front of an inner packet: enough for the largest headers that may be put there,
/// rounded up to what processors copy well.
pub const MAX_HEADROOM: usize =
    (ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + UDP_HEADER_LEN + ESP_HEADER_LEN + EspAlgorithm::MAX_IV_LEN)
        .next_multiple_of(32);

/// Octets that a frame needs free behind an inner packet.
pub const MAX_TAILROOM: usize = EspAlgorithm::MAX_ALIGNMENT - 1 + TRAILER_LEN + EspAlgorithm::MAX_ICV_LEN;

/// Octets that a TCP stream puts in front of an ESP packet that fills a segment: the header, with the timestamps that every
/// stack has (RFC 7323 §3.2), and the length (RFC 9329 §3.2).
const STREAM_LEN: usize = 20 + 12 + 2;

/// Octets of everything in front of IV and ciphertext, from the outer IP header on.
pub fn header_len(endpoints: &TunnelEndpoints) -> usize {
    let ip = match endpoints.local {
        IpAddr::V4(_) => IPV4_HEADER_LEN,
        IpAddr::V6(_) => IPV6_HEADER_LEN,
    };
    let udp = match endpoints.encapsulation {
        Encapsulation::None => 0,
        Encapsulation::Udp { .. } => UDP_HEADER_LEN,
        Encapsulation::Tcp { .. } => STREAM_LEN,
    };
    ip + udp + ESP_HEADER_LEN
}

/// The largest inner packet, in octets, whose outer packet is not larger than `mtu`; 0 if none is.
pub fn max_inner_len(mtu: usize, endpoints: &TunnelEndpoints, algorithm: EspAlgorithm) -> usize {
    let room = mtu.saturating_sub(header_len(endpoints) + algorithm.iv_len() + algorithm.icv_len());
    (room & !(algorithm.alignment() - 1)).saturating_sub(TRAILER_LEN)
}

/// What the engine needs to know of one packet besides its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AeadParameters {
    salt: [u8; 4],
    iv: [u8; NONCE_IV_LEN],
    spi: u32,
    sequence: u64,
    esn: bool,
    buffer: usize,
}

impl AeadParameters {
    /// For a packet whose IV starts `iv_at` octets into the frame's packet, and whose ciphertext ends, ICV included,
    /// with it. `iv` is what of the IV reaches the nonce.
    #[inline(always)]
    pub fn new(
        algorithm: EspAlgorithm,
        salt: [u8; 4],
        iv: [u8; NONCE_IV_LEN],
        spi: u32,
        sequence: u64,
        esn: bool,
        iv_at: usize,
    ) -> Self {
        // An AEAD covers the IV as part of its nonce; to all others it is the beginning of what they cover.
        let buffer = if algorithm.covers_iv() { iv_at } else { iv_at + algorithm.iv_len() };
        Self { salt, iv, spi, sequence, esn, buffer }
    }

    /// The frame's part in a batch. It must be the frame that [`Template::encapsulate`] or [`parse`] has seen, unchanged;
    /// the engine leaves any other alone, and does not call it authentic.
    ///
    /// The nonce is salt and IV (RFC 4106 §4), the AAD SPI and sequence number, all 64 bits of it with ESN (§5).
    #[inline(always)]
    pub fn packet<'a>(&self, key: &'a Key, frame: &'a mut Frame) -> Packet<'a> {
        let ([s0, s1, s2, s3], [i0, i1, i2, i3, i4, i5, i6, i7]) = (self.salt, self.iv);
        let nonce = [s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7];
        // Without ESN the lower half comes next to the SPI, and what follows does not count.
        let (turned, aad_len) = if self.esn { (0, MAX_AAD) } else { (32, 8) };
        let [a0, a1, a2, a3] = self.spi.to_be_bytes();
        let [a4, a5, a6, a7, a8, a9, a10, a11] = self.sequence.rotate_left(turned).to_be_bytes();
        let aad = [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11];
        let buffer = frame.packet_mut().get_mut(self.buffer..).unwrap_or_default();
        Packet { key, nonce, aad, aad_len, buffer, authentic: false }
    }
}

/// Octets of text and trailer in so many octets from the IV to the end of the ICV; `None` if that is no length that
/// the algorithm could have, or that the engine takes.
#[inline(always)]
fn text_len(algorithm: EspAlgorithm, octets: usize) -> Option<usize> {
    let len = octets.checked_sub(algorithm.iv_len() + algorithm.icv_len())?;
    let whole = len >= algorithm.alignment() && len & (algorithm.alignment() - 1) == 0;
    (whole && octets <= MAX_BUFFER).then_some(len)
}
