//! The peers that a gateway is tried against, and the tools that make traffic. Each is a program of the
//! distribution, started on a host and driven by its own interface.

pub(crate) mod iperf;
pub(crate) mod scapy;
pub(crate) mod strongswan;
