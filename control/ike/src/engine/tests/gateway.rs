//! A data plane that only remembers, and can tell whether a packet would have passed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use portcullis_ipsec::{
    EspKey, InboundSa, InstallError, OutboundSa, PolicyId, SaCounters, Spi, TunnelEndpoints, UsageLimits,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::world::{A, B, address};
use crate::auth;
use crate::auth::eap::{
    AaaAnswer, AaaRequest, AaaState, Circumstances, Conversation, Seed, Server, ServerMethod, Step,
    TlsSettings, Turn, UserSecret,
};
use crate::crypto;
use crate::engine::*;
use crate::pools::Pools;

#[derive(Debug, Default)]
pub(super) struct Gateway {
    next_spi: u32,
    next_policy: u32,
    pub(super) reserved: Vec<Spi>,
    pub(super) installed: BTreeMap<Spi, Pair>,
    pub(super) policies: BTreeMap<PolicyId, String>,
    /// The pair that packets of a policy are sealed with.
    pub(super) current: BTreeMap<PolicyId, Spi>,
    /// Those of single workers.
    pub(super) of_workers: BTreeMap<(PolicyId, u16), Spi>,
    pub(super) moved: Vec<(Spi, TunnelEndpoints)>,
    pub(super) counters: HashMap<Spi, SaCounters>,
    /// Where the host sends from; by default where its end is.
    pub(super) source: Option<IpAddr>,
    /// There is no route to anybody.
    pub(super) unreachable: bool,
    pub(super) full: bool,
    pub(super) refuses: bool,
    /// The job that goes wrong, if it can, counted from now.
    pub(super) mishap: Option<(u32, Mishap)>,
    pub(super) crls: Vec<Arc<auth::Crl>>,
    /// What every OCSP responder says of our own certificates.
    pub(super) status: Option<Vec<u8>>,
    /// What peers have brought of that.
    pub(super) brought: Vec<Vec<u8>>,
    /// Puzzles that it solves before its luck deserts it; `None`: all.
    pub(super) unlucky: Option<u32>,
    pub(super) aaa: Aaa,
    /// Changes the encapsulation keys that it makes.
    pub(super) spoil: Option<fn(&mut Vec<u8>)>,
    pub(super) pools: Pools,
}

/// Answers everything likewise.
struct Responder(Option<Vec<u8>>);

impl auth::RevocationSource for Responder {
    fn crls(&self, _: &auth::DistinguishedName) -> Vec<Arc<auth::Crl>> {
        Vec::new()
    }

    fn response(&self, _: &str, _: &auth::ocsp::Question<'_>, _: auth::UnixTime) -> Option<Vec<u8>> {
        self.0.clone()
    }
}

/// What may befall a job.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mishap {
    Fails,
    /// It takes longer than anybody waits.
    Drags,
}

fn circumstances(crls: Vec<Arc<auth::Crl>>) -> Circumstances {
    Circumstances { now: auth::tests::NOW, source: Arc::new(crls) }
}

/// An AAA server: EAP-MSCHAPv2 with one client at a time.
#[derive(Debug, Default)]
pub(super) struct Aaa {
    pub(super) users: Arc<[UserSecret]>,
    pub(super) authorization: auth::Authorization,
    pub(super) asked: Vec<AaaQuestion>,
    conversation: Option<Box<Server>>,
}

impl Aaa {
    fn answer(&mut self, question: AaaQuestion) -> AaaAnswer {
        self.asked.push(question.clone());
        let AaaRequest { user, packet, state } = question.request;
        let (server, received) = match state {
            None => {
                let id = crate::config::Identity::Fqdn(user);
                let server = Server::new(
                    ServerMethod::MsChapV2,
                    None,
                    &id,
                    self.users.clone(),
                    TlsSettings::default(),
                );
                (Box::new(server), Vec::new())
            }
            Some(_) => (self.conversation.take().unwrap(), packet),
        };
        let turn = Turn { conversation: Conversation::Server(server), received, seed: Seed([3; 32]) };
        let (Conversation::Server(server), step) = turn.take(&circumstances(Vec::new())) else {
            unreachable!()
        };
        self.conversation = Some(server);
        match step {
            Step::Send(packet) => {
                AaaAnswer::Challenge { packet, state: AaaState { server: 0, state: vec![1] } }
            }
            Step::Done(outcome) => AaaAnswer::Accept {
                packet: outcome.packet,
                msk: outcome.msk,
                authorization: Box::new(self.authorization.clone()),
            },
            Step::Failed { packet, .. } => AaaAnswer::Reject { packet, said: "go away".to_owned() },
            Step::Ask(_) => unreachable!(),
        }
    }
}

/// A CHILD SA.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) inbound: InboundSa,
    /// Once it is activated.
    pub(super) outbound: Option<OutboundSa>,
    pub(super) limits: UsageLimits,
    retired: bool,
    heard: bool,
}

/// A packet.
#[derive(Debug, Clone)]
pub(super) struct Sealed {
    pub(super) spi: Spi,
    key: EspKey,
}

impl Pair {
    /// Whether what one end sends the other can open.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let one_way = |from: &Self, to: &Self| {
            from.outbound
                .as_ref()
                .is_none_or(|sa| same_key(&sa.key, &to.inbound.key) && sa.esn == to.inbound.esn)
        };
        one_way(self, other)
            && one_way(other, self)
            && !same_key(&self.inbound.key, &other.inbound.key)
            && self.inbound.local_ts == other.inbound.remote_ts
            && self.inbound.remote_ts == other.inbound.local_ts
    }
}

fn same_key(a: &EspKey, b: &EspKey) -> bool {
    a.key() == b.key() && a.salt() == b.salt()
}

impl Gateway {
    pub(super) fn new(number: u32) -> Self {
        Self { next_spi: 0x1000 * (number + 1), ..Self::default() }
    }

    /// The pairs that are in use, that is, not retired.
    pub(super) fn in_use(&self) -> Vec<Spi> {
        self.installed.iter().filter(|(_, pair)| !pair.retired).map(|(spi, _)| *spi).collect()
    }

    /// A packet of each policy, and of each worker that has an SA of its own; `Err` names a policy that has no SA. Of policies with the same selectors, that is of one
    /// child, the one installed first is used, as the real data plane does.
    pub(super) fn seal(&self) -> Vec<Result<Sealed, String>> {
        let mut seen = BTreeSet::new();
        let seal = |(policy, name): (&PolicyId, &String)| {
            let pair = self.current.get(policy).and_then(|pair| self.installed.get(pair));
            match pair.and_then(|pair| pair.outbound.as_ref()) {
                Some(sa) => Ok(Sealed { spi: sa.spi, key: sa.key.clone() }),
                None => Err(name.clone()),
            }
        };
        let of_worker = |pair: &Spi| {
            let sa = self.installed.get(pair).and_then(|pair| pair.outbound.as_ref());
            sa.map(|sa| Sealed { spi: sa.spi, key: sa.key.clone() })
                .ok_or_else(|| format!("a worker: {pair}"))
        };
        let shared = self.policies.iter().filter(|(_, name)| seen.insert(*name)).map(seal);
        shared.chain(self.of_workers.values().map(of_worker)).collect()
    }

    /// Whether it is the first packet of its SA.
    pub(super) fn open(&mut self, sealed: &Sealed) -> Result<bool, String> {
        let pair = self.installed.get_mut(&sealed.spi).ok_or_else(|| format!("no SA {}", sealed.spi))?;
        if !same_key(&pair.inbound.key, &sealed.key) {
            return Err(format!("another key for {}", sealed.spi));
        }
        Ok(!std::mem::replace(&mut pair.heard, true))
    }

    /// What befalls the next job.
    pub(super) fn befalls(&mut self) -> Option<Mishap> {
        let (left, mishap) = self.mishap?;
        self.mishap = left.checked_sub(1).map(|left| (left, mishap));
        self.mishap.is_none().then_some(mishap)
    }

    pub(super) fn fail(&mut self, job: Job) -> JobResult {
        let nothing =
            crypto::KeyExchangeError::Length { method: crypto::KeMethod::X25519, expected: 32, found: 0 };
        match job {
            Job::SourceAddress { .. } => JobResult::SourceAddress(None),
            Job::GenerateKe { .. } => JobResult::KeGenerated(Err(nothing)),
            Job::DeriveKe { .. } => JobResult::KeDerived(Err(nothing)),
            Job::Sign(_) => JobResult::Signed(None),
            Job::SolvePuzzle { .. } => JobResult::PuzzleSolved(None),
            Job::AllocateSpi => JobResult::SpiAllocated(Err(InstallError::TableFull { capacity: 0 })),
            Job::InstallChild(_) => JobResult::ChildInstalled(Err(InstallError::TableFull { capacity: 0 })),
            job => self.run(job),
        }
    }

    pub(super) fn run(&mut self, job: Job) -> JobResult {
        match job {
            Job::SourceAddress { remote } => {
                let local = if remote == address(B) { address(A) } else { address(B) };
                let local = self.source.unwrap_or(local);
                JobResult::SourceAddress((!self.unreachable).then_some(local))
            }
            Job::SolvePuzzle { puzzle, cookie, start } => {
                if self.unlucky == Some(0) {
                    return JobResult::PuzzleSolved(None);
                }
                self.unlucky = self.unlucky.map(|left| left - 1);
                JobResult::PuzzleSolved(puzzle.solve(&cookie, start))
            }
            Job::GenerateKe { method, peer_public, seed } => {
                let mut rng = ChaCha20Rng::from_seed(seed);
                let mut made = match peer_public {
                    None => crypto::generate(method, &mut rng),
                    Some(public) => crypto::answer(method, &public, &mut rng),
                };
                if let (Ok((_, public)), Some(spoil), true) =
                    (&mut made, self.spoil, method == crypto::KeMethod::MlKem768)
                {
                    spoil(public);
                }
                JobResult::KeGenerated(made)
            }
            Job::DeriveKe { secret, peer_public } => {
                JobResult::KeDerived(crypto::derive(&secret, &peer_public))
            }
            Job::Sign(request) => {
                JobResult::Signed(request.perform(auth::tests::NOW, &Responder(self.status.clone())))
            }
            Job::VerifyPeer(request) => {
                let statuses = request.certificates.iter().filter(|sent| sent.encoding == 14);
                self.brought.extend(statuses.map(|sent| sent.data.clone()));
                JobResult::PeerVerified(auth::verify(&request, auth::tests::NOW, &self.crls))
            }
            Job::EapTurn(turn) => {
                JobResult::EapTurned(Box::new(turn.take(&circumstances(self.crls.clone()))))
            }
            Job::AskAaa(question) => JobResult::AaaAnswered(Box::new(self.aaa.answer(*question))),
            Job::AssignAddresses(request) => {
                JobResult::AddressesAssigned(Box::new(self.pools.assign(&request)))
            }
            Job::ReleaseAddresses { leases } => {
                self.pools.release(&leases);
                JobResult::AddressesReleased
            }
            Job::AllocateSpi if self.full => {
                JobResult::SpiAllocated(Err(InstallError::TableFull { capacity: 0 }))
            }
            Job::AllocateSpi => {
                self.next_spi += 1;
                let spi = Spi::new(self.next_spi).unwrap();
                self.reserved.push(spi);
                JobResult::SpiAllocated(Ok(spi))
            }
            Job::InstallChild(install) => JobResult::ChildInstalled(self.install(*install)),
            Job::ActivateChild { pair, activation } => {
                JobResult::ChildActivated(self.activate(pair, *activation))
            }
            Job::RetireChild { pair, policy } => JobResult::ChildRetired(self.retire(pair, policy)),
            Job::MoveChild { pair, endpoints } => {
                self.moved.push((pair, endpoints));
                JobResult::ChildMoved(Ok(()))
            }
            Job::RemoveChild { pair, policy } => JobResult::ChildRemoved(self.remove(pair, policy)),
            Job::Ask(_) | Job::Tell(_) => unreachable!("for the registry"),
            Job::QueryCounters { pairs } => {
                let counters = |pair| (pair, self.counters.get(&pair).copied());
                JobResult::Counters(pairs.into_iter().map(counters).collect())
            }
        }
    }

    fn install(&mut self, install: ChildInstall) -> Result<Option<PolicyId>, InstallError> {
        let ChildInstall { pair: spi, inbound, limits, activation } = install;
        let reserved = self.reserved.iter().position(|reserved| *reserved == spi);
        self.reserved.remove(reserved.ok_or(InstallError::UnknownSpi { spi })?);
        if self.refuses {
            return Err(InstallError::Stopped);
        }
        let pair = Pair { inbound, outbound: None, limits, retired: false, heard: false };
        self.installed.insert(spi, pair);
        let Some(activation) = activation else { return Ok(None) };
        self.activate(spi, activation).map(Some).inspect_err(|_| _ = self.installed.remove(&spi))
    }

    fn activate(&mut self, spi: Spi, activation: Activation) -> Result<PolicyId, InstallError> {
        let pair = self.installed.get_mut(&spi).ok_or(InstallError::UnknownSpi { spi })?;
        if pair.outbound.is_some() || pair.retired {
            return Err(InstallError::AlreadyInstalled { spi });
        }
        let policy = match activation.policy {
            PolicyRef::Installed(policy) if self.policies.contains_key(&policy) => policy,
            PolicyRef::Installed(policy) => return Err(InstallError::UnknownPolicy(policy)),
            PolicyRef::New(policy) => {
                self.next_policy += 1;
                self.policies.insert(PolicyId(self.next_policy), policy.name);
                PolicyId(self.next_policy)
            }
        };
        pair.outbound = Some(activation.outbound);
        match activation.resource {
            Resource::None | Resource::Fallback => _ = self.current.insert(policy, spi),
            Resource::Worker(worker) => _ = self.of_workers.insert((policy, worker), spi),
            Resource::Spare => {}
        }
        Ok(policy)
    }

    fn retire(&mut self, spi: Spi, policy: Option<PolicyId>) -> Result<(), InstallError> {
        let removed = self.remove_policy(policy);
        self.current.retain(|_, pair| *pair != spi);
        self.of_workers.retain(|_, pair| *pair != spi);
        self.installed.get_mut(&spi).ok_or(InstallError::UnknownSpi { spi })?.retired = true;
        removed
    }

    fn remove(&mut self, spi: Spi, policy: Option<PolicyId>) -> Result<(), InstallError> {
        let removed = self.remove_policy(policy);
        self.current.retain(|_, pair| *pair != spi);
        self.of_workers.retain(|_, pair| *pair != spi);
        let reserved = self.reserved.len();
        self.reserved.retain(|reserved| *reserved != spi);
        if self.installed.remove(&spi).is_none() && self.reserved.len() == reserved {
            return Err(InstallError::UnknownSpi { spi });
        }
        removed
    }

    fn remove_policy(&mut self, policy: Option<PolicyId>) -> Result<(), InstallError> {
        if let Some(policy) = policy {
            self.current.remove(&policy);
            self.policies.remove(&policy).ok_or(InstallError::UnknownPolicy(policy))?;
        }
        Ok(())
    }
}
