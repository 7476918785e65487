//! Messages of EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2 §2), the type data of EAP packets.

/// Operations.
pub(super) mod op {
    pub(in crate::auth::eap::mschapv2) const CHALLENGE: u8 = 1;
    pub(in crate::auth::eap::mschapv2) const RESPONSE: u8 = 2;
    pub(in crate::auth::eap::mschapv2) const SUCCESS: u8 = 3;
    pub(in crate::auth::eap::mschapv2) const FAILURE: u8 = 4;
}

/// A challenge of the server, or the values of a client's answer.
pub(in crate::auth::eap) type Challenge = [u8; 16];

/// Error 691: authentication failure (RFC 2759 §6).
pub(super) const AUTHENTICATION_FAILURE: u16 = 691;

/// A message with a header: operation, MS-CHAPv2-ID, and what follows the length.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) op: u8,
    pub(super) id: u8,
    pub(super) body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads a message; a client's acknowledgement is its operation alone. `Err` says what it is instead.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, String> {
        match data {
            [op] => Ok(Self { op: *op, id: 0, body: &[] }),
            [op, id, high, low, body @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let body = length.checked_sub(4).and_then(|len| body.get(..len));
                let wrong =
                    || format!("an EAP-MSCHAPv2 message of {} octets with length {length}", data.len());
                Ok(Self { op: *op, id: *id, body: body.ok_or_else(wrong)? })
            }
            _ => Err(format!("an EAP-MSCHAPv2 message of {} octets", data.len())),
        }
    }

    /// The value and the name of a challenge or response.
    pub(super) fn value(&self, len: usize) -> Result<(&'a [u8], &'a [u8]), String> {
        let wrong = || format!("an EAP-MSCHAPv2 value that is not of {len} octets");
        let (size, rest) = self.body.split_first().ok_or_else(wrong)?;
        if usize::from(*size) != len {
            return Err(wrong());
        }
        rest.split_at_checked(len).ok_or_else(wrong)
    }
}

/// A message with its header.
pub(super) fn emit(op: u8, id: u8, body: &[u8]) -> Vec<u8> {
    // No message of ours comes near 64 KiB.
    let [high, low] = u16::try_from(4 + body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut octets = vec![op, id, high, low];
    octets.extend(body);
    octets
}

/// The name without a Windows domain before it (RFC 2759 §8.2: the hash covers the user name alone).
pub(in crate::auth::eap) fn without_domain(name: &[u8]) -> &[u8] {
    let after = name.iter().rposition(|octet| *octet == b'\\').map_or(0, |at| at + 1);
    name.get(after..).unwrap_or_default()
}
