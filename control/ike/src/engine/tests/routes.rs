//! Which shard each kind of message and command goes to.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::world::*;
use crate::config::AddressMatch;
use crate::engine::ike_sa_init::notification;
use crate::engine::*;
use crate::message::Payload;

const OF: u8 = 4;

fn header(exchange: ExchangeType, initiator: bool, response: bool) -> Header {
    let (spi_i, spi_r) = ([1, 1, 1, 1, 1, 1, 1, 5], [2, 2, 2, 2, 2, 2, 2, 6]);
    Header { spi_i, spi_r, major: 2, minor: 0, exchange, initiator, response, message_id: 1 }
}

fn datagram(header: Header, payloads: Vec<Payload>, remote: &str) -> Datagram {
    let (local, remote) = (SocketAddr::new(address(B), 500), remote.parse().unwrap());
    Datagram { local, remote, payload: DatagramPayload::Ike(Message { header, payloads }.emit()) }
}

fn routes() -> Routes {
    Routes::new(&config(B).connections, OF)
}

#[test]
fn our_spi_names_the_shard_whoever_began_the_ike_sa_and_whoever_asks() {
    for exchange in [ExchangeType::IkeAuth, ExchangeType::CreateChildSa, ExchangeType::Informational] {
        for response in [false, true] {
            let route = |initiator| {
                let header = header(exchange, initiator, response);
                routes().of_datagram(&datagram(header, Vec::new(), "198.51.100.1:500"))
            };
            // Octets 5 and 6, of which the initiator's message means the second.
            assert_eq!((route(false), route(true)), (1, 2));
        }
    }
    // The answer to our own first message.
    let answer = header(ExchangeType::IkeSaInit, false, true);
    assert_eq!(routes().of_datagram(&datagram(answer, Vec::new(), "198.51.100.1:500")), 1);
}

fn first(number: u32, remote: &str) -> Datagram {
    let mut header = header(ExchangeType::IkeSaInit, true, false);
    header.spi_r = [0; 8];
    header.spi_i[..4].copy_from_slice(&number.to_be_bytes());
    datagram(header, vec![Payload::Nonce(vec![7; 32])], remote)
}

#[test]
fn first_messages_of_strangers_are_spread_and_repeated_ones_come_to_the_same_shard() {
    let routes = routes();
    let mut counts = [0; OF as usize];
    for number in 0..4000 {
        let route = routes.of_datagram(&first(number, "198.51.100.1:500"));
        assert_eq!(route, routes.of_datagram(&first(number, "198.51.100.1:500")));
        counts[route] += 1;
    }
    assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    let sources = (1..100).map(|port| routes.of_datagram(&first(1, &format!("198.51.100.1:{port}"))));
    assert_eq!(sources.collect::<HashSet<_>>().len(), usize::from(OF));
}

#[test]
fn a_peer_that_a_connection_names_comes_to_where_we_would_initiate_it() {
    let mut b = config(B);
    let second: IpAddr = "203.0.113.9".parse().unwrap();
    b.connections[0].remote_addrs.push(AddressMatch::Address(second));
    let routes = Routes::new(&b.connections, OF);
    let command = Command::Initiate { connection: "net".to_owned(), child: None };
    let Reach::Whoever(home) = routes.reach(&command) else { panic!("to others") };
    for number in 0..20 {
        for remote in [address(A), second] {
            let remote = SocketAddr::new(remote, 500 + number as u16).to_string();
            assert_eq!(routes.of_datagram(&first(number, &remote)), home);
        }
    }
    let shards: Vec<_> = Shard::all(OF).filter(|shard| shard.is_home_of(&b.connections[0])).collect();
    assert_eq!(shards.iter().map(|shard| shard.number()).collect::<Vec<_>>(), [home]);
}

#[test]
fn a_ticket_comes_to_who_has_given_it() {
    let mut header = header(ExchangeType::IkeSessionResume, true, false);
    header.spi_r = [0; 8];
    for octet in 0..=u8::MAX {
        let ticket = notification(notify::TICKET_OPAQUE, vec![1, 2, 3, octet, 99, 99, 99]);
        let route = routes().of_datagram(&datagram(header, vec![ticket], "198.51.100.1:500"));
        assert_eq!(route, usize::from(octet % OF));
    }
    let without = datagram(header, vec![Payload::Nonce(vec![7; 32])], "198.51.100.1:500");
    assert_eq!(routes().of_datagram(&without), 0, "whoever it is refuses it");
}

#[test]
fn what_is_of_no_ike_sa_goes_by_its_source_however_short_it_is() {
    let whole = header(ExchangeType::Informational, true, false);
    let hint = datagram(Header { spi_i: [0; 8], spi_r: [0; 8], ..whole }, Vec::new(), "198.51.100.1:500");
    let expected = routes().of_datagram(&hint);
    let DatagramPayload::Ike(octets) = &hint.payload else { panic!("not IKE") };
    for len in 0..octets.len() {
        let payload = DatagramPayload::Ike(octets[..len].to_vec());
        assert_eq!(routes().of_datagram(&Datagram { payload, ..hint.clone() }), expected);
    }
}

#[test]
fn a_command_about_an_ike_sa_goes_to_where_that_is_and_others_to_whoever_may_have_some() {
    let routes = routes();
    for shard in Shard::all(OF) {
        let command = Command::TerminateSa { ike: shard.ike(3) };
        assert_eq!(routes.reach(&command), Reach::One(shard.number()));
    }
    assert_eq!(routes.reach(&Command::TerminateAll), Reach::All);
    let unknown = Command::Initiate { connection: "nobody's".to_owned(), child: None };
    assert_eq!(routes.reach(&unknown), Reach::Whoever(0));
}
