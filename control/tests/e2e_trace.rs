//! `portcullis trace` and `portcullis capture` on a tunnel to strongSwan; scapy reads what was captured.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, LabError, Result, Scapy, SiteConfig, Sites, StrongSwan};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(20);

fn ours() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

fn gateway(sites: &Sites, lines: &str) -> Result<Gateway> {
    let config = GatewayConfig { gateway_lines: lines.to_owned(), ..GatewayConfig::new(ours().toml()) };
    Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)
}

/// What scapy reads: by packet, its interface, its number and its layers. This scapy throws options away; they are kept
/// here as it comes by them.
const READER: &str = r#"
import struct
from scapy.all import conf, RawPcapNgReader

class Reader(RawPcapNgReader):
    def _read_options(self, options):
        rest, self.options = options, {}
        while len(rest) >= 4:
            code, length = struct.unpack("<HH", rest[:4])
            self.options[code] = rest[4:4 + length]
            rest = rest[4 + length + -length % 4:]
        return super()._read_options(options)

    def _read_block_idb(self, block, size):
        super()._read_block_idb(block, size)
        self.names = getattr(self, "names", []) + [self.options[2].decode()]

    def _read_block_epb(self, block, size):
        packet = super()._read_block_epb(block, size)
        self.name = self.names[struct.unpack("<I", block[:4])[0]]
        return packet

@command
def read(file):
    found, reader = [], Reader(file)
    while True:
        try:
            octets, metadata = reader._read_packet()
        except EOFError:
            return found
        found.append({
            "interface": reader.name,
            "number": struct.unpack("<Q", reader.options[5])[0],
            "layers": conf.l2types.num2layer[metadata.linktype](octets).summary(),
        })
"#;

#[test]
fn a_trace_follows_packets_both_ways_and_a_capture_shows_only_what_it_may() -> Result<()> {
    let sites = Sites::new("trace")?;
    let _swan = StrongSwan::start(&sites.b, &ours().mirrored().swanctl())?;
    let a = gateway(&sites, "")?;
    a.initiate("site/net", SOON)?;
    let pings = sites.client.begin_pings(Sites::SERVER, OFTEN)?;
    pings.wait_answer(SOON)?;

    let said = a.portcullis(&["trace", "--json", "--count", "6", "icmp", "and", "host", "10.2.0.10"])?.stdout;
    let packets: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(packets.len(), 6, "{said}");
    let child = a.children()?[0].clone();
    let out = packets.iter().find(|packet| packet["class"] == "clear").unwrap();
    for (key, value) in [
        ("received_on", json!("inside0")),
        ("policy", json!("site/net")),
        ("action", json!("protect")),
        ("spi_out", json!(child.spi_out)),
        ("sealed", json!(true)),
        ("verdict", json!("sent")),
        ("sent_on", json!("outside0")),
        ("octets", json!([])),
    ] {
        assert_eq!(out[key], value, "{key}: {out}");
    }
    let back = packets.iter().find(|packet| packet["class"] == "esp").unwrap();
    assert_eq!((&back["spi_in"], &back["sent_on"]), (&json!(child.spi_in), &json!("inside0")), "{back}");
    assert_eq!((&back["inner"]["src"], &back["inner"]["dst"]), (&json!("10.2.0.10"), &json!("10.1.0.10")));

    // A drop, with its reason.
    let silent = sites.client.begin_pings("10.2.0.10".parse().unwrap(), OFTEN)?;
    a.terminate("site")?;
    let said = a.portcullis(&["trace", "--count", "1", "dropped"])?.stdout;
    assert!(said.contains("| policy site/net | dropped: no_sa"), "{said}");
    drop((silent, pings));

    let file = sites.lab.dir().join("capture.pcapng");
    let refused = a.portcullis(&["capture", "--decrypted", "--write", &file.display().to_string()]);
    let error: LabError = refused.unwrap_err();
    assert!(error.to_string().contains("allow_decrypted_capture = true"), "{error}");
    let wrong: LabError = a.portcullis(&["trace", "tcp", "or", "udp"]).unwrap_err();
    assert!(wrong.to_string().contains("`or` is not known"), "{wrong}");
    Ok(())
}

#[test]
fn a_capture_links_each_outer_packet_with_what_was_in_it() -> Result<()> {
    let sites = Sites::new("capture")?;
    let _swan = StrongSwan::start(&sites.b, &ours().mirrored().swanctl())?;
    let a = gateway(&sites, "allow_decrypted_capture = true")?;
    a.initiate("site/net", SOON)?;
    let pings = sites.client.begin_pings(Sites::SERVER, OFTEN)?;
    pings.wait_answer(SOON)?;
    let mut scapy = Scapy::start(&sites.client, READER)?;
    let mut capture = |name: &str, further: &[&str]| -> Result<Vec<Value>> {
        let file = sites.lab.dir().join(name).display().to_string();
        let arguments = ["capture", "--count", "8", "--write", &file, "icmp"];
        a.portcullis(&[&arguments[..], further].concat())?;
        Ok(scapy.call("read", &json!({ "file": file }))?.as_array().cloned().unwrap())
    };
    let found = capture("decrypted.pcapng", &["--decrypted"])?;
    let of = |interface: &str, number: &Value| {
        let mut fitting =
            found.iter().filter(|packet| packet["interface"] == interface && packet["number"] == *number);
        fitting.next().map(|packet| packet["layers"].as_str().unwrap().to_owned())
    };
    let decrypted: Vec<&Value> = found.iter().filter(|packet| packet["interface"] == "decrypted").collect();
    assert!(!decrypted.is_empty(), "{found:?}");
    for inner in decrypted {
        assert!(inner["layers"].as_str().unwrap().contains("ICMP 10.2.0.10 > 10.1.0.10"), "{inner}");
        let outer = of("outside0", &inner["number"]).unwrap();
        assert!(outer.contains("192.0.2.2") && !outer.contains("ICMP"), "{outer}");
    }
    // What is sealed here: the packet as it came, and as it went.
    let inside = found.iter().find(|packet| {
        packet["interface"] == "inside0"
            && packet["layers"].as_str().unwrap().contains("ICMP 10.1.0.10 > 10.2.0.10")
    });
    let outer = of("outside0", &inside.unwrap()["number"]).unwrap();
    assert!(outer.contains("192.0.2.1") && !outer.contains("ICMP"), "{outer}");

    let sealed = capture("sealed.pcapng", &[])?;
    assert!(!sealed.is_empty());
    assert!(sealed.iter().all(|packet| !packet["layers"].as_str().unwrap().contains("ICMP")), "{sealed:?}");
    Ok(())
}
