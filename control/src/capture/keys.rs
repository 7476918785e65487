//! Keys of IKE SAs, as Wireshark keeps them in `ikev2_decryption_table`: one a line, the SPIs and keys in hexadecimal,
//! `SPIi,SPIr,SK_ei,SK_er,"encryption",SK_ai,SK_ar,"integrity"`. Which algorithms were negotiated is seen in the capture.

use std::fmt;

use portcullis_ike::crypto::DirectionKeys;
use portcullis_ike::message::{ExchangeType, Sealing, WireProposal, open};
use portcullis_ike::proposal::{IkeProposal, IkeSuite, select_ike};
use portcullis_ike::verdict::{ProposalTable, Protocol};
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
    /// Empty with an AEAD.
    sk_ai: Zeroizing<Vec<u8>>,
    sk_ar: Zeroizing<Vec<u8>>,
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
            let secret = |word: &str| hex(word).map(Zeroizing::new);
            let integrity = |at: usize| secret(words.get(at).copied().unwrap_or_default());
            let (sk_ai, sk_ar) = (integrity(5)?, integrity(6)?);
            let (sk_ei, sk_er) = (secret(sk_ei)?, secret(sk_er)?);
            keys.push(Entry { spi_i: hex(spi_i)?, sk_ei, sk_er, sk_ai, sk_ar });
        }
        Ok(Self(keys))
    }

    /// Decrypts what of a negotiation can be.
    pub(super) fn open(&self, conversation: &mut Conversation) {
        let Some(entry) = self.0.iter().find(|entry| entry.spi_i == conversation.spi_i) else { return };
        let answers = conversation.of(ExchangeType::IkeSaInit, true).filter_map(|line| line.proposals());
        let Some(suite) = answers.filter_map(chosen).next() else { return };
        for line in &mut conversation.lines {
            let (sk_e, sk_a) = match line.from_initiator {
                true => (&entry.sk_ei, &entry.sk_ai),
                false => (&entry.sk_er, &entry.sk_ar),
            };
            let keys = DirectionKeys { sk_e, sk_a };
            let Ok(received) = &line.received else { continue };
            if let Some(encrypted) = received.encrypted.as_ref().filter(|found| found.fragment.is_none()) {
                line.inside = open(encrypted, Sealing { protection: suite.protection, keys }).ok();
            }
        }
    }
}

/// What a responder has chosen, if this version knows it.
fn chosen(answer: &[WireProposal]) -> Option<IkeSuite> {
    let table = ProposalTable::ours_alone(Protocol::Ike, answer);
    let proposal: IkeProposal = table.here.first()?.parse().ok()?;
    Some(select_ike(&[proposal], answer).ok()?.0)
}
