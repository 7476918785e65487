//! IKEv2 (RFC 7296), sans-IO: no sockets, no clocks, no threads, no randomness of its own, no tokio.
//!
//! - [`message`]: octets to typed payloads and back, the encrypted payload included. Never panics, never trusts a length.
//! - [`crypto`]: key exchange, PRF, key derivation, the SK payload's AEAD, AUTH octets.
//! - [`proposal`]: transforms, strongSwan's notation (`aes256gcm16-prfsha384-ecp384`), selection.
//! - [`auth`]: certificates, raw public keys, signatures.
//! - [`pools`]: address pools and their leases, shared by all engines.
//! - [`config`]: what a connection and its children want.
//! - [`verdict`]: what a failed exchange leaves: reason, evidence, what to change.
//! - [`stream`]: what IKE and ESP look like in a TCP stream.
//! - [`probe`]: asks a responder what it accepts.
//! - [`engine`]: the state machine. Start there.

pub mod auth;
pub mod config;
pub mod crypto;
pub mod engine;
mod identity;
pub mod message;
pub mod pools;
pub mod probe;
pub mod proposal;
pub mod stream;
pub mod verdict;
