//! Happenings in the admin API's words.

use std::net::IpAddr;

use portcullis_ike::auth::Proven;
use portcullis_ipsec::TrafficSelector;

use super::Happening;
use super::sessions::{Child, Session};
use crate::api::events::{CarriedReport, CertificateReport, ChildReport, Happened, Who};
use crate::daemon::{Carried, report};

/// As the stream of events tells it.
pub(super) fn happened(happening: &Happening<'_>) -> Happened {
    match *happening {
        Happening::IkeUp { session } => Happened::IkeUp { who: who(session) },
        Happening::IkeRekeyed { session, replaced } => {
            Happened::IkeRekeyed { who: who(session), replaced: replaced.0 }
        }
        Happening::IkeMoved { session, from: (local, remote) } => Happened::IkeMoved {
            who: who(session),
            from_local: local.to_string(),
            from_remote: remote.to_string(),
        },
        Happening::IkeDown { session, reason, carried } => Happened::IkeDown {
            who: who(session),
            reason: reason.to_owned(),
            seconds: session.age().as_secs_f64(),
            carried: carried.into(),
        },
        Happening::ChildUp { session, child } => Happened::ChildUp { child: child_report(session, child) },
        Happening::ChildRekeyed { session, child, replaced } => {
            Happened::ChildRekeyed { child: child_report(session, child), replaced: replaced.to_string() }
        }
        Happening::ChildDown { session, child, reason, carried } => Happened::ChildDown {
            child: child_report(session, child),
            reason: reason.to_owned(),
            seconds: child.age().as_secs_f64(),
            carried: carried.into(),
        },
        Happening::AddressesAssigned { ike, connection, identity, addresses, .. } => {
            Happened::AddressesAssigned {
                connection: connection.to_owned(),
                ike: ike.0,
                identity: identity.to_owned(),
                addresses: list(addresses),
            }
        }
        Happening::AddressesReleased { ike, connection, addresses } => Happened::AddressesReleased {
            connection: connection.to_owned(),
            ike: ike.0,
            addresses: list(addresses),
        },
        Happening::AddressesAcquired { connection, addresses } => {
            Happened::AddressesAcquired { connection: connection.to_owned(), addresses: list(addresses) }
        }
        Happening::AddressesLost { connection, addresses } => {
            Happened::AddressesLost { connection: connection.to_owned(), addresses: list(addresses) }
        }
        Happening::Redirected { ike, connection, remote, to, by_us } => Happened::Redirected {
            connection: connection.to_owned(),
            ike: ike.0,
            remote: remote.to_string(),
            to: to.to_string(),
            by_us,
        },
        Happening::Failed(verdict) => Happened::Verdict {
            verdict: verdict.clone(),
            kind: verdict.reason.kind(),
            page: verdict.reason.page(),
        },
    }
}

/// Between whom a session is.
pub(super) fn who(session: &Session) -> Who {
    let ike = &session.ike;
    let (signature, certificate) = match &ike.proven {
        Some(Proven::Signature { scheme, key, certificate }) => {
            let certificate = certificate.as_ref().map(|name| CertificateReport {
                subject: name.subject.clone(),
                issuer: name.issuer.clone(),
                serial: data_encoding::HEXLOWER.encode(&name.serial),
                not_after_seconds: name.not_after.0,
            });
            (Some(format!("{scheme} by an {key} key")), certificate)
        }
        Some(Proven::Psk | Proven::Eap(_) | Proven::Resumed | Proven::Null) | None => (None, None),
    };
    Who {
        connection: session.connection().to_owned(),
        ike: ike.id.0,
        session: session.name.clone(),
        initiator: ike.initiator,
        local: ike.local.to_string(),
        remote: ike.remote.to_string(),
        local_id: ike.local_id.as_ref().map(ToString::to_string),
        remote_id: ike.remote_id.as_ref().map(ToString::to_string),
        eap_id: ike.authorization.eap_id.clone(),
        auth: ike.proven.as_ref().map(|proven| proven.method().to_owned()),
        signature,
        certificate,
        proposal: ike.proposal.clone(),
        remote_vips: list(&ike.remote_vips),
        local_vips: list(&ike.local_vips),
    }
}

fn child_report(session: &Session, child: &Child) -> ChildReport {
    let status = &child.status;
    ChildReport {
        connection: session.connection().to_owned(),
        child: status.name.clone(),
        ike: session.ike.id.0,
        session: session.name.clone(),
        remote_id: session.peer(),
        mode: report::mode(status).to_owned(),
        local: session.ike.local.ip().to_string(),
        remote: session.ike.remote.ip().to_string(),
        spi_in: status.spi_in.to_string(),
        spi_out: status.spi_out.to_string(),
        proposal: status.proposal.clone(),
        resource: report::resource(status.resource),
        local_ts: selectors(&status.local_ts),
        remote_ts: selectors(&status.remote_ts),
    }
}

pub(super) fn selectors(list: &[TrafficSelector]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

pub(super) fn list(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

impl From<Carried> for CarriedReport {
    fn from(carried: Carried) -> Self {
        let Carried { packets_in, bytes_in, packets_out, bytes_out } = carried;
        Self { packets_in, bytes_in, packets_out, bytes_out }
    }
}
