//! The names of ipsec_exporter, which reads them off `ipsec statusall`: dashboards and alerts made for strongSwan go on working.
//! A tunnel there is a `conn` of ipsec.conf; here it is a connection, as `portcullis import` makes one of it.

use std::collections::BTreeMap;

use super::text::Family;
use crate::api::types::IkeSa;
use crate::config::Config;
use crate::daemon::Carried;

const PREFIX: &str = "ipsec";

/// An IKE SA and a CHILD SA are up.
const TUNNEL_INSTALLED: u64 = 0;
/// An IKE SA is up, and no CHILD SA.
const CONNECTION_ESTABLISHED: u64 = 1;
/// Nothing is up. (3, unknown, and 4, ignored, are of the exporter itself: for output that it does not understand, and
/// `auto=ignore`.)
const DOWN: u64 = 2;

/// A sample of each for every connection.
pub(super) fn families(config: &Config, sas: &[IkeSa], carried: &BTreeMap<String, Carried>) -> [Family; 6] {
    let mut up = Family::foreign_gauge(PREFIX, "up", "Whether the tunnel could be asked about: always");
    let mut status = Family::foreign_gauge(
        PREFIX,
        "status",
        "0: the tunnel is up; 1: its IKE SA is, without a CHILD SA; 2: down",
    );
    let counter = |name, help| Family::foreign_counter(PREFIX, name, help);
    let mut bytes_in = counter("in_bytes", "Octets of inner packets received, over all SAs");
    let mut bytes_out = counter("out_bytes", "Octets of inner packets sent, over all SAs");
    let mut packets_in = counter("in_packets", "Inner packets received, over all SAs");
    let mut packets_out = counter("out_packets", "Inner packets sent, over all SAs");
    for connection in &config.engine.connections {
        let name = connection.name.as_str();
        let tunnel = [("tunnel", name)];
        let counts = carried.get(name).copied().unwrap_or_default();
        up = up.with(&tunnel, 1_u64);
        status = status.with(&tunnel, state(name, sas));
        bytes_in = bytes_in.with(&tunnel, counts.bytes_in);
        bytes_out = bytes_out.with(&tunnel, counts.bytes_out);
        packets_in = packets_in.with(&tunnel, counts.packets_in);
        packets_out = packets_out.with(&tunnel, counts.packets_out);
    }
    [up, status, bytes_in, bytes_out, packets_in, packets_out]
}

fn state(connection: &str, sas: &[IkeSa]) -> u64 {
    let mut up =
        sas.iter().filter(|ike| ike.connection.as_deref() == Some(connection) && ike.state == "ESTABLISHED");
    match up.next() {
        None => DOWN,
        Some(first) if std::iter::once(first).chain(up).any(|ike| !ike.children.is_empty()) => {
            TUNNEL_INSTALLED
        }
        Some(_) => CONNECTION_ESTABLISHED,
    }
}
