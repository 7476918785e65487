//! Another configuration for pools that have leases. An address that somebody uses stays his until his IKE SA ends, in
//! whichever pool it lies now, or in none; whoever comes next gets one that the new configuration has.

use std::fmt;
use std::net::IpAddr;

use portcullis_ipsec::AddressRange;

use super::{Held, Lingering, Pool, PoolConfig, Pools};

/// What another configuration means for a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolChange {
    /// Its name.
    pub pool: String,
    /// What becomes of it.
    pub fate: PoolFate,
    /// Addresses in use that no pool has any more.
    pub lingering: usize,
    /// Addresses that were kept for identities that are not connected, and that no pool has any more.
    pub forgotten: usize,
}

/// What becomes of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolFate {
    /// It is new.
    Added,
    /// It is there no longer.
    Removed,
    /// It has other addresses.
    Moved {
        /// Before.
        from: AddressRange,
        /// From now on.
        to: AddressRange,
    },
    /// What peers are told besides.
    ToldOtherwise,
}

impl fmt::Display for PoolChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}: ", self.pool)?;
        match self.fate {
            PoolFate::Added => f.write_str("added")?,
            PoolFate::Removed => f.write_str("removed")?,
            PoolFate::Moved { from, to } => write!(f, "{from} → {to}")?,
            PoolFate::ToldOtherwise => {
                f.write_str("changed; peers are told from their next authentication")?;
            }
        }
        let addresses = |count| if count == 1 { "address" } else { "addresses" };
        if let count @ 1.. = self.lingering {
            let stay = if count == 1 {
                "stays its peer's until its IKE SA ends"
            } else {
                "stay their peers' until their IKE SAs end"
            };
            write!(f, "; {count} {} in use {stay}", addresses(count))?;
        }
        if let count @ 1.. = self.forgotten {
            let is = if count == 1 { "is" } else { "are" };
            write!(f, "; {count} {} kept for peers that are not connected {is} forgotten", addresses(count))?;
        }
        Ok(())
    }
}

impl Pools {
    /// What `new` would mean, in its order; what was removed comes last.
    pub fn changes(&self, new: &[PoolConfig]) -> Vec<PoolChange> {
        let homeless = |address: &IpAddr| !new.iter().any(|config| config.addrs.contains(*address));
        let change = |pool: Option<&Pool>, name: &str, fate| {
            let mut change = PoolChange { pool: name.to_owned(), fate, lingering: 0, forgotten: 0 };
            for (_, held) in
                pool.iter().flat_map(|pool| &pool.leases).filter(|(address, _)| homeless(address))
            {
                *if held.users > 0 { &mut change.lingering } else { &mut change.forgotten } += 1;
            }
            change
        };
        let mut changes = Vec::new();
        for config in new {
            let before = self.pools.iter().find(|pool| pool.config.name == config.name);
            let fate = match before.map(|pool| &pool.config) {
                None => PoolFate::Added,
                Some(old) if old.addrs != config.addrs => {
                    PoolFate::Moved { from: old.addrs, to: config.addrs }
                }
                Some(old) if old != config => PoolFate::ToldOtherwise,
                Some(_) => continue,
            };
            changes.push(change(before, &config.name, fate));
        }
        let removed =
            self.pools.iter().filter(|pool| !new.iter().any(|config| config.name == pool.config.name));
        changes.extend(removed.map(|pool| change(Some(pool), &pool.config.name, PoolFate::Removed)));
        changes
    }

    /// Takes another configuration.
    pub fn reconfigure(&mut self, configs: Vec<PoolConfig>) {
        let mut old = std::mem::take(&mut self.pools);
        for config in configs {
            let same = |pool: &Pool| pool.config.name == config.name && pool.config.addrs == config.addrs;
            let pool = match old.iter().position(same) {
                Some(place) => Pool { config, ..old.swap_remove(place) },
                None => Pool::new(config),
            };
            self.pools.push(pool);
        }
        let mut loose: Vec<(IpAddr, Lingering)> = self.lingering.drain().collect();
        for Pool { config, leases, .. } in old {
            let of_pool = |(address, held)| (address, Lingering { pool: config.name.clone(), held });
            loose.extend(leases.into_iter().map(of_pool));
        }
        // What was given up longest ago is the first to be taken for another.
        loose.sort_by_key(|(address, lease)| (lease.held.released, *address));
        for (address, lease) in loose {
            match self.pools.iter_mut().find(|pool| pool.config.addrs.contains(address)) {
                Some(pool) => pool.take_over(address, &lease.held),
                None if lease.held.users > 0 => _ = self.lingering.insert(address, lease),
                None => {}
            }
        }
    }

    /// An IKE SA that had an address which no pool has any more has ended.
    pub(super) fn release_lingering(&mut self, address: IpAddr) {
        if let Some(lease) = self.lingering.get_mut(&address) {
            lease.held.users = lease.held.users.saturating_sub(1);
            if lease.held.users == 0 {
                self.lingering.remove(&address);
            }
        }
    }
}

impl Pool {
    /// A lease of another pool, or of this one when it was another.
    fn take_over(&mut self, address: IpAddr, held: &Held) {
        self.bind(address, &held.identity);
        match held.users {
            0 => self.set_offline(address),
            users => {
                if let Some(lease) = self.leases.get_mut(&address) {
                    lease.users = users;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assign, pool, release, request, three};
    use super::*;

    fn said(pools: &Pools, new: &[PoolConfig]) -> Vec<String> {
        pools.changes(new).iter().map(ToString::to_string).collect()
    }

    /// Every lease, as `portcullis pools --leases` shows it.
    fn leases(pools: &Pools) -> Vec<String> {
        let show = |lease: super::super::LeaseStatus| {
            let state = match (lease.online, lease.outside) {
                (true, false) => "online",
                (true, true) => "outside",
                (false, _) => "offline",
            };
            format!("{} {} {} {state}", lease.binding.pool, lease.binding.address, lease.binding.identity)
        };
        pools.leases().into_iter().map(show).collect()
    }

    #[test]
    fn a_pool_that_grows_keeps_everything_and_gives_what_is_new() {
        let mut pools = three();
        for identity in ["a", "b", "c"] {
            assert!(assign(&mut pools, identity).is_some());
        }
        release(&mut pools, "10.3.0.1");
        let wider = [pool("ra", "10.3.0.1", "10.3.0.5")];
        assert_eq!(said(&pools, &wider), ["pool ra: 10.3.0.1-10.3.0.3 → 10.3.0.1-10.3.0.5"]);
        pools.reconfigure(wider.to_vec());
        assert_eq!(leases(&pools), ["ra 10.3.0.1 a offline", "ra 10.3.0.2 b online", "ra 10.3.0.3 c online"]);
        assert_eq!(assign(&mut pools, "d").as_deref(), Some("10.3.0.4"));
        assert_eq!(assign(&mut pools, "a").as_deref(), Some("10.3.0.1"));
        assert_eq!(assign(&mut pools, "e").as_deref(), Some("10.3.0.5"));
        assert_eq!(assign(&mut pools, "f"), None);
    }

    #[test]
    fn an_address_in_use_outside_the_new_range_stays_until_it_is_given_up() {
        let mut pools = three();
        for identity in ["a", "b", "c"] {
            assert!(assign(&mut pools, identity).is_some());
        }
        release(&mut pools, "10.3.0.2");
        let other = [pool("ra", "10.3.0.3", "10.3.0.4")];
        assert_eq!(
            said(&pools, &other),
            [
                "pool ra: 10.3.0.1-10.3.0.3 → 10.3.0.3-10.3.0.4; 1 address in use stays its peer's until its IKE SA ends; \
              1 address kept for peers that are not connected is forgotten"
            ]
        );
        pools.reconfigure(other.to_vec());
        assert_eq!(leases(&pools), ["ra 10.3.0.3 c online", "ra 10.3.0.1 a outside"]);
        let usage = &pools.usage()[0];
        assert_eq!((usage.size, usage.online, usage.offline, usage.outside), (2, 1, 0, 1));
        // Its owner, coming again while the old IKE SA lives, gets one of the new range.
        let again = pools.assign(&request("a", &["10.3.0.1"]));
        assert_eq!(again.leases[0].address.to_string(), "10.3.0.4");
        release(&mut pools, "10.3.0.1");
        assert_eq!(leases(&pools), ["ra 10.3.0.3 c online", "ra 10.3.0.4 a online"]);
        // There is nothing to be released twice.
        release(&mut pools, "10.3.0.1");
        assert_eq!(pools.usage()[0].outside, 0);
    }

    #[test]
    fn an_address_in_use_of_a_removed_pool_is_nobody_elses_when_a_pool_has_it_again() {
        let mut pools = three();
        assert_eq!(assign(&mut pools, "a").as_deref(), Some("10.3.0.1"));
        assert_eq!(
            said(&pools, &[]),
            ["pool ra: removed; 1 address in use stays its peer's until its IKE SA ends"]
        );
        pools.reconfigure(Vec::new());
        assert_eq!(assign(&mut pools, "b"), None);
        assert_eq!(leases(&pools), ["ra 10.3.0.1 a outside"]);
        // Under another name, and in another order of the same addresses.
        let back = [pool("ra6", "2001:db8::1", "2001:db8::9"), pool("clients", "10.3.0.0", "10.3.0.1")];
        assert_eq!(said(&pools, &back), ["pool ra6: added", "pool clients: added"]);
        pools.reconfigure(back.to_vec());
        assert_eq!(leases(&pools), ["clients 10.3.0.1 a online"]);
        let mut wanted = request("b", &["0.0.0.0"]);
        wanted.pools = vec!["clients".to_owned()];
        assert_eq!(pools.assign(&wanted).leases[0].address.to_string(), "10.3.0.0");
        assert_eq!(pools.assign(&wanted).exhausted, ["clients"]);
        // Its IKE SA knows it by the pool that it came from.
        release(&mut pools, "10.3.0.1");
        assert_eq!(leases(&pools), ["clients 10.3.0.1 a offline", "clients 10.3.0.0 b online"]);
    }

    #[test]
    fn what_peers_are_told_changes_for_those_who_come() {
        let mut pools = three();
        assign(&mut pools, "a");
        let mut new = pool("ra", "10.3.0.1", "10.3.0.3");
        assert_eq!(said(&pools, std::slice::from_ref(&new)), [] as [String; 0]);
        new.attributes.dns = vec!["10.1.0.53".parse().unwrap()];
        assert_eq!(
            said(&pools, std::slice::from_ref(&new)),
            ["pool ra: changed; peers are told from their next authentication"]
        );
        pools.reconfigure(vec![new.clone()]);
        assert_eq!(pools.assign(&request("b", &["0.0.0.0"])).attributes, new.attributes);
        assert_eq!(leases(&pools).len(), 2);
    }

    /// Whatever pools come and go: nobody has what another has, and nothing is in use for ever.
    #[test]
    fn no_reconfiguration_gives_an_address_to_two() {
        use rand_core::{Rng as _, SeedableRng as _};
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(11);
        let mut draw = move |below: u32| rng.next_u32() % below;
        let mut pools = three();
        let mut online: Vec<super::super::Lease> = Vec::new();
        for _ in 0..20_000 {
            match draw(8) {
                0 => {
                    let (cut, end) = (draw(8), 8 + draw(8));
                    let at = |last: u32| format!("10.3.0.{last}");
                    let mut new = vec![pool("ra", &at(cut), &at(end)), pool("ra6", &at(end + 1), &at(24))];
                    new.truncate(draw(3) as usize);
                    pools.reconfigure(new);
                }
                1..=4 => {
                    let identity = format!("id{}", draw(12));
                    if let Some(lease) = pools.assign(&request(&identity, &["0.0.0.0"])).leases.first() {
                        assert!(!online.iter().any(|other| other.address == lease.address), "{lease:?}");
                        online.push(lease.clone());
                    }
                }
                _ if online.is_empty() => {}
                _ => pools.release(&[online.swap_remove(draw(online.len() as u32) as usize)]),
            }
            let in_use = pools.leases().iter().filter(|lease| lease.online).count();
            assert_eq!(in_use, online.len());
        }
        pools.release(&online);
        assert!(pools.leases().iter().all(|lease| !lease.online && !lease.outside));
    }
}
