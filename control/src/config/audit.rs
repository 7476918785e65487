//! `[audit]`: where it is written who was there.

use std::path::{Path, PathBuf};

use super::reader::Section;
use crate::events::audit::AuditConfig;

/// Failed authentications a second that are written unless `audit.failures_per_second` says otherwise.
const FAILURES_PER_SECOND: u32 = 10;

pub(super) fn from_root(root: &Section<'_>) -> Option<AuditConfig> {
    const EXPECTED: &str = "an absolute path, e.g. \"/var/log/portcullis/audit.jsonl\"";
    let section = root.section("audit")?;
    let file = section.string("file", EXPECTED);
    match &file {
        None if !section.has("file") => section.missing("file", EXPECTED),
        Some(file) if !Path::new(file.value).is_absolute() || file.value.ends_with('/') => {
            section.error(file.span.clone(), "file", format!("is `{}` (expected {EXPECTED})", file.value));
        }
        _ => {}
    }
    let failures_per_second = section
        .integer("failures_per_second", 0..=100_000)
        .map_or(FAILURES_PER_SECOND, |most| most.value as u32);
    section.finish(&[]);
    Some(AuditConfig { file: PathBuf::from(file?.value), failures_per_second })
}
