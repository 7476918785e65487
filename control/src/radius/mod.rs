//! RADIUS (RFC 2865, RFC 3579): asks AAA servers about clients of EAP, reports what they use (RFC 2866), and does what
//! the servers ask of us in the middle of it (RFC 5176).
//!
//! - [`packet`]: packets, and what is believed of them. Nothing panics, whatever comes.
//! - [`client`]: a question to one of several servers, repeated and passed on until one answers.
//! - [`access`]: a client's EAP packets, and what an answer says he may have.
//! - [`sessions`]: clients that were let in, from their start to their stop.
//! - [`dynamic`]: requests of servers to change or end a session.

mod access;
mod client;
pub(crate) mod dynamic;
#[cfg(test)]
mod fuzz;
mod packet;
pub(crate) mod sessions;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis_ike::config::Secret;

pub(crate) use client::Radius;

/// `[radius]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RadiusConfig {
    /// In the order in which they are asked; never empty.
    pub servers: Vec<ServerConfig>,
    /// Who we are.
    pub nas_identifier: String,
    /// How long the first answer is waited for.
    pub retransmit_timeout: Duration,
    /// By which factor longer each next one.
    pub retransmit_base: f64,
    /// How often a server is asked before the next one is.
    pub retransmit_tries: u32,
    /// Whether Class attributes are groups too.
    pub class_group: bool,
    /// Whether what users use is reported.
    pub accounting: bool,
    /// How often, if the server does not say it; zero: only at the end.
    pub accounting_interval: Duration,
    /// Dynamic authorisation.
    pub dae: Option<DaeConfig>,
}

/// `[[radius.servers]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// For people.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// Its port for authentication.
    pub auth_port: u16,
    /// Its port for accounting.
    pub acct_port: u16,
    /// What we share with it.
    pub secret: Secret,
}

/// `[radius.dae]`.
#[derive(Debug, Clone, PartialEq)]
pub struct DaeConfig {
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// What we share with those who send them.
    pub secret: Secret,
}
