//! Puzzles (RFC 8019). That another implementation solves ours, and we its, is shown in `e2e_puzzle`.

use super::flood::{concentrator, forged, from, init, rejected};
use super::world::*;
use crate::config::*;
use crate::crypto::Puzzle;
use crate::engine::*;
use crate::message::{Message, Payload, notify};

/// B asks everybody for the solution of a puzzle.
fn under_attack() -> EngineConfig {
    EngineConfig { cookie_threshold: 0, puzzle_threshold: 0, ..concentrator() }
}

/// What B answers to a message.
fn answer(world: &mut World, datagram: Datagram) -> Option<Vec<Payload>> {
    world.ends[B].engine.handle_datagram(world.now, datagram);
    let sent = world.ends[B].engine.poll_transmit()?;
    let DatagramPayload::Ike(octets) = sent.payload else { panic!() };
    Some(Message::parse(&octets).unwrap().message.payloads)
}

fn data(payloads: &[Payload], wanted: u16) -> Option<Vec<u8>> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(found) if found.notify_type == wanted => Some(found.data.clone()),
        _ => None,
    })
}

/// The message with these payloads before its own.
fn with(datagram: &Datagram, before: Vec<Payload>) -> Datagram {
    let DatagramPayload::Ike(octets) = &datagram.payload else { panic!() };
    let mut message = Message::parse(octets).unwrap().message;
    message.payloads.splice(0..0, before);
    Datagram { payload: DatagramPayload::Ike(message.emit()), ..datagram.clone() }
}

fn cookie(data: Vec<u8>) -> Payload {
    let protocol = crate::message::Protocol::Other(0);
    Payload::Notify(crate::message::Notify { protocol, spi: Vec::new(), notify_type: notify::COOKIE, data })
}

/// The cookie and the puzzle that are asked of a message.
fn asked(world: &mut World, datagram: &Datagram) -> (Vec<u8>, Puzzle) {
    let said = answer(world, datagram.clone()).unwrap();
    let puzzle = data(&said, notify::PUZZLE).unwrap();
    (data(&said, notify::COOKIE).unwrap(), Puzzle::from_wire(&puzzle).unwrap())
}

#[test]
pub(super) fn a_peer_solves_its_puzzle_and_gets_in() {
    let world = World::new(1, config(A), under_attack()).established();
    world.assert_agreement();
    let first = Message::parse(&world.messages(A)[1]).unwrap().message.payloads;
    assert!(
        matches!(&first[..2], [Payload::Notify(_), Payload::PuzzleSolution(keys)] if keys.len() == 32),
        "{first:?}"
    );
}

#[test]
pub(super) fn a_peer_whom_luck_deserts_shows_its_cookie_alone_and_gets_in_for_now() {
    let mut world = World::new(1, config(A), under_attack());
    world.ends[A].gateway.mishap = Some((1, super::gateway::Mishap::Fails));
    let world = world.established();
    let again = Message::parse(&world.messages(A)[1]).unwrap().message.payloads;
    assert!(!again.iter().any(|payload| matches!(payload, Payload::PuzzleSolution(_))), "{again:?}");
}

#[test]
fn a_puzzle_that_is_too_hard_or_about_another_prf_is_left() {
    let mut a = config(A);
    a.puzzle_solved = 9;
    let world = World::new(1, a, under_attack()).established();
    let sent = Message::parse(&world.messages(A)[1]).unwrap().message.payloads;
    assert!(data(&sent, notify::COOKIE).is_some());
    assert!(!sent.iter().any(|payload| matches!(payload, Payload::PuzzleSolution(_))));
}

#[test]
fn a_puzzle_is_about_a_prf_of_the_offer_and_its_solution_is_taken_without_state() {
    let mut world = World::new(1, config(A), under_attack());
    let request = from(&init(), 1, forged(1));
    let (shown, puzzle) = asked(&mut world, &request);
    // What A offers; the easiest, as there is nobody yet.
    assert_eq!((puzzle.prf, puzzle.difficulty), (crate::crypto::Prf::HmacSha384, 10));
    assert_eq!(world.ends[B].engine.half_open(), 0);
    let solution = puzzle.solve(&shown, 1).unwrap();
    let solved = with(&request, vec![cookie(shown), Payload::PuzzleSolution(solution)]);
    assert_eq!(answer(&mut world, solved), None);
    assert_eq!(world.ends[B].engine.half_open(), 1);
}

#[test]
fn a_wrong_solution_is_dropped_and_so_is_one_of_an_easier_puzzle_or_of_another() {
    let mut world = World::new(1, config(A), under_attack());
    let requests = [1, 2].map(|number| from(&init(), number, forged(number)));
    let (shown, puzzle) = asked(&mut world, &requests[0]);
    let solution = puzzle.solve(&shown, 1).unwrap();
    let mut wrong = solution.clone();
    wrong[0] ^= 1;
    assert_eq!(
        answer(&mut world, with(&requests[0], vec![cookie(shown.clone()), Payload::PuzzleSolution(wrong)])),
        None
    );
    assert_eq!(
        (world.ends[B].engine.half_open(), {
            world.collect(B);
            rejected(&world, "puzzle")
        }),
        (0, 1)
    );
    // An easier one than was asked: the cookie says which it was, and is not ours any more.
    let mut easier = shown.clone();
    easier[6] = 1;
    let easy = Puzzle { difficulty: 1, ..puzzle }.solve(&easier, 1).unwrap();
    let said =
        answer(&mut world, with(&requests[0], vec![cookie(easier), Payload::PuzzleSolution(easy)])).unwrap();
    assert!(data(&said, notify::PUZZLE).is_some());
    // Another's.
    let said = answer(&mut world, with(&requests[1], vec![cookie(shown), Payload::PuzzleSolution(solution)]))
        .unwrap();
    assert!(data(&said, notify::PUZZLE).is_some());
    assert_eq!(world.ends[B].engine.half_open(), 0);
}

#[test]
fn who_solves_none_is_served_while_there_is_room_to_spare_and_who_does_after_that() {
    let b = EngineConfig { half_open_limit: 20, block_threshold: 1, ..under_attack() };
    let mut world = World::new(1, config(A), b);
    let init = init();
    let mut difficulties = Vec::new();
    for number in 0..20 {
        let request = from(&init, number, forged(number));
        let (shown, puzzle) = asked(&mut world, &request);
        difficulties.push(puzzle.difficulty);
        let unsolved = with(&request, vec![cookie(shown.clone())]);
        assert_eq!(answer(&mut world, unsolved), None);
        let served = world.ends[B].engine.half_open() == number as usize + 1;
        assert_eq!(served, number < 10, "{number}");
        if !served {
            let solution = puzzle.solve(&shown, 1).unwrap();
            let solved = with(&request, vec![cookie(shown), Payload::PuzzleSolution(solution)]);
            assert_eq!(answer(&mut world, solved), None);
            assert_eq!(world.ends[B].engine.half_open(), number as usize + 1);
        }
    }
    // The more there are, the more it takes.
    assert!(difficulties.is_sorted() && difficulties[0] == 10 && difficulties[19] == 11, "{difficulties:?}");
    world.collect(B);
    assert_eq!(rejected(&world, "puzzle"), 10);
}

#[test]
fn below_the_second_threshold_a_cookie_is_enough() {
    let b = EngineConfig { puzzle_threshold: 1, ..under_attack() };
    let mut world = World::new(1, config(A), b);
    let init = init();
    let said = answer(&mut world, from(&init, 1, forged(1))).unwrap();
    assert_eq!(data(&said, notify::PUZZLE), None);
    let shown = data(&said, notify::COOKIE).unwrap();
    assert_eq!(answer(&mut world, with(&from(&init, 1, forged(1)), vec![cookie(shown)])), None);
    assert_eq!(world.ends[B].engine.half_open(), 1);
    asked(&mut world, &from(&init, 2, forged(2)));
}

/// B asks whoever has solved a puzzle for another in IKE_AUTH.
fn twice() -> EngineConfig {
    EngineConfig { puzzle_auth_difficulty: 8, ..under_attack() }
}

#[test]
pub(super) fn a_peer_that_knows_puzzles_solves_another_in_ike_auth() {
    // Whole, and in fragments.
    for size in [0, 300] {
        let mut a = config(A);
        a.fragment_size = size;
        let world = World::new(1, a, twice()).established();
        world.assert_agreement();
        let answered = Message::parse(&world.messages(B)[1]).unwrap().message;
        let puzzle = Puzzle::from_wire(&data(&answered.payloads, notify::PUZZLE).unwrap()).unwrap();
        assert_eq!((puzzle.prf, puzzle.difficulty), (crate::crypto::Prf::HmacSha384, 8));
        let sent = world.messages(A);
        let auth = Message::parse(&sent[2]).unwrap();
        let [Payload::PuzzleSolution(solution)] = &auth.message.payloads[..] else { panic!("{auth:?}") };
        // RFC 8019 §7.2.3: Nr | SPIr.
        let nonce = answered.payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        });
        assert!(puzzle.is_solved_by(&[nonce.unwrap(), answered.header.spi_r.to_vec()].concat(), solution));
        if size > 0 {
            let second = Message::parse(&sent[3]).unwrap();
            assert!(second.encrypted.unwrap().fragment.is_some() && second.message.payloads.is_empty());
        }
    }
}

#[test]
fn an_ike_auth_request_without_its_solution_costs_nothing_and_changes_nothing() {
    let mut a = config(A);
    a.retransmission.tries = 2;
    let mut world = World::new(1, a, twice());
    // The second of its puzzles.
    world.ends[A].gateway.unlucky = Some(1);
    let command = world.initiate(A);
    world.run_until(100, "it gives up", |world| world.ends[A].done.contains_key(&command));
    assert_eq!(rejected(&world, "puzzle"), 3);
    world.run(60);
    [A, B].into_iter().for_each(|end| world.assert_empty(end));
    // One that does not know puzzles is asked none.
    let mut a = config(A);
    a.puzzle_solved = 0;
    let world = World::new(1, a, twice()).established();
    let answered = Message::parse(&world.messages(B)[1]).unwrap().message;
    assert_eq!(data(&answered.payloads, notify::PUZZLE), None);
}
