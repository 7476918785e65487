//! Names in certificates: whether a certificate contains an identity (RFC 4945 §3.1), and whether its names keep to
//! an authority's name constraints (RFC 5280 §4.2.1.10).

use std::net::IpAddr;

use der::Encode as _;
use x509_cert::ext::pkix::NameConstraints;
use x509_cert::ext::pkix::constraints::name::GeneralSubtree;
use x509_cert::ext::pkix::name::GeneralName;

use super::certificate::Certificate;
use super::dn::DistinguishedName;
use crate::identity::Identity;

impl Certificate {
    /// Whether it certifies this identity: a distinguished name is its subject, or one of its subjectAltNames as
    /// everything else must be. A common name is no FQDN, and a wildcard in a certificate is none to us.
    pub fn contains(&self, id: &Identity) -> bool {
        let mut names = self.ext.alt_names.iter();
        match id {
            Identity::Dn(dn) => {
                let same = |name: &GeneralName| directory_name(name).is_some_and(|found| found.same(dn));
                (!dn.is_empty() && self.subject().same(dn)) || names.any(same)
            }
            Identity::Fqdn(fqdn) => {
                names.any(|name| matches!(name, GeneralName::DnsName(found) if found.as_str().eq_ignore_ascii_case(fqdn)))
            }
            Identity::Rfc822(mail) => {
                names.any(|name| matches!(name, GeneralName::Rfc822Name(found) if found.as_str().eq_ignore_ascii_case(mail)))
            }
            Identity::Ipv4(addr) => {
                names.any(|name| matches!(name, GeneralName::IpAddress(found) if found.as_bytes() == addr.octets()))
            }
            Identity::Ipv6(addr) => {
                names.any(|name| matches!(name, GeneralName::IpAddress(found) if found.as_bytes() == addr.octets()))
            }
            Identity::KeyId(_) | Identity::Null | Identity::Other { .. } => false,
        }
    }

    /// The identities that it certifies, the subject first.
    pub fn identities(&self) -> Vec<Identity> {
        let subject = (!self.subject().is_empty()).then(|| Identity::Dn(self.subject().clone()));
        let others = self.ext.alt_names.iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(Identity::Fqdn(name.as_str().to_owned())),
            GeneralName::Rfc822Name(mail) => Some(Identity::Rfc822(mail.as_str().to_owned())),
            GeneralName::IpAddress(octets) => address(octets.as_bytes()).map(Identity::from),
            GeneralName::DirectoryName(_) => directory_name(name).map(Identity::Dn),
            _ => None,
        });
        subject.into_iter().chain(others).collect()
    }

    /// Whether its names keep to the constraints of an authority above it. `Err` says which does not.
    pub(super) fn keeps_to(&self, constraints: &NameConstraints) -> Result<(), String> {
        let permitted = constraints.permitted_subtrees.as_deref().unwrap_or_default();
        let excluded = constraints.excluded_subtrees.as_deref().unwrap_or_default();
        for name in self.constrained_names() {
            let (mut wanted, mut found) = (false, false);
            for subtree in permitted.iter().filter(|subtree| same_form(&subtree.base, &name)) {
                wanted = true;
                found |= within(&name, subtree)?;
            }
            if wanted && !found {
                return Err(format!("{} is not among the permitted names", text(&name)));
            }
            for subtree in excluded.iter().filter(|subtree| same_form(&subtree.base, &name)) {
                if within(&name, subtree)? {
                    return Err(format!("{} is among the excluded names", text(&name)));
                }
            }
        }
        Ok(())
    }

    /// Its names with the subject, and the e-mail addresses in that where no subjectAltName has one.
    fn constrained_names(&self) -> Vec<GeneralName> {
        let mut names = self.ext.alt_names.clone();
        if !names.iter().any(|name| matches!(name, GeneralName::Rfc822Name(_))) {
            let mails = self.subject().emails().filter_map(|mail| der::asn1::Ia5String::new(mail).ok());
            names.extend(mails.map(GeneralName::Rfc822Name));
        }
        if !self.subject().is_empty()
            && let Ok(subject) = der::Decode::from_der(self.subject().der())
        {
            names.push(GeneralName::DirectoryName(subject));
        }
        names
    }
}

fn directory_name(name: &GeneralName) -> Option<DistinguishedName> {
    match name {
        GeneralName::DirectoryName(name) => DistinguishedName::from_der(&name.to_der().ok()?),
        _ => None,
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

fn same_form(a: &GeneralName, b: &GeneralName) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

/// Whether a name lies within a subtree of its own form. `Err` for a form that we cannot judge: then nothing may
/// pass (RFC 5280 §4.2.1.10).
fn within(name: &GeneralName, subtree: &GeneralSubtree) -> Result<bool, String> {
    if subtree.minimum != 0 || subtree.maximum.is_some() {
        return Err("a constraint has a minimum or maximum, which nothing defines".to_owned());
    }
    Ok(match (name, &subtree.base) {
        (GeneralName::DnsName(name), GeneralName::DnsName(base)) => {
            in_domain(name.as_str(), base.as_str().trim_start_matches('.'))
        }
        (GeneralName::Rfc822Name(name), GeneralName::Rfc822Name(base)) => {
            let (base, host) = (base.as_str(), name.as_str().rsplit_once('@').map_or("", |(_, host)| host));
            match base.strip_prefix('.') {
                Some(domain) => in_domain(host, domain) && !host.eq_ignore_ascii_case(domain),
                None if base.contains('@') => name.as_str().eq_ignore_ascii_case(base),
                None => host.eq_ignore_ascii_case(base),
            }
        }
        (GeneralName::IpAddress(name), GeneralName::IpAddress(base)) => {
            let (name, base) = (name.as_bytes(), base.as_bytes());
            let (network, mask) = base.split_at(base.len() / 2);
            name.len() == network.len()
                && mask.len() == network.len()
                && name
                    .iter()
                    .zip(network)
                    .zip(mask)
                    .all(|((name, network), mask)| name & mask == network & mask)
        }
        (GeneralName::DirectoryName(_), GeneralName::DirectoryName(_)) => {
            match (directory_name(name), directory_name(&subtree.base)) {
                (Some(name), Some(base)) => name.is_within(&base),
                _ => return Err("a directory name cannot be read".to_owned()),
            }
        }
        _ => return Err(format!("{} is of a form whose constraints we do not understand", text(name))),
    })
}

/// Whether a name is a domain or below it; everything is below the empty one.
fn in_domain(name: &str, domain: &str) -> bool {
    if domain.is_empty() || name.eq_ignore_ascii_case(domain) {
        return true;
    }
    let (name, domain) = (name.as_bytes(), domain.as_bytes());
    let Some((front, end)) = name.len().checked_sub(domain.len()).and_then(|at| name.split_at_checked(at))
    else {
        return false;
    };
    front.last() == Some(&b'.') && end.eq_ignore_ascii_case(domain)
}

fn text(name: &GeneralName) -> String {
    match name {
        GeneralName::DnsName(name) => format!("the name `{}`", name.as_str().escape_debug()),
        GeneralName::Rfc822Name(mail) => format!("the e-mail address `{}`", mail.as_str().escape_debug()),
        GeneralName::IpAddress(octets) => match address(octets.as_bytes()) {
            Some(addr) => format!("the address {addr}"),
            None => "a malformed address".to_owned(),
        },
        GeneralName::DirectoryName(_) => {
            directory_name(name).map_or_else(|| "a name".to_owned(), |name| format!("the name `{name}`"))
        }
        GeneralName::UniformResourceIdentifier(uri) => format!("the URI `{}`", uri.as_str().escape_debug()),
        _ => "a name of another kind".to_owned(),
    }
}
