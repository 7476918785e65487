//! Address pools: which address whom (RFC 7296 §2.19). What engines share: they ask by jobs
//! ([`crate::engine::Job::AssignAddresses`]), and whoever owns the [`Pools`] answers. No clock, no store of its own: what is
//! to outlive a restart comes out of [`Pools::poll_binding`] and goes back in through [`Pools::restore`].
//!
//! A lease is sticky: an identity gets the address that it had, until every address has been somebody's and the one that
//! was given up longest ago is taken for another.

mod reconfigure;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portcullis_ipsec::AddressRange;

pub use reconfigure::{PoolChange, PoolFate};

/// A pool (swanctl's `pools.NAME`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// Its name, unique.
    pub name: String,
    /// The addresses that are given out.
    pub addrs: AddressRange,
    /// What goes with an address.
    pub attributes: Attributes,
}

/// What a peer is told besides its address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// NetBIOS name servers.
    pub nbns: Vec<Ipv4Addr>,
    /// Networks that it reaches through the tunnel.
    pub subnets: Vec<IpNet>,
    /// Domains whose names the name servers know (RFC 8598).
    pub domains: Vec<String>,
}

impl Attributes {
    fn add(&mut self, other: &Self) {
        fn union<T: Clone + PartialEq>(to: &mut Vec<T>, from: &[T]) {
            let new: Vec<T> = from.iter().filter(|item| !to.contains(item)).cloned().collect();
            to.extend(new);
        }
        union(&mut self.dns, &other.dns);
        union(&mut self.nbns, &other.nbns);
        union(&mut self.subnets, &other.subnets);
        union(&mut self.domains, &other.domains);
    }
}

/// What a peer's authentication brings along, RADIUS's Framed-IP-Address for instance. It goes before pools.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// Addresses for this peer; one of each family counts.
    pub addresses: Vec<IpAddr>,
    /// What it is told besides.
    pub attributes: Attributes,
}

/// A peer asks for addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRequest {
    /// Who asks: its identity as [`crate::config::Identity`] prints it, or its name within EAP.
    pub identity: String,
    /// Names of the pools, in order of preference.
    pub pools: Vec<String>,
    /// What it asks for, one of each family at most: an address, unspecified if it takes any.
    pub wanted: Vec<IpAddr>,
    /// What its authentication brought.
    pub grant: Grant,
}

/// An address that somebody has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// Its pool; `None`: the peer's authentication brought it.
    pub pool: Option<String>,
}

/// What a peer gets. Without leases, nothing of what it asks for is to be had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// One of each family at most.
    pub leases: Vec<Lease>,
    /// What it is told besides.
    pub attributes: Attributes,
    /// Pools that had no address left.
    pub exhausted: Vec<String>,
}

/// An address belongs to an identity, whether it is in use or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The pool.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
    /// Whose; see [`AddressRequest::identity`].
    pub identity: String,
}

/// How full a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUsage {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addrs: AddressRange,
    /// How many it has.
    pub size: u128,
    /// In use.
    pub online: usize,
    /// Kept for identities that are not connected.
    pub offline: usize,
    /// In use, and not among its addresses any more.
    pub outside: usize,
}

/// A lease, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Whose, and which.
    pub binding: Binding,
    /// Whether it is in use.
    pub online: bool,
    /// Whether no pool has it any more: it stays until it is given up.
    pub outside: bool,
}

/// All pools.
#[derive(Debug, Default)]
pub struct Pools {
    pools: Vec<Pool>,
    /// In use, and in no pool any more.
    lingering: HashMap<IpAddr, Lingering>,
    fresh: VecDeque<Binding>,
}

impl Pools {
    /// Pools without leases.
    pub fn new(configs: Vec<PoolConfig>) -> Self {
        Self { pools: configs.into_iter().map(Pool::new).collect(), ..Self::default() }
    }

    /// Takes back what [`Pools::poll_binding`] gave out in an earlier life, in the same order. False if no pool has that
    /// address any more.
    pub fn restore(&mut self, binding: Binding) -> bool {
        match self.pool(&binding.pool) {
            Some(pool) if pool.config.addrs.contains(binding.address) => {
                pool.bind(binding.address, &binding.identity);
                pool.set_offline(binding.address);
                true
            }
            _ => false,
        }
    }

    /// Gives a peer what it asks for, as far as that goes.
    pub fn assign(&mut self, request: &AddressRequest) -> Assignment {
        let AddressRequest { identity, pools, wanted, grant } = request;
        let mut assignment = Assignment { attributes: grant.attributes.clone(), ..Assignment::default() };
        for wanted in wanted {
            let same_family = |addr: &IpAddr| addr.is_ipv4() == wanted.is_ipv4();
            if assignment.leases.iter().any(|lease| same_family(&lease.address)) {
                continue;
            }
            if let Some(address) = grant.addresses.iter().copied().find(same_family) {
                assignment.leases.push(Lease { address, pool: None });
                continue;
            }
            let fitting: Vec<usize> = (0..self.pools.len())
                .filter(|index| {
                    let config = self.pools.get(*index).map(|pool| &pool.config);
                    config.is_some_and(|config| {
                        pools.contains(&config.name) && same_family(&config.addrs.start())
                    })
                })
                .collect();
            for index in self.by_preference(fitting, pools, identity) {
                let Some(pool) = self.pools.get_mut(index) else { continue };
                match pool.lease(identity, *wanted) {
                    Some((address, new)) => {
                        let name = pool.config.name.clone();
                        if new {
                            let identity = identity.clone();
                            self.fresh.push_back(Binding { pool: name.clone(), address, identity });
                        }
                        assignment.leases.push(Lease { address, pool: Some(name) });
                        break;
                    }
                    None => assignment.exhausted.push(pool.config.name.clone()),
                }
            }
        }
        // What a pool tells goes with its address, but a name server of the other family is of use too.
        for pool in &self.pools {
            if request.pools.contains(&pool.config.name) {
                assignment.attributes.add(&pool.config.attributes);
            }
        }
        assignment
    }

    /// Pools in the order of their names, but one that knows the identity first.
    fn by_preference(&self, mut pools: Vec<usize>, names: &[String], identity: &str) -> Vec<usize> {
        pools.sort_by_key(|index| {
            let pool = self.pools.get(*index);
            let known = pool.is_some_and(|pool| pool.by_identity.contains_key(identity));
            let place = pool.and_then(|pool| names.iter().position(|name| *name == pool.config.name));
            (!known, place)
        });
        pools
    }

    /// An IKE SA that had these has ended. A lease that several have is in use until the last of them has.
    pub fn release(&mut self, leases: &[Lease]) {
        // An address is in one pool at most, which may have another name by now.
        for lease in leases.iter().filter(|lease| lease.pool.is_some()) {
            match self.pools.iter_mut().find(|pool| pool.leases.contains_key(&lease.address)) {
                Some(pool) => pool.release(lease.address),
                None => self.release_lingering(lease.address),
            }
        }
    }

    /// The next binding that is to outlive a restart. It takes the place of any earlier one of the same address.
    pub fn poll_binding(&mut self) -> Option<Binding> {
        self.fresh.pop_front()
    }

    /// How full each pool is, in the order of the configuration.
    pub fn usage(&self) -> Vec<PoolUsage> {
        let usage = self.pools.iter().map(|pool| PoolUsage {
            name: pool.config.name.clone(),
            addrs: pool.config.addrs,
            size: pool.size(),
            online: pool.leases.len() - pool.offline.len(),
            offline: pool.offline.len(),
            outside: self.lingering.values().filter(|lease| lease.pool == pool.config.name).count(),
        });
        usage.collect()
    }

    /// Every lease, those not in use first, in the order in which they were given up; so [`Pools::restore`] takes them.
    /// Those that no pool has any more come last.
    pub fn leases(&self) -> Vec<LeaseStatus> {
        let mut all = Vec::new();
        for pool in &self.pools {
            let mut leases: Vec<_> = pool.leases.iter().collect();
            leases.sort_by_key(|(address, held)| (held.users > 0, held.released, **address));
            all.extend(leases.into_iter().map(|(address, held)| LeaseStatus {
                binding: Binding {
                    pool: pool.config.name.clone(),
                    address: *address,
                    identity: held.identity.clone(),
                },
                online: held.users > 0,
                outside: false,
            }));
        }
        let mut outside: Vec<_> = self.lingering.iter().collect();
        outside.sort_by_key(|(address, _)| **address);
        all.extend(outside.into_iter().map(|(address, Lingering { pool, held })| LeaseStatus {
            binding: Binding { pool: pool.clone(), address: *address, identity: held.identity.clone() },
            online: true,
            outside: true,
        }));
        all
    }

    fn pool(&mut self, name: &str) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|pool| pool.config.name == name)
    }
}

#[derive(Debug)]
struct Pool {
    config: PoolConfig,
    leases: HashMap<IpAddr, Held>,
    by_identity: HashMap<String, Vec<IpAddr>>,
    /// What nobody uses, by when it was given up.
    offline: BTreeMap<u64, IpAddr>,
    /// Counts what is given up.
    releases: u64,
    /// Everything before this place in the range has been somebody's.
    next: u128,
}

#[derive(Debug)]
struct Held {
    identity: String,
    /// IKE SAs that have it: two while one replaces another.
    users: u32,
    released: u64,
}

/// A lease that its pool has left behind.
#[derive(Debug)]
struct Lingering {
    pool: String,
    held: Held,
}

impl Pool {
    fn new(config: PoolConfig) -> Self {
        Self {
            config,
            leases: HashMap::new(),
            by_identity: HashMap::new(),
            offline: BTreeMap::new(),
            releases: 0,
            next: 0,
        }
    }

    /// `u128::MAX` for all of IPv6, which is one short.
    fn size(&self) -> u128 {
        let span = number(self.config.addrs.end()) - number(self.config.addrs.start());
        span.saturating_add(1)
    }

    /// An address for an identity, and whether it is new to it; `None` if all are in use.
    fn lease(&mut self, identity: &str, wanted: IpAddr) -> Option<(IpAddr, bool)> {
        let own = self.by_identity.get(identity).map(Vec::as_slice).unwrap_or_default();
        // The one that it has now and asks for: its IKE SA is being replaced.
        let kept = own.iter().copied().find(|addr| *addr == wanted);
        let is_idle = |addr: &IpAddr| self.leases.get(addr).is_some_and(|held| held.users == 0);
        if let Some(address) = kept.or_else(|| own.iter().copied().find(is_idle)) {
            self.use_once_more(address);
            return Some((address, false));
        }
        let address = self.never_used().or_else(|| self.offline.values().next().copied())?;
        self.bind(address, identity);
        self.use_once_more(address);
        Some((address, true))
    }

    fn never_used(&mut self) -> Option<IpAddr> {
        let (start, size) = (self.config.addrs.start(), self.size());
        while self.next < size {
            let address = at(start, self.next);
            self.next += 1;
            if !self.leases.contains_key(&address) {
                return Some(address);
            }
        }
        None
    }

    /// The address is this identity's from now on, and nobody's any more who had it.
    fn bind(&mut self, address: IpAddr, identity: &str) {
        if let Some(earlier) = self.leases.remove(&address) {
            self.offline.remove(&earlier.released);
            if let Some(own) = self.by_identity.get_mut(&earlier.identity) {
                own.retain(|addr| *addr != address);
                if own.is_empty() {
                    self.by_identity.remove(&earlier.identity);
                }
            }
        }
        self.leases.insert(address, Held { identity: identity.to_owned(), users: 0, released: 0 });
        self.by_identity.entry(identity.to_owned()).or_default().push(address);
    }

    fn use_once_more(&mut self, address: IpAddr) {
        if let Some(held) = self.leases.get_mut(&address) {
            held.users += 1;
            self.offline.remove(&held.released);
        }
    }

    fn release(&mut self, address: IpAddr) {
        let Some(held) = self.leases.get_mut(&address) else { return };
        held.users = held.users.saturating_sub(1);
        if held.users == 0 {
            self.set_offline(address);
        }
    }

    fn set_offline(&mut self, address: IpAddr) {
        let Some(held) = self.leases.get_mut(&address) else { return };
        self.offline.remove(&held.released);
        self.releases += 1;
        held.released = self.releases;
        self.offline.insert(self.releases, address);
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).into(),
        IpAddr::V6(addr) => addr.into(),
    }
}

/// The address so many places behind `start`, of the same family.
fn at(start: IpAddr, offset: u128) -> IpAddr {
    let number = number(start).wrapping_add(offset);
    match start {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> AddressRange {
        AddressRange::new(start.parse().unwrap(), end.parse().unwrap()).unwrap()
    }

    pub(super) fn pool(name: &str, start: &str, end: &str) -> PoolConfig {
        PoolConfig {
            name: name.to_owned(),
            addrs: range(start, end),
            attributes: Attributes { dns: vec![start.parse().unwrap()], ..Attributes::default() },
        }
    }

    pub(super) fn three() -> Pools {
        Pools::new(vec![pool("ra", "10.3.0.1", "10.3.0.3")])
    }

    pub(super) fn request(identity: &str, wanted: &[&str]) -> AddressRequest {
        AddressRequest {
            identity: identity.to_owned(),
            pools: vec!["ra".to_owned(), "ra6".to_owned()],
            wanted: wanted.iter().map(|addr| addr.parse().unwrap()).collect(),
            grant: Grant::default(),
        }
    }

    /// What an identity that takes any address gets.
    pub(super) fn assign(pools: &mut Pools, identity: &str) -> Option<String> {
        let assignment = pools.assign(&request(identity, &["0.0.0.0"]));
        assignment.leases.first().map(|lease| lease.address.to_string())
    }

    pub(super) fn release(pools: &mut Pools, address: &str) {
        pools.release(&[Lease { address: address.parse().unwrap(), pool: Some("ra".to_owned()) }]);
    }

    #[test]
    fn an_identity_gets_the_address_that_it_had() {
        let mut pools = three();
        assert_eq!(assign(&mut pools, "a").as_deref(), Some("10.3.0.1"));
        assert_eq!(assign(&mut pools, "b").as_deref(), Some("10.3.0.2"));
        release(&mut pools, "10.3.0.1");
        assert_eq!(assign(&mut pools, "c").as_deref(), Some("10.3.0.3"));
        assert_eq!(assign(&mut pools, "a").as_deref(), Some("10.3.0.1"));
    }

    #[test]
    fn two_devices_of_one_identity_have_an_address_each() {
        let mut pools = three();
        assert_eq!(assign(&mut pools, "a").as_deref(), Some("10.3.0.1"));
        assert_eq!(assign(&mut pools, "a").as_deref(), Some("10.3.0.2"));
    }

    #[test]
    fn a_full_pool_is_named_and_gives_what_was_given_up_longest_ago() {
        let mut pools = three();
        for identity in ["a", "b", "c"] {
            assert!(assign(&mut pools, identity).is_some());
        }
        let full = pools.assign(&request("d", &["0.0.0.0"]));
        assert_eq!((full.leases.len(), full.exhausted), (0, vec!["ra".to_owned()]));
        release(&mut pools, "10.3.0.2");
        release(&mut pools, "10.3.0.1");
        assert_eq!(assign(&mut pools, "d").as_deref(), Some("10.3.0.2"));
        assert_eq!(assign(&mut pools, "b").as_deref(), Some("10.3.0.1"));
        assert_eq!(assign(&mut pools, "a"), None);
    }

    #[test]
    fn an_ike_sa_that_replaces_another_keeps_the_address_until_both_have_ended() {
        let mut pools = three();
        assert_eq!(assign(&mut pools, "a").as_deref(), Some("10.3.0.1"));
        let again = pools.assign(&request("a", &["10.3.0.1"]));
        assert_eq!(again.leases[0].address.to_string(), "10.3.0.1");
        release(&mut pools, "10.3.0.1");
        assert_eq!(pools.usage()[0].online, 1);
        release(&mut pools, "10.3.0.1");
        assert_eq!((pools.usage()[0].online, pools.usage()[0].offline), (0, 1));
    }

    #[test]
    fn an_address_of_somebody_else_is_not_to_be_had_by_asking_for_it() {
        let mut pools = three();
        assert_eq!(assign(&mut pools, "a").as_deref(), Some("10.3.0.1"));
        let other = pools.assign(&request("b", &["10.3.0.1"]));
        assert_eq!(other.leases[0].address.to_string(), "10.3.0.2");
    }

    #[test]
    fn both_families_come_from_a_pool_each_with_what_the_pools_tell() {
        let mut pools = Pools::new(vec![
            pool("ra", "10.3.0.1", "10.3.0.3"),
            pool("ra6", "2001:db8::1", "2001:db8::ffff"),
            pool("other", "10.9.0.1", "10.9.0.9"),
        ]);
        let both = pools.assign(&request("a", &["0.0.0.0", "::"]));
        let addresses: Vec<String> = both.leases.iter().map(|lease| lease.address.to_string()).collect();
        assert_eq!(addresses, ["10.3.0.1", "2001:db8::1"]);
        assert_eq!(both.attributes.dns.len(), 2);
        // Of a family that is not asked for there is none.
        assert_eq!(pools.assign(&request("b", &["::"])).leases.len(), 1);
    }

    #[test]
    fn what_the_authentication_brings_goes_before_the_pools() {
        let mut pools = three();
        let mut request = request("a", &["0.0.0.0"]);
        request.grant.addresses = vec!["10.8.8.8".parse().unwrap()];
        let assignment = pools.assign(&request);
        assert_eq!(assignment.leases, [Lease { address: "10.8.8.8".parse().unwrap(), pool: None }]);
        assert_eq!(pools.usage()[0].online, 0);
        pools.release(&assignment.leases);
    }

    #[test]
    fn leases_survive_a_restart() {
        let mut pools = three();
        for identity in ["a", "b", "c"] {
            assign(&mut pools, identity);
        }
        release(&mut pools, "10.3.0.1");
        release(&mut pools, "10.3.0.2");
        assert_eq!(assign(&mut pools, "d").as_deref(), Some("10.3.0.1"));
        let kept: Vec<Binding> = std::iter::from_fn(|| pools.poll_binding()).collect();
        let mut after = three();
        assert!(kept.into_iter().all(|binding| after.restore(binding)));
        assert_eq!((after.usage()[0].online, after.usage()[0].offline), (0, 3));
        for (identity, address) in [("b", "10.3.0.2"), ("c", "10.3.0.3"), ("d", "10.3.0.1")] {
            assert_eq!(assign(&mut after, identity).as_deref(), Some(address));
        }
        assert_eq!(assign(&mut after, "a"), None);
        let gone =
            Binding { pool: "ra".to_owned(), address: "10.4.0.1".parse().unwrap(), identity: "z".to_owned() };
        assert!(!after.restore(gone));
    }

    #[test]
    fn an_ipv6_pool_of_any_size_is_counted_without_overflow() {
        let mut pools = Pools::new(vec![pool("ra", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]);
        assert_eq!(pools.usage()[0].size, u128::MAX);
        let assignment = pools.assign(&request("a", &["::"]));
        assert_eq!(assignment.leases[0].address.to_string(), "::");
    }

    /// Whatever comes and goes: nobody has what another has, and everything is counted.
    #[test]
    fn no_address_is_ever_two_identities() {
        use rand_core::{Rng as _, SeedableRng as _};
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(7);
        let mut pools = Pools::new(vec![pool("ra", "10.3.0.0", "10.3.0.15")]);
        let mut online: Vec<(String, Lease)> = Vec::new();
        for _ in 0..20_000 {
            let identity = format!("id{}", rng.next_u32() % 24);
            if rng.next_u32() % 2 == 0 {
                let wanted = match online.iter().find(|(who, _)| *who == identity) {
                    Some((_, lease)) if rng.next_u32() % 2 == 0 => lease.address.to_string(),
                    _ => "0.0.0.0".to_owned(),
                };
                let assignment = pools.assign(&request(&identity, &[&wanted]));
                let used: std::collections::HashSet<_> =
                    online.iter().map(|(_, lease)| lease.address).collect();
                match assignment.leases.first() {
                    Some(lease) => {
                        let foreign = |(who, other): &(String, Lease)| {
                            who != &identity && other.address == lease.address
                        };
                        assert!(!online.iter().any(foreign));
                        online.push((identity, lease.clone()));
                    }
                    None => assert_eq!(used.len(), 16),
                }
            } else if !online.is_empty() {
                let (_, lease) = online.swap_remove(rng.next_u32() as usize % online.len());
                pools.release(&[lease]);
            }
            let used: std::collections::HashSet<_> = online.iter().map(|(_, lease)| lease.address).collect();
            let usage = &pools.usage()[0];
            assert_eq!(usage.online, used.len());
            assert!(usage.online + usage.offline <= 16);
        }
    }
}
