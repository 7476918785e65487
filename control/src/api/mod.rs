//! The admin API: HTTP with JSON over a Unix socket. [`types`] is what is said, [`server`] answers, [`client`] asks.

pub mod client;
pub mod server;
pub mod types;
