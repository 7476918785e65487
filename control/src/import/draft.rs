//! The configuration that comes out of an import, while it is not known yet what of it this version takes: every
//! value in the notations that it may have in TOML, and where it came from.

use std::fmt::Write;

use super::settings::{Place, Setting};

/// What becomes of an option that this version does not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// The tunnel does the same without it, or nearly: it is left out, and named.
    Optional,
    /// Without it the tunnel would protect something else, or let in somebody else: what it belongs to is left out.
    Essential,
    /// It is right, but a file that it names is not there yet: it stays, and is named.
    File,
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) key: String,
    /// The value in TOML; the one that is tried now, then those that are tried if that does not do.
    pub(super) forms: Vec<String>,
    pub(super) weight: Weight,
    /// As it stood in the file.
    pub(super) original: Setting,
    /// Why earlier forms did not do.
    pub(super) complaint: Option<String>,
}

/// A table of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// E.g. `connections`, `site`, `local`.
    pub(super) path: Vec<String>,
    /// Whether it is one of several of that name: `[[…]]`.
    pub(super) repeated: bool,
    /// How many names of the path belong to what is left out as a whole if this table is: 2 for a connection with its
    /// rounds, 4 for a child.
    pub(super) unit: usize,
    pub(super) place: Place,
    pub(super) items: Vec<Item>,
    /// What was left out of it, as comments.
    pub(super) remarks: Vec<String>,
}

impl Table {
    pub(super) fn new(path: &[&str], unit: usize, place: Place) -> Self {
        let path = path.iter().map(|name| (*name).to_owned()).collect();
        Self { path, repeated: false, unit, place, items: Vec::new(), remarks: Vec::new() }
    }

    /// Its name as diagnostics have it.
    pub(super) fn name(&self) -> String {
        self.path.join(".")
    }

    /// Adds a setting under the same key, or another.
    pub(super) fn carry(&mut self, key: &str, setting: &Setting, weight: Weight, forms: Vec<String>) {
        let item = Item { key: key.to_owned(), forms, weight, original: setting.clone(), complaint: None };
        self.items.push(item);
    }
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    pub(super) tables: Vec<Table>,
    /// What stands at the end instead of what was left out whole.
    pub(super) remarks: Vec<String>,
}

impl Draft {
    /// As TOML, below `head`. Without `secrets` the values under `[secrets]` are withheld.
    pub(super) fn to_toml(&self, head: &str, secrets: bool) -> String {
        let mut text = head.to_owned();
        for table in &self.tables {
            let name: Vec<String> = table.path.iter().map(|name| key(name)).collect();
            let name = name.join(".");
            let header = if table.repeated { format!("[[{name}]]") } else { format!("[{name}]") };
            _ = writeln!(text, "\n{header}");
            for Item { key: name, forms, .. } in &table.items {
                let Some(value) = forms.first() else { continue };
                if !secrets && name == "secret" {
                    _ = writeln!(
                        text,
                        "# secret = …        withheld; write to a file with --output to have it"
                    );
                } else {
                    _ = writeln!(text, "{} = {value}", key(name));
                }
            }
            remarks(&mut text, &table.remarks);
        }
        if !self.remarks.is_empty() {
            text.push('\n');
            remarks(&mut text, &self.remarks);
        }
        text
    }
}

fn remarks(text: &mut String, remarks: &[String]) {
    for line in remarks.iter().flat_map(|remark| remark.lines()) {
        // TOML takes no control characters in a comment but tabs.
        _ = writeln!(text, "# {}", line.replace(|c: char| c.is_control() && c != '\t', "\u{fffd}"));
    }
}

/// A key, in quotation marks where TOML wants them.
fn key(name: &str) -> String {
    toml_edit::Key::new(name).to_string()
}

/// A text.
pub(super) fn text(value: &str) -> String {
    toml_edit::Value::from(value).to_string()
}

/// A list separated by commas: an array, or a text if it is one.
pub(super) fn list(value: &str) -> String {
    let parts: Vec<&str> = value.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        [one] => text(one),
        parts => parts.iter().copied().collect::<toml_edit::Array>().to_string(),
    }
}

/// A word of swanctl.conf in every type that it may be meant in, the likeliest first.
pub(super) fn scalar(value: &str) -> Vec<String> {
    let mut forms = Vec::new();
    let boolean = match value {
        "yes" | "true" | "enabled" | "1" => Some("true"),
        "no" | "false" | "disabled" | "0" => Some("false"),
        _ => None,
    };
    if let Some(number) = number(value) {
        forms.push(number.to_string());
    }
    forms.extend(boolean.map(str::to_owned));
    forms.push(text(value));
    forms
}

/// A whole number, with strongSwan's suffixes for octets; none that would lose a digit in front.
fn number(value: &str) -> Option<u64> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number = digits.parse::<u64>().ok().filter(|number| number.to_string() == digits)?;
    let factor: u64 = match value.get(digits.len()..)? {
        "" => 1,
        "k" | "K" => 1 << 10,
        "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_tried_in_every_type_that_they_may_have() {
        assert_eq!(scalar("yes"), ["true", "\"yes\""]);
        assert_eq!(scalar("0"), ["0", "false", "\"0\""]);
        assert_eq!(scalar("1G"), ["1073741824", "\"1G\""]);
        assert_eq!(scalar("007"), ["\"007\""]);
        assert_eq!(scalar("4h"), ["\"4h\""]);
        assert_eq!(list("a, b,"), "[\"a\", \"b\"]");
        assert_eq!(list(" a "), "\"a\"");
    }
}
