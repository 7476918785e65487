//! The data plane: a library that knows nothing of IKE or tokio.
//!
//! - [`wire`]: views of Ethernet, IP, UDP, ESP and ICMP octets, and what writes them.
//! - [`esp`]: ESP around and off one packet.
//! - [`frame`]: a packet buffer with exactly one owner.
//! - [`sa`]: the SA table, sequence reservation, replay windows, deferred reclamation.
//! - [`policy`]: which packets must be protected, and by which SA.
//! - [`limiter`]: how much of it may pass in time.
//! - [`installer`]: how the control plane changes both; [`events`]: what workers tell it.
//! - [`lpm`]: longest-prefix match, for policies and routes.
//! - [`route`]: next hops, mirrored from the kernel.
//! - [`pmtu`]: what routers say about the way to a peer.
//! - [`prefetch`]: how a batch waits for memory once.
//! - [`pipeline`]: everything between RX and TX, without sockets. Start here to follow one packet.
//! - `handover`: packets from the worker that received them to the owner of their SA.
//! - [`inlet`]: ESP that came to a socket, because it came in fragments, or in a TCP stream; [`outlet`]: ESP that goes out in one.
//! - [`trace`]: what is seen of packets while somebody asks.
//! - [`drop`]: every reason for which a packet goes no further.
//! - `io`, `worker`, `slowpath`, `netlink`: AF_XDP rings, the pinned threads, the TUN device, the kernel's tables.
//! - `xdp`: loads, attaches and pins the XDP program and the egress guard.
//! - `dataplane`: puts it together. Start here to run one.

mod busy;
pub mod coarse;
pub mod dataplane;
pub mod drop;
pub mod esp;
pub mod events;
pub mod frame;
pub mod handover;
pub mod inlet;
pub mod installer;
pub mod io;
pub mod limiter;
pub mod lpm;
pub mod netlink;
pub mod outlet;
pub mod pipeline;
pub mod pmtu;
pub mod policy;
pub mod prefetch;
pub mod route;
pub mod sa;
pub mod slowpath;
mod sync;
pub mod trace;
pub mod tun;
pub mod wire;
pub mod worker;
pub mod xdp;
