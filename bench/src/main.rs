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
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().bench {
        Bench::Crypto(options) => portcullis_bench::crypto::run(&options),
        Bench::Forward(options) => portcullis_bench::forward::run(&options),
    }
}
