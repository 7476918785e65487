//! Steady state allocates nothing: memory is counted while batches go through.

#![expect(unsafe_code, reason = "an allocator that counts")]
#![expect(clippy::expect_used, reason = "where a test cannot go on it fails")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Child, INSIDE, OUTSIDE, Packet, Rig, ethernet, pair, port_mac};
use portcullis_gateway::pipeline::{Ingress, Output};
use portcullis_gateway::route::PortIndex;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is left to the system's allocator; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A worker's rounds with one batch after another in the same frames: how much each allocates.
fn rounds(rig: &mut Rig, port: PortIndex, batches: &[Vec<Vec<u8>>]) -> Vec<usize> {
    let mut frames = rig.pool.free.split_off(rig.pool.free.len() - 64);
    let (mut batch, mut out) = (Vec::with_capacity(64), Output::default());
    let mut allocated = Vec::new();
    for packets in batches {
        for packet in packets {
            let octets = ethernet(port_mac(rig.number, port), packet);
            let mut frame = frames.pop().expect("as many frames as packets");
            assert!(frame.set_range(256, 256 + octets.len()));
            frame.packet_mut().copy_from_slice(&octets);
            batch.push(frame);
        }
        let before = ALLOCATIONS.get();
        rig.pipeline.process(rig.now, Ingress::Port(port), &mut batch, &mut rig.pool, &mut out);
        allocated.push(ALLOCATIONS.get() - before);
        assert_eq!(out.transmit.len(), 64);
        frames.extend(out.transmit.drain().map(|(_, frame)| frame));
    }
    allocated
}

#[test]
fn sealing_and_opening_allocate_nothing_once_the_lists_have_grown() {
    let mut pair = pair(&Child::between(1, 2));
    let packets: Vec<_> = (0..64).map(|i| Packet::between(1, 2, i % 2 == 0, 100 + i).octets()).collect();
    assert_eq!(rounds(&mut pair.a, INSIDE, &vec![packets.clone(); 3])[1..], [0, 0]);
    let sealed: Vec<_> = (0..3).map(|_| pair.a.inside(&packets).only_sent(OUTSIDE)).collect();
    assert_eq!(rounds(&mut pair.b, OUTSIDE, &sealed)[1..], [0, 0]);
}
