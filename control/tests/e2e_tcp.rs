//! IKE and ESP in TCP (RFC 9329) against a small IKEv2 in Python with scapy's ESP: strongSwan does not have it, and libreswan
//! needs a kernel that has.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Mark, Result, Scapy, SiteConfig, Sites};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const PYTHON: &str = concat!(include_str!("peers/ikev2.py"), "\n", include_str!("peers/tcp.py"));

// As IANA's registry has them.
const MOBIKE_SUPPORTED: u16 = 16396;
const UPDATE_SA_ADDRESSES: u16 = 16400;

fn ours() -> SiteConfig {
    SiteConfig {
        proposals: "aes256gcm16-prfsha256-x25519".into(),
        esp_proposals: "aes256gcm16".into(),
        ..SiteConfig::a()
    }
}

fn start(sites: &Sites, site: &SiteConfig, gateway_lines: &str, lines: &str) -> Result<Gateway> {
    let text = site.toml().replacen("proposals = [", &format!("{lines}\nproposals = ["), 1);
    let config = GatewayConfig { gateway_lines: gateway_lines.to_owned(), ..GatewayConfig::new(text) };
    Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)
}

/// What the peer begins with.
fn begin(more: Value) -> Value {
    let site = ours();
    json!({
        "local": site.remote, "remote": site.local, "port": 4500, "us": site.remote_id, "them": site.local_id,
        "secret": site.secret, "ours": site.remote_ts, "theirs": site.local_ts, "more": more,
    })
}

/// The client answers pings that come out of the tunnel.
fn pings(peer: &mut Scapy, number: u16) -> Result<()> {
    for (server, client) in [(Sites::SERVER, Sites::CLIENT), (Sites::SERVER_V6, Sites::CLIENT_V6)]
        .map(|(s, c)| (s.to_string(), c.to_string()))
    {
        let answer = peer.call("ping", &json!({ "src": server, "dst": client, "number": number }))?;
        assert_eq!(answer, json!([client, server, number]));
    }
    Ok(())
}

#[test]
fn ike_and_esp_go_by_the_stream_that_the_peer_has_opened_and_by_the_next_one() -> Result<()> {
    let sites = Sites::new("tcp")?;
    let gateway = start(&sites, &ours(), "tcp_port = 4500\n", "mobike = false")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    peer.call("begin_tcp", &begin(json!([])))?;
    gateway.wait_sas("a tunnel in TCP", SOON, |sas| {
        sas.len() == 1 && sas[0].children.iter().any(|child| child.mode == "TUNNEL-in-TCP")
    })?;
    pings(&mut peer, 1)?;
    peer.call("keep_alive", &json!({}))?;
    assert_eq!(peer.call("ask_tcp", &json!({ "more": [] }))?, json!([]));

    // ESP alone tells whose the next stream is (RFC 9329 §6.1), and what we ask goes there too.
    peer.call("connect_again", &json!({}))?;
    pings(&mut peer, 2)?;
    gateway.wait_children("what went by streams is counted", SOON, |children| match children {
        [child] => child.packets_in >= 4 && child.packets_out == child.packets_in,
        _ => false,
    })?;
    let terminate = std::thread::scope(|scope| {
        let asked = scope.spawn(|| gateway.terminate("site"));
        let answered = peer.call("answer_tcp", &json!({}));
        (asked.join().expect("the command"), answered)
    });
    terminate.0?;
    assert_eq!(terminate.1?, 0, "our first request");
    gateway.wait_sas("the tunnel is gone", SOON, <[_]>::is_empty)?;
    Ok(())
}

#[test]
fn a_request_is_sent_once_in_a_stream_and_again_in_the_next() -> Result<()> {
    let sites = Sites::new("tcpagain")?;
    let lines = "mobike = false\ndpd_delay = \"1s\"";
    let gateway = start(&sites, &ours(), "tcp_port = 4500\n", lines)?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    peer.call("begin_tcp", &begin(json!([])))?;
    assert_eq!(peer.call("hear_request", &json!({}))?, 0);
    // The stream breaks; the peer shows itself in another one, and is asked again there (RFC 9329 §6.2).
    peer.call("connect_again", &json!({}))?;
    assert_eq!(peer.call("ask_tcp", &json!({ "more": [] }))?, json!([]));
    assert_eq!(peer.call("answer_tcp", &json!({}))?, 0);
    assert_eq!(peer.call("answer_tcp", &json!({}))?, 1);
    assert_eq!(gateway.sas()?.len(), 1);
    Ok(())
}

#[test]
fn a_peer_of_mobike_says_which_stream_it_goes_on_by() -> Result<()> {
    let sites = Sites::new("tcpmobike")?;
    let _gateway = start(&sites, &ours(), "tcp_port = 4500\n", "")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let answer = peer.call("begin_tcp", &begin(json!([[MOBIKE_SUPPORTED, "", 0]])))?;
    let agreed = answer.as_array().is_some_and(|all| all.iter().any(|notify| notify[0] == MOBIKE_SUPPORTED));
    assert!(agreed, "{answer}");
    pings(&mut peer, 1)?;
    peer.call("connect_again", &json!({}))?;
    assert_eq!(peer.call("ask_tcp", &json!({ "more": [[UPDATE_SA_ADDRESSES, "", 0]] }))?, json!([]));
    pings(&mut peer, 2)?;
    Ok(())
}

#[test]
fn a_stream_of_something_else_is_closed_and_so_is_one_too_many() -> Result<()> {
    let sites = Sites::new("tcpbad")?;
    let bounds = "tcp_port = 4500\ntcp_connections = 8\n";
    let gateway = start(&sites, &ours(), bounds, "")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let site = ours();
    let mut offer = |octets: &[u8], count: usize| {
        let octets = data_encoding::HEXLOWER.encode(octets);
        let with = json!({ "local": site.remote, "remote": site.local, "port": 4500, "octets": octets, "count": count });
        peer.call("offer", &with)
    };
    let from = Mark::default();
    assert_eq!(offer(b"GET / HTTP/1.1\r\n\r\n", 1)?, 0);
    gateway.wait_log(from, "the stream begins with \"GET / \"", SOON)?;
    assert_eq!(offer(b"IKETCP\0\x01", 1)?, 0, "a length that counts less than itself");
    // Half of all may be used by nobody who is authenticated.
    assert_eq!(offer(b"IKETCP", 6)?, 4);
    Ok(())
}

#[test]
fn nothing_listens_where_no_port_is_configured() -> Result<()> {
    let sites = Sites::new("tcpoff")?;
    let _gateway = start(&sites, &ours(), "", "")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let refused = peer.call("begin_tcp", &begin(json!([]))).expect_err("there is no listener");
    assert!(refused.to_string().contains("Connection refused"), "{refused}");
    Ok(())
}
