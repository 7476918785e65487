//! Packets that wait for a neighbour's MAC address: bounded in number and time.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::coarse::Coarse;
use crate::frame::Frame;
use crate::pipeline::{Output, Waiting, release};
use crate::route::RouteTable;

/// For one neighbour.
const PER_NEIGHBOUR: usize = 64;
/// For all of them, at most.
const IN_ALL: usize = 1024;
/// Of a worker's frames, one in so many may wait: however many neighbours stay silent, the rest goes on.
const SHARE: usize = 8;
/// The kernel asks three times, a second apart.
const SECONDS: u64 = 4;

#[derive(Debug)]
struct Queue {
    since: Coarse,
    frames: Vec<(Waiting, Frame)>,
}

/// The packets, by neighbour, in order.
#[derive(Debug)]
pub(super) struct Held {
    by_neighbour: HashMap<(u32, IpAddr), Queue>,
    len: usize,
    most: usize,
}

impl Held {
    /// For a worker of so many frames.
    pub(super) fn new(frames: usize) -> Self {
        Self { by_neighbour: HashMap::new(), len: 0, most: (frames / SHARE).min(IN_ALL) }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps a packet; says whether it is the first for its neighbour, whom nobody has asked yet. Gives it back if too
    /// many wait.
    pub(super) fn hold(&mut self, now: Coarse, waiting: Waiting, frame: Frame) -> Result<bool, Frame> {
        if self.len >= self.most {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::FrameMemory;
    use crate::route::PortIndex;

    fn waiting(host: u8) -> Waiting {
        Waiting { port: PortIndex(0), ifindex: 3, gateway: IpAddr::from([10, 2, 0, host]) }
    }

    #[test]
    fn neither_one_neighbour_nor_all_together_hold_more_than_their_share() {
        let (_memory, mut frames) = FrameMemory::new(1024, 2048).unwrap();
        let mut held = Held::new(frames.len());
        let mut hold = |host, frame| held.hold(Coarse(0), waiting(host), frame);
        assert!(hold(1, frames.pop().unwrap()).unwrap(), "nobody has asked for it yet");
        for _ in 1..PER_NEIGHBOUR {
            assert!(!hold(1, frames.pop().unwrap()).unwrap(), "asked for already");
        }
        assert!(hold(1, frames.pop().unwrap()).is_err());
        for _ in PER_NEIGHBOUR..1024 / SHARE {
            hold(2, frames.pop().unwrap()).unwrap();
        }
        assert!(hold(3, frames.pop().unwrap()).is_err());
        assert_eq!(held.len(), 1024 / SHARE);
    }

    #[test]
    fn what_has_waited_too_long_is_given_up_whole_and_makes_room() {
        let (_memory, mut frames) = FrameMemory::new(64, 2048).unwrap();
        let (mut held, mut expired) = (Held::new(8), Vec::new());
        held.hold(Coarse(10), waiting(1), frames.pop().unwrap()).unwrap();
        assert!(held.hold(Coarse(10), waiting(2), frames.pop().unwrap()).is_err());
        held.expire(Coarse(10 + SECONDS as u32 - 1), &mut expired);
        assert!(expired.is_empty());
        held.expire(Coarse(10 + SECONDS as u32), &mut expired);
        assert_eq!((expired.len(), held.len()), (1, 0));
        assert!(held.hold(Coarse(20), waiting(2), frames.pop().unwrap()).unwrap(), "it is asked for anew");
    }
}
