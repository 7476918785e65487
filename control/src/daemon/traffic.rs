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
    fn add(&mut self, counters: &SaCounters) {
        self.packets_in += counters.packets_in;
        self.bytes_in += counters.bytes_in;
        self.packets_out += counters.packets_out;
        self.bytes_out += counters.bytes_out;
    }
}

/// Traffic by connection.
#[derive(Debug, Default)]
pub(super) struct Traffic(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Of SAs that are gone.
    gone: BTreeMap<String, Carried>,
    /// Whose the SAs are that are there.
    there: HashMap<Spi, String>,
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
        if let (Some(connection), Ok(counters)) = (state.there.remove(&pair), counters) {
            state.gone.entry(connection).or_default().add(&counters);
        }
    }

    /// Everything up to now.
    pub(super) fn totals(&self, installer: &dyn SaInstaller) -> BTreeMap<String, Carried> {
        let state = self.state();
        let mut totals = state.gone.clone();
        for (pair, connection) in &state.there {
            let counters = installer.counters(*pair).unwrap_or_default();
            totals.entry(connection.clone()).or_default().add(&counters);
        }
        totals
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
