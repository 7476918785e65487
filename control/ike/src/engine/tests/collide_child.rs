//! Rekeyings of a CHILD SA that cross another exchange. Named as strongSwan's test suite names the cases; A is its end
//! a, and each case is tried until either end's nonces have been the lowest.

use super::hands::{Hands, Letter, prevailing};
use super::world::*;
use crate::engine::*;
use crate::message::notify;
use portcullis_ipsec::Spi;

fn old(hands: &Hands) -> Vec<Spi> {
    [hands.pairs(A), hands.pairs(B)].concat()
}

/// Tries a case with nonces that either end wins with. The case ends with one child, and says who made it.
fn whoever_wins(case: impl Fn(&mut Hands) -> (Vec<Spi>, Option<usize>)) {
    let mut winners = Vec::new();
    for seed in 0..12 {
        let mut hands = Hands::plain(seed);
        let (before, expected) = case(&mut hands);
        hands.finish_with_one_child(&before);
        let made_by_a = hands.world.ends[A].engine.status()[0].children[0].initiator;
        let winner = if made_by_a { A } else { B };
        assert!(expected.is_none_or(|expected| expected == winner), "seed {seed}");
        winners.push(winner);
    }
    if !winners.contains(&A) || !winners.contains(&B) {
        panic!("one end always wins: {winners:?}");
    }
}

/// A case that always ends the same way.
fn always(case: impl Fn(&mut Hands) -> Vec<Spi>) {
    for seed in 0..6 {
        let mut hands = Hands::plain(seed);
        let before = case(&mut hands);
        hands.finish_with_one_child(&before);
    }
}

/// Both ask; both requests are under way.
fn both_ask(hands: &mut Hands) -> (Vec<Spi>, Letter, Letter) {
    let before = old(hands);
    hands.rekey_child(A);
    hands.rekey_child(B);
    let (to_b, to_a) = (hands.take(B), hands.take(A));
    assert!(to_a.asks() && to_b.asks());
    (before, to_a, to_b)
}

#[test]
fn collision() {
    whoever_wins(|hands| {
        let (before, to_a, to_b) = both_ask(hands);
        let (request_a, request_b) = (to_b.copy(), to_a.copy());
        hands.give(to_b);
        hands.give(to_a);
        let (answer_a, answer_b) = (hands.pass(A), hands.pass(B));
        // Each end deletes one: the winner the old one, the other his own.
        assert_eq!((hands.take_back(A).deletes(), hands.take_back(B).deletes()), (1, 1));
        (before, Some(prevailing([&request_a, &answer_a], [&request_b, &answer_b])))
    });
}

#[test]
fn collision_with_own_key_exchanges() {
    for seed in 0..6 {
        let (mut a, mut b) = (config(A), config(B));
        for config in [&mut a, &mut b] {
            config.connections[0].children[0].esp_proposals = vec!["aes256gcm16-x25519-esn".parse().unwrap()];
        }
        let mut hands = Hands::new(seed, a, b);
        let (before, to_a, to_b) = both_ask(&mut hands);
        hands.give(to_a);
        hands.give(to_b);
        hands.finish_with_one_child(&before);
    }
}

#[test]
fn collision_while_jobs_are_under_way() {
    whoever_wins(|hands| {
        let (before, to_a, to_b) = both_ask(hands);
        // B has answered A before A's jobs for B's request are done.
        hands.give(to_b);
        let answer = hands.take(A);
        hands.deliver_without_work(to_a);
        hands.deliver_without_work(answer);
        hands.work();
        (before, None)
    });
}

#[test]
fn collision_delayed_response() {
    for late in [A, B] {
        whoever_wins(|hands| {
            let (before, to_a, to_b) = both_ask(hands);
            hands.give(to_b);
            hands.give(to_a);
            let delayed = hands.take(late);
            // The other end knows who has won, and deletes one of them.
            hands.pass(1 - late);
            hands.pass(late);
            hands.pass(1 - late);
            hands.give(delayed);
            (before, None)
        });
    }
}

#[test]
fn collision_delayed_response_delete() {
    for seed in 0..8 {
        let mut hands = Hands::plain(seed);
        let (_, to_a, to_b) = both_ask(&mut hands);
        hands.give(to_b);
        hands.give(to_a);
        let delayed = hands.take(A);
        hands.pass(B);
        hands.exchange(B);
        // B does away with the child altogether, while A still waits for its response.
        hands.delete_child(B);
        hands.exchange(B);
        hands.give(delayed);
        hands.finish_losing();
        assert!(hands.pairs(A).is_empty() && hands.pairs(B).is_empty(), "seed {seed}");
    }
}

#[test]
fn collision_delayed_request() {
    for delete_first in [true, false] {
        always(|hands| {
            let (before, to_a, delayed) = both_ask(hands);
            hands.give(to_a);
            hands.pass(B);
            // B is done, and deletes the old one, when A's request reaches it.
            let delete = hands.take(A);
            hands.give(delayed);
            let refusal = hands.take(A);
            assert_eq!(refusal.notes(), [notify::TEMPORARY_FAILURE]);
            let (first, second) = if delete_first { (delete, refusal) } else { (refusal, delete) };
            hands.give(first);
            hands.give(second);
            assert!(!hands.world.wire.iter().any(|flight| flight.to == B) || hands.take_back(B).response);
            before
        });
    }
}

#[test]
fn collision_delayed_request_more() {
    always(|hands| {
        let (before, to_a, delayed) = both_ask(hands);
        hands.give(to_a);
        hands.pass(B);
        hands.exchange(B);
        hands.give(delayed);
        let refusal = hands.pass(A);
        assert_eq!(refusal.notes(), [notify::CHILD_SA_NOT_FOUND]);
        assert!(hands.nothing_to(B), "nothing is made anew: it is rekeyed");
        before
    });
}

#[test]
fn collision_delayed_request_more_delete() {
    let mut hands = Hands::plain(1);
    let (_, to_a, delayed) = both_ask(&mut hands);
    hands.give(to_a);
    hands.pass(B);
    hands.exchange(B);
    hands.delete_child(B);
    hands.exchange(B);
    hands.give(delayed);
    assert_eq!(hands.pass(A).notes(), [notify::CHILD_SA_NOT_FOUND]);
    hands.finish_losing();
    assert!(hands.pairs(A).is_empty() && hands.pairs(B).is_empty());
}

fn groups(a: &str, b: &str) -> (EngineConfig, EngineConfig) {
    let (mut ours, mut theirs) = (config(A), config(B));
    for (config, proposal) in [(&mut ours, a), (&mut theirs, b)] {
        config.connections[0].children[0].esp_proposals =
            proposal.split(',').map(|proposal| proposal.parse().unwrap()).collect();
    }
    (ours, theirs)
}

#[test]
fn collision_ke_invalid() {
    for seed in 0..8 {
        // Each prefers a group that the other does not have.
        let (a, b) = groups("aes256gcm16-x25519-ecp256-esn", "aes256gcm16-ecp384-ecp256-esn");
        let mut hands = Hands::new(seed, a, b);
        let (before, to_a, to_b) = both_ask(&mut hands);
        hands.give(to_a);
        hands.give(to_b);
        assert_eq!(hands.pass(A).notes(), [notify::INVALID_KE_PAYLOAD]);
        assert_eq!(hands.pass(B).notes(), [notify::INVALID_KE_PAYLOAD]);
        let (to_b, to_a) = (hands.take(B), hands.take(A));
        assert!(to_a.asks() && to_b.asks());
        hands.give(to_b);
        hands.give(to_a);
        hands.finish_with_one_child(&before);
    }
}

#[test]
pub(super) fn collision_ke_invalid_delayed_retry() {
    for seed in 0..8 {
        let (a, b) = groups("aes256gcm16-x25519-ecp256-esn", "aes256gcm16-ecp384-ecp256-esn");
        let mut hands = Hands::new(seed, a, b);
        let (before, to_a, to_b) = both_ask(&mut hands);
        hands.give(to_a);
        hands.give(to_b);
        hands.pass(A);
        hands.pass(B);
        let delayed = hands.take(B);
        // To B it looks as if nothing crossed.
        hands.exchange(B);
        let delete = hands.take(A);
        hands.give(delayed);
        let refusal = hands.take(A);
        assert_eq!(refusal.notes(), [notify::TEMPORARY_FAILURE]);
        hands.give(delete);
        hands.give(refusal);
        hands.finish_with_one_child(&before);
    }
}

#[test]
fn collision_responder_incorrect_delete() {
    for seed in 0..8 {
        let mut hands = Hands::plain(seed);
        let (before, to_a, to_b) = both_ask(&mut hands);
        hands.give(to_b);
        hands.give(to_a);
        let delayed = hands.take(A);
        // B deletes the old one whether it has won or not.
        hands.pass(B);
        let now = hands.world.now;
        let id = *hands.world.ends[B].engine.sas.keys().next().unwrap();
        let half = children::Doomed { pair: before[1], peer: Some(before[0]) };
        hands.world.ends[B].engine.step(now, id, |state, _, base| {
            base.doom(half);
            Ok(state)
        });
        hands.world.ends[B].engine.nudge(now, id);
        hands.world.collect(B);
        hands.work();
        hands.exchange(B);
        hands.give(delayed);
        hands.finish_losing();
        hands.assert_one_child(&before);
    }
}

#[test]
fn collision_delete() {
    for deleter in [A, B] {
        let mut hands = Hands::plain(1);
        hands.rekey_child(1 - deleter);
        hands.delete_child(deleter);
        let (request, delete) = (hands.take(deleter), hands.take(1 - deleter));
        hands.give(request);
        let refusal = hands.take(1 - deleter);
        assert_eq!(refusal.notes(), [notify::TEMPORARY_FAILURE]);
        hands.give(delete);
        assert_eq!(hands.pass(deleter).deletes(), 1);
        hands.give(refusal);
        hands.finish_losing();
        assert!(hands.pairs(A).is_empty() && hands.pairs(B).is_empty());
        assert_eq!(hands.world.ends[A].engine.status().len(), 1);
    }
}

#[test]
fn collision_delete_drop_delete() {
    for deleter in [A, B] {
        let mut hands = Hands::plain(1);
        hands.rekey_child(1 - deleter);
        hands.delete_child(deleter);
        let request = hands.take(deleter);
        // The Delete is lost; its repetition comes after the refusal.
        hands.take(1 - deleter);
        hands.give(request);
        assert_eq!(hands.pass(1 - deleter).notes(), [notify::TEMPORARY_FAILURE]);
        hands.world.run(200);
        hands.finish_losing();
        assert!(hands.pairs(A).is_empty() && hands.pairs(B).is_empty());
    }
}

#[test]
fn collision_delete_drop_rekey() {
    for deleter in [A, B] {
        let mut hands = Hands::plain(1);
        hands.rekey_child(1 - deleter);
        hands.delete_child(deleter);
        let (delayed, delete) = (hands.take(deleter), hands.take(1 - deleter));
        hands.give(delete);
        hands.pass(deleter);
        hands.give(delayed);
        assert_eq!(hands.pass(1 - deleter).notes(), [notify::CHILD_SA_NOT_FOUND]);
        assert!(hands.nothing_to(deleter), "what the peer has deleted is not made anew");
        hands.finish_losing();
        assert!(hands.pairs(A).is_empty() && hands.pairs(B).is_empty());
    }
}

#[test]
fn collision_delete_delayed_response() {
    let mut hands = Hands::plain(1);
    hands.rekey_child(A);
    hands.pass(B);
    let delayed = hands.take(A);
    // B deletes the new one alone, of which A knows nothing yet.
    let new = hands.world.ends[B].engine.status()[0].children[1].clone();
    let now = hands.world.now;
    let id = *hands.world.ends[B].engine.sas.keys().next().unwrap();
    hands.world.ends[B].engine.step(now, id, |state, cx, base| {
        base.remove_child(cx, new.spi_in, "deleted");
        base.doom(children::Doomed { pair: new.spi_in, peer: Some(new.spi_out) });
        Ok(state)
    });
    hands.world.ends[B].engine.nudge(now, id);
    hands.world.collect(B);
    hands.work();
    let (_, answer) = hands.exchange(B);
    assert_eq!(answer.deletes(), 0);
    hands.give(delayed);
    assert_eq!(hands.pass(B).deletes(), 1);
    hands.finish_losing();
    assert!(hands.pairs(A).is_empty() && hands.pairs(B).is_empty(), "{}", hands.world.report());
}

#[test]
fn collision_ike_rekey() {
    for end in [A, B] {
        for seed in 0..4 {
            let mut hands = Hands::plain(seed);
            let before = old(&hands);
            hands.rekey_child(end);
            hands.rekey_ike(1 - end);
            let (child, ike) = (hands.take(1 - end), hands.take(end));
            hands.give(child);
            hands.give(ike);
            assert_eq!(hands.pass(A).notes(), [notify::TEMPORARY_FAILURE]);
            assert_eq!(hands.pass(B).notes(), [notify::TEMPORARY_FAILURE]);
            // Each tries again, at a time of its own.
            hands.world.run(60);
            hands.finish_with_one_child(&before);
            for end in [A, B] {
                let rekeyed = |event: &Event| matches!(event, Event::IkeRekeyed { .. });
                assert!(hands.world.ends[end].events.iter().any(rekeyed));
            }
        }
    }
}

#[test]
fn collision_ike_delete() {
    for end in [A, B] {
        let mut hands = Hands::plain(1);
        hands.rekey_child(end);
        hands.delete_ike(1 - end);
        let (child, delete) = (hands.take(1 - end), hands.take(end));
        hands.give(child);
        let refusal = hands.take(end);
        assert_eq!(refusal.notes(), [notify::TEMPORARY_FAILURE]);
        hands.give(delete);
        hands.pass(1 - end);
        hands.give(refusal);
        hands.world.run(100);
        hands.world.assert_empty(A);
        hands.world.assert_empty(B);
    }
}
