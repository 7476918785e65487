//! ESP from an attacker on the wire: repeated, tampered with, cut short, for no SA of ours, and with lengths that
//! lie. Each is dropped and counted under its own reason, nothing of it is delivered, and the tunnel lives on.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Capture, Class, Direction, Frame, Gateway, GatewayConfig, Result, SiteConfig, Sites};

const SOON: Duration = Duration::from_secs(30);

// Where things are in a frame of Ethernet, IPv4 without options, and ESP.
const IP: usize = 14;
const TOTAL_LENGTH: usize = IP + 2;
const CHECKSUM: usize = IP + 10;
const ESP: usize = IP + 20;
const SEQUENCE: usize = ESP + 4;

/// A frame to be spoilt; its IPv4 header is made right again before it is sent, so that only the spoilt part can be
/// the reason for what becomes of it.
struct Forgery(Vec<u8>);

impl Forgery {
    fn of(frame: &Frame) -> Self {
        Self(frame.bytes.clone())
    }

    /// Changes one octet.
    fn flip(mut self, at: usize) -> Self {
        if let Some(octet) = self.0.get_mut(at) {
            *octet ^= 1;
        }
        self
    }

    /// Adds to the big-endian number of 32 bits at `at`.
    fn add(mut self, at: usize, addend: u32) -> Self {
        if let Some(field) = self.0.get_mut(at..at + 4) {
            let number = field.iter().fold(0u32, |number, octet| number << 8 | u32::from(*octet));
            field.copy_from_slice(&number.wrapping_add(addend).to_be_bytes());
        }
        self
    }

    /// Cuts the ESP packet to `octets`, and says so in the IPv4 header.
    fn cut(mut self, octets: usize) -> Self {
        self.0.truncate(ESP + octets);
        let length = self.0.len() - IP;
        self.claim(length)
    }

    /// Says `length` in the IPv4 header, whatever there is.
    fn claim(mut self, length: usize) -> Self {
        if let Some(field) = self.0.get_mut(TOTAL_LENGTH..TOTAL_LENGTH + 2) {
            field.copy_from_slice(&(length as u16).to_be_bytes());
        }
        self
    }

    /// The frame with a right header checksum.
    fn finish(mut self) -> Vec<u8> {
        if let Some(field) = self.0.get_mut(CHECKSUM..CHECKSUM + 2) {
            field.copy_from_slice(&[0, 0]);
        }
        let header = self.0.get(IP..ESP).unwrap_or_default();
        let words =
            header.chunks_exact(2).map(|word| word.iter().fold(0, |sum, octet| sum << 8 | u32::from(*octet)));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        if let Some(field) = self.0.get_mut(CHECKSUM..CHECKSUM + 2) {
            field.copy_from_slice(&(!sum as u16).to_be_bytes());
        }
        self.0
    }
}

struct Trial {
    sites: Sites,
    gateway: Gateway,
    peer: Gateway,
    inside: Capture,
    /// An ESP packet that gateway `a` has received and opened.
    genuine: Frame,
}

fn trial(name: &str) -> Result<Trial> {
    let sites = Sites::new(name)?;
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let gateway = Gateway::start(&sites.a, binary, &GatewayConfig::new(SiteConfig::a().toml()))?;
    let peer = Gateway::start(&sites.b, binary, &GatewayConfig::new(SiteConfig::a().mirrored().toml()))?;
    let wire = sites.capture()?;
    gateway.initiate("site/net", SOON)?;
    let ping = sites.client.ping(Sites::SERVER, 3)?;
    assert!(ping.complete(), "{ping:?}, dropped by a {:?}, by b {:?}", gateway.drops()?, peer.drops()?);
    let to_us = |frame: &Frame| frame.class == Class::Esp && frame.direction == Direction::Out;
    let genuine = wire.wait_frame("ESP to a", SOON, to_us)?;
    let inside = Capture::start(&sites.client, "eth0", &[])?;
    Ok(Trial { sites, gateway, peer, inside, genuine })
}

impl Trial {
    /// Sends a forgery to gateway `a` and demands that it is counted under one of `reasons`, that nothing reaches
    /// the client, and that the tunnel still works.
    fn is_dropped(&self, forgery: Forgery, reasons: &[&str]) -> Result<()> {
        let count = || -> Result<u64> {
            let drops = self.gateway.drops()?;
            Ok(reasons.iter().filter_map(|reason| drops.get(*reason)).sum())
        };
        let delivered =
            || -> Result<u64> { Ok(self.inside.settle()?.of(Class::Clear, Direction::In).packets) };
        let (dropped_before, delivered_before) = (count()?, delivered()?);
        self.sites.wire.host().send_frame(&self.sites.port_a, &forgery.finish())?;
        // The pings come behind the forgery in the same queue: when they are answered, it has been dealt with.
        let ping = self.sites.client.ping(Sites::SERVER, 3)?;
        let drops = || -> Result<_> { Ok((self.gateway.drops()?, self.peer.drops()?)) };
        assert!(ping.complete(), "{reasons:?}: {ping:?}, dropped by a and b {:?}", drops()?);
        assert_eq!(count()?, dropped_before + 1, "{reasons:?}: {:?}", self.gateway.drops()?);
        assert_eq!(delivered()?, delivered_before + 3, "only the three answers");
        Ok(())
    }
}

#[test]
fn a_repeated_packet_is_dropped() -> Result<()> {
    let trial = trial("replay")?;
    trial.is_dropped(Forgery::of(&trial.genuine), &["replayed"])?;
    trial.is_dropped(Forgery::of(&trial.genuine), &["replayed"])
}

#[test]
fn a_tampered_packet_is_dropped_and_does_not_move_the_replay_window() -> Result<()> {
    let trial = trial("tamper")?;
    // The sequence number comes first, or it would count as repeated; far ahead, so that a window which believed
    // it would throw away all that follows.
    let ahead = || Forgery::of(&trial.genuine).add(SEQUENCE, 100_000);
    let last = trial.genuine.bytes.len() - 1;
    trial.is_dropped(ahead(), &["integrity_failed"])?;
    trial.is_dropped(ahead().flip(last), &["integrity_failed"])?;
    trial.is_dropped(ahead().flip(ESP + 16), &["integrity_failed"])
}

#[test]
fn a_truncated_packet_is_dropped() -> Result<()> {
    let trial = trial("truncate")?;
    for octets in [0, 4, 8, 15, 16, 33] {
        trial.is_dropped(Forgery::of(&trial.genuine).cut(octets), &["esp_truncated"])?;
    }
    Ok(())
}

#[test]
fn a_packet_for_an_spi_that_is_not_ours_is_dropped() -> Result<()> {
    let trial = trial("spi")?;
    for offset in [1, 0x0100_0000] {
        trial.is_dropped(Forgery::of(&trial.genuine).add(ESP, offset), &["unknown_spi"])?;
    }
    Ok(())
}

#[test]
fn a_packet_that_claims_to_be_larger_than_it_is_is_dropped() -> Result<()> {
    let trial = trial("oversize")?;
    let length = trial.genuine.bytes.len() - IP;
    for claimed in [length + 1, 9000, 65535] {
        // The XDP program may see it before the worker does.
        trial.is_dropped(Forgery::of(&trial.genuine).claim(claimed), &["malformed", "xdp_malformed"])?;
    }
    Ok(())
}
