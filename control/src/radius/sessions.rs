//! Sessions of clients that an AAA server has let in: reported to it from their start to their stop (RFC 2866), ended
//! when they are idle for too long, found when the server asks something of them (RFC 5176).
//!
//! One task owns them. It hears from the engine's task what happens to IKE SAs, and asks it to end them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_ike::auth::Authorization;
use portcullis_ike::engine::{Command, IkeSaId, IkeSaStatus};
use portcullis_ipsec::{SaInstaller, Spi};
use tokio::sync::{mpsc, oneshot};

use super::client::{Radius, Service};
use super::dynamic::{Demand, Verdict};
use super::packet::attribute;
use crate::api::events::Happened;
use crate::daemon::{Carried, Traffic};
use crate::events::hub::Hub;

/// What the sessions' task is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// An IKE SA is established whose client an AAA server has let in.
    Began(Box<IkeSaStatus>),
    /// It has a successor.
    Rekeyed {
        /// The successor.
        ike: IkeSaId,
        /// Its predecessor.
        replaced: IkeSaId,
    },
    /// It has a CHILD SA more.
    Child {
        /// Whose.
        ike: IkeSaId,
        /// The pair.
        pair: Spi,
    },
    /// It is gone.
    Ended(IkeSaId),
    /// A report was answered, or given up.
    Reported(SessionId),
    /// Somebody asks something of a session.
    Demanded(Demand, oneshot::Sender<Verdict>),
}

/// Names a session in this run of the daemon.
pub(crate) type SessionId = u64;

/// Gives the engine's task a command.
pub(crate) type Order = Box<dyn Fn(Command) + Send>;

/// Acct-Status-Type (RFC 2866 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Start = 1,
    Stop = 2,
    Interim = 3,
}

/// Every session.
pub(crate) struct Sessions {
    radius: Arc<Radius>,
    traffic: Arc<Traffic>,
    installer: Arc<dyn SaInstaller>,
    order: Order,
    hub: Arc<Hub>,
    inbox: mpsc::UnboundedSender<Told>,
    /// Makes session names unique over restarts.
    run: u32,
    next: SessionId,
    sessions: HashMap<SessionId, Session>,
    by_ike: HashMap<IkeSaId, SessionId>,
    due: BTreeSet<(Instant, SessionId)>,
}

#[derive(Debug)]
struct Session {
    ike: IkeSaId,
    /// Acct-Session-Id.
    name: String,
    local: SocketAddr,
    remote: SocketAddr,
    authorization: Authorization,
    pairs: Vec<Spi>,
    began: Instant,
    /// When its next report is due.
    report: Option<Instant>,
    /// When it is next looked at whether it is idle.
    look: Option<Instant>,
    /// Reports that wait, and whether one is under way.
    waiting: VecDeque<Vec<(u8, Vec<u8>)>>,
    /// Whether it is reported, as the configuration said when it began: a server that heard of its start hears of its end.
    accounted: bool,
    reporting: bool,
    ended: bool,
}

impl Sessions {
    /// Starts the task; what is told it goes into the sender.
    pub(crate) fn start(
        radius: Arc<Radius>,
        traffic: Arc<Traffic>,
        installer: Arc<dyn SaInstaller>,
        order: Order,
        hub: Arc<Hub>,
    ) -> (mpsc::UnboundedSender<Told>, tokio::task::JoinHandle<()>) {
        let (inbox, told) = mpsc::unbounded_channel();
        let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32);
        let sessions = Self {
            radius,
            traffic,
            installer,
            order,
            hub,
            inbox: inbox.clone(),
            run,
            next: 1,
            sessions: HashMap::new(),
            by_ike: HashMap::new(),
            due: BTreeSet::new(),
        };
        (inbox, tokio::spawn(sessions.run(told)))
    }

    async fn run(mut self, mut told: mpsc::UnboundedReceiver<Told>) {
        loop {
            let due = self.due.first().map(|(at, _)| *at);
            let timer = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = told.recv() => match told {
                    Some(told) => self.hear(Instant::now(), told),
                    None => break,
                },
                () = timer => self.tick(Instant::now()),
            }
        }
    }

    fn hear(&mut self, now: Instant, told: Told) {
        match told {
            Told::Began(ike) => self.begin(now, *ike),
            Told::Rekeyed { ike, replaced } => {
                if let Some(id) = self.by_ike.remove(&replaced) {
                    self.by_ike.insert(ike, id);
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.ike = ike;
                    }
                }
            }
            Told::Child { ike, pair } => {
                let session = self.by_ike.get(&ike).and_then(|id| self.sessions.get_mut(id));
                if let Some(session) = session.filter(|session| !session.pairs.contains(&pair)) {
                    self.traffic.keep(pair);
                    session.pairs.push(pair);
                }
            }
            Told::Ended(ike) => {
                if let Some(id) = self.by_ike.remove(&ike) {
                    self.end(now, id);
                }
            }
            Told::Reported(id) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.reporting = false;
                }
                self.send(id);
            }
            Told::Demanded(demand, reply) => {
                // Whoever asked may have given up.
                let _ = reply.send(self.demand(&demand));
            }
        }
    }

    fn begin(&mut self, now: Instant, ike: IkeSaStatus) {
        let id = self.next;
        self.next += 1;
        let accounted = self.radius.servers().config.as_ref().is_some_and(|config| config.accounting);
        let interval = ike.authorization.interim.unwrap_or_else(|| self.interval());
        let report = (accounted && !interval.is_zero()).then(|| now + interval);
        let look = ike.authorization.idle_timeout.map(|idle| now + idle);
        let session = Session {
            ike: ike.id,
            name: format!("{:08x}-{id:08x}", self.run),
            local: ike.local,
            remote: ike.remote,
            authorization: ike.authorization,
            pairs: Vec::new(),
            began: now,
            report,
            look,
            waiting: VecDeque::new(),
            accounted,
            reporting: false,
            ended: false,
        };
        self.due.extend(report.into_iter().chain(look).map(|at| (at, id)));
        self.by_ike.insert(ike.id, id);
        self.sessions.insert(id, session);
        self.report(now, id, Status::Start);
    }

    /// How often a session is reported of which its server does not say it.
    fn interval(&self) -> Duration {
        self.radius.servers().config.as_ref().map_or(Duration::ZERO, |config| config.accounting_interval)
    }

    fn end(&mut self, now: Instant, id: SessionId) {
        self.report(now, id, Status::Stop);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.ended = true;
        for at in session.report.take().into_iter().chain(session.look.take()) {
            self.due.remove(&(at, id));
        }
        for pair in std::mem::take(&mut session.pairs) {
            self.traffic.forget(pair);
        }
        self.tidy(id);
    }

    /// Forgets a session that has ended and of which everything is reported.
    fn tidy(&mut self, id: SessionId) {
        let over = |session: &Session| session.ended && !session.reporting && session.waiting.is_empty();
        if self.sessions.get(&id).is_some_and(over) {
            self.sessions.remove(&id);
        }
    }

    fn tick(&mut self, now: Instant) {
        while let Some((at, id)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, id));
            if self.sessions.get(&id).is_some_and(|session| session.report == Some(at)) {
                self.report(now, id, Status::Interim);
                let default = self.interval();
                if let Some(session) = self.sessions.get_mut(&id) {
                    let interval = session.authorization.interim.unwrap_or(default);
                    session.report = (!interval.is_zero()).then(|| now + interval);
                    self.due.extend(session.report.map(|next| (next, id)));
                }
            }
            if self.sessions.get(&id).is_some_and(|session| session.look == Some(at)) {
                self.look(now, id);
            }
        }
    }

    /// Ends a session that has been idle for too long, or says when it is to be looked at again.
    fn look(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(limit) = session.authorization.idle_timeout else { return };
        let counters = session.pairs.iter().filter_map(|pair| self.installer.counters(*pair).ok());
        let idle = counters.flat_map(|counters| [counters.idle_in, counters.idle_out]).flatten().min();
        let idle = idle.unwrap_or_else(|| now.duration_since(session.began));
        if idle >= limit {
            tracing::info!(session = %session.name, ike = session.ike.0, "idle for as long as the AAA server lets it be");
            session.look = None;
            let detail = format!("without traffic for {} s", limit.as_secs());
            session.tell(&self.hub, "idle_timeout", detail);
            (self.order)(Command::TerminateSa { ike: session.ike });
        } else {
            let next = now + (limit - idle);
            session.look = Some(next);
            self.due.insert((next, id));
        }
    }

    fn report(&mut self, now: Instant, id: SessionId, status: Status) {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| session.accounted) else { return };
        let mut carried = Carried::default();
        for pair in &session.pairs {
            carried.add(&self.traffic.of_pair(*pair, self.installer.as_ref()));
        }
        let servers = self.radius.servers();
        let nas = servers.config.as_ref().map(|config| config.nas_identifier.as_str()).unwrap_or_default();
        let report = session.attributes(now, status, &carried, nas);
        session.waiting.push_back(report);
        self.send(id);
    }

    /// Sends the next report of a session, one at a time, so that a stop never comes before its start.
    fn send(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if !session.reporting
            && let Some(report) = session.waiting.pop_front()
        {
            session.reporting = true;
            let (radius, inbox, hub) = (Arc::clone(&self.radius), self.inbox.clone(), Arc::clone(&self.hub));
            let name = session.name.clone();
            let lost = session.action("accounting_lost");
            tokio::spawn(async move {
                if let Err(why) = radius.ask(Service::Accounting, None, &report).await {
                    tracing::warn!(session = %name, "no server took an accounting report: {why}");
                    hub.publish(|| lost(why));
                }
                // The task may have ended.
                let _ = inbox.send(Told::Reported(id));
            });
        }
        self.tidy(id);
    }

    fn demand(&mut self, demand: &Demand) -> Verdict {
        let found: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| !session.ended && session.is_meant(demand))
            .map(|(id, _)| *id)
            .collect();
        if found.is_empty() {
            return Verdict::NoSession;
        }
        for id in found {
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let ike = session.ike;
            tracing::info!(session = %session.name, ike = ike.0, change = ?demand.change, "an AAA server asks for it");
            match demand.change {
                None => {
                    session.tell(&self.hub, "disconnect", "the AAA server ends it".to_owned());
                    (self.order)(Command::TerminateSa { ike });
                }
                Some(timeout) => {
                    session.tell(&self.hub, "session_timeout", format!("{} s are left", timeout.as_secs()));
                    (self.order)(Command::LimitSession { ike, timeout });
                }
            }
        }
        Verdict::Done
    }
}

impl Session {
    /// What is told of it, but for the details.
    fn action(&self, action: &'static str) -> impl FnOnce(String) -> Happened + Send + use<> {
        let (session, user) = (self.name.clone(), self.authorization.eap_id.clone());
        let ike = self.ike.0;
        move |detail| Happened::Aaa { session, user, ike, action: action.to_owned(), detail }
    }

    fn tell(&self, hub: &Hub, action: &'static str, detail: String) {
        hub.publish(|| self.action(action)(detail));
    }

    fn is_meant(&self, demand: &Demand) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        let user = self.authorization.eap_id.as_deref().unwrap_or_default();
        let remote = self.remote.ip().to_string();
        let addresses = &self.authorization.addresses;
        is(&demand.user, user)
            && is(&demand.session, &self.name)
            && is(&demand.calling_station, &remote)
            && demand.address.is_none_or(|address| addresses.contains(&address))
    }

    fn attributes(&self, now: Instant, status: Status, carried: &Carried, nas: &str) -> Vec<(u8, Vec<u8>)> {
        use attribute as a;
        let number = |kind: u8, value: u64| (kind, (value as u32).to_be_bytes().to_vec());
        let text = |kind: u8, value: &str| (kind, value.as_bytes().to_vec());
        let mut report = vec![
            number(a::ACCT_STATUS_TYPE, status as u64),
            text(a::ACCT_SESSION_ID, &self.name),
            text(a::USER_NAME, self.authorization.eap_id.as_deref().unwrap_or_default()),
            text(a::NAS_IDENTIFIER, nas),
            number(a::NAS_PORT_TYPE, 5),
            number(a::NAS_PORT, self.ike.0),
            text(a::CALLED_STATION_ID, &self.local.ip().to_string()),
            text(a::CALLING_STATION_ID, &self.remote.ip().to_string()),
        ];
        report.extend(self.authorization.class.iter().map(|class| (a::CLASS, class.clone())));
        report.extend(self.authorization.addresses.iter().map(|address| match address {
            IpAddr::V4(addr) => (a::FRAMED_IP_ADDRESS, addr.octets().to_vec()),
            IpAddr::V6(addr) => (a::FRAMED_IPV6_ADDRESS, addr.octets().to_vec()),
        }));
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        report.push(number(a::EVENT_TIMESTAMP, time.as_secs()));
        if status != Status::Start {
            report.push(number(a::ACCT_SESSION_TIME, now.duration_since(self.began).as_secs()));
            // From the user is in, to the user is out (RFC 2866 §5.3); a gigaword is 2^32 octets (RFC 2869 §5.1).
            report.extend([
                number(a::ACCT_INPUT_OCTETS, carried.bytes_in),
                number(a::ACCT_INPUT_GIGAWORDS, carried.bytes_in >> 32),
                number(a::ACCT_OUTPUT_OCTETS, carried.bytes_out),
                number(a::ACCT_OUTPUT_GIGAWORDS, carried.bytes_out >> 32),
                number(a::ACCT_INPUT_PACKETS, carried.packets_in),
                number(a::ACCT_OUTPUT_PACKETS, carried.packets_out),
            ]);
        }
        report
    }
}
