//! Identities (RFC 7296 §3.5) and swanctl's notation for them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::auth::DistinguishedName;

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
    /// ID_DER_ASN1_DN.
    Dn(DistinguishedName),
    /// ID_NULL (RFC 7619 §2.2): nobody in particular.
    Null,
    /// Another type that we do not interpret, or data that does not fit its type: compared octet by octet.
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
    pub(super) const NULL: u8 = 13;
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
            id_type::DER_ASN1_DN => DistinguishedName::from_der(data).map_or_else(other, Self::Dn),
            id_type::KEY_ID => Self::KeyId(data.to_vec()),
            id_type::NULL if data.is_empty() => Self::Null,
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
            Self::Dn(name) => (id_type::DER_ASN1_DN, name.der().to_vec()),
            Self::KeyId(octets) => (id_type::KEY_ID, octets.clone()),
            Self::Null => (id_type::NULL, Vec::new()),
            Self::Other { id_type, data } => (*id_type, data.clone()),
        }
    }

    /// Whether both are the same: names without regard to case (RFC 4343), distinguished names attribute by
    /// attribute, everything else octet by octet.
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fqdn(a), Self::Fqdn(b)) | (Self::Rfc822(a), Self::Rfc822(b)) => a.eq_ignore_ascii_case(b),
            (Self::Dn(a), Self::Dn(b)) => a.same(b),
            _ => self == other,
        }
    }

    /// Whether `found` fits this as a pattern: a name or address that begins with `*` stands for all that end like
    /// it, a `*` in a distinguished name for any one value.
    pub(crate) fn matches(&self, found: &Self) -> bool {
        match (self, found) {
            (Self::Fqdn(pattern), Self::Fqdn(found)) | (Self::Rfc822(pattern), Self::Rfc822(found)) => {
                let Some(end) = pattern.strip_prefix('*') else { return pattern.eq_ignore_ascii_case(found) };
                let front = found.len().checked_sub(end.len());
                let tail = front.and_then(|front| found.as_bytes().get(front..));
                tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end.as_bytes()))
            }
            (Self::Dn(pattern), Self::Dn(found)) => pattern.matches(found),
            _ => self.same(found),
        }
    }

    /// Whether it is a pattern, which nobody can be.
    fn has_wildcards(&self) -> bool {
        match self {
            Self::Fqdn(name) | Self::Rfc822(name) => name.contains('*'),
            Self::Dn(name) => name.has_wildcards(),
            _ => false,
        }
    }
}

/// What the peer's identity must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityMatch {
    /// `%any`, or not configured.
    Any,
    /// Exactly this one.
    Exactly(Identity),
    /// All that a pattern stands for, such as `*.example.org` or `C=CH, O=Acme, CN=*`.
    Pattern(Identity),
}

impl IdentityMatch {
    /// Whether an identity fits.
    pub(crate) fn accepts(&self, found: &Identity) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(id) => id.same(found),
            Self::Pattern(pattern) => pattern.matches(found),
        }
    }
}

impl FromStr for IdentityMatch {
    type Err = IdentityError;

    /// As [`Identity`]'s, with `%any` and wildcards.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text == "%any" {
            return Ok(Self::Any);
        }
        let id = parse(text)?;
        let problem = "a `*` stands at the beginning, or for a whole value of a distinguished name";
        match &id {
            Identity::Fqdn(name) | Identity::Rfc822(name)
                if name.get(1..).is_some_and(|rest| rest.contains('*')) =>
            {
                Err(IdentityError { found: text.to_owned(), problem })
            }
            _ if id.has_wildcards() => Ok(Self::Pattern(id)),
            _ => Ok(Self::Exactly(id)),
        }
    }
}

impl fmt::Display for IdentityMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("anyone"),
            Self::Exactly(id) | Self::Pattern(id) => write!(f, "`{id}`"),
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
    /// `ipv4:`, `ipv6:`, `asn1dn:`, `@` for a name, `@#` for a key ID in hexadecimal).
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let id = parse(text)?;
        if id.has_wildcards() || text == "%any" {
            let problem = "patterns stand only for peers, in `remote.id`";
            return Err(IdentityError { found: text.to_owned(), problem });
        }
        Ok(id)
    }
}

fn parse(text: &str) -> Result<Identity, IdentityError> {
    let wrong = |problem| IdentityError { found: text.to_owned(), problem };
    if let Some(hex) = text.strip_prefix("@#") {
        let octets = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
        return octets
            .ok()
            .filter(|octets| !octets.is_empty())
            .map(Identity::KeyId)
            .ok_or_else(|| wrong("`@#` is followed by pairs of hexadecimal digits"));
    }
    if let Some(name) = text.strip_prefix("@@") {
        return named(name, Identity::Rfc822).ok_or_else(|| wrong("nothing follows `@@`"));
    }
    if let Some(name) = text.strip_prefix('@') {
        return named(name, Identity::Fqdn).ok_or_else(|| wrong("nothing follows `@`"));
    }
    if let Ok(addr) = text.parse::<IpAddr>() {
        return Ok(addr.into());
    }
    match text.split_once(':') {
        Some(("fqdn" | "dns", name)) => {
            return named(name, Identity::Fqdn).ok_or_else(|| wrong("the name is empty"));
        }
        Some(("email" | "rfc822", name)) => {
            return named(name, Identity::Rfc822).ok_or_else(|| wrong("the address is empty"));
        }
        Some(("keyid", octets)) => {
            return named(octets, |octets| Identity::KeyId(octets.into_bytes()))
                .ok_or_else(|| wrong("the key ID is empty"));
        }
        Some(("ipv4", addr)) => {
            return addr.parse().map(Identity::Ipv4).map_err(|_| wrong("not an IPv4 address"));
        }
        Some(("ipv6", addr)) => {
            return addr.parse().map(Identity::Ipv6).map_err(|_| wrong("not an IPv6 address"));
        }
        Some(("asn1dn", name)) => match name.strip_prefix('#') {
            Some(hex) => {
                let der = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok();
                let name = der.and_then(|der| DistinguishedName::from_der(&der));
                return name
                    .map(Identity::Dn)
                    .ok_or_else(|| wrong("`asn1dn:#` is followed by DER in hexadecimal"));
            }
            None => return DistinguishedName::parse(name).map(Identity::Dn).map_err(wrong),
        },
        Some(("xmppaddr", _)) => return Err(wrong("XMPP addresses are not supported by this version")),
        _ => {}
    }
    if text.contains('=') {
        return DistinguishedName::parse(text).map(Identity::Dn).map_err(wrong);
    }
    if text.contains('%') {
        return Err(wrong("patterns are not supported by this version; `%any` stands for any peer"));
    }
    let kind = if text.contains('@') { Identity::Rfc822 } else { Identity::Fqdn };
    named(text, kind).ok_or_else(|| wrong("it is empty"))
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
            Self::Dn(name) => name.fmt(f),
            Self::Null => f.write_str("%null"),
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
            ("CN=gw, O", "no `=`"),
            ("CN=*", "patterns"),
            ("%any", "patterns"),
            ("asn1dn:#30", "DER"),
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
        for text in
            ["192.0.2.1", "2001:db8::1", "gw.example", "a@example.org", "@#0a0b", "keyid:abc", "C=CH, CN=gw"]
        {
            let identity: Identity = text.parse().unwrap();
            assert_eq!(identity.to_string(), text);
            let (id_type, data) = identity.to_wire();
            assert_eq!(Identity::from_wire(id_type, &data), identity);
        }
    }

    #[test]
    fn patterns_stand_for_all_that_fit_them() {
        let matches = |pattern: &str, id: &str| {
            let pattern: IdentityMatch = pattern.parse().unwrap();
            pattern.accepts(&id.parse().unwrap())
        };
        assert!(matches("%any", "10.0.0.1"));
        assert!(matches("*.example.org", "a.Example.org"));
        assert!(matches("*.example.org", "a.b.example.org"));
        assert!(!matches("*.example.org", "example.org"));
        assert!(!matches("*.example.org", "a@x.example.org"));
        assert!(matches("*@example.org", "a@example.org"));
        assert!(matches("C=CH, CN=*", "C=CH, CN=a"));
        assert!(!matches("C=CH, CN=*", "C=DE, CN=a"));
        assert!(matches("gw.example", "GW.example"));
        for text in ["a.*.example", "a*"] {
            assert!(text.parse::<IdentityMatch>().unwrap_err().problem.contains("beginning"), "{text}");
        }
    }

    #[test]
    fn nobody_is_id_null_without_data() {
        assert_eq!(Identity::Null.to_wire(), (13, Vec::new()));
        assert_eq!(Identity::from_wire(13, &[]), Identity::Null);
        // RFC 7619 §2.2: there is no identification data.
        assert_eq!(Identity::from_wire(13, &[1]), Identity::Other { id_type: 13, data: vec![1] });
        assert!("%null".parse::<Identity>().is_err());
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
