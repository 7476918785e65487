//! `portcullis import`: makes a configuration of an existing strongSwan or libreswan setup, and names what could not be
//! carried over.
//!
//! [`settings`] reads swanctl.conf, [`ipsec`] ipsec.conf and ipsec.secrets into sections with swanctl's names,
//! [`swanctl`] makes a [`draft`] of those. What this version takes is not written down here a second time: the draft is
//! parsed as any configuration is, and what [`Config::parse`] objects to is tried in another notation, or left out and
//! named with its reason ([`settle`]). So whatever the configuration learns, an import carries over.

mod draft;
mod ipsec;
mod settings;
mod swanctl;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{Config, Diagnostic, Severity};
use draft::{Draft, Item, Table, Weight};

pub use settings::Place;

/// What a setup is imported into.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Interfaces to the untrusted network.
    pub outside: Vec<String>,
    /// Interfaces to the protected networks.
    pub inside: Vec<String>,
    /// Directory of the configuration to be, where relative names of files begin.
    pub base: PathBuf,
}

/// Why nothing could be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file could not be read.
    #[error("cannot read `{path}`: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not written as such files are.
    #[error("{place}: {problem}")]
    Syntax {
        /// Where.
        place: Place,
        /// What was found, and what was expected.
        problem: String,
    },
    /// There are no connections in it.
    #[error("`{path}` has no connections (expected {expected})")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What connections look like in such a file.
        expected: &'static str,
    },
}

/// Something that the operator has to know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Where it stands in what was imported.
    pub place: Option<Place>,
    /// What became of it.
    pub outcome: Outcome,
    /// What it speaks of, e.g. `connections.site.children.net.updown = /usr/bin/x`. Never a secret.
    pub subject: String,
    /// Why.
    pub reason: String,
}

/// What became of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An option that was left out.
    Dropped,
    /// A connection, child or secret that was left out whole.
    LeftOut,
    /// It was carried over, but something remains to be done.
    ToDo,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        match self.outcome {
            Outcome::Dropped => write!(f, "not carried over: `{}`: {}", self.subject, self.reason),
            Outcome::LeftOut => write!(f, "LEFT OUT: `{}`: {}", self.subject, self.reason),
            Outcome::ToDo => write!(f, "to do: {}: {}", self.subject, self.reason),
        }
    }
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Imported {
    draft: Draft,
    head: String,
    /// Everything that the operator has to know of.
    pub notes: Vec<Note>,
    /// Connections that were carried over.
    pub connections: usize,
    /// Children of those.
    pub children: usize,
}

impl Imported {
    /// The configuration, secrets included: for a file that only root can read.
    pub fn to_toml(&self) -> String {
        self.draft.to_toml(&self.head, true)
    }

    /// The configuration for a terminal: secrets are withheld.
    pub fn to_toml_without_secrets(&self) -> String {
        self.draft.to_toml(&self.head, false)
    }
}

/// Imports a swanctl.conf with what it includes.
pub fn swanctl(file: &Path, surroundings: &Surroundings) -> Result<Imported, ImportError> {
    let root = settings::read(file)?;
    if root.section("connections").is_none_or(|section| section.sections.is_empty()) {
        return Err(ImportError::Empty {
            path: file.to_path_buf(),
            expected: "`connections { NAME { … } }`",
        });
    }
    let directory = file.parent().unwrap_or(Path::new(""));
    Ok(finish(&root, &swanctl::credential_directories(directory), surroundings))
}

/// Imports an ipsec.conf, strongSwan's or libreswan's, with the secrets beside it.
pub fn ipsec_conf(
    file: &Path,
    secrets: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<Imported, ImportError> {
    let (root, notes) = ipsec::read(file, secrets)?;
    if root.section("connections").is_none_or(|section| section.sections.is_empty()) {
        return Err(ImportError::Empty { path: file.to_path_buf(), expected: "`conn NAME`" });
    }
    let directory = file.parent().unwrap_or(Path::new("")).join("ipsec.d");
    let mut imported = finish(&root, &ipsec::credential_directories(&directory), surroundings);
    imported.notes.splice(0..0, notes);
    Ok(imported)
}

fn finish(
    root: &settings::Section,
    directories: &[(&'static str, PathBuf)],
    surroundings: &Surroundings,
) -> Imported {
    let mut notes = Vec::new();
    let head = swanctl::head(directories, surroundings, &mut notes);
    let mut draft = swanctl::draft(root, &mut notes);
    part(&mut draft, &mut notes);
    settle(&mut draft, &head, &surroundings.base, &mut notes);
    let count = |names: usize| draft.tables.iter().filter(|table| is_connection(table, names)).count();
    let (connections, children) = (count(2), count(4));
    Imported { draft, head, notes, connections, children }
}

/// Whether a table is a connection (2 names) or a child (4).
fn is_connection(table: &Table, names: usize) -> bool {
    table.path.len() == names && table.path.first().is_some_and(|first| first == "connections")
}

/// Drops settings that have the name of a section beside them: TOML takes one of the two.
fn part(draft: &mut Draft, notes: &mut Vec<Note>) {
    let sections: HashSet<Vec<String>> = draft
        .tables
        .iter()
        .flat_map(|table| (1..=table.path.len()).map(|len| table.path.iter().take(len).cloned().collect()))
        .collect();
    for table in &mut draft.tables {
        let name = table.name();
        let path = &table.path;
        let is_section =
            |item: &mut Item| sections.contains(&[&path[..], std::slice::from_ref(&item.key)].concat());
        for Item { key, original, .. } in table.items.extract_if(.., is_section) {
            table.remarks.push(format!("not carried over: {} = {}", original.key, original.value));
            notes.push(Note {
                place: Some(original.place),
                outcome: Outcome::Dropped,
                subject: format!("{name}.{key} = {}", original.value),
                reason: "it is the name of a section as well".to_owned(),
            });
        }
    }
}

/// Parses the draft, and changes what is objected to, until there is nothing left to object to or to change.
fn settle(draft: &mut Draft, head: &str, base: &Path, notes: &mut Vec<Note>) {
    loop {
        let Err(findings) = Config::parse(&draft.to_toml(head, true), base) else { return };
        let mut errors: Vec<Diagnostic> =
            findings.into_iter().filter(|finding| finding.severity == Severity::Error).collect();
        let mut amended = HashSet::new();
        let mut gone: Vec<String> = Vec::new();
        errors.retain(|error| {
            let within = |unit: &String| {
                error.key.strip_prefix(unit).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            if amended.contains(&error.key) || gone.iter().any(within) {
                return false;
            }
            match amend(draft, error, notes) {
                Amended::No => return true,
                Amended::Yes => {}
                Amended::LeftOut(unit) => gone.push(unit),
            }
            amended.insert(error.key.clone());
            false
        });
        if amended.is_empty() {
            notes.extend(errors.into_iter().map(|error| Note {
                place: None,
                outcome: Outcome::ToDo,
                subject: error.key,
                reason: error.message,
            }));
            return;
        }
    }
}

enum Amended {
    Yes,
    /// What has this name is no longer there.
    LeftOut(String),
    /// It has to stay as it is.
    No,
}

/// Changes what an error speaks of: another notation, or it goes.
fn amend(draft: &mut Draft, error: &Diagnostic, notes: &mut Vec<Note>) -> Amended {
    // The longest name: sections of the operator's may have a dot in theirs.
    let owners = draft.tables.iter().enumerate().filter_map(|(at, table)| {
        let name = table.name();
        let rest = error.key.strip_prefix(&name)?;
        let key = rest.strip_prefix('.').or(rest.is_empty().then_some(""))?;
        // Of several rounds of authentication, the one that has the key.
        let number = table.items.iter().position(|item| item.key == key);
        Some(((name.len(), number.is_some()), at, number))
    });
    let Some((_, at, number)) = owners.max_by_key(|(rank, ..)| *rank) else { return Amended::No };
    let Some(table) = draft.tables.get_mut(at) else { return Amended::No };
    let name = table.name();
    let Some((number, item)) = number.and_then(|number| Some((number, table.items.get_mut(number)?))) else {
        return match asks_for_a_file(&error.message) {
            true => Amended::No,
            false => leave_out(draft, at, error.message.clone(), notes),
        };
    };
    if item.forms.len() > 1 {
        item.forms.remove(0);
        // That the type is wrong says nothing of the value.
        let complaint = Some(&error.message).filter(|message| !message.starts_with("is "));
        item.complaint = item.complaint.take().or_else(|| complaint.cloned());
        return Amended::Yes;
    }
    let reason = item.complaint.clone().unwrap_or_else(|| error.message.clone());
    match item.weight {
        Weight::File if !is_unknown(&error.message) => Amended::No,
        Weight::Optional => {
            let Item { key, original, .. } = table.items.remove(number);
            table.remarks.push(format!("not carried over: {} = {}", original.key, original.value));
            let subject = format!("{name}.{key} = {}", original.value);
            notes.push(Note { place: Some(original.place), outcome: Outcome::Dropped, subject, reason });
            Amended::Yes
        }
        Weight::Essential | Weight::File => {
            let reason = match item.key.as_str() {
                "secret" => format!("`secret` {reason}"),
                key => format!("`{key} = {}` {reason}", item.original.value),
            };
            leave_out(draft, at, reason, notes)
        }
    }
}

/// Whether the configuration has no such option, as opposed to another value.
fn is_unknown(message: &str) -> bool {
    message.starts_with("no such option") || message.contains("not support")
}

/// Whether all that is missing is a file, perhaps of another machine.
fn asks_for_a_file(message: &str) -> bool {
    message.starts_with("`cacerts` is missing") || message.starts_with("`certs` is missing")
}

/// Takes the connection, child, secret or pool away that a table belongs to.
fn leave_out(draft: &mut Draft, at: usize, reason: String, notes: &mut Vec<Note>) -> Amended {
    let Some(table) = draft.tables.get(at) else { return Amended::No };
    let unit: Vec<String> = table.path.iter().take(table.unit).cloned().collect();
    let name = unit.join(".");
    let inner = table.path.get(table.unit..).unwrap_or_default().join(".");
    let reason = if inner.is_empty() { reason } else { format!("{inner}: {reason}") };
    let first = draft.tables.iter().find(|table| table.path == unit).unwrap_or(table);
    let place = first.place.clone();
    draft.remarks.push(format!("left out: {name} ({place}): {reason}"));
    draft.tables.retain(|table| !table.path.starts_with(&unit));
    notes.push(Note { place: Some(place), outcome: Outcome::LeftOut, subject: name.clone(), reason });
    Amended::LeftOut(name)
}
