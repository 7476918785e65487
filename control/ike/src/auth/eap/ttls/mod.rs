//! EAP-TTLS (type 21, RFC 5281; RFC 9427 over TLS 1.3): the server proves itself with a certificate, and inside TLS the
//! client with a password, by EAP-MSCHAPv2 or by the password itself (PAP). What goes inside are attributes as RADIUS has
//! them. TLS and its packets are those of EAP-TLS.

mod avp;
mod client;
mod server;
#[cfg(test)]
mod tests;

pub(super) use client::Client;
pub(super) use server::{Said, Server};

use super::packet::kind;
use super::tls::Export;

/// How EAP-TTLS exports its key (RFC 5281 §8).
pub(super) const EXPORT: Export = Export { label: b"ttls keying material", kind: kind::TTLS };
