//! IKE messages on the wire (RFC 7296 §3): octets to typed payloads and back.
//!
//! [`Message::parse`] takes the cleartext part; where an Encrypted payload closes the chain, [`open`] decrypts it
//! and parses what is inside. Nothing here knows a state machine.

mod configuration;
mod emit;
mod parse;
mod reader;
#[cfg(test)]
pub(crate) mod tests;

use portcullis_ipsec::TrafficSelector;

use crate::config::Identity;
use crate::crypto::IntegrityError;

pub use configuration::{Attribute, Configuration, ConfigurationType, Meaning, attribute};
#[cfg(test)]
pub(crate) use emit::spoilt;
pub use emit::{Sealing, authenticated_later};
pub use parse::{decrypt, open, payloads};

/// Exchange types (RFC 7296 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeType {
    /// 34.
    IkeSaInit,
    /// 35.
    IkeAuth,
    /// 36.
    CreateChildSa,
    /// 37.
    Informational,
    /// 38 (RFC 5723).
    IkeSessionResume,
    /// 43 (RFC 9242).
    IkeIntermediate,
    /// 44 (RFC 9370).
    IkeFollowupKe,
    /// Any other, to be answered or dropped as the RFC says.
    Other(u8),
}

impl ExchangeType {
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::IkeSaInit => 34,
            Self::IkeAuth => 35,
            Self::CreateChildSa => 36,
            Self::Informational => 37,
            Self::IkeSessionResume => 38,
            Self::IkeIntermediate => 43,
            Self::IkeFollowupKe => 44,
            Self::Other(other) => other,
        }
    }

    /// The exchange of that number.
    pub fn from_number(number: u8) -> Self {
        match number {
            34 => Self::IkeSaInit,
            35 => Self::IkeAuth,
            36 => Self::CreateChildSa,
            37 => Self::Informational,
            38 => Self::IkeSessionResume,
            43 => Self::IkeIntermediate,
            44 => Self::IkeFollowupKe,
            other => Self::Other(other),
        }
    }
}

/// The IKE header (RFC 7296 §3.1), without next payload and length, which belong to the codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Initiator's SPI.
    pub spi_i: [u8; 8],
    /// Responder's SPI; zero in the first message.
    pub spi_r: [u8; 8],
    /// Major version; 2.
    pub major: u8,
    /// Minor version; 0.
    pub minor: u8,
    /// Exchange.
    pub exchange: ExchangeType,
    /// I: sent by the original initiator of the IKE SA.
    pub initiator: bool,
    /// R: a response.
    pub response: bool,
    /// Message ID.
    pub message_id: u32,
}

/// Why octets are not an IKE message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Ends before a field does.
    #[error("{what} is cut short: {needed} octets needed, {found} left")]
    Truncated {
        /// The field or payload.
        what: &'static str,
        /// Octets needed.
        needed: usize,
        /// Octets left.
        found: usize,
    },
    /// A length field contradicts its surroundings.
    #[error("{what} has length {found}, expected {expected}")]
    Length {
        /// The field or payload.
        what: &'static str,
        /// Its value.
        found: usize,
        /// What would do.
        expected: &'static str,
    },
    /// A field has a value that it must not have.
    #[error("{what} has the invalid value {found}")]
    Invalid {
        /// The field.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// A higher major version than ours (RFC 7296 §2.5).
    #[error("IKE version {major}.{minor} is not spoken here")]
    Version {
        /// Major.
        major: u8,
        /// Minor.
        minor: u8,
    },
    /// A payload of unknown type with its critical bit set (RFC 7296 §2.5).
    #[error("payload type {payload_type} is critical and unknown")]
    UnsupportedCritical {
        /// Its type.
        payload_type: u8,
    },
    /// The Encrypted payload's ICV is wrong.
    #[error(transparent)]
    Integrity(#[from] IntegrityError),
}

/// Security protocol (RFC 7296 §3.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// 1.
    Ike,
    /// 2.
    Ah,
    /// 3.
    Esp,
    /// Any other; 0 in a Notify that concerns no SA.
    Other(u8),
}

/// A transform as it is on the wire (RFC 7296 §3.3.2). Unknown ones are kept, so that they can be explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transform {
    /// 1 ENCR, 2 PRF, 3 INTEG, 4 KE, 5 ESN.
    pub transform_type: u8,
    /// Transform ID.
    pub id: u16,
    /// Key Length attribute, bits.
    pub key_length: Option<u16>,
    /// Carries an attribute that we do not know, or one twice: must not be chosen (RFC 7296 §3.3.6).
    pub unknown_attribute: bool,
}

/// One proposal of an SA payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireProposal {
    /// Proposal number, from 1.
    pub number: u8,
    /// Protocol.
    pub protocol: Protocol,
    /// SPI: 0, 4 or 8 octets.
    pub spi: Vec<u8>,
    /// Transforms.
    pub transforms: Vec<Transform>,
}

/// A Notify payload (RFC 7296 §3.10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    /// Protocol of the SA concerned.
    pub protocol: Protocol,
    /// SPI of the SA concerned, or empty.
    pub spi: Vec<u8>,
    /// Notify Message Type; see [`notify`].
    pub notify_type: u16,
    /// Notification data.
    pub data: Vec<u8>,
}

/// Notify Message Types.
#[expect(missing_docs, reason = "named as RFC 7296 §3.10.1 and the IANA registry name them")]
pub mod notify {
    pub const UNSUPPORTED_CRITICAL_PAYLOAD: u16 = 1;
    pub const INVALID_IKE_SPI: u16 = 4;
    pub const INVALID_MAJOR_VERSION: u16 = 5;
    pub const INVALID_SYNTAX: u16 = 7;
    pub const INVALID_MESSAGE_ID: u16 = 9;
    pub const INVALID_SPI: u16 = 11;
    pub const NO_PROPOSAL_CHOSEN: u16 = 14;
    pub const INVALID_KE_PAYLOAD: u16 = 17;
    pub const AUTHENTICATION_FAILED: u16 = 24;
    pub const SINGLE_PAIR_REQUIRED: u16 = 34;
    pub const NO_ADDITIONAL_SAS: u16 = 35;
    pub const INTERNAL_ADDRESS_FAILURE: u16 = 36;
    pub const FAILED_CP_REQUIRED: u16 = 37;
    pub const TS_UNACCEPTABLE: u16 = 38;
    pub const INVALID_SELECTORS: u16 = 39;
    pub const UNACCEPTABLE_ADDRESSES: u16 = 40;
    pub const UNEXPECTED_NAT_DETECTED: u16 = 41;
    pub const TEMPORARY_FAILURE: u16 = 43;
    pub const CHILD_SA_NOT_FOUND: u16 = 44;
    pub const STATE_NOT_FOUND: u16 = 47;
    pub const TS_MAX_QUEUE: u16 = 48;
    pub const INITIAL_CONTACT: u16 = 16384;
    pub const SET_WINDOW_SIZE: u16 = 16385;
    pub const ADDITIONAL_TS_POSSIBLE: u16 = 16386;
    pub const NAT_DETECTION_SOURCE_IP: u16 = 16388;
    pub const NAT_DETECTION_DESTINATION_IP: u16 = 16389;
    pub const COOKIE: u16 = 16390;
    pub const USE_TRANSPORT_MODE: u16 = 16391;
    pub const REKEY_SA: u16 = 16393;
    pub const ESP_TFC_PADDING_NOT_SUPPORTED: u16 = 16394;
    pub const MOBIKE_SUPPORTED: u16 = 16396;
    pub const ADDITIONAL_IP4_ADDRESS: u16 = 16397;
    pub const ADDITIONAL_IP6_ADDRESS: u16 = 16398;
    pub const NO_ADDITIONAL_ADDRESSES: u16 = 16399;
    pub const UPDATE_SA_ADDRESSES: u16 = 16400;
    pub const COOKIE2: u16 = 16401;
    pub const NO_NATS_ALLOWED: u16 = 16402;
    pub const AUTH_LIFETIME: u16 = 16403;
    pub const MULTIPLE_AUTH_SUPPORTED: u16 = 16404;
    pub const ANOTHER_AUTH_FOLLOWS: u16 = 16405;
    pub const EAP_ONLY_AUTHENTICATION: u16 = 16417;
    pub const CHILDLESS_IKEV2_SUPPORTED: u16 = 16418;
    pub const TICKET_LT_OPAQUE: u16 = 16409;
    pub const TICKET_REQUEST: u16 = 16410;
    pub const TICKET_NACK: u16 = 16412;
    pub const TICKET_OPAQUE: u16 = 16413;
    pub const QCD_TOKEN: u16 = 16419;
    pub const REDIRECT_SUPPORTED: u16 = 16406;
    pub const REDIRECT: u16 = 16407;
    pub const REDIRECTED_FROM: u16 = 16408;
    pub const IKEV2_MESSAGE_ID_SYNC_SUPPORTED: u16 = 16420;
    pub const IKEV2_MESSAGE_ID_SYNC: u16 = 16422;
    pub const IKEV2_FRAGMENTATION_SUPPORTED: u16 = 16430;
    pub const SIGNATURE_HASH_ALGORITHMS: u16 = 16431;
    pub const PUZZLE: u16 = 16434;
    pub const USE_PPK: u16 = 16435;
    pub const PPK_IDENTITY: u16 = 16436;
    pub const NO_PPK_AUTH: u16 = 16437;
    pub const INTERMEDIATE_EXCHANGE_SUPPORTED: u16 = 16438;
    pub const ADDITIONAL_KEY_EXCHANGE: u16 = 16441;
    pub const SA_RESOURCE_INFO: u16 = 16444;
}

/// A payload (RFC 7296 §3.2 onwards).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// 33.
    Sa(Vec<WireProposal>),
    /// 34: method and public value.
    Ke {
        /// Key exchange method (transform ID).
        method: u16,
        /// Public value.
        data: Vec<u8>,
    },
    /// 35.
    IdI(IdPayload),
    /// 36.
    IdR(IdPayload),
    /// 37.
    Cert {
        /// Encoding; 4 is X.509 Certificate - Signature.
        encoding: u8,
        /// Data.
        data: Vec<u8>,
    },
    /// 38.
    CertReq {
        /// Encoding.
        encoding: u8,
        /// SHA-1 hashes of the public keys of trusted CAs, one behind another (RFC 7296 §3.7).
        authorities: Vec<u8>,
    },
    /// 39: method and data.
    Auth {
        /// Auth method; 2 is Shared Key Message Integrity Code.
        method: u8,
        /// Data.
        data: Vec<u8>,
    },
    /// 40: 16 to 256 octets.
    Nonce(Vec<u8>),
    /// 41.
    Notify(Notify),
    /// 42.
    Delete {
        /// Protocol.
        protocol: Protocol,
        /// SPIs; empty for the IKE SA itself.
        spis: Vec<Vec<u8>>,
    },
    /// 43.
    VendorId(Vec<u8>),
    /// 44. A selector of a type that we do not know is `None`.
    TsI(Vec<Option<TrafficSelector>>),
    /// 45.
    TsR(Vec<Option<TrafficSelector>>),
    /// 47.
    Cp(Configuration),
    /// 48: an EAP packet (RFC 7296 §3.16).
    Eap(Vec<u8>),
    /// 54: four keys, one behind another (RFC 8019 §8.2).
    PuzzleSolution(Vec<u8>),
    /// Known by number (SKF, …) or unknown and not critical: kept unread.
    Unread {
        /// Payload type.
        payload_type: u8,
        /// Body without the generic header.
        body: Vec<u8>,
    },
}

/// An ID payload: the identity and the octets that AUTH covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdPayload {
    /// The identity.
    pub identity: Identity,
    /// The reserved octets: zero from us, ignored from a peer, but under its AUTH as it sent them (RFC 7296 §2.15).
    pub reserved: [u8; 3],
}

impl From<Identity> for IdPayload {
    fn from(identity: Identity) -> Self {
        Self { identity, reserved: [0; 3] }
    }
}

/// A message with its payloads in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Header.
    pub header: Header,
    /// Payloads in order, without the Encrypted payload.
    pub payloads: Vec<Payload>,
}

/// A message as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Header and cleartext payloads.
    pub message: Message,
    /// The Encrypted payload that closes the chain, if there is one.
    pub encrypted: Option<Encrypted>,
}

/// An Encrypted payload (RFC 7296 §3.14) or an Encrypted Fragment payload (RFC 7383 §2.5), still sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// Type of the first payload inside; of a fragment that is not the first, nothing.
    pub first_payload: u8,
    /// Which fragment it is, if it is one.
    pub fragment: Option<Fragment>,
    /// Octets of the message up to and including the payload's generic header, and a fragment's own: what is
    /// authenticated besides the body (RFC 5282 §5.1, RFC 7383 §2.5).
    pub aad: Vec<u8>,
    /// IV, ciphertext and ICV.
    pub body: Vec<u8>,
}

/// Which fragment of a message (RFC 7383 §2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// From 1 to the total.
    pub number: u16,
    /// How many there are.
    pub total: u16,
}

/// Payload types (RFC 7296 §3.2).
pub(crate) mod payload_type {
    pub(crate) const NONE: u8 = 0;
    pub(crate) const SA: u8 = 33;
    pub(crate) const KE: u8 = 34;
    pub(crate) const ID_I: u8 = 35;
    pub(crate) const ID_R: u8 = 36;
    pub(crate) const CERT: u8 = 37;
    pub(crate) const CERTREQ: u8 = 38;
    pub(crate) const AUTH: u8 = 39;
    pub(crate) const NONCE: u8 = 40;
    pub(crate) const NOTIFY: u8 = 41;
    pub(crate) const DELETE: u8 = 42;
    pub(crate) const VENDOR_ID: u8 = 43;
    pub(crate) const TS_I: u8 = 44;
    pub(crate) const TS_R: u8 = 45;
    pub(crate) const SK: u8 = 46;
    pub(crate) const CP: u8 = 47;
    pub(crate) const EAP: u8 = 48;
    pub(crate) const SKF: u8 = 53;
    pub(crate) const PUZZLE_SOLUTION: u8 = 54;
}

impl Payload {
    fn payload_type(&self) -> u8 {
        use payload_type as types;
        match self {
            Self::Sa(_) => types::SA,
            Self::Ke { .. } => types::KE,
            Self::IdI(_) => types::ID_I,
            Self::IdR(_) => types::ID_R,
            Self::Cert { .. } => types::CERT,
            Self::CertReq { .. } => types::CERTREQ,
            Self::Auth { .. } => types::AUTH,
            Self::Nonce(_) => types::NONCE,
            Self::Notify(_) => types::NOTIFY,
            Self::Delete { .. } => types::DELETE,
            Self::VendorId(_) => types::VENDOR_ID,
            Self::TsI(_) => types::TS_I,
            Self::TsR(_) => types::TS_R,
            Self::Eap(_) => types::EAP,
            Self::Cp(_) => types::CP,
            Self::PuzzleSolution(_) => types::PUZZLE_SOLUTION,
            Self::Unread { payload_type, .. } => *payload_type,
        }
    }
}
