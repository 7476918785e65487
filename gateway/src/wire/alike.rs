//! Whether a packet's header says the same as another's: found out in a few words, without being read again.

use super::read_plain;

/// What [`read_plain`] looks at: the header, and four octets of what follows.
const LEN: usize = super::IPV4_HEADER_LEN + 4;

/// The words of a header whose bits count, in the octets' own order. Free are total length, identification and checksum.
const SAME: [u64; 3] = [
    u64::from_le_bytes([0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff]),
    u64::from_le_bytes([0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff]),
    u64::MAX,
];

/// A header that [`read_plain`] has read, as others are compared with it.
///
/// A packet is *alike* if its first 24 octets are the same but for total length, identification and checksum, if its
/// checksum is right, and if it has as many octets as it says, but not fewer than these 24. Of such a packet `read_plain`
/// says what it has said of the first, but for the total length: it looks at nothing else.
#[derive(Debug, Clone, Copy)]
pub struct PlainHeader {
    words: [u64; 3],
    /// Of what counts in the header, 16 bits each, not folded. A sum of ones' complement is as right in the octets' own
    /// order as in the network's (RFC 1071 §2).
    sum: u64,
}

impl PlainHeader {
    /// Of a packet; `None` unless [`read_plain`] can read it.
    #[inline]
    pub fn read(packet: &[u8]) -> Option<Self> {
        read_plain(packet).and_then(|_| Self::of(packet))
    }

    /// The same of a packet that [`read_plain`] has read.
    #[inline(always)]
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let [w0, w1, w2] = words(packet)?;
        let words @ [w0, w1, w2] = [w0 & SAME[0], w1 & SAME[1], w2 & SAME[2]];
        let halves = |word: u64| (word >> 32) + (word & 0xffff_ffff);
        Some(Self { words, sum: halves(w0) + halves(w1) + (w2 & 0xffff_ffff) })
    }

    /// The total length of a packet that is alike; `None` of any other.
    #[inline(always)]
    pub fn alike(&self, packet: &[u8]) -> Option<usize> {
        let [w0, w1, w2] = words(packet)?;
        let [s0, s1, s2] = self.words;
        let differences = (w0 & SAME[0] ^ s0) | (w1 & SAME[1] ^ s1) | (w2 ^ s2);
        let total_len = usize::from(((w0 >> 16) as u16).swap_bytes());
        // Total length and identification, checksum, and the rest of the header.
        let sum = (w0 >> 16 & 0xffff_ffff) + (w1 >> 16 & 0xffff) + self.sum;
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let alike = (differences == 0) & (sum == 0xffff) & (total_len >= LEN) & (total_len <= packet.len());
        alike.then_some(total_len)
    }
}

#[inline(always)]
fn words(packet: &[u8]) -> Option<[u64; 3]> {
    let (words, _) = packet.first_chunk::<LEN>()?.as_chunks::<8>();
    let &[w0, w1, w2] = words else { return None };
    Some([w0, w1, w2].map(u64::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Checksum, read_any};
    use super::*;

    /// A plain packet, of which some octets are changed: anywhere in what is looked at, or where packets of a flow differ.
    fn changed(changes: &[(usize, u8)], mends: bool, len: usize, total_len: u16) -> Vec<u8> {
        let mut packet: Vec<u8> = (0..len).map(|at| at as u8).collect();
        packet[..9].copy_from_slice(&[0x45, 0x02, 0, 0, 0x12, 0x34, 0x40, 0, 64]);
        packet[9] = 17;
        packet[2..4].copy_from_slice(&total_len.to_be_bytes());
        for (at, bits) in changes {
            packet[at % LEN] ^= bits;
        }
        if mends {
            packet[10..12].fill(0);
            let sum = Checksum::default().octets(&packet[..20]).finish();
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    proptest! {
        #[test]
        fn what_is_alike_is_read_alike_but_for_its_length(
            len in LEN..90, total_len in 0..100_u16, mends: bool,
            changes in prop_oneof![
                2 => Just(Vec::new()),
                3 => prop::collection::vec((4..6_usize, any::<u8>()), 0..3),
                3 => prop::collection::vec((0..LEN, any::<u8>()), 0..3),
            ],
        ) {
            let first = changed(&[], true, 60, 60);
            let header = PlainHeader::read(&first).unwrap();
            let (flow, info) = read_any(&first).unwrap();
            let packet = changed(&changes, mends, len, total_len);
            let read = read_any(&packet).ok().filter(|(_, info)| info.total_len() >= LEN);
            match header.alike(&packet) {
                Some(total_len) => prop_assert_eq!(read, Some((flow, info.with_total_len(total_len)))),
                // What it is too strict for: a bit of the flags that means nothing.
                None if packet[6] & 0x80 != 0 => {}
                None => {
                    let same = read.is_some_and(|(its, about)| {
                        its == flow && about == info.with_total_len(about.total_len())
                    });
                    prop_assert!(!same, "{packet:02x?}");
                }
            }
        }
    }

    #[test]
    fn packets_of_a_flow_are_alike_whatever_their_lengths_and_identifications() {
        let header = PlainHeader::read(&changed(&[], true, 60, 60)).unwrap();
        for len in LEN..200 {
            let packet = changed(&[(4, len as u8)], true, len, len as u16);
            assert_eq!(header.alike(&packet), Some(len));
            assert_eq!(header.alike(&packet[..len - 1]), None, "cut off");
        }
    }
}
