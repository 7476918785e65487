//! What a client sends through its tunnel: one UDP datagram, sealed with the SA's keys, in UDP.

use portcullis_aead::{self as aead, Algorithm, Engine, Key};
use portcullis_ipsec::OutboundSa;

use super::place::{INSIDE, inner};
use crate::forward::packets::{Inner, lay};

/// SPI, sequence number and IV.
const HEADER: usize = 16;
/// The inner packet: IPv4, UDP, client and generation.
const TEXT: usize = 28 + Stamp::LEN;
/// Padding, its length, and the next header.
const TRAILER: usize = 4;
/// The next header that says that IPv4 is inside.
const IPV4: u8 = 4;
/// All of it.
const WHOLE: usize = HEADER + TEXT + TRAILER + aead::TAG_LEN;

/// Says whose tunnel a packet came through, and through which SA of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) client: u32,
    /// How often the CHILD SA has been replaced.
    pub(crate) generation: u32,
}

impl Stamp {
    const LEN: usize = 8;

    /// From what arrived inside.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let (client, generation) = payload.first_chunk::<{ Self::LEN }>()?.split_at(4);
        let number = |octets: &[u8]| octets.try_into().ok().map(u32::from_be_bytes);
        Some(Self { client: number(client)?, generation: number(generation)? })
    }
}

/// The sending half of a client's CHILD SA.
#[derive(Debug)]
pub(crate) struct Esp {
    stamp: Stamp,
    sa: OutboundSa,
    next: u32,
}

impl Esp {
    pub(crate) fn new(stamp: Stamp, sa: OutboundSa) -> Self {
        Self { stamp, sa, next: 1 }
    }

    pub(crate) fn generation(&self) -> u32 {
        self.stamp.generation
    }

    /// The next packet; `None` if the SA is not of AES-256-GCM.
    pub(crate) fn seal(&mut self, engine: &Engine) -> Option<[u8; WHOLE]> {
        let key: Key = engine.key(Algorithm::Aes256Gcm, self.sa.key.key())?;
        let (spi, sequence) = (self.sa.spi.get().to_be_bytes(), self.next);
        self.next += 1;
        let (low, wide) = (sequence.to_be_bytes(), u64::from(sequence).to_be_bytes());
        let mut packet = [0; WHOLE];
        let headers = Inner::new(TEXT, 64, inner(self.stamp.client), INSIDE).headers;
        let (client, generation) = (self.stamp.client.to_be_bytes(), self.stamp.generation.to_be_bytes());
        let trailer = [1, 2, TRAILER as u8 - 2, IPV4];
        lay(&mut packet, &[&spi, &low, &wide, &headers, &client, &generation, &trailer]);
        let (mut nonce, mut aad) = ([0; 12], [0; aead::MAX_AAD]);
        lay(&mut nonce, &[&self.sa.key.salt(), &wide]);
        let sequence: &[u8] = if self.sa.esn { &wide } else { &low };
        lay(&mut aad, &[&spi, sequence]);
        let aad_len = spi.len() + sequence.len();
        let buffer = packet.get_mut(HEADER..)?;
        engine.seal(&mut [aead::Packet { key: &key, nonce, aad, aad_len, buffer, authentic: false }]);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use portcullis_ipsec::{
        Encapsulation, EspAlgorithm, EspKey, SaOptions, Spi, TrafficSelector, TunnelEndpoints,
    };

    use super::super::place::{GATEWAY, outer};
    use super::*;

    #[test]
    fn a_packet_opens_to_the_stamp_that_was_sealed() {
        let (engine, keymat) = (Engine::select(None).unwrap(), [7; 36]);
        let endpoints = TunnelEndpoints {
            local: IpAddr::V4(outer(3)),
            remote: IpAddr::V4(GATEWAY),
            encapsulation: Encapsulation::None,
        };
        for esn in [false, true] {
            let sa = OutboundSa {
                spi: Spi::new(4711).unwrap(),
                key: EspKey::from_keymat(EspAlgorithm::Aes256Gcm16, &keymat).unwrap(),
                esn,
                endpoints,
                local_ts: vec![TrafficSelector::any(IpAddr::V4(inner(3)))],
                remote_ts: Vec::new(),
                options: SaOptions::default(),
            };
            let stamp = Stamp { client: 3, generation: 2 };
            let mut packet = Esp::new(stamp, sa).seal(&engine).unwrap();
            let (mut nonce, mut aad) = ([7; 12], [0; 12]);
            nonce[4..].copy_from_slice(&packet[8..16]);
            aad[..4].copy_from_slice(&4711_u32.to_be_bytes());
            let aad_len = if esn { 12 } else { 8 };
            aad[aad_len - 1] = 1;
            let key = engine.key(Algorithm::Aes256Gcm, &keymat[..32]).unwrap();
            let buffer = &mut packet[HEADER..];
            let mut batch = [aead::Packet { key: &key, nonce, aad, aad_len, buffer, authentic: false }];
            engine.open(&mut batch);
            assert!(batch[0].authentic, "esn: {esn}");
            assert_eq!(Stamp::parse(&packet[HEADER + 28..]), Some(stamp));
        }
    }
}
