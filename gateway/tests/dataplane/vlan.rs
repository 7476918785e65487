//! VLAN devices on the interfaces of a gateway. The peer behind one is the kernel's own ESP, the client behind the other a
//! kernel too. Where this machine's kernel has no VLANs, all of it happens in one that has, in a virtual machine.

use std::io::Write as _;
use std::net::IpAddr;

use portcullis_ipsec::{Encapsulation, EspAlgorithm, Spi};
use portcullis_lab::{Host, Lab, Linux};

use crate::gateway::{Gateway, config, in_flight, until};
use crate::linux::Way;

const GATEWAY: &str = "192.0.2.1";
const PEER: &str = "192.0.2.2";
const SERVER: &str = "10.2.0.10";
/// The client in its VLAN, and on the same wire in none.
const CLIENT: &str = "10.1.0.10";
const UNTAGGED_CLIENT: &str = "10.1.1.10";
const CLIENT_V6: &str = "2001:db8:1::10";
const SERVER_V6: &str = "2001:db8:2::10";
const LOCAL: &[&str] = &["10.1.0.0/16", "2001:db8:1::/64"];
const REMOTE: &[&str] = &["10.2.0.0/24", "2001:db8:2::/64"];

#[test]
fn what_comes_in_by_a_vlan_device_is_sealed_and_leaves_by_another_without_the_kernel() {
    let lab = Lab::new("vlan").unwrap();
    let probe = lab.host("probe").unwrap();
    probe.ip("link add veth0 type veth peer name veth1").unwrap();
    if probe.ip("link add link veth0 name veth0.1 type vlan id 1").is_ok() {
        return serve_vlan_devices(&lab);
    }
    if let Some(reason) = Linux::missing() {
        // Not by `eprintln!`, which the test harness keeps to itself.
        let _unsaid = writeln!(std::io::stderr(), "SKIPPED: VLAN devices were not tried: {reason}");
        return;
    }
    let mut linux = Linux::boot_with_tests(&lab.switch("wire").unwrap()).unwrap();
    let name = "vlan::what_comes_in_by_a_vlan_device_is_sealed_and_leaves_by_another_without_the_kernel";
    let output = linux.run_test(name).unwrap();
    assert!(output.contains("1 passed") && !output.contains("SKIPPED"), "{output}");
}

/// A VLAN device with a hardware address of its own: what comes without a tag is not for it, nor for the interface below.
fn add_vlan(host: &Host, below: &str, id: u16, mac: &str, addresses: &[&str]) {
    let name = format!("{below}.{id}");
    // The tag goes into the packet, where an XDP program sees it as it does with real cards that leave tags alone.
    host.run(["ethtool", "-K", below, "txvlan", "off"]).unwrap();
    host.ip(&format!("link add link {below} name {name} address {mac} type vlan id {id}")).unwrap();
    host.ip(&format!("link set {name} up")).unwrap();
    addresses.iter().for_each(|address| host.address(&name, address).unwrap());
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn serve_vlan_devices(lab: &Lab) {
    let host = |name| lab.host(name).unwrap();
    let (gateway, peer, client) = (host("gateway"), host("peer"), host("client"));
    lab.link(&gateway, "outside0", &peer, "eth0").unwrap();
    lab.link(&gateway, "inside0", &client, "eth0").unwrap();
    add_vlan(&gateway, "outside0", 7, "02:00:00:00:07:01", &["192.0.2.1/24"]);
    add_vlan(&gateway, "inside0", 42, "02:00:00:00:2a:01", &["10.1.0.1/24", "2001:db8:1::1/64"]);
    add_vlan(&peer, "eth0", 7, "02:00:00:00:07:02", &["192.0.2.2/24"]);
    add_vlan(&client, "eth0", 42, "02:00:00:00:2a:02", &["10.1.0.10/24", "2001:db8:1::10/64"]);
    gateway.address("inside0", "10.1.1.1/24").unwrap();
    client.address("eth0", "10.1.1.10/24").unwrap();
    client.ip("addr add 10.1.1.10/32 dev lo").unwrap();
    peer.address("lo", "10.2.0.10/32").unwrap();
    peer.address("lo", "2001:db8:2::10/128").unwrap();
    gateway.route("10.2.0.0/24", PEER).unwrap();
    gateway.ip("-6 route add 2001:db8:2::/64 dev outside0.7").unwrap();
    peer.ip("route add 10.1.0.0/16 via 192.0.2.1 src 10.2.0.10").unwrap();
    peer.ip("-6 route add 2001:db8:1::/64 dev eth0.7 src 2001:db8:2::10").unwrap();
    client.route("10.2.0.0/24", "10.1.0.1").unwrap();
    client.route("2001:db8:2::/64", "2001:db8:1::1").unwrap();
    // What has the untagged address as its source goes by the untagged wire.
    client.ip("rule add from 10.1.1.10 lookup 100").unwrap();
    client.ip("route add 10.2.0.0/24 via 10.1.1.1 table 100").unwrap();
    gateway.forward().unwrap();

    let a = Gateway::start(&gateway, ip(GATEWAY), config(&gateway, (LOCAL, REMOTE)));
    let way = Way::new(EspAlgorithm::Aes256Gcm16, true, false, false);
    let (ours, theirs) = (a.installer().allocate_spi().unwrap(), Spi::new(0xc0de_0007).unwrap());
    for (src, dst, spi, seed) in [(GATEWAY, PEER, theirs, 2), (PEER, GATEWAY, ours, 1)] {
        let algorithm = way.algorithm(&a.keymat(seed));
        // Words in quotes are for a shell.
        let algorithm = algorithm.replace('\'', "");
        peer.ip(&format!(
            "xfrm state add src {src} dst {dst} proto esp spi 0x{spi} reqid 1 mode tunnel replay-window 32 \
             flag af-unspec esn {algorithm}"
        ))
        .unwrap();
    }
    for (here, there) in REMOTE.iter().zip(LOCAL) {
        for (src, dst, dir, from, to) in
            [(here, there, "out", PEER, GATEWAY), (there, here, "in", GATEWAY, PEER)]
        {
            peer.ip(&format!(
                "xfrm policy add src {src} dst {dst} dir {dir} tmpl src {from} dst {to} proto esp reqid 1 mode tunnel"
            ))
            .unwrap();
        }
    }
    a.install(ip(PEER), Encapsulation::None, (ours, 1), (theirs, 2));

    let drops = || a.stats().drops.into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
    for (host, from, to) in [
        (&client, CLIENT, SERVER),
        (&client, UNTAGGED_CLIENT, SERVER),
        (&client, CLIENT_V6, SERVER_V6),
        (&peer, SERVER, CLIENT),
        (&peer, SERVER_V6, CLIENT_V6),
    ] {
        // 1446 octets fill the outside VLAN's 1500 once they are sealed.
        for size in [56, if to.contains(':') { 1446 - 48 } else { 1446 - 28 }] {
            let answers = host.ping_with(ip(to), 4, size, &["-I", from]).unwrap();
            assert!(answers.complete(), "{from} to {to}, {size}: {answers:?} {:?}", a.stats());
        }
    }
    assert_eq!(drops(), []);
    let workers = a.stats().workers;
    let by_kernel: u64 = workers.iter().map(|worker| worker.to_kernel + worker.from_kernel).sum();
    assert_eq!(by_kernel, 0, "{workers:?}");

    // Errors go back into the VLAN that the packet came from.
    for further in [&["-M", "do", "-s", "1472"][..], &["-t", "1"]] {
        let words =
            ["ping", "-n", "-c", "1", "-W", "10", "-I", CLIENT].iter().chain(further).chain([&SERVER]);
        let told = client.run(words).unwrap_err().to_string();
        assert!(told.contains("From 10.1.0.1"), "{told}");
    }
    // What the host itself sends and receives there goes by the TUN device as ever.
    assert!(gateway.ping_with(ip(SERVER), 2, 56, &["-I", "10.1.0.1"]).unwrap().complete(), "{:?}", a.stats());

    // Another VLAN's frames are nobody's.
    let mut frame = [gateway.mac("inside0").unwrap(), client.mac("eth0").unwrap()].concat();
    frame.extend([0x81, 0, 0, 43, 8, 0]);
    frame.extend(FORGED);
    client.send_frame("eth0", &frame).unwrap();
    until("a frame of another VLAN is dropped", || a.drops("unknown_vlan") == 1);

    // A device that goes takes its packets with it, and serves again once it is back.
    peer.ip("link set eth0.7 down").unwrap();
    gateway.ip("link del outside0.7").unwrap();
    until("the way is gone", || a.dataplane.outside_addresses().is_empty());
    assert_eq!(client.ping_with(ip(SERVER), 1, 56, &["-I", CLIENT]).unwrap().received, 0);
    until("all packets have gone somewhere", || in_flight(&a.stats()) == 0);
    add_vlan(&gateway, "outside0", 7, "02:00:00:00:07:01", &["192.0.2.1/24"]);
    gateway.route("10.2.0.0/24", PEER).unwrap();
    peer.ip("link set eth0.7 up").unwrap();
    peer.ip("route add 10.1.0.0/16 via 192.0.2.1 src 10.2.0.10").unwrap();
    until("the way is back", || !a.dataplane.outside_addresses().is_empty());
    assert!(client.ping_with(ip(SERVER), 3, 56, &["-I", CLIENT]).unwrap().complete(), "{:?}", a.stats());
    until("all packets have gone somewhere", || in_flight(&a.stats()) == 0);
    a.every_frame_has_an_owner();
    a.dataplane.stop().unwrap();
}

/// An IPv4 header from the client to the server.
const FORGED: [u8; 20] = [0x45, 0, 0, 20, 0, 1, 0, 0, 64, 253, 0x65, 0xd6, 10, 1, 0, 10, 10, 2, 0, 10];
