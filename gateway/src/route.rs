//! Temporary stand-in.
#![allow(missing_docs, reason = "temporary")]
use ipnet::IpNet;
use std::net::IpAddr;
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortIndex(pub u16);
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Outside,
    Inside,
}
#[derive(Debug, Clone)]
pub struct PortInfo {
    pub index: PortIndex,
    pub ifindex: u32,
    pub name: String,
    pub role: Role,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub up: bool,
    pub addresses: Vec<IpNet>,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    Local,
    Port { port: PortIndex, src_mac: [u8; 6], dst_mac: [u8; 6], mtu: u32 },
    Unresolved { port: PortIndex, ifindex: u32, gateway: IpAddr, mtu: u32 },
    Kernel,
    LinkDown,
    None,
}
#[derive(Debug, Default)]
pub struct RouteTable {
    pub ports: Vec<PortInfo>,
    pub tunnel: Vec<IpAddr>,
    pub hops: Vec<(IpNet, NextHop)>,
}
impl RouteTable {
    pub fn port(&self, index: PortIndex) -> Option<&PortInfo> {
        self.ports.get(usize::from(index.0))
    }
    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }
    pub fn resolve(&self, dst: IpAddr) -> NextHop {
        self.hops.iter().find(|(n, _)| n.contains(&dst)).map_or(NextHop::None, |(_, h)| *h)
    }
    pub fn is_local(&self, a: IpAddr) -> bool {
        self.ports.iter().any(|p| p.addresses.iter().any(|n| n.addr() == a))
    }
    pub fn is_tunnel_address(&self, a: IpAddr) -> bool {
        self.tunnel.contains(&a)
    }
    pub fn address_for(&self, port: PortIndex, v6: bool) -> Option<IpAddr> {
        self.port(port)?.addresses.iter().map(|n| n.addr()).find(|a| a.is_ipv6() == v6)
    }
}
