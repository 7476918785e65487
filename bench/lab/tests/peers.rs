//! The peers work among themselves: what fails against a gateway later is then the gateway's or the peer's word,
//! not the harness's.

use std::time::Duration;

use portcullis_lab::{
    Chatter, Class, Direction, Iperf, IperfServer, Lab, Scapy, SiteConfig, Sites, StrongSwan,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);

/// strongSwan's user-space ESP has no extended sequence numbers.
fn end_a() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

#[test]
fn without_ipsec_the_sites_reach_each_other_and_the_wire_shows_it() {
    let sites = Sites::new("clear").unwrap();
    let capture = sites.capture().unwrap();
    assert!(sites.client.ping(Sites::SERVER, 3).unwrap().complete());
    assert!(sites.client.ping(Sites::SERVER_V6, 3).unwrap().complete());
    let counts = capture.settle().unwrap();
    assert_eq!(counts.of(Class::Clear, Direction::In).packets, 6, "{counts}");
    assert_eq!(counts.of(Class::Clear, Direction::Out).packets, 6, "{counts}");
    assert_eq!(capture.clear_text().len(), 12);
}

#[test]
fn two_strongswans_carry_pings_between_their_sites_and_nothing_crosses_in_clear() {
    let sites = Sites::new("swans").unwrap();
    let capture = sites.capture().unwrap();
    let _responder = StrongSwan::start(&sites.b, &end_a().mirrored().swanctl()).unwrap();
    let initiator = StrongSwan::start(&sites.a, &end_a().swanctl()).unwrap();
    initiator.initiate("net", SOON).unwrap();
    let sas = initiator.list_sas().unwrap();
    assert!(sas.contains("ESTABLISHED") && sas.contains("INSTALLED"), "{sas}");

    assert!(sites.client.ping(Sites::SERVER, 5).unwrap().complete());
    assert!(sites.server.ping(Sites::CLIENT_V6, 5).unwrap().complete());
    let counts = capture.settle().unwrap();
    assert_eq!(counts.of(Class::UdpEsp, Direction::In).packets, 10, "{counts}");
    assert_eq!(counts.of(Class::UdpEsp, Direction::Out).packets, 10, "{counts}");
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", capture.clear_text());

    initiator.terminate("site").unwrap();
    assert!(!initiator.list_sas().unwrap().contains("ESTABLISHED"));
}

#[test]
fn a_wrong_secret_fails_with_the_account_of_strongswan() {
    let sites = Sites::new("wrongpsk").unwrap();
    let responder = StrongSwan::start(&sites.b, &end_a().mirrored().swanctl()).unwrap();
    let wrong = SiteConfig { secret: "battery".into(), ..end_a() };
    let initiator = StrongSwan::start(&sites.a, &wrong.swanctl()).unwrap();
    let mark = responder.mark();
    let error = initiator.initiate("net", SOON).unwrap_err();
    assert!(error.to_string().contains("AUTHENTICATION_FAILED"), "{error}");
    responder.wait_log(mark, "MAC mismatched", SOON).unwrap();
}

#[test]
fn a_scapy_script_is_called_and_its_errors_come_back() {
    let lab = Lab::new("scapy").unwrap();
    let a = lab.host("a").unwrap();
    let script = "
from scapy.all import IP, UDP, raw

@command
def packet(source, destination, length):
    return raw(IP(src=source, dst=destination) / UDP() / bytes(length)).hex()
";
    let mut scapy = Scapy::start(&a, script).unwrap();
    let arguments = json!({ "source": "10.0.0.1", "destination": "10.0.0.2", "length": 4 });
    let packet = scapy.call("packet", &arguments).unwrap();
    let packet = packet.as_str().unwrap();
    assert!(packet.starts_with("45000020") && packet.ends_with("00000000"), "{packet}");
    let error = scapy.call("packet", &json!({ "nonsense": 1 })).unwrap_err();
    assert!(error.to_string().contains("TypeError"), "{error}");
}

#[test]
fn iperf_reports_streams_of_both_kinds_in_both_directions() {
    let lab = Lab::new("iperf").unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    lab.link(&a, "eth0", &b, "eth0").unwrap();
    a.address("eth0", "10.0.0.1/24").unwrap();
    b.address("eth0", "10.0.0.2/24").unwrap();
    let server = IperfServer::start(&b, "10.0.0.2".parse().unwrap()).unwrap();
    for tcp in [Iperf::tcp(1).from("10.0.0.1".parse().unwrap()), Iperf::tcp(1).reversed()] {
        let report = tcp.run(&a, &server).unwrap();
        assert!(report.received_bytes > 1_000_000 && report.bits_per_second > 1e6, "{report:?}");
    }
    for udp in [Iperf::udp(1, 4, 1000), Iperf::udp(1, 4, 1000).reversed()] {
        let report = udp.run(&a, &server).unwrap();
        assert!(report.packets >= 300 && report.received_bytes >= 300_000, "{report:?}");
        assert!(report.lost_packets < report.packets, "{report:?}");
    }
    let nobody = Iperf::tcp(1).from("10.9.9.9".parse().unwrap()).run(&a, &server).unwrap_err();
    assert!(nobody.to_string().contains("Cannot assign requested address"), "{nobody}");
}

#[test]
fn chatter_goes_on_whatever_becomes_of_it() {
    let sites = Sites::new("chatter").unwrap();
    let capture = sites.capture().unwrap();
    let chatter = Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 4).unwrap();
    let counts =
        capture.wait_until("20 datagrams", SOON, |counts| counts.packets(Class::Clear) >= 20).unwrap();
    assert!(counts.of(Class::Clear, Direction::In).packets > 0, "{counts}");
    // The server's port unreachable, then no route any more.
    sites.client.ip("route del default").unwrap();
    chatter.wait_more(20, SOON).unwrap();
    sites.client.ip("link set eth0 down").unwrap();
    chatter.wait_more(20, SOON).unwrap();
}
