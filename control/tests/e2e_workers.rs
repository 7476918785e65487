//! Several workers in a whole gateway, against strongSwan: its replay window is 32 packets wide, and its user-space ESP
//! drops what lies left of it.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Capture, Class, Direction, Gateway, GatewayConfig, Iperf, IperfServer, LinkOptions, Result, SiteConfig,
    Sites, StrongSwan,
};

const SOON: Duration = Duration::from_secs(30);

/// The sequence numbers of what the gateway has sent, as the wire has seen them.
fn numbers(wire: &Capture) -> Vec<u32> {
    let sent =
        |frame: &portcullis_lab::Frame| frame.class == Class::UdpEsp && frame.direction == Direction::In;
    wire.matching(sent).iter().filter_map(|frame| Some(frame.headers()?.esp()?.1)).collect()
}

#[test]
fn two_workers_send_on_one_sa_in_order_and_open_what_strongswan_sends() -> Result<()> {
    let sites = Sites::with("two", LinkOptions { queues: 2, ..LinkOptions::default() })?;
    let wire = sites.capture()?;
    let ours = SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() };
    let swan = StrongSwan::start(&sites.b, &ours.mirrored().swanctl())?;
    let config = GatewayConfig { workers: vec![0, 1], ..GatewayConfig::new(ours.toml()) };
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    gateway.initiate("site/net", SOON)?;
    for to in [Sites::SERVER, Sites::SERVER_V6] {
        assert!(sites.client.ping(to, 5)?.complete());
    }
    let server = IperfServer::start(&sites.server, Sites::SERVER)?;
    for stream in [Iperf::udp(2, 5, 1000), Iperf::tcp(2), Iperf::tcp(2).reversed()] {
        let report = stream.run(&sites.client, &server)?;
        assert!(report.received_bytes > 500_000, "{stream:?}: {report:?}");
    }
    let counts = wire.settle()?;
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    let numbers = numbers(&wire);
    assert!(numbers.len() > 500 && numbers.is_sorted_by(|a, b| a < b), "out of order: {numbers:?}");
    let (sent, received) =
        (counts.of(Class::UdpEsp, Direction::In).packets, counts.of(Class::UdpEsp, Direction::Out).packets);
    gateway.wait_children(
        "every packet was sealed, and every one opened",
        SOON,
        |children| match children {
            [child] => (child.packets_out, child.packets_in) == (sent, received),
            _ => false,
        },
    )?;
    assert!(gateway.status()?.packets.handed_over > 0, "no packet went from one worker to the other");
    assert!(swan.list_sas()?.contains("INSTALLED"));
    Ok(())
}
