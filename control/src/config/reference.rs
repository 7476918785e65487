//! The reference of the configuration: every table and key, what it takes, its default, and what it is for.
//!
//! It is made of two things that cannot contradict each other. What a key takes is noted by the reader as it reads a
//! sample in which every table stands ([`Takes`]); what a key is for, and its default, stand in `tables.rs`. The reader
//! refuses a key that is not described there, and tests hold the defaults against those that it has.

mod tables;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use toml_edit::Document;

use super::Config;
use super::reader::{Findings, Section};

/// A table of the configuration.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name, with `NAME` and `CHILD` where the user chooses.
    pub(super) path: &'static str,
    about: &'static str,
    pub(super) keys: &'static [Key],
}

/// A key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) default: Default,
    about: &'static str,
}

/// What holds where a key is left out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Default {
    /// It must not be.
    Required,
    /// Nothing.
    Absent,
    /// This value, in TOML.
    Is(&'static str),
    /// What these words say.
    Says(&'static str),
}

/// What a key takes, as the reader says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Takes {
    /// Of several that were asked for under one key, the highest says most.
    pub(super) precision: u8,
    /// `text`, `whole number`, …
    pub(super) kind: &'static str,
    /// Which of them.
    pub(super) which: String,
}

/// What was asked for, by table and key.
pub(super) type Asked = BTreeMap<(String, &'static str), Option<Takes>>;

/// A configuration in which every table stands, of every kind that has keys of its own. It is read, not used.
pub(super) const SAMPLE: &str = r#"
[gateway]
interfaces = [{ name = "outside0", role = "outside" }, { name = "inside0", role = "inside" }]
[ike]
[connections.NAME]
local = { auth = "psk", id = "a.example" }
remote = { auth = "psk", id = "b.example" }
[connections.NAME.children.CHILD]
[connections.NAME.children.shunt]
mode = "pass"
local_ts = "10.1.0.0/16"
remote_ts = "10.2.0.0/16"
[devices.NAME]
[pools.NAME]
addrs = "10.3.0.0/16"
[secrets.ike-NAME]
secret = "0x00112233445566778899aabbccddeeff"
[secrets.eap-NAME]
id = "carol"
secret = "a user's password"
[secrets.ppk-NAME]
ids = "ppk-2026"
secret = "0x00112233445566778899aabbccddeeff"
[radius]
[[radius.servers]]
address = "192.0.2.5"
secret = "0x00112233445566778899aabbccddeeff"
[radius.dae]
secret = "0x00112233445566778899aabbccddeeff"
[audit]
file = "/var/log/portcullis/audit.jsonl"
"#;

/// What belongs to files, which are not there when the sample is read.
const SAMPLE_WITH_FILES: &str = r#"
[secrets.private-NAME]
file = "gw.pem"
secret = "passphrase"
[authorities.NAME]
cacert = "ca.pem"
ocsp_uris = "http://ocsp.example.org/"
crl_uris = "http://crl.example.org/"
[connections.certificates]
local = { auth = "pubkey", certs = "gw.pem", pubkeys = "gw.pub" }
remote = { auth = "pubkey", certs = "gw.pem", cacerts = "ca.pem", pubkeys = "gw.pub" }
[connections.users]
local = { auth = "eap-tls", certs = "gw.pem" }
remote = { auth = "eap-tls", cacerts = "ca.pem" }
"#;

/// Whether a key of a table is described, without which the reader does not take it.
pub(super) fn describes(table: &str, key: &str) -> bool {
    let table = tables::TABLES.iter().find(|known| known.path == table);
    table.is_some_and(|table| table.keys.iter().any(|known| known.name == key))
}

/// What tables below a table whose names the user chooses are called here.
pub(super) fn placeholder(table: &str, name: &str) -> String {
    let kinds = ["private", "ppk", "eap"];
    match table {
        "secrets" => match kinds.iter().find(|kind| name.starts_with(*kind)) {
            Some(kind) => format!("{kind}-NAME"),
            None => "NAME".to_owned(),
        },
        table if table.ends_with(".children") => "CHILD".to_owned(),
        _ => "NAME".to_owned(),
    }
}

/// Everything that the reader asks for.
pub(super) fn asked() -> Asked {
    let text = format!("{SAMPLE}{SAMPLE_WITH_FILES}");
    let findings = Findings::new(&text);
    if let Ok(document) = Document::parse(text.as_str()) {
        // Its files are missing: what comes out is no configuration, but everything was asked for.
        let _ = Config::from_root(Section::root(&findings, document.as_table()), Path::new(""));
    }
    findings.into_asked()
}

/// The page `docs/configuration-reference.md`; with `word`, only the keys whose full name has it, and their tables.
pub fn page(word: Option<&str>) -> String {
    let asked = asked();
    let mut page = match word {
        None => OPENING.to_owned(),
        Some(_) => String::new(),
    };
    for table in tables::TABLES {
        let wanted =
            |key: &&Key| word.is_none_or(|word| format!("{}.{}", table.path, key.name).contains(word));
        let keys: Vec<&Key> = table.keys.iter().filter(wanted).collect();
        if !keys.is_empty() {
            section(&mut page, table, &keys, &asked);
        }
    }
    page
}

const OPENING: &str = "# Configuration reference

Every table and key that the configuration takes. [configuration.md](configuration.md) is the guide.

This page is written by `portcullis config reference`; `portcullis config reference WORD` shows the keys whose names have
that word. `NAME` and `CHILD` are yours to choose. A list is an array; a single text also does, with commas as in
swanctl.conf.
";

fn section(page: &mut String, table: &Table, keys: &[&Key], asked: &Asked) {
    let title = if table.path.is_empty() { "The file" } else { table.path };
    // Writing to a `String` cannot fail.
    let _ = write!(
        page,
        "\n## {title}\n\n{}\n\n| Key | Type | Takes | Default | Meaning |\n|---|---|---|---|---|\n",
        table.about
    );
    for key in keys {
        let takes = asked.get(&(table.path.to_owned(), key.name)).and_then(Option::as_ref);
        let (kind, which) = takes.map_or(("", ""), |takes| (takes.kind, takes.which.as_str()));
        let default = match key.default {
            Default::Required => "required".to_owned(),
            Default::Absent => String::new(),
            Default::Is(value) => format!("`{value}`"),
            Default::Says(words) => words.to_owned(),
        };
        // A cell that holds a bar would end there.
        let cells = [format!("`{}`", key.name), kind.into(), which.into(), default, key.about.into()];
        let cells = cells.map(|cell: String| cell.replace('|', "\\|"));
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> Vec<(String, &'static str)> {
        let keys = |table: &'static Table| table.keys.iter().map(|key| (table.path.to_owned(), key.name));
        tables::TABLES.iter().flat_map(keys).collect()
    }

    #[test]
    fn every_key_that_the_reader_asks_for_is_described_and_every_described_one_is_asked_for() {
        let (asked, mut described) = (asked(), described());
        described.sort();
        let asked: Vec<(String, &str)> = asked.into_keys().collect();
        assert_eq!(asked, described);
    }

    #[test]
    fn every_key_says_what_it_takes() {
        let silent: Vec<_> = asked().into_iter().filter(|(_, takes)| takes.is_none()).collect();
        assert_eq!(silent, []);
    }

    /// The sample with one key more, or none.
    fn sample(table: &Table, line: &str) -> Config {
        let place = match table.path {
            "radius.servers" => "[[radius.servers]]\n".to_owned(),
            "gateway.interfaces" => "name = \"outside0\", ".to_owned(),
            "secrets.NAME" => "[secrets.ike-NAME]\n".to_owned(),
            path => format!("[{path}]\n"),
        };
        let separator = if table.path == "gateway.interfaces" { ", " } else { "\n" };
        let line = if line.is_empty() { String::new() } else { format!("{line}{separator}") };
        assert!(SAMPLE.contains(&place), "{place}");
        let text = SAMPLE.replacen(&place, &format!("{place}{line}"), 1);
        Config::parse(&text, Path::new("")).unwrap_or_else(|found| panic!("{line}: {found:?}")).0
    }

    #[test]
    fn every_default_is_what_the_reader_takes_where_the_key_is_left_out() {
        let mut compared = 0;
        for table in tables::TABLES {
            for key in table.keys {
                let Default::Is(value) = key.default else { continue };
                // It takes certificates; that of `RevocationPolicy` is tested in `tests/credentials.rs`.
                if key.name == "revocation" {
                    continue;
                }
                let with = sample(table, &format!("{} = {value}", key.name));
                assert!(sample(table, "") == with, "{}.{} is not {value} by default", table.path, key.name);
                compared += 1;
            }
        }
        assert!(compared > 50, "{compared}");
    }

    #[test]
    fn the_page_that_is_committed_is_what_the_command_writes() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration-reference.md");
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        let written = page(None);
        let differs = committed.lines().zip(written.lines()).find(|(old, new)| old != new);
        assert!(
            committed == written,
            "docs/configuration-reference.md is stale: `portcullis config reference` writes it anew; {differs:?}"
        );
    }

    #[test]
    fn a_word_picks_the_keys_whose_names_have_it() {
        let page = page(Some("dpd"));
        assert!(page.contains("## connections.NAME\n") && page.contains("| `dpd_delay` |"), "{page}");
        assert!(!page.contains("gateway"), "{page}");
    }
}
