//! A gateway of [`Sites`]: a real data plane in its namespace, with SAs installed by hand instead of by IKE.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_gateway::dataplane::{
    Dataplane, DataplaneConfig, DataplaneStats, Firewall, InterfaceConfig, OnStop, Role, StartError,
    TrapLimits, XdpMode,
};
use portcullis_ipsec::{
    Encapsulation, EspAlgorithm, EspKey, InboundSa, OutboundSa, Policy, PolicyAction, PolicyId, PolicyOrigin,
    SaInstaller, SaOptions, Spi, TenantId, TrafficSelector, TunnelEndpoints,
};
use portcullis_lab::{Host, Sites};

const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Gateway {
    pub(crate) host: Host,
    pub(crate) dataplane: Dataplane,
    pub(crate) policy: PolicyId,
    /// Of the SAs that are to be installed, as the two below.
    pub(crate) options: SaOptions,
    pub(crate) algorithm: EspAlgorithm,
    pub(crate) esn: bool,
    outer: IpAddr,
    local_ts: Vec<TrafficSelector>,
    remote_ts: Vec<TrafficSelector>,
}

/// What gateway `a` of the sites protects.
pub(crate) const A: (&[&str], &[&str]) =
    (&["10.1.0.0/24", "2001:db8:1::/64"], &["10.2.0.0/24", "2001:db8:2::/64"]);
/// What gateway `b` protects.
pub(crate) const B: (&[&str], &[&str]) = (A.1, A.0);

/// One configured policy, one worker.
pub(crate) fn config(host: &Host, networks: (&[&str], &[&str])) -> DataplaneConfig {
    config_at(host.pin_dir(), networks)
}

/// The same, pinned there.
pub(crate) fn config_at(pin_dir: &Path, (local_ts, remote_ts): (&[&str], &[&str])) -> DataplaneConfig {
    let interface =
        |name: &str, role| InterfaceConfig { name: name.to_owned(), role, queues: None, mode: XdpMode::Auto };
    DataplaneConfig {
        interfaces: vec![interface("outside0", Role::Outside), interface("inside0", Role::Inside)],
        workers: vec![0],
        frames: 8192,
        frame_size: 4096,
        max_sas: 64,
        max_policies: 64,
        tun: "portcullis0".to_owned(),
        pin_dir: pin_dir.to_owned(),
        engine: None,
        ike_port: 500,
        nat_port: 4500,
        trap: TrapLimits::OFF,
        devices: Vec::new(),
        route_table: 220,
        mark: 0x5043,
        tunnel_addresses: Vec::new(),
        spin: Duration::from_micros(20),
        busy_poll: None,
        stall: Duration::from_secs(20),
        policies: vec![policy(local_ts, remote_ts)],
        on_stop: OnStop::Closed,
        firewall: Firewall::None,
    }
}

pub(crate) fn policy(local_ts: &[&str], remote_ts: &[&str]) -> Policy {
    Policy {
        name: "site/net".to_owned(),
        tenant: TenantId::default(),
        local_ts: selectors(local_ts),
        remote_ts: selectors(remote_ts),
        origin: PolicyOrigin::Configured { acquire: true },
        action: PolicyAction::Protect,
        priority: None,
        per_worker: false,
    }
}

fn selectors(texts: &[&str]) -> Vec<TrafficSelector> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Starts a data plane in the host's namespace, which its threads stay in.
pub(crate) fn start(host: &Host, config: DataplaneConfig) -> Result<(Dataplane, Vec<PolicyId>), StartError> {
    host.enter(|| Dataplane::start(config)).unwrap()
}

impl Gateway {
    /// Starts one that listens on `outer`.
    pub(crate) fn start(host: &Host, outer: IpAddr, config: DataplaneConfig) -> Self {
        let [policy] = &config.policies[..] else { panic!("one policy is expected") };
        let (local_ts, remote_ts) = (policy.local_ts.clone(), policy.remote_ts.clone());
        let (dataplane, ids) = start(host, config).unwrap();
        Self {
            host: host.clone(),
            dataplane,
            policy: ids[0],
            options: SaOptions::default(),
            algorithm: EspAlgorithm::Aes256Gcm16,
            esn: true,
            outer,
            local_ts,
            remote_ts,
        }
    }

    /// Both gateways of the sites, without a tunnel.
    pub(crate) fn pair(sites: &Sites) -> (Self, Self) {
        let a = Self::start(&sites.a, Sites::A_OUTSIDE, config(&sites.a, A));
        let b = Self::start(&sites.b, Sites::B_OUTSIDE, config(&sites.b, B));
        (a, b)
    }

    /// Listens on another address from now on.
    pub(crate) fn at(self, outer: IpAddr) -> Self {
        Self { outer, ..self }
    }

    pub(crate) fn installer(&self) -> std::sync::Arc<dyn SaInstaller> {
        self.dataplane.installer()
    }

    pub(crate) fn stats(&self) -> DataplaneStats {
        self.dataplane.stats()
    }

    pub(crate) fn drops(&self, label: &str) -> u64 {
        self.stats().drops[label]
    }

    /// Brings a tunnel up and returns its inbound SPIs, which name the pairs.
    pub(crate) fn connect(&self, peer: &Self, encapsulation: Encapsulation) -> (Spi, Spi) {
        let (ours, theirs) =
            (self.installer().allocate_spi().unwrap(), peer.installer().allocate_spi().unwrap());
        self.install(peer.outer, encapsulation, (ours, 1), (theirs, 2));
        peer.install(self.outer, encapsulation, (theirs, 2), (ours, 1));
        (ours, theirs)
    }

    /// Both directions, each an SPI and a seed for its key.
    pub(crate) fn install(
        &self,
        remote: IpAddr,
        encapsulation: Encapsulation,
        inbound: (Spi, u8),
        outbound: (Spi, u8),
    ) {
        let endpoints = TunnelEndpoints { local: self.outer, remote, encapsulation };
        let key = |seed| EspKey::from_keymat(self.algorithm, &self.keymat(seed)).unwrap();
        let inbound_sa = InboundSa {
            key: key(inbound.1),
            esn: self.esn,
            replay_window: 1024,
            endpoints,
            local_ts: self.local_ts.clone(),
            remote_ts: self.remote_ts.clone(),
            tenant: TenantId::default(),
            options: self.options,
        };
        let outbound_sa = OutboundSa {
            spi: outbound.0,
            key: key(outbound.1),
            esn: self.esn,
            endpoints,
            local_ts: self.local_ts.clone(),
            remote_ts: self.remote_ts.clone(),
            options: self.options,
        };
        let installer = self.installer();
        installer.install_inbound(inbound.0, inbound_sa).unwrap();
        installer.activate_outbound(self.policy, inbound.0, outbound_sa).unwrap();
    }

    /// Keying material of one direction, no two octets of which are the same by design.
    pub(crate) fn keymat(&self, seed: u8) -> Vec<u8> {
        (0..self.algorithm.keymat_len() as u8).map(|i| i.wrapping_mul(7) ^ seed).collect()
    }

    /// Demands that, once nothing moves, each frame is free, with the kernel, or holds a waiting packet.
    pub(crate) fn every_frame_has_an_owner(&self) {
        let deadline = Instant::now() + SOON;
        loop {
            let stats = self.stats();
            let held: u64 = stats.workers.iter().map(|worker| worker.held).sum();
            // Free ones and those with the kernel are read one after the other, while a frame may go from one to the other.
            let owned = stats.frames_free + stats.frames_in_kernel + stats.frames_handed + held;
            if owned == stats.frames_total {
                assert!(stats.frames_free > 0 && stats.frames_in_kernel > 0, "{stats:?}");
                return;
            }
            assert!(Instant::now() < deadline, "frames are missing: {stats:?}");
        }
    }
}

/// Waits until it holds.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Packets that came and have gone nowhere yet; none when nothing moves.
pub(crate) fn in_flight(stats: &DataplaneStats) -> i128 {
    let came = |worker: &portcullis_gateway::dataplane::WorkerStats| {
        i128::from(worker.received)
            + i128::from(worker.from_kernel)
            + i128::from(worker.generated)
            + i128::from(worker.taken_over)
    };
    let gone = |worker: &portcullis_gateway::dataplane::WorkerStats| {
        i128::from(worker.transmitted)
            + i128::from(worker.to_kernel)
            + i128::from(worker.dropped)
            + i128::from(worker.handed_over)
            + i128::from(worker.held)
    };
    stats.workers.iter().map(|worker| came(worker) - gone(worker)).sum()
}
