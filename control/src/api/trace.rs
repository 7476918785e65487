//! `/v1/trace`: sessions that look at packets. One is opened, asked again and again for what it has seen, and closed; one
//! that nobody asks any more closes by itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use portcullis_gateway::trace::{Class, Fate, Octets, Place, Record};
use portcullis_ipsec::{Flow, PolicyAction};
use serde::{Deserialize, Serialize};

use super::server::Refusal;
use crate::config::Devices;
use crate::daemon::Daemon;

/// Body of `POST /v1/trace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRequest {
    /// Which packets, e.g. `host 10.1.0.9 and tcp`; empty: all.
    pub filter: String,
    /// Most packets a second that are reported.
    pub rate: u32,
    /// Which octets of them.
    pub octets: WantedOctets,
}

/// Which octets a session gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedOctets {
    /// None.
    None,
    /// Of ESP as it is on the wire, and of what is in clear by policy.
    Outer,
    /// Of what ESP protects too; the configuration must allow it.
    Decrypted,
}

/// Answer of `POST /v1/trace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceOpened {
    /// For `GET` and `DELETE /v1/trace/ID`.
    pub id: u64,
}

/// Answer of `GET /v1/trace/ID`: what was seen since the last time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TracePage {
    /// In order, as far as one worker's packets go.
    pub packets: Vec<TracedPacket>,
    /// How many fitted, or might have, and are not reported, since the session was opened.
    pub missed: u64,
}

/// A packet on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TracedPacket {
    /// Its number.
    pub number: u64,
    /// When it was received, in seconds since the epoch.
    pub at: f64,
    /// The interface, or the device of connections by which the host gave it to us; `null`: from the host otherwise.
    pub received_on: Option<String>,
    /// `esp`, `clear`, `clear_outside` or `unreadable`.
    pub class: String,
    /// Its addresses; of ESP, the outer ones.
    pub flow: Option<TracedFlow>,
    /// Of ESP, its SPI.
    pub spi_in: Option<String>,
    /// What was in the ESP packet, if it is authentic.
    pub inner: Option<TracedFlow>,
    /// `connection/child` of the policy that covers it.
    pub policy: Option<String>,
    /// `protect`, `pass` or `drop`.
    pub action: Option<String>,
    /// The SA that the policy has now, by the peer's SPI.
    pub spi_out: Option<String>,
    /// `sent`, `to_host`, `awaits_neighbour`, `awaits_sa`, `handed_over`, `dropped` or `other`.
    pub verdict: String,
    /// The interface, if it was sent; the device of connections, if the host got it by one.
    pub sent_on: Option<String>,
    /// Whether it was sealed.
    pub sealed: bool,
    /// The reason, if it was dropped.
    pub reason: Option<String>,
    /// Whether its sender was told by an ICMP error.
    pub answered: bool,
    /// Its octets.
    pub octets: Vec<TracedOctets>,
}

/// A packet's selectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedFlow {
    /// Source address.
    pub src: String,
    /// Destination address.
    pub dst: String,
    /// Protocol number.
    pub protocol: u8,
    /// Source port; of ICMP, `type << 8 | code`.
    pub src_port: Option<u16>,
    /// Destination port, likewise.
    pub dst_port: Option<u16>,
}

/// A packet at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracedOctets {
    /// `received`, `decrypted` or `sent`.
    pub place: String,
    /// The interface, if it is one's.
    pub interface: Option<String>,
    /// Whether they begin with an Ethernet header; else with an IP header.
    pub ethernet: bool,
    /// Hexadecimal.
    pub octets: String,
}

/// `POST /v1/trace`.
pub(super) async fn open(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<TraceRequest>,
) -> Result<Json<TraceOpened>, Refusal> {
    let filter = request.filter.parse().map_err(|error| Refusal::BadRequest(format!("{error}")))?;
    let octets = match request.octets {
        WantedOctets::None => Octets::None,
        WantedOctets::Outer => Octets::Outer,
        WantedOctets::Decrypted if daemon.config().gateway.allow_decrypted_capture => Octets::Decrypted,
        WantedOctets::Decrypted => return Err(Refusal::NotAllowed),
    };
    let id = daemon.traces().open(filter, request.rate, octets).ok_or(Refusal::TooManyTraces)?;
    Ok(Json(TraceOpened { id }))
}

/// `GET /v1/trace/ID`.
pub(super) async fn read(
    State(daemon): State<Arc<Daemon>>,
    Path(id): Path<u64>,
) -> Result<Json<TracePage>, Refusal> {
    let (records, octets, missed) = daemon.traces().read(id).ok_or(Refusal::NoSuchTrace)?;
    let config = daemon.config();
    let packets = records.iter().map(|record| packet(record, octets, &config.devices)).collect();
    Ok(Json(TracePage { packets, missed }))
}

/// `DELETE /v1/trace/ID`.
pub(super) async fn close(State(daemon): State<Arc<Daemon>>, Path(id): Path<u64>) -> Json<()> {
    daemon.traces().close(id);
    Json(())
}

fn packet(record: &Record, wanted: Octets, devices: &Devices) -> TracedPacket {
    let device = devices.name_of(record.tenant).map(str::to_owned);
    let (verdict, sent_on) = match &record.fate {
        Fate::Sent(interface) => ("sent", Some(interface.clone())),
        Fate::ToHost => ("to_host", device.clone()),
        Fate::AwaitsNeighbour => ("awaits_neighbour", None),
        Fate::AwaitsSa => ("awaits_sa", None),
        Fate::HandedOver => ("handed_over", None),
        Fate::Dropped(_) => ("dropped", None),
        Fate::Other => ("other", None),
    };
    let class = match record.class {
        Class::Esp => "esp",
        Class::Clear => "clear",
        Class::ClearOutside => "clear_outside",
        Class::Unreadable => "unreadable",
    };
    // Another session may have asked for more than this one.
    let shown = record.octets.iter().filter(|piece| match wanted {
        Octets::None => false,
        Octets::Outer => !piece.protected,
        Octets::Decrypted => true,
    });
    let octets = shown.map(|piece| TracedOctets {
        place: match piece.place {
            Place::Received => "received",
            Place::Decrypted => "decrypted",
            Place::Sent => "sent",
        }
        .to_owned(),
        interface: piece.interface.clone(),
        ethernet: piece.ethernet,
        octets: data_encoding::HEXLOWER.encode(&piece.octets),
    });
    TracedPacket {
        number: record.number,
        at: record.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        received_on: record.received_on.clone().or(device.filter(|_| record.class == Class::Clear)),
        class: class.to_owned(),
        flow: record.flow.as_ref().map(flow),
        spi_in: record.spi_in.map(|spi| spi.to_string()),
        inner: record.inner.as_ref().map(flow),
        policy: record.policy.as_ref().map(|(name, _)| name.clone()),
        action: record.policy.as_ref().map(|(_, action)| word(*action).to_owned()),
        spi_out: record.spi_out.map(|spi| spi.to_string()),
        verdict: verdict.to_owned(),
        sent_on,
        sealed: record.sealed,
        reason: record.dropped().map(|reason| reason.label().to_owned()),
        answered: record.answered,
        octets: octets.collect(),
    }
}

/// As the configuration's `mode` has it.
fn word(action: PolicyAction) -> &'static str {
    match action {
        PolicyAction::Protect => "protect",
        PolicyAction::Bypass => "pass",
        PolicyAction::Discard => "drop",
    }
}

fn flow(flow: &Flow) -> TracedFlow {
    TracedFlow {
        src: flow.src.to_string(),
        dst: flow.dst.to_string(),
        protocol: flow.protocol,
        src_port: flow.src_port,
        dst_port: flow.dst_port,
    }
}
