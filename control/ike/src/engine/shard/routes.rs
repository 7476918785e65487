//! Which shard something is for.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use super::{MAX_SHARDS, Shard};
use crate::config::{AddressMatch, ConnectionConfig};
use crate::engine::api::{Command, Datagram, DatagramPayload, Failure, IkeSaId};
use crate::engine::ike_sa_init::data_of;
use crate::message::{ExchangeType, Message, notify};

/// The way of everything that comes from outside of the shards. It follows from the configuration.
#[derive(Debug, Clone)]
pub struct Routes {
    of: u8,
    /// Where everything from a peer's address goes that a connection names.
    peers: HashMap<IpAddr, usize>,
    /// Where a connection is initiated.
    homes: HashMap<String, usize>,
}

/// Which shards a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All of them: [`merge`](Routes::merge) says how it has ended.
    All,
    /// That one.
    One(usize),
    /// The first that [is concerned](crate::engine::Engine::is_concerned); if none is, that one.
    Whoever(usize),
}

/// Where we begin IKE SAs of a connection.
pub(super) fn home(connection: &ConnectionConfig, of: u8) -> usize {
    match connection.remote_addrs.iter().find_map(single) {
        Some(addr) => spread(of, addr),
        None => spread(of, &connection.name),
    }
}

fn single(allowed: &AddressMatch) -> Option<IpAddr> {
    match allowed {
        AddressMatch::Address(addr) => Some(*addr),
        AddressMatch::Any | AddressMatch::Network(_) => None,
    }
}

fn spread(of: u8, what: impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    (hasher.finish() % u64::from(of.max(1))) as usize
}

const FLAGS_AT: usize = 19;
const INITIATOR: u8 = 0x08;
const RESPONSE: u8 = 0x20;
const EXCHANGE_AT: usize = 18;

/// What decides about a message (RFC 7296 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address<'a> {
    /// It begins an IKE SA, with this SPI of the initiator's.
    First([u8; 8]),
    /// It shows a ticket.
    Ticket(&'a [u8]),
    /// It is of the IKE SA with this SPI of ours.
    Ours([u8; 8]),
    /// It is of none.
    None,
}

fn octets(datagram: &Datagram) -> &[u8] {
    match &datagram.payload {
        DatagramPayload::Ike(octets) | DatagramPayload::Stream(octets) => octets,
        DatagramPayload::NatKeepalive => &[],
    }
}

fn address(octets: &[u8]) -> Address<'_> {
    let spi = |at: usize| octets.get(at..at + 8).and_then(|spi| <[u8; 8]>::try_from(spi).ok());
    let (Some(spi_i), Some(spi_r), Some(exchange), Some(flags)) =
        (spi(0), spi(8), octets.get(EXCHANGE_AT), octets.get(FLAGS_AT))
    else {
        return Address::None;
    };
    let begins = flags & (INITIATOR | RESPONSE) == INITIATOR;
    if begins && *exchange == ExchangeType::IkeSessionResume.number() {
        return Address::Ticket(octets);
    }
    if begins && *exchange == ExchangeType::IkeSaInit.number() {
        return Address::First(spi_i);
    }
    match if flags & INITIATOR == 0 { spi_i } else { spi_r } {
        [0, 0, 0, 0, 0, 0, 0, 0] => Address::None,
        ours => Address::Ours(ours),
    }
}

/// Which shard has given the ticket of an IKE_SESSION_RESUME request.
fn of_ticket(octets: &[u8], of: u8) -> Option<usize> {
    let received = Message::parse(octets).ok()?;
    let ticket = data_of(&received.message.payloads, notify::TICKET_OPAQUE)?;
    // Its first four octets number its key.
    Some(Shard::signed(ticket.first_chunk::<4>()?, of))
}

impl Routes {
    /// The ways to so many shards.
    pub fn new(connections: &[ConnectionConfig], of: u8) -> Self {
        let of = of.clamp(1, MAX_SHARDS);
        let (mut peers, mut homes) = (HashMap::new(), HashMap::new());
        for connection in connections {
            let home = home(connection, of);
            homes.insert(connection.name.clone(), home);
            for addr in connection.remote_addrs.iter().filter_map(single) {
                peers.entry(addr).or_insert(home);
            }
        }
        Self { of, peers, homes }
    }

    /// The same to as many, for other connections.
    pub fn renewed(&self, connections: &[ConnectionConfig]) -> Self {
        Self::new(connections, self.of)
    }

    /// Whether a message begins an IKE SA.
    pub fn begins(datagram: &Datagram) -> bool {
        matches!(address(octets(datagram)), Address::First(_) | Address::Ticket(_))
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.of.into()
    }

    /// Where a message goes.
    pub fn of_datagram(&self, datagram: &Datagram) -> usize {
        let source = datagram.remote;
        let first = |spi: [u8; 8]| {
            let known = self.peers.get(&source.ip()).copied();
            known.unwrap_or_else(|| spread(self.of, (spi, source)))
        };
        match address(octets(datagram)) {
            Address::Ours(spi) => Shard::signed(&spi, self.of),
            Address::First(spi) => first(spi),
            Address::Ticket(octets) => of_ticket(octets, self.of).unwrap_or_default(),
            Address::None => spread(self.of, source.ip()),
        }
    }

    /// Where an IKE SA is.
    pub fn of_ike(&self, ike: IkeSaId) -> usize {
        (ike.0 % u64::from(self.of)) as usize
    }

    /// Where a connection is initiated; an unknown one nowhere, which any shard will say.
    fn home(&self, connection: &str) -> usize {
        self.homes.get(connection).copied().unwrap_or_default()
    }

    /// Which shards a command is for.
    pub fn reach(&self, command: &Command) -> Reach {
        match command {
            Command::Initiate { connection, .. } | Command::Acquire { connection, .. } => {
                Reach::Whoever(self.home(connection))
            }
            // Whoever has an IKE SA with the peer tells it within that.
            Command::UnknownSpi { seen, .. } => Reach::Whoever(spread(self.of, seen.remote)),
            Command::TerminateSa { ike } | Command::LimitSession { ike, .. } => Reach::One(self.of_ike(*ike)),
            // Those about a pair are for who has it, and nothing to all others.
            Command::Terminate { .. }
            | Command::Rekey { .. }
            | Command::Reauthenticate { .. }
            | Command::Redirect { .. }
            | Command::PeerMoved { .. }
            | Command::FirstPacket { .. }
            | Command::WorkerAsks { .. }
            | Command::SoftLimit { .. }
            | Command::HardLimit { .. }
            | Command::PathsChanged { .. }
            | Command::TerminateAll => Reach::All,
        }
    }

    /// How a command has ended that all shards were given: one that found something to do is enough.
    pub fn merge(ends: impl IntoIterator<Item = Result<(), Failure>>) -> Result<(), Failure> {
        let mut failed = Ok(());
        for end in ends {
            match end {
                Ok(()) => return Ok(()),
                Err(failure) => failed = failed.and(Err(failure)),
            }
        }
        failed
    }
}
