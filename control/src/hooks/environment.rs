//! The environment of hooks: that of strongSwan's updown plugin, one for each pair of traffic selectors of a family.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_ike::engine::ChildSaStatus;
use portcullis_ipsec::{Encapsulation, TrafficSelector};

use crate::events::sessions::Session;

const VERB: &str = "PLUTO_VERB";

/// For a CHILD SA that has come up.
pub(super) fn of(session: &Session, child: &ChildSaStatus, interface: &str) -> Vec<Vec<(String, String)>> {
    let pairs =
        child.local_ts.iter().flat_map(|local| child.remote_ts.iter().map(move |remote| (local, remote)));
    let meet =
        pairs.filter(|(local, remote)| local.addrs.start().is_ipv4() == remote.addrs.start().is_ipv4());
    meet.map(|(local, remote)| environment(session, child, interface, local, remote)).collect()
}

/// The same for its end.
pub(super) fn turn_down(environment: &mut [(String, String)]) {
    for (name, value) in environment {
        if name == VERB
            && let Some(what) = value.strip_prefix("up-")
        {
            *value = format!("down-{what}");
        }
    }
}

fn environment(
    session: &Session,
    child: &ChildSaStatus,
    interface: &str,
    local: &TrafficSelector,
    remote: &TrafficSelector,
) -> Vec<(String, String)> {
    let ike = &session.ike;
    let (me, peer) = (ike.local.ip(), ike.remote.ip());
    let (my_client, peer_client) = (prefix(local), prefix(remote));
    let host = my_client == IpNet::from(me);
    let verb = format!(
        "up-{}{}",
        if host { "host" } else { "client" },
        if my_client.addr().is_ipv6() { "-v6" } else { "" }
    );
    let id = |id: Option<String>| id.unwrap_or_default();
    let mut variables = vec![
        ("PLUTO_VERSION", "1.1".to_owned()),
        (VERB, verb),
        ("PLUTO_CONNECTION", child.name.clone()),
        ("PLUTO_INTERFACE", interface.to_owned()),
        ("PLUTO_PROTO", "esp".to_owned()),
        ("PLUTO_UNIQUEID", ike.id.0.to_string()),
        ("PLUTO_ME", me.to_string()),
        ("PLUTO_MY_ID", id(ike.local_id.as_ref().map(ToString::to_string))),
        ("PLUTO_MY_CLIENT", my_client.to_string()),
        ("PLUTO_MY_PORT", local.ports.start.to_string()),
        ("PLUTO_MY_PROTOCOL", local.protocol.to_string()),
        ("PLUTO_PEER", peer.to_string()),
        ("PLUTO_PEER_ID", id(ike.remote_id.as_ref().map(ToString::to_string))),
        ("PLUTO_PEER_CLIENT", peer_client.to_string()),
        ("PLUTO_PEER_PORT", remote.ports.start.to_string()),
        ("PLUTO_PEER_PROTOCOL", remote.protocol.to_string()),
    ];
    if let Encapsulation::Udp { remote_port, .. } = child.endpoints.encapsulation {
        variables.push(("PLUTO_UDP_ENC", remote_port.to_string()));
    }
    if let Some(user) = &ike.authorization.eap_id {
        variables.push(("PLUTO_XAUTH_ID", user.clone()));
    }
    let mut variables: Vec<(String, String)> =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    variables.extend(inner("PLUTO_MY_SOURCEIP", &ike.local_vips));
    variables.extend(inner("PLUTO_PEER_SOURCEIP", &ike.remote_vips));
    variables.push(("PORTCULLIS_CONNECTION".to_owned(), session.connection().to_owned()));
    variables.push(("PORTCULLIS_SESSION".to_owned(), session.name.clone()));
    variables.iter_mut().for_each(|(_, value)| value.retain(|c| c != '\0'));
    variables
}

/// The smallest prefix that has all of a selector's addresses, as strongSwan gives it.
fn prefix(ts: &TrafficSelector) -> IpNet {
    let (start, end) = (ts.addrs.start(), ts.addrs.end());
    let mut net = IpNet::from(start);
    while !net.contains(&end) {
        match net.supernet() {
            Some(wider) => net = wider,
            None => break,
        }
    }
    net
}

/// Inner addresses: the first alone, and each by its number within its family.
fn inner(name: &str, addresses: &[IpAddr]) -> Vec<(String, String)> {
    let first = addresses.first().map(|first| (name.to_owned(), first.to_string()));
    let family = |v6: bool| addresses.iter().filter(move |addr| addr.is_ipv6() == v6).enumerate();
    let numbered = [(false, '4'), (true, '6')].into_iter().flat_map(|(v6, family_digit)| {
        family(v6).map(move |(index, addr)| (format!("{name}{family_digit}_{}", index + 1), addr.to_string()))
    });
    first.into_iter().chain(numbered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_told_as_the_smallest_prefix_around_it() {
        let of = |text: &str| prefix(&text.parse().unwrap()).to_string();
        assert_eq!(of("10.1.0.0/16"), "10.1.0.0/16");
        assert_eq!(of("10.1.0.3-10.1.0.4"), "10.1.0.0/29");
        assert_eq!(of("2001:db8::7"), "2001:db8::7/128");
        assert_eq!(of("0.0.0.0/0"), "0.0.0.0/0");
    }

    #[test]
    fn inner_addresses_are_numbered_by_family() {
        let addresses = ["10.3.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let variables = inner("PLUTO_PEER_SOURCEIP", &addresses);
        let text: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            text,
            [
                "PLUTO_PEER_SOURCEIP=10.3.0.1",
                "PLUTO_PEER_SOURCEIP4_1=10.3.0.1",
                "PLUTO_PEER_SOURCEIP6_1=2001:db8::1"
            ]
        );
    }

    #[test]
    fn the_end_has_the_environment_of_the_beginning() {
        let mut variables = vec![(VERB.to_owned(), "up-client-v6".to_owned())];
        turn_down(&mut variables);
        assert_eq!(variables[0].1, "down-client-v6");
    }
}
