//! RADIUS packets (RFC 2865 §3) and what protects them: the response authenticator, Message-Authenticator (RFC 3579
//! §3.2), hidden keys (RFC 2548 §2.4). MD5 throughout, as the protocol has it: a Message-Authenticator goes first in every
//! Access-Request, and an answer without one is not believed, so that nobody on the way can forge answers by a collision
//! (CVE-2024-3596).

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Codes (RFC 2865 §3, RFC 2866 §3, RFC 5176 §2), as the registry names them.
pub(super) mod code {
    pub(in crate::radius) const ACCESS_REQUEST: u8 = 1;
    pub(in crate::radius) const ACCESS_ACCEPT: u8 = 2;
    pub(in crate::radius) const ACCESS_REJECT: u8 = 3;
    pub(in crate::radius) const ACCOUNTING_REQUEST: u8 = 4;
    pub(in crate::radius) const ACCOUNTING_RESPONSE: u8 = 5;
    pub(in crate::radius) const ACCESS_CHALLENGE: u8 = 11;
    pub(in crate::radius) const DISCONNECT_REQUEST: u8 = 40;
    pub(in crate::radius) const DISCONNECT_ACK: u8 = 41;
    pub(in crate::radius) const DISCONNECT_NAK: u8 = 42;
    pub(in crate::radius) const COA_REQUEST: u8 = 43;
    pub(in crate::radius) const COA_ACK: u8 = 44;
    pub(in crate::radius) const COA_NAK: u8 = 45;
}

/// Attributes, as the IANA registry of RADIUS types names them.
pub(super) mod attribute {
    pub(in crate::radius) const USER_NAME: u8 = 1;
    pub(in crate::radius) const NAS_IP_ADDRESS: u8 = 4;
    pub(in crate::radius) const NAS_PORT: u8 = 5;
    pub(in crate::radius) const SERVICE_TYPE: u8 = 6;
    pub(in crate::radius) const FRAMED_IP_ADDRESS: u8 = 8;
    pub(in crate::radius) const FILTER_ID: u8 = 11;
    pub(in crate::radius) const REPLY_MESSAGE: u8 = 18;
    pub(in crate::radius) const STATE: u8 = 24;
    pub(in crate::radius) const CLASS: u8 = 25;
    pub(in crate::radius) const VENDOR_SPECIFIC: u8 = 26;
    pub(in crate::radius) const SESSION_TIMEOUT: u8 = 27;
    pub(in crate::radius) const IDLE_TIMEOUT: u8 = 28;
    pub(in crate::radius) const CALLED_STATION_ID: u8 = 30;
    pub(in crate::radius) const CALLING_STATION_ID: u8 = 31;
    pub(in crate::radius) const NAS_IDENTIFIER: u8 = 32;
    pub(in crate::radius) const PROXY_STATE: u8 = 33;
    pub(in crate::radius) const ACCT_STATUS_TYPE: u8 = 40;
    pub(in crate::radius) const ACCT_INPUT_OCTETS: u8 = 42;
    pub(in crate::radius) const ACCT_OUTPUT_OCTETS: u8 = 43;
    pub(in crate::radius) const ACCT_SESSION_ID: u8 = 44;
    pub(in crate::radius) const ACCT_SESSION_TIME: u8 = 46;
    pub(in crate::radius) const ACCT_INPUT_PACKETS: u8 = 47;
    pub(in crate::radius) const ACCT_OUTPUT_PACKETS: u8 = 48;
    pub(in crate::radius) const ACCT_INPUT_GIGAWORDS: u8 = 52;
    pub(in crate::radius) const ACCT_OUTPUT_GIGAWORDS: u8 = 53;
    pub(in crate::radius) const EVENT_TIMESTAMP: u8 = 55;
    pub(in crate::radius) const NAS_PORT_TYPE: u8 = 61;
    pub(in crate::radius) const EAP_MESSAGE: u8 = 79;
    pub(in crate::radius) const MESSAGE_AUTHENTICATOR: u8 = 80;
    pub(in crate::radius) const ACCT_INTERIM_INTERVAL: u8 = 85;
    pub(in crate::radius) const NAS_IPV6_ADDRESS: u8 = 95;
    pub(in crate::radius) const ERROR_CAUSE: u8 = 101;
    pub(in crate::radius) const FRAMED_IPV6_ADDRESS: u8 = 168;
    pub(in crate::radius) const DNS_SERVER_IPV6_ADDRESS: u8 = 169;
}

/// Microsoft's attributes (RFC 2548).
const VENDOR_MICROSOFT: [u8; 4] = 311_u32.to_be_bytes();
const MS_MPPE_SEND_KEY: u8 = 16;
const MS_MPPE_RECV_KEY: u8 = 17;

const HEADER_LEN: usize = 20;
/// RFC 2865 §3.
pub(super) const MAX_LEN: usize = 4096;
/// Octets of an attribute's value.
const MAX_VALUE: usize = 253;

type Authenticator = [u8; 16];

/// A packet that was believed, or one that is being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packet {
    /// See [`code`].
    pub(super) code: u8,
    /// Ties an answer to its request.
    pub(super) identifier: u8,
    /// Of a request, random; of an answer, its proof.
    pub(super) authenticator: Authenticator,
    /// Types and values, in order.
    pub(super) attributes: Vec<(u8, Vec<u8>)>,
}

impl Packet {
    /// A packet without attributes.
    pub(super) fn new(code: u8, identifier: u8, authenticator: Authenticator) -> Self {
        Self { code, identifier, authenticator, attributes: Vec::new() }
    }

    /// Adds an attribute, of which a value that is too long is cut to what goes in.
    pub(super) fn push(&mut self, kind: u8, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.attributes.push((kind, value.get(..MAX_VALUE).unwrap_or(value).to_vec()));
    }

    /// Adds a value as several attributes of one type, as EAP-Message has it (RFC 3579 §3.1).
    pub(super) fn push_long(&mut self, kind: u8, value: &[u8]) {
        value.chunks(MAX_VALUE).for_each(|part| self.push(kind, part));
    }

    /// The first value of a type.
    pub(super) fn get(&self, kind: u8) -> Option<&[u8]> {
        self.all(kind).next()
    }

    /// Every value of a type.
    pub(super) fn all(&self, kind: u8) -> impl Iterator<Item = &[u8]> {
        self.attributes.iter().filter(move |(found, _)| *found == kind).map(|(_, value)| value.as_slice())
    }

    /// The first value of a type that is a number of four octets.
    pub(super) fn number(&self, kind: u8) -> Option<u32> {
        self.get(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// All values of a type, one behind another; `None` if there is none.
    pub(super) fn get_long(&self, kind: u8) -> Option<Vec<u8>> {
        let whole: Vec<u8> = self.all(kind).flatten().copied().collect();
        (!whole.is_empty()).then_some(whole)
    }

    /// Octets of a request, with a Message-Authenticator first: an Access-Request's random authenticator is in its place
    /// already, that of any other request is computed (RFC 2866 §3, RFC 5176 §2.3).
    pub(super) fn emit_request(&mut self, secret: &[u8]) -> Vec<u8> {
        let random = self.code == code::ACCESS_REQUEST;
        let mut octets = self.octets(if random { self.authenticator } else { [0; 16] });
        sign(&mut octets, secret);
        if !random {
            let digest: Authenticator =
                Md5::new().chain_update(&octets).chain_update(secret).finalize().into();
            place(&mut octets, 4, &digest);
            self.authenticator = digest;
        }
        octets
    }

    /// Octets of an answer to a request with that authenticator.
    pub(super) fn emit_answer(&self, request: &Authenticator, secret: &[u8]) -> Vec<u8> {
        let mut octets = self.octets(*request);
        sign(&mut octets, secret);
        let digest: Authenticator = Md5::new().chain_update(&octets).chain_update(secret).finalize().into();
        place(&mut octets, 4, &digest);
        octets
    }

    /// With a Message-Authenticator of zeros, first.
    fn octets(&self, authenticator: Authenticator) -> Vec<u8> {
        let mut octets = vec![self.code, self.identifier, 0, 0];
        octets.extend(authenticator);
        octets.extend([attribute::MESSAGE_AUTHENTICATOR, 18]);
        octets.extend([0; 16]);
        for (kind, value) in &self.attributes {
            // No value is longer: see `push`.
            octets.extend([*kind, u8::try_from(2 + value.len()).unwrap_or(u8::MAX)]);
            octets.extend(value);
        }
        let length = u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes();
        place(&mut octets, 2, &length);
        octets
    }

    /// Reads an answer to `request`, which was sent with that authenticator. `Err` says why it is not believed.
    pub(super) fn parse_answer(octets: &[u8], request: &Packet, secret: &[u8]) -> Result<Self, String> {
        let (packet, octets) = Self::parse(octets)?;
        if packet.identifier != request.identifier {
            return Err(format!("it answers request {}, not {}", packet.identifier, request.identifier));
        }
        let mut signed = octets.to_vec();
        place(&mut signed, 4, &request.authenticator);
        let expected: Authenticator = Md5::new().chain_update(&signed).chain_update(secret).finalize().into();
        if !bool::from(expected.ct_eq(&packet.authenticator)) {
            return Err("its authenticator is wrong: the shared secrets differ, or it is forged".to_owned());
        }
        // RFC 3579 §3.2 wants it beside an EAP-Message, and CVE-2024-3596 in every answer about access. Accounting has
        // its proof in the authenticator of the request.
        match check_signature(&signed, secret) {
            Some(true) => Ok(packet),
            None if packet.code == code::ACCOUNTING_RESPONSE => Ok(packet),
            None => Err("it has no Message-Authenticator, so that it could be forged (CVE-2024-3596): have the server \
                         send one"
                .to_owned()),
            Some(false) => Err("its Message-Authenticator is wrong: the shared secrets differ, or it is forged".to_owned()),
        }
    }

    /// Reads a request of dynamic authorisation (RFC 5176 §2.3). `Err` says why it is not believed.
    pub(super) fn parse_request(octets: &[u8], secret: &[u8]) -> Result<Self, String> {
        let (packet, octets) = Self::parse(octets)?;
        let mut signed = octets.to_vec();
        place(&mut signed, 4, &[0; 16]);
        let expected: Authenticator = Md5::new().chain_update(&signed).chain_update(secret).finalize().into();
        if !bool::from(expected.ct_eq(&packet.authenticator)) {
            return Err("its authenticator is wrong: the shared secrets differ, or it is forged".to_owned());
        }
        match check_signature(&signed, secret) {
            Some(false) => Err("its Message-Authenticator is wrong".to_owned()),
            Some(true) | None => Ok(packet),
        }
    }

    /// The packet, and its octets without what may follow them (RFC 2865 §3).
    fn parse(octets: &[u8]) -> Result<(Self, &[u8]), String> {
        let wrong = |what: &str| format!("it cannot be read: {what}");
        let [code, identifier, high, low, ..] = octets else { return Err(wrong("it is too short")) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let octets = octets.get(..length).filter(|octets| octets.len() <= MAX_LEN);
        let octets = octets.ok_or_else(|| wrong("its length is wrong"))?;
        let (header, mut rest) =
            octets.split_at_checked(HEADER_LEN).ok_or_else(|| wrong("it is too short"))?;
        let authenticator = header.last_chunk().copied().unwrap_or_default();
        let mut packet = Self::new(*code, *identifier, authenticator);
        while let [kind, len, ..] = rest {
            let (whole, next) =
                rest.split_at_checked((*len).into()).ok_or_else(|| wrong("an attribute is cut short"))?;
            let value = whole.get(2..).ok_or_else(|| wrong("an attribute has a wrong length"))?;
            packet.attributes.push((*kind, value.to_vec()));
            rest = next;
        }
        if rest.is_empty() { Ok((packet, octets)) } else { Err(wrong("an attribute is cut short")) }
    }

    /// The key of the EAP method: MS-MPPE-Recv-Key and MS-MPPE-Send-Key (RFC 2548 §2.4.2, §2.4.3), filled up with zeros
    /// to 64 octets as EAP-MSCHAPv2's is. `request` is the authenticator of the request that this answers.
    pub(super) fn eap_key(&self, request: &Authenticator, secret: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let key = |wanted| {
            let value = self.all(attribute::VENDOR_SPECIFIC).find_map(|value| match value {
                [a, b, c, d, kind, _, value @ ..]
                    if [*a, *b, *c, *d] == VENDOR_MICROSOFT && *kind == wanted =>
                {
                    Some(value)
                }
                _ => None,
            });
            unhide(value?, request, secret)
        };
        let mut whole = key(MS_MPPE_RECV_KEY)?;
        whole.extend(key(MS_MPPE_SEND_KEY)?.iter());
        if whole.len() < 64 {
            whole.resize(64, 0);
        }
        Some(whole)
    }
}

/// A salted and encrypted value (RFC 2548 §2.4.2).
fn unhide(value: &[u8], request: &Authenticator, secret: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (salt, hidden) = value.split_at_checked(2)?;
    let (blocks, []) = hidden.as_chunks::<16>() else { return None };
    let mut plain = Zeroizing::new(Vec::with_capacity(hidden.len()));
    let mut pad: Authenticator =
        Md5::new().chain_update(secret).chain_update(request).chain_update(salt).finalize().into();
    for block in blocks {
        plain.extend(block.iter().zip(pad).map(|(octet, pad)| octet ^ pad));
        pad = Md5::new().chain_update(secret).chain_update(block).finalize().into();
    }
    let (len, rest) = plain.split_first()?;
    rest.get(..usize::from(*len)).map(|key| Zeroizing::new(key.to_vec()))
}

/// Puts the Message-Authenticator, which is the first attribute, in its place.
fn sign(octets: &mut [u8], secret: &[u8]) {
    let digest = hmac(octets, secret);
    place(octets, HEADER_LEN + 2, &digest);
}

/// Whether the Message-Authenticator is right; `None`: there is none.
fn check_signature(octets: &[u8], secret: &[u8]) -> Option<bool> {
    let mut at = HEADER_LEN;
    loop {
        let [kind, len, ..] = octets.get(at..)? else { return None };
        if *kind == attribute::MESSAGE_AUTHENTICATOR {
            let found: &Authenticator = octets.get(at + 2..at + usize::from(*len))?.try_into().ok()?;
            let mut unsigned = octets.to_vec();
            place(&mut unsigned, at + 2, &[0; 16]);
            return Some(hmac(&unsigned, secret).ct_eq(found).into());
        }
        at += usize::from((*len).max(2));
    }
}

fn hmac(octets: &[u8], secret: &[u8]) -> Authenticator {
    match Hmac::<Md5>::new_from_slice(secret) {
        Ok(mac) => mac.chain_update(octets).finalize().into_bytes().into(),
        // HMAC takes keys of any length.
        Err(_) => [0; 16],
    }
}

fn place(octets: &mut [u8], at: usize, value: &[u8]) {
    octets.iter_mut().skip(at).zip(value).for_each(|(to, from)| *to = *from);
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER_PERMISSIVE;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        HEXLOWER_PERMISSIVE.decode(text.replace([' ', '\n'], "").as_bytes()).unwrap()
    }

    /// The sample of RFC 2866's sibling, RFC 2865 §7.1: an Access-Accept for the user `nemo`, secret `xyzzy5461`. It has no
    /// Message-Authenticator, so that it proves the response authenticator alone.
    #[test]
    fn the_sample_of_the_rfc_has_the_right_authenticator_and_is_not_believed_without_a_signature() {
        let authenticator = hex("0f403f9473978057bd83d5cb98f4227a").try_into().unwrap();
        let request = Packet::new(code::ACCESS_REQUEST, 0, authenticator);
        let accept = hex("0200002686fe220e7624ba2a1005f6bf9b55e0b20606000000010f06000000000e06c0a80103");
        let why = Packet::parse_answer(&accept, &request, b"xyzzy5461").unwrap_err();
        assert!(why.contains("CVE-2024-3596"), "{why}");
        let why = Packet::parse_answer(&accept, &request, b"xyzzy5462").unwrap_err();
        assert!(why.contains("authenticator is wrong"), "{why}");
    }

    fn request() -> (Packet, Vec<u8>) {
        let mut request = Packet::new(code::ACCESS_REQUEST, 7, [9; 16]);
        request.push(attribute::USER_NAME, "carol");
        request.push_long(attribute::EAP_MESSAGE, &[5; 600]);
        let octets = request.emit_request(b"secret");
        (request, octets)
    }

    #[test]
    fn a_message_authenticator_goes_first_in_every_request() {
        let (request, octets) = request();
        assert_eq!(octets[20], attribute::MESSAGE_AUTHENTICATOR);
        assert_eq!(check_signature(&octets, b"secret"), Some(true));
        assert_eq!(check_signature(&octets, b"secre7"), Some(false));
        let (parsed, _) = Packet::parse(&octets).unwrap();
        assert_eq!(parsed.get_long(attribute::EAP_MESSAGE), Some(vec![5; 600]));
        assert_eq!(parsed.attributes.len(), request.attributes.len() + 1);
    }

    #[test]
    fn an_answer_is_believed_only_whole_and_to_its_request() {
        let (request, _) = request();
        let mut answer = Packet::new(code::ACCESS_ACCEPT, 7, [0; 16]);
        answer.push(attribute::REPLY_MESSAGE, "welcome");
        let octets = answer.emit_answer(&request.authenticator, b"secret");
        assert!(Packet::parse_answer(&octets, &request, b"secret").is_ok());
        assert!(Packet::parse_answer(&octets, &request, b"other").is_err());
        for at in 0..octets.len() {
            let mut forged = octets.clone();
            forged[at] ^= 1;
            assert!(Packet::parse_answer(&forged, &request, b"secret").is_err(), "octet {at}");
            assert!(Packet::parse_answer(&octets[..at], &request, b"secret").is_err(), "{at} octets");
        }
        let other = Packet { authenticator: [8; 16], ..request };
        assert!(Packet::parse_answer(&octets, &other, b"secret").is_err());
    }

    #[test]
    fn a_request_of_dynamic_authorisation_is_believed_only_with_the_secret() {
        let mut request = Packet::new(code::DISCONNECT_REQUEST, 1, [0; 16]);
        request.push(attribute::USER_NAME, "carol");
        let octets = request.emit_request(b"secret");
        assert!(Packet::parse_request(&octets, b"secret").is_ok());
        for at in 0..octets.len() {
            let mut forged = octets.clone();
            forged[at] ^= 1;
            assert!(Packet::parse_request(&forged, b"secret").is_err(), "octet {at}");
        }
    }

    #[test]
    fn hidden_keys_that_do_not_fit_are_none() {
        for value in [&[][..], &[0x80], &[0x80, 1], &[0x80, 1, 2, 3], &[0; 17]] {
            assert_eq!(unhide(value, &[0; 16], b"secret"), None, "{value:?}");
        }
        // A length beyond what is there.
        let mut hidden = vec![0x80, 1];
        let pad: Authenticator = Md5::new()
            .chain_update(b"secret")
            .chain_update([0; 16])
            .chain_update([0x80, 1])
            .finalize()
            .into();
        hidden.extend(pad.map(|octet| octet ^ 0xff));
        assert_eq!(unhide(&hidden, &[0; 16], b"secret"), None);
    }
}
