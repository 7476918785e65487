//! `GET /v1/events`: what happens, from the moment that it is asked, a JSON object a line for as long as somebody reads.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use portcullis_ike::verdict::{Kind, Verdict};
use serde::{Deserialize, Serialize};

use super::server::Refusal;
use crate::daemon::Daemon;

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Counts up while the daemon runs, over all readers: what is missing was filtered, or is among the lost.
    pub number: u64,
    /// When, in seconds since the epoch.
    pub timestamp_seconds: f64,
    /// What.
    #[serde(flatten)]
    pub what: Happened,
}

/// What happened; `event` is its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happened {
    /// The first line: nothing is missed from here on.
    Subscribed {
        /// Of the daemon.
        version: String,
    },
    /// This reader was too slow: older events had to make way.
    Lost {
        /// How many.
        lost: u64,
        /// `verdicts`, or `others`: each has room of its own.
        of: String,
    },
    /// Both ends are authenticated.
    IkeUp {
        /// Between whom.
        #[serde(flatten)]
        who: Who,
    },
    /// An IKE SA has a successor, which has its children.
    IkeRekeyed {
        /// Between whom.
        #[serde(flatten)]
        who: Who,
        /// Number of the predecessor.
        replaced: u64,
    },
    /// An IKE SA goes on between other addresses or ports.
    IkeMoved {
        /// Between whom, with the addresses of now.
        #[serde(flatten)]
        who: Who,
        /// Our address and port before.
        from_local: String,
        /// The peer's before.
        from_remote: String,
    },
    /// An IKE SA is gone, with its children, and nothing has taken its place.
    IkeDown {
        /// Between whom.
        #[serde(flatten)]
        who: Who,
        /// Why.
        reason: String,
        /// How long it was up, rekeyed or not.
        seconds: f64,
        /// What all its children have carried.
        #[serde(flatten)]
        carried: CarriedReport,
    },
    /// A CHILD SA is up.
    ChildUp {
        /// Which.
        #[serde(flatten)]
        child: ChildReport,
    },
    /// A CHILD SA has a successor.
    ChildRekeyed {
        /// The successor.
        #[serde(flatten)]
        child: ChildReport,
        /// Our SPI of the predecessor.
        replaced: String,
    },
    /// A CHILD SA is gone, and no successor is there.
    ChildDown {
        /// Which.
        #[serde(flatten)]
        child: ChildReport,
        /// Why.
        reason: String,
        /// How long it was up, rekeyed or not.
        seconds: f64,
        /// What it has carried, over all rekeyings.
        #[serde(flatten)]
        carried: CarriedReport,
    },
    /// A peer was given inner addresses.
    AddressesAssigned {
        /// Its connection.
        connection: String,
        /// Number of its IKE SA.
        ike: u64,
        /// Who it is.
        identity: String,
        /// The addresses.
        addresses: Vec<String>,
    },
    /// A peer's inner addresses are free again.
    AddressesReleased {
        /// Its connection.
        connection: String,
        /// Number of its IKE SA.
        ike: u64,
        /// The addresses.
        addresses: Vec<String>,
    },
    /// A peer has given us inner addresses.
    AddressesAcquired {
        /// The connection.
        connection: String,
        /// The addresses.
        addresses: Vec<String>,
    },
    /// Our inner addresses are gone.
    AddressesLost {
        /// The connection.
        connection: String,
        /// The addresses.
        addresses: Vec<String>,
    },
    /// One end sends the other to another gateway (RFC 5685).
    Redirected {
        /// The connection.
        connection: String,
        /// Number of the IKE SA.
        ike: u64,
        /// The other end.
        remote: String,
        /// The other gateway.
        to: String,
        /// Whether we have said so.
        by_us: bool,
    },
    /// An exchange failed: what `portcullis explain` says of it.
    Verdict {
        /// Reason, sentence, evidence, fixes.
        #[serde(flatten)]
        verdict: Verdict,
        /// On whose account.
        kind: Kind,
        /// Where the reason is explained, below the documentation's root.
        page: String,
    },
    /// The configuration on disk was put in force.
    Reloaded {
        /// Settings that differ, a line each.
        settings: Vec<String>,
        /// What that means for connections and children, a line each.
        effects: Vec<String>,
    },
    /// The configuration on disk was not put in force.
    ReloadRefused {
        /// Why.
        reason: String,
    },
    /// The status of certificates was asked of a CA or an OCSP responder. That a peer's certificate was revoked, a verdict tells.
    Revocation {
        /// `crl` or `ocsp`.
        source: String,
        /// Whom.
        uri: String,
        /// Whether there was an answer that can be believed.
        answered: bool,
        /// The issuer of a CRL, the status by OCSP, or what went wrong.
        detail: String,
    },
    /// An AAA server asked something of a session, or what it had said of it came true.
    Aaa {
        /// Acct-Session-Id.
        session: String,
        /// User-Name.
        user: Option<String>,
        /// Number of its IKE SA.
        ike: u64,
        /// `disconnect`, `session_timeout`, `idle_timeout` or `accounting_lost`.
        action: String,
        /// For people.
        detail: String,
    },
}

/// Between whom an IKE SA is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Who {
    /// Its connection.
    pub connection: String,
    /// Its number within this run of the daemon; another after rekeying.
    pub ike: u64,
    /// Both SPIs of the first IKE SA: the same over rekeyings, unique for ever.
    pub session: String,
    /// Whether we sent the first message.
    pub initiator: bool,
    /// Our address and port.
    pub local: String,
    /// The peer's.
    pub remote: String,
    /// Our identity.
    pub local_id: Option<String>,
    /// The peer's.
    pub remote_id: Option<String>,
    /// Who the peer is in EAP.
    pub eap_id: Option<String>,
    /// What the peer has proved that with: `psk`, `pubkey`, `eap-mschapv2` or `eap-radius`.
    pub auth: Option<String>,
    /// Of a signature, how it was made.
    pub signature: Option<String>,
    /// The certificate that vouches for the peer's key.
    pub certificate: Option<CertificateReport>,
    /// Negotiated algorithms.
    pub proposal: Option<String>,
    /// The peer's inner addresses, from our pools or an AAA server.
    pub remote_vips: Vec<String>,
    /// Ours, from the peer.
    pub local_vips: Vec<String>,
}

/// What names a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// Whose it is.
    pub subject: String,
    /// Who has issued it.
    pub issuer: String,
    /// Its number there, hexadecimal.
    pub serial: String,
    /// When it ends, in seconds since the epoch.
    pub not_after_seconds: u64,
}

/// A CHILD SA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildReport {
    /// Its connection.
    pub connection: String,
    /// Its name.
    pub child: String,
    /// Number of its IKE SA.
    pub ike: u64,
    /// [`Who::session`] of its IKE SA.
    pub session: String,
    /// The peer's identity: in EAP, if it has one there.
    pub remote_id: Option<String>,
    /// `TUNNEL` or `TRANSPORT`, with `-in-UDP` where it is.
    pub mode: String,
    /// Our outer address.
    pub local: String,
    /// The peer's.
    pub remote: String,
    /// Our SPI.
    pub spi_in: String,
    /// The peer's SPI.
    pub spi_out: String,
    /// Negotiated algorithms.
    pub proposal: String,
    /// As in `GET /v1/sas`, if it is one of several with the same selectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Our side.
    pub local_ts: Vec<String>,
    /// The peer's side.
    pub remote_ts: Vec<String>,
}

/// Inner packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedReport {
    /// Packets opened.
    pub packets_in: u64,
    /// Octets opened.
    pub bytes_in: u64,
    /// Packets sealed.
    pub packets_out: u64,
    /// Octets sealed.
    pub bytes_out: u64,
}

impl Happened {
    /// The connection that it is about, if it is about one.
    pub fn connection(&self) -> Option<&str> {
        match self {
            Self::IkeUp { who }
            | Self::IkeRekeyed { who, .. }
            | Self::IkeMoved { who, .. }
            | Self::IkeDown { who, .. } => Some(&who.connection),
            Self::ChildUp { child } | Self::ChildRekeyed { child, .. } | Self::ChildDown { child, .. } => {
                Some(&child.connection)
            }
            Self::AddressesAssigned { connection, .. }
            | Self::AddressesReleased { connection, .. }
            | Self::AddressesAcquired { connection, .. }
            | Self::AddressesLost { connection, .. }
            | Self::Redirected { connection, .. } => Some(connection),
            Self::Verdict { verdict, .. } => verdict.connection.as_deref(),
            Self::Subscribed { .. }
            | Self::Lost { .. }
            | Self::Reloaded { .. }
            | Self::ReloadRefused { .. }
            | Self::Revocation { .. }
            | Self::Aaa { .. } => None,
        }
    }
}

/// What `GET /v1/events` may be asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Which {
    /// Only what is about this connection.
    connection: Option<String>,
}

/// `GET /v1/events`.
pub(super) async fn follow(
    State(daemon): State<Arc<Daemon>>,
    Query(which): Query<Which>,
) -> Result<Response, Refusal> {
    if let Some(connection) = &which.connection {
        daemon.check_connection(connection)?;
    }
    let lines = daemon.events().subscribe(which.connection).ok_or(Refusal::TooManyReaders)?;
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::new(lines)).into_response())
}
