//! One end of the tunnels: the tables of a data plane and one worker's pipeline, with frames in memory in place of
//! rings.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use portcullis_aead::Engine;
use portcullis_gateway::coarse::Coarse;
use portcullis_gateway::drop::{DropReason, WorkerCounters};
use portcullis_gateway::events::EventBoard;
use portcullis_gateway::frame::Frame;
use portcullis_gateway::installer::Installer;
use portcullis_gateway::pipeline::{FrameSource, Ingress, Output, Pipeline, Shared, TrapLimits};
use portcullis_gateway::policy::PolicyTable;
use portcullis_gateway::route::{PortIndex, PortInfo, Role, Route, RouteTable};
use portcullis_gateway::sa::{Reclaimer, SaTable};
use portcullis_gateway::wire::Mac;
use portcullis_ipsec::{
    AddressRange, Encapsulation, EspAlgorithm, EspKey, InboundSa, OutboundSa, Policy, PolicyAction,
    PolicyOrigin, SaInstaller, SaOptions, Spi, TenantId, TrafficSelector, TunnelEndpoints,
};

pub(crate) const OUTSIDE: PortIndex = PortIndex(0);
pub(crate) const INSIDE: PortIndex = PortIndex(1);

/// Every neighbour's address, on either link.
const NEIGHBOUR: Mac = [2, 0, 0, 0, 0, 0xee];
const MTU: u32 = 9216;

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Seals.
    Hub,
    /// Opens.
    Spokes,
}

/// The hub's network, where packets come from.
pub(crate) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);

/// The one host behind the `n`th spoke.
pub(crate) fn destination(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 64, 0, 0).to_bits() + n)
}

/// An end of `sas` tunnels.
pub(crate) struct End {
    side: Side,
    installer: Installer,
    pipeline: Pipeline,
    counters: Arc<WorkerCounters>,
    pub(crate) out: Output,
}

/// No frames but those of the batch: nothing that is measured makes any.
struct NoFrames;

impl FrameSource for NoFrames {
    fn take(&mut self) -> Option<Frame> {
        None
    }
}

impl End {
    pub(crate) fn new(side: Side, engine: Engine, sas: u32) -> anyhow::Result<Self> {
        let reclaimer = Reclaimer::new(1);
        let capacity = sas as usize;
        let table = Arc::new(SaTable::new(capacity, engine, [7; 16], reclaimer.clone())?);
        let policies = Arc::new(PolicyTable::new(capacity)?);
        let events = Arc::new(EventBoard::new(capacity, capacity, Box::new(|| {})));
        let shared = Shared {
            sas: Arc::clone(&table),
            policies: Arc::clone(&policies),
            routes: Arc::new(ArcSwap::from_pointee(side.routes())),
            events: Arc::clone(&events),
            nat_port: 4500,
            firewall: false,
            trap: TrapLimits::OFF,
            trap_signal: Arc::default(),
            trace: Arc::default(),
        };
        let counters = Arc::new(WorkerCounters::default());
        let reader = reclaimer.register().context("a place for the one worker")?;
        let pipeline = Pipeline::new(Arc::new(shared), Arc::clone(&counters), reader, 42);
        let installer = Installer::new(table, policies, events, Box::new(()), Box::new(|| Coarse(0)));
        Ok(Self { side, installer, pipeline, counters, out: Output::default() })
    }

    /// Installs the `n`th spoke's pair at the hub; the outbound SA has the SPI by which the other end knows it.
    pub(crate) fn install_pair(&self, n: u32, spi: Spi) -> anyhow::Result<()> {
        let (local_ts, remote_ts) = (vec![selector(SOURCE)], vec![selector(destination(n))]);
        let pair = self.install_inbound(n, &local_ts, &remote_ts)?;
        let policy = self.installer.install_policy(Policy {
            name: String::new(),
            tenant: TenantId::default(),
            local_ts: local_ts.clone(),
            remote_ts: remote_ts.clone(),
            origin: PolicyOrigin::Negotiated,
            action: PolicyAction::Protect,
            priority: None,
            per_worker: false,
        })?;
        let endpoints = self.side.endpoints();
        let sa = OutboundSa {
            spi,
            key: key(n)?,
            esn: true,
            endpoints,
            local_ts,
            remote_ts,
            options: SaOptions::default(),
        };
        Ok(self.installer.activate_outbound(policy, pair, sa)?)
    }

    /// Installs the `n`th spoke's inbound SA at the spokes' end.
    pub(crate) fn install_spoke(&self, n: u32) -> anyhow::Result<Spi> {
        self.install_inbound(n, &[selector(destination(n))], &[selector(SOURCE)])
    }

    fn install_inbound(
        &self,
        n: u32,
        local_ts: &[TrafficSelector],
        remote_ts: &[TrafficSelector],
    ) -> anyhow::Result<Spi> {
        let spi = self.installer.allocate_spi()?;
        let sa = InboundSa {
            key: key(n)?,
            esn: true,
            replay_window: 1024,
            endpoints: self.side.endpoints(),
            local_ts: local_ts.to_vec(),
            remote_ts: remote_ts.to_vec(),
            tenant: TenantId::default(),
            options: SaOptions::default(),
        };
        self.installer.install_inbound(spi, sa)?;
        Ok(spi)
    }

    /// What a worker does with a batch from its ring.
    pub(crate) fn process(&mut self, port: PortIndex, batch: &mut Vec<Frame>) {
        self.pipeline.process(Coarse(100), Ingress::Port(port), batch, &mut NoFrames, &mut self.out);
    }

    /// An error that says why packets were dropped, if any were.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let dropped = DropReason::ALL.iter().find(|&&reason| self.counters.drops(reason) > 0);
        match dropped {
            Some(reason) => anyhow::bail!("{:?} dropped packets: {}", self.side, reason.label()),
            None => Ok(()),
        }
    }
}

impl Side {
    fn number(self) -> u8 {
        match self {
            Self::Hub => 1,
            Self::Spokes => 2,
        }
    }

    fn address(self) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, self.number()).into()
    }

    fn peer(self) -> Self {
        match self {
            Self::Hub => Self::Spokes,
            Self::Spokes => Self::Hub,
        }
    }

    fn endpoints(self) -> TunnelEndpoints {
        TunnelEndpoints {
            local: self.address(),
            remote: self.peer().address(),
            encapsulation: Encapsulation::None,
        }
    }

    /// The MAC address of one of its ports.
    pub(crate) fn mac(self, port: PortIndex) -> Mac {
        [2, 0, 0, 0, self.number(), port.0 as u8]
    }

    fn port(self, index: PortIndex) -> PortInfo {
        let (role, name) =
            if index == OUTSIDE { (Role::Outside, "outside") } else { (Role::Inside, "inside") };
        PortInfo {
            index,
            ifindex: 10 + u32::from(index.0),
            name: name.to_owned(),
            role,
            mac: self.mac(index),
            mtu: MTU,
            up: true,
            addresses: Vec::new(),
        }
    }

    /// Inside everything goes to one router, outside to another.
    fn routes(self) -> RouteTable {
        let [outside, inside] = [self.port(OUTSIDE), self.port(INSIDE)];
        let router = |port: &PortInfo| IpAddr::from([198, 51, 100, port.ifindex as u8]);
        let via =
            |port: &PortInfo| Route::Via { ifindex: port.ifindex, gateway: Some(router(port)), mtu: None };
        let routes = [("0.0.0.0/0", via(&outside)), ("10.0.0.0/8", via(&inside))];
        let neighbours = [&outside, &inside].map(|port| ((port.ifindex, router(port)), NEIGHBOUR));
        let mut table = RouteTable::new(vec![outside, inside]);
        table.set_tunnel_addresses([self.address()]);
        table.set_local_addresses([self.address()]);
        table.set_routes(routes.into_iter().filter_map(|(net, route)| Some((net.parse().ok()?, route))));
        table.set_neighbours(neighbours.into());
        table
    }
}

fn selector(host: Ipv4Addr) -> TrafficSelector {
    TrafficSelector::any(AddressRange::from(IpAddr::from(host)))
}

/// Of AES-256-GCM, another one for every SA.
fn key(n: u32) -> anyhow::Result<EspKey> {
    let mut keymat = [7; 36];
    let (number, _) = keymat.split_at_mut(4);
    number.copy_from_slice(&n.to_be_bytes());
    EspKey::from_keymat(EspAlgorithm::Aes256Gcm16, &keymat).ok().context("keying material of 36 octets")
}
