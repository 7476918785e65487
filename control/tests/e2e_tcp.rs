//! IKE and ESP in TCP (RFC 9329), begun by either end, against a small IKEv2 in Python with scapy's ESP: strongSwan does not have
//! it, and libreswan needs a kernel that has. What falls back to it where UDP does not pass: between two of our own ends.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Host, Mark, Result, Scapy, SiteConfig, Sites};
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
    start_at(&sites.a, site, gateway_lines, lines)
}

/// Retransmissions come quickly.
fn start_at(host: &Host, site: &SiteConfig, gateway_lines: &str, lines: &str) -> Result<Gateway> {
    let text = site.toml().replacen("proposals = [", &format!("{lines}\nproposals = ["), 1);
    let text = format!("[ike]\nretransmit_timeout = \"300ms\"\n\n{text}");
    let config = GatewayConfig { gateway_lines: gateway_lines.to_owned(), ..GatewayConfig::new(text) };
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)
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
    let events = gateway.events(&["--connection", "site"])?;
    peer.call("connect_again", &json!({}))?;
    pings(&mut peer, 2)?;
    events.wait_line("\"ike_moved\"", SOON)?;
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

/// A peer in Python that listens, and has let the gateway in; with what the gateway has said in IKE_AUTH.
fn let_in(gateway: &Gateway, peer: &mut Scapy, port: u16, more: Value) -> Result<Value> {
    let site = ours();
    peer.call("listen_tcp", &json!({ "local": site.remote, "port": port }))?;
    let with = json!({
        "local": site.remote, "remote": site.local, "port": port, "us": site.remote_id, "secret": site.secret,
        "more": more,
    });
    std::thread::scope(|scope| {
        let let_in = scope.spawn(|| peer.call("let_in_tcp", &with));
        gateway.initiate("site/net", SOON)?;
        let_in.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn we_begin_by_tcp_and_open_another_stream_when_one_ends() -> Result<()> {
    let sites = Sites::new("tcpours")?;
    let gateway = start(&sites, &ours(), "", "mobike = false\ntcp = \"only\"\ntcp_port = 4433")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let_in(&gateway, &mut peer, 4433, json!([]))?;
    assert_eq!(gateway.children()?[0].mode, "TUNNEL-in-TCP");
    let shown = gateway.portcullis(&["sas"])?.stdout;
    assert!(shown.contains("IKEv2 in TCP"), "{shown}");
    pings(&mut peer, 1)?;

    let mut number = 2;
    for reset in [false, true] {
        let port = peer.call("end_stream", &json!({ "reset": reset }))?;
        // The first message of the next stream is a question whether the peer lives (RFC 9329 §6.1).
        assert_eq!(peer.call("answer_tcp", &json!({}))?, number);
        number += 1;
        pings(&mut peer, 2)?;
        assert_eq!(gateway.sas()?[0].local, format!("192.0.2.1:{port}"));
    }
    let terminate = std::thread::scope(|scope| {
        let asked = scope.spawn(|| gateway.terminate("site"));
        (peer.call("answer_tcp", &json!({})), asked.join().expect("the command"))
    });
    assert_eq!(terminate.0?, number);
    terminate.1?;
    assert_eq!(peer.call("is_closed", &json!({}))?, true);
    Ok(())
}

#[test]
fn with_mobike_the_peer_is_told_in_the_next_stream_that_we_go_on_there() -> Result<()> {
    let sites = Sites::new("tcpmoves")?;
    let gateway = start(&sites, &ours(), "", "tcp = \"only\"")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let said = let_in(&gateway, &mut peer, 4500, json!([[MOBIKE_SUPPORTED, "", 0]]))?;
    assert!(said.as_array().is_some_and(|all| all.iter().any(|notify| notify[0] == MOBIKE_SUPPORTED)));
    pings(&mut peer, 1)?;
    let events = gateway.events(&["--connection", "site"])?;
    peer.call("end_stream", &json!({ "reset": true }))?;
    let told = peer.call("answer_told", &json!({}))?;
    assert_eq!(told[0][0], UPDATE_SA_ADDRESSES, "{told}");
    pings(&mut peer, 2)?;
    events.wait_line("\"ike_moved\"", SOON)?;
    Ok(())
}

#[test]
fn why_there_is_no_tcp_connection_is_said_with_what_to_change() -> Result<()> {
    let sites = Sites::new("tcpfails")?;
    let gateway = start(&sites, &ours(), "", "mobike = false\ntcp = \"only\"")?;
    let explained = |says: &str| -> Result<()> {
        gateway.initiate("site/net", SOON).expect_err("there is no way");
        let page = gateway.portcullis(&["explain", "peer", "site"])?.stdout;
        let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(page.contains("TCP_FAILED") && page.contains(says), "{page}");
        Ok(())
    };
    explained("192.0.2.2:4500 refuses it: nothing listens there, or a firewall rejects it")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    peer.call("listen_tcp", &json!({ "local": "192.0.2.2", "port": 4500 }))?;
    std::thread::scope(|scope| {
        let ends = scope.spawn(|| peer.call("take_and_end", &json!({ "count": 1 })));
        explained("192.0.2.2:4500 took it, and ended it before the IKE SA was up")?;
        ends.join().expect("the peer").map(|_| ())
    })?;
    sites.a.ip("route add unreachable 192.0.2.2/32")?;
    explained("the kernel cannot connect to 192.0.2.2:4500: No route to host")
}

/// What a host does not take in, by nftables, in place of what it did not before.
fn filter(host: &Host, rules: &[&str]) -> Result<()> {
    let mut commands = "add table inet cut; delete table inet cut; add table inet cut; \
                        add chain inet cut input { type filter hook input priority 0; }"
        .to_owned();
    for rule in rules {
        commands += &format!("; add rule inet cut input {rule}");
    }
    host.run(["nft", &commands]).map(drop)
}

#[test]
fn where_udp_does_not_pass_tcp_is_fallen_back_to_and_a_broken_stream_is_replaced() -> Result<()> {
    let sites = Sites::new("tcpfall")?;
    let lines = "tcp = \"fallback\"";
    let b = start_at(&sites.b, &ours().mirrored(), "tcp_port = 4500\n", "")?;
    let a = start(&sites, &ours(), "", lines)?;
    let no_udp = "udp dport { 500, 4500 } drop";
    filter(&sites.b, &[no_udp])?;
    a.initiate("site/net", SOON)?;
    let carries = |what: &str| -> Result<String> {
        for end in [&a, &b] {
            assert_eq!(end.children()?[0].mode, "TUNNEL-in-TCP", "{what}");
        }
        assert!(sites.client.ping(Sites::SERVER, 3)?.complete(), "{what}: {:?}", a.drops()?);
        assert!(sites.server.ping(Sites::CLIENT_V6, 3)?.complete(), "{what}: {:?}", b.drops()?);
        Ok(a.sas()?[0].local.clone())
    };
    let first = carries("after UDP was not answered")?;
    let rekeyed = a.process().mark();
    a.rekey("site")?;
    a.wait_log(rekeyed, "IKE SA rekeyed", SOON)?;
    assert_eq!(carries("after a rekeying")?, first);

    // A firewall on the way ends the stream; the next one is from another port.
    let port = first.rsplit(':').next().unwrap_or_default();
    let broken = a.process().mark();
    filter(&sites.b, &[no_udp, &format!("tcp sport {port} reject with tcp reset")])?;
    // What is sent finds out.
    sites.client.ping(Sites::SERVER, 1)?;
    a.wait_log(broken, "IKE SA moved", SOON)?;
    b.wait_sas("the peer goes on by the next stream", SOON, |sas| {
        sas.len() == 1 && !sas[0].remote.ends_with(&format!(":{port}"))
    })?;
    assert_ne!(carries("after a broken stream")?, first);
    Ok(())
}
