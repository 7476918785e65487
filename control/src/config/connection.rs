//! `[connections.NAME]` and `[connections.NAME.children.CHILD]`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use portcullis_ike::auth::Constraint;
use portcullis_ike::config::{
    AddressMatch, ChildActions, ChildConfig, Childless, ConnectionConfig, Identity, IdentityMatch,
    IkeFragmentation, LocalAuth, LocalMethod, LossAction, Ppk, RedirectWhen, RemoteAuth, RemoteMethod,
    SharedKey, StartAction, Unique,
};
use portcullis_ike::pools::PoolConfig;
use portcullis_ike::proposal::{EspProposal, IkeProposal};
use portcullis_ipsec::{Policy, PolicyAction, RateLimits, TenantId, TrafficSelector};

use super::credentials::Store;
use super::devices::Devices;
use super::gateway::GatewayConfig;
use super::reader::Section;
use super::secrets::Secrets;
use super::{devices, eap, lifetime, null, options, per_cpu, pools, rates, shunt, updown};
use crate::hooks::HookConfigs;

/// Options of swanctl.conf's connections that have no counterpart here yet.
const LATER_CONNECTION: &[&str] = &[
    "aggressive",
    "pull",
    "dscp",
    "dpd_timeout",
    "send_certreq",
    "send_cert",
    "keyingtries",
    "if_id_in",
    "if_id_out",
    "mediation",
    "mediated_by",
    "mediation_peer",
    "local_port",
    "remote_port",
    "cacerts",
];
const LATER_AUTH: &[&str] = &["round", "cert", "xauth_id", "ca_id", "groups", "cert_policy", "cacert"];
pub(super) const LATER_CHILD: &[&str] = &[
    "ah_proposals",
    "sha256_96",
    "hostaccess",
    "policies",
    "policies_fwd_out",
    "ipcomp",
    "reqid",
    "interface",
    "mark_in",
    "mark_in_sa",
    "mark_out",
    "set_mark_in",
    "set_mark_out",
    "if_id_in",
    "if_id_out",
    "label",
    "label_mode",
    "hw_offload",
];

/// `[connections]` as a whole.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Those that IKE negotiates: with a child that has SAs.
    pub(super) negotiated: Vec<ConnectionConfig>,
    /// The policies of children that pass or drop, of all connections.
    pub(super) shunts: Vec<Policy>,
    /// The hooks of children.
    pub(super) hooks: HookConfigs,
    /// The rates of children that have some, by `CONNECTION/CHILD`.
    pub(super) rates: BTreeMap<String, RateLimits>,
    /// Their TUN devices, and those of `[devices]`.
    pub(super) devices: Devices,
}

/// `secrets`: all of them, or `None` if one could not be read, so that nothing follows from its absence.
pub(super) fn from_root(
    root: &Section<'_>,
    secrets: Option<&Secrets>,
    store: &Store<'_>,
    pools: &[PoolConfig],
    gateway: Option<&GatewayConfig>,
) -> Connections {
    let devices = Devices::from_root(root, gateway);
    let mut connections = Connections { devices, ..Connections::default() };
    let has_radius = root.has("radius");
    for (name, section) in root.named_sections("connections") {
        let tenant = connections.devices.of_connection(&section, gateway);
        let known = Known { secrets, store, pools, has_radius, tenant };
        let negotiated = connection(name, &section, known, &mut connections);
        connections.negotiated.extend(negotiated);
    }
    connections
}

/// What is known of a connection, and of what it may name, beforehand.
#[derive(Clone, Copy)]
struct Known<'a> {
    secrets: Option<&'a Secrets>,
    store: &'a Store<'a>,
    pools: &'a [PoolConfig],
    has_radius: bool,
    tenant: TenantId,
}

fn connection(
    name: String,
    section: &Section<'_>,
    Known { secrets, store, pools, has_radius, tenant }: Known<'_>,
    connections: &mut Connections,
) -> Option<ConnectionConfig> {
    check_version(section);
    let local_addrs = addresses(section, "local_addrs");
    let remote_addrs = addresses(section, "remote_addrs");
    let children = section.named_sections("children");
    let (shunted, children): (Vec<_>, Vec<_>) = children
        .into_iter()
        .map(|(name, child)| (shunt::action(&child), name, child))
        .partition(|(action, ..)| action.is_some());
    for (action, child, section) in &shunted {
        let Some(action) = *action else { continue };
        let (local, remote) =
            (local_addrs.as_deref().unwrap_or_default(), remote_addrs.as_deref().unwrap_or_default());
        let (name, addrs) = (format!("{name}/{child}"), (local, remote));
        connections.shunts.extend(shunt::policy(name, tenant, action, section, addrs));
    }
    // Only policies, which no peer has a part in: nobody has to prove anything.
    if children.is_empty() && !shunted.is_empty() && !section.has("local") && !section.has("remote") {
        section.finish(LATER_CONNECTION);
        return None;
    }
    let proposals = proposals(section, "proposals", IKE_EXAMPLE, IkeProposal::defaults, IkeProposal::weak);
    let encap = section.boolean("encap").unwrap_or(false);
    let mobike = section.boolean("mobike").unwrap_or(true);
    let quick_crash_detection = section.boolean("quick_crash_detection").unwrap_or(true);
    let session_resumption = section.boolean("session_resumption").unwrap_or(false);
    let follow_redirects = section.boolean("follow_redirects").unwrap_or(true);
    let redirect_to = section.parsed::<IpAddr>("redirect_to", "the IP address of another gateway");
    let times = [
        ("authenticated", RedirectWhen::Authenticated),
        ("at_once", RedirectWhen::AtOnce),
        ("overloaded", RedirectWhen::Overloaded),
    ];
    let redirect_when = section.choice("redirect_when", &times);
    if redirect_when.is_some_and(|when| when != RedirectWhen::Authenticated) && !section.has("redirect_to") {
        section.missing("redirect_to", "the address of the gateway that `redirect_when` is about");
    }
    let dpd_delay = section.duration("dpd_delay").unwrap_or(Duration::ZERO);
    let lifetime = lifetime::of_connection(section);
    let policies =
        [("no", Unique::No), ("replace", Unique::Replace), ("keep", Unique::Keep), ("never", Unique::Never)];
    let unique = section.choice("unique", &policies).unwrap_or_default();
    let modes = [
        ("yes", IkeFragmentation::Yes),
        ("accept", IkeFragmentation::Accept),
        ("force", IkeFragmentation::Yes),
        ("no", IkeFragmentation::No),
    ];
    let fragmentation = section.choice("fragmentation", &modes).unwrap_or_default();
    let ways = [
        ("allow", Childless::Allow),
        ("prefer", Childless::Prefer),
        ("force", Childless::Force),
        ("never", Childless::Never),
    ];
    let childless = section.choice("childless", &ways).unwrap_or_default();
    let ocsp = [
        ("reply", Ocsp { reply: true, request: false }),
        ("request", Ocsp { reply: false, request: true }),
        ("both", Ocsp { reply: true, request: true }),
        ("never", Ocsp { reply: false, request: false }),
    ];
    let ocsp = section.choice("ocsp", &ocsp).unwrap_or(Ocsp { reply: true, request: false });
    let ppk_id =
        section.parsed::<Identity>("ppk_id", "the name of a post-quantum pre-shared key").map(|id| id.value);
    let ppk_required = section.boolean("ppk_required").unwrap_or(false);
    let local = rounds(section, "local", |round| local_auth(round, store));
    let remote = rounds(section, "remote", |round| remote_auth(round, store, ocsp.request));
    let named_pools = section.strings("pools", "names of pools").unwrap_or_default();
    let vips = pools::vips(section);
    for (_, child, section) in &children {
        connections
            .hooks
            .extend(updown::of_child(section).map(|command| ((name.clone(), child.clone()), command)));
    }
    let children = self::children(section, &name, children, &mut connections.rates);
    section.finish(LATER_CONNECTION);
    let mut connection = ConnectionConfig {
        name,
        tenant,
        local_addrs: local_addrs?,
        remote_addrs: remote_addrs?,
        proposals: proposals?,
        local: local?,
        remote: remote?,
        encap,
        mobike,
        quick_crash_detection,
        session_resumption,
        follow_redirects,
        redirect_to: redirect_to.map(|addr| addr.value),
        redirect_when: redirect_when.unwrap_or_default(),
        dpd_delay,
        lifetime,
        unique,
        fragmentation,
        childless,
        ocsp_reply: ocsp.reply,
        ppk: Ppk { id: ppk_id, required: ppk_required },
        pools: named_pools.iter().map(|name| name.value.to_owned()).collect(),
        vips,
        children: children?,
    };
    pools::check(section, &connection, &named_pools, pools);
    devices::check(section, &connection);
    check_rounds(section, &connection);
    check_peer_address(section, &connection);
    check_peer_identity(section, &connection);
    if let Some(secrets) = secrets {
        check_secret(section, &connection, &secrets.shared_keys);
        check_ppk(section, &connection, &secrets.ppks);
    }
    check_resumption(section, &connection);
    null::check(section, &mut connection);
    eap::check(section, &connection, secrets.map(|secrets| secrets.users.as_slice()), has_radius);
    Some(connection)
}

/// `version`, which swanctl.conf needs to tell IKEv1 from IKEv2; both values that allow IKEv2 mean it here.
fn check_version(section: &Section<'_>) {
    if let Some(version) = section.integer("version", 0..=2).filter(|version| version.value == 1) {
        let message = "is 1, but IKEv1 (RFC 2409, obsolete since 2005) is not spoken here (expected 2)";
        section.error(version.span, "version", message);
    }
}

fn addresses(section: &Section<'_>, key: &'static str) -> Option<Vec<AddressMatch>> {
    match section.parsed_list::<Address>(key, "an IP address, a prefix, or %any") {
        Some(parsed) => Some(parsed.into_iter().map(|address| address.value.0).collect()),
        None => (!section.has(key)).then(Vec::new),
    }
}

const IKE_EXAMPLE: &str = "e.g. \"aes256gcm16-prfsha384-x25519\"";
const ESP_EXAMPLE: &str = "e.g. \"aes256gcm16-esn\"";

/// A child that we start needs a peer address to start to.
fn check_peer_address(section: &Section<'_>, connection: &ConnectionConfig) {
    let reachable = connection.remote_addrs.iter().any(|addr| matches!(addr, AddressMatch::Address(_)));
    let begins = |child: &&ChildConfig| {
        let after_loss =
            [LossAction::Trap, LossAction::Restart].iter().any(|action| child.actions.name(*action));
        child.start_action != StartAction::None || after_loss
    };
    let started = connection.children.iter().find(begins);
    if let (false, Some(child)) = (reachable, started) {
        let message = format!(
            "names no address to initiate to, but child `{}` is to be started from here (expected an IP address, \
             or `start_action = \"none\"`, and neither `trap` nor `restart` after a loss)",
            child.name
        );
        section.error(section.span(), "remote_addrs", message);
    }
}

/// A ticket does not hold what an AAA server has said of a client, nor who it was in each of several rounds.
fn check_resumption(section: &Section<'_>, connection: &ConnectionConfig) {
    let eap = connection.local.iter().any(|round| matches!(round.auth, LocalMethod::Eap { .. }))
        || connection.remote.iter().any(|round| matches!(round.auth, RemoteMethod::Eap { .. }));
    if connection.session_resumption && eap {
        let message =
            "does not go with EAP, whose clients have to prove themselves each time (expected false)";
        section.error(section.span(), "session_resumption", message);
    }
    if connection.session_resumption && (connection.local.len() > 1 || connection.remote.len() > 1) {
        let message = "does not go with several rounds of authentication (expected false)";
        section.error(section.span(), "session_resumption", message);
    }
}

/// A peer that we call should be the one that is meant, not just somebody with a certificate.
fn check_peer_identity(section: &Section<'_>, connection: &ConnectionConfig) {
    let anyone = connection.remote.iter().any(|round| match (&round.auth, &round.id) {
        (RemoteMethod::Pubkey(trust), IdentityMatch::Any) => trust.certificates.is_empty(),
        _ => false,
    });
    if anyone && connection.children.iter().any(|child| child.start_action != StartAction::None) {
        let message =
            "names no `id`: everybody whom the CAs have certified is taken for the peer that we initiate to";
        section.warning(section.span(), "remote", message);
    }
}

/// What does not go together with several rounds of authentication (RFC 4739).
fn check_rounds(section: &Section<'_>, connection: &ConnectionConfig) {
    let (local, remote) = (&connection.local, &connection.remote);
    let we_by_eap = local.iter().any(|round| matches!(round.auth, LocalMethod::Eap { .. }));
    let peer_by_eap = remote.iter().any(|round| matches!(round.auth, RemoteMethod::Eap { .. }));
    for (key, rounds, other, by_eap) in
        [("local", local.len(), "remote", peer_by_eap), ("remote", remote.len(), "local", we_by_eap)]
    {
        if rounds > 1 && by_eap {
            let message = format!(
                "has {rounds} rounds of authentication, but EAP is among those of `{other}`, which is not supported by \
                 this version (expected one round)"
            );
            section.error(section.span(), key, message);
        }
    }
    if local.len().max(remote.len()) > 1 && (connection.ppk.id.is_some() || connection.ppk.required) {
        let message = "and several rounds of authentication together are not supported by this version (expected no \
                       `ppk_id` and `ppk_required`)";
        section.error(section.span(), "ppk_id", message);
    }
}

/// A connection whose ends no secret fits can never come up.
fn check_secret(section: &Section<'_>, connection: &ConnectionConfig, secrets: &[SharedKey]) {
    // Each round is between one of an end's identities and the first of the other's.
    let first = (connection.local.first(), connection.remote.first());
    let ours = connection.local.iter().filter(|round| round.auth == LocalMethod::Psk);
    let theirs = connection.remote.iter().filter(|round| round.auth == RemoteMethod::Psk);
    let pairs = ours.map(|round| (Some(round), first.1)).chain(theirs.map(|round| (first.0, Some(round))));
    let mut said = Vec::new();
    for (local, remote) in pairs {
        let local = local.and_then(|round| round.id.as_ref());
        let remote = remote.and_then(|round| match &round.id {
            IdentityMatch::Exactly(id) => Some(id),
            IdentityMatch::Pattern(_) | IdentityMatch::Any => None,
        });
        let fits = |key: &SharedKey| {
            let names = |id: Option<&Identity>| id.is_some_and(|id| key.ids.contains(id));
            let unknown = local.is_none() && remote.is_none();
            key.ids.is_empty()
                || unknown
                || names(remote)
                || (names(local) && (remote.is_none() || key.ids.len() == 1))
        };
        if !secrets.iter().any(fits) {
            let ids: Vec<String> = [local, remote].into_iter().flatten().map(Identity::to_string).collect();
            if said.contains(&ids) {
                continue;
            }
            let message = format!(
                "authenticates with a pre-shared key, but no `[secrets]` entry is for it (expected one without `ids`, or \
                 with ids = {ids:?})"
            );
            section.error(section.span(), "local", message);
            said.push(ids);
        }
    }
}

/// A post-quantum pre-shared key that is named, or required, has to be there.
fn check_ppk(section: &Section<'_>, connection: &ConnectionConfig, ppks: &[SharedKey]) {
    let wanted = match &connection.ppk.id {
        Some(id) if !ppks.iter().any(|key| key.ids.contains(id)) => format!("ids = [\"{id}\"]"),
        None if connection.ppk.required && ppks.is_empty() => "its name among its `ids`".to_owned(),
        _ => return,
    };
    let key = if connection.ppk.id.is_some() { "ppk_id" } else { "ppk_required" };
    section.error(
        section.span(),
        key,
        format!("has no secret (expected a `[secrets.ppk-NAME]` with {wanted})"),
    );
}

/// `%any`, an address or a prefix.
struct Address(AddressMatch);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "%any" || text == "%any4" || text == "%any6" {
            return Ok(Self(AddressMatch::Any));
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Ok(Self(AddressMatch::Address(addr)));
        }
        match text.parse::<IpNet>() {
            Ok(net) => Ok(Self(AddressMatch::Network(net.trunc()))),
            Err(_) => Err(format!(
                "`{text}` is no address; names are not resolved, so that DNS cannot move a tunnel"
            )),
        }
    }
}

fn proposals<P>(
    section: &Section<'_>,
    key: &'static str,
    expected: &str,
    defaults: fn() -> Vec<P>,
    weak: fn(&P) -> Vec<String>,
) -> Option<Vec<P>>
where
    P: FromStr,
    P::Err: fmt::Display,
{
    let Some(texts) = section.strings(key, expected) else { return Some(defaults()) };
    let mut proposals = Vec::new();
    for text in &texts {
        if text.value == "default" {
            proposals.extend(defaults());
            continue;
        }
        match text.value.parse() {
            Ok(proposal) => {
                let weak = weak(&proposal);
                if !weak.is_empty() {
                    let message = format!(
                        "has algorithms that are too weak by today's measure ({}): only for peers that have nothing better",
                        weak.join(", ")
                    );
                    section.warning(text.span.clone(), key, message);
                }
                proposals.push(proposal);
            }
            Err(error) => section.error(text.span.clone(), key, format!("{error} ({expected})")),
        }
    }
    if texts.is_empty() {
        section.error(section.span(), key, "is empty (leave it out to get the defaults)");
    }
    (!proposals.is_empty()).then_some(proposals)
}

/// `local` and `remote`: one table, or an array of them, a round each.
fn rounds<T>(
    section: &Section<'_>,
    key: &'static str,
    round: impl Fn(&Section<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let sections = section.sections(key);
    if sections.is_empty() {
        section.missing(key, "{ auth = \"psk\", id = \"gw.example\" }");
        return None;
    }
    let count = sections.len();
    let rounds: Vec<T> = sections.iter().filter_map(round).collect();
    (rounds.len() == count).then_some(rounds)
}

/// OCSP responses in IKE (RFC 4806).
#[derive(Debug, Clone, Copy)]
struct Ocsp {
    reply: bool,
    request: bool,
}

/// What `auth` says.
enum Auth<'a> {
    Psk,
    Null,
    Pubkey(Constraint),
    Eap(&'a str),
}

fn local_auth(section: &Section<'_>, store: &Store<'_>) -> Option<LocalAuth> {
    let auth = auth(section, &["certs", "pubkeys"]);
    let id = identity::<Identity>(section);
    if section.has("aaa_id") && !matches!(&auth, Some(Auth::Eap(auth)) if eap::uses_tls(auth)) {
        section.error(
            section.span(),
            "aaa_id",
            "belongs to EAP methods over TLS (expected `auth = \"eap-tls\"`)",
        );
    }
    if section.has("eap_inner") && !matches!(&auth, Some(Auth::Eap("eap-ttls"))) {
        let message = "is what EAP-TTLS carries (expected `auth = \"eap-ttls\"` beside it)";
        section.error(section.span(), "eap_inner", message);
    }
    let auth = match auth? {
        Auth::Psk => Some(LocalMethod::Psk),
        Auth::Null => Some(LocalMethod::Null),
        Auth::Eap(auth) => eap::local(section, auth, store, id.as_ref().ok()?.as_ref()),
        // The identity is compared with the certificate, so it has to be read first.
        Auth::Pubkey(constraint) => store.local(section, constraint, id.as_ref().ok()?.as_ref()),
    };
    section.finish(LATER_AUTH);
    Some(LocalAuth { auth: auth?, id: id.ok()? })
}

fn remote_auth(section: &Section<'_>, store: &Store<'_>, asks_peer: bool) -> Option<RemoteAuth> {
    let auth = auth(section, &["certs", "cacerts", "pubkeys", "revocation"]);
    let id = identity::<IdentityMatch>(section).map(|id| id.unwrap_or(IdentityMatch::Any));
    let auth = match auth? {
        Auth::Psk => Some(RemoteMethod::Psk),
        Auth::Null => Some(RemoteMethod::Null),
        Auth::Eap(auth) => eap::remote(section, auth, store, id.as_ref().ok()?),
        Auth::Pubkey(constraint) => store.remote(section, constraint, id.as_ref().ok()?, asks_peer),
    };
    section.finish(LATER_AUTH);
    Some(RemoteAuth { auth: auth?, id: id.ok()? })
}

/// `auth`, and whether keys that belong to public keys stand beside it.
fn auth<'a>(section: &Section<'a>, with_pubkey: &[&'static str]) -> Option<Auth<'a>> {
    const EXPECTED: &str =
        "\"psk\", \"pubkey\", e.g. \"ecdsa-384-sha384\", \"eap-mschapv2\", \"eap-tls\" or \"null\"";
    const OTHERS: [&str; 3] = ["xauth", "any", "psk-"];
    let Some(text) = section.string("auth", EXPECTED) else {
        section.missing("auth", EXPECTED);
        return None;
    };
    let is_eap = text.value == "eap" || text.value.starts_with("eap-");
    let uses_tls = eap::uses_tls(text.value);
    if matches!(text.value, "psk" | "null") || is_eap && !uses_tls {
        for key in with_pubkey.iter().filter(|key| section.has(key)) {
            let message = format!("belongs to public keys, but `auth` is \"{}\"", text.value);
            section.error(text.span.clone(), key, message);
        }
    }
    if !is_eap && section.has("eap_id") {
        let message = format!("belongs to EAP, but `auth` is \"{}\"", text.value);
        section.error(text.span.clone(), "eap_id", message);
    }
    if text.value == "psk" {
        return Some(Auth::Psk);
    }
    if text.value == "null" {
        if section.has("id") {
            let message =
                "says who somebody is who proves nothing: it means nothing, and is not sent (expected none)";
            section.error(section.span(), "id", message);
        }
        return Some(Auth::Null);
    }
    if is_eap {
        return Some(Auth::Eap(text.value));
    }
    match text.value.parse::<Constraint>() {
        Ok(constraint) => {
            if constraint.names_sha1() {
                let message = "accepts signatures with SHA-1, for which collisions can be made";
                section.warning(text.span, "auth", message);
            }
            Some(Auth::Pubkey(constraint))
        }
        Err(_) if OTHERS.iter().any(|other| text.value.starts_with(other)) => {
            let message =
                format!("\"{}\" is not supported by this version (expected {EXPECTED})", text.value);
            section.error(text.span, "auth", message);
            None
        }
        Err(error) => {
            section.error(text.span, "auth", format!("{error} (expected {EXPECTED})"));
            None
        }
    }
}

/// `id`; `Ok(None)` if it is left out.
fn identity<I>(section: &Section<'_>) -> Result<Option<I>, ()>
where
    I: FromStr,
    I::Err: fmt::Display,
{
    const EXPECTED: &str =
        "an identity, e.g. \"gw.example\", \"admin@example.org\", \"192.0.2.1\" or \"C=CH, O=Acme, CN=gw\"";
    if !section.has("id") {
        return Ok(None);
    }
    section.parsed::<I>("id", EXPECTED).map(|id| Some(id.value)).ok_or(())
}

fn children(
    section: &Section<'_>,
    connection: &str,
    sections: Vec<(Option<PolicyAction>, String, Section<'_>)>,
    rates: &mut BTreeMap<String, RateLimits>,
) -> Option<Vec<ChildConfig>> {
    if sections.is_empty() {
        section.missing("children", "a table `[connections.NAME.children.CHILD]` with an SA");
        return None;
    }
    let count = sections.len();
    let read = |(_, name, section): (_, String, Section<'_>)| {
        let limits = rates::of_section(&section);
        if limits != RateLimits::default() {
            rates.insert(format!("{connection}/{name}"), limits);
        }
        child(name, &section)
    };
    let children: Vec<ChildConfig> = sections.into_iter().filter_map(read).collect();
    (children.len() == count).then_some(children)
}

fn child(name: String, section: &Section<'_>) -> Option<ChildConfig> {
    let local_ts = selectors(section, "local_ts");
    let remote_ts = selectors(section, "remote_ts");
    if let (Some(local), Some(remote)) = (&local_ts, &remote_ts) {
        check_families(section, local, remote);
    }
    let esp_proposals =
        proposals(section, "esp_proposals", ESP_EXAMPLE, EspProposal::defaults, EspProposal::weak);
    let actions = [("none", StartAction::None), ("trap", StartAction::Trap), ("start", StartAction::Start)];
    let start_action = section.choice("start_action", &actions).unwrap_or(StartAction::None);
    let actions = self::actions(section);
    let options = options::of_child(section, local_ts.as_deref(), remote_ts.as_deref());
    let replay_window = section.integer("replay_window", 0..=8192).map_or(1024, |window| {
        if (1..64).contains(&window.value) {
            let message = format!("is {} (expected 0, which is off, or 64 to 8192)", window.value);
            section.error(window.span, "replay_window", message);
        }
        window.value as u32
    });
    let lifetime = lifetime::of_child(section);
    let priority = shunt::priority(section);
    let per_worker = per_cpu::of_child(section);
    section.finish(LATER_CHILD);
    Some(ChildConfig {
        name,
        local_ts: local_ts?,
        remote_ts: remote_ts?,
        esp_proposals: esp_proposals?,
        start_action,
        actions,
        replay_window,
        lifetime,
        priority,
        options,
        per_worker,
    })
}

/// `dpd_action`, `close_action` and `inactivity`, with the words that swanctl.conf has for either.
fn actions(section: &Section<'_>) -> ChildActions {
    use LossAction::{Clear, Restart, Trap};
    let dpd = [
        ("clear", Clear),
        ("trap", Trap),
        ("restart", Restart),
        ("none", Clear),
        ("hold", Trap),
        ("start", Restart),
    ];
    let close = [
        ("none", Clear),
        ("trap", Trap),
        ("start", Restart),
        ("clear", Clear),
        ("hold", Trap),
        ("restart", Restart),
    ];
    ChildActions {
        dpd: section.choice("dpd_action", &dpd),
        close: section.choice("close_action", &close),
        inactivity: section.duration("inactivity").unwrap_or(Duration::ZERO),
    }
}

/// Left out, as in swanctl.conf: the end's own addresses.
pub(super) fn selectors(section: &Section<'_>, key: &'static str) -> Option<Vec<Option<TrafficSelector>>> {
    if !section.has(key) {
        return Some(vec![None]);
    }
    let list = section.parsed_list::<Selector>(key, "e.g. \"10.1.0.0/16\" or \"dynamic\"")?;
    if list.is_empty() {
        section.error(section.span(), key, "is empty (leave it out for the end's own address)");
        return None;
    }
    Some(list.into_iter().map(|selector| selector.value.0).collect())
}

/// Selectors of two families never meet in one packet.
pub(super) fn check_families(
    section: &Section<'_>,
    local: &[Option<TrafficSelector>],
    remote: &[Option<TrafficSelector>],
) {
    let families = |list: &[Option<TrafficSelector>]| {
        let v4 = list.iter().any(|ts| ts.is_none_or(|ts| ts.addrs.start().is_ipv4()));
        let v6 = list.iter().any(|ts| ts.is_none_or(|ts| ts.addrs.start().is_ipv6()));
        (v4, v6)
    };
    let (local, remote) = (families(local), families(remote));
    if !((local.0 && remote.0) || (local.1 && remote.1)) {
        let message = "and `local_ts` have no address family in common, so that no packet can ever match";
        section.error(section.span(), "remote_ts", message);
    }
}

/// `dynamic` (`None`) or a traffic selector.
struct Selector(Option<TrafficSelector>);

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "dynamic" {
            return Ok(Self(None));
        }
        if text.starts_with("dynamic[") {
            return Err("`dynamic` with a protocol is not supported by this version".to_owned());
        }
        text.parse()
            .map(|ts| Self(Some(ts)))
            .map_err(|error: portcullis_ipsec::SelectorError| error.to_string())
    }
}

/// The selectors with `dynamic` replaced by the end's addresses; `None` if those are not known beforehand.
pub(super) fn known_selectors(
    selectors: &[Option<TrafficSelector>],
    addrs: &[AddressMatch],
) -> Option<Vec<TrafficSelector>> {
    let fixed = addrs.iter().filter_map(|addr| match addr {
        AddressMatch::Address(addr) => Some(TrafficSelector::any(*addr)),
        _ => None,
    });
    filled(selectors, &fixed.collect::<Vec<_>>())
}

/// The selectors with `dynamic` replaced by others; `None` if nothing is left.
pub(super) fn filled(
    selectors: &[Option<TrafficSelector>],
    dynamic: &[TrafficSelector],
) -> Option<Vec<TrafficSelector>> {
    let fill = |selector: &Option<TrafficSelector>| match selector {
        Some(selector) => vec![*selector],
        None => dynamic.to_vec(),
    };
    let known: Vec<TrafficSelector> = selectors.iter().flat_map(fill).collect();
    (!known.is_empty()).then_some(known)
}
