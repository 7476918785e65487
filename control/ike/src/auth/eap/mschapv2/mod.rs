//! EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2, type 26): MS-CHAPv2 (RFC 2759) with a key (RFC 3079). Each end
//! proves that it knows the password; whoever records a conversation can try passwords at leisure, so that it belongs
//! inside an IKE SA whose responder has proven itself with a certificate before.

pub(super) mod client;
pub(super) mod crypto;
pub(super) mod message;
mod server;

pub(super) use client::Client;
pub(super) use server::{Asked, Server};

#[cfg(test)]
mod tests;
