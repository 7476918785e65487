//! The chain of headers from an IP header to the upper layer, link by link, and where ESP in transport mode comes in.

use super::{IPV6_HEADER_LEN, protocol};

/// More links than a packet that was read can have: its walk has the same bound.
const MAX_LINKS: usize = 16;

/// A header, and where the packet says what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Where the octet lies that names it.
    pub named_at: usize,
    /// Where it starts.
    pub at: usize,
    /// What it is: an IP protocol number.
    pub protocol: u8,
}

/// The links behind the IP header of a packet that [`super::read`] has read, in order. The last is the upper layer; AH and
/// ESP are upper layers here, as is everything behind a fragment header of a later fragment.
pub fn chain(packet: &[u8]) -> impl Iterator<Item = Link> + '_ {
    let first = match packet.first() {
        Some(first @ 0x40..=0x4f) => Some((9, usize::from(first & 0xf) * 4)),
        _ => Some((6, IPV6_HEADER_LEN)),
    };
    let link = |(named_at, at): (usize, usize)| Some(Link { named_at, at, protocol: *packet.get(named_at)? });
    let next = move |link_before: &Link| {
        let octets = match link_before.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                (usize::from(*packet.get(link_before.at + 1)?) + 1) * 8
            }
            protocol::FRAGMENT => 8,
            _ => return None,
        };
        link((link_before.at, link_before.at + octets))
    };
    std::iter::successors(first.and_then(link), next).take(MAX_LINKS)
}

/// What ESP in transport mode protects of a packet that [`super::read`] has read: for IPv4 all that follows the options;
/// for IPv6 all that follows hop-by-hop, routing and fragment headers, with destination options in front of a routing header
/// (RFC 4303 §3.1.1).
pub fn end_to_end(packet: &[u8]) -> Option<Link> {
    let passed =
        |link: &Link| matches!(link.protocol, protocol::HOP_BY_HOP | protocol::ROUTING | protocol::FRAGMENT);
    let behind = chain(packet).zip(chain(packet).skip(1)).filter(|(link, _)| passed(link)).last();
    behind.map(|(_, next)| next).or_else(|| chain(packet).next())
}

#[cfg(test)]
mod tests {
    use super::super::Ipv6;
    use super::*;

    fn v6(next_header: u8, headers: &[u8]) -> Vec<u8> {
        let header = Ipv6 {
            traffic_class: 0,
            flow_label: 0,
            payload_len: headers.len(),
            next_header,
            hop_limit: 3,
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8::2".parse().unwrap(),
        };
        [header.write().as_slice(), headers].concat()
    }

    #[test]
    fn esp_comes_behind_what_routers_read_and_in_front_of_what_the_destination_does() {
        const HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const OPTIONS: u8 = 60;
        const TCP: u8 = 6;
        let split = |kinds: &[u8]| {
            let mut headers = Vec::new();
            for next in &kinds[1..] {
                headers.extend([*next, 0, 0, 0, 0, 0, 0, 0]);
            }
            headers.extend([0; 20]);
            let link = end_to_end(&v6(kinds[0], &headers)).unwrap();
            (link.named_at, link.at, link.protocol)
        };
        assert_eq!(split(&[TCP]), (6, 40, TCP));
        assert_eq!(split(&[OPTIONS, TCP]), (6, 40, OPTIONS));
        assert_eq!(split(&[HOP, TCP]), (40, 48, TCP));
        assert_eq!(split(&[HOP, OPTIONS, TCP]), (40, 48, OPTIONS));
        assert_eq!(split(&[HOP, OPTIONS, ROUTING, OPTIONS, TCP]), (56, 64, OPTIONS));
        assert_eq!(split(&[ROUTING, FRAGMENT, TCP]), (48, 56, TCP));
    }

    #[test]
    fn ipv4_options_stay_in_front() {
        let mut packet = vec![0; 48];
        (packet[0], packet[9]) = (0x47, 17);
        assert_eq!(end_to_end(&packet), Some(Link { named_at: 9, at: 28, protocol: 17 }));
        assert_eq!(chain(&packet).count(), 1);
    }

    #[test]
    fn a_chain_that_is_cut_off_ends() {
        assert_eq!(chain(&v6(0, &[])).count(), 1);
        assert_eq!(chain(&[]).count(), 0);
        assert_eq!(end_to_end(&[0x60; 4]), None);
    }
}
