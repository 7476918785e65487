//! NULL authentication (RFC 7619). That another implementation computes AUTH as we do is shown in `e2e_null`.

use std::net::IpAddr;

use super::addresses::with_pools;
use super::world::*;
use crate::auth::Proven;
use crate::config::*;
use crate::engine::*;

fn nobody() -> (LocalAuth, RemoteAuth) {
    (
        LocalAuth { auth: LocalMethod::Null, id: None },
        RemoteAuth { auth: RemoteMethod::Null, id: IdentityMatch::Any },
    )
}

/// A proves nothing to B, which has a key; the child is between both hosts.
fn ends() -> (EngineConfig, EngineConfig) {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].local = vec![nobody().0];
    b.connections[0].remote = vec![nobody().1];
    // The key is for whoever asks.
    a.shared_keys[0].ids.clear();
    b.shared_keys[0].ids.clear();
    a.connections[0].children[0].local_ts = vec![None];
    b.connections[0].children[0].remote_ts = vec![None];
    (a, b)
}

/// B lets anybody in from anywhere, besides.
fn with_another(mut b: EngineConfig, change: impl Fn(&mut ConnectionConfig)) -> EngineConfig {
    let mut another = config(B).connections.remove(0);
    another.name = "another".to_owned();
    change(&mut another);
    b.connections.push(another);
    b
}

fn fails(a: EngineConfig, b: EngineConfig) -> Vec<&'static str> {
    let mut world = World::new(1, a, b);
    let command = world.initiate(A);
    world.run_until(300, "the command ends", |world| world.ends[A].done.contains_key(&command));
    assert!(world.ends[A].done[&command].is_err());
    world.run(200);
    world.failures(B)
}

#[test]
fn either_end_or_both_may_prove_nothing() {
    let (one, other) = ends();
    let (mut both, mut there) = ends();
    both.connections[0].remote = vec![nobody().1];
    both.connections[0].children[0].remote_ts = vec![None];
    there.connections[0].local = vec![nobody().0];
    there.connections[0].children[0].local_ts = vec![None];
    for (a, b, proven) in [(one, other, Proven::Psk), (both, there, Proven::Null)] {
        let mut world = World::new(1, a, b).established();
        world.assert_agreement();
        let (ours, theirs) = (world.ends[A].engine.status(), world.ends[B].engine.status());
        assert_eq!(ours[0].proven, Some(proven));
        assert_eq!((&theirs[0].proven, &theirs[0].remote_id), (&Some(Proven::Null), &Some(Identity::Null)));
        world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
        world.run(20);
        world.assert_agreement();
        assert_eq!(world.ends[B].engine.status()[0].remote_id, Some(Identity::Null));
    }
}

#[test]
fn who_has_to_prove_himself_is_not_let_in_without() {
    let (a, mut b) = ends();
    b.connections = config(B).connections;
    assert_eq!(fails(a, b), ["ID_UNEXPECTED"]);
    // Whatever he says that he is, even where anybody with the key may come.
    let (a, mut b) = ends();
    b.connections[0].remote = vec![RemoteAuth { auth: RemoteMethod::Psk, id: IdentityMatch::Any }];
    assert_eq!(fails(a, b), ["ID_UNEXPECTED"]);
}

#[test]
fn nobody_with_a_key_is_nobody_still() {
    let (mut a, mut b) = ends();
    a.connections[0].local = vec![LocalAuth { auth: LocalMethod::Psk, id: Some(Identity::Null) }];
    b.connections[0].remote = vec![RemoteAuth { auth: RemoteMethod::Psk, id: IdentityMatch::Any }];
    assert_eq!(fails(a, b), ["ID_UNEXPECTED"]);
}

#[test]
fn whoever_comes_from_where_somebody_is_expected_has_to_be_him() {
    let (a, mut b) = ends();
    b.connections[0].remote_addrs.clear();
    let expected = with_another(b.clone(), |_| ());
    assert!(!fails(a.clone(), expected).is_empty());
    // Elsewhere than where he is expected, anybody may come.
    let away: IpAddr = "198.51.100.9".parse().unwrap();
    let b = with_another(b, |another| another.remote_addrs = vec![AddressMatch::Address(away)]);
    World::new(1, a, b).established().assert_agreement();
}

#[test]
fn traffic_of_a_peer_that_proves_itself_is_not_for_others() {
    let (a, mut b) = ends();
    b.connections[0].remote_addrs.clear();
    let of_another = |network: &str| {
        with_another(b.clone(), |another| {
            another.remote_addrs = vec![AddressMatch::Address("198.51.100.9".parse().unwrap())];
            another.children[0].remote_ts = vec![ts(network)];
        })
    };
    let mut world = World::new(1, a.clone(), of_another("192.0.2.0/24"));
    world.initiate(A);
    world.run(30);
    assert_eq!(world.failures(B), ["UNAUTHENTICATED_REFUSED"]);
    World::new(1, a, of_another("192.0.3.0/24")).established().assert_agreement();
}

#[test]
fn there_are_no_more_of_them_than_may_be() {
    let (a, mut b) = ends();
    b.unauthenticated_limit = 0;
    assert_eq!(fails(a, b), ["UNAUTHENTICATED_REFUSED"]);
}

#[test]
fn two_of_them_are_not_one_whatever_they_say() {
    let (mut a, mut b) = ends();
    a.connections[0].children[0].remote_ts = vec![ts("10.2.0.0/16"), ts("2001:db8:2::/64")];
    a.connections[0].vips = vec!["0.0.0.0".parse().unwrap()];
    b.connections[0].pools = vec!["ra".to_owned()];
    b.connections[0].unique = Unique::Replace;
    let mut world = with_pools(World::new(1, a.clone(), b)).established();
    // The second comes as the first would after a restart, and says INITIAL_CONTACT as nobody must.
    world.forget(A, a);
    world.initiate(A);
    world.run(20);
    let there = world.ends[B].engine.status();
    let vips: Vec<_> = there.iter().flat_map(|ike| ike.remote_vips.clone()).collect();
    assert_eq!((there.len(), vips.len()), (2, 2));
    assert_ne!(vips[0], vips[1]);
}
