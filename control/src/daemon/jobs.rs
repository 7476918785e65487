//! Carries out the engine's jobs: mathematics on threads of its own ([`threads`]), what may wait for others on the runtime's
//! blocking threads, and installs at once, because they take less time than it would to hand them over. Where there is one
//! processor, quick mathematics is among those.

pub(super) mod threads;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::socket::{setsockopt, sockopt};
use portcullis_ike::auth::eap::{AaaAnswer, Circumstances, SharedSource};
use portcullis_ike::auth::{self, UnixTime};
use portcullis_ike::crypto::{self, KeMethod};
use portcullis_ike::engine::{Activation, Answer, ChildInstall, Job, JobResult, Load, PolicyRef, Resource};
use portcullis_ipsec::{InstallError, PolicyId, SaInstaller, Spi};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::crls::CrlStore;

/// Where a job is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// By the engine's task itself.
    Here,
    /// On [`threads`].
    Threads,
    /// Where it may block for long.
    Blocking,
}

/// Where a job is to be done. A table of SAs is changed in a few microseconds. With one processor, `alone`, quick mathematics
/// is done at once as well: it would run on the same processor in any case, after two changes of threads.
pub(super) fn place(job: &Job, alone: bool) -> Place {
    match job {
        Job::GenerateKe { method, .. } if alone && is_quick(*method) => Place::Here,
        Job::DeriveKe { secret, .. } if alone && is_quick(secret.method()) => Place::Here,
        Job::AllocateSpi
        | Job::InstallChild(_)
        | Job::ActivateChild { .. }
        | Job::RetireChild { .. }
        | Job::MoveChild { .. }
        | Job::RemoveChild { .. }
        | Job::QueryCounters { .. }
        | Job::Ask(_)
        | Job::Tell(_) => Place::Here,
        // Asks OCSP responders about our own certificates.
        Job::Sign(request) if request.wants_status => Place::Blocking,
        Job::GenerateKe { .. } | Job::DeriveKe { .. } | Job::Sign(_) => Place::Threads,
        // Takes seconds, for which no key exchange is to wait.
        Job::SolvePuzzle { .. } => Place::Blocking,
        // Fetches CRLs and asks OCSP responders.
        Job::VerifyPeer(_) => Place::Blocking,
        Job::SourceAddress { .. } | Job::EapTurn(_) => Place::Blocking,
        Job::AskAaa(_) | Job::AssignAddresses(_) | Job::ReleaseAddresses { .. } => Place::Blocking,
    }
}

/// Whether either half of a key exchange takes some 50 microseconds at the most.
fn is_quick(method: KeMethod) -> bool {
    matches!(
        method,
        KeMethod::X25519 | KeMethod::Ecp256 | KeMethod::MlKem512 | KeMethod::MlKem768 | KeMethod::MlKem1024
    )
}

/// Does one job. Blocks for as long as it takes. `mark` is the firewall mark of our own packets.
pub(super) fn perform(
    job: Job,
    installer: &Arc<dyn SaInstaller>,
    mark: u32,
    crls: &Arc<CrlStore>,
) -> JobResult {
    match job {
        Job::SourceAddress { remote } => JobResult::SourceAddress(source_address(remote, mark)),
        Job::GenerateKe { method, peer_public, seed } => {
            let mut rng = ChaCha20Rng::from_seed(seed);
            JobResult::KeGenerated(match peer_public {
                None => crypto::generate(method, &mut rng),
                Some(public) => crypto::answer(method, &public, &mut rng),
            })
        }
        Job::DeriveKe { secret, peer_public } => JobResult::KeDerived(crypto::derive(&secret, &peer_public)),
        Job::SolvePuzzle { puzzle, cookie, start } => JobResult::PuzzleSolved(puzzle.solve(&cookie, start)),
        Job::Sign(request) => JobResult::Signed(request.perform(now(), crls.as_ref())),
        Job::VerifyPeer(request) => JobResult::PeerVerified(auth::verify(&request, now(), crls.as_ref())),
        Job::EapTurn(turn) => {
            let source: SharedSource = Arc::clone(crls) as _;
            JobResult::EapTurned(Box::new(turn.take(&Circumstances { now: now(), source })))
        }
        // Of the engine's task, which asks RADIUS: `super::ike`.
        Job::AskAaa(_) => {
            JobResult::AaaAnswered(Box::new(AaaAnswer::Unreachable { why: "nobody was asked".to_owned() }))
        }
        Job::AllocateSpi => JobResult::SpiAllocated(installer.allocate_spi()),
        Job::InstallChild(install) => JobResult::ChildInstalled(install_child(*install, installer.as_ref())),
        Job::ActivateChild { pair, activation } => {
            JobResult::ChildActivated(activate_child(pair, *activation, installer.as_ref()))
        }
        Job::RetireChild { pair, policy } => {
            JobResult::ChildRetired(retire_child(pair, policy, installer.as_ref()))
        }
        Job::MoveChild { pair, endpoints } => JobResult::ChildMoved(installer.move_pair(pair, endpoints)),
        Job::RemoveChild { pair, policy } => {
            JobResult::ChildRemoved(remove_child(pair, policy, installer.as_ref()))
        }
        // Of the thread that owns the pools: `super::leases`.
        Job::AssignAddresses(_) => JobResult::AddressesAssigned(Box::default()),
        Job::ReleaseAddresses { .. } => JobResult::AddressesReleased,
        // Of the registry's task: `super::ike`.
        Job::Ask(_) | Job::Tell(_) => JobResult::Registry(Box::new(Answer::Room(Load::default(), true))),
        Job::QueryCounters { pairs } => {
            JobResult::Counters(pairs.into_iter().map(|pair| (pair, installer.counters(pair).ok())).collect())
        }
    }
}

/// What certificates are compared with.
fn now() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// The address that the kernel sends from: that of a connected socket. Nothing is sent.
fn source_address(remote: IpAddr, mark: u32) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // No mark is the default, and to set even that takes a privilege.
    if mark != 0 {
        setsockopt(&socket, sockopt::Mark, &mark).ok()?;
    }
    // Any port will do.
    socket.connect((remote, 500)).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip())
}

/// Inbound first, so that what the peer sends at once is accepted; undone whole if a step fails.
fn install_child(
    install: ChildInstall,
    installer: &dyn SaInstaller,
) -> Result<Option<PolicyId>, InstallError> {
    let ChildInstall { pair, inbound, limits, activation } = install;
    installer.install_inbound(pair, inbound)?;
    let installed = installer
        .limit(pair, limits)
        .and_then(|()| activation.map(|activation| activate_child(pair, activation, installer)).transpose());
    if installed.is_err() {
        undo(installer.remove(pair));
    }
    installed
}

/// A new policy is removed again if it leads nowhere.
fn activate_child(
    pair: Spi,
    activation: Activation,
    installer: &dyn SaInstaller,
) -> Result<PolicyId, InstallError> {
    let Activation { policy, outbound, resource } = activation;
    let (policy, new) = match policy {
        PolicyRef::Installed(policy) => (policy, false),
        PolicyRef::New(policy) => (installer.install_policy(policy)?, true),
    };
    let activated = match resource {
        Resource::None | Resource::Fallback => installer.activate_outbound(policy, pair, outbound),
        Resource::Worker(worker) => installer.activate_for_worker(policy, pair, outbound, Some(worker)),
        Resource::Spare => installer.activate_for_worker(policy, pair, outbound, None),
    };
    if let Err(error) = activated {
        if new {
            undo(installer.remove_policy(policy));
        }
        return Err(error);
    }
    Ok(policy)
}

/// The policy goes first: from then on another leads its packets to a newer SA. None leaves in clear, because what is
/// configured covers them too.
fn retire_child(
    pair: Spi,
    policy: Option<PolicyId>,
    installer: &dyn SaInstaller,
) -> Result<(), InstallError> {
    let removed = policy.map_or(Ok(()), |policy| installer.remove_policy(policy));
    installer.retire(pair).and(removed)
}

/// The SAs go before the policy, so that no packet finds neither and leaves in clear.
fn remove_child(
    pair: Spi,
    policy: Option<PolicyId>,
    installer: &dyn SaInstaller,
) -> Result<(), InstallError> {
    let removed = installer.remove(pair);
    match policy {
        Some(policy) => removed.and(installer.remove_policy(policy)),
        None => removed,
    }
}

fn undo(result: Result<(), InstallError>) {
    if let Err(error) = result {
        tracing::error!(%error, "undoing a failed install failed too");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use portcullis_ipsec::{
        DataplaneEvent, Encapsulation, EspAlgorithm, EspKey, InboundSa, OutboundSa, Policy, PolicyAction,
        PolicyOrigin, SaCounters, SaOptions, TenantId, TunnelEndpoints, UsageLimits,
    };

    use super::*;

    /// Writes down what it is asked, and refuses one thing.
    struct Recorder {
        refuse: &'static str,
        calls: Mutex<Vec<&'static str>>,
    }

    impl Recorder {
        fn call(&self, name: &'static str) -> Result<(), InstallError> {
            self.calls.lock().unwrap().push(name);
            if self.refuse == name { Err(InstallError::Stopped) } else { Ok(()) }
        }
    }

    impl SaInstaller for Recorder {
        fn allocate_spi(&self) -> Result<Spi, InstallError> {
            self.call("allocate_spi").map(|()| Spi::new(4711).unwrap())
        }
        fn install_inbound(&self, _: Spi, _: InboundSa) -> Result<(), InstallError> {
            self.call("install_inbound")
        }
        fn install_policy(&self, _: Policy) -> Result<PolicyId, InstallError> {
            self.call("install_policy").map(|()| PolicyId(7))
        }
        fn activate_outbound(&self, _: PolicyId, _: Spi, _: OutboundSa) -> Result<(), InstallError> {
            self.call("activate_outbound")
        }
        fn activate_for_worker(
            &self,
            _: PolicyId,
            _: Spi,
            _: OutboundSa,
            _: Option<u16>,
        ) -> Result<(), InstallError> {
            self.call("activate_for_worker")
        }
        fn limit(&self, _: Spi, _: UsageLimits) -> Result<(), InstallError> {
            self.call("limit")
        }
        fn retire(&self, _: Spi) -> Result<(), InstallError> {
            self.call("retire")
        }
        fn move_pair(&self, _: Spi, _: TunnelEndpoints) -> Result<(), InstallError> {
            self.call("move_pair")
        }
        fn remove(&self, _: Spi) -> Result<(), InstallError> {
            self.call("remove")
        }
        fn remove_policy(&self, _: PolicyId) -> Result<(), InstallError> {
            self.call("remove_policy")
        }
        fn counters(&self, _: Spi) -> Result<SaCounters, InstallError> {
            self.call("counters").map(|()| SaCounters::default())
        }
        fn take_events(&self) -> Vec<DataplaneEvent> {
            Vec::new()
        }
    }

    fn install(at_once: bool) -> Box<ChildInstall> {
        let pair = Spi::new(4711).unwrap();
        let key = EspKey::from_keymat(EspAlgorithm::Aes128Gcm16, &[0; 20]).unwrap();
        let endpoints = TunnelEndpoints {
            local: "192.0.2.1".parse().unwrap(),
            remote: "192.0.2.2".parse().unwrap(),
            encapsulation: Encapsulation::None,
        };
        let (local_ts, remote_ts) =
            (vec!["10.1.0.0/16".parse().unwrap()], vec!["10.2.0.0/16".parse().unwrap()]);
        let tenant = TenantId::default();
        let policy = Policy {
            name: "site/net".to_owned(),
            tenant,
            local_ts: local_ts.clone(),
            remote_ts: remote_ts.clone(),
            origin: PolicyOrigin::Negotiated,
            action: PolicyAction::Protect,
            priority: None,
            per_worker: false,
        };
        let inbound = InboundSa {
            key: key.clone(),
            esn: true,
            replay_window: 64,
            endpoints,
            local_ts: local_ts.clone(),
            remote_ts: remote_ts.clone(),
            tenant,
            options: SaOptions::default(),
        };
        let outbound = OutboundSa {
            spi: pair,
            key,
            esn: true,
            endpoints,
            local_ts,
            remote_ts,
            options: SaOptions::default(),
        };
        let activation = at_once.then_some(Activation {
            policy: PolicyRef::New(policy),
            outbound,
            resource: Resource::None,
        });
        Box::new(ChildInstall { pair, inbound, limits: UsageLimits::default(), activation })
    }

    fn calls(job: Job, refuse: &'static str) -> (JobResult, Vec<&'static str>) {
        let recorder = Arc::new(Recorder { refuse, calls: Mutex::default() });
        let installer: Arc<dyn SaInstaller> = recorder.clone();
        let crls = Arc::new(CrlStore::new("/nonexistent".into(), Arc::default()));
        let result = perform(job, &installer, 0, &crls);
        let calls = recorder.calls.lock().unwrap().clone();
        (result, calls)
    }

    #[test]
    fn quick_key_exchanges_are_done_at_once_where_there_is_one_processor() {
        let of = |method, alone| {
            let rng = &mut ChaCha20Rng::from_seed([7; 32]);
            let (secret, peer_public) = crypto::generate(method, rng).unwrap();
            let generate = Job::GenerateKe { method, peer_public: None, seed: [7; 32] };
            [generate, Job::DeriveKe { secret, peer_public }].map(|job| place(&job, alone))
        };
        assert_eq!(of(KeMethod::X25519, true), [Place::Here; 2]);
        assert_eq!(of(KeMethod::X25519, false), [Place::Threads; 2]);
        assert_eq!(of(KeMethod::Modp2048, true), [Place::Threads; 2], "other peers would wait for it");
    }

    #[test]
    fn a_child_is_accepted_inbound_before_anything_is_sealed() {
        let (result, calls) = calls(Job::InstallChild(install(true)), "");
        assert!(matches!(result, JobResult::ChildInstalled(Ok(Some(PolicyId(7))))));
        assert_eq!(calls, ["install_inbound", "limit", "install_policy", "activate_outbound"]);
    }

    #[test]
    fn a_rekeyed_child_is_sealed_with_only_when_it_is_activated() {
        let mut install = install(false);
        let (result, without) = calls(Job::InstallChild(install.clone()), "");
        assert!(matches!(result, JobResult::ChildInstalled(Ok(None))));
        assert_eq!(without, ["install_inbound", "limit"]);
        install = self::install(true);
        let mut activation = install.activation.unwrap();
        activation.policy = PolicyRef::Installed(PolicyId(3));
        let job = Job::ActivateChild { pair: install.pair, activation: Box::new(activation) };
        let (result, activated) = calls(job, "");
        assert!(matches!(result, JobResult::ChildActivated(Ok(PolicyId(3)))));
        assert_eq!(activated, ["activate_outbound"]);
    }

    #[test]
    fn a_child_of_one_worker_shares_the_policy() {
        for resource in [Resource::Worker(1), Resource::Spare] {
            let mut install = install(true);
            let activation = install.activation.as_mut().unwrap();
            (activation.policy, activation.resource) = (PolicyRef::Installed(PolicyId(3)), resource);
            let (result, calls) = calls(Job::InstallChild(install), "");
            assert!(matches!(result, JobResult::ChildInstalled(Ok(Some(PolicyId(3))))));
            assert_eq!(calls, ["install_inbound", "limit", "activate_for_worker"]);
        }
    }

    #[test]
    fn a_failed_install_leaves_nothing_behind() {
        let (_, without_policy) = calls(Job::InstallChild(install(true)), "install_policy");
        assert_eq!(without_policy, ["install_inbound", "limit", "install_policy", "remove"]);
        let (result, without_outbound) = calls(Job::InstallChild(install(true)), "activate_outbound");
        assert!(matches!(result, JobResult::ChildInstalled(Err(InstallError::Stopped))));
        let expected =
            ["install_inbound", "limit", "install_policy", "activate_outbound", "remove_policy", "remove"];
        assert_eq!(without_outbound, expected);
    }

    #[test]
    fn a_replaced_child_stops_when_its_packets_go_another_way() {
        let job = Job::RetireChild { pair: Spi::new(4711).unwrap(), policy: Some(PolicyId(7)) };
        assert_eq!(calls(job, "").1, ["remove_policy", "retire"]);
    }

    #[test]
    fn a_child_is_removed_before_its_policy() {
        let job = Job::RemoveChild { pair: Spi::new(4711).unwrap(), policy: Some(PolicyId(7)) };
        assert_eq!(calls(job, "").1, ["remove", "remove_policy"]);
    }

    #[test]
    fn the_source_address_towards_ourselves_is_our_own() {
        let loopback = "127.0.0.1".parse().unwrap();
        assert_eq!(source_address(loopback, 0), Some(loopback));
    }
}
