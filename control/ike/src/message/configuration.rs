//! Configuration payloads (RFC 7296 §3.15): what an end asks to be given, and what it is given.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::MessageError;
use super::reader::Reader;

/// CFG Type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConfigurationType {
    /// 1.
    Request,
    /// 2.
    Reply,
    /// 3.
    Set,
    /// 4.
    Ack,
    /// Any other.
    Other(u8),
}

/// A Configuration payload: its type and its attributes, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// CFG Type.
    pub kind: ConfigurationType,
    /// Attributes.
    pub attributes: Vec<Attribute>,
}

/// A Configuration Attribute as it is on the wire (RFC 7296 §3.15.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    /// 15 bits; see [`attribute`].
    pub attribute_type: u16,
    /// Empty where a value is asked for.
    pub value: Vec<u8>,
}

/// Attribute types.
#[expect(missing_docs, reason = "named as RFC 7296 §3.15.1 and the IANA registry name them")]
pub mod attribute {
    pub const INTERNAL_IP4_ADDRESS: u16 = 1;
    pub const INTERNAL_IP4_DNS: u16 = 3;
    pub const INTERNAL_IP4_NBNS: u16 = 4;
    pub const APPLICATION_VERSION: u16 = 7;
    pub const INTERNAL_IP6_ADDRESS: u16 = 8;
    pub const INTERNAL_IP6_DNS: u16 = 10;
    pub const INTERNAL_IP4_SUBNET: u16 = 13;
    pub const INTERNAL_IP6_SUBNET: u16 = 15;
    /// RFC 8598.
    pub const INTERNAL_DNS_DOMAIN: u16 = 25;
}

impl Attribute {
    /// An attribute without a value: it is asked for.
    pub fn asked(attribute_type: u16) -> Self {
        Self { attribute_type, value: Vec::new() }
    }

    /// An address that its receiver is to use: 4 octets, or 16 and a prefix length of 128.
    pub fn address(addr: IpAddr) -> Self {
        let (attribute_type, value) = match addr {
            IpAddr::V4(addr) => (attribute::INTERNAL_IP4_ADDRESS, addr.octets().to_vec()),
            IpAddr::V6(addr) => (attribute::INTERNAL_IP6_ADDRESS, [&addr.octets()[..], &[128]].concat()),
        };
        Self { attribute_type, value }
    }

    /// A name server.
    pub fn dns(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => {
                Self { attribute_type: attribute::INTERNAL_IP4_DNS, value: addr.octets().into() }
            }
            IpAddr::V6(addr) => {
                Self { attribute_type: attribute::INTERNAL_IP6_DNS, value: addr.octets().into() }
            }
        }
    }

    /// A NetBIOS name server.
    pub fn nbns(addr: Ipv4Addr) -> Self {
        Self { attribute_type: attribute::INTERNAL_IP4_NBNS, value: addr.octets().into() }
    }

    /// A network behind the sender: address and netmask, or address and prefix length.
    pub fn subnet(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self {
                attribute_type: attribute::INTERNAL_IP4_SUBNET,
                value: [net.network().octets(), net.netmask().octets()].concat(),
            },
            IpNet::V6(net) => Self {
                attribute_type: attribute::INTERNAL_IP6_SUBNET,
                value: [&net.network().octets()[..], &[net.prefix_len()]].concat(),
            },
        }
    }

    /// A domain whose names the given name servers know (RFC 8598 §4.1).
    pub fn domain(name: &str) -> Self {
        Self { attribute_type: attribute::INTERNAL_DNS_DOMAIN, value: name.as_bytes().to_vec() }
    }

    /// What it says, if it is one that we know and has a value that makes sense.
    pub fn meaning(&self) -> Option<Meaning> {
        let value = self.value.as_slice();
        let v4 = || value.try_into().ok().map(|octets: [u8; 4]| Ipv4Addr::from(octets));
        let v6 = || value.try_into().ok().map(|octets: [u8; 16]| Ipv6Addr::from(octets));
        Some(match self.attribute_type {
            attribute::INTERNAL_IP4_ADDRESS => Meaning::Address(v4()?.into()),
            // Some leave the prefix length out.
            attribute::INTERNAL_IP6_ADDRESS => {
                let octets: [u8; 16] = value.get(..16).filter(|_| value.len() <= 17)?.try_into().ok()?;
                Meaning::Address(Ipv6Addr::from(octets).into())
            }
            attribute::INTERNAL_IP4_DNS => Meaning::Dns(v4()?.into()),
            attribute::INTERNAL_IP6_DNS => Meaning::Dns(v6()?.into()),
            attribute::INTERNAL_IP4_NBNS => Meaning::Nbns(v4()?),
            attribute::INTERNAL_IP4_SUBNET => {
                let octets: [u8; 8] = value.try_into().ok()?;
                let [a, b, c, d, mask @ ..] = octets;
                Meaning::Subnet(Ipv4Net::with_netmask(Ipv4Addr::new(a, b, c, d), mask.into()).ok()?.into())
            }
            attribute::INTERNAL_IP6_SUBNET => {
                let (prefix_len, octets) = value.split_last()?;
                let octets: [u8; 16] = octets.try_into().ok()?;
                Meaning::Subnet(Ipv6Net::new(octets.into(), *prefix_len).ok()?.into())
            }
            attribute::INTERNAL_DNS_DOMAIN if !value.is_empty() => {
                Meaning::Domain(std::str::from_utf8(value).ok()?.to_owned())
            }
            _ => return None,
        })
    }
}

/// What an attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// Use this address.
    Address(IpAddr),
    /// A name server.
    Dns(IpAddr),
    /// A NetBIOS name server.
    Nbns(Ipv4Addr),
    /// A network behind the sender.
    Subnet(IpNet),
    /// A domain whose names the name servers know.
    Domain(String),
}

pub(super) fn parse(reader: &mut Reader<'_>) -> Result<Configuration, MessageError> {
    const WHAT: &str = "the CP payload";
    let kind = match reader.u8(WHAT)? {
        1 => ConfigurationType::Request,
        2 => ConfigurationType::Reply,
        3 => ConfigurationType::Set,
        4 => ConfigurationType::Ack,
        other => ConfigurationType::Other(other),
    };
    reader.array::<3>(WHAT)?;
    let mut attributes = Vec::new();
    while !reader.is_empty() {
        // The reserved bit is to be ignored.
        let attribute_type = reader.u16("a configuration attribute")? & 0x7fff;
        let length = usize::from(reader.u16("a configuration attribute")?);
        let value = reader.take(length, "a configuration attribute")?.to_vec();
        attributes.push(Attribute { attribute_type, value });
    }
    Ok(Configuration { kind, attributes })
}

pub(super) fn emit(configuration: &Configuration, octets: &mut Vec<u8>) {
    let kind = match configuration.kind {
        ConfigurationType::Request => 1,
        ConfigurationType::Reply => 2,
        ConfigurationType::Set => 3,
        ConfigurationType::Ack => 4,
        ConfigurationType::Other(other) => other,
    };
    octets.extend([kind, 0, 0, 0]);
    for Attribute { attribute_type, value } in &configuration.attributes {
        octets.extend((attribute_type & 0x7fff).to_be_bytes());
        octets.extend(super::emit::u16_len(value.len()));
        octets.extend(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_understood() {
        let addresses = ["10.3.0.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap());
        for addr in addresses {
            assert_eq!(Attribute::address(addr).meaning(), Some(Meaning::Address(addr)));
            assert_eq!(Attribute::dns(addr).meaning(), Some(Meaning::Dns(addr)));
        }
        for net in ["10.1.0.0/16", "2001:db8:1::/48", "0.0.0.0/0"] {
            let net: IpNet = net.parse().unwrap();
            assert_eq!(Attribute::subnet(net).meaning(), Some(Meaning::Subnet(net)));
        }
    }

    /// RFC 7296 §3.15.1: sixteen octets of address and one of prefix length.
    #[test]
    fn an_ipv6_address_has_its_prefix_length_behind_it() {
        let attribute = Attribute::address("2001:db8::7".parse().unwrap());
        assert_eq!((attribute.attribute_type, attribute.value.len()), (8, 17));
        assert_eq!(attribute.value.last(), Some(&128));
    }

    #[test]
    fn values_of_impossible_length_mean_nothing() {
        for attribute_type in [1, 3, 4, 8, 10, 13, 15] {
            for len in [0, 1, 3, 5, 15, 18, 40] {
                let attribute = Attribute { attribute_type, value: vec![1; len] };
                assert_eq!(attribute.meaning(), None, "{attribute:?}");
            }
        }
        // A netmask with holes.
        let value = vec![10, 0, 0, 0, 255, 0, 255, 0];
        assert_eq!(Attribute { attribute_type: 13, value }.meaning(), None);
    }
}
