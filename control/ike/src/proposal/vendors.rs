//! What others propose when nothing is configured, from their documentation, against what we take when nothing is. That
//! strongSwan's own defaults come up is shown end to end.

use super::*;

fn ike(text: &str) -> IkeProposal {
    text.parse().unwrap()
}

/// An SA payload of these.
fn offered(proposals: &[&str]) -> Vec<WireProposal> {
    proposals.iter().zip(1..).map(|(text, number)| ike(text).offer(number)).collect()
}

fn esp_offered(proposals: &[&str]) -> Vec<WireProposal> {
    let esp = |text: &str| -> EspProposal { text.parse().unwrap() };
    let spi = Spi::new(0x1234).unwrap();
    proposals.iter().zip(1..).map(|(text, number)| esp(text).offer(number, spi, false)).collect()
}

fn chosen(ike: &[&str], esp: &[&str]) -> [String; 2] {
    let ike = select_ike(&IkeProposal::defaults(), &offered(ike)).unwrap().0.to_string();
    let esp = select_esp(&EspProposal::defaults(), &esp_offered(esp), false).unwrap().0.to_string();
    [ike, esp]
}

#[test]
fn what_ios_and_macos_propose_is_taken() {
    // Apple's "VPN" payload: IKESecurityAssociationParameters and ChildSecurityAssociationParameters have the defaults
    // AES-256, SHA2-256 and group 14.
    let [ike, esp] = chosen(&["aes256-sha256-modp2048"], &["aes256-sha256"]);
    assert_eq!(ike, "aes256-sha256-prfsha256-modp2048");
    assert_eq!(esp, "aes256-sha256");
    // What the same payload lets an administrator choose.
    let [ike, esp] = chosen(&["aes256gcm16-prfsha384-ecp384"], &["aes256gcm16"]);
    assert_eq!([ike.as_str(), esp.as_str()], ["aes256gcm16-prfsha384-ecp384", "aes256gcm16"]);
}

#[test]
fn what_windows_proposes_with_strong_groups_switched_on_is_taken() {
    // Microsoft's "NegotiateDH2048_AES256" for the IKE SA, and Set-VpnConnectionIPsecConfiguration with GCMAES256.
    let untouched = ["aes256-sha1-modp1024", "aes256-sha256-modp1024", "aes256-sha384-modp1024"];
    let with_2048: Vec<&str> = ["aes256-sha1-modp2048", "aes256-sha256-modp2048", "aes256-sha384-modp2048"]
        .into_iter()
        .chain(untouched)
        .collect();
    let [ike, esp] = chosen(&with_2048, &["aes256gcm16"]);
    assert_eq!([ike.as_str(), esp.as_str()], ["aes256-sha256-prfsha256-modp2048", "aes256gcm16"]);
    let [ike, _] = chosen(&["aes256-sha384-ecp384"], &["aes256gcm16"]);
    assert_eq!(ike, "aes256-sha384-prfsha384-ecp384");
}

#[test]
fn what_an_untouched_windows_proposes_is_refused_by_the_name_of_what_is_weak() {
    // It offers the group of 1024 bits alone: taken only where it is named.
    let untouched = ["aes256-sha1-modp1024", "aes256-sha256-modp1024", "aes256-sha384-modp1024"];
    let miss = select_ike(&IkeProposal::defaults(), &offered(&untouched)).unwrap_err();
    assert_eq!(miss.kind, "key exchange group");
    assert_eq!(miss.offered, "modp1024");
    let named = [ike("aes256-sha256-modp1024")];
    assert!(select_ike(&named, &offered(&untouched)).is_ok());
}

#[test]
fn what_libreswan_proposes_is_taken() {
    // ipsec.conf(5), ike= and esp=: the defaults of libreswan 4 and 5.
    let groups = "modp2048-modp3072-modp4096-modp8192-ecp256-ecp384-ecp521-x25519";
    let list = [
        format!("aes256gcm16-prfsha512-prfsha256-{groups}"),
        format!("aes128gcm16-prfsha512-prfsha256-{groups}"),
        format!("aes256-sha512-sha256-prfsha512-prfsha256-{groups}"),
        format!("aes128-sha512-sha256-prfsha512-prfsha256-{groups}"),
    ];
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let [ike, esp] =
        chosen(&list, &["aes256gcm16", "aes128gcm16", "aes256-sha512-sha256", "aes128-sha512-sha256"]);
    assert_eq!([ike.as_str(), esp.as_str()], ["aes256gcm16-prfsha256-x25519", "aes256gcm16"]);
}

#[test]
fn ciphers_that_are_slow_here_are_taken_of_a_peer_that_has_no_other_and_never_offered() {
    let defaults = EspProposal::defaults();
    let (offers, accepts): (Vec<_>, Vec<_>) = defaults.iter().partition(|proposal| !proposal.accepted_only);
    assert!(offers.iter().all(|proposal| proposal.encr.iter().all(|encr| encr.integrity().is_none())));
    assert!(!accepts.is_empty());
    assert_eq!(
        defaults[..offers.len()],
        offers.into_iter().cloned().collect::<Vec<_>>(),
        "those that are offered first"
    );
    let [_, esp] = chosen(&["aes256-sha256-modp2048"], &["aes256-sha256", "aes128gcm16"]);
    assert_eq!(esp, "aes128gcm16");
}
