//! What `portcullis check` warns of beyond what every reading does.

use super::*;

/// Reads with the lints, on a machine of our making.
pub(super) fn linted(
    root: Section<'_>,
    base: &Path,
    now: u64,
    mtu: fn(&str) -> Option<u32>,
) -> Option<Config> {
    let config = Config::read(&root, base)?;
    crate::config::lints::run(&root, &config, &crate::config::lints::Machine { now, mtu: &mtu });
    Some(config)
}

fn lint(text: &str) -> Vec<String> {
    let build: Build =
        |root, base| linted(root, base, 0, |name| Some(if name == "outside0" { 1300 } else { 1280 }));
    let (_, found) = Config::parse_as(text, Path::new(""), build).unwrap();
    found.iter().map(ToString::to_string).filter(|text| !text.contains("has an MTU")).collect()
}

/// `site/net`, which is 10.1.0.0/24 to 10.2.0.0/24[tcp/443] and 10.3.0.0/24, with a neighbour.
fn beside(child: &str) -> Vec<String> {
    lint(&with("[secrets.ike-site]\n", &format!("[connections.x.children.y]\n{child}\n[secrets.ike-site]\n")))
}

#[test]
fn a_policy_that_another_covers_can_never_match() {
    let found = beside("local_ts = '10.0.0.0/8'\nremote_ts = '10.0.0.0/8'\nmode = 'pass'");
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert!(
        found.starts_with("31:14: warning: connections.site.children.net.remote_ts: can never match"),
        "{found}"
    );
    assert!(found.contains("`x/y` covers all of it and goes first (200000 before 400000)"), "{found}");
}

#[test]
fn policies_that_meet_in_part_are_told_with_the_winner() {
    let found = beside("local_ts = '10.1.0.0/16'\nremote_ts = '10.3.0.0/25'\nmode = 'pass'");
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert!(found.contains("overlaps `x/y`, which wins (200000 before 400000)"), "{found}");
    assert!(found.contains("packets from 10.1.0.0/24 to 10.3.0.0/25 are its"), "{found}");
}

#[test]
fn an_exception_within_a_policy_and_policies_apart_are_meant() {
    for child in [
        "local_ts = '10.1.0.0/24'\nremote_ts = '10.2.0.0/24[tcp/443]'\nmode = 'pass'",
        "local_ts = '10.1.0.0/24'\nremote_ts = '10.2.0.0/24[tcp/22]'\nmode = 'pass'",
        "local_ts = '10.0.0.0/8'\nremote_ts = '10.4.0.0/16'\nmode = 'pass'",
    ] {
        let found = beside(child);
        assert!(found.is_empty(), "{child}: {found:?}");
    }
}

#[test]
fn an_mtu_that_leaves_too_little_in_a_tunnel_is_told() {
    let build: Build =
        |root, base| linted(root, base, 0, |name| Some(if name == "outside0" { 1300 } else { 1280 }));
    let (_, found) = Config::parse_as(WHOLE, Path::new(""), build).unwrap();
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((found.key.as_str(), found.severity), ("gateway.interfaces.name", Severity::Warning));
    assert!(found.message.contains("an MTU of 1300, which leaves packets of 1246 octets"), "{found}");
    assert!(found.message.contains("ip link set outside0 mtu 1336"), "{found}");
    let roomy: Build = |root, base| linted(root, base, 0, |_| Some(1500));
    assert_eq!(Config::parse_as(WHOLE, Path::new(""), roomy).unwrap().1, []);
}

#[test]
fn reading_for_a_start_tells_none_of_it() {
    let child = "[connections.x.children.y]\nlocal_ts = '10.0.0.0/8'\nremote_ts = '10.0.0.0/8'\nmode = 'pass'\n\
                 [secrets.ike-site]\n";
    assert_eq!(parse(&with("[secrets.ike-site]\n", child)).unwrap().1, []);
}
