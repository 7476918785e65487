//! A question to one of several servers: repeated with growing intervals, then put to the next one. A server that has
//! not answered is asked after the others for a while.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_ike::config::Secret;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use super::packet::{MAX_LEN, Packet, attribute, code};
use super::{RadiusConfig, ServerConfig};

/// How long a server that has not answered comes last.
const REST: Duration = Duration::from_secs(60);
/// Questions under way; further ones wait.
const MAX_UNDER_WAY: usize = 512;

/// The servers, as the configuration in force has them.
#[derive(Debug)]
pub(crate) struct Radius {
    servers: Mutex<Arc<Servers>>,
    under_way: Semaphore,
}

/// The servers of one configuration.
#[derive(Debug)]
pub(super) struct Servers {
    /// `None`: there are none.
    pub(super) config: Option<RadiusConfig>,
    /// By place. A server that another configuration has too keeps its number, and with it the conversations under way.
    numbers: Vec<usize>,
    /// The number of the next one that is new.
    next: usize,
    /// By place: until when it comes last.
    resting: Mutex<Vec<Option<Instant>>>,
}

/// A service of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Access,
    Accounting,
}

/// An answer that is believed.
#[derive(Debug)]
pub(super) struct Answered {
    /// The server's number.
    pub(super) server: usize,
    /// What we share with it.
    pub(super) secret: Secret,
    /// What was asked, as it was sent.
    pub(super) request: Packet,
    pub(super) answer: Packet,
}

impl Radius {
    /// Without a configuration there is nobody to be asked.
    pub(crate) fn new(config: Option<RadiusConfig>) -> Self {
        let none = Servers { config: None, numbers: Vec::new(), next: 0, resting: Mutex::default() };
        let servers = Mutex::new(Arc::new(none.followed_by(config)));
        Self { servers, under_way: Semaphore::new(MAX_UNDER_WAY) }
    }

    /// Takes another configuration. Questions under way go on as they began.
    pub(crate) fn reconfigure(&self, config: Option<RadiusConfig>) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        *servers = Arc::new(servers.followed_by(config));
    }

    /// The servers in force.
    pub(super) fn servers(&self) -> Arc<Servers> {
        Arc::clone(&self.servers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks: `only` one server, by its number, or one after another until one answers. `attributes` are those of the
    /// request. `Err` says what was tried.
    pub(super) async fn ask(
        &self,
        service: Service,
        only: Option<usize>,
        attributes: &[(u8, Vec<u8>)],
    ) -> Result<Answered, String> {
        let Ok(_permit) = self.under_way.acquire().await else {
            return Err("the daemon is stopping".to_owned());
        };
        self.servers().ask(service, only, attributes).await
    }
}

impl Servers {
    fn followed_by(&self, config: Option<RadiusConfig>) -> Self {
        let servers = config.as_ref().map(|config| config.servers.as_slice()).unwrap_or_default();
        let mut next = self.next;
        let numbers: Vec<usize> = servers
            .iter()
            .map(|server| {
                let place = self.all().iter().position(|known| known == server);
                place.and_then(|place| self.numbers.get(place)).copied().unwrap_or_else(|| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        let resting = Mutex::new(vec![None; numbers.len()]);
        Self { config, numbers, next, resting }
    }

    fn all(&self) -> &[ServerConfig] {
        self.config.as_ref().map(|config| config.servers.as_slice()).unwrap_or_default()
    }

    async fn ask(
        &self,
        service: Service,
        only: Option<usize>,
        attributes: &[(u8, Vec<u8>)],
    ) -> Result<Answered, String> {
        let Some(config) = &self.config else {
            return Err("no AAA server is configured ([[radius.servers]])".to_owned());
        };
        let places = match only {
            None => self.order(Instant::now()),
            Some(number) => self.numbers.iter().position(|known| *known == number).into_iter().collect(),
        };
        let mut tried = Vec::new();
        for place in places {
            let (Some(server), Some(number)) = (config.servers.get(place), self.numbers.get(place)) else {
                continue;
            };
            match ask_one(config, service, server, attributes).await {
                Ok((request, answer)) => {
                    self.rest(place, None);
                    let secret = server.secret.clone();
                    return Ok(Answered { server: *number, secret, request, answer });
                }
                Err(why) => {
                    tracing::warn!(server = %server.name, %why, "a RADIUS server has not answered");
                    self.rest(place, Instant::now().checked_add(REST));
                    tried.push(format!("RADIUS server `{}` {why}", server.name));
                }
            }
        }
        if tried.is_empty() {
            return Err("the RADIUS server that began the conversation is not configured any more".to_owned());
        }
        Err(tried.join("; "))
    }

    /// Those that rest come last.
    fn order(&self, now: Instant) -> Vec<usize> {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let rests = |place: &usize| resting.get(*place).copied().flatten().is_some_and(|until| now < until);
        let (last, first): (Vec<_>, Vec<_>) = (0..self.numbers.len()).partition(rests);
        first.into_iter().chain(last).collect()
    }

    fn rest(&self, place: usize, until: Option<Instant>) {
        if let Some(slot) = self.resting.lock().unwrap_or_else(PoisonError::into_inner).get_mut(place) {
            *slot = until;
        }
    }
}

/// The question as it was sent, and its answer.
async fn ask_one(
    config: &RadiusConfig,
    service: Service,
    server: &ServerConfig,
    attributes: &[(u8, Vec<u8>)],
) -> Result<(Packet, Packet), String> {
    let (code, port) = match service {
        Service::Access => (code::ACCESS_REQUEST, server.auth_port),
        Service::Accounting => (code::ACCOUNTING_REQUEST, server.acct_port),
    };
    let to = SocketAddr::new(server.address, port);
    let failed = |error: std::io::Error| format!("at {to} cannot be asked: {error}");
    let socket = connect(to).await.map_err(failed)?;
    let mut random = [0; 17];
    getrandom::fill(&mut random).map_err(|error| format!("cannot be asked: {error}"))?;
    let [identifier, authenticator @ ..] = random;
    let mut request = Packet::new(code, identifier, authenticator);
    request.attributes = attributes.to_vec();
    if let Ok(local) = socket.local_addr() {
        match local.ip() {
            IpAddr::V4(addr) => request.push(attribute::NAS_IP_ADDRESS, addr.octets()),
            IpAddr::V6(addr) => request.push(attribute::NAS_IPV6_ADDRESS, addr.octets()),
        }
    }
    let octets = request.emit_request(&server.secret.0);
    if octets.len() > MAX_LEN {
        return Err(format!("at {to} cannot be asked: the question has {} octets", octets.len()));
    }
    let mut disbelieved = None;
    let mut wait = config.retransmit_timeout;
    for _ in 0..config.retransmit_tries {
        socket.send(&octets).await.map_err(failed)?;
        let until = tokio::time::Instant::now() + wait;
        loop {
            let mut buffer = [0; MAX_LEN];
            match tokio::time::timeout_at(until, socket.recv(&mut buffer)).await {
                Err(_) => break,
                // A port that is closed says so at once; it may open again before the next try.
                Ok(Err(_)) => {
                    disbelieved = Some("says that nobody listens there".to_owned());
                    tokio::time::sleep_until(until).await;
                    break;
                }
                Ok(Ok(len)) => {
                    let octets = buffer.get(..len).unwrap_or_default();
                    match Packet::parse_answer(octets, &request, &server.secret.0) {
                        Ok(answer) => return Ok((request, answer)),
                        Err(why) => disbelieved = Some(format!("sent an answer that is not believed: {why}")),
                    }
                }
            }
        }
        wait = wait.mul_f64(config.retransmit_base);
    }
    let tries = config.retransmit_tries;
    Err(disbelieved.map_or_else(
        || format!("at {to} did not answer, asked {tries} times"),
        |why| format!("at {to} {why}"),
    ))
}

async fn connect(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers every request with `answer`; `None`: it is silent.
    async fn server(answer: Option<u8>) -> (ServerConfig, tokio::task::JoinHandle<()>) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let config = ServerConfig {
            name: format!("{answer:?}"),
            address: Ipv4Addr::LOCALHOST.into(),
            auth_port: port,
            acct_port: port,
            secret: Secret(b"secret".to_vec()),
        };
        let serve = async move {
            let mut buffer = [0; MAX_LEN];
            while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
                let [_, identifier, _, _, rest @ ..] = &buffer;
                let authenticator = rest.first_chunk().unwrap();
                if let Some(code) = answer {
                    let answer = Packet::new(code, *identifier, [0; 16]);
                    // A forgery first, which must not stand in the way.
                    _ = socket.send_to(&answer.emit_answer(authenticator, b"other"), from).await;
                    _ = socket.send_to(&answer.emit_answer(authenticator, b"secret"), from).await;
                }
            }
        };
        (config, tokio::spawn(serve))
    }

    fn radius(servers: Vec<ServerConfig>) -> Radius {
        Radius::new(Some(config(servers)))
    }

    fn config(servers: Vec<ServerConfig>) -> RadiusConfig {
        RadiusConfig {
            servers,
            nas_identifier: "test".to_owned(),
            retransmit_timeout: Duration::from_millis(20),
            retransmit_base: 1.0,
            retransmit_tries: 2,
            class_group: false,
            accounting: false,
            accounting_interval: Duration::ZERO,
            dae: None,
        }
    }

    #[tokio::test]
    async fn a_silent_server_is_passed_over_and_then_comes_last() {
        let (silent, _silent) = server(None).await;
        let (good, _good) = server(Some(code::ACCESS_REJECT)).await;
        let radius = radius(vec![silent, good]);
        let answered = radius.ask(Service::Access, None, &[]).await.unwrap();
        assert_eq!((answered.server, answered.answer.code), (1, code::ACCESS_REJECT));
        assert_eq!(radius.servers().order(Instant::now()), [1, 0]);
        assert_eq!(radius.servers().order(Instant::now() + REST), [0, 1]);
    }

    #[tokio::test]
    async fn a_conversation_stays_with_its_server() {
        let (silent, _silent) = server(None).await;
        let (good, _good) = server(Some(code::ACCESS_REJECT)).await;
        let radius = radius(vec![silent, good]);
        let why = radius.ask(Service::Access, Some(0), &[]).await.unwrap_err();
        assert!(why.contains("did not answer, asked 2 times"), "{why}");
    }

    #[tokio::test]
    async fn a_wrong_secret_is_named() {
        let (mut good, _good) = server(Some(code::ACCESS_REJECT)).await;
        good.secret = Secret(b"mistyped".to_vec());
        let why = radius(vec![good]).ask(Service::Access, None, &[]).await.unwrap_err();
        assert!(why.contains("the shared secrets differ"), "{why}");
    }

    #[tokio::test]
    async fn another_configuration_counts_from_the_next_question_and_conversations_stay_where_they_are() {
        let (first, _first) = server(Some(code::ACCESS_REJECT)).await;
        let (second, _second) = server(Some(code::ACCESS_ACCEPT)).await;
        let radius = Radius::new(None);
        let why = radius.ask(Service::Access, None, &[]).await.unwrap_err();
        assert!(why.contains("no AAA server is configured"), "{why}");
        radius.reconfigure(Some(config(vec![first.clone()])));
        let begun = radius.ask(Service::Access, None, &[]).await.unwrap();
        assert_eq!(begun.answer.code, code::ACCESS_REJECT);
        // In another place, behind another one.
        radius.reconfigure(Some(config(vec![second.clone(), first.clone()])));
        let next = radius.ask(Service::Access, None, &[]).await.unwrap();
        assert_eq!(next.answer.code, code::ACCESS_ACCEPT);
        assert_ne!(next.server, begun.server);
        let goes_on = radius.ask(Service::Access, Some(begun.server), &[]).await.unwrap();
        assert_eq!(goes_on.answer.code, code::ACCESS_REJECT);
        // Gone; and a number is nobody else's again.
        radius.reconfigure(Some(config(vec![second])));
        radius.reconfigure(Some(config(vec![ServerConfig { name: "new".to_owned(), ..first }])));
        let why = radius.ask(Service::Access, Some(begun.server), &[]).await.unwrap_err();
        assert!(why.contains("not configured any more"), "{why}");
        assert!(radius.ask(Service::Access, None, &[]).await.is_ok());
    }
}
