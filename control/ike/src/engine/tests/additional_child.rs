//! Additional key exchanges of CHILD SAs (RFC 9370 §2.2.4): CREATE_CHILD_SA, followed by IKE_FOLLOWUP_KE.

use super::hands::{Hands, Letter, prevailing};
use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::{Payload, Protocol};
use portcullis_ipsec::Spi;

const ONE: &str = "aes256gcm16-x25519-ke1_mlkem768-esn";
const TWO: &str = "aes256gcm16-x25519-ke1_mlkem768-ke2_ecp384-esn";

fn proposing(end: usize, proposals: &[&str]) -> EngineConfig {
    let mut config = config(end);
    for child in &mut config.connections[0].children {
        child.esp_proposals = proposals.iter().map(|text| text.parse().unwrap()).collect();
    }
    // Letters are read one by one, so that none may be cut.
    EngineConfig { fragment_size: 9000, ..config }
}

fn by_hand(seed: u64, proposal: &str) -> Hands {
    Hands::new(seed, proposing(A, &[proposal]), proposing(B, &[proposal]))
}

fn old(hands: &Hands) -> Vec<Spi> {
    [hands.pairs(A), hands.pairs(B)].concat()
}

/// The IDs of a letter's transforms, by type.
fn transforms(letter: &Letter) -> Vec<(u8, u16)> {
    let proposals = letter.payloads.iter().find_map(|payload| match payload {
        Payload::Sa(proposals) => Some(proposals),
        _ => None,
    });
    let of = &proposals.expect("an SA payload")[0];
    assert_eq!(of.protocol, Protocol::Esp);
    of.transforms.iter().map(|transform| (transform.transform_type, transform.id)).collect()
}

/// What a letter's KE payload is of, and what ties it to the letter before.
fn keying(letter: &Letter) -> (Option<u16>, Option<Vec<u8>>) {
    let method = letter.payloads.iter().find_map(|payload| match payload {
        Payload::Ke { method, .. } => Some(*method),
        _ => None,
    });
    let link = letter.payloads.iter().find_map(|payload| match payload {
        Payload::Notify(found) if found.notify_type == 16441 => Some(found.data.clone()),
        _ => None,
    });
    (method, link)
}

#[test]
pub(super) fn a_rekeying_of_a_child_goes_on_until_all_key_exchanges_are_done() {
    for end in [A, B] {
        let mut hands = by_hand(1, TWO);
        let (before, other) = (old(&hands), 1 - end);
        hands.rekey_child(end);
        let request = hands.pass(other);
        // IANA: 20 is ENCR_AES_GCM_16; 4, 6 and 7 are the types of key exchange and of the first two additional ones;
        // 31, 36 and 20 are X25519, ML-KEM-768 and P-384.
        assert_eq!(transforms(&request), [(1, 20), (4, 31), (6, 36), (7, 20), (5, 1)]);
        assert_eq!(keying(&request), (Some(31), None));
        let answer = hands.pass(end);
        assert_eq!(transforms(&answer), transforms(&request));
        let (method, mut link) = keying(&answer);
        assert_eq!(method, Some(31));
        for method in [36, 20] {
            assert!(link.is_some(), "another is announced");
            let request = hands.pass(other);
            assert_eq!(request.exchange.number(), 44);
            assert_eq!(keying(&request), (Some(method), link));
            assert_eq!(request.payloads.len(), 2);
            assert_eq!(hands.pairs(other).len(), if method == 20 { 2 } else { 1 }, "not before the last");
            let answer = hands.pass(end);
            assert_eq!(keying(&answer).0, Some(method));
            link = keying(&answer).1;
        }
        assert_eq!(link, None);
        hands.finish_with_one_child(&before);
        for end in [A, B] {
            assert_eq!(hands.world.ends[end].engine.status()[0].children[0].proposal, TWO);
        }
    }
}

#[test]
fn ike_auth_offers_none_and_further_children_have_them() {
    let two = |end: usize| {
        let mut config = proposing(end, &[ONE]);
        let mut more = config.connections[0].children[0].clone();
        more.name = "more".to_owned();
        config.connections[0].children.push(more);
        config
    };
    for end in [A, B] {
        let mut world = World::new(1, two(A), two(B)).established();
        assert_eq!(world.ends[A].engine.status()[0].children[0].proposal, "aes256gcm16-esn");
        let (connection, child) = ("net".to_owned(), Some("more".to_owned()));
        let up = world.command(end, Command::Initiate { connection, child });
        world.run_until(60, "the child is up", |world| world.ends[end].done.contains_key(&up));
        assert_eq!(world.ends[end].done[&up], Ok(()));
        let children = world.ends[end].engine.status().remove(0).children;
        assert!(children.iter().any(|child| child.proposal == ONE), "{}", world.report());
        world.assert_agreement();
    }
}

#[test]
fn a_peer_that_does_without_is_met_only_where_that_is_configured() {
    let plain = "aes256gcm16-x25519-esn";
    let optional = "aes256gcm16-x25519-ke1_mlkem768-ke1_none-esn";
    for (a, b, comes) in [
        (&[optional][..], &[plain][..], Some(plain)),
        (&[optional], &[optional], Some(ONE)),
        (&[ONE, plain], &[plain], Some(plain)),
        (&[plain], &[optional], Some(plain)),
        (&[ONE], &[plain], None),
        (&[plain], &[ONE], None),
    ] {
        let mut hands = Hands::new(1, proposing(A, a), proposing(B, b));
        let before = old(&hands);
        hands.rekey_child(A);
        hands.world.run(3);
        let status = hands.world.ends[A].engine.status();
        match comes {
            Some(proposal) => assert_eq!(status[0].children[0].proposal, proposal),
            None => {
                assert_eq!(old(&hands), before);
                assert!(hands.world.failures(B).contains(&"CHILD_PROPOSAL_KE_MISMATCH"));
            }
        }
    }
}

/// Both ask; both requests are under way.
fn both_ask(hands: &mut Hands) -> (Letter, Letter) {
    hands.rekey_child(A);
    hands.rekey_child(B);
    let (to_b, to_a) = (hands.take(B), hands.take(A));
    assert!(to_a.asks() && to_b.asks());
    (to_a, to_b)
}

#[test]
fn rekeyings_that_cross_leave_the_child_of_the_exchange_without_the_lowest_nonce() {
    let mut winners = Vec::new();
    for seed in 0..12 {
        let mut hands = by_hand(seed, ONE);
        let before = old(&hands);
        let (to_a, to_b) = both_ask(&mut hands);
        let (request_a, request_b) = (to_b.copy(), to_a.copy());
        hands.give(to_b);
        hands.give(to_a);
        let (answer_a, answer_b) = (hands.pass(A), hands.pass(B));
        let winner = prevailing([&request_a, &answer_a], [&request_b, &answer_b]);
        // One end may be through before the other has followed up at all.
        if seed % 3 == 0 {
            hands.exchange(A);
        }
        hands.finish_with_one_child(&before);
        let made_by_a = hands.world.ends[A].engine.status()[0].children[0].initiator;
        assert_eq!(made_by_a, winner == A, "seed {seed}");
        winners.push(winner);
    }
    assert!(winners.contains(&A) && winners.contains(&B), "{winners:?}");
}

#[test]
fn an_exchange_that_begins_while_the_other_follows_up_is_put_off() {
    let mut hands = by_hand(1, ONE);
    let before = old(&hands);
    hands.rekey_child(A);
    hands.pass(B);
    // B has answered, and waits; its own rekeying waits too, and then has nothing left to do.
    hands.rekey_child(B);
    assert!(hands.take_back(A).response);
    hands.finish_with_one_child(&before);
    assert!(hands.world.ends[A].engine.status()[0].children[0].initiator);
}

/// Lets B forget what A has begun.
fn forget(hands: &mut Hands) {
    let now = hands.world.now;
    let engine = &mut hands.world.ends[B].engine;
    let id = *engine.sas.keys().next().unwrap();
    engine.step(now, id, |mut state, cx, base| {
        let State::Established(established) = &mut state else { panic!() };
        established.forget_followup(cx, base);
        Ok(state)
    });
    hands.world.collect(B);
    hands.work();
}

#[test]
pub(super) fn a_followup_of_nothing_is_told_so_and_the_rekeying_begins_anew() {
    let mut hands = by_hand(1, ONE);
    let before = old(&hands);
    hands.rekey_child(A);
    hands.pass(B);
    hands.pass(A);
    let followup = hands.take(B);
    forget(&mut hands);
    hands.give(followup);
    assert_eq!(hands.pass(A).notes(), [notify::STATE_NOT_FOUND]);
    assert!(hands.world.failures(A).contains(&"PEER_REFUSED"));
    assert_eq!(hands.pairs(A).len(), 1, "its predecessor stays");
    hands.finish_with_one_child(&before);
}

#[test]
pub(super) fn an_end_that_does_not_follow_up_is_not_waited_for_for_ever() {
    let mut hands = by_hand(1, ONE);
    let before = old(&hands);
    hands.rekey_child(A);
    hands.pass(B);
    let reserved =
        |hands: &Hands| hands.world.ends[B].engine.sas.values().next().unwrap().base.reserved.len();
    assert_eq!(reserved(&hands), 1, "the SPI that it was told");
    hands.world.ends[A].dead = true;
    hands.world.wire.clear();
    hands.world.run(400);
    let sas = hands.world.ends[B].engine.status();
    assert!(sas.iter().all(|sa| sa.children.iter().all(|child| before.contains(&child.spi_in))));
    assert!(sas.is_empty() || reserved(&hands) == 0);
}

#[test]
fn a_link_that_is_not_the_one_that_was_given_is_refused() {
    let mut hands = by_hand(1, ONE);
    hands.rekey_child(A);
    hands.pass(B);
    hands.take(A);
    let id = *hands.world.ends[B].engine.sas.keys().next().unwrap();
    let ke = Payload::Ke { method: 36, data: vec![1; 1184] };
    let link = ike_sa_init::notification(notify::ADDITIONAL_KEY_EXCHANGE, vec![7; 16]);
    for payloads in [vec![ke.clone()], vec![ke, link]] {
        let engine = &mut hands.world.ends[B].engine;
        let sa = engine.sas.get_mut(&id).unwrap();
        let State::Established(established) = &mut sa.state else { panic!() };
        established.handle_followup(&mut engine.cx, &sa.base, &payloads);
        let Some(established::Theirs::Child(theirs)) = &established.theirs else { panic!() };
        assert!(theirs.deadline().is_some(), "it still waits for the right one");
    }
}

#[test]
fn they_come_up_and_are_rekeyed_whatever_the_network_does() {
    for seed in 0..30 {
        let mut configs = [proposing(A, &[ONE]), proposing(B, &[ONE])];
        for config in &mut configs {
            config.fragment_size = if seed % 2 == 0 { 576 } else { 9000 };
        }
        let mut world = World::up_in_a_storm(seed, configs);
        for end in [A, B] {
            if seed % 3 != end as u64 {
                let (connection, child) = ("net".to_owned(), Some("lan".to_owned()));
                world.command(end, Command::Rekey { connection, child });
            }
        }
        world.run(900);
        world.assert_agreement();
        let children = world.ends[A].engine.status().remove(0).children;
        assert_eq!(children.len(), 1, "seed {seed}\n{}", world.report());
        assert_eq!(children[0].proposal, ONE, "seed {seed}\n{}", world.report());
        world.terminate(A);
        world.run(300);
        for end in [A, B] {
            world.assert_empty(end);
            assert_eq!(world.ends[end].engine.poll_timeout(), None, "seed {seed}");
        }
    }
}
