//! VLAN devices among the kernel's links, as far as they are on ports.

use std::collections::BTreeMap;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoVlan, LinkAttribute, LinkInfo, LinkMessage, VlanProtocol};

use super::mirror::port;
use crate::route::{PortIndex, PortInfo, Vlan};
use crate::wire::{TagProtocol, VlanTags};

/// The places that VLAN devices were given. They are never given to others.
#[derive(Debug)]
pub(super) struct Places {
    given: BTreeMap<(PortIndex, VlanTags), PortIndex>,
    ports: usize,
}

impl Places {
    /// Behind so many ports.
    pub(super) fn behind(ports: usize) -> Self {
        Self { given: BTreeMap::new(), ports }
    }

    /// `None` once there are no more: the kernel sends for the device.
    fn of(&mut self, port: PortIndex, tags: VlanTags) -> Option<PortIndex> {
        let next = u16::try_from(self.ports + self.given.len()).ok().map(PortIndex);
        let known = self.given.get(&(port, tags)).copied();
        known.or_else(|| {
            self.given.insert((port, tags), next?);
            next
        })
    }
}

/// The VLAN devices on ports.
pub(super) fn on_ports(
    links: &[RouteNetlinkMessage],
    ports: &[PortInfo],
    addresses: &[(u32, IpNet)],
    places: &mut Places,
) -> Vec<Vlan> {
    let links: BTreeMap<u32, &LinkMessage> = links.iter().filter_map(by_index).collect();
    let on_port = |link: &LinkMessage| {
        let (below, tags) = port_below(&links, ports, link)?;
        let own = ports.iter().find(|port| port.ifindex == link.header.index).map(|port| port.index);
        let index = own.or_else(|| places.of(below.index, tags))?;
        let mut device = port(index, name(link)?, below.role, Some(link), addresses);
        device.up &= below.up;
        Some(Vlan { device, on: below.index, tags })
    };
    links.values().copied().filter_map(on_port).collect()
}

/// The port that a VLAN device is on, and the tags of its frames there. Between them may be another VLAN device.
fn port_below<'p>(
    links: &BTreeMap<u32, &LinkMessage>,
    ports: &'p [PortInfo],
    link: &LinkMessage,
) -> Option<(&'p PortInfo, VlanTags)> {
    let (mut link, mut inner_first) = (link, Vec::new());
    loop {
        inner_first.push(tag(link)?);
        let below = below(link)?;
        if let Some(port) = ports.iter().find(|port| port.ifindex == below) {
            let mut outer_first = inner_first.into_iter().rev();
            let tags =
                outer_first.try_fold(VlanTags::NONE, |tags, (protocol, id)| tags.with_inner(protocol, id));
            return Some((port, tags?));
        }
        // Interfaces do not stand on themselves, but these are only what somebody says.
        link = links.get(&below).filter(|_| inner_first.len() < links.len())?;
    }
}

fn by_index(message: &RouteNetlinkMessage) -> Option<(u32, &LinkMessage)> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    Some((link.header.index, link))
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// The interface that it stands on, unless that is in another network namespace, whose numbers mean something else here.
fn below(link: &LinkMessage) -> Option<u32> {
    let elsewhere =
        link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)));
    let below = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(below) => Some(*below),
        _ => None,
    });
    below.filter(|_| !elsewhere)
}

/// The tag of a VLAN device's frames; `None` for another kind of interface.
fn tag(link: &LinkMessage) -> Option<(TagProtocol, u16)> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    let options = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(options)) => Some(options),
        _ => None,
    })?;
    let id = options.iter().find_map(|option| match option {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let protocol = options.iter().find_map(|option| match option {
        InfoVlan::Protocol(protocol) => Some(*protocol),
        _ => None,
    });
    // Linux before 3.10 knows no other than 802.1Q and does not say so.
    match protocol.unwrap_or(VlanProtocol::Ieee8021Q) {
        VlanProtocol::Ieee8021Q => Some((TagProtocol::Customer, id)),
        VlanProtocol::Ieee8021Ad => Some((TagProtocol::Service, id)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkHeader, NetlinkMessage};
    use netlink_packet_route::link::{InfoKind, InfoMacVlan, LinkFlags};

    use super::*;
    use crate::netlink::messages;
    use crate::route::Role;

    fn link(index: u32, name: &str, on: Option<u32>, info: Option<Vec<LinkInfo>>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        link.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(1500)];
        link.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]));
        link.attributes.extend(on.map(LinkAttribute::Link));
        link.attributes.extend(info.map(LinkAttribute::LinkInfo));
        link
    }

    fn vlan(index: u32, name: &str, on: u32, protocol: VlanProtocol, id: u16) -> LinkMessage {
        let options = vec![InfoVlan::Id(id), InfoVlan::Protocol(protocol)];
        let info = vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(options))];
        link(index, name, Some(on), Some(info))
    }

    /// As the kernel would say it, and as it is read from there.
    fn over_the_wire(links: Vec<LinkMessage>) -> Vec<RouteNetlinkMessage> {
        let mut octets = Vec::new();
        for link in links {
            let payload = RouteNetlinkMessage::NewLink(link).into();
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
            message.finalize();
            let from = octets.len();
            octets.resize(from + message.buffer_len(), 0);
            message.serialize(&mut octets[from..]);
        }
        let inner = messages(&octets).into_iter().map(|message| match message.payload {
            netlink_packet_core::NetlinkPayload::InnerMessage(inner) => inner,
            other => panic!("{other:?}"),
        });
        inner.collect()
    }

    fn ports(links: &[LinkMessage], names: &[(&str, Role)]) -> Vec<PortInfo> {
        let named = |name: &str| links.iter().find(|link| super::name(link) == Some(name));
        let ports = names.iter().enumerate();
        ports.map(|(at, (name, role))| port(PortIndex(at as u16), name, *role, named(name), &[])).collect()
    }

    fn tags(tags: &[(TagProtocol, u16)]) -> VlanTags {
        tags.iter().fold(VlanTags::NONE, |tags, (protocol, id)| tags.with_inner(*protocol, *id).unwrap())
    }

    #[test]
    fn devices_are_found_that_stand_on_a_port_directly_or_on_another_vlan_device() {
        use TagProtocol::{Customer, Service};
        use VlanProtocol::{Ieee8021Ad, Ieee8021Q};
        let mut down = vlan(14, "down.8", 4, Ieee8021Q, 8);
        down.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        let mut port_down = link(4, "down", None, None);
        port_down.header.flags = LinkFlags::Up;
        let mut elsewhere = vlan(15, "moved", 2, Ieee8021Q, 9);
        elsewhere.attributes.push(LinkAttribute::LinkNetNsId(0));
        let mac_vlan = vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(
                netlink_packet_route::link::MacVlanMode::Bridge,
            )])),
        ];
        let links = vec![
            link(2, "outside0", None, None),
            link(3, "inside0", None, None),
            port_down,
            link(5, "other0", None, None),
            vlan(10, "outside0.5", 2, Ieee8021Q, 5),
            vlan(11, "service", 3, Ieee8021Ad, 100),
            vlan(12, "customer", 11, Ieee8021Q, 7),
            vlan(13, "third", 12, Ieee8021Q, 8),
            down,
            elsewhere,
            vlan(16, "other0.5", 5, Ieee8021Q, 5),
            link(17, "mac0", Some(2), Some(mac_vlan)),
            vlan(18, "mac0.5", 17, Ieee8021Q, 5),
            vlan(19, "ring1", 20, Ieee8021Q, 5),
            vlan(20, "ring2", 19, Ieee8021Q, 5),
        ];
        let ports =
            ports(&links, &[("outside0", Role::Outside), ("inside0", Role::Inside), ("down", Role::Inside)]);
        let addresses = [(12, "10.1.0.1/24".parse().unwrap()), (2, "192.0.2.1/24".parse().unwrap())];
        let mut places = Places::behind(ports.len());
        let found = on_ports(&over_the_wire(links), &ports, &addresses, &mut places);
        let seen: Vec<_> = found
            .iter()
            .map(|vlan| (vlan.device.name.as_str(), vlan.device.role, vlan.on.0, vlan.tags, vlan.device.up))
            .collect();
        let expected = [
            ("outside0.5", Role::Outside, 0, tags(&[(Customer, 5)]), true),
            ("service", Role::Inside, 1, tags(&[(Service, 100)]), true),
            ("customer", Role::Inside, 1, tags(&[(Service, 100), (Customer, 7)]), true),
            ("down.8", Role::Inside, 2, tags(&[(Customer, 8)]), false),
        ];
        assert_eq!(seen, expected);
        let customer = &found[2].device;
        assert_eq!((customer.ifindex, customer.mac, customer.mtu), (12, [2, 0, 0, 0, 0, 12], 1500));
        assert_eq!(customer.addresses, ["10.1.0.1/24".parse::<IpNet>().unwrap()]);
    }

    #[test]
    fn a_place_is_kept_for_the_tags_and_never_given_to_others() {
        use VlanProtocol::Ieee8021Q;
        let port = link(2, "outside0", None, None);
        let ports = ports(std::slice::from_ref(&port), &[("outside0", Role::Outside)]);
        let mut places = Places::behind(ports.len());
        let mut look = |vlans: Vec<LinkMessage>| -> Vec<(u32, u16)> {
            let links = over_the_wire([vec![port.clone()], vlans].concat());
            let found = on_ports(&links, &ports, &[], &mut places);
            found.iter().map(|vlan| (vlan.device.ifindex, vlan.device.index.0)).collect()
        };
        let (five, six) = (vlan(10, "five", 2, Ieee8021Q, 5), vlan(11, "six", 2, Ieee8021Q, 6));
        assert_eq!(look(vec![five]), [(10, 1)]);
        assert_eq!(look(vec![six.clone()]), [(11, 2)]);
        let anew = vlan(12, "another-name", 2, Ieee8021Q, 5);
        assert_eq!(look(vec![six, anew]), [(11, 2), (12, 1)]);
    }

    #[test]
    fn a_device_that_is_a_port_itself_keeps_its_place_there() {
        let links = vec![
            link(2, "outside0", None, None),
            vlan(10, "outside0.5", 2, VlanProtocol::Ieee8021Q, 5),
            vlan(11, "inner", 10, VlanProtocol::Ieee8021Q, 6),
        ];
        let ports = ports(&links, &[("outside0", Role::Outside), ("outside0.5", Role::Inside)]);
        let found = on_ports(&over_the_wire(links), &ports, &[], &mut Places::behind(2));
        let seen: Vec<_> = found.iter().map(|vlan| (vlan.device.index.0, vlan.on.0, vlan.tags)).collect();
        let tag = |id| tags(&[(TagProtocol::Customer, id)]);
        assert_eq!(seen, [(1, 0, tag(5)), (2, 1, tag(6))]);
    }
}
