//! Rates of a tunnel to strongSwan, on bursts of datagrams much larger than what passes at once: how many come is never a
//! matter of how long something takes.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use portcullis_lab::{Gateway, GatewayConfig, Host, Result, SiteConfig, Sites, StrongSwan};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
/// Many times as often as the slowest rate lets pings through.
const OFTEN: Duration = Duration::from_millis(5);
const PORT: u16 = 9999;
/// Packets of a burst, and octets of each: 40 are let through at once, and one in a second after that. No more than sockets
/// of the peer hold.
const PACKETS: usize = 60;
const OCTETS: usize = 1000;
const AT_ONCE: u64 = 40;

fn config(rates: &str) -> GatewayConfig {
    let site = SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() };
    let line = "start_action = \"none\"";
    GatewayConfig::new(site.toml().replace(line, &format!("{line}\n{rates}")))
}

/// A socket of that host, and what a burst from it to the other one's brings.
struct End(UdpSocket);

impl End {
    fn new(host: &Host) -> Result<Self> {
        let socket = host.enter(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap())?;
        socket.set_read_timeout(Some(SOON)).unwrap();
        // A burst that nobody reads yet.
        setsockopt(&socket, sockopt::RcvBufForce, &(1 << 20)).unwrap();
        Ok(Self(socket))
    }

    fn burst(&self, to: std::net::IpAddr) {
        // Less the headers of IP and UDP.
        for _ in 0..PACKETS {
            self.0.send_to(&[7; OCTETS - 28], (to, PORT)).unwrap();
        }
    }

    fn receive(&self, packets: u64) {
        (0..packets).for_each(|_| _ = self.0.recv(&mut [0; OCTETS]).unwrap());
    }
}

/// What the policy of the SA says.
fn policy(gateway: &Gateway) -> Result<Value> {
    let said = gateway.portcullis(&["policies", "--json"])?.stdout;
    let policies: Vec<Value> = serde_json::from_str(&said).unwrap();
    let negotiated = policies.into_iter().find(|policy| policy["origin"] == "negotiated");
    Ok(negotiated.unwrap_or_default())
}

/// Waits until all packets of a burst have come to an end in one direction, and says how many have passed and how many
/// not. Both are counted from the first burst on.
fn passed(gateway: &Gateway, direction: &str, before: (u64, u64)) -> Result<(u64, u64)> {
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < SOON, "{:?}", gateway.drops()?);
        let policy = policy(gateway)?;
        let count = |at: String| policy.pointer(&at).and_then(Value::as_u64).unwrap_or_default();
        let passed = count(format!("/packets_{direction}")) - before.0;
        let dropped = count(format!("/rate_{direction}/dropped")) - before.1;
        if passed + dropped >= PACKETS as u64 {
            assert_eq!(passed + dropped, PACKETS as u64);
            return Ok((passed, dropped));
        }
    }
}

#[test]
fn a_tunnel_carries_its_rate_over_rekeys_and_another_one_after_a_reload() -> Result<()> {
    let sites = Sites::new("rates")?;
    let swan = SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }.mirrored();
    let _swan = StrongSwan::start(&sites.b, &swan.swanctl())?;
    let slow = "rate_out = \"8k\"\nburst_out = 40_000\nrate_in = \"8k\"\nburst_in = 40_000";
    let a = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config(slow))?;
    a.initiate("site/net", SOON)?;
    let (client, server) = (End::new(&sites.client)?, End::new(&sites.server)?);

    client.burst(Sites::SERVER);
    let (out, out_dropped) = passed(&a, "out", (0, 0))?;
    assert!((AT_ONCE..PACKETS as u64).contains(&out), "{out}");
    server.receive(out);
    server.burst(Sites::CLIENT);
    let (back, back_dropped) = passed(&a, "in", (0, 0))?;
    assert!((AT_ONCE..PACKETS as u64).contains(&back), "{back}");
    client.receive(back);
    let drops = a.drops()?;
    assert_eq!((drops["rate_out"], drops["rate_in"]), (out_dropped, back_dropped), "{drops:?}");
    let (src, dst) = (Sites::CLIENT.to_string(), Sites::SERVER.to_string());
    let explained = a.portcullis(&["explain", "flow", &src, &dst])?.stdout;
    let expected = format!(
        "rate_out of site/net is 8k bit/s, 40000 octets at once: packets beyond it are dropped (rate_out), {out_dropped} so far"
    );
    assert!(explained.contains(&expected), "{explained}");

    // Other SAs, the same bucket: it would take minutes to fill.
    let before = a.children()?;
    a.rekey("site/net")?;
    a.wait_children("rekeyed", SOON, |children| {
        children.len() == 1 && children[0].spi_out != before[0].spi_out
    })?;
    client.burst(Sites::SERVER);
    let (again, again_dropped) = passed(&a, "out", (out, out_dropped))?;
    assert!(again < AT_ONCE * 3 / 4, "{again}");
    server.receive(again);

    // Without a rate, and on the same SAs.
    let before = a.children()?;
    let said = a.reload(&config("rate_in = \"8k\"\nburst_in = 40_000"), &[])?.stdout;
    assert!(said.contains("site/net: another rate; its SAs stay"), "{said}");
    client.burst(Sites::SERVER);
    let (all, none) = passed(&a, "out", (out + again, 0))?;
    assert_eq!((all, none), (PACKETS as u64, 0));
    server.receive(all);
    assert_eq!(a.children()?[0].spi_out, before[0].spi_out);
    assert_eq!(a.drops()?["rate_out"], out_dropped + again_dropped);
    assert!(a.drops()?.iter().all(|(reason, count)| *count == 0 || reason.starts_with("rate_")));

    // Which packets they are.
    a.reload(&config("rate_out = \"8k\"\nburst_out = 4_096"), &[])?;
    let pings = sites.client.begin_pings(Sites::SERVER, OFTEN)?;
    let said = a.portcullis(&["trace", "--count", "1", "dropped"])?.stdout;
    assert!(said.contains("| policy site/net | dropped: rate_out"), "{said}");
    drop(pings);
    Ok(())
}
