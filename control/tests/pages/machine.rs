//! A lab host with a file system of its own, as far as the pages touch it: `/etc`, `/run`, the BPF file system, what the
//! package brings. `machine.sh` makes it, in a mount namespace, and [`Machine::run`] goes there.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Host, Process, Result, Stream};

use crate::prometheus::repository;

const SOON: Duration = Duration::from_secs(60);
/// That of the test's own binary: what the package would install.
const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

pub(crate) struct Machine {
    host: Host,
    /// Its mount namespace lives as long as this process.
    keeper: Process,
    other: String,
}

/// What commands have printed, on both streams, and whether they succeeded.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) printed: String,
}

impl Machine {
    /// Makes the file system of a host. `scp` copies into that of `other`.
    pub(crate) fn new(host: &Host, other: &Host) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages/machine.sh");
        let words = ["unshare", "--mount", "--propagation", "private"].map(AsRef::as_ref);
        let repository = repository();
        let more = [script.as_os_str(), host.dir().as_os_str(), BINARY.as_ref(), repository.as_os_str()];
        let keeper = host.spawn_words(words.into_iter().chain(more))?;
        keeper.wait_line("the machine is up", SOON)?;
        Ok(Self { host: host.clone(), keeper, other: other.dir().display().to_string() })
    }

    /// Runs commands as a page has them, in the administrator's home.
    pub(crate) fn run(&self, commands: &str, stop_at_failure: bool) -> Result<Outcome> {
        let there = format!("--mount=/proc/{}/ns/mnt", self.keeper.pid());
        let other = format!("LAB_OTHER={}", self.other);
        let options = if stop_at_failure { "-euc" } else { "-uc" };
        let script = format!("exec 2>&1; cd /root\n{commands}");
        shell(&self.host, &["nsenter", &there, "env", &other, "bash", options, &script])
    }
}

/// Runs commands on a host that has no file system of its own.
pub(crate) fn run_on(host: &Host, commands: &str) -> Result<Outcome> {
    shell(host, &["bash", "-euc", &format!("exec 2>&1\n{commands}")])
}

fn shell(host: &Host, words: &[&str]) -> Result<Outcome> {
    let mut process = host.spawn_words(words)?;
    process.close_stdin();
    let status = process.wait_exit(SOON)?;
    Ok(Outcome { success: status.success(), printed: process.output(Stream::Stdout) })
}
