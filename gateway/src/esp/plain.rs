//! What [`Template::encapsulate`] does, for a train of what nearly all packets are: IPv4 in ESP with an IV of eight octets,
//! raw or in UDP, over IPv4. All of the headers but four words is written beforehand.
//!
//! The headers end with the IV, so that in their last 64 octets every field that differs from packet to packet lies in a
//! whole word of 64 bits:
//!
//! | word | raw | in UDP |
//! |---|---|---|
//! | 2 | Ethernet | Ethernet; version, TOS, *total length* |
//! | 3 | Ethernet; version, TOS, *total length* | *identification*, flags, TTL, protocol, *checksum* |
//! | 4 | *identification*, flags, TTL, protocol, *checksum* | addresses |
//! | 5 | addresses | ports, *length*, checksum (none) |
//! | 6, 7 | SPI, *sequence number*; *IV* | the same |

use super::template::write_trailer;
use super::{AeadParameters, ESP_HEADER_LEN, NONCE_IV_LEN, TRAILER_LEN, Template};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::wire::{ETHERNET_HEADER_LEN, IPV4_HEADER_LEN, L3Info, UDP_HEADER_LEN, decrement_ttl_v4, protocol};

/// Octets in front of the text that are written at once: the headers, and a few more.
const HEADROOM: usize = 64;

/// Headers for packets that differ in nothing but their lengths and numbers.
#[derive(Debug)]
pub(crate) struct Plain<'t> {
    template: &'t Template,
    headers: [u8; HEADROOM],
    /// Octets from the outer IP header to the text.
    len: usize,
    /// The two words of the IP header that differ, without what differs.
    first: u64,
    second: u64,
    /// Of the IP header without what differs, not folded.
    sum: u32,
    /// Whether the inner packets' TTL is counted down.
    counts_down: bool,
}

impl<'t> Plain<'t> {
    /// For inner packets of IPv4 with such a header; `None` if the template is for anything else. Where `counts_down`, they
    /// have a TTL.
    #[inline(always)]
    pub(crate) fn new(template: &'t Template, inner: &L3Info, counts_down: bool) -> Option<Self> {
        let udp_len = if template.udp { UDP_HEADER_LEN } else { 0 };
        let len = IPV4_HEADER_LEN + udp_len + ESP_HEADER_LEN + NONCE_IV_LEN;
        if template.v6
            || template.stream
            || template.least_text > 0
            || usize::from(template.iv_len) != NONCE_IV_LEN
        {
            return None;
        }
        let headers = *template.octets.last_chunk()?;
        let (first, second) = changing(&headers, template.udp)?;
        let tos = inner.tos() & template.tos_copied | template.tos_set;
        let [clear, set] = template.flags;
        let flags = if inner.dont_fragment() { set } else { clear };
        // Of the IPv4 header's first two words the checksum alone is not zero where it is to be filled in.
        let (first, second) = (first | u64::from(tos) << 16, second & !0xffff | u64::from(flags) << 32);
        let sum = template.sum + u32::from(tos) + u32::from(flags);
        Some(Self { template, headers, len, first, second, sum, counts_down })
    }

    /// What [`Template::encapsulate`] does.
    #[inline(always)]
    pub(crate) fn encapsulate(&self, frame: &mut Frame, sequence: u64) -> Result<AeadParameters, DropReason> {
        let template = self.template;
        let inner_len = frame.len();
        let pad = (inner_len + TRAILER_LEN).wrapping_neg() & usize::from(template.align_mask);
        let behind = pad + TRAILER_LEN + usize::from(template.icv_len);
        let outer_len = u16::try_from(self.len + inner_len + behind).map_err(|_| DropReason::TooBig)?;
        let front = ETHERNET_HEADER_LEN + self.len;
        let (headers, text) = frame.wrap::<HEADROOM>(front, behind).ok_or(DropReason::NoHeadroom)?;
        write_trailer(text.get_mut(inner_len..).unwrap_or_default(), pad, protocol::IPV4);
        if self.counts_down
            && let Some(inner) = text.first_chunk_mut()
        {
            decrement_ttl_v4(inner);
        }

        // An identification that is unique among this SA's packets, as far as 16 bits go (RFC 6864 §4.1).
        let id = sequence as u16;
        let sum = self.sum + u32::from(outer_len) + u32::from(id);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let first = self.first | u64::from(outer_len);
        let second = self.second | u64::from(id) << 48 | u64::from(!(sum as u16));
        *headers = self.headers;
        if let [_, _, w2, w3, w4, w5, esp, iv] = headers.as_chunks_mut::<8>().0 {
            if template.udp {
                (*w2, *w3) = (first.to_be_bytes(), second.to_be_bytes());
                let [.., l0, l1, _, _] = w5;
                [*l0, *l1] = (outer_len - IPV4_HEADER_LEN as u16).to_be_bytes();
            } else {
                (*w3, *w4) = (first.to_be_bytes(), second.to_be_bytes());
            }
            *esp = (u64::from(template.spi) << 32 | u64::from(sequence as u32)).to_be_bytes();
            *iv = sequence.to_be_bytes();
        }
        let (salt, iv) = (template.salt, sequence.to_be_bytes());
        let buffer = front - usize::from(template.covered_iv_len);
        Ok(AeadParameters { salt, iv, spi: template.spi, sequence, esn: template.esn, buffer })
    }
}

/// The words of the IP header in which something differs.
#[inline(always)]
fn changing(headers: &[u8; HEADROOM], udp: bool) -> Option<(u64, u64)> {
    let &[_, _, w2, w3, w4, ..] = headers.as_chunks::<8>().0 else { return None };
    let (first, second) = if udp { (w2, w3) } else { (w3, w4) };
    Some((u64::from_be_bytes(first), u64::from_be_bytes(second)))
}
