//! CHILD SAs of single workers (RFC 9611), against a small IKEv2 and ESP in Python, made from the RFCs: strongSwan 5.9.8 has
//! none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_lab::{Gateway, GatewayConfig, LinkOptions, Result, Scapy, SiteConfig, Sites};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const PYTHON: &str = include_str!("peers/ikev2.py");

// As IANA's registry has them.
const NO_PROPOSAL_CHOSEN: u16 = 14;
const TS_MAX_QUEUE: u16 = 48;
const SA_RESOURCE_INFO: u16 = 16444;

/// Flows, and packets of each. Which queue a flow has, the kernel's hash decides.
const FLOWS: usize = 24;
const PACKETS: usize = 20;

/// A client whose sockets each have their own flow, and send in turn. Arguments: where to, how many, packets of each.
const FLOOD: &str = "
import socket, struct, sys, time
flows = []
for port in range(int(sys.argv[2])):
    flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    flow.bind(('', 20000 + port))
    flows.append(flow)
for number in range(int(sys.argv[3])):
    for flow in flows:
        flow.sendto(struct.pack('!I', number), (sys.argv[1], 9))
    time.sleep(0.002)
";

fn ours(per_cpu_sas: &str, start_action: &'static str) -> (SiteConfig, String) {
    let one = |texts: &[String]| texts.iter().take(1).cloned().collect();
    let site = SiteConfig::a();
    let site = SiteConfig {
        proposals: "aes256gcm16-prfsha256-x25519".into(),
        esp_proposals: "aes256gcm16".into(),
        local_ts: one(&site.local_ts),
        remote_ts: one(&site.remote_ts),
        start_action,
        ..site
    };
    let toml = site.toml().replace("start_action", &format!("per_cpu_sas = {per_cpu_sas}\nstart_action"));
    (site, toml)
}

/// Two sites with a gateway of two workers, and interfaces of two queues; the peer is on the other gateway.
fn sites(name: &str) -> Result<(Sites, Scapy)> {
    let sites = Sites::with(name, LinkOptions { queues: 2, ..LinkOptions::default() })?;
    let peer = Scapy::start(&sites.b, PYTHON)?;
    Ok((sites, peer))
}

fn start(sites: &Sites, toml: String) -> Result<Gateway> {
    let config = GatewayConfig { workers: vec![0, 1], ..GatewayConfig::new(toml) };
    Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)
}

fn flood(sites: &Sites) -> Result<()> {
    let (flows, packets) = (FLOWS.to_string(), PACKETS.to_string());
    let to = Sites::SERVER.to_string();
    sites.client.run(["/usr/bin/python3", "-c", FLOOD, &to, &flows, &packets])?;
    Ok(())
}

/// What came through the tunnels.
struct Opened {
    /// Packets, by our SPI at the peer.
    by_spi: BTreeMap<String, u64>,
    /// The SPIs of each flow.
    by_flow: BTreeMap<u64, BTreeSet<String>>,
}

/// All that was sent came, each flow and each SA in order.
fn opened(peer: &mut Scapy) -> Result<Opened> {
    let found = peer.call("opened", &json!({ "quiet": 1 }))?;
    let found: Vec<(String, u64, u64, u64)> = serde_json::from_value(found).unwrap_or_default();
    assert_eq!(found.len(), FLOWS * PACKETS);
    let (mut by_spi, mut by_flow) = (BTreeMap::new(), BTreeMap::<u64, BTreeSet<String>>::new());
    let (mut sequence, mut next) = (BTreeMap::new(), BTreeMap::new());
    for (spi, number, flow, packet) in found {
        let last = sequence.insert(spi.clone(), number);
        assert!(last.is_none_or(|last| last < number), "SA {spi}: {number} after {last:?}");
        let expected = next.insert(flow, packet + 1).unwrap_or(0);
        assert_eq!(packet, expected, "flow {flow}");
        *by_spi.entry(spi.clone()).or_insert(0) += 1;
        by_flow.entry(flow).or_default().insert(spi);
    }
    Ok(Opened { by_spi, by_flow })
}

fn data_of(said: &Value, kind: u16) -> Option<String> {
    let all = said["notifies"].as_array()?;
    all.iter().find(|notify| notify[0] == kind)?[1].as_str().map(str::to_owned)
}

fn text(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default().to_owned();
    assert!(!text.is_empty(), "{value} is no text");
    text
}

#[test]
fn two_queues_are_sealed_by_two_workers_with_an_sa_each() -> Result<()> {
    let (sites, mut peer) = sites("percpu")?;
    let (site, toml) = ours("true", "start");
    peer.call("listen", &json!({ "local": site.remote, "remote": site.local }))?;
    let gateway = start(&sites, toml)?;
    let info = json!([[SA_RESOURCE_INFO, "", 0]]);
    let first = peer.call(
        "let_in",
        &json!({ "local": site.remote, "us": site.remote_id, "secret": site.secret, "more": info }),
    )?;
    assert_eq!(data_of(&first, SA_RESOURCE_INFO).as_deref(), Some(""), "that of all names no resource");
    gateway.wait_children("up", SOON, |children| children.len() == 1)?;

    // A worker that would hand its packets to the other asks.
    flood(&sites)?;
    let second = peer.call("answer_child", &json!({ "more": info, "refuse": null }))?;
    assert_eq!(
        data_of(&second, SA_RESOURCE_INFO).as_deref(),
        Some(""),
        "nor is the worker named (RFC 9611 §7)"
    );
    let children = gateway.wait_children("one more", SOON, |children| children.len() == 2)?;
    let whose: Vec<_> = children.iter().filter_map(|child| child.resource.as_deref()).collect();
    assert!(matches!(whose[..], ["shared", "worker 0" | "worker 1"]), "{whose:?}");
    let before = opened(&mut peer)?;
    assert_eq!(before.by_spi.keys().cloned().collect::<Vec<_>>(), [text(&first["spi"])]);

    flood(&sites)?;
    let after = opened(&mut peer)?;
    let both = BTreeSet::from([text(&first["spi"]), text(&second["spi"])]);
    assert_eq!(after.by_spi.keys().cloned().collect::<BTreeSet<_>>(), both);
    assert!(after.by_flow.values().all(|spis| spis.len() == 1), "a flow on two SAs: {:?}", after.by_flow);
    for child in gateway.wait_children("as before", SOON, |children| children.len() == 2)? {
        let sealed = |opened: &Opened| opened.by_spi.get(&child.spi_out).copied().unwrap_or(0);
        assert_eq!(child.packets_out, sealed(&before) + sealed(&after), "{child:?}");
    }

    // Either is opened, whichever worker it comes to.
    for spi in &both {
        let (src, dst) = (Sites::SERVER.to_string(), Sites::CLIENT.to_string());
        peer.call("send", &json!({ "spi": spi, "src": src, "dst": dst, "count": 5 }))?;
    }
    gateway.wait_children("opened", SOON, |children| children.iter().all(|child| child.packets_in == 5))?;
    let deadline = Instant::now() + SOON;
    while gateway.status()?.packets.in_flight() != 0 {
        assert!(Instant::now() < deadline, "{:?}", gateway.status()?.packets);
    }

    // Without the first there is none.
    let deleted = peer.call("delete_child", &json!({ "spi": first["spi"] }))?;
    let theirs: Vec<&str> = children.iter().map(|child| child.spi_in.as_str()).collect();
    assert_eq!((&deleted["gone"], &deleted["more"]), (&json!([theirs[0]]), &json!([theirs[1]])));
    Ok(())
}

#[test]
fn a_peer_that_wants_no_more_leaves_the_tunnel_as_it_is() -> Result<()> {
    let (sites, mut peer) = sites("maxqueue")?;
    let (site, toml) = ours("true", "start");
    peer.call("listen", &json!({ "local": site.remote, "remote": site.local }))?;
    let gateway = start(&sites, toml)?;
    let info = json!([[SA_RESOURCE_INFO, "", 0]]);
    let us = json!({ "local": site.remote, "us": site.remote_id, "secret": site.secret, "more": info });
    let first = peer.call("let_in", &us)?;
    gateway.wait_children("up", SOON, |children| children.len() == 1)?;
    let from = gateway.process().mark();
    flood(&sites)?;
    peer.call("answer_child", &json!({ "more": [], "refuse": TS_MAX_QUEUE }))?;
    gateway.wait_log(from, "TS_MAX_QUEUE", SOON)?;
    opened(&mut peer)?;
    flood(&sites)?;
    let after = opened(&mut peer)?;
    assert_eq!(after.by_spi.keys().cloned().collect::<Vec<_>>(), [text(&first["spi"])]);
    Ok(())
}

#[test]
fn a_peer_gets_as_many_as_the_configuration_allows() -> Result<()> {
    let (sites, mut peer) = sites("answers")?;
    let (site, toml) = ours("2", "none");
    let gateway = start(&sites, toml)?;
    let info = json!([[SA_RESOURCE_INFO, "", 0]]);
    let ts = json!([site.remote_ts[0], site.local_ts[0]]);
    let first = peer.call(
        "begin_with_child",
        &json!({
            "local": site.remote, "remote": site.local, "us": site.remote_id, "them": site.local_id,
            "secret": site.secret, "ts": ts, "more": info,
        }),
    )?;
    assert_eq!(data_of(&first, SA_RESOURCE_INFO).as_deref(), Some(""));
    // As whoever names the packet that it is about (RFC 7296 §2.9) or the whole: the selectors are those of the first.
    let named = json!([[SA_RESOURCE_INFO, "cafe", 0]]);
    let other = peer.call("ask_child", &json!({ "ts": ts, "more": named, "bits": 128 }))?;
    assert_eq!(other["notifies"], json!([[NO_PROPOSAL_CHOSEN, "", 0]]));
    let mut spis = vec![text(&first["spi"])];
    for _worker in 0..2 {
        let more = peer.call("ask_child", &json!({ "ts": ts, "more": named, "bits": 256 }))?;
        assert_eq!(data_of(&more, SA_RESOURCE_INFO).as_deref(), Some(""));
        spis.push(text(&more["spi"]));
    }
    // RFC 9611 §6: not NO_ADDITIONAL_SAS, which would be about every child.
    let refused = peer.call("ask_child", &json!({ "ts": ts, "more": named, "bits": 256 }))?;
    assert_eq!(refused["notifies"], json!([[TS_MAX_QUEUE, "", 0]]));
    let children = gateway.wait_children("three", SOON, |children| children.len() == 3)?;
    let whose: Vec<_> = children.iter().filter_map(|child| child.resource.as_deref()).collect();
    assert_eq!(whose, ["shared", "worker 0", "worker 1"]);
    let printed = gateway.portcullis(&["sas"])?.stdout;
    assert!(printed.contains("ESP:aes256gcm16, worker 1"), "{printed}");

    // Now each worker has its own, and nothing goes by the first.
    flood(&sites)?;
    let after = opened(&mut peer)?;
    assert_eq!(after.by_spi.keys().collect::<BTreeSet<_>>(), spis[1..].iter().collect());
    assert!(after.by_flow.values().all(|spis| spis.len() == 1), "{:?}", after.by_flow);
    assert_eq!(gateway.status()?.packets.handed_over, 0, "no packet went from one worker to the other");
    Ok(())
}
