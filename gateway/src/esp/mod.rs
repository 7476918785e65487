//! ESP in tunnel mode (RFC 4303) with AES-GCM (RFC 4106), raw or in UDP (RFC 3948), around or off one packet.
//!
//! A [`Template`] writes everything but the ciphertext into a frame, [`parse`] and [`decapsulate`] are its reverse;
//! between them stands the AEAD engine, which the pipeline calls once per batch with what [`AeadParameters`] says.
//! Nothing here looks up an SA, counts or decides: sequence numbers, keys and addresses are passed in.

mod decapsulate;
mod ecn;
mod template;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use portcullis_aead::{Key, MAX_AAD, Packet, TAG_LEN};
use portcullis_ipsec::{Encapsulation, EspAlgorithm, TunnelEndpoints};

pub use decapsulate::{EspPacket, decapsulate, parse};
pub use template::Template;

use crate::frame::Frame;
use crate::wire::{ETHERNET_HEADER_LEN, IPV4_HEADER_LEN, IPV6_HEADER_LEN, UDP_HEADER_LEN};

/// Octets of SPI and sequence number.
pub const ESP_HEADER_LEN: usize = 8;

/// Octets of the explicit IV (RFC 4106 §3.1).
pub const IV_LEN: usize = 8;

/// Octets of pad length and next header.
const TRAILER_LEN: usize = 2;

/// Plaintext with its trailer is a multiple of this (RFC 4303 §2.4).
const ALIGNMENT: usize = 4;

/// Octets that a frame needs free in front of an inner packet: enough for the largest headers that may be put there,
/// rounded up to what processors copy well.
pub const MAX_HEADROOM: usize =
    (ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + UDP_HEADER_LEN + ESP_HEADER_LEN + IV_LEN).next_multiple_of(32);

/// Octets that a frame needs free behind an inner packet.
pub const MAX_TAILROOM: usize = ALIGNMENT - 1 + TRAILER_LEN + TAG_LEN;

/// Octets of everything in front of the ciphertext, from the outer IP header on.
pub fn header_len(endpoints: &TunnelEndpoints) -> usize {
    let ip = match endpoints.local {
        IpAddr::V4(_) => IPV4_HEADER_LEN,
        IpAddr::V6(_) => IPV6_HEADER_LEN,
    };
    let udp = match endpoints.encapsulation {
        Encapsulation::None => 0,
        Encapsulation::Udp { .. } => UDP_HEADER_LEN,
    };
    ip + udp + ESP_HEADER_LEN + IV_LEN
}

/// The largest inner packet, in octets, whose outer packet is not larger than `mtu`; 0 if none is.
pub fn max_inner_len(mtu: usize, endpoints: &TunnelEndpoints, algorithm: EspAlgorithm) -> usize {
    let room = mtu.saturating_sub(header_len(endpoints) + algorithm.icv_len());
    (room - room % ALIGNMENT).saturating_sub(TRAILER_LEN)
}

/// What the AEAD needs to know of one packet besides its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AeadParameters {
    salt: [u8; 4],
    iv: [u8; IV_LEN],
    spi: u32,
    sequence: u64,
    esn: bool,
    text: usize,
}

impl AeadParameters {
    /// For a packet whose ciphertext starts `text` octets into the frame's packet and ends, ICV included, with it.
    #[inline(always)]
    pub fn new(salt: [u8; 4], iv: [u8; IV_LEN], spi: u32, sequence: u64, esn: bool, text: usize) -> Self {
        Self { salt, iv, spi, sequence, esn, text }
    }

    /// The frame's part in a batch. It must be the frame that [`Template::encapsulate`] or [`parse`] has seen, unchanged;
    /// the engine leaves any other alone, and does not call it authentic.
    ///
    /// The nonce is salt and IV (RFC 4106 §4), the AAD SPI and sequence number, all 64 bits of it with ESN (§5).
    #[inline(always)]
    pub fn packet<'a>(&self, key: &'a Key, frame: &'a mut Frame) -> Packet<'a> {
        let mut nonce = [0; 12];
        let (salt, iv) = nonce.split_at_mut(4);
        salt.copy_from_slice(&self.salt);
        iv.copy_from_slice(&self.iv);
        let (high, low) = ((self.sequence >> 32) as u32, self.sequence as u32);
        let (second, third, aad_len) = if self.esn { (high, low, 12) } else { (low, 0, 8) };
        let mut aad = [0; MAX_AAD];
        for (octets, word) in aad.as_chunks_mut::<4>().0.iter_mut().zip([self.spi, second, third]) {
            *octets = word.to_be_bytes();
        }
        let buffer = frame.packet_mut().get_mut(self.text..).unwrap_or_default();
        Packet { key, nonce, aad, aad_len, buffer, authentic: false }
    }
}
