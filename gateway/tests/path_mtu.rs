//! A narrow way between the gateways: what routers say of it is read from raw sockets, believed as far as it must be, and
//! passed on to the senders behind the gateway, both families.

#![expect(clippy::indexing_slicing, reason = "where a test cannot go on it fails")]

mod common;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::Duration;

use common::{Child, INSIDE, OUTSIDE, Packet, Pair, outside_address, pair};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};
use portcullis_gateway::coarse::Coarse;
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pmtu::{Listener, MIN_MTU_V4, TooBig, read};
use portcullis_gateway::wire::Checksum;
use portcullis_ipsec::Encapsulation;

/// What a router says that takes no more than `mtu` octets of this packet.
fn too_big(packet: &[u8], mtu: u16) -> Vec<u8> {
    let [m0, m1] = mtu.to_be_bytes();
    let v6 = packet[0] >> 4 == 6;
    let header = if v6 { [2, 0, 0, 0, 0, 0, m0, m1] } else { [3, 4, 0, 0, 0, 0, m0, m1] };
    let mut message = [&header, &packet[..packet.len().min(128)]].concat();
    let sum = Checksum::default().octets(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn child(outer_v6: bool, udp: bool) -> Child {
    Child { outer_v6, udp, ..Child::between(1, 2) }
}

#[test]
fn senders_of_both_families_are_told_of_a_narrow_way_and_it_widens_again() {
    for (outer_v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let Pair { mut a, .. } = pair(&child(outer_v6, udp));
        let sent = a.inside(&[Packet::between(1, 2, false, 1400).octets()]).only_sent(OUTSIDE);
        assert!(sent[0].len() > 1420);
        let said = read(&too_big(&sent[0], 1400), outer_v6).unwrap();
        assert!(a.installer.path_too_big(&said));
        assert!(!a.installer.path_too_big(&said), "it is no news any more");
        for v6 in [false, true] {
            let packet = Packet::between(1, 2, v6, 1400);
            let outcome = a.inside(&[packet.octets()]);
            assert_eq!(outcome.drops, [(DropReason::TooBig.label(), 1)].into());
            let answer = &outcome.sent(INSIDE)[0];
            let told = if v6 { &answer[46..48] } else { &answer[26..28] };
            let told = usize::from(u16::from_be_bytes([told[0], told[1]]));
            assert!((1300..1400).contains(&told), "{told}");
            // What was told passes, in an outer packet that fits.
            let fits = a.inside(&[Packet { len: told, ..packet }.octets()]).only_sent(OUTSIDE);
            assert!(fits[0].len() <= 1400 && fits[0].len() > 1400 - 4, "{}", fits[0].len());
        }
        // The rig's clock stands still for the installer; the workers' does not.
        a.now = Coarse(700);
        a.inside(&[Packet::between(1, 2, false, 1400).octets()]).only_sent(OUTSIDE);
    }
}

#[test]
fn only_a_packet_that_was_just_sent_is_believed_to_be_too_big() {
    let Pair { mut a, b_spi, .. } = pair(&child(false, false));
    let sent = a.inside(&[Packet::between(1, 2, false, 1400).octets()]).only_sent(OUTSIDE);
    let good = read(&too_big(&sent[0], 1000), false).unwrap();
    assert_eq!((good.spi, good.sequence_low), (b_spi.get(), 1));
    let elsewhere = Ipv4Addr::new(198, 51, 100, 7).into();
    for forged in [
        TooBig { spi: good.spi ^ 1, ..good },
        TooBig { spi: 7, ..good },
        TooBig { remote: elsewhere, ..good },
        TooBig { local: elsewhere, ..good },
        TooBig { encapsulation: Encapsulation::Udp { local_port: 4500, remote_port: 4500 }, ..good },
        TooBig { sequence_low: 2, ..good },
        TooBig { sequence_low: 0x8000_0000, ..good },
    ] {
        assert!(!a.installer.path_too_big(&forged), "{forged:?}");
    }
    a.inside(&[Packet::between(1, 2, false, 1400).octets()]).only_sent(OUTSIDE);
    // And never below what every host takes.
    assert!(a.installer.path_too_big(&TooBig { mtu: 68, ..good }));
    let fits = a.inside(&[Packet::between(1, 2, false, MIN_MTU_V4 - 60).octets()]).only_sent(OUTSIDE);
    assert!(fits[0].len() <= MIN_MTU_V4);
}

#[test]
fn messages_are_read_from_the_kernel() {
    let (tell, told) = mpsc::channel();
    let listener = Listener::start(move |said| tell.send(said).unwrap()).unwrap();
    for v6 in [false, true] {
        let Pair { mut a, .. } = pair(&child(v6, false));
        let sent = a.inside(&[Packet::between(1, 2, false, 1400).octets()]).only_sent(OUTSIDE);
        let (family, protocol, to) = match v6 {
            false => (AddressFamily::Inet, SockProtocol::Icmp, Ipv4Addr::LOCALHOST.into()),
            true => (AddressFamily::Inet6, SockProtocol::IcmpV6, Ipv6Addr::LOCALHOST.into()),
        };
        let router = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        let message = too_big(&sent[0], 1300);
        sendto(router.as_raw_fd(), &message, &to, MsgFlags::empty()).unwrap();
        // The machine's other traffic is none of ours.
        let ours = outside_address(1, v6);
        let said = std::iter::from_fn(|| told.recv_timeout(Duration::from_secs(20)).ok());
        let said = said.into_iter().find(|said| said.local == ours);
        assert_eq!(said, read(&message, v6), "IPv6: {v6}");
    }
    drop(listener);
    assert!(told.recv().is_err(), "the thread has ended");
}
