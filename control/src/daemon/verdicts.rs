//! Recent verdicts. Anybody can make exchanges fail, so what is kept is bounded: for each peer, each connection, and in all,
//! and a flood for one connection, or for none, drives out nobody else's.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use portcullis_ike::verdict::Verdict;

/// Kept of one peer and connection.
const PER_PEER: usize = 8;
/// Kept of one connection, and of those that belong to none.
const PER_CONNECTION: usize = 64;
/// Kept in all.
const IN_ALL: usize = 1024;

/// Verdicts, newest first.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    entries: VecDeque<Entry>,
}

/// A verdict, and how often it was the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The newest.
    pub verdict: Verdict,
    /// When that was.
    pub last: Instant,
    /// The same, since the epoch.
    pub at: SystemTime,
    /// How often in a row.
    pub times: u64,
}

impl Entry {
    fn says_the_same(&self, verdict: &Verdict) -> bool {
        key(&self.verdict) == key(verdict)
            && (self.verdict.reason, &self.verdict.sentence) == (verdict.reason, &verdict.sentence)
    }
}

impl Verdicts {
    /// Keeps a verdict. One that says the same of the same peer as an earlier one takes its place.
    pub(super) fn push(&mut self, verdict: Verdict, last: Instant, at: SystemTime) {
        let same = self.entries.iter().position(|entry| entry.says_the_same(&verdict));
        let earlier = same.and_then(|index| self.entries.remove(index));
        let times = earlier.map_or(0, |entry| entry.times) + 1;
        self.entries.push_front(Entry { verdict, last, at, times });
        let Some(newest) = self.entries.front().map(|entry| entry.verdict.clone()) else { return };
        self.limit(PER_PEER, |entry| key(&entry.verdict) == key(&newest));
        self.limit(PER_CONNECTION, |entry| entry.verdict.connection == newest.connection);
        self.limit(IN_ALL, |_| true);
    }

    /// The newest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Those about a connection or an address, newest first.
    pub(super) fn about(&self, peer: &str) -> Vec<Entry> {
        let addr: Option<IpAddr> = peer.parse().ok();
        let meant = |entry: &&Entry| {
            let verdict = &entry.verdict;
            verdict.connection.as_deref() == Some(peer)
                || addr.is_some_and(|addr| verdict.peer.is_some_and(|peer| peer.ip() == addr))
        };
        self.entries.iter().filter(meant).cloned().collect()
    }

    /// Lets the oldest go if there are more than that of a sort.
    fn limit(&mut self, most: usize, of_sort: impl Fn(&Entry) -> bool) {
        if self.entries.iter().filter(|entry| of_sort(entry)).count() > most
            && let Some(oldest) = self.entries.iter().rposition(of_sort)
        {
            self.entries.remove(oldest);
        }
    }
}

/// What several have kept, newest first, as if one had.
pub(super) fn merge(kept: Vec<Vec<Entry>>) -> Vec<Entry> {
    let mut all: Vec<Entry> = kept.into_iter().flatten().collect();
    all.sort_by_key(|entry| std::cmp::Reverse(entry.last));
    let mut merged: Vec<Entry> = Vec::with_capacity(all.len());
    for entry in all {
        match merged.iter_mut().find(|newer| newer.says_the_same(&entry.verdict)) {
            Some(newer) => newer.times += entry.times,
            None => merged.push(entry),
        }
    }
    merged
}

fn key(verdict: &Verdict) -> (Option<&str>, Option<IpAddr>) {
    (verdict.connection.as_deref(), verdict.peer.map(|peer| peer.ip()))
}

#[cfg(test)]
mod tests {
    use portcullis_ike::verdict::Reason;

    use super::*;

    fn verdict(connection: Option<&str>, peer: [u8; 4], sentence: &str) -> Verdict {
        Verdict {
            connection: connection.map(str::to_owned),
            peer: Some((IpAddr::from(peer), 500).into()),
            ..Verdict::new(Reason::PskMismatch, sentence)
        }
    }

    fn push(verdicts: &mut Verdicts, verdict: Verdict) {
        verdicts.push(verdict, Instant::now(), SystemTime::now());
    }

    #[test]
    fn the_same_again_is_counted_and_not_kept_twice() {
        let mut verdicts = Verdicts::default();
        for sentence in ["wrong", "other", "wrong"] {
            push(&mut verdicts, verdict(Some("site"), [192, 0, 2, 2], sentence));
        }
        let kept: Vec<_> =
            verdicts.iter().map(|entry| (entry.verdict.sentence.as_str(), entry.times)).collect();
        assert_eq!(kept, [("wrong", 2), ("other", 1)]);
    }

    #[test]
    fn what_several_have_kept_is_told_newest_first_and_the_same_once() {
        let mut several = [Verdicts::default(), Verdicts::default()];
        for (number, sentence) in [(0, "wrong"), (1, "wrong"), (0, "other"), (1, "third"), (1, "wrong")] {
            push(&mut several[number], verdict(Some("site"), [192, 0, 2, 2], sentence));
        }
        let merged = merge(several.iter().map(|kept| kept.iter().cloned().collect()).collect());
        let told: Vec<_> =
            merged.iter().map(|entry| (entry.verdict.sentence.as_str(), entry.times)).collect();
        assert_eq!(told, [("wrong", 3), ("third", 1), ("other", 1)]);
    }

    #[test]
    fn a_flood_drives_out_nobody_elses() {
        let mut verdicts = Verdicts::default();
        push(&mut verdicts, verdict(Some("site"), [192, 0, 2, 2], "the one that counts"));
        for n in 0..20_000_u32 {
            let [_, a, b, c] = n.to_be_bytes();
            push(&mut verdicts, verdict(None, [10, a, b, c], "spoofed"));
            push(&mut verdicts, verdict(Some("roadwarriors"), [10, a, b, c], "spoofed"));
            push(&mut verdicts, verdict(Some("site"), [192, 0, 2, 3], &format!("one peer's {n}")));
        }
        assert_eq!(verdicts.iter().count(), 2 * PER_CONNECTION + PER_PEER + 1);
        assert_eq!(verdicts.about("192.0.2.2").len(), 1);
        assert_eq!(verdicts.about("site").len(), PER_PEER + 1);
    }
}
