//! From swanctl.conf's sections to a draft. Most options have the same name here and there; this file knows the rest:
//! rounds of authentication, secrets, directories, and which options no tunnel can do without.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use portcullis_ike::proposal::{EspProposal, IkeProposal};

use super::draft::{Draft, Table, Weight, list, scalar, text};
use super::settings::{Section, Setting};
use super::{Note, Outcome, Surroundings};

/// What we do always, or what says what we do anyway.
const SILENT: &[(&str, &[&str])] = &[
    ("aggressive", &["no"]),
    ("reauth_time", &["0", "0s"]),
    ("ipcomp", &["no"]),
    ("mode", &["tunnel"]),
    ("policies", &["yes"]),
    ("hw_offload", &["no"]),
    ("per_cpu_sas", &["no"]),
    ("hostaccess", &["yes", "no"]),
    ("dpd_action", &["clear", "none"]),
    ("close_action", &["none"]),
    ("round", &["0", "1"]),
    ("send_certreq", &["yes"]),
    ("send_cert", &["ifasked", "always"]),
    ("mediation", &["no"]),
    ("sha256_96", &["no"]),
];

/// Options of a connection or child without which it would be another one.
const ESSENTIAL: &[&str] = &[
    "version",
    "local_addrs",
    "remote_addrs",
    "local_ts",
    "remote_ts",
    "mode",
    "vips",
    "pools",
    "ppk_required",
    "policies",
    "if_id_in",
    "if_id_out",
    "mark_in",
    "mark_out",
    "sha256_96",
    "ah_proposals",
    "label",
    "local_port",
    "remote_port",
];

/// Options of an authority that hold no list.
const AUTHORITY: &[&str] = &["cacert", "file", "handle", "slot", "module", "cert_uri_base"];

/// Options that put a child's SAs under an XFRM interface.
const IF_IDS: [&str; 2] = ["if_id_in", "if_id_out"];

/// Options that hold lists.
const LISTS: &[&str] =
    &["local_addrs", "remote_addrs", "local_ts", "remote_ts", "vips", "pools", "groups", "dns", "addrs"];

/// Options that name files, in a round of authentication.
const FILES: &[&str] = &["certs", "cacerts", "pubkeys"];

/// swanctl's directories of credentials, where there are any: the options of `[gateway]` that name them.
pub(super) fn credential_directories(swanctl: &Path) -> Vec<(&'static str, PathBuf)> {
    let names = ["x509", "x509ca", "x509crl", "private", "pubkey"];
    let directories = names.map(|name| (name, swanctl.join(name)));
    directories.into_iter().filter(|(_, directory)| directory.is_dir()).collect()
}

/// `[gateway]`, of which strongSwan's files say nothing.
pub(super) fn head(
    directories: &[(&'static str, PathBuf)],
    surroundings: &Surroundings,
    notes: &mut Vec<Note>,
) -> String {
    let mut head = String::from(
        "# Imported. Read it before you use it; `portcullis check` looks it through.\n#\n\
         # Other than strongSwan, Portcullis blocks what a child protects for as long as its tunnel is down, whatever\n\
         # its start_action. Traffic that does not match any child passes by the kernel as before.\n\n[gateway]\n",
    );
    for (key, directory) in directories {
        let directory = directory.canonicalize().unwrap_or_else(|_| directory.clone());
        _ = writeln!(head, "{key} = {}", text(&directory.display().to_string()));
    }
    let roles = [("outside", &surroundings.outside), ("inside", &surroundings.inside)];
    for (role, names) in roles {
        for name in names {
            _ = writeln!(head, "\n[[gateway.interfaces]]\nname = {}\nrole = \"{role}\"", text(name));
        }
        if names.is_empty() {
            let default = format!("{role}0");
            _ = writeln!(
                head,
                "\n[[gateway.interfaces]]\nname = \"{default}\"             # to be changed\nrole = \"{role}\""
            );
            notes.push(Note {
                place: None,
                outcome: Outcome::ToDo,
                subject: "gateway.interfaces".to_owned(),
                reason: format!(
                    "name the {role} interface instead of `{default}`, or import with --{role} NAME"
                ),
            });
        }
    }
    head
}

/// Everything that strongSwan's sections hold, in our places, whether this version takes it or not.
pub(super) fn draft(root: &Section, notes: &mut Vec<Note>) -> Draft {
    let mut draft = Draft::default();
    for section in &root.sections {
        match section.name.as_str() {
            "connections" => section.sections.iter().for_each(|each| connection(&mut draft, each, notes)),
            "secrets" => section.sections.iter().for_each(|each| secret(&mut draft, each, notes)),
            "pools" => section.sections.iter().for_each(|each| lists(&mut draft, "pools", each, &["addrs"])),
            "authorities" => {
                section.sections.iter().for_each(|each| lists(&mut draft, "authorities", each, AUTHORITY));
            }
            other => notes.extend(section.sections.iter().map(|each| Note {
                place: Some(each.place.clone()),
                outcome: Outcome::LeftOut,
                subject: format!("{other}.{}", each.name),
                reason: "there is no such section here".to_owned(),
            })),
        }
    }
    draft
}

fn connection(draft: &mut Draft, section: &Section, notes: &mut Vec<Note>) {
    let path = ["connections", section.name.as_str()];
    let mut table = Table::new(&path, 2, section.place.clone());
    let device = device(section);
    if let Some((name, if_id)) = &device {
        table.carry("interface", if_id, Weight::Essential, vec![text(name)]);
        notes.push(Note {
            place: Some(if_id.place.clone()),
            outcome: Outcome::ToDo,
            subject: format!("connections.{}.interface = {name}", section.name),
            reason: format!(
                "Portcullis makes the device itself: remove the XFRM interface with if_id {} (`ip -d link show type xfrm`), and \
                 give its routes, addresses and VRF to {name}, or its name to `interface`",
                if_id.value
            ),
        });
    }
    let carried = if device.is_some() { IF_IDS } else { [""; 2] };
    options(&mut table, section, &carried, notes);
    draft.tables.push(table);
    for (end, key) in [("local", "local"), ("remote", "remote")] {
        rounds(draft, section, end, key, notes);
    }
    let children = section.section("children").map_or(&[][..], |children| &children.sections);
    for child in children {
        let path = ["connections", section.name.as_str(), "children", child.name.as_str()];
        let mut table = Table::new(&path, 4, child.place.clone());
        options(&mut table, child, &carried, notes);
        draft.tables.push(table);
    }
    for other in &section.sections {
        if other.name != "children" && !other.name.starts_with("local") && !other.name.starts_with("remote") {
            notes.push(Note {
                place: Some(other.place.clone()),
                outcome: Outcome::LeftOut,
                subject: format!("connections.{}.{}", section.name, other.name),
                reason: "there is no such section here".to_owned(),
            });
        }
    }
}

/// The device of a connection whose children all belong to one XFRM interface, both ways, and where that is said.
fn device(section: &Section) -> Option<(String, Setting)> {
    let children = section.section("children").map_or(&[][..], |children| &children.sections);
    let number = |setting: &Setting| {
        let text = setting.value.as_str();
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.ok().filter(|number| *number != 0)
    };
    let mut found: Option<(u32, &Setting)> = None;
    for child in children {
        for key in IF_IDS {
            let setting = child.get(key).or_else(|| section.get(key))?;
            let number = number(setting)?;
            if found.get_or_insert((number, setting)).0 != number {
                return None;
            }
        }
    }
    let (number, setting) = found?;
    Some((format!("ipsec{number}"), Setting { value: number.to_string(), ..setting.clone() }))
}

/// What a connection, or a child, says, but for keys that are carried over already.
fn options(table: &mut Table, section: &Section, carried: &[&str], notes: &mut Vec<Note>) {
    let wanted = |setting: &&Setting| !is_silent(setting) && !carried.contains(&setting.key.as_str());
    for setting in section.settings.iter().filter(wanted) {
        let key = setting.key.as_str();
        let weight = if ESSENTIAL.contains(&key) { Weight::Essential } else { Weight::Optional };
        let forms = match key {
            "proposals" => proposals::<IkeProposal>(table, setting, notes),
            "esp_proposals" => proposals::<EspProposal>(table, setting, notes),
            // `trap|start` starts, and traps when it has ended; we do so after `start` alone.
            "start_action" if setting.value.contains('|') => Some(vec![text("start")]),
            key if LISTS.contains(&key) => Some(vec![list(&setting.value)]),
            _ => Some(scalar(&setting.value)),
        };
        if let Some(forms) = forms {
            table.carry(key, setting, weight, forms);
        }
    }
}

fn is_silent(setting: &Setting) -> bool {
    let silent = |(key, values): &(&str, &[&str])| {
        *key == setting.key && values.contains(&setting.value.to_ascii_lowercase().as_str())
    };
    setting.value.is_empty() || SILENT.iter().any(silent)
}

/// The proposals of a list that are known here; the others are named. `None` if none is left: the defaults count then.
fn proposals<P: FromStr<Err: ToString>>(
    table: &mut Table,
    setting: &Setting,
    notes: &mut Vec<Note>,
) -> Option<Vec<String>> {
    let mut kept = Vec::new();
    for proposal in setting.value.split(',').map(str::trim).filter(|proposal| !proposal.is_empty()) {
        match proposal.parse::<P>().map_err(|error| error.to_string()) {
            Err(reason) if proposal != "default" => {
                table.remarks.push(format!("not carried over: {}: {proposal}", setting.key));
                notes.push(Note {
                    place: Some(setting.place.clone()),
                    outcome: Outcome::Dropped,
                    subject: format!("{}.{} = {proposal}", table.name(), setting.key),
                    reason,
                });
            }
            _ => kept.push(proposal),
        }
    }
    if kept.is_empty() {
        table.remarks.push(format!("{}: none that is known here, so the defaults are used", setting.key));
        return None;
    }
    Some(vec![list(&kept.join(","))])
}

/// `local`, `local-1`, `local1`, …: in the order of `round`, then of their names.
fn rounds(draft: &mut Draft, section: &Section, end: &str, key: &str, notes: &mut Vec<Note>) {
    let mut rounds: Vec<&Section> =
        section.sections.iter().filter(|round| round.name.starts_with(end)).collect();
    let order = |round: &&Section| round.get("round").and_then(|round| round.value.parse::<u32>().ok());
    rounds.sort_by_key(|round| (order(round).unwrap_or(0), round.name.clone()));
    let repeated = rounds.len() > 1;
    for round in rounds {
        let mut table = Table::new(&["connections", &section.name, key], 2, round.place.clone());
        table.repeated = repeated;
        if round.get("auth").is_none() {
            // The default, whatever the certificates say.
            let place = round.place.clone();
            let setting = Setting { key: "auth".to_owned(), value: "pubkey".to_owned(), place };
            table.carry("auth", &setting, Weight::Essential, vec![text("pubkey")]);
        }
        for setting in round.settings.iter().filter(|setting| !is_silent(setting) && setting.key != "round") {
            let (weight, forms) = match setting.key.as_str() {
                key if FILES.contains(&key) => (Weight::File, vec![list(&setting.value)]),
                key if LISTS.contains(&key) => (Weight::Essential, vec![list(&setting.value)]),
                "id" => (Weight::Essential, vec![text(&setting.value)]),
                _ => (Weight::Essential, scalar(&setting.value)),
            };
            table.carry(&setting.key, setting, weight, forms);
        }
        tokens(&mut table, round, notes);
        draft.tables.push(table);
    }
}

/// `cert { file = … }` and `cacert { file = … }`; those of smart cards are not to be had.
fn tokens(table: &mut Table, round: &Section, notes: &mut Vec<Note>) {
    for (section, key) in [("cert", "certs"), ("cacert", "cacerts")] {
        for cert in round.sections.iter().filter(|each| each.name.starts_with(section)) {
            match cert.get("file") {
                Some(file) => table.carry(key, file, Weight::File, vec![list(&file.value)]),
                None => notes.push(Note {
                    place: Some(cert.place.clone()),
                    outcome: Outcome::Dropped,
                    subject: format!("{}.{}", table.name(), cert.name),
                    reason: "certificates on tokens are not supported (expected `file`)".to_owned(),
                }),
            }
        }
    }
}

/// `ike-…`, `eap-…`, `ppk-…`, and files of private keys.
fn secret(draft: &mut Draft, section: &Section, notes: &mut Vec<Note>) {
    let files = ["rsa", "ecdsa", "pkcs8", "private"];
    let kind = section.name.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    let name = match files.contains(&kind) && kind != "private" {
        true => format!("private-{}", section.name),
        false => section.name.clone(),
    };
    let mut table = Table::new(&["secrets", &name], 2, section.place.clone());
    let ids: Vec<&Setting> = section.settings.iter().filter(|each| each.key.starts_with("id")).collect();
    if let Some(first) = ids.first() {
        let values: Vec<&str> = ids.iter().map(|id| id.value.as_str()).collect();
        // A distinguished name has commas.
        let array = values.iter().copied().collect::<toml_edit::Array>().to_string();
        match (kind, values.as_slice()) {
            ("eap" | "xauth" | "ntlm" | "ppk", [one]) => {
                table.carry("id", first, Weight::Essential, vec![text(one)]);
            }
            ("eap", _) => table.carry("id", first, Weight::Essential, vec![array]),
            _ => table.carry("ids", first, Weight::Essential, vec![array]),
        }
    }
    for setting in section.settings.iter().filter(|each| !each.key.starts_with("id")) {
        match setting.key.as_str() {
            // Nor may it stand in a remark.
            "secret" => {
                let hidden = Setting { value: "…".to_owned(), ..setting.clone() };
                table.carry("secret", &hidden, Weight::Essential, vec![text(&setting.value)]);
            }
            "file" => table.carry("file", setting, Weight::File, vec![text(&setting.value)]),
            key => table.carry(key, setting, Weight::Optional, scalar(&setting.value)),
        }
    }
    if matches!(kind, "token" | "pkcs12" | "ntlm" | "xauth") {
        notes.push(Note {
            place: Some(section.place.clone()),
            outcome: Outcome::LeftOut,
            subject: format!("secrets.{}", section.name),
            reason: format!("secrets of the kind `{kind}` are not supported"),
        });
        return;
    }
    draft.tables.push(table);
}

/// A section of lists, but for some keys that have one value each; without the first of those it would be another one.
fn lists(draft: &mut Draft, kind: &str, section: &Section, single: &[&str]) {
    let mut table = Table::new(&[kind, &section.name], 2, section.place.clone());
    for setting in section.settings.iter().filter(|setting| !is_silent(setting)) {
        let (weight, forms) = match single.iter().position(|key| *key == setting.key) {
            Some(0) => (Weight::Essential, vec![text(&setting.value)]),
            Some(_) => (Weight::Optional, vec![text(&setting.value)]),
            None => (Weight::Optional, vec![list(&setting.value)]),
        };
        table.carry(&setting.key, setting, weight, forms);
    }
    draft.tables.push(table);
}
