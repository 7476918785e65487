//! What the daemon takes from itself before it starts a thread, so that whoever got into it by a packet gets no further:
//! Landlock leaves it the files and directories that it needs (`files`), seccomp the system calls that it makes (`calls`).
//!
//! Both belong to a thread and are inherited by those that it starts, so [`Sandbox::enter`] comes before the runtime and the
//! workers: there is no thread outside, and whatever a reload or an interface made anew takes later, the start has taken
//! already. Nothing leads out again, and nothing is run from inside: no `execve`, no `fork`. A program that the daemon
//! should run is the business of a process that was started before `enter` and is told what to do by a socket or pipe.
//!
//! What the daemon comes to read or write at a new place goes into `files`, a system call of a new kind into `calls`;
//! `control/tests/sandbox.rs` shows that what is not listed is refused.

mod calls;
mod files;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::Config;
use files::Places;

/// What is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    files: Part,
    calls: Part,
    readable: Vec<PathBuf>,
}

/// How much of a part is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// All of it.
    Whole,
    /// What an older kernel can do.
    Partly(String),
    /// Nothing, because of this.
    Missing(String),
    /// Nothing: the configuration says so.
    Off,
}

impl Sandbox {
    /// Shuts the calling thread, and all that it starts, in. `source`: the configuration's file, which is read again by
    /// a reload. What the kernel cannot do is left out, and logged.
    pub fn enter(config: &Config, source: &Path) -> Self {
        if !config.gateway.sandbox {
            tracing::warn!("no sandbox: `gateway.sandbox` is false");
            return Self { files: Part::Off, calls: Part::Off, readable: Vec::new() };
        }
        let places = Places::of(config, source);
        let entered =
            Self { files: files::restrict(&places), calls: calls::restrict(), readable: places.readable() };
        match (&entered.files, &entered.calls) {
            (Part::Whole, Part::Whole) => tracing::info!("sandboxed: {entered}"),
            _ => tracing::warn!("sandboxed as far as this kernel can: {entered}"),
        }
        entered
    }

    /// Where files can be read from, for a file that could not; `None` if anywhere.
    pub fn hint(&self) -> Option<String> {
        let restricted = matches!(self.files, Part::Whole | Part::Partly(_));
        restricted.then(|| {
            let readable: Vec<String> =
                self.readable.iter().map(|path| path.display().to_string()).collect();
            format!(
                "since its start the daemon reads files in {} only (`gateway.sandbox`); a restart lets it read where \
                 the new configuration says",
                readable.join(", ")
            )
        })
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.files, &self.calls) {
            (Part::Off, _) | (_, Part::Off) => f.write_str("off (gateway.sandbox)"),
            (files, calls) => write!(f, "files {files}, system calls {calls}"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("restricted"),
            Self::Partly(what) => write!(f, "restricted in part ({what})"),
            Self::Missing(why) => write!(f, "not restricted ({why})"),
            Self::Off => f.write_str("off"),
        }
    }
}
