//! Identities (RFC 7296 §3.5) and swanctl's notation for them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An identity (RFC 7296 §3.5).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// ID_IPV4_ADDR.
    Ipv4(Ipv4Addr),
    /// ID_IPV6_ADDR.
    Ipv6(Ipv6Addr),
    /// ID_FQDN: a name, without a trailing dot.
    Fqdn(String),
    /// ID_RFC822_ADDR: an e-mail address.
    Rfc822(String),
    /// ID_KEY_ID: opaque octets.
    KeyId(Vec<u8>),
    /// ID_DER_ASN1_DN or another type that we do not interpret: compared octet by octet.
    Other {
        /// The ID type.
        id_type: u8,
        /// The identification data.
        data: Vec<u8>,
    },
}

/// A text that is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no identity: {problem}")]
pub struct IdentityError {
    /// The text.
    pub found: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// ID types (RFC 7296 §3.5).
mod id_type {
    pub(super) const IPV4_ADDR: u8 = 1;
    pub(super) const FQDN: u8 = 2;
    pub(super) const RFC822_ADDR: u8 = 3;
    pub(super) const IPV6_ADDR: u8 = 5;
    pub(super) const DER_ASN1_DN: u8 = 9;
    pub(super) const KEY_ID: u8 = 11;
}

impl Identity {
    /// From an ID payload's type and data. Data that does not fit its type is kept as it is.
    pub(crate) fn from_wire(id_type: u8, data: &[u8]) -> Self {
        let other = || Self::Other { id_type, data: data.to_vec() };
        let text = || std::str::from_utf8(data).ok().filter(|text| !text.is_empty()).map(str::to_owned);
        match id_type {
            id_type::IPV4_ADDR => {
                <[u8; 4]>::try_from(data).map_or_else(|_| other(), |octets| Self::Ipv4(octets.into()))
            }
            id_type::IPV6_ADDR => {
                <[u8; 16]>::try_from(data).map_or_else(|_| other(), |octets| Self::Ipv6(octets.into()))
            }
            id_type::FQDN => text().map_or_else(other, Self::Fqdn),
            id_type::RFC822_ADDR => text().map_or_else(other, Self::Rfc822),
            id_type::KEY_ID => Self::KeyId(data.to_vec()),
            _ => other(),
        }
    }

    /// An ID payload's type and data.
    pub(crate) fn to_wire(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Ipv4(addr) => (id_type::IPV4_ADDR, addr.octets().to_vec()),
            Self::Ipv6(addr) => (id_type::IPV6_ADDR, addr.octets().to_vec()),
            Self::Fqdn(name) => (id_type::FQDN, name.as_bytes().to_vec()),
            Self::Rfc822(address) => (id_type::RFC822_ADDR, address.as_bytes().to_vec()),
            Self::KeyId(octets) => (id_type::KEY_ID, octets.clone()),
            Self::Other { id_type, data } => (*id_type, data.clone()),
        }
    }
}

impl From<IpAddr> for Identity {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::Ipv4(addr),
            IpAddr::V6(addr) => Self::Ipv6(addr),
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// swanctl's notation: the type follows from the text, or stands before it (`fqdn:`, `email:`, `keyid:`,
    /// `ipv4:`, `ipv6:`, `@` for a name, `@#` for a key ID in hexadecimal).
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let wrong = |problem| IdentityError { found: text.to_owned(), problem };
        if let Some(hex) = text.strip_prefix("@#") {
            let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
            return octets
                .ok()
                .filter(|octets| !octets.is_empty())
                .map(Self::KeyId)
                .ok_or_else(|| wrong("`@#` is followed by pairs of hexadecimal digits"));
        }
        if let Some(name) = text.strip_prefix("@@") {
            return named(name, Self::Rfc822).ok_or_else(|| wrong("nothing follows `@@`"));
        }
        if let Some(name) = text.strip_prefix('@') {
            return named(name, Self::Fqdn).ok_or_else(|| wrong("nothing follows `@`"));
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(addr.into());
        }
        match text.split_once(':') {
            Some(("fqdn" | "dns", name)) => {
                return named(name, Self::Fqdn).ok_or_else(|| wrong("the name is empty"));
            }
            Some(("email" | "rfc822", name)) => {
                return named(name, Self::Rfc822).ok_or_else(|| wrong("the address is empty"));
            }
            Some(("keyid", octets)) => {
                return named(octets, |octets| Self::KeyId(octets.into_bytes()))
                    .ok_or_else(|| wrong("the key ID is empty"));
            }
            Some(("ipv4", addr)) => {
                return addr.parse().map(Self::Ipv4).map_err(|_| wrong("not an IPv4 address"));
            }
            Some(("ipv6", addr)) => {
                return addr.parse().map(Self::Ipv6).map_err(|_| wrong("not an IPv6 address"));
            }
            Some(("asn1dn" | "xmppaddr", _)) => {
                return Err(wrong(
                    "distinguished names need certificates, which this version does not support",
                ));
            }
            _ => {}
        }
        if text.contains('=') {
            return Err(wrong("distinguished names need certificates, which this version does not support"));
        }
        if text.contains('%') || text.contains('*') {
            return Err(wrong("patterns are not supported by this version; `%any` stands for any peer"));
        }
        let kind = if text.contains('@') { Self::Rfc822 } else { Self::Fqdn };
        named(text, kind).ok_or_else(|| wrong("it is empty"))
    }
}

fn named(name: &str, kind: fn(String) -> Identity) -> Option<Identity> {
    (!name.is_empty()).then(|| kind(name.to_owned()))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(addr) => addr.fmt(f),
            Self::Ipv6(addr) => addr.fmt(f),
            // What a peer calls itself goes to terminals and logs.
            Self::Fqdn(name) | Self::Rfc822(name) => name.escape_debug().fmt(f),
            Self::KeyId(octets) => match std::str::from_utf8(octets) {
                Ok(text) if !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic()) => {
                    write!(f, "keyid:{text}")
                }
                _ => write!(f, "@#{}", data_encoding::HEXLOWER.encode(octets)),
            },
            Self::Other { id_type: id_type::DER_ASN1_DN, data } => {
                write!(f, "asn1dn:#{}", data_encoding::HEXLOWER.encode(data))
            }
            Self::Other { id_type, data } => {
                write!(f, "type {id_type}:#{}", data_encoding::HEXLOWER.encode(data))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_follows_from_the_text() {
        let parse = |text: &str| text.parse::<Identity>();
        assert_eq!(parse("192.0.2.1"), Ok(Identity::Ipv4(Ipv4Addr::new(192, 0, 2, 1))));
        assert_eq!(parse("2001:db8::1"), Ok(Identity::Ipv6("2001:db8::1".parse().unwrap())));
        assert_eq!(parse("gw.example"), Ok(Identity::Fqdn("gw.example".to_owned())));
        assert_eq!(parse("@192.0.2.1"), Ok(Identity::Fqdn("192.0.2.1".to_owned())));
        assert_eq!(parse("a@example.org"), Ok(Identity::Rfc822("a@example.org".to_owned())));
        assert_eq!(parse("@#0a0B"), Ok(Identity::KeyId(vec![10, 11])));
        assert_eq!(parse("keyid:abc"), Ok(Identity::KeyId(b"abc".to_vec())));
        assert_eq!(parse("email:abc"), Ok(Identity::Rfc822("abc".to_owned())));
    }

    #[test]
    fn what_is_no_identity_is_told_why() {
        for (text, problem) in [
            ("CN=gw, O=x", "certificates"),
            ("", "empty"),
            ("*.example", "patterns"),
            ("@#xy", "hexadecimal"),
            ("@#", "hexadecimal"),
            ("keyid:", "key ID is empty"),
            ("fqdn:", "name is empty"),
            ("ipv4:::1", "not an IPv4 address"),
        ] {
            let error = text.parse::<Identity>().unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn wire_and_text_forms_come_back() {
        for text in ["192.0.2.1", "2001:db8::1", "gw.example", "a@example.org", "@#0a0b", "keyid:abc"] {
            let identity: Identity = text.parse().unwrap();
            assert_eq!(identity.to_string(), text);
            let (id_type, data) = identity.to_wire();
            assert_eq!(Identity::from_wire(id_type, &data), identity);
        }
    }

    #[test]
    fn data_that_does_not_fit_its_type_is_kept_as_it_is() {
        let odd = Identity::from_wire(1, &[1, 2, 3]);
        assert_eq!(odd, Identity::Other { id_type: 1, data: vec![1, 2, 3] });
        assert_eq!(odd.to_wire(), (1, vec![1, 2, 3]));
    }

    #[test]
    fn a_peer_cannot_write_to_the_terminal() {
        assert_eq!(Identity::Fqdn("a\u{1b}[2J".to_owned()).to_string(), "a\\u{1b}[2J");
    }
}
