//! Tables with a number of SAs in them: ours, and the two that a gateway would have that took what lies nearest.

use std::collections::{HashMap, VecDeque, hash_map};
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use dashmap::DashMap;
use portcullis_aead::{Algorithm, Engine, Key};
use portcullis_gateway::sa::{OutboundRef, Reclaimer, SaControl, SaTable};
use portcullis_ipsec::{
    Encapsulation, EspAlgorithm, EspKey, InboundSa, InstallError, OutboundSa, SaOptions, Spi, TenantId,
    TrafficSelector, TunnelEndpoints,
};

use super::Random;

/// Pairs that the writer keeps replacing, beside those that are looked up.
const CHURNED: usize = 4096;
/// Free slots, so that the writer need not wait for readers.
const SPARE: usize = 12_288;

/// An SA of a table that is not ours: less than ours holds, in its favour.
pub(crate) struct NaiveSa {
    pub(crate) spi: u32,
    pub(crate) key: Key,
}

/// A map behind a lock.
pub(crate) type Locked = RwLock<HashMap<u32, Arc<NaiveSa>>>;
/// A map of locked shards.
pub(crate) type Sharded = DashMap<u32, Arc<NaiveSa>>;

/// The tables, the same SAs in each.
pub(crate) struct World {
    pub(crate) sas: SaTable,
    pub(crate) locked: Locked,
    pub(crate) sharded: Sharded,
    /// Inbound SPIs in the order in which they are looked up: every one, or a few many times.
    pub(crate) spis: Vec<u32>,
    /// Outbound SAs, the same way.
    pub(crate) references: Vec<OutboundRef>,
    /// How many pairs are looked up.
    pub(crate) pairs: usize,
}

impl World {
    /// With so many pairs to look up.
    pub(crate) fn new(pairs: usize) -> anyhow::Result<Self> {
        let sas = table(pairs + CHURNED + SPARE)?;
        let (locked, sharded) = (Locked::default(), Sharded::default());
        let (mut spis, mut references) = (Vec::new(), Vec::new());
        let mut control = sas.control();
        for number in 0..pairs {
            let (spi, reference) = install(&mut control, number)?;
            let naive = Arc::new(NaiveSa::new(sas.engine(), spi.get(), number)?);
            locked.write().unwrap_or_else(PoisonError::into_inner).insert(spi.get(), Arc::clone(&naive));
            sharded.insert(spi.get(), naive);
            spis.push(spi.get());
            references.push(reference);
        }
        drop(control);
        // Order without meaning, and at least some thousands of names.
        let mut random = Random(pairs as u64);
        let order = |random: &mut Random| {
            let mut order: Vec<usize> = (0..pairs.max(1 << 16)).map(|index| index % pairs).collect();
            random.shuffle(&mut order);
            order
        };
        let inbound = order(&mut random).into_iter().filter_map(|index| spis.get(index).copied()).collect();
        let outbound =
            order(&mut random).into_iter().filter_map(|index| references.get(index).copied()).collect();
        Ok(Self { sas, locked, sharded, spis: inbound, references: outbound, pairs })
    }

    /// Replaces one pair after another in our table; a call is one rekey.
    pub(crate) fn churn_ours(&self) -> impl FnMut() -> anyhow::Result<()> {
        let mut live: VecDeque<(Spi, OutboundRef)> = VecDeque::new();
        let mut number = self.pairs;
        move || {
            let mut control = self.sas.control();
            if live.len() >= CHURNED
                && let Some((spi, reference)) = live.pop_front()
            {
                control.withdraw_outbound(reference);
                control.withdraw_inbound(spi);
            }
            control.collect(|_| {}, |_| {});
            number += 1;
            match install(&mut control, number) {
                Ok(pair) => live.push_back(pair),
                // The reader sleeps: nothing is freed before it wakes.
                Err(InstallError::TableFull { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(())
        }
    }

    /// The same with the map behind a lock.
    pub(crate) fn churn_locked(&self) -> impl FnMut() -> anyhow::Result<()> {
        let (mut live, mut number) = (VecDeque::new(), self.pairs);
        move || {
            number += 1;
            let (name, sa) = self.naive(number)?;
            let old = (live.len() >= CHURNED).then(|| live.pop_front()).flatten();
            let mut map = self.locked.write().unwrap_or_else(PoisonError::into_inner);
            let gone = old.and_then(|old| map.remove(&old));
            // One of those that are looked up keeps its name.
            if let hash_map::Entry::Vacant(place) = map.entry(name) {
                place.insert(sa);
                live.push_back(name);
            }
            drop(map);
            drop(gone);
            Ok(())
        }
    }

    /// The same with the map of shards.
    pub(crate) fn churn_sharded(&self) -> impl FnMut() -> anyhow::Result<()> {
        let (mut live, mut number) = (VecDeque::new(), self.pairs);
        move || {
            number += 1;
            let (name, sa) = self.naive(number)?;
            if live.len() >= CHURNED
                && let Some(old) = live.pop_front()
            {
                self.sharded.remove(&old);
            }
            if let dashmap::Entry::Vacant(place) = self.sharded.entry(name) {
                place.insert(sa);
                live.push_back(name);
            }
            Ok(())
        }
    }

    fn naive(&self, number: usize) -> anyhow::Result<(u32, Arc<NaiveSa>)> {
        let name = Random(number as u64).next() as u32;
        Ok((name, Arc::new(NaiveSa::new(self.sas.engine(), name, number)?)))
    }
}

impl NaiveSa {
    fn new(engine: Engine, spi: u32, number: usize) -> anyhow::Result<Self> {
        let key = engine.key(Algorithm::Aes256Gcm, keymat(number).get(..32).unwrap_or_default());
        Ok(Self { spi, key: key.context("a key of 32 octets")? })
    }
}

/// An empty table for so many pairs.
pub(crate) fn table(capacity: usize) -> anyhow::Result<SaTable> {
    let engine = Engine::select(None).context("choosing an AEAD engine")?;
    Ok(SaTable::new(capacity, engine, *b"a key of benches", Reclaimer::new(8))?)
}

/// Installs pair `number` as the control plane would, past the installer.
pub(crate) fn install(
    control: &mut SaControl<'_>,
    number: usize,
) -> Result<(Spi, OutboundRef), InstallError> {
    let spi = control.reserve_spi()?;
    control.publish_inbound(spi, &inbound(number))?;
    Ok((spi, control.publish_outbound(spi, &outbound(number))?))
}

/// A key of its own for every pair.
fn keymat(number: usize) -> [u8; 36] {
    let mut random = Random(number as u64);
    let mut octets = [0; 36];
    for word in octets.chunks_mut(8) {
        word.copy_from_slice(random.next().to_le_bytes().get(..word.len()).unwrap_or_default());
    }
    octets
}

#[expect(clippy::expect_used, reason = "36 octets are what the algorithm takes")]
fn key(number: usize) -> EspKey {
    EspKey::from_keymat(EspAlgorithm::Aes256Gcm16, &keymat(number)).expect("36 octets")
}

fn endpoints(number: usize) -> TunnelEndpoints {
    TunnelEndpoints {
        local: Ipv4Addr::new(192, 0, 2, 1).into(),
        remote: Ipv4Addr::from_bits(0xc612_0000 | number as u32 & 0x1_ffff).into(),
        encapsulation: Encapsulation::Udp { local_port: 4500, remote_port: 4500 },
    }
}

fn selectors(number: usize) -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
    let one = |bits: u32| {
        let addr = std::net::IpAddr::from(Ipv4Addr::from_bits(bits));
        vec![TrafficSelector::any(portcullis_ipsec::AddressRange::from(addr))]
    };
    (one(0x0a01_0001), one(0x0b00_0000 | number as u32 & 0xff_ffff))
}

/// The inbound SA of pair `number`.
pub(crate) fn inbound(number: usize) -> InboundSa {
    let (local_ts, remote_ts) = selectors(number);
    InboundSa {
        key: key(number),
        esn: true,
        replay_window: 1024,
        endpoints: endpoints(number),
        local_ts,
        remote_ts,
        tenant: TenantId(0),
        options: SaOptions::default(),
    }
}

/// The outbound SA of pair `number`.
pub(crate) fn outbound(number: usize) -> OutboundSa {
    let (local_ts, remote_ts) = selectors(number);
    #[expect(clippy::expect_used, reason = "the highest bit is set")]
    let spi = Spi::new(0x8000_0000 | number as u32).expect("above 255");
    OutboundSa {
        spi,
        key: key(number + (1 << 32)),
        esn: true,
        endpoints: endpoints(number),
        local_ts,
        remote_ts,
        options: SaOptions::default(),
    }
}
