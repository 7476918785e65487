//! What a pair takes, by the types and by what the process has in memory.

use anyhow::Context;
use portcullis_gateway::sa::{Inbound, InboundBody, Outbound, OutboundBody};

use super::world;
use crate::report::{Report, Samples};

const UNIT: &str = "octets";

/// Fills a table with so many pairs.
pub(crate) fn run(report: &mut Report, pairs: usize) -> anyhow::Result<()> {
    let before = resident()?;
    let sas = world::table(1_000_000)?;
    let empty = resident()?.saturating_sub(before);
    let mut control = sas.control();
    for number in 0..pairs {
        world::install(&mut control, number)?;
    }
    let filled = resident()?.saturating_sub(before).saturating_sub(empty);
    let pair =
        size_of::<Inbound>() + size_of::<InboundBody>() + size_of::<Outbound>() + size_of::<OutboundBody>();
    let sizes = [
        ("memory/pair/size_of", pair),
        ("memory/pair/resident", filled / pairs),
        ("memory/empty/1000000", empty),
    ];
    for (case, octets) in sizes {
        report.row(case, "portcullis", UNIT, &Samples::single(octets as f64));
    }
    Ok(())
}

/// Octets of this process that lie in memory.
pub(super) fn resident() -> anyhow::Result<usize> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").context("reading smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss in smaps_rollup")?;
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}
