//! Both ends' configurations of all cases: ours as one TOML document, strongSwan's as settings by path.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use toml_edit::{DocumentMut, Item, Table, Value};

use crate::cases::{Auth, Case};

/// strongSwan's settings of one connection, by path below it: `local.id`, `children.net.esp_proposals`.
pub(crate) type Settings = BTreeMap<String, String>;

/// What is right on our side.
pub(crate) fn ours(case: &Case) -> DocumentMut {
    let (name, n, address) = (case.name(), case.number, case.address());
    let (local, remote, secrets) = match case.auth {
        Auth::Psk => (
            format!("{{ auth = \"psk\", id = \"a{n}.example\" }}"),
            format!("{{ auth = \"psk\", id = \"b{n}.example\" }}"),
            format!(
                "[secrets.ike-{name}]\nids = [\"a{n}.example\", \"b{n}.example\"]\nsecret = \"{}\"\n",
                case.secret()
            ),
        ),
        Auth::Certificate => (
            "{ auth = \"pubkey\", certs = \"own.pem\", id = \"a.example\" }".to_owned(),
            format!("{{ auth = \"pubkey\", id = \"b{n}.example\", cacerts = [\"root.pem\"] }}"),
            String::new(),
        ),
    };
    format!(
        "[connections.{name}]\n\
         local_addrs = [\"192.0.2.1\"]\nremote_addrs = [\"{address}\"]\n\
         proposals = [\"aes256gcm16-prfsha384-ecp384\"]\n\
         local = {local}\nremote = {remote}\n\
         [connections.{name}.children.net]\n\
         local_ts = [\"10.1.{n}.0/24\"]\nremote_ts = [\"10.2.{n}.0/24\"]\nesp_proposals = [\"aes256gcm16\"]\n{secrets}"
    )
    .parse()
    .unwrap()
}

/// What is right on strongSwan's side; `secret` is that of the case.
pub(crate) fn theirs(case: &Case) -> Settings {
    let (n, address) = (case.number, case.address());
    let mut settings: Vec<(&str, String)> = vec![
        ("version", "2".into()),
        ("local_addrs", address),
        ("remote_addrs", "192.0.2.1".into()),
        ("proposals", "aes256gcm16-prfsha384-ecp384".into()),
        ("children.net.local_ts", format!("10.2.{n}.0/24")),
        ("children.net.remote_ts", format!("10.1.{n}.0/24")),
        ("children.net.esp_proposals", "aes256gcm16".into()),
    ];
    match case.auth {
        Auth::Psk => settings.extend([
            ("local.auth", "psk".into()),
            ("local.id", format!("b{n}.example")),
            ("remote.auth", "psk".into()),
            ("remote.id", format!("a{n}.example")),
            ("secret", format!("\"{}\"", case.secret())),
        ]),
        Auth::Certificate => settings.extend([
            ("local.auth", "pubkey".into()),
            ("local.id", format!("b{n}.example")),
            ("local.certs", format!("own{n}.pem")),
            ("remote.auth", "pubkey".into()),
            ("remote.id", "a.example".into()),
            ("remote.cacerts", "root.pem".into()),
        ]),
    }
    settings.into_iter().map(|(path, value)| (path.to_owned(), value)).collect()
}

/// Sets a value of our configuration by its path and TOML text; tables on the way are made.
pub(crate) fn set(document: &mut DocumentMut, section: &str, key: &str, value: &str) -> Result<(), String> {
    let value: Value = value.parse().map_err(|error| format!("`{value}` is no TOML: {error}"))?;
    let mut table: &mut dyn toml_edit::TableLike = document.as_table_mut();
    for word in section.split('.') {
        // The tables of all cases stand in one file, where `[pools]` may be written once.
        let implicit = || {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        };
        let item = table.entry(word).or_insert_with(implicit);
        table = item.as_table_like_mut().ok_or_else(|| format!("{section}: `{word}` is no table"))?;
    }
    table.insert(key, Item::Value(value));
    Ok(())
}

/// Our configuration of all cases.
pub(crate) fn toml(cases: &[Case]) -> String {
    let mut text = "[ike]\nretransmit_timeout = \"1s\"\nretransmit_base = 1.0\nretransmit_tries = 1\n\
                    half_open_timeout = \"5s\"\n"
        .to_owned();
    for case in cases {
        let _ = writeln!(text, "{}", case.ours);
    }
    text
}

/// strongSwan's configuration of its cases.
pub(crate) fn swanctl<'c>(cases: impl Iterator<Item = &'c Case>) -> String {
    let (mut connections, mut secrets) = (String::new(), String::new());
    for case in cases {
        let name = case.name();
        let _ = writeln!(connections, "{name} {{");
        section(&mut connections, &case.theirs, &name, "");
        connections.push_str("}\n");
        if let Some(secret) = case.theirs.get("secret") {
            let n = case.number;
            let (local, remote) = (id(case, "local.id", 'b'), id(case, "remote.id", 'a'));
            let _ = writeln!(
                secrets,
                "ike-{n} {{\n id-1 = {local}\n id-2 = {remote}\n id-3 = a{n}.example\n id-4 = b{n}.example\n secret = {secret}\n}}"
            );
        }
    }
    format!("connections {{\n{connections}}}\nsecrets {{\n{secrets}}}\n")
}

fn id(case: &Case, path: &str, default: char) -> String {
    case.theirs.get(path).cloned().unwrap_or_else(|| format!("{default}{}.example", case.number))
}

/// The settings below a path, with braces for what lies deeper. Children are called `CASE-net`, because `swanctl --initiate`
/// finds them by name alone.
fn section(out: &mut String, settings: &Settings, name: &str, below: &str) {
    let mut sections: Vec<&str> = Vec::new();
    for (path, value) in settings {
        let Some(rest) = path.strip_prefix(below) else { continue };
        match rest.split_once('.') {
            Some((word, _)) if !sections.contains(&word) => sections.push(word),
            Some(_) => {}
            None if rest == "secret" => {}
            None => _ = writeln!(out, "{rest} = {value}"),
        }
    }
    for word in sections {
        let shown = if below == "children." { format!("{name}-{word}") } else { word.to_owned() };
        let _ = writeln!(out, "{shown} {{");
        section(out, settings, name, &format!("{below}{word}."));
        out.push_str("}\n");
    }
}
