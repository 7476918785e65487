//! NAT detection (RFC 7296 §2.23): each end says what addresses it sees, hashed; a difference is a NAT.

use std::net::{IpAddr, SocketAddr};

use sha1::{Digest as _, Sha1};

use super::{notification, notifications};
use crate::engine::context::Context;
use crate::engine::sa::{Base, Nat};
use crate::message::{Payload, notify};

/// SPIi and SPIr.
type Spis = ([u8; 8], [u8; 8]);

/// `SHA-1(SPIi | SPIr | address | port)`. It hides nothing and protects nothing; the RFC fixes the algorithm.
fn detection_hash((spi_i, spi_r): Spis, addr: SocketAddr) -> [u8; 20] {
    let mut hash = Sha1::new();
    hash.update(spi_i);
    hash.update(spi_r);
    match addr.ip() {
        IpAddr::V4(ip) => hash.update(ip.octets()),
        IpAddr::V6(ip) => hash.update(ip.octets()),
    }
    hash.update(addr.port().to_be_bytes());
    hash.finalize().into()
}

/// Whether the connection wants ESP in UDP whatever NAT detection finds.
pub(in crate::engine) fn is_forced(cx: &Context, base: &Base) -> bool {
    cx.connection(base.connection).is_some_and(|connection| connection.encap)
}

/// The two notifications of a message from `local` to `remote`. `forced` hashes a source that cannot be ours, so
/// that the peer finds a NAT and encapsulates ESP in UDP, as strongSwan's `encap = yes` does.
pub(in crate::engine) fn announce(
    spis: Spis,
    local: SocketAddr,
    remote: SocketAddr,
    forced: bool,
) -> [Payload; 2] {
    let mut source = local;
    if forced {
        source.set_port(0);
    }
    [
        notification(notify::NAT_DETECTION_SOURCE_IP, detection_hash(spis, source).to_vec()),
        notification(notify::NAT_DETECTION_DESTINATION_IP, detection_hash(spis, remote).to_vec()),
    ]
}

/// What the peer's notifications say of the way that its message took, to `local` from `remote`. A peer that sends none does not do NAT
/// traversal: nothing can be forced upon it.
pub(in crate::engine) fn detect(
    payloads: &[Payload],
    spis: Spis,
    (local, remote): (SocketAddr, SocketAddr),
    forced: bool,
) -> Nat {
    let hashes = |notify_type: u16| {
        notifications(payloads)
            .filter(move |notify| notify.notify_type == notify_type)
            .map(|notify| notify.data.as_slice())
    };
    // Several source hashes may come from a peer with several addresses: one match is enough.
    let differs = |notify_type: u16, seen: SocketAddr| {
        let seen = detection_hash(spis, seen);
        let mut hashes = hashes(notify_type).peekable();
        hashes.peek().is_some() && !hashes.any(|hash| hash == seen)
    };
    Nat {
        local: differs(notify::NAT_DETECTION_DESTINATION_IP, local),
        remote: differs(notify::NAT_DETECTION_SOURCE_IP, remote),
        forced: forced && hashes(notify::NAT_DETECTION_SOURCE_IP).next().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answer from coreutils:
    /// `printf '\1\1\1\1\1\1\1\1\2\2\2\2\2\2\2\2\xc0\0\2\x9\1\xf4' | sha1sum`.
    #[test]
    fn the_hash_covers_spis_address_and_port_in_that_order() {
        let hash = detection_hash(([1; 8], [2; 8]), "192.0.2.9:500".parse().unwrap());
        let hex: String = hash.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, "d66bb886c93a10592196ba71f64db27cf89b3dbf");
    }
}
