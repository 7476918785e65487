//! Rekeyings of an IKE SA that cross another exchange. Named as strongSwan's test suite names the cases; A is its end
//! a, and each case is tried until either end's nonces have been the lowest.

use super::hands::{Hands, Letter, prevailing};
use super::world::*;
use crate::engine::*;
use crate::message::notify;

/// Both ask; both requests are under way.
fn both_ask(hands: &mut Hands) -> (Letter, Letter) {
    hands.rekey_ike(A);
    hands.rekey_ike(B);
    let (to_b, to_a) = (hands.take(B), hands.take(A));
    assert!(to_a.asks() && to_b.asks());
    (to_a, to_b)
}

/// One IKE SA is left at both ends, not the one that there was, with the child that there was.
fn one_is_left(hands: &mut Hands, before: &[IkeSaStatus; 2]) -> usize {
    // Whatever waits for a Delete that will not come is done waiting.
    hands.world.run(500);
    hands.finish();
    for end in [A, B] {
        let status = hands.world.ends[end].engine.status();
        assert_eq!(status.len(), 1, "{}", hands.world.report());
        assert_ne!(status[0].initiator_spi, before[end].initiator_spi);
        assert_eq!(status[0].children, before[end].children);
    }
    if hands.world.ends[A].engine.status()[0].initiator { A } else { B }
}

fn whoever_wins(case: impl Fn(&mut Hands) -> Option<usize>) {
    let mut winners = Vec::new();
    for seed in 0..12 {
        let mut hands = Hands::plain(seed);
        let before = [A, B].map(|end| hands.world.ends[end].engine.status()[0].clone());
        let expected = case(&mut hands);
        let winner = one_is_left(&mut hands, &before);
        assert!(expected.is_none_or(|expected| expected == winner), "seed {seed}");
        winners.push(winner);
    }
    assert!(winners.contains(&A) && winners.contains(&B), "one end always wins: {winners:?}");
}

fn always(winner: usize, case: impl Fn(&mut Hands)) {
    for seed in 0..6 {
        let mut hands = Hands::plain(seed);
        let before = [A, B].map(|end| hands.world.ends[end].engine.status()[0].clone());
        case(&mut hands);
        assert_eq!(one_is_left(&mut hands, &before), winner);
    }
}

#[test]
fn collision() {
    whoever_wins(|hands| {
        let (to_a, to_b) = both_ask(hands);
        let (request_a, request_b) = (to_b.copy(), to_a.copy());
        hands.give(to_b);
        hands.give(to_a);
        // Three IKE SAs, and the child still with the old one.
        let status = hands.world.ends[A].engine.status();
        assert_eq!(status.iter().map(|sa| sa.children.len()).collect::<Vec<_>>(), [1, 0]);
        let (answer_a, answer_b) = (hands.pass(A), hands.pass(B));
        assert_eq!((hands.take_back(A).deletes(), hands.take_back(B).deletes()), (1, 1));
        Some(prevailing([&request_a, &answer_a], [&request_b, &answer_b]))
    });
}

#[test]
pub(super) fn collision_while_jobs_are_under_way() {
    whoever_wins(|hands| {
        let (to_a, to_b) = both_ask(hands);
        hands.give(to_b);
        let answer = hands.take(A);
        hands.deliver_without_work(to_a);
        hands.deliver_without_work(answer);
        hands.work();
        None
    });
}

#[test]
pub(super) fn collision_ke_invalid() {
    for seed in 0..8 {
        let (mut a, mut b) = (config(A), config(B));
        a.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ecp256".parse().unwrap()];
        b.connections[0].proposals = vec!["aes256gcm16-prfsha384-ecp384-ecp256".parse().unwrap()];
        let mut hands = Hands::new(seed, a, b);
        let before = [A, B].map(|end| hands.world.ends[end].engine.status()[0].clone());
        let (to_a, to_b) = both_ask(&mut hands);
        hands.give(to_a);
        hands.give(to_b);
        assert_eq!(hands.pass(A).notes(), [notify::INVALID_KE_PAYLOAD]);
        assert_eq!(hands.pass(B).notes(), [notify::INVALID_KE_PAYLOAD]);
        let (to_b, to_a) = (hands.take(B), hands.take(A));
        hands.give(to_b);
        hands.give(to_a);
        one_is_left(&mut hands, &before);
    }
}

#[test]
fn collision_ke_invalid_delayed_retry() {
    for seed in 0..8 {
        let (mut a, mut b) = (config(A), config(B));
        a.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ecp256".parse().unwrap()];
        b.connections[0].proposals = vec!["aes256gcm16-prfsha384-ecp384-ecp256".parse().unwrap()];
        let mut hands = Hands::new(seed, a, b);
        let before = [A, B].map(|end| hands.world.ends[end].engine.status()[0].clone());
        let (to_a, to_b) = both_ask(&mut hands);
        hands.give(to_a);
        hands.give(to_b);
        hands.pass(A);
        hands.pass(B);
        let delayed = hands.take(B);
        hands.exchange(B);
        let delete = hands.take(A);
        hands.give(delayed);
        assert_eq!(hands.take_back(A).notes(), [notify::TEMPORARY_FAILURE]);
        hands.give(delete);
        assert_eq!(one_is_left(&mut hands, &before), B);
    }
}

#[test]
fn collision_delayed_response() {
    for late in [A, B] {
        whoever_wins(|hands| {
            let (to_a, to_b) = both_ask(hands);
            hands.give(to_b);
            hands.give(to_a);
            let delayed = hands.take(late);
            // The other end knows who has won, and deletes the old one or its own.
            hands.pass(1 - late);
            assert_eq!(hands.pass(late).deletes(), 1);
            if !hands.nothing_to(1 - late) {
                hands.pass(1 - late);
            }
            hands.give(delayed);
            None
        });
    }
}

#[test]
fn collision_dropped_request() {
    always(B, |hands| {
        let (to_a, _dropped) = both_ask(hands);
        hands.give(to_a);
        // B is done, and deletes the old one.
        hands.pass(B);
        assert_eq!(hands.pass(A).deletes(), 1);
    });
}

#[test]
fn collision_delayed_request() {
    for delete_first in [true, false] {
        always(B, |hands| {
            let (to_a, delayed) = both_ask(hands);
            hands.give(to_a);
            hands.pass(B);
            let delete = hands.take(A);
            hands.give(delayed);
            let refusal = hands.take(A);
            assert_eq!(refusal.notes(), [notify::TEMPORARY_FAILURE]);
            let (first, second) = if delete_first { (delete, refusal) } else { (refusal, delete) };
            hands.give(first);
            hands.give(second);
        });
    }
}

#[test]
fn collision_delete() {
    for deleter in [A, B] {
        let mut hands = Hands::plain(1);
        hands.rekey_ike(1 - deleter);
        hands.delete_ike(deleter);
        let (request, delete) = (hands.take(deleter), hands.take(1 - deleter));
        hands.give(request);
        let refusal = hands.take(1 - deleter);
        assert_eq!(refusal.notes(), [notify::TEMPORARY_FAILURE]);
        hands.give(delete);
        hands.give(refusal);
        hands.world.run(10);
        hands.world.assert_empty(A);
        hands.world.assert_empty(B);
    }
}

#[test]
fn collision_delete_drop_delete() {
    for deleter in [A, B] {
        let mut hands = Hands::plain(1);
        hands.rekey_ike(1 - deleter);
        hands.delete_ike(deleter);
        let request = hands.take(deleter);
        hands.take(1 - deleter);
        hands.give(request);
        assert_eq!(hands.pass(1 - deleter).notes(), [notify::TEMPORARY_FAILURE]);
        hands.world.run(200);
        hands.world.assert_empty(A);
        hands.world.assert_empty(B);
    }
}

#[test]
fn what_the_peer_has_made_prevails_while_our_own_request_never_arrives() {
    let mut hands = Hands::plain(3);
    let (to_a, _lost) = both_ask(&mut hands);
    hands.give(to_a);
    hands.pass(B);
    hands.finish();
    assert_eq!(hands.world.ends[A].engine.status().len(), 1);
}
