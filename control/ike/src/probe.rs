//! Asks a live responder what it accepts, transform by transform, without leaving anything half-open at it.
//!
//! Each question is an IKE_SA_INIT request that offers one transform of a kind together with everything of the others, and carries
//! a public value of a group that it does not offer. A responder that finds a proposal answers INVALID_KE_PAYLOAD with the group that
//! it would take (RFC 7296 §1.2), and forgets the request; one that finds none answers NO_PROPOSAL_CHOSEN. Neither is
//! authenticated: the findings are a hint, not a proof.
//!
//! Sans-IO: [`Probe::question`] out, [`Probe::handle_answer`] or [`Probe::handle_silence`] in, until there is no question left.

use rand_core::CryptoRng;

use crate::engine::notify_name;
use crate::message::{
    ExchangeType, Header, Message, Notify, Payload, Protocol, Transform, WireProposal, notify,
};
use crate::proposal::{IkeProposal, transform_name, transform_type as types};
use crate::verdict::weakness;

/// Questions that are asked at most, repetitions for cookies included.
pub const MOST_QUESTIONS: usize = 64;
/// Silences in a row after which nothing more is asked: the responder limits its rate, or is gone.
const PATIENCE: usize = 3;
/// The group of the public value, which is never offered: 768-bit MODP, 96 octets.
const UNOFFERED: (u16, usize) = (1, 96);

/// Encryption: ID, key length, whether it is an AEAD.
const ENCR: &[(u16, Option<u16>, bool)] = &[
    (20, Some(256), true),
    (20, Some(192), true),
    (20, Some(128), true),
    (28, None, true),
    (16, Some(256), true),
    (16, Some(128), true),
    (12, Some(256), false),
    (12, Some(192), false),
    (12, Some(128), false),
    (13, Some(256), false),
    (23, Some(256), false),
    (3, None, false),
];
const INTEG: &[u16] = &[14, 13, 12, 5, 2, 1];
const PRF: &[u16] = &[7, 6, 5, 4, 2, 1];
const KE: &[u16] = &[31, 32, 21, 20, 19, 18, 17, 16, 15, 14, 24, 5, 2];

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// Whether anything at all is accepted.
    Anything,
    /// This transform.
    One(Transform),
    /// Nothing more: who is there.
    Face,
}

/// A transform that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// In strongSwan's notation.
    pub transform: String,
    /// Its transform type.
    pub transform_type: u8,
    /// Whether it is accepted; `None` if there was no answer.
    pub accepted: Option<bool>,
    /// Why it should not be used, if so.
    pub weak: Option<&'static str>,
}

/// What came of the questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody has answered.
    Silent,
    /// It refuses everything that is known here: it has no connection for our address, most likely.
    RefusesAll,
    /// It answers with something else.
    Odd(String),
    /// It takes part.
    Answers,
}

/// A responder being asked.
#[derive(Debug)]
pub struct Probe {
    pending: Vec<About>,
    asked: Option<Asked>,
    questions: usize,
    silences: usize,
    faced: bool,
    outcome: Outcome,
    findings: Vec<(Transform, Option<bool>)>,
    face: Option<Vec<Payload>>,
}

#[derive(Debug)]
struct Asked {
    about: About,
    spi: [u8; 8],
    cookie: Option<Vec<u8>>,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            pending: vec![About::Anything],
            asked: None,
            questions: 0,
            silences: 0,
            faced: false,
            outcome: Outcome::Silent,
            findings: Vec::new(),
            face: None,
        }
    }
}

impl Probe {
    /// The next question to send, an IKE message; `None` when all is asked.
    pub fn question(&mut self, rng: &mut dyn CryptoRng) -> Option<Vec<u8>> {
        let (about, cookie) = match self.asked.take() {
            // Asked again with the cookie that the responder wants.
            Some(Asked { about, cookie: Some(cookie), .. }) => (about, Some(cookie)),
            _ => (self.next()?, None),
        };
        if self.questions >= MOST_QUESTIONS {
            return None;
        }
        self.questions += 1;
        let mut spi = [0; 8];
        rng.fill_bytes(&mut spi);
        spi[0] |= 1;
        let (mut nonce, mut public) = (vec![0; 32], vec![0; UNOFFERED.1]);
        rng.fill_bytes(&mut nonce);
        rng.fill_bytes(&mut public);
        let mut method = UNOFFERED.0;
        let offer = match about {
            About::Face => {
                let wanted = self.proposal()?;
                let ke = *wanted.ke.first()?;
                (method, public) = (ke.id(), crate::crypto::generate(ke, rng).ok()?.1);
                vec![wanted.offer(1)]
            }
            About::Anything => offer(&everything()),
            About::One(transform) => offer(&self.around(transform)),
        };
        let mut payloads: Vec<Payload> = Vec::new();
        if let Some(data) = cookie {
            payloads.push(Payload::Notify(Notify {
                protocol: Protocol::Other(0),
                spi: Vec::new(),
                notify_type: notify::COOKIE,
                data,
            }));
        }
        payloads.extend([Payload::Sa(offer), Payload::Ke { method, data: public }, Payload::Nonce(nonce)]);
        let header = Header {
            spi_i: spi,
            spi_r: [0; 8],
            major: 2,
            minor: 0,
            exchange: ExchangeType::IkeSaInit,
            initiator: true,
            response: false,
            message_id: 0,
        };
        self.asked = Some(Asked { about, spi, cookie: None });
        Some(Message { header, payloads }.emit())
    }

    /// Takes what came. False if it answers no question of ours, and waiting goes on.
    pub fn handle_answer(&mut self, octets: &[u8]) -> bool {
        let Some(asked) = &mut self.asked else { return false };
        let Ok(received) = Message::parse(octets) else { return false };
        let header = received.message.header;
        if header.spi_i != asked.spi || !header.response || header.exchange != ExchangeType::IkeSaInit {
            return false;
        }
        self.silences = 0;
        let payloads = received.message.payloads;
        let notifications = || {
            payloads.iter().filter_map(|payload| match payload {
                Payload::Notify(notify) => Some(notify),
                _ => None,
            })
        };
        if let Some(cookie) = notifications().find(|found| found.notify_type == notify::COOKIE) {
            asked.cookie = Some(cookie.data.clone());
            return true;
        }
        let about = asked.about;
        let error = notifications().map(|found| found.notify_type).find(|kind| *kind < 16384);
        let accepted = match error {
            Some(notify::INVALID_KE_PAYLOAD) | None => true,
            Some(notify::NO_PROPOSAL_CHOSEN) => false,
            Some(other) => {
                if about == About::Anything {
                    self.outcome = Outcome::Odd(notify_name(other));
                }
                return true;
            }
        };
        match about {
            About::Anything if accepted => {
                self.outcome = Outcome::Answers;
                self.ask(types::KE);
                self.ask(types::PRF);
                self.ask(types::INTEG);
                self.ask(types::ENCR);
            }
            About::Anything => self.outcome = Outcome::RefusesAll,
            About::One(transform) => self.found(transform, Some(accepted)),
            About::Face => self.face = Some(payloads),
        }
        self.face_at_the_end();
        true
    }

    /// Nobody has answered the question.
    pub fn handle_silence(&mut self) {
        let Some(asked) = self.asked.take() else { return };
        self.silences += 1;
        if let About::One(transform) = asked.about {
            self.found(transform, None);
        }
        if self.silences >= PATIENCE {
            self.pending.clear();
        }
        self.face_at_the_end();
    }

    /// How it went.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Questions that were asked.
    pub fn questions(&self) -> usize {
        self.questions
    }

    /// Every transform that was asked for.
    pub fn findings(&self) -> Vec<Finding> {
        let finding = |(transform, accepted): &(Transform, Option<bool>)| {
            let name = transform_name(*transform);
            let transform_type = transform.transform_type;
            let weak = weakness(transform_type, &name);
            Finding { transform: name, transform_type, accepted: *accepted, weak }
        };
        self.findings.iter().map(finding).collect()
    }

    /// The best proposal that both ends take; `None` if there is none.
    pub fn proposal(&self) -> Option<IkeProposal> {
        let of = |kind: u8| {
            self.findings.iter().filter(move |(transform, accepted)| {
                let strong = weakness(kind, &transform_name(*transform)).is_none();
                transform.transform_type == kind && *accepted == Some(true) && strong
            })
        };
        let name = |(transform, _): &(Transform, Option<bool>)| transform_name(*transform);
        for encr in of(types::ENCR) {
            let whole = is_aead(encr.0);
            for prf in of(types::PRF) {
                for ke in of(types::KE) {
                    let integ = of(types::INTEG).map(name);
                    let integs: Vec<Option<String>> =
                        if whole { vec![None] } else { integ.map(Some).collect() };
                    for integ in integs {
                        let words = [Some(name(encr)), integ, Some(name(prf)), Some(name(ke))];
                        let text = words.into_iter().flatten().collect::<Vec<_>>().join("-");
                        if let Ok(proposal) = text.parse() {
                            return Some(proposal);
                        }
                    }
                }
            }
        }
        None
    }

    /// What the responder seems to be, and by what; `None` if it shows nothing.
    pub fn seems(&self) -> Option<(&'static str, String)> {
        let face = self.face.as_ref()?;
        let vendors = || {
            face.iter().filter_map(|payload| match payload {
                Payload::VendorId(id) => Some(id.as_slice()),
                _ => None,
            })
        };
        for (prefix, name) in VENDORS {
            if vendors().any(|id| id.starts_with(prefix)) {
                return Some((name, "its vendor ID".to_owned()));
            }
        }
        let has = |kind: u16| {
            face.iter().any(|payload| matches!(payload, Payload::Notify(found) if found.notify_type == kind))
        };
        let by = "the notifications that it sends".to_owned();
        match (has(MULTIPLE_AUTH), has(notify::CHILDLESS_IKEV2_SUPPORTED)) {
            (true, true) => Some(("strongSwan", by)),
            (true, false) => Some(("strongSwan, an old one", by)),
            _ => None,
        }
    }

    /// What is asked next. Integrity algorithms are of no interest where only AEADs are accepted.
    fn next(&mut self) -> Option<About> {
        loop {
            let about = self.pending.pop()?;
            let integrity = matches!(about, About::One(found) if found.transform_type == types::INTEG);
            let classic = |(found, accepted): &(Transform, Option<bool>)| {
                found.transform_type == types::ENCR && !is_aead(*found) && *accepted == Some(true)
            };
            if !integrity || self.findings.iter().any(classic) {
                return Some(about);
            }
        }
    }

    /// Has every transform of a kind asked for. The last asked is the first in the list.
    fn ask(&mut self, kind: u8) {
        let transforms = everything().into_iter().filter(|found| found.transform_type == kind);
        let questions: Vec<About> = transforms.map(About::One).collect();
        self.pending.extend(questions.into_iter().rev());
    }

    fn found(&mut self, transform: Transform, accepted: Option<bool>) {
        if !self.findings.iter().any(|(known, _)| *known == transform) {
            self.findings.push((transform, accepted));
        }
    }

    /// When all transforms are known, one honest request shows who is there. It leaves one half-open IKE SA at the responder.
    fn face_at_the_end(&mut self) {
        if self.pending.is_empty() && self.outcome == Outcome::Answers && !self.faced {
            self.faced = true;
            self.pending.push(About::Face);
        }
    }

    /// The transform alone of its kind, and of the other kinds what is not known to be refused.
    fn around(&self, transform: Transform) -> Vec<Transform> {
        let refused = |found: &Transform| self.findings.contains(&(*found, Some(false)));
        let mut offered: Vec<_> = everything()
            .into_iter()
            .filter(|found| found.transform_type != transform.transform_type && !refused(found))
            .collect();
        if transform.transform_type == types::INTEG {
            // AEADs would be accepted without it.
            offered.retain(|found| found.transform_type != types::ENCR || !is_aead(*found));
        }
        offered.push(transform);
        offered
    }
}

const MULTIPLE_AUTH: u16 = 16404;

/// Beginnings of vendor IDs, and whose they are.
const VENDORS: &[(&[u8], &str)] = &[
    (b"strongSwan", "strongSwan"),
    (b"OE-Libreswan-", "libreswan"),
    (b"Libreswan", "libreswan"),
    (&[0x1e, 0x2b, 0x51, 0x69, 0x05, 0x99, 0x1c, 0x7d], "Windows"),
    (b"CISCO", "Cisco"),
    (b"FLEXVPN-SUPPORTED", "Cisco (FlexVPN)"),
];

fn is_aead(transform: Transform) -> bool {
    ENCR.iter().any(|(id, _, aead)| *aead && *id == transform.id)
}

/// Every transform that is asked for.
fn everything() -> Vec<Transform> {
    let transform = |transform_type, id, key_length| Transform {
        transform_type,
        id,
        key_length,
        unknown_attribute: false,
    };
    let encr = ENCR.iter().map(|(id, bits, _)| transform(types::ENCR, *id, *bits));
    let others = [(types::INTEG, INTEG), (types::PRF, PRF), (types::KE, KE)];
    let others =
        others.into_iter().flat_map(|(kind, ids)| ids.iter().map(move |id| transform(kind, *id, None)));
    encr.chain(others).collect()
}

/// An SA payload that offers those: AEADs in one proposal, ciphers with integrity algorithms in another (RFC 7296 §3.3).
fn offer(transforms: &[Transform]) -> Vec<WireProposal> {
    let proposal = |aead: bool| {
        let fits = |found: &&Transform| match found.transform_type {
            types::ENCR => is_aead(**found) == aead,
            types::INTEG => !aead,
            _ => true,
        };
        let transforms: Vec<_> = transforms.iter().filter(fits).copied().collect();
        WireProposal { number: 0, protocol: Protocol::Ike, spi: Vec::new(), transforms }
    };
    let has = |proposal: &WireProposal, kind: u8| {
        proposal.transforms.iter().any(|found| found.transform_type == kind)
    };
    let (aead, classic) = (proposal(true), proposal(false));
    let mut offer = Vec::new();
    if has(&aead, types::ENCR) {
        offer.push(aead);
    }
    if has(&classic, types::ENCR) && has(&classic, types::INTEG) {
        offer.push(classic);
    }
    for (proposal, number) in offer.iter_mut().zip(1..) {
        proposal.number = number;
    }
    offer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;

    use super::*;
    use crate::proposal::select_ike;

    /// A responder that takes what it is configured with, as RFC 7296 §1.2 has it.
    fn answer(question: &[u8], configured: &[IkeProposal]) -> Vec<u8> {
        let request = Message::parse(question).unwrap().message;
        let offered = request.payloads.iter().find_map(|payload| match payload {
            Payload::Sa(proposals) => Some(proposals.clone()),
            _ => None,
        });
        let (notify_type, data) = match select_ike(configured, &offered.unwrap()) {
            Ok((suite, _)) => (notify::INVALID_KE_PAYLOAD, suite.ke.id().to_be_bytes().to_vec()),
            Err(_) => (notify::NO_PROPOSAL_CHOSEN, Vec::new()),
        };
        crate::engine::init_answer(&request.header, notify_type, data)
    }

    fn probed(configured: &[&str]) -> Probe {
        let configured: Vec<IkeProposal> = configured.iter().map(|text| text.parse().unwrap()).collect();
        let (mut probe, mut rng) = (Probe::default(), ChaCha20Rng::from_seed([7; 32]));
        while let Some(question) = probe.question(&mut rng) {
            assert!(probe.handle_answer(&answer(&question, &configured)));
        }
        probe
    }

    #[test]
    fn what_is_accepted_is_found_out_and_what_would_match_is_configured() {
        let probe = probed(&["aes256gcm16-aes128gcm16-prfsha384-ecp384-x25519"]);
        let accepted: BTreeSet<String> = probe
            .findings()
            .into_iter()
            .filter(|finding| finding.accepted == Some(true))
            .map(|finding| finding.transform)
            .collect();
        let expected = ["aes128gcm16", "aes256gcm16", "ecp384", "prfsha384", "x25519"];
        assert_eq!(accepted, expected.map(str::to_owned).into());
        assert_eq!(probe.proposal().unwrap().to_string(), "aes256gcm16-prfsha384-x25519");
        assert!(probe.questions() <= MOST_QUESTIONS, "{}", probe.questions());
    }

    #[test]
    fn a_responder_that_refuses_everything_is_asked_once() {
        let probe = probed(&[]);
        assert_eq!((probe.outcome(), probe.questions()), (&Outcome::RefusesAll, 1));
    }

    #[test]
    fn a_silent_one_is_not_pestered() {
        let (mut probe, mut rng) = (Probe::default(), ChaCha20Rng::from_seed([7; 32]));
        while probe.question(&mut rng).is_some() {
            probe.handle_silence();
        }
        assert_eq!((probe.outcome(), probe.questions()), (&Outcome::Silent, 1));
    }

    #[test]
    fn a_cookie_is_sent_back_and_foreign_answers_are_not_believed() {
        let (mut probe, mut rng) = (Probe::default(), ChaCha20Rng::from_seed([7; 32]));
        let question = probe.question(&mut rng).unwrap();
        let header = Message::parse(&question).unwrap().message.header;
        let foreign = Header { spi_i: [9; 8], ..header };
        assert!(!probe.handle_answer(&crate::engine::init_answer(
            &foreign,
            notify::NO_PROPOSAL_CHOSEN,
            Vec::new()
        )));
        assert!(probe.handle_answer(&crate::engine::init_answer(&header, notify::COOKIE, vec![1, 2, 3])));
        let again = Message::parse(&probe.question(&mut rng).unwrap()).unwrap().message;
        assert!(matches!(&again.payloads[0], Payload::Notify(found) if found.data == [1, 2, 3]));
    }
}
