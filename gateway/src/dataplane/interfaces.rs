//! The sockets of the interfaces, through their lives: bound when an interface is there, taken back when it is gone, bound
//! anew when it has come back. Links that go down and up keep theirs.
//!
//! One thread does it, woken by the mirror after each change. Workers are told by [`Orders`] and never wait; what is slow
//! (binding, closing) happens here. The guards are the first on a new interface, and what they steer to a queue without a
//! socket is dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::protection::Guards;
use super::{
    DataplaneConfig, InterfaceConfig, InterfaceStats, LARGEST_MTU, SocketStatistics, StartError, lock,
    most_mtu, tun_mtu,
};
use crate::frame::Frame;
use crate::io::{CopyMode, FrameMemory, QueueSocket, QueueTraffic, SocketProbe, receive_queues};
use crate::netlink::{self, Connection};
use crate::route::{PortIndex, PortInfo, RouteTable};
use crate::slowpath::Waker;
use crate::tun::Tun;
use crate::worker::{Order, Orders, PortSockets};
use crate::xdp;

/// When to try again what did not succeed.
const AGAIN: Duration = Duration::from_secs(1);
/// How often to look whether a worker has answered.
const STEP: Duration = Duration::from_millis(1);

/// An interface, as far as it is served.
pub(super) struct Served {
    /// What is shown. `sockets`: what the kernel counted of earlier sockets.
    pub(super) stats: InterfaceStats,
    /// Of the sockets that are bound now.
    pub(super) probes: Vec<SocketProbe>,
    /// Of each queue that was ever served.
    traffic: Vec<Arc<QueueTraffic>>,
    /// Which interface they are bound to; none while it is away.
    ifindex: Option<u32>,
}

/// All interfaces, by port index.
pub(super) type Board = Arc<Mutex<Vec<Served>>>;

impl Served {
    /// What the kernel has counted of all its sockets.
    pub(super) fn sockets(&self) -> SocketStatistics {
        // A socket that cannot be asked any more counts nothing any more.
        let counts = self.probes.iter().filter_map(|probe| probe.statistics().ok());
        counts.fold(self.stats.sockets, SocketStatistics::plus)
    }

    /// All that is shown, as it is now.
    pub(super) fn stats(&self) -> InterfaceStats {
        let traffic = self.traffic.iter().map(|queue| queue.read()).collect();
        InterfaceStats { sockets: self.sockets(), traffic, ..self.stats.clone() }
    }
}

/// An interface's sockets, by worker.
pub(super) struct NewSockets {
    pub(super) served: Served,
    pub(super) by_worker: Vec<PortSockets>,
}

/// Binds a socket to each queue of an interface that is served, and has the XDP program use it. `traffic`: what earlier
/// sockets of its queues have counted, to be gone on with.
pub(super) fn serve(
    config: &DataplaneConfig,
    interface: &InterfaceConfig,
    port: &PortInfo,
    memory: &Arc<FrameMemory>,
    mode: CopyMode,
    guards: &Guards,
    mut traffic: Vec<Arc<QueueTraffic>>,
) -> Result<NewSockets, StartError> {
    let workers = config.workers.len();
    let queues = receive_queues(&interface.name)
        .map_err(|source| StartError::System { what: "count receive queues", source })?;
    let queues = match queues {
        Some(queues) => queues,
        None => netlink::link(&mut Connection::open()?, &interface.name)?.rx_queues,
    };
    let queues = interface.queues.map_or(queues, |wanted| wanted.min(queues)).min(xdp::MAX_QUEUES);
    if (queues as usize) < workers {
        return Err(StartError::TooFewQueues { interface: interface.name.clone(), queues, workers });
    }
    if traffic.len() < queues as usize {
        traffic.resize_with(queues as usize, Arc::default);
    }
    let (mut got, mut probes, mut by_worker) = (mode, Vec::new(), Vec::new());
    for worker in 0..workers {
        let mut sockets = Vec::new();
        for queue in (worker as u32..queues).step_by(workers) {
            let mut socket = QueueSocket::bind(Arc::clone(memory), &interface.name, queue, mode)?;
            if let Some(traffic) = traffic.get(queue as usize) {
                socket = socket.counting(Arc::clone(traffic));
            }
            if let Some(for_long) = config.busy_poll {
                socket.busy_poll(for_long)?;
            }
            guards.set_socket(port, queue, &socket)?;
            probes.push(socket.probe());
            got = socket.mode();
            sockets.push(socket);
        }
        by_worker.push(PortSockets { index: port.index, sockets });
    }
    let mode = format!("{}, {got}", guards.mode(port));
    tracing::info!(interface = %interface.name, %mode, queues, "interface is served");
    let stats = InterfaceStats {
        name: interface.name.clone(),
        role: interface.role,
        mode,
        queues,
        sockets: SocketStatistics::default(),
        traffic: Vec::new(),
    };
    let served = Served { stats, probes, traffic, ifindex: Some(port.ifindex) };
    Ok(NewSockets { served, by_worker })
}

/// Raised when there is something to look at.
#[derive(Debug, Default)]
pub(super) struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    pub(super) fn raise(&self) {
        *lock(&self.raised) = true;
        self.changed.notify_all();
    }

    /// Waits until it is raised, but no longer than that, and lowers it.
    fn wait(&self, longest: Option<Duration>) {
        let mut raised = lock(&self.raised);
        while !*raised {
            let Some(longest) = longest else {
                raised = self.changed.wait(raised).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            };
            let waited = self.changed.wait_timeout(raised, longest);
            let (guard, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            raised = guard;
            if timeout.timed_out() {
                break;
            }
        }
        *raised = false;
    }
}

/// What watches over the interfaces.
pub(super) struct Interfaces {
    pub(super) config: DataplaneConfig,
    pub(super) memory: Arc<FrameMemory>,
    pub(super) mode: CopyMode,
    pub(super) guards: Arc<Guards>,
    pub(super) routes: Arc<ArcSwap<RouteTable>>,
    pub(super) tuns: Vec<Arc<Tun>>,
    /// The first socket of the memory, while others are to be bound.
    pub(super) _anchor: Option<QueueSocket>,
    pub(super) board: Board,
    pub(super) workers: Vec<(Arc<Orders>, Waker)>,
    /// What was complained about last, by port and matter: once is enough.
    pub(super) complaints: HashMap<(usize, Matter), String>,
}

/// What there is to complain about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Matter {
    Service,
    Mtu,
}

/// The thread; ends when dropped.
pub(super) struct Keeper {
    stop: Arc<AtomicBool>,
    signal: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(super) fn start(mut interfaces: Interfaces, signal: Arc<Signal>) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, raised) = (Arc::clone(&stop), Arc::clone(&signal));
        let run = move || {
            while !until.load(Ordering::Acquire) {
                let all_well = interfaces.look();
                raised.wait((!all_well).then_some(AGAIN));
            }
        };
        let thread = Some(std::thread::Builder::new().name("interfaces".to_owned()).spawn(run)?);
        Ok(Self { stop, signal, thread })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.signal.raise();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Interfaces {
    /// Brings sockets into step with the interfaces; whether all of it succeeded.
    fn look(&mut self) -> bool {
        let routes = self.routes.load_full();
        self.follow_tun_mtus(&routes);
        let mut all_well = true;
        for (at, port) in routes.ports().iter().enumerate() {
            self.warn_about_mtu(at, port);
            let bound = lock(&self.board).get(at).and_then(|served| served.ifindex);
            if let Some(ifindex) = bound
                && (ifindex != port.ifindex || !self.alive(at))
            {
                self.release(at, ifindex, port);
            }
            let bound = lock(&self.board).get(at).is_some_and(|served| served.ifindex.is_some());
            if !bound && port.ifindex != 0 {
                match self.serve(at, port) {
                    Ok(()) => self.complain(at, Matter::Service, String::new()),
                    Err(error) => {
                        self.complain(at, Matter::Service, format!("cannot serve {}: {error}", port.name));
                        all_well = false;
                    }
                }
            }
        }
        all_well
    }

    /// Whether the kernel still has the sockets bound: an interface made anew may have its predecessor's number.
    fn alive(&self, at: usize) -> bool {
        lock(&self.board).get(at).is_none_or(|served| served.probes.iter().all(SocketProbe::is_bound))
    }

    /// Takes back the sockets of an interface that is gone, and gives their frames to the workers.
    fn release(&mut self, at: usize, ifindex: u32, port: &PortInfo) {
        tracing::warn!(interface = %port.name, "the interface is gone: nothing is sent or received there until it is back");
        self.guards.forget(ifindex);
        if let Some(served) = lock(&self.board).get_mut(at) {
            served.stats.sockets = served.sockets();
            served.probes.clear();
            served.ifindex = None;
            served.stats.queues = 0;
            "gone".clone_into(&mut served.stats.mode);
        }
        for (orders, waker) in &self.workers {
            orders.give(Order::Release(PortIndex(at as u16)));
            waker.wake();
        }
        for (orders, waker) in &self.workers {
            let sockets = loop {
                match orders.take_released() {
                    Some((_, sockets)) => break sockets,
                    None => std::thread::sleep(STEP),
                }
            };
            let frames: Vec<Frame> = sockets.into_iter().flat_map(QueueSocket::close).collect();
            orders.give(Order::Keep(frames));
            waker.wake();
        }
    }

    fn serve(&mut self, at: usize, port: &PortInfo) -> Result<(), StartError> {
        let Some(interface) = self.config.interfaces.get(at) else { return Ok(()) };
        self.guards.cover(port)?;
        let traffic = lock(&self.board).get(at).map(|served| served.traffic.clone()).unwrap_or_default();
        let new = serve(&self.config, interface, port, &self.memory, self.mode, &self.guards, traffic)?;
        if let Some(served) = lock(&self.board).get_mut(at) {
            let before = served.stats.sockets;
            *served = new.served;
            served.stats.sockets = before;
        }
        for ((orders, waker), sockets) in self.workers.iter().zip(new.by_worker) {
            orders.give(Order::Serve(sockets));
            waker.wake();
        }
        Ok(())
    }

    /// The TUN devices' packets have to fit an outside interface once they are sealed.
    fn follow_tun_mtus(&mut self, routes: &RouteTable) {
        let outside = routes.ports().iter().filter(|port| port.role.is_outside() && port.ifindex != 0);
        let Some(smallest) = outside.map(|port| port.mtu).min() else { return };
        for tun in &self.tuns {
            if let Err(error) = tun.set_mtu(tun_mtu(smallest)) {
                tracing::error!(%error, device = tun.name(), "the TUN device keeps its MTU");
            }
        }
    }

    fn warn_about_mtu(&mut self, at: usize, port: &PortInfo) {
        let (PortInfo { name, mtu, .. }, size) = (port, self.config.frame_size);
        // What it was at the start decides whether packets may come in several frames.
        let most = if self.memory.takes_chains() { LARGEST_MTU } else { most_mtu(size) };
        let complaint = match *mtu > most {
            true => format!(
                "{name} has an MTU of {mtu} now, but as the daemon was started with frames of {size} octets, packets of more than \
                 {most} are dropped (`ip link set {name} mtu {most}`, or restart the daemon)"
            ),
            false => String::new(),
        };
        self.complain(at, Matter::Mtu, complaint);
    }

    fn complain(&mut self, at: usize, matter: Matter, complaint: String) {
        let last = self.complaints.entry((at, matter)).or_default();
        if *last != complaint {
            if !complaint.is_empty() {
                tracing::error!("{complaint}");
            }
            *last = complaint;
        }
    }
}
