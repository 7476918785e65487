//! What is wrong with a configuration file, and where: every finding has a line and a column, says what was found
//! and what was expected, and is printed with the line it speaks of.

use std::fmt;
use std::ops::Range;

/// Whether a finding keeps the configuration from being used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It cannot be used.
    Error,
    /// It can be used, but something is probably not meant so.
    Warning,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key it speaks of, e.g. `connections.site.local_addrs`; empty for the file as a whole.
    pub key: String,
    /// What was found, and what was expected.
    pub message: String,
    /// The line of the file.
    source: String,
    /// Characters to underline.
    width: usize,
    /// Whether the line may hold a secret, which never reaches a terminal's scrollback.
    secret: bool,
}

impl Diagnostic {
    pub(super) fn new(
        severity: Severity,
        text: &str,
        span: Range<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let start = span.start.min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let source = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let spanned = text.get(start..span.end.min(text.len())).unwrap_or_default();
        let key = key.into();
        Self {
            severity,
            secret: key.starts_with("secrets") || in_secrets(before, source),
            line: before.matches('\n').count() + 1,
            column,
            key,
            message: message.into(),
            source: source.to_owned(),
            width: spanned.lines().next().map_or(1, |first| first.chars().count()).max(1),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}:{}: {severity}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        writeln!(f, "{}", self.message)?;
        let gutter = self.line.to_string();
        if self.secret {
            return write!(f, "{gutter} | (not shown: it may hold a secret)");
        }
        writeln!(f, "{gutter} | {}", self.source)?;
        let indent: String =
            self.source.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "{:width$} | {indent}{}", "", "^".repeat(self.width), width = gutter.len())
    }
}

/// Whether a line, by what stands before it, belongs to a table of secrets; also where the text is no TOML.
fn in_secrets(before: &str, line: &str) -> bool {
    let is_header = |line: &&str| line.trim_start().starts_with('[');
    let table = Some(line).filter(is_header).or_else(|| before.lines().rev().find(is_header));
    table.is_some_and(|table| table.trim_start().trim_start_matches('[').trim_start().starts_with("secrets"))
}
