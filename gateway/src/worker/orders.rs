//! What a worker is told about its interfaces while it runs, by whoever watches over them; and what it gives back. Nobody
//! waits: the worker looks whenever it comes by.

use crossbeam::queue::SegQueue;

use super::PortSockets;
use crate::frame::Frame;
use crate::io::QueueSocket;
use crate::route::PortIndex;

/// What a worker is to do.
#[derive(Debug)]
pub enum Order {
    /// Serve an interface by these sockets, which are new.
    Serve(PortSockets),
    /// Give back an interface's sockets: it is gone.
    Release(PortIndex),
    /// Take these frames, which its former sockets had.
    Keep(Vec<Frame>),
}

/// The two queues of one worker.
#[derive(Debug, Default)]
pub struct Orders {
    orders: SegQueue<Order>,
    released: SegQueue<(PortIndex, Vec<QueueSocket>)>,
}

impl Orders {
    /// Orders something. The worker has to be woken after.
    pub fn give(&self, order: Order) {
        self.orders.push(order);
    }

    /// What a released port had; each [`Order::Release`] is answered once.
    pub fn take_released(&self) -> Option<(PortIndex, Vec<QueueSocket>)> {
        self.released.pop()
    }

    /// The oldest order. Asked for in every round, so that it costs nothing when there is none.
    #[inline]
    pub(super) fn next(&self) -> Option<Order> {
        if self.orders.is_empty() { None } else { self.orders.pop() }
    }

    pub(super) fn release(&self, port: PortIndex, sockets: Vec<QueueSocket>) {
        self.released.push((port, sockets));
    }

    /// Frames that nobody has taken when all has come to an end.
    pub fn left(&self) -> usize {
        let ordered = std::iter::from_fn(|| self.orders.pop()).map(|order| match order {
            Order::Serve(port) => port.sockets.iter().map(QueueSocket::in_kernel).sum(),
            Order::Release(_) => 0,
            Order::Keep(frames) => frames.len(),
        });
        let ordered: usize = ordered.sum();
        let released = std::iter::from_fn(|| self.released.pop());
        ordered + released.flat_map(|(_, sockets)| sockets).map(|socket| socket.in_kernel()).sum::<usize>()
    }
}
