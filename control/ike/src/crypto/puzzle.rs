//! Client puzzles (RFC 8019 §4.4): four keys whose PRF of a cookie ends in so many zero bits.

use super::Prf;

/// Keys of a solution (RFC 8019 §7.1.2): four, which makes the time that it takes less a matter of luck.
const KEYS: usize = 4;

/// Octets of the keys that we try: a counter.
const KEY_LEN: usize = 8;

/// How many times as many keys are tried as are expected to be needed, before luck is given up.
const PATIENCE: u64 = 4;

/// The bits that we show where the choice is ours (difficulty zero).
const OF_OUR_CHOICE: u8 = 10;

/// What is to be solved about a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Puzzle {
    /// The PRF.
    pub prf: Prf,
    /// Zero bits at the end of its output.
    pub difficulty: u8,
}

impl Puzzle {
    /// The PRF's transform ID, then the difficulty (RFC 8019 §8.1).
    pub fn to_wire(self) -> [u8; 3] {
        let [high, low] = self.prf.id().to_be_bytes();
        [high, low, self.difficulty]
    }

    /// The reverse; `None` if we do not have the PRF.
    pub fn from_wire(data: &[u8]) -> Option<Self> {
        let [high, low, difficulty] = *data else { return None };
        let id = u16::from_be_bytes([high, low]);
        let prf = Prf::ALL.into_iter().find(|prf| prf.id() == id)?;
        Some(Self { prf, difficulty })
    }

    /// Whether these are its four keys, one behind another. Takes one PRF for each of them.
    pub fn is_solved_by(self, cookie: &[u8], solution: &[u8]) -> bool {
        let len = solution.len() / KEYS;
        let shortest = if self.has_fixed_keys() { self.prf.output_len() } else { 1 };
        if !solution.len().is_multiple_of(KEYS) || !(shortest..=self.prf.output_len()).contains(&len) {
            return false;
        }
        let keys: Vec<&[u8]> = solution.chunks_exact(len).collect();
        let differs = |(at, key): (usize, &&[u8])| !keys.iter().take(at).any(|other| other == key);
        keys.iter().enumerate().all(differs) && keys.iter().all(|key| self.fits(cookie, key))
    }

    /// Finds four keys among those that follow `start`; `None` if luck is out. Takes four times two to the power of the
    /// difficulty PRFs on average, and four times that at most.
    pub fn solve(self, cookie: &[u8], start: u64) -> Option<Vec<u8>> {
        let puzzle = match self.difficulty {
            0 => Self { difficulty: OF_OUR_CHOICE, ..self },
            _ => self,
        };
        let padding =
            if puzzle.has_fixed_keys() { puzzle.prf.output_len().saturating_sub(KEY_LEN) } else { 0 };
        let tries = (KEYS as u64 * PATIENCE).checked_shl(puzzle.difficulty.into())?;
        let mut key = vec![0; padding];
        let mut solution = Vec::new();
        let mut missing = KEYS;
        for number in 0..tries {
            key.truncate(padding);
            key.extend(start.wrapping_add(number).to_be_bytes());
            if puzzle.fits(cookie, &key) {
                solution.extend(&key);
                missing -= 1;
                if missing == 0 {
                    return Some(solution);
                }
            }
        }
        None
    }

    fn fits(self, cookie: &[u8], key: &[u8]) -> bool {
        zero_bits(&self.prf.compute(key, &[cookie])) >= u32::from(self.difficulty)
    }

    /// RFC 8019 §8.2: of these a key has the fixed length, of others it may be shorter.
    fn has_fixed_keys(self) -> bool {
        matches!(self.prf, Prf::AesXcbc | Prf::AesCmac)
    }
}

/// Zero bits at the end: the least significant ones.
fn zero_bits(output: &[u8]) -> u32 {
    let mut from_the_end = output.iter().rev();
    let mut bits = 0;
    for octet in &mut from_the_end {
        if *octet != 0 {
            return bits + octet.trailing_zeros();
        }
        bits += 8;
    }
    bits
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER.decode(text.as_bytes()).unwrap()
    }

    /// Known answers of Python's `hmac`: the first four keys of three octets. The examples of RFC 8019 §4.4 cannot serve: no
    /// PRF_HMAC_SHA2_256 of their cookie ends in as many zero bits, whichever of both is the key.
    const SOLVED: [(Prf, [&str; 4]); 3] = [
        (Prf::HmacSha256, ["00364a", "004a85", "02e09d", "03b6a4"]),
        (Prf::HmacSha1, ["008d57", "01fc22", "022958", "02a78f"]),
        (Prf::HmacSha384, ["006f42", "034e68", "050e90", "055310"]),
    ];
    const COOKIE: &str = "000000070005105bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";

    #[test]
    fn what_another_implementation_has_solved_is_solved() {
        for (prf, keys) in SOLVED {
            let (puzzle, cookie) = (Puzzle { prf, difficulty: 16 }, hex(COOKIE));
            assert!(puzzle.is_solved_by(&cookie, &hex(&keys.concat())), "{prf:?}");
            // One of them has no more than that.
            assert!(
                !Puzzle { difficulty: 17, ..puzzle }.is_solved_by(&cookie, &hex(&keys.concat())),
                "{prf:?}"
            );
            assert!(!puzzle.is_solved_by(b"another", &hex(&keys.concat())), "{prf:?}");
        }
    }

    #[test]
    fn a_solution_is_four_keys_of_one_length_and_each_another() {
        let (puzzle, cookie) = (Puzzle { prf: Prf::HmacSha256, difficulty: 16 }, hex(COOKIE));
        let [a, b, c, d] = SOLVED[0].1;
        for wrong in [
            [a, b, c, c],
            [a, b, c, "03b6a5"],
            [a, b, c, ""],
            ["", "", "", ""],
            [a, b, c, "03b6a4000000000000"],
        ] {
            assert!(!puzzle.is_solved_by(&cookie, &hex(&wrong.concat())), "{wrong:?}");
        }
        // Longer than the PRF's own (RFC 8019 §8.2).
        assert!(!puzzle.is_solved_by(&cookie, &[0; 4 * 33]));
        let fixed = Puzzle { prf: Prf::AesCmac, difficulty: 0 };
        assert!(!fixed.is_solved_by(&cookie, &hex(&[a, b, c, d].concat())));
    }

    #[test]
    fn whatever_prf_it_is_about_it_is_solved() {
        for prf in Prf::ALL {
            for difficulty in [0, 1, 6] {
                let puzzle = Puzzle { prf, difficulty };
                let solution = puzzle.solve(b"a cookie", u64::MAX - 3).unwrap();
                assert!(puzzle.is_solved_by(b"a cookie", &solution), "{puzzle:?}");
                assert_eq!(Puzzle::from_wire(&puzzle.to_wire()), Some(puzzle));
            }
        }
        assert_eq!(Puzzle::from_wire(&[0, 1, 9]), None);
        assert_eq!(Puzzle::from_wire(&[0, 5]), None);
    }

    #[test]
    fn zero_bits_are_counted_from_the_end() {
        for (output, bits) in
            [(&[1_u8][..], 0), (&[0x80], 7), (&[1, 0], 8), (&[0xa0, 0, 0], 21), (&[0, 0], 16), (&[], 0)]
        {
            assert_eq!(zero_bits(output), bits, "{output:?}");
        }
    }
}
