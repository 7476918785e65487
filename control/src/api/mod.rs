//! The admin API: HTTP with JSON over a Unix socket. [`types`] is what is said, [`server`] answers, [`client`] asks;
//! [`trace`] is about packets, [`events`] is what happens.

pub mod client;
pub mod events;
pub mod server;
pub mod trace;
pub mod types;
