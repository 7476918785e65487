//! Session resumption (RFC 5723) against a small IKEv2 in Python: strongSwan does not have it.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Result, Scapy, SiteConfig, Sites};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const PYTHON: &str = include_str!("peers/ikev2.py");

// As IANA's registry has them.
const TICKET_LT_OPAQUE: u16 = 16409;
const TICKET_REQUEST: u16 = 16410;
const TICKET_NACK: u16 = 16412;
const CERT: u8 = 37;

fn ours() -> SiteConfig {
    SiteConfig { proposals: "aes256gcm16-prfsha256-x25519".into(), ..SiteConfig::a() }
}

fn start(sites: &Sites, site: &SiteConfig, before: &str, lines: &str) -> Result<Gateway> {
    let text = site.toml().replacen("proposals = [", &format!("{lines}\nproposals = ["), 1);
    let config = GatewayConfig::new(format!("{before}{text}"));
    Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)
}

/// The peer as the end that begins.
fn ends(mut with: Value) -> Value {
    let site = ours();
    for (key, value) in
        [("local", site.remote), ("remote", site.local), ("us", site.remote_id), ("them", site.local_id)]
    {
        let fields = with.as_object_mut();
        fields.and_then(|fields| fields.insert(key.to_owned(), value.into()));
    }
    with
}

fn data_of(found: &Value, kind: u16) -> Option<String> {
    let all = found["notifies"].as_array()?;
    Some(all.iter().find(|notify| notify[0] == kind)?[1].as_str()?.to_owned())
}

#[test]
fn a_client_goes_on_with_the_ticket_that_we_gave_it_once() -> Result<()> {
    let sites = Sites::new("ticket")?;
    let gateway = start(&sites, &ours(), "", "session_resumption = true")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let ask = json!([[TICKET_REQUEST, "", 0]]);
    let up = peer.call("begin", &ends(json!({ "secret": ours().secret, "more": ask })))?;
    // RFC 5723 §7.2: four octets of seconds, then the ticket.
    let given = data_of(&up, TICKET_LT_OPAQUE).expect("a ticket");
    let (lifetime, ticket) = given.split_at(8);
    assert_eq!(u32::from_str_radix(lifetime, 16), Ok(4 * 3600));

    let resumed = peer.call("resume", &ends(json!({ "ticket": ticket, "more": ask })))?;
    assert!(data_of(&resumed, TICKET_LT_OPAQUE).is_some_and(|another| another != given));
    let sas = gateway.wait_sas("the new one in the old one's place", SOON, |sas| sas.len() == 1)?;
    let spis = format!("{}{}", sas[0].initiator_spi, sas[0].responder_spi);
    assert_eq!(resumed["spis"], spis);
    let alive = peer.call("ask", &json!({ "more": [] }))?;
    assert_eq!(alive["protected"], true);

    let again = peer.call("resume", &ends(json!({ "ticket": ticket, "more": [] })))?;
    assert_eq!(again["refused"], json!([[TICKET_NACK, "", 0]]));
    Ok(())
}

#[test]
fn a_client_gets_no_ticket_where_there_are_none() -> Result<()> {
    let sites = Sites::new("noticket")?;
    let _gateway = start(&sites, &ours(), "", "")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let up =
        peer.call("begin", &ends(json!({ "secret": ours().secret, "more": [[TICKET_REQUEST, "", 0]] })))?;
    assert_eq!(data_of(&up, TICKET_NACK).as_deref(), Some(""));
    Ok(())
}

#[test]
fn we_go_on_with_the_ticket_of_a_gateway_that_fell_silent() -> Result<()> {
    let sites = Sites::new("shown")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let impatient = "[ike]\nretransmit_timeout = \"300ms\"\nretransmit_tries = 2\n\n";
    let site = SiteConfig { start_action: "start", ..ours() };
    let gateway = start(&sites, &site, impatient, "session_resumption = true\nchildless = \"prefer\"")?;
    let with = json!({
        "local": site.remote, "remote": site.local, "us": site.remote_id, "secret": site.secret,
        "ticket": "0badc0de".repeat(30), "lifetime": 600,
    });
    let resumed = peer.call("give", &with)?;
    assert!(resumed["asked"].as_array().is_some_and(|all| all.contains(&json!([TICKET_REQUEST, "", 0]))));
    assert!(resumed["kinds"].as_array().is_some_and(|kinds| !kinds.contains(&json!(CERT))));
    gateway.wait_sas("resumed", SOON, |sas| match sas {
        [sa] => {
            sa.state == "ESTABLISHED"
                && resumed["spis"] == format!("{}{}", sa.initiator_spi, sa.responder_spi)
        }
        _ => false,
    })?;
    Ok(())
}
