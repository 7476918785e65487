//! Ends that are several engines with a registry beside them, whose messages take their time: what one engine does, they do.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis_ipsec::{Encapsulation, TunnelEndpoints};

use super::addresses::{self, with_pools};
use super::certificates::Pki;
use super::crash::{in_clear, in_disguise};
use super::flood::{concentrator, forged, from, init, rejected};
use super::fuzz::{SETUPS, world_of};
use super::node::{Cluster, Node as _, SHARDS};
use super::resumption::{loses_and_returns, with_tickets};
use super::rounds::{self, Proof};
use super::storm::{ends_agree, seeds};
use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::notify;

type Sharded = WorldOf<Cluster>;

/// B takes anybody: A's IKE SAs come to any of its shards.
fn stranger(b: &mut EngineConfig) {
    b.connections[0].remote_addrs.clear();
}

fn strangers() -> EngineConfig {
    let mut b = config(B);
    stranger(&mut b);
    b
}

/// Without INITIAL_CONTACT.
fn wordless() -> EngineConfig {
    let mut a = config(A);
    a.connections[0].unique = Unique::Never;
    a
}

fn unique(unique: Unique) -> EngineConfig {
    let mut b = strangers();
    b.connections[0].unique = unique;
    b
}

fn shard_of(world: &Sharded, ike: IkeSaId) -> usize {
    world.ends[B].engine.routes.of_ike(ike)
}

fn live(world: &Sharded, end: usize) -> Vec<IkeSaStatus> {
    let mut sas = world.ends[end].engine.status();
    sas.retain(|sa| sa.state == IkeState::Established);
    sas
}

/// A has a tunnel, forgets it, and comes again, to another shard of B's; with what B had before.
fn comes_again(a: &EngineConfig, b: &EngineConfig) -> (Sharded, IkeSaStatus) {
    for seed in 0.. {
        let mut world = with_pools(Sharded::new(seed, a.clone(), b.clone())).established();
        world.run(10);
        let old = world.ends[B].engine.status().remove(0);
        world.forget(A, a.clone());
        world.initiate(A);
        let is_new = |sa: &IkeSaStatus| sa.initiator_spi != old.initiator_spi;
        world.run_until(10, "B hears of it", |world| world.ends[B].engine.status().iter().any(is_new));
        let new = world.ends[B].engine.status().into_iter().find(is_new).unwrap();
        if shard_of(&world, new.id) != shard_of(&world, old.id) {
            return (world, old);
        }
    }
    unreachable!()
}

#[test]
fn both_ends_agree_whatever_happened() {
    for seed in seeds() {
        // Both name one another, or one takes anybody.
        ends_agree::<Cluster>(seed, |_, b| {
            if seed % 4 == 2 || seed % 2 == 1 {
                stranger(b);
                b.connections[0].children[0].start_action = StartAction::None;
            }
        });
    }
}

#[test]
pub(super) fn every_kind_of_negotiation_comes_up_and_leaves_nothing() {
    let pki = Pki::new();
    let [mut of_key, mut of_certificate] = [config(A), config(B)];
    of_key.connections[0].local[0].auth = pki.local(A);
    of_certificate.connections[0].remote[0].auth = pki.remote();
    let several = rounds::configs(&[Proof::Key, Proof::Key], &[Proof::Key, Proof::Key]);
    let others = [[of_key, of_certificate], several].map(|[a, b]| Sharded::new(1, a, b));
    for world in (0..SETUPS).map(|setup| world_of(setup, 1)).chain(others) {
        let mut world: Sharded = world.established();
        world.run(2);
        world.assert_agreement();
        world.terminate(A);
        world.run(60);
        for end in [A, B] {
            world.assert_empty(end);
            world.ends[end].engine.registry.assert_empty();
        }
    }
}

#[test]
fn initiations_and_acquires_of_one_child_make_one_ike_sa_however_they_cross() {
    for seed in 0..40 {
        let mut world = Sharded::new(seed, config(A), config(B));
        world.weather = Weather { delay: 60, duplication: 20, loss: 0 };
        for end in [A, B, A, B] {
            world.initiate(end);
        }
        world.run(60);
        world.assert_agreement();
        assert_eq!(world.ends[A].engine.status().len(), 1, "seed {seed}\n{}", world.report());
        assert!(world.ends.iter().all(|end| end.done.values().all(Result::is_ok)));
    }
}

#[test]
fn unique_replace_leaves_one_ike_sa_of_a_peer_that_comes_to_another_shard() {
    let (mut world, old) = comes_again(&wordless(), &unique(Unique::Replace));
    world.run(5);
    // As within one shard: the old one has a while, in case it was a reauthentication.
    assert_eq!(live(&world, B).len(), 2);
    world.run(25);
    let [new] = live(&world, B).try_into().unwrap();
    assert_ne!(new.id, old.id);
    world.run(300);
    assert_eq!(world.ends[B].engine.status().len(), 1);
    world.assert_agreement();
}

#[test]
fn unique_no_and_never_leave_both() {
    for policy in [Unique::No, Unique::Never] {
        let (mut world, _) = comes_again(&wordless(), &unique(policy));
        world.run(30);
        assert_eq!(live(&world, B).len(), 2);
    }
    // Never: not even with INITIAL_CONTACT.
    let (mut world, _) = comes_again(&config(A), &unique(Unique::Never));
    world.run(30);
    assert_eq!(live(&world, B).len(), 2);
}

#[test]
pub(super) fn unique_keep_refuses_a_peer_that_another_shard_has() {
    let (mut world, old) = comes_again(&wordless(), &unique(Unique::Keep));
    world.run(30);
    assert_eq!(world.ends[B].engine.status().into_iter().map(|sa| sa.id).collect::<Vec<_>>(), [old.id]);
    assert!(world.failures(B).contains(&"NOT_UNIQUE"));
    assert_eq!(world.failures(A), ["AUTHENTICATION_FAILED"]);
    world.ends[B].engine.assert_consistent();
    // With INITIAL_CONTACT the other goes first.
    let (mut world, old) = comes_again(&config(A), &unique(Unique::Keep));
    world.run(30);
    assert_eq!(world.failures(B), [""; 0]);
    assert!(world.ends[B].engine.status().iter().all(|sa| sa.id != old.id));
    world.assert_agreement();
}

#[test]
fn initial_contact_ends_what_another_shard_has_and_the_address_is_free_before_it_is_asked_for() {
    let (a, mut b) = addresses::ends();
    stranger(&mut b);
    let (mut world, old) = comes_again(&a, &b);
    world.run(2);
    let [new] = world.ends[B].engine.status().try_into().unwrap();
    assert_ne!(new.id, old.id);
    assert_eq!(new.remote_vips, old.remote_vips);
    world.run(60);
    world.assert_agreement();
}

#[test]
fn a_reauthentication_that_comes_to_another_shard_loses_no_packet() {
    let mut moved = 0;
    for seed in 0..8 {
        let mut world = Sharded::new(seed, config(A), strangers()).established();
        let old = world.ends[B].engine.status()[0].id;
        world.begin_traffic(Duration::from_millis(5));
        world.command(A, Command::Reauthenticate { connection: "net".to_owned() });
        world.run(20);
        world.end_traffic();
        world.run(20);
        world.assert_agreement();
        assert_eq!(world.lost, [""; 0], "seed {seed}");
        let [new] = world.ends[B].engine.status().try_into().unwrap();
        moved += usize::from(shard_of(&world, new.id) != shard_of(&world, old));
    }
    assert!(moved > 0);
}

#[test]
fn a_rekeyed_ike_sa_stays_in_its_shard() {
    for seed in 0..6 {
        let mut world = Sharded::new(seed, config(A), strangers()).established();
        let old = world.ends[B].engine.status()[0].id;
        for end in [A, B, A] {
            world.command(end, Command::Rekey { connection: "net".to_owned(), child: None });
            world.run(5);
        }
        let [new] = world.ends[B].engine.status().try_into().unwrap();
        assert_ne!(new.id, old);
        assert_eq!(shard_of(&world, new.id), shard_of(&world, old));
        world.assert_agreement();
    }
}

#[test]
fn a_command_reaches_every_shard_that_it_concerns_and_fails_only_where_none_has_anything_to_do() {
    let (mut world, _) = comes_again(&wordless(), &unique(Unique::No));
    world.run(5);
    assert_eq!(live(&world, B).len(), 2);
    let done = |world: &Sharded, command| world.ends[B].done[&command].clone();
    let rekey = world.command(B, Command::Rekey { connection: "net".to_owned(), child: None });
    assert_eq!(done(&world, rekey), Ok(()));
    // What is up in any shard need not be brought up, though B could not.
    let initiate = world.initiate(B);
    assert_eq!(done(&world, initiate), Ok(()));
    // The old one's peer does not answer.
    let terminate = world.terminate(B);
    world.run(300);
    assert_eq!(done(&world, terminate), Ok(()));
    world.assert_empty(B);
    world.ends[B].engine.registry.assert_empty();
    let again = world.terminate(B);
    assert_eq!(done(&world, again).unwrap_err().code(), "NOTHING_TO_TERMINATE");
    let up = world.initiate(B);
    assert_eq!(done(&world, up).unwrap_err().code(), "NO_REMOTE_ADDRESS");
}

#[test]
fn another_configuration_is_put_in_force_everywhere_and_brings_a_child_up_once() {
    let mut world = Sharded::new(1, config(A), config(B));
    let mut b = config(B);
    b.connections[0].children[0].start_action = StartAction::Start;
    world.reconfigure(B, b.clone());
    world.run(30);
    world.assert_agreement();
    let begun: HashSet<_> = world.messages(B).into_iter().map(|octets| octets[..8].to_vec()).collect();
    assert_eq!(begun.len(), 1, "one attempt");
    // Whoever has an IKE SA of a connection that is gone closes it.
    b.connections.clear();
    world.reconfigure(B, b);
    world.run(30);
    world.assert_empty(B);
}

/// How many half-open IKE SAs of an address all shards of B have.
fn of_source(world: &Sharded, source: IpAddr) -> usize {
    world.ends[B].engine.shards.iter().map(|shard| shard.half_open.from(source)).sum()
}

#[test]
fn the_bounds_of_a_flood_hold_over_all_shards() {
    let init = init();
    let limits = EngineConfig { cookie_threshold: 10_000, half_open_limit: 90, ..concentrator() };
    let limits = EngineConfig { block_threshold: 20, half_open_timeout: Duration::from_secs(120), ..limits };
    let mut world = Sharded::new(1, config(A), limits);
    let (mut most, mut most_of_source) = (0, 0);
    for number in 0..4000 {
        // Six in parallel; half of them of one source.
        let source = forged(if number % 2 == 0 { 0 } else { 1 + number % 9 });
        world.deliver(B, from(&init, number, source));
        let until = world.now + Duration::from_millis(u64::from(number % 6 == 0) * 3);
        while world.tick(until) {}
        most = most.max(world.ends[B].engine.half_open());
        most_of_source = most_of_source.max(of_source(&world, source));
    }
    world.run(2);
    assert_eq!((most, most_of_source), (90, 20));
    assert_eq!(world.ends[B].engine.half_open(), 90);
    assert!(rejected(&world, "half_open_limit") > 0 && rejected(&world, "half_open_of_source") > 0);
    let spread = world.ends[B].engine.shards.iter().filter(|shard| shard.half_open() > 10);
    assert_eq!(spread.count(), usize::from(SHARDS));
    world.run(200);
    assert_eq!(world.ends[B].engine.half_open(), 0);
    world.ends[B].engine.registry.assert_empty();
}

#[test]
fn cookies_are_asked_for_when_all_shards_together_have_too_many_and_honest_peers_get_in() {
    let init = init();
    let mut world = Sharded::new(2, config(A), concentrator());
    let mut most = 0;
    for number in 0..3000 {
        world.deliver(B, from(&init, number, forged(number)));
        let until = world.now + Duration::from_millis(1);
        while world.tick(until) {}
        most = most.max(world.ends[B].engine.half_open());
        if number == 1000 {
            // What was sent to nobody need not arrive.
            world.wire.clear();
            world.initiate(A);
        }
        world.wire.retain(|flight| flight.to == B || flight.datagram.local.ip() == address(A));
    }
    // And whoever has shown a cookie.
    assert!((30..=31).contains(&most), "{most}");
    world.run(60);
    assert!(world.up(), "{}", world.report());
    world.assert_agreement();
}

#[test]
fn a_cookie_of_one_shard_is_good_for_all() {
    let common = Common::new(zeroize::Zeroizing::new([7; 32]), std::time::Instant::now());
    let now = common.since + Duration::from_secs(59);
    let [mut one, mut other] = [1, 2].map(|seed| {
        let rng = <rand_chacha::ChaCha20Rng as rand_core::SeedableRng>::seed_from_u64(seed);
        let shard = Shard::all(SHARDS).nth(seed as usize).unwrap();
        Engine::sharded(config(B), Box::new(rng), shard, Some(common.clone()))
    });
    let (nonce, remote, spi) = ([7; 32], SocketAddr::new(address(A), 500), [9; 8]);
    let cookie = one.cookies.make(&mut one.cx, now, &nonce, remote, spi, None);
    let mut good = |after: u64| {
        let then = now + Duration::from_secs(after);
        other.cookies.check(&mut other.cx, then, &cookie, &nonce, remote, spi).is_some()
    };
    // Made shortly before the secret changes, it is good for as long as the next one.
    assert_eq!([0, 2, 60, 62].map(&mut good), [true, true, true, false]);
}

#[test]
fn no_token_is_shown_of_an_ike_sa_that_another_shard_has_but_of_one_that_none_has() {
    let mut elsewhere = 0;
    for seed in 0..6 {
        let mut world = Sharded::new(seed, config(A), strangers()).established();
        let child = Some("lan".to_owned());
        world.command(A, Command::Rekey { connection: "net".to_owned(), child });
        world.run(2);
        let is_request = |octets: &Vec<u8>| Message::parse(octets).unwrap().message.header.message_id == 2;
        let request = world.messages(A).into_iter().find(is_request).unwrap();
        let owner = shard_of(&world, world.ends[B].engine.status()[0].id);
        let disguised: Vec<_> = in_disguise(&request)
            .into_iter()
            .map(|octets| Datagram {
                local: SocketAddr::new(address(B), 500),
                remote: SocketAddr::new(address(A), 500),
                payload: DatagramPayload::Ike(octets),
            })
            .collect();
        let sent = world.messages(B).len();
        for datagram in &disguised {
            elsewhere += usize::from(world.ends[B].engine.routes.of_datagram(datagram) != owner);
            world.deliver(B, datagram.clone());
            world.run(1);
        }
        assert_eq!(in_clear(&world, B, sent), Vec::<Vec<u16>>::new());
        world.forget(B, strangers());
        for datagram in disguised {
            world.run(1);
            let sent = world.messages(B).len();
            world.deliver(B, datagram);
            world.run(1);
            assert_eq!(in_clear(&world, B, sent), [[notify::INVALID_IKE_SPI, notify::QCD_TOKEN]]);
        }
    }
    assert!(elsewhere > 0);
}

#[test]
fn a_client_resumes_where_its_ticket_is_from() {
    for seed in 0..4 {
        let [a, mut b] = [A, B].map(with_tickets);
        stranger(&mut b);
        let mut world = Sharded::new(seed, a, b).established();
        let old = world.ends[B].engine.status()[0].id;
        for _ in 0..2 {
            loses_and_returns(&mut world);
            let [new] = world.ends[B].engine.status().try_into().unwrap();
            assert_eq!(shard_of(&world, new.id), shard_of(&world, old));
            world.assert_agreement();
        }
        let heads = world.messages(A).into_iter().map(|octets| (octets[18], octets[..8].to_vec()));
        let begun: HashSet<_> = heads.filter(|(exchange, _)| *exchange == 34).collect();
        assert_eq!(begun.len(), 1, "the first time alone");
    }
}

#[test]
fn a_peer_whose_esp_finds_no_sa_is_told_so_by_the_shard_that_has_its_ike_sa() {
    for seed in 0..4 {
        let mut world = Sharded::new(seed, config(A), strangers()).established();
        world.run(1);
        let pair = world.ends[B].engine.status()[0].children[0].spi_out;
        let seen =
            TunnelEndpoints { local: address(B), remote: address(A), encapsulation: Encapsulation::None };
        let sent = world.messages(B).len();
        world.command(B, Command::UnknownSpi { spi: pair, seen });
        world.run(1);
        // Within the IKE SA, not in clear.
        assert_eq!(in_clear(&world, B, sent), Vec::<Vec<u16>>::new());
        assert_eq!(world.messages(B).len(), sent + 1);
    }
}

#[test]
fn a_hint_that_comes_to_any_shard_makes_the_one_that_it_is_about_ask() {
    for seed in 0..4 {
        let mut world = Sharded::new(seed, config(A), strangers()).established();
        world.run(10);
        // Of nobody whom A has an IKE SA with, as far as A knows after this.
        let spi = world.ends[B].engine.status()[0].children[0].spi_out;
        world.forget(A, config(A));
        let seen =
            TunnelEndpoints { local: address(A), remote: address(B), encapsulation: Encapsulation::None };
        world.command(A, Command::UnknownSpi { spi, seen });
        world.run(5);
        assert_eq!(world.failures(B), ["PEER_RESTARTED"], "{}", world.report());
        world.assert_empty(B);
        world.ends[B].engine.registry.assert_empty();
    }
}

#[test]
pub(super) fn a_peer_whose_claim_is_answered_too_late_is_not_counted() {
    let mut b = strangers();
    b.half_open_timeout = Duration::from_secs(1);
    let mut world = Sharded::new(1, config(A), b);
    world.initiate(A);
    let claims = |world: &Sharded| {
        let shards = &world.ends[B].engine.shards;
        shards.iter().any(|shard| shard.sas.values().any(|sa| sa.state.name() == "Claiming"))
    };
    world.run_until(5, "B asks", claims);
    world.ends[A].dead = true;
    // Only its timers go on.
    let late = world.now + Duration::from_secs(3);
    for shard in &mut world.ends[B].engine.shards {
        shard.handle_timeout(late);
    }
    world.now = late;
    world.run(5);
    assert!(world.ends[B].engine.status().is_empty());
    world.ends[B].engine.registry.assert_empty();
}
