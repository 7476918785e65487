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
use portcullis_gateway::io::{FrameMemory, FramePool, Ledger};
use portcullis_gateway::pipeline::{Ingress, Output, Pipeline};
use portcullis_gateway::route::PortIndex;
use portcullis_gateway::slowpath::Waker;

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
    workers
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
