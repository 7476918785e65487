//! Rekeying of CHILD SAs: the course of it, and what goes wrong when nothing crosses.

use super::hands::Hands;
use super::world::*;
use crate::engine::*;
use crate::message::notify;

fn with_pfs(a: &str, b: &str) -> (EngineConfig, EngineConfig) {
    let (mut ours, mut theirs) = (config(A), config(B));
    for (config, proposal) in [(&mut ours, a), (&mut theirs, b)] {
        config.connections[0].children[0].esp_proposals = vec![proposal.parse().unwrap()];
    }
    (ours, theirs)
}

fn old(hands: &Hands) -> Vec<portcullis_ipsec::Spi> {
    [hands.pairs(A), hands.pairs(B)].concat()
}

#[test]
fn regular() {
    for end in [A, B] {
        for proposal in ["aes256gcm16-esn", "aes256gcm16-x25519-esn"] {
            let (a, b) = with_pfs(proposal, proposal);
            let mut hands = Hands::new(1, a, b);
            let (before, peer) = (old(&hands), 1 - end);
            let policies = hands.world.ends[peer].gateway.policies.clone();
            hands.rekey_child(end);

            let request = hands.pass(peer);
            assert!(request.asks());
            assert_eq!(request.notes(), [notify::REKEY_SA]);
            // The responder receives on both and sends on the old one.
            assert_eq!(hands.pairs(peer).len(), 2);
            assert_eq!(hands.seals_with(peer), hands.pairs(end));

            assert!(hands.pass(end).response);
            // The initiator sends on the new one, and asks for the old one to be deleted.
            assert_eq!(hands.seals_with(end), [hands.pairs(peer)[1]]);
            assert_eq!(hands.seals_with(peer), [hands.pairs(end)[0]]);
            assert_eq!(hands.pass(peer).deletes(), 1);
            assert_eq!(hands.seals_with(peer), [hands.pairs(end)[1]]);
            assert_eq!(hands.pairs(peer).len(), 1);
            assert_eq!(hands.pass(end).deletes(), 1);
            // What is under way on the old one is still received.
            assert_eq!(hands.world.ends[end].gateway.installed.len(), 2);
            assert_eq!(hands.world.ends[end].gateway.in_use().len(), 1);

            hands.finish_with_one_child(&before);
            assert_eq!(hands.world.ends[peer].gateway.policies, policies, "the policy stays");
            assert_eq!(hands.world.ends[end].gateway.installed.len(), 1);
            let child = hands.world.ends[end].engine.status()[0].children[0].clone();
            assert_eq!(child.proposal, proposal);
        }
    }
}

#[test]
fn regular_ke_invalid() {
    for end in [A, B] {
        let (a, b) = with_pfs("aes256gcm16-x25519-ecp256-esn", "aes256gcm16-ecp256-x25519-esn");
        let mut hands = Hands::new(1, a, b);
        let before = old(&hands);
        hands.rekey_child(end);
        let (_, refusal) = hands.exchange(end);
        // With x25519 first, the end that prefers ecp256 still takes it; only a missing group is refused.
        assert_eq!(refusal.notes(), [0_u16; 0]);
        hands.finish_with_one_child(&before);
    }
    let (a, b) = with_pfs("aes256gcm16-x25519-ecp256-esn", "aes256gcm16-ecp256-esn");
    let mut hands = Hands::new(1, a, b);
    let before = old(&hands);
    hands.rekey_child(A);
    let (_, refusal) = hands.exchange(A);
    assert_eq!(refusal.notes(), [notify::INVALID_KE_PAYLOAD]);
    hands.exchange(A);
    hands.finish_with_one_child(&before);
}

#[test]
fn regular_responder_seals_with_the_new_one_as_soon_as_a_packet_comes_on_it() {
    let mut hands = Hands::plain(1);
    let before = old(&hands);
    hands.rekey_child(A);
    hands.exchange(A);
    let delete = hands.take(B);
    let pair = hands.pairs(B)[1];
    hands.command(B, Command::FirstPacket { pair });
    assert_eq!(hands.seals_with(B), [hands.pairs(A)[1]]);
    // The old one goes only when the peer deletes it.
    assert_eq!(hands.pairs(B).len(), 2);
    hands.give(delete);
    assert_eq!(hands.pairs(B).len(), 1);
    hands.finish_with_one_child(&before);
}

#[test]
fn regular_responder_ignore_soft_expire() {
    let mut hands = Hands::plain(1);
    let before = old(&hands);
    hands.rekey_child(A);
    hands.pass(B);
    hands.command(B, Command::SoftLimit { pair: before[1] });
    assert!(hands.nothing_to(A) || hands.take(A).response);
    assert!(hands.nothing_to(A));
    hands.world.run(10);
    hands.finish_with_one_child(&before);
}

#[test]
fn regular_responder_handle_hard_expire() {
    let mut hands = Hands::plain(1);
    let before = old(&hands);
    hands.rekey_child(A);
    hands.exchange(A);
    let delete = hands.take(B);
    hands.command(B, Command::HardLimit { pair: before[1] });
    assert_eq!(hands.seals_with(B), [hands.pairs(A)[1]], "the new one is used from now on");
    assert!(hands.nothing_to(A), "the initiator will delete it");
    hands.give(delete);
    assert_eq!(hands.pass(A).deletes(), 0);
    hands.finish_with_one_child(&before);
}

#[test]
fn regular_responder_delete() {
    let mut hands = Hands::plain(1);
    hands.rekey_child(A);
    hands.exchange(A);
    // Both deletes cross: A's of the old one, B's of both.
    hands.delete_child(B);
    hands.finish_losing();
    for end in [A, B] {
        assert!(hands.pairs(end).is_empty());
        assert_eq!(hands.world.ends[end].engine.status().len(), 1);
        assert!(hands.world.ends[end].gateway.installed.is_empty());
    }
}

#[test]
fn regular_responder_lost_sa() {
    let mut hands = Hands::plain(1);
    let before = old(&hands);
    let now = hands.world.now;
    let id = *hands.world.ends[B].engine.sas.keys().next().unwrap();
    hands.world.ends[B].engine.step(now, id, |state, cx, base| {
        base.remove_children(cx, "lost");
        Ok(state)
    });
    hands.world.collect(B);
    hands.work();
    hands.rekey_child(A);
    let (_, refusal) = hands.exchange(A);
    assert_eq!(refusal.notes(), [notify::CHILD_SA_NOT_FOUND]);
    // A new one from scratch, and no Delete of what the peer does not know.
    let (request, _) = hands.exchange(A);
    assert_eq!(request.notes(), [0_u16; 0]);
    assert!(request.asks());
    hands.finish_with_one_child(&before);
}

#[test]
fn regular_responder_incorrect_delete() {
    let mut hands = Hands::plain(1);
    let before = old(&hands);
    hands.rekey_child(A);
    hands.pass(B);
    let answer = hands.take(A);
    // B deletes the old one itself, and that arrives first.
    let now = hands.world.now;
    let id = *hands.world.ends[B].engine.sas.keys().next().unwrap();
    let half = children::Doomed { pair: before[1], peer: Some(before[0]) };
    hands.world.ends[B].engine.step(now, id, |state, _, base| {
        base.doom(half);
        Ok(state)
    });
    hands.world.ends[B].engine.nudge(now, id);
    hands.world.collect(B);
    assert_eq!(hands.pass(A).deletes(), 1);
    assert!(hands.pairs(A).is_empty());
    hands.give(answer);
    hands.finish_losing();
    hands.assert_one_child(&before);
}

#[test]
fn regular_delete_timeout() {
    let mut hands = Hands::plain(1);
    hands.rekey_child(A);
    hands.exchange(A);
    hands.world.ends[B].dead = true;
    hands.world.run(400);
    hands.world.assert_empty(A);
    let closed = |event: &Event| matches!(event, Event::ChildClosed { .. });
    assert_eq!(hands.world.ends[A].events.iter().filter(|event| closed(event)).count(), 2);
}

#[test]
fn a_refused_rekeying_is_tried_again_and_the_old_sa_serves_meanwhile() {
    let mut hands = Hands::plain(1);
    let before = old(&hands);
    hands.world.ends[B].gateway.full = true;
    hands.rekey_child(A);
    let (_, refusal) = hands.exchange(A);
    assert_eq!(refusal.notes(), [notify::NO_ADDITIONAL_SAS]);
    assert_eq!(hands.pairs(A), before[..1]);
    hands.world.run(120);
    assert!(hands.world.failures(A).len() > 2);
    hands.world.ends[B].gateway.full = false;
    hands.world.run(120);
    hands.finish_with_one_child(&before);
}

#[test]
fn a_rekeyed_child_that_the_data_plane_refuses_is_not_left_at_the_peer() {
    for end in [A, B] {
        let mut hands = Hands::plain(1);
        let before = old(&hands);
        hands.world.ends[end].gateway.refuses = true;
        hands.rekey_child(A);
        hands.world.run(3);
        hands.world.ends[end].gateway.refuses = false;
        hands.world.run(100);
        hands.finish_with_one_child(&before);
    }
}
