//! What the programs are told: prefixes, addresses, ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

/// Which end of which policies a prefix is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// A `local_ts` of a policy that does not bypass.
    Local,
    /// A `remote_ts` of a policy that does not bypass.
    Remote,
    /// A `local_ts` of a policy that bypasses.
    PassLocal,
    /// A `remote_ts` of a policy that bypasses.
    PassRemote,
}

impl Side {
    /// All of them, in order of discriminant.
    pub const ALL: [Self; 4] = [Self::Local, Self::Remote, Self::PassLocal, Self::PassRemote];
}

/// What an address of the host is used for, besides being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AddressUse {
    /// ESP and IKE come to it.
    pub tunnel: bool,
    /// It is on an outside interface.
    pub outside: bool,
}

/// All that the programs are told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Protection {
    /// Prefixes of the `local_ts` of all policies that do not bypass, without host bits.
    pub local: BTreeSet<IpNet>,
    /// Prefixes of their `remote_ts`, without host bits.
    pub remote: BTreeSet<IpNet>,
    /// Prefixes of the `local_ts` of policies that bypass, without host bits: what comes in clear to them by an outside
    /// interface is shown to a worker before it is dropped.
    pub pass_local: BTreeSet<IpNet>,
    /// Prefixes of their `remote_ts`, from where it has to come.
    pub pass_remote: BTreeSet<IpNet>,
    /// All addresses of the host. Those of other hosts that the kernel takes for its own (broadcast addresses of
    /// its subnets, anycast) may be among them.
    pub addresses: BTreeMap<IpAddr, AddressUse>,
    /// UDP port of IKE, normally 500.
    pub ike_port: u16,
    /// UDP port of IKE and ESP behind a NAT, normally 4500.
    pub nat_t_port: u16,
    /// Whether clear text between protected prefixes, from inside, goes to the kernel and its firewall first.
    pub firewall: bool,
}

impl Protection {
    /// The prefixes of one side.
    pub fn prefixes(&self, side: Side) -> &BTreeSet<IpNet> {
        match side {
            Side::Local => &self.local,
            Side::Remote => &self.remote,
            Side::PassLocal => &self.pass_local,
            Side::PassRemote => &self.pass_remote,
        }
    }

    pub(super) fn prefixes_mut(&mut self, side: Side) -> &mut BTreeSet<IpNet> {
        match side {
            Side::Local => &mut self.local,
            Side::Remote => &mut self.remote,
            Side::PassLocal => &mut self.pass_local,
            Side::PassRemote => &mut self.pass_remote,
        }
    }
}
