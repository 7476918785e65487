//! Attributes inside TLS (RFC 5281 §10): code, flags, length, data, padding to four octets.

/// What an attribute is: who has defined it (`None`: RADIUS itself), and its number there.
pub(super) type Code = (Option<u32>, u32);

/// Codes (RFC 2865 §5, RFC 2869 §5.13, RFC 2548 §2).
pub(super) mod code {
    use super::Code;

    const MICROSOFT: Option<u32> = Some(311);

    pub(in crate::auth::eap::ttls) const USER_NAME: Code = (None, 1);
    pub(in crate::auth::eap::ttls) const USER_PASSWORD: Code = (None, 2);
    pub(in crate::auth::eap::ttls) const CHAP_PASSWORD: Code = (None, 3);
    pub(in crate::auth::eap::ttls) const CHAP_CHALLENGE: Code = (None, 60);
    pub(in crate::auth::eap::ttls) const EAP_MESSAGE: Code = (None, 79);
    pub(in crate::auth::eap::ttls) const MS_CHAP_RESPONSE: Code = (MICROSOFT, 1);
    pub(in crate::auth::eap::ttls) const MS_CHAP_ERROR: Code = (MICROSOFT, 2);
    pub(in crate::auth::eap::ttls) const MS_CHAP_CHALLENGE: Code = (MICROSOFT, 11);
    pub(in crate::auth::eap::ttls) const MS_CHAP2_RESPONSE: Code = (MICROSOFT, 25);
    pub(in crate::auth::eap::ttls) const MS_CHAP2_SUCCESS: Code = (MICROSOFT, 26);
}

/// A vendor's number follows.
const VENDOR: u8 = 0x80;
/// Who does not know it has to give up.
const MANDATORY: u8 = 0x40;
const HEADER_LEN: usize = 8;

/// One attribute.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Avp<'a> {
    pub(super) code: Code,
    pub(super) mandatory: bool,
    pub(super) data: &'a [u8],
}

/// Reads attributes. `Err` says what they are instead.
pub(super) fn parse(mut octets: &[u8]) -> Result<Vec<Avp<'_>>, String> {
    let mut avps = Vec::new();
    while !octets.is_empty() {
        let wrong = || format!("{} octets inside EAP-TTLS that are no attribute", octets.len());
        let (code, rest) = octets.split_first_chunk().ok_or_else(wrong)?;
        let ([flags, length @ ..], rest): (&[u8; 4], _) = rest.split_first_chunk().ok_or_else(wrong)?;
        let [high, middle, low] = *length;
        let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).map_err(|_| wrong())?;
        let length = length.checked_sub(HEADER_LEN).ok_or_else(wrong)?;
        let (body, _) = rest.split_at_checked(length).ok_or_else(wrong)?;
        let (vendor, data) = match flags & VENDOR {
            0 => (None, body),
            _ => {
                let (vendor, data) = body.split_first_chunk().ok_or_else(wrong)?;
                (Some(u32::from_be_bytes(*vendor)), data)
            }
        };
        let mandatory = flags & MANDATORY != 0;
        avps.push(Avp { code: (vendor, u32::from_be_bytes(*code)), mandatory, data });
        // The last one may come without its padding.
        octets = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(avps)
}

/// The data of the first attribute of this kind.
pub(super) fn find<'a>(avps: &[Avp<'a>], code: Code) -> Option<&'a [u8]> {
    avps.iter().find(|avp| avp.code == code).map(|avp| avp.data)
}

/// An EAP packet, which may be cut into several attributes; empty if there is none.
pub(super) fn eap_message(avps: &[Avp<'_>]) -> Vec<u8> {
    avps.iter().filter(|avp| avp.code == code::EAP_MESSAGE).flat_map(|avp| avp.data).copied().collect()
}

/// An attribute that the other end has to know.
pub(super) fn emit((vendor, code): Code, data: &[u8]) -> Vec<u8> {
    let (flags, vendor) = match vendor {
        Some(vendor) => (MANDATORY | VENDOR, vendor.to_be_bytes().to_vec()),
        None => (MANDATORY, Vec::new()),
    };
    // Nothing of ours comes near 16 MiB.
    let length = u32::try_from(HEADER_LEN + vendor.len() + data.len()).unwrap_or_default() & 0x00FF_FFFF;
    let [_, length @ ..] = length.to_be_bytes();
    let mut octets = [&code.to_be_bytes()[..], &[flags], &length, &vendor, data].concat();
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let octets = [emit(code::EAP_MESSAGE, b"abcde"), emit(code::USER_NAME, b"user")].concat();
        assert_eq!(&octets[..16], b"\0\0\0\x4F\x40\0\0\x0Dabcde\0\0\0");
        let avp = |code, data| Avp { code, mandatory: true, data };
        let expected = vec![avp(code::EAP_MESSAGE, b"abcde".as_slice()), avp(code::USER_NAME, b"user")];
        assert_eq!(parse(&octets), Ok(expected));
        let vendor = [0, 0, 0, 25, 0xC0, 0, 0, 13, 0, 0, 1, 55, 7];
        assert_eq!(parse(&vendor), Ok(vec![avp(code::MS_CHAP2_RESPONSE, [7].as_slice())]));
        assert_eq!(emit(code::MS_CHAP2_RESPONSE, &[7])[..13], vendor);
        for wrong in [&octets[..7], &[0, 0, 0, 1, 0, 0, 0, 7], &[0, 0, 0, 1, 0x80, 0, 0, 8]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_whatever_comes(octets: Vec<u8>) {
            _ = parse(&octets);
        }
    }
}
