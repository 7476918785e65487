//! Hosts made of network namespaces, joined by veth pairs, with real peers started in them. The demo, the
//! end-to-end tests and the benches stand on it; it knows nothing of our other crates and drives the daemon as
//! an operator would, by its command line.
//!
//! Start with [`Lab::new`], [`Lab::host`] and [`Lab::link`] (or [`Lab::switch`], whose ports can be captured).
//! [`Host::run`], [`Host::spawn`] and [`Host::enter`] do something on a host, [`Capture`] watches an interface,
//! [`Sites`] is the usual network of two sites, ready made; [`Gateway`] runs a Portcullis daemon, [`StrongSwan`], [`FreeRadius`], [`Linux`], [`Scapy`] and [`Iperf`]
//! run its peers.
//!
//! Three rules hold everywhere. Whatever was made is removed on drop, after a panic too, and what a killed
//! process left behind is removed by the next lab (or by [`clean_up_when_told_to_end`]). Whatever takes time is awaited as an event with a limit,
//! never slept for. Nothing is made outside the namespaces, `/tmp` and the BPF file system, all under names
//! that begin with `plab-` and the owner's pid. Root is needed.

mod capture;
mod error;
mod frame;
mod gateway;
mod host;
mod lab;
mod packet_socket;
mod peers;
mod process;
mod topology;

pub use capture::{Capture, Count, Counts};
pub use error::{LabError, Result};
pub use frame::{Class, Direction, Frame, Headers, classify};
pub use gateway::{
    ChildSa, Gateway, GatewayConfig, GatewayStatus, IkeSa, InterfaceStatus, PacketBalance, Verdict,
};
pub use host::{Host, Output, Ping, Pings};
pub use lab::{Lab, LinkOptions, Switch, clean_up_when_told_to_end, sweep};
pub use peers::chatter::Chatter;
pub use peers::freeradius::FreeRadius;
pub use peers::iperf::{Iperf, IperfReport, IperfServer};
pub use peers::libreswan::Libreswan;
pub use peers::linux::Linux;
pub use peers::scapy::Scapy;
pub use peers::strongswan::StrongSwan;
pub use process::{Mark, Process, Stream};
pub use topology::{SiteConfig, Sites};
