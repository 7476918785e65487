//! AF_XDP sockets over one packet memory, between namespaces: frames come in by one port, go out by another, and every
//! one of them is somewhere at any time. Needs root.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "where a test cannot go on it fails")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, poll};
use portcullis_gateway::frame::Frame;
use portcullis_gateway::io::{CopyMode, FrameMemory, FramePool, QueueSocket, RING, SocketError};
use portcullis_gateway::pipeline::FrameSource;
use portcullis_gateway::xdp::{Buffers, ModeRequest, Protection, Role, XdpManager};
use portcullis_lab::{Capture, Class, Counts, Direction, Host, Lab, LinkOptions};

const SOON: Duration = Duration::from_secs(20);
/// Frames in all: more than two RX rings and a TX ring take.
const FRAMES: u32 = 3 * RING;

/// A gateway with a port to each of two machines.
struct Bench {
    _lab: Lab,
    gateway: Host,
    left: Host,
    right: Host,
}

/// Both ports' sockets, the free frames, and the programs that hand packets to the sockets.
struct Ports {
    sockets: [QueueSocket; 2],
    pool: FramePool,
    total: usize,
    _manager: XdpManager,
}

impl Bench {
    fn new(name: &str) -> Self {
        Self::with(LinkOptions::default(), name)
    }

    fn with(options: LinkOptions, name: &str) -> Self {
        let lab = Lab::new(name).unwrap();
        let [gateway, left, right] = ["gateway", "left", "right"].map(|name| lab.host(name).unwrap());
        lab.link_with(options, &gateway, "port0", &left, "eth0").unwrap();
        lab.link_with(options, &gateway, "port1", &right, "eth0").unwrap();
        Self { _lab: lab, gateway, left, right }
    }

    fn ports(&self) -> Ports {
        self.ports_with(Buffers::Single, 0)
    }

    /// With so many large frames.
    fn ports_with(&self, buffers: Buffers, large: usize) -> Ports {
        let bound = self.gateway.enter(|| {
            let mut protection = Protection { ike_port: 500, nat_t_port: 4500, ..Protection::default() };
            protection.local.insert("10.1.0.0/24".parse().unwrap());
            protection.remote.insert("10.2.0.0/24".parse().unwrap());
            let mut manager = XdpManager::load_for(buffers, self.gateway.pin_dir(), &protection).unwrap();
            let (memory, frames) = FrameMemory::with_large(FRAMES, 2048, large).unwrap();
            let sockets = ["port0", "port1"].map(|name| {
                let ifindex = if_nametoindex(name).unwrap();
                manager.attach(ifindex, Role::Inside, ModeRequest::Auto).unwrap();
                let socket = QueueSocket::bind(Arc::clone(&memory), name, 0, CopyMode::Copy).unwrap();
                manager.set_xsk(ifindex, 0, socket.fd()).unwrap();
                socket
            });
            Ports { sockets, pool: FramePool::new(frames), total: memory.frames(), _manager: manager }
        });
        bound.unwrap()
    }
}

impl Ports {
    fn refill(&mut self, target: usize) {
        self.sockets.iter_mut().for_each(|socket| socket.refill(target, &mut self.pool));
    }

    /// Waits for so many frames on a port.
    fn receive(&mut self, port: usize, count: usize) -> Vec<Frame> {
        let (deadline, mut frames) = (Instant::now() + SOON, Vec::new());
        while frames.len() < count {
            let socket = &mut self.sockets[port];
            if socket.receive(64, &mut frames, &mut self.pool) == 0 {
                assert!(Instant::now() < deadline, "{} of {count} have come", frames.len());
                poll(&mut [PollFd::new(socket.fd(), PollFlags::POLLIN)], 100_u16).unwrap();
            }
        }
        assert_eq!(frames.len(), count);
        frames
    }

    /// Takes back what a port sends until nothing of it is on its way.
    fn drain(&mut self, port: usize) {
        let deadline = Instant::now() + SOON;
        while self.sockets[port].in_flight() > 0 {
            self.sockets[port].kick();
            self.sockets[port].complete(&mut self.pool);
            assert!(Instant::now() < deadline, "{} frames do not come back", self.sockets[port].in_flight());
        }
    }

    /// Demands that those held here, the free ones and those in the kernel are all there are, and none of them twice.
    fn account(&mut self, held: &[Frame]) {
        let take = || self.pool.take().or_else(|| self.pool.take_large());
        let mut free: Vec<Frame> = std::iter::from_fn(take).collect();
        let seen: BTreeSet<u64> = free.iter().chain(held).map(Frame::address).collect();
        assert_eq!(seen.len(), free.len() + held.len(), "a frame has two owners");
        let in_kernel: usize = self.sockets.iter().map(QueueSocket::in_kernel).sum();
        assert_eq!(seen.len() + in_kernel, self.total, "frames are missing");
        self.pool.put_all(&mut free);
    }
}

/// Ethernet, and an IPv4 UDP datagram from a protected network to the other; no two are the same.
fn datagram(number: u16) -> Vec<u8> {
    datagram_of(number, 46)
}

/// The same as a packet of so many octets.
fn datagram_of(number: u16, octets: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 5, 10, 2, 0, 5];
    packet[2..4].copy_from_slice(&octets.to_be_bytes());
    let sum: u32 = packet.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend([0, 7, 0, 7]);
    packet.extend((octets - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(number.to_be_bytes());
    packet.extend((packet.len()..usize::from(octets)).map(|at| (at / 7) as u8));
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend(packet);
    frame
}

/// Whether a captured frame is one of ours, and then which.
fn number_of(frame: &[u8]) -> Option<u16> {
    let number = u16::from_be_bytes(frame.get(42..44)?.try_into().ok()?);
    (frame == datagram(number)).then_some(number)
}

/// Demands that exactly these have arrived, in order.
fn await_numbers(capture: &Capture, last: u16) {
    let sent = u64::from(last) + 1;
    let came = |counts: &Counts| counts.of(Class::Clear, Direction::In).packets;
    capture.wait_until("all of them", SOON, |counts| came(counts) >= sent).unwrap();
    let counts = capture.settle().unwrap();
    assert_eq!((came(&counts), counts.lost), (sent, 0));
    // A capture counts all, but keeps the first ones only.
    let kept = capture.matching(|frame| frame.class == Class::Clear);
    let kept: Vec<Option<u16>> = kept.iter().map(|frame| number_of(&frame.bytes)).collect();
    assert_eq!(kept, (0..=last).take(kept.len()).map(Some).collect::<Vec<_>>());
}

#[test]
fn frames_of_one_port_leave_by_the_other_whole_and_in_order_and_none_is_lost() {
    let bench = Bench::new("io");
    let mut ports = bench.ports();
    let capture = Capture::start(&bench.right, "eth0", &[]).unwrap();
    ports.refill(256);
    ports.account(&[]);
    // More than the kernel takes at a time, and with copies takes at all unless it is told again.
    let numbers = 0..200;
    for number in numbers.clone() {
        bench.left.send_frame("eth0", &datagram(number)).unwrap();
    }
    let mut frames = ports.receive(0, numbers.len());
    for (frame, number) in frames.iter().zip(numbers.clone()) {
        assert_eq!(frame.packet(), datagram(number));
        assert!(frame.headroom() >= 256, "no room for an encapsulation: {}", frame.headroom());
    }
    ports.account(&frames);
    assert_eq!(ports.sockets[1].transmit(&mut frames, &mut ports.pool), numbers.len());
    assert!(frames.is_empty());
    ports.sockets[1].kick();
    assert!(!ports.sockets[1].unsent(), "the kernel has not taken all");
    await_numbers(&capture, 199);
    ports.drain(1);
    ports.account(&[]);
    ports.refill(256);
    ports.account(&[]);
}

#[test]
fn a_packet_leaves_from_where_it_lies_in_its_frame() {
    let bench = Bench::new("shift");
    let mut ports = bench.ports();
    let capture = Capture::start(&bench.right, "eth0", &[]).unwrap();
    let wanted = datagram(0);
    for start in [0, 1, 255, 1000, 2048 - wanted.len()] {
        let mut frame = ports.pool.take().unwrap();
        assert!(frame.set_range(start, start + wanted.len()));
        frame.packet_mut().copy_from_slice(&wanted);
        let mut frames = vec![frame];
        assert_eq!(ports.sockets[1].transmit(&mut frames, &mut ports.pool), 1);
        ports.sockets[1].kick();
    }
    let same = |counts: &Counts| counts.of(Class::Clear, Direction::In).packets >= 5;
    capture.wait_until("five frames", SOON, same).unwrap();
    capture.settle().unwrap();
    let came = capture.matching(|frame| frame.class == Class::Clear);
    assert!(came.len() == 5 && came.iter().all(|frame| frame.bytes == wanted), "{came:?}");
    ports.drain(1);
    ports.account(&[]);
}

#[test]
fn what_the_ring_has_no_room_for_stays_with_its_owner() {
    let bench = Bench::new("full");
    let mut ports = bench.ports();
    let capture = Capture::start(&bench.right, "eth0", &[]).unwrap();
    let last = RING as u16 + 99;
    let fill = |number: u16| {
        let (mut frame, packet) = (ports.pool.take().unwrap(), datagram(number));
        assert!(frame.set_range(256, 256 + packet.len()));
        frame.packet_mut().copy_from_slice(&packet);
        frame
    };
    let mut frames: Vec<Frame> = (0..=last).map(fill).collect();
    assert_eq!(ports.sockets[1].transmit(&mut frames, &mut ports.pool), RING as usize);
    assert_eq!(frames.len(), 100);
    assert_eq!(ports.sockets[1].transmit(&mut frames, &mut ports.pool), 0, "the ring is full");
    ports.account(&frames);
    ports.drain(1);
    assert_eq!(ports.sockets[1].transmit(&mut frames, &mut ports.pool), 100);
    ports.drain(1);
    await_numbers(&capture, last);
    ports.account(&[]);
}

#[test]
fn a_port_without_frames_to_receive_into_counts_what_it_misses_and_recovers() {
    let bench = Bench::new("starved");
    let mut ports = bench.ports();
    let probe = ports.sockets[0].probe();
    let missed = || {
        let counts = probe.statistics().unwrap();
        counts.rx_dropped + counts.rx_fill_ring_empty
    };
    assert_eq!(missed(), 0);
    bench.left.send_frame("eth0", &datagram(0)).unwrap();
    let deadline = Instant::now() + SOON;
    while missed() == 0 {
        assert!(Instant::now() < deadline, "{:?}", probe.statistics());
    }
    ports.refill(64);
    ports.sockets[0].wake_receiver();
    bench.left.send_frame("eth0", &datagram(1)).unwrap();
    let frames = ports.receive(0, 1);
    assert_eq!(frames[0].packet(), datagram(1));
    ports.account(&frames);
}

#[test]
fn a_queue_has_one_socket() {
    let bench = Bench::new("taken");
    // In the gateway's namespace, as everything that has a socket: see `FrameMemory::new`.
    let memory = || bench.gateway.enter(|| FrameMemory::new(64, 2048).unwrap().0).unwrap();
    let (memory, other) = (memory(), memory());
    let bind = |memory: &Arc<FrameMemory>, queue, mode| {
        bench.gateway.enter(|| QueueSocket::bind(Arc::clone(memory), "port0", queue, mode)).unwrap()
    };
    let error = bind(&memory, 0, CopyMode::ZeroCopy).unwrap_err();
    assert!(error.wants_copies(), "veth has no zero-copy: {error}");
    let socket = bind(&memory, 0, CopyMode::Copy).unwrap();
    assert_eq!(socket.mode(), CopyMode::Copy);
    // A program that we start keeps no queue from whoever comes after us.
    assert_eq!(fcntl(socket.fd(), FcntlArg::F_GETFD), Ok(FdFlag::FD_CLOEXEC.bits()));
    let second = bind(&memory, 0, CopyMode::Copy);
    assert!(matches!(second, Err(SocketError::Duplicate { queue: 0, .. })), "{second:?}");
    let error = bind(&other, 0, CopyMode::Copy).unwrap_err().to_string();
    assert!(error.contains("queue 0 of port0") && error.contains("another process"), "{error}");
    let error = bind(&other, 7, CopyMode::Copy).unwrap_err().to_string();
    assert!(error.contains("so many queues"), "{error}");
    // A crash frees the queue; what comes next waits for that instead of giving up. The first socket is the memory's own,
    // so both have to go.
    let released = std::thread::spawn(move || drop((socket, memory)));
    bind(&other, 0, CopyMode::Copy).unwrap();
    released.join().unwrap();
}

#[test]
fn a_socket_that_busy_polls_receives_and_sends_as_others_do() {
    let bench = Bench::new("busy");
    let mut ports = bench.ports();
    ports.sockets[0].busy_poll(Duration::from_micros(20)).unwrap();
    ports.refill(64);
    bench.left.send_frame("eth0", &datagram(1)).unwrap();
    let frames = ports.receive(0, 1);
    assert_eq!(frames[0].packet(), datagram(1));
    ports.account(&frames);
}

#[test]
fn packets_larger_than_a_frame_come_in_one_of_their_own_and_go_in_several() {
    let bench = Bench::with(LinkOptions { mtu: 9000, ..LinkOptions::default() }, "chains");
    let mut ports = bench.ports_with(Buffers::Chains, 4);
    ports.refill(256);
    let capture = Capture::start(&bench.right, "eth0", &[]).unwrap();
    // A frame of 2048 octets has room for 1792; the last of these leave none behind them.
    let sizes = [9000, 46, 1700, 1770, 1778];
    for (number, size) in (0..).zip(sizes) {
        bench.left.send_frame("eth0", &datagram_of(number, size)).unwrap();
    }
    let mut frames = ports.receive(0, sizes.len());
    for (number, (frame, size)) in (0..).zip(frames.iter().zip(sizes)) {
        assert!(frame.packet() == datagram_of(number, size), "{size}: {} octets", frame.len());
        assert_eq!(frame.is_large(), size > 1714, "{size}");
        assert!(frame.headroom() >= 256 && frame.tailroom() >= 64);
    }
    ports.account(&frames);
    // There is one large frame left, and two packets that need one.
    for number in [10, 11] {
        bench.left.send_frame("eth0", &datagram_of(number, 5000)).unwrap();
    }
    bench.left.send_frame("eth0", &datagram_of(12, 46)).unwrap();
    let more = ports.receive(0, 2);
    assert_eq!(more.iter().map(Frame::len).collect::<Vec<_>>(), [5014, 60]);
    assert_eq!((ports.sockets[0].take_lost(), ports.sockets[0].take_lost()), (1, 0));
    frames.extend(more);
    ports.account(&frames);

    let sent = frames.len();
    assert_eq!(ports.sockets[1].transmit(&mut frames, &mut ports.pool), sent);
    ports.account(&[]);
    ports.sockets[1].kick();
    ports.drain(1);
    ports.account(&[]);
    let all = |counts: &Counts| counts.of(Class::Clear, Direction::In).packets >= sent as u64;
    capture.wait_until("all of them", SOON, all).unwrap();
    let came = capture.matching(|frame| frame.class == Class::Clear);
    let wanted = (0..).zip(sizes).chain([(10, 5000), (12, 46)]);
    for (frame, (number, size)) in came.iter().zip(wanted) {
        // A capture keeps so many octets.
        let kept = frame.bytes.len();
        assert!(kept == usize::from(size.max(46) + 14).min(2048), "{size}: {kept} octets");
        assert!(frame.bytes == datagram_of(number, size)[..kept], "{size}");
    }
    assert_eq!(came.len(), sent);
}
