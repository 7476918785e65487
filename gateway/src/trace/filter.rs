//! Which packets a trace is about, in words that tcpdump's users know.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use portcullis_ipsec::{Flow, Spi};

use super::Record;
use crate::wire::protocol;

/// All of what it names must fit; nothing named fits everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Prefixes, and at which end each has to be.
    addresses: Vec<(End, IpNet)>,
    protocol: Option<u8>,
    /// At either end.
    port: Option<u16>,
    spi: Option<Spi>,
    /// A connection, or `connection/child`.
    policy: Option<String>,
    dropped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Either,
    Source,
    Destination,
}

/// Words that are no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} (expected e.g. `host 10.1.0.9 and tcp and port 443`; words: host, src, dst, net, proto, tcp, udp, icmp, port, spi, \
     policy, dropped)"
)]
pub struct FilterError(String);

impl Filter {
    /// Whether a packet with these addresses and ports may be meant, as far as they say.
    pub(crate) fn fits_flow(&self, flow: &Flow) -> bool {
        let at = |end: &End, net: &IpNet| match end {
            End::Source => net.contains(&flow.src),
            End::Destination => net.contains(&flow.dst),
            End::Either => net.contains(&flow.src) || net.contains(&flow.dst),
        };
        let port = |port: u16| flow.src_port == Some(port) || flow.dst_port == Some(port);
        self.addresses.iter().all(|(end, net)| at(end, net))
            && self.protocol.is_none_or(|protocol| protocol == flow.protocol)
            && self.port.is_none_or(port)
    }

    /// Whether an ESP packet may be meant for what is in it: it can be known only when it has been opened.
    pub(crate) fn looks_inside(&self) -> bool {
        !self.addresses.is_empty() || self.protocol.is_some() || self.port.is_some() || self.policy.is_some()
    }

    /// Whether an SA of that SPI may be meant.
    pub(crate) fn fits_spi(&self, spi: u32) -> bool {
        self.spi.is_none_or(|wanted| wanted.get() == spi)
    }

    /// Whether it is meant, now that all is known.
    pub(crate) fn fits(&self, record: &Record) -> bool {
        let flow = [&record.flow, &record.inner].into_iter().flatten().any(|flow| self.fits_flow(flow));
        let unreadable = record.flow.is_none() && !self.looks_inside();
        let spi = |wanted| record.spi_in == Some(wanted) || record.spi_out == Some(wanted);
        let policy = |wanted: &String| {
            record.policy.as_ref().is_some_and(|(name, _)| {
                name == wanted || name.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('/'))
            })
        };
        (flow || unreadable)
            && self.spi.is_none_or(spi)
            && self.policy.as_ref().is_none_or(policy)
            && (!self.dropped || record.dropped().is_some())
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        let mut words = text.split_whitespace().filter(|word| *word != "and");
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| FilterError(format!("`{word}` lacks its value")));
            match word {
                "host" | "net" => filter.addresses.push((End::Either, net(value()?)?)),
                "src" => filter.addresses.push((End::Source, net(value()?)?)),
                "dst" => filter.addresses.push((End::Destination, net(value()?)?)),
                "proto" => filter.protocol = Some(protocol_of(value()?)?),
                "port" => {
                    let text = value()?;
                    let port = text.parse().map_err(|_| FilterError(format!("`{text}` is no port")))?;
                    filter.port = Some(port);
                }
                "spi" => {
                    let text = value()?;
                    let spi = u32::from_str_radix(text.trim_start_matches("0x"), 16).ok().and_then(Spi::new);
                    filter.spi =
                        Some(spi.ok_or_else(|| FilterError(format!("`{text}` is no SPI in hexadecimal")))?);
                }
                "policy" => filter.policy = Some(value()?.to_owned()),
                "dropped" => filter.dropped = true,
                other => filter.protocol = Some(protocol_of(other)?),
            }
        }
        Ok(filter)
    }
}

fn net(text: &str) -> Result<IpNet, FilterError> {
    let addr = text.parse::<IpAddr>().map(IpNet::from);
    addr.or_else(|_| text.parse()).map_err(|_| FilterError(format!("`{text}` is no address or prefix")))
}

fn protocol_of(text: &str) -> Result<u8, FilterError> {
    match text {
        "icmp" => Ok(protocol::ICMP),
        "icmp6" | "icmpv6" | "ipv6-icmp" => Ok(protocol::ICMPV6),
        "tcp" => Ok(protocol::TCP),
        "udp" => Ok(protocol::UDP),
        "esp" => Ok(protocol::ESP),
        number => number.parse().map_err(|_| FilterError(format!("`{number}` is not known"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(src: &str, dst: &str, protocol: u8, port: u16) -> Flow {
        Flow {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol,
            src_port: Some(40000),
            dst_port: Some(port),
        }
    }

    #[test]
    fn every_word_narrows_it() {
        let web = flow("10.1.0.9", "10.2.0.9", 6, 443);
        for (text, fits) in [
            ("", true),
            ("host 10.1.0.9", true),
            ("host 10.2.0.9 and host 10.1.0.9", true),
            ("src 10.2.0.9", false),
            ("dst 10.2.0.0/16", true),
            ("net 10.3.0.0/16", false),
            ("tcp port 443", true),
            ("proto 6 port 80", false),
            ("udp", false),
            ("port 40000", true),
        ] {
            assert_eq!(text.parse::<Filter>().unwrap().fits_flow(&web), fits, "{text}");
        }
        let spi: Filter = "spi 0xc0ffee00".parse().unwrap();
        assert!(spi.fits_spi(0xc0ff_ee00) && !spi.fits_spi(1) && !spi.looks_inside());
    }

    #[test]
    fn what_is_no_filter_is_told_by_the_word_that_is_wrong() {
        for (text, word) in [
            ("host", "`host` lacks its value"),
            ("host nowhere", "`nowhere` is no address"),
            ("port http", "`http` is no port"),
            ("spi 12", "`12` is no SPI"),
            ("tcp or udp", "`or` is not known"),
        ] {
            let error = text.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
