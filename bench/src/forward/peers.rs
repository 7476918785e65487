//! What else is measured in the gateway's place: the kernel's own forwarding, without XDP, beside plain forwarding, and
//! strongSwan with its ESP in user space beside encryption. Both get the gateway's core: the kernel by receive packet
//! steering, charon by its affinity. Its priority stays what it is: a higher one, of real time or short of it, makes its
//! threads wait for each other, and everything several times slower.

use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use portcullis_lab::{SiteConfig, StrongSwan};

use super::gateway::Mode;
use super::lab::{FAR_GATEWAY, FAR_HOST, LOCAL, Place, REMOTE};
use super::measure::Rig;
use super::packets::Expected;
use super::report::Report;
use super::{Case, GATEWAY_CORE, Options, mixtures};

const LINUX: &str = "linux-forward";
const STRONGSWAN: &str = "strongswan";

/// OpenSSL's AES-GCM before strongSwan's own, which is many times slower.
const PLUGINS: &str = "load = random nonce aes sha1 sha2 pem pkcs1 x509 pubkey hmac kdf openssl gcm curve25519 \
                       kernel-libipsec kernel-netlink socket-default vici updown";

/// Measures both in the cases that they can be compared in.
pub(crate) fn measure(
    options: &Options,
    place: &Place,
    rig: &mut Rig,
    report: &mut Report,
) -> anyhow::Result<()> {
    let cases = |mode| {
        let of = |mixture| Case { mode, mixture, sas: 1, rekeys: 0 };
        let cases = mixtures(options.scope.quick).into_iter().map(of);
        cases.filter(|case| options.scope.wants(&case.name())).collect::<Vec<_>>()
    };
    for case in cases(Mode::Plain) {
        if let Err(error) = linux(place, rig, &case, report) {
            report.absent(&case.name(), LINUX, &format!("{error:#}"));
        }
    }
    let cases = cases(Mode::Encrypt);
    if !cases.is_empty()
        && let Err(error) = strongswan(options, &cases, report)
    {
        for case in &cases {
            report.absent(&case.name(), STRONGSWAN, &format!("{error:#}"));
        }
    }
    Ok(())
}

fn linux(place: &Place, rig: &mut Rig, case: &Case, report: &mut Report) -> anyhow::Result<()> {
    steer(place, "inside0")?;
    rig.face(Mode::Plain);
    let mut source = rig.source(case, Vec::new())?;
    let measured = rig.climb(&mut source, |_| Ok(Expected::Clear), None, &mut |_| Ok(()))?;
    report.add(&case.name(), LINUX, &case.mixture.sizes, measured);
    Ok(())
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
    let mut rig = Rig::new(&place, options.trial(), options.loss_tolerance / 100.0, true)?;
    rig.face(Mode::Encrypt);
    for case in cases {
        let mut source = rig.source(case, Vec::new())?;
        match rig.climb(&mut source, |_| Ok(Expected::Foreign), None, &mut |_| Ok(())) {
            Ok(measured) => report.add(&case.name(), STRONGSWAN, &case.mixture.sizes, measured),
            Err(error) => report.absent(&case.name(), STRONGSWAN, &format!("{error:#}")),
        }
    }
    Ok(())
}
