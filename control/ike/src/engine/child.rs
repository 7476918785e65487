//! What IKE_AUTH and CREATE_CHILD_SA share about a CHILD SA: the offer, the judgement of an answer, the choice for
//! a peer's offer, keys, and the install.

use std::net::IpAddr;
use std::time::Instant;

use portcullis_ipsec::{
    EspKey, InboundSa, InstallError, Mode, OutboundSa, Policy, PolicyAction, PolicyId, PolicyOrigin,
    SaOptions, Spi, TenantId, TfcPadding, TrafficSelector, TunnelEndpoints,
};
use zeroize::Zeroizing;

use super::api::{Activation, ChildInstall, ChildSaStatus, Event, Failure, JobId, PolicyRef, Resource};
use super::channel::Channel;
use super::children::{Child, Sealing};
use super::connections;
use super::context::{Context, Effect};
use super::ike_sa_init::{error_notification, notification};
use super::lifetime::{Schedule, usage_limits};
use super::negotiation::{self, EspChoice};
use super::resources;
use super::sa::{Base, Goal};
use super::selectors::{Selectors, matching_children};
use crate::crypto::{KeMethod, SharedSecret, derive_child_keymat};
use crate::message::{Payload, WireProposal, notify};
use crate::proposal::{EspProposal, EspSuite, accepted_esp};

/// The payloads that make a CHILD SA, in a request or in an answer that accepts it.
#[derive(Debug)]
pub(super) struct ChildPayloads<'a> {
    pub(super) proposals: &'a [WireProposal],
    ts_i: Vec<TrafficSelector>,
    ts_r: Vec<TrafficSelector>,
    pub(super) nonce: Option<&'a [u8]>,
    pub(super) ke: Option<(u16, &'a [u8])>,
    /// Transport mode is asked for, or agreed to (RFC 7296 §1.3.1).
    mode: Mode,
    /// Its sender takes no padding against traffic analysis.
    no_tfc: bool,
    /// It is one of several with the same selectors, or may become so (RFC 9611 §3).
    pub(super) has_resource: bool,
}

impl<'a> ChildPayloads<'a> {
    /// `Err` names the payload that is missing; `Ok(None)` if there is nothing about a CHILD SA.
    pub(super) fn parse(payloads: &'a [Payload]) -> Result<Option<Self>, &'static str> {
        let (mut proposals, mut ts_i, mut ts_r, mut nonce, mut ke) = (None, None, None, None, None);
        let (mut mode, mut no_tfc, mut has_resource) = (Mode::Tunnel, false, false);
        for payload in payloads {
            match payload {
                Payload::Sa(sa) => proposals = proposals.or(Some(sa.as_slice())),
                Payload::TsI(ts) => ts_i = ts_i.or(Some(ts)),
                Payload::TsR(ts) => ts_r = ts_r.or(Some(ts)),
                Payload::Nonce(octets) => nonce = nonce.or(Some(octets.as_slice())),
                Payload::Ke { method, data } => ke = ke.or(Some((*method, data.as_slice()))),
                Payload::Notify(found) => match found.notify_type {
                    notify::USE_TRANSPORT_MODE => mode = Mode::Transport,
                    notify::ESP_TFC_PADDING_NOT_SUPPORTED => no_tfc = true,
                    notify::SA_RESOURCE_INFO => has_resource = true,
                    _ => {}
                },
                _ => {}
            }
        }
        if proposals.is_none() && ts_i.is_none() && ts_r.is_none() {
            return Ok(None);
        }
        // A selector of an unknown type selects nothing that we could protect (RFC 7296 §2.9: narrowing).
        let known = |ts: &Vec<Option<TrafficSelector>>| ts.iter().flatten().copied().collect();
        Ok(Some(Self {
            proposals: proposals.ok_or("an SA payload")?,
            ts_i: ts_i.map(known).ok_or("a TSi payload")?,
            ts_r: ts_r.map(known).ok_or("a TSr payload")?,
            nonce,
            ke,
            mode,
            no_tfc,
            has_resource,
        }))
    }

    /// The selectors as the exchange's initiator sees them.
    fn selectors_of_initiator(&self) -> Selectors {
        Selectors { local: self.ts_i.clone(), remote: self.ts_r.clone() }
    }

    /// The selectors as the exchange's responder sees them.
    pub(super) fn selectors_of_responder(&self) -> Selectors {
        Selectors { local: self.ts_r.clone(), remote: self.ts_i.clone() }
    }
}

fn selector_payload(selectors: &[TrafficSelector]) -> Vec<Option<TrafficSelector>> {
    selectors.iter().copied().map(Some).collect()
}

/// What we ask for.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) child: usize,
    pub(super) name: String,
    pub(super) spi: Spi,
    pub(super) selectors: Selectors,
    esp_proposals: Vec<EspProposal>,
    options: SaOptions,
    with_ke: bool,
    replaces: Option<Spi>,
    resource: Resource,
}

impl Offer {
    /// For the successor of a CHILD SA: the selectors that it has (RFC 7296 §2.9.2).
    pub(super) fn rekeying(cx: &Context, base: &Base, old: &Child, spi: Spi) -> Option<Self> {
        let config = cx.child(base.connection, old.config)?;
        Some(Self {
            child: old.config,
            name: config.name.clone(),
            spi,
            selectors: Selectors { local: old.status.local_ts.clone(), remote: old.status.remote_ts.clone() },
            esp_proposals: negotiation::offered_esp(&config.esp_proposals, Some(old.status.algorithm)),
            options: config.options,
            with_ke: true,
            replaces: Some(old.status.spi_in),
            resource: old.status.resource,
        })
    }

    /// `with_ke`: in CREATE_CHILD_SA a key exchange is offered as configured, in IKE_AUTH never (RFC 7296 §1.2).
    pub(super) fn new(cx: &Context, base: &Base, goal: &Goal, spi: Spi, with_ke: bool) -> Option<Self> {
        let config = cx.child(base.connection, goal.child)?;
        let (selectors, esp_proposals, resource) = match (&goal.beside, &goal.flow) {
            (Some(beside), _) => {
                let like = base.fallback(*beside)?;
                let selectors = like.selectors();
                (selectors, resources::proposals(config, &like.status), Resource::Worker(beside.worker))
            }
            (None, flow) => {
                let selectors = Selectors::of_child(config, &base.dynamic(cx));
                let selectors = match flow {
                    Some(flow) => selectors.led_by(flow),
                    None => selectors,
                };
                let resource = config.per_worker.map_or(Resource::None, |_| Resource::Fallback);
                (selectors, negotiation::offered_esp(&config.esp_proposals, None), resource)
            }
        };
        Some(Self {
            child: goal.child,
            name: config.name.clone(),
            spi,
            selectors,
            esp_proposals,
            options: config.options,
            with_ke,
            replaces: None,
            resource,
        })
    }

    /// For the SA payload.
    pub(super) fn proposals(&self) -> Vec<WireProposal> {
        negotiation::offer_esp(&self.esp_proposals, self.spi, self.with_ke)
    }

    /// TSi and TSr, and what we ask for besides.
    pub(super) fn selector_payloads(&self) -> Vec<Payload> {
        let mut payloads = vec![
            Payload::TsI(selector_payload(&self.selectors.local)),
            Payload::TsR(selector_payload(&self.selectors.remote)),
        ];
        payloads.extend(mode_notification(self.options.mode));
        // Not in a rekeying, which changes nothing of it (RFC 9611 §3).
        if self.replaces.is_none() {
            payloads.extend(resources::notification_of(self.resource));
        }
        payloads
    }
}

/// In transport mode the peer's selectors have addresses as it sees them: behind a NAT, others than ours, which take their
/// place (RFC 7296 §2.23.1).
fn behind_nat(base: &Base, mode: Mode, mut selectors: Selectors) -> Selectors {
    let replace = |list: &mut Vec<TrafficSelector>, addr: IpAddr| {
        if list
            .iter()
            .all(|ts| Mode::transport_fits(&[*ts], &[*ts]) && ts.addrs.start().is_ipv4() == addr.is_ipv4())
        {
            list.iter_mut().for_each(|ts| ts.addrs = TrafficSelector::any(addr).addrs);
        }
    };
    if mode == Mode::Transport && base.nat.local {
        replace(&mut selectors.local, base.local.ip());
    }
    if mode == Mode::Transport && base.nat.remote {
        replace(&mut selectors.remote, base.remote.ip());
    }
    selectors
}

/// What says of a CHILD SA that it is in transport mode (RFC 7296 §1.3.1).
fn mode_notification(mode: Mode) -> Option<Payload> {
    (mode == Mode::Transport).then(|| notification(notify::USE_TRANSPORT_MODE, Vec::new()))
}

/// What the peer's notifications leave of a child's options.
pub(super) fn agreed_options(options: SaOptions, mode: Mode, found: &ChildPayloads<'_>) -> SaOptions {
    let tfc_padding = if found.no_tfc { TfcPadding::Off } else { options.tfc_padding };
    SaOptions { mode, tfc_padding, ..options }
}

/// A CHILD SA that both ends have agreed on.
#[derive(Debug, Clone)]
pub(super) struct Agreed {
    pub(super) child: usize,
    pub(super) name: String,
    /// Our SPI.
    pub(super) pair: Spi,
    /// The peer's SPI.
    pub(super) peer: Spi,
    pub(super) suite: EspSuite,
    pub(super) selectors: Selectors,
    pub(super) options: SaOptions,
    /// Whether we asked for it.
    pub(super) initiator: bool,
    /// Our SPI of the CHILD SA that it replaces.
    pub(super) replaces: Option<Spi>,
    pub(super) standing: Standing,
    pub(super) resource: Resource,
    /// It was asked for by CREATE_CHILD_SA, so that the peer's own wish for the same child may have crossed it.
    pub(super) may_cross: bool,
}

/// What a CHILD SA is for once it is installed (RFC 7296 §2.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is sealed with at once.
    Active,
    /// It is sealed with once the peer, who has asked for it in place of another, shows that it is ready.
    Waiting,
    /// It has lost a collision (§2.8.1): the peer may send on it until it is deleted.
    Redundant,
}

/// Why there is no CHILD SA after an exchange of ours.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) failure: Failure,
    /// The peer believes that there is one: it is to be deleted there.
    pub(super) delete: bool,
}

/// Judges the answer to our offer. `ke_method` is the group of our KE payload, if we sent one.
pub(super) fn accept(
    cx: &Context,
    base: &Base,
    offer: &Offer,
    payloads: &[Payload],
    ke_method: Option<u16>,
) -> Result<Agreed, Refusal> {
    let about = base.about(cx);
    let name = offer.name.as_str();
    if let Some(error) = error_notification(payloads) {
        let failure = match error.notify_type {
            notify::NO_PROPOSAL_CHOSEN => about.child_proposal_refused(name, &offer.esp_proposals),
            notify::TS_UNACCEPTABLE => about.selectors_refused(name, &offer.selectors),
            refusal @ (notify::TS_MAX_QUEUE | notify::NO_ADDITIONAL_SAS)
                if offer.resource.is_additional() =>
            {
                about.no_more_for_workers(name, refusal)
            }
            other => about.refused("CHILD SA", other),
        };
        return Err(Refusal { failure, delete: false });
    }
    let wrong = |failure| Refusal { failure, delete: true };
    let found = ChildPayloads::parse(payloads)
        .and_then(|found| found.ok_or("an SA payload"))
        .map_err(|missing| wrong(about.missing("CHILD SA", missing)))?;
    let (suite, peer) = accepted_esp(&offer.esp_proposals, found.proposals, offer.with_ke)
        .map_err(|why| wrong(about.child_proposal_not_ours(name, &why)))?;
    let public_group = found.ke.map(|(method, _)| method);
    if suite.ke.map(KeMethod::id) != ke_method || public_group != ke_method {
        let why = "its KE payload does not go with the key exchange it chose";
        return Err(wrong(about.child_proposal_not_ours(name, &why)));
    }
    if found.mode != offer.options.mode {
        return Err(wrong(about.mode_refused(name, offer.options.mode)));
    }
    let selectors = behind_nat(base, found.mode, found.selectors_of_initiator());
    if !selectors.within(&offer.selectors) {
        let (answered, asked) = if (Selectors { remote: offer.selectors.remote.clone(), ..selectors.clone() })
            .within(&offer.selectors)
        {
            (&selectors.remote, &offer.selectors.remote)
        } else {
            (&selectors.local, &offer.selectors.local)
        };
        return Err(wrong(about.selectors_wider_than_asked(name, answered, asked)));
    }
    // Asked for before we knew our inner address: what is for another is not ours to send.
    let selectors = match (base.addresses.own.is_empty(), cx.child(base.connection, offer.child)) {
        (false, Some(config)) => {
            let ours = Selectors::of_child(config, &base.dynamic(cx));
            let narrowed = ours.narrow(&selectors);
            narrowed.ok_or_else(|| {
                let failure = about.selectors_wider_than_asked(name, &selectors.local, &ours.local);
                wrong(failure)
            })?
        }
        _ => selectors,
    };
    // RFC 9611 §3: those of one group have the same properties.
    if offer.resource.is_additional() && selectors != offer.selectors {
        return Err(wrong(about.not_like_the_others(name, &selectors, &offer.selectors)));
    }
    let resource = match offer.resource {
        Resource::Fallback if offer.replaces.is_none() && !found.has_resource => Resource::None,
        resource => resource,
    };
    Ok(Agreed {
        child: offer.child,
        name: offer.name.clone(),
        pair: offer.spi,
        peer,
        suite,
        selectors,
        options: agreed_options(offer.options, offer.options.mode, &found),
        initiator: true,
        replaces: offer.replaces,
        standing: Standing::Active,
        resource,
        may_cross: offer.with_ke && offer.replaces.is_none() && !resource.is_additional(),
    })
}

/// What we take of a peer's offer, before an SPI is allocated.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) child: usize,
    pub(super) name: String,
    pub(super) esp: EspChoice,
    pub(super) selectors: Selectors,
    pub(super) options: SaOptions,
    pub(super) resource: Resource,
}

/// Chooses a child for a peer's offer: of those whose selectors overlap, best first, the first whose proposals go
/// too. `Err` is the notification to answer with and the failure.
pub(super) fn choose(
    cx: &Context,
    base: &Base,
    found: &ChildPayloads<'_>,
    with_ke: bool,
) -> Result<Choice, (u16, Failure)> {
    let about = base.about(cx);
    let asked = behind_nat(base, found.mode, found.selectors_of_responder());
    let dynamic = base.dynamic(cx);
    let fitting = matching_children(cx.live_children(base.connection), &dynamic, &asked);
    if let Some((ts, name)) = fitting.iter().find_map(|(_, selectors)| taken(cx, base, selectors)) {
        return Err((notify::TS_UNACCEPTABLE, about.selectors_of_another(ts, name)));
    }
    let group = found.ke.map(|(method, _)| method);
    let mut mismatch = None;
    for (index, selectors) in fitting {
        let Some(config) = cx.child(base.connection, index) else { continue };
        let Some(mode) = agreed_mode(config.options.mode, found.mode, &selectors) else {
            mismatch.get_or_insert_with(|| about.mode_mismatch(&config.name, found.mode));
            continue;
        };
        match negotiation::choose_esp(&config.esp_proposals, found.proposals, with_ke, group) {
            Ok(esp) => {
                let options = agreed_options(config.options, mode, found);
                let resource = match config.per_worker {
                    Some(_) if found.has_resource => Resource::Fallback,
                    _ => Resource::None,
                };
                let name = config.name.clone();
                return Ok(Choice { child: index, name, esp, selectors, options, resource });
            }
            Err(_) => {
                let explain = || about.child_proposal_mismatch(config, found.proposals, with_ke);
                mismatch.get_or_insert_with(explain);
            }
        }
    }
    match mismatch {
        Some(failure) => Err((notify::NO_PROPOSAL_CHOSEN, failure)),
        None => {
            let ours = cx.live_children(base.connection).map(|(_, child)| {
                let own = Selectors::of_child(child, &dynamic);
                (child.name.clone(), own)
            });
            let ours: Vec<_> = ours.collect();
            Err((notify::TS_UNACCEPTABLE, about.selectors_do_not_overlap(&asked, &ours)))
        }
    }
}

/// What a peer that has proved nothing would take from those that prove themselves, and whose it is (RFC 7619 §2.5): of
/// selectors that stand for its own address. Inner addresses are those that we give it.
fn taken<'a>(cx: &'a Context, base: &Base, selectors: &Selectors) -> Option<(TrafficSelector, &'a str)> {
    if !base.is_unauthenticated() || !base.addresses.leases.is_empty() {
        return None;
    }
    let proven = cx.live_connections().filter(|(_, connection)| connections::wants_proof(connection));
    let mut theirs = proven.flat_map(|(_, connection)| {
        let children = connection.children.iter().flat_map(|child| child.remote_ts.iter().flatten());
        children.map(|ts| (*ts, connection.name.as_str()))
    });
    theirs.find(|(ts, _)| selectors.remote.iter().any(|own| own.intersection(*ts).is_some()))
}

/// The mode of a child for which the peer asks for one: who asks for transport mode takes tunnel mode too (RFC 7296
/// §1.3.1). `None` if the child is for transport mode, and that is not asked for or not possible.
fn agreed_mode(configured: Mode, asked: Mode, selectors: &Selectors) -> Option<Mode> {
    match (configured, asked) {
        (Mode::Tunnel, _) => Some(Mode::Tunnel),
        (Mode::Transport, Mode::Transport) => {
            Mode::transport_fits(&selectors.local, &selectors.remote).then_some(Mode::Transport)
        }
        (Mode::Transport, Mode::Tunnel) => None,
    }
}

/// The answer that accepts an offer: the SA payload, and TSi and TSr with what else we agree to.
pub(super) fn answer_payloads(agreed: &Agreed, number: u8) -> (Payload, Vec<Payload>) {
    let mut rest = vec![
        Payload::TsI(selector_payload(&agreed.selectors.remote)),
        Payload::TsR(selector_payload(&agreed.selectors.local)),
    ];
    rest.extend(mode_notification(agreed.options.mode));
    if agreed.replaces.is_none() {
        rest.extend(resources::notification_of(agreed.resource));
    }
    (Payload::Sa(vec![agreed.suite.answer(number, agreed.pair)]), rest)
}

/// The keying material of both directions (RFC 7296 §2.17).
pub(super) fn keymat(
    channel: &Channel,
    shared: &[SharedSecret],
    nonce_i: &[u8],
    nonce_r: &[u8],
    agreed: &Agreed,
) -> Zeroizing<Vec<u8>> {
    let one = agreed.suite.encr.keymat_len();
    derive_child_keymat(channel.suite.prf, &channel.keys.sk_d, shared, nonce_i, nonce_r, 2 * one)
}

/// Awaits the data plane.
#[derive(Debug)]
pub(super) struct Installing {
    pub(super) job: JobId,
    pub(super) agreed: Agreed,
    endpoints: TunnelEndpoints,
    /// For [`Standing::Waiting`].
    activation: Option<Box<Activation>>,
    /// The peer has deleted it meanwhile.
    pub(super) deleted: bool,
}

impl Installing {
    /// Hands the SA to the data plane. Its SPI is no longer a mere reservation.
    pub(super) fn begin(
        cx: &mut Context,
        base: &mut Base,
        mut agreed: Agreed,
        keymat: &[u8],
    ) -> Result<Self, InstallError> {
        base.settle_resource(&mut agreed)?;
        let endpoints = base.endpoints(cx);
        let encr = agreed.suite.encr;
        // RFC 7296 §2.17: the key of the direction from the exchange's initiator comes first.
        let (from_initiator, from_responder) = keymat.split_at_checked(encr.keymat_len()).unwrap_or_default();
        let key = |keymat| {
            EspKey::from_keymat(encr, keymat).map_err(|error| InstallError::InvalidParameter {
                field: "KEYMAT",
                found: error.to_string(),
                expected: "the key length of the algorithm",
            })
        };
        let (inbound, outbound) = match agreed.initiator {
            true => (key(from_responder)?, key(from_initiator)?),
            false => (key(from_initiator)?, key(from_responder)?),
        };
        let config = cx.child(base.connection, agreed.child);
        let replay_window = config.map_or(0, |child| child.replay_window);
        let lifetime = config.map(|child| child.lifetime).unwrap_or_default();
        let limits = usage_limits(cx, &lifetime);
        let Selectors { local: local_ts, remote: remote_ts } = agreed.selectors.clone();
        let activation = Activation {
            policy: policy(cx, base, &agreed),
            outbound: OutboundSa {
                spi: agreed.peer,
                key: outbound,
                esn: agreed.suite.esn,
                endpoints,
                local_ts: local_ts.clone(),
                remote_ts: remote_ts.clone(),
                options: agreed.options,
            },
            resource: agreed.resource,
        };
        let inbound = InboundSa {
            key: inbound,
            esn: agreed.suite.esn,
            replay_window,
            endpoints,
            local_ts,
            remote_ts,
            tenant: tenant(cx, base),
            options: agreed.options,
        };
        if let (PolicyRef::Installed(policy), false) =
            (&activation.policy, agreed.standing == Standing::Redundant)
        {
            base.claims.push((agreed.pair, *policy));
        }
        let (now, later) = match agreed.standing {
            Standing::Active => (Some(activation), None),
            Standing::Waiting => (None, Some(Box::new(activation))),
            Standing::Redundant => (None, None),
        };
        base.reserved.retain(|spi| *spi != agreed.pair);
        let install = ChildInstall { pair: agreed.pair, inbound, limits, activation: now };
        let job = cx.install_child(base.id, install);
        Ok(Self { job, agreed, endpoints, activation: later, deleted: false })
    }

    /// Books the installed SA.
    pub(super) fn complete(self, cx: &mut Context, base: &mut Base, now: Instant, policy: Option<PolicyId>) {
        let Self { agreed, endpoints, activation, .. } = self;
        let sealing = match (policy, activation, agreed.standing) {
            (Some(policy), ..) => Sealing::Active(policy),
            (None, Some(activation), Standing::Waiting) => Sealing::Waiting(activation),
            _ => Sealing::Never,
        };
        let status = ChildSaStatus {
            name: agreed.name,
            spi_in: agreed.pair,
            spi_out: agreed.peer,
            algorithm: agreed.suite.encr,
            proposal: agreed.suite.to_string(),
            esn: agreed.suite.esn,
            endpoints,
            local_ts: agreed.selectors.local,
            remote_ts: agreed.selectors.remote,
            mode: agreed.options.mode,
            established: now,
            initiator: agreed.initiator,
            resource: agreed.resource,
        };
        let (connection, child) = (cx.connection_name(base.connection), status.clone());
        cx.event(match agreed.replaces {
            Some(replaced) => Event::ChildRekeyed { ike: base.id, connection, child, replaced },
            None => Event::ChildEstablished { ike: base.id, connection, child },
        });
        cx.effects.push_back(Effect::ChildUp {
            connection: base.connection,
            child: agreed.child,
            remote: base.remote.ip(),
        });
        cx.index.has_pair(agreed.pair, base.id);
        let lifetime =
            cx.child(base.connection, agreed.child).map(|child| child.lifetime).unwrap_or_default();
        let schedule = Schedule::of_child(cx, now, &lifetime);
        let inactivity = base.inactivity(cx, agreed.child, agreed.resource);
        // There is hardly ever another, and a vector that grows by itself makes room for four.
        base.children.reserve_exact(1);
        base.children.push(Child {
            config: agreed.child,
            status,
            sealing,
            replaces: agreed.replaces,
            successor: None,
            schedule,
            unconfirmed: None,
            idle_check: (!inactivity.is_zero()).then(|| now + inactivity),
            no_more_until: None,
        });
        base.claims.retain(|(pair, _)| *pair != agreed.pair);
        if let Some(old) = agreed.replaces.and_then(|old| base.child_mut(old))
            && agreed.standing != Standing::Redundant
        {
            old.successor = Some(agreed.pair);
        } else {
            // Its predecessor is gone, and whose Delete would tell that the peer is ready.
            base.activate(cx, agreed.pair);
        }
        // What moved while the data plane was busy is moved again.
        base.move_children(cx);
    }
}

/// Whose inner addresses the tunnels of an IKE SA have.
fn tenant(cx: &Context, base: &Base) -> TenantId {
    cx.connection(base.connection).map(|connection| connection.tenant).unwrap_or_default()
}

/// The policy of the CHILD SA that is replaced, if it can serve its successor too; else a new one.
fn policy(cx: &Context, base: &Base, agreed: &Agreed) -> PolicyRef {
    let Selectors { local, remote } = &agreed.selectors;
    let old = agreed.replaces.and_then(|old| base.child(old)).filter(|old| {
        old.config == agreed.child && old.status.local_ts == *local && old.status.remote_ts == *remote
    });
    let like = old.or_else(|| base.shared_with(agreed));
    match like.and_then(|like| base.policy_of(like.status.spi_in)) {
        Some(policy) => PolicyRef::Installed(policy),
        None => PolicyRef::New(Policy {
            name: format!("{}/{}", cx.connection_name(base.connection), agreed.name),
            tenant: tenant(cx, base),
            local_ts: local.clone(),
            remote_ts: remote.clone(),
            origin: PolicyOrigin::Negotiated,
            action: PolicyAction::Protect,
            priority: cx.child(base.connection, agreed.child).and_then(|child| child.priority),
            per_worker: agreed.resource == Resource::Fallback,
        }),
    }
}
