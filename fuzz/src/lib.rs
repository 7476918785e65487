//! Fuzzing as ordinary tests, on the stable toolchain and without tools of its own.
//!
//! A target is a test named `fuzz_…` in the crate whose code it fuzzes, so that it reaches what is private there:
//!
//! ```
//! // #[test]
//! fn fuzz_lines() {
//!     portcullis_fuzz::Target::new("lines").seeds([b"a\nb".to_vec()]).run(|input| {
//!         assert!(input.split(|octet| *octet == b'\n').all(|line| !line.contains(&b'\n')));
//!     });
//! }
//! ```
//!
//! It replays its corpus (`fuzz/corpus/NAME`, committed, and the seeds that it makes itself), then spoils what is there
//! for [`SECONDS`]. `./dev fuzz NAME SECONDS` goes on for longer and in a build that counts which branches were taken
//! ([`mod@coverage`]), so that inputs which reach something new are spoilt further. An input that panics, or takes too
//! long, is made shorter and kept in `target/fuzz/NAME`, and how to replay it is printed.
//!
//! [`Script`] is for targets with a state: the input says what becomes of the messages of a conversation.

#![expect(clippy::panic, reason = "a fuzz target is a test, and fails by a panic")]

mod coverage;
mod mutate;
mod script;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use mutate::Mutator;
pub use script::Script;

/// For how long a target spoils inputs where `PORTCULLIS_FUZZ_SECONDS` does not say otherwise.
pub const SECONDS: u64 = 2;
/// An input that takes longer is one that hangs. Generous: machines are busy, and builds are not optimised.
const HANGS: Duration = Duration::from_secs(60);
/// Attempts at a shorter input that fails too.
const SHORTENINGS: usize = 400;

/// A fuzz target.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    inputs: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Target {
    /// A target with the corpus of that name.
    pub fn new(name: &'static str) -> Self {
        let mut inputs = files(&root().join("fuzz/corpus").join(name));
        if coverage::COUNTED {
            inputs.extend(files(&kept(name)));
        }
        Self { name, inputs, words: Vec::new() }
    }

    /// Inputs that the target makes itself: exchanges of other tests, vectors that are committed elsewhere.
    #[must_use]
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = Vec<u8>>) -> Self {
        self.inputs.extend(seeds);
        self
    }

    /// Words of the language that the inputs are in.
    #[must_use]
    pub fn words<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.words.extend(words.into_iter().map(|word| word.as_bytes().to_vec()));
        self
    }

    /// Runs it.
    ///
    /// # Panics
    /// If the target does, which is what it is for; and if there is nothing to begin with.
    pub fn run(mut self, target: impl Fn(&[u8])) {
        if let Some(path) = std::env::var_os("PORTCULLIS_FUZZ_INPUT") {
            let input = std::fs::read(&path);
            return target(&input.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
        assert!(!self.inputs.is_empty(), "fuzz/corpus/{} is empty, and there are no seeds", self.name);
        let seconds = std::env::var("PORTCULLIS_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(SECONDS));
        let seed = until.elapsed().as_nanos() as u64 ^ std::process::id() as u64 ^ clock();
        let mut mutator = Mutator::new(seed, std::mem::take(&mut self.words));
        let watch = Watch::new(self.name);
        std::thread::scope(|scope| {
            let ended = watch.begin(scope);
            let mut coverage = coverage::Coverage::new();
            for input in &self.inputs {
                self.try_one(&watch, &target, input);
                coverage.is_new();
            }
            let (mut runs, mut found) = (0_u64, 0_u64);
            while Instant::now() < until {
                let input = mutator.spoil(&self.inputs);
                self.try_one(&watch, &target, &input);
                runs += 1;
                if coverage.is_new() {
                    found += 1;
                    keep(self.name, "found", &input);
                    self.inputs.push(input);
                }
            }
            let branches = coverage.branches();
            println!(
                "{}: {} inputs to begin with, {runs} tried",
                self.name,
                self.inputs.len() as u64 - found
            );
            if coverage::COUNTED {
                let place = kept(self.name);
                println!("{found} reached something new ({}), {branches} branches in all", place.display());
            }
            drop(ended);
        });
    }

    fn try_one(&self, watch: &Watch, target: &impl Fn(&[u8]), input: &[u8]) {
        watch.begins(input);
        coverage::clear();
        let result = catch_unwind(AssertUnwindSafe(|| target(input)));
        watch.ends();
        let Err(panic) = result else { return };
        let short = shorten(input, target);
        report(self.name, "crash", "panics", &short);
        std::panic::resume_unwind(panic);
    }
}

/// Not for anything but to begin elsewhere in each run.
fn clock() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where inputs are kept that were found.
fn kept(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("fuzz").join(name)
}

fn files(directory: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

fn keep(name: &str, kind: &str, input: &[u8]) -> PathBuf {
    // FNV-1a: the same input has the same name.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
    });
    let directory = kept(name);
    let path = directory.join(format!("{kind}-{hash:016x}"));
    let written = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, input));
    if let Err(error) = written {
        eprintln!("{}: {error}", path.display());
    }
    path
}

fn report(name: &str, kind: &str, what: &str, input: &[u8]) {
    let path = keep(name, kind, input);
    let path = path.canonicalize().unwrap_or(path);
    let path = path.display();
    eprintln!("the fuzz target {name} {what} on an input of {} octets: {path}", input.len());
    eprintln!("  to replay it:   ./dev fuzz {name} {path}");
    eprintln!("  once repaired:  cp {path} fuzz/corpus/{name}/, where every test run replays it");
}

/// A shorter input that panics too.
fn shorten(input: &[u8], target: &impl Fn(&[u8])) -> Vec<u8> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut best = input.to_vec();
    let mut piece = best.len().div_ceil(2);
    let mut left = SHORTENINGS;
    while piece > 0 && left > 0 {
        let mut at = 0;
        while at < best.len() && left > 0 {
            left -= 1;
            let mut shorter = best.clone();
            shorter.drain(at..(at + piece).min(best.len()));
            if catch_unwind(AssertUnwindSafe(|| target(&shorter))).is_err() {
                best = shorter;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    std::panic::set_hook(hook);
    best
}

/// Ends the process if an input hangs.
struct Watch {
    name: &'static str,
    current: Mutex<Option<(Instant, Vec<u8>)>>,
}

impl Watch {
    fn new(name: &'static str) -> Self {
        Self { name, current: Mutex::new(None) }
    }

    /// Watches until what it returns is dropped.
    fn begin<'s>(&'s self, scope: &'s std::thread::Scope<'s, '_>) -> Sender<()> {
        let (ended, over) = channel();
        scope.spawn(move || {
            while over.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                let current = self.lock();
                if let Some((_, input)) = current.as_ref().filter(|(begun, _)| begun.elapsed() > HANGS) {
                    report(self.name, "hang", "does not come to an end", input);
                    std::process::abort();
                }
            }
        });
        ended
    }

    fn begins(&self, input: &[u8]) {
        *self.lock() = Some((Instant::now(), input.to_vec()));
    }

    fn ends(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Vec<u8>)>> {
        self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_panics_is_found_and_made_short() {
        let target = |input: &[u8]| assert!(!input.contains(&0x7f));
        let mut mutator = Mutator::new(1, Vec::new());
        let seeds = [b"hello, world".to_vec()];
        let found = (0..100_000).map(|_| mutator.spoil(&seeds)).find(|input| input.contains(&0x7f));
        assert_eq!(shorten(&found.unwrap(), &target), [0x7f]);
    }

    #[test]
    fn every_input_is_replayed_before_any_is_spoilt() {
        let seen = Cell::new(0);
        Target { name: "none", inputs: vec![vec![1], vec![2, 2]], words: Vec::new() }.run(|input| {
            if seen.get() < 2 {
                assert_eq!(input, vec![seen.get() + 1; usize::from(seen.get()) + 1]);
            }
            seen.set(2.min(seen.get() + 1));
        });
        assert_eq!(seen.get(), 2);
    }
}
