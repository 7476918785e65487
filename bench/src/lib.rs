//! Load generators and comparisons. Each bench prints a table for people, or with `--json` one JSON object per line
//! (the format is in DESIGN.md, "Bench output"). Peers run in the same process, interleaved sample by sample.

pub mod crypto;
pub mod forward;
pub mod ike;
mod mixture;
pub mod pipeline;
pub mod report;
mod steady;
pub mod table;
