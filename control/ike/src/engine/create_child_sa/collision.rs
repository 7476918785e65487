//! Which of two exchanges that cross prevails (RFC 7296 §2.8.1, §2.8.2): the one without the lowest of their four nonces.

/// The nonces of an exchange, as far as the choice goes: the lower of the two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::engine) struct Lowest(Vec<u8>);

impl Lowest {
    /// Octet by octet; a nonce that ends first is the lower one.
    pub(in crate::engine) fn of(nonce_i: &[u8], nonce_r: &[u8]) -> Self {
        Self(nonce_i.min(nonce_r).to_vec())
    }

    /// Whether what came of this exchange stays, and what came of `other` goes.
    pub(in crate::engine) fn prevails_over(&self, other: &Self) -> bool {
        self > other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exchange_with_the_lowest_of_four_nonces_gives_way() {
        let keeps = |ours: [&[u8]; 2], theirs: [&[u8]; 2]| {
            Lowest::of(ours[0], ours[1]).prevails_over(&Lowest::of(theirs[0], theirs[1]))
        };
        assert!(keeps([&[2, 0], &[9, 9]], [&[3, 0], &[1, 9]]));
        assert!(!keeps([&[2, 0], &[1, 0]], [&[3, 0], &[1, 9]]));
        // Octets are compared, not numbers, and the shorter of two that are equal so far is the lower.
        assert!(!keeps([&[1, 9, 9, 9], &[7]], [&[2], &[8]]));
        assert!(!keeps([&[4, 4], &[7]], [&[4, 4, 0], &[8]]));
    }
}
