//! `portcullis doctor`: looks at the machine before traffic does, and says for everything that it finds what was
//! seen, what is expected and which command puts it right.
//!
//! [`examine`] runs every check. A check is a function that reads the machine through [`Host`] and gives
//! [`Finding`]s: `interfaces` holds those about one configured interface, `machine` those about kernel, processor and
//! memory, `network` those about forwarding and ports. Nothing is changed, and nothing is asked of a running daemon.
//! Files are read below a root that tests replace; what is no file is asked through [`Kernel`].

mod access;
mod drivers;
mod host;
mod interfaces;
mod kernel;
mod machine;
mod network;

use std::path::Path;

use serde::Serialize;

pub use host::{Ethtool, Host, Kernel, LinkState, Offload};
pub(crate) use interfaces::largest_inner;
pub use kernel::Live;

use crate::config::Config;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Good to know; nothing is wrong.
    Info,
    /// It works, but slower or with less than it could; or it will fail under some circumstance.
    Warning,
    /// The daemon will not start, or will not carry traffic.
    Error,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check; stable.
    pub check: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What it is about, such as an interface; empty: the machine.
    pub subject: String,
    /// What was seen.
    pub seen: String,
    /// What is expected, and why.
    pub expected: String,
    /// The command, or line of configuration, that puts it right; empty where there is nothing to be done.
    pub fix: String,
}

/// All findings about a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings are of that severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Runs every check. `file` is the configuration's; without a configuration those checks that need one are left out.
pub fn examine(host: &Host, file: &Path, config: Option<&Config>) -> Report {
    let mut findings = Findings::default();
    access::check(host, file, config, &mut findings);
    machine::check(host, config, &mut findings);
    if let Some(config) = config {
        for interface in &config.gateway.interfaces {
            interfaces::check(host, config, interface, &mut findings);
        }
        interfaces::check_mtus(host, config, &mut findings);
    }
    network::check(host, config, &mut findings);
    Report { findings: findings.0 }
}

/// What checks write into.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// As it should be.
    fn ok(&mut self, check: &'static str, subject: &str, seen: impl Into<String>) {
        self.add(check, Severity::Ok, subject, seen, "", "");
    }

    fn add(
        &mut self,
        check: &'static str,
        severity: Severity,
        subject: &str,
        seen: impl Into<String>,
        expected: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Finding {
            check,
            severity,
            subject: subject.to_owned(),
            seen: seen.into(),
            expected: expected.into(),
            fix: fix.into(),
        });
    }
}

#[cfg(test)]
mod tests;
