//! What else is measured in the gateway's place: VPP in all modes, the kernel's own forwarding, without XDP, beside plain
//! forwarding, and strongSwan with its ESP in user space beside encryption. All get the gateway's core: VPP by its settings,
//! the kernel by receive packet steering, charon by its affinity. charon's priority stays what it is: a higher one, of real
//! time or short of it, makes its threads wait for each other, and everything several times slower.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use portcullis_lab::{SiteConfig, StrongSwan};

use super::gateway::Mode;
use super::lab::{FAR_GATEWAY, FAR_HOST, LOCAL, Place, REMOTE};
use super::measure::Rig;
use super::packets::{Expected, PeerSa, spi_of};
use super::report::{Report, VPP};
use super::vpp::Vpp;
use super::{Case, GATEWAY_CORE, Options, mixtures};

const LINUX: &str = "linux-forward";
const STRONGSWAN: &str = "strongswan";

/// OpenSSL's AES-GCM before strongSwan's own, which is many times slower.
const PLUGINS: &str = "load = random nonce aes sha1 sha2 pem pkcs1 x509 pubkey hmac kdf openssl gcm curve25519 \
                       kernel-libipsec kernel-netlink socket-default vici updown";

/// Measures them in a mode's cases that they can be compared in.
pub(crate) fn measure(options: &Options, mode: Mode, report: &mut Report) {
    let of = |mixture| Case { mode, mixture, sas: 1, rekeys: 0 };
    let cases = mixtures(options.scope.quick).into_iter().map(of);
    let cases = cases.filter(|case| options.scope.wants(&case.name())).collect::<Vec<_>>();
    if cases.is_empty() {
        return;
    }
    let absent = |implementation, outcome: anyhow::Result<()>, report: &mut Report| {
        if let Err(error) = outcome {
            for case in &cases {
                report.absent(&case.name(), implementation, &format!("{error:#}"));
            }
        }
    };
    let measured = vpp(options, &cases, mode, report);
    absent(VPP, measured, report);
    match mode {
        Mode::Plain => absent(LINUX, linux(options, &cases, report), report),
        Mode::Encrypt => absent(STRONGSWAN, strongswan(options, &cases, report), report),
        Mode::Decrypt => {}
    }
}

/// In a lab of its own, with which its XDP programs go: it leaves them where they are.
fn vpp(options: &Options, cases: &[Case], mode: Mode, report: &mut Report) -> anyhow::Result<()> {
    let place = Place::new()?;
    let running = Vpp::start(&place, &options.vpp, mode)?;
    let mut rig = Rig::new(&place, options.trial(), options.loss_tolerance / 100.0, true)?;
    rig.worker = Some(running.worker);
    rig.face(mode);
    let expected = || match mode {
        // Its IVs are not sequence numbers.
        Mode::Encrypt => Ok(Expected::Foreign),
        Mode::Plain | Mode::Decrypt => Ok(Expected::Clear),
    };
    // Sequence numbers go on from case to case: it is one SA.
    let mut peers = vec![PeerSa { spi: spi_of(0, 0), next: 1 }];
    for case in cases {
        let mut source = rig.source(case, peers.clone())?;
        let measured = rig.climb(case, &mut source, expected, None, &mut |_| Ok(()));
        if mode == Mode::Decrypt {
            peers = source.into_peers();
        }
        report.found(&case.name(), VPP, &case.mixture.sizes, measured);
    }
    running.stop()
}

fn linux(options: &Options, cases: &[Case], report: &mut Report) -> anyhow::Result<()> {
    let place = Place::new()?;
    steer(&place, "inside0")?;
    let mut rig = unthreaded(options, &place)?;
    rig.face(Mode::Plain);
    for case in cases {
        let mut source = rig.source(case, Vec::new())?;
        let measured = rig.climb(case, &mut source, || Ok(Expected::Clear), None, &mut |_| Ok(()));
        report.found(&case.name(), LINUX, &case.mixture.sizes, measured);
    }
    Ok(())
}

/// Where packets are received as the kernel does it unless told otherwise: real-time threads for that would keep out the kernel's
/// own forwarding and charon, which have ordinary priority.
fn unthreaded(options: &Options, place: &Place) -> anyhow::Result<Rig> {
    Ok(Rig::new(place, options.trial(), options.loss_tolerance / 100.0, true)?.without_threads())
}

/// Lets the gateway's core do the kernel's part behind an interface.
fn steer(place: &Place, interface: &str) -> anyhow::Result<()> {
    let file = format!("/sys/class/net/{interface}/queues/rx-0/rps_cpus");
    let write = format!("echo {:x} > {file}", 1 << GATEWAY_CORE);
    // It mounts the /sys of that namespace.
    let done = Command::new("ip")
        .args(["netns", "exec", place.gateway.netns(), "sh", "-c", &write])
        .output()
        .context("running ip netns exec")?;
    anyhow::ensure!(
        done.status.success(),
        "no receive packet steering: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// In a lab of its own: the ends negotiate like a peer before they become sockets.
fn strongswan(options: &Options, cases: &[Case], report: &mut Report) -> anyhow::Result<()> {
    let place = Place::new()?;
    place.ends.address("far", &format!("{FAR_HOST}/24"))?;
    place.ends.ip("addr add 10.128.0.1/9 dev lo")?;
    let ours = SiteConfig {
        local: FAR_GATEWAY.to_string(),
        remote: FAR_HOST.to_string(),
        esp_proposals: "aes256gcm16".into(),
        local_ts: vec![LOCAL.into()],
        remote_ts: vec![REMOTE.into()],
        ..SiteConfig::a()
    };
    let _peer = StrongSwan::start_with(&place.ends, &ours.mirrored().swanctl(), PLUGINS)?;
    let mut charon = StrongSwan::start_with(&place.gateway, &ours.swanctl(), PLUGINS)?;
    charon.initiate("net", Duration::from_secs(20))?;
    // Its 1400 octets would let no packet of 1424 in.
    place.gateway.ip("link set ipsec0 mtu 1500")?;
    steer(&place, "inside0")?;
    let pid = charon.process().pid().to_string();
    place.gateway.run(["taskset", "-a", "-p", &format!("{:x}", 1 << GATEWAY_CORE), &pid])?;
    let mut rig = unthreaded(options, &place)?;
    rig.face(Mode::Encrypt);
    for case in cases {
        let mut source = rig.source(case, Vec::new())?;
        let measured = rig.climb(case, &mut source, || Ok(Expected::Foreign), None, &mut |_| Ok(()));
        report.found(&case.name(), STRONGSWAN, &case.mixture.sizes, measured);
    }
    Ok(())
}
