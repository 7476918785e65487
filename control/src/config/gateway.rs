//! `[gateway]`: interfaces, cores and the data plane; and `[ike]`: timers and limits of the IKE engine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_gateway::dataplane::{
    EngineKind, Firewall, InterfaceConfig, OnStop, Role, TrapLimits, XdpMode,
};
use portcullis_ike::config::{ConnectionConfig, EngineConfig, Retransmission};
use portcullis_ike::engine::MAX_SHARDS;

use super::credentials::Directories;
use super::reader::Section;
use super::secrets::Secrets;
use crate::events::routes::{Export, ExportConfig};

/// `[gateway]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Interfaces, at least one outside and one inside.
    pub interfaces: Vec<InterfaceConfig>,
    /// Cores, one worker pinned to each.
    pub workers: Vec<usize>,
    /// Engines that share the work of IKE.
    pub ike_shards: u8,
    /// Frames of the UMEM.
    pub frames: u32,
    /// Octets of a frame: 2048 or 4096.
    pub frame_size: u32,
    /// SA pairs that the table holds.
    pub max_sas: usize,
    /// Name of the TUN device.
    pub tun: String,
    /// Where XDP program and maps are pinned.
    pub pin_dir: PathBuf,
    /// The admin API's socket.
    pub admin_socket: PathBuf,
    /// Where leases are kept over restarts.
    pub state_dir: PathBuf,
    /// Where Prometheus scrapes; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Whose names metrics have beside ours; `None`: nobody's.
    pub metrics_compatibility: Option<MetricsCompatibility>,
    /// AEAD engine; `None`: the fastest that this processor runs.
    pub aead_engine: Option<EngineKind>,
    /// What an orderly stop leaves.
    pub on_stop: OnStop,
    /// Who forwards what is in clear.
    pub firewall: Firewall,
    /// Routing table of the protected routes.
    pub route_table: u32,
    /// Firewall mark of what the daemon itself sends.
    pub mark: u32,
    /// For how long an idle worker looks for packets before it sleeps, at most.
    pub spin: Duration,
    /// For how long drivers work when a worker asks for packets; `None`: they work by interrupts.
    pub busy_poll: Option<Duration>,
    /// How long a worker may stand still.
    pub watchdog: Duration,
    /// How many packets may wait for SAs that they have asked for, and how long.
    pub trap: TrapLimits,
    /// Whether `portcullis capture` may show what ESP protects.
    pub allow_decrypted_capture: bool,
    /// Whether the daemon takes from itself what it does not need.
    pub sandbox: bool,
    /// Routes for a routing daemon, if there are to be any.
    pub export_routes: Option<ExportConfig>,
    /// Who may come by TCP.
    pub tcp: TcpConfig,
    /// How hooks are run.
    pub updown: UpdownConfig,
    /// Where certificates and keys are looked for.
    pub credentials: Directories,
}

/// Names that others have given to what we measure too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsCompatibility {
    /// ipsec_exporter's, for strongSwan.
    IpsecExporter,
}

/// TCP encapsulation (RFC 9329), as far as peers begin it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpConfig {
    /// Where it is taken; `None`: nowhere.
    pub port: Option<u16>,
    /// Connections at once.
    pub connections: usize,
}

/// How `updown` hooks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdownConfig {
    /// How long one may take.
    pub timeout: Duration,
    /// How many run at once.
    pub at_once: usize,
}

/// Where the admin API listens unless `gateway.admin_socket` says otherwise.
pub const DEFAULT_ADMIN_SOCKET: &str = "/run/portcullis/admin.sock";

/// Where Prometheus scrapes unless `gateway.metrics` says otherwise.
const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// For how long an idle worker looks for packets unless `gateway.spin` says otherwise: about what it takes to sleep and to
/// be woken.
const DEFAULT_SPIN: Duration = Duration::from_micros(50);

/// Shards of the IKE engine unless `gateway.ike_shards` says otherwise, at most.
const MOST_SHARDS_UNASKED: usize = 8;

/// How long a worker may stand still unless `gateway.watchdog` says otherwise.
const DEFAULT_WATCHDOG: Duration = Duration::from_secs(10);

impl GatewayConfig {
    /// `routed`: whether connections have devices of their own, so that nothing need be inside.
    pub(super) fn from_section(section: Section<'_>, base: &Path, routed: bool) -> Option<Self> {
        let interfaces = interfaces(&section, routed);
        let workers = workers(&section);
        let ike_shards = section.integer("ike_shards", 1..=i64::from(MAX_SHARDS));
        let ike_shards =
            ike_shards.map_or_else(|| spare_processors(workers.len()), |shards| shards.value as u8);
        let frames = section.integer("frames", 512..=16_777_216).map_or(16_384, |frames| frames.value as u32);
        let frame_size = frame_size(&section);
        let max_sas = section.integer("max_sas", 1..=1_048_576).map_or(4096, |max| max.value as usize);
        let tun =
            section.string("tun", "an interface name").and_then(|name| interface_name(&section, "tun", name));
        let path = |key, default: &str| {
            let path = section.string(key, "a path").map_or(default, |path| path.value);
            PathBuf::from(path)
        };
        let pin_dir = path("pin_dir", "/sys/fs/bpf/portcullis");
        let admin_socket = path("admin_socket", DEFAULT_ADMIN_SOCKET);
        let state_dir = path("state_dir", "/var/lib/portcullis");
        let metrics = metrics(&section);
        let metrics_compatibility = section
            .choice("metrics_compatibility", &[("ipsec_exporter", MetricsCompatibility::IpsecExporter)]);
        let aead_engine = aead_engine(&section);
        let on_stop = section.choice("on_stop", &[("closed", OnStop::Closed), ("open", OnStop::Open)]);
        let firewall = section.choice("firewall", &[("none", Firewall::None), ("kernel", Firewall::Kernel)]);
        let route_table = section.integer("route_table", 1..=252).map_or(220, |table| table.value as u32);
        let mark = section.integer("mark", 1..=0xffff_ffff).map_or(0x5043, |mark| mark.value as u32);
        let spin =
            section.duration_within("spin", Duration::ZERO..=Duration::from_secs(1)).unwrap_or(DEFAULT_SPIN);
        let busy_poll = section.duration_within("busy_poll", Duration::ZERO..=Duration::from_millis(10));
        let watchdog = section.duration_within("watchdog", Duration::from_secs(1)..=Duration::from_secs(600));
        let trap = trap(&section, frames);
        let allow_decrypted_capture = section.boolean("allow_decrypted_capture").unwrap_or(false);
        let sandbox = section.boolean("sandbox").unwrap_or(true);
        let limits = Duration::from_secs(1)..=Duration::from_secs(600);
        let updown = UpdownConfig {
            timeout: section.duration_within("updown_timeout", limits).unwrap_or(Duration::from_secs(30)),
            at_once: section.integer("updown_at_once", 1..=256).map_or(16, |most| most.value as usize),
        };
        let tcp = TcpConfig {
            port: section.integer("tcp_port", 1..=65_535).and_then(|port| u16::try_from(port.value).ok()),
            connections: section
                .integer("tcp_connections", 2..=65_536)
                .map_or(1024, |most| most.value as usize),
        };
        let export_routes = export_routes(&section, route_table);
        let credentials = Directories::from_section(&section, base);
        section.finish(&[]);
        Some(Self {
            interfaces: interfaces?,
            workers,
            ike_shards,
            frames,
            frame_size,
            max_sas,
            tun: tun.unwrap_or_else(|| "portcullis0".to_owned()),
            pin_dir,
            admin_socket,
            state_dir,
            metrics,
            metrics_compatibility,
            aead_engine,
            on_stop: on_stop.unwrap_or(OnStop::Closed),
            firewall: firewall.unwrap_or_default(),
            route_table,
            mark,
            spin,
            busy_poll: busy_poll.filter(|busy_poll| !busy_poll.is_zero()),
            watchdog: watchdog.unwrap_or(DEFAULT_WATCHDOG),
            trap,
            allow_decrypted_capture,
            export_routes,
            tcp,
            updown,
            sandbox,
            credentials,
        })
    }
}

/// As many as workers leave: one at least, and no more than so many, of which there is rarely need.
fn spare_processors(workers: usize) -> u8 {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    all.saturating_sub(workers).clamp(1, MOST_SHARDS_UNASKED) as u8
}

/// At most one frame in 16 waits, whatever the number of policies.
fn trap(section: &Section<'_>, frames: u32) -> TrapLimits {
    let per_policy = section.integer("trap_packets", 0..=256).map_or(16, |packets| packets.value as usize);
    let time = section.duration("trap_time").unwrap_or(Duration::from_secs(5));
    if !(1..=60).contains(&time.as_secs()) {
        section.error(section.span(), "trap_time", "is out of range (expected \"1s\" to \"60s\")");
    }
    TrapLimits { per_policy, in_all: (frames as usize / 16).min(1024), seconds: time.as_secs() }
}

/// Into a table that moves no packet: none that the kernel asks, nor ours, which it asks for protected networks.
fn export_routes(section: &Section<'_>, route_table: u32) -> Option<ExportConfig> {
    const TABLE: u32 = 222;
    const PROTOCOL: u8 = 112;
    let choices =
        [("off", None), ("addresses", Some(Export::Addresses)), ("remote_ts", Some(Export::RemoteTs))];
    let what = section.choice("export_routes", &choices).flatten();
    let table = section.integer("export_table", 1..=0xffff_ffff);
    if let Some(table) = &table
        && (matches!(table.value, 253..=255) || table.value == i64::from(route_table))
    {
        let message = format!(
            "is {}, by which packets are routed (expected a table that no routing rule leads to, e.g. {TABLE})",
            table.value
        );
        section.error(table.span.clone(), "export_table", message);
    }
    let table = table.map_or(TABLE, |table| table.value as u32);
    let protocol = section.integer("export_protocol", 5..=255).map_or(PROTOCOL, |number| number.value as u8);
    Some(ExportConfig { what: what?, table, protocol })
}

/// A core for each worker, and no core for two.
fn workers(section: &Section<'_>) -> Vec<usize> {
    let Some(cores) = section.integers("workers", 0..=1023) else { return vec![0] };
    if cores.is_empty() {
        section.error(section.span(), "workers", "is empty (expected a core for each worker, e.g. [0, 1])");
    }
    for (index, core) in cores.iter().enumerate() {
        if cores.iter().take(index).any(|earlier| earlier.value == core.value) {
            let message =
                format!("names core {} twice (expected a core of its own for each worker)", core.value);
            section.error(core.span.clone(), "workers", message);
        }
    }
    cores.iter().map(|core| core.value as usize).collect()
}

/// On loopback unless told otherwise.
fn metrics(section: &Section<'_>) -> Option<SocketAddr> {
    const EXPECTED: &str = "an address and port, e.g. \"127.0.0.1:9464\", or \"off\"";
    match section.string("metrics", EXPECTED) {
        None => Some(DEFAULT_METRICS),
        Some(text) if text.value == "off" => None,
        Some(_) => section.parsed("metrics", EXPECTED).map(|metrics| metrics.value),
    }
}

fn aead_engine(section: &Section<'_>) -> Option<EngineKind> {
    let choices: Vec<(&str, EngineKind)> = EngineKind::ALL.iter().map(|kind| (kind.name(), *kind)).collect();
    section.choice("aead_engine", &choices)
}

fn frame_size(section: &Section<'_>) -> u32 {
    const DEFAULT: u32 = 4096;
    let Some(size) = section.integer("frame_size", 2048..=4096) else { return DEFAULT };
    if !(size.value as u32).is_power_of_two() {
        section.error(size.span, "frame_size", format!("is {} (expected 2048 or 4096)", size.value));
    }
    size.value as u32
}

fn interfaces(gateway: &Section<'_>, routed: bool) -> Option<Vec<InterfaceConfig>> {
    const EXPECTED: &str = "`[[gateway.interfaces]]` tables with `name` and `role`";
    let sections = gateway.sections("interfaces");
    if sections.is_empty() {
        gateway.missing("interfaces", EXPECTED);
        return None;
    }
    let mut interfaces: Vec<InterfaceConfig> = Vec::new();
    let mut complete = true;
    for section in sections {
        let name = match section.string("name", "an interface name") {
            Some(name) => {
                if interfaces.iter().any(|earlier| earlier.name == name.value) {
                    section.error(name.span.clone(), "name", format!("`{}` is listed twice", name.value));
                }
                interface_name(&section, "name", name)
            }
            None => {
                section.missing("name", "an interface name");
                None
            }
        };
        let roles = [("outside", Role::Outside), ("inside", Role::Inside), ("both", Role::Both)];
        let role = section.choice("role", &roles);
        if role.is_none() && section.string("role", "\"outside\", \"inside\" or \"both\"").is_none() {
            section.missing("role", "\"outside\" (IKE and ESP), \"inside\" (clear text) or \"both\"");
        }
        let queues = section.integer("queues", 1..=256).map(|queues| queues.value as u32);
        let modes = [("auto", XdpMode::Auto), ("native", XdpMode::Native), ("skb", XdpMode::Skb)];
        let mode = section.choice("mode", &modes).unwrap_or(XdpMode::Auto);
        section.finish(&[]);
        match (name, role) {
            (Some(name), Some(role)) => interfaces.push(InterfaceConfig { name, role, queues, mode }),
            _ => complete = false,
        }
    }
    if complete {
        let served = |is: fn(Role) -> bool| interfaces.iter().any(|interface| is(interface.role));
        let inside = served(Role::is_inside) || routed;
        for (served, name) in [(served(Role::is_outside), "outside"), (inside, "inside")] {
            if !served {
                let message = format!(
                    "no interface has role \"{name}\" (expected one of each role at least, or one of role \"both\")"
                );
                gateway.error(gateway.span(), "interfaces", message);
            }
        }
    }
    complete.then_some(interfaces)
}

/// By the kernel's rules: 1 to 15 octets, no slash, no white space.
fn interface_name(section: &Section<'_>, key: &str, name: super::reader::Spanned<&str>) -> Option<String> {
    let valid = is_interface_name(name.value);
    if !valid {
        let message =
            format!("`{}` cannot be an interface's name (expected 1 to 15 characters, no `/`)", name.value);
        section.error(name.span, key, message);
    }
    valid.then(|| name.value.to_owned())
}

/// As the kernel sees it.
pub(super) fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

/// The fewest octets of an IP packet that IKE messages are cut to.
const MIN_FRAGMENT: i64 = 256;

/// Bits of a puzzle that takes about a minute.
const HARDEST_PUZZLE: i64 = 24;

/// `[ike]`, with the names of strongswan.conf's `charon` section.
pub(super) fn engine_from_root(
    root: &Section<'_>,
    connections: Vec<ConnectionConfig>,
    secrets: Secrets,
) -> EngineConfig {
    let Secrets { shared_keys, ppks, users } = secrets;
    let mut engine = EngineConfig {
        connections,
        shared_keys,
        ppks,
        users: users.into(),
        retransmission: Retransmission::default(),
        cookie_threshold: 30,
        puzzle_threshold: 5_000,
        puzzle_difficulty: 18,
        puzzle_auth_difficulty: 10,
        puzzle_solved: 20,
        half_open_limit: 10_000,
        block_threshold: 100,
        unauthenticated_limit: 100,
        half_open_timeout: Duration::from_secs(30),
        nat_keepalive: Duration::from_secs(20),
        fragment_size: 1280,
        port: 500,
        nat_port: 4500,
    };
    let Some(section) = root.section("ike") else { return engine };
    if let Some(timeout) = section.duration("retransmit_timeout") {
        engine.retransmission.timeout = timeout.max(Duration::from_millis(100));
    }
    if let Some(base) = section.number("retransmit_base", 1.0..=10.0) {
        engine.retransmission.base = base;
    }
    if let Some(tries) = section.integer("retransmit_tries", 0..=20) {
        engine.retransmission.tries = tries.value as u32;
    }
    if let Some(threshold) = section.integer("cookie_threshold", 0..=1_000_000) {
        engine.cookie_threshold = threshold.value as usize;
    }
    if let Some(threshold) = section.integer("puzzle_threshold", 0..=1_000_000) {
        engine.puzzle_threshold = threshold.value as usize;
    }
    if let Some(bits) = section.integer("puzzle_difficulty", 1..=HARDEST_PUZZLE) {
        engine.puzzle_difficulty = bits.value as u8;
    }
    if let Some(bits) = section.integer("puzzle_auth_difficulty", 0..=HARDEST_PUZZLE) {
        engine.puzzle_auth_difficulty = bits.value as u8;
    }
    if let Some(bits) = section.integer("puzzle_solved", 0..=HARDEST_PUZZLE) {
        engine.puzzle_solved = bits.value as u8;
    }
    if let Some(limit) = section.integer("half_open_limit", 1..=1_000_000) {
        engine.half_open_limit = limit.value as usize;
    }
    if let Some(limit) = section.integer("block_threshold", 1..=1_000_000) {
        engine.block_threshold = limit.value as usize;
    }
    if let Some(limit) = section.integer("unauthenticated_limit", 1..=1_000_000) {
        engine.unauthenticated_limit = limit.value as usize;
    }
    if let Some(timeout) = section.duration("half_open_timeout") {
        engine.half_open_timeout = timeout.max(Duration::from_secs(1));
    }
    if let Some(size) = section.integer("fragment_size", 0..=65_535) {
        // Smaller ones would hold hardly anything but headers.
        if (1..MIN_FRAGMENT).contains(&size.value) {
            let message = format!("is {} (expected 0, or {MIN_FRAGMENT} to 65535 octets)", size.value);
            section.error(size.span, "fragment_size", message);
        }
        engine.fragment_size = size.value as usize;
    }
    if let Some(interval) = section.duration("keep_alive") {
        engine.nat_keepalive = interval;
    }
    section.finish(&["port", "port_nat_t", "threads", "make_before_break"]);
    engine
}
