//! What each connection has carried since the daemon started, over all the SAs that it had: the sum of those that are
//! gone and of those that are there. An SA's counters end with it, so that they are taken over before it is removed.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_ipsec::{SaCounters, SaInstaller, Spi};

/// Counts of inner packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Opened.
    pub packets_in: u64,
    /// Octets opened.
    pub bytes_in: u64,
    /// Sealed.
    pub packets_out: u64,
    /// Octets sealed.
    pub bytes_out: u64,
}

impl Carried {
    /// Adds what a pair has carried.
    fn count(&mut self, counters: &SaCounters) {
        self.packets_in += counters.packets_in;
        self.bytes_in += counters.bytes_in;
        self.packets_out += counters.packets_out;
        self.bytes_out += counters.bytes_out;
    }

    /// Adds what others have carried.
    pub(crate) fn add(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
    }
}

/// Traffic by connection.
#[derive(Debug, Default)]
pub(crate) struct Traffic(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of SAs that are gone.
    gone: BTreeMap<String, Carried>,
    /// Whose the SAs are that are there.
    there: HashMap<Spi, String>,
    /// What pairs have carried in the end that somebody will still ask for.
    kept: HashMap<Spi, Kept>,
}

/// What a pair that is gone has carried.
#[derive(Debug, Default)]
struct Kept {
    carried: Carried,
    /// How many will still ask for it.
    keepers: usize,
}

impl Traffic {
    /// A pair of SAs of this connection is there.
    pub(super) fn opened(&self, pair: Spi, connection: &str) {
        self.state().there.insert(pair, connection.to_owned());
    }

    /// Whose pair it is; empty if nobody's that is known.
    pub(super) fn connection_of(&self, pair: Spi) -> String {
        self.state().there.get(&pair).cloned().unwrap_or_default()
    }

    /// To be called before a pair is removed.
    pub(super) fn closing(&self, pair: Spi, installer: &dyn SaInstaller) {
        let counters = installer.counters(pair);
        let mut state = self.state();
        if let (Some(kept), Ok(counters)) = (state.kept.get_mut(&pair), &counters) {
            kept.carried.count(counters);
        }
        if let (Some(connection), Ok(counters)) = (state.there.remove(&pair), counters) {
            state.gone.entry(connection).or_default().count(&counters);
        }
    }

    /// What a pair has carried is known, also when it is gone, until [`Traffic::forget`] was called as often as this.
    pub(crate) fn keep(&self, pair: Spi) {
        self.state().kept.entry(pair).or_default().keepers += 1;
    }

    /// Whoever has kept a pair asks for it no more.
    pub(crate) fn forget(&self, pair: Spi) {
        let mut state = self.state();
        let Some(kept) = state.kept.get_mut(&pair) else { return };
        kept.keepers = kept.keepers.saturating_sub(1);
        if kept.keepers == 0 {
            state.kept.remove(&pair);
        }
    }

    /// What a pair that is kept has carried, if it is gone.
    pub(crate) fn ended(&self, pair: Spi) -> Option<Carried> {
        let state = self.state();
        let gone = !state.there.contains_key(&pair);
        gone.then(|| state.kept.get(&pair).map(|kept| kept.carried).unwrap_or_default())
    }

    /// What a pair that is kept has carried.
    pub(crate) fn of_pair(&self, pair: Spi, installer: &dyn SaInstaller) -> Carried {
        let state = self.state();
        let mut carried = state.kept.get(&pair).map(|kept| kept.carried).unwrap_or_default();
        if state.there.contains_key(&pair)
            && let Ok(counters) = installer.counters(pair)
        {
            carried.count(&counters);
        }
        carried
    }

    /// Everything up to now.
    pub(super) fn totals(&self, installer: &dyn SaInstaller) -> BTreeMap<String, Carried> {
        let state = self.state();
        let mut totals = state.gone.clone();
        for (pair, connection) in &state.there {
            let counters = installer.counters(*pair).unwrap_or_default();
            totals.entry(connection.clone()).or_default().count(&counters);
        }
        totals
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
