//! Packets that wait for a neighbour's MAC address: bounded in number and time.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::coarse::Coarse;
use crate::frame::Frame;
use crate::pipeline::{Output, Waiting, release};
use crate::route::RouteTable;

/// For one neighbour.
const PER_NEIGHBOUR: usize = 64;
/// For all of them.
const IN_ALL: usize = 1024;
/// The kernel asks three times, a second apart.
const SECONDS: u64 = 4;

#[derive(Debug)]
struct Queue {
    since: Coarse,
    frames: Vec<(Waiting, Frame)>,
}

/// The packets, by neighbour, in order.
#[derive(Debug, Default)]
pub(super) struct Held {
    by_neighbour: HashMap<(u32, IpAddr), Queue>,
    len: usize,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps a packet; says whether it is the first for its neighbour, whom nobody has asked yet. Gives it back if too
    /// many wait.
    pub(super) fn hold(&mut self, now: Coarse, waiting: Waiting, frame: Frame) -> Result<bool, Frame> {
        if self.len >= IN_ALL {
            return Err(frame);
        }
        let queue = self
            .by_neighbour
            .entry((waiting.ifindex, waiting.gateway))
            .or_insert_with(|| Queue { since: now, frames: Vec::new() });
        if queue.frames.len() >= PER_NEIGHBOUR {
            return Err(frame);
        }
        let first = queue.frames.is_empty();
        queue.frames.push((waiting, frame));
        self.len += 1;
        Ok(first)
    }

    /// Completes the packets whose neighbour has answered.
    pub(super) fn release(&mut self, routes: &RouteTable, out: &mut Output) {
        let len = &mut self.len;
        self.by_neighbour.retain(|&(ifindex, gateway), queue| {
            let Some(mac) = routes.neighbour(ifindex, gateway) else { return true };
            *len -= queue.frames.len();
            for (waiting, frame) in queue.frames.drain(..) {
                release(&waiting, mac, frame, out);
            }
            false
        });
    }

    /// Gives up the packets of neighbours that did not answer in time.
    pub(super) fn expire(&mut self, now: Coarse, expired: &mut Vec<Frame>) {
        let len = &mut self.len;
        self.by_neighbour.retain(|_, queue| {
            if now.since(queue.since).as_secs() < SECONDS {
                return true;
            }
            *len -= queue.frames.len();
            expired.extend(queue.frames.drain(..).map(|(_, frame)| frame));
            false
        });
    }

    /// Everything, whoever it waits for.
    pub(super) fn take_all(&mut self) -> Vec<Frame> {
        self.len = 0;
        self.by_neighbour.drain().flat_map(|(_, queue)| queue.frames).map(|(_, frame)| frame).collect()
    }
}
