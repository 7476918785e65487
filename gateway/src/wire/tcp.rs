//! The maximum segment size that TCP announces (RFC 9293 §3.7.1), and lowering it on the way.

use super::replace_word;

const SYN: u8 = 0x02;
const FIXED_HEADER_LEN: usize = 20;
const OPTION_END: u8 = 0;
const OPTION_NO_OPERATION: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Octets of IP and TCP header, without options, of a segment of the largest size (RFC 6691).
pub const fn headers_of_segment(is_ipv6: bool) -> usize {
    if is_ipv6 { 60 } else { 40 }
}

/// Lowers the segment size that a SYN announces to at most `limit`, and keeps its checksum right. Leaves alone what is no
/// SYN, announces no size or a smaller one. `segment` starts with its TCP header.
pub fn clamp_mss(segment: &mut [u8], limit: u16) {
    let Some((header_len, flags)) = segment.get(12..14).and_then(|octets| match octets {
        [offset, flags] => Some((usize::from(offset >> 4) * 4, *flags)),
        _ => None,
    }) else {
        return;
    };
    if flags & SYN == 0 {
        return;
    }
    let Some(at) = segment.get(..header_len).and_then(find_mss) else { return };
    let (Some(&[m0, m1]), Some(&[c0, c1])) =
        (segment.get(at..).and_then(<[u8]>::first_chunk), segment.get(16..).and_then(<[u8]>::first_chunk))
    else {
        return;
    };
    if u16::from_be_bytes([m0, m1]) <= limit {
        return;
    }
    let [n0, n1] = limit.to_be_bytes();
    // Seen in the words that the checksum adds up, at an odd place the octets are the other way round.
    let (old, new) = match at % 2 {
        0 => (u16::from_be_bytes([m0, m1]), limit),
        _ => (u16::from_be_bytes([m1, m0]), u16::from_be_bytes([n1, n0])),
    };
    let checksum = replace_word(u16::from_be_bytes([c0, c1]), old, new);
    for (place, value) in [(at, limit), (16, checksum)] {
        if let Some(octets) = segment.get_mut(place..).and_then(<[u8]>::first_chunk_mut) {
            *octets = value.to_be_bytes();
        }
    }
}

/// Where the size stands in a header with its options.
fn find_mss(header: &[u8]) -> Option<usize> {
    let mut at = FIXED_HEADER_LEN;
    loop {
        match (*header.get(at)?, header.get(at + 1).map(|len| usize::from(*len))) {
            (OPTION_END, _) => return None,
            (OPTION_NO_OPERATION, _) => at += 1,
            (OPTION_MSS, Some(4)) => return header.get(at + 2..at + 4).map(|_| at + 2),
            (_, Some(len)) if len >= 2 => at += len,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Checksum;
    use super::*;

    fn segment(flags: u8, options: &[u8]) -> Vec<u8> {
        assert_eq!(options.len() % 4, 0);
        let mut segment = vec![0x12; 20];
        segment[12] = (((20 + options.len()) / 4) << 4) as u8;
        segment[13] = flags;
        segment[16..18].fill(0);
        segment.extend(options);
        segment.extend([7, 7, 7]);
        let sum = Checksum::default().octets(&segment).finish();
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }

    fn clamped(flags: u8, options: &[u8], limit: u16) -> Vec<u8> {
        let mut segment = segment(flags, options);
        clamp_mss(&mut segment, limit);
        assert!(Checksum::default().octets(&segment).is_valid());
        segment[20..20 + options.len()].to_vec()
    }

    #[test]
    fn a_syn_that_announces_more_is_lowered_wherever_the_option_stands() {
        assert_eq!(clamped(SYN, &[2, 4, 5, 180], 1300), [2, 4, 5, 20]);
        assert_eq!(clamped(SYN | 0x10, &[1, 2, 4, 5, 180, 1, 1, 0], 1300), [1, 2, 4, 5, 20, 1, 1, 0]);
        assert_eq!(clamped(SYN, &[3, 3, 7, 2, 4, 0xff, 0xff, 0], 536), [3, 3, 7, 2, 4, 2, 24, 0]);
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for (flags, options) in [
            (0x10, &[2, 4, 5, 180][..]),
            (SYN, &[2, 4, 5, 20]),
            (SYN, &[2, 4, 1, 0]),
            (SYN, &[0, 2, 4, 5, 180, 0, 0, 0]),
            (SYN, &[5, 0, 2, 4, 5, 180, 0, 0]),
            (SYN, &[1, 1, 1, 2]),
            (SYN, &[2, 3, 9, 0]),
            (SYN, &[]),
        ] {
            assert_eq!(clamped(flags, options, 1300), options);
        }
        for len in 0..24 {
            let mut cut = segment(SYN, &[2, 4, 5, 180]);
            cut.truncate(len);
            let before = cut.clone();
            clamp_mss(&mut cut, 1300);
            assert_eq!(cut, before, "{len} octets");
        }
    }
}
