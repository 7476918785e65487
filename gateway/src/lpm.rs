//! Longest-prefix match over both address families, for policies and routes.
//!
//! A path-compressed binary trie whose nodes are shared: a clone costs a reference count, and changing it copies
//! only the nodes on the way to the change. So a snapshot that others still read can be the start of the next one,
//! and making that costs the depth of the trie, not its size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A map from prefixes to values.
#[derive(Debug, Clone)]
pub struct Lpm<T> {
    v4: Link<T>,
    v6: Link<T>,
    len: usize,
}

type Link<T> = Option<Arc<Node<T>>>;

#[derive(Debug, Clone)]
struct Node<T> {
    key: Key,
    /// A node without one only branches.
    value: Option<T>,
    zero: Link<T>,
    one: Link<T>,
}

/// The first `len` bits of `bits`; the others are zero. IPv4 addresses are the first 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    bits: u128,
    len: u8,
}

impl Key {
    fn new(bits: u128, len: u8) -> Self {
        Self { bits: bits & mask(len), len }
    }

    fn covers(self, other: Self) -> bool {
        self.len <= other.len && (self.bits ^ other.bits) & mask(self.len) == 0
    }

    /// The bit behind this key's own in `other`, which it covers and is shorter than.
    fn branch(self, other: Self) -> bool {
        other.bits << self.len >> 127 == 1
    }

    fn common(self, other: Self) -> Self {
        let len = ((self.bits ^ other.bits).leading_zeros() as u8).min(self.len).min(other.len);
        Self::new(self.bits, len)
    }
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
}

fn key_of(net: IpNet) -> Key {
    let (_, bits) = split(net.addr());
    Key::new(bits, net.prefix_len())
}

/// Whether it is IPv6, and its bits from the left.
fn split(addr: IpAddr) -> (bool, u128) {
    match addr {
        IpAddr::V4(addr) => (false, u128::from(addr.to_bits()) << 96),
        IpAddr::V6(addr) => (true, addr.to_bits()),
    }
}

fn net_of(v6: bool, key: Key) -> IpNet {
    if v6 {
        let net = Ipv6Net::new(Ipv6Addr::from_bits(key.bits), key.len);
        net.map_or_else(|_| Ipv6Net::default().into(), IpNet::V6)
    } else {
        let net = Ipv4Net::new(Ipv4Addr::from_bits((key.bits >> 96) as u32), key.len);
        net.map_or_else(|_| Ipv4Net::default().into(), IpNet::V4)
    }
}

impl<T> Default for Lpm<T> {
    fn default() -> Self {
        Self { v4: None, v6: None, len: 0 }
    }
}

impl<T> Lpm<T> {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many prefixes it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The longest prefix that contains the address, and its value.
    pub fn lookup(&self, addr: IpAddr) -> Option<(IpNet, &T)> {
        let (v6, bits) = split(addr);
        let mut best = None;
        self.descend(v6, bits, |key, value| best = Some((key, value)));
        best.map(|(key, value)| (net_of(v6, key), value))
    }

    /// Every prefix that contains the address, longest first.
    pub fn matches(&self, addr: IpAddr) -> Matches<'_, T> {
        let (v6, bits) = split(addr);
        let mut found = Matches { v6, path: [const { None }; 129], len: 0 };
        self.descend(v6, bits, |key, value| {
            if let Some(place) = found.path.get_mut(found.len) {
                *place = Some((key, value));
                found.len += 1;
            }
        });
        found
    }

    /// The value of exactly this prefix.
    pub fn get(&self, net: IpNet) -> Option<&T> {
        let wanted = key_of(net);
        let mut link = self.root(net.addr().is_ipv6());
        while let Some(node) = link {
            if node.key == wanted {
                return node.value.as_ref();
            }
            if !node.key.covers(wanted) {
                return None;
            }
            link = node.child(node.key.branch(wanted));
        }
        None
    }

    /// Every prefix and its value: IPv4 first, by address, shorter before longer.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        Walk::new(false, &self.v4).chain(Walk::new(true, &self.v6))
    }

    fn root(&self, v6: bool) -> &Link<T> {
        if v6 { &self.v6 } else { &self.v4 }
    }

    /// Shows every value on the way to an address, shortest prefix first.
    fn descend<'a>(&'a self, v6: bool, bits: u128, mut show: impl FnMut(Key, &'a T)) {
        let wanted = Key { bits, len: if v6 { 128 } else { 32 } };
        let mut link = self.root(v6);
        while let Some(node) = link {
            if !node.key.covers(wanted) {
                return;
            }
            if let Some(value) = &node.value {
                show(node.key, value);
            }
            if node.key.len == wanted.len {
                return;
            }
            link = node.child(node.key.branch(wanted));
        }
    }
}

impl<T: Clone> Lpm<T> {
    /// Sets the value of a prefix (bits behind its length are ignored), and returns the one it had.
    pub fn insert(&mut self, net: IpNet, value: T) -> Option<T> {
        let old = insert(self.root_mut(net), key_of(net), value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes a prefix, and returns its value.
    pub fn remove(&mut self, net: IpNet) -> Option<T> {
        self.get(net)?;
        let old = remove(self.root_mut(net), key_of(net));
        self.len -= usize::from(old.is_some());
        old
    }

    /// The value of exactly this prefix, to be changed.
    pub fn get_mut(&mut self, net: IpNet) -> Option<&mut T> {
        self.get(net)?;
        let wanted = key_of(net);
        let mut link = self.root_mut(net);
        loop {
            let node = Arc::make_mut(link.as_mut()?);
            if node.key == wanted {
                return node.value.as_mut();
            }
            link = node.child_mut(node.key.branch(wanted));
        }
    }

    fn root_mut(&mut self, net: IpNet) -> &mut Link<T> {
        if net.addr().is_ipv6() { &mut self.v6 } else { &mut self.v4 }
    }
}

impl<T> Node<T> {
    fn leaf(key: Key, value: T) -> Arc<Self> {
        Arc::new(Self { key, value: Some(value), zero: None, one: None })
    }

    fn child(&self, one: bool) -> &Link<T> {
        if one { &self.one } else { &self.zero }
    }

    fn child_mut(&mut self, one: bool) -> &mut Link<T> {
        if one { &mut self.one } else { &mut self.zero }
    }
}

fn insert<T: Clone>(link: &mut Link<T>, key: Key, value: T) -> Option<T> {
    let Some(node) = link else {
        *link = Some(Node::leaf(key, value));
        return None;
    };
    if node.key == key {
        return Arc::make_mut(node).value.replace(value);
    }
    if node.key.covers(key) {
        let one = node.key.branch(key);
        return insert(Arc::make_mut(node).child_mut(one), key, value);
    }
    let common = node.key.common(key);
    let mut fork = Node { key: common, value: None, zero: None, one: None };
    *fork.child_mut(common.branch(node.key)) = Some(Arc::clone(node));
    if common == key {
        fork.value = Some(value);
    } else {
        *fork.child_mut(common.branch(key)) = Some(Node::leaf(key, value));
    }
    *link = Some(Arc::new(fork));
    None
}

fn remove<T: Clone>(link: &mut Link<T>, key: Key) -> Option<T> {
    let node = Arc::make_mut(link.as_mut()?);
    let old = if node.key == key {
        node.value.take()
    } else if node.key.covers(key) {
        remove(node.child_mut(node.key.branch(key)), key)
    } else {
        None
    };
    // A node that neither holds a value nor branches makes way for what hangs below it.
    if node.value.is_none() && (node.zero.is_none() || node.one.is_none()) {
        *link = node.zero.take().or_else(|| node.one.take());
    }
    old
}

/// The prefixes that contain an address, longest first.
#[derive(Debug)]
pub struct Matches<'a, T> {
    v6: bool,
    path: [Option<(Key, &'a T)>; 129],
    len: usize,
}

impl<'a, T> Iterator for Matches<'a, T> {
    type Item = (IpNet, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        self.len = self.len.checked_sub(1)?;
        let (key, value) = self.path.get(self.len).copied().flatten()?;
        Some((net_of(self.v6, key), value))
    }
}

struct Walk<'a, T> {
    stack: Vec<&'a Node<T>>,
    v6: bool,
}

impl<'a, T> Walk<'a, T> {
    fn new(v6: bool, root: &'a Link<T>) -> Self {
        Self { stack: root.as_deref().into_iter().collect(), v6 }
    }
}

impl<'a, T> Iterator for Walk<'a, T> {
    type Item = (IpNet, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let node = self.stack.pop()?;
            self.stack.extend(node.one.as_deref());
            self.stack.extend(node.zero.as_deref());
            if let Some(value) = &node.value {
                return Some((net_of(self.v6, node.key), value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    /// Few bits differ, so that prefixes nest and collide.
    fn any_net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0..64_u32, 0..=32_u8).prop_map(|(bits, len)| {
                let addr = Ipv4Addr::from_bits(0x0a00_0000 | (bits & 7) << 28 | bits >> 3);
                IpNet::V4(Ipv4Net::new(addr, len).unwrap().trunc())
            }),
            (0..64_u128, 0..=128_u8).prop_map(|(bits, len)| {
                let addr = Ipv6Addr::from_bits(0x2001 << 112 | (bits & 7) << 61 | bits >> 3);
                IpNet::V6(Ipv6Net::new(addr, len).unwrap().trunc())
            }),
        ]
    }

    fn naive(model: &[(IpNet, u32)], addr: IpAddr) -> Vec<(IpNet, u32)> {
        let mut found: Vec<_> = model.iter().copied().filter(|(net, _)| net.contains(&addr)).collect();
        found.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        found
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_linear_search_while_prefixes_come_and_go(
            steps in prop::collection::vec((any_net(), any::<bool>()), 1..60),
            probes in prop::collection::vec(any_net(), 20),
        ) {
            let (mut lpm, mut model) = (Lpm::new(), Vec::<(IpNet, u32)>::new());
            let mut versions = Vec::new();
            for (value, (net, add)) in (0..).zip(steps) {
                let old = model.iter().position(|(other, _)| *other == net).map(|at| model.remove(at).1);
                if add {
                    prop_assert_eq!(lpm.insert(net, value), old);
                    model.push((net, value));
                } else {
                    prop_assert_eq!(lpm.remove(net), old);
                }
                versions.push((lpm.clone(), model.clone()));
            }
            // Every version still says what it said, whatever was done to its successors.
            for (lpm, model) in versions {
                prop_assert_eq!(lpm.len(), model.len());
                let mut all: Vec<_> = lpm.iter().map(|(net, value)| (net, *value)).collect();
                let mut expected = model.clone();
                all.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(all, expected);
                for probe in &probes {
                    let found: Vec<_> = lpm.matches(probe.addr()).map(|(net, value)| (net, *value)).collect();
                    prop_assert_eq!(&found, &naive(&model, probe.addr()));
                    let longest = lpm.lookup(probe.addr()).map(|(net, value)| (net, *value));
                    prop_assert_eq!(longest, found.first().copied());
                    let exact = model.iter().find(|(net, _)| net == probe).map(|(_, value)| value);
                    prop_assert_eq!(lpm.get(*probe), exact);
                }
            }
        }
    }

    #[test]
    fn a_default_route_covers_its_own_family_alone() {
        let mut lpm = Lpm::new();
        lpm.insert(net("0.0.0.0/0"), 4);
        assert_eq!(lpm.lookup("255.255.255.255".parse().unwrap()), Some((net("0.0.0.0/0"), &4)));
        assert_eq!(lpm.lookup("::".parse().unwrap()), None);
        lpm.insert(net("::/0"), 6);
        lpm.insert(net("2001:db8::1/128"), 128);
        let all: Vec<_> = lpm.matches("2001:db8::1".parse().unwrap()).map(|(_, value)| *value).collect();
        assert_eq!(all, [128, 6]);
    }

    #[test]
    fn a_value_changed_in_place_is_changed_in_no_other_version() {
        let mut lpm = Lpm::new();
        lpm.insert(net("10.0.0.0/8"), 1);
        let before = lpm.clone();
        *lpm.get_mut(net("10.0.0.0/8")).unwrap() = 2;
        assert_eq!(lpm.get_mut(net("10.0.0.0/9")), None);
        assert_eq!((before.get(net("10.0.0.0/8")), lpm.get(net("10.0.0.0/8"))), (Some(&1), Some(&2)));
    }
}
