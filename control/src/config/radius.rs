//! `[radius]`: AAA servers, what they are told, and what they may ask. Names are those of strongSwan's eap-radius plugin.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use portcullis_ike::config::Secret;

use super::reader::Section;
use super::secrets;
use crate::radius::{DaeConfig, RadiusConfig, ServerConfig};

const AUTH_PORT: u16 = 1812;
const ACCT_PORT: u16 = 1813;
const DAE_PORT: u16 = 3799;

pub(super) fn from_root(root: &Section<'_>) -> Option<RadiusConfig> {
    let section = root.section("radius")?;
    let servers = section.sections("servers");
    if servers.is_empty() {
        section.missing("servers", "a table `[[radius.servers]]` with `address` and `secret`");
    }
    let count = servers.len();
    let servers: Vec<ServerConfig> =
        servers.iter().zip(1..).filter_map(|(section, number)| server(section, number)).collect();
    let nas_identifier = section.string("nas_identifier", "our name, e.g. \"vpn1\"");
    let retransmit_timeout = section.duration("retransmit_timeout").unwrap_or(Duration::from_secs(2));
    let retransmit_base = section.number("retransmit_base", 1.0..=10.0).unwrap_or(1.4);
    let retransmit_tries = section.integer("retransmit_tries", 1..=20).map_or(4, |tries| tries.value as u32);
    let accounting = section.boolean("accounting").unwrap_or(false);
    let class_group = section.boolean("class_group").unwrap_or(false);
    let accounting_interval = section.duration("accounting_interval").unwrap_or(Duration::ZERO);
    if accounting_interval > Duration::ZERO && accounting_interval < SHORTEST_INTERVAL {
        let message = "is shorter than a server takes kindly (expected \"60s\" or more, or 0 for none)";
        section.error(section.span(), "accounting_interval", message);
    }
    let dae = section.section("dae").map(|section| dae(&section));
    section.finish(&[
        "accounting_close_on_timeout",
        "accounting_requires_vip",
        "close_all_on_timeout",
        "eap_start",
        "filter_id",
        "forward",
        "id_prefix",
        "server",
        "secret",
        "port",
        "sockets",
        "station_id_with_port",
        "xauth",
    ]);
    let complete = count > 0 && servers.len() == count;
    complete.then_some(())?;
    Some(RadiusConfig {
        servers,
        nas_identifier: nas_identifier.map_or_else(|| "portcullis".to_owned(), |name| name.value.to_owned()),
        retransmit_timeout: retransmit_timeout.max(Duration::from_millis(100)),
        retransmit_base,
        retransmit_tries,
        class_group,
        accounting,
        accounting_interval,
        dae: match dae {
            Some(dae) => Some(dae?),
            None => None,
        },
    })
}

/// RFC 2869 §5.16.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(60);

fn server(section: &Section<'_>, number: usize) -> Option<ServerConfig> {
    let name = section.string("name", "a name, e.g. \"aaa1\"");
    let address = section.parsed::<IpAddr>("address", "an IP address");
    if !section.has("address") {
        section.missing("address", "the server's IP address");
    }
    let auth_port = port(section, "auth_port", AUTH_PORT);
    let acct_port = port(section, "acct_port", ACCT_PORT);
    let secret = secret(section);
    section.finish(&["preference", "sockets"]);
    let address = address?.value;
    Some(ServerConfig {
        name: name.map_or_else(|| format!("{number}"), |name| name.value.to_owned()),
        address,
        auth_port: auth_port?,
        acct_port: acct_port?,
        secret: secret?,
    })
}

fn dae(section: &Section<'_>) -> Option<DaeConfig> {
    let listen = match section.parsed::<IpAddr>("listen", "an IP address of ours") {
        Some(listen) => listen.value,
        None if section.has("listen") => return None,
        None => Ipv4Addr::UNSPECIFIED.into(),
    };
    let port = port(section, "port", DAE_PORT);
    let secret = secret(section);
    section.finish(&["enable"]);
    Some(DaeConfig { listen: SocketAddr::new(listen, port?), secret: secret? })
}

fn port(section: &Section<'_>, key: &'static str, default: u16) -> Option<u16> {
    match section.integer(key, 1..=65535) {
        Some(port) => u16::try_from(port.value).ok(),
        None => (!section.has(key)).then_some(default),
    }
}

fn secret(section: &Section<'_>) -> Option<Secret> {
    let (octets, span) = secrets::octets(section, "the secret that we share with it")?;
    if octets.len() < 16 {
        let message = format!(
            "has {} octets: whoever records one exchange can try every short secret at leisure (RFC 2865 §3; \
             recommended: 32 random octets, `openssl rand -hex 32`)",
            octets.len()
        );
        section.warning(span, "secret", message);
    }
    Some(Secret(octets))
}
