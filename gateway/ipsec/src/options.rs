//! How the packets of a CHILD SA are treated besides being encrypted. Names are swanctl.conf's where it has them.

use crate::TrafficSelector;

/// What is protected of a packet (RFC 4301 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// All of it, behind a header of its own.
    #[default]
    Tunnel,
    /// What its IP header carries: for traffic between the two ends of the SA themselves.
    Transport,
}

impl Mode {
    /// Whether transport mode is possible between these selectors: each side one single address, as they are the
    /// addresses that the packets' only header has (RFC 4301 §4.1).
    pub fn transport_fits(local_ts: &[TrafficSelector], remote_ts: &[TrafficSelector]) -> bool {
        let single = |list: &[TrafficSelector]| {
            let first = list.first().map(|ts| ts.addrs.start());
            first.is_some_and(|first| list.iter().all(|ts| [ts.addrs.start(), ts.addrs.end()] == [first; 2]))
        };
        single(local_ts) && single(remote_ts)
    }
}

/// Which way the DSCP is copied between inner and outer header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CopyDscp {
    /// From the inner to the outer header.
    #[default]
    Out,
    /// From the outer to the inner header.
    In,
    /// Both.
    Yes,
    /// Neither.
    No,
}

impl CopyDscp {
    /// On the way into the tunnel.
    pub const fn outwards(self) -> bool {
        matches!(self, Self::Out | Self::Yes)
    }

    /// On the way out of it.
    pub const fn inwards(self) -> bool {
        matches!(self, Self::In | Self::Yes)
    }
}

/// The outer IPv4 header's DF (RFC 4301 §8.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CopyDf {
    /// As in the inner header; set for inner IPv6.
    #[default]
    Yes,
    /// Clear: routers, and we, may fragment the outer packet.
    No,
    /// Set.
    Set,
}

/// Padding against the analysis of packet sizes (RFC 4303 §2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TfcPadding {
    /// None.
    #[default]
    Off,
    /// Inner packets are padded to at least so many octets, as far as the path's MTU allows.
    To(u16),
    /// To what the path's MTU allows.
    Mtu,
}

/// Where a packet that is too big, and may be fragmented, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Fragmentation {
    /// Before encryption: the receiving host puts the pieces together.
    #[default]
    Before,
    /// After it: the peer's gateway does.
    After,
}

/// Limit of the segment size that TCP announces through the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MssClamp {
    /// None.
    #[default]
    Off,
    /// So many octets at most.
    To(u16),
    /// What the tunnel takes at its present MTU.
    Mtu,
}

/// All of these. The default is what swanctl's is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SaOptions {
    /// Tunnel or transport. What follows is of tunnel mode alone, but for `fragmentation` and `mss_clamp`.
    pub mode: Mode,
    /// Whether the DSCP is copied.
    pub copy_dscp: CopyDscp,
    /// The outer DSCP where it is not copied: 0 to 63.
    pub dscp: u8,
    /// Whether the ECN field is copied into the outer header (RFC 6040 normal mode) or zero there (compatibility mode).
    pub copy_ecn: bool,
    /// The outer DF.
    pub copy_df: CopyDf,
    /// What is fragmented where.
    pub fragmentation: Fragmentation,
    /// Padding of what we send.
    pub tfc_padding: TfcPadding,
    /// Both ways.
    pub mss_clamp: MssClamp,
}

impl Default for SaOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Tunnel,
            copy_dscp: CopyDscp::Out,
            dscp: 0,
            copy_ecn: true,
            copy_df: CopyDf::Yes,
            fragmentation: Fragmentation::Before,
            tfc_padding: TfcPadding::Off,
            mss_clamp: MssClamp::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transport_mode_is_between_two_addresses() {
        let list =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<TrafficSelector>>();
        let fits = |local: &[&str], remote: &[&str]| Mode::transport_fits(&list(local), &list(remote));
        assert!(fits(&["192.0.2.1"], &["192.0.2.2"]));
        assert!(fits(&["192.0.2.1[tcp/80]", "192.0.2.1[udp]"], &["2001:db8::1/128"]));
        assert!(!fits(&["192.0.2.1", "192.0.2.3"], &["192.0.2.2"]));
        assert!(!fits(&["192.0.2.1"], &["192.0.2.0/24"]));
        assert!(!fits(&[], &["192.0.2.2"]));
    }
}
