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

/// The same with a cipher that we do not have in place of that of `text`: 3DES (3), DES (2).
fn with_cipher(id: u16, mut proposal: WireProposal) -> WireProposal {
    let encr = proposal.transforms.iter_mut().filter(|found| found.transform_type == transform_type::ENCR);
    encr.for_each(|found| (found.id, found.key_length) = (id, None));
    proposal
}

/// What is chosen of these offers, if nothing is configured.
fn taken(ike: &[WireProposal], esp: &[WireProposal]) -> [String; 2] {
    let ike = select_ike(&IkeProposal::defaults(), ike).unwrap().0.to_string();
    let esp = select_esp(&EspProposal::defaults(), esp, false).unwrap().0.to_string();
    [ike, esp]
}

/// strongSwan's documentation, "iOS and macOS": "Default IKE/ESP proposals sent by iOS (as of 16.5)" and "macOS (as of
/// 13.4)", without a profile.
#[test]
fn what_ios_and_macos_propose_is_taken() {
    let wanted = ["aes256-sha256-prfsha256-modp2048", "aes256-sha256"];
    let mut ike = offered(&[
        "aes256-sha256-modp2048",
        "aes256-sha256-ecp256",
        "aes256-sha256-modp1536",
        "aes128-sha1-modp1024",
        "aes128-sha1-modp1024",
    ]);
    ike[4] = with_cipher(3, ike[4].clone());
    let mut esp =
        esp_offered(&["aes256-sha256", "aes256-sha256", "aes256-sha256", "aes128-sha1", "aes128-sha1"]);
    esp[4] = with_cipher(3, esp[4].clone());
    assert_eq!(taken(&ike, &esp), wanted);
    assert_eq!(chosen(&["aes256-sha256-modp2048"], &["aes256-sha256"]), wanted);
    // What iOS says when it rekeys: with a key exchange, and without. The second is taken.
    let rekeying: Vec<WireProposal> = ["aes256-sha256-modp2048", "aes256-sha256"]
        .iter()
        .zip(1..)
        .map(|(text, number)| {
            text.parse::<EspProposal>().unwrap().offer(number, Spi::new(0x1234).unwrap(), true)
        })
        .collect();
    let (suite, number, _) = select_esp(&EspProposal::defaults(), &rekeying, true).unwrap();
    assert_eq!((suite.ke, number), (None, 2));
    // What Apple's "IKEv2" dictionary lets an administrator choose, in IKESecurityAssociationParameters and
    // ChildSecurityAssociationParameters.
    let [ike, esp] = chosen(&["aes256gcm16-prfsha384-ecp384"], &["aes256gcm16"]);
    assert_eq!([ike.as_str(), esp.as_str()], ["aes256gcm16-prfsha384-ecp384", "aes256gcm16"]);
}

/// What an untouched Windows proposes for an IKE SA: strongSwan's documentation, "Windows Clients", and the log of a
/// Windows 10 in trailofbits/algo issue 9. Each is a proposal of its own.
fn untouched_windows() -> Vec<WireProposal> {
    let hashes = ["sha1", "sha256", "sha384"];
    let ciphers = ["3des", "aes128", "aes192", "aes256"].into_iter();
    let each = ciphers.flat_map(|cipher| hashes.map(|hash| (cipher, hash)));
    each.zip(1..)
        .map(|((cipher, hash), number)| match cipher {
            "3des" => with_cipher(3, ike(&format!("aes128-{hash}-modp1024")).offer(number)),
            _ => ike(&format!("{cipher}-{hash}-modp1024")).offer(number),
        })
        .collect()
}

/// What it proposes for ESP, whatever its registry says about groups: the same page.
fn untouched_windows_esp() -> Vec<WireProposal> {
    let mut offered = esp_offered(&["aes256-sha1", "aes128-sha1", "aes128-sha1", "aes128-sha1", "null-sha1"]);
    for (at, id) in [(2, 3), (3, 2)] {
        offered[at] = with_cipher(id, offered[at].clone());
    }
    offered
}

#[test]
fn what_windows_proposes_with_strong_groups_switched_on_is_taken() {
    // NegotiateDH2048_AES256 = 2, on the same page, and Set-VpnConnectionIPsecConfiguration with GCMAES256.
    let enforced = ["aes256-sha1-modp2048", "aes256-sha256-modp2048", "aes256-sha384-modp2048"];
    let [ike, esp] = chosen(&enforced, &["aes256gcm16"]);
    assert_eq!([ike.as_str(), esp.as_str()], ["aes256-sha256-prfsha256-modp2048", "aes256gcm16"]);
    let [ike, _] = chosen(&["aes256-sha384-ecp384"], &["aes256gcm16"]);
    assert_eq!(ike, "aes256-sha384-prfsha384-ecp384");
}

#[test]
fn what_an_untouched_windows_proposes_is_refused_by_the_name_of_what_is_weak_and_taken_where_it_is_named() {
    let (offer, esp) = (untouched_windows(), untouched_windows_esp());
    let miss = select_ike(&IkeProposal::defaults(), &offer).unwrap_err();
    assert_eq!((miss.kind, miss.offered.as_str()), ("key exchange group", "modp1024"));
    let miss = select_esp(&EspProposal::defaults(), &esp, false).unwrap_err();
    assert_eq!((miss.kind, miss.offered.as_str()), ("integrity algorithm", "sha1"));
    // As docs/configuration.md has it.
    let named: EspProposal = "aes256-sha1".parse().unwrap();
    assert_eq!(select_ike(&[ike("aes256-sha256-modp1024")], &offer).unwrap().0.ke, KeMethod::Modp1024);
    assert_eq!(select_esp(&[named], &esp, false).unwrap().0.encr, EspAlgorithm::Aes256CbcSha1);
    // Windows 11 has AEADs besides, with the same group.
    let mut newer = offer;
    for (cipher, number) in [("aes128gcm16", 13), ("aes256gcm16", 14)] {
        newer.push(ike(&format!("{cipher}-prfsha1-prfsha256-prfsha384-modp1024")).offer(number));
    }
    assert_eq!(select_ike(&[ike("aes256gcm16-prfsha384-modp1024")], &newer).unwrap().1, 14);
}

/// Android's source, `VpnIkev2Utils`: the built-in client, "IKEv2/IPSec" in its settings. Its ESP is that of a kernel with
/// all algorithms that `Ikev2VpnProfile` allows by default; what we have no word for is left out.
#[test]
fn what_androids_own_client_proposes_is_taken() {
    let common =
        "prfsha512-prfsha384-prfsha256-prfaesxcbc-prfaescmac-prfsha1-modp4096-x25519-modp3072-modp2048";
    let ciphers = "aes256ctr-aes256-aes192ctr-aes192-aes128ctr-aes128";
    let list = [
        format!("{ciphers}-sha512-sha384-sha256-aesxcbc-aescmac-{common}"),
        format!(
            "chacha20poly1305-aes256gcm16-aes256gcm12-aes256gcm8-aes192gcm16-aes192gcm12-aes192gcm8-\
             aes128gcm16-aes128gcm12-aes128gcm8-{common}"
        ),
    ];
    let aeads = "chacha20poly1305-aes256gcm16-aes256gcm12-aes256gcm8-aes128gcm16-aes128gcm12-aes128gcm8";
    let esp = [format!("{ciphers}-sha512-sha384-sha256"), aeads.to_owned()];
    let [ike, esp] = chosen(&list.each_ref().map(String::as_str), &esp.each_ref().map(String::as_str));
    assert_eq!([ike.as_str(), esp.as_str()], ["aes256gcm16-prfsha384-x25519", "aes256gcm16"]);
}

/// strongSwan's source, `android_service.c`: the app's ESP proposals. Those of its IKE SA are strongSwan's defaults, which
/// `tests/strongswan.rs` has.
#[test]
fn what_strongswans_app_for_android_proposes_is_taken() {
    let groups = "x25519-ecp384-ecp521-modp3072-modp4096-ecp256";
    let esp = [
        format!("aes256gcm16-aes128gcm16-chacha20poly1305-{groups}-modp8192"),
        format!("aes256-aes192-aes128-sha384-sha256-sha512-sha1-{groups}-modp2048-modp8192"),
        "aes256gcm16-aes128gcm16-chacha20poly1305".to_owned(),
        "aes256-aes192-aes128-sha384-sha256-sha512-sha1".to_owned(),
    ];
    let [_, esp] = chosen(&["aes256gcm16-prfsha384-x25519"], &esp.each_ref().map(String::as_str));
    assert_eq!(esp, "aes256gcm16");
}

/// libreswan's source, 5.3: `default_fips_off_ikev2_ike_proposals` and what goes with it in `ike_info.c`, and `esp_info.c`.
#[test]
fn what_libreswan_proposes_is_taken() {
    let rest = "prfsha512-prfsha256-ecp256-ecp384-ecp521-x25519-modp4096-modp3072-modp2048-modp8192";
    let list = [
        format!("aes256gcm16-{rest}"),
        format!("aes128gcm16-{rest}"),
        format!("chacha20poly1305-{rest}"),
        format!("aes256-sha512-sha256-{rest}"),
        format!("aes128-sha512-sha256-{rest}"),
    ];
    let esp =
        ["aes256gcm16", "aes128gcm16", "chacha20poly1305", "aes256-sha512-sha256", "aes128-sha512-sha256"];
    let [ike, esp] = chosen(&list.each_ref().map(String::as_str), &esp);
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
