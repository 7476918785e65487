//! Where frames go when the pipeline is done with them.

use std::net::IpAddr;

use portcullis_ipsec::TenantId;

use super::{BATCH, Clear};
use crate::frame::Frame;
use crate::route::PortIndex;

/// The neighbour whose MAC address a frame lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// The port that the frame will leave by.
    pub port: PortIndex,
    /// The port's interface, for the kernel.
    pub ifindex: u32,
    /// The neighbour.
    pub gateway: IpAddr,
}

/// Where frames have gone. Drained by the worker, which counts what it takes: [`WorkerCounters::transmitted`],
/// `to_kernel` and `held`. Drops are counted already.
#[derive(Debug, Default)]
pub struct Output {
    /// Whole Ethernet frames to send.
    pub transmit: Outgoing,
    /// Bare IP packets for the host.
    pub to_kernel: Vec<Frame>,
    /// Bare IP packets for the host by the devices of tenants.
    pub to_device: Vec<(TenantId, Frame)>,
    /// Whole Ethernet frames whose ESP goes out in a TCP stream ([`crate::outlet`]).
    pub to_streams: Vec<Frame>,
    /// Whole Ethernet frames but for the destination's MAC address; see [`release`].
    pub held: Vec<(Waiting, Frame)>,
    /// Packets whose SA another worker owns, by that worker, in order. It takes them to [`Pipeline::resume`].
    pub handed: HandedOver,
    /// Frames to be used again: their packets were dropped and counted, or they never held one.
    pub recycled: Vec<Frame>,
}

/// A packet on its way to another worker's pipeline, and what this one knows of it.
#[derive(Debug)]
pub struct Handed {
    pub(super) frame: Frame,
    pub(super) about: Clear,
}

impl Handed {
    /// The frame that holds the packet.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The frame alone, of a packet that is given up.
    pub fn into_frame(self) -> Frame {
        self.frame
    }
}

/// Packets for other workers, by worker, in order.
#[derive(Debug, Default)]
pub struct HandedOver(Vec<Vec<Handed>>);

impl HandedOver {
    pub(super) fn push(&mut self, worker: u16, packet: Handed) {
        let at = usize::from(worker);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || Vec::with_capacity(BATCH));
        }
        if let Some(packets) = self.0.get_mut(at) {
            packets.push(packet);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// The packets of each worker that has any, to be taken.
    pub fn each(&mut self) -> impl Iterator<Item = (u16, &mut Vec<Handed>)> {
        let workers = (0_u16..).zip(&mut self.0);
        workers.filter(|(_, packets)| !packets.is_empty())
    }
}

/// Frames to send, by port, in order.
#[derive(Debug, Default)]
pub struct Outgoing(Vec<Vec<Frame>>);

impl Outgoing {
    /// Adds one.
    #[inline]
    pub fn push(&mut self, port: PortIndex, frame: Frame) {
        self.of(port).push(frame);
    }

    /// The frames of a port, to be taken.
    #[inline]
    pub fn of(&mut self, port: PortIndex) -> &mut Vec<Frame> {
        let at = usize::from(port.0);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || Vec::with_capacity(BATCH));
        }
        // There is one now.
        #[expect(clippy::indexing_slicing, reason = "made on the line above")]
        &mut self.0[at]
    }

    /// The ports that may have frames.
    pub fn ports(&self) -> impl Iterator<Item = PortIndex> + use<> {
        (0..self.0.len()).map(|at| PortIndex(at as u16))
    }

    /// Takes all, port by port.
    pub fn drain(&mut self) -> impl Iterator<Item = (PortIndex, Frame)> {
        let ports = self.0.iter_mut().enumerate();
        ports.flat_map(|(at, frames)| frames.drain(..).map(move |frame| (PortIndex(at as u16), frame)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }
}

/// Free frames, for what is made here: ICMP errors and fragments.
pub trait FrameSource {
    /// A frame, if there is one. What it holds does not matter.
    fn take(&mut self) -> Option<Frame>;

    /// One whose chunk has so many octets, if there is one; a lesser one if none has.
    fn take_for(&mut self, octets: usize) -> Option<Frame> {
        let _all_alike = octets;
        self.take()
    }
}
