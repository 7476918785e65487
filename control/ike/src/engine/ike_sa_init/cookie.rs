//! Stateless cookies (RFC 7296 §2.6): an initiator under load must show that it receives at its address before it
//! costs us a key exchange or a byte of state.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::crypto::{Prf, Puzzle};
use crate::engine::context::Context;
use crate::engine::shard::Common;

/// How long a secret makes new cookies; its cookies are good for as long again.
const ROTATION: Duration = Duration::from_secs(60);

/// Makes and checks cookies: `version | puzzle | HMAC-SHA-256(secret of that version, Ni | IPi | SPIi | puzzle)`, where the
/// puzzle that was asked for with it, if one was, need not be remembered (RFC 8019 §7.1.1.3).
///
/// The secret of a version follows from what all shards have in common, so that any of them checks what another has made.
pub(in crate::engine) struct Cookies {
    common: Option<Common>,
}

impl Cookies {
    /// Of those; if there is no other shard they are made when they are needed.
    pub(in crate::engine) fn new(common: Option<Common>) -> Self {
        Self { common }
    }

    /// The cookie to ask for.
    pub(in crate::engine) fn make(
        &mut self,
        cx: &mut Context,
        now: Instant,
        nonce: &[u8],
        remote: SocketAddr,
        spi_i: [u8; 8],
        puzzle: Option<Puzzle>,
    ) -> Vec<u8> {
        let (version, common) = self.version(cx, now);
        cookie(version, common, nonce, remote, spi_i, puzzle.map(Puzzle::to_wire))
    }

    /// Whether we made this one, lately, for that initiator; with the puzzle that was asked for with it.
    pub(in crate::engine) fn check(
        &mut self,
        cx: &mut Context,
        now: Instant,
        found: &[u8],
        nonce: &[u8],
        remote: SocketAddr,
        spi_i: [u8; 8],
    ) -> Option<Option<Puzzle>> {
        let (version, common) = self.version(cx, now);
        let puzzle = match found.len() {
            BARE_LEN => None,
            _ => Some(*found.get(VERSION_LEN..)?.first_chunk()?),
        };
        let made = [Some(version), version.checked_sub(1)].into_iter().flatten();
        let made = made.map(|version| cookie(version, common, nonce, remote, spi_i, puzzle));
        let ours = made.into_iter().any(|made| bool::from(made.ct_eq(found)));
        ours.then(|| puzzle.and_then(|puzzle| Puzzle::from_wire(&puzzle)))
    }

    /// Which makes cookies now.
    fn version(&mut self, cx: &mut Context, now: Instant) -> (u32, &Common) {
        let common = self.common.get_or_insert_with(|| Common::new(Zeroizing::new(cx.random()), now));
        let age = now.saturating_duration_since(common.since).as_secs() / ROTATION.as_secs();
        (u32::try_from(age).unwrap_or(u32::MAX), common)
    }
}

const VERSION_LEN: usize = 4;
/// Octets of a cookie without a puzzle.
const BARE_LEN: usize = VERSION_LEN + 32;

fn cookie(
    version: u32,
    common: &Common,
    nonce: &[u8],
    remote: SocketAddr,
    spi_i: [u8; 8],
    puzzle: Option<[u8; 3]>,
) -> Vec<u8> {
    let puzzle = puzzle.as_ref().map_or(&[][..], |puzzle| puzzle);
    let secret = Prf::HmacSha256.compute(&common.secret[..], &[b"cookie", &version.to_be_bytes()]);
    let mac = match remote.ip() {
        IpAddr::V4(ip) => Prf::HmacSha256.compute(&secret, &[nonce, &ip.octets(), &spi_i, puzzle]),
        IpAddr::V6(ip) => Prf::HmacSha256.compute(&secret, &[nonce, &ip.octets(), &spi_i, puzzle]),
    };
    let mut cookie = version.to_be_bytes().to_vec();
    cookie.extend_from_slice(puzzle);
    cookie.extend_from_slice(&mac);
    cookie
}
