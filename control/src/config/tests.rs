mod credentials;
mod devices;
mod eap;
mod events;
mod fuzz;
mod lints;
mod null;
mod radius;

use super::*;
use portcullis_gateway::dataplane::{OnStop, XdpMode};
use portcullis_ike::config::{AddressMatch, IdentityMatch, IkeFragmentation, Limit, Unique};
use portcullis_ipsec::{CopyDf, CopyDscp, Fragmentation, Mode, MssClamp, SaOptions, TfcPadding};

const WHOLE: &str = r#"
[gateway]
workers = [1]
metrics = "127.0.0.1:9464"
on_stop = "open"

[[gateway.interfaces]]
name = "outside0"
role = "outside"

[[gateway.interfaces]]
name = "inside0"
role = "inside"
mode = "skb"
queues = 2

[ike]
retransmit_timeout = "500ms"
retransmit_tries = 3

[connections.site]
local_addrs = ["192.0.2.1"]
remote_addrs = "192.0.2.2, 2001:db8::/32"
proposals = ["aes256gcm16-prfsha384-x25519"]
dpd_delay = "30s"
local = { auth = "psk", id = "a.example" }
remote = { auth = "psk", id = "b.example" }

[connections.site.children.net]
local_ts = ["10.1.0.0/24"]
remote_ts = ["10.2.0.0/24[tcp/443]", "10.3.0.0/24"]
esp_proposals = ["aes256gcm16-esn"]
start_action = "trap"

[secrets.ike-site]
ids = ["a.example", "b.example"]
secret = "0x000102030405060708090a0b0c0d0e0f"
"#;

fn parse(text: &str) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    Config::parse(text, Path::new(""))
}

fn errors(text: &str) -> Vec<String> {
    let findings = parse(text).expect_err("this configuration must not be accepted");
    findings.iter().map(ToString::to_string).collect()
}

/// Replaces one line of the whole configuration.
fn with(from: &str, to: &str) -> String {
    assert!(WHOLE.contains(from), "`{from}` is not in the configuration");
    WHOLE.replacen(from, to, 1)
}

#[test]
fn every_option_arrives_where_it_belongs() {
    let (config, warnings) = parse(WHOLE).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.gateway.workers, [1]);
    assert_eq!(config.gateway.on_stop, OnStop::Open);
    assert_eq!(config.gateway.metrics, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(config.gateway.interfaces[1].mode, XdpMode::Skb);
    assert_eq!(config.gateway.interfaces[1].queues, Some(2));
    assert_eq!(config.engine.retransmission.timeout.as_millis(), 500);
    assert_eq!(config.engine.retransmission.tries, 3);
    let site = config.connection("site").unwrap();
    assert_eq!(site.local_addrs, [AddressMatch::Address("192.0.2.1".parse().unwrap())]);
    assert_eq!(site.remote_addrs[1], AddressMatch::Network("2001:db8::/32".parse().unwrap()));
    assert_eq!(site.remote[0].id, IdentityMatch::Exactly("b.example".parse().unwrap()));
    assert_eq!(site.children[0].remote_ts[0], Some("10.2.0.0/24[tcp/443]".parse().unwrap()));
    assert_eq!(config.engine.shared_keys[0].secret.0, (0..16).collect::<Vec<u8>>());
    let policies = config.policies();
    assert_eq!(policies.len(), 1);
    assert_eq!(policies[0].1.name, "site/net");
    assert_eq!(policies[0].1.origin, PolicyOrigin::Configured { acquire: true });
}

#[test]
fn packets_wait_for_the_sa_that_they_ask_for_unless_told_otherwise() {
    let trap =
        |text: &str| parse(&with("on_stop = ", &format!("{text}\non_stop = "))).unwrap().0.gateway.trap;
    let default = trap("");
    assert_eq!((default.per_policy, default.in_all, default.seconds), (16, 1024, 5));
    assert_eq!(trap("trap_packets = 0").per_policy, 0);
    // At most a sixteenth of the frames.
    let few = trap("frames = 512\ntrap_packets = 200\ntrap_time = \"30s\"");
    assert_eq!((few.per_policy, few.in_all, few.seconds), (200, 32, 30));
    let errors = errors(&with("on_stop = ", "trap_time = \"2m\"\non_stop = "));
    assert!(errors[0].contains("trap_time: is out of range"), "{errors:?}");
}

const SHUNTS: &str = r#"
[connections.shunts.children.ssh]
local_ts = "10.1.0.0/24[tcp]"
remote_ts = "10.2.0.0/24[tcp/22]"
mode = "pass"
start_action = "trap"

[connections.site.children.never]
local_ts = "0.0.0.0/0"
remote_ts = "10.9.0.0/16[icmp/8]"
mode = "drop"
priority = 10

[secrets.ike-site]
"#;

#[test]
fn children_that_pass_or_drop_become_policies_that_ike_knows_nothing_of() {
    let (config, warnings) = parse(&with("[secrets.ike-site]\n", SHUNTS)).unwrap();
    assert_eq!(warnings, []);
    assert!(config.connection("shunts").is_none(), "nobody can negotiate it");
    assert_eq!(config.connection("site").unwrap().children.len(), 1);
    let [never, ssh] = config.shunts.as_slice() else { panic!("{:?}", config.shunts) };
    assert_eq!(
        (ssh.name.as_str(), ssh.action, ssh.precedence()),
        ("shunts/ssh", PolicyAction::Bypass, 200_000)
    );
    assert_eq!(ssh.remote_ts, ["10.2.0.0/24[tcp/22]".parse().unwrap()]);
    assert_eq!(
        (never.name.as_str(), never.action, never.precedence()),
        ("site/never", PolicyAction::Discard, 10)
    );
    assert_eq!(never.remote_ts[0].to_string(), "10.9.0.0/16[icmp/8]");
    let in_force: Vec<String> = config.policies().into_iter().map(|(_, policy)| policy.name).collect();
    assert_eq!(in_force, ["site/net", "site/never", "shunts/ssh"]);
}

#[test]
fn a_priority_goes_with_the_policies_of_a_child() {
    let (config, _) = parse(&with("start_action = \"trap\"", "priority = 7")).unwrap();
    assert_eq!(config.policies()[0].1.precedence(), 7);
    assert_eq!(
        config.connection("site").unwrap().children[0].priority.map(|priority| priority.get()),
        Some(7)
    );
}

#[test]
fn what_means_nothing_without_an_sa_is_refused_beside_pass_and_drop() {
    let shunts = SHUNTS.replacen("priority = 10", "esp_proposals = \"aes256gcm16\"\nreplay_window = 0", 1);
    let shunts = shunts.replacen("\"trap\"", "\"none\"", 1).replacen("10.1.0.0/24[tcp]", "dynamic", 1);
    let errors = errors(&with("[secrets.ike-site]\n", &shunts));
    let expected = [
        ("connections.shunts.children.ssh.local_ts", "names no address for it"),
        ("connections.shunts.children.ssh.start_action", "in force from the start"),
        ("connections.site.children.never.esp_proposals", "there is none"),
        ("connections.site.children.never.replay_window", "there is none"),
    ];
    for (key, why) in expected {
        assert!(errors.iter().any(|error| error.contains(key) && error.contains(why)), "{key}: {errors:?}");
    }
    assert_eq!(errors.len(), expected.len(), "{errors:?}");
}

#[test]
fn an_unknown_key_is_told_the_nearest_known_name_and_its_place() {
    let errors = errors(&with("dpd_delay = ", "dpd_dealy = "));
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    assert!(error.starts_with("25:1: error: connections.site.dpd_dealy: "), "{error}");
    assert!(error.contains("did you mean `dpd_delay`?"), "{error}");
    assert!(error.contains("^^^^^^^^^"), "{error}");
}

#[test]
fn a_duration_out_of_its_range_is_told_the_range() {
    let errors = errors(&with("workers = [1]", "workers = [1]\nspin = \"2s\"\nwatchdog = \"500ms\""));
    assert!(errors[0].starts_with("4:8: error: gateway.spin: is 2s (expected 0ns to 1s)"), "{errors:?}");
    assert!(
        errors[1].starts_with("5:12: error: gateway.watchdog: is 500ms (expected 1s to 600s)"),
        "{errors:?}"
    );
    let (config, _) = parse(&with("workers = [1]", "workers = [1]\nspin = \"20us\"")).unwrap();
    assert_eq!(config.gateway.spin, std::time::Duration::from_micros(20));
}

#[test]
fn there_is_an_engine_at_least_and_no_more_than_can_be_named() {
    for wrong in [0, 65] {
        let errors = errors(&with("workers = [1]", &format!("workers = [1]\nike_shards = {wrong}")));
        assert!(errors[0].starts_with("4:14: error: gateway.ike_shards: "), "{errors:?}");
        assert!(errors[0].contains("1 to 64"), "{errors:?}");
    }
    let (config, _) = parse(&with("workers = [1]", "workers = [1]\nike_shards = 4")).unwrap();
    assert_eq!(config.gateway.ike_shards, 4);
    let (config, _) = parse(&with("workers = [1]", "workers = [1]")).unwrap();
    assert!((1..=8).contains(&config.gateway.ike_shards), "{}", config.gateway.ike_shards);
}

#[test]
fn an_option_that_only_swanctl_has_is_refused_by_name() {
    let errors = errors(&with("dpd_delay = ", "dscp = 46\ndpd_delay = "));
    assert!(errors[0].contains("connections.site.dscp: is an option of swanctl.conf"), "{errors:?}");
}

#[test]
fn one_interface_may_serve_both_sides_and_each_side_needs_one() {
    let inside =
        "[[gateway.interfaces]]\nname = \"inside0\"\nrole = \"inside\"\nmode = \"skb\"\nqueues = 2\n";
    let alone = with(inside, "");
    assert!(errors(&alone)[0].contains("no interface has role \"inside\""), "{:?}", errors(&alone));
    let (config, _) = parse(&alone.replace("role = \"outside\"", "role = \"both\"")).unwrap();
    let [interface] = &config.gateway.interfaces[..] else { panic!("one interface") };
    assert!(interface.role.is_inside() && interface.role.is_outside());
}

#[test]
fn every_error_is_reported_at_once_in_the_order_of_the_file() {
    let text = with("workers = [1]", "workers = [1, 1]")
        .replace("role = \"inside\"", "role = \"indside\"")
        .replace("192.0.2.1", "gw.example.com")
        .replace("auth = \"psk\", id = \"a.", "auth = \"xauth\", id = \"a.")
        .replace("10.1.0.0/24", "10.1.0.9/24")
        .replace("\"trap\"", "7");
    let errors = errors(&text);
    let expected = [
        "3:15: error: gateway.workers: names core 1 twice",
        "13:8: error: gateway.interfaces.role: \"indside\" is not known here, did you mean \"inside\"?",
        "22:16: error: connections.site.local_addrs: `gw.example.com` is no address",
        "26:18: error: connections.site.local.auth: \"xauth\" is not supported by this version",
        "30:13: error: connections.site.children.net.local_ts: `10.1.0.9/24` is not a traffic selector",
        "33:16: error: connections.site.children.net.start_action: is a whole number",
    ];
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}\nshould start with\n{expected}");
    }
}

#[test]
fn a_missing_table_or_key_is_named() {
    assert!(errors("")[0].contains("`gateway` is missing"));
    let errors = errors(&with("remote = { auth = \"psk\", id = \"b.example\" }\n", ""));
    assert!(errors[0].contains("connections.site: `remote` is missing"), "{errors:?}");
}

#[test]
fn a_text_that_is_not_toml_is_told_where() {
    assert!(errors("[gateway\n")[0].contains("1:9: error: this is not TOML"), "{:?}", errors("[gateway\n"));
}

#[test]
fn a_connection_that_no_secret_fits_is_an_error() {
    let errors = errors(&with("ids = [\"a.example\", \"b.example\"]", "ids = [\"c.example\"]"));
    assert!(errors[0].contains("no `[secrets]` entry is for it"), "{errors:?}");
}

#[test]
fn a_child_to_start_needs_an_address_to_start_to() {
    let errors = errors(&with("remote_addrs = \"192.0.2.2, 2001:db8::/32\"", "remote_addrs = \"%any\""));
    assert!(errors[0].contains("names no address to initiate to"), "{errors:?}");
}

#[test]
fn selectors_without_a_common_family_are_an_error() {
    let errors = errors(&with("local_ts = [\"10.1.0.0/24\"]", "local_ts = [\"2001:db8:1::/48\"]"));
    assert!(errors[0].contains("no address family in common"), "{errors:?}");
}

#[test]
fn a_wrong_secret_is_reported_without_being_shown() {
    let errors = errors(&with("0x000102030405060708090a0b0c0d0e0f", "0xhunter2-is-my-secret"));
    assert!(errors[0].contains("not hexadecimal"), "{errors:?}");
    assert!(!errors[0].contains("hunter2"), "{errors:?}");
}

#[test]
fn no_line_that_may_hold_a_secret_is_shown() {
    for text in [
        with("secret = \"0x", "secrte = \"hunter2-"),
        with("0x000102030405060708090a0b0c0d0e0f\"", "hunter2"),
        with("secret = \"0x000102030405060708090a0b0c0d0e0f\"", "secret = hunter2"),
    ] {
        let errors = errors(&text);
        assert!(!errors.concat().contains("hunter2"), "{errors:?}");
    }
}

#[test]
fn a_short_secret_is_a_warning() {
    let (_, warnings) = parse(&with("0x000102030405060708090a0b0c0d0e0f", "short")).unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].severity, Severity::Warning);
    assert!(!warnings[0].to_string().contains("\"short\""));
}

#[test]
fn dynamic_selectors_are_the_ends_own_addresses() {
    let text = with("local_ts = [\"10.1.0.0/24\"]\n", "")
        .replace("remote_ts = [\"10.2.0.0/24[tcp/443]\", \"10.3.0.0/24\"]\n", "");
    let (config, _) = parse(&text).unwrap();
    let policies = config.policies();
    assert_eq!(policies[0].1.local_ts, ["192.0.2.1".parse().unwrap()]);
    assert_eq!(policies[0].1.remote_ts, ["192.0.2.2".parse().unwrap()]);
}

#[test]
fn proposals_left_out_are_the_defaults() {
    let text = with("proposals = [\"aes256gcm16-prfsha384-x25519\"]\n", "")
        .replace("esp_proposals = [\"aes256gcm16-esn\"]\n", "");
    let (config, _) = parse(&text).unwrap();
    let site = config.connection("site").unwrap();
    assert_eq!(site.proposals, portcullis_ike::proposal::IkeProposal::defaults());
    assert_eq!(site.children[0].esp_proposals, portcullis_ike::proposal::EspProposal::defaults());
}

fn options(lines: &str) -> SaOptions {
    let (config, findings) = parse(&with("start_action = \"trap\"", lines)).unwrap();
    assert_eq!(findings, []);
    config.connection("site").unwrap().children[0].options
}

#[test]
fn how_packets_are_treated_is_swanctls_unless_said() {
    assert_eq!(options(""), SaOptions::default());
    let plain = SaOptions::default();
    for (lines, expected) in [
        ("copy_dscp = \"no\"\nouter_dscp = 46", SaOptions { copy_dscp: CopyDscp::No, dscp: 46, ..plain }),
        ("copy_dscp = \"in\"", SaOptions { copy_dscp: CopyDscp::In, ..plain }),
        ("copy_ecn = false\ncopy_df = \"set\"", SaOptions { copy_ecn: false, copy_df: CopyDf::Set, ..plain }),
        ("tfc_padding = 0", plain),
        ("tfc_padding = 1300", SaOptions { tfc_padding: TfcPadding::To(1300), ..plain }),
        ("tfc_padding = \"mtu\"", SaOptions { tfc_padding: TfcPadding::Mtu, ..plain }),
        ("esp_fragmentation = \"after\"", SaOptions { fragmentation: Fragmentation::After, ..plain }),
        ("mss_clamp = \"mtu\"", SaOptions { mss_clamp: MssClamp::Mtu, ..plain }),
        ("mss_clamp = 1360", SaOptions { mss_clamp: MssClamp::To(1360), ..plain }),
    ] {
        assert_eq!(options(lines), expected, "{lines}");
    }
}

#[test]
fn options_of_packets_that_mean_nothing_are_errors() {
    for (lines, expected) in [
        ("copy_df = true", "copy_df"),
        ("copy_dscp = \"outwards\"", "expected \"out\", \"in\""),
        ("outer_dscp = 8", "`copy_dscp` must be"),
        ("outer_dscp = 64\ncopy_dscp = \"no\"", "0 to 63"),
        ("tfc_padding = \"full\"", "or \"mtu\""),
        ("mss_clamp = 40", "88 to 65495"),
    ] {
        let errors = errors(&with("start_action = \"trap\"", lines));
        assert!(errors[0].contains(expected), "{lines}: {errors:?}");
    }
}

#[test]
fn the_hosts_firewall_is_asked_only_if_that_is_said() {
    use portcullis_gateway::dataplane::Firewall;
    let firewall = |lines: &str| {
        parse(&with("on_stop = ", &format!("{lines}\non_stop = "))).map(|(config, _)| config.gateway.firewall)
    };
    assert_eq!(firewall(""), Ok(Firewall::None));
    assert_eq!(firewall("firewall = \"kernel\""), Ok(Firewall::Kernel));
    let errors = errors(&with("on_stop = ", "firewall = true\non_stop = "));
    assert!(errors[0].contains("firewall: is true or false (expected \"none\" or \"kernel\")"), "{errors:?}");
}

#[test]
fn rates_belong_to_children_with_sas() {
    use portcullis_ipsec::{RateLimit, RateLimits};
    let rates = |lines: &str| parse(&with("start_action = \"trap\"", lines)).unwrap().0.rates;
    let limit = |bits: u64, burst: u32| {
        Some(RateLimit { bits_per_second: bits.try_into().unwrap(), burst: burst.try_into().unwrap() })
    };
    assert!(rates("").is_empty());
    let both = rates("rate_out = \"100M\"\nrate_in = \"64k\"\nburst_in = 4096");
    let expected = RateLimits { outbound: limit(100_000_000, 1_250_000), inbound: limit(64_000, 4096) };
    assert_eq!(both.into_iter().collect::<Vec<_>>(), [("site/net".to_owned(), expected)]);
    assert_eq!(rates("rate_out = \"8k\"")["site/net"].outbound, limit(8000, 16_384));
    for (lines, expected) in [
        ("rate_out = \"100 Mbit\"", "rate_out: `100 Mbit` is no such rate"),
        ("rate_out = 100", "rate_out: is a whole number"),
        ("burst_out = 5000", "burst_out: limits nothing without `rate_out` beside it"),
        ("rate_in = \"1G\"\nburst_in = 1500", "4096 to"),
        ("mode = \"drop\"\nrate_in = \"1G\"", "rate_in: belongs to an SA"),
    ] {
        let errors = errors(&with("start_action = \"trap\"", lines));
        assert!(errors.iter().any(|error| error.contains(expected)), "{lines}: {errors:?}");
    }
}

#[test]
fn transport_mode_is_between_addresses_and_has_no_outer_header() {
    let transport = "mode = \"transport\"";
    let nets = errors(&with("start_action = \"trap\"", transport));
    assert!(nets[0].contains("local_ts: is not one address") && nets.len() == 2, "{nets:?}");
    let hosts = |lines: &str| {
        with("start_action = \"trap\"", &format!("{transport}\n{lines}"))
            .replace("local_ts = [\"10.1.0.0/24\"]\n", "")
            .replace(
                "remote_ts = [\"10.2.0.0/24[tcp/443]\", \"10.3.0.0/24\"]\n",
                "remote_ts = \"192.0.2.2[tcp]\"\n",
            )
    };
    let (config, _) = parse(&hosts("mss_clamp = 1300")).unwrap();
    assert_eq!(config.connection("site").unwrap().children[0].options.mode, Mode::Transport);
    let outer = errors(&hosts("copy_ecn = false"));
    assert!(outer[0].contains("copy_ecn: is about the outer header"), "{outer:?}");
}

fn seconds(seconds: u64) -> std::time::Duration {
    std::time::Duration::from_secs(seconds)
}

#[test]
fn lifetimes_left_out_are_swanctls() {
    let (config, _) = parse(WHOLE).unwrap();
    let site = config.connection("site").unwrap();
    let ike = site.lifetime;
    assert_eq!((ike.rekey_time, ike.reauth_time), (seconds(14_400), seconds(0)));
    assert_eq!((ike.over_time, ike.rand_time), (seconds(1440), seconds(1440)));
    let child = site.children[0].lifetime;
    assert_eq!(child.time, Limit { rekey: seconds(3600), life: seconds(3960), rand: seconds(360) });
    assert_eq!((child.bytes, child.packets), (Limit::default(), Limit::default()));
    assert_eq!(site.unique, Unique::No);
}

#[test]
fn lifetimes_follow_from_those_that_are_given() {
    let child = "start_action = \"trap\"\nlife_time = \"11m\"\nrekey_bytes = 1000\nlife_packets = 2200\n\
                 rekey_packets = 2000\nrand_packets = 7";
    let text = with("start_action = \"trap\"", child)
        .replace("dpd_delay = \"30s\"", "reauth_time = \"3h\"\nover_time = \"5m\"\nunique = \"keep\"");
    let (config, _) = parse(&text).unwrap();
    let site = config.connection("site").unwrap();
    assert_eq!((site.lifetime.rekey_time, site.lifetime.reauth_time), (seconds(0), seconds(10_800)));
    assert_eq!((site.lifetime.over_time, site.lifetime.rand_time), (seconds(300), seconds(300)));
    assert_eq!(site.unique, Unique::Keep);
    let child = site.children[0].lifetime;
    assert_eq!(child.time, Limit { rekey: seconds(600), life: seconds(660), rand: seconds(60) });
    assert_eq!(child.bytes, Limit { rekey: 1000, life: 1100, rand: 100 });
    assert_eq!(child.packets, Limit { rekey: 2000, life: 2200, rand: 7 });
}

#[test]
fn lifetimes_that_contradict_one_another_are_errors() {
    let short = errors(&with("start_action = \"trap\"", "rekey_time = \"1h\"\nlife_time = \"30m\""));
    assert!(short[0].contains("children.net.life_time: is 1800s, but `rekey_time` is 3600s"), "{short:?}");
    let random = errors(&with("dpd_delay = \"30s\"", "rekey_time = \"1h\"\nrand_time = \"1h\""));
    assert!(random[0].contains("connections.site.rand_time: is 3600s"), "{random:?}");
}

#[test]
fn the_emergency_exit_does_not_ask_about_connections() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portcullis.toml");
    let text = with("local = { auth = \"psk\"", "local = { auth = \"pubkey\", certs = \"gone.pem\"");
    std::fs::write(&file, text).unwrap();
    assert!(matches!(Config::load(&file), Err(ConfigError::Invalid { errors: 1.., .. })));
    let (config, findings) = Config::load_gateway(&file).unwrap();
    assert_eq!((config.gateway.interfaces.len(), config.engine.connections.len()), (2, 0));
    assert_eq!(findings, []);
}

#[test]
fn weak_algorithms_are_a_warning_where_they_are_named() {
    let named = with("aes256gcm16-prfsha384-x25519", "aes256-sha1-modp1024");
    let (config, warnings) = parse(&named).unwrap();
    assert_eq!(config.engine.connections[0].proposals[0].to_string(), "aes256-sha1-prfsha1-modp1024");
    let text = warnings[0].to_string();
    assert_eq!((warnings.len(), warnings[0].severity), (1, Severity::Warning), "{text}");
    assert!(text.contains("sha1, prfsha1, modp1024"), "{text}");
    for (named, weak) in [("null-sha256", "(null)"), ("aes256-sha1", "(sha1)")] {
        let (_, warnings) = parse(&with("\"aes256gcm16-esn\"", &format!("\"{named}\""))).unwrap();
        assert!(warnings.iter().any(|warning| warning.to_string().contains(weak)), "{warnings:?}");
    }
}

#[test]
fn fragmentation_is_asked_for_as_swanctl_does() {
    let of = |lines: &str| parse(&with("dpd_delay = ", &format!("{lines}dpd_delay = "))).unwrap().0;
    assert_eq!(of("").engine.connections[0].fragmentation, IkeFragmentation::Yes);
    for (mode, wanted) in [
        ("yes", IkeFragmentation::Yes),
        ("force", IkeFragmentation::Yes),
        ("accept", IkeFragmentation::Accept),
        ("no", IkeFragmentation::No),
    ] {
        let config = of(&format!("fragmentation = \"{mode}\"\n"));
        assert_eq!(config.engine.connections[0].fragmentation, wanted);
    }
    let sized =
        |size: &str| with("retransmit_tries = 3", &format!("retransmit_tries = 3\nfragment_size = {size}"));
    assert_eq!(parse(WHOLE).unwrap().0.engine.fragment_size, 1280);
    assert_eq!(parse(&sized("0")).unwrap().0.engine.fragment_size, 0);
    assert!(errors(&sized("100"))[0].contains("expected 0, or 256 to 65535 octets"));
}

#[test]
fn pools_and_vips_arrive_and_what_they_stand_for_is_protected_beforehand() {
    let text =
        with("local_addrs = [\"192.0.2.1\"]", "local_addrs = [\"192.0.2.1\"]\npools = [\"ra\", \"ra6\"]");
    let text = text.replace("remote_ts = [\"10.2.0.0/24[tcp/443]\", \"10.3.0.0/24\"]\n", "")
        + "\n[pools.ra]\naddrs = \"10.9.0.0/30\"\ndns = \"10.1.0.53\"\nsplit_include = [\"10.1.0.0/24\"]\ndomains = \"acme.example\"\n\
           [pools.ra6]\naddrs = \"2001:db8:9::1-2001:db8:9::2\"\n";
    let text = text.replace("start_action = \"trap\"", "start_action = \"none\"");
    let (config, warnings) = parse(&text).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.connection("site").unwrap().pools, ["ra", "ra6"]);
    assert_eq!(config.pools[0].addrs.to_string(), "10.9.0.1-10.9.0.2");
    assert_eq!(config.pools[0].attributes.domains, ["acme.example"]);
    let remote: Vec<String> = config.policies()[0].1.remote_ts.iter().map(ToString::to_string).collect();
    assert_eq!(remote, ["10.9.0.1-10.9.0.2", "2001:db8:9::1-2001:db8:9::2"]);

    let roadwarrior = |remote: &str| {
        with("local_addrs = [\"192.0.2.1\"]", "vips = \"0.0.0.0\"")
            .replace("local_ts = [\"10.1.0.0/24\"]\n", "")
            .replace("remote_ts = [\"10.2.0.0/24[tcp/443]\", \"10.3.0.0/24\"]", remote)
    };
    let (config, _) = parse(&roadwarrior("remote_ts = \"10.2.0.0/24\"")).unwrap();
    assert_eq!(config.policies()[0].1.local_ts, ["0.0.0.0/0".parse().unwrap()]);
    let (config, _) = parse(&roadwarrior("remote_ts = \"0.0.0.0/0\"")).unwrap();
    assert!(config.policies().is_empty());
}

#[test]
fn pools_that_cannot_be_are_refused() {
    let pool = |lines: &str| format!("{WHOLE}\n{lines}");
    for (text, expected) in [
        (pool("[pools.a]\naddrs = \"10.9.0.1/24\""), "bits set behind its prefix"),
        (pool("[pools.a]\ndns = \"10.9.0.1\""), "`addrs` is missing"),
        (pool("[pools.a]\naddrs = \"10.9.0.0/24\"\n[pools.b]\naddrs = \"10.9.0.9\""), "overlaps with"),
        (pool("[pools.a]\naddrs = \"10.9.0.0/24\"\ndhcp = \"10.1.0.1\""), "this version does not support"),
        (with("dpd_delay = \"30s\"", "pools = \"nowhere\""), "there is no `[pools.nowhere]`"),
        (with("dpd_delay = \"30s\"", "vips = [\"0.0.0.0\", \"10.1.1.1\"]"), "the second of its family"),
    ] {
        let found = errors(&text).join("\n");
        assert!(found.contains(expected), "{expected}: {found}");
    }
}
