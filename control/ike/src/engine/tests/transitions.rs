//! Whether the tables of [`crate::engine::transitions`] say what happens: each row is seen here; whatever else an engine
//! does panics, here and in every other test.

use std::fmt::Write as _;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::fuzz::{SETUPS, converse, deed, world};
use super::gateway::Mishap;
use super::world::*;
use super::{
    additional, additional_child, addresses, certificates, childless, collide_child, collide_ike, eap,
    hostile, mobike, puzzles, reconfigure, resumption, rounds, sharded, storm,
};
use crate::engine::transitions::*;

/// The setup with two key exchanges.
const HYBRID: u8 = 3;
/// With a key exchange for each CHILD SA as well.
const WITH_KE: u8 = 0x80;

/// Lets `spoil` be done to a negotiation, or to a rekeying in what it has made; in the end nothing is left of it.
fn spoilt(setup: u8, number: u8, spoil: impl Fn(&mut World)) {
    let mut world = world(setup, 1);
    if number == 0 {
        spoil(&mut world);
        world.initiate(A);
    } else {
        world = world.established();
        spoil(&mut world);
        for end in [A, B] {
            let command = deed(number, &world, end).unwrap();
            world.command(end, command);
            world.run(5);
        }
    }
    // Longer than anybody waits for a message.
    world.run(300);
    world.meddle = None;
    world.terminate(A);
    world.terminate(B);
    world.run(1500);
    for end in [A, B] {
        world.assert_empty(end);
    }
}

/// Every kind of negotiation, and the rekeyings of CHILD and IKE SAs with one key exchange and with two.
fn setups() -> impl Iterator<Item = (u8, u8)> {
    let rekeyings = [(0, 1), (WITH_KE, 1), (0, 2), (HYBRID, 2)];
    (0..SETUPS).map(|setup| (setup, 0)).chain(rekeyings)
}

/// Each job fails once, and once takes longer than anybody waits.
fn every_job_goes_wrong() {
    for (setup, deed) in setups() {
        for (end, job) in [A, B].into_iter().flat_map(|end| (0..9).map(move |job| (end, job))) {
            for mishap in [Mishap::Fails, Mishap::Drags] {
                spoilt(setup, deed, |world| world.ends[end].gateway.mishap = Some((job, mishap)));
            }
        }
    }
}

/// After any of its messages, an end is not heard of for longer than the other tries.
fn every_message_is_the_last() {
    for (setup, deed) in setups() {
        for (silent, mut left) in [A, B].into_iter().flat_map(|end| (0..7).map(move |left| (end, left))) {
            spoilt(setup, deed, |world| {
                world.meddle = Some(Box::new(move |from, datagram| {
                    if from == silent && left == 0 {
                        return None;
                    }
                    left -= i32::from(from == silent);
                    Some(datagram)
                }));
            });
        }
    }
}

/// What a peer says that has gone mad.
fn every_message_is_spoilt() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for _ in 0..500 {
        let mut input = [0; 48];
        rng.fill_bytes(&mut input);
        converse(&input);
    }
}

/// From where to where only the fuzzer of the engine finds its way, now and then.
const RARE: [(&str, &str); 2] = [("AwaitingEapRequest", "Deleting"), ("AwaitingLastAuthRequest", "Closed")];

/// By each of its causes, and to each of its ends.
#[test]
fn every_row_of_the_tables_happens() {
    every_job_goes_wrong();
    every_message_is_the_last();
    every_message_is_spoilt();
    (0..100).for_each(storm::both_ends_agree);
    hostile::mutated_messages_are_survived_in_every_state();
    additional::a_followup_of_nothing_is_told_so_and_harms_nothing();
    additional::an_end_that_does_not_follow_up_is_not_waited_for_for_ever();
    additional_child::a_followup_of_nothing_is_told_so_and_the_rekeying_begins_anew();
    additional_child::a_rekeying_of_a_child_goes_on_until_all_key_exchanges_are_done();
    additional_child::an_end_that_does_not_follow_up_is_not_waited_for_for_ever();
    addresses::a_full_pool_refuses_the_child_and_is_named();
    certificates::each_end_may_authenticate_in_its_own_way();
    childless::a_key_exchange_of_its_own_protects_the_first_child_too();
    collide_child::collision_ke_invalid_delayed_retry();
    collide_ike::collision_ke_invalid();
    collide_ike::collision_while_jobs_are_under_way();
    certificates::a_ca_that_only_one_end_trusts_is_named_there_and_nowhere_else();
    eap::a_wrong_password_is_named_at_the_gateway_and_hinted_at_to_the_client();
    eap::a_gateway_that_proves_itself_by_a_certificate_lets_a_user_in();
    eap::a_refusal_of_the_aaa_server_is_passed_on();
    eap::a_user_of_an_aaa_server_gets_a_tunnel_and_what_it_says_he_may_have();
    eap::a_gateway_with_a_certificate_lets_users_in();
    rounds::any_rounds_of_either_end_go_together();
    rounds::every_round_has_to_be_right();
    rounds::a_round_too_few_or_too_many_is_named();
    rounds::whoever_does_not_go_on_to_its_next_round_is_forgotten();
    rounds::whatever_job_of_a_round_fails_nothing_is_left();
    eap::success_without_the_key_is_worth_nothing();
    puzzles::a_peer_solves_its_puzzle_and_gets_in();
    puzzles::a_peer_that_knows_puzzles_solves_another_in_ike_auth();
    reconfigure::an_attempt_that_was_refused_a_moment_ago_begins_again_with_a_proposal_that_was_added();
    resumption::a_client_whose_address_the_kernel_chooses_resumes_as_well();
    resumption::a_gateway_that_does_not_know_the_exchange_is_met_in_full();
    resumption::a_gateway_that_was_restarted_takes_no_old_ticket_and_the_client_begins_in_full();
    resumption::what_is_offered_anew_is_offered_in_full();
    mobike::a_nat_on_the_new_way_is_found_and_esp_goes_in_udp_and_back();
    sharded::every_kind_of_negotiation_comes_up_and_leaves_nothing();
    sharded::unique_keep_refuses_a_peer_that_another_shard_has();
    sharded::a_peer_whose_claim_is_answered_too_late_is_not_counted();
    let seen = SEEN.take();
    let cause = |change: &Change| seen.iter().any(|it| (it.0, it.1, it.2) == (change.0, change.1, change.2));
    let arrow = |change: &Change| seen.iter().any(|it| (it.0, it.1, it.3) == (change.0, change.1, change.3));
    let rare = |change: &Change| RARE.contains(&(change.1, change.3));
    let unseen: Vec<_> = all().filter(|it| !(rare(it) || cause(it) && arrow(it))).collect();
    assert!(unseen.is_empty(), "these never happen: {unseen:#?}");
}

/// `UPDATE=1` writes it.
#[test]
fn the_page_of_states_is_made_of_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ike-states.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap();
    assert!(there == page, "docs/ike-states.md is not what the tables say: run this test with UPDATE=1");
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    for (name, about, table) in [
        ("The IKE SA", "", IKE_SA),
        ("Our exchanges in an established IKE SA", "`-`: none is under way.", OURS),
        ("The peer's", "Only while they wait for something: most are answered at once.", THEIRS),
    ] {
        writeln!(page, "\n## {name}\n\n{about}\n\n| from | by | to |\n|---|---|---|").unwrap();
        for (from, cause, to) in table {
            writeln!(page, "| {from} | {cause} | {} |", to.join("<br>")).unwrap();
        }
    }
    page.replace("\n\n\n\n", "\n\n")
}

const HEAD: &str = "\
# States of an IKE SA

Made of the tables in `control/ike/src/engine/transitions.rs` by a test, which also sees that each of them happens; whatever else
an engine did would fail the tests. What is not here leaves things as they are.

\"any\" as a cause: whatever lets the engine look at what is to be done next; \"decision\": a command, or what became of another IKE SA.
\"any\" as a state: from wherever it stands.
";
