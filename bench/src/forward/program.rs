//! The XDP program of the sink (`ebpf/src/sink.rs`): it counts what arrives, or hands it to an AF_XDP socket.

use std::os::fd::BorrowedFd;

use anyhow::Context;
use aya::Ebpf;
use aya::maps::{Array, Map, MapData, XskMap};
use aya::programs::{Xdp, XdpMode};
use portcullis_ebpf_common::sink::{self, Look, Tally};

/// As built by `ebpf/build.sh`.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/sink.bpf.o"));

/// The attached program, with maps of its own; detaches when dropped.
pub(crate) struct Sink {
    _ebpf: Ebpf,
    native: bool,
    look: Array<MapData, u32>,
    tally: Array<MapData, Tally>,
    last: Array<MapData, u64>,
}

impl Sink {
    /// Attaches to an interface, by its driver if that can, else generically, and hands a queue's packets to the socket.
    pub(crate) fn attach(ifindex: u32, queue: u32, socket: BorrowedFd<'_>) -> anyhow::Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("loading the sink's program")?;
        let program: &mut Xdp =
            ebpf.program_mut(sink::PROGRAM).context("the sink's program is missing")?.try_into()?;
        program.load()?;
        let native = program.attach_to_if_index(ifindex, XdpMode::Driver).is_ok();
        if !native {
            program.attach_to_if_index(ifindex, XdpMode::Skb).context("attaching the sink's program")?;
        }
        let mut take =
            |name| ebpf.take_map(name).with_context(|| format!("the sink's map {name} is missing"));
        let look = Array::try_from(take(sink::LOOK)?)?;
        let tally = Array::try_from(take(sink::TALLY)?)?;
        let last = Array::try_from(take(sink::LAST)?)?;
        let sockets: Map = take(sink::SOCKETS)?;
        XskMap::try_from(sockets)?.set(queue, socket, 0)?;
        Ok(Self { _ebpf: ebpf, native, look, tally, last })
    }

    /// Whether the driver runs it.
    pub(crate) fn is_native(&self) -> bool {
        self.native
    }

    /// Begins anew, with so many flows.
    pub(crate) fn begin(&mut self, look: Look, flows: u32) -> anyhow::Result<()> {
        self.tally.set(0, Tally::default(), 0)?;
        if look == Look::Sealed {
            for flow in 0..flows {
                self.last.set(flow, 0, 0).context("more flows than the sink knows")?;
            }
        }
        Ok(self.look.set(0, look as u32, 0)?)
    }

    /// What it has counted since.
    pub(crate) fn tally(&self) -> anyhow::Result<Tally> {
        Ok(self.tally.get(&0, 0)?)
    }
}
