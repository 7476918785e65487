//! A client: the project's own engine as initiator, with an identity, an address and a tunnel of its own. What it computes,
//! it computes at once.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use portcullis_ike::auth::{Proven, Signature, sign};
use portcullis_ike::config::{
    AddressMatch, ChildActions, ChildConfig, ChildLifetime, Childless, ConnectionConfig, EngineConfig,
    Identity, IdentityMatch, IkeFragmentation, IkeLifetime, LocalAuth, Ppk, RemoteAuth, Retransmission,
    Secret, SharedKey, StartAction, Unique,
};
use portcullis_ike::crypto;
use portcullis_ike::engine::{
    Activation, Command, CommandId, Datagram, Engine, Event, Job, JobId, JobResult,
};
use portcullis_ipsec::{InstallError, PolicyId, SaOptions, Spi, TenantId, TrafficSelector};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::credentials::Credentials;
use super::esp::{Esp, Stamp};
use super::place::{GATEWAY, LOCAL, inner, outer};

/// Names in the configurations of both ends.
pub(crate) const CONNECTION: &str = "clients";
pub(crate) const CHILD: &str = "net";
pub(crate) const PROPOSAL: &str = "aes256gcm16-prfsha384-x25519";
pub(crate) const ESP_PROPOSAL: &str = "aes256gcm16";

/// What a client's IKE SA carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carries {
    /// A CHILD SA, made in IKE_AUTH.
    Child,
    /// Nothing (RFC 6023): IKE alone.
    Nothing,
}

impl Carries {
    /// In the names of cases.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Child => "tunnel",
            Self::Nothing => "ike-sa",
        }
    }
}

/// What a client wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// Its tunnel.
    Establish,
    /// Other keys for its CHILD SA.
    RekeyChild,
    /// Other keys for its IKE SA.
    RekeyIke,
}

/// A client.
pub(crate) struct Client {
    number: u32,
    carries: Carries,
    engine: Engine,
    /// Its clock is so far behind: it stands still between preparation and start.
    behind: Duration,
    prepared: Instant,
    /// Computed ahead, and not sent yet.
    ready: Vec<Datagram>,
    generation: u32,
    pub(crate) esp: Option<Esp>,
    /// Whether the task in hand is done as far as IKE goes.
    pub(crate) done: bool,
    pub(crate) failure: Option<String>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Client {
    /// Ready to send its first IKE_SA_INIT request: what that costs is not the responder's.
    pub(crate) fn prepare(number: u32, credentials: &Credentials, carries: Carries) -> anyhow::Result<Self> {
        // Each client's randomness is its own, and the same in every run.
        let rng = ChaCha20Rng::seed_from_u64(number.into());
        let mut client = Self {
            number,
            carries,
            engine: Engine::new(config(number, credentials, carries)?, Box::new(rng)),
            behind: Duration::ZERO,
            prepared: Instant::now(),
            ready: Vec::new(),
            generation: 0,
            esp: None,
            done: false,
            failure: None,
        };
        let initiate = Command::Initiate { connection: CONNECTION.to_owned(), child: None };
        client.engine.handle_command(client.prepared, CommandId(0), initiate);
        let mut ready = Vec::new();
        client.settle(client.prepared, &mut ready)?;
        client.ready = ready;
        Ok(client)
    }

    /// Ready to send its first request of another task, which is not begun yet either.
    pub(crate) fn prepare_to(&mut self, now: Instant, task: Task) -> anyhow::Result<()> {
        let child = match task {
            Task::Establish => return Ok(()),
            Task::RekeyChild => Some(CHILD.to_owned()),
            Task::RekeyIke => None,
        };
        (self.done, self.esp) = (false, None);
        self.prepared = now - self.behind;
        let rekey = Command::Rekey { connection: CONNECTION.to_owned(), child };
        self.engine.handle_command(self.prepared, CommandId(1), rekey);
        let mut ready = Vec::new();
        self.settle(now, &mut ready)?;
        self.ready = ready;
        Ok(())
    }

    /// Begins what it was prepared for; what is to be sent goes to `out`.
    pub(crate) fn begin(&mut self, now: Instant, out: &mut Vec<Datagram>) {
        self.behind = now.duration_since(self.prepared);
        out.append(&mut self.ready);
    }

    /// A datagram has come.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        datagram: Datagram,
        out: &mut Vec<Datagram>,
    ) -> anyhow::Result<()> {
        self.engine.handle_datagram(now - self.behind, datagram);
        self.settle(now, out)
    }

    /// Time has passed: what was not answered is sent again.
    pub(crate) fn wake(&mut self, now: Instant, out: &mut Vec<Datagram>) -> anyhow::Result<()> {
        if self.engine.poll_timeout().is_some_and(|due| due <= now - self.behind) {
            self.engine.handle_timeout(now - self.behind);
            self.settle(now, out)?;
        }
        Ok(())
    }

    fn settle(&mut self, now: Instant, out: &mut Vec<Datagram>) -> anyhow::Result<()> {
        while let Some((id, job)) = self.engine.poll_job() {
            let result = self.perform(id, job)?;
            self.engine.handle_job(now - self.behind, id, result);
        }
        while let Some(datagram) = self.engine.poll_transmit() {
            out.push(datagram);
        }
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::IkeEstablished { .. } | Event::ChildRekeyed { .. } | Event::IkeRekeyed { .. } => {
                    self.done = true;
                }
                // Of the child that it was not let have.
                Event::Failed(_) if self.done && self.carries == Carries::Nothing => {}
                Event::Failed(failure) => self.failure = Some(failure.in_one_line()),
                _ => {}
            }
        }
        Ok(())
    }

    fn perform(&mut self, id: JobId, job: Job) -> anyhow::Result<JobResult> {
        Ok(match job {
            Job::GenerateKe { method, peer_public: _, seed } => {
                JobResult::KeGenerated(crypto::generate(method, &mut ChaCha20Rng::from_seed(seed)))
            }
            Job::DeriveKe { secret, peer_public } => {
                JobResult::KeDerived(crypto::derive(&secret, &peer_public))
            }
            Job::SolvePuzzle { puzzle, cookie, start } => {
                JobResult::PuzzleSolved(puzzle.solve(&cookie, start))
            }
            Job::Sign(request) => {
                let signature = |auth| Signature { auth, statuses: Vec::new() };
                JobResult::Signed(sign(&request).map(signature))
            }
            // It is the responder that is measured: whatever it shows of itself is believed.
            Job::VerifyPeer(_) => JobResult::PeerVerified(Ok(Proven::Psk)),
            Job::AllocateSpi => JobResult::SpiAllocated(match self.carries {
                Carries::Child => Ok(self.spi()),
                // An engine that begins wants a child in the end, and asks for it unless it can have no SPI.
                Carries::Nothing => Err(InstallError::Stopped),
            }),
            Job::InstallChild(install) => {
                let installed = install.activation.map(|activation| self.send_with(activation));
                JobResult::ChildInstalled(Ok(installed))
            }
            Job::ActivateChild { activation, .. } => {
                JobResult::ChildActivated(Ok(self.send_with(*activation)))
            }
            Job::RetireChild { .. } => JobResult::ChildRetired(Ok(())),
            Job::MoveChild { .. } => JobResult::ChildMoved(Ok(())),
            Job::RemoveChild { .. } => JobResult::ChildRemoved(Ok(())),
            other => anyhow::bail!("a client was given the job {id:?}, {other:?}"),
        })
    }

    /// Each client has others, and each generation.
    fn spi(&self) -> Spi {
        Spi::new(1 << 31 | self.number << 8 | self.generation & 0xff).unwrap_or(Spi::MIN)
    }

    fn send_with(&mut self, activation: Activation) -> PolicyId {
        let stamp = Stamp { client: self.number, generation: self.generation };
        self.esp = Some(Esp::new(stamp, activation.outbound));
        self.generation += 1;
        PolicyId(0)
    }
}

/// Who a client is.
pub(crate) fn name(number: u32) -> String {
    format!("c{number}.clients.example")
}

/// Who the responder is.
pub(crate) const RESPONDER: &str = "gateway.example";
/// Whom it takes.
pub(crate) const ANY_CLIENT: &str = "*.clients.example";
/// What it shares with them.
pub(crate) const SECRET: &str = "correct horse battery staple";

fn config(number: u32, credentials: &Credentials, carries: Carries) -> anyhow::Result<EngineConfig> {
    let id = |name: String| Identity::Fqdn(name);
    let (local, remote) = credentials.of_client(number)?;
    let host = TrafficSelector::any(IpAddr::V4(inner(number)));
    let child = ChildConfig {
        name: CHILD.to_owned(),
        local_ts: vec![Some(host)],
        remote_ts: vec![Some(LOCAL.parse()?)],
        esp_proposals: vec![ESP_PROPOSAL.parse()?],
        start_action: StartAction::None,
        actions: ChildActions::default(),
        replay_window: 64,
        lifetime: ChildLifetime::default(),
        priority: None,
        options: SaOptions::default(),
        per_worker: None,
    };
    let connection = ConnectionConfig {
        name: CONNECTION.to_owned(),
        tenant: TenantId::default(),
        local_addrs: vec![AddressMatch::Address(IpAddr::V4(outer(number)))],
        remote_addrs: vec![AddressMatch::Address(IpAddr::V4(GATEWAY))],
        proposals: vec![PROPOSAL.parse().context("the proposal")?],
        local: vec![LocalAuth { auth: local, id: Some(id(name(number))) }],
        remote: vec![RemoteAuth { auth: remote, id: IdentityMatch::Exactly(id(RESPONDER.to_owned())) }],
        // ESP in UDP, whoever answers: strongSwan's in user space knows no other.
        encap: true,
        mobike: false,
        follow_redirects: false,
        redirect_to: None,
        redirect_when: portcullis_ike::config::RedirectWhen::default(),
        quick_crash_detection: true,
        session_resumption: false,
        dpd_delay: Duration::ZERO,
        lifetime: IkeLifetime::default(),
        unique: Unique::No,
        fragmentation: IkeFragmentation::Yes,
        childless: match carries {
            Carries::Child => Childless::Allow,
            Carries::Nothing => Childless::Force,
        },
        ocsp_reply: false,
        ppk: Ppk::default(),
        pools: Vec::new(),
        vips: Vec::new(),
        children: vec![child],
    };
    Ok(EngineConfig {
        connections: vec![connection],
        shared_keys: vec![SharedKey {
            name: "ike".to_owned(),
            ids: Vec::new(),
            secret: Secret(SECRET.as_bytes().to_vec()),
        }],
        users: [].into(),
        ppks: Vec::new(),
        retransmission: Retransmission { timeout: Duration::from_secs(2), ..Retransmission::default() },
        cookie_threshold: 0,
        puzzle_threshold: 0,
        puzzle_difficulty: 0,
        puzzle_auth_difficulty: 0,
        puzzle_solved: 0,
        half_open_limit: 0,
        block_threshold: 0,
        unauthenticated_limit: 0,
        half_open_timeout: Duration::from_secs(30),
        nat_keepalive: Duration::ZERO,
        fragment_size: 1280,
        port: 500,
        nat_port: 4500,
    })
}
