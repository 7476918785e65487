//! NAT detection (RFC 7296 §2.23): each end says what addresses it sees, hashed; a difference is a NAT.

use std::net::{IpAddr, SocketAddr};

use sha1::{Digest as _, Sha1};

use super::{notification, notifications};
use crate::engine::sa::Nat;
use crate::message::{Payload, notify};

/// `SHA-1(SPIi | SPIr | address | port)`. It hides nothing and protects nothing; the RFC fixes the algorithm.
fn detection_hash(spi_i: [u8; 8], spi_r: [u8; 8], addr: SocketAddr) -> [u8; 20] {
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

/// The two notifications of a message from `local` to `remote`. `forced` hashes a source that cannot be ours, so
/// that the peer finds a NAT and encapsulates ESP in UDP, as strongSwan's `encap = yes` does.
pub(super) fn announce(
    spi_i: [u8; 8],
    spi_r: [u8; 8],
    local: SocketAddr,
    remote: SocketAddr,
    forced: bool,
) -> [Payload; 2] {
    let mut source = local;
    if forced {
        source.set_port(0);
    }
    [
        notification(notify::NAT_DETECTION_SOURCE_IP, detection_hash(spi_i, spi_r, source).to_vec()),
        notification(notify::NAT_DETECTION_DESTINATION_IP, detection_hash(spi_i, spi_r, remote).to_vec()),
    ]
}

/// What the peer's notifications say of the way between us. A peer that sends none does not do NAT traversal, and
/// gets none.
pub(super) fn detect(
    payloads: &[Payload],
    spi_i: [u8; 8],
    spi_r: [u8; 8],
    local: SocketAddr,
    remote: SocketAddr,
) -> Nat {
    // Several source hashes may come from a peer with several addresses: one match is enough.
    let differs = |notify_type: u16, seen: SocketAddr| {
        let seen = detection_hash(spi_i, spi_r, seen);
        let mut hashes =
            notifications(payloads).filter(|notify| notify.notify_type == notify_type).peekable();
        hashes.peek().is_some() && !hashes.any(|notify| notify.data == seen)
    };
    Nat {
        local: differs(notify::NAT_DETECTION_DESTINATION_IP, local),
        remote: differs(notify::NAT_DETECTION_SOURCE_IP, remote),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_finds_the_nat_before_it_and_before_its_peer() {
        let inside: SocketAddr = "10.0.0.2:500".parse().unwrap();
        let mapped: SocketAddr = "192.0.2.1:61000".parse().unwrap();
        let server: SocketAddr = "192.0.2.9:500".parse().unwrap();
        let (spi_i, spi_r) = ([1; 8], [2; 8]);
        let request = announce(spi_i, spi_r, inside, server, false);
        let plain = detect(&request, spi_i, spi_r, server, inside);
        assert_eq!(plain, Nat { local: false, remote: false });
        let natted = detect(&request, spi_i, spi_r, server, mapped);
        assert_eq!(natted, Nat { local: false, remote: true });
        let response = announce(spi_i, spi_r, server, mapped, false);
        assert_eq!(detect(&response, spi_i, spi_r, inside, server), Nat { local: true, remote: false });
        let forced = announce(spi_i, spi_r, inside, server, true);
        assert_eq!(detect(&forced, spi_i, spi_r, server, inside), Nat { local: false, remote: true });
        assert_eq!(detect(&[], spi_i, spi_r, server, mapped), Nat::default());
    }

    /// Known answer from coreutils:
    /// `printf '\1\1\1\1\1\1\1\1\2\2\2\2\2\2\2\2\xc0\0\2\x9\1\xf4' | sha1sum`.
    #[test]
    fn the_hash_covers_spis_address_and_port_in_that_order() {
        let hash = detection_hash([1; 8], [2; 8], "192.0.2.9:500".parse().unwrap());
        let hex: String = hash.iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(hex, "d66bb886c93a10592196ba71f64db27cf89b3dbf");
    }
}
