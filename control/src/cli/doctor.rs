//! `portcullis doctor`: the arguments, and what is printed.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::print;
use crate::config::Config;
use crate::doctor::{Finding, Host, Report, Severity, examine};

/// `portcullis doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "/etc/portcullis/portcullis.toml")]
    config: PathBuf,
    /// Print what is as it should be too.
    #[arg(long)]
    all: bool,
    /// Fail on warnings too.
    #[arg(long)]
    strict: bool,
    /// Print JSON, with all findings.
    #[arg(long)]
    json: bool,
}

/// Exit code 0: no errors (with `--strict`: no warnings either); 1 otherwise.
pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let (config, unusable) = match Config::load(&args.config) {
        Ok((config, _)) => (Some(config), None),
        Err(error) => (None, Some(configuration(&args.config, &error.to_string()))),
    };
    let mut report = examine(&Host::live(), &args.config, config.as_ref());
    report.findings.splice(0..0, unusable);
    let text =
        if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { render(&report, args.all) };
    print(&text)?;
    let bad = report.count(Severity::Error) > 0 || args.strict && report.count(Severity::Warning) > 0;
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn configuration(path: &Path, seen: &str) -> Finding {
    Finding {
        check: "configuration",
        severity: Severity::Error,
        subject: String::new(),
        seen: seen.to_owned(),
        expected: "a valid configuration; what depends on it was not looked at".to_owned(),
        fix: format!("portcullis check {}", path.display()),
    }
}

/// The worst first; in the order of the checks among equals.
fn render(report: &Report, all: bool) -> String {
    let mut text = String::new();
    for severity in [Severity::Error, Severity::Warning, Severity::Info, Severity::Ok] {
        if severity == Severity::Ok && !all {
            continue;
        }
        for finding in report.findings.iter().filter(|finding| finding.severity == severity) {
            one(&mut text, finding);
        }
    }
    let count = |severity, what| super::print::counted(report.count(severity) as u64, what);
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        text,
        "{}, {}, {}, {} as expected",
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning"),
        count(Severity::Info, "note"),
        report.count(Severity::Ok)
    );
    text
}

fn one(text: &mut String, finding: &Finding) {
    let severity = match finding.severity {
        Severity::Ok => "ok",
        Severity::Info => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let subject = if finding.subject.is_empty() { String::new() } else { format!(" {}", finding.subject) };
    let _ = writeln!(text, "{severity:8}{}{subject}: {}", finding.check, finding.seen);
    for (label, content) in [("expected", &finding.expected), ("fix", &finding.fix)] {
        if !content.is_empty() {
            let _ = writeln!(text, "        {label}: {content}");
        }
    }
}
