//! Access: a client's EAP packets go to a server (RFC 3579), and what the server answers is told to the engine.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use portcullis_ike::auth::Authorization;
use portcullis_ike::auth::eap::{AaaAnswer, AaaState, Msk};
use portcullis_ike::engine::AaaQuestion;

use super::client::{Answered, Radius, Service};
use super::packet::{Packet, attribute, code};

/// Service-Type Framed (RFC 2865 §5.6), as every VPN gateway says.
const FRAMED: u32 = 2;
/// NAS-Port-Type Virtual (RFC 2865 §5.41).
const VIRTUAL: u32 = 5;

impl Radius {
    /// Asks about a client.
    pub(crate) async fn authenticate(&self, question: AaaQuestion) -> AaaAnswer {
        let only = question.request.state.as_ref().map(|state| state.server);
        match self.ask(Service::Access, only, &self.request(&question)).await {
            Ok(answered) => self.answer(answered),
            Err(why) => AaaAnswer::Unreachable { why },
        }
    }

    fn request(&self, question: &AaaQuestion) -> Vec<(u8, Vec<u8>)> {
        let mut packet = Packet::new(code::ACCESS_REQUEST, 0, [0; 16]);
        let user = &question.request.user;
        packet.push(attribute::USER_NAME, user);
        if let Some(config) = &self.servers().config {
            packet.push(attribute::NAS_IDENTIFIER, &config.nas_identifier);
        }
        packet.push(attribute::SERVICE_TYPE, FRAMED.to_be_bytes());
        packet.push(attribute::NAS_PORT_TYPE, VIRTUAL.to_be_bytes());
        packet.push(attribute::NAS_PORT, (question.ike.0 as u32).to_be_bytes());
        packet.push(attribute::CALLED_STATION_ID, question.local.ip().to_string());
        packet.push(attribute::CALLING_STATION_ID, question.remote.ip().to_string());
        if let Some(state) = question.request.state.as_ref().filter(|state| !state.state.is_empty()) {
            packet.push(attribute::STATE, &state.state);
        }
        packet.push_long(attribute::EAP_MESSAGE, &question.request.packet);
        packet.attributes
    }

    fn answer(&self, Answered { server, secret, request, answer }: Answered) -> AaaAnswer {
        let packet = answer.get_long(attribute::EAP_MESSAGE);
        match answer.code {
            code::ACCESS_CHALLENGE => match packet {
                Some(packet) => {
                    let state = answer.get(attribute::STATE).map(<[u8]>::to_vec).unwrap_or_default();
                    AaaAnswer::Challenge { packet, state: AaaState { server, state } }
                }
                None => AaaAnswer::Unreachable {
                    why: "the RADIUS server asks for something else than EAP".to_owned(),
                },
            },
            code::ACCESS_ACCEPT => {
                let key = answer.eap_key(&request.authenticator, &secret.0);
                let class_group = self.servers().config.as_ref().is_some_and(|config| config.class_group);
                let msk = key.and_then(|key| Msk::new(key.to_vec()));
                let authorization = Box::new(authorization(&answer, class_group));
                AaaAnswer::Accept { packet, msk, authorization }
            }
            code::ACCESS_REJECT => {
                let said: Vec<_> =
                    answer.all(attribute::REPLY_MESSAGE).map(String::from_utf8_lossy).collect();
                AaaAnswer::Reject { packet, said: printable(&said.join(" ")) }
            }
            other => AaaAnswer::Unreachable { why: format!("the RADIUS server answered with code {other}") },
        }
    }
}

/// What an Access-Accept says that the client may have.
pub(super) fn authorization(answer: &Packet, class_group: bool) -> Authorization {
    let text = |value: &[u8]| printable(&String::from_utf8_lossy(value));
    let seconds =
        |kind| answer.number(kind).filter(|seconds| *seconds > 0).map(|s| Duration::from_secs(s.into()));
    let v6 = |kind| {
        let octets = answer.all(kind).filter_map(|value| <[u8; 16]>::try_from(value).ok());
        octets.map(|octets| Ipv6Addr::from(octets).into())
    };
    // RFC 2865 §5.8: with these two the user or the gateway is to choose one.
    let fixed =
        |addr: &Ipv4Addr| !addr.is_broadcast() && u32::from(*addr) != 0xffff_fffe && !addr.is_unspecified();
    let v4 = answer.number(attribute::FRAMED_IP_ADDRESS).map(Ipv4Addr::from).filter(fixed);
    let mut groups: Vec<String> = answer.all(attribute::FILTER_ID).map(text).collect();
    if class_group {
        groups.extend(answer.all(attribute::CLASS).map(text));
    }
    Authorization {
        // The name that the server knows the user by, which may be another than that of EAP-Identity (RFC 2865 §5.1).
        eap_id: answer.get(attribute::USER_NAME).map(text),
        addresses: v4.map(Into::into).into_iter().chain(v6(attribute::FRAMED_IPV6_ADDRESS)).collect(),
        dns: v6(attribute::DNS_SERVER_IPV6_ADDRESS).collect(),
        groups,
        session_timeout: seconds(attribute::SESSION_TIMEOUT),
        idle_timeout: seconds(attribute::IDLE_TIMEOUT),
        class: answer.all(attribute::CLASS).map(<[u8]>::to_vec).collect(),
        interim: seconds(attribute::ACCT_INTERIM_INTERVAL),
        accounted: true,
    }
}

/// Without what a terminal or a log would take for its own.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_become_what_the_client_may_have() {
        let mut accept = Packet::new(code::ACCESS_ACCEPT, 0, [0; 16]);
        accept.push(attribute::USER_NAME, "Carol\u{7}");
        accept.push(attribute::FRAMED_IP_ADDRESS, [10, 9, 0, 7]);
        accept.push(attribute::FRAMED_IPV6_ADDRESS, "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        accept.push(attribute::FILTER_ID, "staff");
        accept.push(attribute::CLASS, "class");
        accept.push(attribute::SESSION_TIMEOUT, 3600_u32.to_be_bytes());
        accept.push(attribute::IDLE_TIMEOUT, 0_u32.to_be_bytes());
        let found = authorization(&accept, false);
        assert_eq!(found.eap_id.as_deref(), Some("Carol"));
        let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.9.0.7", "2001:db8::7"]);
        assert_eq!((found.groups, found.class), (vec!["staff".to_owned()], vec![b"class".to_vec()]));
        assert_eq!(found.session_timeout, Some(Duration::from_secs(3600)));
        assert_eq!(found.idle_timeout, None);
        assert_eq!(authorization(&accept, true).groups, ["staff", "class"]);
    }

    #[test]
    fn an_address_that_is_ours_to_choose_is_none() {
        for octets in [[255; 4], [255, 255, 255, 254], [0; 4]] {
            let mut accept = Packet::new(code::ACCESS_ACCEPT, 0, [0; 16]);
            accept.push(attribute::FRAMED_IP_ADDRESS, octets);
            assert!(authorization(&accept, false).addresses.is_empty());
        }
    }
}
