//! CREATE_CHILD_SA about CHILD SAs (RFC 7296 §1.3.1, §1.3.3): further children of an established IKE SA and successors
//! of those that it has, both ways. What is about the IKE SA itself is in `rekey_ike`.
//!
//! A rekeyed child is made before its predecessor is broken (§2.8). Whoever asked for it seals with it as soon as it
//! has the answer, and deletes the predecessor; the other end seals with it once it sees the first packet on it, or
//! that Delete. A predecessor takes what is under way for a while after that.
//!
//! Additional key exchanges follow in IKE_FOLLOWUP_KE ([`super::ike_followup_ke`]): only after the last is there a child.
//! An end that has begun them is in the middle of its exchange, and all that is said below of requests that cross goes
//! on until it is through.
//!
//! Requests may cross (§2.8.1, §2.25.1):
//!
//! | here            | the peer asks to | is answered                                                   |
//! |-----------------|------------------|---------------------------------------------------------------|
//! | rekeys the same | rekey            | as usual; of the two successors the lowest nonce's creator deletes his ([`collision`]) |
//! | creates one     | create the same | as usual; likewise the lowest nonce's creator deletes his     |
//! | rekeys the same | delete           | as usual; our request fails, or makes a new child             |
//! | deletes it      | rekey            | TEMPORARY_FAILURE                                             |
//! | deletes it      | delete           | without a Delete of our own                                   |
//! | has rekeyed it  | rekey            | TEMPORARY_FAILURE                                             |
//! | never had it    | rekey            | CHILD_SA_NOT_FOUND                                            |
//! | rekeys the IKE SA | anything new   | TEMPORARY_FAILURE                                             |

pub(super) mod collision;
pub(super) mod initiator;
pub(super) mod responder;
