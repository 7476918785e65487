//! What an operator calls an end, as a certificate says it: `gw.example`, `192.0.2.1`, `alice@example.org`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rcgen::SanType;
use rcgen::string::Ia5String;

/// A subject alternative name. IKE compares identities with these alone (RFC 4945 §5.1.3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AltName {
    /// A domain name; matches an identity of type ID_FQDN.
    Dns(String),
    /// A mailbox; matches ID_RFC822_ADDR.
    Email(String),
    /// An address; matches ID_IPV4_ADDR and ID_IPV6_ADDR.
    Address(IpAddr),
}

/// A text that is none of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` {problem} (expected a domain name, an address, or user@domain)")]
pub struct NameError {
    text: String,
    problem: &'static str,
}

impl FromStr for AltName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fail = |problem| NameError { text: text.to_owned(), problem };
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.split_once('@') {
            Some((user, domain)) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-=?^_`{|}~.".contains(c);
                if user.is_empty() || user.len() > 64 || !user.chars().all(plain) {
                    return Err(fail("has no usable part before the `@`"));
                }
                check_domain(domain).map_err(fail)?;
                Ok(Self::Email(text.to_owned()))
            }
            None => {
                check_domain(text).map_err(fail)?;
                if text == "ca" {
                    return Err(fail("is what the files of the CA itself are called"));
                }
                Ok(Self::Dns(text.to_owned()))
            }
        }
    }
}

/// RFC 1123 §2.1, with the underscore that inventories like to use in host names.
fn check_domain(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > 253 {
        return Err("is empty or longer than 253 characters");
    }
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.split('.').all(good) { Ok(()) } else { Err("is no name that a certificate can carry") }
}

impl AltName {
    pub(super) fn san(&self) -> Result<SanType, NameError> {
        let text = |text: &str| {
            let problem = "has characters beyond ASCII";
            Ia5String::try_from(text).map_err(|_| NameError { text: text.to_owned(), problem })
        };
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(text(name)?),
            Self::Email(name) => SanType::Rfc822Name(text(name)?),
            Self::Address(address) => SanType::IpAddress(*address),
        })
    }

    /// The stem of the files that belong to it: the name itself, which has no slash; colons of IPv6 addresses become
    /// dashes.
    pub(super) fn file_stem(&self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) | Self::Email(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_as_ike_tells_identities_apart() {
        let parse = |text: &str| text.parse::<AltName>().unwrap();
        assert_eq!(parse("gw.example"), AltName::Dns("gw.example".to_owned()));
        assert_eq!(parse("alice@example.org"), AltName::Email("alice@example.org".to_owned()));
        assert_eq!(parse("2001:db8::1"), AltName::Address("2001:db8::1".parse().unwrap()));
        assert_eq!(parse("2001:db8::1").file_stem(), "2001-db8--1");
    }

    #[test]
    fn what_would_leave_the_directory_or_hide_the_ca_is_no_name() {
        for text in
            ["", "..", "../x", "a/b", "a b", "-x", "ca", "@x", "a@", "x/y@z", "münchen.example", "*.example"]
        {
            assert!(text.parse::<AltName>().is_err(), "{text}");
        }
    }
}
