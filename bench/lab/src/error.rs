//! What can go wrong in a lab. Every variant carries what is needed to understand a failed test from its
//! message alone: the command and its error output, or the last lines of the log that was being watched.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a lab, a host, a peer or a measurement could not do what it was asked.
#[derive(thiserror::Error)]
pub enum LabError {
    /// The kernel or the file system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done, as a phrase after "cannot".
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A command ran and failed.
    #[error("`{command}` on {host} failed ({status}):\n{output}")]
    Failed {
        /// The whole command line.
        command: String,
        /// The host it ran on.
        host: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its standard output and error.
        output: String,
    },
    /// An event did not come in the time it was given.
    #[error("waited {waited:?} in vain for {what}\n{seen}")]
    Timeout {
        /// The event.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// What was seen instead: the last log lines, or the counters.
        seen: String,
    },
    /// A process ended while an event of its was awaited.
    #[error("`{command}` on {host} ended before {what}:\n{output}")]
    Ended {
        /// The whole command line.
        command: String,
        /// The host it ran on.
        host: String,
        /// The event that was awaited.
        what: String,
        /// The last lines of its standard output and error.
        output: String,
    },
    /// A tool answered something that this lab does not understand.
    #[error("{tool} answered what cannot be read ({reason}): {answer}")]
    Answer {
        /// The tool.
        tool: &'static str,
        /// What is wrong with the answer.
        reason: String,
        /// The answer.
        answer: String,
    },
}

/// The same as `Display`: tests unwrap, and a log of forty lines should be printed as lines.
impl fmt::Debug for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl LabError {
    /// Wraps a system error; `what` completes the sentence "cannot …".
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// As [`LabError::io`], for errors of the nix crate.
    pub(crate) fn errno(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: source.into() }
    }
}

/// The result of everything a lab does.
pub type Result<T, E = LabError> = std::result::Result<T, E>;
