//! `portcullis-bench`: the load generators and comparisons, one subcommand each.

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Load generators and comparisons")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// The AEAD engines beside ipsec-mb, aws-lc-rs, ring and aes-gcm.
    Crypto(portcullis_bench::crypto::Options),
    /// The whole gateway between a generator and a sink, in network namespaces (needs root).
    Forward(portcullis_bench::forward::Options),
    /// Tunnels and rekeys a second, and what a tunnel takes, beside strongSwan, in network namespaces (needs root).
    Ike(portcullis_bench::ike::Options),
    /// A worker's own code between RX and TX, sealing and opening.
    Pipeline(portcullis_bench::pipeline::Options),
    /// Looking SAs up, installing and removing them, at 1 to 1,000,000.
    Table(portcullis_bench::table::Options),
}

fn main() -> anyhow::Result<()> {
    let bench = Arguments::parse().bench;
    if matches!(bench, Bench::Forward(_) | Bench::Ike(_)) {
        portcullis_lab::clean_up_when_told_to_end()?;
    }
    match bench {
        Bench::Crypto(options) => portcullis_bench::crypto::run(&options),
        Bench::Forward(options) => portcullis_bench::forward::run(&options),
        Bench::Ike(options) => portcullis_bench::ike::run(&options),
        Bench::Pipeline(options) => portcullis_bench::pipeline::run(&options),
        Bench::Table(options) => portcullis_bench::table::run(&options),
    }
}
