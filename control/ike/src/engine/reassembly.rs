//! Messages that come in fragments (RFC 7383 §2.6). A fragment is kept only once its ICV is found good, so that nobody but
//! the peer takes our memory, and the peer no more than [`MOST_OCTETS`] a direction.

use std::collections::BTreeMap;

use super::channel::RequestDigest;
use crate::message::Fragment;

/// Octets of content that are kept of one message, which is more than any payload needs.
const MOST_OCTETS: usize = 64 * 1024;

/// A message that has come, whole or put together.
#[derive(Debug)]
pub(super) struct Whole {
    /// Type of the first payload inside.
    pub(super) first_payload: u8,
    /// What was inside, without padding.
    pub(super) content: Vec<u8>,
    /// SHA-256 of the datagram, or of that of the first fragment: tells a retransmission, which the first fragment alone
    /// stands for (RFC 7383 §2.6.1).
    pub(super) digest: RequestDigest,
    /// What stood before the encrypted part, of the first fragment if there were several.
    pub(super) head: Vec<u8>,
    pub(super) fragmented: bool,
}

/// The fragments of one message so far.
#[derive(Debug)]
pub(super) struct Reassembly {
    message_id: u32,
    total: u16,
    /// Their content, by number.
    pieces: BTreeMap<u16, Vec<u8>>,
    octets: usize,
    first: Option<(u8, RequestDigest, Vec<u8>)>,
}

impl Reassembly {
    pub(super) fn new(message_id: u32, total: u16) -> Self {
        Self { message_id, total, pieces: BTreeMap::new(), octets: 0, first: None }
    }

    /// Whether a fragment is of this message and not there yet.
    pub(super) fn lacks(&self, message_id: u32, fragment: Fragment) -> bool {
        (self.message_id, self.total) == (message_id, fragment.total)
            && !self.pieces.contains_key(&fragment.number)
    }

    /// Whether a fragment is of another message, or of this one cut into more: then this one is given up (RFC 7383
    /// §2.6).
    pub(super) fn is_outdated_by(&self, message_id: u32, fragment: Fragment) -> bool {
        self.message_id != message_id || self.total < fragment.total
    }

    /// Takes an authentic fragment that [`Reassembly::lacks`] has asked for; gives the message once it is whole.
    pub(super) fn add(&mut self, number: u16, piece: Whole) -> Option<Whole> {
        let Whole { first_payload, content, digest, head, .. } = piece;
        self.octets += content.len();
        if self.octets > MOST_OCTETS {
            self.pieces.clear();
            return None;
        }
        if number == 1 {
            self.first = Some((first_payload, digest, head));
        }
        self.pieces.insert(number, content);
        if self.pieces.len() < usize::from(self.total) {
            return None;
        }
        let (first_payload, digest, head) = self.first.take()?;
        let content = std::mem::take(&mut self.pieces).into_values().flatten().collect();
        Some(Whole { first_payload, content, digest, head, fragmented: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(number: u16, content: &[u8]) -> Whole {
        Whole {
            first_payload: if number == 1 { 35 } else { 0 },
            content: content.to_vec(),
            digest: [number as u8; 32],
            head: vec![number as u8],
            fragmented: true,
        }
    }

    #[test]
    fn fragments_make_the_message_in_whatever_order_they_come() {
        let mut reassembly = Reassembly::new(1, 3);
        assert!(reassembly.add(3, piece(3, b"c")).is_none());
        assert!(!reassembly.lacks(1, Fragment { number: 3, total: 3 }), "it is there");
        assert!(reassembly.add(1, piece(1, b"a")).is_none());
        let whole = reassembly.add(2, piece(2, b"b")).unwrap();
        assert_eq!((whole.first_payload, whole.content.as_slice()), (35, &b"abc"[..]));
        assert_eq!((whole.digest, whole.head.as_slice()), ([1; 32], &[1][..]), "those of the first");
    }

    #[test]
    fn a_message_that_is_cut_anew_into_more_begins_again_and_one_cut_into_fewer_does_not() {
        let reassembly = Reassembly::new(1, 3);
        assert!(reassembly.is_outdated_by(1, Fragment { number: 1, total: 4 }));
        assert!(reassembly.is_outdated_by(2, Fragment { number: 1, total: 3 }));
        let fewer = Fragment { number: 1, total: 2 };
        assert!(!reassembly.is_outdated_by(1, fewer) && !reassembly.lacks(1, fewer));
    }

    #[test]
    fn more_than_any_message_needs_is_not_kept() {
        let mut reassembly = Reassembly::new(1, u16::MAX);
        for number in 2..200 {
            assert!(reassembly.add(number, piece(number, &[0; 1000])).is_none());
            let kept: usize = reassembly.pieces.values().map(Vec::len).sum();
            assert!(kept <= MOST_OCTETS, "{kept}");
        }
    }
}
