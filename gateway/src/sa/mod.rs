//! Security associations as workers see them: found by index, opened and sealed without a lock.
//!
//! - [`table`]: slots and generations, in the memory that `slab` maps; [`reclaim`]: when a slot's memory can be used
//!   again.
//! - [`spi`]: the name of an inbound slot on the wire.
//! - [`entry`]: what a slot holds, of [`replay`] windows, [`sequence`] counters and movable [`endpoints`].
//!
//! Start at [`SaTable`]. Workers use [`SaTable::inbound`] and [`SaTable::outbound`] under a [`reclaim::Guard`];
//! whoever installs takes [`SaTable::control`], of which there is one at a time. Nothing here knows policies or
//! IKE.

pub mod endpoints;
pub mod entry;
mod place;
pub mod reclaim;
pub mod replay;
mod selectors;
pub mod sequence;
pub(crate) mod slab;
pub mod spi;
pub mod table;

use std::num::NonZeroU64;

use portcullis_aead::Engine;
use portcullis_ipsec::{InboundSa, InstallError, OutboundSa, Spi};

use self::entry::invalid;
pub use self::entry::{Inbound, InboundBody, Limits, Outbound, OutboundBody, Traffic, TrafficCounts};
#[cfg(test)]
pub(crate) use self::place::Whole;
pub use self::reclaim::{Guard, Reader, Reclaimer};
use self::sequence::SequenceCounter;
pub use self::slab::Pages;
use self::spi::{MAX_SLOTS, SpiCodec};
use self::table::{Handle, SlotTable, SlotWriter};

/// Names an outbound SA. Stale for good once the SA is withdrawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutboundRef(NonZeroU64);

impl OutboundRef {
    /// `None` for the generation 0, which is not used.
    fn pack(handle: Handle) -> Option<Self> {
        if handle.generation == 0 {
            return None;
        }
        NonZeroU64::new(u64::from(handle.generation) << 32 | u64::from(handle.slot)).map(Self)
    }

    fn handle(self) -> Handle {
        Handle { slot: self.0.get() as u32, generation: (self.0.get() >> 32) as u32 }
    }

    /// As a word that is never 0.
    pub(crate) fn to_word(self) -> u64 {
        self.0.get()
    }

    /// From such a word, or from 0 for none.
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        NonZeroU64::new(word).map(Self)
    }
}

/// All SAs.
#[derive(Debug)]
pub struct SaTable {
    inbound: SlotTable<Inbound>,
    outbound: SlotTable<Outbound>,
    codec: SpiCodec,
    engine: Engine,
    reclaimer: Reclaimer,
}

impl SaTable {
    /// Room for `capacity` pairs. `spi_key` is fresh from the operating system's randomness; `reclaimer` is where
    /// the workers that look up register.
    pub fn new(
        capacity: usize,
        engine: Engine,
        spi_key: [u8; 16],
        reclaimer: Reclaimer,
    ) -> Result<Self, InstallError> {
        let slots = u32::try_from(capacity).ok().filter(|slots| (1..=MAX_SLOTS).contains(slots));
        let slots = slots.ok_or_else(|| invalid("gateway.max_sas", capacity, "1 to 4194304"))?;
        let codec = SpiCodec::new(slots, spi_key);
        let no_room = |_| invalid("gateway.max_sas", capacity, "as many as the address space has room for");
        let inbound = SlotTable::new(slots, codec.generation_bits(), reclaimer.clone()).map_err(no_room)?;
        let outbound = SlotTable::new(slots, 32, reclaimer.clone()).map_err(no_room)?;
        tracing::info!(capacity, inbound = %inbound.pages(), outbound = %outbound.pages(), "SA table");
        Ok(Self { inbound, outbound, codec, engine, reclaimer })
    }

    /// How many pairs fit.
    pub fn capacity(&self) -> usize {
        self.inbound.capacity()
    }

    /// What the table's memory is made of, inbound and outbound: a table of few SAs needs no huge pages.
    pub fn pages(&self) -> [Pages; 2] {
        [self.inbound.pages(), self.outbound.pages()]
    }

    /// The AEAD implementation that the keys are expanded for.
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// Where workers register to look up.
    pub fn reclaimer(&self) -> &Reclaimer {
        &self.reclaimer
    }

    /// The place of an SPI as received (host byte order), whether or not anything is there: worth keeping from the
    /// first look at a packet to the lookup.
    #[inline]
    pub fn locate(&self, spi: u32) -> Handle {
        self.codec.decode(spi)
    }

    /// The inbound SA in a place.
    #[inline]
    pub fn inbound_at<'g>(&'g self, guard: &Guard<'g>, place: Handle) -> Option<&'g Inbound> {
        // What decodes to a live handle is the SPI that was given out: the codec is a bijection.
        self.inbound.get(guard, place)
    }

    /// The inbound SA of an SPI, in one step.
    #[inline]
    pub fn inbound<'g>(&'g self, guard: &Guard<'g>, spi: u32) -> Option<&'g Inbound> {
        self.inbound_at(guard, self.locate(spi))
    }

    /// The outbound SA of that name.
    #[inline]
    pub fn outbound<'g>(&'g self, guard: &Guard<'g>, reference: OutboundRef) -> Option<&'g Outbound> {
        self.outbound.get(guard, reference.handle())
    }

    /// Asks for the start of an SA that a later pass over the batch will look up ([`prefetch`](crate::prefetch) says how).
    #[inline]
    pub fn prefetch_inbound(&self, place: Handle) {
        self.inbound.prefetch(place.slot);
    }

    /// The same for an outbound SA.
    #[inline]
    pub fn prefetch_outbound(&self, reference: OutboundRef) {
        self.outbound.prefetch(reference.handle().slot);
    }

    /// The right to change the table; waits for another thread that has it. Workers are not affected.
    pub fn control(&self) -> SaControl<'_> {
        SaControl { table: self, inbound: self.inbound.writer(), outbound: self.outbound.writer() }
    }
}

/// The exclusive right to change the SA table.
pub struct SaControl<'t> {
    table: &'t SaTable,
    inbound: SlotWriter<'t, Inbound>,
    outbound: SlotWriter<'t, Outbound>,
}

impl SaControl<'_> {
    /// Takes a free slot and names it.
    pub fn reserve_spi(&mut self) -> Result<Spi, InstallError> {
        let codec = &self.table.codec;
        let reserved = self.inbound.reserve(|handle| codec.encode(handle));
        reserved.map(|(_, spi)| spi).ok_or(InstallError::TableFull { capacity: self.table.capacity() })
    }

    /// Starts accepting packets on a reserved SPI.
    pub fn publish_inbound(&mut self, spi: Spi, sa: &InboundSa) -> Result<(), InstallError> {
        let handle = self.table.codec.decode(spi.get());
        if self.inbound.get(handle).is_some() {
            return Err(InstallError::AlreadyInstalled { spi });
        }
        if !self.inbound.is_reserved(handle) {
            return Err(InstallError::UnknownSpi { spi });
        }
        let entry = Inbound::new(&self.table.engine, spi, handle.slot, sa)?;
        self.inbound.publish(handle, entry).map_err(|_| InstallError::UnknownSpi { spi })
    }

    /// Adds an outbound SA for the pair of that inbound SPI; nothing points to it yet.
    pub fn publish_outbound(&mut self, pair: Spi, sa: &OutboundSa) -> Result<OutboundRef, InstallError> {
        let slot = self.table.codec.decode(pair.get()).slot;
        let counter = SequenceCounter::new(sa.key.algorithm(), sa.esn);
        let entry = Outbound::new(&self.table.engine, pair, slot, counter, sa)?;
        let full = InstallError::TableFull { capacity: self.table.capacity() };
        let (handle, reference) = self.outbound.reserve(OutboundRef::pack).ok_or_else(|| full.clone())?;
        self.outbound.publish(handle, entry).map_err(|_| full)?;
        Ok(reference)
    }

    /// Ends an inbound SPI or its reservation. False if it had ended before.
    pub fn withdraw_inbound(&mut self, spi: Spi) -> bool {
        self.inbound.withdraw(self.table.codec.decode(spi.get()))
    }

    /// Ends an outbound SA. False if it had ended before.
    pub fn withdraw_outbound(&mut self, reference: OutboundRef) -> bool {
        self.outbound.withdraw(reference.handle())
    }

    /// Frees and wipes what was withdrawn and no worker can see any more. `inbound_ends` and `outbound_ends` are shown the
    /// SAs, before they go.
    pub fn collect(
        &mut self,
        mut inbound_ends: impl FnMut(&Inbound),
        mut outbound_ends: impl FnMut(&Outbound),
    ) {
        if self.waiting() == 0 {
            // Installs alone look at nothing that workers write.
            return;
        }
        // One horizon for both, and a pair's outbound SA is withdrawn first: its slot is never taken longer than the
        // inbound one, so that who gets the one gets the other.
        let horizon = self.table.reclaimer.horizon();
        self.outbound.collect(horizon, |_, outbound| outbound_ends(outbound));
        self.inbound.collect(horizon, |_, inbound| inbound_ends(inbound));
    }

    /// The inbound SA of an SPI, also while it waits to be freed.
    pub fn inbound(&self, spi: Spi) -> Option<&Inbound> {
        self.inbound.get(self.table.codec.decode(spi.get()))
    }

    /// An outbound SA, also while it waits to be freed.
    pub fn outbound(&self, reference: OutboundRef) -> Option<&Outbound> {
        self.outbound.get(reference.handle())
    }

    /// The SPI that the slot of the inbound table has now, live or reserved.
    pub(crate) fn spi_of_slot(&self, slot: u32) -> Option<Spi> {
        self.table.codec.encode(self.inbound.current(slot)?)
    }

    /// How many withdrawn SAs wait for workers to pass, both directions together.
    pub fn waiting(&self) -> usize {
        self.inbound.leaving() + self.outbound.leaving()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
