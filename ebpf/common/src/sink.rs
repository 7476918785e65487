//! What the sink of `bench forward` is told, what it has seen, and which packets are the bench's.

/// Name of the program in `sink.bpf.o`.
pub const PROGRAM: &str = "sink";
/// Array of one [`Look`], as a number.
pub const LOOK: &str = "LOOK";
/// Array of one [`Tally`].
pub const TALLY: &str = "TALLY";
/// Array: by flow, the last sequence number seen, below the generation of its SA (see [`in_order`]).
pub const LAST: &str = "LAST";
/// XSKMAP: by queue, the socket that packets are handed to.
pub const SOCKETS: &str = "SOCKETS";

/// Flows that [`LAST`] has room for.
pub const MAX_FLOWS: u32 = 1 << 17;
/// Queues that [`SOCKETS`] has room for.
pub const MAX_QUEUES: u32 = 64;

/// UDP's discard port, which clear packets go to and come from.
pub const PORT: u16 = 9;
/// SPIs are chosen by the receiver: the bench, for what the gateway seals. This is the first flow's first one.
pub const FIRST_SPI: u32 = 1 << 28;
/// SPIs of one flow are so far apart; a flow's come again after as many rekeys.
pub const GENERATIONS: u32 = 1 << 10;
/// Octets of the shortest packet of a peer's whose keys are not known, outer headers included.
pub const SHORTEST_FOREIGN: usize = 60;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Look {
    /// It is handed to the queue's socket, or passed where there is none.
    HandOver = 0,
    /// It is dropped; a clear packet of the bench's is counted by its number.
    Clear = 1,
    /// It is dropped; ESP for the bench's SPIs is counted by flow and sequence number.
    Sealed = 2,
    /// It is dropped; ESP of a peer whose keys are not known, raw or in UDP, from one SA, is counted.
    Foreign = 3,
}

/// What has been dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// Packets of the bench's.
    pub received: u64,
    /// Those of them that came behind one with a higher number.
    pub reordered: u64,
    /// Packets of nobody's.
    pub other: u64,
    /// One more than the highest number so far.
    pub next: u64,
}

/// The flow of an SPI, and the generation of its SA.
#[inline(always)]
pub fn flow_of(spi: u32) -> Option<(u32, u32)> {
    let index = spi.checked_sub(FIRST_SPI)?;
    Some((index / GENERATIONS, index % GENERATIONS))
}

/// A packet of an SA, after what `last` says of its flow: 0 if nothing came. What is to be remembered now, and whether the
/// packet is where it should be: a later SA's packets follow those of an earlier one.
#[inline(always)]
pub fn in_order(last: u64, generation: u32, sequence: u64) -> (u64, bool) {
    let now = unwrapped(last >> 48, generation) << 48 | sequence;
    if now > last { (now, true) } else { (last, false) }
}

/// The generation that a remainder stands for, next to the last one.
#[inline(always)]
fn unwrapped(last: u64, generation: u32) -> u64 {
    const ALL: u64 = GENERATIONS as u64;
    if last == 0 {
        return generation as u64;
    }
    let ahead = (generation as u64).wrapping_sub(last) % ALL;
    if ahead < ALL / 2 { last + ahead } else { (last + ahead).saturating_sub(ALL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_sa_follows_an_earlier_one_also_where_generations_begin_anew() {
        let (last, _) = in_order(0, GENERATIONS - 1, 1 << 40);
        let (last, right) = in_order(last, 0, 1);
        assert!(right, "the SA after the last generation's");
        assert_eq!(in_order(last, GENERATIONS - 1, 2), (last, false), "one that was replaced");
        let (last, right) = in_order(last, 0, 2);
        assert!(right);
        assert_eq!(in_order(last, 0, 2), (last, false), "twice");
    }
}
