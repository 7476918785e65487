//! The Internet checksum (RFC 1071), and its incremental update (RFC 1624).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A ones' complement sum in the making.
#[derive(Debug, Clone, Copy, Default)]
pub struct Checksum(u64);

impl Checksum {
    /// Adds octets. All but the last piece of a message must be of even length.
    #[must_use]
    pub fn octets(self, octets: &[u8]) -> Self {
        // A sum of 32-bit words folds to the same as one of 16-bit words, and 2^32 of them fit into 64 bits.
        let (words, rest) = octets.as_chunks::<4>();
        let sum =
            words.iter().fold(self.0, |sum, word| sum.wrapping_add(u64::from(u32::from_be_bytes(*word))));
        let rest = match *rest {
            [a] => u32::from_be_bytes([a, 0, 0, 0]),
            [a, b] => u32::from_be_bytes([a, b, 0, 0]),
            [a, b, c] => u32::from_be_bytes([a, b, c, 0]),
            _ => 0,
        };
        Self(sum.wrapping_add(u64::from(rest)))
    }

    /// Adds one 32-bit number.
    #[must_use]
    pub fn number(self, number: u32) -> Self {
        Self(self.0.wrapping_add(u64::from(number)))
    }

    /// Adds the pseudo-header of UDP and ICMPv6 (RFC 768, RFC 8200 §8.1): `len` octets of upper-layer packet.
    #[must_use]
    pub fn pseudo_header(self, src: IpAddr, dst: IpAddr, protocol: u8, len: u32) -> Self {
        self.address(src).address(dst).number(u32::from(protocol)).number(len)
    }

    fn address(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => self.octets(&Ipv4Addr::octets(&addr)),
            IpAddr::V6(addr) => self.octets(&Ipv6Addr::octets(&addr)),
        }
    }

    /// The checksum field's value: the complement of the sum, folded to 16 bits.
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !(sum as u16)
    }

    /// Whether what was added, its checksum field included, is consistent.
    pub fn is_valid(self) -> bool {
        self.finish() == 0
    }
}

/// The checksum after one of the 16-bit words it covers changed from `old` to `new` (RFC 1624 §3, equation 3).
pub fn replace_word(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let sum = Checksum::default().octets(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.finish(), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_comes_out() {
        assert_eq!(replace_word(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn an_incremental_update_leaves_a_valid_checksum(mut words in prop::collection::vec(any::<u16>(), 2..20), new: u16) {
            let octets = |words: &[u16]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
            let checksum = Checksum::default().octets(&octets(&words)).finish();
            let updated = replace_word(checksum, words[0], new);
            words[0] = new;
            prop_assert!(Checksum::default().octets(&octets(&words)).number(u32::from(updated)).is_valid());
        }

        #[test]
        fn a_sum_does_not_depend_on_where_it_is_cut(octets in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..50) {
            let cut = (cut * 2).min(octets.len());
            let (a, b) = octets.split_at(cut);
            prop_assert_eq!(Checksum::default().octets(&octets).finish(), Checksum::default().octets(a).octets(b).finish());
        }
    }
}
