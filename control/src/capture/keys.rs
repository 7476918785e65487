//! Keys of IKE SAs, as Wireshark keeps them in `ikev2_decryption_table`: one a line, the SPIs and keys in hexadecimal,
//! `SPIi,SPIr,SK_ei,SK_er,"encryption",SK_ai,SK_ar,"integrity"`. Which algorithms were negotiated is seen in the capture.

use std::fmt;

use portcullis_ike::message::{ExchangeType, open};
use portcullis_ike::proposal::{IkeProposal, select_ike};
use zeroize::Zeroizing;

use super::conversation::Conversation;

/// A file that holds no keys.
#[derive(Debug, thiserror::Error)]
#[error(
    "line {line}: {problem} (expected SPIi,SPIr,SK_ei,SK_er,\"encryption\",SK_ai,SK_ar,\"integrity\" in hexadecimal, as Wireshark's ikev2_decryption_table has it)"
)]
pub struct KeysError {
    line: usize,
    problem: &'static str,
}

/// The keys of some IKE SAs.
#[derive(Default)]
pub struct Keys(Vec<Entry>);

struct Entry {
    spi_i: Vec<u8>,
    sk_ei: Zeroizing<Vec<u8>>,
    sk_er: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys(of {} IKE SAs)", self.0.len())
    }
}

impl Keys {
    /// Reads a table.
    ///
    /// # Errors
    /// The line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let wrong = |problem| KeysError { line, problem };
            let words: Vec<&str> = text.split(',').map(|word| word.trim().trim_matches('"')).collect();
            let [spi_i, _, sk_ei, sk_er, ..] = words.as_slice() else { return Err(wrong("too few fields")) };
            let hex = |word: &str| {
                data_encoding::HEXLOWER_PERMISSIVE
                    .decode(word.trim_start_matches("0x").as_bytes())
                    .map_err(|_| wrong("a field is not hexadecimal"))
            };
            let (sk_ei, sk_er) = (Zeroizing::new(hex(sk_ei)?), Zeroizing::new(hex(sk_er)?));
            keys.push(Entry { spi_i: hex(spi_i)?, sk_ei, sk_er });
        }
        Ok(Self(keys))
    }

    /// Decrypts what of a negotiation can be.
    pub(super) fn open(&self, conversation: &mut Conversation) {
        let Some(entry) = self.0.iter().find(|entry| entry.spi_i == conversation.spi_i) else { return };
        let everything = IkeProposal::defaults();
        let chosen = conversation
            .of(ExchangeType::IkeSaInit, true)
            .filter_map(|line| line.proposals())
            .find_map(|answer| select_ike(&everything, answer).ok());
        let Some((suite, _)) = chosen else { return };
        for line in &mut conversation.lines {
            let key = if line.from_initiator { &entry.sk_ei } else { &entry.sk_er };
            let Ok(received) = &line.received else { continue };
            if let Some(encrypted) = &received.encrypted {
                line.inside = open(encrypted, suite.encr, key).ok();
            }
        }
    }
}
