//! Two workers on two threads, on the same tables: an SA that both have packets for, and one that both receive on.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "where a test cannot go on it fails")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use common::{Child, INSIDE, OUTSIDE, Packet, Rig, connect, ethernet, port_mac};
use portcullis_gateway::coarse::Coarse;
use portcullis_gateway::frame::Frame;
use portcullis_gateway::handover::{Exchange, mesh};
use portcullis_gateway::installer::Installer;
use portcullis_gateway::io::{FrameMemory, FramePool, Ledger};
use portcullis_gateway::pipeline::{Ingress, Output, Pipeline};
use portcullis_gateway::route::PortIndex;
use portcullis_gateway::slowpath::Waker;
use portcullis_ipsec::{DataplaneEvent, SaInstaller, Spi};

/// Batches that each worker is given, and packets in each.
const BATCHES: usize = 200;
const PACKETS: usize = 16;
/// Frames of each worker: fewer than packets, so that they have to come back.
const FRAMES: usize = 512;

/// A worker without sockets.
struct Worker {
    pipeline: Pipeline,
    exchange: Exchange,
    pool: FramePool,
    /// The frames that it answers for.
    mine: Ledger,
    out: Output,
    /// What it has sent, in order.
    sent: Vec<(PortIndex, Vec<u8>)>,
}

impl Worker {
    fn new(pipeline: Pipeline, exchange: Exchange, frames: Vec<Frame>, mut mine: Ledger) -> Self {
        frames.iter().for_each(|frame| mine.enter(frame));
        let (pool, out, sent) = (FramePool::new(frames), Output::default(), Vec::new());
        Self { pipeline, exchange, pool, mine, out, sent }
    }

    fn receive(&mut self, port: PortIndex, packets: &[Vec<u8>]) {
        let mut batch = Vec::new();
        for octets in packets {
            let mut frame = self.pool.frames_mut(false).pop().unwrap();
            assert!(frame.set_range(256, 256 + octets.len()));
            frame.packet_mut().copy_from_slice(octets);
            batch.push(frame);
        }
        let Self { pipeline, pool, out, .. } = self;
        pipeline.process(Coarse(1), Ingress::Port(port), &mut batch, pool, out);
        self.deliver();
    }

    fn take_over(&mut self) -> usize {
        let mut handed = Vec::new();
        let count = self.exchange.take(64, &mut handed, &mut self.mine);
        let Self { pipeline, pool, out, .. } = self;
        pipeline.resume(Coarse(1), &mut handed, pool, out);
        self.deliver();
        count
    }

    fn deliver(&mut self) {
        for (worker, packets) in self.out.handed.each() {
            // The other one takes some out meanwhile.
            while self.exchange.hand(worker, packets, &mut self.mine) == 0 {
                thread::yield_now();
            }
            assert!(packets.is_empty());
        }
        for (port, frame) in self.out.transmit.drain() {
            self.sent.push((port, frame.packet().to_vec()));
            self.pool.put(frame);
        }
        self.pool.put_all(&mut self.out.recycled);
        self.exchange.take_frames(&mut self.pool, &mut self.mine);
        self.exchange.give_back(&mut self.pool, &mut self.mine);
    }
}

/// UDP of so many octets from one site to another. Its ports tell which packet it is: `series`, and its number there.
fn packet((from, to): (u8, u8), series: u16, number: usize) -> Vec<u8> {
    Packet { ports: (series, number as u16), ..Packet::between(from, to, false, 64) }.octets()
}

/// What [`packet`] was made of.
fn series_and_number(packet: &[u8]) -> (u16, u16) {
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    (port(20), port(22))
}

fn two_workers(rig: Rig) -> [Worker; 2] {
    with_installer(rig).0
}

fn with_installer(rig: Rig) -> ([Worker; 2], Installer) {
    let (memory, mut frames) = FrameMemory::new(2 * FRAMES as u32, 2048).unwrap();
    let others = frames.split_off(FRAMES);
    let [first, second] =
        <[Exchange; 2]>::try_from(mesh((0..2).map(|_| Waker::new().unwrap()).collect())).unwrap();
    let pipeline = rig.second_pipeline();
    let workers = [
        Worker::new(rig.pipeline, first, frames, memory.ledger()),
        Worker::new(pipeline, second, others, memory.ledger()),
    ];
    // Frames must not outlive it.
    std::mem::forget(memory);
    (workers, rig.installer)
}

/// Gives each worker its own packets, and lets both go on until all are through.
fn run(workers: [Worker; 2], port: PortIndex, packets: [Vec<Vec<u8>>; 2]) -> [Worker; 2] {
    let (start, done) = (Arc::new(Barrier::new(2)), Arc::new(AtomicUsize::new(0)));
    let running = workers.into_iter().zip(packets).map(|(mut worker, packets)| {
        let (start, done) = (Arc::clone(&start), Arc::clone(&done));
        thread::spawn(move || {
            start.wait();
            for batch in packets.chunks(PACKETS) {
                worker.receive(port, batch);
                worker.take_over();
                while worker.pool.len() < PACKETS {
                    worker.take_over();
                    thread::yield_now();
                }
            }
            done.fetch_add(1, Ordering::AcqRel);
            // The other one may need its frames back yet.
            while done.load(Ordering::Acquire) < 2 {
                worker.take_over();
                thread::yield_now();
            }
            while worker.take_over() > 0 {}
            worker
        })
    });
    let running: Vec<_> = running.collect();
    let mut finished = running.into_iter().map(|thread| thread.join().unwrap());
    [(); 2].map(|()| finished.next().unwrap())
}

#[test]
fn one_worker_seals_for_both_in_order_and_frames_come_back() {
    let (a, mut b) = (Rig::new(1), Rig::new(2));
    connect(&Child::between(1, 2), &a, &b);
    let own = [0, 1].map(|series| {
        let packets = (0..BATCHES * PACKETS).map(|number| packet((1, 2), series, number));
        packets.map(|packet| ethernet(port_mac(1, INSIDE), &packet)).collect()
    });
    let [first, second] = run(two_workers(a), INSIDE, own);
    let left: usize =
        [&first, &second].map(|worker| worker.pool.len() + worker.exchange.waiting()).iter().sum();
    assert_eq!(left, 2 * FRAMES);
    for worker in [&first, &second] {
        assert_eq!(worker.mine.len(), worker.pool.len());
    }
    // Whoever was first owns the SA.
    let (owner, other) = if first.sent.is_empty() { (second, first) } else { (first, second) };
    assert!(other.sent.is_empty());
    assert_eq!(owner.sent.len(), 2 * BATCHES * PACKETS);
    assert!(other.pool.len() + other.exchange.waiting() > FRAMES - PACKETS, "its frames came back");

    // The peer opens all of them, though its window is narrow: they are in order. And so is what each worker received.
    let mut next = [0_u16; 2];
    for sealed in owner.sent.chunks(64) {
        let sealed: Vec<Vec<u8>> = sealed.iter().map(|(_, frame)| frame[14..].to_vec()).collect();
        for packet in b.outside(&sealed).only_sent(INSIDE) {
            let (series, number) = series_and_number(&packet);
            assert_eq!(number, next[usize::from(series)]);
            next[usize::from(series)] += 1;
        }
    }
}

/// The SPI of raw ESP on IPv4.
fn spi_of((_, frame): &(PortIndex, Vec<u8>)) -> u32 {
    u32::from_be_bytes(frame[34..38].try_into().unwrap())
}

/// RFC 9611: two workers seal for one policy, each with its own SA.
#[test]
fn a_worker_with_an_sa_of_its_own_hands_nothing_over() {
    let (a, mut b) = (Rig::new(1), Rig::new(2));
    let child = Child::between(1, 2);
    let mirrored = child.mirrored();
    let policy = a.policy_of_workers(&child);
    b.policy(&mirrored.local_ts, &mirrored.remote_ts);
    // Each direction of each has another key.
    let pairs = [(0, 1), (2, 3)]
        .map(|(there, here)| (a.install_inbound(&child, 2, here), b.install_inbound(&mirrored, 1, there)));
    let [(shared, shared_there), (own, own_there)] = pairs;
    a.activate(&child, 2, policy, shared, shared_there, 0);
    let packets = |series, count| {
        let packets = (0..count).map(|number| packet((1, 2), series, number));
        packets.map(|packet| ethernet(port_mac(1, INSIDE), &packet)).collect::<Vec<_>>()
    };
    let ([mut first, mut second], installer) = with_installer(a);

    // The first owns the shared SA, and needs no other.
    first.receive(INSIDE, &packets(0, PACKETS));
    assert_eq!(installer.take_events(), []);
    second.receive(INSIDE, &packets(1, PACKETS));
    assert!(second.sent.is_empty());
    assert_eq!(installer.take_events(), [DataplaneEvent::WorkerAsks { pair: shared, worker: 1 }]);
    second.receive(INSIDE, &packets(1, PACKETS));
    assert_eq!(installer.take_events(), [], "it does not ask again at once");
    while first.take_over() > 0 {}
    assert_eq!(first.sent.len(), 3 * PACKETS);
    assert!(first.sent.iter().all(|sent| spi_of(sent) == shared_there.get()));
    first.sent.clear();
    while second.take_over() > 0 {}

    let sa = child.outbound((1, 2), own_there, 2);
    assert!(
        installer.activate_for_worker(policy, own, sa.clone(), Some(2)).is_err(),
        "there is no such worker"
    );
    installer.activate_for_worker(policy, own, sa, Some(1)).unwrap();
    let info =
        |pair: Spi| installer.list().into_iter().find(|info| info.pair == pair).unwrap().outbound.unwrap();
    assert_eq!((info(shared).worker, info(own).worker), (None, Some(1)));
    assert!(info(shared).current && info(own).current);
    let own_packets = [0, 1].map(|series| packets(series, BATCHES * PACKETS));
    let [first, second] = run([first, second], INSIDE, own_packets);
    for (series, (worker, spi)) in [(&first, shared_there), (&second, own_there)].into_iter().enumerate() {
        assert_eq!(worker.sent.len(), BATCHES * PACKETS);
        let mut next = 0;
        for sealed in worker.sent.chunks(64) {
            assert!(sealed.iter().all(|sent| spi_of(sent) == spi.get()));
            let sealed: Vec<Vec<u8>> = sealed.iter().map(|(_, frame)| frame[14..].to_vec()).collect();
            for packet in b.outside(&sealed).only_sent(INSIDE) {
                assert_eq!(series_and_number(&packet), (series as u16, next), "out of order");
                next += 1;
            }
        }
        assert_eq!(usize::from(next), BATCHES * PACKETS);
    }

    // Without it, the shared one is there as before; and it is asked for again.
    installer.remove(own).unwrap();
    let [mut first, mut second] = [first, second];
    second.sent.clear();
    second.receive(INSIDE, &packets(1, PACKETS));
    assert!(second.sent.is_empty());
    while first.take_over() > 0 {}
    assert_eq!(installer.take_events(), [DataplaneEvent::WorkerAsks { pair: shared, worker: 1 }]);
}

#[test]
fn what_both_receive_is_delivered_once() {
    let (a, mut b) = (Rig::new(1), Rig::new(2));
    connect(&Child::between(1, 2), &a, &b);
    let clear: Vec<Vec<u8>> = (0..BATCHES * PACKETS).map(|number| packet((2, 1), 0, number)).collect();
    let sealed: Vec<Vec<u8>> = clear
        .chunks(64)
        .flat_map(|batch| b.inside(batch).only_sent(OUTSIDE))
        .map(|packet| ethernet(port_mac(1, OUTSIDE), &packet))
        .collect();
    let workers = run(two_workers(a), OUTSIDE, [sealed.clone(), sealed]);
    let sent = workers.iter().flat_map(|worker| &worker.sent);
    let mut seen: Vec<u16> = sent.map(|(_, frame)| series_and_number(&frame[14..]).1).collect();
    seen.sort_unstable();
    assert!(seen.is_sorted_by(|a, b| a < b), "delivered twice");
    // One that falls behind by more than the window loses packets; the other does not.
    assert!(seen.len() > BATCHES * PACKETS / 2, "{}", seen.len());
}
