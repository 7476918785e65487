//! Prefixes that cover others: of all remote prefixes that policies have, the XDP program and the kernel's routes are told
//! only those that no other one covers. A hundred thousand remote-access clients, each with a policy of its own within
//! the prefix that their pool has in the configuration, cost one entry.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// All prefixes, and those among them that stand for all.
#[derive(Debug, Clone, Default)]
pub(super) struct Cover {
    all: BTreeSet<IpNet>,
    /// Has every prefix of `all` that no other one stands for; maybe more, which came before what covers them.
    widest: BTreeSet<IpNet>,
}

/// What the outside has to be told of a removal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// What nothing stands for any more; to be told first.
    pub(super) more: Vec<IpNet>,
    pub(super) less: Vec<IpNet>,
}

impl Cover {
    /// What has to be known outside.
    pub(super) fn widest(&self) -> &BTreeSet<IpNet> {
        &self.widest
    }

    /// Adds prefixes; those that have to be known outside besides now. Within one of `local` nothing stands for another: routes
    /// to our own networks lie between a wide prefix and a narrow one there.
    pub(super) fn add(&mut self, nets: &[IpNet], local: &BTreeSet<IpNet>) -> Vec<IpNet> {
        let mut more = Vec::new();
        for net in nets.iter().map(IpNet::trunc) {
            self.all.insert(net);
            if !self.stands_for(net, local) && self.widest.insert(net) {
                more.push(net);
            }
        }
        more
    }

    /// Takes prefixes away; what has to be known outside besides now, and what no longer.
    pub(super) fn remove(&mut self, nets: &[IpNet], local: &BTreeSet<IpNet>) -> Change {
        let mut change = Change::default();
        for net in nets.iter().map(IpNet::trunc) {
            self.all.remove(&net);
            if self.widest.remove(&net) {
                change.less.push(net);
            }
        }
        for gone in &change.less {
            // In order of addresses, then lengths: what lies within a prefix comes right behind it.
            let within = self.all.range(gone..).take_while(|net| gone.contains(*net));
            let bare: Vec<IpNet> = within.copied().filter(|net| !self.stands_for(*net, local)).collect();
            change.more.extend(bare.into_iter().filter(|net| self.widest.insert(*net)));
        }
        change
    }

    /// Makes known what nothing stands for any more, also because `local` has grown.
    pub(super) fn settle(&mut self, local: &BTreeSet<IpNet>) {
        let bare: Vec<IpNet> = self.all.iter().copied().filter(|net| !self.stands_for(*net, local)).collect();
        self.widest.extend(bare);
    }

    /// Whether it is among the widest, or one of them stands for it.
    fn stands_for(&self, net: IpNet, local: &BTreeSet<IpNet>) -> bool {
        let mut wider = std::iter::successors(Some(net), IpNet::supernet);
        if wider.clone().any(|wider| local.contains(&wider)) {
            return self.widest.contains(&net);
        }
        wider.any(|wider| self.widest.contains(&wider))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn widest(cover: &Cover) -> Vec<String> {
        cover.widest().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_prefix_within_another_is_not_told_until_the_other_goes() {
        let (mut cover, local) = (Cover::default(), BTreeSet::new());
        let (both, none) = (nets(&["10.0.0.0/8", "2001:db8::/32"]), Vec::new());
        assert_eq!(cover.add(&both, &local), both);
        assert_eq!(cover.add(&nets(&["10.1.2.3/32", "10.0.0.0/8", "2001:db8:1::/48"]), &local), none);
        assert_eq!(widest(&cover), ["10.0.0.0/8", "2001:db8::/32"]);
        assert_eq!(cover.remove(&nets(&["2001:db8:1::/48"]), &local), Change::default());
        let (wide, narrow) = (nets(&["10.0.0.0/8"]), nets(&["10.1.2.3/32"]));
        let change = Change { more: narrow.clone(), less: wide.clone() };
        assert_eq!(cover.remove(&wide, &local), change);
        assert_eq!(widest(&cover), ["10.1.2.3/32", "2001:db8::/32"]);
        assert_eq!(cover.remove(&narrow, &local), Change { more: none, less: narrow.clone() });
        assert_eq!(cover.remove(&narrow, &local), Change::default());
        assert_eq!(widest(&cover), ["2001:db8::/32"]);
    }

    #[test]
    fn within_our_own_networks_every_prefix_is_told() {
        let mut cover = Cover::default();
        let local: BTreeSet<IpNet> = nets(&["10.1.0.0/16"]).into_iter().collect();
        let told = cover.add(&nets(&["0.0.0.0/0", "10.1.2.0/24", "10.2.0.0/24"]), &local);
        assert_eq!(told, nets(&["0.0.0.0/0", "10.1.2.0/24"]));
        assert_eq!(widest(&cover), ["0.0.0.0/0", "10.1.2.0/24"]);
        cover.settle(&nets(&["10.0.0.0/8"]).into_iter().collect());
        assert_eq!(widest(&cover), ["0.0.0.0/0", "10.1.2.0/24", "10.2.0.0/24"]);
    }

    proptest! {
        #[test]
        fn what_is_told_covers_what_is_protected_and_nothing_else(
            changes in prop::collection::vec((any::<bool>(), 0..4_u8, 0..=4_u8), 1..60)
        ) {
            let (mut cover, mut all, local) = (Cover::default(), BTreeSet::new(), BTreeSet::new());
            for (add, bits, len) in changes {
                let net = IpNet::new([bits << 4, 0, 0, 0].into(), len * 2).unwrap().trunc();
                let mut told = cover.widest().clone();
                if add {
                    all.insert(net);
                    told.extend(cover.add(&[net], &local));
                } else {
                    all.remove(&net);
                    let Change { more, less } = cover.remove(&[net], &local);
                    told.extend(more);
                    told.retain(|net| !less.contains(net));
                }
                prop_assert_eq!(&told, cover.widest());
                prop_assert!(all.iter().all(|net| cover.widest().iter().any(|wide| wide.contains(net))));
                prop_assert!(cover.widest().is_subset(&all));
            }
        }
    }
}
