//! Where a negotiation broke, as far as a bystander can tell.

use portcullis_ike::engine::notify_name;
use portcullis_ike::message::{ExchangeType, IdPayload, Payload, WireProposal, notify};
use portcullis_ike::verdict::{
    Fix, Place, ProposalTable, Protocol, Reason, Selector, SelectorTable, Silence, Verdict,
};
use portcullis_ipsec::TrafficSelector;

use super::conversation::{Conversation, Line};
use super::read::Reading;

/// A Notify Message Type of RFC 5685.
const REDIRECT: u16 = 16407;
/// Octets of an IKE message that may have to be cut into fragments on its way.
const LARGE: usize = 1400;
/// What is encrypted of an answer that holds one notification without data and nothing else: with the longest IV, padding and
/// ICV in use, 16 + 16 + 32.
const ONE_NOTIFICATION: usize = 64;

/// What became of a negotiation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing went wrong that can be seen.
    Up(String),
    /// It broke.
    Broken(Box<Verdict>),
}

/// Judges one negotiation of a capture. The others of it may tell what its responder has.
pub fn judge(conversation: &Conversation, others: &[Conversation], reading: &Reading) -> Judgement {
    let broken = |verdict: Verdict| {
        Judgement::Broken(Box::new(Verdict { peer: Some(conversation.responder), ..verdict }))
    };
    if conversation.major == 1 {
        return broken(
            Verdict::new(
                Reason::VersionMismatch,
                format!(
                    "{} speaks IKEv1, which is another protocol: this capture has to be read by other means",
                    conversation.initiator.ip()
                ),
            )
            .fix(Fix::strongswan("", "version", "2"))
            .fix(Fix::libreswan("ikev2", "yes")),
        );
    }
    let scene = Scene { conversation, others, reading };
    match scene.init().or_else(|| scene.auth()) {
        Some(verdict) => broken(verdict),
        None => Judgement::Up(scene.success()),
    }
}

struct Scene<'a> {
    conversation: &'a Conversation,
    others: &'a [Conversation],
    reading: &'a Reading,
}

impl Scene<'_> {
    fn initiator(&self) -> String {
        format!("the initiator {}", self.conversation.initiator.ip())
    }

    fn responder(&self) -> String {
        format!("the responder {}", self.conversation.responder.ip())
    }

    fn silence(&self, request: &Line, heard: Vec<String>) -> Silence {
        let same = |line: &&Line| line.seen.octets == request.seen.octets;
        Silence {
            exchange: exchange_name(request).to_owned(),
            sent: self.conversation.lines.iter().filter(same).count().try_into().unwrap_or(u32::MAX),
            octets: request.seen.octets.len(),
            from: request.seen.src,
            to: request.seen.dst,
            heard,
        }
    }

    /// IKE_SA_INIT: both messages are in clear.
    fn init(&self) -> Option<Verdict> {
        let requests: Vec<&Line> = self.conversation.of(ExchangeType::IkeSaInit, false).collect();
        let responses: Vec<&Line> = self.conversation.of(ExchangeType::IkeSaInit, true).collect();
        let Some(request) = requests.last().copied() else { return self.unreadable() };
        // A capture that has the second message and no answer to the first has seen one side alone.
        if responses.is_empty() && self.conversation.of(ExchangeType::IkeAuth, false).next().is_none() {
            return Some(
                Verdict::new(
                    Reason::PeerSilent,
                    format!("{} did not answer the first message (IKE_SA_INIT): nothing came back that was captured", self.responder()),
                )
                .seen(self.silence(request, Vec::new()))
                .fix(Fix::step(Place::Network, "capture at the responder as well: if the request arrives there, the answer is lost or not given; if not, the way is blocked"))
                .fix(Fix::step(Place::Peer, "see whether IKE runs there and listens on UDP 500: ss -ulpn")),
            );
        }
        if responses.iter().any(|line| line.proposals().is_some()) {
            return None;
        }
        if responses.iter().flat_map(|line| line.notifications()).any(|found| found.notify_type == REDIRECT) {
            let sentence = format!(
                "{} sends {} to another gateway (REDIRECT, RFC 5685), and nothing shows that it went there",
                self.responder(),
                self.initiator()
            );
            return Some(Verdict::new(Reason::PeerRefused, sentence));
        }
        let error = responses.iter().rev().find_map(|line| line.error())?;
        let offered = request.proposals().unwrap_or_default();
        Some(match error.notify_type {
            notify::NO_PROPOSAL_CHOSEN => self.proposal_refused(offered),
            notify::INVALID_KE_PAYLOAD => self.group_refused(offered, &error.data),
            notify::INVALID_MAJOR_VERSION => {
                Verdict::new(Reason::VersionMismatch, format!("{} does not speak IKEv2", self.responder()))
                    .fix(Fix::strongswan("", "version", "2"))
                    .fix(Fix::libreswan("ikev2", "yes"))
            }
            other => Verdict::new(
                Reason::PeerRefused,
                format!("{} answered the first message with {}", self.responder(), notify_name(other)),
            )
            .fix(Fix::step(Place::Peer, "read its log for this moment")),
        })
    }

    /// Nothing of the first exchange can be read.
    fn unreadable(&self) -> Option<Verdict> {
        let line = self.conversation.lines.first()?;
        let error = line.received.as_ref().err()?;
        Some(
            Verdict::new(
                Reason::PeerMisbehaved,
                format!("the message of {} cannot be read: {error}", line.seen.src.ip()),
            )
            .fix(Fix::step(Place::Peer, "update it, or report it to its maker with this capture")),
        )
    }

    /// What the responder has is known if it has begun a negotiation itself.
    fn proposal_refused(&self, offered: &[WireProposal]) -> Verdict {
        let responder = self.conversation.responder.ip();
        let own = self.others.iter().filter(|other| other.initiator.ip() == responder);
        let own = own.flat_map(|other| other.of(ExchangeType::IkeSaInit, false)).find_map(Line::proposals);
        match own {
            Some(own) => {
                let table = ProposalTable::compare(Protocol::Ike, own, offered, true);
                if table.apart.is_empty() {
                    return Verdict::new(
                        Reason::NoConfigForAddress,
                        format!("{} refused a proposal that it makes itself: so it has no connection for {}", self.responder(), self.conversation.initiator.ip()),
                    )
                    .seen(table)
                    .fix(Fix::strongswan("", "remote_addrs", self.conversation.initiator.ip().to_string()))
                    .fix(Fix::libreswan("right", self.conversation.initiator.ip().to_string()));
                }
                Verdict::new(
                    table.reason(),
                    format!("the IKE proposals do not go together ({} has begun itself, elsewhere in this capture, which shows what it has; \"here\" below is the responder): {}", self.responder(), table.difference()),
                )
                .seen(table)
            }
            None => Verdict::new(
                Reason::ProposalRefused,
                format!("{} takes none of the proposals of {}, or has no connection for its address; it says NO_PROPOSAL_CHOSEN to both", self.responder(), self.initiator()),
            )
            .seen(ProposalTable::ours_alone(Protocol::Ike, offered))
            .fix(Fix::step(Place::Peer, "read the responder's log for this moment; or have it begin, and capture that: its own offer shows what it has")),
        }
    }

    fn group_refused(&self, offered: &[WireProposal], data: &[u8]) -> Verdict {
        let wanted = data.try_into().map_or(0, u16::from_be_bytes);
        let has = offered
            .iter()
            .flat_map(|proposal| &proposal.transforms)
            .any(|transform| transform.transform_type == 4 && transform.id == wanted);
        let sentence = match has {
            true => format!(
                "{} asked for key exchange group {wanted}, which {} had offered, and it never sent a public value of it",
                self.responder(),
                self.initiator()
            ),
            false => format!(
                "{} insists on key exchange group {wanted}, which {} did not offer",
                self.responder(),
                self.initiator()
            ),
        };
        Verdict::new(Reason::ProposalKeMismatch, sentence)
            .seen(ProposalTable::ours_alone(Protocol::Ike, offered))
    }

    /// IKE_AUTH: encrypted. Without keys, what is seen is who sent how much, and when nobody answered.
    fn auth(&self) -> Option<Verdict> {
        let answered = vec![format!("{} answered IKE_SA_INIT", self.responder())];
        let request = self.conversation.of(ExchangeType::IkeAuth, false).next();
        let Some(request) = request else {
            let lost = self
                .reading
                .incomplete
                .contains(&(self.conversation.initiator.ip(), self.conversation.responder.ip()));
            let reason = if lost { Reason::FragmentsLost } else { Reason::AuthNeverCame };
            let why = match lost {
                true => "it was sent in IP fragments, of which not all are in the capture",
                false => {
                    "the answer did not reach it, or it did not like the answer, or its second message went another way (UDP 4500)"
                }
            };
            return Some(
                Verdict::new(reason, format!("{} began, was answered, and no second message (IKE_AUTH) of it was captured: {why}", self.initiator()))
                    .fix(Fix::step(Place::Network, "let UDP 4500 and IP fragments pass, and capture both: tcpdump -ni IFACE -w FILE 'udp port 500 or udp port 4500 or (ip[6:2] & 0x3fff != 0)'"))
                    .fix(Fix::step(Place::Peer, "read the initiator's log for this moment")),
            );
        };
        let Some(response) = self.conversation.of(ExchangeType::IkeAuth, true).last() else {
            let size = request.seen.octets.len();
            let floated = request.seen.dst.port() == 4500;
            let (reason, why) = match (size > LARGE, floated) {
                (true, _) => (
                    Reason::FragmentsLost,
                    "it is larger than a packet, so it goes in IP fragments, which firewalls like to drop",
                ),
                (false, true) => (
                    Reason::Nat4500Blocked,
                    "it went to UDP 4500, where nothing came back, while UDP 500 passed",
                ),
                (false, false) => (Reason::PeerSilent, "the first one had been answered"),
            };
            return Some(
                Verdict::new(reason, format!("{} did not answer the second message (IKE_AUTH, {size} octets): {why}", self.responder()))
                    .seen(self.silence(request, answered))
                    .fix(Fix::step(Place::Network, "let UDP 4500 and IP fragments pass both ways; capture at the responder to see whether the message arrives"))
                    .fix(Fix::step(Place::Peer, "read the responder's log for this moment")),
            );
        };
        match response.inside {
            Some(_) => self.opened(request, response),
            None => self.sealed(response),
        }
    }

    /// Without keys.
    fn sealed(&self, response: &Line) -> Option<Verdict> {
        let octets = response.encrypted()?;
        // An answer that accepts has IDr and AUTH at least.
        (octets <= ONE_NOTIFICATION && !response.is_fragment()).then(|| {
            Verdict::new(
                Reason::AuthenticationFailed,
                format!("{} rejected the authentication of {}: its encrypted answer ({octets} octets) has room for one error notification and no more", self.responder(), self.initiator()),
            )
            .fact("judged by", "the size of the answer; with --keys it can be read")
            .fix(Fix::step(Place::Peer, "read the responder's log for this moment: another pre-shared key, an identity that it does not expect, a certificate that it does not trust"))
        })
    }

    /// With keys.
    fn opened(&self, request: &Line, response: &Line) -> Option<Verdict> {
        let error = response.error()?;
        let id = |line: &Line, initiator: bool| {
            line.payloads().find_map(|payload| match payload {
                Payload::IdI(IdPayload { identity, .. }) if initiator => Some(identity.to_string()),
                Payload::IdR(IdPayload { identity, .. }) if !initiator => Some(identity.to_string()),
                _ => None,
            })
        };
        let (peer, asked) = (id(request, true).unwrap_or_default(), id(request, false));
        let verdict = match error.notify_type {
            notify::AUTHENTICATION_FAILED => Verdict::new(
                Reason::AuthenticationFailed,
                format!("{} rejected the authentication of `{peer}`", self.responder()),
            )
            .fix(Fix::step(Place::Peer, "read the responder's log: another pre-shared key, an identity that it does not expect, a certificate that it does not trust")),
            notify::TS_UNACCEPTABLE => {
                let (local, remote) = (selectors(request, true), selectors(request, false));
                Verdict::new(
                    Reason::TsNoOverlap,
                    format!("{} takes none of the traffic that `{peer}` asked for", self.responder()),
                )
                .seen(SelectorTable {
                    asked_by_peer: true,
                    asked_local: Selector::list(&remote),
                    asked_remote: Selector::list(&local),
                    children: Vec::new(),
                })
                .fix(Fix::strongswan("children.<child>", "local_ts", join(&remote)))
                .fix(Fix::strongswan("children.<child>", "remote_ts", join(&local)))
            }
            notify::NO_PROPOSAL_CHOSEN => Verdict::new(
                Reason::ChildProposalRefused,
                format!("{} takes none of the ESP proposals of `{peer}`", self.responder()),
            )
            .seen(ProposalTable::ours_alone(Protocol::Esp, request.proposals().unwrap_or_default())),
            other => Verdict::new(
                Reason::PeerRefused,
                format!("{} answered IKE_AUTH with {}", self.responder(), notify_name(other)),
            ),
        };
        let verdict = verdict.fact("initiator's identity (IDi)", peer);
        Some(match asked {
            Some(asked) => verdict.fact("responder it wants (IDr)", asked),
            None => verdict,
        })
    }

    fn success(&self) -> String {
        let ends = (self.conversation.initiator.ip(), self.conversation.responder.ip());
        let esp = |from, to| self.reading.esp.get(&(from, to)).copied().unwrap_or_default();
        let (out, back) = (esp(ends.0, ends.1), esp(ends.1, ends.0));
        match (out, back) {
            (0, 0) => "nothing went wrong that can be seen; no ESP was captured".to_owned(),
            (_, 0) | (0, _) => format!(
                "the negotiation succeeded, but ESP passes one way only ({out} packets there, {back} back): look at filters and routes"
            ),
            _ => format!(
                "the negotiation succeeded, and ESP passes both ways ({out} packets there, {back} back)"
            ),
        }
    }
}

fn selectors(line: &Line, initiator: bool) -> Vec<TrafficSelector> {
    let found = line.payloads().find_map(|payload| match payload {
        Payload::TsI(found) if initiator => Some(found),
        Payload::TsR(found) if !initiator => Some(found),
        _ => None,
    });
    found.into_iter().flatten().flatten().copied().collect()
}

fn join(selectors: &[TrafficSelector]) -> String {
    let texts: Vec<String> = selectors.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// The exchange of a message.
pub(super) fn exchange_name(line: &Line) -> &'static str {
    line.header().map_or("unknown", |header| portcullis_ike::engine::exchange_name(header.exchange))
}
