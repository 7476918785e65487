//! `[pools.NAME]`: addresses for peers, and what goes with them.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::IpNet;
use portcullis_ike::config::ConnectionConfig;
use portcullis_ike::pools::{Attributes, PoolConfig};
use portcullis_ipsec::AddressRange;

use super::reader::{Section, Spanned};

/// Attributes of swanctl.conf's pools that have no counterpart here.
const LATER: &[&str] = &["dhcp", "netmask", "server", "split_exclude", "address"];

/// All of them. Those that overlap are errors: an address would be somebody's twice.
pub(super) fn from_root(root: &Section<'_>) -> Vec<PoolConfig> {
    let mut pools: Vec<PoolConfig> = Vec::new();
    for (name, section) in root.named_sections("pools") {
        let Some(pool) = pool(name, &section) else { continue };
        let overlap = pools.iter().find(|other| other.addrs.intersection(pool.addrs).is_some());
        if let Some(other) = overlap {
            let message = format!("{} overlaps with {} of pool `{}`", pool.addrs, other.addrs, other.name);
            section.error(section.span(), "addrs", message);
        }
        pools.push(pool);
    }
    pools
}

fn pool(name: String, section: &Section<'_>) -> Option<PoolConfig> {
    const EXPECTED: &str = "a prefix or a range, e.g. \"10.3.0.0/16\" or \"10.3.0.10-10.3.0.99\"";
    let addrs = section.parsed::<PoolRange>("addrs", EXPECTED);
    if !section.has("addrs") {
        section.missing("addrs", EXPECTED);
    }
    let nets = "networks, e.g. \"10.1.0.0/16\"";
    let mut subnets = list::<IpNet>(section, "subnet", nets);
    subnets.extend(list::<IpNet>(section, "split_include", nets));
    let attributes = Attributes {
        dns: list::<IpAddr>(section, "dns", "IP addresses"),
        nbns: list::<Ipv4Addr>(section, "nbns", "IPv4 addresses"),
        subnets: subnets.iter().map(IpNet::trunc).collect(),
        domains: list::<Domain>(section, "domains", "domain names").into_iter().map(|name| name.0).collect(),
    };
    section.finish(LATER);
    Some(PoolConfig { name, addrs: addrs?.value.0, attributes })
}

fn list<T>(section: &Section<'_>, key: &'static str, expected: &str) -> Vec<T>
where
    T: FromStr,
    T::Err: Display,
{
    let found = section.parsed_list::<T>(key, expected).unwrap_or_default();
    found.into_iter().map(|item| item.value).collect()
}

/// What connections say about pools fits them.
pub(super) fn check(
    section: &Section<'_>,
    connection: &ConnectionConfig,
    named: &[Spanned<&str>],
    pools: &[PoolConfig],
) {
    for name in named {
        if !pools.iter().any(|pool| pool.name == name.value) {
            let known: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
            let message = format!("there is no `[pools.{}]` (there are: {})", name.value, known.join(", "));
            section.error(name.span.clone(), "pools", message);
        }
    }
    let dynamic = connection.children.iter().any(|child| child.remote_ts.iter().any(Option::is_none));
    if !named.is_empty() && !dynamic {
        let message =
            "gives peers addresses, but no child has `remote_ts = \"dynamic\"`, which stands for them";
        section.warning(section.span(), "pools", message);
    }
    let ours = connection.children.iter().any(|child| child.local_ts.iter().any(Option::is_none));
    if !connection.vips.is_empty() && !ours {
        let message = "asks for addresses, but no child has `local_ts = \"dynamic\"`, which stands for them";
        section.warning(section.span(), "vips", message);
    }
}

/// `vips`: one of each family at most.
pub(super) fn vips(section: &Section<'_>) -> Vec<IpAddr> {
    let expected = "inner addresses to ask for; \"0.0.0.0\" or \"::\" for any";
    let mut vips: Vec<IpAddr> = Vec::new();
    for vip in section.parsed_list::<IpAddr>("vips", expected).unwrap_or_default() {
        if vips.iter().any(|other| other.is_ipv4() == vip.value.is_ipv4()) {
            let message = format!("`{}` is the second of its family (expected one of each)", vip.value);
            section.error(vip.span, "vips", message);
            continue;
        }
        vips.push(vip.value);
    }
    vips
}

/// The addresses of a pool. A prefix is without its first address, and without its last if IPv4: nobody can use them.
struct PoolRange(AddressRange);

impl FromStr for PoolRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no range of addresses");
        if let Some((start, end)) = text.split_once('-') {
            let (start, end) = (start.trim().parse(), end.trim().parse());
            let (Ok(start), Ok(end)) = (start, end) else { return Err(wrong()) };
            return AddressRange::new(start, end)
                .map(Self)
                .ok_or_else(|| format!("`{text}` ends before it begins, or in another family"));
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Self(addr.into()));
        }
        let net: IpNet = text.parse().map_err(|_| wrong())?;
        if net.addr() != net.network() {
            return Err(format!(
                "`{text}` has bits set behind its prefix; {} is meant, or a range",
                net.trunc()
            ));
        }
        let whole = AddressRange::from(net);
        let inner = match whole {
            AddressRange::V4 { start, end } if net.prefix_len() < 31 => {
                let (start, end) = (u32::from(start) + 1, u32::from(end) - 1);
                AddressRange::V4 { start: start.into(), end: end.into() }
            }
            AddressRange::V6 { start, end } if net.prefix_len() < 127 => {
                AddressRange::V6 { start: (u128::from(start) + 1).into(), end }
            }
            whole => whole,
        };
        Ok(Self(inner))
    }
}

/// A name that fits into INTERNAL_DNS_DOMAIN.
struct Domain(String);

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plausible = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
        };
        let name = text.trim_end_matches('.');
        if name.len() <= 253 && name.split('.').all(plausible) {
            Ok(Self(name.to_owned()))
        } else {
            Err(format!("`{text}` is no domain name"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Result<String, String> {
        PoolRange::from_str(text).map(|range| format!("{}-{}", range.0.start(), range.0.end()))
    }

    #[test]
    fn a_prefix_is_without_the_addresses_that_nobody_can_use() {
        assert_eq!(range("10.3.0.0/24").as_deref(), Ok("10.3.0.1-10.3.0.254"));
        assert_eq!(range("10.3.0.0/31").as_deref(), Ok("10.3.0.0-10.3.0.1"));
        assert_eq!(range("10.3.0.7/32").as_deref(), Ok("10.3.0.7-10.3.0.7"));
        assert_eq!(range("2001:db8::/126").as_deref(), Ok("2001:db8::1-2001:db8::3"));
        assert_eq!(range("10.3.0.10 - 10.3.0.99").as_deref(), Ok("10.3.0.10-10.3.0.99"));
        assert_eq!(range("10.3.0.9").as_deref(), Ok("10.3.0.9-10.3.0.9"));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for wrong in ["", "10.3.0.9-10.3.0.1", "10.3.0.1-::1", "10.3.0.1/24", "pool", "10.3.0.0/33"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
