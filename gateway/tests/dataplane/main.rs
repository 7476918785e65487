//! Real data planes between network namespaces: AF_XDP sockets on veth pairs, the kernel's own routes and neighbours,
//! real pings. SAs are installed by hand. Needs root.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "where a test cannot go on it fails"
)]

mod faults;
mod forwarding;
mod gateway;
mod host;
mod interfaces;
mod life;
mod linux;
mod one_armed;
mod soak;
mod vlan;
