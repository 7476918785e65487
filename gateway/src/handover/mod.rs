//! From worker to worker: packets for the owner of an outbound SA, and frames back.
//!
//! An outbound SA has one owner, which alone seals and sends for it ([`Outbound::owner`](crate::sa::Outbound::owner)), so
//! that its packets leave in the order of their numbers. Another worker that has a packet for it hands the frame over, with
//! what it knows of the packet: nothing is copied or parsed anew. What one worker hands another stays in order. A full ring
//! drops (`handover_full`), nobody waits.
//!
//! Frames of a kind are all alike, so who took a frame over owes one, and gives any back: each worker keeps as many as it began
//! with, of the large ones and of the others.
//!
//! Start at [`mesh`]. `ring` is the queue, `bell` what wakes a worker that sleeps.

mod bell;
mod ring;

use crate::frame::Frame;
use crate::io::{FramePool, Ledger};
use crate::pipeline::Handed;
use crate::slowpath::Waker;

pub use bell::Bell;
use ring::{Consumer, Producer, ring};

/// Packets on their way from one worker to another; and frames back.
const RING: usize = 1024;

/// One worker's ends of the rings, by the other worker.
#[derive(Debug)]
pub struct Exchange {
    bell: Bell,
    /// None for the worker itself.
    peers: Vec<Option<Peer>>,
    /// Frames about to be given back, or that were; empty in between.
    returned: Vec<Frame>,
}

#[derive(Debug)]
struct Peer {
    bell: Bell,
    out: Producer<Handed>,
    come: Consumer<Handed>,
    frames_out: Producer<Frame>,
    frames_come: Consumer<Frame>,
    /// Frames that it has handed us, and that we have not given back yet; then the large ones among them.
    owed: [usize; 2],
    /// Something was put in since its bell was rung.
    silent: bool,
}

/// The exchanges of workers that are woken by these wakers, in their order.
pub fn mesh(wakers: Vec<Waker>) -> Vec<Exchange> {
    let bells: Vec<Bell> = wakers.into_iter().map(Bell::new).collect();
    let alone = |bell: &Bell| Exchange {
        bell: bell.clone(),
        peers: bells.iter().map(|_| None).collect(),
        returned: Vec::new(),
    };
    let mut exchanges: Vec<Exchange> = bells.iter().map(alone).collect();
    for first in 0..bells.len() {
        for second in first + 1..bells.len() {
            let (there, back) = (ring(RING), ring(RING));
            let (frames_there, frames_back) = (ring(RING), ring(RING));
            let ends = [
                (first, second, there.0, back.1, frames_there.0, frames_back.1),
                (second, first, back.0, there.1, frames_back.0, frames_there.1),
            ];
            for (of, with, out, come, frames_out, frames_come) in ends {
                let (Some(exchange), Some(bell)) = (exchanges.get_mut(of), bells.get(with)) else { continue };
                if let Some(peer) = exchange.peers.get_mut(with) {
                    let bell = bell.clone();
                    *peer =
                        Some(Peer { bell, out, come, frames_out, frames_come, owed: [0; 2], silent: false });
                }
            }
        }
    }
    exchanges
}

impl Exchange {
    /// Hands packets to a worker, in order, as far as there is room for them; says how many. The others stay. `mine` has the
    /// frames that are not handed over.
    pub fn hand(&mut self, worker: u16, packets: &mut Vec<Handed>, mine: &mut Ledger) -> usize {
        let Some(Some(peer)) = self.peers.get_mut(usize::from(worker)) else { return 0 };
        packets.iter().for_each(|packet| mine.strike(packet.frame()));
        let count = peer.out.push_all(packets);
        packets.iter().for_each(|packet| mine.enter(packet.frame()));
        peer.silent |= count > 0;
        count
    }

    /// Takes what others have handed over, at most `most` of each; says how many. `mine` gets their frames.
    pub fn take(&mut self, most: usize, packets: &mut Vec<Handed>, mine: &mut Ledger) -> usize {
        let (mut all, before) = (0, packets.len());
        for peer in self.peers.iter_mut().flatten() {
            let from = packets.len();
            let count = peer.come.pop_into(most, packets);
            let large = packets.iter().skip(from).filter(|packet| packet.frame().is_large()).count();
            let [usual, of_large] = &mut peer.owed;
            (*usual, *of_large) = (*usual + count - large, *of_large + large);
            all += count;
        }
        packets.iter().skip(before).for_each(|packet| mine.enter(packet.frame()));
        all
    }

    /// Takes the frames that others have given back; says how many.
    pub fn take_frames(&mut self, pool: &mut FramePool, mine: &mut Ledger) -> usize {
        for peer in self.peers.iter_mut().flatten() {
            peer.frames_come.pop_into(usize::MAX, &mut self.returned);
        }
        self.returned.iter().for_each(|frame| mine.enter(frame));
        let count = self.returned.len();
        pool.put_all(&mut self.returned);
        count
    }

    /// How many frames the others are owed.
    pub fn owed(&self) -> usize {
        self.peers.iter().flatten().map(|peer| peer.owed.iter().sum::<usize>()).sum()
    }

    /// Gives back frames that are owed, as many as there are; says how many.
    pub fn give_back(&mut self, pool: &mut FramePool, mine: &mut Ledger) -> usize {
        let before = pool.len();
        for peer in self.peers.iter_mut().flatten() {
            for (large, owed) in [false, true].into_iter().zip(&mut peer.owed).filter(|(_, owed)| **owed > 0)
            {
                let frames = pool.frames_mut(large);
                let keep = frames.len() - (*owed).min(peer.frames_out.room()).min(frames.len());
                self.returned.extend(frames.drain(keep..));
                self.returned.iter().for_each(|frame| mine.strike(frame));
                let given = peer.frames_out.push_all(&mut self.returned);
                debug_assert!(self.returned.is_empty(), "there was room for all of them");
                *owed -= given;
                peer.silent |= given > 0;
            }
        }
        before - pool.len()
    }

    /// Rings for those for whom something was put in.
    pub fn ring(&mut self) {
        for peer in self.peers.iter_mut().flatten().filter(|peer| peer.silent) {
            peer.silent = false;
            peer.bell.ring();
        }
    }

    /// What wakes the worker.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// How many frames wait to be taken, with packets and without.
    pub fn waiting(&self) -> usize {
        self.peers.iter().flatten().map(|peer| peer.come.len() + peer.frames_come.len()).sum()
    }
}
