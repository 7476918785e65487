//! Rekeying of IKE SAs when nothing crosses.

use super::hands::Hands;
use super::world::*;
use crate::engine::*;
use crate::message::notify;

#[test]
fn regular() {
    for end in [A, B] {
        let mut hands = Hands::plain(1);
        let peer = 1 - end;
        let (pairs, old) =
            ([hands.pairs(A), hands.pairs(B)], hands.world.ends[end].engine.status()[0].clone());
        hands.rekey_ike(end);
        assert!(hands.pass(peer).asks());
        // The responder has moved its children; the old IKE SA waits for its Delete.
        let status = hands.world.ends[peer].engine.status();
        assert_eq!(status.iter().map(|sa| sa.children.len()).collect::<Vec<_>>(), [0, 1]);
        assert!(hands.pass(end).response);
        assert_eq!(hands.pass(peer).deletes(), 1);
        assert_eq!(hands.world.ends[peer].engine.status().len(), 1);
        hands.pass(end);

        hands.finish();
        for at in [A, B] {
            let [new] = hands.world.ends[at].engine.status().try_into().unwrap();
            assert_eq!(new.initiator, at == end, "whoever rekeys is the initiator");
            assert_ne!(new.initiator_spi, old.initiator_spi);
            assert_ne!(new.responder_spi, old.responder_spi);
            assert_eq!(new.proposal, old.proposal);
            assert_eq!(hands.pairs(at), pairs[at], "the children are the same");
            assert_eq!(hands.world.failures(at), [""; 0]);
        }
        // The new IKE SA serves like any other, from both ends, and its message IDs begin at zero.
        for asking in [A, B] {
            hands.rekey_child(asking);
            let request = hands.take_back(1 - asking);
            assert_eq!(request.id, 0);
            hands.world.run(10);
        }
        hands.rekey_ike(peer);
        hands.world.run(10);
        hands.finish_with_one_child(&pairs.concat());
    }
}

#[test]
fn regular_ke_invalid() {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ecp256".parse().unwrap()];
    b.connections[0].proposals = vec!["aes256gcm16-prfsha384-ecp256".parse().unwrap()];
    let mut hands = Hands::new(1, a, b);
    hands.rekey_ike(A);
    let (_, refusal) = hands.exchange(A);
    assert_eq!(refusal.notes(), [notify::INVALID_KE_PAYLOAD]);
    hands.finish();
    assert_eq!(rekeyed(&hands, A), 1);
}

fn rekeyed(hands: &Hands, end: usize) -> usize {
    hands.world.ends[end].events.iter().filter(|event| matches!(event, Event::IkeRekeyed { .. })).count()
}

#[test]
fn wishes_and_deletes_that_wait_go_to_the_new_ike_sa() {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].children.push(child("dmz", "10.1.0.0/16", "10.22.0.0/16"));
    b.connections[0].children.push(child("dmz", "10.22.0.0/16", "10.1.0.0/16"));
    let mut hands = Hands::new(1, a, b);
    hands.rekey_ike(A);
    // Neither fits into the window of the old one.
    let deleted = hands.delete_child(A);
    let dmz = Some("dmz".to_owned());
    hands.command(A, Command::Terminate { connection: "net".to_owned(), child: dmz.clone() });
    hands.world.run(5);
    assert_eq!(hands.world.ends[A].done[&deleted], Ok(()));
    let up = hands.command(A, Command::Initiate { connection: "net".to_owned(), child: dmz });
    hands.rekey_ike(A);
    hands.world.run(30);
    assert_eq!(hands.world.ends[A].done[&up], Ok(()));
    hands.finish();
    assert_eq!(hands.pairs(A).len(), 1);
    assert_eq!(hands.world.ends[A].engine.status().len(), 1);
}

#[test]
fn a_child_that_the_peer_asks_for_meanwhile_is_put_off_and_comes_up_after() {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].children.push(child("dmz", "10.1.0.0/16", "10.22.0.0/16"));
    b.connections[0].children.push(child("dmz", "10.22.0.0/16", "10.1.0.0/16"));
    let mut hands = Hands::new(1, a, b);
    hands.command(A, Command::Terminate { connection: "net".to_owned(), child: Some("dmz".to_owned()) });
    hands.world.run(5);
    hands.rekey_ike(A);
    let rekey = hands.take(B);
    let child = Some("dmz".to_owned());
    let up = hands.command(B, Command::Initiate { connection: "net".to_owned(), child });
    assert!(hands.pass(A).asks());
    assert_eq!(hands.take_back(B).notes(), [notify::TEMPORARY_FAILURE]);
    hands.give(rekey);
    hands.world.run(60);
    assert_eq!(hands.world.ends[B].done[&up], Ok(()));
    hands.finish();
    assert_eq!(hands.pairs(B).len(), 2);
    assert_eq!(hands.world.ends[A].engine.status().len(), 1);
}

#[test]
fn a_lost_answer_is_repeated_by_the_old_ike_sa() {
    let mut hands = Hands::plain(1);
    hands.rekey_ike(A);
    hands.pass(B);
    hands.take(A);
    hands.world.run(10);
    hands.finish();
    assert_eq!(hands.world.ends[A].engine.status().len(), 1);
    assert_eq!(hands.world.ends[B].engine.status().len(), 1);
}

#[test]
fn an_old_ike_sa_that_nobody_deletes_goes_after_a_while_and_the_peer_is_asked_whether_it_knows_the_new_one() {
    let mut hands = Hands::plain(1);
    hands.rekey_ike(A);
    hands.pass(B);
    // A forgets everything.
    hands.world.ends[A].dead = true;
    hands.world.wire.clear();
    assert_eq!(hands.world.ends[B].engine.status().len(), 2);
    hands.world.run(1000);
    hands.world.assert_empty(B);
}

#[test]
fn the_ike_sa_ends_if_it_is_deleted_during_its_rekeying() {
    for deleter in [A, B] {
        let mut hands = Hands::plain(1);
        hands.rekey_ike(A);
        let command = hands.delete_ike(deleter);
        hands.world.run(200);
        assert_eq!(hands.world.ends[deleter].done[&command], Ok(()));
        hands.world.assert_empty(A);
        hands.world.assert_empty(B);
    }
}

#[test]
fn the_keys_of_packets_do_not_change_with_those_of_ike() {
    let mut hands = Hands::plain(1);
    let before = hands.seals_with(A);
    hands.rekey_ike(B);
    hands.world.run(5);
    assert_eq!(hands.seals_with(A), before);
    hands.finish();
}
