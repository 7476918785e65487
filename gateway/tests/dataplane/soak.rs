//! Everything at once, for a while: interfaces that go down and away, workers that panic, SAs replaced a thousand times a
//! minute, and somebody on the wire who means harm. At the end every packet and every frame is accounted for, nothing has
//! been in clear, and the process is as large as before.
//!
//! `./dev soak SECONDS` runs it for longer than `./dev test` does.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis_gateway::dataplane::DataplaneConfig;
use portcullis_gateway::worker::Fault;
use portcullis_ipsec::{Encapsulation, Spi};
use portcullis_lab::{Capture, Chatter, Class, Direction, Host, LinkOptions, Sites};

use crate::forwarding::nothing_in_clear;
use crate::gateway::{A, B, Gateway, config, in_flight, until};
use crate::interfaces::{carries, plug_inside, plug_outside};

const SOON: Duration = Duration::from_secs(30);
/// How long, unless PORTCULLIS_SOAK_SECONDS says otherwise.
const SHORT: u64 = 20;
/// From one replacement of the SAs to the next: 1,000 a minute.
const REKEY_EVERY: Duration = Duration::from_millis(60);
/// Datagrams of a flow between two misfortunes.
const MISFORTUNE_EVERY: u64 = 50;
/// Octets that the process may grow by: allocators keep some, captures up to 2000 frames of a kind.
const GROWTH: u64 = 48 << 20;

#[test]
fn nothing_leaks_while_everything_fails_at_once() {
    // The memory of other tests is nothing that this one could tell apart from its own.
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["--ignored", "--exact", "soak::everything_fails_at_once", "--nocapture"]);
    assert!(alone.status().unwrap().success());
}

#[test]
#[ignore = "is run by the test before, in a process of its own"]
fn everything_fails_at_once() {
    let seconds = std::env::var("PORTCULLIS_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let length = Duration::from_secs(seconds.unwrap_or(SHORT));
    let links = LinkOptions { queues: 2, ..LinkOptions::default() };
    let sites = Sites::with("soak", links).unwrap();
    let two = |host, networks| DataplaneConfig { workers: vec![0, 1], ..config(host, networks) };
    let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, two(&sites.a, A));
    let b = Gateway::start(&sites.b, Sites::B_OUTSIDE, two(&sites.b, B));
    let mallory = sites.lab.host("mallory").unwrap();
    sites.lab.plug(&sites.wire, &mallory, "eth0").unwrap();
    let wire = sites.wire.capture(&sites.port_b, &[Sites::A_OUTSIDE, Sites::B_OUTSIDE]).unwrap();
    let first = a.connect(&b, Encapsulation::None);
    carries(&sites, &a);
    let flows = [
        Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 8).unwrap(),
        Chatter::start(&sites.client, Sites::CLIENT_V6, Sites::SERVER_V6, 8).unwrap(),
        Chatter::start(&sites.server, Sites::SERVER, Sites::CLIENT, 8).unwrap(),
    ];

    let (start, done) = (Instant::now(), AtomicBool::new(false));
    let (rekeys, spi) = (AtomicU64::new(0), AtomicU32::new(first.0.get()));
    let (mut misfortunes, mut panics, mut size) = (0, 0, None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pairs = vec![first];
            while !done.load(Ordering::Relaxed) {
                pairs.push(a.connect(&b, Encapsulation::None));
                spi.store(pairs.last().unwrap().0.get(), Ordering::Relaxed);
                retire(&a, &b, &mut pairs);
                let made = rekeys.fetch_add(1, Ordering::Relaxed) + 1;
                // A pace, not a wait for anything.
                std::thread::sleep(
                    (start + REKEY_EVERY * made as u32).saturating_duration_since(Instant::now()),
                );
            }
        });
        scope.spawn(|| {
            for seed in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                harm(&mallory, &sites.a, &wire, spi.load(Ordering::Relaxed), seed);
            }
        });
        while start.elapsed() < length {
            flows[2].wait_more(MISFORTUNE_EVERY, SOON).unwrap();
            panics += misfortune(&sites, links, [&a, &b], misfortunes);
            misfortunes += 1;
            if start.elapsed() > length / 4 {
                size.get_or_insert_with(resident);
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    let rekeys = rekeys.into_inner();
    carries(&sites, &a);
    let (before, after) = (size.unwrap(), resident());
    drop(flows);
    println!("{rekeys} rekeys, {misfortunes} misfortunes, {panics} panics, {before} and then {after} octets");
    assert!(after < before + GROWTH, "{before} octets have become {after}");

    nothing_in_clear(&wire);
    // SAs come and go so quickly that it may be any of these.
    let refused =
        ["integrity_failed", "replayed", "replay_too_old", "unknown_spi"].map(|reason| a.drops(reason));
    let restarts =
        |gateway: &Gateway| gateway.stats().workers.iter().map(|worker| worker.restarts).sum::<u64>();
    let restarts = restarts(&a) + restarts(&b);
    println!("{restarts} restarts, {refused:?} of the forger's packets refused");
    assert!(refused.iter().sum::<u64>() > 0, "nobody did any harm");
    // A fault waits for packets, and for a worker that pauses after the last one; the next may take its place.
    assert!((4..=panics).contains(&restarts), "{restarts} restarts, {panics} faults");
    for gateway in [a, b] {
        until("what came has gone somewhere", || in_flight(&gateway.stats()) == 0);
        gateway.every_frame_has_an_owner();
        gateway.dataplane.stop().unwrap();
    }
}

/// Removes all but the last two pairs of SAs: what is under way on the one before is still welcome.
fn retire(a: &Gateway, b: &Gateway, pairs: &mut Vec<(Spi, Spi)>) {
    for (of_a, of_b) in pairs.drain(..pairs.len().saturating_sub(2)) {
        a.installer().remove(of_a).unwrap();
        b.installer().remove(of_b).unwrap();
    }
}

/// Sends gateway `a` what it must not take: again what it had, a packet of a live SA that is forged, and noise.
fn harm(mallory: &Host, a: &Host, wire: &Capture, spi: u32, seed: u64) {
    let Ok(mac) = a.mac("outside0") else { return };
    let heard = wire.matching(|frame| frame.class == Class::Esp && frame.direction == Direction::In);
    let again = heard.iter().rev().take(16).map(|frame| frame.bytes.clone());
    let forged = heard.last().map(|frame| {
        let mut bytes = frame.bytes.clone();
        bytes[34..38].copy_from_slice(&spi.to_be_bytes());
        bytes[38..42].copy_from_slice(&(1 << 20 | seed as u32).to_be_bytes());
        bytes
    });
    let noise = heard.last().map(|frame| {
        let mut bytes = frame.bytes.clone();
        bytes[34..]
            .iter_mut()
            .zip(seed..)
            .for_each(|(octet, n)| *octet = (n.wrapping_mul(0x9e37_79b9) >> 11) as u8);
        bytes
    });
    for mut frame in again.chain(forged).chain(noise) {
        frame[..6].copy_from_slice(&mac);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x66]);
        // It may be away just now.
        let _ = mallory.send_frame("eth0", &frame);
    }
}

/// Has something go wrong; how many workers panic by it.
fn misfortune(sites: &Sites, links: LinkOptions, [a, b]: [&Gateway; 2], number: u64) -> u64 {
    match number % 6 {
        0 => {
            sites.a.ip("link set outside0 down").unwrap();
            sites.a.ip("link set outside0 up").unwrap();
            sites.a.route("default", "192.0.2.2").unwrap();
            sites.a.address("outside0", "2001:db8:f::1/64").unwrap();
            sites.a.route("default", "2001:db8:f::2").unwrap();
            0
        }
        1 => {
            a.dataplane.inject(0, Fault::PanicBefore);
            1
        }
        2 => {
            sites.a.ip("link del outside0").unwrap();
            plug_outside(sites, links);
            0
        }
        3 => {
            b.dataplane.inject(1, Fault::PanicAfter);
            1
        }
        4 => {
            sites.a.ip("link del inside0").unwrap();
            plug_inside(sites, links);
            0
        }
        _ => {
            for worker in [0, 1] {
                a.dataplane.inject(worker, Fault::PanicAfter);
            }
            2
        }
    }
}

/// Octets of this process in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
