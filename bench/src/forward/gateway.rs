//! The gateway under test: the data plane as the daemon runs it, with SAs installed by hand instead of by IKE.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use portcullis_gateway::dataplane::{
    Dataplane, DataplaneConfig, Firewall, InterfaceConfig, OnStop, Role, TrapLimits, XdpMode,
};
use portcullis_ipsec::{
    AddressRange, Encapsulation, EspAlgorithm, EspKey, InboundSa, OutboundSa, Policy, PolicyAction, PolicyId,
    PolicyOrigin, SaInstaller, SaOptions, Spi, TenantId, TrafficSelector, TunnelEndpoints,
};

use super::lab::{FAR_GATEWAY, FAR_HOST, LOCAL, Place, REMOTE};
use super::packets::{KEYMAT, PeerSa, remote, spi_of};

/// What the gateway does with what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Clear packets come in, ESP goes out.
    Encrypt,
    /// ESP comes in, clear packets go out.
    Decrypt,
    /// Clear packets come in and go out.
    Plain,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Encrypt, Self::Decrypt];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Plain => "plain",
        }
    }
}

/// How long a rekeyed SA still receives, as a peer's packets are still on their way.
const OVERLAP: Duration = Duration::from_millis(100);

/// One flow's policy and its SA pair of now.
#[derive(Debug, Clone, Copy)]
struct Child {
    policy: PolicyId,
    /// The inbound SPI; none with plain forwarding.
    pair: Option<Spi>,
    generation: u32,
}

/// A running gateway.
pub(crate) struct Gateway {
    dataplane: Dataplane,
    installer: Arc<dyn SaInstaller>,
    children: Vec<Child>,
    /// What the peer seals with, by flow. Lent to a [`Source`](super::packets::Source) while that sends, because numbers
    /// go on from case to case.
    pub(crate) peers: Vec<PeerSa>,
    /// Replaced pairs that still receive, with when they were replaced.
    retired: VecDeque<(Instant, Spi)>,
    next_rekey: usize,
}

impl Gateway {
    /// Starts it with a policy, and but for plain forwarding an SA pair, for each of `flows` flows.
    pub(crate) fn start(place: &Place, mode: Mode, flows: u32, core: usize) -> anyhow::Result<Self> {
        let config = config(place, flows, core)?;
        let (dataplane, _) = place.gateway.enter(|| Dataplane::start(config))??;
        let installer = dataplane.installer();
        let mut gateway = Self {
            dataplane,
            installer,
            children: Vec::new(),
            peers: Vec::new(),
            retired: VecDeque::new(),
            next_rekey: 0,
        };
        let action = if mode == Mode::Plain { PolicyAction::Bypass } else { PolicyAction::Protect };
        let start = Instant::now();
        eprintln!("{}: installing {flows} policies, and their SAs", mode.name());
        for flow in 0..flows {
            let policy = policy(&format!("flow/{flow}"), host(flow)?, PolicyOrigin::Negotiated, action)?;
            let policy = gateway.installer.install_policy(policy)?;
            let mut child = Child { policy, pair: None, generation: 0 };
            if mode != Mode::Plain {
                let pair = gateway.install(flow, child)?;
                child.pair = Some(pair);
                gateway.peers.push(PeerSa { spi: pair.get(), next: 1 });
            }
            gateway.children.push(child);
        }
        eprintln!("{}: installed within {:.1} s", mode.name(), start.elapsed().as_secs_f64());
        Ok(gateway)
    }

    /// Installs an SA pair and lets the policy use it.
    fn install(&self, flow: u32, child: Child) -> anyhow::Result<Spi> {
        let key = EspKey::from_keymat(EspAlgorithm::Aes256Gcm16, &KEYMAT)?;
        let endpoints = TunnelEndpoints {
            local: IpAddr::V4(FAR_GATEWAY),
            remote: IpAddr::V4(FAR_HOST),
            encapsulation: Encapsulation::None,
        };
        let (local_ts, remote_ts) = (vec![LOCAL.parse()?], vec![host(flow)?]);
        let pair = self.installer.allocate_spi()?;
        let inbound = InboundSa {
            key: key.clone(),
            esn: true,
            replay_window: 1024,
            endpoints,
            local_ts: local_ts.clone(),
            remote_ts: remote_ts.clone(),
            tenant: TenantId::default(),
            options: SaOptions::default(),
        };
        self.installer.install_inbound(pair, inbound)?;
        let spi = Spi::new(spi_of(flow, child.generation)).context("an SPI above 255")?;
        let outbound =
            OutboundSa { spi, key, esn: true, endpoints, local_ts, remote_ts, options: SaOptions::default() };
        self.installer.activate_outbound(child.policy, pair, outbound)?;
        Ok(pair)
    }

    /// Rekeys the next flow's child, and removes what was replaced a while ago. The inbound SPI is the peer's to use
    /// from now on.
    pub(crate) fn rekey(&mut self) -> anyhow::Result<Option<(u32, PeerSa)>> {
        while let Some((since, pair)) = self.retired.front().copied() {
            if since.elapsed() < OVERLAP {
                break;
            }
            self.installer.remove(pair)?;
            self.retired.pop_front();
        }
        let index = self.next_rekey % self.children.len().max(1);
        self.next_rekey += 1;
        let flow = u32::try_from(index)?;
        let Some(child) = self.children.get(index).copied() else { return Ok(None) };
        let Some(old) = child.pair else { return Ok(None) };
        let next = Child { generation: child.generation + 1, ..child };
        let pair = self.install(flow, next)?;
        self.installer.retire(old)?;
        self.retired.push_back((Instant::now(), old));
        if let Some(child) = self.children.get_mut(index) {
            *child = Child { pair: Some(pair), ..next };
        }
        Ok(Some((flow, PeerSa { spi: pair.get(), next: 1 })))
    }

    /// Why it has dropped packets, as far as it has.
    pub(crate) fn drops(&self) -> BTreeMap<String, u64> {
        let mut drops = self.dataplane.stats().drops;
        drops.retain(|_, count| *count > 0);
        drops
    }

    /// Stops it and leaves nothing behind.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        Ok(self.dataplane.stop()?)
    }
}

fn host(flow: u32) -> anyhow::Result<TrafficSelector> {
    let addr = IpAddr::V4(remote(flow));
    let addrs = AddressRange::new(addr, addr).context("a range of one address")?;
    Ok(TrafficSelector { addrs, ..REMOTE.parse()? })
}

fn policy(
    name: &str,
    remote_ts: TrafficSelector,
    origin: PolicyOrigin,
    action: PolicyAction,
) -> anyhow::Result<Policy> {
    Ok(Policy {
        name: name.to_owned(),
        tenant: TenantId::default(),
        local_ts: vec![LOCAL.parse()?],
        remote_ts: vec![remote_ts],
        origin,
        action,
        priority: None,
        per_worker: false,
    })
}

fn config(place: &Place, flows: u32, core: usize) -> anyhow::Result<DataplaneConfig> {
    let interface =
        |name: &str, role| InterfaceConfig { name: name.to_owned(), role, queues: None, mode: XdpMode::Auto };
    // What protects everything behind the peer from the first moment on, as a child of the configuration does.
    let origin = PolicyOrigin::Configured { acquire: false };
    let everything = policy("forward/all", REMOTE.parse()?, origin, PolicyAction::Protect)?;
    let flows = flows as usize;
    Ok(DataplaneConfig {
        interfaces: vec![interface("outside0", Role::Outside), interface("inside0", Role::Inside)],
        workers: vec![core],
        frames: 16384,
        frame_size: 4096,
        // Replaced ones stay for a while.
        max_sas: flows * 2 + 4096,
        max_policies: flows + 64,
        tun: "portcullis0".to_owned(),
        pin_dir: place.gateway.pin_dir().to_owned(),
        engine: None,
        ike_port: 500,
        nat_port: 4500,
        trap: TrapLimits::OFF,
        devices: Vec::new(),
        route_table: 220,
        mark: 0x5043,
        tunnel_addresses: Vec::new(),
        spin: Duration::from_micros(50),
        busy_poll: None,
        stall: Duration::from_secs(60),
        policies: vec![everything],
        on_stop: OnStop::Open,
        firewall: Firewall::None,
    })
}
