//! The bench's own measure: through a gateway that is in no hurry every packet arrives, once and in order, and one that
//! does not is missed. And the program itself: between interfaces that an operator names, and when it is told to end.
//! Needs root.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portcullis_bench::forward::{Look, Mode, send};
use portcullis_lab::Lab;

const BENCH: &str = env!("CARGO_BIN_EXE_portcullis-bench");

/// Packets, and how many in a second: far fewer than any gateway takes.
const PACKETS: u64 = 600;
const RATE: f64 = 3000.0;

/// All modes, looked at both ways.
fn every_way() -> impl Iterator<Item = (Mode, Look)> {
    Mode::ALL.into_iter().flat_map(|mode| [(mode, Look::Closely), (mode, Look::Counting)])
}

#[test]
fn every_packet_arrives_in_order_in_every_mode() {
    for (mode, look) in every_way() {
        let counts = send(mode, PACKETS, RATE, None, look).unwrap();
        assert_eq!((counts.sent, counts.received), (PACKETS, PACKETS), "{mode:?} {look:?} {counts:?}");
        assert_eq!((counts.reordered, counts.broken), (0, 0), "{mode:?} {look:?} {counts:?}");
        assert_eq!(counts.drops, BTreeMap::new(), "{mode:?} {look:?}");
    }
}

#[test]
fn a_packet_that_the_gateway_drops_is_counted_as_lost() {
    for (mode, look) in every_way() {
        let counts = send(mode, PACKETS, RATE, Some(PACKETS / 2), look).unwrap();
        assert_eq!((counts.sent, counts.received), (PACKETS, PACKETS - 1), "{mode:?} {look:?} {counts:?}");
        assert_eq!((counts.reordered, counts.broken), (0, 0), "{mode:?} {look:?} {counts:?}");
        assert_eq!(counts.drops, BTreeMap::from([("ttl_expired".to_owned(), 1)]), "{mode:?} {look:?}");
    }
}

#[test]
fn between_two_interfaces_of_an_operators_the_kernels_forwarding_is_measured() {
    let lab = Lab::new("elsewhere").unwrap();
    let (ends, gateway) = (lab.host("ends").unwrap(), lab.host("gateway").unwrap());
    lab.link(&ends, "nic0", &gateway, "inside0").unwrap();
    lab.link(&ends, "nic1", &gateway, "outside0").unwrap();
    gateway.address("inside0", "10.1.0.1/16").unwrap();
    gateway.address("outside0", "192.0.2.1/24").unwrap();
    gateway.forward().unwrap();
    gateway.route("10.128.0.0/9", "192.0.2.2").unwrap();
    let mac = |host: &portcullis_lab::Host, interface| {
        host.mac(interface).unwrap().map(|octet| format!("{octet:02x}")).join(":")
    };
    let beyond = mac(&ends, "nic1");
    gateway.ip(&format!("neigh replace 192.0.2.2 lladdr {beyond} dev outside0 nud permanent")).unwrap();
    let inside = mac(&gateway, "inside0");
    let run = |only: &str| {
        let options = ["--rounds", "1", "--trial", "20", "--loss-tolerance", "50", "--quick", "--json"];
        let interfaces = ["--tx-if", "nic0", "--rx-if", "nic1", "--gateway-mac", &inside];
        let words = [BENCH, "forward"].into_iter().chain(interfaces).chain(options);
        let output = ends.run(words.chain(["--only", only])).unwrap();
        let rows = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
        rows.collect::<Vec<serde_json::Value>>()
    };
    let rows = run("plain/64");
    let rate = rows.iter().find(|row| row["unit"] == "packets_per_second").unwrap();
    assert_eq!((&rate["case"], &rate["impl"]), (&"plain/64/1sa".into(), &"elsewhere".into()));
    assert!(rate["median"].as_f64().unwrap() > 1000.0, "{rows:?}");
    // It opens no ESP, and that is said, not left out.
    let rows = run("decrypt/64");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["absent"], "nothing comes through", "{rows:?}");
}

#[test]
fn told_to_end_it_leaves_nothing_behind() {
    let mut bench = Command::new(BENCH);
    bench.args(["forward", "--only", "plain/64/1sa", "--rounds", "1000"]);
    let mut bench = bench.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mine = format!("plab-{}-", bench.id());
    let left = || {
        let of = |parent| fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path());
        let all = ["/run/netns", "/sys/fs/bpf", "/tmp"].into_iter().flat_map(of);
        all.filter(|path| path.to_string_lossy().contains(&mine)).collect::<Vec<_>>()
    };
    let mut said = BufReader::new(bench.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.any(|line| line.contains("installed")));
    assert!(left().len() > 3, "namespaces, pins and directories: {:?}", left());
    kill(Pid::from_raw(bench.id().cast_signed()), Signal::SIGTERM).unwrap();
    let status = bench.wait().unwrap();
    assert_eq!((status.code(), left()), (Some(128 + 15), Vec::new()));
}
