use super::*;

fn ike(text: &str) -> IkeProposal {
    text.parse().unwrap()
}

fn esp(text: &str) -> EspProposal {
    text.parse().unwrap()
}

fn spi(value: u32) -> Spi {
    Spi::new(value).unwrap()
}

#[test]
fn proposals_are_printed_as_strongswan_writes_them() {
    for text in [
        "aes256gcm16-prfsha384-ecp384",
        "aes128gcm16-aes256gcm16-prfsha256-prfsha512-x25519-modp2048",
        "aes256-aes192ctr-sha256-sha512-prfaescmac-ecp521",
        "chacha20poly1305-aes192gcm8-prfaesxcbc-modp8192",
    ] {
        assert_eq!(ike(text).to_string(), text);
    }
    for text in ["aes256gcm16-esn", "aes128gcm16-x25519-esn-noesn"] {
        assert_eq!(esp(text).to_string(), text);
    }
    assert_eq!(ike("aes256gcm-prfsha384-curve25519").to_string(), "aes256gcm16-prfsha384-x25519");
    assert_eq!(esp("aes256gcm16").esn, [false], "as strongSwan reads it");
}

#[test]
fn a_wrong_proposal_is_told_what_is_wrong() {
    for (text, problem) in [
        ("aes256gcm16-prfsha348-ecp384", "`prfsha348` is not known, did you mean `prfsha384`?"),
        ("aes256-ecp384", "lacks an integrity algorithm; complete would be `aes256-ecp384-sha256`"),
        ("sha256-ecp384", "complete would be `sha256-ecp384-aes256`"),
        ("aes256gcm16-sha256-prfsha256-x25519", "beside an AEAD"),
        ("aes256gcm16-aes256-sha256-x25519", "make it two proposals"),
        ("aes256gcm16-prfsha384-modp768", "`modp768` is known to strongSwan, but not supported"),
        ("aes256gcm16-prfsha384-ecp224bp", "`ecp224bp` is known to strongSwan, but not supported"),
        ("aes128ccm16-prfsha384-x25519", "`aes128ccm16` is known to strongSwan, but not supported"),
        ("aes256gcm16-prfsha384-x25519-ke1_mlkem786", "`mlkem786` is not known, did you mean `mlkem768`?"),
        ("aes256gcm16-prfsha384-x25519-ke8_mlkem768", "they are `ke1_` to `ke7_`"),
        ("aes256gcm16-prfsha384-x25519-ke1_prfsha384", "names no key exchange method"),
        ("banana", "`banana` is not known"),
        (
            "aes256gcm16-x25519",
            "lacks a pseudorandom function, which AEADs need; complete would be `aes256gcm16-x25519-prfsha384`",
        ),
        ("aes256gcm16-prfsha384", "lacks a key exchange method"),
        ("aes256gcm16", "complete would be `aes256gcm16-prfsha384-x25519`"),
        ("aes256gcm16-prfsha384-x25519-esn", "`esn` belongs into esp_proposals"),
    ] {
        let error = text.parse::<IkeProposal>().unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
    assert!(
        "aes256gcm16-prfsha384"
            .parse::<EspProposal>()
            .unwrap_err()
            .to_string()
            .contains("belongs into proposals")
    );
}

#[test]
fn our_order_of_preference_decides() {
    let offered = [ike("aes128gcm16-aes256gcm16-prfsha256-prfsha384-ecp256-x25519").offer(1)];
    let ours = [ike("aes256gcm16-prfsha384-x25519-ecp256")];
    let (suite, number) = select_ike(&ours, &offered).unwrap();
    assert_eq!((suite.to_string().as_str(), number), ("aes256gcm16-prfsha384-x25519", 1));
}

#[test]
fn a_later_proposal_is_taken_when_the_first_does_not_fit() {
    let offered =
        [ike("aes128gcm16-prfsha256-ecp256").offer(1), ike("aes256gcm16-prfsha384-ecp384").offer(2)];
    let (suite, number) = select_ike(&[ike("aes256gcm16-prfsha384-ecp384")], &offered).unwrap();
    assert_eq!((suite.to_string().as_str(), number), ("aes256gcm16-prfsha384-ecp384", 2));
}

#[test]
fn the_nearest_miss_is_named() {
    let offered =
        [ike("aes128gcm16-prfsha256-ecp256").offer(1), ike("aes256gcm16-prfsha384-ecp384").offer(2)];
    let miss = select_ike(&[ike("aes256gcm16-prfsha384-x25519-modp3072")], &offered).unwrap_err();
    assert_eq!(
        miss.to_string(),
        "no key exchange group in common: offered ecp384, configured x25519, modp3072"
    );
}

#[test]
fn an_offer_with_what_we_do_not_know_is_named_in_words() {
    let mut offered = ike("aes256gcm16-prfsha384-x25519").offer(1);
    offered.transforms.retain(|transform| transform.transform_type != transform_type::ENCR);
    offered.transforms.push(Transform { key_length: Some(256), ..transform(transform_type::ENCR, 23) });
    offered.transforms.push(transform(transform_type::INTEG, 12));
    let miss = select_ike(&[ike("aes256gcm16-prfsha384-x25519")], &[offered]).unwrap_err();
    assert_eq!(
        miss.to_string(),
        "no encryption algorithm in common: offered camellia256, configured aes256gcm16"
    );
}

#[test]
fn a_proposal_with_an_unknown_kind_of_transform_is_not_taken() {
    let mut offered = ike("aes256gcm16-prfsha384-x25519").offer(1);
    offered.transforms.push(transform(13, 36));
    let miss = select_ike(&[ike("aes256gcm16-prfsha384-x25519")], &[offered]).unwrap_err();
    assert_eq!(
        miss.to_string(),
        "no kind of transform in common: offered transform 13/36, configured none of it"
    );
}

#[test]
fn a_transform_with_an_unknown_attribute_is_not_chosen() {
    let mut offered = ike("aes256gcm16-prfsha384-x25519").offer(1);
    offered.transforms.iter_mut().for_each(|transform| transform.unknown_attribute = true);
    assert!(select_ike(&[ike("aes256gcm16-prfsha384-x25519")], &[offered]).is_err());
}

#[test]
fn integrity_none_beside_an_aead_is_accepted_and_any_other_is_not() {
    let ours = [ike("aes256gcm16-prfsha384-x25519")];
    let mut offered = ours[0].offer(1);
    offered.transforms.push(transform(transform_type::INTEG, 0));
    assert!(select_ike(&ours, std::slice::from_ref(&offered)).is_ok());
    offered.transforms.pop();
    offered.transforms.push(transform(transform_type::INTEG, 12));
    assert!(select_ike(&ours, &[offered]).is_err());
}

#[test]
fn key_exchange_of_an_esp_proposal_counts_only_outside_ike_auth() {
    let ours = [esp("aes256gcm16-x25519-esn")];
    assert!(
        ours[0].offer(1, spi(300), false).transforms.iter().all(|t| t.transform_type != transform_type::KE)
    );
    let offered = [esp("aes256gcm16-ecp384-esn").offer(1, spi(300), true)];
    let (suite, number, peer) = select_esp(&ours, &offered, false).unwrap();
    assert_eq!((suite.to_string().as_str(), number, peer), ("aes256gcm16-esn", 1, spi(300)));
    assert_eq!(select_esp(&ours, &offered, true).unwrap_err().kind, "key exchange group");
    let both = [esp("aes256gcm16-x25519-esn").offer(1, spi(300), true)];
    assert_eq!(select_esp(&ours, &both, true).unwrap().0.ke, Some(KeMethod::X25519));
}

#[test]
fn a_reserved_spi_is_not_accepted() {
    let ours = [esp("aes256gcm16")];
    let mut offered = ours[0].offer(1, spi(300), false);
    offered.spi = vec![0, 0, 0, 255];
    assert!(select_esp(&ours, &[offered], false).is_err());
}

#[test]
fn an_answer_must_be_one_choice_out_of_the_offer() {
    let ours = [ike("aes256gcm16-prfsha384-x25519-ecp384"), ike("aes128gcm16-prfsha256-ecp256")];
    let answer = |text: &str, number| [ike(text).offer(number)];
    assert!(accepted_ike(&ours, &answer("aes256gcm16-prfsha384-ecp384", 1)).is_ok());
    assert!(accepted_ike(&ours, &answer("aes128gcm16-prfsha256-ecp256", 2)).is_ok());
    for (what, answer) in [
        ("of another proposal's number", answer("aes128gcm16-prfsha256-ecp256", 1)),
        ("with a number never offered", answer("aes256gcm16-prfsha384-ecp384", 3)),
        ("with two groups", answer("aes256gcm16-prfsha384-x25519-ecp384", 1)),
        ("never offered", answer("aes256gcm16-prfsha512-x25519", 1)),
    ] {
        assert!(accepted_ike(&ours, &answer).is_err(), "an answer {what}");
    }
}

#[test]
fn what_a_refusal_says_would_be_complete_is_a_proposal() {
    for text in [
        "aes128gcm16",
        "prfsha256",
        "x25519",
        "aes256gcm16-modp3072",
        "prfsha512-ecp384",
        "aes128",
        "sha512",
        "aes256ctr-ecp521",
    ] {
        let problem = text.parse::<IkeProposal>().unwrap_err().problem;
        let complete = problem.split('`').nth(1).unwrap();
        assert!(complete.parse::<IkeProposal>().is_ok(), "{complete}");
    }
}

#[test]
fn transforms_of_others_are_named_as_strongswan_writes_them() {
    let named = |transform_type, id, key_length| {
        notation::transform_name(Transform { key_length, ..transform(transform_type, id) })
    };
    for (name, transform_type, id, key_length) in [
        ("aes128", transform_type::ENCR, 12, Some(128)),
        ("aes256gcm16", transform_type::ENCR, 20, Some(256)),
        ("aesgcm16", transform_type::ENCR, 20, None),
        ("camellia256", transform_type::ENCR, 23, Some(256)),
        ("chacha20poly1305", transform_type::ENCR, 28, None),
        ("chacha20poly1305 with 256-bit keys", transform_type::ENCR, 28, Some(256)),
        ("sha256", transform_type::INTEG, 12, None),
        ("modp1024", transform_type::KE, 2, None),
        ("ke1_mlkem768", 6, 36, None),
        ("ke7_x25519", 12, 31, None),
        ("noesn", transform_type::ESN, 0, None),
        ("transform 1/999 with 256-bit keys", transform_type::ENCR, 999, Some(256)),
    ] {
        assert_eq!(named(transform_type, id, key_length), name);
    }
}

#[test]
fn an_offer_without_a_mandatory_kind_of_transform_is_not_taken() {
    // RFC 7296 §3.3.3.
    let ours = [ike("aes256gcm16-prfsha384-x25519")];
    for kind in [transform_type::ENCR, transform_type::PRF, transform_type::KE] {
        let mut offered = ours[0].offer(1);
        offered.transforms.retain(|transform| transform.transform_type != kind);
        assert!(select_ike(&ours, &[offered]).is_err(), "{kind}");
    }
    let ours = [esp("aes256gcm16-esn-noesn")];
    for kind in [transform_type::ENCR, transform_type::ESN] {
        let mut offered = ours[0].offer(1, spi(300), false);
        offered.transforms.retain(|transform| transform.transform_type != kind);
        assert!(select_esp(&ours, &[offered], false).is_err(), "{kind}");
    }
}

#[test]
fn keys_of_another_length_or_none_are_not_taken() {
    let ours = [esp("aes256gcm16")];
    for key_length in [None, Some(0), Some(128), Some(255)] {
        let mut offered = ours[0].offer(1, spi(300), false);
        offered.transforms[0].key_length = key_length;
        assert!(select_esp(&ours, &[offered], false).is_err(), "{key_length:?}");
    }
}

#[test]
fn a_configured_key_exchange_is_required_and_one_not_configured_is_not_taken() {
    let with = [esp("aes256gcm16-x25519")];
    let without = [esp("aes256gcm16")];
    let offer_with = [with[0].offer(1, spi(300), true)];
    let offer_without = [without[0].offer(1, spi(300), true)];
    assert!(select_esp(&with, &offer_without, true).is_err());
    assert!(select_esp(&without, &offer_with, true).is_err());
    assert_eq!(select_esp(&without, &offer_without, true).unwrap().0.ke, None);
    let mut either = offer_with;
    either[0].transforms.push(transform(transform_type::KE, 0));
    assert_eq!(select_esp(&without, &either, true).unwrap().0.ke, None, "NONE is offered beside");
    assert_eq!(select_esp(&with, &either, true).unwrap().0.ke, Some(KeMethod::X25519));
}

#[test]
fn every_algorithm_of_an_ike_sa_has_a_name_that_leads_back_to_it() {
    use crate::crypto::{IkeEncr, IkeInteg, Prf, Protection};
    for encr in IkeEncr::all() {
        let with = if encr.is_aead() { "-prfsha256" } else { "-sha256" };
        let text = format!("{}{with}-x25519", ike::encr_name(encr));
        let proposal: IkeProposal = text.parse().unwrap();
        assert_eq!(proposal.encr, [encr], "{text}");
        // On the wire and back.
        let (suite, _) = select_ike(std::slice::from_ref(&proposal), &[proposal.offer(1)]).unwrap();
        assert_eq!(suite.protection.encr(), encr);
    }
    for integ in IkeInteg::ALL {
        let proposal: IkeProposal = format!("aes256-{}-x25519", ike::integ_name(integ)).parse().unwrap();
        assert_eq!(proposal.integ, [integ]);
        assert_eq!(proposal.prf, [ike::prf_of(integ)], "the pseudorandom function of the same name");
        assert!(Protection::new(proposal.encr[0], Some(integ)).is_some());
    }
    for prf in Prf::ALL {
        assert_eq!(ike(&format!("aes256gcm16-{}-x25519", notation::prf_name(prf))).prf, [prf]);
    }
    for ke in KeMethod::ALL {
        assert_eq!(ike(&format!("aes256gcm16-prfsha384-{ke}")).ke, [ke]);
    }
    assert_eq!(ike("aes-sha-modp2048").to_string(), "aes128-sha1-prfsha1-modp2048", "as strongSwan reads it");
}

#[test]
fn a_cipher_of_an_ike_sa_needs_an_integrity_algorithm_in_common() {
    let ours = [ike("aes256-aes128-sha512-sha256-x25519")];
    let (suite, _) = select_ike(&ours, &[ike("aes128-sha256-sha384-prfsha256-x25519").offer(1)]).unwrap();
    assert_eq!(suite.to_string(), "aes128-sha256-prfsha256-x25519");
    let miss = select_ike(&ours, &[ike("aes256-sha384-prfsha256-x25519").offer(1)]).unwrap_err();
    assert_eq!(
        miss.to_string(),
        "no integrity algorithm in common: offered sha384, configured sha512, sha256"
    );
    let answer = suite.answer(1);
    assert_eq!(accepted_ike(&ours, std::slice::from_ref(&answer)).unwrap(), suite);
    let mut without = answer;
    without.transforms.retain(|transform| transform.transform_type != transform_type::INTEG);
    assert!(accepted_ike(&ours, &[without]).is_err());
}

#[test]
fn what_is_weak_is_offered_only_where_it_is_named() {
    for proposal in IkeProposal::defaults() {
        assert_eq!(proposal.weak(), [""; 0]);
    }
    assert_eq!(ike("aes256-sha1-modp1024-modp2048").weak(), ["sha1", "prfsha1", "modp1024"]);
    assert_eq!(esp("aes256gcm16-modp1536-x25519").weak(), ["modp1536"]);
    assert_eq!(esp("aes256-sha256-sha1").weak(), ["sha1"]);
}

#[test]
fn additional_key_exchanges_are_written_as_strongswan_does() {
    let text = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none-ke3_ecp384";
    let proposal = ike(text);
    assert_eq!(proposal.to_string(), text);
    let wire = proposal.offer(1);
    let of = |kind: u8| wire.transforms.iter().filter(move |transform| transform.transform_type == kind);
    assert_eq!(of(6).map(|transform| transform.id).collect::<Vec<_>>(), [36, 0], "ML-KEM-768, or none");
    assert_eq!(of(8).map(|transform| transform.id).collect::<Vec<_>>(), [20]);
    let both = select_ike(
        &[ike("aes256gcm16-prfsha384-x25519-ke1_none-ke1_mlkem768-ke3_ecp384")],
        std::slice::from_ref(&wire),
    );
    assert_eq!(both.unwrap().0.to_string(), "aes256gcm16-prfsha384-x25519-ke3_ecp384", "our preference");
    let miss = select_ike(&[ike("aes256gcm16-prfsha384-x25519-ke1_mlkem1024")], &[wire]).unwrap_err();
    assert_eq!(
        miss.to_string(),
        "no additional key exchange in common: offered ke1_mlkem768, ke1_none, configured ke1_mlkem1024"
    );
}

#[test]
fn additional_key_exchanges_of_a_child_are_added_to_one_and_never_offered_in_ike_auth() {
    let text = "aes256gcm16-x25519-ke1_mlkem768-ke1_none-ke2_ecp384-esn";
    let proposal: EspProposal = text.parse().unwrap();
    assert_eq!(proposal.to_string(), text);
    let spi = Spi::new(4096).unwrap();
    let offer = proposal.offer(1, spi, true);
    let kinds: Vec<_> =
        offer.transforms.iter().map(|transform| (transform.transform_type, transform.id)).collect();
    assert_eq!(kinds, [(1, 20), (4, 31), (6, 36), (6, 0), (7, 20), (5, 1)]);
    let first = proposal.offer(1, spi, false);
    assert!(first.transforms.iter().all(|transform| [1, 5].contains(&transform.transform_type)));
    let (suite, ..) = select_esp(std::slice::from_ref(&proposal), &[offer], true).unwrap();
    assert_eq!(suite.to_string(), "aes256gcm16-x25519-ke1_mlkem768-ke2_ecp384-esn");
    let answer = suite.answer(1, spi);
    assert_eq!(accepted_esp(std::slice::from_ref(&proposal), &[answer], true).unwrap().0, suite);
    let error = "aes256gcm16-ke1_mlkem768".parse::<EspProposal>().unwrap_err().to_string();
    assert!(error.contains("complete would be `aes256gcm16-ke1_mlkem768-x25519`"), "{error}");
}
