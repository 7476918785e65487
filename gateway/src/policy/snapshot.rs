//! All policies at one moment, as workers look them up.
//!
//! A selector becomes the prefixes that its addresses are. A trie of destination prefixes leads to source prefixes, as a
//! list where they are few and as a trie where not, and those to the rules that differ in protocol and ports. The tries
//! share what did not change with the snapshot before, so that installing one policy among a hundred thousand costs a few
//! nodes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ipnet::IpNet;
use portcullis_ipsec::{Flow, Policy, PolicyAction, PolicyOrigin, PortRange, TenantId, TrafficSelector};

use super::PolicyEntry;
use crate::lpm::Lpm;
use crate::prefetch;

/// Most pairs of a source and a destination prefix that one policy may come to.
pub const MAX_PREFIX_PAIRS: usize = 4096;

/// What a packet's selectors say about it.
#[derive(Debug, Clone, Copy)]
pub enum Verdict<'a> {
    /// This policy says what is done with it.
    Covered(&'a Arc<PolicyEntry>),
    /// No policy covers it.
    NoMatch,
}

/// The policies, unchanging.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Differs from that of every other snapshot of the same table.
    generation: u64,
    /// How many of them bypass.
    bypassing: usize,
    /// How many of them drop by a priority of their own.
    discarding_first: usize,
    tenants: BTreeMap<TenantId, Tiers>,
}

/// Policies of one precedence together, the first to be asked first. There are as many as there are different
/// priorities: two where nobody has configured any.
type Tiers = BTreeMap<Tier, Lpm<Sources>>;

/// Lower goes first; of one priority, negotiated policies before configured ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tier {
    priority: u32,
    configured: bool,
}

impl Tier {
    fn of(policy: &Policy) -> Self {
        let configured = matches!(policy.origin, PolicyOrigin::Configured { .. });
        Self { priority: policy.precedence(), configured }
    }
}

/// More rules than these for one destination prefix are looked up in a trie.
const FEW: usize = 8;

/// The rules for packets to one destination prefix, by source prefix. Shared with other snapshots, as nodes of tries are: a
/// node that is copied copies none of the rules that it leads to.
#[derive(Debug, Clone)]
enum Sources {
    /// The longest source prefix first, then the narrowest.
    Few(Arc<[(IpNet, Rule)]>),
    /// The rules of each source prefix, the narrowest first.
    Many(Box<Lpm<Arc<[Rule]>>>),
}

impl Sources {
    fn new(source: IpNet, rule: Rule) -> Self {
        Self::Few(Arc::new([(source, rule)]))
    }

    /// The first rule that covers a packet.
    fn find(&self, flow: &Flow) -> Option<&Rule> {
        match self {
            Self::Few(rules) => {
                let covers = |source: &IpNet, rule: &Rule| source.contains(&flow.src) && rule.covers(flow);
                rules.iter().find(|(source, rule)| covers(source, rule)).map(|(_, rule)| rule)
            }
            Self::Many(sources) => {
                let mut rules = sources.matches(flow.src).flat_map(|(_, rules)| rules.iter());
                rules.find(|rule| rule.covers(flow))
            }
        }
    }

    fn add(&mut self, source: IpNet, rule: Rule) {
        if let Self::Few(rules) = self
            && rules.len() == FEW
        {
            let mut sources = Lpm::new();
            rules.iter().cloned().for_each(|(source, rule)| add_to(&mut sources, source, rule));
            *self = Self::Many(Box::new(sources));
        }
        match self {
            Self::Few(rules) => {
                let order = |source: &IpNet, rule: &Rule| (Reverse(source.prefix_len()), rule.breadth);
                let own = order(&source, &rule);
                let place = rules.partition_point(|(source, rule)| order(source, rule) <= own);
                *rules = with(rules, place, (source, rule));
            }
            Self::Many(sources) => add_to(sources, source, rule),
        }
    }

    fn remove(&mut self, source: IpNet, entry: &Arc<PolicyEntry>) {
        match self {
            Self::Few(rules) => {
                let stays = |(other, rule): &&(IpNet, Rule)| *other != source || !rule.is_of(entry);
                *rules = rules.iter().filter(stays).cloned().collect();
            }
            Self::Many(sources) => {
                let Some(rules) = sources.get_mut(source) else { return };
                *rules = rules.iter().filter(|rule| !rule.is_of(entry)).cloned().collect();
                if rules.is_empty() {
                    sources.remove(source);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Few(rules) => rules.is_empty(),
            Self::Many(sources) => sources.is_empty(),
        }
    }
}

fn add_to(sources: &mut Lpm<Arc<[Rule]>>, source: IpNet, rule: Rule) {
    match sources.get_mut(source) {
        Some(rules) => {
            let place = rules.partition_point(|other| other.breadth <= rule.breadth);
            *rules = with(rules, place, rule);
        }
        None => drop(sources.insert(source, Arc::new([rule]))),
    }
}

/// The list with one more in that place.
fn with<T: Clone>(list: &[T], place: usize, value: T) -> Arc<[T]> {
    let (before, after) = list.split_at(place.min(list.len()));
    before.iter().cloned().chain([value]).chain(after.iter().cloned()).collect()
}

/// One of a policy's local selectors with one of its remote ones, for one pair of their prefixes.
#[derive(Debug, Clone)]
struct Rule {
    breadth: Breadth,
    source: (u8, PortRange),
    destination: (u8, PortRange),
    entry: Arc<PolicyEntry>,
}

/// Narrower is less: a protocol before any, then fewer pairs of ports, then what was installed earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Breadth {
    any_protocol: bool,
    port_pairs: u64,
    order: u64,
}

impl Snapshot {
    /// Tells snapshots of one table apart.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether any policy bypasses anything.
    #[inline(always)]
    pub fn bypasses(&self) -> bool {
        self.bypassing > 0
    }

    /// Whether any policy may drop what another one protects.
    #[inline(always)]
    pub fn discards_first(&self) -> bool {
        self.discarding_first > 0
    }

    /// The policy that covers a packet: the lowest priority (see [`Policy::precedence`]); negotiated before configured;
    /// then the longest destination prefix, the longest source prefix, the narrower protocol and ports, and the one
    /// installed first.
    pub fn lookup(&self, tenant: TenantId, flow: &Flow) -> Verdict<'_> {
        let Some(tiers) = self.tenants.get(&tenant) else { return Verdict::NoMatch };
        let found = tiers
            .values()
            .find_map(|tries| tries.matches(flow.dst).find_map(|(_, sources)| sources.find(flow)));
        found.map_or(Verdict::NoMatch, |rule| Verdict::Covered(&rule.entry))
    }

    /// Asks the processor for what [`Snapshot::lookup`] will need for packets to these destinations: step by step for all of
    /// them, so that memory is waited for once a step and not once a step and packet.
    pub fn prefetch<const N: usize>(&self, wanted: &ArrayVec<(TenantId, IpAddr), N>) {
        let mut ways = ArrayVec::<_, N>::new();
        for (tenant, dst) in wanted {
            // Those that are asked first; the next tiers are asked of what these have nothing for.
            let Some(tries) = self.tenants.get(tenant).and_then(|tiers| tiers.values().next()) else {
                continue;
            };
            ways.push((tries, *dst, tries.way(*dst)));
        }
        while ways.iter_mut().fold(false, |more, (_, _, way)| way.step() | more) {}
        let mut lists = ArrayVec::<&[(IpNet, Rule)], N>::new();
        for (tries, dst, _) in &ways {
            if let Some((_, Sources::Few(rules))) = tries.lookup(*dst) {
                rules.first().inspect(|first| prefetch::value(*first));
                lists.push(rules);
            }
        }
        lists.iter().filter_map(|rules| rules.first()).for_each(|(_, rule)| rule.entry.prefetch());
    }

    /// The next snapshot, with a policy that was installed as the `order`th.
    pub(super) fn with(&self, entry: &Arc<PolicyEntry>, order: u64) -> Self {
        let mut next = self.next();
        next.bypassing += usize::from(entry.action() == PolicyAction::Bypass);
        next.discarding_first += usize::from(discards_first(entry));
        let tries = next.tries(entry);
        for_each_pair(entry, |destination, source, local, remote| {
            let rule = Rule::new(entry, order, local, remote);
            match tries.get_mut(destination) {
                Some(sources) => sources.add(source, rule),
                None => drop(tries.insert(destination, Sources::new(source, rule))),
            }
        });
        next
    }

    /// The next snapshot, without the policy.
    pub(super) fn without(&self, entry: &Arc<PolicyEntry>) -> Self {
        let mut next = self.next();
        next.bypassing -= usize::from(entry.action() == PolicyAction::Bypass);
        next.discarding_first -= usize::from(discards_first(entry));
        let tries = next.tries(entry);
        for_each_pair(entry, |destination, source, _, _| {
            let Some(sources) = tries.get_mut(destination) else { return };
            sources.remove(source, entry);
            if sources.is_empty() {
                tries.remove(destination);
            }
        });
        next.tenants.retain(|_, tiers| {
            tiers.retain(|_, tries| !tries.is_empty());
            !tiers.is_empty()
        });
        next
    }

    /// Where its nodes and lists of rules are, to tell which of them another snapshot shares.
    #[cfg(test)]
    pub(super) fn places(&self) -> std::collections::BTreeSet<usize> {
        let mut places = std::collections::BTreeSet::new();
        for tries in self.tenants.values().flat_map(BTreeMap::values) {
            places.extend(tries.places());
            for (_, sources) in tries.iter() {
                match sources {
                    Sources::Few(rules) => drop(places.insert(Arc::as_ptr(rules).addr())),
                    Sources::Many(sources) => {
                        places.extend(sources.places());
                        places.extend(sources.iter().map(|(_, rules)| Arc::as_ptr(rules).addr()));
                    }
                }
            }
        }
        places
    }

    fn next(&self) -> Self {
        Self { generation: self.generation + 1, ..self.clone() }
    }

    fn tries(&mut self, entry: &PolicyEntry) -> &mut Lpm<Sources> {
        let tiers = self.tenants.entry(entry.policy().tenant).or_default();
        tiers.entry(Tier::of(entry.policy())).or_default()
    }
}

/// Left to its action, it comes after everything that is protected.
fn discards_first(entry: &PolicyEntry) -> bool {
    entry.action() == PolicyAction::Discard && entry.policy().priority.is_some()
}

impl Rule {
    fn new(entry: &Arc<PolicyEntry>, order: u64, local: TrafficSelector, remote: TrafficSelector) -> Self {
        let breadth = Breadth {
            any_protocol: local.protocol == 0 && remote.protocol == 0,
            port_pairs: ports(local.ports) * ports(remote.ports),
            order,
        };
        Self {
            breadth,
            source: (local.protocol, local.ports),
            destination: (remote.protocol, remote.ports),
            entry: Arc::clone(entry),
        }
    }

    fn is_of(&self, entry: &Arc<PolicyEntry>) -> bool {
        Arc::ptr_eq(&self.entry, entry)
    }

    /// Whether protocol and ports match; the prefixes did.
    fn covers(&self, flow: &Flow) -> bool {
        let matches = |(protocol, ports): (u8, PortRange), port| {
            (protocol == 0 || protocol == flow.protocol) && ports.contains(port)
        };
        matches(self.source, flow.src_port) && matches(self.destination, flow.dst_port)
    }
}

/// How many ports match. `OPAQUE` matches only packets that have none to see, the narrowest of all.
fn ports(range: PortRange) -> u64 {
    (u64::from(range.end) + 1).saturating_sub(u64::from(range.start))
}

/// How many pairs of prefixes the policy comes to.
pub(super) fn prefix_pairs(local: &[TrafficSelector], remote: &[TrafficSelector]) -> usize {
    let count = |selectors: &[TrafficSelector]| {
        selectors.iter().map(|selector| selector.addrs.prefixes().len()).fold(0_usize, usize::saturating_add)
    };
    count(local).saturating_mul(count(remote))
}

/// Every destination and source prefix of the same family, with the selectors that they are of.
fn for_each_pair(entry: &PolicyEntry, mut show: impl FnMut(IpNet, IpNet, TrafficSelector, TrafficSelector)) {
    let policy = entry.policy();
    for &local in &policy.local_ts {
        let sources = local.addrs.prefixes();
        for &remote in &policy.remote_ts {
            for destination in remote.addrs.prefixes() {
                for &source in sources.iter().filter(|source| same_family(source.addr(), destination.addr()))
                {
                    show(destination, source, local, remote);
                }
            }
        }
    }
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}
