//! The peers work among themselves: what fails against a gateway later is then the gateway's or the peer's word,
//! not the harness's.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use portcullis_lab::{Class, Direction, Host, Iperf, IperfServer, Lab, LabError, Scapy, StrongSwan, Switch};
use serde_json::json;

const A_INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
const B_INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1));
const OUTER: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))];

/// Two hosts with an inner address each, on a wire that can be captured.
fn two_sites(lab: &Lab) -> (Host, Host, Switch, String) {
    let wire = lab.switch("wire").unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let port = lab.plug(&wire, &a, "eth0").unwrap();
    lab.plug(&wire, &b, "eth0").unwrap();
    for (host, outer, inner) in [(&a, "192.0.2.1/24", "10.1.0.1/24"), (&b, "192.0.2.2/24", "10.2.0.1/24")] {
        host.address("eth0", outer).unwrap();
        host.address("lo", inner).unwrap();
    }
    (a, b, wire, port)
}

fn swanctl_conf(local: u8, remote: u8, secret: &str) -> String {
    format!(
        "connections {{ site {{
           local_addrs = 192.0.2.{local}
           remote_addrs = 192.0.2.{remote}
           proposals = aes256gcm16-prfsha384-x25519
           local {{ auth = psk
 id = host{local}.example }}
           remote {{ auth = psk
 id = host{remote}.example }}
           children {{ net {{
             local_ts = 10.{local}.0.0/24
             remote_ts = 10.{remote}.0.0/24
             esp_proposals = aes256gcm16
           }} }}
         }} }}
         secrets {{ ike-site {{ secret = \"{secret}\" }} }}"
    )
}

#[test]
fn two_strongswans_carry_a_ping_and_nothing_crosses_in_clear() {
    let lab = Lab::new("swans").unwrap();
    let (a, b, wire, port) = two_sites(&lab);
    let capture = wire.capture(&port, &OUTER).unwrap();
    let _responder = StrongSwan::start(&b, &swanctl_conf(2, 1, "correct horse")).unwrap();
    let initiator = StrongSwan::start(&a, &swanctl_conf(1, 2, "correct horse")).unwrap();
    initiator.initiate("net", Duration::from_secs(20)).unwrap();
    let sas = initiator.list_sas().unwrap();
    assert!(sas.contains("ESTABLISHED") && sas.contains("INSTALLED"), "{sas}");

    assert!(a.ping_with(B_INNER, 5, 56, &["-I", "10.1.0.1"]).unwrap().complete());
    let counts = capture.settle().unwrap();
    assert_eq!(counts.of(Class::UdpEsp, Direction::In).packets, 5, "{counts}");
    assert_eq!(counts.of(Class::UdpEsp, Direction::Out).packets, 5, "{counts}");
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", capture.clear_text());

    initiator.terminate("site").unwrap();
    assert!(!initiator.list_sas().unwrap().contains("ESTABLISHED"));
}

#[test]
fn a_wrong_secret_fails_with_the_account_of_strongswan() {
    let lab = Lab::new("wrongpsk").unwrap();
    let (a, b, _wire, _port) = two_sites(&lab);
    let responder = StrongSwan::start(&b, &swanctl_conf(2, 1, "correct horse")).unwrap();
    let initiator = StrongSwan::start(&a, &swanctl_conf(1, 2, "battery staple")).unwrap();
    let mark = responder.mark();
    let error = initiator.initiate("net", Duration::from_secs(20)).unwrap_err();
    assert!(matches!(error, LabError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("AUTHENTICATION_FAILED"), "{error}");
    responder.wait_log(mark, "MAC mismatched", Duration::from_secs(5)).unwrap();
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
    a.address("eth0", "10.1.0.1/16").unwrap();
    b.address("eth0", "10.1.1.1/16").unwrap();
    let server = IperfServer::start(&b, "10.1.1.1".parse().unwrap()).unwrap();
    for tcp in [Iperf::tcp(1).from(A_INNER), Iperf::tcp(1).reversed()] {
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
