//! What differs between the texts of two configurations, key by key, for people. Values under `[secrets]` are not shown.

use std::collections::BTreeMap;

use toml_edit::{Document, Item, TableLike, Value};

/// Every key that is in one text alone, or differs, in the order of the names: `connections.site.dpd_delay: 10 → 30`.
/// Nothing if one of them is no TOML.
pub fn differences(old: &str, new: &str) -> Vec<String> {
    let (Ok(old), Ok(new)) = (Document::parse(old), Document::parse(new)) else { return Vec::new() };
    let (old, new) = (leaves(old.as_table()), leaves(new.as_table()));
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let line = |key: &String| {
        let shown = |value: &String| match key.starts_with("secrets.") {
            true => "…".to_owned(),
            false => value.clone(),
        };
        match (old.get(key), new.get(key)) {
            (Some(old), Some(new)) if old == new => None,
            (Some(old), Some(new)) => Some(format!("{key}: {} → {}", shown(old), shown(new))),
            (Some(old), None) => Some(format!("{key}: {} → (gone)", shown(old))),
            (None, Some(new)) => Some(format!("{key}: (new) {}", shown(new))),
            (None, None) => None,
        }
    };
    keys.into_iter().filter_map(line).collect()
}

/// Every value by its full name.
fn leaves(table: &dyn TableLike) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    collect(table, "", &mut leaves);
    leaves
}

fn collect(table: &dyn TableLike, path: &str, leaves: &mut BTreeMap<String, String>) {
    for (key, item) in table.iter() {
        let name = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        if let Some(table) = item.as_table_like() {
            collect(table, &name, leaves);
        } else if let Item::ArrayOfTables(tables) = item {
            for (at, table) in tables.iter().enumerate() {
                collect(table, &format!("{name}[{at}]"), leaves);
            }
        } else if let Item::Value(value) = item {
            leaves.insert(name, plain(value));
        }
    }
}

/// A value without the spaces and comments around it.
fn plain(value: &Value) -> String {
    let mut value = value.clone();
    value.decor_mut().clear();
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_differs_is_named_and_no_secret_shown() {
        let old = "[connections.a]\nencap = true # yes\nlocal = { id = \"x\" }\n[secrets.ike]\nsecret = \"one\"\n\
                   [[gateway.interfaces]]\nname = \"eth0\"\n";
        let new = "[connections.a]\nencap = true\nlocal = { id = \"y\" }\ndpd_delay = 3\n[secrets.ike]\nsecret = \"two\"\n";
        assert_eq!(differences(old, old), [] as [String; 0]);
        assert_eq!(
            differences(old, new),
            [
                "connections.a.dpd_delay: (new) 3",
                "connections.a.local.id: \"x\" → \"y\"",
                "gateway.interfaces[0].name: \"eth0\" → (gone)",
                "secrets.ike.secret: … → …",
            ]
        );
    }
}
