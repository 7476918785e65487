//! Engines that share the work: each is a *shard* with IKE SAs, timers, jobs and randomness of its own, and knows nothing of
//! the others'. What they have in common is the [`Registry`]'s: who is here (`unique`, INITIAL_CONTACT), how many IKE SAs are
//! half-open, how many peers have proved nothing. It is reached by jobs ([`Question`], which is answered, and [`Note`], which is
//! not), and what it has to say to a shard of its own accord is an [`Order`]. A single engine asks itself instead: `is_alone`.
//!
//! Whom a message, a command or a stream is for, [`Routes`] says:
//!
//! - Our SPI of an IKE SA names its shard, and so does an [`IkeSaId`]; what a rekeying makes stays where it was. The number
//!   stands in the last octet of the SPI, in plain. It helps nobody who wants to keep one shard busy: he need but send the same
//!   message again and again, whatever there is in it. What is left of the SPI is random.
//! - A first message goes by its initiator's SPI and its source, so that those of one client are spread, and each comes to
//!   where it came before. But where a connection names an address, and so may be initiated by us, everything from there goes to
//!   the connection's home shard: initiations of both ends that cross meet there, as do acquires and whoever brings a lost tunnel
//!   up again.
//! - A ticket (RFC 5723) names the shard that has given it: that knows whether it was used, and has the IKE SA.
//! - Cookies are made of a secret that all have in common ([`Common`]).
//!
//! Messages between a shard and the registry keep their order, each way; nothing else is assumed of them, which the tests
//! `tests::sharded` show.

mod orders;
mod registry;
mod routes;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use portcullis_ipsec::Spi;
use zeroize::Zeroizing;

pub(super) use orders::Asking;
pub use registry::{Registry, Word};
pub use routes::{Reach, Routes};

use super::api::{Datagram, IkeSaId};
use super::half_open;
use super::index::Identities;
use crate::config::{ConnectionConfig, Unique};

/// As many shards as there may be.
pub const MAX_SHARDS: u8 = 64;

/// Which of several engines one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    number: u8,
    of: u8,
}

impl Shard {
    /// There is no other.
    pub const ALONE: Self = Self { number: 0, of: 1 };

    /// All of so many, one at least and [`MAX_SHARDS`] at most.
    pub fn all(of: u8) -> impl Iterator<Item = Self> {
        let of = of.clamp(1, MAX_SHARDS);
        (0..of).map(move |number| Self { number, of })
    }

    /// Its number, from zero.
    pub fn number(self) -> usize {
        self.number.into()
    }

    /// Whether there is no other.
    pub fn is_alone(self) -> bool {
        self.of == 1
    }

    /// Its part of what all may have together.
    pub(super) fn share(self, all: usize) -> usize {
        all.div_ceil(self.of.into())
    }

    /// What all have together, if they have as much as this one.
    pub(super) fn in_all(self, own: usize) -> usize {
        own * usize::from(self.of)
    }

    /// Its `count`th IKE SA.
    pub(super) fn ike(self, count: u64) -> IkeSaId {
        IkeSaId(count.wrapping_mul(self.of.into()).wrapping_add(self.number.into()))
    }

    /// Random octets, of which the last one names the shard.
    pub(super) fn sign<const N: usize>(self, mut octets: [u8; N]) -> [u8; N] {
        if !self.is_alone()
            && let Some(last) = octets.last_mut()
        {
            // As many values name each shard; what random ones there are beyond those are taken for others.
            let values = u8::MAX / self.of;
            *last = *last % values * self.of + self.number;
        }
        octets
    }

    /// Which shard such octets name.
    pub(super) fn signed(octets: &[u8], of: u8) -> usize {
        octets.last().map_or(0, |last| usize::from(last % of.max(1)))
    }

    /// The other one, if it is another, that such octets name.
    pub(super) fn other(self, octets: &[u8]) -> Option<usize> {
        Some(Self::signed(octets, self.of)).filter(|named| *named != self.number())
    }

    /// Whether what we begin of a connection is begun here.
    pub(super) fn is_home_of(self, connection: &ConnectionConfig) -> bool {
        routes::home(connection, self.of) == self.number()
    }
}

/// What all shards know from the start.
#[derive(Clone)]
pub struct Common {
    pub(super) secret: Zeroizing<[u8; 32]>,
    pub(super) since: Instant,
}

impl Common {
    /// Of a random secret.
    pub fn new(secret: Zeroizing<[u8; 32]>, now: Instant) -> Self {
        Self { secret, since: now }
    }
}

/// Both ends of IKE SAs: ours and the peer's identity.
#[derive(Debug, Clone)]
pub struct Peer {
    pub(super) identities: Arc<Identities>,
    /// It has proved nothing (RFC 7619).
    pub(super) unproven: bool,
}

/// What a shard asks the registry.
#[derive(Debug)]
pub enum Question {
    /// How full it is, and if it is not too full a place: one more half-open IKE SA, until [`Note::Left`].
    Room {
        /// Where the request comes from.
        source: IpAddr,
        /// There must be fewer than so many.
        below: usize,
        /// And fewer than so many of that source.
        of_source_below: usize,
    },
    /// Whether there are others of a peer that is about to be let in; from now on it counts among them.
    Claim(Claim),
}

/// A peer that is about to be let in.
#[derive(Debug)]
pub struct Claim {
    pub(super) peer: Peer,
    pub(super) ike: IkeSaId,
    pub(super) connection: String,
    pub(super) unique: Unique,
    /// INITIAL_CONTACT: what was established before then is there no longer.
    pub(super) before: Option<Instant>,
}

/// What the registry answers.
#[derive(Debug)]
pub enum Answer {
    /// To [`Question::Room`]: what there was before, and whether there is a place.
    Room(Load, bool),
    /// To [`Question::Claim`].
    Claimed(Claimed),
}

/// How full it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub(super) half_open: usize,
    pub(super) of_source: usize,
}

/// Who else is there.
#[derive(Debug)]
pub struct Claimed {
    pub(super) peer: Peer,
    /// It has other IKE SAs.
    pub(super) others: bool,
    /// So many others have proved nothing.
    pub(super) unproven: usize,
}

/// What a shard tells the registry.
#[derive(Debug)]
pub enum Note {
    /// An IKE SA is not half-open any more, or never was.
    Left {
        /// Where it came from.
        source: IpAddr,
    },
    /// One more IKE SA of a peer, that nobody has asked about.
    Here(Peer),
    /// One less.
    Gone(Peer),
    /// We have begun an IKE SA that takes the place of others.
    Supersede {
        /// With whom.
        peer: Peer,
        /// Of which connection.
        connection: String,
        /// Which.
        by: IkeSaId,
    },
    /// An [`Order::InitialContact`] of that number was carried out.
    Settled(u64),
    /// Somebody at that address says that he does not have this CHILD SA.
    Hint {
        /// Where.
        from: IpAddr,
        /// Which.
        spi: Spi,
    },
    /// A message for no IKE SA of ours, as far as this shard knows, of which another has to know as well.
    Stray {
        /// That one's number.
        to: usize,
        /// The message.
        datagram: Datagram,
    },
}

/// What the registry tells a shard.
#[derive(Debug)]
pub enum Order {
    /// A peer has come to another shard, and what it had before is there no longer (RFC 7296 §2.4).
    InitialContact {
        /// To be named in [`Note::Settled`].
        number: u64,
        /// Who.
        peer: Peer,
        /// Before when.
        before: Instant,
    },
    /// A peer has an IKE SA in another shard that takes the place of those here.
    Superseded {
        /// Who.
        peer: Peer,
        /// Of which connection.
        connection: String,
        /// Which.
        by: IkeSaId,
    },
    /// Whether a peer of this shard has IKE SAs in others too.
    Elsewhere {
        /// Who.
        peer: Peer,
        /// Whether it has.
        elsewhere: bool,
    },
    /// As [`Note::Hint`].
    Hint {
        /// Where.
        from: IpAddr,
        /// Which.
        spi: Spi,
    },
    /// As [`Note::Stray`].
    Stray(Datagram),
}

/// Whose share of half-open IKE SAs an address counts to.
fn source(addr: IpAddr) -> IpAddr {
    half_open::source(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spis_and_ids_name_their_shard_and_all_values_of_the_octet_are_used() {
        for of in [1, 2, 3, 5, 7, 16, 63, 64] {
            for shard in Shard::all(of) {
                for octet in 0..=u8::MAX {
                    let signed = shard.sign([7, octet]);
                    assert_eq!((signed[0], Shard::signed(&signed, of)), (7, shard.number()));
                    assert_eq!(shard.other(&signed), None);
                }
                assert_eq!(shard.ike(9).0 % u64::from(of), shard.number() as u64);
            }
        }
        assert_eq!(Shard::ALONE.sign([1, 2, 255]), [1, 2, 255]);
        assert_eq!(Shard::ALONE.ike(3), IkeSaId(3));
    }

    #[test]
    fn there_are_no_fewer_than_one_and_no_more_than_can_be_named() {
        assert_eq!(Shard::all(0).collect::<Vec<_>>(), [Shard::ALONE]);
        assert_eq!(Shard::all(255).count(), usize::from(MAX_SHARDS));
    }
}
