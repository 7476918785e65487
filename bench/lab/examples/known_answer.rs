//! Makes the known answers of `control/ike/tests/data/strongswan-*.json`: two strongSwans negotiate with each other,
//! and what they log of their secrets is put beside what they sent. Run as root:
//!
//!     cargo run -p portcullis-lab --example known_answer -- aes256gcm16-prfsha384-ecp384 aes256gcm16 > FILE

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis_lab::{Capture, Class, Direction, Host, Lab, LabError, Result, StrongSwan};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const PSK: &str = "a pre-shared key of no value";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(ike), Some(esp)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: known_answer IKE_PROPOSAL ESP_PROPOSAL");
        std::process::exit(2);
    };
    let lab = Lab::new("known")?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    lab.link(&a, "eth0", &b, "eth0")?;
    a.address("eth0", "192.0.2.1/24")?;
    b.address("eth0", "192.0.2.2/24")?;
    // Routes into the tunnel want an address of their own within it.
    a.address("lo", "10.1.0.1/32")?;
    b.address("lo", "10.2.0.1/32")?;
    let responder =
        start(&b, &ike, &esp, ["192.0.2.2", "192.0.2.1"], ["b.example", "a.example"], ["10.2", "10.1"])?;
    let wire = Capture::start(&a, "eth0", &[])?;
    let initiator =
        start(&a, &ike, &esp, ["192.0.2.1", "192.0.2.2"], ["a.example", "b.example"], ["10.1", "10.2"])?;
    initiator.initiate("net", PATIENCE)?;
    wire.settle()?;
    let messages: Vec<Value> = wire.matching(|frame| frame.class == Class::Ike).iter().map(message).collect();
    let answer = json!({
        "source": "strongSwan 5.9.8 talking to itself; bench/lab/examples/known_answer.rs",
        "proposals": { "ike": ike, "esp": esp },
        "psk": PSK,
        "messages": messages,
        "secrets": secrets(&a)?,
    });
    println!("{answer:#}");
    drop((initiator, responder));
    Ok(())
}

fn start(
    host: &Host,
    ike: &str,
    esp: &str,
    addrs: [&str; 2],
    ids: [&str; 2],
    nets: [&str; 2],
) -> Result<StrongSwan> {
    let connections = format!(
        "connections {{ site {{\n local_addrs = {}\n remote_addrs = {}\n proposals = {ike}\n version = 2\n \
         local {{ auth = psk\n id = {} }}\n remote {{ auth = psk\n id = {} }}\n \
         children {{ net {{\n local_ts = {}.0.0/16\n remote_ts = {}.0.0/16\n esp_proposals = {esp}\n }} }} }} }}\n\
         secrets {{ ike-site {{ secret = \"{PSK}\" }} }}\n",
        addrs[0], addrs[1], ids[0], ids[1], nets[0], nets[1]
    );
    let log = host.dir().join("secrets");
    let settings =
        format!("filelog {{ f {{ path = {}\n ike = 4\n chd = 4\n flush_line = yes }} }}", log.display());
    StrongSwan::start_with(host, &connections, &settings)
}

/// The UDP payload of an IPv4 frame, without a non-ESP marker.
fn message(frame: &portcullis_lab::Frame) -> Value {
    const HEADERS: usize = 14 + 20 + 8;
    let payload = frame.bytes.get(HEADERS..).unwrap_or_default();
    let payload = payload.strip_prefix(&[0; 4]).unwrap_or(payload);
    let from = if frame.direction == Direction::Out { "initiator" } else { "responder" };
    json!({ "from": from, "octets": hex(payload) })
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// What is kept of the initiator's log.
const KEPT: [&str; 11] = [
    "shared Diffie Hellman secret",
    "SKEYSEED",
    "Sk_d secret",
    "Sk_ai secret",
    "Sk_ar secret",
    "Sk_ei secret",
    "Sk_er secret",
    "Sk_pi secret",
    "Sk_pr secret",
    "encryption initiator key",
    "encryption responder key",
];
const AUTH: &str = "AUTH = prf(prf(secret, keypad), octets)";

/// What charon logs as `NAME => N bytes`, by name, followed by lines of sixteen octets: once for most, twice for AUTH,
/// ours first.
fn secrets(host: &Host) -> Result<BTreeMap<String, Vec<String>>> {
    let path = host.dir().join("secrets");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| LabError::Io { what: format!("read {}", path.display()), source })?;
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        // `Nov 23 12:00:00 05[IKE] <1> SKEYSEED => 48 bytes @ 0x7f…`
        let content = line.split_once("] ").map_or("", |(_, content)| content);
        let content =
            content.split_once("> ").filter(|_| content.starts_with('<')).map_or(content, |(_, rest)| rest);
        if let Some((name, _)) = content.split_once(" => ") {
            current =
                KEPT.contains(&name).then(|| name.to_owned()).or((name == AUTH).then(|| "AUTH".to_owned()));
            if let Some(name) = &current {
                found.entry(name.clone()).or_default().push(String::new());
            }
        } else if let Some((_, octets)) =
            content.split_once(": ").filter(|(offset, _)| offset.trim().parse::<u32>().is_ok())
        {
            // The octets, two spaces, and the same as text.
            let octets = octets.split("  ").next().unwrap_or_default().replace(' ', "").to_lowercase();
            let last =
                current.as_ref().and_then(|name| found.get_mut(name)).and_then(|values| values.last_mut());
            if let Some(last) = last {
                last.push_str(&octets);
            }
        } else {
            current = None;
        }
    }
    Ok(found)
}
