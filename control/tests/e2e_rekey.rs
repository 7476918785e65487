//! Rekeying against strongSwan while packets pass: CHILD and IKE SAs, by either end, and reauthentication. No packet may
//! be lost. strongSwan's user-space ESP knows no extended sequence numbers and always encapsulates in UDP.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Capture, ChildSa, Class, Gateway, GatewayConfig, IkeSa, LabError, Ping, Pings, Result, SiteConfig, Sites,
    StrongSwan,
};

const SOON: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(5);

/// A tunnel from us (`a`) to strongSwan (`b`), with packets both ways in it.
struct Tunnel {
    pings: [Pings; 2],
    gateway: Gateway,
    swan: StrongSwan,
    wire: Capture,
    _sites: Sites,
}

impl Tunnel {
    fn new(name: &str, ours: &SiteConfig) -> Result<Self> {
        let sites = Sites::new(name)?;
        let wire = sites.capture()?;
        let swan = StrongSwan::start(&sites.b, &ours.mirrored().swanctl())?;
        let config = GatewayConfig::new(ours.toml());
        let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
        gateway.initiate("site/net", SOON)?;
        assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
        let pings = [
            sites.client.begin_pings(Sites::SERVER, OFTEN)?,
            sites.server.begin_pings(Sites::CLIENT, OFTEN)?,
        ];
        let tunnel = Self { pings, gateway, swan, wire, _sites: sites };
        tunnel.packets_pass()?;
        Ok(tunnel)
    }

    fn packets_pass(&self) -> Result<()> {
        self.pings.iter().try_for_each(|pings| pings.wait_answer(SOON))
    }

    /// What there is: one IKE SA with one CHILD SA.
    fn only(&self) -> Result<(IkeSa, ChildSa)> {
        let sas = self.gateway.sas()?;
        if let [ike] = sas.as_slice()
            && let [child] = ike.children.as_slice()
        {
            return Ok((ike.clone(), child.clone()));
        }
        let reason = "not one IKE SA with one CHILD SA".into();
        Err(LabError::Answer { tool: "portcullis sas", reason, answer: format!("{sas:?}") })
    }

    /// Waits until the CHILD SA is another one and the old one is gone at both ends.
    fn child_is_replaced(&self, old: &ChildSa) -> Result<ChildSa> {
        self.gateway.wait_children("another CHILD SA", SOON, |children| match children {
            [child] => child.spi_in != old.spi_in,
            _ => false,
        })?;
        self.packets_pass()?;
        self.only().map(|(_, child)| child)
    }

    /// Waits until the IKE SA is another one and the old one is gone.
    fn ike_is_replaced(&self, old: &IkeSa) -> Result<IkeSa> {
        self.gateway.wait_sas("another IKE SA", SOON, |sas| match sas {
            [sa] => {
                sa.initiator_spi != old.initiator_spi && sa.state == "ESTABLISHED" && sa.children.len() == 1
            }
            _ => false,
        })?;
        self.packets_pass()?;
        self.only().map(|(ike, _)| ike)
    }

    /// Every packet was answered, and none left in clear.
    fn finish(self) -> Result<()> {
        self.packets_pass()?;
        let drops = self.gateway.drops()?;
        let [to_server, to_client] = self.pings;
        let counted: [Ping; 2] = [to_server.stop()?, to_client.stop()?];
        let log = self.swan.list_sas()?;
        for ping in counted {
            assert!(ping.received > 0 && ping.sent - ping.received <= 1, "{counted:?} {drops:?}\n{log}");
        }
        let counts = self.wire.settle()?;
        assert_eq!(counts.packets(Class::Clear), 0, "{:?}", self.wire.clear_text());
        Ok(())
    }
}

fn ours() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

#[test]
fn we_rekey_a_child_while_packets_pass() -> Result<()> {
    for esp_proposals in ["aes256gcm16", "aes256gcm16-x25519"] {
        let tunnel = Tunnel::new("rkchild", &SiteConfig { esp_proposals: esp_proposals.into(), ..ours() })?;
        let (ike, mut child) = tunnel.only()?;
        for _ in 0..3 {
            tunnel.gateway.rekey("site/net")?;
            child = tunnel.child_is_replaced(&child)?;
            assert_eq!(child.proposal, esp_proposals);
        }
        assert_eq!(tunnel.only()?.0.initiator_spi, ike.initiator_spi);
        tunnel.finish()?;
    }
    Ok(())
}

#[test]
fn strongswan_rekeys_a_child_while_packets_pass() -> Result<()> {
    for esp_proposals in ["aes256gcm16", "aes256gcm16-x25519"] {
        let tunnel = Tunnel::new("rkchilds", &SiteConfig { esp_proposals: esp_proposals.into(), ..ours() })?;
        let (_, mut child) = tunnel.only()?;
        for _ in 0..3 {
            tunnel.swan.rekey_child("net")?;
            child = tunnel.child_is_replaced(&child)?;
        }
        tunnel.finish()?;
    }
    Ok(())
}

#[test]
fn both_ends_rekey_the_ike_sa_while_packets_pass() -> Result<()> {
    let tunnel = Tunnel::new("rkike", &ours())?;
    let (mut ike, child) = tunnel.only()?;
    for by_us in [true, false, false, true] {
        if by_us {
            tunnel.gateway.rekey("site")?;
        } else {
            tunnel.swan.rekey_ike("site")?;
        }
        ike = tunnel.ike_is_replaced(&ike)?;
        assert_eq!(tunnel.only()?.1.spi_in, child.spi_in, "the CHILD SA is the same");
    }
    // And the child can be rekeyed on what has come of it.
    tunnel.gateway.rekey("site/net")?;
    let child = tunnel.child_is_replaced(&child)?;
    tunnel.swan.rekey_child("net")?;
    tunnel.child_is_replaced(&child)?;
    tunnel.finish()
}

#[test]
fn rekeyings_of_both_ends_that_cross_end_with_one_sa_each() -> Result<()> {
    let tunnel = Tunnel::new("rkcross", &ours())?;
    for _ in 0..5 {
        let (_, child) = tunnel.only()?;
        std::thread::scope(|scope| {
            let theirs = scope.spawn(|| tunnel.swan.rekey_child("net"));
            tunnel.gateway.rekey("site/net")?;
            theirs.join().expect("strongSwan's rekeying does not panic").map(drop)
        })?;
        tunnel.child_is_replaced(&child)?;
    }
    tunnel.finish()
}

#[test]
fn we_reauthenticate_while_packets_pass() -> Result<()> {
    let tunnel = Tunnel::new("rkauth", &ours())?;
    let (ike, child) = tunnel.only()?;
    tunnel.gateway.reauthenticate("site")?;
    let new = tunnel.ike_is_replaced(&ike)?;
    assert_ne!(new.children[0].spi_in, child.spi_in, "everything is made anew");
    tunnel.finish()
}

/// RFC 4478, as the end that began: strongSwan tells those that have an address of it, with whom it would not begin itself.
#[test]
fn we_reauthenticate_in_the_time_that_strongswan_gives_us() -> Result<()> {
    let sites = Sites::new("rkgiven")?;
    let text = ours().mirrored().swanctl();
    let lines =
        "site {\n pools = given\n reauth_time = 7s\n over_time = 20s\n rand_time = 0s\n rekey_time = 0s\n";
    let pools = "pools {\n given {\n addrs = 10.4.0.0/24\n }\n}\n";
    let swan = StrongSwan::start(&sites.b, &format!("{}{pools}", text.replacen("site {\n", lines, 1)))?;
    let line = "vips = [\"0.0.0.0\"]\nproposals = [";
    let config = GatewayConfig::new(ours().toml().replacen("proposals = [", line, 1));
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    let mark = swan.mark();
    gateway.initiate("site/net", SOON)?;
    let first = gateway.sas()?;
    swan.wait_log(mark, "AUTH_LFT", SOON)?;
    gateway.wait_sas("another IKE SA in the place of the first", SOON, |sas| match sas {
        [sa] => sa.initiator_spi != first[0].initiator_spi && sa.children.len() == 1,
        _ => false,
    })?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    Ok(())
}

/// RFC 4478, as the end that answers: strongSwan is told ours, and is asked by an operator.
#[test]
fn strongswan_reauthenticates_in_the_time_that_we_give_it_and_when_asked() -> Result<()> {
    let sites = Sites::new("rkgives")?;
    let text = ours().mirrored().swanctl().replacen("site {\n", "site {\n over_time = 596s\n", 1);
    let swan = StrongSwan::start(&sites.b, &text)?;
    let line = "reauth_time = \"600s\"\nrand_time = 0\nproposals = [";
    let config = GatewayConfig::new(ours().toml().replacen("proposals = [", line, 1));
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    for asked in [false, true] {
        let mark = swan.mark();
        if asked {
            gateway.reauthenticate("site")?;
            swan.wait_log(mark, "received AUTH_LIFETIME of 30s, starting reauthentication", SOON)?;
        } else {
            swan.initiate("net", SOON)?;
            swan.wait_log(mark, "received AUTH_LIFETIME of 600s", SOON)?;
        }
        swan.wait_log(mark, "reauthenticating IKE_SA", SOON)?;
        let established = "IKE_SA site[2] established";
        swan.wait_log(mark, if asked { "established between" } else { established }, SOON)?;
    }
    gateway.wait_children("a child", SOON, |children| !children.is_empty())?;
    Ok(())
}

#[test]
fn lifetimes_of_ours_rekey_by_time_and_by_packets() -> Result<()> {
    let sites = Sites::new("rklife")?;
    let swan = StrongSwan::start(&sites.b, &ours().mirrored().swanctl())?;
    let limited = ours().toml().replace(
        "[connections.site.children.net]",
        "[connections.site.children.net]\nrekey_packets = 200\nrand_packets = 50",
    );
    let config = GatewayConfig::new(limited);
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    gateway.initiate("site/net", SOON)?;
    let pings = sites.client.begin_pings(Sites::SERVER, OFTEN)?;
    let mut seen = vec![gateway.children()?[0].spi_in.clone()];
    for _ in 0..3 {
        let children =
            gateway.wait_children("a CHILD SA not seen before", SOON, |children| match children {
                [child] => !seen.contains(&child.spi_in),
                _ => false,
            })?;
        seen.push(children[0].spi_in.clone());
    }
    let counted = pings.stop()?;
    assert!(counted.sent - counted.received <= 1, "{counted:?}\n{}", swan.list_sas()?);
    Ok(())
}
