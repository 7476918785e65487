//! Fuzz targets: packets of strangers, and those of a server that has the secret.

use portcullis_fuzz::{Script, Target};

use super::access::authorization;
use super::dynamic::demand;
use super::packet::{Packet, attribute, code};

const SECRET: &[u8] = b"secret";

fn question() -> Packet {
    let mut question = Packet::new(code::ACCESS_REQUEST, 7, [9; 16]);
    question.push(attribute::USER_NAME, "carol");
    question
}

/// Code, then type, length and value of each attribute.
fn attributes(code: u8, attributes: &[(u8, &[u8])]) -> Vec<u8> {
    let values = attributes.iter().flat_map(|(kind, value)| [&[*kind, value.len() as u8], *value].concat());
    std::iter::once(code).chain(values).collect()
}

#[test]
fn fuzz_radius_packet() {
    let mut request = question();
    let octets = request.emit_request(SECRET);
    let answer = Packet::new(code::ACCESS_ACCEPT, 7, [0; 16]).emit_answer(&request.authenticator, SECRET);
    Target::new("radius-packet").seeds([octets, answer]).run(|input| {
        let _ = Packet::parse_answer(input, &request, SECRET);
        let _ = Packet::parse_request(input, SECRET);
    });
}

#[test]
fn fuzz_radius_attributes() {
    let key = [&[0, 0, 1, 0x37, 17, 36, 0x80, 1], [5; 32].as_slice()].concat();
    let seeds = [
        attributes(
            code::ACCESS_ACCEPT,
            &[
                (attribute::USER_NAME, b"carol"),
                (attribute::FRAMED_IP_ADDRESS, &[10, 9, 0, 7]),
                (attribute::FRAMED_IPV6_ADDRESS, &[0x20; 16]),
                (attribute::SESSION_TIMEOUT, &[0, 0, 14, 16]),
                (attribute::CLASS, b"staff"),
                (attribute::EAP_MESSAGE, &[3, 1, 0, 4]),
                (attribute::VENDOR_SPECIFIC, &key),
            ],
        ),
        attributes(
            code::COA_REQUEST,
            &[(attribute::ACCT_SESSION_ID, b"1"), (attribute::SESSION_TIMEOUT, &[0, 0, 0, 9])],
        ),
        attributes(code::DISCONNECT_REQUEST, &[(attribute::CALLING_STATION_ID, b"192.0.2.1")]),
    ];
    Target::new("radius-attributes").seeds(seeds).run(|input| {
        let mut script = Script::new(input);
        let mut made = Packet::new(script.octet(), 7, [0; 16]);
        while !script.is_over() {
            let (kind, len) = (script.octet(), script.octet());
            made.push(kind, script.octets(len.into()));
        }
        let mut request = question();
        request.emit_request(SECRET);
        if let Ok(answer) =
            Packet::parse_answer(&made.emit_answer(&request.authenticator, SECRET), &request, SECRET)
        {
            let authorization = authorization(&answer, true);
            assert!(authorization.groups.iter().all(|group| !group.contains(char::is_control)));
            let _ = answer.eap_key(&request.authenticator, SECRET);
        }
        if let Ok(request) = Packet::parse_request(&made.emit_request(SECRET), SECRET) {
            let _ = demand(&request);
        }
    });
}
