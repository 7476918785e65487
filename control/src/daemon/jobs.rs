//! Carries out the engine's jobs off the reactor: mathematics and installs, on the runtime's blocking threads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;

use nix::sys::socket::{setsockopt, sockopt};
use portcullis_ike::crypto;
use portcullis_ike::engine::{ChildInstall, Job, JobResult, PolicyRef};
use portcullis_ipsec::{InstallError, PolicyId, SaInstaller, Spi};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// Does one job. Blocks for as long as it takes. `mark` is the firewall mark of our own packets.
pub(super) fn perform(job: Job, installer: &Arc<dyn SaInstaller>, mark: u32) -> JobResult {
    match job {
        Job::SourceAddress { remote } => JobResult::SourceAddress(source_address(remote, mark)),
        Job::GenerateKe { method, seed } => {
            let mut rng = ChaCha20Rng::from_seed(seed);
            JobResult::KeGenerated(crypto::generate(method, &mut rng))
        }
        Job::DeriveKe { secret, peer_public } => JobResult::KeDerived(crypto::derive(&secret, &peer_public)),
        Job::AllocateSpi => JobResult::SpiAllocated(installer.allocate_spi()),
        Job::InstallChild(install) => JobResult::ChildInstalled(install_child(*install, installer.as_ref())),
        Job::MoveChild { pair, endpoints } => JobResult::ChildMoved(installer.move_pair(pair, endpoints)),
        Job::RemoveChild { pair, policy } => {
            JobResult::ChildRemoved(remove_child(pair, policy, installer.as_ref()))
        }
        Job::QueryCounters { pairs } => {
            JobResult::Counters(pairs.into_iter().map(|pair| (pair, installer.counters(pair).ok())).collect())
        }
    }
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
fn install_child(install: ChildInstall, installer: &dyn SaInstaller) -> Result<PolicyId, InstallError> {
    let ChildInstall { pair, policy, inbound, outbound } = install;
    installer.install_inbound(pair, inbound)?;
    let (policy, new) = match policy {
        PolicyRef::Installed(policy) => (policy, false),
        PolicyRef::New(policy) => match installer.install_policy(policy) {
            Ok(policy) => (policy, true),
            Err(error) => {
                undo(installer.remove(pair));
                return Err(error);
            }
        },
    };
    if let Err(error) = installer.activate_outbound(policy, pair, outbound) {
        undo(installer.remove(pair));
        if new {
            undo(installer.remove_policy(policy));
        }
        return Err(error);
    }
    Ok(policy)
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
        PolicyOrigin, SaCounters, TenantId, TunnelEndpoints,
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

    fn install() -> Box<ChildInstall> {
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
        };
        let inbound = InboundSa {
            key: key.clone(),
            esn: true,
            replay_window: 64,
            endpoints,
            local_ts: local_ts.clone(),
            remote_ts: remote_ts.clone(),
            tenant,
        };
        let outbound = OutboundSa { spi: pair, key, esn: true, endpoints, local_ts, remote_ts };
        Box::new(ChildInstall { pair, policy: PolicyRef::New(policy), inbound, outbound })
    }

    fn calls(job: Job, refuse: &'static str) -> (JobResult, Vec<&'static str>) {
        let recorder = Arc::new(Recorder { refuse, calls: Mutex::default() });
        let installer: Arc<dyn SaInstaller> = recorder.clone();
        let result = perform(job, &installer, 0);
        let calls = recorder.calls.lock().unwrap().clone();
        (result, calls)
    }

    #[test]
    fn a_child_is_accepted_inbound_before_anything_is_sealed() {
        let (result, calls) = calls(Job::InstallChild(install()), "");
        assert!(matches!(result, JobResult::ChildInstalled(Ok(PolicyId(7)))));
        assert_eq!(calls, ["install_inbound", "install_policy", "activate_outbound"]);
    }

    #[test]
    fn a_failed_install_leaves_nothing_behind() {
        let (_, without_policy) = calls(Job::InstallChild(install()), "install_policy");
        assert_eq!(without_policy, ["install_inbound", "install_policy", "remove"]);
        let (result, without_outbound) = calls(Job::InstallChild(install()), "activate_outbound");
        assert!(matches!(result, JobResult::ChildInstalled(Err(InstallError::Stopped))));
        let expected = ["install_inbound", "install_policy", "activate_outbound", "remove", "remove_policy"];
        assert_eq!(without_outbound, expected);
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
