//! What the packets of a train have in common for whoever opens them: where in each what is, and what the engine is told.

use portcullis_ipsec::EspAlgorithm;

use super::decapsulate::Own;
use super::{AeadParameters, ESP_HEADER_LEN, EspPacket, TRAILER_LEN};
use crate::frame::Frame;
use crate::wire::{PlainHeader, protocol};

/// ESP packets of one SA whose outer headers are alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opening {
    /// Octets to the text.
    text: usize,
    icv_len: usize,
    /// The algorithm's alignment, less one.
    align_mask: usize,
    /// Octets to what the engine is given.
    buffer: usize,
    spi: u32,
    salt: [u8; 4],
    esn: bool,
}

impl Opening {
    /// Of packets like that one.
    #[inline(always)]
    pub(crate) fn new(outer: &EspPacket, algorithm: EspAlgorithm, salt: [u8; 4], esn: bool) -> Self {
        let iv = usize::from(outer.esp) + ESP_HEADER_LEN;
        let text = iv + algorithm.iv_len();
        Self {
            text,
            icv_len: algorithm.icv_len(),
            align_mask: algorithm.alignment() - 1,
            buffer: if algorithm.covers_iv() { iv } else { text },
            spi: outer.spi,
            salt,
            esn,
        }
    }

    /// Whether a packet that ends there has a length that the algorithm can have. (The engine takes every length that an IP
    /// packet can have.)
    #[inline(always)]
    pub(crate) fn suits(&self, own: Own) -> bool {
        let text_len = usize::from(own.end).wrapping_sub(self.text + self.icv_len);
        // Less than nothing is more than any packet.
        (text_len > self.align_mask) & (text_len & self.align_mask == 0) & (text_len <= u16::MAX.into())
    }

    /// What the engine needs to open one of the packets, given its whole sequence number.
    #[inline(always)]
    pub(crate) fn parameters(&self, own: Own, sequence: u64) -> AeadParameters {
        let Self { salt, spi, esn, buffer, .. } = *self;
        AeadParameters { salt, iv: own.iv, spi, sequence, esn, buffer }
    }

    /// Takes everything off an opened packet whose inner header is like one that came out of such a packet before, and that
    /// has no more than `most` octets: all that is not known of it then is its length, which is what this says. The frame's
    /// packet must end where the ESP does. `None`, and nothing changed, for any other, and for unusual padding.
    ///
    /// As both have the same ECN field, and so have their outer headers, both would get the same one of
    /// [`ecn::combine`](super::ecn::combine); the first has it already, and a second time that changes nothing.
    #[inline(always)]
    pub(crate) fn unwrap_alike(&self, frame: &mut Frame, header: &PlainHeader, most: usize) -> Option<usize> {
        let packet = frame.packet();
        let text = packet.get(self.text..packet.len().checked_sub(self.icv_len)?)?;
        let inner = text.get(..text.len().checked_sub(trailer_len(*text.last_chunk()?)?)?)?;
        let total_len = header.alike(inner).filter(|total_len| *total_len <= most)?;
        frame.narrow(self.text, total_len).then_some(total_len)
    }
}

/// Octets of padding and trailer at the end of a text, of which these are the last, if it holds an IPv4 packet and the padding
/// is right: up to three octets, 1, 2, 3 (RFC 4303 §2.4), which is all that most algorithms need.
#[inline(always)]
fn trailer_len(end: [u8; 8]) -> Option<usize> {
    const IPV4: u64 = protocol::IPV4 as u64;
    const TRAILERS: [u64; 4] = [IPV4, 0x01_01 << 8 | IPV4, 0x01_02_02 << 8 | IPV4, 0x01_02_03_03 << 8 | IPV4];
    let [.., pad_len, _] = end;
    let len = TRAILER_LEN + usize::from(pad_len);
    let differences = u64::from_be_bytes(end) ^ TRAILERS.get(usize::from(pad_len))?;
    (differences << (64 - 8 * len) == 0).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_padding_is_told_from_any_other() {
        for (text, len) in [
            ([9, 9, 9, 9, 9, 9, 0, 4], Some(2)),
            ([9, 9, 9, 9, 9, 1, 1, 4], Some(3)),
            ([9, 9, 9, 9, 1, 2, 2, 4], Some(4)),
            ([9, 9, 9, 1, 2, 3, 3, 4], Some(5)),
            ([9, 9, 1, 2, 3, 4, 4, 4], None),
            ([9, 9, 9, 9, 9, 9, 0, 41], None),
            ([9, 9, 9, 9, 9, 2, 1, 4], None),
            ([9, 9, 9, 9, 2, 2, 2, 4], None),
            ([9, 9, 9, 0, 2, 3, 3, 4], None),
            ([4, 4, 4, 4, 4, 4, 255, 4], None),
        ] {
            assert_eq!(trailer_len(text), len, "{text:?}");
        }
    }
}
