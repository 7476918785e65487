//! Puts the data plane together, and takes it apart again.
//!
//! [`Dataplane::start`] goes in an order in which protection comes first: the XDP program and the egress guard know every
//! configured prefix before they are attached or take over, routes lead into the TUN device before a worker runs, and
//! only then do sockets take packets. [`Dataplane::stop`] leaves protection behind unless told otherwise; so does a
//! process that is killed. `interfaces` follows the interfaces while it runs, `threads` watches over the workers.

mod config;
mod cover;
mod interfaces;
mod paths;
mod protection;
mod stats;
mod threads;
mod walk;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use portcullis_aead::{Engine, EngineError};
use portcullis_ipsec::{InstallError, PolicyCounters, PolicyId, RateLimits, SaInstaller, TenantId};

pub use config::{DataplaneConfig, Firewall, InterfaceConfig, OnStop, XdpMode};
pub use stats::{DataplaneStats, DeviceStats, InterfaceStats, WorkerStats};
pub use walk::{Hop, Miss, RateWalk, SaWalk, Walk};

pub use crate::io::SocketStatistics;
pub use crate::pipeline::TrapLimits;
pub use crate::policy::MAX_DEVICES;
pub use crate::route::Role;
pub use portcullis_aead::EngineKind;

use crate::coarse::Coarse;
use crate::drop::WorkerCounters;
use crate::events::EventBoard;
use crate::frame::{Frame, LARGE_FRAME};
use crate::handover;
use crate::inlet::EspInlet;
use crate::installer::Installer;
pub use crate::installer::PolicyInfo;
use crate::io::{CopyMode, FrameMemory, MemoryError, QueueSocket, SocketError};
use crate::netlink::addresses::TunAddresses;
use crate::netlink::mirror::{Mirror, MirrorConfig};
use crate::netlink::protected::ProtectedRoutes;
use crate::netlink::{self, Connection, NetlinkError};
use crate::outlet::EspOutlet;
use crate::pipeline::{Pipeline, Shared, TrapSignal};
use crate::pmtu::Listener;
use crate::policy::PolicyTable;
use crate::route::{PortInfo, RouteTable};
use crate::sa::SaTable;
use crate::sa::reclaim::Reclaimer;
use crate::slowpath::{SlowPath, Waker};
use crate::trace::Hub;
use crate::tun::{Tun, TunError};
use crate::worker::{Faults, Orders, PortSockets, Worker, WorkerGauges, frames_needed};
use crate::xdp::{self, AttachError, Buffers, LoadError, UpdateError};

use interfaces::{Board, Interfaces, Keeper, NewSockets, Signal};
use paths::Paths;
use protection::Guards;
use threads::Threads;

/// Room that the TUN device's packets leave for encapsulation.
const TUN_OVERHEAD: u32 = 100;
/// IPv6's smallest MTU (RFC 8200 §5).
const MIN_MTU: u32 = 1280;
/// Octets of a frame that do not take a received packet: the kernel's headroom for XDP, Ethernet and two VLAN tags.
const FRAME_OVERHEAD: u32 = 256 + 14 + 8;

/// The largest MTU: its packets fit large frames, encapsulated and with VLAN tags.
pub const LARGEST_MTU: u32 = LARGE_FRAME as u32 - 512;
/// Of all frames, one in so many is there as a large one besides, where packets come in several frames.
const LARGE: u32 = 16;
/// The fewest large ones of a worker: a batch.
const FEWEST_LARGE: usize = 64;

/// Why the data plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The AEAD engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The XDP program or the egress guard.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An interface of the configuration is not there.
    #[error("there is no interface `{name}` (there are: {known})")]
    NoInterface {
        /// Its name.
        name: String,
        /// Those of this host.
        known: String,
    },
    /// The programs cannot be attached.
    #[error("cannot attach to {interface}: {source}")]
    Attach {
        /// The interface.
        interface: String,
        /// Why.
        source: AttachError,
    },
    /// The programs' maps.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// Packet memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The kernel's tables.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The TUN device.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// A table or a policy.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// More workers than queues.
    #[error(
        "{workers} workers, but {interface} has {queues} receive queues: each worker needs one of its own (fewer \
         `gateway.workers`, or `ethtool -L {interface} combined {workers}`)"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
        /// Its queues.
        queues: u32,
        /// Workers.
        workers: usize,
    },
    /// Sockets would have too few frames to receive into.
    #[error("{frames} frames are too few for {sockets} AF_XDP sockets (at least {needed}: `gateway.frames`)")]
    TooFewFrames {
        /// How many there are.
        frames: u32,
        /// Sockets: one for each served queue of each interface.
        sockets: usize,
        /// How many are needed.
        needed: usize,
    },
    /// No frames are large enough for an interface.
    #[error(
        "{interface} has an MTU of {mtu}, but no packet may be larger than {LARGEST_MTU} octets (`ip link set {interface} mtu \
         {LARGEST_MTU}`)"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
        /// Its MTU.
        mtu: u32,
    },
    /// The operating system gives no thread, descriptor or random number.
    #[error("cannot {what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// A running data plane.
pub struct Dataplane {
    config: DataplaneConfig,
    engine: Engine,
    since: Instant,
    installer: Arc<Installer>,
    events: Waker,
    guards: Arc<Guards>,
    /// By tenant.
    tuns: Vec<Arc<Tun>>,
    // Dropped in this order: the keeper waits for workers, workers use the slow path, the mirror calls into the guards and
    // wakes the workers.
    keeper: Option<Keeper>,
    threads: Threads,
    mirror: Option<Mirror>,
    /// None where the host gives no raw sockets.
    _path_mtu: Option<Listener>,
    slow: SlowPath,
    interfaces: Board,
    memory: Arc<FrameMemory>,
    trace: Arc<Hub>,
    policies: Arc<PolicyTable>,
    routes: Arc<ArcSwap<RouteTable>>,
    paths: Paths,
}

impl Dataplane {
    /// Starts it with the configured policies in force, whose numbers are returned in their order.
    pub fn start(config: DataplaneConfig) -> Result<(Self, Vec<PolicyId>), StartError> {
        let engine = Engine::select(config.engine)?;
        let since = Instant::now();
        let clock = move || Coarse(u32::try_from(since.elapsed().as_secs()).unwrap_or(u32::MAX));
        let system = |what| move |source| StartError::System { what, source };
        let known = known_interfaces();
        let mut connection = Connection::open()?;
        let (mut outside_mtu, mut buffers) = (u32::MAX, Buffers::Single);
        for interface in &config.interfaces {
            if !known.contains(&interface.name) {
                return Err(StartError::NoInterface {
                    name: interface.name.clone(),
                    known: known.join(", "),
                });
            }
            let mtu = netlink::link(&mut connection, &interface.name)?.mtu;
            if interface.role.is_outside() {
                outside_mtu = outside_mtu.min(mtu);
            }
            if mtu > LARGEST_MTU {
                return Err(StartError::MtuTooLarge { interface: interface.name.clone(), mtu });
            }
            if mtu > most_mtu(config.frame_size) {
                buffers = Buffers::Chains;
            }
        }

        // What is protected, as the kernel knows it.
        let routes = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
        let tun = Arc::new(Tun::open(&config.tun, tun_mtu(outside_mtu))?);
        let mut tuns = vec![Arc::clone(&tun)];
        for name in &config.devices {
            tuns.push(Arc::new(Tun::open_routed(name, tun_mtu(outside_mtu))?));
        }
        let protected = ProtectedRoutes::open(config.route_table, config.mark, tun.ifindex())?;
        let guards = Arc::new(Guards::load(&config, buffers, protected)?);

        let reclaimer = Reclaimer::new(config.workers.len());
        let spi_key = random().map_err(system("get random numbers"))?;
        let sas = Arc::new(SaTable::new(config.max_sas, engine, spi_key, reclaimer.clone())?);
        let policies = Arc::new(PolicyTable::new(config.max_policies)?.with_workers(config.workers.len()));
        let events = Waker::new().map_err(system("make an eventfd"))?;
        let bell = events.clone();
        let board =
            Arc::new(EventBoard::new(config.max_sas, config.max_policies, Box::new(move || bell.wake())));
        let slow = SlowPath::start(&tuns, Connection::open()?, config.workers.len());
        let slow = slow.map_err(system("start the slow path"))?;
        let (trap_signal, trace) = (Arc::new(TrapSignal::default()), Arc::new(Hub::default()));
        let (signal, wakers) = (Arc::clone(&trap_signal), slow.workers().to_vec());
        let installer = Installer::new(
            Arc::clone(&sas),
            Arc::clone(&policies),
            Arc::clone(&board),
            Box::new(Arc::clone(&guards)),
            Box::new(clock),
        );
        let installer = Arc::new(installer.telling(Box::new(move || {
            if signal.activated() {
                wakers.iter().for_each(|worker| worker.waker().wake());
            }
        })));
        let ids = config.policies.iter().map(|policy| installer.install_policy(policy.clone()));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;

        let signal = Arc::new(Signal::default());
        let paths = Paths::default();
        let mirror = start_mirror(&config, &routes, &guards, &slow, (&signal, &paths))?;
        guards.attach(&config, &routes.load())?;

        let Bound { mode, memory, anchor, frames, ports, interfaces } =
            bind(&config, buffers, &guards, &routes.load())?;
        let shared = Arc::new(Shared {
            sas: Arc::clone(&sas),
            policies: Arc::clone(&policies),
            routes: Arc::clone(&routes),
            events: board,
            nat_port: config.nat_port,
            firewall: config.firewall == Firewall::Kernel,
            trap: config.trap,
            trap_signal,
            trace: Arc::clone(&trace),
        });

        let mut threads = Threads::default();
        let pools = split(frames, config.workers.len());
        let exchanges = handover::mesh(slow.workers().iter().map(|worker| worker.waker().clone()).collect());
        let parts = ports.into_iter().zip(pools).zip(exchanges).zip(slow.workers()).zip(&config.workers);
        for (index, ((((ports, frames), exchange), slow), &core)) in (0_u16..).zip(parts) {
            let counters = Arc::new(WorkerCounters::default());
            let seed = u64::from_ne_bytes(random().map_err(system("get random numbers"))?);
            let pipeline = {
                let (shared, counters, reclaimer) =
                    (Arc::clone(&shared), Arc::clone(&counters), reclaimer.clone());
                move || {
                    let reader = reclaimer.register()?;
                    let pipeline = Pipeline::new(Arc::clone(&shared), Arc::clone(&counters), reader, seed);
                    Some(pipeline.of_worker(index))
                }
            };
            let worker = Worker {
                ports,
                memory: Arc::clone(&memory),
                frames,
                pipeline: Box::new(pipeline),
                counters,
                gauges: Arc::new(WorkerGauges::default()),
                slow: slow.clone(),
                exchange,
                orders: Arc::new(Orders::default()),
                routes: Arc::clone(&routes),
                since,
                spin: config.spin,
                stop: threads.stop_flag(),
                faults: Arc::new(Faults::default()),
            };
            threads.start_worker(worker, core).map_err(system("start a worker"))?;
        }
        let interfaces: Board = Arc::new(Mutex::new(interfaces));
        let keeper = Interfaces {
            config: config.clone(),
            memory: Arc::clone(&memory),
            mode,
            guards: Arc::clone(&guards),
            routes: Arc::clone(&routes),
            tuns: tuns.clone(),
            _anchor: anchor,
            board: Arc::clone(&interfaces),
            workers: threads.workers().iter().map(|w| (Arc::clone(&w.orders), w.waker.clone())).collect(),
            complaints: HashMap::new(),
        };
        let keeper = Keeper::start(keeper, signal).map_err(system("watch over the interfaces"))?;
        threads.start_watchdog(config.stall).map_err(system("start the watchdog"))?;
        threads.start_housekeeper(Arc::clone(&installer)).map_err(system("start the housekeeper"))?;
        threads.await_first_rounds();
        let path_mtu = listen_for_path_mtu(Arc::clone(&installer));
        let dataplane = Self {
            config,
            engine,
            since,
            installer,
            events,
            guards,
            tuns,
            keeper: Some(keeper),
            threads,
            mirror: Some(mirror),
            _path_mtu: path_mtu,
            slow,
            interfaces,
            memory,
            trace,
            policies,
            routes,
            paths,
        };
        dataplane.warn_about_the_host();
        Ok((dataplane, ids))
    }

    /// Where SAs and policies go.
    pub fn installer(&self) -> Arc<dyn SaInstaller> {
        Arc::clone(&self.installer) as Arc<dyn SaInstaller>
    }

    /// Where ESP goes that came to a socket of the NAT port, or in a TCP stream.
    pub fn esp_inlet(&self) -> EspInlet {
        EspInlet::new(self.slow.workers().to_vec(), Arc::clone(self.slow.counters()))
    }

    /// Where ESP comes from that goes out in TCP streams. There is to be one taker.
    pub fn esp_outlet(&self) -> EspOutlet {
        let (workers, waker) = (self.slow.workers().to_vec(), self.slow.streams().clone());
        EspOutlet::new(workers, waker, Arc::clone(self.slow.counters()))
    }

    /// The addresses that peers give this host.
    pub fn tun_addresses(&self) -> Result<TunAddresses, StartError> {
        Ok(TunAddresses::open(self.tun_index())?)
    }

    /// The TUN device's interface index.
    pub fn tun_index(&self) -> u32 {
        self.tuns.first().map_or(0, |tun| tun.ifindex())
    }

    /// Readable when [`SaInstaller::take_events`] has something to give.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Where sessions are opened that look at packets.
    pub fn trace(&self) -> &Arc<Hub> {
        &self.trace
    }

    /// Counts and states, as of now.
    pub fn stats(&self) -> DataplaneStats {
        stats::collect(self)
    }

    /// Every policy with what it has done.
    pub fn policies(&self) -> Vec<PolicyInfo> {
        self.installer.policies()
    }

    /// What all policies of each name have done since the start, also those that are gone: never less than before.
    pub fn policy_totals(&self) -> BTreeMap<String, PolicyCounters> {
        self.installer.policy_totals()
    }

    /// The rates of policies, by name, and of tenants' devices from now on: also of tunnels that are up
    /// ([`Installer::set_rates`]).
    pub fn set_rates(
        &self,
        rates: BTreeMap<String, RateLimits>,
        of_devices: BTreeMap<TenantId, RateLimits>,
    ) -> Result<(), InstallError> {
        self.installer.set_rates(rates, of_devices)
    }

    /// Has a worker suffer a fault, for tests.
    #[cfg(feature = "fault-injection")]
    pub fn inject(&self, worker: usize, fault: crate::worker::Fault) {
        if let Some(worker) = self.threads.workers().get(worker) {
            worker.faults.inject(fault);
        }
    }

    /// Wakes every worker, and says how many rounds each has made so far: of one that lives, a later call says more.
    pub fn heartbeat(&self) -> Vec<u64> {
        let beat = |worker: &threads::RunningWorker| {
            worker.waker.wake();
            worker.gauges.rounds.load(std::sync::atomic::Ordering::Relaxed)
        };
        self.threads.workers().iter().map(beat).collect()
    }

    /// What an orderly stop leaves behind from now on.
    pub fn set_on_stop(&mut self, on_stop: OnStop) {
        self.config.on_stop = on_stop;
    }

    /// Stops workers and threads. What is left behind, `on_stop` says; frames are accounted for.
    pub fn stop(mut self) -> Result<(), StartError> {
        self.installer.stop();
        // First: it waits for workers.
        drop(self.keeper.take());
        let (found, total) = (self.threads.end(), self.memory.frames());
        debug_assert_eq!(found, total, "frames were lost");
        if found != total {
            tracing::error!(found, total, "frames are missing");
        }
        drop(self.mirror.take());
        if self.config.on_stop == OnStop::Open {
            for tun in &self.tuns {
                tun.make_transient()
                    .map_err(|source| StartError::System { what: "let the TUN device go", source })?;
            }
            self.guards.open(&self.config.pin_dir)?;
        }
        Ok(())
    }

    /// Takes away what a daemon with this configuration has left, or what one that hangs still has: XDP program, egress
    /// guard, routes, rules, TUN device. What cannot be taken away keeps nothing else from being; the first such error is
    /// returned.
    pub fn detach_open(config: &DataplaneConfig) -> Result<(), StartError> {
        let routes = ProtectedRoutes::open(config.route_table, config.mark, 0)
            .and_then(|mut routes| routes.clear())
            .map_err(StartError::from);
        let remove = |name: &String| {
            let connection = Connection::open();
            connection.and_then(|mut connection| netlink::remove_tun(&mut connection, name))
        };
        // All of them, whatever becomes of the first.
        let tuns: Vec<_> = config.devices.iter().chain([&config.tun]).map(remove).collect();
        let tun = tuns.into_iter().collect::<Result<(), _>>().map_err(StartError::from);
        let detach = |source| StartError::Attach { interface: "the gateway's interfaces".to_owned(), source };
        let programs = xdp::detach_all(&config.pin_dir).map(drop).map_err(detach);
        routes.and(tun).and(programs)
    }

    fn warn_about_the_host(&self) {
        let reads = |path: &str, wanted: &str| {
            std::fs::read_to_string(path).is_ok_and(|value| value.trim() == wanted)
        };
        if reads("/proc/sys/net/ipv4/ip_forward", "0") {
            tracing::warn!(
                "the host does not forward IPv4, which packets that leave by other interfaces need: sysctl -w net.ipv4.ip_forward=1"
            );
        }
        let filter = |scope: &str| {
            let value = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{scope}/rp_filter"));
            value.ok().and_then(|value| value.trim().parse::<u32>().ok())
        };
        // The larger one counts: 2 is loose, and so more lenient than 1, which is strict.
        let tun = self.config.tun.as_str();
        if filter(tun).max(filter("all")) == Some(1) {
            tracing::warn!(
                "strict reverse-path filtering drops decrypted packets for the host: sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{tun}.rp_filter=2"
            );
        }
        let ignored = "ignore_routes_with_linkdown";
        let ignored = format!("/proc/sys/net/ipv4/conf/all/{ignored}");
        if !self.config.devices.is_empty() && reads(&ignored, "1") {
            tracing::warn!(
                "the host forgets routes into the devices of connections whenever this daemon is not there to read them, and                  what they lead into tunnels follows wider routes in clear: sysctl -w net.ipv4.conf.all.ignore_routes_with_linkdown=0"
            );
        }
    }
}

/// Without it the tunnels work, but nobody learns of a narrow way between the gateways.
fn listen_for_path_mtu(installer: Arc<Installer>) -> Option<Listener> {
    let tell = move |said: crate::pmtu::TooBig| {
        if installer.path_too_big(&said) {
            let spi = format_args!("{:08x}", said.spi);
            tracing::info!(remote = %said.remote, %spi, mtu = said.mtu, "a router on the way to the peer takes no larger packets");
        }
    };
    match Listener::start(tell) {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%error, "no raw sockets for ICMP (run as root, or with CAP_NET_RAW): path MTUs are not learned");
            None
        }
    }
}

/// A mutex's content; what these locks guard is whole after every step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn known_interfaces() -> Vec<String> {
    let listed = nix::net::if_::if_nameindex();
    let listed = listed
        .iter()
        .flat_map(|list| list.iter())
        .map(|interface| interface.name().to_string_lossy().into_owned());
    listed.collect()
}

fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets).map_err(std::io::Error::from)?;
    Ok(octets)
}

/// As large as fits an outside interface of this MTU once it is sealed.
fn tun_mtu(outside: u32) -> u32 {
    outside.saturating_sub(TUN_OVERHEAD).max(MIN_MTU)
}

/// The largest MTU whose packets fit frames of that size.
fn most_mtu(frame_size: u32) -> u32 {
    frame_size.saturating_sub(FRAME_OVERHEAD)
}

fn start_mirror(
    config: &DataplaneConfig,
    routes: &Arc<ArcSwap<RouteTable>>,
    guards: &Arc<Guards>,
    slow: &SlowPath,
    (interfaces, paths): (&Arc<Signal>, &Paths),
) -> Result<Mirror, StartError> {
    let mirrored = MirrorConfig {
        ports: config.interfaces.iter().map(|interface| (interface.name.clone(), interface.role)).collect(),
        tunnel_addresses: config.tunnel_addresses.clone(),
    };
    let (guards, workers) = (Arc::clone(guards), slow.workers().to_vec());
    let (interfaces, paths) = (Arc::clone(interfaces), paths.clone());
    let mut looked_at = None;
    let on_change = move |table: &RouteTable| {
        guards.addresses_changed(table);
        if looked_at.replace(table.configuration()) != Some(table.configuration()) {
            interfaces.raise();
            paths.changed(table);
        }
        // Held packets may go now.
        workers.iter().for_each(|worker| worker.waker().wake());
    };
    Ok(Mirror::start(mirrored, Arc::clone(routes), Box::new(on_change))?)
}

/// Packet memory, and a socket for each queue that is served.
struct Bound {
    mode: CopyMode,
    memory: Arc<FrameMemory>,
    anchor: Option<QueueSocket>,
    frames: Vec<Frame>,
    /// By worker: its interfaces.
    ports: Vec<Vec<PortSockets>>,
    interfaces: Vec<interfaces::Served>,
}

/// Without copies if every driver can, else with.
fn bind(
    config: &DataplaneConfig,
    buffers: Buffers,
    guards: &Guards,
    routes: &RouteTable,
) -> Result<Bound, StartError> {
    match bind_as(CopyMode::ZeroCopy, config, buffers, guards, routes) {
        Err(StartError::Socket(error)) if error.wants_copies() => {
            bind_as(CopyMode::Copy, config, buffers, guards, routes)
        }
        bound => bound,
    }
}

/// The kernel lets a socket share the memory of another only while that one is bound, and libxdp takes the first one for
/// that. So with copies, the first is bound to the TUN device, which stays when interfaces go: it carries nothing, and
/// whatever is made anew can be bound anew. Without copies only a driver that can do so will do: there, sockets cannot be
/// bound anew once the first interface has gone.
fn bind_as(
    mode: CopyMode,
    config: &DataplaneConfig,
    buffers: Buffers,
    guards: &Guards,
    routes: &RouteTable,
) -> Result<Bound, StartError> {
    let large = match buffers {
        Buffers::Single => 0,
        Buffers::Chains => ((config.frames / LARGE) as usize).max(FEWEST_LARGE * config.workers.len()),
    };
    let (memory, frames) = FrameMemory::with_large(config.frames, config.frame_size, large)?;
    let anchor = match mode {
        CopyMode::Copy => Some(QueueSocket::bind(Arc::clone(&memory), &config.tun, 0, mode)?),
        CopyMode::ZeroCopy => None,
    };
    let workers = config.workers.len();
    let mut ports: Vec<Vec<PortSockets>> = config.workers.iter().map(|_| Vec::new()).collect();
    let mut interfaces = Vec::new();
    for (interface, port) in config.interfaces.iter().zip(routes.ports()) {
        let NewSockets { served, by_worker } =
            interfaces::serve(config, interface, port, &memory, mode, guards, Vec::new())?;
        interfaces.push(served);
        ports.iter_mut().zip(by_worker).for_each(|(ports, sockets)| ports.push(sockets));
    }
    let sockets = ports.iter().map(|ports| ports.iter().map(|port| port.sockets.len()).sum::<usize>());
    // Frames are shared out evenly, sockets may not be.
    let needed = frames_needed(sockets.clone().max().unwrap_or(0)) * workers;
    if (config.frames as usize) < needed {
        return Err(StartError::TooFewFrames { frames: config.frames, sockets: sockets.sum(), needed });
    }
    Ok(Bound { mode, memory, anchor, frames, ports, interfaces })
}

/// As many frames for each worker, side by side, and as many large ones.
fn split(frames: Vec<Frame>, workers: usize) -> Vec<Vec<Frame>> {
    let (mut large, mut usual): (Vec<_>, Vec<_>) = frames.into_iter().partition(Frame::is_large);
    let share = |frames: &mut Vec<Frame>, left| frames.split_off(frames.len() - frames.len() / left);
    let shares = (1..=workers).rev();
    shares
        .map(|left| [share(&mut usual, left), share(&mut large, left)].into_iter().flatten().collect())
        .collect()
}

/// The addresses of a port.
fn addresses_of(port: &PortInfo) -> impl Iterator<Item = IpAddr> {
    port.addresses.iter().map(ipnet::IpNet::addr)
}
