//! `portcullis explain capture` and `portcullis probe` against strongSwans: neither has a daemon of ours in it.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{LabError, Result, SiteConfig, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(20);
const HASTY: &str = "retransmit_timeout = 0.5\n retransmit_base = 1.0\n retransmit_tries = 1\n";

fn site() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

/// What is captured while `b` tries to reach `a`, explained. Both are strongSwan.
fn explained(name: &str, a: &SiteConfig, b: &SiteConfig, both_begin: bool) -> Result<String> {
    let sites = Sites::new(name)?;
    let file = sites.a.dir().join("failed.pcap");
    let file = file.to_str().unwrap_or_default();
    let words =
        ["tcpdump", "--immediate-mode", "-U", "-ni", "outside0", "-w", file, "udp port 500 or udp port 4500"];
    let mut tcpdump = sites.a.spawn_words(words)?;
    tcpdump.wait_line("listening on", SOON)?;
    let swan_a = StrongSwan::start_with(&sites.a, &a.swanctl(), HASTY)?;
    let swan_b = StrongSwan::start_with(&sites.b, &b.swanctl(), HASTY)?;
    // It fails, or there would be nothing to explain.
    let outcome = swan_b.initiate("net", SOON);
    if both_begin {
        let _ = swan_a.initiate("net", SOON);
    }
    drop((swan_a, swan_b));
    tcpdump.terminate(SOON)?;
    let binary = env!("CARGO_BIN_EXE_portcullis");
    let text = sites.a.run([binary, "explain", "capture", file])?.stdout;
    println!("{text}");
    assert_eq!(outcome.is_ok(), text.starts_with("ok"), "{text}");
    Ok(text)
}

#[test]
fn a_capture_of_two_strongswans_tells_where_their_negotiation_broke() -> Result<()> {
    let other_group = SiteConfig { proposals: "aes256gcm16-prfsha384-modp2048".into(), ..site().mirrored() };
    let text = explained("cap-ke", &site(), &other_group, true)?;
    assert!(text.starts_with("PROPOSAL_KE_MISMATCH"), "{text}");
    assert!(text.contains("modp2048") && text.contains("x25519"), "{text}");

    let other_secret = SiteConfig { secret: "another".into(), ..site().mirrored() };
    let text = explained("cap-psk", &site(), &other_secret, false)?;
    assert!(text.starts_with("AUTHENTICATION_FAILED"), "{text}");

    let elsewhere = SiteConfig { remote: "192.0.2.77".into(), ..site().mirrored() };
    let text = explained("cap-silent", &site(), &elsewhere, false);
    // Nobody has that address, so nothing leaves that could be captured at the other end.
    assert!(matches!(text, Err(LabError::Failed { .. })), "{text:?}");

    let text = explained("cap-good", &site(), &site().mirrored(), false)?;
    assert!(text.starts_with("ok"), "{text}");
    Ok(())
}

#[test]
fn a_probe_finds_out_what_strongswan_takes_and_leaves_at_most_one_half_open_sa() -> Result<()> {
    let sites = Sites::new("probe")?;
    let b = SiteConfig {
        proposals: "aes256gcm16-aes128gcm16-prfsha384-ecp384-modp3072".into(),
        ..site().mirrored()
    };
    let swan = StrongSwan::start_with(&sites.b, &b.swanctl(), "")?;
    let binary = env!("CARGO_BIN_EXE_portcullis");
    let text = sites.a.run([binary, "probe", "192.0.2.2"])?.stdout;
    println!("{text}");
    let accepted: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("yes ")).collect();
    assert_eq!(accepted, ["aes256gcm16", "aes128gcm16", "prfsha384", "ecp384", "modp3072"], "{text}");
    assert!(text.contains("strongSwan"), "{text}");
    assert!(text.contains("proposals = [\"aes256gcm16-prfsha384-ecp384\"]"), "{text}");
    assert!(swan.list_sas()?.lines().filter(|line| line.contains("CONNECTING")).count() <= 1);

    // It knows us by one address: from another it refuses everything.
    sites.a.address("outside0", "192.0.2.9/24")?;
    let text = sites.a.run([binary, "probe", "192.0.2.2", "--from", "192.0.2.9"])?.stdout;
    assert!(text.contains("refuses everything"), "{text}");
    let nobody = sites.a.run([binary, "probe", "192.0.2.99", "--timeout", "100"]);
    assert!(matches!(nobody, Err(LabError::Failed { .. })), "{nobody:?}");
    Ok(())
}

#[test]
fn a_file_that_is_no_capture_is_refused_with_what_it_is_not() -> Result<()> {
    let sites = Sites::new("nocap")?;
    let file = sites.a.dir().join("text");
    std::fs::write(&file, "no capture at all, by far").map_err(LabError::io("write a file"))?;
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let words = [binary.as_os_str(), "explain".as_ref(), "capture".as_ref(), file.as_os_str()];
    match sites.a.run(words) {
        Err(error) => assert!(error.to_string().contains("no pcap or pcapng"), "{error}"),
        Ok(output) => panic!("taken for a capture: {output:?}"),
    }
    Ok(())
}
