//! The network that most trials need: two sites behind a gateway each, joined by a wire that can be captured.
//! And [`SiteConfig`], one end of the tunnel between them, told to Portcullis or to strongSwan.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::capture::Capture;
use crate::error::Result;
use crate::host::Host;
use crate::lab::{Lab, LinkOptions, Switch};

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(site: u16, host: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, host))
}

/// Two sites:
///
/// ```text
/// client --- inside0 a outside0 --- wire --- outside0 b inside0 --- server
///  10.1.0.10      .1   192.0.2.1          192.0.2.2   10.2.0.1      .10
///  2001:db8:1::10 ::1  2001:db8:f::1  2001:db8:f::2   2001:db8:2::1 ::10
/// ```
///
/// The gateways forward, and each has a default route to the other: without IPsec the sites reach each other in
/// clear. So whatever keeps clear text off the wire in a trial, it is not the lack of a route.
#[derive(Debug)]
pub struct Sites {
    /// A machine behind `a`.
    pub client: Host,
    /// A gateway.
    pub a: Host,
    /// Between the gateways.
    pub wire: Switch,
    /// The other gateway.
    pub b: Host,
    /// A machine behind `b`.
    pub server: Host,
    /// The wire's port towards `a`.
    pub port_a: String,
    /// The wire's port towards `b`.
    pub port_b: String,
    /// Owns all of them, so it is dropped last.
    pub lab: Lab,
}

impl Sites {
    /// The client's addresses.
    pub const CLIENT: IpAddr = v4(10, 1, 0, 10);
    /// See [`Sites::CLIENT`].
    pub const CLIENT_V6: IpAddr = v6(1, 0x10);
    /// Gateway `a` towards its site.
    pub const A_INSIDE: IpAddr = v4(10, 1, 0, 1);
    /// Gateway `a` on the wire.
    pub const A_OUTSIDE: IpAddr = v4(192, 0, 2, 1);
    /// See [`Sites::A_OUTSIDE`].
    pub const A_OUTSIDE_V6: IpAddr = v6(0xf, 1);
    /// Gateway `b` towards its site.
    pub const B_INSIDE: IpAddr = v4(10, 2, 0, 1);
    /// Gateway `b` on the wire.
    pub const B_OUTSIDE: IpAddr = v4(192, 0, 2, 2);
    /// See [`Sites::B_OUTSIDE`].
    pub const B_OUTSIDE_V6: IpAddr = v6(0xf, 2);
    /// The server's addresses.
    pub const SERVER: IpAddr = v4(10, 2, 0, 10);
    /// See [`Sites::SERVER`].
    pub const SERVER_V6: IpAddr = v6(2, 0x10);

    /// Makes the network; nothing runs in it yet.
    pub fn new(name: &str) -> Result<Self> {
        Self::with(name, LinkOptions::default())
    }

    /// As [`Sites::new`], with all links made to `options`.
    pub fn with(name: &str, options: LinkOptions) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (client, a, b, server) =
            (lab.host("client")?, lab.host("a")?, lab.host("b")?, lab.host("server")?);
        let wire = lab.switch("wire")?;
        let port_a = lab.plug_with(options, &wire, &a, "outside0")?;
        let port_b = lab.plug_with(options, &wire, &b, "outside0")?;
        lab.link_with(options, &client, "eth0", &a, "inside0")?;
        lab.link_with(options, &server, "eth0", &b, "inside0")?;
        for (site, (end, gateway)) in [(1, (&client, &a)), (2, (&server, &b))] {
            end.address("eth0", &format!("10.{site}.0.10/24"))?;
            end.address("eth0", &format!("2001:db8:{site}::10/64"))?;
            gateway.address("inside0", &format!("10.{site}.0.1/24"))?;
            gateway.address("inside0", &format!("2001:db8:{site}::1/64"))?;
            gateway.address("outside0", &format!("192.0.2.{site}/24"))?;
            gateway.address("outside0", &format!("2001:db8:f::{site}/64"))?;
            gateway.forward()?;
            let other = 3 - site;
            gateway.route("default", &format!("192.0.2.{other}"))?;
            gateway.route("default", &format!("2001:db8:f::{other}"))?;
            end.route("default", &format!("10.{site}.0.1"))?;
            end.route("default", &format!("2001:db8:{site}::1"))?;
        }
        Ok(Self { client, a, wire, b, server, port_a, port_b, lab })
    }

    /// Captures the wire at `a`'s end: `In` is what `a` has sent, `Out` is what is sent to it. ICMP between the
    /// gateways' outer addresses is not clear text.
    pub fn capture(&self) -> Result<Capture> {
        let outer = [Self::A_OUTSIDE, Self::B_OUTSIDE, Self::A_OUTSIDE_V6, Self::B_OUTSIDE_V6];
        self.wire.capture(&self.port_a, &outer)
    }
}

/// One end of a connection `site` with one child `net`, by pre-shared key.
#[derive(Clone, Debug)]
pub struct SiteConfig {
    /// Our outer address.
    pub local: String,
    /// The peer's outer address.
    pub remote: String,
    /// Our identity.
    pub local_id: String,
    /// The peer's identity.
    pub remote_id: String,
    /// Proposals of the IKE SA.
    pub proposals: String,
    /// Proposals of the child.
    pub esp_proposals: String,
    /// Our prefixes.
    pub local_ts: Vec<String>,
    /// The peer's prefixes.
    pub remote_ts: Vec<String>,
    /// "none", "trap" or "start".
    pub start_action: &'static str,
    /// The pre-shared key.
    pub secret: String,
}

impl SiteConfig {
    /// Gateway `a` of [`Sites`], both families inside, ESN.
    pub fn a() -> Self {
        let own = |texts: [&str; 2]| texts.map(str::to_owned).to_vec();
        Self {
            local: "192.0.2.1".into(),
            remote: "192.0.2.2".into(),
            local_id: "a.example".into(),
            remote_id: "b.example".into(),
            proposals: "aes256gcm16-prfsha384-x25519".into(),
            esp_proposals: "aes256gcm16-esn".into(),
            local_ts: own(["10.1.0.0/24", "2001:db8:1::/64"]),
            remote_ts: own(["10.2.0.0/24", "2001:db8:2::/64"]),
            start_action: "none",
            secret: "correct horse battery staple".into(),
        }
    }

    /// The other end of this connection.
    #[must_use]
    pub fn mirrored(&self) -> Self {
        Self {
            local: self.remote.clone(),
            remote: self.local.clone(),
            local_id: self.remote_id.clone(),
            remote_id: self.local_id.clone(),
            local_ts: self.remote_ts.clone(),
            remote_ts: self.local_ts.clone(),
            ..self.clone()
        }
    }

    /// For Portcullis.
    pub fn toml(&self) -> String {
        self.toml_named("site")
    }

    /// For Portcullis, with another name than `site`, where a gateway has several connections.
    pub fn toml_named(&self, name: &str) -> String {
        let Self { local, remote, local_id, remote_id, proposals, esp_proposals, .. } = self;
        let Self { local_ts, remote_ts, start_action, secret, .. } = self;
        format!(
            "[connections.{name}]\n\
             local_addrs = [\"{local}\"]\n\
             remote_addrs = [\"{remote}\"]\n\
             proposals = [\"{proposals}\"]\n\
             local = {{ auth = \"psk\", id = \"{local_id}\" }}\n\
             remote = {{ auth = \"psk\", id = \"{remote_id}\" }}\n\n\
             [connections.{name}.children.net]\n\
             local_ts = {local_ts:?}\n\
             remote_ts = {remote_ts:?}\n\
             esp_proposals = [\"{esp_proposals}\"]\n\
             start_action = \"{start_action}\"\n\n\
             [secrets.ike-{name}]\n\
             ids = [\"{local_id}\", \"{remote_id}\"]\n\
             secret = \"{secret}\"\n"
        )
    }

    /// For strongSwan, as `swanctl.conf`.
    pub fn swanctl(&self) -> String {
        let Self { local, remote, local_id, remote_id, proposals, esp_proposals, .. } = self;
        let (local_ts, remote_ts) = (self.local_ts.join(","), self.remote_ts.join(","));
        let Self { start_action, secret, .. } = self;
        format!(
            "connections {{\n  site {{\n\
             local_addrs = {local}\n\
             remote_addrs = {remote}\n\
             proposals = {proposals}\n\
             local {{\n auth = psk\n id = {local_id}\n }}\n\
             remote {{\n auth = psk\n id = {remote_id}\n }}\n\
             children {{\n net {{\n\
             local_ts = {local_ts}\n\
             remote_ts = {remote_ts}\n\
             esp_proposals = {esp_proposals}\n\
             start_action = {start_action}\n\
             }}\n }}\n }}\n}}\n\
             secrets {{\n ike-site {{\n\
             id-1 = {local_id}\n\
             id-2 = {remote_id}\n\
             secret = \"{secret}\"\n }}\n}}\n"
        )
    }
}
