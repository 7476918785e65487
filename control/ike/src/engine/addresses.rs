//! Inner addresses (RFC 7296 §2.19): what a peer is given out of our pools, and what a peer gives us. `dynamic` selectors
//! stand for them.
//!
//! A peer's addresses are leased by a job before the child of IKE_AUTH is chosen, are handed on when the IKE SA is rekeyed,
//! and are given back when it ends. Ours ([`ConnectionConfig::vips`]) are asked for in IKE_AUTH, and told to the shell by
//! [`Event::AddressesAcquired`] and [`Event::AddressesLost`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_ipsec::{AddressRange, TrafficSelector};

use super::api::{Event, Failure, IkeSaId, JobId, JobResult};
use super::context::{Context, Effect};
use super::established::{Established, Theirs};
use super::ike_sa_init::{InitRecord, notification};
use super::sa::{Base, Done};
use super::selectors::Dynamic;
use crate::config::ConnectionConfig;
use crate::message::{Attribute, Configuration, ConfigurationType, Meaning, Payload, attribute, notify};
use crate::pools::{AddressRequest, Assignment, Attributes, Grant, Lease};

/// Inner addresses of one IKE SA, whoever gave them.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// The peer's, out of our pools.
    pub(super) leases: Vec<Lease>,
    /// Ours, from the peer.
    pub(super) own: Vec<IpAddr>,
}

impl Addresses {
    pub(super) fn of_peer(&self) -> Vec<IpAddr> {
        self.leases.iter().map(|lease| lease.address).collect()
    }

    /// Takes over what another IKE SA had.
    pub(super) fn add(&mut self, other: Self) {
        self.leases.extend(other.leases);
        self.own.extend(other.own);
    }

    /// The IKE SA has ended.
    pub(super) fn give_back(self, cx: &mut Context, owner: IkeSaId, connection: usize) {
        let Self { leases, own, .. } = self;
        if !leases.is_empty() {
            cx.event(Event::AddressesReleased {
                ike: owner,
                connection: cx.connection_name(connection),
                addresses: leases.iter().map(|lease| lease.address).collect(),
            });
            cx.release_addresses(owner, leases);
        }
        cx.lose_addresses(connection, own);
    }
}

/// The first CP payload of a type.
fn find(payloads: &[Payload], kind: ConfigurationType) -> Option<&Configuration> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Cp(configuration) if configuration.kind == kind => Some(configuration),
        _ => None,
    })
}

/// What a CFG_REQUEST asks for: an address of each family, unspecified if any will do. A value that makes no sense is one
/// that any address will do for.
fn wanted(request: &Configuration) -> Vec<IpAddr> {
    let wanted =
        request.attributes.iter().filter_map(|asked| match (asked.attribute_type, asked.meaning()) {
            (
                attribute::INTERNAL_IP4_ADDRESS | attribute::INTERNAL_IP6_ADDRESS,
                Some(Meaning::Address(addr)),
            ) => Some(addr),
            (attribute::INTERNAL_IP4_ADDRESS, None) => Some(Ipv4Addr::UNSPECIFIED.into()),
            (attribute::INTERNAL_IP6_ADDRESS, None) => Some(Ipv6Addr::UNSPECIFIED.into()),
            _ => None,
        });
    let mut one_of_each: Vec<IpAddr> = Vec::new();
    for addr in wanted {
        if !one_of_each.iter().any(|other| other.is_ipv4() == addr.is_ipv4()) {
            one_of_each.push(addr);
        }
    }
    one_of_each
}

/// The CFG_REQUEST of an initiator; `None` if it wants no addresses.
pub(super) fn request(cx: &Context, base: &Base) -> Option<Payload> {
    let connection = cx.connection(base.connection)?;
    let addresses: Vec<IpAddr> =
        connection.vips.iter().map(|vip| cx.current_address(base.connection, *vip)).collect();
    let has = |v4: bool| addresses.iter().any(|addr| addr.is_ipv4() == v4);
    let asked = |addr: &IpAddr| match addr.is_unspecified() {
        true if addr.is_ipv4() => Attribute::asked(attribute::INTERNAL_IP4_ADDRESS),
        true => Attribute::asked(attribute::INTERNAL_IP6_ADDRESS),
        false => Attribute::address(*addr),
    };
    let mut attributes: Vec<Attribute> = addresses.iter().map(asked).collect();
    for (v4, also) in [
        (true, [attribute::INTERNAL_IP4_DNS, attribute::INTERNAL_IP4_SUBNET]),
        (false, [attribute::INTERNAL_IP6_DNS, attribute::INTERNAL_IP6_SUBNET]),
    ] {
        if has(v4) {
            attributes.extend(also.map(Attribute::asked));
        }
    }
    let request = Configuration { kind: ConfigurationType::Request, attributes };
    (!addresses.is_empty()).then_some(Payload::Cp(request))
}

/// Takes what the responder gives us. `Err` if we asked for addresses and got none.
pub(super) fn take(cx: &mut Context, base: &mut Base, payloads: &[Payload]) -> Result<(), Failure> {
    let asked = cx.connection(base.connection).map(|c| c.vips.clone()).unwrap_or_default();
    if asked.is_empty() {
        return Ok(());
    }
    let refused = payloads.iter().any(|payload| {
        matches!(payload, Payload::Notify(found) if found.notify_type == notify::INTERNAL_ADDRESS_FAILURE)
    });
    let attributes = find(payloads, ConfigurationType::Reply).map(|reply| reply.attributes.as_slice());
    let (mut own, mut told): (Vec<IpAddr>, Attributes) = Default::default();
    for meaning in attributes.unwrap_or_default().iter().filter_map(Attribute::meaning) {
        match meaning {
            // RFC 7296 §2.19: no more than was asked for.
            Meaning::Address(addr)
                if !addr.is_unspecified()
                    && asked.iter().any(|asked| asked.is_ipv4() == addr.is_ipv4())
                    && !own.iter().any(|have| have.is_ipv4() == addr.is_ipv4()) =>
            {
                own.push(addr);
            }
            Meaning::Address(_) => {}
            Meaning::Dns(addr) => told.dns.push(addr),
            Meaning::Nbns(addr) => told.nbns.push(addr),
            Meaning::Subnet(net) => told.subnets.push(net),
            Meaning::Domain(name) => told.domains.push(name),
        }
    }
    if own.is_empty() {
        return Err(base.about(cx).no_address_assigned(refused));
    }
    base.addresses.own.clone_from(&own);
    cx.acquire_addresses(base.connection, own, told);
    Ok(())
}

/// Awaits the lease of addresses for an initiator that asked for them, before its first child is chosen.
#[derive(Debug)]
pub(super) struct Assigning {
    job: Option<JobId>,
    request: Option<Box<AddressRequest>>,
    pools: Vec<String>,
    /// What asks for the child, and the nonces of its keys.
    pub(super) payloads: Vec<Payload>,
    pub(super) nonces: (Vec<u8>, Vec<u8>),
    /// IDr and AUTH of the answer.
    pub(super) answer: Vec<Payload>,
}

/// Whether an initiator is to be given addresses.
pub(super) enum Wish {
    /// It did not ask, nor need it.
    None,
    /// It asked.
    Asks(Box<AddressRequest>),
    /// It did not ask, and cannot do without (RFC 7296 §2.19).
    Missing,
}

impl Wish {
    pub(super) fn of(cx: &Context, base: &Base, payloads: &[Payload]) -> Self {
        let (Some(connection), Some(identity)) = (cx.connection(base.connection), &base.remote_id) else {
            return Self::None;
        };
        let authorization = &base.authorization;
        if connection.pools.is_empty() && authorization.addresses.is_empty() {
            return Self::None;
        }
        let wanted = find(payloads, ConfigurationType::Request).map(wanted).unwrap_or_default();
        if wanted.is_empty() {
            return if needs_address(connection) { Self::Missing } else { Self::None };
        }
        Self::Asks(Box::new(AddressRequest {
            identity: match &authorization.eap_id {
                Some(user) => user.clone(),
                // Nobody in particular has no address that would be his.
                None if base.is_unauthenticated() => {
                    format!("{identity} {:016x}", u64::from_be_bytes(base.spi_r))
                }
                None => identity.to_string(),
            },
            pools: connection.pools.clone(),
            wanted,
            grant: Grant {
                addresses: authorization.addresses.clone(),
                attributes: Attributes { dns: authorization.dns.clone(), ..Attributes::default() },
            },
        }))
    }
}

/// Whether every child is for an address out of a pool.
fn needs_address(connection: &ConnectionConfig) -> bool {
    connection.children.iter().all(|child| child.remote_ts.iter().all(Option::is_none))
}

impl Assigning {
    pub(super) fn begin(
        cx: &mut Context,
        base: &Base,
        request: Box<AddressRequest>,
        answer: Vec<Payload>,
        payloads: &[Payload],
        nonces: (Vec<u8>, Vec<u8>),
    ) -> Self {
        cx.effects.push_back(Effect::AssignAddresses { id: base.id });
        let pools = request.pools.clone();
        Self { job: None, request: Some(request), pools, payloads: payloads.to_vec(), nonces, answer }
    }

    /// Whatever the peer had before is free by now, if it has said that it starts over.
    pub(super) fn lease(&mut self, cx: &mut Context, base: &Base) {
        if let Some(request) = self.request.take() {
            self.job = Some(cx.assign_addresses(base.id, *request));
        }
    }

    pub(super) fn awaits(&self, id: JobId) -> bool {
        self.job == Some(id)
    }

    /// Books what was leased, and adds the CFG_REPLY to the answer. `Err` if nothing was.
    pub(super) fn complete(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        done: Done,
    ) -> Result<(), (u16, Failure)> {
        let assignment = match done.result {
            JobResult::AddressesAssigned(assignment) => *assignment,
            _ => Assignment::default(),
        };
        let name = base.remote_id.as_ref().map(ToString::to_string).unwrap_or_default();
        let exhausted = (!assignment.exhausted.is_empty())
            .then(|| base.about(cx).pool_exhausted(&assignment.exhausted, &name));
        if assignment.leases.is_empty() {
            let failure = exhausted.unwrap_or_else(|| base.about(cx).no_pool_of_family(&self.pools));
            return Err((notify::INTERNAL_ADDRESS_FAILURE, failure));
        }
        if let Some(failure) = exhausted {
            cx.event(Event::Failed(failure));
        }
        self.answer.push(reply(&assignment));
        let addresses = assignment.leases.iter().map(|lease| lease.address).collect();
        cx.event(Event::AddressesAssigned {
            ike: base.id,
            connection: cx.connection_name(base.connection),
            identity: name,
            addresses,
        });
        base.addresses.leases = assignment.leases;
        Ok(())
    }
}

fn reply(assignment: &Assignment) -> Payload {
    let Assignment { leases, attributes, .. } = assignment;
    let mut all: Vec<Attribute> = leases.iter().map(|lease| Attribute::address(lease.address)).collect();
    all.extend(attributes.dns.iter().copied().map(Attribute::dns));
    all.extend(attributes.nbns.iter().copied().map(Attribute::nbns));
    all.extend(attributes.subnets.iter().copied().map(Attribute::subnet));
    all.extend(attributes.domains.iter().map(|name| Attribute::domain(name)));
    Payload::Cp(Configuration { kind: ConfigurationType::Reply, attributes: all })
}

/// The answer to a CP payload in an INFORMATIONAL request (RFC 7296 §2.20, §3.15): what runs here stays hidden, and
/// nothing that the peer would set is taken.
pub(super) fn answer_informational(payloads: &[Payload]) -> Option<Payload> {
    if let Some(request) = find(payloads, ConfigurationType::Request) {
        let version = |asked: &&Attribute| asked.attribute_type == attribute::APPLICATION_VERSION;
        let attributes = request.attributes.iter().filter(version).take(1);
        let attributes = attributes.map(|_| Attribute::asked(attribute::APPLICATION_VERSION)).collect();
        return Some(Payload::Cp(Configuration { kind: ConfigurationType::Reply, attributes }));
    }
    find(payloads, ConfigurationType::Set)
        .map(|_| Payload::Cp(Configuration { kind: ConfigurationType::Ack, attributes: Vec::new() }))
}

/// FAILED_CP_REQUIRED beside our own authentication.
pub(super) fn required(cx: &mut Context, base: &Base, answer: &mut Vec<Payload>) {
    cx.event(Event::Failed(base.about(cx).address_not_asked_for()));
    answer.push(notification(notify::FAILED_CP_REQUIRED, Vec::new()));
}

impl Established {
    /// Answers an IKE_AUTH request beyond its authentication, for which `answer` is ready: inner addresses, then the child.
    pub(super) fn answer_first_child(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        answer: Vec<Payload>,
        payloads: &[Payload],
        record: &InitRecord,
    ) {
        let nonces = (record.nonce_i.clone(), record.nonce_r.clone());
        match Wish::of(cx, base, payloads) {
            Wish::None => self.answer_child(cx, base, answer, payloads, nonces),
            Wish::Asks(request) => {
                let assigning = Assigning::begin(cx, base, request, answer, payloads, nonces);
                self.theirs = Some(Theirs::Addresses(Box::new(assigning)));
            }
            Wish::Missing => {
                let mut answer = answer;
                required(cx, base, &mut answer);
                self.channel.respond(cx, base, answer);
            }
        }
    }

    /// The effect [`Effect::AssignAddresses`]: what the peer had before is free by now, if it will ever be.
    pub(super) fn assign_addresses(&mut self, cx: &mut Context, base: &Base) {
        if let Some(Theirs::Addresses(assigning)) = &mut self.theirs {
            assigning.lease(cx, base);
        }
    }

    /// The peer has its inner addresses, or there are none.
    pub(super) fn addresses_assigned(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        mut assigning: Assigning,
        done: Done,
    ) {
        match assigning.complete(cx, base, done) {
            Ok(()) => {
                let Assigning { answer, payloads, nonces, .. } = assigning;
                self.answer_child(cx, base, answer, &payloads, nonces);
            }
            Err((error, failure)) => {
                cx.event(Event::Failed(failure));
                let mut answer = assigning.answer;
                answer.push(notification(error, Vec::new()));
                self.channel.respond(cx, base, answer);
            }
        }
    }
}

impl Base {
    /// What `dynamic` stands for (swanctl's `local_ts`, `remote_ts`).
    pub(super) fn dynamic(&self, cx: &Context) -> Dynamic {
        let exactly = |addrs: &[IpAddr]| addrs.iter().copied().map(TrafficSelector::any).collect();
        let vips = cx.connection(self.connection).map(|c| c.vips.as_slice()).unwrap_or_default();
        let leased = self.addresses.of_peer();
        Dynamic {
            local: match (self.addresses.own.as_slice(), vips) {
                ([], []) => exactly(&[self.local.ip()]),
                ([], asked) => asked.iter().copied().map(any_or_exactly).collect(),
                (own, _) => exactly(own),
            },
            remote: match leased.as_slice() {
                [] => exactly(&[self.remote.ip()]),
                leased => exactly(leased),
            },
        }
    }
}

/// What an inner address that is asked for may turn out to be: any of its family if it is unspecified, else itself.
pub fn any_or_exactly(asked: IpAddr) -> TrafficSelector {
    let all = |start: IpAddr, end: IpAddr| AddressRange::new(start, end);
    let range = match asked {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => all(asked, Ipv4Addr::BROADCAST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => all(asked, Ipv6Addr::from(u128::MAX).into()),
        _ => None,
    };
    let exactly = TrafficSelector::any(asked);
    TrafficSelector { addrs: range.unwrap_or(exactly.addrs), ..exactly }
}
