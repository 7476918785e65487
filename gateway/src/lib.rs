//! The data plane: a library that knows nothing of IKE or tokio.
//!

pub mod coarse;
pub mod drop;
pub mod esp;
pub mod events;
pub mod frame;
pub mod installer;
pub mod lpm;
pub mod policy;
pub mod sa;
mod sync;
pub mod wire;
