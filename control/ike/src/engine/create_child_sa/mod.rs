//! CREATE_CHILD_SA (RFC 7296 §1.3): further children of an established IKE SA, both ways, and the peer's rekeying
//! of a child. A peer that wants to rekey the IKE SA itself is answered NO_ADDITIONAL_SAS, upon which it makes a
//! new one (§4).
//!
//! A rekeyed child is switched to as a whole when it is installed, before the answer leaves: what is sealed in
//! the round trip until the peer has its new keys, the peer drops.

pub(super) mod initiator;
pub(super) mod responder;
