//! Dynamic authorisation (RFC 5176): a server ends a session (Disconnect), or gives it another time to live (CoA with
//! Session-Timeout).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_ike::config::Secret;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

use super::client::Radius;
use super::packet::{MAX_LEN, Packet, attribute, code};
use super::sessions::Told;

/// How old a request may be (RFC 5176 §6.3).
const WINDOW: Duration = Duration::from_secs(300);
/// Answers kept for requests that are repeated.
const KEPT: usize = 64;

/// Which sessions are meant, and what is to become of them. What is not named fits every session; something is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Demand {
    pub(super) user: Option<String>,
    pub(super) session: Option<String>,
    pub(super) address: Option<IpAddr>,
    pub(super) calling_station: Option<String>,
    /// The time from now after which they end; `None`: at once.
    pub(super) change: Option<Duration>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    NoSession,
}

/// Error-Cause (RFC 5176 §3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    UnsupportedAttribute = 401,
    MissingAttribute = 402,
    InvalidRequest = 404,
    SessionContextNotFound = 503,
    ResourcesUnavailable = 506,
}

/// Takes requests at an address until it is aborted; believes those that know the secret which is in force then.
pub(crate) async fn listen(
    address: SocketAddr,
    radius: Arc<Radius>,
    sessions: mpsc::UnboundedSender<Told>,
) -> std::io::Result<tokio::task::JoinHandle<()>> {
    let socket = UdpSocket::bind(address).await?;
    Ok(tokio::spawn(async move {
        let mut listener = Listener::default();
        let socket = Arc::new(socket);
        let mut buffer = [0; MAX_LEN];
        loop {
            let (len, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "receiving dynamic authorisation failed");
                    continue;
                }
            };
            let octets = buffer.get(..len).unwrap_or_default();
            let servers = radius.servers();
            let Some(dae) = servers.config.as_ref().and_then(|config| config.dae.as_ref()) else { continue };
            if let Some(answer) = listener.handle(octets, from, &dae.secret, &sessions).await
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::warn!(%error, %from, "answering dynamic authorisation failed");
            }
        }
    }))
}

#[derive(Default)]
struct Listener {
    /// Newest last: a repeated request is answered as it was before (RFC 5176 §2.3).
    answered: VecDeque<(SocketAddr, Vec<u8>, Vec<u8>)>,
}

impl Listener {
    async fn handle(
        &mut self,
        octets: &[u8],
        from: SocketAddr,
        secret: &Secret,
        sessions: &mpsc::UnboundedSender<Told>,
    ) -> Option<Vec<u8>> {
        if let Some((.., answer)) = self.answered.iter().find(|(to, asked, _)| *to == from && asked == octets)
        {
            return Some(answer.clone());
        }
        let request = match Packet::parse_request(octets, &secret.0) {
            Ok(request) => request,
            Err(why) => {
                tracing::warn!(%from, "a request of dynamic authorisation is not believed: {why}");
                return None;
            }
        };
        let (ack, nak) = match request.code {
            code::DISCONNECT_REQUEST => (code::DISCONNECT_ACK, code::DISCONNECT_NAK),
            code::COA_REQUEST => (code::COA_ACK, code::COA_NAK),
            other => {
                tracing::warn!(%from, code = other, "this is no request of dynamic authorisation");
                return None;
            }
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let made = request.number(attribute::EVENT_TIMESTAMP).map(|made| Duration::from_secs(made.into()));
        if made.is_some_and(|made| made.abs_diff(now) > WINDOW) {
            tracing::warn!(%from, "a request of dynamic authorisation is old: compare the clocks");
            return None;
        }
        let refused = match demand(&request) {
            Ok(demand) => {
                let (reply, verdict) = oneshot::channel();
                // The task may have ended.
                let _ = sessions.send(Told::Demanded(demand, reply));
                match verdict.await {
                    Ok(Verdict::Done) => None,
                    Ok(Verdict::NoSession) => Some(Cause::SessionContextNotFound),
                    Err(_) => Some(Cause::ResourcesUnavailable),
                }
            }
            Err(cause) => Some(cause),
        };
        let mut answer = Packet::new(if refused.is_some() { nak } else { ack }, request.identifier, [0; 16]);
        if let Some(cause) = refused {
            tracing::info!(%from, ?cause, "a request of dynamic authorisation is refused");
            answer.push(attribute::ERROR_CAUSE, (cause as u32).to_be_bytes());
        }
        // RFC 5176 §2.3: for proxies on the way.
        for state in request.all(attribute::PROXY_STATE) {
            answer.push(attribute::PROXY_STATE, state);
        }
        let answer = answer.emit_answer(&request.authenticator, &secret.0);
        self.answered.push_back((from, octets.to_vec(), answer.clone()));
        if self.answered.len() > KEPT {
            self.answered.pop_front();
        }
        Some(answer)
    }
}

/// What a request asks for.
pub(super) fn demand(request: &Packet) -> Result<Demand, Cause> {
    let mut demand = Demand::default();
    for (kind, value) in &request.attributes {
        let text = || String::from_utf8(value.clone()).map_err(|_| Cause::InvalidRequest);
        match *kind {
            attribute::USER_NAME => demand.user = Some(text()?),
            attribute::ACCT_SESSION_ID => demand.session = Some(text()?),
            attribute::CALLING_STATION_ID => demand.calling_station = Some(text()?),
            attribute::FRAMED_IP_ADDRESS => {
                let octets: [u8; 4] = value.as_slice().try_into().map_err(|_| Cause::InvalidRequest)?;
                demand.address = Some(octets.into());
            }
            attribute::FRAMED_IPV6_ADDRESS => {
                let octets: [u8; 16] = value.as_slice().try_into().map_err(|_| Cause::InvalidRequest)?;
                demand.address = Some(octets.into());
            }
            attribute::SESSION_TIMEOUT if request.code == code::COA_REQUEST => {
                let octets: [u8; 4] = value.as_slice().try_into().map_err(|_| Cause::InvalidRequest)?;
                demand.change = Some(Duration::from_secs(u32::from_be_bytes(octets).into()));
            }
            // Who asks, how and when.
            attribute::NAS_IP_ADDRESS
            | attribute::NAS_IPV6_ADDRESS
            | attribute::NAS_IDENTIFIER
            | attribute::EVENT_TIMESTAMP
            | attribute::MESSAGE_AUTHENTICATOR
            | attribute::PROXY_STATE
            | attribute::CLASS => {}
            // RFC 5176 §3: what is not understood is not half obeyed.
            _ => return Err(Cause::UnsupportedAttribute),
        }
    }
    let named = demand.user.is_some()
        || demand.session.is_some()
        || demand.address.is_some()
        || demand.calling_station.is_some();
    let changes = request.code == code::DISCONNECT_REQUEST || demand.change.is_some();
    if named && changes { Ok(demand) } else { Err(Cause::MissingAttribute) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: u8, attributes: &[(u8, &[u8])]) -> Packet {
        let mut request = Packet::new(code, 5, [0; 16]);
        attributes.iter().for_each(|(kind, value)| request.push(*kind, value));
        request
    }

    #[test]
    fn whoever_names_no_session_or_wants_what_we_do_not_do_is_told_so() {
        let user: (u8, &[u8]) = (attribute::USER_NAME, b"carol");
        let timeout: (u8, &[u8]) = (attribute::SESSION_TIMEOUT, &[0, 0, 0, 60]);
        let cause = |code, attributes: &[(u8, &[u8])]| demand(&request(code, attributes)).err();
        assert_eq!(cause(code::DISCONNECT_REQUEST, &[user]), None);
        assert_eq!(cause(code::COA_REQUEST, &[user, timeout]), None);
        assert_eq!(cause(code::DISCONNECT_REQUEST, &[]), Some(Cause::MissingAttribute));
        assert_eq!(cause(code::COA_REQUEST, &[user]), Some(Cause::MissingAttribute));
        assert_eq!(cause(code::COA_REQUEST, &[timeout]), Some(Cause::MissingAttribute));
        let filter: (u8, &[u8]) = (attribute::FILTER_ID, b"x");
        assert_eq!(cause(code::COA_REQUEST, &[user, filter]), Some(Cause::UnsupportedAttribute));
        let short: (u8, &[u8]) = (attribute::SESSION_TIMEOUT, &[1]);
        assert_eq!(cause(code::COA_REQUEST, &[user, short]), Some(Cause::InvalidRequest));
    }

    /// Answers `verdict` to every demand, and counts them.
    fn sessions(verdict: Verdict) -> (mpsc::UnboundedSender<Told>, tokio::task::JoinHandle<usize>) {
        let (told, mut inbox) = mpsc::unbounded_channel();
        let count = async move {
            let mut demands = 0;
            while let Some(told) = inbox.recv().await {
                if let Told::Demanded(_, reply) = told {
                    demands += 1;
                    _ = reply.send(verdict);
                }
            }
            demands
        };
        (told, tokio::spawn(count))
    }

    #[tokio::test]
    async fn a_request_is_obeyed_once_and_answered_as_often_as_it_comes() {
        let (mut listener, secret) = (Listener::default(), Secret(b"secret".to_vec()));
        let from: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let (sessions, demands) = sessions(Verdict::Done);
        let mut request = request(code::DISCONNECT_REQUEST, &[(attribute::USER_NAME, b"carol")]);
        let octets = request.emit_request(b"secret");
        let answer = listener.handle(&octets, from, &secret, &sessions).await.unwrap();
        assert_eq!(answer[0], code::DISCONNECT_ACK);
        assert_eq!(listener.handle(&octets, from, &secret, &sessions).await, Some(answer));
        assert_eq!(
            listener.handle(&request.clone().emit_request(b"guess"), from, &secret, &sessions).await,
            None
        );
        let old = self::request(
            code::DISCONNECT_REQUEST,
            &[(attribute::USER_NAME, b"carol"), (attribute::EVENT_TIMESTAMP, &[0, 0, 0, 9])],
        )
        .emit_request(b"secret");
        assert_eq!(listener.handle(&old, from, &secret, &sessions).await, None);
        drop(sessions);
        assert_eq!(demands.await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_session_that_is_not_there_is_said_to_be_so() {
        let (mut listener, secret) = (Listener::default(), Secret(b"secret".to_vec()));
        let (sessions, _demands) = sessions(Verdict::NoSession);
        let octets = request(
            code::COA_REQUEST,
            &[
                (attribute::ACCT_SESSION_ID, b"x"),
                (attribute::SESSION_TIMEOUT, &[0, 0, 0, 60]),
                (attribute::PROXY_STATE, b"p"),
            ],
        )
        .emit_request(b"secret");
        let answer =
            listener.handle(&octets, "127.0.0.1:9".parse().unwrap(), &secret, &sessions).await.unwrap();
        assert_eq!(answer[0], code::COA_NAK);
        assert!(answer.windows(6).any(|part| part == [attribute::ERROR_CAUSE, 6, 0, 0, 1, 0xf7]));
        assert!(answer.ends_with(&[attribute::PROXY_STATE, 3, b'p']));
    }
}
