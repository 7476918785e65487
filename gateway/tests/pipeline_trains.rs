//! Packets of a train are decided about together: what becomes of them must be what would of each alone.
//!
//! The same packets go through two pairs of gateways that are alike to the last key: through one as they are, in trains
//! wherever they are alike; through the other with the frames' source addresses taking turns, which nothing in the pipeline
//! looks at but what joins packets into trains (and what sends an ICMP error back). Whatever comes out must be the same, octet
//! by octet, and so must every counter.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "where a test cannot go on it fails")]

mod common;

use std::collections::BTreeMap;

use common::{Child, INSIDE, OUTSIDE, Outcome, Packet, Pair, Rig, ethernet, host, port_mac, ts};
use portcullis_gateway::pipeline::Ingress;
use portcullis_gateway::route::{NextHop, PortIndex};
use portcullis_ipsec::{
    CopyDf, EspAlgorithm, Fragmentation, PolicyAction, RateLimit, RateLimits, SaInstaller, SaOptions,
};
use proptest::prelude::*;

/// Packets that follow each other.
#[derive(Debug, Clone)]
struct Series {
    /// Which of some flows: of one SA, of another policy, or of none.
    flow: u8,
    ttl: u8,
    tos: u8,
    dont_fragment: bool,
    lens: Vec<usize>,
    /// Which of the first four it has from the series before it, so that many differ in one.
    kept: [bool; 4],
    spoilt: Option<(usize, Spoil)>,
}

/// What may be wrong with one.
#[derive(Debug, Clone, Copy)]
enum Spoil {
    /// Some bit of its first octets, perhaps with the checksum mended.
    Bit(usize, u8),
    /// Shorter than it says.
    Cut,
    /// Longer than it says, as short Ethernet frames are.
    Padded,
    /// It comes twice.
    Twice,
    /// It comes before the one in front of it.
    Early,
}

fn spoil() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        (0..54_usize, 0..8_u8).prop_map(|(at, bit)| Spoil::Bit(at, 1 << bit)),
        (54..90_usize, 0..8_u8).prop_map(|(at, bit)| Spoil::Bit(at, 1 << bit)),
        Just(Spoil::Cut),
        Just(Spoil::Padded),
        Just(Spoil::Twice),
        Just(Spoil::Early),
    ]
}

fn series() -> impl Strategy<Value = Series> {
    let lens = prop_oneof![
        4 => prop::collection::vec(60..200_usize, 1..20),
        2 => (60..1400_usize, 1..20_usize).prop_map(|(len, count)| vec![len; count]),
        1 => prop::collection::vec(1300..1500_usize, 1..8),
    ];
    let spoilt = prop::option::weighted(0.3, (0..20_usize, spoil()));
    let ttl = prop_oneof![6 => Just(64), 1 => 0..4_u8];
    let tos = prop_oneof![4 => Just(0), 3 => 0..4_u8, 1 => any::<u8>()];
    let kept = prop::array::uniform4(prop::bool::weighted(0.7));
    let flow = prop_oneof![2 => Just(0), 1 => 0..6_u8];
    (flow, ttl, tos, any::<bool>(), lens, kept, spoilt).prop_map(
        |(flow, ttl, tos, dont_fragment, lens, kept, spoilt)| Series {
            flow,
            ttl,
            tos,
            dont_fragment,
            lens,
            kept,
            spoilt,
        },
    )
}

impl Series {
    /// The same behind another.
    fn behind(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            let [flow, ttl, tos, dont_fragment] = self.kept;
            self.flow = if flow { before.flow } else { self.flow };
            self.ttl = if ttl { before.ttl } else { self.ttl };
            self.tos = if tos { before.tos } else { self.tos };
            self.dont_fragment = if dont_fragment { before.dont_fragment } else { self.dont_fragment };
        }
        self
    }

    fn packets(&self) -> Vec<Vec<u8>> {
        let mut packet = Packet::between(1, 2, self.flow == 5, 0);
        match self.flow {
            0 | 1 => {}
            2 => packet.ports = (1000, 2001),
            // Bypassed; of no policy.
            3 => packet.dst = host(3, false),
            4 => packet.dst = host(4, false),
            _ => {}
        }
        let Self { ttl, tos, dont_fragment, .. } = *self;
        let packets = self.lens.iter().map(|&len| Packet { ttl, tos, dont_fragment, len, ..packet.clone() });
        packets.map(|packet| packet.octets()).collect()
    }
}

/// What the way between both ends does to a packet that is sealed.
fn on_the_way(frames: &mut Vec<Vec<u8>>, spoilt: &[(usize, Spoil, bool)]) {
    for &(at, spoil, mends) in spoilt {
        if frames.is_empty() {
            return;
        }
        let at = at % frames.len();
        let frame = &mut frames[at];
        match spoil {
            Spoil::Bit(octet, bit) => {
                let octet = octet % frame.len();
                frame[octet] ^= bit;
                if mends && frame[14] == 0x45 && frame.len() >= 34 {
                    frame[24..26].fill(0);
                    let sum = portcullis_gateway::wire::Checksum::default().octets(&frame[14..34]).finish();
                    frame[24..26].copy_from_slice(&sum.to_be_bytes());
                }
            }
            Spoil::Cut => frame.truncate(frame.len() - 1),
            Spoil::Padded => frame.extend([0; 7]),
            Spoil::Twice => frames.insert(at, frames[at].clone()),
            Spoil::Early if at > 0 => frames.swap(at - 1, at),
            Spoil::Early => {}
        }
    }
}

/// Has no frame follow another in a train.
fn apart(frames: &mut [Vec<u8>]) {
    for (at, frame) in frames.iter_mut().enumerate().filter(|(_, frame)| frame.len() >= 14) {
        frame[11] = at as u8;
    }
}

/// Takes batches through one rig of each pair, and says what has come out of both.
fn both(rigs: [&mut Rig; 2], port: PortIndex, frames: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, TestCaseError> {
    let [together, alone] = rigs;
    let mut singly = frames.to_vec();
    apart(&mut singly);
    let (mut came, mut expected) = (Outcome::default(), Outcome::default());
    for (frames, singly) in frames.chunks(64).zip(singly.chunks(64)) {
        came = merged(came, together.feed_frames(Ingress::Port(port), frames));
        expected = merged(expected, alone.feed_frames(Ingress::Port(port), singly));
    }
    // Errors go back to where the frames have come from.
    let sent = came.transmit.iter_mut().chain(&mut expected.transmit);
    sent.filter(|(by, frame)| *by == port && frame[23] == 1).for_each(|(_, frame)| frame[5] = 0);
    prop_assert_eq!(&came.drops, &expected.drops);
    prop_assert_eq!(&came.transmit, &expected.transmit);
    prop_assert_eq!(&came.to_kernel, &expected.to_kernel);
    prop_assert_eq!(came.held.len(), expected.held.len());
    let counters = |rig: &Rig| {
        let list = rig.installer.list();
        let policies = rig.installer.policies();
        let policies: Vec<_> = policies.iter().map(|policy| format!("{:?}", policy.counters)).collect();
        (
            format!("{list:?}"),
            policies,
            format!("{:?}", rig.counters),
            format!("{:?}", rig.installer.take_events()),
        )
    };
    prop_assert_eq!(counters(together), counters(alone));
    Ok(came.transmit.into_iter().filter(|(by, _)| *by == OUTSIDE).map(|(_, frame)| frame).collect())
}

fn merged(mut all: Outcome, more: Outcome) -> Outcome {
    all.transmit.extend(more.transmit);
    all.to_kernel.extend(more.to_kernel);
    all.held.extend(more.held);
    more.drops.into_iter().for_each(|(reason, count)| *all.drops.entry(reason).or_default() += count);
    all
}

/// How the ends of a tunnel are set up.
#[derive(Debug, Clone)]
struct Setup {
    child: Child,
    /// Only part of what the policy covers.
    narrow: bool,
    rates: bool,
    bypasses: bool,
    small_mtu: bool,
}

fn setup() -> impl Strategy<Value = Setup> {
    let algorithms = prop_oneof![
        4 => Just(EspAlgorithm::Aes256Gcm16),
        1 => Just(EspAlgorithm::ChaCha20Poly1305),
        1 => Just(EspAlgorithm::Aes128CbcSha256),
        1 => Just(EspAlgorithm::Aes256CtrSha256),
    ];
    let options = prop_oneof![
        3 => Just(SaOptions::default()),
        1 => Just(SaOptions { copy_df: CopyDf::No, copy_ecn: false, ..SaOptions::default() }),
        1 => Just(SaOptions { fragmentation: Fragmentation::After, dscp: 10, ..SaOptions::default() }),
    ];
    let flags = prop::array::uniform4(prop::bool::weighted(0.3));
    let rare = || prop::bool::weighted(0.2);
    (algorithms, options, flags, rare(), rare(), any::<bool>()).prop_map(
        |(algorithm, options, [esn, udp, narrow, bypasses], outer_v6, rates, small_mtu)| Setup {
            child: Child { algorithm, options, esn, udp, outer_v6, ..Child::between(1, 2) },
            narrow,
            rates,
            bypasses,
            small_mtu,
        },
    )
}

impl Setup {
    fn pair(&self) -> Pair {
        let (a, b) = (Rig::new(1), Rig::new(2));
        let (child, mirrored) = (&self.child, self.child.mirrored());
        let (a_spi, b_spi) = (a.install_inbound(child, 2, 0), b.install_inbound(&mirrored, 1, 1));
        let a_policy = a.policy(&child.local_ts, &child.remote_ts);
        let remote_ts = match self.narrow {
            true => vec![ts("10.2.0.0/16[udp/2000]")],
            false => child.remote_ts.clone(),
        };
        a.activate(&Child { remote_ts, ..child.clone() }, 2, a_policy, a_spi, b_spi, 1);
        let pair = Pair { a, b, a_spi, b_spi, a_policy };
        if self.bypasses {
            pair.a.policy_to(PolicyAction::Bypass, &[ts("10.1.0.0/16")], &[ts("10.3.0.0/16")]);
        }
        if self.rates {
            let slow =
                RateLimit { bits_per_second: 8_000.try_into().unwrap(), burst: 5_000.try_into().unwrap() };
            let limits = RateLimits { inbound: Some(slow), outbound: Some(slow) };
            for rig in [&pair.a, &pair.b] {
                let rates = BTreeMap::from([("connection/child".to_owned(), limits)]);
                rig.installer.set_rates(rates, BTreeMap::new()).unwrap();
            }
        }
        if self.small_mtu {
            let NextHop::Port { port, src_mac, dst_mac, .. } = common::hop(2, INSIDE) else { return pair };
            let small = NextHop::Port { port, src_mac, dst_mac, mtu: 150 };
            pair.b.set_routes(&[("10.2.0.0/16", small)]);
        }
        pair
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn a_train_is_what_its_packets_are_one_by_one(
        setup in setup(),
        batches in prop::collection::vec(
            (
                prop::collection::vec(series(), 1..8),
                prop::collection::vec((any::<usize>(), spoil(), any::<bool>()), 0..4),
            ),
            2..5,
        ),
    ) {
        let (mut trains, mut singles) = (setup.pair(), setup.pair());
        for (series, spoilt) in batches {
            let (mut frames, mut before) = (Vec::new(), None);
            for series in series {
                let series = series.behind(before.as_ref());
                let mut own: Vec<_> =
                    series.packets().iter().map(|packet| ethernet(port_mac(1, INSIDE), packet)).collect();
                on_the_way(&mut own, &series.spoilt.map(|(at, spoil)| (at, spoil, series.tos & 1 == 0)).into_iter().collect::<Vec<_>>());
                frames.extend(own);
                before = Some(series);
            }
            let mut sealed = both([&mut trains.a, &mut singles.a], INSIDE, &frames)?;
            for frame in &mut sealed {
                frame[..6].copy_from_slice(&port_mac(2, OUTSIDE));
            }
            on_the_way(&mut sealed, &spoilt);
            both([&mut trains.b, &mut singles.b], OUTSIDE, &sealed)?;
        }
    }
}
