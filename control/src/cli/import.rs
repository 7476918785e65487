//! `portcullis import`: the arguments, and what is printed.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::print;
use crate::import::{self, Imported, Outcome, Surroundings};

/// `portcullis import …`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// A strongSwan setup in swanctl.conf, with what it includes.
    Swanctl {
        /// The file.
        #[arg(value_name = "FILE", default_value = "/etc/swanctl/swanctl.conf")]
        file: PathBuf,
        #[command(flatten)]
        to: To,
    },
    /// A strongSwan or libreswan setup in ipsec.conf.
    #[command(name = "ipsec.conf")]
    IpsecConf {
        /// The file.
        #[arg(value_name = "FILE", default_value = "/etc/ipsec.conf")]
        file: PathBuf,
        /// Its secrets; ipsec.secrets beside it by default.
        #[arg(long, value_name = "FILE")]
        secrets: Option<PathBuf>,
        #[command(flatten)]
        to: To,
    },
}

#[derive(Debug, Args)]
struct To {
    /// Write the configuration to this new file, which only root may read. Without this it is printed, without secrets.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// An interface to the untrusted network; may be given several times.
    #[arg(long, value_name = "INTERFACE")]
    outside: Vec<String>,
    /// An interface to the protected networks; may be given several times.
    #[arg(long, value_name = "INTERFACE")]
    inside: Vec<String>,
}

/// Imports, writes the configuration, and lists on standard error what the operator has to know of.
pub(super) fn run(args: ImportArgs) -> anyhow::Result<()> {
    let (From::Swanctl { to, .. } | From::IpsecConf { to, .. }) = &args.from;
    let base = to.output.as_deref().and_then(Path::parent).unwrap_or(Path::new("/etc/portcullis"));
    let surroundings =
        Surroundings { outside: to.outside.clone(), inside: to.inside.clone(), base: base.to_path_buf() };
    let imported = match &args.from {
        From::Swanctl { file, .. } => import::swanctl(file, &surroundings)?,
        From::IpsecConf { file, secrets, .. } => import::ipsec_conf(file, secrets.as_deref(), &surroundings)?,
    };
    match &to.output {
        Some(path) => write(path, &imported.to_toml())?,
        None => print(&imported.to_toml_without_secrets())?,
    }
    for note in &imported.notes {
        eprintln!("{note}");
    }
    eprintln!("{}", summary(&imported));
    Ok(())
}

/// A new file: an earlier configuration is never lost, nor are secrets for a moment open to everybody.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot make `{}`", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write `{}`", path.display()))
}

fn summary(imported: &Imported) -> String {
    let count = |outcome| imported.notes.iter().filter(|note| note.outcome == outcome).count();
    format!(
        "imported: connections: {}, children: {}; left out: {}; options not carried over: {}; to do: {}",
        imported.connections,
        imported.children,
        count(Outcome::LeftOut),
        count(Outcome::Dropped),
        count(Outcome::ToDo)
    )
}
