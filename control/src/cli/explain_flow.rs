//! `portcullis explain flow`: asks the daemon to walk a packet, and prints the walk.

use std::net::IpAddr;
use std::str::FromStr;

use clap::Args;
use portcullis_gateway::wire::protocol;

use crate::api::client::{Client, ClientError};
use crate::explain::flow::{self, FlowQuestion, FlowReport};

/// A port that a client might send from.
const EPHEMERAL: u16 = 49_152;
/// Type 8, code 0.
const ECHO_REQUEST: u16 = 0x0800;
const ECHO_REQUEST_V6: u16 = 0x8000;

#[derive(Debug, Args)]
pub(super) struct FlowArgs {
    /// Source address.
    #[arg(value_parser = super::address)]
    src: IpAddr,
    /// Destination address.
    #[arg(value_parser = super::address)]
    dst: IpAddr,
    /// tcp, udp, icmp, or a protocol number; left out: a ping.
    #[arg(value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// Destination port; of ICMP, the type.
    #[arg(value_name = "PORT")]
    port: Option<u16>,
    /// The device of connections (`interface`) that routes lead it into.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
struct Protocol(u8);

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            "sctp" => protocol::SCTP,
            "icmp" => protocol::ICMP,
            "icmp6" | "icmpv6" | "ipv6-icmp" => protocol::ICMPV6,
            "esp" => protocol::ESP,
            number => {
                number.parse().map_err(|_| format!("`{number}` is neither tcp, udp, icmp nor a number"))?
            }
        }))
    }
}

impl FlowArgs {
    fn question(&self) -> FlowQuestion {
        let ping = if self.dst.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMP };
        let number = self.protocol.map_or(ping, |protocol| protocol.0);
        let (src_port, dst_port) = match number {
            protocol::ICMP | protocol::ICMPV6 => {
                let echo = if number == protocol::ICMP { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
                let both = self.port.map_or(echo, |kind| if kind < 256 { kind << 8 } else { kind });
                (Some(both), Some(both))
            }
            _ => (self.port.map(|_| EPHEMERAL), self.port),
        };
        let interface = self.interface.clone();
        FlowQuestion { src: self.src, dst: self.dst, protocol: number, src_port, dst_port, interface }
    }
}

pub(super) async fn run(client: &Client, args: &FlowArgs) -> Result<String, ClientError> {
    let report: FlowReport = client.post("/v1/explain/flow", &args.question()).await?;
    if args.json {
        return super::json(&report);
    }
    Ok(super::explain::drawn(|page| flow::write(page, &report)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(protocol: Option<&str>, port: Option<u16>, dst: &str) -> (u8, Option<u16>, Option<u16>) {
        let protocol = protocol.map(|text| text.parse().unwrap());
        let (addr, interface) = (dst.parse().unwrap(), None);
        let args = FlowArgs { src: addr, dst: addr, protocol, port, interface, json: false };
        let FlowQuestion { protocol, src_port, dst_port, .. } = args.question();
        (protocol, src_port, dst_port)
    }

    #[test]
    fn what_is_left_out_is_a_ping() {
        assert_eq!(question(None, None, "10.0.0.1"), (1, Some(0x0800), Some(0x0800)));
        assert_eq!(question(None, None, "2001:db8::1"), (58, Some(0x8000), Some(0x8000)));
        assert_eq!(question(Some("icmp"), Some(3), "10.0.0.1"), (1, Some(0x0300), Some(0x0300)));
        assert_eq!(question(Some("tcp"), Some(443), "10.0.0.1"), (6, Some(EPHEMERAL), Some(443)));
        assert_eq!(question(Some("47"), None, "10.0.0.1"), (47, None, None));
    }
}
