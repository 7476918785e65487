//! A million IKE_SA_INITs from forged addresses, or as many of them as go into twenty seconds, while a hundred tunnels of strongSwan's live: none of them is lost, memory
//! stays bounded, and a new peer gets in meanwhile.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use portcullis_lab::{Gateway, GatewayConfig, LabError, Result, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(60);
const TUNNELS: usize = 100;
/// The flood ends here if the machine is too slow for all of it.
const LONGEST: Duration = Duration::from_secs(20);
/// Resident memory that the daemon may have gained, octets.
const GAINED: u64 = 64 << 20;

/// Peers of every name; each asks after two seconds of silence whether the other lives.
fn ours() -> String {
    "[ike]\nretransmit_timeout = \"1s\"\n\n\
     [connections.site]\nlocal_addrs = [\"192.0.2.1\"]\ndpd_delay = \"2s\"\n\
     proposals = [\"aes256gcm16-prfsha384-x25519\"]\n\
     local = { auth = \"psk\", id = \"a.example\" }\nremote = { auth = \"psk\", id = \"*.example\" }\n\n\
     [connections.site.children.net]\nlocal_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.2.0.0/16\"]\n\
     esp_proposals = [\"aes256gcm16\"]\n\n\
     [secrets.ike]\nsecret = \"correct horse battery staple\"\n"
        .to_owned()
}

/// So many peers, and one more that comes later.
fn theirs() -> String {
    let connection = |number: usize| {
        let start_action = if number < TUNNELS { "start" } else { "none" };
        format!(
            "peer{number} {{\n local_addrs = 192.0.2.2\n remote_addrs = 192.0.2.1\n\
             proposals = aes256gcm16-prfsha384-x25519\n\
             local {{\n auth = psk\n id = p{number}.example\n }}\n remote {{\n auth = psk\n id = a.example\n }}\n\
             children {{\n net{number} {{\n local_ts = 10.2.1.{number}/32\n remote_ts = 10.1.0.0/24\n\
             esp_proposals = aes256gcm16\n start_action = {start_action}\n }}\n }}\n }}\n"
        )
    };
    let connections: String = (0..=TUNNELS).map(connection).collect();
    format!(
        "connections {{\n{connections}}}\n\
         secrets {{\n ike-all {{\n secret = \"correct horse battery staple\"\n }}\n }}\n"
    )
}

/// An IPv4 packet with an IKE_SA_INIT request that could be anybody's.
struct Forgery(Vec<u8>);

impl Forgery {
    const SOURCE: usize = 12;
    const SPI: usize = 28;

    fn new() -> Self {
        let transform = |last: u8, kind: u8, id: u16, attribute: &[u8]| {
            let length = 8 + attribute.len() as u16;
            [&[last, 0], &length.to_be_bytes()[..], &[kind, 0], &id.to_be_bytes(), attribute].concat()
        };
        let transforms =
            [transform(3, 1, 20, &[0x80, 14, 1, 0]), transform(3, 2, 6, &[]), transform(0, 4, 31, &[])]
                .concat();
        let proposal = [&[0, 0, 0, 8 + transforms.len() as u8, 1, 1, 0, 3][..], &transforms].concat();
        let payload = |next: u8, body: &[u8]| {
            let length = 4 + body.len() as u16;
            [&[next, 0], &length.to_be_bytes()[..], body].concat()
        };
        let payloads = [
            payload(34, &proposal),
            payload(40, &[&[0, 31, 0, 0][..], &[9; 32]].concat()),
            payload(0, &[7; 32]),
        ]
        .concat();
        let length = 28 + payloads.len() as u32;
        let ike =
            [&[1; 8][..], &[0; 8], &[33, 0x20, 34, 0x08], &[0; 4], &length.to_be_bytes(), &payloads].concat();
        let udp = [
            &500_u16.to_be_bytes()[..],
            &500_u16.to_be_bytes(),
            &(8 + ike.len() as u16).to_be_bytes(),
            &[0; 2],
            &ike,
        ]
        .concat();
        // The kernel fills in length and checksum.
        let ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1];
        Self([&ip[..], &udp].concat())
    }

    fn number(&mut self, number: u64) -> &[u8] {
        // 198.18.0.0/15 is for such tests (RFC 2544).
        let source = Ipv4Addr::from(0xc612_0000 | (number as u32 & 0x1_ffff)).octets();
        if let Some(field) = self.0.get_mut(Self::SOURCE..Self::SOURCE + 4) {
            field.copy_from_slice(&source);
        }
        if let Some(field) = self.0.get_mut(Self::SPI..Self::SPI + 8) {
            field.copy_from_slice(&(number + 1).to_be_bytes());
        }
        &self.0
    }
}

/// Sends the flood; returns when all of it is sent, or at its latest end.
fn flood(number: u64, sent: &AtomicU64) -> nix::Result<()> {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    let to = SockaddrIn::new(192, 0, 2, 1, 0);
    let (mut forgery, until) = (Forgery::new(), Instant::now() + LONGEST);
    for number in 0..number {
        // A full queue loses a few.
        let _ = sendto(raw.as_raw_fd(), forgery.number(number), &to, MsgFlags::empty());
        sent.store(number + 1, Ordering::Relaxed);
        if number % 1024 == 0 && Instant::now() > until {
            break;
        }
    }
    Ok(())
}

/// The daemon's resident memory, octets.
fn resident(gateway: &Gateway) -> Result<u64> {
    let path = format!("/proc/{}/status", gateway.process().pid());
    let text = std::fs::read_to_string(&path).map_err(LabError::io(format!("read {path}")))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    Ok(kib.unwrap_or_default() << 10)
}

fn established(gateway: &Gateway) -> Result<BTreeSet<String>> {
    let sas = gateway.sas()?.into_iter().filter(|sa| sa.state == "ESTABLISHED" && !sa.children.is_empty());
    Ok(sas.map(|sa| sa.initiator_spi).collect())
}

#[test]
fn a_flood_of_forged_ike_sa_inits_costs_no_tunnel_and_lets_new_peers_in() -> Result<()> {
    withstands("flood", 1, 1_000_000)
}

#[test]
fn the_same_holds_for_several_engines_together() -> Result<()> {
    withstands("floods", 4, 200_000)
}

fn withstands(name: &str, shards: u8, number: u64) -> Result<()> {
    let sites = Sites::new(name)?;
    let attacker = sites.lab.host("attacker")?;
    sites.lab.plug(&sites.wire, &attacker, "eth0")?;
    attacker.address("eth0", "192.0.2.9/24")?;
    // Answers to nobody go to the default gateway, which must not send them back.
    sites.b.run(["ip", "route", "add", "blackhole", "198.18.0.0/15"])?;
    sites.a.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    sites.a.sysctl("net.ipv4.conf.outside0.rp_filter", "0")?;
    // strongSwan's user-space ESP wants an address in each tunnel.
    for number in 0..=TUNNELS {
        sites.b.address("inside0", &format!("10.2.1.{number}/32"))?;
    }

    let gateway_lines = format!("ike_shards = {shards}\n");
    let config = GatewayConfig { gateway_lines, ..GatewayConfig::new(ours()) };
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    let swan = StrongSwan::start(&sites.b, &theirs())?;
    gateway.wait_sas("a hundred tunnels", SOON, |sas| {
        sas.iter().filter(|sa| sa.state == "ESTABLISHED" && !sa.children.is_empty()).count() == TUNNELS
    })?;
    let (before, memory) = (established(&gateway)?, resident(&gateway)?);

    let (sent, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut most, mut half_open) = (memory, 0);
    std::thread::scope(|scope| -> Result<()> {
        let flooding = scope.spawn(|| {
            let result = attacker.enter(|| flood(number, &sent));
            over.store(true, Ordering::Relaxed);
            result
        });
        while sent.load(Ordering::Relaxed) < 10_000 && !over.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        // A peer that nobody has heard of yet.
        swan.initiate(&format!("net{TUNNELS}"), SOON)?;
        while !over.load(Ordering::Relaxed) {
            most = most.max(resident(&gateway)?);
            half_open = half_open.max(gateway.sas()?.iter().filter(|sa| sa.state == "CONNECTING").count());
        }
        let flooded = flooding.join().map_err(|_| LabError::Timeout {
            what: "the flood".into(),
            waited: LONGEST,
            seen: "a panic".into(),
        })??;
        assert_eq!(flooded, Ok(()));
        Ok(())
    })?;
    println!("{} IKE_SA_INITs sent", sent.load(Ordering::Relaxed));
    assert!(sent.load(Ordering::Relaxed) > number / 20, "too slow to be a flood");
    assert!(half_open <= 64, "{half_open} half-open IKE SAs");
    assert!(most < memory + GAINED, "{memory} octets before, {most} during the flood");

    // DPD has asked all of them meanwhile; whoever it gave up would be gone.
    let after = established(&gateway)?;
    assert!(after.is_superset(&before), "{} of {TUNNELS} are left", after.intersection(&before).count());
    assert_eq!(after.len(), TUNNELS + 1);
    let verdicts = gateway.status()?.verdicts;
    assert!(!verdicts.iter().any(|verdict| verdict.reason == "PEER_SILENT"), "{verdicts:?}");
    Ok(())
}
