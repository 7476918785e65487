//! The peers that a gateway is tried against, and the tools that make traffic. All but the
//! chatter are programs of the distribution, started on a host and driven by their own interfaces.

pub(crate) mod chatter;
pub(crate) mod freeradius;
pub(crate) mod iperf;
pub(crate) mod libreswan;
pub(crate) mod linux;
pub(crate) mod scapy;
pub(crate) mod strongswan;
