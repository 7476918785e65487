//! The lab itself: hosts reach each other, captures see what was sent, and nothing is left behind.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_lab::{Capture, Class, Direction, Host, Lab, LabError, LinkOptions, Result, sweep};

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const SOON: Duration = Duration::from_secs(10);

fn pair(lab: &Lab) -> Result<(Host, Host)> {
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    lab.link(&a, "eth0", &b, "eth0")?;
    a.address("eth0", "10.0.0.1/24")?;
    b.address("eth0", "10.0.0.2/24")?;
    Ok((a, b))
}

fn namespace_exists(host: &Host) -> bool {
    Path::new("/run/netns").join(host.netns()).exists()
}

#[test]
fn two_hosts_ping_each_other_over_both_families() {
    let lab = Lab::new("ping").unwrap();
    let (a, b) = pair(&lab).unwrap();
    a.address("eth0", "2001:db8::1/64").unwrap();
    b.address("eth0", "2001:db8::2/64").unwrap();
    assert!(a.ping(B, 3).unwrap().complete());
    assert!(a.ping("2001:db8::2".parse().unwrap(), 3).unwrap().complete());
    assert_eq!(a.ping("10.0.0.9".parse().unwrap(), 1).unwrap().received, 0);
}

#[test]
fn hardware_addresses_are_the_same_every_time() {
    let lab = Lab::new("macs").unwrap();
    let (a, b) = pair(&lab).unwrap();
    assert_eq!(a.mac("eth0").unwrap(), [2, 0, 0, 0, 0, 1]);
    assert_eq!(b.mac("eth0").unwrap(), [2, 0, 0, 0, 0, 2]);
}

#[test]
fn a_link_has_the_mtu_and_queues_asked_for() {
    let lab = Lab::new("shape").unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    lab.link_with(LinkOptions { mtu: 9000, queues: 4 }, &a, "eth0", &b, "eth0").unwrap();
    for host in [&a, &b] {
        let link = host.ip("-d link show eth0").unwrap().stdout;
        assert!(link.contains("mtu 9000") && link.contains("numrxqueues 4"), "{link}");
    }
}

#[test]
fn a_capture_counts_both_directions_and_classes() {
    let lab = Lab::new("capture").unwrap();
    let (a, b) = pair(&lab).unwrap();
    let capture = Capture::start(&b, "eth0", &[]).unwrap();
    assert!(a.ping(B, 5).unwrap().complete());
    let counts = capture.settle().unwrap();
    assert_eq!(counts.of(Class::Clear, Direction::In).packets, 5, "{counts}");
    assert_eq!(counts.of(Class::Clear, Direction::Out).packets, 5, "{counts}");
    assert!(counts.packets(Class::Neighbour) >= 2, "{counts}");
    assert_eq!(counts.lost, 0);
    let requests =
        capture.matching(|frame| frame.headers().is_some_and(|ip| ip.source == A && ip.protocol == 1));
    assert_eq!(requests.len(), 5);

    let file = lab.dir().join("capture.pcap");
    capture.write_pcap(&file).unwrap();
    let read = a.run(["tcpdump", "-n", "-r", file.to_str().unwrap(), "icmp[0] == 8"]).unwrap();
    assert_eq!(read.stdout.lines().count(), 5, "{}", read.stdout);
}

#[test]
fn a_capture_on_a_switch_port_sees_traffic_between_two_others() {
    let lab = Lab::new("switch").unwrap();
    let wire = lab.switch("wire").unwrap();
    let (a, b) = (lab.host("a").unwrap(), lab.host("b").unwrap());
    let port = lab.plug(&wire, &a, "eth0").unwrap();
    lab.plug(&wire, &b, "eth0").unwrap();
    a.address("eth0", "10.0.0.1/24").unwrap();
    b.address("eth0", "10.0.0.2/24").unwrap();
    let capture = wire.capture(&port, &[A, B]).unwrap();
    assert!(a.ping(B, 2).unwrap().complete());
    let counts = capture.settle().unwrap();
    assert_eq!(counts.of(Class::IcmpOuter, Direction::In).packets, 2, "{counts}");
    assert_eq!(counts.of(Class::IcmpOuter, Direction::Out).packets, 2, "{counts}");
    assert_eq!(counts.packets(Class::Clear), 0, "{counts}");
}

#[test]
fn a_socket_made_on_a_host_stays_there() {
    let lab = Lab::new("sockets").unwrap();
    let (a, b) = pair(&lab).unwrap();
    let receiver = b.enter(|| UdpSocket::bind((B, 7)).unwrap()).unwrap();
    receiver.set_read_timeout(Some(SOON)).unwrap();
    let sender = a.enter(|| UdpSocket::bind((A, 0)).unwrap()).unwrap();
    let capture = Capture::start(&b, "eth0", &[]).unwrap();
    sender.send_to(b"needle in the clear", (B, 7)).unwrap();
    let mut data = [0; 64];
    let (length, from) = receiver.recv_from(&mut data).unwrap();
    assert_eq!((&data[..length], from.ip()), (&b"needle in the clear"[..], A));
    let frame = capture.wait_frame("the datagram", SOON, |frame| frame.contains(b"needle")).unwrap();
    assert_eq!((frame.class, frame.direction), (Class::Clear, Direction::In));
}

#[test]
fn a_failed_command_shows_its_error_output() {
    let lab = Lab::new("errors").unwrap();
    let a = lab.host("a").unwrap();
    let error = a.ip("link show nosuch").unwrap_err();
    assert!(matches!(error, LabError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("does not exist"), "{error}");
    assert!(matches!(a.run(["/nonexistent/program"]).unwrap_err(), LabError::Io { .. }));
}

#[test]
fn a_line_is_awaited_and_a_process_that_ends_without_it_is_told() {
    let lab = Lab::new("lines").unwrap();
    let a = lab.host("a").unwrap();
    let mut cat = a.spawn_words(["cat"]).unwrap();
    cat.write_line("first").unwrap();
    cat.wait_line("first", SOON).unwrap();
    let mark = cat.mark();
    cat.write_line("second first").unwrap();
    assert_eq!(cat.wait_line_from(mark, "first", SOON).unwrap().0, "second first");
    assert!(matches!(cat.wait_line("third", Duration::ZERO), Err(LabError::Timeout { .. })));
    cat.close_stdin();
    assert!(cat.wait_exit(SOON).unwrap().success());
    assert!(matches!(cat.wait_line("third", SOON), Err(LabError::Ended { .. })));
}

#[test]
fn dropping_a_lab_removes_namespaces_processes_pins_and_files() {
    let lab = Lab::new("gone").unwrap();
    let (a, _b) = pair(&lab).unwrap();
    let dir = lab.dir().to_owned();
    std::fs::create_dir(a.pin_dir()).unwrap();
    let orphan = a.spawn_words(["sleep", "1000"]).unwrap();
    let pid = Path::new("/proc").join(orphan.pid().to_string());
    // A handle that is never dropped: the namespace must still lose its process.
    std::mem::forget(orphan);
    assert!(namespace_exists(&a) && dir.exists() && pid.join("cwd").exists());
    let pins = a.pin_dir().to_owned();
    drop(lab);
    assert!(!namespace_exists(&a) && !dir.exists() && !pins.exists());
    let state = std::fs::read_to_string(pid.join("status")).unwrap_or_default();
    assert!(state.is_empty() || state.contains("(zombie)") || state.contains("(dead)"), "{state}");
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let outcome = std::panic::catch_unwind(|| {
        let lab = Lab::new("panic").unwrap();
        let (a, _b) = pair(&lab).unwrap();
        let sleeper = a.spawn_words(["sleep", "1000"]).unwrap();
        std::panic::panic_any((a.clone(), lab.dir().to_owned(), sleeper.pid()));
    });
    let (a, dir, pid) = *outcome.unwrap_err().downcast::<(Host, std::path::PathBuf, u32)>().unwrap();
    assert!(!namespace_exists(&a) && !dir.exists());
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
}

#[test]
fn what_a_killed_owner_left_is_swept_and_what_a_living_one_has_is_not() {
    let mut owner = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let netns = format!("plab-{}-0-dead-a", owner.id());
    let path = Path::new("/run/netns").join(&netns);
    assert!(Command::new("ip").args(["netns", "add", &netns]).status().unwrap().success());
    sweep();
    assert!(path.exists(), "the owner lives");
    owner.kill().unwrap();
    owner.wait().unwrap();
    sweep();
    assert!(!path.exists(), "the owner is dead");
}
