//! A gateway whose IKE engine is four, against strongSwan: what one engine does, they do, whichever of them a peer comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, IkeSa, Result, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(60);
const SHARDS: u8 = 4;
const PEERS: usize = 8;
/// In the tunnel of one of them.
const INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 2, 1, 3));

/// Anybody of that name may come, from anywhere, and has one IKE SA.
fn ours(dpd_delay: &str) -> GatewayConfig {
    let connections = format!(
        "[ike]\nretransmit_timeout = \"1s\"\nretransmit_tries = 2\n\n\
         [connections.site]\nlocal_addrs = [\"192.0.2.1\"]\ndpd_delay = \"{dpd_delay}\"\nunique = \"replace\"\n\
         proposals = [\"aes256gcm16-prfsha384-x25519\"]\n\
         local = {{ auth = \"psk\", id = \"a.example\" }}\nremote = {{ auth = \"psk\", id = \"*.example\" }}\n\n\
         [connections.site.children.net]\nlocal_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.2.0.0/16\"]\n\
         esp_proposals = [\"aes256gcm16\"]\n\n\
         [secrets.ike]\nsecret = \"correct horse battery staple\"\n"
    );
    let gateway_lines = format!("ike_shards = {SHARDS}\n");
    GatewayConfig { gateway_lines, ..GatewayConfig::new(connections) }
}

/// Peers that never say that they have no other IKE SA (`unique = never`: no INITIAL_CONTACT).
fn theirs() -> String {
    let connection = |number: usize| {
        format!(
            "peer{number} {{\n local_addrs = 192.0.2.2\n remote_addrs = 192.0.2.1\n unique = never\n\
             proposals = aes256gcm16-prfsha384-x25519\n\
             local {{\n auth = psk\n id = p{number}.example\n }}\n remote {{\n auth = psk\n id = a.example\n }}\n\
             children {{\n net{number} {{\n local_ts = 10.2.1.{number}/32\n remote_ts = 10.1.0.0/24\n\
             esp_proposals = aes256gcm16\n start_action = start\n }}\n }}\n }}\n"
        )
    };
    let connections: String = (0..PEERS).map(connection).collect();
    format!(
        "connections {{\n{connections}}}\n\
         secrets {{\n ike-all {{\n secret = \"correct horse battery staple\"\n }}\n }}\n"
    )
}

/// Our SPIs of the peers' IKE SAs, if each has one, with its child: those of a responder, or once we have rekeyed them of an
/// initiator.
fn one_each(sas: &[IkeSa], ours: fn(&IkeSa) -> &String) -> Option<BTreeMap<String, String>> {
    let up = sas.iter().filter(|sa| sa.state == "ESTABLISHED");
    let up: Vec<_> = up.collect();
    let spis: BTreeMap<_, _> = up
        .iter()
        .filter(|sa| sa.children.len() == 1)
        .filter_map(|sa| Some((sa.remote_id.clone()?, ours(sa).clone())))
        .collect();
    (up.len() == PEERS && spis.len() == PEERS).then_some(spis)
}

/// Which shard an SPI names.
fn shard(spi: &str) -> u8 {
    let last = spi.get(spi.len() - 2..).and_then(|octet| u8::from_str_radix(octet, 16).ok());
    last.unwrap_or_default() % SHARDS
}

fn answered(sa: &IkeSa) -> &String {
    &sa.responder_spi
}

fn asked(sa: &IkeSa) -> &String {
    &sa.initiator_spi
}

#[test]
fn a_peer_that_comes_again_to_another_shard_has_one_ike_sa_and_commands_reach_all() -> Result<()> {
    let sites = Sites::new("shards")?;
    // strongSwan's user-space ESP wants an address in each tunnel.
    for number in 0..PEERS {
        sites.b.address("inside0", &format!("10.2.1.{number}/32"))?;
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let gateway = Gateway::start(&sites.a, binary, &ours("0s"))?;
    let first = StrongSwan::start(&sites.b, &theirs())?;
    let sas = gateway.wait_sas("all peers are there", SOON, |sas| one_each(sas, answered).is_some())?;
    let before = one_each(&sas, answered).unwrap_or_default();
    assert!(sites.client.ping(INNER, 3)?.complete());

    // It dies without a word, and comes again. The IKE SAs before make way within ten seconds.
    drop(first);
    let _second = StrongSwan::start(&sites.b, &theirs())?;
    let came = |sas: &[IkeSa]| {
        one_each(sas, answered).filter(|after| after.iter().all(|(id, spi)| before.get(id) != Some(spi)))
    };
    // Nobody answers the Deletes of those before.
    let alone = |sas: &[IkeSa]| sas.len() == PEERS && came(sas).is_some();
    let sas = gateway.wait_sas("each has one again, and no other", SOON, alone)?;
    let after = came(&sas).unwrap_or_default();
    let moved = after.iter().filter(|(id, spi)| before.get(*id).map(|old| shard(old)) != Some(shard(spi)));
    assert!(moved.count() > 0, "nobody has come to another shard: {before:?} {after:?}");
    let used: BTreeSet<u8> = after.values().chain(before.values()).map(|spi| shard(spi)).collect();
    assert!(used.len() > 1, "all are in shard {used:?}");
    assert!(sites.client.ping(INNER, 3)?.complete());

    // A reload reaches all of them, and so does what an operator wants.
    gateway.reload(&ours("30s"), &[])?;
    gateway.rekey("site")?;
    let rekeyed = |sas: &[IkeSa]| {
        one_each(sas, asked).is_some_and(|now| now.iter().all(|(id, spi)| after.get(id) != Some(spi)))
    };
    let sas = gateway.wait_sas("all are rekeyed", SOON, rekeyed)?;
    for (id, spi) in one_each(&sas, asked).unwrap_or_default() {
        assert_eq!(after.get(&id).map(|old| shard(old)), Some(shard(&spi)), "{id} has left its shard");
    }
    assert!(sites.client.ping(INNER, 3)?.complete());
    gateway.portcullis(&["health"])?;
    gateway.terminate("site")?;
    gateway.wait_sas("all are gone", SOON, |sas| sas.iter().all(|sa| sa.state != "ESTABLISHED"))?;
    Ok(())
}
