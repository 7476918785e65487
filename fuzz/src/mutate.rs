//! Inputs out of inputs.

use crate::coverage;

/// No input grows beyond the longest by more than a few of these.
const MOST_INSERTED: usize = 64;
/// Numbers at which things go wrong, as fields of one, two and four octets.
const EDGES: &[u32] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    12,
    16,
    20,
    28,
    32,
    64,
    127,
    128,
    255,
    256,
    1023,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
];

/// Spoils inputs.
#[derive(Debug)]
pub(crate) struct Mutator {
    state: u64,
    words: Vec<Vec<u8>>,
}

impl Mutator {
    pub(crate) fn new(seed: u64, words: Vec<Vec<u8>>) -> Self {
        Self { state: seed, words }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, sides: usize) -> usize {
        if sides == 0 { 0 } else { (self.next() % sides as u64) as usize }
    }

    /// One of them; an empty slice if there is none.
    fn one<'a>(&mut self, of: &'a [Vec<u8>]) -> &'a [u8] {
        let at = self.below(of.len());
        of.get(at).map_or(&[], Vec::as_slice)
    }

    /// One of the inputs, changed in one to eight ways.
    pub(crate) fn spoil(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.one(inputs).to_vec();
        for _ in 0..1 << self.below(4) {
            self.change(&mut input, inputs);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(input.len());
        let len = 1 + self.below(MOST_INSERTED.min(input.len()));
        let end = (at + len).min(input.len());
        match self.below(12) {
            0 | 1 => {
                let bit = self.below(8);
                input.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= 1 << bit);
            }
            2 => {
                let value = self.next() as u8;
                input.iter_mut().skip(at).take(1).for_each(|octet| *octet = value);
            }
            3 => self.put_number(input, at),
            4 => {
                let (step, less) = (1 + self.below(16) as u8, self.below(2) == 0);
                let step = if less { step.wrapping_neg() } else { step };
                input.iter_mut().skip(at).take(1).for_each(|octet| *octet = octet.wrapping_add(step));
            }
            5 => _ = input.drain(at..end),
            6 => {
                let copy: Vec<u8> = input.get(at..end).unwrap_or_default().to_vec();
                let to = self.below(input.len() + 1);
                _ = input.splice(to..to, copy);
            }
            7 => {
                let more: Vec<u8> = (0..len).map(|_| self.next() as u8).collect();
                _ = input.splice(at..at, more);
            }
            8 => {
                let other = self.one(inputs).to_vec();
                let from = self.below(other.len());
                input.truncate(at);
                input.extend(other.into_iter().skip(from));
            }
            9 => input.truncate(end),
            10 => {
                let words = std::mem::take(&mut self.words);
                let word = self.one(&words).to_vec();
                self.words = words;
                let end = if self.below(2) == 0 { at } else { (at + word.len()).min(input.len()) };
                _ = input.splice(at..end, word);
            }
            _ => {
                // What the code has compared something with, in either order of octets.
                let dice = self.next();
                let Some((value, width)) = coverage::compared(dice) else {
                    return self.put_number(input, at);
                };
                let mut octets: Vec<u8> = value.to_be_bytes().into_iter().rev().take(width).collect();
                if dice.count_ones().is_multiple_of(2) {
                    octets.reverse();
                }
                input.iter_mut().skip(at).zip(octets).for_each(|(to, from)| *to = from);
            }
        }
    }

    fn put_number(&mut self, input: &mut [u8], at: usize) {
        let edge = EDGES.get(self.below(EDGES.len())).copied().unwrap_or_default();
        let width = 1 << self.below(3);
        let octets = edge.to_be_bytes();
        input.iter_mut().skip(at).zip(octets.iter().skip(4 - width)).for_each(|(to, from)| *to = *from);
    }
}
