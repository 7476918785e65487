//! `portcullis top`: what happens now, from the answers of the admin API. [`Top`] makes rates of two samples, `view`
//! draws them; neither knows of terminals, sockets or clocks: the command line has those.

mod view;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

pub use view::draw;

use crate::api::types::{Drops, IkeSa, Status};

/// Samples of throughput that are kept to be drawn.
const HISTORY: usize = 240;

/// What the daemon said at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Since any fixed moment.
    pub at: Duration,
    /// `GET /v1/status`.
    pub status: Status,
    /// `GET /v1/sas`.
    pub sas: Vec<IkeSa>,
    /// `GET /v1/drops`.
    pub drops: Drops,
}

/// A tunnel and what it carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Tunnel {
    /// `connection/child`.
    pub name: String,
    /// The peer's address and port.
    pub remote: String,
    /// Bits of inner packets a second, opened.
    pub bits_in: f64,
    /// Bits of inner packets a second, sealed.
    pub bits_out: f64,
    /// Inner packets a second, both directions.
    pub packets: f64,
    /// Seconds since it was installed.
    pub age: u64,
}

/// A worker and how busy it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Its core.
    pub core: usize,
    /// 0 to 1.
    pub load: f64,
    /// Frames received a second.
    pub received: f64,
    /// Frames transmitted a second.
    pub transmitted: f64,
    /// Packets dropped a second.
    pub dropped: f64,
}

/// A reason and how many packets were dropped for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// As `portcullis drops` calls it.
    pub name: String,
    /// Packets a second.
    pub rate: f64,
    /// Packets since start.
    pub total: u64,
}

/// Everything that is drawn.
#[derive(Debug, Clone, Default)]
pub struct Top {
    last: Option<Sample>,
    /// The busiest first.
    pub tunnels: Vec<Tunnel>,
    /// By index.
    pub workers: Vec<Worker>,
    /// The fastest growing first, then the largest.
    pub reasons: Vec<Reason>,
    /// Bits a second of inner packets, both directions, the oldest first.
    pub history: VecDeque<u64>,
    /// Why there is no newer sample.
    pub trouble: Option<String>,
}

impl Top {
    /// The newest sample.
    pub fn last(&self) -> Option<&Sample> {
        self.last.as_ref()
    }

    /// The daemon did not answer.
    pub fn failed(&mut self, trouble: String) {
        self.trouble = Some(trouble);
    }

    /// The daemon has answered.
    pub fn update(&mut self, sample: Sample) {
        self.trouble = None;
        // Of a daemon that was started anew, the counts begin anew.
        let before =
            self.last.as_ref().filter(|last| last.status.uptime_seconds <= sample.status.uptime_seconds);
        let seconds = before.map_or(0.0, |before| sample.at.saturating_sub(before.at).as_secs_f64());
        self.tunnels = tunnels(before, &sample, seconds);
        self.workers = workers(before, &sample, seconds);
        self.reasons = reasons(before, &sample, seconds);
        if before.is_some() {
            let bits: f64 = self.tunnels.iter().map(|tunnel| tunnel.bits_in + tunnel.bits_out).sum();
            self.history.push_back(bits as u64);
            while self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.last = Some(sample);
    }
}

/// A second's share of what a count has grown by; nothing if it began anew or there is no time between.
fn rate(before: Option<u64>, now: u64, seconds: f64) -> f64 {
    match before {
        Some(before) if seconds > 0.0 => now.saturating_sub(before) as f64 / seconds,
        _ => 0.0,
    }
}

fn tunnels(before: Option<&Sample>, sample: &Sample, seconds: f64) -> Vec<Tunnel> {
    let former = before.into_iter().flat_map(|before| &before.sas).flat_map(|ike| &ike.children);
    let former: HashMap<&str, _> = former.map(|child| (child.spi_in.as_str(), child)).collect();
    let mut tunnels: Vec<Tunnel> = Vec::new();
    for ike in &sample.sas {
        for child in &ike.children {
            let former = former.get(child.spi_in.as_str());
            // One that is new has carried what it has since the sample before.
            let grown = |now: u64, pick: fn(&crate::api::types::ChildSa) -> u64| {
                rate(before.map(|_| former.map_or(0, |child| pick(child))), now, seconds)
            };
            tunnels.push(Tunnel {
                name: format!("{}/{}", ike.connection.as_deref().unwrap_or("-"), child.name),
                remote: ike.remote.clone(),
                bits_in: 8.0 * grown(child.bytes_in, |child| child.bytes_in),
                bits_out: 8.0 * grown(child.bytes_out, |child| child.bytes_out),
                packets: grown(child.packets_in, |child| child.packets_in)
                    + grown(child.packets_out, |child| child.packets_out),
                age: child.installed_seconds,
            });
        }
    }
    tunnels.sort_by(|a, b| {
        (b.bits_in + b.bits_out).total_cmp(&(a.bits_in + a.bits_out)).then(a.name.cmp(&b.name))
    });
    tunnels
}

fn workers(before: Option<&Sample>, sample: &Sample, seconds: f64) -> Vec<Worker> {
    let former = |index: usize| before.and_then(|before| before.status.worker_threads.get(index));
    let workers = sample.status.worker_threads.iter().enumerate().map(|(index, worker)| {
        let former = former(index);
        let used = former.map_or(0.0, |former| worker.cpu_seconds - former.cpu_seconds);
        Worker {
            core: worker.core,
            load: if seconds > 0.0 { (used / seconds).clamp(0.0, 1.0) } else { 0.0 },
            received: rate(former.map(|former| former.received), worker.received, seconds),
            transmitted: rate(former.map(|former| former.transmitted), worker.transmitted, seconds),
            dropped: rate(former.map(|former| former.dropped), worker.dropped, seconds),
        }
    });
    workers.collect()
}

fn reasons(before: Option<&Sample>, sample: &Sample, seconds: f64) -> Vec<Reason> {
    let empty = BTreeMap::new();
    let former = before.map_or(&empty, |before| &before.drops);
    let counted = sample.drops.iter().filter(|(_, total)| **total > 0);
    let mut reasons: Vec<Reason> = counted
        .map(|(name, total)| Reason {
            name: name.clone(),
            rate: rate(before.map(|_| former.get(name).copied().unwrap_or(0)), *total, seconds),
            total: *total,
        })
        .collect();
    reasons.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)).then(a.name.cmp(&b.name)));
    reasons
}

#[cfg(test)]
mod tests;
