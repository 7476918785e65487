//! All policies at one moment, as workers look them up.
//!
//! A selector becomes the prefixes that its addresses are. A trie of destination prefixes leads to tries of source
//! prefixes, and those to the few rules that differ in protocol and ports. The tries share what did not change with
//! the snapshot before, so that installing one policy among a hundred thousand costs a few dozen nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use portcullis_ipsec::{Flow, Policy, PolicyAction, PolicyOrigin, PortRange, TenantId, TrafficSelector};

use super::PolicyEntry;
use crate::lpm::Lpm;

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

type Sources = Lpm<Vec<Rule>>;

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
        let found = tiers.values().find_map(|tries| {
            tries.matches(flow.dst).find_map(|(_, sources)| {
                sources.matches(flow.src).find_map(|(_, rules)| rules.iter().find(|rule| rule.covers(flow)))
            })
        });
        found.map_or(Verdict::NoMatch, |rule| Verdict::Covered(&rule.entry))
    }

    /// The next snapshot, with a policy that was installed as the `order`th.
    pub(super) fn with(&self, entry: &Arc<PolicyEntry>, order: u64) -> Self {
        let mut next = self.next();
        next.bypassing += usize::from(entry.action() == PolicyAction::Bypass);
        next.discarding_first += usize::from(discards_first(entry));
        let tries = next.tries(entry);
        for_each_pair(entry, |destination, source, local, remote| {
            let rule = Rule::new(entry, order, local, remote);
            let mut sources = tries.get_mut(destination);
            if sources.is_none() {
                tries.insert(destination, Sources::new());
                sources = tries.get_mut(destination);
            }
            let Some(sources) = sources else { return };
            match sources.get_mut(source) {
                Some(rules) => {
                    let place = rules.partition_point(|other| other.breadth <= rule.breadth);
                    rules.insert(place, rule);
                }
                None => drop(sources.insert(source, vec![rule])),
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
            if let Some(rules) = sources.get_mut(source) {
                rules.retain(|rule| !Arc::ptr_eq(&rule.entry, entry));
                if rules.is_empty() {
                    sources.remove(source);
                }
            }
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
