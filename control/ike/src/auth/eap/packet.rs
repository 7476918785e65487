//! EAP packets (RFC 3748 §4): octets to typed values and back.

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 1: of the server.
    Request,
    /// 2: of the client.
    Response,
    /// 3: of the server, the last.
    Success,
    /// 4: of the server, the last.
    Failure,
}

/// Types of requests and responses (RFC 3748 §5 and the IANA registry).
#[expect(missing_docs, reason = "named as the registry names them")]
pub mod kind {
    pub const IDENTITY: u8 = 1;
    pub const NOTIFICATION: u8 = 2;
    pub const NAK: u8 = 3;
    pub const MD5_CHALLENGE: u8 = 4;
    pub const GTC: u8 = 6;
    pub const TLS: u8 = 13;
    pub const SIM: u8 = 18;
    pub const TTLS: u8 = 21;
    pub const AKA: u8 = 23;
    pub const PEAP: u8 = 25;
    pub const MSCHAPV2: u8 = 26;
    pub const FAST: u8 = 43;
    pub const PAX: u8 = 46;
    pub const PSK: u8 = 47;
    pub const SAKE: u8 = 48;
    pub const IKEV2: u8 = 49;
    pub const AKA_PRIME: u8 = 50;
    pub const GPSK: u8 = 51;
    pub const PWD: u8 = 52;
    pub const TEAP: u8 = 55;
    pub const EXPANDED: u8 = 254;
}

/// The registry's name of a type.
pub fn kind_name(kind: u8) -> String {
    match kind {
        kind::IDENTITY => "EAP-Identity",
        kind::NOTIFICATION => "EAP-Notification",
        kind::NAK => "EAP-Nak",
        kind::MD5_CHALLENGE => "EAP-MD5",
        kind::GTC => "EAP-GTC",
        kind::TLS => "EAP-TLS",
        kind::SIM => "EAP-SIM",
        kind::TTLS => "EAP-TTLS",
        kind::AKA => "EAP-AKA",
        kind::PEAP => "PEAP",
        kind::MSCHAPV2 => "EAP-MSCHAPv2",
        kind::AKA_PRIME => "EAP-AKA'",
        other => return format!("EAP method {other}"),
    }
    .to_owned()
}

/// A packet as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it is.
    pub code: Code,
    /// Ties a response to its request.
    pub identifier: u8,
    /// The type of a request or response, with its data; `None` of a success or failure.
    pub content: Option<(u8, &'a [u8])>,
}

const HEADER_LEN: usize = 4;

impl<'a> Packet<'a> {
    /// Reads a packet. `Err` says for people what is wrong with it. What follows its length is padding (RFC 3748 §4.1).
    pub fn parse(octets: &'a [u8]) -> Result<Self, String> {
        let [code, identifier, high, low, rest @ ..] = octets else {
            return Err(format!("an EAP packet of {} octets", octets.len()));
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let body = length.checked_sub(HEADER_LEN).and_then(|len| rest.get(..len));
        let body =
            body.ok_or_else(|| format!("an EAP packet of {} octets with length {length}", octets.len()))?;
        let code = match code {
            1 => Code::Request,
            2 => Code::Response,
            3 => Code::Success,
            4 => Code::Failure,
            other => return Err(format!("an EAP packet with code {other}")),
        };
        let content = match (code, body) {
            (Code::Success | Code::Failure, _) => None,
            (Code::Request | Code::Response, [kind, data @ ..]) => Some((*kind, data)),
            (Code::Request | Code::Response, []) => return Err("an EAP packet without a type".to_owned()),
        };
        Ok(Self { code, identifier: *identifier, content })
    }
}

/// A request or response.
pub fn emit(code: Code, identifier: u8, kind: u8, data: &[u8]) -> Vec<u8> {
    let mut octets = header(code, identifier, HEADER_LEN + 1 + data.len());
    octets.push(kind);
    octets.extend(data);
    octets
}

/// A success or failure.
pub fn emit_end(code: Code, identifier: u8) -> Vec<u8> {
    header(code, identifier, HEADER_LEN)
}

fn header(code: Code, identifier: u8, length: usize) -> Vec<u8> {
    let code = match code {
        Code::Request => 1,
        Code::Response => 2,
        Code::Success => 3,
        Code::Failure => 4,
    };
    // No packet of ours comes near 64 KiB.
    let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    vec![code, identifier, high, low]
}
