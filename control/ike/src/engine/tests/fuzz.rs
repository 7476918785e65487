//! Fuzz targets of the codec and of the engine (`fuzz/src/lib.rs` says how they run). The engine is fuzzed from behind the
//! ICV: of two engines in the simulation one is a peer gone mad, whose payloads are spoilt before they are sealed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use portcullis_fuzz::{Script, Target};

use super::additional::{HYBRID, proposing};
use super::certificates::Pki;
use super::node::Node;
use super::world::*;
use super::{addresses, eap, ppk};
use crate::auth::eap::ServerMethod;
use crate::config::AddressMatch;
use crate::crypto::{AesKey, DirectionKeys, IkeEncr, Protection};
use crate::engine::*;
use crate::message::tests::is_lossy;
use crate::message::{Encrypted, Received, Sealing, open, spoilt::Spoiling};

fn captured() -> impl Iterator<Item = Vec<u8>> {
    let lines =
        include_str!("../../../tests/data/captures.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| data_encoding::HEXLOWER.decode(line.split(' ').nth(2).unwrap().as_bytes()).unwrap())
}

#[test]
fn fuzz_ike_message() {
    Target::new("ike-message").seeds(captured()).run(|octets| {
        let Ok(Received { message, encrypted }) = Message::parse(octets) else { return };
        if encrypted.is_none() && !message.payloads.iter().any(is_lossy) {
            assert_eq!(Message::parse(&message.emit()).unwrap().message.payloads, message.payloads);
        }
    });
}

/// The payloads of a negotiation as they are before they are sealed, behind the type of the first.
fn sealed_by(setup: u8) -> Vec<Vec<u8>> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let seeing = seen.clone();
    let _spoiling = Spoiling::by(move |_, first, content| {
        seeing.borrow_mut().push([&[*first], content.as_slice()].concat())
    });
    let mut world = world(setup, 0).established();
    world.command(A, deed(1, &world, A).unwrap());
    world.run(5);
    seen.take()
}

#[test]
fn fuzz_ike_payloads() {
    let protection = Protection::new(IkeEncr::AesGcm16(AesKey::Aes128), None).unwrap();
    let keys = DirectionKeys { sk_e: &[7; 20], sk_a: &[] };
    Target::new("ike-payloads").seeds((0..SETUPS).flat_map(sealed_by)).run(|input| {
        let Some((first, content)) = input.split_first() else { return };
        let aad = vec![9; 32];
        let body = protection.seal(keys, 3, &aad, content).unwrap();
        let encrypted = Encrypted { first_payload: *first, fragment: None, aad, body };
        let _ = open(&encrypted, Sealing { protection, keys });
    });
}

pub(super) const SETUPS: u8 = 7;

static PKI: LazyLock<Pki> = LazyLock::new(Pki::new);

/// Two ends that fit each other, of several kinds.
pub(super) fn world(setup: u8, seed: u8) -> World {
    world_of(setup, seed)
}

/// The same of others.
pub(super) fn world_of<N: Node>(setup: u8, seed: u8) -> WorldOf<N> {
    let (mut a, mut b) = match (setup & 0x3f) % SETUPS {
        0 => (config(A), config(B)),
        1 => (PKI.config(A), PKI.config(B)),
        2 => {
            let [a, b] = eap::configs(ServerMethod::MsChapV2, true);
            (a, b)
        }
        3 => (proposing(A, &[HYBRID]), proposing(B, &[HYBRID])),
        4 => addresses::ends(),
        5 => {
            let [mut a, b] = eap::configs(ServerMethod::Aaa, true);
            a.connections[0].local_addrs = vec![AddressMatch::Any];
            (a, b)
        }
        _ => {
            let secret = Some(ppk::SECRET);
            (ppk::with(A, Some("one"), true, secret), ppk::with(B, None, false, secret))
        }
    };
    for config in [&mut a, &mut b] {
        config.connections[0].dpd_delay = Duration::from_secs(120);
        if setup & 0x40 != 0 {
            config.fragment_size = 576;
        }
        if setup & 0x80 != 0 {
            config.connections[0].children[0].esp_proposals = vec!["aes256gcm16-x25519-esn".parse().unwrap()];
        }
    }
    let mut world = addresses::with_pools(WorldOf::new(seed.into(), a, b));
    world.ends[B].gateway.aaa.users = eap::user("carol", "violets");
    world
}

/// What an end does when nothing else is going on; `None`: it lets time pass.
pub(super) fn deed(number: u8, world: &World, end: usize) -> Option<Command> {
    let (connection, child) = ("net".to_owned(), Some("lan".to_owned()));
    let status = world.ends[end].engine.status();
    let pair = status.into_iter().flat_map(|sa| sa.children).map(|child| child.spi_in).next();
    Some(match (number % 9, pair) {
        (1, _) => Command::Rekey { connection, child },
        (2, _) => Command::Rekey { connection, child: None },
        (3, _) => Command::Reauthenticate { connection },
        (4, Some(pair)) => Command::SoftLimit { pair },
        (5, Some(pair)) => Command::HardLimit { pair },
        (6, _) => Command::Terminate { connection, child },
        (7, _) => Command::Terminate { connection, child: None },
        (8, _) => Command::Initiate { connection, child },
        _ => return None,
    })
}

/// The setup, a seed, who is mad (1: whoever began the IKE SA, 2: the other, 3: both), the number of deeds, the deeds (the highest bit: of B), and then
/// what becomes of each message.
fn script(setup: u8, mad: u8, deeds: &[u8], spoils: &[u8]) -> Vec<u8> {
    [&[setup, 7, mad, deeds.len() as u8], deeds, spoils].concat()
}

fn scripts() -> Vec<Vec<u8>> {
    let calm = (0..SETUPS).flat_map(|setup| {
        [[1, 2, 0, 0x82, 0x81, 7].as_slice(), &[3, 4, 0x85, 6, 8, 0x87]]
            .map(|deeds| script(setup | (setup % 4) << 6, 3, deeds, &[]))
    });
    // One bit changed in each of the first messages.
    let spoilt = (0..8).map(|at| {
        let mut spoils = vec![0; at];
        spoils.extend([1, 0, 20 + 7 * at as u8, 1]);
        script(at as u8, 1 + at as u8 % 2, &[1, 2, 0x81], &spoils)
    });
    calm.chain(spoilt).collect()
}

/// However mad one end is, none panics, each has in its data plane what it knows of, and nothing is left in the end.
pub(super) fn converse(input: &[u8]) {
    let mut script = Script::new(input);
    let (setup, seed, mad, deeds) = (script.octet(), script.octet(), script.octet(), script.octet());
    let deeds = script.octets((deeds % 12).into());
    let script = Rc::new(RefCell::new(script));
    let mut world = world(setup, seed);

    let is_mad = move |header: &Header| mad & if header.initiator { 1 } else { 2 } != 0;
    let spoils = script.clone();
    let spoiling = Spoiling::by(move |header, first, content| {
        let mut script = spoils.borrow_mut();
        if is_mad(header) && script.spoil(content) && content.len().is_multiple_of(8) {
            *first = first.wrapping_add(script.octet());
        }
    });
    world.meddle = Some(Box::new(move |_, mut datagram| {
        if let DatagramPayload::Ike(octets) = &mut datagram.payload
            && Header::parse(octets)
                .is_ok_and(|(header, ..)| header.exchange == ExchangeType::IkeSaInit && is_mad(&header))
        {
            script.borrow_mut().spoil(octets);
        }
        Some(datagram)
    }));

    world.initiate(A);
    world.run(5);
    for number in deeds {
        let end = usize::from(number >> 7);
        match deed(number & 0x7f, &world, end) {
            Some(command) => _ = world.command(end, command),
            None => world.run(120),
        }
        world.run(5);
        for end in [A, B] {
            world.ends[end].engine.assert_consistent();
        }
    }
    drop(spoiling);
    world.meddle = None;
    world.terminate(A);
    world.terminate(B);
    world.run(900);
    for end in [A, B] {
        world.assert_empty(end);
        assert_eq!(world.ends[end].engine.poll_timeout(), None, "{}", world.report());
    }
}

#[test]
fn fuzz_ike_engine() {
    Target::new("ike-engine").seeds(scripts()).run(converse);
}
