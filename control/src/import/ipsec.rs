//! ipsec.conf and ipsec.secrets, strongSwan's and libreswan's, as the sections that swanctl.conf would have.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::settings::{Place, Section, Setting, matching};
use super::{ImportError, Note, Outcome};

/// Files included in files included in files; sections that take over others.
const MAX_DEPTH: usize = 16;

/// Options without effect on IKEv2, or on the wire.
const SILENT: &[&str] = &[
    "keyexchange",
    "ikev2",
    "auto",
    "authby",
    "type",
    "reauth",
    "rekey",
    "also",
    "margintime",
    "rekeymargin",
    "rekeyfuzz",
    "ikelifetime",
    "lifetime",
    "keylife",
    "salifetime",
    "dpdtimeout",
    "modeconfig",
    "aggressive",
    "leftnexthop",
    "rightnexthop",
    "lefthostaccess",
    "righthostaccess",
    "rightsendcert",
    "leftsubnet",
    "rightsubnet",
    "leftsubnets",
    "rightsubnets",
    "leftprotoport",
    "rightprotoport",
    "leftauth",
    "rightauth",
    "eap_identity",
    "aaa_identity",
    "rightsourceip",
    "rightaddresspool",
    "rightdns",
    "leftsourceip",
];

/// Options that only have another name in swanctl.conf, and which section they are in.
const RENAMED: &[(&str, Target, &str)] = &[
    ("left", Target::Connection, "local_addrs"),
    ("right", Target::Connection, "remote_addrs"),
    ("leftid", Target::Local, "id"),
    ("rightid", Target::Remote, "id"),
    ("leftcert", Target::Local, "certs"),
    ("rightcert", Target::Remote, "certs"),
    ("leftsigkey", Target::Local, "pubkeys"),
    ("rightsigkey", Target::Remote, "pubkeys"),
    ("rightca", Target::Remote, "ca_id"),
    ("rightgroups", Target::Remote, "groups"),
    ("rightcertpolicy", Target::Remote, "cert_policy"),
    ("leftauth2", Target::Local2, "auth"),
    ("leftid2", Target::Local2, "id"),
    ("leftcert2", Target::Local2, "certs"),
    ("rightauth2", Target::Remote2, "auth"),
    ("rightid2", Target::Remote2, "id"),
    ("rightcert2", Target::Remote2, "certs"),
    ("rightca2", Target::Remote2, "ca_id"),
    ("rightgroups2", Target::Remote2, "groups"),
    ("leftrsasigkey", Target::Local, "rsasigkey"),
    ("rightrsasigkey", Target::Remote, "rsasigkey"),
    ("leftsendcert", Target::Connection, "send_cert"),
    ("ike", Target::Connection, "proposals"),
    ("esp", Target::Child, "esp_proposals"),
    ("phase2alg", Target::Child, "esp_proposals"),
    ("ah", Target::Child, "ah_proposals"),
    ("dpddelay", Target::Connection, "dpd_delay"),
    ("forceencaps", Target::Connection, "encap"),
    ("encapsulation", Target::Connection, "encap"),
    ("mobike", Target::Connection, "mobike"),
    ("enable-tcp", Target::Connection, "tcp"),
    ("tcp-remoteport", Target::Connection, "tcp_port"),
    ("fragmentation", Target::Connection, "fragmentation"),
    ("keyingtries", Target::Connection, "keyingtries"),
    ("leftikeport", Target::Connection, "local_port"),
    ("rightikeport", Target::Connection, "remote_port"),
    ("compress", Target::Child, "ipcomp"),
    ("dpdaction", Target::Child, "dpd_action"),
    ("closeaction", Target::Child, "close_action"),
    ("lifebytes", Target::Child, "life_bytes"),
    ("lifepackets", Target::Child, "life_packets"),
    ("replay_window", Target::Child, "replay_window"),
    ("replay-window", Target::Child, "replay_window"),
    ("tfc", Target::Child, "tfc_padding"),
    ("inactivity", Target::Child, "inactivity"),
    ("reqid", Target::Child, "reqid"),
    ("mark_in", Target::Child, "mark_in"),
    ("mark_out", Target::Child, "mark_out"),
    ("leftupdown", Target::Child, "updown"),
    ("installpolicy", Target::Child, "policies"),
];

#[derive(Debug, Clone, Copy)]
enum Target {
    Connection,
    Local,
    Remote,
    /// The second round (RFC 4739).
    Local2,
    Remote2,
    Child,
}

/// strongSwan's directories of credentials below `ipsec.d`, by the options of `[gateway]` that name them.
pub(super) fn credential_directories(ipsec_d: &Path) -> Vec<(&'static str, PathBuf)> {
    let names = [("x509", "certs"), ("x509ca", "cacerts"), ("x509crl", "crls"), ("private", "private")];
    let directories = names.map(|(key, name)| (key, ipsec_d.join(name)));
    directories.into_iter().filter(|(_, directory)| directory.is_dir()).collect()
}

/// Reads ipsec.conf, and the secrets: `secrets`, or ipsec.secrets beside it if that is there.
pub(super) fn read(file: &Path, secrets: Option<&Path>) -> Result<(Section, Vec<Note>), ImportError> {
    let mut conns = Vec::new();
    let mut notes = Vec::new();
    read_conf(file, &mut conns, &mut notes, 0)?;
    let place = Place { file: file.into(), line: 1 };
    let mut root = Section::new("", place.clone());
    let (mut connections, mut pools) =
        (Section::new("connections", place.clone()), Section::new("pools", place.clone()));
    for conn in conns.iter().filter(|conn| conn.name != "%default") {
        let whole = inherited(conn, &conns, 0)?;
        if whole.get("auto").is_some_and(|auto| auto.value != "ignore") {
            connections.sections.push(connection(&whole, &mut pools, &mut notes));
        } else if !conns.iter().any(|other| is_template(conn, other)) {
            notes.push(Note {
                place: Some(conn.place.clone()),
                outcome: Outcome::LeftOut,
                subject: format!("conn {}", conn.name),
                reason: "it is not loaded there either (expected e.g. `auto=add`)".to_owned(),
            });
        }
    }
    root.sections.extend([connections, pools]);
    let beside = file.with_file_name("ipsec.secrets");
    let mut keys = Section::new("secrets", place);
    match secrets {
        Some(secrets) => read_secrets(secrets, &mut keys, &mut notes, 0)?,
        None if beside.is_file() => read_secrets(&beside, &mut keys, &mut notes, 0)?,
        None => {}
    }
    root.sections.push(keys);
    Ok((root, notes))
}

fn open(file: &Path) -> Result<String, ImportError> {
    fs::read_to_string(file).map_err(|error| ImportError::Unreadable { path: file.to_path_buf(), error })
}

/// The files that an `include` means.
fn included(file: &Path, pattern: &str, place: &Place, depth: usize) -> Result<Vec<PathBuf>, ImportError> {
    let error = |problem: String| ImportError::Syntax { place: place.clone(), problem };
    if depth >= MAX_DEPTH {
        return Err(error(format!("files include each other more than {MAX_DEPTH} deep")));
    }
    let pattern = file.parent().unwrap_or(Path::new("")).join(pattern.trim_matches('"'));
    matching(&pattern).map_err(error)
}

/// Every `conn`, with its settings as they stand there.
fn read_conf(
    file: &Path,
    conns: &mut Vec<Section>,
    notes: &mut Vec<Note>,
    depth: usize,
) -> Result<(), ImportError> {
    let text = open(file)?;
    let name: Arc<Path> = file.into();
    let mut in_conn = false;
    for (number, line) in text.lines().enumerate() {
        let place = Place { file: Arc::clone(&name), line: number + 1 };
        let bare = without_comment(line).trim();
        if bare.is_empty() {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            let Some((key, value)) = bare.split_once('=') else {
                let problem = format!("`{bare}` has no `=` (expected `key=value`)");
                return Err(ImportError::Syntax { place, problem });
            };
            let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned());
            // All else in `config setup` is of the daemon: its threads, logs and ports.
            if !in_conn && (key.as_str(), value.as_str()) == ("listen-tcp", "yes") {
                notes.push(Note {
                    place: Some(place),
                    outcome: Outcome::ToDo,
                    subject: bare.to_owned(),
                    reason: "set gateway.tcp_port = 4500, and see docs/tcp.md".to_owned(),
                });
            } else if let Some(conn) = conns.last_mut().filter(|_| in_conn) {
                conn.settings.push(Setting { key, value, place });
            }
            continue;
        }
        let (word, rest) = bare.split_once(char::is_whitespace).unwrap_or((bare, ""));
        in_conn = word == "conn";
        match word {
            "conn" => conns.push(Section::new(rest.trim(), place)),
            "include" => {
                for file in included(file, rest.trim(), &place, depth)? {
                    read_conf(&file, conns, notes, depth + 1)?;
                }
            }
            "ca" => notes.push(Note {
                place: Some(place),
                outcome: Outcome::ToDo,
                subject: bare.to_owned(),
                reason:
                    "put the CA's certificate into the directory gateway.x509ca, and its CRL into x509crl"
                        .to_owned(),
            }),
            "config" | "version" => {}
            other => {
                let problem = format!(
                    "`{other}` begins no section (expected `config setup`, `conn NAME` or `ca NAME`)"
                );
                return Err(ImportError::Syntax { place, problem });
            }
        }
    }
    Ok(())
}

/// The line up to a `#` that stands outside of quotation marks, at the beginning or after a blank.
fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted && before.is_whitespace() => return line.get(..at).unwrap_or(line),
            _ => {}
        }
        before = c;
    }
    line
}

/// Whether a `conn` is there for another one to take over.
fn is_template(conn: &Section, other: &Section) -> bool {
    other.settings.iter().any(|setting| setting.key == "also" && setting.value == conn.name)
}

/// A `conn` with what it takes over: `also=`, then `%default`.
fn inherited(conn: &Section, all: &[Section], depth: usize) -> Result<Section, ImportError> {
    let mut whole = Section::new(conn.name.clone(), conn.place.clone());
    for setting in &conn.settings {
        whole.set(setting.clone());
    }
    let also = conn.settings.iter().filter(|setting| setting.key == "also");
    let mut others = Vec::new();
    for also in also {
        let error = |problem: &str| ImportError::Syntax {
            place: also.place.clone(),
            problem: format!("`also={}` {problem}", also.value),
        };
        let other = all.iter().find(|other| other.name == also.value);
        let other = other.ok_or_else(|| error("names a conn that is not there"))?;
        if depth >= MAX_DEPTH {
            return Err(error("takes over others without end"));
        }
        others.push(inherited(other, all, depth + 1)?);
    }
    others.extend(all.iter().filter(|other| other.name == "%default" && depth == 0).cloned());
    for setting in others.into_iter().flat_map(|other| other.settings) {
        if !whole.settings.iter().any(|own| own.key == setting.key) {
            whole.settings.push(setting);
        }
    }
    Ok(whole)
}

/// A `conn` as swanctl.conf would have it: a connection with one child of the same name.
fn connection(conn: &Section, pools: &mut Section, notes: &mut Vec<Note>) -> Section {
    let place = &conn.place;
    let mut connection = Section::new(conn.name.clone(), place.clone());
    let mut ends = ["local", "remote", "local-2", "remote-2"].map(|name| Section::new(name, place.clone()));
    let mut child = Section::new(conn.name.clone(), place.clone());
    let [local, remote, local_2, remote_2] = &mut ends;
    for setting in &conn.settings {
        if SILENT.contains(&setting.key.as_str()) || setting.value.is_empty() {
            continue;
        }
        let renamed = RENAMED.iter().find(|(key, ..)| *key == setting.key);
        let Some((_, target, key)) = renamed else {
            notes.push(Note {
                place: Some(setting.place.clone()),
                outcome: Outcome::Dropped,
                subject: format!("{} {} = {}", conn.name, setting.key, setting.value),
                reason: "there is no such option here".to_owned(),
            });
            continue;
        };
        let Some(value) = value_of(setting) else { continue };
        let section = match target {
            Target::Connection => &mut connection,
            Target::Local => &mut *local,
            Target::Remote => &mut *remote,
            Target::Local2 => &mut *local_2,
            Target::Remote2 => &mut *remote_2,
            Target::Child => &mut child,
        };
        section.set(Setting { key: (*key).to_owned(), value, place: setting.place.clone() });
    }
    version(conn, &mut connection);
    authentication(conn, local, remote);
    eap_identities(conn, &mut ends);
    traffic(conn, &mut child);
    addresses(conn, &mut connection, pools);
    lifetimes(conn, &mut connection, &mut child);
    let mut children = Section::new("children", place.clone());
    children.sections.push(child);
    // Without a method there is no second round there either.
    connection.sections.extend(ends.into_iter().filter(|end| end.get("auth").is_some()));
    connection.sections.push(children);
    connection
}

/// A value in swanctl's notation; `None` for one that says nothing.
fn value_of(setting: &Setting) -> Option<String> {
    let value = setting.value.trim_end_matches('!');
    match (setting.key.as_str(), value) {
        ("left" | "right", "%defaultroute" | "%any") => None,
        ("leftid" | "rightid" | "leftid2" | "rightid2", "%fromcert") => None,
        ("leftsigkey" | "rightsigkey" | "leftrsasigkey" | "rightrsasigkey", "%cert") => None,
        ("keyingtries", "%forever") => Some("0".to_owned()),
        ("dpddelay", value) => Some(value.to_owned()),
        ("enable-tcp", "yes") => Some("only".to_owned()),
        (_, value) => Some(value.to_owned()),
    }
}

/// Only IKEv1 has to be said: what this version does not speak leaves the connection out.
fn version(conn: &Section, connection: &mut Section) {
    let is = |key: &str, values: &[&str]| conn.get(key).filter(|it| values.contains(&it.value.as_str()));
    let old = is("keyexchange", &["ikev1"]).or_else(|| is("ikev2", &["no", "never"]));
    if let Some(old) = old {
        let place = old.place.clone();
        connection.set(Setting { key: "version".to_owned(), value: "1".to_owned(), place });
    }
}

fn authentication(conn: &Section, local: &mut Section, remote: &mut Section) {
    let both = conn.get("authby").map(|setting| setting.value.as_str());
    let method = match both {
        Some("secret" | "psk") => "psk",
        Some("ecdsa" | "ecdsasig") => "ecdsa",
        Some("null") => "null",
        Some(other) if other.starts_with("eap") => other,
        _ => "pubkey",
    };
    for (end, key) in [(local, "leftauth"), (remote, "rightauth")] {
        let own = conn.get(key).or_else(|| conn.get("authby"));
        let place = own.map_or(&conn.place, |own| &own.place).clone();
        let value = conn.get(key).map_or(method, |own| match own.value.as_str() {
            "secret" => "psk",
            "rsasig" => "pubkey",
            other => other,
        });
        if value == "null" {
            // libreswan takes a name beside it, which proves nothing.
            end.settings.retain(|setting| setting.key != "id");
        }
        end.set(Setting { key: "auth".to_owned(), value: value.to_owned(), place });
    }
}

/// `eap_identity` and `aaa_identity` are about whichever round is EAP.
fn eap_identities(conn: &Section, ends: &mut [Section]) {
    for end in ends.iter_mut().filter(|end| end.get("auth").is_some_and(|auth| auth.value.starts_with("eap")))
    {
        let is_local = end.name.starts_with("local");
        if let Some(user) = conn.get("eap_identity") {
            let value = match user.value.as_str() {
                // Who we are in IKE, which is what we take for it anyway.
                "%identity" if is_local => None,
                "%identity" => Some("%any"),
                value => Some(value),
            };
            let set =
                |value: &str| Setting { key: "eap_id".to_owned(), value: value.to_owned(), ..user.clone() };
            value.map(set).into_iter().for_each(|setting| end.set(setting));
        }
        if let Some(server) = conn.get("aaa_identity").filter(|_| is_local) {
            end.set(Setting { key: "aaa_id".to_owned(), ..server.clone() });
        }
    }
}

fn traffic(conn: &Section, child: &mut Section) {
    for (subnets, protocol, key) in [
        (["leftsubnet", "leftsubnets"], "leftprotoport", "local_ts"),
        (["rightsubnet", "rightsubnets"], "rightprotoport", "remote_ts"),
    ] {
        let networks = subnets.iter().find_map(|subnet| conn.get(subnet));
        let protocol = conn.get(protocol).filter(|protocol| protocol.value != "%any");
        let Some(place) = networks.or(protocol).map(|setting| setting.place.clone()) else { continue };
        let list = networks.map_or("dynamic", |networks| networks.value.trim_matches(['{', '}']));
        let networks = list.split([',', ' ']).filter(|network| !network.is_empty());
        let selectors: Vec<String> = match protocol {
            Some(protocol) => networks.map(|network| format!("{network}[{}]", protocol.value)).collect(),
            None => networks.map(str::to_owned).collect(),
        };
        child.set(Setting { key: key.to_owned(), value: selectors.join(","), place });
    }
    let words = [
        ("type", "mode", &[("passthrough", "pass"), ("reject", "drop")][..]),
        (
            "auto",
            "start_action",
            &[("route", "trap"), ("ondemand", "trap"), ("add", "none"), ("keep", "none")],
        ),
    ];
    for (key, new, values) in words {
        if let Some(setting) = conn.get(key) {
            let value = values.iter().find(|(old, _)| *old == setting.value).map(|(_, new)| *new);
            let value = value.unwrap_or(&setting.value).to_owned();
            child.set(Setting { key: new.to_owned(), value, place: setting.place.clone() });
        }
    }
}

/// Virtual addresses: those we ask for, and those we assign.
fn addresses(conn: &Section, connection: &mut Section, pools: &mut Section) {
    if let Some(asked) = conn.get("leftsourceip") {
        let value = match asked.value.as_str() {
            "%config" | "%config4" | "%modeconfig" => "0.0.0.0",
            "%config6" => "::",
            address => address,
        };
        connection.set(Setting {
            key: "vips".to_owned(),
            value: value.to_owned(),
            place: asked.place.clone(),
        });
    }
    let Some(assigned) = conn.get("rightsourceip").or_else(|| conn.get("rightaddresspool")) else { return };
    let place = assigned.place.clone();
    let name = match assigned.value.strip_prefix('%') {
        Some(named) => named.to_owned(),
        None => {
            let mut pool = Section::new(conn.name.clone(), place.clone());
            let value = assigned.value.clone();
            pool.set(Setting { key: "addrs".to_owned(), value, place: place.clone() });
            if let Some(dns) = conn.get("rightdns") {
                pool.set(Setting { key: "dns".to_owned(), ..dns.clone() });
            }
            pools.sections.push(pool);
            conn.name.clone()
        }
    };
    connection.set(Setting { key: "pools".to_owned(), value: name, place });
}

/// ipsec.conf says when an SA ends and how long before that it is replaced; swanctl.conf says when it is replaced.
fn lifetimes(conn: &Section, connection: &mut Section, child: &mut Section) {
    let margin = ["margintime", "rekeymargin"].iter().find_map(|key| seconds(&conn.get(key)?.value));
    let replaced = |life: &Setting| {
        let life = seconds(&life.value)?;
        // strongSwan's default, but never more than half.
        let margin = margin.unwrap_or(540).min(life / 2);
        Some((life - margin, margin))
    };
    let never = conn.get("rekey").filter(|rekey| rekey.value == "no");
    let set = |section: &mut Section, key: &str, value: String, place: &Place| {
        section.set(Setting { key: key.to_owned(), value, place: place.clone() });
    };
    if let Some(never) = never {
        set(connection, "rekey_time", "0".to_owned(), &never.place);
        set(child, "rekey_time", "0".to_owned(), &never.place);
    }
    if let Some((life, (rekey, over))) =
        conn.get("ikelifetime").and_then(|life| Some((life, replaced(life)?)))
    {
        let again = conn.get("reauth").is_some_and(|reauth| reauth.value == "yes");
        if never.is_none() {
            let key = if again { "reauth_time" } else { "rekey_time" };
            set(connection, key, format!("{rekey}s"), &life.place);
            set(connection, "over_time", format!("{over}s"), &life.place);
        }
    }
    let life = ["lifetime", "keylife", "salifetime"].iter().find_map(|key| conn.get(key));
    if let Some((life, (rekey, over))) = life.and_then(|life| Some((life, replaced(life)?))) {
        set(child, "life_time", format!("{}s", rekey + over), &life.place);
        if never.is_none() {
            set(child, "rekey_time", format!("{rekey}s"), &life.place);
        }
    }
}

fn seconds(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let factor = match text.get(digits.len()..)? {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// `ids : TYPE secret`, a line each.
fn read_secrets(
    file: &Path,
    keys: &mut Section,
    notes: &mut Vec<Note>,
    depth: usize,
) -> Result<(), ImportError> {
    let text = open(file)?;
    let name: Arc<Path> = file.into();
    for (number, line) in text.lines().enumerate() {
        let place = Place { file: Arc::clone(&name), line: number + 1 };
        let words = words(without_comment(line));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let ["include", pattern] = words.as_slice() {
            for file in included(file, pattern, &place, depth)? {
                read_secrets(&file, keys, notes, depth + 1)?;
            }
            continue;
        }
        let Some(colon) = words.iter().position(|word| *word == ":") else {
            if words.is_empty() {
                continue;
            }
            // What stands there may be a secret.
            let problem = "this line has no ` : ` (expected `ids : PSK \"secret\"`)".to_owned();
            return Err(ImportError::Syntax { place, problem });
        };
        let (ids, rest) = words.split_at(colon);
        let (kind, values) = match rest {
            [_, kind, values @ ..] => (kind.to_ascii_uppercase(), values),
            _ => (String::new(), &[][..]),
        };
        let number = keys.sections.len() + 1;
        let (prefix, key) = match kind.as_str() {
            "PSK" => ("ike", "secret"),
            "EAP" => ("eap", "secret"),
            "RSA" | "ECDSA" | "PKCS8" => ("private", "file"),
            other => {
                notes.push(Note {
                    place: Some(place),
                    outcome: Outcome::LeftOut,
                    subject: format!("a secret of the kind `{other}`"),
                    reason: "is not supported (expected PSK, EAP, RSA, ECDSA or PKCS8)".to_owned(),
                });
                continue;
            }
        };
        let mut section = Section::new(format!("{prefix}-{number}"), place.clone());
        let set = |section: &mut Section, key: String, value: &str| {
            section.set(Setting { key, value: value.to_owned(), place: place.clone() });
        };
        if prefix != "private" {
            for (at, id) in ids.iter().filter(|id| !id.starts_with("%any")).enumerate() {
                set(&mut section, format!("id-{at}"), id);
            }
        }
        for (key, value) in [key, "secret"].into_iter().zip(values) {
            set(&mut section, key.to_owned(), value);
        }
        keys.sections.push(section);
    }
    Ok(())
}

/// The words of a line; quotation marks keep blanks together, and the colon after identities is a word of its own.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = line.trim_start();
    let mut seen_colon = false;
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            quote @ ('"' | '\'') => {
                let inner = rest.get(1..).unwrap_or_default();
                inner.split_once(quote).unwrap_or((inner, ""))
            }
            _ => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        match word.strip_suffix(':').filter(|_| !seen_colon && !matches!(first, '"' | '\'')) {
            Some(id) => {
                seen_colon = true;
                words.extend((!id.is_empty()).then(|| id.to_owned()));
                words.push(":".to_owned());
            }
            None => words.push(word.to_owned()),
        }
        rest = after.trim_start();
    }
    words
}
