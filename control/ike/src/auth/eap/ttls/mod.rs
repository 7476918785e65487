//! EAP-TTLS (type 21, RFC 5281; RFC 9427 over TLS 1.3): the server proves itself with a certificate, and inside TLS the
//! client with a password, by EAP-MSCHAPv2, or by attributes without EAP: MS-CHAP-V2, MS-CHAP, CHAP, or the password itself
//! (PAP). What goes inside are attributes as RADIUS has them. TLS and its packets are those of EAP-TLS.

mod avp;
mod client;
mod proof;
mod server;
#[cfg(test)]
mod tests;

pub(super) use client::Client;
pub(super) use proof::Challenges;
pub(super) use server::{Said, Server};

use super::packet::kind;
use super::tls::Export;

/// How EAP-TTLS exports its key (RFC 5281 §8).
pub(super) const EXPORT: Export = Export { label: b"ttls keying material", kind: kind::TTLS };

/// How a client proves inside TLS that it knows its password; a server takes all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Inner {
    /// EAP-MSCHAPv2: the server has to know the password as well.
    #[default]
    EapMsChapV2,
    /// MS-CHAP-V2 without EAP: likewise.
    MsChapV2,
    /// MS-CHAP.
    MsChap,
    /// CHAP with MD5.
    Chap,
    /// The password itself, for servers that have no more than its hash.
    Pap,
}
