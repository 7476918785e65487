//! Puts the data plane together, and takes it apart again.
//!
//! [`Dataplane::start`] goes in an order in which protection comes first: the XDP program and the egress guard know every
//! configured prefix before they are attached or take over, routes lead into the TUN device before a worker runs, and
//! only then do sockets take packets. [`Dataplane::stop`] leaves protection behind unless told otherwise; so does a
//! process that is killed.

mod config;
mod protection;
mod stats;

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use portcullis_aead::{Engine, EngineError};
use portcullis_ipsec::{InstallError, PolicyId, SaInstaller};

pub use config::{DataplaneConfig, InterfaceConfig, OnStop, XdpMode};
pub use stats::{DataplaneStats, InterfaceStats, WorkerStats};

pub use crate::route::Role;
pub use portcullis_aead::EngineKind;

use crate::coarse::Coarse;
use crate::drop::WorkerCounters;
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::installer::Installer;
use crate::io::{CopyMode, FrameMemory, FramePool, MemoryError, QueueSocket, SocketError};
use crate::netlink::mirror::{Mirror, MirrorConfig};
use crate::netlink::protected::ProtectedRoutes;
use crate::netlink::{Connection, NetlinkError};
use crate::pipeline::{Pipeline, Shared};
use crate::policy::PolicyTable;
use crate::route::{PortInfo, RouteTable};
use crate::sa::SaTable;
use crate::sa::reclaim::Reclaimer;
use crate::slowpath::{SlowPath, Waker};
use crate::tun::{Tun, TunError};
use crate::worker::{Finished, FrameGauges, PortSockets, Worker};
use crate::xdp::{self, AttachError, LoadError, UpdateError};

use protection::Guards;

/// Room that the TUN device's packets leave for encapsulation.
const TUN_OVERHEAD: u32 = 100;
/// IPv6's smallest MTU (RFC 8200 §5).
const MIN_MTU: u32 = 1280;
/// How often removed SAs are looked after when nothing else is installed or removed.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

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
    tun: Arc<Tun>,
    // Dropped in this order: the mirror calls into the guards and wakes the workers.
    mirror: Option<Mirror>,
    slow: SlowPath,
    stop: Arc<AtomicBool>,
    workers: Vec<RunningWorker>,
    housekeeper: Option<JoinHandle<()>>,
    interfaces: Vec<InterfaceStats>,
    memory: Arc<FrameMemory>,
}

struct RunningWorker {
    thread: JoinHandle<Finished>,
    counters: Arc<WorkerCounters>,
    gauges: Arc<FrameGauges>,
}

impl Dataplane {
    /// Starts it with the configured policies in force, whose numbers are returned in their order.
    pub fn start(config: DataplaneConfig) -> Result<(Self, Vec<PolicyId>), StartError> {
        let engine = Engine::select(config.engine)?;
        let since = Instant::now();
        let clock = move || Coarse(u32::try_from(since.elapsed().as_secs()).unwrap_or(u32::MAX));
        let system = |what| move |source| StartError::System { what, source };
        let known = known_interfaces();
        for interface in &config.interfaces {
            if !known.contains(&interface.name) {
                return Err(StartError::NoInterface {
                    name: interface.name.clone(),
                    known: known.join(", "),
                });
            }
        }

        // What is protected, as the kernel knows it.
        let routes = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
        let tun = Arc::new(Tun::open(&config.tun, tun_mtu(&config)?)?);
        let protected = ProtectedRoutes::open(config.route_table, config.mark, tun.ifindex())?;
        let guards = Arc::new(Guards::load(&config, protected)?);

        let reclaimer = Reclaimer::new(config.workers.len());
        let spi_key = random().map_err(system("get random numbers"))?;
        let sas = Arc::new(SaTable::new(config.max_sas, engine, spi_key, reclaimer.clone())?);
        let policies = Arc::new(PolicyTable::new(config.max_policies)?);
        let events = Waker::new().map_err(system("make an eventfd"))?;
        let bell = events.clone();
        let board =
            Arc::new(EventBoard::new(config.max_sas, config.max_policies, Box::new(move || bell.wake())));
        let installer = Arc::new(Installer::new(
            Arc::clone(&sas),
            Arc::clone(&policies),
            Arc::clone(&board),
            Box::new(Arc::clone(&guards)),
            Box::new(clock),
        ));
        let ids = config.policies.iter().map(|policy| installer.install_policy(policy.clone()));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;

        let slow = SlowPath::start(Arc::clone(&tun), Connection::open()?, config.workers.len());
        let slow = slow.map_err(system("start the slow path"))?;
        let mirror = start_mirror(&config, &routes, &guards, &slow)?;
        guards.attach(&config, &routes.load())?;

        let Bound { memory, frames, ports, interfaces } = bind(&config, &guards, &routes.load())?;
        let shared = Arc::new(Shared {
            sas: Arc::clone(&sas),
            policies,
            routes: Arc::clone(&routes),
            events: board,
            nat_port: config.nat_port,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let mut pools = split(frames, config.workers.len());
        let mut workers = Vec::new();
        for (index, ports) in ports.into_iter().enumerate() {
            let Some(reader) = reclaimer.register() else { break };
            let (Some(&core), Some(slow)) = (config.workers.get(index), slow.workers().get(index)) else {
                break;
            };
            let counters = Arc::new(WorkerCounters::default());
            let gauges = Arc::new(FrameGauges::default());
            let seed = u64::from_ne_bytes(random().map_err(system("get random numbers"))?);
            let worker = Worker {
                ports,
                pool: FramePool::new(pools.pop().unwrap_or_default()),
                pipeline: Pipeline::new(Arc::clone(&shared), Arc::clone(&counters), reader, seed),
                counters: Arc::clone(&counters),
                gauges: Arc::clone(&gauges),
                slow: slow.clone(),
                routes: Arc::clone(&routes),
                since,
                stop: Arc::clone(&stop),
            };
            let thread = spawn(worker, index, core).map_err(system("start a worker"))?;
            workers.push(RunningWorker { thread, counters, gauges });
        }
        let housekeeper = spawn_housekeeper(Arc::clone(&installer), Arc::clone(&stop));
        let dataplane = Self {
            housekeeper: Some(housekeeper.map_err(system("start the housekeeper"))?),
            config,
            engine,
            since,
            installer,
            events,
            guards,
            tun,
            mirror: Some(mirror),
            slow,
            stop,
            workers,
            interfaces,
            memory,
        };
        dataplane.warn_about_the_host();
        Ok((dataplane, ids))
    }

    /// Where SAs and policies go.
    pub fn installer(&self) -> Arc<dyn SaInstaller> {
        Arc::clone(&self.installer) as Arc<dyn SaInstaller>
    }

    /// Readable when [`SaInstaller::take_events`] has something to give.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Counts and states, as of now.
    pub fn stats(&self) -> DataplaneStats {
        stats::collect(self)
    }

    /// Stops workers and threads. What is left behind, `on_stop` says; frames are accounted for.
    pub fn stop(mut self) -> Result<(), StartError> {
        self.installer.stop();
        self.stop.store(true, Ordering::Release);
        for end in self.slow.workers() {
            end.waker().wake();
        }
        let mut found = 0;
        for worker in self.workers.drain(..) {
            // A worker that panicked has ended the process already.
            if let Ok(finished) = worker.thread.join() {
                let sockets = finished.ports.iter().flat_map(|port| &port.sockets);
                found += finished.pool.len() + sockets.map(QueueSocket::in_kernel).sum::<usize>();
            }
        }
        if found != self.memory.frames() {
            tracing::error!(found, total = self.memory.frames(), "frames are missing");
        }
        if let Some(housekeeper) = self.housekeeper.take() {
            housekeeper.thread().unpark();
            let _ = housekeeper.join();
        }
        drop(self.mirror.take());
        if self.config.on_stop == OnStop::Open {
            self.tun
                .make_transient()
                .map_err(|source| StartError::System { what: "let the TUN device go", source })?;
            self.guards.open(&self.config.pin_dir)?;
        }
        Ok(())
    }

    /// Takes away what a daemon with this configuration has left: XDP program, egress guard, routes, rules, TUN device.
    pub fn detach_open(config: &DataplaneConfig) -> Result<(), StartError> {
        ProtectedRoutes::open(config.route_table, config.mark, 0)?.clear()?;
        if known_interfaces().contains(&config.tun) {
            let tun = Tun::open(&config.tun, MIN_MTU)?;
            tun.make_transient()
                .map_err(|source| StartError::System { what: "let the TUN device go", source })?;
        }
        let detach = |source| StartError::Attach { interface: "the gateway's interfaces".to_owned(), source };
        xdp::detach_all(&config.pin_dir).map(drop).map_err(detach)
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
        let path = format!("/proc/sys/net/ipv4/conf/{}/rp_filter", self.config.tun);
        if reads(&path, "1") || reads("/proc/sys/net/ipv4/conf/all/rp_filter", "1") {
            let tun = &self.config.tun;
            tracing::warn!(
                "strict reverse-path filtering drops decrypted packets for the host: sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{tun}.rp_filter=2"
            );
        }
    }
}

/// A mutex's content; whoever panicked with it has ended the process.
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
    use std::io::Read;
    let mut octets = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut octets)?;
    Ok(octets)
}

/// As large as fits an outside interface once it is sealed.
fn tun_mtu(config: &DataplaneConfig) -> Result<u32, StartError> {
    let mut connection = Connection::open()?;
    let mut smallest = u32::MAX;
    for interface in config.interfaces.iter().filter(|interface| interface.role == Role::Outside) {
        smallest = smallest.min(crate::netlink::link(&mut connection, &interface.name)?.mtu);
    }
    Ok(smallest.saturating_sub(TUN_OVERHEAD).max(MIN_MTU))
}

fn start_mirror(
    config: &DataplaneConfig,
    routes: &Arc<ArcSwap<RouteTable>>,
    guards: &Arc<Guards>,
    slow: &SlowPath,
) -> Result<Mirror, StartError> {
    let mirrored = MirrorConfig {
        ports: config.interfaces.iter().map(|interface| (interface.name.clone(), interface.role)).collect(),
        tunnel_addresses: config.tunnel_addresses.clone(),
    };
    let (guards, workers) = (Arc::clone(guards), slow.workers().to_vec());
    let on_change = move |table: &RouteTable| {
        guards.addresses_changed(table);
        // Held packets may go now.
        workers.iter().for_each(|worker| worker.waker().wake());
    };
    Ok(Mirror::start(mirrored, Arc::clone(routes), Box::new(on_change))?)
}

/// Packet memory, and a socket for each queue that is served.
struct Bound {
    memory: Arc<FrameMemory>,
    frames: Vec<Frame>,
    /// By worker: its interfaces.
    ports: Vec<Vec<PortSockets>>,
    interfaces: Vec<InterfaceStats>,
}

/// Without copies if every driver can, else with.
fn bind(config: &DataplaneConfig, guards: &Guards, routes: &RouteTable) -> Result<Bound, StartError> {
    match bind_as(CopyMode::ZeroCopy, config, guards, routes) {
        Err(StartError::Socket(error)) if error.wants_copies() => {
            bind_as(CopyMode::Copy, config, guards, routes)
        }
        bound => bound,
    }
}

fn bind_as(
    mode: CopyMode,
    config: &DataplaneConfig,
    guards: &Guards,
    routes: &RouteTable,
) -> Result<Bound, StartError> {
    let (memory, frames) = FrameMemory::new(config.frames, config.frame_size)?;
    let mut connection = Connection::open()?;
    let mut ports: Vec<Vec<PortSockets>> = config.workers.iter().map(|_| Vec::new()).collect();
    let mut interfaces = Vec::new();
    for (interface, port) in config.interfaces.iter().zip(routes.ports()) {
        let queues = crate::netlink::link(&mut connection, &interface.name)?.rx_queues;
        let served = interface.queues.map_or(queues, |wanted| wanted.min(queues)).min(xdp::MAX_QUEUES);
        if (served as usize) < config.workers.len() {
            let (interface, workers) = (interface.name.clone(), config.workers.len());
            return Err(StartError::TooFewQueues { interface, queues: served, workers });
        }
        let mut got = mode;
        for (worker, ports) in ports.iter_mut().enumerate() {
            let mut sockets = Vec::new();
            for queue in (worker as u32..served).step_by(config.workers.len()) {
                let socket = QueueSocket::bind(Arc::clone(&memory), &interface.name, queue, mode)?;
                guards.set_socket(port, queue, &socket)?;
                got = socket.mode();
                sockets.push(socket);
            }
            ports.push(PortSockets { index: port.index, sockets });
        }
        let mode = format!("{}, {got}", guards.mode(port));
        tracing::info!(interface = %interface.name, %mode, queues = served, "interface is served");
        interfaces.push(InterfaceStats {
            name: interface.name.clone(),
            role: interface.role,
            mode,
            queues: served,
        });
    }
    Ok(Bound { memory, frames, ports, interfaces })
}

fn split(frames: Vec<Frame>, workers: usize) -> Vec<Vec<Frame>> {
    let mut pools: Vec<Vec<Frame>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, frame) in frames.into_iter().enumerate() {
        if let Some(pool) = pools.get_mut(index % workers.max(1)) {
            pool.push(frame);
        }
    }
    pools
}

fn spawn(worker: Worker, index: usize, core: usize) -> std::io::Result<JoinHandle<Finished>> {
    let run = move || {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
            tracing::warn!(
                worker = index,
                core,
                "there is no such core to pin the worker to; it runs wherever it is put"
            );
        }
        // A worker that dies half-way through a batch may hold frames and a place in the reclaimer: nothing is certain
        // any more, so the process ends, closed, and its supervisor starts the next.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run())).unwrap_or_else(|_| {
            tracing::error!(
                worker = index,
                "a worker has panicked; protected traffic stays blocked until the restart"
            );
            std::process::abort()
        })
    };
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)
}

fn spawn_housekeeper(installer: Arc<Installer>, stop: Arc<AtomicBool>) -> std::io::Result<JoinHandle<()>> {
    let run = move || {
        while !stop.load(Ordering::Acquire) {
            std::thread::park_timeout(HOUSEKEEPING);
            installer.collect();
        }
    };
    std::thread::Builder::new().name("housekeeper".to_owned()).spawn(run)
}

/// The addresses of a port.
fn addresses_of(port: &PortInfo) -> impl Iterator<Item = IpAddr> {
    port.addresses.iter().map(ipnet::IpNet::addr)
}
