//! ESP that came to sockets.
//!
//! In UDP, because it came in fragments. Nothing in a later fragment tells it from one of IKE's, which the kernel must have: so
//! the kernel gets both, puts them together, within its own bounds and refusing what overlaps, and whoever has the socket of
//! the NAT port gives what is not IKE back here. And in a TCP stream (RFC 9329): there is no other way.
//!
//! It is copied, and takes a worker's slow path.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::slowpath::{SlowPathCounters, WorkerEnd, flow_hash};
use crate::wire::{IPV4_HEADER_LEN, Ipv4, Ipv6, UDP_HEADER_LEN, Udp, protocol};

/// A datagram as a socket gives it.
#[derive(Debug, Clone, Copy)]
pub struct EspDatagram<'a> {
    /// The address and port that it was sent to.
    pub local: SocketAddr,
    /// Where it came from.
    pub remote: SocketAddr,
    /// The TOS octet, or traffic class, of the datagram (`IP_RECVTOS`, `IPV6_RECVTCLASS`). The kernel has made one of those of
    /// its fragments (RFC 3168 §5.3).
    pub tos: u8,
    /// Whether it came in a TCP stream between these addresses; else in UDP.
    pub stream: bool,
    /// What UDP or the stream carries: an ESP packet.
    pub payload: &'a [u8],
}

/// The way of such datagrams to the workers. A clone is another handle.
#[derive(Debug, Clone)]
pub struct EspInlet {
    workers: Vec<WorkerEnd>,
    counters: Arc<SlowPathCounters>,
}

impl EspInlet {
    pub(crate) fn new(workers: Vec<WorkerEnd>, counters: Arc<SlowPathCounters>) -> Self {
        Self { workers, counters }
    }

    /// Gives a datagram to a worker, which opens it as if it had come in one piece. What no worker has room for is dropped and
    /// counted (`slow_path_full`), and so is what has no two addresses of one family or is no datagram by its size.
    pub fn give(&self, datagram: &EspDatagram<'_>) {
        let taken = packet(datagram).is_some_and(|packet| {
            let worker = self.workers.get(flow_hash(&packet) % self.workers.len().max(1));
            worker.is_some_and(|worker| worker.give_esp(packet))
        });
        if !taken {
            self.counters.dropped_from_kernel.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The datagram with the headers that it had: what matters of them to the receiver.
fn packet(datagram: &EspDatagram<'_>) -> Option<Box<[u8]>> {
    let EspDatagram { local, remote, tos, stream, payload } = *datagram;
    let protocol = if stream { protocol::TCP } else { protocol::UDP };
    let len = UDP_HEADER_LEN + payload.len();
    let udp = Udp { src_port: remote.port(), dst_port: local.port(), len, checksum: 0 }.write();
    if u16::try_from(IPV4_HEADER_LEN + len).is_err() {
        return None;
    }
    let (src, dst) = (remote.ip(), local.ip());
    let header: &[u8] = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => &Ipv4 {
            header_len: IPV4_HEADER_LEN,
            total_len: IPV4_HEADER_LEN + len,
            tos,
            id: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 1,
            protocol,
            src,
            dst,
        }
        .write(&[]),
        (IpAddr::V6(src), IpAddr::V6(dst)) => &Ipv6 {
            traffic_class: tos,
            flow_label: 0,
            payload_len: len,
            next_header: protocol,
            hop_limit: 1,
            src,
            dst,
        }
        .write(),
        _ => return None,
    };
    Some([header, &udp, payload].concat().into())
}
