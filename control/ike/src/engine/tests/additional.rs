//! Additional key exchanges (RFC 9370) in IKE_INTERMEDIATE (RFC 9242).

use std::net::SocketAddr;
use std::time::Instant;

use super::hands::Hands;
use super::world::*;
use crate::config::*;
use crate::engine::channel::Channel;
use crate::engine::sa::Role;
use crate::engine::*;
use crate::message::Payload;

pub(super) const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";

pub(super) fn proposing(end: usize, proposals: &[&str]) -> EngineConfig {
    let mut config = config(end);
    config.connections[0].proposals = proposals.iter().map(|text| text.parse().unwrap()).collect();
    config
}

fn exchanges(world: &World, end: usize) -> Vec<ExchangeType> {
    let messages = world.messages(end).into_iter();
    messages.map(|octets| Message::parse(&octets).unwrap().message.header.exchange).collect()
}

#[test]
fn an_additional_key_exchange_comes_between_ike_sa_init_and_ike_auth() {
    let world = World::new(1, proposing(A, &[HYBRID]), proposing(B, &[HYBRID])).established();
    assert_eq!(world.ends[A].engine.status()[0].proposal.as_deref(), Some(HYBRID));
    for end in [A, B] {
        let mut sent = exchanges(&world, end);
        sent.dedup();
        use ExchangeType::*;
        assert_eq!(sent, [IkeSaInit, IkeIntermediate, IkeAuth]);
    }
    world.assert_agreement();
}

#[test]
fn every_parameter_set_and_several_in_a_row_make_the_same_keys_at_both_ends() {
    for proposal in [
        "aes256gcm16-prfsha256-x25519-ke1_mlkem512",
        "aes256gcm16-prfsha256-ecp256-ke1_mlkem1024",
        "aes256-sha256-modp2048-ke1_mlkem768-ke2_ecp384-ke7_x25519",
        "aes256gcm16-prfsha256-x25519-ke3_ecp521",
        "aes256gcm16-prfsha256-mlkem512-ke1_x25519",
    ] {
        let world = World::new(1, proposing(A, &[proposal]), proposing(B, &[proposal])).established();
        let status = world.ends[A].engine.status();
        assert_eq!(status[0].proposal, world.ends[B].engine.status()[0].proposal);
        world.assert_agreement();
    }
}

#[test]
fn a_peer_without_additional_key_exchanges_is_met_by_another_proposal_or_not_at_all() {
    let plain = "aes256gcm16-prfsha384-x25519";
    let world = World::new(1, proposing(A, &[HYBRID, plain]), proposing(B, &[plain])).established();
    assert_eq!(world.ends[A].engine.status()[0].proposal.as_deref(), Some(plain));
    let world = World::new(1, proposing(A, &[plain]), proposing(B, &[HYBRID, plain])).established();
    assert_eq!(world.ends[B].engine.status()[0].proposal.as_deref(), Some(plain));
    // What may be left out is no obstacle; what may not is.
    let optional = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none";
    let world = World::new(1, proposing(A, &[optional]), proposing(B, &[optional])).established();
    assert_eq!(world.ends[A].engine.status()[0].proposal.as_deref(), Some(HYBRID));
    for (a, b) in [(HYBRID, plain), (plain, HYBRID)] {
        let mut world = World::new(1, proposing(A, &[a]), proposing(B, &[b]));
        let command = world.initiate(A);
        world.run(60);
        assert_eq!(world.ends[A].done[&command].as_ref().unwrap_err().code(), "PROPOSAL_REFUSED");
        assert!(world.failures(B).contains(&"PROPOSAL_KE_MISMATCH"));
    }
}

#[test]
fn no_method_is_used_twice() {
    let twice = "aes256gcm16-prfsha384-x25519-ke1_x25519";
    let mut world = World::new(1, proposing(A, &[twice]), proposing(B, &[twice]));
    world.initiate(A);
    world.run(60);
    assert!(world.failures(B).contains(&"PROPOSAL_MISMATCH"));
}

#[test]
fn they_come_up_whatever_the_network_does_in_fragments_too_and_are_rekeyed() {
    for seed in 0..30 {
        let mut configs = [proposing(A, &[HYBRID]), proposing(B, &[HYBRID])];
        for config in &mut configs {
            config.fragment_size = if seed % 2 == 0 { 576 } else { 9000 };
        }
        let mut world = World::up_in_a_storm(seed, configs);
        world.command(
            if seed % 3 == 0 { A } else { B },
            Command::Rekey { connection: "net".to_owned(), child: None },
        );
        world.run(600);
        world.assert_agreement();
        world.terminate(A);
        world.run(300);
        for end in [A, B] {
            world.assert_empty(end);
            assert_eq!(world.ends[end].engine.poll_timeout(), None, "seed {seed}");
        }
    }
}

/// What A sends of that exchange, changed once on its way to B by whoever has the keys at that moment.
fn with_changed_key_exchange(change: fn(&mut Vec<u8>)) -> World {
    let mut world = World::new(1, proposing(A, &[HYBRID]), proposing(B, &[HYBRID]));
    world.ends[A].gateway.spoil = Some(change);
    world.initiate(A);
    world.run(120);
    world
}

#[test]
fn an_encapsulation_key_that_is_none_ends_the_negotiation_with_its_reason() {
    let world = with_changed_key_exchange(|public| public.iter_mut().for_each(|octet| *octet = 0xff));
    assert!(world.failures(B).contains(&"KEY_EXCHANGE_FAILED"), "{}", world.report());
    for end in [A, B] {
        world.assert_empty(end);
    }
}

#[test]
fn ends_that_saw_different_messages_do_not_authenticate_one_another() {
    // B takes part in another key exchange than A: keys differ, and nothing can be read any more.
    let world = with_changed_key_exchange(|public| public[0] ^= 1);
    for end in [A, B] {
        assert!(
            world.ends[end].engine.status().iter().all(|sa| sa.established.is_none()),
            "{}",
            world.report()
        );
    }
}

#[test]
fn ike_auth_before_the_additional_key_exchanges_is_refused() {
    let mut world = World::new(1, proposing(A, &[HYBRID]), proposing(B, &[HYBRID]));
    world.meddle = Some(Box::new(|from, datagram| {
        // The exchange type is under the ICV: A's IKE_INTERMEDIATE never becomes IKE_AUTH.
        let DatagramPayload::Ike(mut octets) = datagram.payload.clone() else { return Some(datagram) };
        if from == A && octets[18] == ExchangeType::IkeIntermediate.number() {
            octets[18] = ExchangeType::IkeAuth.number();
        }
        Some(Datagram { payload: DatagramPayload::Ike(octets), ..datagram })
    }));
    world.initiate(A);
    world.run(20);
    assert!(world.ends[B].engine.status().iter().all(|sa| sa.established.is_none()));
}

#[test]
fn the_notification_is_sent_only_where_it_is_needed() {
    let announced = |world: &World, end: usize| {
        let init = Message::parse(&world.messages(end)[0]).unwrap().message;
        init.payloads.iter().any(|payload| {
            matches!(payload, Payload::Notify(found) if found.notify_type == notify::INTERMEDIATE_EXCHANGE_SUPPORTED)
        })
    };
    let world = World::plain().established();
    assert!(!announced(&world, A) && !announced(&world, B));
    let world = World::new(1, proposing(A, &[HYBRID]), proposing(B, &[HYBRID])).established();
    assert!(announced(&world, A) && announced(&world, B));
}

fn by_hand() -> Hands {
    let two = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_ecp384";
    // Letters are read one by one, so that none may be cut.
    let whole = |end| EngineConfig { fragment_size: 9000, ..proposing(end, &[two]) };
    Hands::new(1, whole(A), whole(B))
}

#[test]
fn a_rekeying_goes_on_in_ike_followup_ke_until_all_key_exchanges_are_done() {
    for end in [A, B] {
        let mut hands = by_hand();
        let other = 1 - end;
        hands.rekey_ike(end);
        assert!(hands.pass(other).asks());
        for _ in 0..2 {
            let answer = hands.pass(end);
            assert!(answer.notes().contains(&notify::ADDITIONAL_KEY_EXCHANGE));
            let next = hands.pass(other);
            assert_eq!(next.exchange, ExchangeType::IkeFollowupKe);
        }
        let last = hands.pass(end);
        assert_eq!((last.exchange, last.notes()), (ExchangeType::IkeFollowupKe, vec![]));
        hands.finish();
        let proposal = hands.world.ends[other].engine.status()[0].proposal.clone().unwrap();
        assert_eq!(proposal, "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_ecp384");
    }
}

#[test]
pub(super) fn a_followup_of_nothing_is_told_so_and_harms_nothing() {
    let mut hands = by_hand();
    hands.rekey_ike(A);
    hands.pass(B);
    hands.pass(A);
    let followup = hands.take(B);
    // B has forgotten, as after the time that it waits.
    let sa = hands.world.ends[B].engine.sas.values_mut().next().unwrap();
    let State::Established(established) = &mut sa.state else { panic!() };
    established.theirs = None;
    hands.give(followup);
    assert_eq!(hands.pass(A).notes(), [notify::STATE_NOT_FOUND]);
    assert!(hands.world.failures(A).contains(&"PEER_REFUSED"));
    hands.finish();
}

#[test]
pub(super) fn an_end_that_does_not_follow_up_is_not_waited_for_for_ever() {
    let mut hands = by_hand();
    hands.rekey_ike(A);
    hands.pass(B);
    hands.world.ends[A].dead = true;
    hands.world.wire.clear();
    hands.world.run(400);
    let sa = hands.world.ends[B].engine.sas.values().next().unwrap();
    let State::Established(established) = &sa.state else { panic!() };
    assert!(established.theirs.is_none());
}

#[test]
fn rekeyings_that_cross_leave_one_ike_sa() {
    for seed in 0..30 {
        let (a, b) = (proposing(A, &[HYBRID]), proposing(B, &[HYBRID]));
        let mut world = World::new(seed, a, b);
        world.weather = Weather { loss: 0, duplication: 20, delay: 60 };
        world.job_delay = 50;
        let mut world = world.established();
        for end in [A, B] {
            world.command(end, Command::Rekey { connection: "net".to_owned(), child: None });
            world.run(u64::from(seed % 2 == 0 && end == A));
        }
        world.run(600);
        world.assert_agreement();
        for end in [A, B] {
            assert_eq!(world.ends[end].engine.status().len(), 1, "seed {seed}\n{}", world.report());
        }
    }
}

/// What strongSwan 6 (3b902ea59b) logged of an IKE SA with us, with X25519 followed by P-256 and P-384: the secrets, what
/// AUTH covers of each message of IKE_INTERMEDIATE, and the keys and AUTH octets that it made of them.
#[test]
fn the_keys_and_what_auth_covers_are_strongswans() {
    use crate::crypto::{KdfInput, SharedSecret, derive_ike_keys};
    use crate::engine::ike_auth::SignatureSupport;
    use crate::engine::ike_sa_init::InitRecord;
    use crate::proposal::{IkeProposal, select_ike};
    let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
    let proposal: IkeProposal = "aes256gcm16-prfsha256-x25519-ke1_ecp256-ke2_ecp384".parse().unwrap();
    let (suite, _) = select_ike(std::slice::from_ref(&proposal), &[proposal.offer(1)]).unwrap();
    let [spi_i, spi_r] = ["5ffa51cfa0b185be", "636e868c77c5321a"].map(|spi| hex(spi).try_into().unwrap());
    let nonce_i = hex("4edf4bf0248b73bb09dff43579ea885187d7031873269869e5828cdc69e3c5c2");
    let nonce_r = hex("62121976459874cc11aa4c81362ef011b43a42879c96eb55acc2d027a6bec6b4");
    let input = KdfInput { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i, spi_r };
    let first = SharedSecret(hex("10e2505d426dfcb45f464fa3ea3b2e3b2ff399fa13cb417ad2b85972196bf80b"));
    let keys = derive_ike_keys(suite.prf, suite.protection, &first, input);
    let mut channel = Channel::new(suite, keys, Role::Responder);
    let [local, remote] = [A, B].map(|end| SocketAddr::new(address(end), 500));
    let base =
        Base::new(IkeSaId(1), Role::Responder, (spi_i, spi_r), Path::udp(local, remote), 0, Instant::now());
    let peer = SignatureSupport::default();
    let record = InitRecord { request: Vec::new(), response: Vec::new(), nonce_i, nonce_r, peer, ppk: false };
    for (shared, of_initiator, of_responder) in [
        (
            "bdf043819b7da1073de17ba835fd8c945bceb8381c19a1489fd5802ff15c9160",
            "5ffa51cfa0b185be636e868c77c5321a2e202b0800000001000000682200004c000000480013000054682b077aa61a72\
             4daa49b9c58a9e53a95c553e27513168e1c27624fb9092df6bef31c7c10a6d994a05a59f706d97b8b566ee89f97e493c\
             93794fbd3cba589b",
            "5ffa51cfa0b185be636e868c77c5321a2e202b2000000001000000682200004c00000048001300006e75db8b492c9ba5\
             36958e9d31bbd0b2f2c774eb2edc0fe6f7f43de4e7e99a32837a918d5cdcece1a06680c76ccbdbcd4f8b802b255fcb88\
             6fe01db636c29304",
        ),
        (
            "689f03d2990b64d0be9e7dc6a16d7265dca15943b6fff85387af1cac711c4b094fbfbd688a14b9f08e45a7727af71fe4",
            "5ffa51cfa0b185be636e868c77c5321a2e202b0800000002000000882200006c0000006800140000f7ca27d5ce20c756\
             b6848590654c6d39a60feffb09d32a3e6adbc61eda448408536b7d7b53096f19bd332482cc42c5dfcdc25fc0de3779b8\
             26e3eb14fb9c3cd66d7ffe2e8519d84c53fb787d3ee826e66af87108cdbef4c69e07739c6ac08b80",
            "5ffa51cfa0b185be636e868c77c5321a2e202b2000000002000000882200006c0000006800140000edf9f63bbec1f8d7\
             5a2002c57b348c1d7ae4a159bd70755c15f98b14367713068c0b10425ac1032f8aa3887615ed737aa941affac4b6945b\
             99e92520415f0413a16d6bb97f0c05a152b66b21ddba2e1babe3680eff353284a2b1e14971d00428",
        ),
    ] {
        channel.authenticate_later(Role::Initiator, &hex(of_initiator));
        channel.authenticate_later(Role::Responder, &hex(of_responder));
        channel.renew_keys(&base, &record, SharedSecret(hex(shared)));
    }
    for (key, answer) in [
        (&channel.keys.sk_d, "5fb33cd1a6f137c42ca7b954040d892bbef8fb67a84a4657435b98c118747e4e"),
        (&channel.keys.sk_ei, "b8e8a15bf8eb374787ecdb36008b4c7cb84510f2e180701c641c8e30c87efc1aa8593f32"),
        (&channel.keys.sk_er, "33dfa70e94a2c47406cca7d3663e55c093056b9ae8f38c1930cd052e30fb7817424b12c4"),
        (&channel.keys.sk_pi, "285a4c6b51392cbe348203d9b89addbc1465807fc6e27f4d7796c0fe3156a528"),
        (&channel.keys.sk_pr, "82289e033bde839efda7acb9a0683b578f8725b37c4120a2ad8c186ede874b4f"),
    ] {
        assert_eq!(*key, hex(answer));
    }
    // The end of the octets that AUTH is made of.
    let covered = "8b9cb39a1a1de7f5e391fed0d23fce3654c6c9e53225eb8d594cabeec67fd5cb\
                   11e749b36e30c4b9a54d65f736d317fd7923228feea02e8f672b5d2f0e03421900000003";
    assert_eq!(channel.int_auth(), hex(covered));
}
