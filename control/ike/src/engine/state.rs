//! The states of an IKE SA. What follows which is in [`super::transitions`].
//!
//! ```text
//! initiator                                      responder
//! ---------                                      ---------
//! FindingSource          the kernel's address
//! GeneratingKe           our public value        Answering            our public value
//! AwaitingInitResponse   IKE_SA_INIT             AwaitingFirstAuth    IKE_AUTH
//! SolvingPuzzle          the puzzle's solution
//! AwaitingResumption     IKE_SESSION_RESUME
//! DerivingKeys           the shared secret       DerivingForAuth      the shared secret
//! SolvingAuthPuzzle      the solution of IKE_AUTH's puzzle
//! Exchanging             IKE_INTERMEDIATE        AnsweringIntermediate our public value, the secret
//! AllocatingFirstSpi     the inbound SPI         AwaitingAuthRequest  IKE_AUTH that decrypts
//! SigningRequest         our signature           VerifyingInitiator   whether its signature is good
//! AwaitingAuthResponse   IKE_AUTH                SigningResponse      our signature
//! VerifyingResponder     whether its signature is good
//!          (with EAP)                                     (with EAP)
//! AnsweringEap           our next packet         TurningEap           the server's next packet
//! AwaitingEapRequest     IKE_AUTH                AskingAaa            the AAA server's answer
//! AwaitingLastAuthResponse  IKE_AUTH, with AUTH  AwaitingEapResponse  IKE_AUTH
//!                                                AwaitingLastAuthRequest  IKE_AUTH, with AUTH
//!          (with further rounds)                          (with further rounds)
//! SigningRound           our signature           AwaitingNextRound    IKE_AUTH
//!                                                Claiming             where there are several shards
//!                 └──────► Established ◄────────────────┘
//!                              │
//!                          Deleting      the answer to our Delete
//! ```
//!
//! Each state is a type that is consumed by what it awaits and makes the next state, or [`Closed`](super::sa::Closed).

use std::time::Instant;

use super::api::IkeState;
use super::context::Context;
use super::established::{Established, Ours};
use super::ike_auth::claiming::Claiming;
use super::ike_auth::eap_initiator::{AnsweringEap, AwaitingEapRequest, AwaitingLastAuthResponse};
use super::ike_auth::eap_responder::{AskingAaa, AwaitingEapResponse, AwaitingLastAuthRequest, TurningEap};
use super::ike_auth::initiator::{
    AllocatingFirstSpi, AwaitingAuthResponse, SigningRequest, VerifyingResponder,
};
use super::ike_auth::puzzle::SolvingAuthPuzzle;
use super::ike_auth::responder::{
    AwaitingAuthRequest, AwaitingFirstAuth, DerivingForAuth, SigningResponse, VerifyingInitiator,
};
use super::ike_auth::rounds::{AwaitingNextRound, SigningRound};
use super::ike_intermediate::initiator::Exchanging;
use super::ike_intermediate::responder::AnsweringIntermediate;
use super::ike_sa_init::initiator::{
    AwaitingInitResponse, DerivingKeys, FindingSource, GeneratingKe, SolvingPuzzle,
};
use super::ike_sa_init::responder::Answering;
use super::informational::Deleting;
use super::resumption::initiator::AwaitingResumption;
use super::sa::{Base, Closed, Done, Inbound, Next};

/// Where an IKE SA stands.
#[derive(Debug)]
pub(super) enum State {
    FindingSource(FindingSource),
    GeneratingKe(GeneratingKe),
    AwaitingInitResponse(Box<AwaitingInitResponse>),
    SolvingPuzzle(SolvingPuzzle),
    AwaitingResumption(AwaitingResumption),
    DerivingKeys(DerivingKeys),
    SolvingAuthPuzzle(Box<SolvingAuthPuzzle>),
    Exchanging(Exchanging),
    AllocatingFirstSpi(AllocatingFirstSpi),
    SigningRequest(Box<SigningRequest>),
    SigningRound(SigningRound),
    AwaitingAuthResponse(Box<AwaitingAuthResponse>),
    VerifyingResponder(VerifyingResponder),
    AnsweringEap(AnsweringEap),
    AwaitingEapRequest(AwaitingEapRequest),
    AwaitingLastAuthResponse(AwaitingLastAuthResponse),
    Answering(Answering),
    AwaitingFirstAuth(Box<AwaitingFirstAuth>),
    DerivingForAuth(DerivingForAuth),
    AwaitingAuthRequest(AwaitingAuthRequest),
    AnsweringIntermediate(AnsweringIntermediate),
    VerifyingInitiator(Box<VerifyingInitiator>),
    SigningResponse(Box<SigningResponse>),
    AwaitingNextRound(Box<AwaitingNextRound>),
    Claiming(Box<Claiming>),
    TurningEap(TurningEap),
    AskingAaa(AskingAaa),
    AwaitingEapResponse(AwaitingEapResponse),
    AwaitingLastAuthRequest(AwaitingLastAuthRequest),
    Established(Box<Established>),
    Deleting(Deleting),
}

impl State {
    /// What it is called in [`super::transitions`].
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::FindingSource(_) => "FindingSource",
            Self::GeneratingKe(_) => "GeneratingKe",
            Self::AwaitingInitResponse(_) => "AwaitingInitResponse",
            Self::SolvingPuzzle(_) => "SolvingPuzzle",
            Self::AwaitingResumption(_) => "AwaitingResumption",
            Self::DerivingKeys(_) => "DerivingKeys",
            Self::SolvingAuthPuzzle(_) => "SolvingAuthPuzzle",
            Self::Exchanging(state) => state.name(),
            Self::AllocatingFirstSpi(_) => "AllocatingFirstSpi",
            Self::SigningRequest(_) => "SigningRequest",
            Self::SigningRound(_) => "SigningRound",
            Self::AwaitingAuthResponse(_) => "AwaitingAuthResponse",
            Self::VerifyingResponder(_) => "VerifyingResponder",
            Self::AnsweringEap(_) => "AnsweringEap",
            Self::AwaitingEapRequest(_) => "AwaitingEapRequest",
            Self::AwaitingLastAuthResponse(_) => "AwaitingLastAuthResponse",
            Self::Answering(_) => "Answering",
            Self::AwaitingFirstAuth(_) => "AwaitingFirstAuth",
            Self::DerivingForAuth(_) => "DerivingForAuth",
            Self::AwaitingAuthRequest(_) => "AwaitingAuthRequest",
            Self::AnsweringIntermediate(state) => state.name(),
            Self::VerifyingInitiator(_) => "VerifyingInitiator",
            Self::SigningResponse(_) => "SigningResponse",
            Self::TurningEap(_) => "TurningEap",
            Self::AskingAaa(_) => "AskingAaa",
            Self::AwaitingEapResponse(_) => "AwaitingEapResponse",
            Self::AwaitingLastAuthRequest(_) => "AwaitingLastAuthRequest",
            Self::AwaitingNextRound(_) => "AwaitingNextRound",
            Self::Claiming(_) => "Claiming",
            Self::Established(_) => "Established",
            Self::Deleting(_) => "Deleting",
        }
    }

    pub(super) fn handle_message(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: Inbound<'_>,
    ) -> Next {
        match self {
            Self::AwaitingInitResponse(state) => state.handle_message(cx, base, now, &inbound),
            Self::AwaitingResumption(state) => state.handle_message(cx, base, now, &inbound),
            Self::Exchanging(state) => state.handle_message(cx, base, &inbound),
            Self::AwaitingAuthResponse(state) => state.handle_message(cx, base, now, &inbound),
            Self::AwaitingEapRequest(state) => state.handle_message(cx, base, now, &inbound),
            Self::AwaitingLastAuthResponse(state) => state.handle_message(cx, base, now, &inbound),
            Self::AwaitingEapResponse(state) => state.handle_message(cx, base, now, &inbound),
            Self::AwaitingLastAuthRequest(state) => state.handle_message(cx, base, now, &inbound),
            Self::AwaitingNextRound(state) => state.handle_message(cx, base, now, &inbound),
            Self::AwaitingFirstAuth(state) => state.handle_message(cx, base, inbound),
            Self::DerivingForAuth(state) => Ok(Self::DerivingForAuth(state.hold(inbound))),
            Self::AwaitingAuthRequest(state) => state.handle_message(cx, base, now, &inbound),
            Self::Established(state) => state.handle_message(cx, base, now, &inbound),
            Self::Deleting(state) => state.handle_message(cx, base, now, &inbound),
            // These await a job; the peer will ask again.
            state @ (Self::FindingSource(_)
            | Self::GeneratingKe(_)
            | Self::SolvingPuzzle(_)
            | Self::DerivingKeys(_)
            | Self::SolvingAuthPuzzle(_)
            | Self::AllocatingFirstSpi(_)
            | Self::SigningRequest(_)
            | Self::SigningRound(_)
            | Self::VerifyingResponder(_)
            | Self::AnsweringEap(_)
            | Self::TurningEap(_)
            | Self::AskingAaa(_)
            | Self::Answering(_)
            | Self::AnsweringIntermediate(_)
            | Self::VerifyingInitiator(_)
            | Self::SigningResponse(_)
            | Self::Claiming(_)) => Ok(state),
        }
    }

    pub(super) fn handle_job(self, cx: &mut Context, base: &mut Base, now: Instant, done: Done) -> Next {
        match self {
            Self::FindingSource(state) => state.handle_job(cx, base, now, done),
            Self::GeneratingKe(state) => state.handle_job(cx, base, now, done),
            Self::SolvingPuzzle(state) => state.handle_job(cx, base, now, done),
            Self::DerivingKeys(state) => state.handle_job(cx, base, now, done),
            Self::SolvingAuthPuzzle(state) => state.handle_job(cx, base, now, done),
            Self::Exchanging(state) => state.handle_job(cx, base, now, done),
            Self::AllocatingFirstSpi(state) => state.handle_job(cx, base, now, done),
            Self::SigningRequest(state) => state.handle_job(cx, base, now, done),
            Self::SigningRound(state) => state.handle_job(cx, base, now, done),
            Self::VerifyingResponder(state) => state.handle_job(cx, base, now, done),
            Self::Answering(state) => state.handle_job(cx, base, done),
            Self::DerivingForAuth(state) => state.handle_job(cx, base, now, done),
            Self::AnsweringIntermediate(state) => state.handle_job(cx, base, done),
            Self::VerifyingInitiator(state) => state.handle_job(cx, base, now, done),
            Self::SigningResponse(state) => state.handle_job(cx, base, now, done),
            Self::Claiming(state) => state.handle_job(cx, base, now, done),
            Self::AnsweringEap(state) => state.handle_job(cx, base, now, done),
            Self::TurningEap(state) => state.handle_job(cx, base, now, done),
            Self::AskingAaa(state) => state.handle_job(cx, base, now, done),
            Self::Established(state) => state.handle_job(cx, base, now, done),
            state @ (Self::AwaitingInitResponse(_)
            | Self::AwaitingResumption(_)
            | Self::AwaitingAuthResponse(_)
            | Self::AwaitingEapRequest(_)
            | Self::AwaitingLastAuthResponse(_)
            | Self::AwaitingEapResponse(_)
            | Self::AwaitingLastAuthRequest(_)
            | Self::AwaitingNextRound(_)
            | Self::AwaitingFirstAuth(_)
            | Self::AwaitingAuthRequest(_)
            | Self::Deleting(_)) => {
                done.discard(cx, base.id);
                Ok(state)
            }
        }
    }

    pub(super) fn handle_timeout(self, cx: &mut Context, base: &mut Base, now: Instant) -> Next {
        match self {
            Self::AwaitingInitResponse(state) => state.handle_timeout(cx, base, now),
            Self::AwaitingResumption(state) => state.handle_timeout(cx, base, now),
            Self::Exchanging(state) => state.handle_timeout(cx, base, now),
            Self::AwaitingAuthResponse(state) => state.handle_timeout(cx, base, now),
            Self::AwaitingEapRequest(state) => state.handle_timeout(cx, base, now),
            Self::AwaitingLastAuthResponse(state) => state.handle_timeout(cx, base, now),
            Self::Established(state) => state.handle_timeout(cx, base, now),
            Self::Deleting(state) => state.handle_timeout(cx, base, now),
            state if state.half_open() && base.half_open_deadline(cx) <= now => {
                Err(Closed::failed(base.about(cx).half_open_expired(base)))
            }
            state => Ok(state),
        }
    }

    /// When [`State::handle_timeout`] has something to do.
    pub(super) fn deadline(&self, cx: &Context, base: &Base) -> Option<Instant> {
        match self {
            Self::AwaitingInitResponse(state) => Some(state.deadline()),
            Self::AwaitingResumption(state) => Some(state.deadline()),
            Self::Exchanging(state) => state.deadline(),
            Self::AwaitingAuthResponse(state) => state.deadline(),
            Self::AwaitingEapRequest(state) => state.deadline(),
            Self::AwaitingLastAuthResponse(state) => state.deadline(),
            Self::Established(state) => state.deadline(cx, base),
            Self::Deleting(state) => state.deadline(),
            state if state.half_open() => Some(base.half_open_deadline(cx)),
            _ => None,
        }
    }

    /// Whether a responder waits for a valid IKE_AUTH.
    pub(super) fn half_open(&self) -> bool {
        matches!(
            self,
            Self::Answering(_)
                | Self::AwaitingFirstAuth(_)
                | Self::DerivingForAuth(_)
                | Self::AwaitingAuthRequest(_)
                | Self::AnsweringIntermediate(_)
                | Self::VerifyingInitiator(_)
                | Self::SigningResponse(_)
                | Self::TurningEap(_)
                | Self::AskingAaa(_)
                | Self::AwaitingEapResponse(_)
                | Self::AwaitingLastAuthRequest(_)
                | Self::AwaitingNextRound(_)
                | Self::Claiming(_)
        )
    }

    /// The SPI that our rekeying has offered.
    pub(super) fn offered_spi(&self) -> Option<[u8; 8]> {
        match self {
            Self::Established(established) => match &established.ours {
                Ours::RekeyingIke(rekeying) => rekeying.offered_spi(),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the peer has not answered our IKE_SA_INIT yet.
    pub(super) fn unanswered(&self) -> bool {
        matches!(
            self,
            Self::FindingSource(_)
                | Self::GeneratingKe(_)
                | Self::AwaitingInitResponse(_)
                | Self::SolvingPuzzle(_)
                | Self::AwaitingResumption(_)
        )
    }

    /// The answer to the IKE_SA_INIT request that made a half-open SA, once there is one.
    pub(super) fn init_response(&self) -> Option<&[u8]> {
        match self {
            Self::AwaitingFirstAuth(state) => Some(state.init_response()),
            Self::DerivingForAuth(state) => Some(state.init_response()),
            Self::AwaitingAuthRequest(state) => Some(state.init_response()),
            Self::AnsweringIntermediate(state) => Some(state.init_response()),
            _ => None,
        }
    }

    pub(super) fn public(&self) -> IkeState {
        match self {
            Self::Established(_) => IkeState::Established,
            Self::Deleting(_) => IkeState::Deleting,
            _ => IkeState::Connecting,
        }
    }
}
