//! libreswan with nothing said about algorithms, and neither here: an IKE SA comes up whoever begins, and both choose the
//! same for the child. What follows is the kernel's, on libreswan's side: one without ESP refuses the SA that was negotiated.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Libreswan, Result, Sites};

const SOON: Duration = Duration::from_secs(30);

/// Both ends, with the defaults of each. `None` where there is no libreswan.
fn ends(name: &str) -> Result<Option<(Sites, Libreswan, Gateway)>> {
    if let Some(missing) = Libreswan::missing() {
        eprintln!("skipped: {missing}");
        return Ok(None);
    }
    let sites = Sites::new(name)?;
    let theirs = "config setup\nconn site\n  left=192.0.2.2\n  leftid=@b.example\n  leftsubnet=10.2.0.0/24\n  \
                  right=192.0.2.1\n  rightid=@a.example\n  rightsubnet=10.1.0.0/24\n  authby=secret\n  ikev2=yes\n  auto=add\n";
    // FIPS-minded as it is, it would warn of a shorter one.
    let secret = "a secret that is longer than the longest of all these hashes, to be sure";
    let swan = Libreswan::start(&sites.b, theirs, &format!("@a.example @b.example : PSK \"{secret}\"\n"))?;
    let ours = format!(
        "[connections.site]\nlocal_addrs = [\"192.0.2.1\"]\nremote_addrs = [\"192.0.2.2\"]\n\
         local = {{ auth = \"psk\", id = \"a.example\" }}\nremote = {{ auth = \"psk\", id = \"b.example\" }}\n\
         [connections.site.children.net]\nlocal_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.2.0.0/24\"]\n\
         [secrets.ike]\nids = [\"a.example\", \"b.example\"]\nsecret = \"{secret}\"\n"
    );
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let gateway = Gateway::start(&sites.a, binary, &GatewayConfig::new(ours))?;
    Ok(Some((sites, swan, gateway)))
}

#[test]
fn what_libreswan_proposes_unasked_comes_up() -> Result<()> {
    let Some((_sites, swan, gateway)) = ends("lswinit")? else { return Ok(()) };
    let from = gateway.process().mark();
    swan.initiate("site")?;
    swan.wait_log("initiator established IKE SA; authenticated peer", SOON)?;
    let established = gateway.wait_log(from, "CHILD SA established", SOON)?;
    assert!(established.contains("proposal=aes256gcm16-esn"), "{established}");
    let ours = gateway.wait_sas("an IKE SA", SOON, |sas| sas.iter().any(|sa| sa.state == "ESTABLISHED"))?;
    let proposal = ours[0].proposal.clone().unwrap_or_default();
    assert_eq!(
        proposal, "aes256gcm16-prfsha256-modp2048",
        "its order of groups is not ours, but it begins with that"
    );
    Ok(())
}

#[test]
fn what_we_propose_unasked_comes_up_at_libreswan() -> Result<()> {
    let Some((_sites, swan, gateway)) = ends("lswresp")? else { return Ok(()) };
    let from = gateway.process().mark();
    // On a kernel without ESP the child is refused, after all that IKE has to do with it.
    let _ = gateway.initiate("site/net", SOON);
    gateway.wait_log(from, "IKE SA established", SOON)?;
    swan.wait_log("responder established IKE SA; authenticated peer", SOON)?;
    let chosen = swan.wait_log("chosen from remote proposals 1:ESP:", SOON)?;
    assert!(chosen.contains("1:ESP=AES_GCM_C_256-ENABLED"), "{chosen}");
    Ok(())
}
