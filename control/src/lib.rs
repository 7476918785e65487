//! The control plane: configuration, the daemon around the IKE engine, the admin API and the CLI.
//!
//! Start at [`daemon`] for what runs, at [`config`] for what an operator writes.

pub mod api;
pub mod capture;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod doctor;
mod events;
pub mod explain;
mod hooks;
pub mod import;
pub mod logging;
mod metrics;
pub mod pcapng;
pub mod pki;
pub mod radius;
pub mod sandbox;
pub mod top;
