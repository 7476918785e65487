//! A worker's own memory of next hops.
//!
//! It holds for one table and one second, so that a neighbour in use is marked as used again every second
//! ([`RouteTable::take_used`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{NextHop, RouteTable};
use crate::coarse::Coarse;

/// Places, each for one destination. A destination has one place, and the last one there stays.
const PLACES: usize = 1024;

/// Direct-mapped, by destination.
#[derive(Debug)]
pub struct HopCache {
    places: Box<[Place]>,
    seed: u64,
    /// What is remembered now came from this one. Held, so that no other table can have its address.
    table: Arc<RouteTable>,
    now: Coarse,
    /// Counts tables and seconds; places of earlier ones are as good as empty.
    epoch: u32,
}

/// One cache line.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Place {
    dst: u128,
    v6: bool,
    /// Never 0 in use.
    epoch: u32,
    hop: NextHop,
}

const _: () = assert!(size_of::<Place>() == 64);

impl HopCache {
    /// An empty one. `seed` is random, so that nobody outside can choose destinations that share a place.
    pub fn new(seed: u64) -> Self {
        let empty = Place { dst: 0, v6: false, epoch: 0, hop: NextHop::None };
        let places = vec![empty; PLACES].into_boxed_slice();
        Self { places, seed, table: Arc::default(), now: Coarse::default(), epoch: 1 }
    }

    /// To be called before each batch with the table now and the time now.
    #[inline]
    pub fn begin(&mut self, table: &Arc<RouteTable>, now: Coarse) {
        if !Arc::ptr_eq(&self.table, table) || self.now != now {
            self.forget(table, now);
        }
    }

    /// What [`RouteTable::resolve`] says, remembered. `dst` is the address as a number.
    #[inline(always)]
    pub fn resolve(&mut self, dst: u128, v6: bool) -> &NextHop {
        let word = (dst >> 64) as u64 ^ dst as u64 ^ self.seed;
        let product = u128::from(word) * u128::from(self.seed | 1);
        let index = ((product >> 64) as u64 ^ product as u64) as usize % PLACES;
        let Some(place) = self.places.get_mut(index) else { return &NextHop::None };
        if place.epoch != self.epoch || place.dst != dst || place.v6 != v6 {
            *place = Place { dst, v6, epoch: self.epoch, hop: look_up(&self.table, dst, v6) };
        }
        &place.hop
    }

    /// What [`RouteTable::is_local`] says, remembered.
    #[inline(always)]
    pub fn is_local(&mut self, dst: u128, v6: bool) -> bool {
        matches!(self.resolve(dst, v6), NextHop::Local)
    }

    /// The same for an address.
    pub fn resolve_addr(&mut self, dst: IpAddr) -> NextHop {
        match dst {
            IpAddr::V4(dst) => *self.resolve(dst.to_bits().into(), false),
            IpAddr::V6(dst) => *self.resolve(dst.to_bits(), true),
        }
    }

    #[cold]
    fn forget(&mut self, table: &Arc<RouteTable>, now: Coarse) {
        (self.table, self.now) = (Arc::clone(table), now);
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.places.iter_mut().for_each(|place| place.epoch = 0);
            self.epoch = 1;
        }
    }
}

#[cold]
fn look_up(table: &RouteTable, dst: u128, v6: bool) -> NextHop {
    table.resolve(match v6 {
        true => IpAddr::V6(Ipv6Addr::from_bits(dst)),
        false => IpAddr::V4(Ipv4Addr::from_bits(dst as u32)),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::{PortIndex, PortInfo, Role, Route};
    use super::*;

    fn table(mac: [u8; 6]) -> Arc<RouteTable> {
        let port = PortInfo {
            index: PortIndex(0),
            ifindex: 7,
            name: "outside0".to_owned(),
            role: Role::Outside,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            addresses: Vec::new(),
        };
        let mut table = RouteTable::new(vec![port]);
        let gateway = Some(IpAddr::from([192, 0, 2, 254]));
        table.set_routes([("0.0.0.0/0".parse().unwrap(), Route::Via { ifindex: 7, gateway, mtu: None })]);
        table.set_neighbours(HashMap::from([((7, IpAddr::from([192, 0, 2, 254])), mac)]));
        Arc::new(table)
    }

    fn mac(hop: NextHop) -> Option<[u8; 6]> {
        match hop {
            NextHop::Port { dst_mac, .. } => Some(dst_mac),
            _ => None,
        }
    }

    #[test]
    fn more_destinations_than_places_all_get_their_own_answer() {
        let (table, mut cache) = (table([9; 6]), HopCache::new(0x1234_5678_9abc_def1));
        cache.begin(&table, Coarse(1));
        for round in 0..2 {
            for n in 0..3 * PLACES as u32 {
                let dst = Ipv4Addr::from_bits(n * 7919);
                assert_eq!(*cache.resolve(dst.to_bits().into(), false), table.resolve(dst.into()), "{round}");
                assert_eq!(*cache.resolve(dst.to_bits().into(), true), NextHop::None, "another family");
            }
        }
    }

    #[test]
    fn another_table_is_asked_at_once() {
        let mut cache = HopCache::new(3);
        for last in [1, 2, 1] {
            cache.begin(&table([last; 6]), Coarse(1));
            assert_eq!(mac(*cache.resolve(7, false)), Some([last; 6]));
        }
    }

    #[test]
    fn a_neighbour_in_use_is_marked_every_second() {
        let (table, mut cache) = (table([9; 6]), HopCache::new(3));
        for second in 1..4 {
            cache.begin(&table, Coarse(second));
            cache.resolve(7, false);
            cache.resolve(7, false);
            assert_eq!(table.take_used().len(), 1);
        }
    }
}
