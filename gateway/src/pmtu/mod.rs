//! What routers say about the way to a peer: "too big" (RFC 792, RFC 4443), which nobody has authenticated.
//!
//! Such a message is believed as far as RFC 4301 §8.2 goes, and no further. It must quote a packet that we have sent: the
//! SPI, the addresses and ports of an SA, and a sequence number used a moment ago, which an attacker off the path does not
//! know. It can only lower an SA's MTU, not below [`MIN_MTU_V4`] or IPv6's minimum, and for ten minutes. [`read`] says what
//! a message quotes, [`PathMtu`] is what an SA remembers of it, [`listener`] where they come from. Start there.

mod listener;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_ipsec::Encapsulation;

use crate::coarse::Coarse;
use crate::sync::{AtomicU32, Ordering};
use crate::wire::{IPV6_MIN_MTU, protocol};

pub use listener::Listener;

/// Octets below which no message brings an SA's MTU over IPv4: what every host takes in one piece or many (RFC 791 §3.1).
pub const MIN_MTU_V4: usize = 576;

/// How long a lowered MTU holds before a larger one is tried again (RFC 1191 §6.3, RFC 8201 §4).
const LIFE_SECONDS: u32 = 600;

/// Sizes to go down to where a router names none (RFC 1191 §7).
const PLATEAUS: [usize; 7] = [8166, 4352, 2002, 1492, 1006, 576, 0];

/// A packet of ours that some router could not pass on, and what it could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooBig {
    /// Our address, as the packet had it.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// How ESP was carried.
    pub encapsulation: Encapsulation,
    /// The packet's SPI.
    pub spi: u32,
    /// The lower half of its sequence number.
    pub sequence_low: u32,
    /// Octets that would have passed: fewer than the packet had.
    pub mtu: usize,
}

/// Reads an ICMP or ICMPv6 message from its first octet. `None` if it says something else, contradicts itself, or does not
/// quote enough to name an SA.
pub fn read(message: &[u8], v6: bool) -> Option<TooBig> {
    let (&[kind, code, _, _, m0, m1, m2, m3], quoted) = message.split_first_chunk()?;
    let said = match (v6, kind, code) {
        (false, 3, 4) => usize::from(u16::from_be_bytes([m2, m3])),
        (true, 2, _) => u32::from_be_bytes([m0, m1, m2, m3]) as usize,
        _ => return None,
    };
    let quote = if v6 { quote_v6(quoted)? } else { quote_v4(quoted)? };
    let (encapsulation, esp) = match quote.protocol {
        protocol::ESP => (Encapsulation::None, quote.payload),
        protocol::UDP => {
            let (&[s0, s1, d0, d1, ..], esp) = quote.payload.split_first_chunk::<8>()?;
            let (local_port, remote_port) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
            (Encapsulation::Udp { local_port, remote_port }, esp)
        }
        _ => return None,
    };
    let &[s0, s1, s2, s3, q0, q1, q2, q3] = esp.first_chunk()?;
    let mtu = match said {
        0 => PLATEAUS.into_iter().find(|plateau| *plateau < quote.len)?,
        said => said,
    };
    // It has passed routers that say so.
    (mtu < quote.len).then_some(TooBig {
        local: quote.src,
        remote: quote.dst,
        encapsulation,
        spi: u32::from_be_bytes([s0, s1, s2, s3]),
        sequence_low: u32::from_be_bytes([q0, q1, q2, q3]),
        mtu,
    })
}

/// What a message quotes: the beginning of a packet whose length its header says.
struct Quote<'a> {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    len: usize,
    payload: &'a [u8],
}

fn quote_v4(packet: &[u8]) -> Option<Quote<'_>> {
    let &[first, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
        packet.first_chunk()?;
    let is_first_piece = u16::from_be_bytes([f0, f1]) & 0x1fff == 0;
    Some(Quote {
        src: Ipv4Addr::new(s0, s1, s2, s3).into(),
        dst: Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol,
        len: u16::from_be_bytes([l0, l1]).into(),
        payload: packet.get(usize::from(first & 0xf) * 4..)?,
    })
    .filter(|_| first >> 4 == 4 && first & 0xf >= 5 && is_first_piece)
}

fn quote_v6(packet: &[u8]) -> Option<Quote<'_>> {
    let (&[first, _, _, _, l0, l1, protocol, _], rest) = packet.split_first_chunk()?;
    let (&src, rest) = rest.split_first_chunk::<16>()?;
    let (&dst, payload) = rest.split_first_chunk::<16>()?;
    let (src, dst) = (Ipv6Addr::from(src).into(), Ipv6Addr::from(dst).into());
    let len = 40 + usize::from(u16::from_be_bytes([l0, l1]));
    (first >> 4 == 6).then_some(Quote { src, dst, protocol, len, payload })
}

/// What an outbound SA has been told of its path's MTU, in one word: octets, and when that ends.
#[derive(Debug, Default)]
pub struct PathMtu(AtomicU32);

impl PathMtu {
    /// Nothing told.
    pub(crate) fn unknown() -> Self {
        Self(AtomicU32::new(0))
    }

    /// The MTU of a way whose first link has `mtu`.
    #[inline]
    pub(crate) fn narrow(&self, mtu: usize, now: Coarse) -> usize {
        // Relaxed: it stands for itself.
        match self.0.load(Ordering::Relaxed) {
            0 => mtu,
            told => self.narrowed(told, mtu, now),
        }
    }

    #[cold]
    fn narrowed(&self, told: u32, mtu: usize, now: Coarse) -> usize {
        let (octets, until) = ((told >> 16) as usize, told as u16);
        if (until.wrapping_sub(ticks(now)) as i16) > 0 {
            return mtu.min(octets);
        }
        // Unless somebody has told more meanwhile.
        let _ = self.0.compare_exchange(told, 0, Ordering::Relaxed, Ordering::Relaxed);
        mtu
    }

    /// Takes what a message says, and says whether that is news: the MTU never rises by it.
    pub(crate) fn tell(&self, mtu: usize, v6: bool, now: Coarse) -> bool {
        let least = if v6 { IPV6_MIN_MTU } else { MIN_MTU_V4 };
        let mtu = mtu.clamp(least, usize::from(u16::MAX));
        let before = self.narrow(usize::from(u16::MAX), now);
        if before < mtu {
            return false;
        }
        let until = ticks(now).wrapping_add((LIFE_SECONDS / TICK) as u16);
        self.0.store((mtu as u32) << 16 | u32::from(until), Ordering::Relaxed);
        mtu < before
    }
}

/// Seconds of a tick: 16 bits of them are twelve days.
const TICK: u32 = 16;

fn ticks(now: Coarse) -> u16 {
    (now.0 / TICK) as u16
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    /// Fragmentation needed, about an ESP packet of 1500 octets.
    fn message_v4(mtu: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [m0, m1] = mtu.to_be_bytes();
        let mut message = vec![3, 4, 0, 0, 0, 0, m0, m1];
        message.extend([0x45, 0, 5, 220, 0, 0, 0x40, 0, 60, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        [message.as_slice(), payload].concat()
    }

    const ESP: [u8; 8] = [0xc0, 0xde, 0, 1, 0, 0, 0, 9];

    #[test]
    fn a_message_names_the_sa_and_what_would_have_passed() {
        let plain = TooBig {
            local: Ipv4Addr::new(192, 0, 2, 1).into(),
            remote: Ipv4Addr::new(192, 0, 2, 2).into(),
            encapsulation: Encapsulation::None,
            spi: 0xc0de_0001,
            sequence_low: 9,
            mtu: 1400,
        };
        assert_eq!(read(&message_v4(1400, 50, &ESP), false), Some(plain));
        let udp = [0x11, 0x94, 0x61, 0xa8, 5, 0xc8, 0, 0];
        let in_udp =
            TooBig { encapsulation: Encapsulation::Udp { local_port: 4500, remote_port: 25000 }, ..plain };
        assert_eq!(read(&message_v4(1400, 17, &[udp, ESP].concat()), false), Some(in_udp));
        let mut v6 = vec![2, 0, 0, 0, 0, 0, 5, 0];
        v6.extend([0x60, 0, 0, 0, 5, 180, 50, 60]);
        v6.extend([0x20; 32]);
        v6.extend(ESP);
        let addr = Ipv6Addr::from([0x20; 16]).into();
        assert_eq!(read(&v6, true), Some(TooBig { local: addr, remote: addr, mtu: 1280, ..plain }));
        assert_eq!(read(&v6, false), None);
    }

    #[test]
    fn where_a_router_names_no_mtu_the_next_lower_plateau_is_taken() {
        assert_eq!(read(&message_v4(0, 50, &ESP), false).unwrap().mtu, 1492);
    }

    #[test]
    fn what_contradicts_itself_or_quotes_too_little_is_not_believed() {
        let good = message_v4(1400, 50, &ESP);
        for len in 0..good.len() {
            assert_eq!(read(&good[..len], false), None, "{len} octets");
        }
        for (at, value) in [(0, 11), (1, 1), (8, 0x65), (8, 0x44), (15, 1), (17, 6)] {
            let mut changed = good.clone();
            changed[at] = value;
            assert_eq!(read(&changed, false), None, "octet {at}");
        }
        // Larger than the packet that is said not to have passed.
        assert_eq!(read(&message_v4(1500, 50, &ESP), false), None);
    }

    #[test]
    fn an_mtu_falls_within_bounds_and_comes_back_after_ten_minutes() {
        let path = PathMtu::unknown();
        let now = Coarse(1_000_000);
        assert_eq!(path.narrow(1500, now), 1500);
        assert!(path.tell(1400, false, now));
        assert!(!path.tell(1450, false, now), "it does not rise");
        assert_eq!((path.narrow(1500, now), path.narrow(1300, now)), (1400, 1300));
        assert!(path.tell(68, false, now));
        assert_eq!(path.narrow(1500, now), MIN_MTU_V4);
        assert_eq!(path.narrow(1500, Coarse(now.0 + 570)), MIN_MTU_V4);
        assert_eq!(path.narrow(1500, Coarse(now.0 + 620)), 1500);
        // Not only for a while, after which it would hold once more.
        assert_eq!(path.narrow(1500, Coarse(now.0 + 40_000 * TICK)), 1500);
        let v6 = PathMtu::unknown();
        assert!(v6.tell(600, true, now));
        assert_eq!(v6.narrow(1500, now), IPV6_MIN_MTU);
    }
}
