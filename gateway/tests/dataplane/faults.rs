//! Workers that fail: one that panics goes on alone, one that stalls takes the process with it. Either way nothing leaves in
//! clear, no sequence number is used twice, no frame is lost.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use portcullis_gateway::dataplane::{Dataplane, DataplaneConfig};
use portcullis_gateway::worker::Fault;
use portcullis_ipsec::Encapsulation;
use portcullis_lab::{Chatter, Class, Direction, LinkOptions, Sites};

use crate::forwarding::nothing_in_clear;
use crate::gateway::{A, B, Gateway, config, config_at, in_flight, until};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_worker_that_panics_loses_its_packets_and_nothing_else() {
    let sites = Sites::with("panic", LinkOptions { queues: 2, ..LinkOptions::default() }).unwrap();
    let two = |host, networks| DataplaneConfig { workers: vec![0, 1], ..config(host, networks) };
    let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, two(&sites.a, A));
    let b = Gateway::start(&sites.b, Sites::B_OUTSIDE, two(&sites.b, B));
    a.connect(&b, Encapsulation::None);
    let wire = sites.capture().unwrap();
    let flows = [
        Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 16).unwrap(),
        Chatter::start(&sites.client, Sites::CLIENT_V6, Sites::SERVER_V6, 16).unwrap(),
    ];
    for round in 1..=4 {
        for worker in [0, 1] {
            a.dataplane.inject(worker, if round % 2 == 1 { Fault::PanicBefore } else { Fault::PanicAfter });
            until("the worker is back", || a.stats().workers[worker].restarts == round);
            let before = a.stats().workers[worker].received;
            until("and works", || a.stats().workers[worker].received > before + 20);
        }
    }
    assert!(a.drops("worker_panic") >= 8);
    assert_eq!(a.stats().workers.iter().map(|worker| worker.restarts).collect::<Vec<_>>(), [4, 4]);
    let at_b = b.stats().workers.iter().map(|worker| worker.opened).sum::<u64>();
    until("packets pass", || b.stats().workers.iter().map(|worker| worker.opened).sum::<u64>() > at_b + 100);
    drop(flows);
    nothing_in_clear(&wire);
    let sent = wire.matching(|frame| frame.class == Class::Esp && frame.direction == Direction::In);
    let numbers: Vec<u32> = sent.iter().filter_map(|frame| Some(frame.headers()?.esp()?.1)).collect();
    assert!(numbers.len() > 100 && numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    for gateway in [a, b] {
        assert_eq!(gateway.drops("replayed") + gateway.drops("integrity_failed"), 0);
        gateway.every_frame_has_an_owner();
        until("what came has gone somewhere", || in_flight(&gateway.stats()) == 0);
        // Counts frames once more, where they really are.
        gateway.dataplane.stop().unwrap();
    }
}

/// Where the gateway of the child process is pinned.
const PIN_DIR: &str = "PORTCULLIS_TEST_PIN_DIR";

#[test]
fn a_worker_that_stalls_ends_the_process_and_what_it_protected_stays_blocked() {
    let sites = Sites::new("stall").unwrap();
    let wire = sites.capture().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "faults::a_gateway_that_stalls", "--nocapture"]);
    let mut process = sites.a.spawn({
        command.env(PIN_DIR, sites.a.pin_dir());
        command
    });
    let process = process.as_mut().unwrap();
    let ended = process.wait_exit(2 * SOON).unwrap();
    assert_eq!(ended.signal(), Some(Signal::SIGABRT as i32), "{}", process.tail());
    let flows = [
        Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 1).unwrap(),
        Chatter::start(&sites.a, Sites::A_INSIDE, Sites::SERVER, 1).unwrap(),
    ];
    for flow in &flows {
        flow.wait_more(100, SOON).unwrap();
    }
    let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, config(&sites.a, A));
    let b = Gateway::start(&sites.b, Sites::B_OUTSIDE, config(&sites.b, B));
    a.connect(&b, Encapsulation::None);
    wire.wait_until("ESP", SOON, |counts| counts.esp(Direction::In) > 20).unwrap();
    nothing_in_clear(&wire);
}

#[test]
#[ignore = "is run by the test before, in a process of its own"]
fn a_gateway_that_stalls() {
    let Some(pin_dir) = std::env::var_os(PIN_DIR).map(PathBuf::from) else { return };
    let config = DataplaneConfig { stall: Duration::from_millis(500), ..config_at(&pin_dir, A) };
    let (dataplane, _) = Dataplane::start(config).unwrap();
    dataplane.inject(0, Fault::Stall);
    // The host's own packet for the other site comes to the worker.
    let socket = std::net::UdpSocket::bind((Sites::A_INSIDE, 0)).unwrap();
    loop {
        let _ = socket.send_to(b"anything", (Sites::SERVER, 9));
        std::thread::sleep(Duration::from_millis(10));
    }
}
