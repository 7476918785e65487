//! `per_cpu_sas`: CHILD SAs of single workers (RFC 9611).

use portcullis_ike::config::{ConnectionConfig, PerWorker};

use super::reader::Section;

/// `per_cpu_sas`, until [`give_workers`] has said how many there are.
pub(super) fn of_child(section: &Section<'_>) -> Option<PerWorker> {
    const KEY: &str = "per_cpu_sas";
    let encap = section.text(KEY) == Some("encap");
    match section.boolean_or_integer(KEY, 1..=1024) {
        Some(Ok(true)) => Some(PerWorker { workers: 0, most: 0 }),
        Some(Err(most)) => Some(PerWorker { workers: 0, most: most as u16 }),
        Some(Ok(false)) => None,
        None => {
            if encap {
                let message = "\"encap\", a random UDP source port for each of them, is strongSwan's own and of no standard: say true, \
                               and have the cards spread ESP by SPI";
                section.error(section.span(), KEY, message);
            }
            None
        }
    }
}

/// As many CHILD SAs of single workers as there may be: without a number twice as many as there are workers, because both ends
/// may ask at once (RFC 9611 §6).
pub(super) fn give_workers(connections: &mut [ConnectionConfig], workers: usize) {
    let workers = u16::try_from(workers).unwrap_or(u16::MAX);
    let children = connections.iter_mut().flat_map(|connection| &mut connection.children);
    for limits in children.filter_map(|child| child.per_worker.as_mut()) {
        limits.workers = workers;
        if limits.most == 0 {
            limits.most = workers.saturating_mul(2);
        }
    }
}
