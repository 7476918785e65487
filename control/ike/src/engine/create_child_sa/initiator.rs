//! CREATE_CHILD_SA as the initiator: one more child.

use std::time::Instant;

use portcullis_ipsec::{InstallError, Spi};

use crate::crypto::{KeMethod, KeSecret, KeyExchangeError, SharedSecret};
use crate::engine::api::{JobId, JobResult};
use crate::engine::child::{self, Agreed, ChildPayloads, Offer, Refusal};
use crate::engine::context::Context;
use crate::engine::established::{Established, Ours};
use crate::engine::ike_sa_init::notifications;
use crate::engine::sa::{Base, Done, Goal};
use crate::message::{ExchangeType, Payload, notify};

/// The exchange, by what it awaits.
#[derive(Debug)]
pub(in crate::engine) enum Creating {
    AllocatingSpi(AllocatingSpi),
    GeneratingKe(GeneratingKe),
    AwaitingResponse(AwaitingResponse),
    DerivingKe(DerivingKe),
}

/// Awaits our inbound SPI.
#[derive(Debug)]
pub(in crate::engine) struct AllocatingSpi {
    job: JobId,
}

/// Awaits our public value.
#[derive(Debug)]
pub(in crate::engine) struct GeneratingKe {
    job: JobId,
    spi: Spi,
    method: KeMethod,
    tried: Vec<KeMethod>,
}

/// Awaits the response.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingResponse {
    offer: Offer,
    nonce: Vec<u8>,
    ke: Option<(KeMethod, KeSecret)>,
    tried: Vec<KeMethod>,
}

/// Awaits the shared secret.
#[derive(Debug)]
pub(in crate::engine) struct DerivingKe {
    job: JobId,
    agreed: Agreed,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
}

impl Creating {
    /// Begins with the child that is about to become [`Base::goal`].
    pub(in crate::engine) fn begin(cx: &mut Context, base: &Base) -> Self {
        Self::AllocatingSpi(AllocatingSpi { job: cx.allocate_spi(base.id) })
    }

    pub(in crate::engine) fn awaits(&self, id: JobId) -> bool {
        match self {
            Self::AllocatingSpi(state) => state.job == id,
            Self::GeneratingKe(state) => state.job == id,
            Self::DerivingKe(state) => state.job == id,
            Self::AwaitingResponse(_) => false,
        }
    }

    /// Takes the job that this awaits; what follows is left in `established.ours`.
    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        established: &mut Established,
        done: Done,
    ) {
        match (self, done.result) {
            (Self::AllocatingSpi(_), JobResult::SpiAllocated(Ok(spi))) => {
                base.reserved.push(spi);
                let method = first_method(cx, base);
                match method {
                    Some(method) => generate(cx, base, established, spi, method, Vec::new()),
                    None => request(cx, base, now, established, spi, None, Vec::new()),
                }
            }
            (Self::AllocatingSpi(_), JobResult::SpiAllocated(Err(error))) => not_allocated(cx, base, &error),
            (Self::GeneratingKe(state), JobResult::KeGenerated(Ok((secret, public)))) => {
                let ke = Some((state.method, secret, public));
                request(cx, base, now, established, state.spi, ke, state.tried);
            }
            (Self::GeneratingKe(state), JobResult::KeGenerated(Err(error))) => {
                broken(cx, base, established, state.spi, &error, false);
            }
            (Self::DerivingKe(state), JobResult::KeDerived(Ok(shared))) => {
                state.install(cx, base, established, Some(&shared));
            }
            (Self::DerivingKe(state), JobResult::KeDerived(Err(error))) => {
                broken(cx, base, established, state.agreed.pair, &error, true);
            }
            (state, result) => {
                established.ours = Ours::Creating(state);
                cx.discard(base.id, done.pair, result);
            }
        }
    }

    /// Takes the response; what follows is left in `established.ours`.
    pub(in crate::engine) fn handle_response(
        self,
        cx: &mut Context,
        base: &mut Base,
        established: &mut Established,
        payloads: &[Payload],
    ) {
        match self {
            Self::AwaitingResponse(state) => state.handle_response(cx, base, established, payloads),
            state => established.ours = Ours::Creating(state),
        }
    }
}

/// The group that we try first: that of the preferred proposal, if it has one.
fn first_method(cx: &Context, base: &Base) -> Option<KeMethod> {
    let child = cx.child(base.connection, base.goal.as_ref()?.child)?;
    child.esp_proposals.first()?.ke.first().copied()
}

fn generate(
    cx: &mut Context,
    base: &Base,
    established: &mut Established,
    spi: Spi,
    method: KeMethod,
    mut tried: Vec<KeMethod>,
) {
    tried.push(method);
    let job = cx.generate_ke(base.id, method);
    established.ours = Ours::Creating(Creating::GeneratingKe(GeneratingKe { job, spi, method, tried }));
}

fn request(
    cx: &mut Context,
    base: &mut Base,
    now: Instant,
    established: &mut Established,
    spi: Spi,
    ke: Option<(KeMethod, KeSecret, Vec<u8>)>,
    tried: Vec<KeMethod>,
) {
    let goal: Option<Goal> = base.goal.clone();
    let Some(offer) = goal.and_then(|goal| Offer::new(cx, base, &goal, spi, true)) else {
        base.release(cx, spi);
        let failure = base.about(cx).closed_early("no child is wanted any more");
        return base.fail_goal(cx, failure);
    };
    let nonce = cx.random::<32>().to_vec();
    let mut payloads = vec![Payload::Sa(offer.proposals()), Payload::Nonce(nonce.clone())];
    let ke = ke.map(|(method, secret, public)| {
        payloads.push(Payload::Ke { method: method.id(), data: public });
        (method, secret)
    });
    payloads.extend(offer.selector_payloads());
    established.channel.request(cx, base, now, ExchangeType::CreateChildSa, payloads);
    established.ours =
        Ours::Creating(Creating::AwaitingResponse(AwaitingResponse { offer, nonce, ke, tried }));
}

fn not_allocated(cx: &mut Context, base: &mut Base, error: &InstallError) {
    let child = base.goal.as_ref().map(|goal| cx.child_name(base.connection, goal.child)).unwrap_or_default();
    let failure = base.about(cx).not_installed(&child, error);
    base.fail_goal(cx, failure);
}

fn broken(
    cx: &mut Context,
    base: &mut Base,
    established: &mut Established,
    spi: Spi,
    error: &KeyExchangeError,
    delete: bool,
) {
    let failure = base.about(cx).key_exchange(error);
    established.child_refused(cx, base, spi, Refusal { failure, delete });
}

impl AwaitingResponse {
    fn handle_response(
        self,
        cx: &mut Context,
        base: &mut Base,
        established: &mut Established,
        payloads: &[Payload],
    ) {
        let spi = self.offer.spi;
        if let Some(method) = self.other_group(cx, base, payloads) {
            return generate(cx, base, established, spi, method, self.tried);
        }
        let method = self.ke.as_ref().map(|(method, _)| method.id());
        let agreed = match child::accept(cx, base, &self.offer, payloads, method) {
            Ok(agreed) => agreed,
            Err(refusal) => return established.child_refused(cx, base, spi, refusal),
        };
        let found = ChildPayloads::parse(payloads).ok().flatten();
        let Some(nonce_r) = found.as_ref().and_then(|found| found.nonce) else {
            let failure = base.about(cx).missing("CREATE_CHILD_SA", "a nonce");
            return established.child_refused(cx, base, spi, Refusal { failure, delete: true });
        };
        let public = found.as_ref().and_then(|found| found.ke).map(|(_, public)| public.to_vec());
        let (nonce_i, nonce_r) = (self.nonce, nonce_r.to_vec());
        match (self.ke, public) {
            (Some((_, secret)), Some(public)) => {
                let job = cx.derive_ke(base.id, secret, public);
                let state = DerivingKe { job, agreed, nonce_i, nonce_r };
                established.ours = Ours::Creating(Creating::DerivingKe(state));
            }
            _ => install(cx, base, established, agreed, None, (&nonce_i, &nonce_r)),
        }
    }

    /// The group that an INVALID_KE_PAYLOAD asks for, if we offered it and have not tried it.
    fn other_group(&self, cx: &Context, base: &Base, payloads: &[Payload]) -> Option<KeMethod> {
        let asked =
            notifications(payloads).find(|notify| notify.notify_type == notify::INVALID_KE_PAYLOAD)?;
        let wanted = asked.data.as_slice().try_into().map(u16::from_be_bytes).ok()?;
        let child = cx.child(base.connection, self.offer.child)?;
        let mut offered = child.esp_proposals.iter().flat_map(|proposal| proposal.ke.iter().copied());
        offered.find(|method| method.id() == wanted && !self.tried.contains(method))
    }
}

impl DerivingKe {
    fn install(
        self,
        cx: &mut Context,
        base: &mut Base,
        established: &mut Established,
        shared: Option<&SharedSecret>,
    ) {
        install(cx, base, established, self.agreed, shared, (&self.nonce_i, &self.nonce_r));
    }
}

fn install(
    cx: &mut Context,
    base: &mut Base,
    established: &mut Established,
    agreed: Agreed,
    shared: Option<&SharedSecret>,
    (nonce_i, nonce_r): (&[u8], &[u8]),
) {
    let keymat = child::keymat(&established.channel, shared, nonce_i, nonce_r, &agreed);
    established.install(cx, base, agreed, &keymat);
}
