//! Fuzz input as the script of a conversation.

use std::collections::VecDeque;

/// Reads an input from the front. At its end everything is zero, and nothing is spoilt any more.
#[derive(Debug, Clone)]
pub struct Script {
    rest: VecDeque<u8>,
}

impl Script {
    /// From its beginning.
    pub fn new(input: &[u8]) -> Self {
        Self { rest: input.iter().copied().collect() }
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next octet.
    pub fn octet(&mut self) -> u8 {
        self.rest.pop_front().unwrap_or_default()
    }

    /// The next two octets.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    /// The next octets, as many as there are.
    pub fn octets(&mut self, len: usize) -> Vec<u8> {
        self.rest.drain(..len.min(self.rest.len())).collect()
    }

    /// Changes a message as the script says; an octet of 0 leaves it. Whether it was changed.
    pub fn spoil(&mut self, message: &mut Vec<u8>) -> bool {
        let before = message.clone();
        loop {
            let what = self.octet();
            if what == 0 {
                break;
            }
            let at = usize::from(self.word()).checked_rem(message.len()).unwrap_or(0);
            match what & 0x0f {
                1 | 11 => {
                    let bits = self.octet().max(1);
                    message.iter_mut().skip(at).take(1).for_each(|octet| *octet ^= bits);
                }
                2 | 12 => {
                    let value = self.octet();
                    message.iter_mut().skip(at).take(1).for_each(|octet| *octet = value);
                }
                3 => message.truncate(at),
                4 => message.insert(at, self.octet()),
                5 | 13 => {
                    let value = self.word().to_be_bytes();
                    message.iter_mut().skip(at).zip(value).for_each(|(to, from)| *to = from);
                }
                6 => message.iter_mut().skip(at).take(4).for_each(|octet| *octet = 0xff),
                7 => {
                    let end = (at + usize::from(self.octet())).min(message.len());
                    message.drain(at..end);
                }
                8 => {
                    let len = self.octet().into();
                    message.extend(self.octets(len));
                }
                9 => {
                    let len = self.octet().into();
                    *message = self.octets(len);
                }
                10 => {
                    let end = (at + usize::from(self.octet())).min(message.len());
                    message.extend_from_within(at..end);
                }
                _ => {}
            }
            // The highest bit: another change of the same message follows.
            if what & 0x80 == 0 {
                break;
            }
        }
        *message != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_is_over_changes_nothing() {
        let mut message = vec![1, 2, 3];
        assert!(!Script::new(&[]).spoil(&mut message));
        assert_eq!(message, [1, 2, 3]);
    }

    #[test]
    fn one_message_is_changed_several_times_where_the_script_says_so() {
        let mut script = Script::new(&[0x82, 0, 1, 9, 0x03, 0, 2, 0x01, 0, 0, 1]);
        let mut message = vec![1, 2, 3];
        assert!(script.spoil(&mut message));
        assert_eq!(message, [1, 9]);
        assert!(script.spoil(&mut message));
        assert_eq!(message, [0, 9]);
        assert!(script.is_over());
    }
}
