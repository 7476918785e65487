//! AF_XDP: packet memory, its frames, and one socket for each queue of each interface.
//!
//! All `unsafe` of the data path's input and output is here, and rests on one invariant: **a frame has one owner**.
//! [`FrameMemory::new`] gives out each frame once, as a [`Frame`](crate::frame::Frame). Putting it into a ring consumes
//! it, and then the kernel owns it; a [`Ledger`] of each socket says which frames the kernel was lent, and nothing else is
//! taken back from it. So frames can also be told that went with an interface, or with a worker that panicked. Start at
//! [`QueueSocket`].

#![expect(unsafe_code, reason = "rings and packet memory are shared with the kernel")]

mod descriptor;
mod ledger;
mod memory;
mod pool;
mod queues;
mod socket;
mod traffic;

pub use ledger::Ledger;
pub use memory::{FrameMemory, MemoryError, RING};
pub use pool::FramePool;
pub use queues::receive_queues;
pub use socket::{CopyMode, QueueSocket, SocketError, SocketProbe, SocketStatistics};
pub use traffic::{QueueCounts, QueueTraffic};
