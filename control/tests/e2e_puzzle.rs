//! Puzzles (RFC 8019) against a small IKEv2 in Python, and against strongSwan, which knows none.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Result, Scapy, SiteConfig, Sites, StrongSwan};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);
const PYTHON: &str = include_str!("peers/ikev2.py");

// As IANA's registry has them.
const NOTIFY: u8 = 41;
const PUZZLE_SOLUTION: u8 = 54;
const SA: u8 = 33;

fn ours() -> SiteConfig {
    let esp_proposals = "aes256gcm16".into();
    SiteConfig { proposals: "aes256gcm16-prfsha256-x25519".into(), esp_proposals, ..SiteConfig::a() }
}

fn start(sites: &Sites, ike: &str, site: &SiteConfig) -> Result<Gateway> {
    let config = GatewayConfig::new(format!("[ike]\n{ike}\n\n{}", site.toml()));
    Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)
}

/// Asks everybody for a cookie and for the solution of a puzzle of 12 bits.
const UNDER_ATTACK: &str =
    "cookie_threshold = 0\npuzzle_threshold = 0\npuzzle_difficulty = 12\npuzzle_auth_difficulty = 8";

#[test]
fn whoever_solves_our_puzzle_gets_in_and_so_does_who_knows_of_none() -> Result<()> {
    let sites = Sites::new("puzzle")?;
    let _gateway = start(&sites, UNDER_ATTACK, &ours())?;
    for solves in [true, false] {
        let mut peer = Scapy::start(&sites.b, PYTHON)?;
        let site = ours();
        let with = json!({
            "local": site.remote, "remote": site.local, "us": site.remote_id, "them": site.local_id,
            "secret": site.secret, "solves": solves,
        });
        // PRF_HMAC_SHA2_256 and 10 bits, as nobody else is there; and again in IKE_AUTH, of whom it is known that he can.
        let again = solves.then_some("000508");
        assert_eq!(peer.call("begin_under_attack", &with)?, json!(["00050a", again]));
    }
    let swan = StrongSwan::start(&sites.b, &ours().mirrored().swanctl())?;
    swan.initiate("net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    Ok(())
}

#[test]
fn we_solve_the_puzzle_of_another_and_no_harder_one_than_we_are_to() -> Result<()> {
    let sites = Sites::new("solve")?;
    for (difficulty, solved) in [(14, true), (0, true), (15, false)] {
        let mut peer = Scapy::start(&sites.b, PYTHON)?;
        let site = SiteConfig { start_action: "start", ..ours() };
        let gateway = start(&sites, "puzzle_solved = 14", &site)?;
        let with = json!({ "local": site.remote, "remote": site.local, "difficulty": difficulty });
        let shown = peer.call("ask_puzzle", &with)?;
        let bits: Vec<u64> = serde_json::from_value(shown["bits"].clone()).expect("numbers");
        let kinds: Vec<u8> = serde_json::from_value(shown["kinds"].clone()).expect("numbers");
        if solved {
            assert!(bits.iter().all(|bits| *bits >= difficulty) && shown["different"] == 4, "{shown}");
            // RFC 8019 §8.2, §7.1.2: no longer than the PRF's own keys, and behind the cookie.
            assert!(shown["longest"].as_u64().is_some_and(|longest| longest <= 32), "{shown}");
            assert_eq!(kinds[..3], [NOTIFY, PUZZLE_SOLUTION, SA]);
        } else {
            assert_eq!((bits.as_slice(), &kinds[..2]), (&[][..], &[NOTIFY, SA][..]));
        }
        drop(gateway);
    }
    Ok(())
}

#[test]
fn we_solve_the_puzzle_of_another_in_ike_auth() -> Result<()> {
    let sites = Sites::new("solveauth")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let site = SiteConfig { start_action: "start", ..ours() };
    let gateway = start(&sites, "puzzle_solved = 14", &site)?;
    let with = json!({
        "local": site.remote, "remote": site.local, "us": site.remote_id, "secret": site.secret, "difficulty": 12,
    });
    let bits: Vec<u64> = serde_json::from_value(peer.call("ask_puzzle_in_auth", &with)?).expect("numbers");
    assert!(bits.len() == 4 && bits.iter().all(|bits| *bits >= 12), "{bits:?}");
    gateway.wait_sas("up", SOON, |sas| sas.iter().any(|sa| sa.state == "ESTABLISHED"))?;
    Ok(())
}
