//! Nanoseconds per lookup.

#![expect(unsafe_code, reason = "reads words of keys, whose fields are their engine's, and of bare memory")]

use std::hint::black_box;
use std::ptr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use portcullis_aead::Key;
use portcullis_gateway::prefetch;
use portcullis_gateway::sa::{Guard, OutboundRef, Reader};

use super::churn::{Churn, Target};
use super::world::World;
use super::{BATCH, preemptions};
use crate::report::{Report, Samples};

const UNIT: &str = "ns_per_lookup";
/// Lookups in a sample.
const SAMPLE: usize = 4096;
/// Ways of looking up that walk through the same names.
const WALKERS: usize = 8;

/// What a lookup is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Touch {
    /// The start of the SA.
    Line,
    /// And its key schedule, as sealing and opening need it.
    Key,
}

/// One way of looking up, walking through its names.
struct Subject<'w> {
    direction: &'static str,
    name: &'static str,
    /// Whose writer disturbs it.
    target: Target,
    look_up: Box<dyn FnMut(Touch) -> u64 + 'w>,
    /// Alone and beside the writer, for both kinds of touch.
    samples: [[Samples; 2]; 2],
}

/// Measures every way of looking up, in so many turns.
pub(crate) fn run(
    report: &mut Report,
    world: &World,
    core: Option<CoreId>,
    turns: usize,
) -> anyhow::Result<()> {
    let mut subjects = subjects(world)?;
    let (mut replaced, mut time) = (0, Duration::ZERO);
    Churn::beside(world, core, |churn| {
        for _ in 0..turns {
            for busy in [false, true] {
                for subject in &mut subjects {
                    churn.turn_to(if busy { subject.target } else { Target::Nothing });
                    for touch in [Touch::Line, Touch::Key] {
                        let before = churn.replaced(subject.target);
                        let start = Instant::now();
                        let sample = sample(&mut subject.look_up, touch);
                        let work = churn.replaced(subject.target) - before;
                        if busy && subject.target == Target::Ours {
                            replaced += work;
                            time += start.elapsed();
                        }
                        let samples = subject
                            .samples
                            .get_mut(touch as usize)
                            .and_then(|of| of.get_mut(usize::from(busy)));
                        match (samples, sample) {
                            // A writer that another process kept from working disturbed nobody.
                            (Some(samples), Some(nanoseconds)) if !busy || work > 0 => {
                                samples.record(nanoseconds)
                            }
                            (Some(samples), _) => samples.throw_away(),
                            (None, _) => {}
                        }
                    }
                }
            }
        }
        churn.turn_to(Target::Nothing);
        Ok(())
    })?;
    let rates = Samples::single(replaced as f64 / time.as_secs_f64());
    for direction in ["inbound", "outbound"] {
        for (touch, what) in [(0, "line"), (1, "key")] {
            for (busy, suffix) in [(0, ""), (1, "/churn")] {
                let case = format!("{direction}/{what}/{}{suffix}", world.pairs);
                for subject in subjects.iter().filter(|subject| subject.direction == direction) {
                    if let Some(samples) = subject.samples.get(touch).and_then(|pair| pair.get(busy)) {
                        report.row(&case, subject.name, UNIT, samples);
                    }
                }
            }
        }
    }
    report.row(&format!("churn/{}", world.pairs), "portcullis", "sas_per_s", &rates);
    Ok(())
}

/// Nanoseconds per lookup of one sample; `None` if the thread was preempted.
fn sample(look_up: &mut dyn FnMut(Touch) -> u64, touch: Touch) -> Option<f64> {
    let before = preemptions();
    let start = Instant::now();
    black_box(look_up(touch));
    let elapsed = start.elapsed();
    (preemptions() == before).then(|| elapsed.as_nanos() as f64 / SAMPLE as f64)
}

fn subjects(world: &World) -> anyhow::Result<Vec<Subject<'_>>> {
    let reader = || world.sas.reclaimer().register().ok_or_else(|| anyhow::anyhow!("no place for a reader"));
    let subject = |direction, name, target, look_up| Subject {
        direction,
        name,
        target,
        look_up,
        samples: Default::default(),
    };
    let ours = Target::Ours;
    let mut spis = Walk::new(&world.spis, 0);
    let mut prefetching = reader()?;
    let prefetched = Box::new(move |touch| ours_prefetched(world, &mut prefetching, spis.next(), touch));
    let mut spis = Walk::new(&world.spis, 1);
    let mut alone = reader()?;
    let unprefetched = Box::new(move |touch| {
        plain(&mut alone, spis.next(), |guard, spi| {
            world.sas.inbound(guard, spi).map(|sa| read_entry(sa.spi.get(), sa.key(), touch))
        })
    });
    let mut spis = Walk::new(&world.spis, 2);
    let locked = Box::new(move |touch| locked(world, spis.next(), touch));
    let mut spis = Walk::new(&world.spis, 3);
    let sharded = Box::new(move |touch| sharded(world, spis.next(), touch));
    let bare_inbound = bare(world, &world.spis, 6, |guard, &spi| {
        world
            .sas
            .inbound(guard, spi)
            .map(|sa| (ptr::from_ref(sa).expose_provenance(), ptr::from_ref(sa.key()).expose_provenance()))
    })?;
    let bare_outbound = bare(world, &world.references, 7, |guard, &reference| {
        let sa = world.sas.outbound(guard, reference);
        sa.map(|sa| (ptr::from_ref(sa).expose_provenance(), ptr::from_ref(sa.key()).expose_provenance()))
    })?;
    let mut references = Walk::new(&world.references, 4);
    let mut prefetching = reader()?;
    let outbound =
        Box::new(move |touch| outbound_prefetched(world, &mut prefetching, references.next(), touch));
    let mut references = Walk::new(&world.references, 5);
    let mut alone = reader()?;
    let outbound_plain = Box::new(move |touch| {
        plain(&mut alone, references.next(), |guard, reference| {
            world.sas.outbound(guard, reference).map(|sa| read_entry(sa.spi.get(), sa.key(), touch))
        })
    });
    Ok(vec![
        subject("inbound", "portcullis", ours, prefetched),
        subject("inbound", "portcullis-unprefetched", ours, unprefetched),
        subject("inbound", "bare-memory", ours, Box::new(bare_inbound)),
        subject("inbound", "rwlock-hashmap", Target::Locked, locked),
        subject("inbound", "dashmap", Target::Sharded, sharded),
        subject("outbound", "portcullis", ours, outbound),
        subject("outbound", "portcullis-unprefetched", ours, outbound_plain),
        subject("outbound", "bare-memory", ours, Box::new(bare_outbound)),
    ])
}

/// Goes round an array of names, a sample at a time.
struct Walk<'w, T> {
    names: &'w [T],
    at: usize,
}

impl<'w, T> Walk<'w, T> {
    /// Each walker begins elsewhere: none finds in the cache what another has just fetched.
    fn new(names: &'w [T], walker: usize) -> Self {
        Self { names, at: names.len() / WALKERS * walker }
    }

    fn next(&mut self) -> &'w [T] {
        if self.at + SAMPLE > self.names.len() {
            self.at = 0;
        }
        let names = self.names.get(self.at..self.at + SAMPLE).unwrap_or_default();
        self.at += SAMPLE;
        names
    }
}

fn ours_prefetched(world: &World, reader: &mut Reader, spis: &[u32], touch: Touch) -> u64 {
    let mut sum = 0;
    for batch in spis.chunks(BATCH) {
        sum += inbound_batch(world, reader, batch, touch);
    }
    reader.offline();
    sum
}

/// A batch as the pipeline looks it up (see [`prefetch`]), and a quiescent point.
pub(crate) fn inbound_batch(world: &World, reader: &mut Reader, batch: &[u32], touch: Touch) -> u64 {
    let sas = &world.sas;
    let mut places = [sas.locate(0); BATCH];
    for (place, &spi) in places.iter_mut().zip(batch) {
        *place = sas.locate(spi);
        sas.prefetch_inbound(*place);
    }
    let guard = reader.guard();
    let found = places.iter().take(batch.len()).map(|&place| sas.inbound_at(&guard, place));
    let sum = use_all(found, touch, |sa| (u64::from(sa.spi.get()), sa.key()));
    reader.quiescent();
    sum
}

/// Reads what was found; if keys too, then after having asked for all of them.
#[inline(always)]
fn use_all<'a, T: 'a>(
    found: impl Iterator<Item = Option<&'a T>>,
    touch: Touch,
    read: impl Fn(&'a T) -> (u64, &'a Key),
) -> u64 {
    let mut sum = 0;
    if touch == Touch::Line {
        for sa in found.flatten() {
            sum += read(sa).0;
        }
        return sum;
    }
    let mut keys = [None; BATCH];
    for (place, sa) in keys.iter_mut().zip(found) {
        if let Some(sa) = sa {
            let (word, key) = read(sa);
            prefetch::value(key);
            sum += word;
            *place = Some(key);
        }
    }
    for key in keys.into_iter().flatten() {
        sum += read_key(key);
    }
    sum
}

/// One after another, nothing asked for before: `find` looks up, and gives back what it has read.
fn plain<N: Copy>(reader: &mut Reader, names: &[N], find: impl Fn(&Guard<'_>, N) -> Option<u64>) -> u64 {
    let mut sum = 0;
    for batch in names.chunks(BATCH) {
        let guard = reader.guard();
        sum += batch.iter().filter_map(|&name| find(&guard, name)).sum::<u64>();
        reader.quiescent();
    }
    reader.offline();
    sum
}

/// Reads a word of an entry's first line, and the key if that is to be touched.
fn read_entry(word: u32, key: &Key, touch: Touch) -> u64 {
    u64::from(word) + if touch == Touch::Key { read_key(key) } else { 0 }
}

fn outbound_prefetched(world: &World, reader: &mut Reader, references: &[OutboundRef], touch: Touch) -> u64 {
    let (sas, mut sum) = (&world.sas, 0);
    for batch in references.chunks(BATCH) {
        for &reference in batch {
            sas.prefetch_outbound(reference);
        }
        let guard = reader.guard();
        let found = batch.iter().map(|&reference| sas.outbound(&guard, reference));
        sum += use_all(found, touch, |sa| (u64::from(sa.spi.get()), sa.key()));
        reader.quiescent();
    }
    reader.offline();
    sum
}

/// The same lines of the same entries by their addresses, prefetched in the same passes: what the memory alone costs.
fn bare<T>(
    world: &World,
    names: &[T],
    walker: usize,
    find: impl Fn(&Guard<'_>, &T) -> Option<(usize, usize)>,
) -> anyhow::Result<impl FnMut(Touch) -> u64> {
    let reader = world.sas.reclaimer().register().ok_or_else(|| anyhow::anyhow!("no place for a reader"))?;
    let guard = reader.guard();
    let addresses: Option<Vec<(usize, usize)>> = names.iter().map(|name| find(&guard, name)).collect();
    let addresses = addresses.ok_or_else(|| anyhow::anyhow!("an SA that was installed is not found"))?;
    let mut at = Walk::new(&addresses, walker).at;
    Ok(move |touch| {
        let mut walk = Walk { names: &addresses, at };
        let names = walk.next();
        at = walk.at;
        let mut sum = 0;
        for batch in names.chunks(BATCH) {
            // SAFETY: the entries and keys of SAs that are not withdrawn as long as the world lives, and nothing
            // written to them meanwhile; a line is not longer than either.
            let line = |address: usize| unsafe { &*ptr::with_exposed_provenance::<[u64; 8]>(address) };
            for &(entry, _) in batch {
                prefetch::start(line(entry));
            }
            if touch == Touch::Key {
                for &(entry, key) in batch {
                    sum += line(entry)[1];
                    // SAFETY: as above.
                    prefetch::value(unsafe { &*ptr::with_exposed_provenance::<Key>(key) });
                }
                for &(_, key) in batch {
                    // SAFETY: as above.
                    sum += read_key(unsafe { &*ptr::with_exposed_provenance::<Key>(key) });
                }
            } else {
                sum += batch.iter().map(|&(entry, _)| line(entry)[1]).sum::<u64>();
            }
        }
        sum
    })
}

/// Locks for every packet, as a gateway does that takes them one at a time.
fn locked(world: &World, spis: &[u32], touch: Touch) -> u64 {
    let mut sum = 0;
    for spi in spis {
        let map = world.locked.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sa) = map.get(spi) {
            sum += u64::from(sa.spi);
            if touch == Touch::Key {
                sum += read_key(&sa.key);
            }
        }
    }
    sum
}

fn sharded(world: &World, spis: &[u32], touch: Touch) -> u64 {
    let mut sum = 0;
    for spi in spis {
        if let Some(sa) = world.sharded.get(spi) {
            sum += u64::from(sa.spi);
            if touch == Touch::Key {
                sum += read_key(&sa.key);
            }
        }
    }
    sum
}

/// A word of each line.
#[inline]
fn read_key(key: &Key) -> u64 {
    const LINE: usize = 64;
    let mut sum = 0;
    let start = ptr::from_ref(key).cast::<u8>();
    for line in 0..size_of::<Key>() / LINE {
        // SAFETY: within the key, aligned, and each line of it begins with a power of H or a round key.
        sum ^= unsafe { start.add(line * LINE).cast::<u64>().read_volatile() };
    }
    sum
}
