//! A bounded queue with one producer and one consumer. Several values cross it with one store: a batch costs what a
//! single packet does. (crossbeam's `ArrayQueue` takes a compare-exchange and a line of its own for each value.)
//!
//! `tail` counts what was ever put in, `head` what was ever taken out; each is written by one side alone. The slots from
//! `head` to `tail` hold values and belong to the consumer, the others are empty and belong to the producer. A store to
//! `tail` (release) hands slots over, a store to `head` (release) hands them back.

#![expect(unsafe_code, reason = "slots that belong to one side at a time")]

use std::fmt;
use std::mem::MaybeUninit;
use std::sync::Arc;

use crate::sync::{AtomicU64, Line, Ordering, UnsafeCell};

/// The end that puts in.
pub(crate) struct Producer<T> {
    ring: Arc<Ring<T>>,
    tail: u64,
    /// The consumer's `head` when it was last looked at.
    head: u64,
}

/// The end that takes out.
pub(crate) struct Consumer<T> {
    ring: Arc<Ring<T>>,
    head: u64,
}

struct Ring<T> {
    head: Line<AtomicU64>,
    tail: Line<AtomicU64>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is touched by the producer alone or by the consumer alone, as the counters say; so values only move from
// one thread to the other.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Ring<T> {}

/// Both ends of a queue with room for at least `capacity` values.
pub(crate) fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let slots = (0..capacity.next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit()));
    let ring = Arc::new(Ring {
        head: Line(AtomicU64::new(0)),
        tail: Line(AtomicU64::new(0)),
        slots: slots.collect(),
    });
    (Producer { ring: Arc::clone(&ring), tail: 0, head: 0 }, Consumer { ring, head: 0 })
}

impl<T> Ring<T> {
    fn slot(&self, count: u64) -> Option<&UnsafeCell<MaybeUninit<T>>> {
        self.slots.get(count as usize & (self.slots.len() - 1))
    }
}

impl<T> Producer<T> {
    /// For how many there is room, at least.
    pub(crate) fn room(&mut self) -> usize {
        // Acquire: the consumer has done with the slots that it hands back.
        self.head = self.ring.head.0.load(Ordering::Acquire);
        self.ring.slots.len() - (self.tail - self.head) as usize
    }

    /// Puts in the first of `values`, as many as there is room for, in order; says how many. The others stay.
    pub(crate) fn push_all(&mut self, values: &mut Vec<T>) -> usize {
        let known = self.ring.slots.len() - (self.tail - self.head) as usize;
        let room = if known < values.len() { self.room() } else { known };
        let count = values.len().min(room);
        for value in values.drain(..count) {
            if let Some(slot) = self.ring.slot(self.tail) {
                // SAFETY: the slot lies beyond `tail` and so is the producer's, of which there is one.
                slot.with_mut(|slot| unsafe { (*slot).write(value) });
            }
            self.tail += 1;
        }
        if count > 0 {
            // Release: hands over what was written.
            self.ring.tail.0.store(self.tail, Ordering::Release);
        }
        count
    }
}

impl<T> Consumer<T> {
    /// Takes out the oldest, at most `most`, in order; says how many.
    pub(crate) fn pop_into(&mut self, most: usize, into: &mut Vec<T>) -> usize {
        let count = self.len().min(most);
        for _ in 0..count {
            if let Some(slot) = self.ring.slot(self.head) {
                // SAFETY: the slot lies between `head` and `tail`, and so holds a value that is the consumer's, of which
                // there is one. It is read once: `head` moves on.
                into.push(slot.with(|slot| unsafe { (*slot).assume_init_read() }));
            }
            self.head += 1;
        }
        if count > 0 {
            // Release: the values are out before their slots go back.
            self.ring.head.0.store(self.head, Ordering::Release);
        }
        count
    }

    /// How many are there at least.
    pub(crate) fn len(&self) -> usize {
        // Acquire: what the producer wrote before is there.
        (self.ring.tail.0.load(Ordering::Acquire) - self.head) as usize
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // Acquire: the last of the two ends goes after the other.
        let (head, tail) = (self.head.0.load(Ordering::Acquire), self.tail.0.load(Ordering::Acquire));
        for slot in (head..tail).filter_map(|count| self.slot(count)) {
            // SAFETY: the slot holds a value, and nobody else is left to touch it.
            slot.with_mut(|slot| unsafe { (*slot).assume_init_drop() });
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({} put in)", self.tail)
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consumer({} taken out)", self.head)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_stays_with_the_producer_in_order() {
        let (mut producer, mut consumer) = ring(4);
        let mut values: Vec<u32> = (0..6).collect();
        assert_eq!(producer.push_all(&mut values), 4);
        assert_eq!(values, [4, 5]);
        let mut taken = Vec::new();
        assert_eq!(consumer.pop_into(3, &mut taken), 3);
        assert_eq!(producer.push_all(&mut values), 2);
        assert_eq!(consumer.pop_into(9, &mut taken), 3);
        assert_eq!(taken, [0, 1, 2, 3, 4, 5]);
        assert_eq!(consumer.pop_into(9, &mut taken), 0);
    }

    #[test]
    fn between_two_threads_nothing_is_lost_doubled_or_overtaken() {
        const COUNT: u64 = 200_000;
        let (mut producer, mut consumer) = ring(64);
        let sender = std::thread::spawn(move || {
            let (mut next, mut batch) = (0, Vec::new());
            while next < COUNT || !batch.is_empty() {
                while batch.len() < (next % 70) as usize + 1 && next < COUNT {
                    batch.push(Box::new(next));
                    next += 1;
                }
                if producer.push_all(&mut batch) == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let (mut seen, mut batch) = (0, Vec::new());
        while seen < COUNT {
            if consumer.pop_into(50, &mut batch) == 0 {
                std::thread::yield_now();
            }
            for value in batch.drain(..) {
                assert_eq!(*value, seen);
                seen += 1;
            }
        }
        sender.join().unwrap();
        assert_eq!(consumer.len(), 0);
    }

    #[test]
    fn what_nobody_took_goes_with_the_ring() {
        let value = Arc::new(());
        let (mut producer, consumer) = ring(4);
        producer.push_all(&mut vec![Arc::clone(&value), Arc::clone(&value)]);
        drop(consumer);
        producer.push_all(&mut vec![Arc::clone(&value)]);
        drop(producer);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;

    /// Loom also sees whether both sides ever touch a slot at once.
    #[test]
    fn values_cross_once_and_in_order_also_when_the_ring_goes_round() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring(2);
            let sender = loom::thread::spawn(move || {
                let mut values = vec![Box::new(1), Box::new(2), Box::new(3)];
                while !values.is_empty() {
                    if producer.push_all(&mut values) == 0 {
                        loom::thread::yield_now();
                    }
                }
            });
            let mut taken = Vec::new();
            while taken.len() < 3 {
                if consumer.pop_into(2, &mut taken) == 0 {
                    loom::thread::yield_now();
                }
            }
            sender.join().unwrap();
            assert_eq!(taken, [Box::new(1), Box::new(2), Box::new(3)]);
        });
    }
}
