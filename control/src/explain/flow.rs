//! `portcullis explain flow`: a packet's walk through the data plane's tables in plain words, and where it stops.

use std::net::IpAddr;

use portcullis_gateway::dataplane::{Firewall, Hop, Miss, RateWalk, Role, SaWalk, Walk};
use portcullis_gateway::wire::protocol;
use portcullis_ike::config::StartAction;
use portcullis_ipsec::{Flow, Policy, PolicyAction, PolicyOrigin};
use serde::{Deserialize, Serialize};

use super::{Page, Style};
use crate::config::Config;

/// Body of `POST /v1/explain/flow`: a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowQuestion {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// Source port; of ICMP `type << 8 | code`; `null`: it cannot be seen.
    pub src_port: Option<u16>,
    /// Destination port, likewise.
    pub dst_port: Option<u16>,
    /// The device of connections that routes lead it into; `null`: none.
    #[serde(default)]
    pub interface: Option<String>,
}

impl From<&FlowQuestion> for Flow {
    fn from(question: &FlowQuestion) -> Self {
        let FlowQuestion { src, dst, protocol, src_port, dst_port, .. } = *question;
        Self { src, dst, protocol, src_port, dst_port }
    }
}

/// A packet's walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// The packet.
    pub flow: String,
    /// What each stage says, in order. The last one decides.
    pub steps: Vec<FlowStep>,
    /// `sealed`, `opened` (out of a tunnel), `in_clear`, `to_host`, `held` or `dropped`.
    pub verdict: String,
    /// The reason under which it is counted, if it is dropped.
    pub reason: Option<String>,
    /// What to change, if it does not go through: lines of the configuration or commands.
    pub fix: Vec<String>,
}

/// What a stage says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowStep {
    /// `arrival`, `firewall`, `policy`, `sa`, `rate`, `route`, `neighbour` or `mtu`.
    pub stage: String,
    /// Whether the packet gets past it.
    pub passes: bool,
    /// In words.
    pub text: String,
}

/// The packet, with its protocol's name; ICMP has a type and a code where others have ports.
fn named(flow: &Flow) -> String {
    let Flow { src, dst, protocol, .. } = *flow;
    let name = match protocol {
        protocol::ICMP | protocol::ICMPV6 => {
            let name = if protocol == protocol::ICMP { "icmp" } else { "icmp6" };
            return match flow.src_port.map(u16::to_be_bytes) {
                Some([kind, code]) => format!("{src} > {dst}, {name} type {kind} code {code}"),
                None => format!("{src} > {dst}, {name}"),
            };
        }
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::SCTP => "sctp".to_owned(),
        protocol::ESP => "esp".to_owned(),
        number => format!("protocol {number}"),
    };
    let end = |addr: IpAddr, port: Option<u16>| match port {
        Some(port) => format!("{addr}[{port}]"),
        None => addr.to_string(),
    };
    format!("{} > {}, {name}", end(src, flow.src_port), end(dst, flow.dst_port))
}

/// Tells the walk in words; of a packet that routes lead into a device, with its name.
pub fn report(walk: &Walk, flow: &Flow, config: &Config, device: Option<&str>) -> FlowReport {
    let mut told = Told { steps: Vec::new(), fix: Vec::new() };
    let (verdict, reason) = match device {
        Some(device) => told.routed(walk, flow, config, device),
        None => told.walk(walk, flow, config),
    };
    FlowReport {
        flow: named(flow),
        steps: told.steps,
        verdict: verdict.to_owned(),
        reason: reason.map(str::to_owned),
        fix: told.fix,
    }
}

/// Writes it for people.
pub fn write(page: &mut Page, report: &FlowReport) {
    page.line(&[(Style::Strong, &report.flow)]);
    for step in &report.steps {
        let style = if step.passes { Style::Good } else { Style::Bad };
        page.line(&[(style, &format!("  {:<10}", step.stage)), (Style::Plain, &step.text)]);
    }
    let verdict = match (report.verdict.as_str(), &report.reason) {
        ("sealed", _) => "goes through the tunnel".to_owned(),
        ("opened", _) => "comes out of the tunnel, and goes on".to_owned(),
        ("in_clear", _) => "goes on in clear".to_owned(),
        ("to_host", _) => "is for this host".to_owned(),
        ("held", _) => "waits for the SA that it asks for".to_owned(),
        (_, Some(reason)) => format!("is dropped ({reason})"),
        _ => "is dropped".to_owned(),
    };
    let style = if report.verdict == "dropped" { Style::Bad } else { Style::Good };
    page.line(&[(style, &format!("  The packet {verdict}."))]);
    if !report.fix.is_empty() {
        page.gap();
        page.line(&[(Style::Strong, "  To change that:")]);
        for line in &report.fix {
            page.line(&[(Style::Plain, &format!("    {line}"))]);
        }
    }
}

/// A verdict and, of a drop, the reason that counts it.
type End = (&'static str, Option<&'static str>);

struct Told {
    steps: Vec<FlowStep>,
    fix: Vec<String>,
}

impl Told {
    fn step(&mut self, stage: &str, passes: bool, text: String) {
        self.steps.push(FlowStep { stage: stage.to_owned(), passes, text });
    }

    fn walk(&mut self, walk: &Walk, flow: &Flow, config: &Config) -> End {
        if let Some(end) = self.arrival(walk, flow, config) {
            return end;
        }
        match &walk.policy {
            Some(policy) => self.decided(walk, policy, flow, config),
            None => self.no_policy(walk, flow),
        }
    }

    /// What the policy that covers it does.
    fn decided(&mut self, walk: &Walk, policy: &Policy, flow: &Flow, config: &Config) -> End {
        let name = &policy.name;
        match policy.action {
            PolicyAction::Discard => {
                self.step(
                    "policy",
                    false,
                    format!("{name} drops it (mode = \"drop\", {})", selectors(policy)),
                );
                self.fix.push(format!(
                    "narrow local_ts and remote_ts of [connections.{}], or give what should go first a lower `priority` \
                     than {}",
                    table(name),
                    policy.precedence()
                ));
                ("dropped", Some("discarded"))
            }
            PolicyAction::Bypass => {
                self.step(
                    "policy",
                    true,
                    format!("{name} lets it pass in clear (mode = \"pass\", {})", selectors(policy)),
                );
                self.way("its destination", flow.dst, &walk.to).unwrap_or(("in_clear", None))
            }
            PolicyAction::Protect => {
                let origin = match policy.origin {
                    PolicyOrigin::Negotiated => "as negotiated",
                    PolicyOrigin::Configured { .. } => "as configured",
                };
                if !policy.tenant.is_routed() {
                    self.firewall(config, "from an inside interface into");
                }
                self.step("policy", true, format!("{name} protects it, {origin} ({})", selectors(policy)));
                match &walk.sa {
                    Some(sa) => self.through(sa, policy, walk.rate_out, config),
                    None => self.no_sa(policy, config),
                }
            }
        }
    }

    /// Of a packet that routes lead into a device, or that comes out of it.
    fn routed(&mut self, walk: &Walk, flow: &Flow, config: &Config, device: &str) -> End {
        let Some(policy) = &walk.policy else {
            if let Some(back) = walk.back.as_ref().filter(|back| back.action == PolicyAction::Protect) {
                let name = &back.name;
                let text =
                    format!("{} is on the far side of {name}: it comes out of that tunnel, sealed", flow.src);
                self.step("arrival", true, text);
                self.rate("rate_in", name, walk.rate_in);
                let text = format!(
                    "the host gets it by {device}, and its routes and firewall take it on from there"
                );
                self.step("firewall", true, text);
                return ("opened", None);
            }
            let text = format!(
                "the host's routes lead it into {device}, but no policy of connections with that interface covers it"
            );
            self.step("policy", false, text);
            self.near(walk);
            return ("dropped", Some("no_policy"));
        };
        let text = format!("the host's routes lead it into {device}, if `ip route get {}` says so", flow.dst);
        self.step("arrival", true, text);
        self.decided(walk, policy, flow, config)
    }

    /// Whether it gets to policy at all.
    fn arrival(&mut self, walk: &Walk, flow: &Flow, config: &Config) -> Option<End> {
        let Flow { src, dst, .. } = flow;
        if walk.to == Hop::Own {
            self.step("arrival", true, format!("{dst} is an address of this host: no policy is asked"));
            return Some(("to_host", None));
        }
        match &walk.from {
            Hop::Own => {
                self.step("arrival", true, format!("{src} is this host: it comes through the TUN device"))
            }
            Hop::Interface { name, role: Role::Inside, .. } => {
                self.step("arrival", true, format!("{src} is behind {name}, an inside interface"));
            }
            Hop::Interface { name, role: Role::Both, .. } if walk.policy.is_some() => {
                let text =
                    format!("{src} is behind {name}, an interface for both sides, and within a local_ts");
                self.step("arrival", true, text);
            }
            Hop::Interface { name, .. } => return self.outside(walk, flow, name, config),
            Hop::Kernel => {
                self.step(
                    "arrival",
                    true,
                    format!("{src} is behind an interface that no worker serves: the kernel routes it"),
                );
            }
            Hop::Down => self.step("arrival", true, format!("{src} is behind an interface that is down")),
            Hop::None => self.step("arrival", true, format!("there is no route back to {src}")),
        }
        if !walk.protected && walk.policy.is_none() {
            self.step(
                "policy",
                true,
                format!("no policy that protects has {src} among local_ts and {dst} among remote_ts: it is left to the kernel"),
            );
            self.devices(config);
            self.near(walk);
            return Some(("in_clear", None));
        }
        None
    }

    /// What is left to the kernel may be led into a device.
    fn devices(&mut self, config: &Config) {
        if let names @ [first, ..] = config.devices.names() {
            let text =
                format!("its routes may lead it into {}: asked with --interface {first}", names.join(" or "));
            self.step("route", true, text);
        }
    }

    fn outside(&mut self, walk: &Walk, flow: &Flow, interface: &str, config: &Config) -> Option<End> {
        let Flow { src, dst, .. } = flow;
        match &walk.back {
            Some(policy) if policy.action == PolicyAction::Protect => {
                let name = &policy.name;
                self.step(
                    "arrival",
                    true,
                    format!("{src} is on the far side of {name}: it comes out of that tunnel, sealed"),
                );
                self.step(
                    "policy",
                    true,
                    format!("in clear by {interface} it is dropped (xdp_clear_inbound)"),
                );
                self.rate("rate_in", name, walk.rate_in);
                self.firewall(config, "out of");
                Some(self.way("its destination", *dst, &walk.to).unwrap_or(("opened", None)))
            }
            Some(policy) if policy.action == PolicyAction::Bypass => {
                self.step(
                    "arrival",
                    true,
                    format!("in clear by {interface}, which {} lets pass", policy.name),
                );
                Some(self.way("its destination", *dst, &walk.to).unwrap_or(("in_clear", None)))
            }
            Some(policy) => {
                self.step("arrival", false, format!("by {interface}, and {} drops it", policy.name));
                Some(("dropped", Some("clear_inbound")))
            }
            None if walk.remote => {
                let text = format!(
                    "{src} is behind {interface}, an outside interface: in clear it does not come in, because {src} or \
                     {dst} is among the remote_ts of a policy"
                );
                self.step("arrival", false, text);
                self.near(walk);
                Some(("dropped", Some("xdp_clear_inbound")))
            }
            None => {
                let text =
                    format!("{src} is behind {interface}, an outside interface, and no policy is about it");
                self.step("arrival", true, format!("{text}: it is left to the kernel"));
                Some(("in_clear", None))
            }
        }
    }

    fn no_policy(&mut self, walk: &Walk, flow: &Flow) -> End {
        let text = format!(
            "none covers it, though policies have {} among local_ts and {} among remote_ts: workers get it, and drop it",
            flow.src, flow.dst
        );
        self.step("policy", false, text);
        self.near(walk);
        ("dropped", Some("no_policy"))
    }

    /// What would have to change for the policies that nearly cover it.
    fn near(&mut self, walk: &Walk) {
        for (policy, miss) in &walk.near {
            let name = &policy.name;
            let (what, change) = match miss {
                Miss::Source => ("the source", "local_ts"),
                Miss::Destination => ("the destination", "remote_ts"),
                Miss::Ports => ("protocol or ports", "local_ts and remote_ts"),
            };
            self.step("policy", false, format!("{name} would, but for {what} ({})", selectors(policy)));
            let both =
                if policy.action == PolicyAction::Protect { ", on both sides of the tunnel" } else { "" };
            self.fix.push(format!("widen {change} of [connections.{}]{both}", table(name)));
        }
    }

    fn no_sa(&mut self, policy: &Policy, config: &Config) -> End {
        let name = &policy.name;
        let connection = name.split('/').next().unwrap_or_default();
        let child = config.connection(connection).and_then(|connection| {
            connection.children.iter().find(|child| name.ends_with(&format!("/{}", child.name)))
        });
        let action = child.map_or(StartAction::None, |child| child.start_action);
        match action {
            StartAction::Trap => {
                self.step("sa", true, format!("{name} has none; this packet asks for one, and waits for it"));
                self.fix.push(format!("if none comes up: portcullis explain peer {connection}"));
                ("held", None)
            }
            StartAction::Start => {
                self.step(
                    "sa",
                    false,
                    format!("{name} has none, though it is to be started from here: its negotiation fails"),
                );
                self.fix.push(format!("portcullis explain peer {connection}"));
                ("dropped", Some("no_sa"))
            }
            StartAction::None => {
                self.step("sa", false, format!("{name} has none: nobody has brought it up"));
                self.fix.push(format!("portcullis initiate {name}"));
                self.fix.push(format!(
                    "start_action = \"trap\" in [connections.{}], and its packets will",
                    table(name)
                ));
                ("dropped", Some("no_sa"))
            }
        }
    }

    fn through(&mut self, sa: &SaWalk, policy: &Policy, rate: Option<RateWalk>, config: &Config) -> End {
        let list = |selectors: &[portcullis_ipsec::TrafficSelector]| {
            selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let negotiated = format!("{} to {}", list(&sa.local_ts), list(&sa.remote_ts));
        let (spi, remote) = (sa.spi_out, sa.endpoints.remote);
        if !sa.covers {
            self.step("sa", false, format!("spi {spi} to {remote} was narrowed by the peer to {negotiated}"));
            self.fix.push(format!(
                "the peer's selectors must cover local_ts and remote_ts of [connections.{}]",
                table(&policy.name)
            ));
            return ("dropped", Some("outside_sa"));
        }
        self.step("sa", true, format!("spi {spi} to {remote}, for {negotiated}"));
        self.rate("rate_out", &policy.name, rate);
        if let Some(end) = self.way("the peer", remote, &sa.hop) {
            return end;
        }
        if let Some(largest) = sa.largest {
            let connection = config.connection(policy.name.split('/').next().unwrap_or_default());
            let encapsulated =
                if connection.is_some_and(|connection| connection.encap) { ", in UDP" } else { "" };
            let text = format!(
                "packets of up to {largest} octets fit{encapsulated}; of larger ones the sender is told, or they are cut"
            );
            self.step("mtu", true, text);
        }
        ("sealed", None)
    }

    /// Where the host's firewall has a say.
    fn firewall(&mut self, config: &Config, way: &str) {
        if config.gateway.firewall == Firewall::Kernel {
            let tun = &config.gateway.tun;
            let text =
                format!("the host's firewall sees it in clear, {way} {tun} (gateway.firewall = \"kernel\")");
            self.step("firewall", true, text);
        }
    }

    /// What its tunnel may carry in time, if that is limited.
    fn rate(&mut self, key: &str, name: &str, rate: Option<RateWalk>) {
        let Some(RateWalk { limit, dropped }) = rate else { return };
        let text = match dropped {
            0 => format!("{key} of {name} is {limit}: nothing was beyond it so far"),
            _ => {
                format!("{key} of {name} is {limit}: packets beyond it are dropped ({key}), {dropped} so far")
            }
        };
        self.step("rate", true, text);
    }

    /// The way to an address; the end, if there is none.
    fn way(&mut self, whose: &str, addr: IpAddr, hop: &Hop) -> Option<End> {
        match hop {
            Hop::Interface { name, unresolved, mtu, .. } => {
                self.step(
                    "route",
                    true,
                    format!("{whose}, {addr}, is reached by {name}, with an MTU of {mtu}"),
                );
                if let Some(next) = unresolved {
                    let text = format!("{next} has not answered yet: packets wait for it, for 4 s at most");
                    self.step("neighbour", true, text);
                    self.fix.push(format!("if it stays silent: ip neigh show {next}; ping {next}"));
                } else {
                    self.step("neighbour", true, "known".to_owned());
                }
                None
            }
            Hop::Own => {
                self.step("route", true, format!("{whose}, {addr}, is this host"));
                None
            }
            Hop::Kernel => {
                self.step(
                    "route",
                    false,
                    format!("{whose}, {addr}, is reached by an interface that no worker serves"),
                );
                self.fix.push(
                    "add the interface as a [[gateway.interfaces]] table, or route by one that is".to_owned(),
                );
                Some(("dropped", Some("no_egress")))
            }
            Hop::Down => {
                self.step(
                    "route",
                    false,
                    format!("{whose}, {addr}, is reached by an interface that is down"),
                );
                self.fix.push(format!("ip route get {addr}; ip link set dev INTERFACE up"));
                Some(("dropped", Some("link_down")))
            }
            Hop::None => {
                self.step("route", false, format!("there is no route to {whose}, {addr}"));
                self.fix.push(format!("ip route add {addr} via NEXT_HOP (or a default route)"));
                Some(("dropped", Some("no_route")))
            }
        }
    }
}

fn selectors(policy: &Policy) -> String {
    let list = |selectors: &[portcullis_ipsec::TrafficSelector]| {
        selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    format!("{} to {}", list(&policy.local_ts), list(&policy.remote_ts))
}

/// The child's table in the configuration, below `connections`.
fn table(name: &str) -> String {
    name.replacen('/', ".children.", 1)
}
