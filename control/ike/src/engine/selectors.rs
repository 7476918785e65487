//! Traffic-selector negotiation (RFC 7296 §2.9): what we offer, what we narrow an offer to, whether an answer
//! stays within the offer, and which child an unknown offer is for.

use portcullis_ipsec::{Flow, PortRange, TrafficSelector};

use crate::config::ChildConfig;

/// Both ends' selectors, ours and the peer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selectors {
    pub(super) local: Vec<TrafficSelector>,
    pub(super) remote: Vec<TrafficSelector>,
}

/// What `dynamic` stands for on either side: inner addresses, or those of the IKE SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dynamic {
    pub(super) local: Vec<TrafficSelector>,
    pub(super) remote: Vec<TrafficSelector>,
}

impl Selectors {
    /// Those of the configuration, with `dynamic` filled in.
    pub(super) fn of_child(child: &ChildConfig, dynamic: &Dynamic) -> Self {
        let fill = |selectors: &[Option<TrafficSelector>], dynamic: &[TrafficSelector]| {
            let filled = selectors.iter().flat_map(|ts| match ts {
                Some(ts) => vec![*ts],
                None => dynamic.to_vec(),
            });
            filled.collect()
        };
        Self { local: fill(&child.local_ts, &dynamic.local), remote: fill(&child.remote_ts, &dynamic.remote) }
    }

    /// Puts the packet that raised an acquire first (RFC 7296 §2.9), so that the peer narrows to something that
    /// covers it.
    pub(super) fn led_by(mut self, flow: &Flow) -> Self {
        let of = |addr: std::net::IpAddr, port: Option<u16>| TrafficSelector {
            protocol: flow.protocol,
            ports: port.map_or(PortRange::ANY, |port| PortRange { start: port, end: port }),
            ..TrafficSelector::any(addr)
        };
        self.local.insert(0, of(flow.src, flow.src_port));
        self.remote.insert(0, of(flow.dst, flow.dst_port));
        self
    }

    /// What both we and the peer's offer allow; `None` if that is nothing on one side. Selectors keep the order
    /// of the offer, so that what the peer wanted first comes first.
    pub(super) fn narrow(&self, offer: &Self) -> Option<Self> {
        let narrowed = Self {
            local: intersect(&offer.local, &self.local),
            remote: intersect(&offer.remote, &self.remote),
        };
        (!narrowed.local.is_empty() && !narrowed.remote.is_empty()).then_some(narrowed)
    }

    /// Whether nothing here goes beyond `offer`, and neither side is empty.
    pub(super) fn within(&self, offer: &Self) -> bool {
        let within = |answer: &[TrafficSelector], offer: &[TrafficSelector]| {
            !answer.is_empty() && answer.iter().all(|ts| offer.iter().any(|wide| contains(*wide, *ts)))
        };
        within(&self.local, &offer.local) && within(&self.remote, &offer.remote)
    }

    /// How well these, of a child, fit an offer: better is greater.
    fn fitness(&self, offer: &Self) -> Option<Fitness> {
        let narrowed = self.narrow(offer)?;
        let first = |ours: &[TrafficSelector], asked: &[TrafficSelector]| {
            asked.first().is_some_and(|first| ours.iter().any(|ts| contains(*ts, *first)))
        };
        let mut own = self.clone();
        own.local = intersect(&own.local, &own.local);
        own.remote = intersect(&own.remote, &own.remote);
        Some(Fitness {
            covers_first: first(&self.local, &offer.local) && first(&self.remote, &offer.remote),
            exact: narrowed.same(&own),
            whole: narrowed.same(&Self {
                local: intersect(&offer.local, &offer.local),
                remote: intersect(&offer.remote, &offer.remote),
            }),
        })
    }

    fn same(&self, other: &Self) -> bool {
        let same = |a: &[TrafficSelector], b: &[TrafficSelector]| {
            a.len() == b.len() && a.iter().all(|ts| b.contains(ts))
        };
        same(&self.local, &other.local) && same(&self.remote, &other.remote)
    }
}

/// How well a child fits an offer. The first field that differs decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Fitness {
    /// The peer's first choice is allowed (RFC 7296 §2.9).
    covers_first: bool,
    /// The whole child comes up.
    exact: bool,
    /// Nothing of the offer is cut away.
    whole: bool,
}

/// The children that an offer may be for, best first, each with what is left of the offer. Among equals the
/// order of the configuration decides.
pub(super) fn matching_children<'a>(
    children: impl Iterator<Item = (usize, &'a ChildConfig)>,
    dynamic: &Dynamic,
    offer: &Selectors,
) -> Vec<(usize, Selectors)> {
    let mut fitting: Vec<_> = children
        .filter_map(|(index, child)| {
            let ours = Selectors::of_child(child, dynamic);
            Some((ours.fitness(offer)?, index, ours.narrow(offer)?))
        })
        .collect();
    fitting.sort_by_key(|(fitness, index, _)| (std::cmp::Reverse(*fitness), *index));
    fitting.into_iter().map(|(_, index, narrowed)| (index, narrowed)).collect()
}

/// Every overlap of one of `first` with one of `second`, without those that another covers.
fn intersect(first: &[TrafficSelector], second: &[TrafficSelector]) -> Vec<TrafficSelector> {
    let mut overlaps: Vec<TrafficSelector> = Vec::new();
    for ts in first.iter().flat_map(|a| second.iter().filter_map(|b| a.intersection(*b))) {
        if overlaps.iter().any(|wide| contains(*wide, ts)) {
            continue;
        }
        overlaps.retain(|narrow| !contains(ts, *narrow));
        overlaps.push(ts);
    }
    overlaps
}

fn contains(wide: TrafficSelector, narrow: TrafficSelector) -> bool {
    wide.intersection(narrow) == Some(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StartAction;

    fn selectors(local: &[&str], remote: &[&str]) -> Selectors {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Selectors { local: parse(local), remote: parse(remote) }
    }

    fn outer() -> Dynamic {
        let Selectors { local, remote } = selectors(&["192.0.2.1"], &["192.0.2.2"]);
        Dynamic { local, remote }
    }

    fn child(name: &str, local: &[&str], remote: &[&str]) -> ChildConfig {
        let Selectors { local, remote } = selectors(local, remote);
        ChildConfig {
            name: name.to_owned(),
            local_ts: local.into_iter().map(Some).collect(),
            remote_ts: remote.into_iter().map(Some).collect(),
            esp_proposals: Vec::new(),
            start_action: StartAction::None,
            actions: crate::config::ChildActions::default(),
            replay_window: 64,
            lifetime: crate::config::ChildLifetime::default(),
            priority: None,
            options: portcullis_ipsec::SaOptions::default(),
            per_worker: None,
        }
    }

    #[test]
    fn an_offer_is_narrowed_to_what_both_allow() {
        let ours = selectors(&["10.1.0.0/16"], &["10.2.0.0/16"]);
        let offer = selectors(&["10.0.0.0/8"], &["10.2.5.0/24", "192.168.0.0/16"]);
        assert_eq!(ours.narrow(&offer), Some(selectors(&["10.1.0.0/16"], &["10.2.5.0/24"])));
    }

    #[test]
    fn an_offer_that_overlaps_on_one_side_only_is_refused() {
        let ours = selectors(&["10.1.0.0/16"], &["10.2.0.0/16"]);
        assert_eq!(ours.narrow(&selectors(&["10.1.0.0/16"], &["10.3.0.0/16"])), None);
        assert_eq!(ours.narrow(&selectors(&["2001:db8::/32"], &["10.2.0.0/16"])), None);
    }

    #[test]
    fn the_packet_that_raised_an_acquire_is_offered_first_and_covered_by_the_answer() {
        let flow = Flow {
            src: "10.1.0.9".parse().unwrap(),
            dst: "10.2.0.7".parse().unwrap(),
            protocol: 6,
            src_port: Some(4711),
            dst_port: Some(443),
        };
        let offer = selectors(&["10.1.0.0/16"], &["10.2.0.0/16"]).led_by(&flow);
        assert_eq!(offer.local[0].to_string(), "10.1.0.9/32[tcp/4711]");
        assert_eq!(offer.remote[0].to_string(), "10.2.0.7/32[tcp/443]");
        let peer = selectors(&["10.2.0.0/24"], &["10.1.0.0/24"]);
        let seen = Selectors { local: offer.remote.clone(), remote: offer.local.clone() };
        let answer = peer.narrow(&seen).unwrap();
        assert_eq!(answer, selectors(&["10.2.0.0/24"], &["10.1.0.0/24"]));
    }

    #[test]
    fn an_answer_beyond_the_offer_is_noticed() {
        let offer = selectors(&["10.1.0.0/16"], &["10.2.0.0/16"]);
        assert!(selectors(&["10.1.3.0/24"], &["10.2.0.0/16"]).within(&offer));
        assert!(!selectors(&["10.0.0.0/8"], &["10.2.0.0/16"]).within(&offer));
        assert!(!selectors(&["10.1.0.0/16"], &[]).within(&offer));
    }

    #[test]
    fn the_child_that_matches_best_is_chosen() {
        let children = [
            child("all", &["0.0.0.0/0"], &["0.0.0.0/0"]),
            child("office", &["10.1.0.0/16"], &["10.2.0.0/16"]),
            child("v6", &["::/0"], &["::/0"]),
        ];
        let order = |offer: &Selectors| -> Vec<usize> {
            matching_children(children.iter().enumerate(), &outer(), offer)
                .into_iter()
                .map(|(index, _)| index)
                .collect()
        };
        assert_eq!(order(&selectors(&["10.1.0.0/16"], &["10.2.0.0/16"])), [1, 0]);
        assert_eq!(order(&selectors(&["0.0.0.0/0"], &["0.0.0.0/0"])), [0, 1]);
        assert_eq!(order(&selectors(&["10.9.0.0/16"], &["10.2.0.0/16"])), [0]);
        assert_eq!(order(&selectors(&["2001:db8::/32"], &["::/0"])), [2]);
    }

    #[test]
    fn dynamic_is_the_address_of_the_ike_sa() {
        let mut host = child("host", &[], &["10.2.0.0/16"]);
        host.local_ts = vec![None];
        let ours = Selectors::of_child(&host, &outer());
        assert_eq!(ours, selectors(&["192.0.2.1"], &["10.2.0.0/16"]));
    }
}
