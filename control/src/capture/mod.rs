//! Other people's failed negotiations: `portcullis explain capture FILE`.
//!
//! [`read`] takes the IKE messages out of a pcap or pcapng file, [`Conversation`] puts those of one negotiation together, `judge`
//! says where it broke, with the same verdicts as a negotiation of our own, and [`draw`] shows it. Nothing here is ours: both ends
//! are somebody else, so a verdict speaks of the initiator and the responder.

mod conversation;
mod draw;
mod judge;
mod keys;
mod read;
#[cfg(test)]
mod tests;

pub use conversation::{Conversation, conversations};
pub use draw::draw;
pub use judge::{Judgement, judge};
pub use keys::{Keys, KeysError};
pub use read::{CaptureError, Reading, read};
