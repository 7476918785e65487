//! Where IKE SAs are found by something other than their id, so that nothing looks at all of them: their own SPI, the
//! connection, the two identities, and the CHILD SAs that they have.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portcullis_ipsec::Spi;

use super::api::IkeSaId;
use super::own_keys::{OwnMap, OwnSet};
use super::sa::Base;
use super::state::State;
use crate::config::Identity;

/// Our identity and the peer's.
pub(super) type Identities = (Identity, Identity);

/// What an IKE SA is found by, besides its CHILD SAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    spi: [u8; 8],
    connection: Option<usize>,
    /// It is an attempt of ours that the peer has not answered yet.
    unanswered: bool,
    /// Once it is established: they are settled then.
    identities: Option<Arc<Identities>>,
    /// Where the peer is, once it is authenticated.
    address: Option<IpAddr>,
    /// The TCP stream that it goes by, our end first.
    stream: Option<Box<(SocketAddr, SocketAddr)>>,
    /// The SPI that it will have if our rekeying succeeds: the peer may use it before we do.
    offered: Option<[u8; 8]>,
}

impl Keys {
    pub(super) fn of(base: &Base, state: &State) -> Self {
        let established = base.established.is_some();
        Self {
            spi: base.own_spi(),
            connection: (!state.half_open()).then_some(base.connection),
            unanswered: state.unanswered(),
            identities: base.identities().filter(|_| established).map(Arc::new),
            address: established.then(|| base.remote.ip()),
            stream: base.path().is_stream().then(|| Box::new(base.path().between())),
            offered: state.offered_spi(),
        }
    }

    /// Whether it is known whose it is.
    pub(super) fn has_identities(&self) -> bool {
        self.identities.is_some()
    }

    /// Whether they still are what it is found by.
    pub(super) fn are_of(&self, base: &Base, state: &State) -> bool {
        let connection = (!state.half_open()).then_some(base.connection);
        let address = base.established.map(|_| base.remote.ip());
        self.spi == base.own_spi()
            && self.connection == connection
            && self.unanswered == state.unanswered()
            && self.identities.is_some() == base.established.is_some()
            && self.address == address
            && self.stream.as_deref() == base.path().is_stream().then(|| base.path().between()).as_ref()
            && self.offered == state.offered_spi()
    }
}

/// The index.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    ids: OwnSet<IkeSaId>,
    by_spi: OwnMap<[u8; 8], IkeSaId>,
    by_connection: HashMap<usize, BTreeSet<IkeSaId>>,
    unanswered: HashMap<usize, BTreeSet<IkeSaId>>,
    /// Mostly one of each, in order.
    by_identities: HashMap<Arc<Identities>, Vec<IkeSaId>>,
    by_address: HashMap<IpAddr, Vec<IkeSaId>>,
    by_stream: HashMap<(SocketAddr, SocketAddr), Vec<IkeSaId>>,
    offered: OwnSet<[u8; 8]>,
    by_pair: OwnMap<Spi, IkeSaId>,
}

impl Index {
    /// Whether an IKE SA is there.
    pub(super) fn has(&self, id: IkeSaId) -> bool {
        self.ids.contains(&id)
    }

    /// Whether an SPI of ours is in use, or about to be.
    pub(super) fn has_spi(&self, spi: &[u8; 8]) -> bool {
        self.by_spi.contains_key(spi) || self.offered.contains(spi)
    }

    /// The IKE SA with that SPI of ours.
    pub(super) fn by_spi(&self, spi: &[u8; 8]) -> Option<IkeSaId> {
        self.by_spi.get(spi).copied()
    }

    /// The IKE SAs of a connection, oldest first.
    pub(super) fn of_connection(&self, connection: usize) -> Vec<IkeSaId> {
        all(&self.by_connection, &connection)
    }

    /// Attempts of ours at a connection that the peer has not answered yet.
    pub(super) fn unanswered(&self, connection: usize) -> Vec<IkeSaId> {
        all(&self.unanswered, &connection)
    }

    /// The authenticated IKE SAs of two identities, oldest first.
    pub(super) fn of_identities(&self, identities: &Identities) -> Vec<IkeSaId> {
        self.by_identities.get(identities).cloned().unwrap_or_default()
    }

    /// The authenticated IKE SAs with peers at an address, oldest first.
    pub(super) fn of_address(&self, addr: IpAddr) -> Vec<IkeSaId> {
        self.by_address.get(&addr).cloned().unwrap_or_default()
    }

    /// The IKE SAs that go by a TCP stream, oldest first: one, and while it is replaced its successor.
    pub(super) fn of_stream(&self, local: SocketAddr, remote: SocketAddr) -> &[IkeSaId] {
        self.by_stream.get(&(local, remote)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The IKE SA that has a CHILD SA.
    pub(super) fn of_pair(&self, pair: Spi) -> Option<IkeSaId> {
        self.by_pair.get(&pair).copied()
    }

    /// A CHILD SA has come to an IKE SA.
    pub(super) fn has_pair(&mut self, pair: Spi, owner: IkeSaId) {
        self.by_pair.insert(pair, owner);
    }

    /// A CHILD SA is gone.
    pub(super) fn forget_pair(&mut self, pair: Spi) {
        self.by_pair.remove(&pair);
    }

    /// An IKE SA is found by `new` and no longer by `old`.
    pub(super) fn update(&mut self, id: IkeSaId, old: Option<&Keys>, new: Option<&Keys>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.ids.remove(&id);
            self.by_spi.remove(&old.spi);
            if let Some(connection) = &old.connection {
                drop_from(&mut self.by_connection, connection, id);
                drop_from(&mut self.unanswered, connection, id);
            }
            if let Some(identities) = &old.identities {
                drop_from_few(&mut self.by_identities, identities.as_ref(), id);
            }
            if let Some(address) = &old.address {
                drop_from_few(&mut self.by_address, address, id);
            }
            if let Some(stream) = &old.stream {
                drop_from_few(&mut self.by_stream, stream.as_ref(), id);
            }
            if let Some(offered) = &old.offered {
                self.offered.remove(offered);
            }
        }
        if let Some(new) = new {
            self.ids.insert(id);
            self.by_spi.insert(new.spi, id);
            if let Some(connection) = new.connection {
                self.by_connection.entry(connection).or_default().insert(id);
                if new.unanswered {
                    self.unanswered.entry(connection).or_default().insert(id);
                }
            }
            if let Some(identities) = &new.identities {
                add_to_few(self.by_identities.entry(Arc::clone(identities)).or_default(), id);
            }
            if let Some(address) = new.address {
                add_to_few(self.by_address.entry(address).or_default(), id);
            }
            if let Some(stream) = &new.stream {
                add_to_few(self.by_stream.entry(**stream).or_default(), id);
            }
            self.offered.extend(new.offered);
        }
    }
}

fn all<K: Hash + Eq>(map: &HashMap<K, BTreeSet<IkeSaId>>, key: &K) -> Vec<IkeSaId> {
    map.get(key).into_iter().flatten().copied().collect()
}

fn drop_from<K: Hash + Eq>(map: &mut HashMap<K, BTreeSet<IkeSaId>>, key: &K, id: IkeSaId) {
    if let Some(ids) = map.get_mut(key) {
        ids.remove(&id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}

/// In order; mostly there is no other, and a set would make room for eleven.
fn add_to_few(ids: &mut Vec<IkeSaId>, id: IkeSaId) {
    if let Err(place) = ids.binary_search(&id) {
        ids.reserve_exact(1);
        ids.insert(place, id);
    }
}

fn drop_from_few<K: Borrow<Q> + Hash + Eq, Q: Hash + Eq + ?Sized>(
    map: &mut HashMap<K, Vec<IkeSaId>>,
    key: &Q,
    id: IkeSaId,
) {
    if let Some(ids) = map.get_mut(key) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            map.remove(key);
        }
    }
}
