//! Longest-prefix match over both address families, for policies and routes.
//!
//! A trie that takes four bits a step and leaves out the steps at which nothing branches. A node says with one bit each
//! which of the thirty prefixes of one to four bits more it has, and which sixteenth of it goes on below; what there is
//! of either lies packed. An address of IPv4 meets eight nodes at most, of IPv6 thirty-two, however many prefixes there
//! are; of a hundred thousand hosts it is five or six, of which the last two are not in the cache.
//!
//! Nodes are shared: a clone costs a reference count, and changing it copies only the nodes on the way to the change, of
//! sixteen children at most. So a snapshot that others still read can be the start of the next one, and making that
//! costs the depth of the trie, not its size. A node takes 96 octets, and eight more for each child: with hosts side by
//! side some 10 octets a prefix beside its value, with hosts all over the place some 150.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::prefetch;

/// Bits of a step.
const STRIDE: u8 = 4;

/// Most nodes on the way to an address.
const DEPTH: usize = 128 / STRIDE as usize;

/// A map from prefixes to values.
#[derive(Debug, Clone)]
pub struct Lpm<T> {
    v4: Family<T>,
    v6: Family<T>,
    len: usize,
}

#[derive(Debug, Clone)]
struct Family<T> {
    /// The value of the prefix of no bits, which no node has.
    all: Option<Box<T>>,
    root: Option<Arc<Node<T>>>,
}

#[derive(Debug, Clone)]
struct Node<T> {
    /// What all its prefixes begin with: a multiple of [`STRIDE`] bits.
    key: Key,
    /// Its prefixes, a bit for each [`Slot`].
    prefixes: u32,
    /// Which values of the next [`STRIDE`] bits go on below.
    branches: u16,
    /// A value for each prefix, in order of their bits.
    values: Vec<T>,
    /// A node for each branch, in order of their bits.
    children: Vec<Arc<Node<T>>>,
}

/// The first `len` bits of `bits`; the others are zero. IPv4 addresses are the first 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    bits: u128,
    len: u8,
}

/// A prefix's place in its node: of one more bit 0 and 1, of two 2 to 5, of three 6 to 13, of four 14 to 29, so that the
/// longest that contains an address is the highest.
type Slot = u32;

/// Of each value of the next four bits, the slots of the prefixes that contain it.
#[expect(clippy::indexing_slicing, reason = "at compile time, and in step with the length")]
const CONTAINING: [u32; 1 << STRIDE] = {
    let mut masks = [0; 1 << STRIDE];
    let mut next = 0;
    while next < masks.len() {
        let mut more = 1;
        while more <= STRIDE {
            masks[next] |= 1 << ((1 << more) - 2 + (next >> (STRIDE - more)));
            more += 1;
        }
        next += 1;
    }
    masks
};

impl Key {
    fn new(bits: u128, len: u8) -> Self {
        Self { bits: bits & mask(len), len }
    }

    #[inline]
    fn covers(self, other: Self) -> bool {
        self.len <= other.len && (self.bits ^ other.bits) & mask(self.len) == 0
    }

    /// The four bits behind this key's own in what it covers.
    #[inline]
    fn next(self, bits: u128) -> u16 {
        (bits << self.len >> (128 - STRIDE)) as u16
    }

    /// The longest key of whole steps that covers both.
    fn common(self, other: Self) -> Self {
        let same = (self.bits ^ other.bits).leading_zeros() as u8;
        let len = same.min(self.len).min(other.len);
        Self::new(self.bits, len - len % STRIDE)
    }

    /// The node that a prefix belongs to and its slot there; `None` for the prefix of no bits.
    fn place(self) -> Option<(Self, Slot)> {
        let len = self.len.checked_sub(1)? / STRIDE * STRIDE;
        let (node, more) = (Self::new(self.bits, len), self.len - len);
        Some((node, (1 << more) - 2 + u32::from(node.next(self.bits) >> (STRIDE - more))))
    }

    /// The prefix in a node's slot.
    fn prefix(self, slot: Slot) -> Self {
        let more = (slot + 2).ilog2();
        let next = u128::from(slot + 2 - (1 << more));
        let len = self.len + more as u8;
        Self { bits: self.bits | next << (128 - len), len }
    }
}

#[inline]
fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0)
}

/// Inserts without room for more: the next change copies the node anyway, and most have one value and no child.
fn insert_exactly<T>(list: &mut Vec<T>, at: usize, value: T) {
    list.reserve_exact(1);
    list.insert(at, value);
}

/// How many bits below one are set.
#[inline]
fn rank(mask: u32, bit: u32) -> usize {
    (mask & !(u32::MAX << bit)).count_ones() as usize
}

fn key_of(net: IpNet) -> Key {
    let (_, bits) = split(net.addr());
    Key::new(bits, net.prefix_len())
}

/// Whether it is IPv6, and its bits from the left.
#[inline]
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
        let none = || Family { all: None, root: None };
        Self { v4: none(), v6: none(), len: 0 }
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
        self.matches(addr).next()
    }

    /// Every prefix that contains the address, longest first.
    pub fn matches(&self, addr: IpAddr) -> Matches<'_, T> {
        let (v6, bits) = split(addr);
        let mut path = ArrayVec::new();
        let mut way = self.way(addr);
        while let Some(node) = way.node() {
            let found = node.containing(bits);
            if found != 0 {
                path.push((node, found));
            }
            way.go_on();
        }
        Matches { v6, all: self.family(v6).all.as_deref(), path }
    }

    /// The way to an address, to be gone step by step.
    pub(crate) fn way(&self, addr: IpAddr) -> Way<'_, T> {
        let (v6, bits) = split(addr);
        let wanted = Key { bits, len: if v6 { 128 } else { 32 } };
        Way { wanted, at: At::Node(self.family(v6).root.as_deref()) }
    }

    /// The value of exactly this prefix.
    pub fn get(&self, net: IpNet) -> Option<&T> {
        let family = self.family(net.addr().is_ipv6());
        let Some((wanted, slot)) = key_of(net).place() else { return family.all.as_deref() };
        let mut node = family.root.as_deref()?;
        while node.key != wanted {
            node = if node.key.covers(wanted) { node.child(wanted.bits)? } else { return None };
        }
        node.value(slot)
    }

    /// Every prefix and its value: IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        Walk::new(false, &self.v4).chain(Walk::new(true, &self.v6))
    }

    /// Where its nodes are, to tell which of them another version shares.
    #[cfg(test)]
    pub(crate) fn places(&self) -> Vec<usize> {
        let mut stack: Vec<_> = [&self.v4.root, &self.v6.root].into_iter().flatten().collect();
        let mut places = Vec::new();
        while let Some(node) = stack.pop() {
            places.push(Arc::as_ptr(node).addr());
            stack.extend(&node.children);
        }
        places
    }

    fn family(&self, v6: bool) -> &Family<T> {
        if v6 { &self.v6 } else { &self.v4 }
    }
}

impl<T: Clone> Lpm<T> {
    /// Sets the value of a prefix (bits behind its length are ignored), and returns the one it had.
    pub fn insert(&mut self, net: IpNet, value: T) -> Option<T> {
        let family = self.family_mut(net);
        let old = match (key_of(net).place(), &mut family.root) {
            (None, _) => family.all.replace(Box::new(value)).map(|old| *old),
            (Some((key, slot)), Some(root)) => insert(root, key, slot, value),
            (Some((key, slot)), root @ None) => {
                *root = Some(Node::leaf(key, slot, value));
                None
            }
        };
        self.len += usize::from(old.is_none());
        old
    }

    /// Removes a prefix, and returns its value.
    pub fn remove(&mut self, net: IpNet) -> Option<T> {
        self.get(net)?;
        let family = self.family_mut(net);
        let old = match key_of(net).place() {
            None => family.all.take().map(|old| *old),
            Some((key, slot)) => {
                let (old, rest) = remove(family.root.take()?, key, slot);
                family.root = rest;
                old
            }
        };
        self.len -= usize::from(old.is_some());
        old
    }

    /// The value of exactly this prefix, to be changed.
    pub fn get_mut(&mut self, net: IpNet) -> Option<&mut T> {
        self.get(net)?;
        let family = self.family_mut(net);
        let Some((wanted, slot)) = key_of(net).place() else { return family.all.as_deref_mut() };
        let mut node = Arc::make_mut(family.root.as_mut()?);
        while node.key != wanted {
            let next = rank(node.branches.into(), node.key.next(wanted.bits).into());
            node = Arc::make_mut(node.children.get_mut(next)?);
        }
        node.values.get_mut(rank(node.prefixes, slot))
    }

    fn family_mut(&mut self, net: IpNet) -> &mut Family<T> {
        if net.addr().is_ipv6() { &mut self.v6 } else { &mut self.v4 }
    }
}

impl<T> Node<T> {
    fn empty(key: Key) -> Self {
        Self { key, prefixes: 0, branches: 0, values: Vec::new(), children: Vec::new() }
    }

    fn leaf(key: Key, slot: Slot, value: T) -> Arc<Self> {
        let mut leaf = Self::empty(key);
        leaf.set(slot, value);
        Arc::new(leaf)
    }

    /// The slots of its prefixes that contain an address which its key covers.
    #[inline]
    fn containing(&self, bits: u128) -> u32 {
        let mask = CONTAINING.get(usize::from(self.key.next(bits))).copied().unwrap_or(0);
        self.prefixes & mask
    }

    fn value(&self, slot: Slot) -> Option<&T> {
        (self.prefixes >> slot & 1 == 1).then(|| self.values.get(rank(self.prefixes, slot)))?
    }

    #[inline]
    fn child(&self, bits: u128) -> Option<&Self> {
        self.link(bits).map(Arc::as_ref)
    }

    #[inline]
    fn link(&self, bits: u128) -> Option<&Arc<Self>> {
        let (branches, next) = (u32::from(self.branches), u32::from(self.key.next(bits)));
        if branches >> next & 1 == 0 {
            return None;
        }
        self.children.get(rank(branches, next))
    }

    fn set(&mut self, slot: Slot, value: T) -> Option<T> {
        let at = rank(self.prefixes, slot);
        if self.prefixes >> slot & 1 == 1 {
            return self.values.get_mut(at).map(|old| std::mem::replace(old, value));
        }
        self.prefixes |= 1 << slot;
        insert_exactly(&mut self.values, at, value);
        None
    }

    /// Adds a child where there is none.
    fn adopt(&mut self, child: Arc<Self>) {
        let next = self.key.next(child.key.bits);
        insert_exactly(&mut self.children, rank(self.branches.into(), next.into()), child);
        self.branches |= 1 << next;
    }
}

fn insert<T: Clone>(link: &mut Arc<Node<T>>, key: Key, slot: Slot, value: T) -> Option<T> {
    if link.key == key {
        return Arc::make_mut(link).set(slot, value);
    }
    if link.key.covers(key) {
        let node = Arc::make_mut(link);
        let next = node.key.next(key.bits);
        if node.branches >> next & 1 == 0 {
            node.adopt(Node::leaf(key, slot, value));
            return None;
        }
        let child = node.children.get_mut(rank(node.branches.into(), next.into()))?;
        return insert(child, key, slot, value);
    }
    let mut fork = Node::empty(link.key.common(key));
    fork.adopt(Arc::clone(link));
    if fork.key == key {
        fork.set(slot, value);
    } else {
        fork.adopt(Node::leaf(key, slot, value));
    }
    *link = Arc::new(fork);
    None
}

/// Removes a prefix that is there; and what is left of the node.
fn remove<T: Clone>(mut link: Arc<Node<T>>, key: Key, slot: Slot) -> (Option<T>, Option<Arc<Node<T>>>) {
    let node = Arc::make_mut(&mut link);
    let old = if node.key == key {
        let at = rank(node.prefixes, slot);
        node.prefixes &= !(1 << slot);
        (at < node.values.len()).then(|| node.values.remove(at))
    } else {
        let next = node.key.next(key.bits);
        let at = rank(node.branches.into(), next.into());
        if at >= node.children.len() {
            return (None, Some(link));
        }
        let (old, rest) = remove(node.children.remove(at), key, slot);
        match rest {
            Some(child) => node.children.insert(at, child),
            None => node.branches &= !(1 << next),
        }
        old
    };
    // A node that neither has a prefix nor branches makes way for what hangs below it.
    let rest = match (node.prefixes, node.children.len()) {
        (0, 0) => None,
        (0, 1) => node.children.pop(),
        _ => Some(link),
    };
    (old, rest)
}

/// The way from the root to an address. Each step reads what the one before has asked the processor for, so that many
/// ways can be gone side by side without waiting for memory at each.
#[derive(Debug)]
pub(crate) struct Way<'a, T> {
    wanted: Key,
    at: At<'a, T>,
}

#[derive(Debug)]
enum At<'a, T> {
    Node(Option<&'a Node<T>>),
    Link(&'a Arc<Node<T>>),
}

impl<'a, T> Way<'a, T> {
    /// The next node on it, to which [`Way::step`] or [`Way::go_on`] leads.
    #[inline]
    fn node(&self) -> Option<&'a Node<T>> {
        let node = match self.at {
            At::Node(node) => node?,
            At::Link(link) => link,
        };
        node.key.covers(self.wanted).then_some(node)
    }

    /// To the next node at once.
    #[inline]
    fn go_on(&mut self) {
        self.at = At::Node(self.node().and_then(|node| node.child(self.wanted.bits)));
    }

    /// Half the way to the next node; false at the end.
    pub(crate) fn step(&mut self) -> bool {
        self.at = match self.at {
            At::Link(link) => {
                let node = link.as_ref();
                prefetch::value(node);
                At::Node(Some(node))
            }
            At::Node(_) => {
                let Some(node) = self.node() else { return false };
                let found = node.containing(self.wanted.bits);
                if let Some(value) = found.checked_ilog2().and_then(|slot| node.value(slot)) {
                    prefetch::start(value);
                }
                match node.link(self.wanted.bits) {
                    Some(link) => {
                        prefetch::start(link);
                        At::Link(link)
                    }
                    None => At::Node(None),
                }
            }
        };
        true
    }
}

/// The prefixes that contain an address, longest first.
#[derive(Debug)]
pub struct Matches<'a, T> {
    v6: bool,
    all: Option<&'a T>,
    /// The nodes that have some, and which.
    path: ArrayVec<(&'a Node<T>, u32), DEPTH>,
}

impl<'a, T> Iterator for Matches<'a, T> {
    type Item = (IpNet, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((node, found)) = self.path.last_mut() {
            let (node, Some(slot)) = (*node, found.checked_ilog2()) else {
                self.path.pop();
                continue;
            };
            *found &= !(1 << slot);
            if let Some(value) = node.value(slot) {
                return Some((net_of(self.v6, node.key.prefix(slot)), value));
            }
        }
        Some((net_of(self.v6, Key::new(0, 0)), self.all.take()?))
    }
}

struct Walk<'a, T> {
    v6: bool,
    all: Option<&'a T>,
    stack: Vec<&'a Node<T>>,
    /// The prefixes of the node before, still to be shown.
    node: Option<(&'a Node<T>, u32)>,
}

impl<'a, T> Walk<'a, T> {
    fn new(v6: bool, family: &'a Family<T>) -> Self {
        let stack = family.root.as_deref().into_iter().collect();
        Self { v6, all: family.all.as_deref(), stack, node: None }
    }
}

impl<'a, T> Iterator for Walk<'a, T> {
    type Item = (IpNet, &'a T);

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(value) = self.all.take() {
            return Some((net_of(self.v6, Key::new(0, 0)), value));
        }
        loop {
            if let Some((node, left)) = &mut self.node
                && let Some(slot) = left.checked_ilog2()
            {
                *left &= !(1 << slot);
                let (node, value) = (*node, node.value(slot)?);
                return Some((net_of(self.v6, node.key.prefix(slot)), value));
            }
            let node = self.stack.pop()?;
            self.stack.extend(node.children.iter().map(Arc::as_ref));
            self.node = Some((node, node.prefixes));
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
                    let mut way = lpm.way(probe.addr());
                    let steps = (0..).take_while(|_| way.step()).take(1000).count();
                    prop_assert!(steps <= 2 * DEPTH + 1, "{} steps", steps);
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
