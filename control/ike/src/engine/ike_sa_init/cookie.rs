//! Stateless cookies (RFC 7296 §2.6): an initiator under load must show that it receives at its address before it
//! costs us a key exchange or a byte of state.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::crypto::{Prf, Puzzle};
use crate::engine::context::Context;

/// How long a secret makes new cookies; its cookies are good for as long again.
const ROTATION: Duration = Duration::from_secs(60);

/// Makes and checks cookies: `version | puzzle | HMAC-SHA-256(secret of that version, Ni | IPi | SPIi | puzzle)`, where the
/// puzzle that was asked for with it, if one was, need not be remembered (RFC 8019 §7.1.1.3).
pub(in crate::engine) struct Cookies {
    version: u32,
    current: Option<(Zeroizing<[u8; 32]>, Instant)>,
    previous: Option<Zeroizing<[u8; 32]>>,
}

impl Cookies {
    pub(in crate::engine) fn new() -> Self {
        Self { version: 0, current: None, previous: None }
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
        self.rotate(cx, now);
        let puzzle = puzzle.map(Puzzle::to_wire);
        match &self.current {
            Some((secret, _)) => cookie(self.version, secret, nonce, remote, spi_i, puzzle),
            None => Vec::new(),
        }
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
        self.rotate(cx, now);
        let puzzle = match found.len() {
            BARE_LEN => None,
            _ => Some(*found.get(VERSION_LEN..)?.first_chunk()?),
        };
        let current = self.current.as_ref().map(|(secret, _)| (self.version, secret));
        let previous = self.previous.as_ref().map(|secret| (self.version.wrapping_sub(1), secret));
        let made = current
            .into_iter()
            .chain(previous)
            .map(|(version, secret)| cookie(version, secret, nonce, remote, spi_i, puzzle));
        let ours = made.into_iter().any(|made| bool::from(made.ct_eq(found)));
        ours.then(|| puzzle.and_then(|puzzle| Puzzle::from_wire(&puzzle)))
    }

    fn rotate(&mut self, cx: &mut Context, now: Instant) {
        let age = self.current.as_ref().map(|(_, since)| now.saturating_duration_since(*since));
        if age.is_some_and(|age| age < ROTATION) {
            return;
        }
        // A secret that was not used for two periods has no cookies that are still good.
        let old = self.current.take().map(|(secret, _)| secret);
        self.previous = old.filter(|_| age.is_some_and(|age| age < 2 * ROTATION));
        self.version = self.version.wrapping_add(1);
        self.current = Some((Zeroizing::new(cx.random()), now));
    }
}

const VERSION_LEN: usize = 4;
/// Octets of a cookie without a puzzle.
const BARE_LEN: usize = VERSION_LEN + 32;

fn cookie(
    version: u32,
    secret: &[u8; 32],
    nonce: &[u8],
    remote: SocketAddr,
    spi_i: [u8; 8],
    puzzle: Option<[u8; 3]>,
) -> Vec<u8> {
    let puzzle = puzzle.as_ref().map_or(&[][..], |puzzle| puzzle);
    let mac = match remote.ip() {
        IpAddr::V4(ip) => Prf::HmacSha256.compute(secret, &[nonce, &ip.octets(), &spi_i, puzzle]),
        IpAddr::V6(ip) => Prf::HmacSha256.compute(secret, &[nonce, &ip.octets(), &spi_i, puzzle]),
    };
    let mut cookie = version.to_be_bytes().to_vec();
    cookie.extend_from_slice(puzzle);
    cookie.extend_from_slice(&mac);
    cookie
}
